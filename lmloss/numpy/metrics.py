"""What losses are reported as: perplexity, bits per byte, calibration error."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import as_distribution, kind, loss_dtype, refuse_first
from lmloss.numpy.cross_entropy import cross_entropy


def perplexity(mean_nll: ArrayLike) -> Any:
    r"""Turn a mean negative log-likelihood into a perplexity.

    .. math:: \mathrm{PPL} = \exp(\bar\ell)

    Parameters
    ----------
    mean_nll : float or array_like
        Mean loss per token in nats, at least 0.

    Returns
    -------
    float or ndarray
        At least 1: the number of equally likely tokens that would be as hard to guess.

    Raises
    ------
    ValueError
        If a loss is negative or NaN.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> round(float(ln.perplexity(2.3)), 2)
    9.97

    References
    ----------
    Jelinek, Mercer, Bahl & Baker, "Perplexity: a measure of the difficulty of speech recognition tasks", Journal of
    the Acoustical Society of America 62 (1977).
    """
    nll = _losses("mean_nll", mean_nll)
    with np.errstate(over="ignore"):
        return np.exp(nll)[()]


def bits_per_byte(total_nll: ArrayLike, num_bytes: float) -> Any:
    r"""Turn the loss of a whole text into bits per byte, which no tokenizer can flatter.

    .. math:: \mathrm{BPB} = \frac{\sum_t \ell_t}{B \ln 2}

    Parameters
    ----------
    total_nll : float or array_like
        The text's summed (not mean) loss in nats, at least 0.
    num_bytes : float
        Its length in UTF-8 bytes, above 0.

    Returns
    -------
    float or ndarray
        Bits per byte.

    Raises
    ------
    ValueError
        If a loss is negative or NaN, or the number of bytes not above 0.

    Examples
    --------
    >>> import math, lmloss.numpy as ln
    >>> round(float(ln.bits_per_byte(100 * math.log(256), 100)), 6)  # guessing bytes at random
    8.0

    References
    ----------
    Gao et al., "The Pile: an 800GB dataset of diverse text for language modeling", arXiv:2101.00027 (2021),
    section 3.1.
    """
    losses = _losses("total_nll", total_nll)
    return (losses / (_checks.positive("num_bytes", num_bytes) * math.log(2))).astype(losses.dtype)


class Perplexity:
    r"""Measure the perplexity of a stream of batches, exactly, whatever their sizes.

    .. math:: \mathrm{PPL} = \exp\Bigl(\frac{\sum_t \ell_t}{\#\text{tokens}}\Bigr)

    Attributes
    ----------
    nll_sum : float
        Summed loss of the tokens seen, in nats.
    token_count : int
        Their number, ignored ones left out.

    Parameters
    ----------
    ignore_index : int or None
        Targets that do not count.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> metric = ln.Perplexity()
    >>> metric.update(np.zeros((3, 50)), [1, 2, 3])
    >>> metric.update(np.zeros((1, 50)), [-100])
    >>> round(float(metric.compute()), 6), metric.token_count
    (50.0, 3)
    """

    def __init__(self, *, ignore_index: int | None = -100) -> None:
        _checks.ignore_index(ignore_index)
        self.ignore_index = ignore_index
        self.nll_sum = np.float64(0.0)
        self.token_count = 0

    def update(self, logits: ArrayLike, targets: ArrayLike) -> None:
        """Add a batch: logits `(..., V)` and classes `(...)`."""
        labels = np.asarray(targets)
        if kind(labels) != "i":
            raise TypeError(f"targets must be integers, not {labels.dtype}: probabilities have no perplexity here")
        losses = cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")
        counted = labels.size if self.ignore_index is None else int((labels != self.ignore_index).sum())
        self.nll_sum += np.sum(losses, dtype=np.float64)
        self.token_count += counted

    def merge(self, other: "Perplexity") -> "Perplexity":
        """Return the metric of both streams together; neither is changed."""
        if not isinstance(other, Perplexity):
            raise TypeError(f"other must be a Perplexity, not {type(other).__name__}")
        if other.ignore_index != self.ignore_index:
            raise ValueError(f"ignore_index differs: {self.ignore_index} here, {other.ignore_index} in other")
        merged = Perplexity(ignore_index=self.ignore_index)
        merged.nll_sum = self.nll_sum + other.nll_sum
        merged.token_count = self.token_count + other.token_count
        return merged

    def compute(self) -> Any:
        """Return the perplexity of everything seen."""
        if self.token_count == 0:
            raise ValueError("no token was counted: call update() with at least one target that is not ignored")
        with np.errstate(over="ignore"):
            return np.exp(self.nll_sum / self.token_count)


def expected_calibration_error(probs: ArrayLike, targets: ArrayLike, *, bins: int = 15) -> Any:
    r"""Compute how far a model's confidence is from its accuracy, on average over confidence bins.

    .. math:: \mathrm{ECE} = \sum_{m=1}^{M} \frac{|B_m|}{n}
        \bigl|\operatorname{acc}(B_m) - \operatorname{conf}(B_m)\bigr|,
        \qquad B_m = \bigl\{i : \max_j q_{ij} \in (\tfrac{m-1}{M}, \tfrac{m}{M}]\bigr\}

    Parameters
    ----------
    probs : array_like, shape (..., V)
        The model's distributions.
    targets : array_like, shape (...)
        The true classes.
    bins : int
        M, the number of bins of equal width.

    Returns
    -------
    float
        In [0, 1]; 0.0 for no predictions.

    Raises
    ------
    TypeError, ValueError
        If `probs` are no distributions, a target is no class, or `bins` is not a positive integer.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> round(float(ln.expected_calibration_error([[0.9, 0.1], [0.9, 0.1]], [0, 1])), 6)  # 90 % sure, 50 % right
    0.4

    References
    ----------
    Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML (2017), equation 3.
    """
    bins = _checks.count("bins", bins)
    q = as_distribution("probs", probs)
    y = np.asarray(targets)
    if _checks.targets("targets", y.shape, kind(y), y.dtype, q.shape):
        raise TypeError("targets must be integers: the true classes")
    refuse_first("targets", y, (y < 0) | (y >= q.shape[-1]), _checks.outside, classes=q.shape[-1])
    if y.size == 0:
        return q.dtype.type(0)
    confidence = q.max(axis=-1).reshape(-1).astype(np.float64)
    right = (q.argmax(axis=-1) == y).reshape(-1)
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return q.dtype.type(np.abs(gaps).sum() / y.size)


def _losses(name: str, values: ArrayLike) -> Any:
    array = np.asarray(values)
    _checks.real(name, kind(array), array.dtype)
    losses = array.astype(loss_dtype(array.dtype), copy=False)
    refuse_first(name, losses, ~(losses >= 0), _checks.loss)
    return losses
