"""The losses at sixty digits, straight from their definitions, with gradients from differences of twenty digits.

Nothing here is stable, fast or clever: at this precision and range of exponents nothing has to be.
"""

from functools import cache

import numpy as np
from mpmath.ctx_mp import MPContext

mp = MPContext()
mp.dps = 60
STEP = mp.mpf(10) ** -20


def exact(values):
    """The very numbers that the floats are."""
    return [mp.mpf(float(value)) for value in values]


def as_float(value):
    return float(value)


def logsumexp(z):
    total = mp.fsum(mp.exp(v) for v in z)
    return mp.log(total) if total else -mp.inf


def softmax(z):
    total = mp.fsum(mp.exp(v) for v in z)
    return [mp.exp(v) / total for v in z]


def log_softmax(z):
    return [mp.log(p) if p else -mp.inf for p in softmax(z)]


def softcap(z, cap):
    return [v if v == -mp.inf else cap * mp.tanh(v / cap) for v in z]


def row_loss(z, target, class_weight, label_smoothing, smoothing_over, z_loss, cap):
    """One row: -sum_j w_j t'_j log p_j + z_loss * W * lse**2, all exact; target is a class or a distribution."""
    if cap is not None:
        z = softcap(z, cap)
    classes = len(z)
    log_p = log_softmax(z)
    index = isinstance(target, int)
    t = [mp.mpf(int(j == target)) for j in range(classes)] if index else target
    w = class_weight or [mp.mpf(1)] * classes
    total = mp.mpf(0)
    for j in range(classes):
        mass = (1 - label_smoothing) * t[j]
        if z[j] != -mp.inf:
            others = smoothing_over == "others"
            mass += label_smoothing * (1 - t[j]) / (classes - 1) if others else label_smoothing / classes
        if w[j] * mass:
            total -= w[j] * mass * log_p[j]
    return total + z_loss * (w[target] if index else 1) * logsumexp(z) ** 2


@cache
def _row(z, target, class_weight, label_smoothing, smoothing_over, z_loss, cap):
    z = exact(z)
    arguments = (
        target if isinstance(target, int) else exact(target),
        exact(class_weight) if class_weight else None,
        mp.mpf(label_smoothing),
        smoothing_over,
        mp.mpf(z_loss),
        None if cap is None else mp.mpf(cap),
    )
    gradient = []
    for j, v in enumerate(z):
        if v == -mp.inf:
            gradient.append(mp.mpf(0))
            continue
        above, below = [*z[:j], v + STEP, *z[j + 1 :]], [*z[:j], v - STEP, *z[j + 1 :]]
        gradient.append((row_loss(above, *arguments) - row_loss(below, *arguments)) / (2 * STEP))
    return row_loss(z, *arguments), gradient


def cross_entropy(
    logits,
    targets,
    *,
    ignore_index=-100,
    class_weight=None,
    token_weight=None,
    label_smoothing=0.0,
    smoothing_over="all",
    z_loss=0.0,
    softcap=None,
    reduction="mean",
    denominator=None,
):
    """The loss and the gradient of its sum, rounded to float64 at the very end."""
    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    classes = logits.shape[-1]
    index = targets.dtype.kind in "iu"
    shape = targets.shape if index else targets.shape[:-1]
    rows = logits.reshape(-1, classes)
    flat = targets.reshape(-1) if index else targets.reshape(-1, classes)
    factors = np.ones(shape) if token_weight is None else np.broadcast_to(token_weight, shape).astype(np.float64)
    weights = None if class_weight is None else tuple(float(w) for w in class_weight)
    losses, gradients, counts = [], [], []
    for z, target, factor in zip(rows, flat, factors.reshape(-1), strict=True):
        ignored = index and ignore_index is not None and int(target) == ignore_index
        w = 1.0 if weights is None or not index or ignored else weights[int(target)]
        if ignored or factor == 0 or (w == 0 and label_smoothing == 0):
            losses.append(mp.mpf(0))
            gradients.append([mp.mpf(0)] * classes)
            counts.append(mp.mpf(0))
            continue
        key = int(target) if index else tuple(float(t) for t in target)
        loss, gradient = _row(
            tuple(float(v) for v in z), key, weights, label_smoothing, smoothing_over, z_loss, softcap
        )
        factor = mp.mpf(float(factor))
        losses.append(factor * loss)
        gradients.append([factor * g for g in gradient])
        counts.append(factor * mp.mpf(w))
    value, shares = _reduce(losses, counts, shape, reduction, denominator)
    gradient = [[as_float(g * share) for g in row] for row, share in zip(gradients, shares, strict=True)]
    return value, np.array(gradient, dtype=np.float64).reshape(logits.shape)


def _reduce(losses, counts, shape, reduction, denominator):
    """The reduced loss and what each row's loss is multiplied by in it."""
    if reduction == "none":
        return np.array([as_float(v) for v in losses]).reshape(shape), [1] * len(losses)
    if reduction == "sum":
        return np.float64(as_float(mp.fsum(losses))), [1] * len(losses)
    if reduction == "mean":
        total = mp.fsum(counts) if denominator is None else mp.mpf(denominator)
        share = 1 / total if total else mp.mpf(0)
        value = as_float(mp.fsum(losses) * share) if total else 0.0
        return np.float64(value), [share] * len(losses)
    length = shape[-1]
    values, shares = [], []
    for start in range(0, len(losses), length) if length else ():
        total = mp.fsum(counts[start : start + length])
        share = 1 / total if total else mp.mpf(0)
        values.append(as_float(mp.fsum(losses[start : start + length]) * share) if total else 0.0)
        shares += [share] * length
    if not length:
        values = [0.0] * int(np.prod(shape[:-1], dtype=int))
    return np.array(values).reshape(shape[:-1]), shares
