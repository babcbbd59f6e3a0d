"""Losses as `torch.nn.Module`s: options held once, called in a training loop."""

import inspect
from typing import Any

from torch import Tensor, nn

from lmloss.torch.cross_entropy import cross_entropy


class CrossEntropyLoss(nn.Module):
    r"""Hold the options of `cross_entropy` as a module.

    .. math:: \ell = -\log \operatorname{softmax}(z)_y

    Parameters
    ----------
    ignore_index : int or None
        Targets that cost nothing.
    reduction : {"mean", "sum", "none", "sequence"}
        How tokens are averaged.
    **options
        Every other keyword of `cross_entropy`. `class_weight` moves with the module's device and is part of its state;
        what changes from step to step (`token_weight`, `denominator`) can be given to the call instead.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> loss = lt.CrossEntropyLoss(label_smoothing=0.1)
    >>> loss(torch.zeros(2, 5, 100), torch.zeros(2, 5, dtype=torch.long))  # equal logits: log 100
    tensor(4.6052)
    """

    class_weight: Tensor | None

    def __init__(self, ignore_index: int | None = -100, reduction: str = "mean", **options: Any) -> None:
        super().__init__()
        inspect.signature(cross_entropy).bind(None, None, **options)  # an unknown option is refused here, not later
        self.register_buffer("class_weight", options.pop("class_weight", None))
        self.options = {"ignore_index": ignore_index, "reduction": reduction, **options}

    def forward(self, logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
        """Return the loss of `logits` `(..., V)` on `targets`; options given here win over those of the module."""
        held = {"class_weight": self.class_weight, **self.options}
        loss: Tensor = cross_entropy(logits, targets, **{**held, **options})
        return loss

    def extra_repr(self) -> str:
        """Return the options for `repr`."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())
