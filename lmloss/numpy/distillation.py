"""Distillation: a student's cross-entropy on the targets, and its divergence from a teacher."""

from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, as_logits, as_weights, kind
from lmloss.numpy._reduce import Average
from lmloss.numpy._rows import RowLoss, row_loss
from lmloss.numpy._targets import read_targets
from lmloss.numpy.softmax import log_probs


@row_loss
def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    ignore_index: int | None = -100,
    token_weight: ArrayLike | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
    validate: bool | None = None,
) -> RowLoss:
    r"""Compute the distillation loss: cross-entropy on the targets, and divergence from a teacher's distribution.

    .. math:: \ell = \alpha \, (-\log q_y) + (1 - \alpha) \, \tau^2 D(p^{(\tau)}, q^{(\tau)})

    with :math:`q` the student's softmax, and :math:`p^{(\tau)}`, :math:`q^{(\tau)}` the teacher's and the student's at
    temperature :math:`\tau`. The factor :math:`\tau^2` keeps the size of the gradient while :math:`\tau` changes.
    Without targets the loss is :math:`\tau^2 D` alone.

    Parameters
    ----------
    student_logits : array_like, shape (..., V)
        Floating point.
    teacher_logits : array_like, shape (..., V)
        Floating point, over the same vocabulary; constants.
    targets : array_like, shape (...), optional
        Classes, of any integer dtype.
    temperature : float
        :math:`\tau > 0`, for the divergence only.
    alpha : float
        In [0, 1], the share of the cross-entropy; unused without targets.
    divergence : {"forward_kl", "reverse_kl", "jsd"}
        :math:`\mathrm{KL}(p \,\|\, q)`, :math:`\mathrm{KL}(q \,\|\, p)`, or
        :math:`\beta \mathrm{KL}(p \,\|\, m) + (1 - \beta) \mathrm{KL}(q \,\|\, m)` with
        :math:`m = \beta p + (1 - \beta) q`.
    beta : float
        Strictly between 0 and 1, for ``"jsd"``.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : array_like, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.
    validate : bool, optional
        False skips looking at the values of targets and weights.

    Returns
    -------
    float or ndarray
        In nats; float64 for float64 student logits, float32 for narrower ones. ``inf`` where a divergence is.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value, or the vocabularies differ; the message names it.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> teacher, student = np.array([[2.0, 1.0, 0.0]]), np.zeros((1, 3))
    >>> round(float(ln.distillation_loss(student, teacher, temperature=2.0)), 4)
    0.3137
    >>> float(ln.distillation_loss(teacher, teacher, temperature=2.0))
    0.0

    References
    ----------
    Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531 (2015), section 2; reverse
    KL and the generalised JSD: Agarwal et al., arXiv:2306.13649 (2024), section 2.
    """
    temperature = _checks.positive("temperature", temperature)
    alpha = _checks.fraction("alpha", alpha)
    _checks.choice("divergence", divergence, _checks.DIVERGENCES)
    beta = _checks.between("beta", beta)
    _checks.ignore_index(ignore_index)
    _checks.reduction(reduction, denominator is not None)
    denominator = None if denominator is None else _checks.non_negative("denominator", denominator)
    _checks.switch("validate", validate)

    z = as_logits("student_logits", student_logits)
    teacher = np.asarray(teacher_logits)
    _checks.floating("teacher_logits", kind(teacher), teacher.dtype)
    _checks.exact_shape("teacher_logits", teacher.shape, z.shape, "that of student_logits")
    rows: tuple[Array, ...] = (teacher,)
    if targets is not None:
        y, weights = read_targets(
            "targets",
            targets,
            z,
            ignore_index=ignore_index,
            token_weight=token_weight,
            reduction=reduction,
            check_values=validate is not False,
        )
        rows = teacher, y
    else:
        if reduction == "sequence":
            _checks.needs_positions("student_logits", z.shape[:-1], "row")
        weights = np.ones(z.shape[:-1])
        if token_weight is not None:
            why = "one weight for each row of student_logits"
            weights = as_weights("token_weight", token_weight, z.shape[:-1], why, validate is not False)
    kernel = partial(_distillation_rows, temperature=temperature, alpha=alpha, divergence=divergence, beta=beta)
    return RowLoss(kernel, z, rows, Average(weights, weights, reduction, denominator))


def _distillation_rows(
    logits: Array,
    teacher: Array,
    targets: Array | None = None,
    *,
    gradient: bool,
    temperature: float,
    alpha: float,
    divergence: str,
    beta: float,
) -> tuple[Array, Array | None]:
    """Compute one block: where D has the slope g_j in q_j, it has q_j (g_j - sum q g) / tau in z_j."""
    losses, slope = np.zeros(len(logits), logits.dtype), np.zeros_like(logits)
    share = 1.0 if targets is None else 1 - alpha
    if share > 0:
        divergences, slopes = _softened(teacher, logits, temperature=temperature, divergence=divergence, beta=beta)
        losses, slope = share * temperature**2 * divergences, share * temperature * slopes
    if targets is not None and alpha > 0:
        here = np.arange(len(logits)), targets
        hard = log_probs(logits)
        losses = losses - alpha * hard[here]
        slope += alpha * np.exp(hard)
        slope[here] -= alpha
    losses = np.where(np.isnan(slope).any(axis=-1), np.nan, losses)
    return losses, np.where(np.isneginf(logits), 0, slope) if gradient else None


def _softened(
    teacher: Array, logits: Array, *, temperature: float, divergence: str, beta: float
) -> tuple[Array, Array]:
    """Return D at a temperature, and tau times its slope in the logits."""
    log_p, log_q = log_probs(teacher.astype(logits.dtype) / temperature), log_probs(logits / temperature)
    p, q = np.exp(log_p), np.exp(log_q)
    if divergence == "forward_kl":
        return _mean(log_p, log_p - log_q), q - p
    if divergence == "reverse_kl":
        in_q = log_q - log_p
        losses = _mean(log_q, in_q)
    else:
        log_m = np.logaddexp(np.log(beta) + log_p, np.log1p(-beta) + log_q)
        in_q = (1 - beta) * (log_q - log_m)
        losses = beta * _mean(log_p, log_p - log_m) + _mean(log_q, in_q)
    endless = np.isposinf(in_q).any(axis=-1, keepdims=True)  # an infinite divergence slopes nowhere
    in_q = np.where((q == 0) | endless, 0, in_q)
    return losses, q * (in_q - (q * in_q).sum(axis=-1, keepdims=True))


def _mean(log_weights: Array, values: Array) -> Array:
    """Return the mean of values; what has no weight adds nothing, what has too little for its format only infinity."""
    weights = np.exp(log_weights)
    lost = ((weights == 0) & ~np.isneginf(log_weights) & np.isposinf(values)).any(axis=-1)
    return np.asarray(np.where(lost, np.inf, np.where(weights > 0, weights * values, 0).sum(axis=-1)))
