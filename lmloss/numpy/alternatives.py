"""Losses on logits other than cross-entropy: focal, hinge and Brier."""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, as_fractions, as_logits
from lmloss.numpy._reduce import Average
from lmloss.numpy._rows import Kernel, RowLoss, row_loss
from lmloss.numpy._targets import read_targets
from lmloss.numpy.softmax import log_probs


@row_loss
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: float | ArrayLike = 1.0,
    ignore_index: int | None = -100,
    token_weight: ArrayLike | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
) -> RowLoss:
    r"""Compute the focal loss: cross-entropy that counts the less, the surer the model is of the target.

    .. math:: \ell = -\alpha_y \, (1 - q_y)^\gamma \log q_y, \qquad q = \operatorname{softmax}(z)

    Parameters
    ----------
    logits : array_like, shape (..., V)
        Floating point.
    targets : array_like, shape (...)
        Classes, of any integer dtype.
    gamma : float
        At least 0; 0 is cross-entropy, and at 2 a target of probability .9 counts 100 times less.
    alpha : float or array_like, shape (V,)
        In [0, 1], for all classes or for each. Part of the loss, not a weight: a mean does not divide by it.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : array_like, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.

    Returns
    -------
    float or ndarray
        In nats; float64 for float64 logits, float32 for narrower ones. 0.0 where there is nothing to average.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> logits = np.log([[0.9, 0.1]])
    >>> round(float(ln.cross_entropy(logits, [0]) / ln.focal_loss(logits, [0])), 6)
    100.0

    References
    ----------
    Lin, Goyal, Girshick, He & Dollár, "Focal loss for dense object detection", ICCV (2017), equations 4 and 5.
    """
    gamma = _checks.non_negative("gamma", gamma)
    z = as_logits("logits", logits)
    per_class = as_fractions("alpha", alpha, z.shape[-1:], "one number for each class")
    kernel = partial(_focal_rows, gamma=gamma, alpha=per_class)
    return _describe(kernel, z, targets, ignore_index, token_weight, reduction, denominator)


@row_loss
def hinge_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    margin: float = 1.0,
    ignore_index: int | None = -100,
    token_weight: ArrayLike | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
) -> RowLoss:
    r"""Compute the multi-class hinge loss: how far the target's logit is from leading its best rival by the margin.

    .. math:: \ell = \max\bigl(0,\; m + \max_{j \ne y} z_j - z_y\bigr)

    Where several rivals are level, the gradient goes to the first of them.

    Parameters
    ----------
    logits : array_like, shape (..., V)
        Floating point, V at least 2.
    targets : array_like, shape (...)
        Classes, of any integer dtype.
    margin : float
        :math:`m`, at least 0.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : array_like, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.

    Returns
    -------
    float or ndarray
        In units of the logits; float64 for float64 logits, float32 for narrower ones.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> ln.hinge_loss([[2.0, 1.5, 0.0], [3.0, 0.0, 1.0]], [0, 0], reduction="none")
    array([0.5, 0. ])

    References
    ----------
    Crammer & Singer, "On the algorithmic implementation of multiclass kernel-based vector machines", JMLR 2 (2001),
    section 3.
    """
    margin = _checks.non_negative("margin", margin)
    z = as_logits("logits", logits, at_least=2)
    kernel = partial(_hinge_rows, margin=margin)
    return _describe(kernel, z, targets, ignore_index, token_weight, reduction, denominator)


@row_loss
def brier_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int | None = -100,
    token_weight: ArrayLike | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
) -> RowLoss:
    r"""Compute the Brier loss: the squared distance of the model's distribution from the one-hot target.

    .. math:: \ell = \sum_j \bigl(q_j - [\,j = y\,]\bigr)^2, \qquad q = \operatorname{softmax}(z)

    Parameters
    ----------
    logits : array_like, shape (..., V)
        Floating point.
    targets : array_like, shape (...)
        Classes, of any integer dtype.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : array_like, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.

    Returns
    -------
    float or ndarray
        Between 0 and 2 for each token; float64 for float64 logits, float32 for narrower ones.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> round(float(ln.brier_loss(np.log([[0.7, 0.2, 0.1]]), [0])), 6)  # 0.3^2 + 0.2^2 + 0.1^2
    0.14

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950), equation 2.
    """
    z = as_logits("logits", logits)
    return _describe(_brier_rows, z, targets, ignore_index, token_weight, reduction, denominator)


def _describe(
    kernel: Kernel,
    logits: Array,
    targets: ArrayLike,
    ignore_index: int | None,
    token_weight: ArrayLike | None,
    reduction: str,
    denominator: float | None,
) -> RowLoss:
    _checks.reduction(reduction, denominator is not None)
    denominator = None if denominator is None else _checks.non_negative("denominator", denominator)
    y, weights = read_targets(
        "targets", targets, logits, ignore_index=ignore_index, token_weight=token_weight, reduction=reduction
    )
    return RowLoss(kernel, logits, (y,), Average(weights, weights, reduction, denominator))


def _focal_rows(
    logits: Array, targets: Array, *, gradient: bool, gamma: float, alpha: Array
) -> tuple[Array, Array | None]:
    """Compute one block: with u = log q_y, the slope is dl/du (e_y - q)."""
    here = np.arange(len(logits)), targets
    log_q = log_probs(logits)
    u, scale = log_q[here], alpha[targets].astype(logits.dtype)
    doubt = -np.expm1(u)  # 1 - q_y, without a further loss where q_y is close to 1
    damped = scale * doubt**gamma
    losses = np.where(damped == 0, 0, damped * -u)
    losses = np.where(np.isnan(u), u, losses)
    if not gradient:
        return losses, None
    ratio = np.where(doubt > 0, np.where(np.isneginf(u), 0, u) / np.where(doubt > 0, doubt, 1), -1)
    slope_in_u = damped * (gamma * np.exp(u) * ratio - 1)
    slope = -np.exp(log_q) * slope_in_u[:, None]
    slope[here] += np.where(np.isneginf(logits[here]), 0, slope_in_u)
    return losses, slope


def _hinge_rows(logits: Array, targets: Array, *, gradient: bool, margin: float) -> tuple[Array, Array | None]:
    """Compute one block: the slope is 1 at the best rival and -1 at the target, where the margin is not kept."""
    here = np.arange(len(logits)), targets
    rivals = logits.copy()
    rivals[here] = -np.inf
    best = np.arange(len(logits)), rivals.argmax(axis=-1)
    losses = np.maximum(0, margin + (rivals[best] - logits[here]))
    losses = losses + 0 * logits.max(axis=-1)  # NaN for a row that no distribution belongs to
    if not gradient:
        return losses, None
    slope = np.zeros_like(logits)
    short = (losses > 0).astype(logits.dtype)
    slope[best] = np.where(np.isneginf(logits[best]), 0, short)
    slope[here] = np.where(np.isneginf(logits[here]), 0, -short)
    slope[np.isnan(losses)] = np.nan
    return losses, slope


def _brier_rows(logits: Array, targets: Array, *, gradient: bool) -> tuple[Array, Array | None]:
    """Compute one block: with d = q - e_y, the slope is 2 q (d - sum q d)."""
    q = np.exp(log_probs(logits))
    distance = q.copy()
    distance[np.arange(len(logits)), targets] -= 1
    losses = (distance**2).sum(axis=-1)
    if not gradient:
        return losses, None
    return losses, 2 * q * (distance - (q * distance).sum(axis=-1, keepdims=True))
