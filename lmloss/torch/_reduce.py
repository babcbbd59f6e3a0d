"""The one place where an average is taken: weights, ignored tokens, denominators, reductions."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Average:
    """How the losses of tokens become the number that is reported, in ordinary autograd on `(tokens,)`.

    `weights` multiplies each token's loss, 0 where it does not count. `counts` is what the token adds to the
    denominator of a mean. Both have the shape of the targets. `positions` is how many of the last axis's
    positions exist for `"none"` (a causal model scores one fewer than it has).
    """

    weights: Tensor
    counts: Tensor
    reduction: str
    denominator: Tensor | None = None
    positions: int | None = None

    @property
    def alive(self) -> Tensor:
        """Which tokens reach the result: those that have a weight, where there is something to divide by."""
        alive, divisor = self.weights != 0, self._divisor()
        if divisor is None:
            return alive
        return alive & ((divisor[..., None] if self.reduction == "sequence" else divisor) > 0)

    def value(self, losses: Tensor) -> Tensor:
        """Weigh and reduce the tokens' losses; what does not count passes no gradient, not even that of a NaN."""
        weighted = torch.where(self.alive, losses * self.weights, 0)
        if self.reduction == "none":
            return weighted if self.positions is None else weighted[..., : self.positions]
        total, divisor = weighted.sum(-1) if self.reduction == "sequence" else weighted.sum(), self._divisor()
        return total if divisor is None else _ratio(total, divisor)

    def _divisor(self) -> Tensor | None:
        if self.reduction == "sequence":
            return self.counts.sum(-1)
        if self.reduction == "mean":
            return self.counts.sum() if self.denominator is None else self.denominator
        return None


def _ratio(total: Tensor, divisor: Tensor) -> Tensor:
    """Return total / divisor, and 0 with zero gradient where there is nothing to divide by."""
    some = divisor > 0
    return torch.where(some, total / torch.where(some, divisor, 1), 0)
