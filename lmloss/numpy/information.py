"""Surprisal, entropy, cross-entropy, divergences and mutual information of distributions.

Distributions live on the last axis. They are refused unless they are non-negative and sum to 1: nothing is renormalised
behind the caller's back. Results are in nats, or in units of ``log(base)``: ``base=2`` gives bits.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, as_distribution, kind, loss_dtype, refuse_first


def surprisal(p: ArrayLike, *, base: float | None = None) -> Any:
    r"""Compute the surprisal of events from their probabilities, element by element.

    .. math:: h(p) = -\log p

    Parameters
    ----------
    p : array_like
        Probabilities in [0, 1], of any shape; they need not sum to 1.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    float or ndarray, shape of `p`
        ``inf`` where `p` is 0.

    Raises
    ------
    ValueError
        If an entry is outside [0, 1].

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> ln.surprisal([1.0, 0.5, 0.25], base=2)
    array([0., 1., 2.])

    References
    ----------
    Shannon, "A mathematical theory of communication", Bell System Technical Journal 27 (1948), section 6.
    """
    unit = _unit(base)
    array = np.asarray(p)
    _checks.real("p", kind(array), array.dtype)
    probs = array.astype(loss_dtype(array.dtype), copy=False)
    refuse_first("p", probs, ~((probs >= 0) & (probs <= 1)), _checks.probability)
    with np.errstate(divide="ignore"):
        return _in_unit(-np.log(probs), unit, probs.dtype)


def entropy(p: ArrayLike, *, base: float | None = None) -> Any:
    r"""Compute the entropy of distributions: their expected surprisal.

    .. math:: H(p) = -\sum_j p_j \log p_j, \qquad 0 \log 0 = 0

    Parameters
    ----------
    p : array_like, shape (..., V)
        Distributions on the last axis.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    float or ndarray, shape (...)
        Between 0 (a certain outcome) and ``log V`` (a uniform one).

    Raises
    ------
    ValueError
        If `p` is negative somewhere or does not sum to 1.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> float(ln.entropy([1/2, 1/4, 1/8, 1/8], base=2))
    1.75

    References
    ----------
    Shannon (1948), section 6; Cover & Thomas, *Elements of Information Theory*, 2nd edition (2006), equation 2.1.
    """
    unit = _unit(base)
    probs = as_distribution("p", p)
    return _in_unit(-_expected_log(probs, probs), unit, probs.dtype)


def cross_entropy_probs(p: ArrayLike, q: ArrayLike, *, base: float | None = None) -> Any:
    r"""Compute the cross-entropy between distributions: the expected surprisal of `q` where `p` draws.

    .. math:: H(p, q) = -\sum_j p_j \log q_j = H(p) + \mathrm{KL}(p \,\|\, q)

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        The true distributions and the model's; their leading shapes broadcast.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    float or ndarray, shape (...)
        ``inf`` where `q` is 0 and `p` is not.

    Raises
    ------
    ValueError
        If either is negative somewhere or does not sum to 1, or their classes differ in number.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> round(float(ln.cross_entropy_probs([0, 1, 0, 0], [0.1, 0.7, 0.1, 0.1])), 3)
    0.357

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), equation 3.51.
    """
    unit = _unit(base)
    probs, model = _pair(p, q)
    return _in_unit(-_expected_log(probs, model), unit, np.result_type(probs, model))


def kl_divergence(p: ArrayLike, q: ArrayLike, *, base: float | None = None) -> Any:
    r"""Compute the Kullback-Leibler divergence of `q` from `p`.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_j p_j \log \frac{p_j}{q_j}

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        The true distributions and the model's; their leading shapes broadcast. The order matters.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    float or ndarray, shape (...)
        At least 0 up to rounding, 0 where the two agree, ``inf`` where `q` is 0 and `p` is not.

    Raises
    ------
    ValueError
        If either is negative somewhere or does not sum to 1, or their classes differ in number.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> round(float(ln.kl_divergence([1/2, 1/2], [3/4, 1/4], base=2)), 4)
    0.2075
    >>> round(float(ln.kl_divergence([3/4, 1/4], [1/2, 1/2], base=2)), 4)
    0.1887

    References
    ----------
    Cover & Thomas, *Elements of Information Theory*, 2nd edition (2006), equation 2.26 and example 2.3.1.
    """
    unit = _unit(base)
    probs, model = _pair(p, q)
    return _in_unit(_relative_entropy(probs, model), unit, np.result_type(probs, model))


def js_divergence(p: ArrayLike, q: ArrayLike, *, base: float | None = None) -> Any:
    r"""Compute the Jensen-Shannon divergence: the mean divergence of two distributions from their mixture.

    .. math:: \mathrm{JS}(p, q) = \tfrac12 \mathrm{KL}(p \,\|\, m) + \tfrac12 \mathrm{KL}(q \,\|\, m),
        \qquad m = \tfrac12 (p + q)

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        Distributions; their leading shapes broadcast. The order does not matter.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    float or ndarray, shape (...)
        Between 0 and ``log 2`` (reached where the supports are disjoint), up to rounding.

    Raises
    ------
    ValueError
        If either is negative somewhere or does not sum to 1, or their classes differ in number.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> float(ln.js_divergence([1.0, 0.0], [0.0, 1.0], base=2))
    1.0

    References
    ----------
    Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory 37 (1991).
    """
    unit = _unit(base)
    first, second = _pair(p, q)
    both = _wide(first) + _wide(second)  # not halved: the smallest probabilities would vanish
    doubled = _relative_entropy(2 * first, both) + _relative_entropy(2 * second, both)
    return _in_unit(doubled / 4, unit, np.result_type(first, second))


def mutual_information(joint: ArrayLike, *, base: float | None = None) -> Any:
    r"""Compute how much two variables tell about each other, from their joint distribution.

    .. math:: I(A; B) = \sum_{a, b} p_{ab} \log \frac{p_{ab}}{p_a \, p_b}

    Parameters
    ----------
    joint : array_like, shape (..., A, B)
        Joint distributions on the last two axes.
    base : float, optional
        Base of the logarithm; nats by default, 2 for bits.

    Returns
    -------
    float or ndarray, shape (...)
        At least 0 up to rounding, 0 where the variables are independent.

    Raises
    ------
    ValueError
        If `joint` is negative somewhere or does not sum to 1 over the last two axes.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> float(ln.mutual_information([[1/2, 0], [0, 1/2]], base=2))
    1.0

    References
    ----------
    Cover & Thomas, *Elements of Information Theory*, 2nd edition (2006), equation 2.28.
    """
    unit = _unit(base)
    given = as_distribution("joint", joint, axes=2)
    probs = _wide(given)
    rows, columns = probs.sum(axis=-1, keepdims=True), probs.sum(axis=-2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = probs * (np.log(probs) - np.log(rows) - np.log(columns))
    return _in_unit(np.where(probs > 0, terms, 0).sum(axis=(-2, -1)), unit, given.dtype)


def _unit(base: float | None) -> float:
    checked = _checks.log_base(base)
    return 1.0 if checked is None else float(np.log(checked))


def _in_unit(nats: Any, unit: float, dtype: np.dtype[Any]) -> Any:
    """Return nats in another unit: 0.0 never as -0.0, and in the dtype that NumPy 1 would widen for a scalar."""
    return ((nats + 0.0) / unit).astype(dtype)


def _pair(p: ArrayLike, q: ArrayLike) -> tuple[Array, Array]:
    first, second = as_distribution("p", p), as_distribution("q", q)
    _checks.same_classes("p", first.shape, "q", second.shape)
    try:
        np.broadcast_shapes(first.shape, second.shape)
    except ValueError:
        raise ValueError(f"p of shape {first.shape} and q of shape {second.shape} do not broadcast") from None
    return first, second


def _expected_log(p: Array, q: Array) -> Any:
    """Return the sum of p log q, where 0 log 0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, _wide(p) * np.log(_wide(q)), 0).sum(axis=-1)


def _relative_entropy(p: Array, q: Array) -> Any:
    """Return the sum of p log(p / q), where 0 log 0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, _wide(p) * (np.log(_wide(p)) - np.log(_wide(q))), 0).sum(axis=-1)


def _wide(p: Array) -> Array:
    """Return numbers in float64: sums of products that nearly cancel are rounded at the end."""
    return p.astype(np.result_type(p, np.float64), copy=False)
