"""Distillation: a student's cross-entropy on the targets, and its divergence from a teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lmloss import _checks
from lmloss.torch._reduce import Average
from lmloss.torch._rows import RowLoss, row_loss
from lmloss.torch._targets import read_targets
from lmloss.torch._tensors import as_denominator, as_logits, as_weights, compute_dtype, log_parts, loss_dtype, row_sums


@row_loss
def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor | None = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    ignore_index: int | None = -100,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
    validate: bool | None = None,
) -> RowLoss:
    r"""Compute the distillation loss: cross-entropy on the targets, and divergence from a teacher's distribution.

    .. math:: \ell = \alpha \, (-\log q_y) + (1 - \alpha) \, \tau^2 D(p^{(\tau)}, q^{(\tau)})

    with :math:`q` the student's softmax, and :math:`p^{(\tau)}`, :math:`q^{(\tau)}` the teacher's and the student's at
    temperature :math:`\tau`. The factor :math:`\tau^2` keeps the size of the gradient while :math:`\tau` changes.
    Without targets the loss is :math:`\tau^2 D` alone.

    Parameters
    ----------
    student_logits : Tensor, shape (..., V)
        Floating point.
    teacher_logits : Tensor, shape (..., V)
        Floating point, over the same vocabulary; constants: no gradient flows to them.
    targets : Tensor, shape (...), optional
        Classes, of any integer dtype.
    temperature : float
        :math:`\tau > 0`, for the divergence only.
    alpha : float
        In [0, 1], the share of the cross-entropy; unused without targets.
    divergence : {"forward_kl", "reverse_kl", "jsd"}
        :math:`\mathrm{KL}(p \,\|\, q)`, :math:`\mathrm{KL}(q \,\|\, p)`, or
        :math:`\beta \mathrm{KL}(p \,\|\, m) + (1 - \beta) \mathrm{KL}(q \,\|\, m)` with
        :math:`m = \beta p + (1 - \beta) q`.
    beta : float
        Strictly between 0 and 1, for ``"jsd"``.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : Tensor, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float or Tensor, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.
    validate : bool, optional
        Whether to look at the values of targets and weights; by default as in `cross_entropy`.

    Returns
    -------
    Tensor
        In nats; float64 for float64 student logits, float32 for narrower ones. ``inf`` where a divergence is.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value, or the vocabularies differ; the message names it.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> teacher, student = torch.tensor([[2.0, 1.0, 0.0]]), torch.zeros(1, 3)
    >>> lt.distillation_loss(student, teacher, temperature=2.0)
    tensor(0.3137)
    >>> lt.distillation_loss(teacher, teacher, temperature=2.0)
    tensor(0.)

    References
    ----------
    Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531 (2015), section 2; reverse
    KL and the generalised JSD: Agarwal et al., arXiv:2306.13649 (2024), section 2.
    """
    temperature = _checks.positive("temperature", temperature)
    alpha = _checks.fraction("alpha", alpha)
    _checks.choice("divergence", divergence, _checks.DIVERGENCES)
    beta = _checks.between("beta", beta)
    _checks.ignore_index(ignore_index)
    _checks.reduction(reduction, denominator is not None)
    _checks.switch("validate", validate)

    z, teacher = as_logits("student_logits", student_logits), as_logits("teacher_logits", teacher_logits).detach()
    _checks.exact_shape("teacher_logits", tuple(teacher.shape), tuple(z.shape), "that of student_logits")
    _checks.together("teacher_logits", teacher.device, "student_logits", z.device)
    rows: tuple[Tensor, ...] = (teacher,)
    shape = tuple(z.shape[:-1])
    if targets is not None:
        y, weights = read_targets(
            "targets",
            targets,
            z,
            ignore_index=ignore_index,
            token_weight=token_weight,
            reduction=reduction,
            validate=validate,
        )
        rows = teacher, y
    else:
        if reduction == "sequence":
            _checks.needs_positions("student_logits", shape, "row")
        weights = torch.ones(shape, dtype=loss_dtype(z.dtype), device=z.device)
        if token_weight is not None:
            why = "one weight for each row of student_logits"
            weights = as_weights("token_weight", token_weight, shape, why, z, validate)
    divisor = None if denominator is None else as_denominator(denominator, z, validate)
    kernel = _Distillation(temperature, alpha if targets is not None else 0.0, divergence, beta)
    return RowLoss(kernel, z, (), rows, Average(weights, weights, reduction, divisor))


@dataclass(frozen=True)
class _Distillation:
    """The row kernel: with D's slope g_j in log q_j, dD/dz_j = (g_j - q_j sum g) / tau."""

    temperature: float
    alpha: float
    divergence: str
    beta: float

    def losses(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        losses, kept = z.new_zeros(len(z), dtype=compute_dtype(z)), []
        if self.alpha < 1:
            divergence, *kept = self._softened(z, rows[0])
            losses = losses + (1 - self.alpha) * self.temperature**2 * divergence
        if self.alpha > 0:
            shifted, top, total = _shifted(z, 1.0)
            losses = losses + self.alpha * (total.log() - shifted.gather(1, rows[1][:, None])[:, 0])
            kept += [top, total]
        return losses, torch.stack([column.to(losses.dtype) for column in kept], dim=-1)

    def slopes(
        self, z: Tensor, kept: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], scale: Tensor, out: Tensor
    ) -> None:
        columns = kept[:, :, None].to(z.dtype).unbind(1)
        if self.alpha < 1:
            top_t, total_t, top_s, total_s, mean = columns[:5]
            a, b = rows[0].to(z.dtype) / self.temperature - top_t, z / self.temperature - top_s
            torch.exp(b, out=out).div_(total_s)
            if self.divergence == "forward_kl":
                out.sub_(a.exp_().div_(total_t))
            elif self.divergence == "reverse_kl":
                endless = mean == torch.inf  # an infinite divergence slopes nowhere
                gap = b.sub_(a).masked_fill_((out == 0) | endless, 0)
                out.mul_(gap.sub_(mean.masked_fill(endless, 0)))
            else:
                log_ratio = a.sub_(b).sub_((kept[:, 1].log() - kept[:, 3].log()).to(z.dtype)[:, None])
                gap = self._log_over_mixture(log_ratio)[1].masked_fill_(out == 0, 0)
                out.mul_(gap.sub_(mean)).mul_(1 - self.beta)
            out.mul_((1 - self.alpha) * self.temperature * scale[:, None])
        else:
            out.zero_()
        if self.alpha > 0:
            share = self.alpha * scale[:, None]
            out.addcmul_((z - columns[-2]).exp_(), share / columns[-1])
            out.scatter_add_(1, rows[1][:, None], -share)
        out.masked_fill_(z == -torch.inf, 0)

    def _softened(self, z: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
        """Return the divergence at the temperature, and what its slope needs again.

        With a and b the softened logits less their maxima and A, B the sums of their exponentials, log p = a - log A
        and log q = b - log B. What is one number for a row stays out of the sums over the classes.
        """
        (a, top_t, total_t), (b, top_s, total_s) = (_shifted(x, self.temperature) for x in (teacher.to(z.dtype), z))
        log_totals = total_t.log() - total_s.log()
        mean = torch.zeros_like(total_s)
        if self.divergence == "forward_kl":
            divergence = _mean_gap(a, b, total_t) - log_totals
        elif self.divergence == "reverse_kl":
            mean = _mean_gap(b, a, total_s)
            divergence = mean + log_totals
        else:
            p, q = a.exp() / total_t.to(z.dtype)[:, None], b.exp() / total_s.to(z.dtype)[:, None]
            over_p, over_q = self._log_over_mixture((a - b).sub_(log_totals.to(z.dtype)[:, None]))
            over_p, over_q = over_p.masked_fill_(p == 0, 0), over_q.masked_fill_(q == 0, 0)
            mean = row_sums(q * over_q)
            divergence = self.beta * row_sums(p * over_p) + (1 - self.beta) * mean
        return divergence.clamp(min=0), top_t, total_t, top_s, total_s, mean

    def _log_over_mixture(self, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p/m and log q/m, given log p/q: each from the smaller of the two, which cannot overflow."""
        share = torch.full_like(log_ratio, 1 - self.beta).masked_fill_(log_ratio <= 0, self.beta)
        nearer = torch.log1p(share.mul_(torch.expm1(-log_ratio.abs()))).neg_()
        return nearer + log_ratio.clamp(max=0), nearer - log_ratio.clamp(min=0)

    def plain(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> Tensor:
        z = torch.where(z == -torch.inf, -torch.inf, z)  # cuts the gradient there: a class that cannot win or lose
        losses = torch.zeros_like(row_sums(z))
        if self.alpha < 1:
            parts = (log_parts(x / self.temperature) for x in (rows[0].to(z.dtype), z))
            divergence = self._divergence(*parts)
            # Below 0 by rounding alone: lifted in value, not in gradient.
            divergence = torch.where(divergence < 0, divergence - divergence.detach(), divergence)
            losses = losses + (1 - self.alpha) * self.temperature**2 * divergence
        if self.alpha > 0:
            shifted, log_total = log_parts(z)
            losses = losses + self.alpha * (log_total - shifted.gather(-1, rows[1][..., None])[..., 0])
        return losses

    def _divergence(self, teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> Tensor:
        """Return D, given for each model its shifted logits and the logarithm of their partition."""
        (a, log_a), (b, log_b) = teacher, student
        if self.divergence == "forward_kl":
            return _expected(a, log_a, a - b) + (log_b - log_a)
        if self.divergence == "reverse_kl":
            lost = (a == -torch.inf) & (b > -torch.inf)
            gap = b - torch.where(lost, b, a)
            centre = _expected(b, log_b, gap).detach()  # the weights' slopes sum to 0: what is common may go, and large
            centre = torch.where(centre.isfinite(), centre, 0)  # numbers with it, before they are rounded
            value = _expected(b, log_b, gap - centre[..., None].to(gap.dtype)) + centre + (log_a - log_b)
            return torch.where(lost.any(-1) & ~log_a.isnan(), torch.inf, value)
        never = (a == -torch.inf) & (b == -torch.inf)
        ratio = torch.where(never, 0, a) - torch.where(never, 0, b) - (log_a - log_b)[..., None].to(a.dtype)
        # log p/m and log q/m given log p/q, each from the smaller of the two, which cannot overflow.
        up, down = torch.where(ratio > 0, ratio, 0), torch.where(ratio > 0, 0, ratio)
        nearer = torch.where(
            ratio > 0,
            -torch.log1p((1 - self.beta) * torch.expm1(-up)),
            -torch.log1p(self.beta * torch.expm1(down)),
        )
        return self.beta * _expected(a, log_a, nearer + down) + (1 - self.beta) * _expected(b, log_b, nearer - up)


def _expected(shifted: Tensor, log_total: Tensor, values: Tensor) -> Tensor:
    """Return the mean of values under exp(shifted) / exp(log_total), differentiably.

    A weight of 0 adds nothing, not even a NaN to the gradient; one that is only too small for its format adds infinity
    where the value is infinite.
    """
    weights = shifted.exp()
    gone = (weights == 0) & ~log_total.isnan()[..., None]
    lost = (gone & (shifted > -torch.inf) & (values == torch.inf)).any(-1)
    return row_sums(weights * torch.where(gone, 0, values)) * (-log_total).exp() + torch.where(lost, torch.inf, 0)


def _shifted(z: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return softened logits less their maximum, that maximum, and the sum of their exponentials."""
    softened = z / temperature
    top = softened.amax(-1)
    softened.sub_(top[:, None])
    return softened, top, row_sums(softened.exp())


def _mean_gap(a: Tensor, b: Tensor, total: Tensor) -> Tensor:
    """Return the mean of a - b under exp(a) / total; infinite where b rules out what a does not."""
    gap = (a - b).masked_fill_(a == -torch.inf, 0)
    return torch.where(gap.amax(-1) == torch.inf, torch.inf, row_sums(gap.mul_(a.exp())) / total)
