"""Output layers for large vocabularies: modules that hold the weights, and return losses or log-probabilities."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from lmloss import _checks
from lmloss.torch._targets import read_tokens
from lmloss.torch._tensors import as_hidden, loss_dtype, traced, without_autocast
from lmloss.torch.cross_entropy import cross_entropy
from lmloss.torch.large_vocabulary import (
    HuffmanTree,
    adaptive_log_prob,
    hierarchical_log_prob,
    huffman_tree,
    widened,
)


class HierarchicalSoftmax(nn.Module):
    r"""Score classes by their way down a Huffman tree: an output layer that reads a few rows of its weight per token.

    .. math:: \ell = -\log q_y = -\sum_{k=1}^{l} \log \sigma(s_k \, v_{n_k} \cdot h)

    with the inner nodes :math:`n_k` and turns :math:`s_k = \pm 1` on the way to class y, as in
    :func:`~lmloss.torch.hierarchical_log_prob`.

    Parameters
    ----------
    in_features : int
        H, the width of the hidden states.
    counts : Tensor or sequence of numbers, shape (V,)
        How often each class occurs, from which the tree is built. The tree is part of the module's state.

    Attributes
    ----------
    node_weight : Parameter, shape (V - 1, H)
        The vectors :math:`v`, zeros at first: then class j has probability :math:`2^{-l_j}` whatever the hidden state,
        which is near its share of the counts.
    tree : HuffmanTree
        On the module's device.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> layer = lt.HierarchicalSoftmax(16, counts=torch.tensor([4, 2, 1, 1]))
    >>> hidden, targets = torch.randn(2, 3, 16), torch.tensor([[0, 0, 1], [2, 0, -100]])
    >>> layer(hidden, targets, reduction="none").detach()  # in multiples of log 2
    tensor([[0.6931, 0.6931, 1.3863],
            [2.0794, 0.6931, 0.0000]])
    >>> layer.log_prob(hidden).shape
    torch.Size([2, 3, 4])

    References
    ----------
    Morin & Bengio, "Hierarchical probabilistic neural network language model", AISTATS (2005); Mikolov et al.,
    "Distributed representations of words and phrases and their compositionality", NIPS (2013), equation 3.
    """

    nodes: Tensor
    turns: Tensor
    lengths: Tensor

    def __init__(self, in_features: int, counts: Tensor | Sequence[float]) -> None:
        super().__init__()
        self.in_features = _checks.count("in_features", in_features)
        tree = huffman_tree(counts)
        self.node_weight = nn.Parameter(torch.zeros(len(tree.lengths) - 1, self.in_features))
        for name, tensor in tree.to(self.node_weight.device)._asdict().items():
            self.register_buffer(name, tensor)

    @property
    def tree(self) -> HuffmanTree:
        """The tree that the layer walks down."""
        return HuffmanTree(self.nodes, self.turns, self.lengths)

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        ignore_index: int | None = -100,
        token_weight: Tensor | None = None,
        reduction: str = "mean",
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """Return the loss of `hidden` `(..., H)` on classes `targets` `(...)`, with the options of `cross_entropy`."""
        h = _as_wide(hidden, self.in_features)
        h, y, average = read_tokens(
            h, targets, len(self.lengths), loss_dtype(torch.promote_types(h.dtype, self.node_weight.dtype)),
            ignore_index=ignore_index, token_weight=token_weight, reduction=reduction, denominator=denominator,
        )  # fmt: skip
        return average.value(0.0 - hierarchical_log_prob(h, self.node_weight, self.tree, y))

    def log_prob(self, hidden: Tensor) -> Tensor:
        """Return the log-probabilities `(..., V)` of all classes; that takes as long as with a softmax, and longer."""
        return tree_log_probs(_as_wide(hidden, self.in_features), self.node_weight, self.tree)

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        return f"in_features={self.in_features}, vocab_size={len(self.lengths)}"


class AdaptiveSoftmax(nn.Module):
    r"""Score frequent classes in a small head and the rest in clusters: an output layer that opens few clusters.

    .. math:: \ell = -\log q_y = -\log q_{\text{cluster of } y} - \log q_{y \mid \text{cluster}}

    as in :func:`~lmloss.torch.adaptive_log_prob`; classes below the first cutoff are in the head and have the first
    term alone. Number the classes from the most frequent down.

    Parameters
    ----------
    in_features : int
        H, the width of the hidden states.
    vocab_size : int
        V, the number of classes.
    cutoffs : sequence of int
        The first class of each cluster, increasing and less than V.
    div_value : float
        Cluster i (from 1) reads a projection of :math:`\lfloor H / \mathtt{div\_value}^i \rfloor` features.

    Attributes
    ----------
    head : Linear
        From H to cutoffs[0] classes and one for each cluster.
    tail : ModuleList
        For each cluster the projection and the output, two `Linear`. The names, the shapes and the initial values are
        those of :class:`torch.nn.AdaptiveLogSoftmaxWithLoss`, so that either loads the other's ``state_dict``.

    Notes
    -----
    The loss scores each token in the head, and in the one cluster that its target needs; ignored tokens are scored
    nowhere. Which those are must be known first, which on an accelerator is a synchronisation. Under `torch.compile`,
    in transforms and on ``meta`` every cluster scores every token, for the same result.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> layer = lt.AdaptiveSoftmax(64, vocab_size=10000, cutoffs=[1000, 4000])
    >>> [tuple(matrix.shape) for matrix in layer.parameters()]
    [(1002, 64), (16, 64), (3000, 16), (4, 64), (6000, 4)]
    >>> hidden, targets = torch.randn(2, 3, 64), torch.tensor([[0, 7000, 1500], [999, 1, -100]])
    >>> layer(hidden, targets, reduction="none").shape, layer.log_prob(hidden).shape
    (torch.Size([2, 3]), torch.Size([2, 3, 10000]))

    References
    ----------
    Grave, Joulin, Cissé, Grangier & Jégou, "Efficient softmax approximation for GPUs", ICML (2017), section 4.
    """

    def __init__(self, in_features: int, vocab_size: int, cutoffs: Sequence[int], *, div_value: float = 4.0) -> None:
        super().__init__()
        self.in_features = _checks.count("in_features", in_features)
        self.vocab_size = _checks.count("vocab_size", vocab_size)
        self.cutoffs = _checks.cutoffs(cutoffs, self.vocab_size)
        widths = _checks.projections(self.in_features, self.cutoffs, div_value)
        self.div_value = div_value
        self.head = nn.Linear(self.in_features, self.cutoffs[0] + len(self.cutoffs), bias=False)
        self.tail = nn.ModuleList()
        for width, start, stop in zip(widths, self.cutoffs, (*self.cutoffs[1:], self.vocab_size), strict=True):
            projection, output = nn.Linear(in_features, width, bias=False), nn.Linear(width, stop - start, bias=False)
            self.tail.append(nn.Sequential(projection, output))

    @property
    def tails(self) -> list[tuple[Tensor, Tensor]]:
        """The pairs (projection, output) of the clusters, as `adaptive_log_prob` takes them."""
        layers: Any = self.tail
        return [(projection.weight, output.weight) for projection, output in layers]

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        ignore_index: int | None = -100,
        token_weight: Tensor | None = None,
        reduction: str = "mean",
        denominator: float | Tensor | None = None,
    ) -> Tensor:
        """Return the loss of `hidden` `(..., H)` on classes `targets` `(...)`, with the options of `cross_entropy`."""
        h = _as_wide(hidden, self.in_features)
        h, y, average = read_tokens(
            h, targets, self.vocab_size, loss_dtype(torch.promote_types(h.dtype, self.head.weight.dtype)),
            ignore_index=ignore_index, token_weight=token_weight, reduction=reduction, denominator=denominator,
        )  # fmt: skip
        counted = average.alive
        return average.value(adaptive_losses(h, self.head.weight, self.tails, self.cutoffs, y, counted))

    def log_prob(self, hidden: Tensor) -> Tensor:
        """Return the log-probabilities `(..., V)` of all classes."""
        h = _as_wide(hidden, self.in_features)
        return adaptive_log_prob(h, self.head.weight, self.tails, self.cutoffs)

    def extra_repr(self) -> str:
        """Return the options for `repr`."""
        return f"vocab_size={self.vocab_size}, cutoffs={list(self.cutoffs)}, div_value={self.div_value}"


def _as_wide(value: object, width: int) -> Tensor:
    hidden = as_hidden(value)
    expected = (*hidden.shape[:-1], width)
    _checks.exact_shape("hidden", tuple(hidden.shape), expected, f"in_features = {width} numbers for each token")
    return hidden


def tree_log_probs(hidden: Tensor, node_weight: Tensor, tree: HuffmanTree) -> Tensor:
    """Return the log-probabilities `(..., V)` of all classes of a tree: each node is scored once, for every way."""
    dtype = loss_dtype(torch.promote_types(hidden.dtype, node_weight.dtype))
    with without_autocast(hidden):
        states = hidden.to(dtype).reshape(-1, hidden.shape[-1])
        scores = node_weight.to(dtype) @ states.mT  # a row for each node: rows are cheap to pick
    inner, end = len(scores), scores.new_zeros(1, len(states))
    steps = torch.cat((logsigmoid(scores), logsigmoid(-scores), end))
    places = torch.where(tree.turns > 0, tree.nodes, torch.where(tree.turns < 0, tree.nodes + inner, 2 * inner))
    total = end.expand(inner + 1, -1)
    for place in places.unbind(-1):
        total = total + steps[place]
    return total.mT.reshape(*hidden.shape[:-1], inner + 1)


def adaptive_losses(
    hidden: Tensor,
    head: Tensor,
    tails: Sequence[tuple[Tensor, Tensor]],
    cutoffs: Sequence[int],
    targets: Tensor,
    counted: Tensor,
) -> Tensor:
    """Return the losses `(...)` of classes under `adaptive_log_prob`: the head's, plus that of the target's cluster.

    Only tokens that are `counted` are scored, and only in their own cluster, where it is known which those are. A
    compiler, a transform or the meta device does not know: there every cluster scores every token.
    """
    hidden, head, pairs = widened(hidden, head, tails)
    first = cutoffs[0]
    if traced() or hidden.is_meta:
        with without_autocast(hidden):
            cluster = _cluster(targets, cutoffs)
            losses = _losses(hidden @ head.mT, torch.where(cluster == 0, targets, first - 1 + cluster))
            for i, (projection, output) in enumerate(pairs):
                inside = cluster == i + 1
                own = torch.where(inside[..., None], hidden, 0)  # what no token needs may hold NaN: it reaches none
                inner = own @ projection.mT @ output.mT
                losses = losses + _losses(inner, torch.where(inside, targets - cutoffs[i], 0), inside)
        return losses

    rows = counted.reshape(-1).nonzero()[:, 0]
    h, y = hidden.reshape(-1, hidden.shape[-1])[rows], targets.reshape(-1)[rows]
    with without_autocast(hidden):
        cluster = _cluster(y, cutoffs)
        losses = _losses(h @ head.mT, torch.where(cluster == 0, y, first - 1 + cluster))
        for i, (projection, output) in enumerate(pairs):
            inside = (cluster == i + 1).nonzero()[:, 0]  # none is a number like any other: each tail gets a gradient
            inner = h[inside] @ projection.mT @ output.mT
            losses = losses.index_add(0, inside, _losses(inner, y[inside] - cutoffs[i]))
    scattered = torch.zeros(counted.numel(), dtype=losses.dtype, device=losses.device)
    return scattered.index_add(0, rows, losses).reshape(counted.shape)


def _cluster(targets: Tensor, cutoffs: Sequence[int]) -> Tensor:
    """Return 0 for classes of the head and i for those of cluster i."""
    return torch.stack([targets >= cut for cut in cutoffs]).sum(0)


def _losses(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    losses: Tensor = cross_entropy(logits, targets, token_weight=counted, reduction="none", validate=False)
    return losses
