"""Argument checks and their messages: one sentence that names the argument, the place, the value and what was expected.

This file knows numbers, shapes and kinds of dtype ("f" floating, "i" integer, "b" boolean), never a framework.
"""

import math
import operator
from collections.abc import Iterable, Sequence

Shape = tuple[int, ...]

REDUCTIONS = ("mean", "sum", "none", "sequence")
SMOOTHINGS = ("all", "others")
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
PAIR = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
KINDS = {"f": "floating point", "i": "integer", "b": "boolean", "c": "complex"}


def number(name: str, value: object, finite: bool = True) -> float:
    """Return `value` as a number."""
    if isinstance(value, bool | str):
        raise TypeError(f"{name} = {value!r} is not a number")
    if not isinstance(value, int | float):  # a NumPy or PyTorch scalar
        try:
            value = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be a single number, not {type(value).__name__}") from None
    if finite and not -math.inf < value < math.inf:
        raise ValueError(f"{name} = {value} is not finite")
    return value


def positive(name: str, value: object) -> float:
    """Return `value` if it is a number above 0."""
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"{name} = {result!r} must be greater than 0")
    return result


def non_negative(name: str, value: object) -> float:
    """Return `value` if it is a number of at least 0."""
    result = number(name, value)
    if result < 0:
        raise ValueError(f"{name} = {result!r} must not be negative")
    return result


def fraction(name: str, value: object) -> float:
    """Return `value` if it lies in [0, 1]."""
    result = number(name, value)
    if not 0 <= result <= 1:
        raise ValueError(f"{name} = {result!r} is outside [0, 1]")
    return result


def whole(name: str, value: object) -> int:
    """Return `value` if it is an integer."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} = {value!r} is not an integer")
    return operator.index(value)


def count(name: str, value: object) -> int:
    """Return `value` if it is an integer of at least 1."""
    result = whole(name, value)
    if result < 1:
        raise ValueError(f"{name} = {result} must be at least 1")
    return result


def log_base(base: object) -> float | None:
    """Return the base of a logarithm, None for nats."""
    if base is None:
        return None
    result = positive("base", base)
    if result == 1:
        raise ValueError("base = 1 has no logarithm; use 2 for bits or None for nats")
    return result


def choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a name that is not one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} = {value!r} is not one of {', '.join(map(repr, allowed))}")


def switch(name: str, value: object) -> None:
    """Refuse anything but True, False and None."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} = {value!r} is not True, False or None")


def ignore_index(value: object) -> None:
    """Refuse an `ignore_index` that is neither an integer nor None."""
    if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__")):
        raise TypeError(f"ignore_index = {value!r} is neither an integer nor None")
    if value is not None and not -(2**63) <= operator.index(value) < 2**63:
        raise ValueError(f"ignore_index = {value!r} is no 64-bit integer")


def reduction(name: object, has_denominator: bool) -> None:
    """Refuse an unknown reduction, or a denominator where there is nothing to divide."""
    choice("reduction", name, REDUCTIONS)
    if has_denominator and name != "mean":
        raise ValueError(f'denominator goes with reduction="mean" only, not with reduction={name!r}')


def floating(name: str, kind: str, dtype: object) -> None:
    """Refuse what is not floating point."""
    if kind != "f":
        order = "; the logits come first, the targets second" if name == "logits" else ""
        raise TypeError(f"{name} must be floating point, not {dtype}{order}")


def real(name: str, kind: str, dtype: object) -> None:
    """Refuse what is not a real number (a boolean mask counts as 0 and 1)."""
    if kind not in "fib":
        raise TypeError(f"{name} must hold real numbers, not {dtype}")


def class_axis(name: str, shape: Shape, at_least: int = 1) -> None:
    """Refuse an array whose last axis cannot be a vocabulary."""
    if not shape:
        raise ValueError(f"{name} is a single number; its last axis must be the vocabulary")
    if shape[-1] < at_least:
        raise ValueError(f"{name} has shape {shape}: the last axis is the vocabulary and needs at least {at_least}")


def same_classes(name: str, shape: Shape, other: str, other_shape: Shape) -> None:
    """Refuse two distributions over different vocabularies."""
    if shape[-1] != other_shape[-1]:
        raise ValueError(
            f"{name} has {shape[-1]} classes and {other} has {other_shape[-1]} (shapes {shape} and {other_shape})"
        )


def exact_shape(name: str, shape: Shape, expected: Shape, why: str) -> None:
    """Refuse an array that has not exactly the expected shape."""
    if shape != expected:
        raise ValueError(f"{name} has shape {shape}; expected {expected}, {why}")


def targets(name: str, shape: Shape, kind: str, dtype: object, logits_shape: Shape, distributions: bool = True) -> bool:
    """Return whether the targets are probabilities, where `distributions` are allowed; refuse what is neither."""
    if not distributions and kind != "i":
        raise TypeError(f"{name} must be integers, not {dtype}: this loss is defined for classes, not distributions")
    if kind == "i":
        if shape == logits_shape[:-1]:
            return False
        hint = f"expected {logits_shape[:-1]}, one class for each row of the logits {logits_shape}, whose last axis is "
        hint += "the vocabulary"
        if shape == logits_shape and distributions:
            hint += f"; pass class indices, or floating point {name} of this shape as probabilities"
        raise ValueError(f"{name} has shape {shape}; {hint}")
    if kind == "f":
        if shape == logits_shape:
            return True
        raise TypeError(
            f"{name} of {dtype} and shape {shape} are neither classes (integers of shape {logits_shape[:-1]}) "
            f"nor probabilities (floating point of shape {logits_shape})"
        )
    raise TypeError(f"{name} must be integers (classes) or floating point (probabilities), not {dtype}")


def place(name: str, index: Sequence[int]) -> str:
    """Write `name[3, 17]`, or `name` alone where there is nothing to index."""
    return f"{name}[{', '.join(str(int(i)) for i in index)}]" if len(index) else name


def outside(name: str, index: Sequence[int], value: int, classes: int, note: str = "") -> str:
    """Say that a class does not exist."""
    return f"{place(name, index)} = {value} is outside [0, {classes}){note}"


def weight(name: str, index: Sequence[int], value: float) -> str:
    """Say that a weight is negative or not finite."""
    return f"{place(name, index)} = {value!r} must be finite and not negative"


def beyond_one(name: str, index: Sequence[int], value: float) -> str:
    """Say that a fraction is above 1."""
    return f"{place(name, index)} = {value!r} is outside [0, 1]"


def loss(name: str, index: Sequence[int], value: float) -> str:
    """Say that a loss is negative or undefined."""
    return f"{place(name, index)} = {value!r} is no loss: that is at least 0, minus a log-probability"


def probability(name: str, index: Sequence[int], value: float) -> str:
    """Say that a number is no probability."""
    return f"{place(name, index)} = {value!r} is not a probability in [0, 1]"


def total(name: str, index: Sequence[int], value: float, tolerance: float) -> str:
    """Say that a row of probabilities does not sum to 1."""
    sums = f"{place(name, index)} sums to {value:.9g}, not to 1 (tolerance {tolerance:g})"
    return f"{sums}; it is no distribution (softmax makes one of logits)"


def tolerance(bits: int) -> float:
    """Return how far a distribution's sum may be from 1 in a floating-point type of so many bits."""
    return {16: 1e-2, 32: 1e-4}.get(bits, 1e-6)


def vectors(name: str, shape: Shape) -> None:
    """Refuse an array that is not one vector in each row."""
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(f"{name} has shape {shape}; expected two axes, one vector in each row and D >= 1 columns")


def contrast(symmetric: object, reduction: object) -> None:
    """Refuse a switch that is not True or False, and a reduction that rows of a batch do not have."""
    if not isinstance(symmetric, bool):
        raise TypeError(f"symmetric = {symmetric!r} is not True or False")
    if reduction == "sequence":
        raise ValueError('reduction = "sequence" averages tokens, and pairs have none: use "mean", "sum" or "none"')
    choice("reduction", reduction, ("mean", "sum", "none"))


def sequence_of_classes(name: str, shape: Shape, kind: str, dtype: object) -> None:
    """Refuse targets that are not classes along an axis of positions."""
    integer(name, kind, dtype)
    needs_positions(name, shape, "target")


def integer(name: str, kind: str, dtype: object) -> None:
    """Refuse what is not an integer."""
    if kind != "i":
        raise TypeError(f"{name} must be integers (token ids), not {dtype}")


def mixed_ids(name: str, dtype: object, other: str, other_dtype: object) -> None:
    """Refuse two dtypes of ids that int64 cannot hold together."""
    names = str(dtype).removeprefix("torch."), str(other_dtype).removeprefix("torch.")
    if names[0] != names[1] and "uint64" in names:
        raise TypeError(f"{name} are {names[0]} and {other} {names[1]}; int64 cannot hold both, convert one of them")


def candidates(name: str, shape: Shape) -> None:
    """Refuse an array whose last axis holds no candidate."""
    if not shape or not shape[-1]:
        raise ValueError(f"{name} has shape {shape}; the last axis holds the candidates and needs at least 1")


def broadcasts(name: str, shape: Shape, other: str, other_shape: Shape) -> None:
    """Refuse a shape that does not broadcast to another, or would enlarge it."""
    sizes = zip(reversed(shape), reversed(other_shape), strict=False)
    if len(shape) > len(other_shape) or any(mine not in (1, theirs) for mine, theirs in sizes):
        raise ValueError(f"{name} has shape {shape}; it must broadcast to that of {other}, {other_shape}")


def together(name: str, device: object, other: str, other_device: object) -> None:
    """Refuse two arguments that live on different devices."""
    if device != other_device:
        raise ValueError(f"{name} is on {device} and {other} on {other_device}; move one of them")


def infinite(name: str, index: Sequence[int], value: float) -> str:
    """Say that a number is infinite or undefined."""
    return f"{place(name, index)} = {value!r} must be finite"


def token_ids(name: str, kind: str, dtype: object, largest: int, vocab_size: int) -> None:
    """Refuse what is not integer, or an integer type too narrow for the vocabulary."""
    if kind != "i":
        raise TypeError(f"{name} must be integers, not {dtype}")
    if vocab_size - 1 > largest:
        raise ValueError(f"{name} of {dtype} cannot hold every id of vocab_size = {vocab_size}; use a wider integer")


def token_id(name: str, value: object, vocab_size: int) -> int:
    """Return `value` if it is the id of a token of the vocabulary."""
    result = whole(name, value)
    if not 0 <= result < vocab_size:
        raise ValueError(outside(name, (), result, vocab_size, "; vocab_size counts every id, added tokens included"))
    return result


def special_token_ids(values: object, vocab_size: int) -> list[int]:
    """Return the special ids in increasing order and each once; refuse them where they leave no ordinary token."""
    name = "special_token_ids"
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of ids, not {type(values).__name__}")
    ids = sorted({token_id(f"{name}[{i}]", value, vocab_size) for i, value in enumerate(values)})
    if len(ids) == vocab_size:
        raise ValueError(f"{name} are all {vocab_size} ids of the vocabulary; no token is left to mask or to draw")
    return ids


def masking_rates(mask_prob: object, replace_prob: object, random_prob: object) -> tuple[float, float, float]:
    """Return the three rates if each lies in [0, 1] and the last two sum to at most 1."""
    selected = fraction("mask_prob", mask_prob)
    replaced, random = fraction("replace_prob", replace_prob), fraction("random_prob", random_prob)
    if replaced + random > 1 + 1e-6:  # rates that were rounded to float32 may sum to a little more
        raise ValueError(f"replace_prob + random_prob = {replaced} + {random} must not be greater than 1")
    return selected, replaced, random


def between(name: str, value: object) -> float:
    """Return `value` if it lies strictly between 0 and 1."""
    result = number(name, value)
    if not 0 < result < 1:
        raise ValueError(f"{name} = {result!r} is not strictly between 0 and 1")
    return result


def needs_positions(name: str, shape: Shape, what: str) -> None:
    """Refuse a single target or row where a sequence of them is wanted."""
    if not shape:
        raise ValueError(f"{name} is a single {what}; a sequence needs an axis of positions")


def features(name: str, shape: Shape) -> None:
    """Refuse an array whose last axis holds no features."""
    if not shape or not shape[-1]:
        raise ValueError(f"{name} has shape {shape}; the last axis holds the features and needs at least 1")


def undrawable(name: str, index: Sequence[int], value: float) -> str:
    """Say that a class is never drawn."""
    return f"{place(name, index)} = {value!r} must be greater than 0: the loss cannot correct for a class never drawn"


def all_zero(name: str) -> str:
    """Say that nothing was counted."""
    return f"{name} are all 0; at least one class must have been counted"


def no_tree(path: str, value: object) -> str:
    """Say that a tree is none; the two paths have one each, of the same name."""
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"tree must be a HuffmanTree as {path}.huffman_tree builds it, not {name}"


def cutoffs(values: object, vocab_size: int | None = None) -> tuple[int, ...]:
    """Return where the clusters of a vocabulary begin, refused unless they increase from at least 1."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"cutoffs must be a sequence of integers, not {type(values).__name__}")
    cuts = tuple(whole(f"cutoffs[{i}]", value) for i, value in enumerate(values))
    if not cuts:
        raise ValueError("cutoffs is empty; it needs at least one, the number of classes in the head")
    for i, cut in enumerate(cuts):
        below = cuts[i - 1] if i else 0
        if cut <= below:
            raise ValueError(f"cutoffs[{i}] = {cut} must be greater than {f'cutoffs[{i - 1}] = {below}' if i else 0}")
    if vocab_size is not None and cuts[-1] >= vocab_size:
        note = "the last cluster runs from the last cutoff to the end of the vocabulary"
        raise ValueError(f"cutoffs[{len(cuts) - 1}] = {cuts[-1]} must be less than vocab_size = {vocab_size}: {note}")
    return cuts


def tails(values: object, clusters: int) -> list[tuple[object, object]]:
    """Return the pairs (projection, output) of the clusters, refused unless there is one for each cutoff."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise TypeError(f"tails must be a sequence of pairs (projection, output), not {type(values).__name__}")
    if len(values) != clusters:
        note = "each cutoff begins the cluster of one tail, and the vocabulary's size is no cutoff"
        raise ValueError(f"tails has {len(values)} entries and cutoffs {clusters}: {note}")
    for i, pair in enumerate(values):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"tails[{i}] must be a pair (projection, output), not {type(pair).__name__}")
    return [(pair[0], pair[1]) for pair in values]


def head_and_tails(width: int, head: Shape, tails: Sequence[tuple[Shape, Shape]], cutoffs: Sequence[int]) -> None:
    """Refuse matrices of an adaptive softmax that do not fit the cutoffs, the hidden states or each other."""
    why = f"one row for each of {cutoffs[0]} classes and {len(tails)} clusters, as wide as hidden"
    exact_shape("head", head, (cutoffs[0] + len(tails), width), why)
    for i, (projection, output) in enumerate(tails):
        vectors(f"tails[{i}][0]", projection)
        exact_shape(f"tails[{i}][0]", projection, (projection[0], width), "a projection of hidden, as wide as it")
        vectors(f"tails[{i}][1]", output)
        if i + 1 < len(cutoffs):
            why = f"one row for each class from {cutoffs[i]} to {cutoffs[i + 1] - 1}, as wide as the projection is high"
            size = cutoffs[i + 1] - cutoffs[i]
        else:
            why, size = "as wide as the projection is high, with at least one class", max(output[0], 1)
        exact_shape(f"tails[{i}][1]", output, (size, projection[0]), why)


def projections(in_features: int, cutoffs: Sequence[int], div_value: object) -> list[int]:
    """Return how wide each cluster's hidden states are, refused where nothing is left of them."""
    ratio = positive("div_value", div_value)
    widths = [int(in_features // ratio ** (i + 1)) for i in range(len(cutoffs))]
    for i, width in enumerate(widths):
        if width < 1:
            cause = f"in_features = {in_features} divided by {ratio!r}**{i + 1}"
            raise ValueError(
                f"div_value = {ratio!r} leaves the cluster of cutoffs[{i}] no features: {cause} is below 1"
            )
    return widths
