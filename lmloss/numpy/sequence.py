"""Losses on whole sequences: their log-probability, what they earn, what they risk, which of two is preferred.

A sequence enters these losses as one number, the logarithm of its probability: the probability itself is 0 in floating
point after a few hundred tokens. Rewards, risks, baselines and a reference model's log-probabilities are constants.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, kind, loss_dtype, refuse_first
from lmloss.numpy._reduce import Average
from lmloss.numpy.cross_entropy import cross_entropy
from lmloss.numpy.softmax import softmax


def sequence_log_prob(logits: ArrayLike, targets: ArrayLike, *, ignore_index: int | None = -100) -> Any:
    r"""Compute the log-probability of whole sequences: the sum of their tokens' log-probabilities.

    .. math:: \log q(y) = \sum_{t=1}^{T} \log \operatorname{softmax}(z_t)_{y_t}

    Parameters
    ----------
    logits : array_like, shape (..., T, V)
        Floating point; position t's logits score target t.
    targets : array_like, shape (..., T)
        Classes, of any integer dtype.
    ignore_index : int or None
        Tokens with this target contribute exactly 0 (padding, a prompt); None ignores nothing.

    Returns
    -------
    float or ndarray, shape (...)
        At most 0, in nats; ``-inf`` where a target has probability 0. Longer sequences have lower values: divide by
        their lengths to compare them.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; also for targets that are probabilities, or that have no axis of positions.

    Examples
    --------
    >>> import math, numpy as np, lmloss.numpy as ln
    >>> logits = np.log([[0.1, 0.7, 0.2], [0.4, 0.5, 0.1]])
    >>> round(math.exp(ln.sequence_log_prob(logits, [1, 0])), 4)  # 0.7 * 0.4
    0.28
    >>> round(math.exp(ln.sequence_log_prob(logits, [1, -100])), 4)
    0.7

    References
    ----------
    Bengio, Ducharme, Vincent & Jauvin, "A neural probabilistic language model", JMLR 3 (2003), section 1.
    """
    y = np.asarray(targets)
    _checks.sequence_of_classes("targets", y.shape, kind(y), y.dtype)
    losses = cross_entropy(logits, y, ignore_index=ignore_index, reduction="none")
    return (0.0 - losses.sum(axis=-1, dtype=np.float64)).astype(losses.dtype)


def scheduled_sampling(targets: ArrayLike, samples: ArrayLike, *, keep_prob: float, rng: np.random.Generator) -> Array:
    r"""Mix true tokens with the model's own, so that training meets the mistakes of generation.

    .. math:: x_t = \begin{cases} y_t & \text{with probability } \epsilon \\
        \hat y_t & \text{otherwise} \end{cases}

    independently for each token, with :math:`\epsilon` the probability to keep the truth.

    Parameters
    ----------
    targets : array_like, shape (...)
        The true ids :math:`y`, of any integer dtype.
    samples : array_like, shape (...)
        The model's own ids :math:`\hat y`, drawn or decoded for the same positions.
    keep_prob : float
        :math:`\epsilon` in [0, 1]: 1 is teacher forcing, 0 feeds the model its own output alone.
    rng : numpy.random.Generator
        Where the coins come from; the same state gives the same result.

    Returns
    -------
    ndarray, shape (...)
        New ids, to be fed as inputs, in the dtype of both (int64 where they differ). No position is special: one that
        holds padding is drawn like every other.

    Raises
    ------
    TypeError, ValueError
        If the ids are not integers of one shape, `keep_prob` is outside [0, 1], or `rng` is no generator.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> ln.scheduled_sampling([1, 2, 3, 4], [9, 9, 9, 9], keep_prob=0.5, rng=np.random.default_rng(0))
    array([9, 2, 3, 4])

    References
    ----------
    Bengio, Vinyals, Jaitly & Shazeer, "Scheduled sampling for sequence prediction with recurrent neural networks",
    NIPS (2015), section 2.4.
    """
    keep_prob = _checks.fraction("keep_prob", keep_prob)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, not {type(rng).__name__}; see numpy.random.default_rng")
    truth, drawn = np.asarray(targets), np.asarray(samples)
    for name, ids in (("targets", truth), ("samples", drawn)):
        _checks.integer(name, kind(ids), ids.dtype)
    _checks.exact_shape("samples", drawn.shape, truth.shape, "the shape of targets")
    _checks.mixed_ids("targets", truth.dtype, "samples", drawn.dtype)
    dtype = truth.dtype if truth.dtype == drawn.dtype else np.dtype(np.int64)
    return np.where(rng.random(truth.shape) < keep_prob, truth.astype(dtype), drawn.astype(dtype))


def reinforce_loss(log_probs: ArrayLike, rewards: ArrayLike, *, baseline: ArrayLike | None = None) -> Any:
    r"""Compute the loss whose gradient estimates the gradient of the negative expected reward.

    .. math:: L = -\frac1n \sum_{i=1}^{n} (r_i - b_i) \log q(y_i), \qquad
        \mathbb{E}_{y_i \sim q} \nabla L = -\nabla \, \mathbb{E}_{y \sim q}[r(y)]

    Its value means nothing; its gradient does. A baseline that does not depend on what was drawn leaves the expected
    gradient as it is and lowers its variance.

    Parameters
    ----------
    log_probs : array_like, shape (...)
        Log-probabilities (nats) of the sequences or tokens that the model itself drew; floating point.
    rewards : array_like, shape (...)
        What each earned. Constants.
    baseline : float or array_like, optional
        What was to be expected, a number or anything that broadcasts to the rewards; 0 by default. A constant. The mean
        reward of the same n draws shrinks the expected gradient to (n - 1) / n of itself.

    Returns
    -------
    float
        The mean over all entries; 0.0 where there are none. An entry with no advantage costs exactly 0.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit, or a reward or baseline is not finite.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> float(ln.reinforce_loss([-1.0, -3.0], [1.0, 0.0], baseline=0.5))  # -(0.5 * -1 - 0.5 * -3) / 2
    -0.5

    References
    ----------
    Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", Machine
    Learning 8 (1992), theorem 1.
    """
    scores = _floating("log_probs", log_probs)
    earned = _constant("rewards", rewards)
    _checks.exact_shape("rewards", earned.shape, scores.shape, "one for each of the log_probs")
    refuse_first("rewards", earned, ~np.isfinite(earned), _checks.infinite)
    advantage = earned
    if baseline is not None:
        expected = _constant("baseline", baseline)
        _checks.broadcasts("baseline", expected.shape, "rewards", earned.shape)
        refuse_first("baseline", expected, ~np.isfinite(expected), _checks.infinite)
        advantage = earned - expected
    return Average(advantage, np.ones(scores.shape), "mean").value(-scores)


def minimum_risk_loss(sequence_log_probs: ArrayLike, risks: ArrayLike, *, sharpness: float = 1.0) -> Any:
    r"""Compute the expected risk of candidates under the model's distribution among them.

    .. math:: L = \sum_i q_i R_i, \qquad q_i = \frac{q(y_i)^\alpha}{\sum_k q(y_k)^\alpha}

    Parameters
    ----------
    sequence_log_probs : array_like, shape (..., N)
        Log-probabilities (nats) of N candidates for one input; floating point. Only their differences matter. A
        ``-inf`` is no candidate: it has no share at any sharpness, and its risk is not read.
    risks : array_like, shape (..., N)
        The price of each candidate, 1 - BLEU for instance. Constants.
    sharpness : float
        :math:`\alpha \ge 0`: 0 gives the mean risk, large values the risk of the most probable candidate.

    Returns
    -------
    float
        The mean over all axes but the last; NaN where all candidates of an input are ``-inf``.

    Raises
    ------
    TypeError, ValueError
        If shapes differ, there is no candidate, a candidate's risk is not finite, or `sharpness` is negative.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> round(float(ln.minimum_risk_loss(np.log([0.03, 0.01]), [0.0, 1.0])), 6)  # the second's share is 1 / 4
    0.25
    >>> round(float(ln.minimum_risk_loss(np.log([0.03, 0.01]), [0.0, 1.0], sharpness=2.0)), 6)  # 1 / 10
    0.1

    References
    ----------
    Shen et al., "Minimum risk training for neural machine translation", ACL (2016), section 3.
    """
    sharpness = _checks.non_negative("sharpness", sharpness)
    scores = _floating("sequence_log_probs", sequence_log_probs)
    prices = _constant("risks", risks)
    _checks.candidates("sequence_log_probs", scores.shape)
    _checks.exact_shape("risks", prices.shape, scores.shape, "one for each candidate")
    absent = np.isneginf(scores)
    refuse_first("risks", prices, ~(np.isfinite(prices) | absent), _checks.infinite)
    with np.errstate(all="ignore"):  # -inf - -inf: an input without candidates gives NaN
        # The difference first: it is exact where scores are close, and cannot overflow to a tie when sharpened.
        sharpened = np.where(absent, -np.inf, sharpness * (scores - scores.max(axis=-1, keepdims=True)))
        shares = softmax(sharpened.astype(scores.dtype, copy=False))
        expected = (shares * np.where(absent, 0, prices)).sum(axis=-1).astype(scores.dtype)
    return Average(np.ones(expected.shape), np.ones(expected.shape), "mean").value(expected)


def dpo_loss(
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    r"""Compute the direct preference loss of pairs of answers, one chosen and one rejected.

    .. math:: \ell = -(1 - \varepsilon) \log \sigma(h) - \varepsilon \log \sigma(-h), \qquad
        h = \beta \Bigl(\log \frac{\pi(y^+)}{\pi_\text{ref}(y^+)} - \log \frac{\pi(y^-)}{\pi_\text{ref}(y^-)}\Bigr)

    Parameters
    ----------
    policy_chosen, policy_rejected : array_like, shape (...)
        Log-probabilities (nats) of whole answers under the model that is trained, as `sequence_log_prob` gives them.
    reference_chosen, reference_rejected : array_like, shape (...)
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
    float or ndarray, shape (...)
        In nats; log 2 where the model does not differ from its reference, 0.0 where there is no pair. NaN where an
        answer is impossible (``-inf``) under both models: that has no ratio.

    Raises
    ------
    TypeError, ValueError
        If shapes differ, an input is not floating point, or a parameter is out of its range.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> round(float(ln.dpo_loss([-40.0], [-60.0], [-45.0], [-55.0])), 4)  # log(1 + exp(-0.1 * 10))
    0.3133

    References
    ----------
    Rafailov et al., "Direct preference optimization: Your language model is secretly a reward model", NeurIPS (2023),
    equation 7; smoothing: Mitchell, "A note on DPO with noisy preferences and relationship to IPO" (2023).
    """
    beta = _checks.non_negative("beta", beta)
    label_smoothing = _checks.fraction("label_smoothing", label_smoothing)
    _checks.choice("reduction", reduction, ("mean", "sum", "none"))
    chosen, rejected = _floating("policy_chosen", policy_chosen), _floating("policy_rejected", policy_rejected)
    given = _floating("reference_chosen", reference_chosen), _floating("reference_rejected", reference_rejected)
    for name, scores in zip(_checks.PAIR[1:], (rejected, *given), strict=True):
        _checks.exact_shape(name, scores.shape, chosen.shape, "the shape of policy_chosen")
    dtype = np.result_type(chosen, rejected)
    with np.errstate(all="ignore"):  # inf - inf: an answer that is impossible under both models
        # Ratios first: where policy and reference are close, each of these differences is exact.
        gap = (chosen - given[0]) - (rejected - given[1])
        margin = beta * (gap if beta > 0 else np.where(np.isinf(gap), 0, gap))
        losses = np.zeros(chosen.shape)
        for weight, sign in ((1 - label_smoothing, -1), (label_smoothing, 1)):
            if weight:  # a term of no weight is left out, infinite or not
                losses = losses + weight * np.logaddexp(0, sign * margin)  # softplus(-h) = -log sigmoid(h)
    ones = np.ones(chosen.shape)
    return Average(ones, ones, reduction).value(losses.astype(dtype))


def _floating(name: str, values: ArrayLike) -> Array:
    """Return log-probabilities in the loss dtype, refused unless floating point."""
    array = np.asarray(values)
    _checks.floating(name, kind(array), array.dtype)
    return array.astype(loss_dtype(array.dtype), copy=False)


def _constant(name: str, values: ArrayLike) -> Array:
    """Return real numbers as float64."""
    array = np.asarray(values)
    _checks.real(name, kind(array), array.dtype)
    return array.astype(np.float64)
