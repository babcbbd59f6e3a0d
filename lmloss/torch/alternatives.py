"""Losses on logits other than cross-entropy: focal, hinge and Brier."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lmloss import _checks
from lmloss.torch._reduce import Average
from lmloss.torch._rows import Kernel, RowLoss, row_loss
from lmloss.torch._targets import read_targets
from lmloss.torch._tensors import as_denominator, as_fractions, as_logits, compute_dtype, log_parts, row_sums


@row_loss
def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | Tensor = 1.0,
    ignore_index: int | None = -100,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
) -> RowLoss:
    r"""Compute the focal loss: cross-entropy that counts the less, the surer the model is of the target.

    .. math:: \ell = -\alpha_y \, (1 - q_y)^\gamma \log q_y, \qquad q = \operatorname{softmax}(z)

    Parameters
    ----------
    logits : Tensor, shape (..., V)
        Floating point.
    targets : Tensor, shape (...)
        Classes, of any integer dtype.
    gamma : float
        At least 0; 0 is cross-entropy, and at 2 a target of probability .9 counts 100 times less.
    alpha : float or Tensor, shape (V,)
        In [0, 1], for all classes or for each. Part of the loss, not a weight: a mean does not divide by it.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : Tensor, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float or Tensor, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.

    Returns
    -------
    Tensor
        In nats; float64 for float64 logits, float32 for narrower ones. 0.0 where there is nothing to average.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> logits, targets = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([0])
    >>> (lt.cross_entropy(logits, targets) / lt.focal_loss(logits, targets)).round(decimals=2)
    tensor(100.)

    References
    ----------
    Lin, Goyal, Girshick, He & Dollár, "Focal loss for dense object detection", ICCV (2017), equations 4 and 5.
    """
    gamma = _checks.non_negative("gamma", gamma)
    z = as_logits("logits", logits)
    per_class = as_fractions("alpha", alpha, tuple(z.shape[-1:]), "one number for each class", z)
    return _describe(_Focal(gamma), z, (per_class,), targets, ignore_index, token_weight, reduction, denominator)


@row_loss
def hinge_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    margin: float = 1.0,
    ignore_index: int | None = -100,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
) -> RowLoss:
    r"""Compute the multi-class hinge loss: how far the target's logit is from leading its best rival by the margin.

    .. math:: \ell = \max\bigl(0,\; m + \max_{j \ne y} z_j - z_y\bigr)

    Where several rivals are level, the gradient goes to the first of them.

    Parameters
    ----------
    logits : Tensor, shape (..., V)
        Floating point, V at least 2.
    targets : Tensor, shape (...)
        Classes, of any integer dtype.
    margin : float
        :math:`m`, at least 0.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : Tensor, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float or Tensor, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.

    Returns
    -------
    Tensor
        In units of the logits; float64 for float64 logits, float32 for narrower ones.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> logits = torch.tensor([[2.0, 1.5, 0.0], [3.0, 0.0, 1.0]])
    >>> lt.hinge_loss(logits, torch.tensor([0, 0]), reduction="none")
    tensor([0.5000, 0.0000])

    References
    ----------
    Crammer & Singer, "On the algorithmic implementation of multiclass kernel-based vector machines", JMLR 2 (2001),
    section 3.
    """
    margin = _checks.non_negative("margin", margin)
    z = as_logits("logits", logits, at_least=2)
    return _describe(_Hinge(margin), z, (), targets, ignore_index, token_weight, reduction, denominator)


@row_loss
def brier_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = -100,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
) -> RowLoss:
    r"""Compute the Brier loss: the squared distance of the model's distribution from the one-hot target.

    .. math:: \ell = \sum_j \bigl(q_j - [\,j = y\,]\bigr)^2, \qquad q = \operatorname{softmax}(z)

    Parameters
    ----------
    logits : Tensor, shape (..., V)
        Floating point.
    targets : Tensor, shape (...)
        Classes, of any integer dtype.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : Tensor, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float or Tensor, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.

    Returns
    -------
    Tensor
        Between 0 and 2 for each token; float64 for float64 logits, float32 for narrower ones.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.brier_loss(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([0]))  # 0.3^2 + 0.2^2 + 0.1^2
    tensor(0.1400)

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950), equation 2.
    """
    z = as_logits("logits", logits)
    return _describe(_Brier(), z, (), targets, ignore_index, token_weight, reduction, denominator)


def _describe(
    kernel: Kernel,
    logits: Tensor,
    shared: tuple[Tensor, ...],
    targets: Tensor,
    ignore_index: int | None,
    token_weight: Tensor | None,
    reduction: str,
    denominator: float | Tensor | None,
) -> RowLoss:
    _checks.reduction(reduction, denominator is not None)
    divisor = None if denominator is None else as_denominator(denominator, logits, None)
    y, weights = read_targets(
        "targets", targets, logits, ignore_index=ignore_index, token_weight=token_weight, reduction=reduction
    )
    return RowLoss(kernel, logits, shared, (y,), Average(weights, weights, reduction, divisor))


@dataclass(frozen=True)
class _Focal:
    """The row kernel: with u = log q_y, l = -alpha (1 - e^u)^gamma u, and dl/dz = dl/du (e_y - q)."""

    gamma: float

    def losses(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        top, log_total = _partition(z)
        u = _pick(z, rows[0]) - top - log_total
        return self._of(u, shared[0][rows[0]]), torch.stack((top, log_total, u), dim=-1)

    def slopes(
        self, z: Tensor, kept: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], scale: Tensor, out: Tensor
    ) -> None:
        top, log_total, u = kept.unbind(-1)
        doubt = -torch.expm1(u)
        ratio = torch.where(doubt > 0, torch.where(u == -torch.inf, 0, u) / torch.where(doubt > 0, doubt, 1), -1)
        in_u = shared[0][rows[0]] * doubt**self.gamma * (self.gamma * u.exp() * ratio - 1) * scale
        torch.sub(z, top.to(z.dtype)[:, None], out=out)
        out.exp_().mul_((-in_u * (-log_total).exp()).to(z.dtype)[:, None])
        out.scatter_add_(1, rows[0][:, None], torch.where(u == -torch.inf, 0, in_u).to(z.dtype)[:, None])

    def plain(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> Tensor:
        shifted, log_total = log_parts(torch.where(z == -torch.inf, -torch.inf, z))
        return self._of(_pick(shifted, rows[0]) - log_total, shared[0][rows[0]])

    def _of(self, u: Tensor, alpha: Tensor) -> Tensor:
        # Where q_y is 0 the doubt is 1, and where the doubt is 0 its power is a constant: neither passes a NaN back.
        gone = u.exp() == 0
        doubt = torch.where(gone, 1, -torch.expm1(torch.where(gone, -1, u)))
        damped = torch.where(doubt == 0, 1, doubt) ** self.gamma
        damped = torch.where(doubt == 0, 1.0 if self.gamma == 0 else 0.0, damped) * alpha
        return -damped * torch.where(damped == 0, 0, u)


@dataclass(frozen=True)
class _Hinge:
    """The row kernel: l = max(0, margin + best rival - target), slope 1 at that rival and -1 at the target."""

    margin: float

    def losses(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        losses = self._gap(z, rows[0]).clamp_(min=0) + 0 * z.amax(-1)  # NaN for a row that no distribution belongs to
        return losses, losses[:, None]

    def slopes(
        self, z: Tensor, kept: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], scale: Tensor, out: Tensor
    ) -> None:
        losses, best = kept[:, 0], self._best(z, rows[0])
        short = (losses > 0) * scale
        out.zero_()
        for place, push in ((best, short), (rows[0], -short)):
            out.scatter_(1, place[:, None], torch.where(_pick(z, place) == -torch.inf, 0, push)[:, None])
        out.masked_fill_(losses.isnan()[:, None], torch.nan)

    def plain(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> Tensor:
        top = z.detach().amax(-1)
        z = torch.where((z == -torch.inf) & (top > -torch.inf)[..., None], -torch.inf, z)
        broken = ~top.isfinite()[..., None]  # a row that no distribution belongs to: NaN, the gradient too
        spoiled = (torch.where(broken, z, 0) * torch.where(broken, torch.nan, 0)).sum(-1)
        return torch.relu(self._gap(z, rows[0])) + spoiled

    def _gap(self, z: Tensor, target: Tensor) -> Tensor:
        best = self._best(z, target)
        rival = torch.where(best == target, -torch.inf, _pick(z, best))  # the target itself: all rivals are masked
        return self.margin + (rival - _pick(z, target))

    def _best(self, z: Tensor, target: Tensor) -> Tensor:
        return z.detach().scatter(-1, target[..., None], -torch.inf).argmax(-1)


@dataclass(frozen=True)
class _Brier:
    """The row kernel: with d = q - e_y, l = sum d^2 and dl/dz = 2 q (d - sum q d).

    Near certainty d is a difference of numbers close to 1, so the block is computed as wide as is cheap.
    """

    def losses(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        top, log_total = _partition(z)
        distance = self._distance(self._probs(z, top, log_total), rows[0])
        return distance.square_().sum(-1), torch.stack((top, log_total), dim=-1)

    def slopes(
        self, z: Tensor, kept: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], scale: Tensor, out: Tensor
    ) -> None:
        q = self._probs(z, *kept.unbind(-1))
        distance = self._distance(q, rows[0])
        distance.sub_((q * distance).sum(-1, keepdim=True))
        out.copy_(distance.mul_(q).mul_(2 * scale[:, None]))

    def plain(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> Tensor:
        shifted, log_total = log_parts(z.to(compute_dtype(z)))
        return self._distance((shifted - log_total[..., None]).exp(), rows[0]).square().sum(-1)

    def _probs(self, z: Tensor, top: Tensor, log_total: Tensor) -> Tensor:
        return (z.to(log_total.dtype) - top[:, None]).sub_(log_total[:, None]).exp_()

    def _distance(self, q: Tensor, target: Tensor) -> Tensor:
        return q - torch.zeros_like(q).scatter(-1, target[..., None], 1)


def _pick(z: Tensor, place: Tensor) -> Tensor:
    return z.gather(-1, place[..., None])[..., 0]


def _partition(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest logit, and the logarithm of the sum of exponentials after it is taken off."""
    top = z.amax(-1)
    log_total = row_sums((z - top[:, None]).exp_()).log()
    return top.to(log_total.dtype), log_total
