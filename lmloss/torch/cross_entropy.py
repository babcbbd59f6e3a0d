"""Cross-entropy of logits against classes or distributions, and its two namings for language models."""

from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from lmloss import _checks
from lmloss.torch._reduce import Average
from lmloss.torch._rows import RowLoss, row_loss
from lmloss.torch._targets import read_targets
from lmloss.torch._tensors import as_denominator, as_logits, as_weights, log_parts, row_sums
from lmloss.torch.softmax import capped


class CrossEntropyOptions(TypedDict, total=False):
    """The keyword parameters of `cross_entropy`."""

    ignore_index: int | None
    class_weight: Tensor | None
    token_weight: Tensor | None
    label_smoothing: float
    smoothing_over: str
    z_loss: float
    softcap: float | None
    reduction: str
    denominator: float | Tensor | None
    validate: bool | None


@row_loss
def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = -100,
    class_weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    smoothing_over: str = "all",
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
    validate: bool | None = None,
) -> RowLoss:
    r"""Compute the cross-entropy of logits against target classes or target distributions.

    With :math:`q = \operatorname{softmax}(z)` and :math:`z` the logits (soft-capped, if a cap is given), a token whose
    target distribution is :math:`p` (one-hot for a target class) costs

    .. math:: \ell = -\sum_j w_j \, p'_j \log q_j + \zeta \, w_y \operatorname{logsumexp}(z)^2

    where :math:`p'` is :math:`p` smoothed, :math:`w_j` the class weights (1 by default) and :math:`\zeta` is `z_loss`.

    Parameters
    ----------
    logits : Tensor, shape (..., V)
        Floating point, on any device. A ``-inf`` is a class of probability 0 and costs nothing unless it is the target.
    targets : Tensor
        Classes, shape (...) of any integer dtype, or probabilities, shape (..., V) and floating point. Like all weights
        they are constants: no gradient flows to them.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    class_weight : Tensor, shape (V,), optional
        Weight of each class, at least 0.
    token_weight : Tensor, shape (...), optional
        Weight of each token, at least 0; a boolean mask will do.
    label_smoothing : float
        :math:`\varepsilon` in [0, 1], the target mass that is spread.
    smoothing_over : {"all", "others"}
        Spread it over all V classes, :math:`p' = (1-\varepsilon) p + \varepsilon/V` (PyTorch, Szegedy et al.), or over
        the others, :math:`p' = (1-\varepsilon) p + \varepsilon (1-p)/(V-1)` (tensor2tensor).
    z_loss : float
        :math:`\zeta`, the price of a squared log-partition far from 0.
    softcap : float, optional
        Squash the logits to :math:`\kappa \tanh(z/\kappa)` first.
    reduction : {"mean", "sum", "none", "sequence"}
        ``"mean"`` divides by the sum of the tokens' weights (token weight times the target's class weight; token weight
        alone for probabilities), ``"sequence"`` does so over the last axis of the targets alone, ``"none"`` returns
        each token's weighted loss.
    denominator : float or Tensor, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.
    validate : bool, optional
        Whether to look at the values of targets and weights. By default that is done on the CPU only, where it costs
        no synchronisation, and never under compilation, tracing or `torch.func`.

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
    >>> logits = torch.tensor([[0.1, 0.7, 0.1, 0.1], [0.4, 0.2, 0.3, 0.1]]).log().requires_grad_()
    >>> lt.cross_entropy(logits, torch.tensor([1, 1]), reduction="none").detach()
    tensor([0.3567, 1.6094])
    >>> lt.cross_entropy(logits, torch.tensor([1, -100])).backward()
    >>> logits.grad
    tensor([[ 0.1000, -0.3000,  0.1000,  0.1000],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])

    References
    ----------
    Goodfellow, Bengio & Courville, *Deep Learning* (2016), section 6.2.2.3; smoothing: Szegedy et al. (2016),
    section 7; z-loss: Chowdhery et al., arXiv:2204.02311 (2022), section 5; soft-capping: arXiv:2408.00118, section 2.
    """
    return _describe(
        "targets",
        False,
        logits,
        targets,
        ignore_index=ignore_index,
        class_weight=class_weight,
        token_weight=token_weight,
        label_smoothing=label_smoothing,
        smoothing_over=smoothing_over,
        z_loss=z_loss,
        softcap=softcap,
        reduction=reduction,
        denominator=denominator,
        validate=validate,
    )


@row_loss(options_of=cross_entropy)
def causal_lm_loss(logits: Tensor, labels: Tensor, **options: Unpack[CrossEntropyOptions]) -> RowLoss:
    r"""Compute the next-token loss: position t's logits are scored on label t + 1.

    .. math:: \ell_t = -\log \operatorname{softmax}(z_t)_{y_{t+1}}, \qquad t = 1, \dots, T - 1

    The logits are neither copied nor sliced for the shift (labels that are probabilities are copied). The first label
    of a sequence is never read.

    Parameters
    ----------
    logits : Tensor, shape (..., T, V)
        Floating point, on any device.
    labels : Tensor, shape (..., T)
        The token ids themselves, not shifted; or probabilities, shape (..., T, V).
    **options
        Every keyword of `cross_entropy`. `token_weight` has the labels' shape and is read at the label that is scored.

    Returns
    -------
    Tensor
        As `cross_entropy`; ``"none"`` has T - 1 positions.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; indices in messages are those of `labels`.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.causal_lm_loss(torch.zeros(1, 4, 50257), torch.tensor([[464, 3797, 3332, 319]]), reduction="none")
    tensor([[10.8249, 10.8249, 10.8249]])

    References
    ----------
    Bengio, Ducharme, Vincent & Jauvin, "A neural probabilistic language model", JMLR 3 (2003), section 2.
    """
    return _describe("labels", True, logits, labels, **options)


@row_loss(options_of=cross_entropy)
def masked_lm_loss(logits: Tensor, labels: Tensor, **options: Unpack[CrossEntropyOptions]) -> RowLoss:
    r"""Compute the masked language modelling loss: the cross-entropy where labels are not `ignore_index`.

    .. math:: \ell_t = -\log \operatorname{softmax}(z_t)_{y_t} \quad \text{for } y_t \ne \mathtt{ignore\_index}

    Parameters
    ----------
    logits : Tensor, shape (..., T, V)
        Floating point, on any device.
    labels : Tensor, shape (..., T)
        The original ids at the selected positions, `ignore_index` elsewhere.
    **options
        Every keyword of `cross_entropy`.

    Returns
    -------
    Tensor
        As `cross_entropy`; 0.0 where nothing was selected.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> lt.masked_lm_loss(torch.zeros(1, 3, 8), torch.tensor([[-100, 5, -100]]))  # log 8
    tensor(2.0794)

    References
    ----------
    Devlin et al., "BERT: Pre-training of deep bidirectional transformers", NAACL (2019), section 3.1.
    """
    return _describe("labels", False, logits, labels, **options)


def _describe(
    name: str,
    shift: bool,
    logits: Tensor,
    targets: Tensor,
    /,
    *,
    ignore_index: int | None = -100,
    class_weight: Tensor | None = None,
    token_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    smoothing_over: str = "all",
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
    validate: bool | None = None,
) -> RowLoss:
    """Check the arguments and describe the loss; with `shift`, row t is scored on target t + 1."""
    label_smoothing = _checks.fraction("label_smoothing", label_smoothing)
    _checks.choice("smoothing_over", smoothing_over, _checks.SMOOTHINGS)
    z_loss = _checks.non_negative("z_loss", z_loss)
    softcap = None if softcap is None else _checks.positive("softcap", softcap)
    _checks.reduction(reduction, denominator is not None)
    _checks.switch("validate", validate)

    z = as_logits("logits", logits, at_least=2 if label_smoothing > 0 and smoothing_over == "others" else 1)
    if class_weight is not None:
        shape = tuple(z.shape[-1:])
        class_weight = as_weights("class_weight", class_weight, shape, "one weight for each class", z, validate)
    y, weights = read_targets(
        name,
        targets,
        z,
        ignore_index=ignore_index,
        token_weight=token_weight,
        reduction=reduction,
        validate=validate,
        distributions=True,
        shift=shift,
    )
    counts = weights
    if class_weight is not None and not y.is_floating_point():
        counts = weights * class_weight[y]
        # Where nothing is smoothed, a class of weight 0 leaves nothing to pay.
        weights = weights if label_smoothing > 0 else torch.where(counts == 0, 0, weights)

    kernel = _CrossEntropy(label_smoothing, smoothing_over == "others", z_loss, softcap)
    divisor = None if denominator is None else as_denominator(denominator, z, validate)
    average = Average(weights, counts, reduction, divisor, max(z.shape[-2] - 1, 0) if shift else None)
    return RowLoss(kernel, z, () if class_weight is None else (class_weight,), (y,), average)


@dataclass(frozen=True)
class _CrossEntropy:
    """The row kernel: with s = z - max z and S = sum exp s, -log q_j = log S - s_j, summed with the targets' masses."""

    label_smoothing: float
    over_others: bool
    z_loss: float
    cap: float | None

    def losses(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        z = z if self.cap is None else capped(z, self.cap)
        top = z.amax(-1)
        total = row_sums((z - top[:, None]).exp_())
        log_total = total.log()
        if rows[0].ndim == 1 and self.label_smoothing == 0:
            losses = log_total - (z.gather(1, rows[0][:, None])[:, 0] - top)
            if shared:
                losses = losses * shared[0][rows[0]]
        else:
            surprisals = log_total.to(z.dtype)[:, None] - (z - top[:, None])
            mass = self._mass(z, shared, rows[0])
            losses = row_sums(surprisals.mul_(mass).masked_fill_(mass == 0, 0))
        if self.z_loss:
            losses = losses + self.z_loss * self._row_weight(shared, rows[0], total) * (top + log_total) ** 2
        return losses, torch.stack((top.to(total.dtype), total), dim=-1)

    def slopes(
        self, z: Tensor, kept: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...], scale: Tensor, out: Tensor
    ) -> None:
        """d loss / d z_j = (sum of masses + 2 zeta w lse) q_j - mass_j, and through the cap 1 - tanh^2."""
        target = rows[0]
        z = z if self.cap is None else capped(z, self.cap)
        top, total = kept.unbind(-1)
        row_weight = self._row_weight(shared, target, total)
        hard = target.ndim == 1 and self.label_smoothing == 0
        mass = row_weight[:, None] if hard else self._mass(z, shared, target)
        factor = row_sums(mass)
        if self.z_loss:
            factor = factor + 2 * self.z_loss * row_weight * (top + total.log())
        torch.sub(z, top.to(z.dtype)[:, None], out=out)
        out.exp_().mul_((factor * scale / total).to(z.dtype)[:, None])
        if hard:
            pull = torch.where(z.gather(1, target[:, None]) == -torch.inf, 0, mass * scale[:, None])
            out.scatter_add_(1, target[:, None], -pull.to(z.dtype))
        else:
            out.sub_((mass * scale[:, None]).masked_fill_(z == -torch.inf, 0))
        if self.cap is not None:
            out.mul_((1 - (z / self.cap) ** 2).masked_fill_(z == -torch.inf, 0))

    def plain(self, z: Tensor, shared: tuple[Tensor, ...], rows: tuple[Tensor, ...]) -> Tensor:
        target = rows[0]
        z = z if self.cap is None else capped(z, self.cap)
        z = torch.where(z == -torch.inf, -torch.inf, z)  # cuts the gradient there: a class that cannot win or lose
        shifted, log_total = log_parts(z)
        if target.ndim == z.ndim - 1 and self.label_smoothing == 0:
            losses = log_total - shifted.gather(-1, target[..., None])[..., 0]
            losses = losses * self._row_weight(shared, target, losses)
        else:
            mass = self._mass(z, shared, target)
            losses = log_total * row_sums(mass) - row_sums(mass * torch.where(mass == 0, 0, shifted))
        if self.z_loss:
            log_partition = z.detach().amax(-1) + log_total
            losses = losses + self.z_loss * self._row_weight(shared, target, losses) * log_partition**2
        return losses

    def _row_weight(self, shared: tuple[Tensor, ...], target: Tensor, like: Tensor) -> Tensor:
        """Return w_y, the weight of each row's target class; 1 where there is none."""
        if shared and not target.is_floating_point():
            return shared[0][target]
        return torch.ones_like(like)

    def _mass(self, z: Tensor, shared: tuple[Tensor, ...], target: Tensor) -> Tensor:
        """Return w_j p'_j for each class; a class of probability 0 has none unless it is a target."""
        classes = z.shape[-1]
        if target.is_floating_point():
            true = target.to(z.dtype)
        else:
            true = torch.zeros_like(z).scatter(-1, target[..., None], 1)
        mass = (1 - self.label_smoothing) * true
        if self.over_others:
            mass = mass + self.label_smoothing / max(classes - 1, 1) * (1 - true)
        else:
            mass = mass + self.label_smoothing / classes
        if shared:
            mass = mass * shared[0].to(z.dtype)
        return torch.where((z == -torch.inf) & (true == 0), 0, mass)
