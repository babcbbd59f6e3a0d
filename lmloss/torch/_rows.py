"""The row kernels' driver: walks the rows of logits in blocks that fit the cache (CPU) or fill the device (GPU).

A loss describes itself as a `RowLoss`: a kernel for one block of rows, and how the rows' losses are averaged. The
driver keeps the logits and a few numbers per row, and rebuilds the gradient block by block in the backward pass.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lmloss.torch._reduce import Average
from lmloss.torch._tensors import loss_dtype, reads_values, traced

BLOCK_ELEMENTS = 1 << 19  # 2 MB in float32: a block stays in the cache between its passes
DEVICE_BLOCK_ELEMENTS = 1 << 26  # an accelerator wants many rows at once


class Kernel(Protocol):
    """The mathematics of a loss on one block of rows `z` `(n, V)`, in float32 or wider.

    `shared` are tensors that every row uses (class weights), in a dtype of their own; `rows` tensors with one entry for
    each row (targets). What there is one of for each row may be wider than the block, the losses too.
    """

    def losses(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the losses `(n,)` and what `slopes` needs again: `(n, k)`, a few numbers for each row."""

    def slopes(
        self, z: Tensor, kept: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], scale: Tensor, out: Tensor
    ) -> None:
        """Write the gradient of each loss, times its row's `scale` `(n,)`, into `out` `(n, V)`."""

    def plain(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> Tensor:
        """Return the losses in differentiable PyTorch: for compilers, higher derivatives and transforms."""


@dataclass(frozen=True)
class RowLoss:
    """A loss, described: `kernel` on blocks of `logits`, of what is `shared` and of `rows`, then `average`."""

    kernel: Kernel
    logits: Tensor
    shared: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    average: Average

    def value(self) -> Tensor:
        """Return the loss."""
        alive = self.average.alive
        if traced():  # an unrolled loop is a compiler's worst input, and no transform sees into one
            losses = _plain(self.kernel, self.logits, alive, self.shared, self.rows)
        else:
            walk: Callable[..., tuple[Tensor, Tensor]] = _Walk.apply
            losses, _ = walk(self.kernel, len(self.shared), self.logits, alive, *self.shared, *self.rows)
        return self.average.value(losses).to(loss_dtype(self.logits.dtype))


def _plain(
    kernel: Kernel, logits: Tensor, alive: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]
) -> Tensor:
    """Return all rows' losses as one differentiable expression; a row that is not alive counts as zeros."""
    z = torch.where(alive[..., None], logits, 0).to(loss_dtype(logits.dtype))
    return kernel.plain(z, tuple(tensor.to(z.dtype) for tensor in shared), rows)


class _Walk(torch.autograd.Function):
    """Rows' losses `(...)` and what backward keeps `(..., k)`, block by block."""

    @staticmethod
    def forward(kernel: Kernel, num_shared: int, logits: Tensor, alive: Tensor, *tensors: Tensor) -> Any:
        compute = loss_dtype(logits.dtype)
        shared, rows = tensors[:num_shared], tensors[num_shared:]
        losses, kept = [], []
        for take in _blocks(logits):
            loss, keep = kernel.losses(take(logits).to(compute), shared, tuple(map(take, rows)))
            losses.append(loss)
            kept.append(keep)
        return torch.cat(losses).view(alive.shape), torch.cat(kept).view(*alive.shape, kept[0].shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.kernel, ctx.num_shared = inputs[:2]
        logits, alive, *tensors = inputs[2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(logits, alive, output[1], *tensors)

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Any) -> Any:
        logits, alive, kept, *tensors = ctx.saved_tensors
        shared, rows = tuple(tensors[: ctx.num_shared]), tuple(tensors[ctx.num_shared :])
        rest = (None,) * (1 + len(tensors))
        # Somebody differentiates this gradient, or asks for many at once (is_grads_batched hides them in one tensor).
        if torch.is_grad_enabled() or not torch._C._has_storage(scale):
            pull = torch.func.vjp(lambda z: _plain(ctx.kernel, z, alive, shared, rows), logits)[1]
            return None, None, pull(scale)[0], *rest
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        compute = loss_dtype(logits.dtype)
        mask_dead = not reads_values(None, scale) or bool((scale == 0).any())
        for take in _blocks(logits):
            part = take(gradient)
            out = part if part.dtype == compute else torch.empty_like(part, dtype=compute)
            factor = take(scale).to(compute)
            ctx.kernel.slopes(take(logits).to(compute), take(kept), shared, tuple(map(take, rows)), factor, out)
            if mask_dead:  # exactly zero, whatever stands in the row
                out.masked_fill_((factor == 0)[:, None], 0)
            if out is not part:
                part.copy_(out)
        return None, None, gradient, *rest


def _blocks(logits: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield, for each block of rows, the function that takes it out of a tensor `(*leading, ...)`."""
    leading = logits.shape[:-1]
    budget = BLOCK_ELEMENTS if logits.device.type == "cpu" else DEVICE_BLOCK_ELEMENTS
    rows_per_block = max(1, budget // logits.shape[-1])
    for start in range(0, max(leading.numel(), 1), rows_per_block):
        yield functools.partial(_take, leading=leading, start=start, stop=min(start + rows_per_block, leading.numel()))


def _take(tensor: Tensor, leading: torch.Size, start: int, stop: int) -> Tensor:
    """Return rows `start` to `stop` of a tensor `(*leading, ...)` as one block, copying no more than the block."""
    if tensor.is_contiguous() or not leading:
        return tensor.reshape(leading.numel(), *tensor.shape[len(leading) :])[start:stop]
    return tensor[torch.unravel_index(torch.arange(start, stop, device=tensor.device), leading)]


def row_loss(
    describe: Callable[..., RowLoss] | None = None, *, options_of: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Turn a function that describes a loss into the function that computes it.

    `options_of` names the loss whose keyword parameters stand for `**options` in the signature that help() shows.
    """
    if describe is None:
        return functools.partial(row_loss, options_of=options_of)

    signature = inspect.signature(describe)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    if options_of is not None:
        shown = inspect.signature(options_of).parameters.values()
        parameters += [p for p in shown if p.kind is p.KEYWORD_ONLY]
    known = {p.name for p in parameters}

    @functools.wraps(describe)
    def loss(*args: Any, **options: Any) -> Tensor:
        for name in options.keys() - known:
            raise TypeError(f"{describe.__name__}() got an unexpected keyword argument {name!r}")
        return describe(*args, **options).value()

    loss.__signature__ = signature.replace(parameters=parameters, return_annotation=Tensor)  # type: ignore[attr-defined]
    return loss
