"""Softmax and its logarithm on any device, differentiable, in float32 or wider inside."""

import torch
from torch import Tensor

from lmloss import _checks
from lmloss.torch._tensors import as_logits, loss_dtype


def logsumexp(x: Tensor) -> Tensor:
    r"""Compute the logarithm of a sum of exponentials over the last axis.

    .. math:: \operatorname{logsumexp}(x) = \log \sum_j e^{x_j} = m + \log \sum_j e^{x_j - m}, \qquad m = \max_j x_j

    Parameters
    ----------
    x : Tensor, shape (..., V)
        Floating-point numbers; ``-inf`` contributes nothing.

    Returns
    -------
    Tensor, shape (...)
        In nats where `x` are logits; float32 for inputs narrower than float64. ``-inf`` where every entry is
        ``-inf``, ``inf`` where one is ``inf``.

    Raises
    ------
    TypeError
        If `x` is not a floating-point tensor.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.logsumexp(torch.tensor([1000.0, 1000.0], dtype=torch.float64))
    tensor(1000.6931, dtype=torch.float64)

    References
    ----------
    Blanchard, Higham & Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).
    """
    z = _widened(as_logits("x", x))
    # Composed, so that the gradient is a quotient of exponentials: exp(x - logsumexp(x)), which torch.logsumexp takes,
    # loses a digit for each digit of the logsumexp.
    top = z.detach().amax(-1, keepdim=True)
    top = torch.where(top.isinf(), 0, top)
    return (top + (z - top).exp().sum(-1, keepdim=True).log())[..., 0]


def softmax(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Turn logits into probabilities over the last axis.

    .. math:: \operatorname{softmax}(z / \tau)_j = \frac{e^{z_j / \tau}}{\sum_k e^{z_k / \tau}}

    Parameters
    ----------
    logits : Tensor, shape (..., V)
        Floating point. A ``-inf`` is probability 0; a row of only ``-inf``, or with a NaN or ``+inf``, gives NaN.
    temperature : float
        :math:`\tau > 0`; above 1 flattens the distribution, below 1 sharpens it.

    Returns
    -------
    Tensor, shape (..., V)
        Probabilities in the dtype of the logits, computed in float32 or wider.

    Raises
    ------
    TypeError, ValueError
        If the logits are not a floating-point tensor, or the temperature is not above 0.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.softmax(torch.tensor([2.0, 1.0, 0.0, -1.0]))
    tensor([0.6439, 0.2369, 0.0871, 0.0321])

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), equation 6.29.
    """
    temperature = _checks.positive("temperature", temperature)
    z = as_logits("logits", logits)
    return torch.softmax(_tempered(z, temperature), dim=-1).to(z.dtype)


def log_softmax(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Compute the logarithm of the softmax, finite where the softmax itself underflows to 0.

    .. math:: \log \operatorname{softmax}(z / \tau)_j = z_j / \tau - \operatorname{logsumexp}(z / \tau)

    Parameters
    ----------
    logits : Tensor, shape (..., V)
        Floating point. A ``-inf`` stays ``-inf``; a row of only ``-inf``, or with a NaN or ``+inf``, gives NaN.
    temperature : float
        :math:`\tau > 0`.

    Returns
    -------
    Tensor, shape (..., V)
        Log-probabilities (nats) in the dtype of the logits, computed in float32 or wider.

    Raises
    ------
    TypeError, ValueError
        If the logits are not a floating-point tensor, or the temperature is not above 0.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.log_softmax(torch.tensor([0.0, -1000.0]))
    tensor([    0., -1000.])

    References
    ----------
    Blanchard, Higham & Higham, "Accurately computing the log-sum-exp and softmax functions", IMA Journal of
    Numerical Analysis 41 (2021).
    """
    temperature = _checks.positive("temperature", temperature)
    z = as_logits("logits", logits)
    return torch.log_softmax(_tempered(z, temperature), dim=-1).to(z.dtype)


def softcap(logits: Tensor, cap: float) -> Tensor:
    r"""Squash logits smoothly into (-cap, cap).

    .. math:: \operatorname{softcap}(z) = \kappa \tanh(z / \kappa)

    Parameters
    ----------
    logits : Tensor, shape (..., V)
        Floating point. A ``-inf`` stays ``-inf`` (a masked class stays masked); ``+inf`` becomes the cap.
    cap : float
        :math:`\kappa > 0`, the largest magnitude a logit keeps.

    Returns
    -------
    Tensor, shape (..., V)
        In the dtype of the logits.

    Raises
    ------
    TypeError, ValueError
        If the logits are not a floating-point tensor, or the cap is not above 0.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.softcap(torch.tensor([1.0, 100.0, float("-inf")]), 30.0).round(decimals=2)
    tensor([ 1.0000, 29.9200,    -inf])

    References
    ----------
    Gemma Team, "Gemma 2: Improving open language models at a practical size", arXiv:2408.00118 (2024), section 2.
    """
    cap = _checks.positive("cap", cap)
    z = as_logits("logits", logits)
    return capped(_widened(z), cap).to(z.dtype)


def capped(z: Tensor, cap: float) -> Tensor:
    """Return `softcap` without checks."""
    return torch.where(z == -torch.inf, -torch.inf, cap * torch.tanh(z / cap))


def _tempered(z: Tensor, temperature: float) -> Tensor:
    return _widened(z) if temperature == 1 else _widened(z) / temperature


def _widened(z: Tensor) -> Tensor:
    return z.to(loss_dtype(z.dtype))
