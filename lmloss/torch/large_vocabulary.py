"""Large vocabularies: two softmaxes that score a class without scoring all, and two losses that sample the others."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lmloss import _checks
from lmloss._huffman import huffman_ways
from lmloss.torch._candidates import Candidates, rows_of, score_candidates
from lmloss.torch._tensors import (
    as_classes,
    as_hidden,
    as_matrix,
    as_tensor,
    kind,
    loss_dtype,
    reads_values,
    refuse_first,
    without_autocast,
)
from lmloss.torch.cross_entropy import cross_entropy


class HuffmanTree(NamedTuple):
    """A binary tree of V classes, written as each class's way down from the root; `huffman_tree` builds one.

    Parameters
    ----------
    nodes : Tensor of int, shape (V, depth)
        The inner nodes on the way; 0 is the root.
    turns : Tensor of int8, shape (V, depth)
        The turn taken at each: 1 or -1, and 0 after the way's end.
    lengths : Tensor of int, shape (V,)
        How many nodes are on the way.

    Examples
    --------
    >>> import lmloss.torch as lt
    >>> nodes, turns, lengths = lt.huffman_tree([4, 2, 1, 1])
    >>> lengths
    tensor([1, 2, 3, 3])
    """

    nodes: Tensor
    turns: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str) -> "HuffmanTree":
        """Return the tree on a device."""
        return HuffmanTree(*(tensor.to(device) for tensor in self))


def huffman_tree(counts: Tensor | Sequence[float]) -> HuffmanTree:
    r"""Build the binary tree that puts frequent classes near the root: Huffman's, for their counts.

    With :math:`p_j` the share of class j in the counts and :math:`l_j` the length of its way from the root, no binary
    tree has a smaller mean length :math:`\bar l = \sum_j p_j l_j`, and

    .. math:: H_2(p) \le \bar l < H_2(p) + 1, \qquad \sum_j 2^{-l_j} = 1

    with :math:`H_2` the entropy in bits. Where counts are 0, the second bound may be reached: a class that has all the
    counts still needs a turn to be told from one that has none.

    Parameters
    ----------
    counts : Tensor or sequence of numbers, shape (V,)
        How often each class occurs, or its probability: finite, not negative, not all 0. A count of 0 is a class like
        any other, far from the root.

    Returns
    -------
    HuffmanTree
        The named tuple ``(nodes, turns, lengths)``, on the device of the counts; ``.to(device)`` moves it. Equal counts
        give the same tree on every machine: of trees of equal weight the older is joined first. The tree is built on
        the CPU.

    Raises
    ------
    TypeError, ValueError
        If the counts are no such numbers, have not one axis, or are on the ``meta`` device, which holds no values.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> tree = lt.huffman_tree(torch.tensor([4, 2, 1, 1]))
    >>> tree.lengths
    tensor([1, 2, 3, 3])
    >>> tree.nodes[3], tree.turns[3]
    (tensor([0, 1, 2]), tensor([-1, -1, -1], dtype=torch.int8))

    References
    ----------
    Huffman, "A method for the construction of minimum-redundancy codes", Proceedings of the IRE 40 (1952); for words:
    Mikolov et al., "Distributed representations of words and phrases and their compositionality", NIPS (2013), section
    2.1.
    """
    tensor = _as_counts(counts)
    _checks.real("counts", kind(tensor), tensor.dtype)
    _checks.class_axis("counts", tuple(tensor.shape))
    _checks.exact_shape("counts", tuple(tensor.shape), tuple(tensor.shape[-1:]), "one count for each class")
    if tensor.is_meta:
        raise ValueError("counts are on the meta device, where there are no values to build a tree from")
    numbers = tensor.to(torch.float64)  # to look at; the tree is built from the counts themselves
    refuse_first("counts", tensor, ~(torch.isfinite(numbers) & (numbers >= 0)), _checks.weight)
    if not numbers.any():
        raise ValueError(_checks.all_zero("counts"))
    steps = torch.tensor(huffman_ways(tensor.tolist()), dtype=torch.int64, device="cpu")
    nodes = (steps.abs() - 1).clamp(min=0)
    return HuffmanTree(nodes, steps.sign().to(torch.int8), (steps != 0).sum(-1)).to(tensor.device)


def hierarchical_log_prob(hidden: Tensor, node_weight: Tensor, tree: HuffmanTree, targets: Tensor) -> Tensor:
    r"""Compute the log-probability of classes as a walk down a tree: one coin for each turn.

    With :math:`n_1, \dots, n_l` the inner nodes on the way to class y and :math:`s_k = \pm 1` the turns,

    .. math:: \log q_y = \sum_{k=1}^{l} \log \sigma(s_k \, v_{n_k} \cdot h)

    Of the V - 1 nodes only those on the way count: on average fewer than the entropy of the classes in bits, plus 1,
    where the tree is Huffman's.

    Parameters
    ----------
    hidden : Tensor, shape (..., H)
        Floating point, on any device.
    node_weight : Tensor, shape (V - 1, H)
        The vector :math:`v` of each inner node. Zeros make each turn a fair coin: :math:`q_y = 2^{-l}`.
    tree : HuffmanTree
        As `huffman_tree` builds it. It is copied to the device of `hidden` where it is not there.
    targets : Tensor, shape (...)
        Classes, of any integer dtype; none is ignored. Looked at on the CPU only, where it costs no synchronisation.

    Returns
    -------
    Tensor, shape (...)
        In nats; computed in float64 where an input is float64, in float32 where all are narrower, under autocast too.
        0 where V = 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Notes
    -----
    The probabilities of all V classes sum to 1: at each node the two turns have :math:`\sigma(x) + \sigma(-x) = 1`, so
    that what arrives at a node leaves it, and all that leaves the root arrives at the leaves.

    .. math:: \frac{\partial \log q_y}{\partial h} = \sum_k s_k \, \sigma(-s_k \, v_{n_k} \cdot h) \, v_{n_k}, \qquad
        \frac{\partial \log q_y}{\partial v_{n_k}} = s_k \, \sigma(-s_k \, v_{n_k} \cdot h) \, h

    The ways are filled up to the longest one, so that a batch is one rectangle ``(..., depth, H)``: every token reads
    as many rows as the rarest class needs, for words about twice the mean way. Counts that keep halving from class to
    class make a tree of V - 1 levels and a table of V times as many; raise the smallest counts before it is built.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> tree = lt.huffman_tree(torch.tensor([4, 2, 1, 1]))
    >>> hidden, node_weight = torch.ones(4, 2), torch.zeros(3, 2)
    >>> lt.hierarchical_log_prob(hidden, node_weight, tree, torch.arange(4)).exp()
    tensor([0.5000, 0.2500, 0.1250, 0.1250])

    References
    ----------
    Morin & Bengio, "Hierarchical probabilistic neural network language model", AISTATS (2005); this form: Mikolov et
    al., NIPS (2013), equation 3.
    """
    h = as_hidden(hidden)
    v = as_matrix("node_weight", node_weight, h)
    if not isinstance(tree, HuffmanTree):
        raise TypeError(_checks.no_tree("lmloss.torch", tree))
    classes, given = len(tree.lengths), as_tensor("targets", targets).detach()
    why = f"one row for each inner node of the tree of {classes} classes, as wide as hidden"
    _checks.exact_shape("node_weight", tuple(v.shape), (classes - 1, h.shape[-1]), why)
    _checks.integer("targets", kind(given), given.dtype)
    _checks.together("targets", given.device, "hidden", h.device)
    _checks.exact_shape("targets", tuple(given.shape), tuple(h.shape[:-1]), "one class for each row of hidden")
    y = as_classes(given)
    if reads_values(None, y):
        refuse_first("targets", given, (y < 0) | (y >= classes), _checks.outside, classes=classes)

    dtype, tree = loss_dtype(torch.promote_types(h.dtype, v.dtype)), tree.to(h.device)
    nodes, turns = tree.nodes[y], tree.turns[y]
    with without_autocast(h):
        scores = (rows_of(v, nodes, dtype) @ h.to(dtype)[..., None])[..., 0]
    turned = torch.where(turns < 0, -scores, scores)  # no product: 0 * inf behind a way's end would reach the gradient
    return torch.where(turns == 0, 0, logsigmoid(turned)).sum(-1)


def adaptive_log_prob(
    hidden: Tensor, head: Tensor, tails: Sequence[tuple[Tensor, Tensor]], cutoffs: Sequence[int]
) -> Tensor:
    r"""Compute all log-probabilities of the adaptive softmax: first the cluster of the class, then the class in it.

    The head scores the :math:`c_1` first (most frequent) classes and, as one class each, the clusters of all others.
    Cluster i holds the classes from cutoff :math:`c_i` to the next, and reads a projection of the hidden state.

    .. math:: \log q_j = \begin{cases} \log \operatorname{softmax}(W h)_j & j < c_1 \\
        \log \operatorname{softmax}(W h)_{c_1 + i - 1}
        + \log \operatorname{softmax}(U_i P_i h)_{j - c_i} & c_i \le j < c_{i+1} \end{cases}

    Parameters
    ----------
    hidden : Tensor, shape (..., H)
        Floating point, on any device.
    head : Tensor, shape (cutoffs[0] + len(tails), H)
        :math:`W`: the frequent classes, then the clusters in order.
    tails : sequence of pairs (projection, output)
        For each cluster :math:`P_i` `(H_i, H)` and :math:`U_i` `(size of the cluster, H_i)`.
    cutoffs : sequence of int
        The first class of each cluster, increasing. The vocabulary's size is not among them.

    Returns
    -------
    Tensor, shape (..., V)
        In nats; V is the last cutoff plus the size of the last cluster. Computed in float64 where an input is float64,
        in float32 where all are narrower, under autocast too.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Notes
    -----
    What is scored is the chain rule: the loss of class j is the cross-entropy of the head plus that of its cluster. So
    is the gradient, softmax minus one-hot in each of the two, and 0 in the clusters that j is not in.
    :class:`~lmloss.torch.AdaptiveSoftmax` computes the loss that way.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> hidden, head = torch.ones(1, 2), torch.zeros(3, 2)  # 2 classes and 1 cluster of 4, all alike
    >>> tails = [(torch.zeros(1, 2), torch.zeros(4, 1))]
    >>> lt.adaptive_log_prob(hidden, head, tails, [2]).exp()
    tensor([[0.3333, 0.3333, 0.0833, 0.0833, 0.0833, 0.0833]])

    References
    ----------
    Grave, Joulin, Cissé, Grangier & Jégou, "Efficient softmax approximation for GPUs", ICML (2017), section 4.
    """
    h = as_hidden(hidden)
    w = as_matrix("head", head, h)
    cuts = _checks.cutoffs(cutoffs)
    pairs = [
        (as_matrix(f"tails[{i}][0]", projection, h), as_matrix(f"tails[{i}][1]", output, h))
        for i, (projection, output) in enumerate(_checks.tails(tails, len(cuts)))
    ]
    _checks.head_and_tails(h.shape[-1], tuple(w.shape), [(tuple(p.shape), tuple(u.shape)) for p, u in pairs], cuts)

    h, w, pairs = widened(h, w, pairs)
    with without_autocast(h):
        first = torch.log_softmax(h @ w.mT, dim=-1)
        parts = [first[..., : cuts[0]]]
        for i, (projection, output) in enumerate(pairs):
            inner = torch.log_softmax(h @ projection.mT @ output.mT, dim=-1)
            parts.append(first[..., cuts[0] + i, None] + inner)
    return torch.cat(parts, dim=-1)


def sampled_softmax_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    num_samples: int,
    sampling_probs: Tensor,
    bias: Tensor | None = None,
    rng: torch.Generator | None = None,
    ignore_index: int | None = -100,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
) -> Tensor:
    r"""Estimate the cross-entropy over a large vocabulary from the target and a sample of the other classes.

    With :math:`z_j = w_j \cdot h + b_j` and classes :math:`s_1, \dots, s_S` drawn from :math:`\nu`, one sample for all
    tokens of the call,

    .. math:: \ell = -z_y + \log \hat Z, \qquad
        \hat Z = e^{z_y} + \frac1S \sum_{i=1}^{S} [\,s_i \ne y\,] \, \frac{e^{z_{s_i}}}{\nu_{s_i}}

    which is the cross-entropy of the logits :math:`z_y` and :math:`z_{s_i} - \log(S \nu_{s_i})`, those of samples that
    hit the target left out.

    Parameters
    ----------
    hidden : Tensor, shape (..., H)
        Floating point, on any device.
    weight : Tensor, shape (V, H)
        One row for each class. Only those of targets and samples enter the loss, but the gradient has the shape of all,
        and a half-precision weight that needs one is widened as a whole.
    targets : Tensor, shape (...)
        Classes, of any integer dtype.
    num_samples : int
        :math:`S`, at least 1.
    sampling_probs : Tensor, shape (V,)
        :math:`\nu`, a distribution without zeros: classes are drawn from it independently, with repetition. A constant;
        looked at on the CPU only, where it costs no synchronisation.
    bias : Tensor, shape (V,), optional
        A ``-inf`` is a class of probability 0.
    rng : torch.Generator, optional
        The source of randomness, on any device; the same state gives the same sample. PyTorch's own by default, the
        only one that `torch.compile` follows without a break; `torch.vmap` asks which ``randomness`` is meant.
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
        In nats; computed in float64 where `hidden`, `weight` or `bias` is float64, in float32 where all are narrower,
        under autocast too. 0.0 where there is nothing to average.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Notes
    -----
    :math:`\hat Z` estimates :math:`Z = \sum_j e^{z_j}` without bias: each sample contributes in expectation
    :math:`\sum_j \nu_j [\,j \ne y\,] e^{z_j} / \nu_j`, that is
    :math:`Z - e^{z_y}`. The logarithm is concave, so that the loss is on
    average below the full one (Jensen), by about :math:`\operatorname{Var}(\hat Z) / 2 Z^2`, which falls as
    :math:`1 / S`. Compare models by the full loss. `sampling_probs` near the model's own distribution, often the
    frequencies of the classes, make the variance small.

    The gradient is that of a cross-entropy. With :math:`\hat q` the softmax over target and samples,

    .. math:: \frac{\partial \ell}{\partial h} = \sum_c \hat q_c w_c - w_y, \qquad
        \frac{\partial \ell}{\partial w_y} = (\hat q_y - 1) \, h, \qquad
        \frac{\partial \ell}{\partial w_{s_i}} = \hat q_{s_i} h

    TensorFlow's function of this name subtracts the logarithm of the expected count from :math:`z_y` too. The target
    then counts as one of the candidates drawn, and the sum is no estimate of :math:`Z`.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> hidden, weight = torch.ones(3, 4), torch.zeros(1000, 4)  # equal logits: log 1000 = 6.9078
    >>> targets, uniform = torch.tensor([1, 2, 3]), torch.full((1000,), 1 / 1000)
    >>> rng = torch.Generator().manual_seed(0)
    >>> lt.sampled_softmax_loss(hidden, weight, targets, num_samples=20, sampling_probs=uniform, rng=rng)
    tensor(6.9088)

    References
    ----------
    Bengio & Senécal, "Quick training of probabilistic neural nets by importance sampling", AISTATS (2003); Jean, Cho,
    Memisevic & Bengio, "On using very large target vocabulary for neural machine translation", ACL (2015), section 3.
    """
    candidates = score_candidates(
        hidden, weight, targets, num_samples, sampling_probs, bias, rng,
        ignore_index=ignore_index, token_weight=token_weight, reduction=reduction, denominator=denominator,
    )  # fmt: skip
    return candidates.average.value(_sampled_softmax_losses(candidates))


def nce_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    num_samples: int,
    sampling_probs: Tensor,
    bias: Tensor | None = None,
    rng: torch.Generator | None = None,
    ignore_index: int | None = -100,
    token_weight: Tensor | None = None,
    reduction: str = "mean",
    denominator: float | Tensor | None = None,
) -> Tensor:
    r"""Compute the noise-contrastive loss: how well the logits tell the target from classes drawn from noise.

    With :math:`z_j = w_j \cdot h + b_j`, samples :math:`s_1, \dots, s_S` drawn from :math:`\nu`, one set for all tokens
    of the call, and :math:`\Delta_j = z_j - \log(S \nu_j)`,

    .. math:: \ell = -\log \sigma(\Delta_y) - \sum_{i=1}^{S} \log \sigma(-\Delta_{s_i})

    A sample that hits the target stays in: noise may look like data.

    Parameters
    ----------
    hidden, weight, targets, num_samples, sampling_probs, bias, rng
        As in `sampled_softmax_loss`.
    ignore_index, token_weight, reduction, denominator
        As in `sampled_softmax_loss`.

    Returns
    -------
    Tensor
        In nats, but of a choice between data and noise: not comparable with a cross-entropy. The dtype is that of
        `sampled_softmax_loss`; 0.0 where there is nothing to average.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Notes
    -----
    For targets from :math:`p` the expected loss is

    .. math:: \mathbb{E}\,\ell = \sum_j \bigl( p_j \operatorname{softplus}(-\Delta_j)
        + S \nu_j \operatorname{softplus}(\Delta_j) \bigr), \qquad
        \frac{\partial\, \mathbb{E}\,\ell}{\partial z_j} = S \nu_j \, \sigma(\Delta_j) - p_j \, \sigma(-\Delta_j)

    with one stationary point, :math:`e^{\Delta_j} = p_j / S \nu_j`, which is :math:`z_j = \log p_j`: the best logits
    are normalised by themselves, whatever S and the noise, and no sum over the vocabulary is ever taken. For one token,

    .. math:: \frac{\partial \ell}{\partial h} = \sum_i \sigma(\Delta_{s_i}) \, w_{s_i} - \sigma(-\Delta_y) \, w_y

    and likewise with :math:`h` in place of the :math:`w` for the gradient of each row of `weight`.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> hidden, weight, targets = torch.ones(3, 4), torch.zeros(1000, 4), torch.tensor([1, 2, 3])
    >>> uniform = torch.full((1000,), 1 / 1000)
    >>> model = uniform.log()  # a model equal to the noise
    >>> lt.nce_loss(hidden, weight, targets, num_samples=1, sampling_probs=uniform, bias=model)  # log 2 for each of two
    tensor(1.3863)

    References
    ----------
    Gutmann & Hyvärinen, "Noise-contrastive estimation: A new estimation principle for unnormalized statistical models",
    AISTATS (2010); for language models: Mnih & Teh, "A fast and simple algorithm for training neural probabilistic
    language models", ICML (2012).
    """
    candidates = score_candidates(
        hidden, weight, targets, num_samples, sampling_probs, bias, rng,
        ignore_index=ignore_index, token_weight=token_weight, reduction=reduction, denominator=denominator,
    )  # fmt: skip
    return candidates.average.value(_nce_losses(candidates))


def _as_counts(counts: object) -> Tensor:
    """Return counts as a tensor; numbers that are in none become one on the CPU, wide enough."""
    if isinstance(counts, Tensor):
        return counts.detach()
    numbers: Any = counts.tolist() if hasattr(counts, "tolist") else counts  # of an array, whatever its strides
    try:
        wide = torch.as_tensor(numbers, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"counts must be a torch.Tensor or numbers, not {type(counts).__name__}") from None
    try:
        tensor = torch.as_tensor(numbers, device="cpu")
    except (ValueError, RuntimeError):  # integers beyond int64, decimals
        return wide
    return wide if tensor.is_floating_point() else tensor


def _sampled_softmax_losses(c: Candidates) -> Tensor:
    others = torch.where(c.hits, -torch.inf, c.samples - c.sample_log_counts)
    logits = torch.cat((c.target[..., None], others), dim=-1)
    places = torch.zeros_like(c.target, dtype=torch.int64)
    losses = cross_entropy(logits, places, reduction="none", validate=False)
    return torch.where((logits == -torch.inf).all(-1), torch.inf, losses)  # an impossible target


def _nce_losses(c: Candidates) -> Tensor:
    data = logsigmoid(c.target - c.target_log_count)
    noise = logsigmoid(c.sample_log_counts - c.samples)
    return 0.0 - data - noise.sum(-1)


def widened(
    hidden: Tensor, head: Tensor, tails: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Return hidden states, head and tails in one dtype, the loss's."""
    dtype = loss_dtype(torch.promote_types(hidden.dtype, head.dtype))
    for pair in tails:
        for matrix in pair:
            dtype = torch.promote_types(dtype, matrix.dtype)
    return hidden.to(dtype), head.to(dtype), [(projection.to(dtype), output.to(dtype)) for projection, output in tails]
