"""Softmax and its logarithm, computed so that no exponential overflows and no logarithm meets a zero it made itself."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, as_logits, loss_dtype


def logsumexp(x: ArrayLike) -> Any:
    r"""Compute the logarithm of a sum of exponentials over the last axis.

    .. math:: \operatorname{logsumexp}(x) = \log \sum_j e^{x_j} = m + \log \sum_j e^{x_j - m}, \qquad m = \max_j x_j

    Parameters
    ----------
    x : array_like, shape (..., V)
        Floating-point numbers; ``-inf`` contributes nothing.

    Returns
    -------
    float or ndarray, shape (...)
        In nats where `x` are logits; float32 for inputs narrower than float64. ``-inf`` where every entry is
        ``-inf``, ``inf`` where one is ``inf``.

    Raises
    ------
    TypeError
        If `x` is not floating point.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> float(ln.logsumexp([1000.0, 1000.0]))  # log 2 more than 1000, where exp(1000) is inf
    1000.6931471805599

    References
    ----------
    Blanchard, Higham & Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).
    """
    logits = as_logits("x", x)
    logits = logits.astype(loss_dtype(logits.dtype), copy=False)
    top = logits.max(axis=-1, keepdims=True)
    top = np.where(np.isinf(top), 0, top)
    with np.errstate(all="ignore"):
        return top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))


def softmax(logits: ArrayLike, *, temperature: float = 1.0) -> Array:
    r"""Turn logits into probabilities over the last axis.

    .. math:: \operatorname{softmax}(z / \tau)_j = \frac{e^{z_j / \tau}}{\sum_k e^{z_k / \tau}}

    Parameters
    ----------
    logits : array_like, shape (..., V)
        Floating point. A ``-inf`` is probability 0; a row of only ``-inf``, or with a NaN or ``+inf``, gives NaN.
    temperature : float
        :math:`\tau > 0`; above 1 flattens the distribution, below 1 sharpens it.

    Returns
    -------
    ndarray, shape (..., V)
        Probabilities in the dtype of the logits, computed in float32 or wider.

    Raises
    ------
    TypeError, ValueError
        If the logits are not floating point, or the temperature is not above 0.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> ln.softmax([2.0, 1.0, 0.0, -1.0]).round(3)
    array([0.644, 0.237, 0.087, 0.032])

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), equation 6.29.
    """
    shifted, total, dtype = _exponentials(logits, temperature)
    with np.errstate(under="ignore"):
        return np.asarray(np.exp(shifted) / total, dtype)


def log_softmax(logits: ArrayLike, *, temperature: float = 1.0) -> Array:
    r"""Compute the logarithm of the softmax, finite where the softmax itself underflows to 0.

    .. math:: \log \operatorname{softmax}(z / \tau)_j = z_j / \tau - \operatorname{logsumexp}(z / \tau)

    Parameters
    ----------
    logits : array_like, shape (..., V)
        Floating point. A ``-inf`` stays ``-inf``; a row of only ``-inf``, or with a NaN or ``+inf``, gives NaN.
    temperature : float
        :math:`\tau > 0`.

    Returns
    -------
    ndarray, shape (..., V)
        Log-probabilities (nats) in the dtype of the logits, computed in float32 or wider.

    Raises
    ------
    TypeError, ValueError
        If the logits are not floating point, or the temperature is not above 0.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> ln.log_softmax([0.0, -1000.0])
    array([    0., -1000.])

    References
    ----------
    Blanchard, Higham & Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).
    """
    shifted, total, dtype = _exponentials(logits, temperature)
    with np.errstate(over="ignore"):  # what float16 cannot hold is -inf there
        return np.asarray(shifted - np.log(total), dtype)


def softcap(logits: ArrayLike, cap: float) -> Array:
    r"""Squash logits smoothly into (-cap, cap).

    .. math:: \operatorname{softcap}(z) = \kappa \tanh(z / \kappa)

    Parameters
    ----------
    logits : array_like, shape (..., V)
        Floating point. A ``-inf`` stays ``-inf`` (a masked class stays masked); ``+inf`` becomes the cap.
    cap : float
        :math:`\kappa > 0`, the largest magnitude a logit keeps.

    Returns
    -------
    ndarray, shape (..., V)
        In the dtype of the logits.

    Raises
    ------
    TypeError, ValueError
        If the logits are not floating point, or the cap is not above 0.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> ln.softcap([1.0, 100.0, float("-inf")], 30.0).round(3)
    array([ 1.   , 29.924,   -inf])

    References
    ----------
    Gemma Team, "Gemma 2: Improving open language models at a practical size", arXiv:2408.00118 (2024), section 2.
    """
    cap = _checks.positive("cap", cap)
    array = as_logits("logits", logits)
    with np.errstate(over="ignore", under="ignore"):
        return capped(array.astype(loss_dtype(array.dtype), copy=False), cap).astype(array.dtype, copy=False)


def capped(logits: Array, cap: float) -> Array:
    """Return `softcap` without checks."""
    return np.where(np.isneginf(logits), logits, cap * np.tanh(logits / cap))


def log_probs(logits: Array) -> Array:
    """Return `log_softmax` without checks."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _exponentials(logits: ArrayLike, temperature: float) -> tuple[Array, Array, np.dtype[Any]]:
    """Return the logits shifted so that their largest is 0, the sum of their exponentials, and the dtype asked for."""
    temperature = _checks.positive("temperature", temperature)
    array = as_logits("logits", logits)
    with np.errstate(all="ignore"):  # inf - inf: a row that has no softmax gives NaN
        tempered = array.astype(loss_dtype(array.dtype), copy=False) / temperature
        shifted = tempered - tempered.max(axis=-1, keepdims=True)
        return shifted, np.exp(shifted).sum(axis=-1, keepdims=True), array.dtype
