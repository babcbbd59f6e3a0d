"""What comes in: arrays of a known kind, with values that were looked at once."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmloss import _checks

Array = NDArray[Any]


def kind(array: Array) -> str:
    """Return the kind of an array's dtype as `_checks` names it."""
    return "i" if array.dtype.kind == "u" else array.dtype.kind


def as_logits(name: str, values: ArrayLike, at_least: int = 1) -> Array:
    """Return logits `(..., V)` as an array, refused unless floating point."""
    array = np.asarray(values)
    _checks.floating(name, kind(array), array.dtype)
    _checks.class_axis(name, array.shape, at_least)
    return array


def as_hidden(values: ArrayLike) -> Array:
    """Return hidden states `(..., H)` as an array, refused unless floating point."""
    array = as_matrix("hidden", values)
    _checks.features("hidden", array.shape)
    return array


def as_matrix(name: str, values: object) -> Array:
    """Return parameters as an array, refused unless floating point."""
    array = np.asarray(values)
    _checks.floating(name, kind(array), array.dtype)
    return array


def loss_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which a loss is computed: float32 for everything narrower."""
    return np.result_type(dtype, np.float32)


def as_weights(name: str, values: ArrayLike, shape: _checks.Shape, why: str, check_values: bool = True) -> Array:
    """Return weights of an exact shape as float64, refused unless finite and not negative."""
    array = np.asarray(values)
    _checks.real(name, kind(array), array.dtype)
    _checks.exact_shape(name, array.shape, shape, why)
    weights = array.astype(np.float64)
    if check_values:
        refuse_first(name, weights, ~(np.isfinite(weights) & (weights >= 0)), _checks.weight)
    return weights


def as_fractions(name: str, values: ArrayLike, shape: _checks.Shape, why: str) -> Array:
    """Return numbers in [0, 1], a single one or as many as the shape says, as float64 of that shape."""
    array = np.asarray(values)
    if array.ndim == 0:
        return np.full(shape, _checks.fraction(name, array.item()))
    fractions = as_weights(name, array, shape, why)
    refuse_first(name, fractions, fractions > 1, _checks.beyond_one)
    return fractions


def as_distribution(name: str, values: ArrayLike, axes: int = 1) -> Array:
    """Return probabilities over the last axes in the loss dtype, refused unless they form distributions."""
    array = np.asarray(values)
    _checks.real(name, kind(array), array.dtype)
    _checks.class_axis(name, array.shape)
    if array.ndim < axes or 0 in array.shape[-axes:]:
        raise ValueError(f"{name} has shape {array.shape}; its last {axes} axes must be those of the distribution")
    bits = array.dtype.itemsize * 8 if array.dtype.kind == "f" else 64
    probs = array.astype(loss_dtype(array.dtype), copy=False)
    refuse_improper(name, probs, _checks.tolerance(bits), axes=axes)
    return probs


def refuse_improper(
    name: str, probs: Array, tolerance: float, axes: int = 1, exempt: Array | None = None, offset: int = 0
) -> None:
    """Refuse negative probabilities and sums other than 1, except in the rows that are `exempt`."""
    over = tuple(range(-axes, 0))
    smallest, total = probs.min(axis=over), probs.sum(axis=over, dtype=np.float64)
    counted = True if exempt is None else ~exempt
    negative = ~(smallest >= 0) & counted
    if negative.any():
        row = tuple(np.argwhere(negative)[0])
        inner = tuple(np.argwhere(~(probs[row] >= 0))[0])
        raise ValueError(_checks.probability(name, _shift(row, offset) + inner, probs[row + inner].item()))
    with np.errstate(invalid="ignore"):
        improper = ~(np.abs(total - 1) <= tolerance) & counted
    if improper.any():
        row = tuple(np.argwhere(improper)[0])
        raise ValueError(_checks.total(name, _shift(row, offset), total[row].item(), tolerance))


def refuse_first(name: str, values: Array, bad: Array, message: Any, offset: int = 0, **expected: Any) -> None:
    """Refuse the first entry that is `bad`, by its place and value."""
    if bad.any():
        index = tuple(np.argwhere(bad)[0])
        raise ValueError(message(name, _shift(index, offset), values[index].item(), **expected))


def _shift(index: tuple[Any, ...], offset: int) -> tuple[Any, ...]:
    return (*index[:-1], index[-1] + offset) if offset else index
