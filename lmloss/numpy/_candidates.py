"""Candidates: each token's target and one sample of classes for all tokens, scored without scoring any other."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, as_distribution, as_hidden, as_matrix, kind, loss_dtype, refuse_first
from lmloss.numpy._reduce import Average
from lmloss.numpy._targets import read_targets


class Candidates(NamedTuple):
    """What a loss on candidates is made of.

    The logits of the targets `(...)` and of the samples `(..., S)`; the logarithms of how often each is expected among
    S samples; which samples hit their token's target; how tokens are averaged.
    """

    target: Array
    target_log_count: Array
    samples: Array
    sample_log_counts: Array
    hits: Array
    average: Average


def score_candidates(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    num_samples: int,
    sampling_probs: ArrayLike,
    bias: ArrayLike | None,
    rng: np.random.Generator | None,
    *,
    ignore_index: int | None,
    token_weight: ArrayLike | None,
    reduction: str,
    denominator: float | None,
) -> Candidates:
    """Check the arguments, draw the samples and score them and the targets, reading no other row of the weight."""
    size = _checks.count("num_samples", num_samples)
    _checks.reduction(reduction, denominator is not None)
    denominator = None if denominator is None else _checks.non_negative("denominator", denominator)
    h, w = as_hidden(hidden), as_matrix("weight", weight)
    _checks.vectors("weight", w.shape)
    classes = len(w)
    _checks.exact_shape("weight", w.shape, (classes, h.shape[-1]), "one row for each class, as wide as hidden")
    b = np.zeros((), np.float16) if bias is None else np.asarray(bias)
    _checks.floating("bias", kind(b), b.dtype)
    if bias is not None:
        _checks.exact_shape("bias", b.shape, (classes,), "one number for each class")
    probs = as_distribution("sampling_probs", sampling_probs).astype(np.float64)
    _checks.exact_shape("sampling_probs", probs.shape, (classes,), "one probability for each class")
    refuse_first("sampling_probs", probs, probs == 0, _checks.undrawable)
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator (numpy.random.default_rng(seed)), not {rng!r}")
    y, counted = np.asarray(targets), np.broadcast_to(h.dtype.type(0), (*h.shape[:-1], classes))
    if kind(y) == "i":
        _checks.exact_shape("targets", y.shape, h.shape[:-1], "one class for each row of hidden")
    y, weights = read_targets(
        "targets", y, counted, ignore_index=ignore_index, token_weight=token_weight, reduction=reduction
    )

    dtype = loss_dtype(np.result_type(h, w, b))
    samples = _draw(probs, size, np.random.default_rng() if rng is None else rng)
    log_counts = (np.log(size) + np.log(probs / probs.sum())).astype(dtype)
    h = h.astype(dtype, copy=False)
    with np.errstate(all="ignore"):
        target = (h * w[y].astype(dtype, copy=False)).sum(axis=-1)
        drawn = h @ w[samples].astype(dtype, copy=False).T
        if bias is not None:
            target, drawn = target + b[y].astype(dtype), drawn + b[samples].astype(dtype)
    hits = samples == y[..., None]
    return Candidates(
        target, log_counts[y], drawn, log_counts[samples], hits, Average(weights, weights, reduction, denominator)
    )


def _draw(probs: Array, size: int, rng: np.random.Generator) -> Array:
    """Draw classes independently, with repetition: each where a uniform number falls among the cumulated probs."""
    steps = probs.cumsum()
    places = np.searchsorted(steps, rng.random(size) * steps[-1], side="right")
    return np.asarray(np.minimum(places, len(probs) - 1))
