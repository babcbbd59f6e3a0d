"""The one place where an average is taken: weights, ignored tokens, denominators, reductions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

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
    def is_scalar(self) -> bool:
        """Whether the result is one number."""
        return self.weights.ndim == {"none": 0, "sequence": 1}.get(self.reduction, self.weights.ndim)

    def value(self, losses: Array) -> Any:
        """Weigh and reduce the tokens' losses, in float64 until the end."""
        counted = self.weights != 0
        weighted = np.multiply(losses, self.weights, out=np.zeros(losses.shape), where=counted)
        if self.reduction == "none":
            result = weighted if self.positions is None else weighted[..., : self.positions]
        else:
            total = weighted.sum(axis=-1 if self.reduction == "sequence" else None)
            divisor = self._divisor()
            result = np.divide(total, divisor, out=np.zeros_like(total), where=divisor > 0)
        return result.astype(losses.dtype)[()]

    def share(self) -> Array:
        """Return the derivative of the result with respect to each token's loss."""
        divisor = self._divisor()
        if self.reduction == "sequence":
            divisor = divisor[..., None]
        divisor = np.broadcast_to(divisor, self.weights.shape)
        return np.divide(self.weights, divisor, out=np.zeros_like(self.weights), where=divisor > 0)

    def _divisor(self) -> Array:
        if self.reduction == "sequence":
            return np.asarray(self.counts.sum(axis=-1))
        if self.reduction == "mean":
            return np.asarray(self.counts.sum() if self.denominator is None else self.denominator)
        return np.asarray(1.0)
