"""Candidates: each token's target and one sample of classes for all tokens, scored without scoring any other."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lmloss import _checks
from lmloss.torch._reduce import Average
from lmloss.torch._targets import read_tokens
from lmloss.torch._tensors import (
    as_distribution,
    as_hidden,
    as_matrix,
    loss_dtype,
    reads_values,
    refuse_first,
    uniform,
    without_autocast,
)


class Candidates(NamedTuple):
    """What a loss on candidates is made of.

    The logits of the targets `(...)` and of the samples `(..., S)`; the logarithms of how often each is expected among
    S samples; which samples hit their token's target; how tokens are averaged.
    """

    target: Tensor
    target_log_count: Tensor
    samples: Tensor
    sample_log_counts: Tensor
    hits: Tensor
    average: Average


def score_candidates(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    num_samples: int,
    sampling_probs: Tensor,
    bias: Tensor | None,
    rng: torch.Generator | None,
    *,
    ignore_index: int | None,
    token_weight: Tensor | None,
    reduction: str,
    denominator: float | Tensor | None,
) -> Candidates:
    """Check the arguments, draw the samples and score them and the targets, reading no other row of the weight."""
    size = _checks.count("num_samples", num_samples)
    h, w = as_hidden(hidden), as_matrix("weight", weight, hidden)
    _checks.vectors("weight", tuple(w.shape))
    classes = w.shape[0]
    _checks.exact_shape("weight", tuple(w.shape), (classes, h.shape[-1]), "one row for each class, as wide as hidden")
    dtype = loss_dtype(torch.promote_types(h.dtype, w.dtype))
    if bias is not None:
        as_matrix("bias", bias, h)
        _checks.exact_shape("bias", tuple(bias.shape), (classes,), "one number for each class")
        dtype = torch.promote_types(dtype, bias.dtype)
    probs = as_distribution("sampling_probs", sampling_probs).detach()
    _checks.together("sampling_probs", probs.device, "hidden", h.device)
    _checks.exact_shape("sampling_probs", tuple(probs.shape), (classes,), "one probability for each class")
    if reads_values(None, probs):
        refuse_first("sampling_probs", probs, probs == 0, _checks.undrawable)
    if rng is not None and not isinstance(rng, torch.Generator):
        raise TypeError(f"rng must be a torch.Generator (torch.Generator().manual_seed(seed)), not {rng!r}")
    h, y, average = read_tokens(
        h, targets, classes, dtype,
        ignore_index=ignore_index, token_weight=token_weight, reduction=reduction, denominator=denominator,
    )  # fmt: skip

    samples = _draw(probs, size, rng)
    log_counts = (size * (probs / probs.sum())).log().to(dtype)
    with without_autocast(h):
        # One gather: what a class gets as a target and as a sample cancels in part, and must meet before it is rounded.
        rows = rows_of(w, torch.cat((y.reshape(-1), samples)), dtype)
        target = (h * rows[: y.numel()].view(h.shape)).sum(-1)
        drawn = h @ rows[y.numel() :].mT
    if bias is not None:
        target, drawn = target + bias.to(dtype)[y], drawn + bias.to(dtype)[samples]
    # A class of probability 0 can neither win nor lose: its gradient ends here.
    target, drawn = (torch.where(z == -torch.inf, -torch.inf, z) for z in (target, drawn))
    return Candidates(target, log_counts[y], drawn, log_counts[samples], samples == y[..., None], average)


def rows_of(weight: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
    """Return rows of a matrix in a wider dtype; where many gradients meet in one row, they meet in that dtype too."""
    if weight.requires_grad and torch.is_grad_enabled():
        weight = weight.to(dtype)
    return F.embedding(places, weight).to(dtype)


def _draw(probs: Tensor, size: int, rng: torch.Generator | None) -> Tensor:
    """Draw classes independently, with repetition: each where a uniform number falls among the cumulated probs."""
    if probs.is_meta:  # nothing to draw from
        return torch.empty(size, dtype=torch.int64, device="meta")
    source = probs.device if rng is None else rng.device
    draws = uniform(torch.Size([size]), rng, source)
    steps = probs.to(source).to(draws.dtype).cumsum(0)  # wide, so that the rarest of many classes has its share
    places = torch.searchsorted(steps, draws * steps[-1], right=True)
    return places.clamp(max=len(probs) - 1).to(probs.device)
