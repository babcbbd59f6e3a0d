"""The row kernels' driver: walks the rows of logits in blocks that fit the cache.

A loss describes itself as a `RowLoss`: a kernel for one block of rows, and how the rows' losses are averaged. From that
description come its value and its gradient; no loss knows how it is walked.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmloss.numpy._arrays import Array, loss_dtype
from lmloss.numpy._reduce import Average

BLOCK_ELEMENTS = 1 << 17  # 1 MB in float64: a block and its exponentials stay in the cache of one core


# The mathematics of a loss on one block of rows: kernel(logits (n, V), *rows, gradient=bool) returns the losses (n,)
# and, where wanted, the gradient (n, V) of each with respect to its own logits.
Kernel = Callable[..., tuple[Array, Array | None]]


@dataclass(frozen=True)
class RowLoss:
    """A loss, described: `kernel` on blocks of `logits` and of the arrays in `rows`, then `average`."""

    kernel: Kernel
    logits: Array
    rows: tuple[Array, ...]
    average: Average

    def value(self) -> Any:
        """Return the loss."""
        return self._reduced(self._walk(None)[0])

    def value_and_grad(self, upstream: Any = 1.0) -> tuple[Any, Array]:
        """Return the loss and the gradient of `sum(upstream * loss)` with respect to the logits."""
        losses, gradients = self._walk(self.average.share(np.asarray(upstream, np.float64)))
        return self._reduced(losses), gradients

    def _reduced(self, losses: Array) -> Any:
        return self.average.value(losses, loss_dtype(self.logits.dtype))

    def _walk(self, scale: Array | None) -> tuple[Array, Array]:
        """Return the rows' losses and, where a `scale` for each row is given, their scaled gradients.

        A block is computed in float64 and rounded at the end, whatever the dtype of the logits.
        """
        logits, leading = self.logits, self.logits.shape[:-1]
        compute = np.result_type(logits.dtype, np.float64)
        losses = np.empty(leading, compute)
        gradients = np.empty(logits.shape if scale is not None else 0, logits.dtype)
        flat_losses, flat_gradients = losses.reshape(-1), gradients.reshape(-1, logits.shape[-1])
        rows_per_block = max(1, BLOCK_ELEMENTS // logits.shape[-1])
        with np.errstate(all="ignore"):  # an infinite or undefined logit shows in the result
            for start in range(0, losses.size, rows_per_block):
                part = slice(start, min(start + rows_per_block, losses.size))
                block = _take(logits, leading, part).astype(compute, copy=False)
                rows = [_take(array, leading, part) for array in self.rows]
                flat_losses[part], gradient = self.kernel(block, *rows, gradient=scale is not None)
                if scale is not None and gradient is not None:
                    factor = scale.reshape(-1)[part, None]
                    gradient *= factor
                    gradient[factor[:, 0] == 0] = 0  # exactly, whatever stands in the row
                    flat_gradients[part] = gradient
        return losses, gradients


def _take(array: Array, leading: tuple[int, ...], part: slice) -> Array:
    """Return rows `part` of an array `(*leading, ...)` as one block, copying no more than the block."""
    if array.flags.c_contiguous or not leading:
        return array.reshape(-1, *array.shape[len(leading) :])[part]
    return np.asarray(array[np.unravel_index(np.arange(part.start, part.stop), leading)])


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
    def loss(*args: Any, **options: Any) -> Any:
        for name in options.keys() - known:
            raise TypeError(f"{describe.__name__}() got an unexpected keyword argument {name!r}")
        return describe(*args, **options).value()

    loss.__signature__ = signature.replace(parameters=parameters, return_annotation=Any)  # type: ignore[attr-defined]
    loss.describe = describe  # type: ignore[attr-defined]  # what value_and_grad starts from
    return loss
