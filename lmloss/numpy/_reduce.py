"""The one place where an average is taken: weights, ignored tokens, denominators, reductions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lmloss import _checks
from lmloss.numpy._arrays import Array


@dataclass(frozen=True)
class Average:
    """How the losses of tokens become the number that is reported.

    `weights` multiplies each token's loss, 0 where it does not count. `counts` is what the token adds to the
    denominator of a mean. Both have the shape of the targets. `positions` is how many of the last axis's
    positions exist for `"none"` (a causal model scores one fewer than it has).
    """

    weights: Array
    counts: Array
    reduction: str
    denominator: float | None = None
    positions: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        if self.reduction == "none":
            return self.weights[..., : self.positions].shape if self.weights.ndim else ()
        return self.weights.shape[:-1] if self.reduction == "sequence" else ()

    def value(self, losses: Array, dtype: Any = None) -> Any:
        """Weigh and reduce the tokens' losses, in float64 until the end; `dtype` is theirs unless given."""
        counted = self.weights != 0
        with np.errstate(over="ignore", invalid="ignore"):  # inf - inf, and what the dtype cannot hold
            weighted = np.multiply(losses, self.weights, out=np.zeros(losses.shape), where=counted)
            if self.reduction == "none":
                result = weighted if self.positions is None else weighted[..., : self.positions]
            else:
                total = weighted.sum(axis=-1 if self.reduction == "sequence" else None)
                divisor = self._divisor()
                result = np.divide(total, divisor, out=np.zeros_like(total), where=divisor > 0)
            return result.astype(losses.dtype if dtype is None else dtype)[()]

    def share(self, upstream: Array) -> Array:
        """Return the derivative of `sum(upstream * result)` with respect to each token's loss."""
        if upstream.ndim:
            why = f'the shape of what reduction="{self.reduction}" returns'
            _checks.exact_shape("upstream", upstream.shape, self.shape, why)
        divisor = self._divisor()
        if self.reduction == "sequence":
            divisor, upstream = divisor[..., None], upstream[..., None]
        divisor = np.broadcast_to(divisor, self.weights.shape)
        counted = (self.weights != 0) & (divisor > 0)
        share = np.divide(self.weights, divisor, out=np.zeros_like(self.weights), where=counted)
        return np.multiply(share, upstream, out=share, where=counted)

    def _divisor(self) -> Array:
        if self.reduction == "sequence":
            return np.asarray(self.counts.sum(axis=-1))
        if self.reduction == "mean":
            return np.asarray(self.counts.sum() if self.denominator is None else self.denominator)
        return np.asarray(1.0)
