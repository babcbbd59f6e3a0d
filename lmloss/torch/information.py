"""Surprisal, entropy, cross-entropy, divergences and mutual information of distributions, differentiable.

Distributions live on the last axis. They are refused unless they are non-negative and sum to 1 (looked at on the CPU
only, where it costs no synchronisation). Results are in nats, or in units of ``log(base)``: ``base=2`` gives bits.
Where a probability is 0 its term is 0, and so is its gradient.
"""

import math

import torch
from torch import Tensor

from lmloss import _checks
from lmloss.torch._tensors import (
    as_distribution,
    as_tensor,
    compute_dtype,
    kind,
    loss_dtype,
    reads_values,
    refuse_first,
)


def surprisal(p: Tensor, *, base: float | None = None) -> Tensor:
    r"""Compute the surprisal of events from their probabilities, element by element.

    .. math:: h(p) = -\log p

    Parameters
    ----------
    p : Tensor
        Probabilities in [0, 1], of any shape; they need not sum to 1.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    Tensor, shape of `p`
        ``inf`` where `p` is 0.

    Raises
    ------
    ValueError
        If an entry is outside [0, 1].

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.surprisal(torch.tensor([1.0, 0.5, 0.25]), base=2)
    tensor([0., 1., 2.])

    References
    ----------
    Shannon, "A mathematical theory of communication", Bell System Technical Journal 27 (1948), section 6.
    """
    unit = _unit(base)
    tensor = as_tensor("p", p)
    _checks.real("p", kind(tensor), tensor.dtype)
    floating = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    probs = floating.to(loss_dtype(floating.dtype))
    if reads_values(None, probs):
        refuse_first("p", probs, ~((probs >= 0) & (probs <= 1)), _checks.probability)
    return (0.0 - probs.log()) / unit


def entropy(p: Tensor, *, base: float | None = None) -> Tensor:
    r"""Compute the entropy of distributions: their expected surprisal.

    .. math:: H(p) = -\sum_j p_j \log p_j, \qquad 0 \log 0 = 0

    Parameters
    ----------
    p : Tensor, shape (..., V)
        Distributions on the last axis.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    Tensor, shape (...)
        Between 0 (a certain outcome) and ``log V`` (a uniform one).

    Raises
    ------
    ValueError
        If `p` is negative somewhere or does not sum to 1.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.entropy(torch.tensor([1/2, 1/4, 1/8, 1/8]), base=2)
    tensor(1.7500)

    References
    ----------
    Shannon (1948), section 6; Cover & Thomas, *Elements of Information Theory*, 2nd edition (2006), equation 2.1.
    """
    unit = _unit(base)
    probs = as_distribution("p", p)
    wide = _wide(probs)
    return ((0.0 - (wide * _log_where(wide > 0, wide)).sum(-1)) / unit).to(probs.dtype)


def cross_entropy_probs(p: Tensor, q: Tensor, *, base: float | None = None) -> Tensor:
    r"""Compute the cross-entropy between distributions: the expected surprisal of `q` where `p` draws.

    .. math:: H(p, q) = -\sum_j p_j \log q_j = H(p) + \mathrm{KL}(p \,\|\, q)

    Parameters
    ----------
    p, q : Tensor, shape (..., V)
        The true distributions and the model's; their leading shapes broadcast.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    Tensor, shape (...)
        ``inf`` where `q` is 0 and `p` is not.

    Raises
    ------
    ValueError
        If either is negative somewhere or does not sum to 1, or their classes differ in number.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.cross_entropy_probs(torch.tensor([0, 1, 0, 0]), torch.tensor([0.1, 0.7, 0.1, 0.1]))
    tensor(0.3567)

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), equation 3.51.
    """
    unit = _unit(base)
    probs, model = _pair(p, q)
    costs = _wide(probs) * _log_where(probs > 0, _wide(model))
    return ((0.0 - costs.sum(-1)) / unit).to(torch.promote_types(probs.dtype, model.dtype))


def kl_divergence(p: Tensor, q: Tensor, *, base: float | None = None) -> Tensor:
    r"""Compute the Kullback-Leibler divergence of `q` from `p`.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_j p_j \log \frac{p_j}{q_j}

    Parameters
    ----------
    p, q : Tensor, shape (..., V)
        The true distributions and the model's; their leading shapes broadcast. The order matters.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    Tensor, shape (...)
        At least 0 up to rounding, 0 where the two agree, ``inf`` where `q` is 0 and `p` is not.

    Raises
    ------
    ValueError
        If either is negative somewhere or does not sum to 1, or their classes differ in number.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> even, skewed = torch.tensor([1/2, 1/2]), torch.tensor([3/4, 1/4])
    >>> lt.kl_divergence(even, skewed, base=2), lt.kl_divergence(skewed, even, base=2)
    (tensor(0.2075), tensor(0.1887))

    References
    ----------
    Cover & Thomas, *Elements of Information Theory*, 2nd edition (2006), equation 2.26 and example 2.3.1.
    """
    unit = _unit(base)
    probs, model = _pair(p, q)
    return (_relative_entropy(probs, model) / unit).to(torch.promote_types(probs.dtype, model.dtype))


def js_divergence(p: Tensor, q: Tensor, *, base: float | None = None) -> Tensor:
    r"""Compute the Jensen-Shannon divergence: the mean divergence of two distributions from their mixture.

    .. math:: \mathrm{JS}(p, q) = \tfrac12 \mathrm{KL}(p \,\|\, m) + \tfrac12 \mathrm{KL}(q \,\|\, m),
        \qquad m = \tfrac12 (p + q)

    Parameters
    ----------
    p, q : Tensor, shape (..., V)
        Distributions; their leading shapes broadcast. The order does not matter.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    Tensor, shape (...)
        Between 0 and ``log 2`` (reached where the supports are disjoint), up to rounding.

    Raises
    ------
    ValueError
        If either is negative somewhere or does not sum to 1, or their classes differ in number.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.js_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), base=2)
    tensor(1.)

    References
    ----------
    Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory 37 (1991).
    """
    unit = _unit(base)
    first, second = _pair(p, q)
    both = _wide(first) + _wide(second)  # not halved: the smallest probabilities would vanish
    doubled = _relative_entropy(2 * first, both) + _relative_entropy(2 * second, both)
    return (doubled / 4 / unit).to(torch.promote_types(first.dtype, second.dtype))


def mutual_information(joint: Tensor, *, base: float | None = None) -> Tensor:
    r"""Compute how much two variables tell about each other, from their joint distribution.

    .. math:: I(A; B) = \sum_{a, b} p_{ab} \log \frac{p_{ab}}{p_a \, p_b}

    Parameters
    ----------
    joint : Tensor, shape (..., A, B)
        Joint distributions on the last two axes.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    Tensor, shape (...)
        At least 0 up to rounding, 0 where the variables are independent.

    Raises
    ------
    ValueError
        If `joint` is negative somewhere or does not sum to 1 over the last two axes.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.mutual_information(torch.tensor([[1/2, 0], [0, 1/2]]), base=2)
    tensor(1.)

    References
    ----------
    Cover & Thomas, *Elements of Information Theory*, 2nd edition (2006), equation 2.28.
    """
    unit = _unit(base)
    given = as_distribution("joint", joint, axes=2)
    probs = _wide(given)
    some = probs > 0
    apart = _log_where(some, probs.sum(-1, keepdim=True)) + _log_where(some, probs.sum(-2, keepdim=True))
    return ((probs * (_log_where(some, probs) - apart)).sum((-2, -1)) / unit).to(given.dtype)


def _unit(base: float | None) -> float:
    checked = _checks.log_base(base)
    return 1.0 if checked is None else math.log(checked)


def _pair(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    first, second = as_distribution("p", p), as_distribution("q", q)
    _checks.same_classes("p", tuple(first.shape), "q", tuple(second.shape))
    try:
        torch.broadcast_shapes(first.shape, second.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        shapes = f"p of shape {tuple(first.shape)} and q of shape {tuple(second.shape)}"
        raise ValueError(f"{shapes} do not broadcast") from None
    return first, second


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    some = p > 0
    return (_wide(p) * (_log_where(some, _wide(p)) - _log_where(some, _wide(q)))).sum(-1)


def _wide(p: Tensor) -> Tensor:
    """Return numbers in the widest dtype that is cheap: sums of products that nearly cancel are rounded at the end."""
    return p.to(compute_dtype(p))


def _log_where(counted: Tensor, x: Tensor) -> Tensor:
    """Return log x where it is counted and 0 elsewhere, without a NaN in the gradient."""
    return torch.where(counted, x, 1).log()
