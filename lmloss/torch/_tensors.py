"""What comes in: tensors of a known kind, whose values are looked at only where that costs no synchronisation."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from lmloss import _checks


def default_device() -> torch.device:
    """Return the device to compute on: CUDA if there is one, else MPS, else the CPU.

    Examples
    --------
    >>> import lmloss.torch as lt
    >>> lt.default_device().type in {"cuda", "mps", "cpu"}
    True
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def kind(tensor: Tensor) -> str:
    """Return the kind of a tensor's dtype as `_checks` names it."""
    if tensor.dtype.is_floating_point:
        return "f"
    if tensor.dtype.is_complex:
        return "c"
    return "b" if tensor.dtype == torch.bool else "i"


def uniform(shape: torch.Size, rng: torch.Generator | None, device: torch.device) -> Tensor:
    """Return numbers uniform in [0, 1) on the device, drawn on that of the generator.

    They stand 2**-53 apart, so that rare events are as rare as asked for; on MPS, which has no float64, 2**-24.
    """
    dtype = torch.float32 if device.type == "mps" else torch.float64
    source = device if rng is None else rng.device
    return torch.rand(shape, generator=rng, device=source, dtype=dtype).to(device)


def as_tensor(name: str, value: object) -> Tensor:
    """Return `value`, refused unless it is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    return value


def as_logits(name: str, value: object, at_least: int = 1) -> Tensor:
    """Return logits `(..., V)`, refused unless floating point."""
    tensor = as_tensor(name, value)
    _checks.floating(name, kind(tensor), tensor.dtype)
    _checks.class_axis(name, tuple(tensor.shape), at_least)
    return tensor


def as_hidden(value: object) -> Tensor:
    """Return hidden states `(..., H)`, refused unless floating point."""
    tensor = as_matrix("hidden", value)
    _checks.features("hidden", tuple(tensor.shape))
    return tensor


def as_matrix(name: str, value: object, hidden: Tensor | None = None) -> Tensor:
    """Return parameters, refused unless floating point and where `hidden` is."""
    tensor = as_tensor(name, value)
    _checks.floating(name, kind(tensor), tensor.dtype)
    if hidden is not None:
        _checks.together(name, tensor.device, "hidden", hidden.device)
    return tensor


def loss_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a loss is computed: float32 for everything narrower."""
    return torch.promote_types(dtype, torch.float32)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype for what there is one of for each row: float64 on the CPU, where it is cheap."""
    return torch.float64 if tensor.device.type == "cpu" else loss_dtype(tensor.dtype)


def row_sums(x: Tensor) -> Tensor:
    """Return the sums over the last axis, added up and left in the widest dtype that is cheap."""
    return x.sum(-1, dtype=compute_dtype(x))


def log_parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits less their maximum, and the logarithm of the sum of the exponentials of that, differentiably.

    The log-softmax is their difference. Apart, what there is one of for each row stays wide, and out of sums over the
    classes. The maximum is a constant: what it adds to one part it takes from the other.
    """
    shifted = z - z.detach().amax(-1, keepdim=True)
    return shifted, row_sums(shifted.exp()).log()


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """Return a context in which a product keeps its dtype: half-precision scores would blur the loss."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def reads_values(validate: bool | None, *tensors: Tensor | None) -> bool:
    """Return whether values are looked at: as told, else only where nothing has to wait or be traced for it."""
    if validate is not None:
        return validate
    return not traced() and all(t is None or t.device.type == "cpu" for t in tensors)


def traced() -> bool:
    """Return whether operations are followed: by a compiler, a tracer, forward-mode AD or a `torch.func` transform."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _get_current_dispatch_mode() is not None
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )


def as_weights(
    name: str, value: object, shape: _checks.Shape, why: str, logits: Tensor, validate: bool | None
) -> Tensor:
    """Return weights of an exact shape as constants, refused unless finite and not negative."""
    tensor = as_tensor(name, value).detach()
    _checks.real(name, kind(tensor), tensor.dtype)
    _checks.together(name, tensor.device, "logits", logits.device)
    _checks.exact_shape(name, tuple(tensor.shape), shape, why)
    weights = tensor.to(torch.promote_types(tensor.dtype, loss_dtype(logits.dtype)))
    if reads_values(validate, weights):
        refuse_first(name, weights, ~((weights >= 0) & torch.isfinite(weights)), _checks.weight)
    return weights


def as_fractions(name: str, value: float | Tensor, shape: _checks.Shape, why: str, logits: Tensor) -> Tensor:
    """Return numbers in [0, 1], a single one or as many as the shape says, as constants of that shape."""
    if not isinstance(value, Tensor):
        return torch.full(shape, _checks.fraction(name, value), dtype=loss_dtype(logits.dtype), device=logits.device)
    fractions = as_weights(name, value, tuple(value.shape) and shape, why, logits, None)
    if reads_values(None, fractions):
        refuse_first(name, fractions, fractions > 1, _checks.beyond_one)
    return fractions.expand(shape)


def as_denominator(value: float | Tensor, logits: Tensor, validate: bool | None) -> Tensor:
    """Return what a mean divides by as a constant, refused unless one number of at least 0."""
    if not isinstance(value, Tensor) or reads_values(validate, value):
        _checks.non_negative("denominator", value)
    if isinstance(value, Tensor):
        _checks.exact_shape("denominator", tuple(value.shape), (), "a single number")
        value = value.detach()
    return torch.as_tensor(value, dtype=loss_dtype(logits.dtype), device=logits.device)


def as_classes(targets: Tensor) -> Tensor:
    """Return classes of any integer dtype as int64; what int64 cannot hold becomes its largest number, no class."""
    classes = targets.to(torch.int64)
    return torch.where(classes < 0, torch.iinfo(torch.int64).max, classes) if targets.dtype == torch.uint64 else classes


def as_distribution(name: str, value: object, axes: int = 1) -> Tensor:
    """Return probabilities over the last axes in the loss dtype, refused unless they form distributions."""
    tensor = as_tensor(name, value)
    _checks.real(name, kind(tensor), tensor.dtype)
    _checks.class_axis(name, tuple(tensor.shape))
    if tensor.ndim < axes or 0 in tensor.shape[-axes:]:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; its last {axes} axes must be those of the distribution"
        )
    floating = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    bits = torch.finfo(floating.dtype).bits
    probs = floating.to(loss_dtype(floating.dtype))
    if reads_values(None, probs):
        refuse_improper(name, probs, _checks.tolerance(bits), axes=axes)
    return probs


def refuse_improper(
    name: str, probs: Tensor, tolerance: float, axes: int = 1, exempt: Tensor | None = None, offset: int = 0
) -> None:
    """Refuse negative probabilities and sums other than 1, except in the rows that are `exempt`."""
    over = tuple(range(-axes, 0))
    probs = probs.detach()
    smallest, total = probs.amin(over), probs.to(loss_dtype(probs.dtype)).sum(over)
    exempt = torch.zeros_like(total, dtype=torch.bool) if exempt is None else exempt
    negative = ~(smallest >= 0) & ~exempt
    if negative.any():
        row = _first(negative)
        inner = _first(~(probs[row] >= 0))
        raise ValueError(_checks.probability(name, _shift(row, offset) + inner, probs[row + inner].item()))
    improper = ~((total - 1).abs() <= tolerance) & ~exempt
    if improper.any():
        row = _first(improper)
        raise ValueError(_checks.total(name, _shift(row, offset), total[row].item(), tolerance))


def refuse_first(
    name: str, values: Tensor, bad: Tensor, message: Callable[..., str], offset: int = 0, **expected: Any
) -> None:
    """Refuse the first entry that is `bad`, by its place and value."""
    if bad.any():
        index = _first(bad)
        raise ValueError(message(name, _shift(index, offset), values[index].item(), **expected))


def _first(bad: Tensor) -> tuple[int, ...]:
    return tuple(bad.nonzero()[0].tolist())


def _shift(index: tuple[int, ...], offset: int) -> tuple[int, ...]:
    return (*index[:-1], index[-1] + offset) if offset else index
