"""Losses as `torch.nn.Module`s: options held once, called in a training loop."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lmloss.torch.alternatives import focal_loss
from lmloss.torch.contrastive import info_nce_loss
from lmloss.torch.cross_entropy import cross_entropy
from lmloss.torch.distillation import distillation_loss


class _Held(nn.Module):
    """The options of a loss: a tensor among them is a buffer, a parameter stays one, the rest stands in `options`."""

    def __init__(self, loss: Callable[..., Tensor], options: dict[str, Any]) -> None:
        super().__init__()
        known = {p.name for p in inspect.signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY}
        for name in options.keys() - known:  # refused here, not later
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")
        self.options = {name: value for name, value in options.items() if not isinstance(value, Tensor)}
        self._tensors = [name for name in options if name not in self.options]
        for name in self._tensors:
            if isinstance(options[name], nn.Parameter):
                self.register_parameter(name, options[name])
            else:
                self.register_buffer(name, options[name])

    def _under(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the held options, under those of the call."""
        return {**self.options, **{name: getattr(self, name) for name in self._tensors}, **options}

    def extra_repr(self) -> str:
        """Return the options for `repr`, tensors by their shapes."""
        shown = [f"{name}={value!r}" for name, value in self.options.items()]
        return ", ".join(shown + [f"{name}=Tensor{tuple(getattr(self, name).shape)}" for name in self._tensors])


class CrossEntropyLoss(_Held):
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

    def __init__(self, ignore_index: int | None = -100, reduction: str = "mean", **options: Any) -> None:
        super().__init__(cross_entropy, {"ignore_index": ignore_index, "reduction": reduction, **options})

    def forward(self, logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
        """Return the loss of `logits` `(..., V)` on `targets`; options given here win over those of the module."""
        loss: Tensor = cross_entropy(logits, targets, **self._under(options))
        return loss


class DistillationLoss(_Held):
    r"""Hold the options of `distillation_loss` as a module.

    .. math:: \ell = \alpha \, (-\log q_y) + (1 - \alpha) \, \tau^2 D(p^{(\tau)}, q^{(\tau)})

    Parameters
    ----------
    **options
        Every keyword of `distillation_loss`: `temperature`, `alpha`, `divergence`, `beta` and the reduction's. What
        changes from step to step (`token_weight`, `denominator`) can be given to the call instead.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> loss = lt.DistillationLoss(temperature=2.0, divergence="forward_kl")
    >>> loss(torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 0.0]]))  # student, teacher
    tensor(0.3137)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(distillation_loss, options)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Return the student's loss; options given here win over those of the module."""
        loss: Tensor = distillation_loss(student_logits, teacher_logits, targets, **self._under(options))
        return loss


class FocalLoss(_Held):
    r"""Hold the options of `focal_loss` as a module.

    .. math:: \ell = -\alpha_y \, (1 - q_y)^\gamma \log q_y

    Parameters
    ----------
    **options
        Every keyword of `focal_loss`: `gamma`, `alpha` and the reduction's. An `alpha` for each class moves with the
        module's device and is part of its state.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> loss = lt.FocalLoss(gamma=2.0, alpha=torch.tensor([0.25, 0.75]))
    >>> loss
    FocalLoss(gamma=2.0, alpha=Tensor(2,))
    >>> loss(torch.zeros(1, 2), torch.tensor([1]))  # 0.75 * 0.5^2 * log 2
    tensor(0.1300)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(focal_loss, options)

    def forward(self, logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
        """Return the loss of `logits` `(..., V)` on `targets`; options given here win over those of the module."""
        loss: Tensor = focal_loss(logits, targets, **self._under(options))
        return loss


class InfoNCELoss(_Held):
    r"""Hold the options of `info_nce_loss` as a module, and its temperature as a parameter where it is to be learned.

    .. math:: \ell_i = -\log
        \frac{e^{s(q_i, k_i) / \tau}}{\sum_j e^{s(q_i, k_j) / \tau} + \sum_m e^{s(q_i, n_m) / \tau}}

    Parameters
    ----------
    **options
        Every keyword of `info_nce_loss`. A `temperature` that is an ``nn.Parameter`` is a parameter of the module, and
        learned with the others. Nothing keeps it above 0: to learn a logarithm instead, as CLIP does, hold that
        elsewhere and give ``temperature=log_temperature.exp()`` to the call. Negatives are given to the call as well.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> loss = lt.InfoNCELoss(temperature=torch.nn.Parameter(torch.tensor(1.0)))
    >>> loss(torch.eye(4), 3 * torch.eye(4)).backward()
    >>> [(name, round(value.grad.item(), 4)) for name, value in loss.named_parameters()]  # 3 / (e + 3)
    [('temperature', 0.5246)]
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(info_nce_loss, options)

    def forward(self, queries: Tensor, keys: Tensor, **options: Any) -> Tensor:
        """Return the loss of `queries` on `keys`, both `(N, D)`; options given here win over those of the module."""
        return info_nce_loss(queries, keys, **self._under(options))
