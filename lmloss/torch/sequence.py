"""Losses on whole sequences, differentiable: what they earn, what they risk, which of two is preferred.

A sequence enters these losses as one number, the logarithm of its probability: the probability itself is 0 in floating
point after a few hundred tokens. Rewards, risks, baselines and a reference model's log-probabilities are constants: no
gradient flows to them, and their values are looked at on the CPU only, where it costs no synchronisation.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lmloss import _checks
from lmloss.torch._reduce import Average
from lmloss.torch._tensors import as_tensor, compute_dtype, kind, loss_dtype, reads_values, refuse_first, uniform
from lmloss.torch.cross_entropy import cross_entropy


def sequence_log_prob(logits: Tensor, targets: Tensor, *, ignore_index: int | None = -100) -> Tensor:
    r"""Compute the log-probability of whole sequences: the sum of their tokens' log-probabilities.

    .. math:: \log q(y) = \sum_{t=1}^{T} \log \operatorname{softmax}(z_t)_{y_t}

    Parameters
    ----------
    logits : Tensor, shape (..., T, V)
        Floating point, on any device; position t's logits score target t.
    targets : Tensor, shape (..., T)
        Classes, of any integer dtype.
    ignore_index : int or None
        Tokens with this target contribute exactly 0 (padding, a prompt); None ignores nothing.

    Returns
    -------
    Tensor, shape (...)
        At most 0, in nats; ``-inf`` where a target has probability 0. Longer sequences have lower values: divide by
        their lengths to compare them.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; also for targets that are probabilities, or that have no axis of positions.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> logits = torch.tensor([[0.1, 0.7, 0.2], [0.4, 0.5, 0.1]]).log()
    >>> lt.sequence_log_prob(logits, torch.tensor([1, 0])).exp()  # 0.7 * 0.4
    tensor(0.2800)
    >>> lt.sequence_log_prob(logits, torch.tensor([1, -100])).exp()
    tensor(0.7000)

    References
    ----------
    Bengio, Ducharme, Vincent & Jauvin, "A neural probabilistic language model", JMLR 3 (2003), section 1.
    """
    y = as_tensor("targets", targets)
    _checks.sequence_of_classes("targets", tuple(y.shape), kind(y), y.dtype)
    losses: Tensor = cross_entropy(logits, y, ignore_index=ignore_index, reduction="none")
    return 0.0 - losses.sum(-1)


def scheduled_sampling(targets: Tensor, samples: Tensor, *, keep_prob: float, rng: torch.Generator) -> Tensor:
    r"""Mix true tokens with the model's own, so that training meets the mistakes of generation.

    .. math:: x_t = \begin{cases} y_t & \text{with probability } \epsilon \\
        \hat y_t & \text{otherwise} \end{cases}

    independently for each token, with :math:`\epsilon` the probability to keep the truth.

    Parameters
    ----------
    targets : Tensor, shape (...)
        The true ids :math:`y`, of any integer dtype, on any device.
    samples : Tensor, shape (...)
        The model's own ids :math:`\hat y`, drawn or decoded for the same positions.
    keep_prob : float
        :math:`\epsilon` in [0, 1]: 1 is teacher forcing, 0 feeds the model its own output alone.
    rng : torch.Generator
        Where the coins come from; the same state gives the same result. They are thrown on its own device, so that a
        CPU generator gives the same result on every device.

    Returns
    -------
    Tensor, shape (...)
        New ids, to be fed as inputs, in the dtype of both (int64 where they differ). No position is special: one that
        holds padding is drawn like every other.

    Raises
    ------
    TypeError, ValueError
        If the ids are not integers of one shape, `keep_prob` is outside [0, 1], or `rng` is no generator.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> rng = torch.Generator().manual_seed(0)
    >>> lt.scheduled_sampling(torch.tensor([1, 2, 3, 4]), torch.full((4,), 9), keep_prob=0.5, rng=rng)
    tensor([9, 9, 3, 9])

    References
    ----------
    Bengio, Vinyals, Jaitly & Shazeer, "Scheduled sampling for sequence prediction with recurrent neural networks",
    NIPS (2015), section 2.4.
    """
    keep_prob = _checks.fraction("keep_prob", keep_prob)
    if not isinstance(rng, torch.Generator):
        raise TypeError(f"rng must be a torch.Generator, not {type(rng).__name__}; torch.Generator() makes one")
    truth, drawn = as_tensor("targets", targets), as_tensor("samples", samples)
    for name, ids in (("targets", truth), ("samples", drawn)):
        _checks.integer(name, kind(ids), ids.dtype)
    _checks.exact_shape("samples", tuple(drawn.shape), tuple(truth.shape), "the shape of targets")
    _checks.mixed_ids("targets", truth.dtype, "samples", drawn.dtype)
    _checks.together("samples", drawn.device, "targets", truth.device)
    dtype = truth.dtype if truth.dtype == drawn.dtype else torch.int64
    return torch.where(uniform(truth.shape, rng, truth.device) < keep_prob, truth.to(dtype), drawn.to(dtype))


def reinforce_loss(log_probs: Tensor, rewards: Tensor, *, baseline: float | Tensor | None = None) -> Tensor:
    r"""Compute the loss whose gradient estimates the gradient of the negative expected reward.

    .. math:: L = -\frac1n \sum_{i=1}^{n} (r_i - b_i) \log q(y_i), \qquad
        \mathbb{E}_{y_i \sim q} \nabla L = -\nabla \, \mathbb{E}_{y \sim q}[r(y)]

    Its value means nothing; its gradient does. A baseline that does not depend on what was drawn leaves the expected
    gradient as it is and lowers its variance.

    Parameters
    ----------
    log_probs : Tensor, shape (...)
        Log-probabilities (nats) of the sequences or tokens that the model itself drew; floating point.
    rewards : Tensor, shape (...)
        What each earned. Constants.
    baseline : float or Tensor, optional
        What was to be expected, a number or anything that broadcasts to the rewards; 0 by default. A constant. The mean
        reward of the same n draws shrinks the expected gradient to (n - 1) / n of itself.

    Returns
    -------
    Tensor
        The mean over all entries; 0.0 where there are none. An entry with no advantage costs exactly 0.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or a reward or baseline is not finite.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> log_probs = torch.tensor([-1.0, -3.0], requires_grad=True)
    >>> loss = lt.reinforce_loss(log_probs, torch.tensor([1.0, 0.0]), baseline=0.5)
    >>> loss.backward()
    >>> loss.item(), log_probs.grad  # descending makes the first more probable
    (-0.5, tensor([-0.2500,  0.2500]))

    References
    ----------
    Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", Machine
    Learning 8 (1992), theorem 1.
    """
    scores = _floating("log_probs", log_probs)
    earned = _constant("rewards", rewards, "log_probs", scores)
    _checks.exact_shape("rewards", tuple(earned.shape), tuple(scores.shape), "one for each of the log_probs")
    _refuse_infinite("rewards", earned)
    advantage = earned
    if isinstance(baseline, Tensor):
        expected = _constant("baseline", baseline, "log_probs", scores)
        _checks.broadcasts("baseline", tuple(expected.shape), "rewards", tuple(earned.shape))
        _refuse_infinite("baseline", expected)
        advantage = earned - expected  # in the wider of their dtypes: they may be close
    elif baseline is not None:
        advantage = earned - _checks.number("baseline", baseline)
    return Average(advantage.to(scores.dtype), torch.ones_like(scores), "mean").value(-scores)


def minimum_risk_loss(sequence_log_probs: Tensor, risks: Tensor, *, sharpness: float = 1.0) -> Tensor:
    r"""Compute the expected risk of candidates under the model's distribution among them.

    .. math:: L = \sum_i q_i R_i, \qquad q_i = \frac{q(y_i)^\alpha}{\sum_k q(y_k)^\alpha}

    Parameters
    ----------
    sequence_log_probs : Tensor, shape (..., N)
        Log-probabilities (nats) of N candidates for one input; floating point. Only their differences matter. A
        ``-inf`` is no candidate: it has no share at any sharpness, and its risk is not read.
    risks : Tensor, shape (..., N)
        The price of each candidate, 1 - BLEU for instance. Constants.
    sharpness : float
        :math:`\alpha \ge 0`: 0 gives the mean risk, large values the risk of the most probable candidate.

    Returns
    -------
    Tensor
        The mean over all axes but the last; NaN where all candidates of an input are ``-inf``.

    Raises
    ------
    TypeError, ValueError
        If shapes differ, there is no candidate, a candidate's risk is not finite, or `sharpness` is negative.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> log_probs, risks = torch.tensor([0.03, 0.01]).log(), torch.tensor([0.0, 1.0])
    >>> lt.minimum_risk_loss(log_probs, risks)  # the second's share is 1 / 4
    tensor(0.2500)
    >>> lt.minimum_risk_loss(log_probs, risks, sharpness=2.0)  # 1 / 10
    tensor(0.1000)

    References
    ----------
    Shen et al., "Minimum risk training for neural machine translation", ACL (2016), section 3.
    """
    sharpness = _checks.non_negative("sharpness", sharpness)
    scores = _floating("sequence_log_probs", sequence_log_probs)
    prices = _constant("risks", risks, "sequence_log_probs", scores)
    _checks.candidates("sequence_log_probs", tuple(scores.shape))
    _checks.exact_shape("risks", tuple(prices.shape), tuple(scores.shape), "one for each candidate")
    absent = scores.detach() == -torch.inf
    _refuse_infinite("risks", prices, absent)
    # The shift is exact where scores are close, and cannot overflow to a tie when sharpened. Being common to all
    # candidates it changes nothing, so no gradient has to pass through the maximum.
    wide = scores.to(compute_dtype(scores))
    behind = wide - wide.detach().amax(-1, keepdim=True)
    log_shares = torch.log_softmax(torch.where(absent, -torch.inf, sharpness * behind), dim=-1)
    expected = (log_shares.exp() * torch.where(absent, 0, prices)).sum(-1).to(scores.dtype)  # prices may be wider
    return Average(torch.ones_like(expected), torch.ones_like(expected), "mean").value(expected)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute the direct preference loss of pairs of answers, one chosen and one rejected.

    .. math:: \ell = -(1 - \varepsilon) \log \sigma(h) - \varepsilon \log \sigma(-h), \qquad
        h = \beta \Bigl(\log \frac{\pi(y^+)}{\pi_\text{ref}(y^+)} - \log \frac{\pi(y^-)}{\pi_\text{ref}(y^-)}\Bigr)

    Parameters
    ----------
    policy_chosen, policy_rejected : Tensor, shape (...)
        Log-probabilities (nats) of whole answers under the model that is trained, as `sequence_log_prob` gives them.
    reference_chosen, reference_rejected : Tensor, shape (...)
        Those under the model that it started from. Constants.
    beta : float
        :math:`\beta \ge 0`, per nat: how much a change of odds against the reference counts; at 0 not even an infinite
        one does.
    label_smoothing : float
        :math:`\varepsilon` in [0, 1], the share of preferences believed to be the wrong way round.
    reduction : {"mean", "sum", "none"}
        ``"none"`` returns each pair's loss.

    Returns
    -------
    Tensor, scalar or shape (...)
        In nats; log 2 where the model does not differ from its reference, 0.0 where there is no pair. NaN where an
        answer is impossible (``-inf``) under both models: that has no ratio.

    Raises
    ------
    TypeError, ValueError
        If shapes differ, an input is not floating point, or a parameter is out of its range.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> policy, reference = torch.tensor([[-40.0], [-60.0]]), torch.tensor([[-45.0], [-55.0]])
    >>> lt.dpo_loss(*policy, *reference)  # log(1 + exp(-0.1 * 10))
    tensor(0.3133)

    References
    ----------
    Rafailov et al., "Direct preference optimization: Your language model is secretly a reward model", NeurIPS (2023),
    equation 7; smoothing: Mitchell, "A note on DPO with noisy preferences and relationship to IPO" (2023).
    """
    beta = _checks.non_negative("beta", beta)
    label_smoothing = _checks.fraction("label_smoothing", label_smoothing)
    _checks.choice("reduction", reduction, ("mean", "sum", "none"))
    given = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    scores = [_floating(name, value) for name, value in zip(_checks.PAIR, given, strict=True)]
    for name, score in zip(_checks.PAIR[1:], scores[1:], strict=True):
        _checks.exact_shape(name, tuple(score.shape), tuple(scores[0].shape), "the shape of policy_chosen")
        _checks.together(name, score.device, "policy_chosen", scores[0].device)
    chosen, rejected, was_chosen, was_rejected = scores
    dtype = torch.promote_types(chosen.dtype, rejected.dtype)
    # Ratios first: where policy and reference are close, each of these differences is exact.
    gap = ((chosen - was_chosen.detach()) - (rejected - was_rejected.detach())).to(dtype)
    margin = beta * (gap if beta > 0 else torch.where(gap.isinf(), 0, gap))
    losses = torch.zeros_like(margin)
    if label_smoothing < 1:  # a term of no weight is left out, infinite or not
        losses = losses - (1 - label_smoothing) * logsigmoid(margin)
    if label_smoothing > 0:
        losses = losses - label_smoothing * logsigmoid(-margin)
    ones = torch.ones_like(losses)
    return Average(ones, ones, reduction).value(losses)


def _floating(name: str, value: object) -> Tensor:
    """Return log-probabilities in the loss dtype, refused unless floating point."""
    tensor = as_tensor(name, value)
    _checks.floating(name, kind(tensor), tensor.dtype)
    return tensor.to(loss_dtype(tensor.dtype))


def _constant(name: str, value: object, other: str, like: Tensor) -> Tensor:
    """Return real numbers as a constant, in their own precision where that is the wider."""
    tensor = as_tensor(name, value).detach()
    _checks.real(name, kind(tensor), tensor.dtype)
    _checks.together(name, tensor.device, other, like.device)
    return tensor.to(torch.promote_types(tensor.dtype, like.dtype))


def _refuse_infinite(name: str, values: Tensor, exempt: Tensor | None = None) -> None:
    """Refuse what is infinite or undefined, and not exempt, where looking is free."""
    if reads_values(None, values):
        bad = ~torch.isfinite(values)
        refuse_first(name, values, bad if exempt is None else bad & ~exempt, _checks.infinite)
