"""Large vocabularies: two softmaxes that score a class without scoring all, and two losses that sample the others."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss._huffman import huffman_ways
from lmloss.numpy._arrays import Array, as_hidden, as_matrix, kind, loss_dtype, refuse_first
from lmloss.numpy._candidates import Candidates, score_candidates
from lmloss.numpy.cross_entropy import cross_entropy
from lmloss.numpy.softmax import log_softmax


class HuffmanTree(NamedTuple):
    """A binary tree of V classes, written as each class's way down from the root; `huffman_tree` builds one.

    Parameters
    ----------
    nodes : ndarray of int, shape (V, depth)
        The inner nodes on the way; 0 is the root.
    turns : ndarray of int8, shape (V, depth)
        The turn taken at each: 1 or -1, and 0 after the way's end.
    lengths : ndarray of int, shape (V,)
        How many nodes are on the way.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> nodes, turns, lengths = ln.huffman_tree([4, 2, 1, 1])
    >>> lengths
    array([1, 2, 3, 3])
    """

    nodes: Array
    turns: Array
    lengths: Array


def huffman_tree(counts: ArrayLike) -> HuffmanTree:
    r"""Build the binary tree that puts frequent classes near the root: Huffman's, for their counts.

    With :math:`p_j` the share of class j in the counts and :math:`l_j` the length of its way from the root, no binary
    tree has a smaller mean length :math:`\bar l = \sum_j p_j l_j`, and

    .. math:: H_2(p) \le \bar l < H_2(p) + 1, \qquad \sum_j 2^{-l_j} = 1

    with :math:`H_2` the entropy in bits. Where counts are 0, the second bound may be reached: a class that has all the
    counts still needs a turn to be told from one that has none.

    Parameters
    ----------
    counts : array_like, shape (V,)
        How often each class occurs, or its probability: finite, not negative, not all 0. A count of 0 is a class like
        any other, far from the root.

    Returns
    -------
    HuffmanTree
        The named tuple ``(nodes, turns, lengths)``. Equal counts give the same tree on every machine: of trees of equal
        weight the older is joined first.

    Raises
    ------
    TypeError, ValueError
        If the counts are no such numbers, or have not one axis.

    Examples
    --------
    >>> import lmloss.numpy as ln
    >>> tree = ln.huffman_tree([4, 2, 1, 1])
    >>> tree.lengths
    array([1, 2, 3, 3])
    >>> tree.nodes[3], tree.turns[3]
    (array([0, 1, 2]), array([-1, -1, -1], dtype=int8))

    References
    ----------
    Huffman, "A method for the construction of minimum-redundancy codes", Proceedings of the IRE 40 (1952); for words:
    Mikolov et al., "Distributed representations of words and phrases and their compositionality", NIPS (2013), section
    2.1.
    """
    array = np.asarray(counts)
    if array.dtype == object:  # integers beyond int64, decimals; what is no number stays what it is
        with suppress(TypeError, ValueError, OverflowError):
            array = array.astype(np.float64)
    _checks.real("counts", kind(array), array.dtype)
    _checks.class_axis("counts", array.shape)
    _checks.exact_shape("counts", array.shape, array.shape[-1:], "one count for each class")
    refuse_first("counts", array, ~(np.isfinite(array) & (array >= 0)), _checks.weight)
    if not array.any():
        raise ValueError(_checks.all_zero("counts"))
    steps = np.array(huffman_ways(array.tolist()), np.intp)
    return HuffmanTree(np.maximum(np.abs(steps) - 1, 0), np.sign(steps).astype(np.int8), (steps != 0).sum(axis=-1))


def hierarchical_log_prob(hidden: ArrayLike, node_weight: ArrayLike, tree: HuffmanTree, targets: ArrayLike) -> Any:
    r"""Compute the log-probability of classes as a walk down a tree: one coin for each turn.

    With :math:`n_1, \dots, n_l` the inner nodes on the way to class y and :math:`s_k = \pm 1` the turns,

    .. math:: \log q_y = \sum_{k=1}^{l} \log \sigma(s_k \, v_{n_k} \cdot h)

    Of the V - 1 nodes only those on the way count: on average fewer than the entropy of the classes in bits, plus 1,
    where the tree is Huffman's.

    Parameters
    ----------
    hidden : array_like, shape (..., H)
        Floating point.
    node_weight : array_like, shape (V - 1, H)
        The vector :math:`v` of each inner node. Zeros make each turn a fair coin: :math:`q_y = 2^{-l}`.
    tree : HuffmanTree
        As `huffman_tree` builds it.
    targets : array_like, shape (...)
        Classes, of any integer dtype; none is ignored.

    Returns
    -------
    float or ndarray, shape (...)
        In nats; computed in float64 where an input is float64, in float32 where all are narrower. 0 where V = 1.

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
    >>> import numpy as np, lmloss.numpy as ln
    >>> tree = ln.huffman_tree([4, 2, 1, 1])
    >>> hidden, node_weight = np.ones((4, 2)), np.zeros((3, 2))
    >>> np.exp(ln.hierarchical_log_prob(hidden, node_weight, tree, [0, 1, 2, 3])).round(3)
    array([0.5  , 0.25 , 0.125, 0.125])

    References
    ----------
    Morin & Bengio, "Hierarchical probabilistic neural network language model", AISTATS (2005); this form:
    Mikolov et al., NIPS (2013), equation 3.
    """
    h, v = as_hidden(hidden), as_matrix("node_weight", node_weight)
    if not isinstance(tree, HuffmanTree):
        raise TypeError(_checks.no_tree("lmloss.numpy", tree))
    classes, y = len(tree.lengths), np.asarray(targets)
    why = f"one row for each inner node of the tree of {classes} classes, as wide as hidden"
    _checks.exact_shape("node_weight", v.shape, (classes - 1, h.shape[-1]), why)
    _checks.integer("targets", kind(y), y.dtype)
    _checks.exact_shape("targets", y.shape, h.shape[:-1], "one class for each row of hidden")
    refuse_first("targets", y, (y < 0) | (y >= classes), _checks.outside, classes=classes)

    dtype = loss_dtype(np.result_type(h, v))
    nodes, turns = tree.nodes[y], tree.turns[y]
    with np.errstate(all="ignore"):  # an infinite or undefined entry shows in the result
        scores = (v[nodes].astype(dtype, copy=False) @ h.astype(dtype, copy=False)[..., None])[..., 0]
        steps = np.where(turns == 0, 0, -np.logaddexp(0, -turns * scores))
    return steps.sum(axis=-1, dtype=np.float64).astype(dtype)


def adaptive_log_prob(
    hidden: ArrayLike, head: ArrayLike, tails: Sequence[tuple[ArrayLike, ArrayLike]], cutoffs: Sequence[int]
) -> Array:
    r"""Compute all log-probabilities of the adaptive softmax: first the cluster of the class, then the class in it.

    The head scores the :math:`c_1` first (most frequent) classes and, as one class each, the clusters of all others.
    Cluster i holds the classes from cutoff :math:`c_i` to the next, and reads a projection of the hidden state.

    .. math:: \log q_j = \begin{cases} \log \operatorname{softmax}(W h)_j & j < c_1 \\
        \log \operatorname{softmax}(W h)_{c_1 + i - 1}
        + \log \operatorname{softmax}(U_i P_i h)_{j - c_i} & c_i \le j < c_{i+1} \end{cases}

    Parameters
    ----------
    hidden : array_like, shape (..., H)
        Floating point.
    head : array_like, shape (cutoffs[0] + len(tails), H)
        :math:`W`: the frequent classes, then the clusters in order.
    tails : sequence of pairs (projection, output)
        For each cluster :math:`P_i` `(H_i, H)` and :math:`U_i` `(size of the cluster, H_i)`.
    cutoffs : sequence of int
        The first class of each cluster, increasing. The vocabulary's size is not among them.

    Returns
    -------
    ndarray, shape (..., V)
        In nats; V is the last cutoff plus the size of the last cluster. Computed in float64 where an input is float64,
        in float32 where all are narrower.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Notes
    -----
    What is scored is the chain rule: the loss of class j is the cross-entropy of the head plus that of its cluster. So
    is the gradient, softmax minus one-hot in each of the two, and 0 in the clusters that j is not in.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> hidden, head = np.ones((1, 2)), np.zeros((3, 2))  # 2 classes and 1 cluster of 4, all alike
    >>> tails = [(np.zeros((1, 2)), np.zeros((4, 1)))]
    >>> np.exp(ln.adaptive_log_prob(hidden, head, tails, [2])).round(4)
    array([[0.3333, 0.3333, 0.0833, 0.0833, 0.0833, 0.0833]])

    References
    ----------
    Grave, Joulin, Cissé, Grangier & Jégou, "Efficient softmax approximation for GPUs", ICML (2017), section 4.
    """
    h, w = as_hidden(hidden), as_matrix("head", head)
    cuts = _checks.cutoffs(cutoffs)
    pairs = [
        (as_matrix(f"tails[{i}][0]", projection), as_matrix(f"tails[{i}][1]", output))
        for i, (projection, output) in enumerate(_checks.tails(tails, len(cuts)))
    ]
    _checks.head_and_tails(h.shape[-1], w.shape, [(p.shape, u.shape) for p, u in pairs], cuts)

    dtype = loss_dtype(np.result_type(h, w, *(matrix for pair in pairs for matrix in pair)))
    h = h.astype(dtype, copy=False)
    with np.errstate(all="ignore"):
        first = log_softmax(h @ w.astype(dtype, copy=False).T)
        parts = [first[..., : cuts[0]]]
        for i, (projection, output) in enumerate(pairs):
            inner = h @ projection.astype(dtype, copy=False).T @ output.astype(dtype, copy=False).T
            parts.append(first[..., cuts[0] + i, None] + log_softmax(inner))
    return np.concatenate(parts, axis=-1)


def sampled_softmax_loss(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    num_samples: int,
    sampling_probs: ArrayLike,
    bias: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
    ignore_index: int | None = -100,
    token_weight: ArrayLike | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
) -> Any:
    r"""Estimate the cross-entropy over a large vocabulary from the target and a sample of the other classes.

    With :math:`z_j = w_j \cdot h + b_j` and classes :math:`s_1, \dots, s_S` drawn from :math:`\nu`, one sample for all
    tokens of the call,

    .. math:: \ell = -z_y + \log \hat Z, \qquad
        \hat Z = e^{z_y} + \frac1S \sum_{i=1}^{S} [\,s_i \ne y\,] \, \frac{e^{z_{s_i}}}{\nu_{s_i}}

    which is the cross-entropy of the logits :math:`z_y` and :math:`z_{s_i} - \log(S \nu_{s_i})`, those of samples that
    hit the target left out.

    Parameters
    ----------
    hidden : array_like, shape (..., H)
        Floating point.
    weight : array_like, shape (V, H)
        One row for each class. Only those of targets and samples are read.
    targets : array_like, shape (...)
        Classes, of any integer dtype.
    num_samples : int
        :math:`S`, at least 1.
    sampling_probs : array_like, shape (V,)
        :math:`\nu`, a distribution without zeros: classes are drawn from it independently, with repetition.
    bias : array_like, shape (V,), optional
        A ``-inf`` is a class of probability 0.
    rng : numpy.random.Generator, optional
        The source of randomness; the same state gives the same sample. A fresh one by default.
    ignore_index : int or None
        Tokens with this target cost exactly 0 and do not count; None ignores nothing.
    token_weight : array_like, shape (...), optional
        Weight of each token, at least 0.
    reduction : {"mean", "sum", "none", "sequence"}
        As in `cross_entropy`.
    denominator : float, optional
        Divide the sum by this instead: with ``reduction="mean"``, the number of tokens of a whole step.

    Returns
    -------
    float or ndarray
        In nats; computed in float64 where `hidden`, `weight` or `bias` is float64, in float32 where all are narrower.
        0.0 where there is nothing to average.

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
    >>> import numpy as np, lmloss.numpy as ln
    >>> hidden, weight = np.ones((3, 4)), np.zeros((1000, 4))  # equal logits: log 1000 = 6.9078
    >>> uniform, rng = np.full(1000, 1 / 1000), np.random.default_rng(1)
    >>> loss = ln.sampled_softmax_loss(hidden, weight, [1, 2, 3], num_samples=20, sampling_probs=uniform, rng=rng)
    >>> round(float(loss), 4)  # a sample without the targets gives 1 + 1000
    6.9088

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
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    num_samples: int,
    sampling_probs: ArrayLike,
    bias: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
    ignore_index: int | None = -100,
    token_weight: ArrayLike | None = None,
    reduction: str = "mean",
    denominator: float | None = None,
) -> Any:
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
    float or ndarray
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
    >>> import numpy as np, lmloss.numpy as ln
    >>> hidden, weight = np.ones((3, 4)), np.zeros((1000, 4))
    >>> log_uniform, uniform = np.full(1000, -np.log(1000)), np.full(1000, 1 / 1000)  # a model equal to the noise
    >>> loss = ln.nce_loss(hidden, weight, [1, 2, 3], num_samples=1, sampling_probs=uniform, bias=log_uniform)
    >>> round(float(loss), 4)  # twice log 2: each of two is data or noise with equal chances
    1.3863

    References
    ----------
    Gutmann & Hyvärinen, "Noise-contrastive estimation: A new estimation principle for unnormalized statistical models",
    AISTATS (2010); for language models: Mnih & Teh, "A fast and simple algorithm for training neural
    probabilistic language models", ICML (2012).
    """
    candidates = score_candidates(
        hidden, weight, targets, num_samples, sampling_probs, bias, rng,
        ignore_index=ignore_index, token_weight=token_weight, reduction=reduction, denominator=denominator,
    )  # fmt: skip
    return candidates.average.value(_nce_losses(candidates))


def _sampled_softmax_losses(c: Candidates) -> Array:
    others = np.where(c.hits, -np.inf, c.samples - c.sample_log_counts)
    logits = np.concatenate([c.target[..., None], others], axis=-1)
    losses: Array = cross_entropy(logits, np.zeros(c.target.shape, int), reduction="none")
    return np.where(np.isneginf(logits).all(axis=-1), np.inf, losses).astype(losses.dtype)  # an impossible target


def _nce_losses(c: Candidates) -> Array:
    with np.errstate(all="ignore"):  # an infinite or undefined logit shows in the result
        data = np.logaddexp(0, c.target_log_count - c.target)  # softplus(-x) = -log sigmoid(x)
        noise = np.logaddexp(0, c.samples - c.sample_log_counts)
        return np.asarray(data + noise.sum(axis=-1))
