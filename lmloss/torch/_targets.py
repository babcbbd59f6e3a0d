"""Which classes are scored, and how much each token counts."""

import torch
from torch import Tensor

from lmloss import _checks
from lmloss.torch._reduce import Average
from lmloss.torch._tensors import (
    as_classes,
    as_denominator,
    as_tensor,
    as_weights,
    kind,
    loss_dtype,
    reads_values,
    refuse_first,
    refuse_improper,
)


def read_targets(
    name: str,
    targets: Tensor,
    logits: Tensor,
    *,
    ignore_index: int | None,
    token_weight: Tensor | None,
    reduction: str,
    validate: bool | None = None,
    distributions: bool = False,
    shift: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the targets of every row of the logits, and every row's weight: 0 where it does not count.

    Classes come back as indices, 0 where nothing is read; `distributions` `(..., V)` only where allowed. With `shift`,
    row t gets target t + 1, and the last row of a sequence gets none.
    """
    _checks.ignore_index(ignore_index)
    y, shape, classes = as_tensor(name, targets).detach(), tuple(logits.shape[:-1]), logits.shape[-1]
    _checks.together(name, y.device, "logits", logits.device)
    soft = _checks.targets(name, tuple(y.shape), kind(y), y.dtype, tuple(logits.shape), distributions)
    if shift or reduction == "sequence":
        _checks.needs_positions(name, shape, "target")
    weights = torch.ones(shape, dtype=loss_dtype(logits.dtype), device=logits.device)
    if token_weight is not None:
        why = f"one weight for each of the {name}"
        weights = as_weights("token_weight", token_weight, shape, why, logits, validate)
    check_values = reads_values(validate, logits, y, weights)
    last = torch.zeros(shape, dtype=torch.bool, device=logits.device)
    if shift:  # a roll of the small tensors, so that the large one stays where it is
        y, weights = y.roll(-1, dims=len(shape) - 1), weights.roll(-1, dims=-1)
        last[..., -1:] = True
        weights = torch.where(last, 0, weights)
    if soft:
        if check_values:
            limit = _checks.tolerance(torch.finfo(y.dtype).bits)
            refuse_improper(name, y, limit, exempt=weights == 0, offset=int(shift))
        return y, weights

    given, y = y, as_classes(y)
    ignored = last if ignore_index is None else last | (y == ignore_index)
    if check_values:
        bad = ((y < 0) | (y >= classes)) & ~ignored
        note = f"; ignore_index is {ignore_index}"
        refuse_first(name, given, bad, _checks.outside, offset=int(shift), classes=classes, note=note)
    return torch.where(ignored, 0, y), torch.where(ignored, 0, weights)


def read_tokens(
    hidden: Tensor,
    targets: Tensor,
    classes: int,
    dtype: torch.dtype,
    *,
    ignore_index: int | None,
    token_weight: Tensor | None,
    reduction: str,
    denominator: float | Tensor | None,
) -> tuple[Tensor, Tensor, Average]:
    """Return hidden states in a dtype, their classes and how they are averaged, where no logits are ever formed.

    A row that does not count becomes zeros, so that nothing that stands in it reaches a product or its gradient.
    """
    _checks.reduction(reduction, denominator is not None)
    y = as_tensor("targets", targets)
    _checks.together("targets", y.device, "hidden", hidden.device)
    if kind(y) == "i":
        _checks.exact_shape("targets", tuple(y.shape), tuple(hidden.shape[:-1]), "one class for each row of hidden")
    # The shape of the logits, without their memory.
    logits = torch.zeros((), dtype=dtype, device=hidden.device).expand(*hidden.shape[:-1], classes)
    y, weights = read_targets(
        "targets", y, logits, ignore_index=ignore_index, token_weight=token_weight, reduction=reduction
    )
    divisor = None if denominator is None else as_denominator(denominator, logits, None)
    average = Average(weights, weights, reduction, divisor)
    return torch.where(average.alive[..., None], hidden, 0).to(dtype), y, average
