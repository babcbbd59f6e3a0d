"""Which classes are scored, and how much each token counts."""

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, as_weights, kind, refuse_first, refuse_improper


def read_targets(
    name: str,
    targets: ArrayLike,
    logits: Array,
    *,
    ignore_index: int | None,
    token_weight: ArrayLike | None,
    reduction: str,
    check_values: bool = True,
    distributions: bool = False,
    shift: bool = False,
) -> tuple[Array, Array]:
    """Return the targets of every row of the logits, and every row's weight: 0 where it does not count.

    Classes come back as indices, 0 where nothing is read; `distributions` `(..., V)` only where allowed. With `shift`,
    row t gets target t + 1, and the last row of a sequence gets none.
    """
    _checks.ignore_index(ignore_index)
    y, shape, classes = np.asarray(targets), logits.shape[:-1], logits.shape[-1]
    soft = _checks.targets(name, y.shape, kind(y), y.dtype, logits.shape, distributions)
    if shift or reduction == "sequence":
        _checks.needs_positions(name, shape, "target")
    weights = np.ones(shape)
    if token_weight is not None:
        weights = as_weights("token_weight", token_weight, shape, f"one weight for each of the {name}", check_values)
    if shift:  # a roll of the small arrays, so that the large one stays where it is
        y, weights = np.roll(y, -1, axis=len(shape) - 1), np.roll(weights, -1, axis=-1)
        weights[..., -1:] = 0
    if soft:
        if check_values:
            limit = _checks.tolerance(y.dtype.itemsize * 8)
            refuse_improper(name, y, limit, exempt=weights == 0, offset=int(shift))
        return y, weights

    ignored = np.zeros(shape, bool) if ignore_index is None else np.asarray(y == ignore_index)
    unread = ignored if not shift else ignored | (np.arange(shape[-1]) == shape[-1] - 1)
    if check_values:
        bad = ((y < 0) | (y >= classes)) & ~unread
        note = f"; ignore_index is {ignore_index}"
        refuse_first(name, y, bad, _checks.outside, offset=int(shift), classes=classes, note=note)
    return np.where(unread, 0, y).astype(np.intp), np.where(ignored, 0, weights)
