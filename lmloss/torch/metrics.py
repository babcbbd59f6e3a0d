"""What losses are reported as: perplexity, bits per byte, calibration error."""

import math

import torch
from torch import Tensor

from lmloss import _checks
from lmloss.torch._tensors import as_classes, as_distribution, as_tensor, kind, loss_dtype, reads_values, refuse_first
from lmloss.torch.cross_entropy import cross_entropy


def perplexity(mean_nll: float | Tensor) -> Tensor:
    r"""Turn a mean negative log-likelihood into a perplexity.

    .. math:: \mathrm{PPL} = \exp(\bar\ell)

    Parameters
    ----------
    mean_nll : float or Tensor
        Mean loss per token in nats, at least 0.

    Returns
    -------
    Tensor
        At least 1: the number of equally likely tokens that would be as hard to guess.

    Raises
    ------
    ValueError
        If a loss is negative or NaN.

    Examples
    --------
    >>> import lmloss.torch as lt
    >>> lt.perplexity(2.3)
    tensor(9.9742)

    References
    ----------
    Jelinek, Mercer, Bahl & Baker, "Perplexity: a measure of the difficulty of speech recognition tasks", Journal of
    the Acoustical Society of America 62 (1977).
    """
    return _losses("mean_nll", mean_nll).exp()


def bits_per_byte(total_nll: float | Tensor, num_bytes: float) -> Tensor:
    r"""Turn the loss of a whole text into bits per byte, which no tokenizer can flatter.

    .. math:: \mathrm{BPB} = \frac{\sum_t \ell_t}{B \ln 2}

    Parameters
    ----------
    total_nll : float or Tensor
        The text's summed (not mean) loss in nats, at least 0.
    num_bytes : float
        Its length in UTF-8 bytes, above 0.

    Returns
    -------
    Tensor
        Bits per byte.

    Raises
    ------
    ValueError
        If a loss is negative or NaN, or the number of bytes not above 0.

    Examples
    --------
    >>> import math, lmloss.torch as lt
    >>> lt.bits_per_byte(100 * math.log(256), 100)  # guessing bytes at random
    tensor(8.)

    References
    ----------
    Gao et al., "The Pile: an 800GB dataset of diverse text for language modeling", arXiv:2101.00027 (2021),
    section 3.1.
    """
    return _losses("total_nll", total_nll) / (_checks.positive("num_bytes", num_bytes) * math.log(2))


class Perplexity:
    r"""Measure the perplexity of a stream of batches, exactly, whatever their sizes.

    .. math:: \mathrm{PPL} = \exp\Bigl(\frac{\sum_t \ell_t}{\#\text{tokens}}\Bigr)

    Attributes
    ----------
    nll_sum : Tensor
        Summed loss of the tokens seen, in nats, on the device of the logits.
    token_count : Tensor
        Their number, ignored ones left out.

    Parameters
    ----------
    ignore_index : int or None
        Targets that do not count.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> metric = lt.Perplexity()
    >>> metric.update(torch.zeros(3, 50), torch.tensor([1, 2, 3]))
    >>> metric.update(torch.zeros(1, 50), torch.tensor([-100]))
    >>> round(metric.compute().item(), 4), metric.token_count.item()
    (50.0, 3)
    """

    def __init__(self, *, ignore_index: int | None = -100) -> None:
        _checks.ignore_index(ignore_index)
        self.ignore_index = ignore_index
        self.nll_sum = torch.zeros((), dtype=torch.float64)
        self.token_count = torch.zeros((), dtype=torch.int64)

    @torch.no_grad()
    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch, without waiting for the device: logits `(..., V)` and classes `(...)`."""
        labels = as_tensor("targets", targets)
        if kind(labels) != "i":
            raise TypeError(f"targets must be integers, not {labels.dtype}: probabilities have no perplexity here")
        losses = cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="none")
        counted = torch.ones_like(losses) if self.ignore_index is None else labels.to(torch.int64) != self.ignore_index
        wide = _widest(losses)
        self.nll_sum = self.nll_sum.to(losses.device, wide) + losses.sum(dtype=wide)
        self.token_count = self.token_count.to(losses.device) + counted.sum(dtype=torch.int64)

    def merge(self, other: "Perplexity") -> "Perplexity":
        """Return the metric of both streams together; neither is changed."""
        if not isinstance(other, Perplexity):
            raise TypeError(f"other must be a Perplexity, not {type(other).__name__}")
        if other.ignore_index != self.ignore_index:
            raise ValueError(f"ignore_index differs: {self.ignore_index} here, {other.ignore_index} in other")
        merged = Perplexity(ignore_index=self.ignore_index)
        merged.nll_sum = self.nll_sum + other.nll_sum.to(self.nll_sum)
        merged.token_count = self.token_count + other.token_count.to(self.token_count)
        return merged

    def compute(self) -> Tensor:
        """Return the perplexity of everything seen."""
        if not self.token_count:
            raise ValueError("no token was counted: call update() with at least one target that is not ignored")
        return (self.nll_sum / self.token_count).exp()


def expected_calibration_error(probs: Tensor, targets: Tensor, *, bins: int = 15) -> Tensor:
    r"""Compute how far a model's confidence is from its accuracy, on average over confidence bins.

    .. math:: \mathrm{ECE} = \sum_{m=1}^{M} \frac{|B_m|}{n}
        \bigl|\operatorname{acc}(B_m) - \operatorname{conf}(B_m)\bigr|,
        \qquad B_m = \bigl\{i : \max_j q_{ij} \in (\tfrac{m-1}{M}, \tfrac{m}{M}]\bigr\}

    Parameters
    ----------
    probs : Tensor, shape (..., V)
        The model's distributions.
    targets : Tensor, shape (...)
        The true classes.
    bins : int
        M, the number of bins of equal width.

    Returns
    -------
    Tensor
        In [0, 1]; 0.0 for no predictions.

    Raises
    ------
    TypeError, ValueError
        If `probs` are no distributions, a target is no class, or `bins` is not a positive integer.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.expected_calibration_error(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1]))  # 90 % sure
    tensor(0.4000)

    References
    ----------
    Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", ICML (2017), equation 3.
    """
    bins = _checks.count("bins", bins)
    q, y = as_distribution("probs", probs), as_tensor("targets", targets)
    if _checks.targets("targets", tuple(y.shape), kind(y), y.dtype, tuple(q.shape)):
        raise TypeError("targets must be integers: the true classes")
    given, y = y, as_classes(y)
    if reads_values(None, q, y):
        refuse_first("targets", given, (y < 0) | (y >= q.shape[-1]), _checks.outside, classes=q.shape[-1])
    confidence, predicted = q.reshape(-1, q.shape[-1]).max(-1)
    confidence = confidence.to(_widest(q))
    bin_of = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    surplus = (predicted == y.reshape(-1)).to(confidence.dtype) - confidence
    gaps = torch.zeros(bins, dtype=confidence.dtype, device=q.device).index_add(0, bin_of, surplus)
    return (gaps.abs().sum() / max(y.numel(), 1)).to(q.dtype)


def _widest(like: Tensor) -> torch.dtype:
    """Return the dtype to sum many numbers in; MPS has no float64."""
    return torch.float32 if like.device.type == "mps" else torch.float64


def _losses(name: str, values: float | Tensor) -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.tensor(_checks.number(name, values, finite=False))
    _checks.real(name, kind(tensor), tensor.dtype)
    floating = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    losses = floating.to(loss_dtype(floating.dtype))
    if reads_values(None, losses):
        refuse_first(name, losses, ~(losses >= 0), _checks.loss)
    return losses
