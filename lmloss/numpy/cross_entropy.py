"""Cross-entropy of logits against classes or distributions, and its two namings for language models."""

from functools import partial
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, as_logits, as_weights
from lmloss.numpy._reduce import Average
from lmloss.numpy._rows import RowLoss, row_loss
from lmloss.numpy._targets import read_targets
from lmloss.numpy.softmax import capped


class CrossEntropyOptions(TypedDict, total=False):
    """The keyword parameters of `cross_entropy`."""

    ignore_index: int | None
    class_weight: ArrayLike | None
    token_weight: ArrayLike | None
    label_smoothing: float
    smoothing_over: str
    z_loss: float
    softcap: float | None
    reduction: str
    denominator: float | None
    validate: bool | None


@row_loss
def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int | None = -100,
    class_weight: ArrayLike | None = None,
    token_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    smoothing_over: str = "all",
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
    validate: bool | None = None,
) -> RowLoss:
    r"""Compute the cross-entropy of logits against target classes or target distributions.

    With :math:`q = \operatorname{softmax}(z)` and :math:`z` the logits (soft-capped, if a cap is given), a token whose
    target distribution is :math:`p` (one-hot for a target class) costs

    .. math:: \ell = -\sum_j w_j \, p'_j \log q_j + \zeta \, w_y \operatorname{logsumexp}(z)^2

    where :math:`p'` is :math:`p` smoothed, :math:`w_j` the class weights (1 by default) and :math:`\zeta` is `z_loss`.

    Parameters
    ----------
    logits : array_like, shape (..., V)
        Floating point. A ``-inf`` is a class of probability 0 and costs nothing unless it is the target.
    targets : array_like
        Classes, shape (...) of any integer dtype, or probabilities, shape (..., V) and floating point.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    class_weight : array_like, shape (V,), optional
        Weight of each class, at least 0.
    token_weight : array_like, shape (...), optional
        Weight of each token, at least 0; a boolean mask will do.
    label_smoothing : float
        :math:`\varepsilon` in [0, 1], the target mass that is spread.
    smoothing_over : {"all", "others"}
        Spread it over all V classes, :math:`p' = (1-\varepsilon) p + \varepsilon/V` (PyTorch, Szegedy et al.), or over
        the others, :math:`p' = (1-\varepsilon) p + \varepsilon (1-p)/(V-1)` (tensor2tensor).
    z_loss : float
        :math:`\zeta`, the price of a squared log-partition far from 0.
    softcap : float, optional
        Squash the logits to :math:`\kappa \tanh(z/\kappa)` first.
    reduction : {"mean", "sum", "none", "sequence"}
        ``"mean"`` divides by the sum of the tokens' weights (token weight times the target's class weight; token weight
        alone for probabilities), ``"sequence"`` does so over the last axis of the targets alone, ``"none"`` returns
        each token's weighted loss.
    denominator : float, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.
    validate : bool, optional
        False skips looking at the values of targets and weights.

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
    >>> logits = np.log([[0.1, 0.7, 0.1, 0.1], [0.4, 0.2, 0.3, 0.1]])
    >>> ln.cross_entropy(logits, [1, 1], reduction="none").round(3)
    array([0.357, 1.609])
    >>> round(float(ln.cross_entropy(logits, [1, -100])), 3)
    0.357

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), section 6.2.2.3; smoothing: Szegedy et al. (2016),
    section 7; z-loss: Chowdhery et al., arXiv:2204.02311 (2022), section 5; soft-capping: arXiv:2408.00118, section 2.
    """
    return _describe(
        "targets",
        False,
        logits,
        targets,
        ignore_index=ignore_index,
        class_weight=class_weight,
        token_weight=token_weight,
        label_smoothing=label_smoothing,
        smoothing_over=smoothing_over,
        z_loss=z_loss,
        softcap=softcap,
        reduction=reduction,
        denominator=denominator,
        validate=validate,
    )


@row_loss(options_of=cross_entropy)
def causal_lm_loss(logits: ArrayLike, labels: ArrayLike, **options: Unpack[CrossEntropyOptions]) -> RowLoss:
    r"""Compute the next-token loss: position t's logits are scored on label t + 1.

    .. math:: \ell_t = -\log \operatorname{softmax}(z_t)_{y_{t+1}}, \qquad t = 1, \dots, T - 1

    The logits are neither copied nor sliced for the shift (labels that are probabilities are copied). The first label
    of a sequence is never read.

    Parameters
    ----------
    logits : array_like, shape (..., T, V)
        Floating point.
    labels : array_like, shape (..., T)
        The token ids themselves, not shifted; or probabilities, shape (..., T, V).
    **options
        Every keyword of `cross_entropy`. `token_weight` has the labels' shape and is read at the label that is scored.

    Returns
    -------
    float or ndarray
        As `cross_entropy`; ``"none"`` has T - 1 positions.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; indices in messages are those of `labels`.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> logits = np.zeros((1, 4, 50257))
    >>> ln.causal_lm_loss(logits, [[464, 3797, 3332, 319]], reduction="none").round(2)
    array([[10.82, 10.82, 10.82]])

    References
    ----------
    Bengio, Ducharme, Vincent & Jauvin, "A neural probabilistic language model", JMLR 3 (2003), section 2.
    """
    return _describe("labels", True, logits, labels, **options)


@row_loss(options_of=cross_entropy)
def masked_lm_loss(logits: ArrayLike, labels: ArrayLike, **options: Unpack[CrossEntropyOptions]) -> RowLoss:
    r"""Compute the masked language modelling loss: the cross-entropy where labels are not `ignore_index`.

    .. math:: \ell_t = -\log \operatorname{softmax}(z_t)_{y_t} \quad \text{for } y_t \ne \mathtt{ignore\_index}

    Parameters
    ----------
    logits : array_like, shape (..., T, V)
        Floating point.
    labels : array_like, shape (..., T)
        The original ids at the selected positions, `ignore_index` elsewhere.
    **options
        Every keyword of `cross_entropy`.

    Returns
    -------
    float or ndarray
        As `cross_entropy`; 0.0 where nothing was selected.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> logits = np.zeros((1, 3, 8))
    >>> round(float(ln.masked_lm_loss(logits, [[-100, 5, -100]])), 4)  # log 8
    2.0794

    References
    ----------
    Devlin et al., "BERT: Pre-training of deep bidirectional transformers", NAACL (2019), section 3.1.
    """
    return _describe("labels", False, logits, labels, **options)


def _describe(
    name: str,
    shift: bool,
    logits: ArrayLike,
    targets: ArrayLike,
    /,
    *,
    ignore_index: int | None = -100,
    class_weight: ArrayLike | None = None,
    token_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    smoothing_over: str = "all",
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
    validate: bool | None = None,
) -> RowLoss:
    """Check the arguments and describe the loss; with `shift`, row t is scored on target t + 1."""
    label_smoothing = _checks.fraction("label_smoothing", label_smoothing)
    _checks.choice("smoothing_over", smoothing_over, _checks.SMOOTHINGS)
    z_loss = _checks.non_negative("z_loss", z_loss)
    softcap = None if softcap is None else _checks.positive("softcap", softcap)
    _checks.reduction(reduction, denominator is not None)
    denominator = None if denominator is None else _checks.non_negative("denominator", denominator)
    _checks.switch("validate", validate)
    check_values = validate is not False

    z = as_logits("logits", logits, at_least=2 if label_smoothing > 0 and smoothing_over == "others" else 1)
    if class_weight is not None:
        class_weight = as_weights("class_weight", class_weight, z.shape[-1:], "one weight for each class", check_values)
    y, weights = read_targets(
        name,
        targets,
        z,
        ignore_index=ignore_index,
        token_weight=token_weight,
        reduction=reduction,
        check_values=check_values,
        distributions=True,
        shift=shift,
    )
    counts = weights
    if class_weight is not None and y.dtype.kind == "i":
        counts = weights * class_weight[y]
        # Where nothing is smoothed, a class of weight 0 leaves nothing to pay.
        weights = weights if label_smoothing > 0 else np.where(counts == 0, 0, weights)

    kernel = partial(
        _cross_entropy_rows,
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        smoothing_over=smoothing_over,
        z_loss=z_loss,
        cap=softcap,
    )
    average = Average(weights, counts, reduction, denominator, max(z.shape[-2] - 1, 0) if shift else None)
    return RowLoss(kernel, z, (y,), average)


def _cross_entropy_rows(
    logits: Array,
    targets: Array,
    *,
    gradient: bool,
    class_weight: Array | None,
    label_smoothing: float,
    smoothing_over: str,
    z_loss: float,
    cap: float | None,
) -> tuple[Array, Array | None]:
    """Compute one block: a row costs sum_j a_j (lse - z_j) + b lse^2, with slope (A + 2 b lse) softmax - a."""
    z = logits if cap is None else capped(logits, cap)
    top = z.max(axis=-1, keepdims=True)
    shifted = z - top
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=-1, keepdims=True)
    log_total = np.log(total)

    row_weight = np.ones(len(z), z.dtype)
    if targets.ndim == 1 and class_weight is not None:
        row_weight = class_weight[targets].astype(z.dtype)
    hard = targets.ndim == 1 and label_smoothing == 0
    if hard:
        here = np.arange(len(z)), targets
        losses = row_weight * (log_total[:, 0] - shifted[here])
        mass = row_weight
    else:
        spread = _smoothed(targets, z, class_weight, label_smoothing, smoothing_over)
        losses = np.where(spread == 0, 0, spread * (log_total - shifted)).sum(axis=-1)
        mass = spread.sum(axis=-1)
    if z_loss:
        log_partition = (top + log_total)[:, 0]
        losses = losses + z_loss * row_weight * log_partition**2
        mass = mass + 2 * z_loss * row_weight * log_partition
    if not gradient:
        return losses, None

    slope = exponentials
    slope *= mass[:, None] / total
    if hard:
        slope[here] -= np.where(np.isneginf(z[here]), 0, row_weight)
    else:
        slope -= np.where(np.isneginf(z), 0, spread)
    if cap is not None:
        slope *= np.where(np.isneginf(z), 0, 1 - (z / cap) ** 2)
    return losses, slope


def _smoothed(
    targets: Array, z: Array, class_weight: Array | None, label_smoothing: float, smoothing_over: str
) -> Array:
    """Return each class's mass w_j p'_j; a class of probability 0 has none unless it is a target."""
    if targets.ndim == 1:
        true = np.zeros_like(z)
        true[np.arange(len(z)), targets] = 1
    else:
        true = targets.astype(z.dtype, copy=False)
    classes = z.shape[-1]
    if smoothing_over == "all":
        spread = (1 - label_smoothing) * true + label_smoothing / classes
    else:
        spread = (1 - label_smoothing) * true + label_smoothing / max(classes - 1, 1) * (1 - true)
    if class_weight is not None:
        spread = spread * class_weight.astype(z.dtype)
    return np.where(np.isneginf(z) & (true == 0), 0, spread)
