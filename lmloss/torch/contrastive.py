"""The contrastive loss InfoNCE: a cross-entropy whose classes are the other vectors of the batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lmloss import _checks
from lmloss.torch._tensors import as_tensor, compute_dtype, kind, loss_dtype, reads_values, without_autocast
from lmloss.torch.cross_entropy import cross_entropy


def info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    *,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    symmetric: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute InfoNCE: how hard it is to pick each query's own key out of all the keys.

    With :math:`s` the cosine similarity, row i costs

    .. math:: \ell_i = -\log
        \frac{e^{s(q_i, k_i) / \tau}}{\sum_j e^{s(q_i, k_j) / \tau} + \sum_m e^{s(q_i, n_m) / \tau}}

    which is the cross-entropy of the logits :math:`z_{ij} = s(q_i, c_j) / \tau` against the class :math:`y_i = i`, the
    candidates :math:`c` being all keys and then all negatives.

    Parameters
    ----------
    queries : Tensor, shape (N, D)
        One vector in each row, floating point, of any length and on any device: only the direction counts. A vector of
        zeros points nowhere: its cosine with everything is taken as 0, and its gradient is 0.
    keys : Tensor, shape (N, D)
        Key i is the positive of query i; the other keys are its negatives.
    negatives : Tensor, shape (M, D), optional
        Further negatives, shared by all rows. Gradients flow to them as to queries and keys; detach what is a constant.
    temperature : float or Tensor
        :math:`\tau > 0`. The smaller, the more the hardest negatives weigh; towards infinity all candidates are alike.
        A tensor of shape () gets its gradient, so that a temperature can be learned.
    symmetric : bool
        Average each row's loss with that of key i among all queries. `negatives` take no part in that second loss.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides by N, ``"none"`` returns the losses of the rows.

    Returns
    -------
    Tensor, shape () or (N,)
        In nats; computed in float64 where an input is float64, in float32 where all are narrower, under autocast too.
        ``log(N + M)`` where all candidates look alike. 0.0 with a zero gradient for an empty batch, and for a single
        pair without negatives (there is nothing to mistake it for).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong kind, shape or value; the message names it.

    Notes
    -----
    ``log(N + M) - loss`` (M negatives drawn like the keys; 0 without), averaged over batches, is a lower bound on the
    mutual information of queries and keys, so that a batch can never show more than ``log(N + M)`` nats. With
    `symmetric`, M takes no part in the second loss.

    With unit vectors :math:`\hat q, \hat c` and :math:`p_{ij}` the softmax of row i's logits, the gradient is the
    softmax's mean candidate minus the positive one, less its part along the query (which only stretches it):

    .. math:: \frac{\partial \ell_i}{\partial q_i} = \frac{1}{\tau \, |q_i|} (I - \hat q_i \hat q_i^\top)
        \Bigl(\sum_j p_{ij} \hat c_j - \hat k_i\Bigr)

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> queries, keys = torch.eye(4), 3 * torch.eye(4)
    >>> lt.info_nce_loss(queries, keys, temperature=1.0)  # log(e + 3) - 1
    tensor(0.7437)
    >>> lt.info_nce_loss(queries, torch.ones(4, 4), reduction="none")  # keys that tell nothing: log 4
    tensor([1.3863, 1.3863, 1.3863, 1.3863])

    References
    ----------
    van den Oord, Li & Vinyals, arXiv:1807.03748 (2018), equation 4; cosine and temperature: Chen et al. (SimCLR),
    arXiv:2002.05709 (2020), equation 1; shared negatives: He et al. (MoCo), arXiv:1911.05722 (2020), equation 1;
    symmetric: Radford et al. (CLIP), arXiv:2103.00020 (2021), figure 3.
    """
    temperature = _as_temperature(temperature)
    _checks.contrast(symmetric, reduction)
    anchors, positives = _as_vectors("queries", queries), _as_vectors("keys", keys)
    why = "that of the queries: key i is the positive of query i"
    _checks.exact_shape("keys", tuple(positives.shape), tuple(anchors.shape), why)
    dtype = torch.promote_types(anchors.dtype, positives.dtype)
    if negatives is not None:
        others = _as_vectors("negatives", negatives)
        expected = (others.shape[0], anchors.shape[1])
        _checks.exact_shape("negatives", tuple(others.shape), expected, "as wide as the queries")
        _checks.together("negatives", others.device, "queries", anchors.device)
        dtype = torch.promote_types(dtype, others.dtype)
    _checks.together("keys", positives.device, "queries", anchors.device)

    dtype, rows = loss_dtype(dtype), anchors.shape[0]
    compute = torch.promote_types(dtype, compute_dtype(anchors))
    candidates = _directions(positives.to(compute))
    if negatives is not None:
        candidates = torch.cat((candidates, _directions(others.to(compute))))
    with without_autocast(anchors):
        similarities = _directions(anchors.to(compute)) @ candidates.mT
    logits = similarities / temperature
    if not rows:  # no row, but a class to name: the loss is 0 and stays attached
        logits = F.pad(logits, (0, 1))
    targets = torch.arange(rows, device=logits.device)
    loss: Tensor = cross_entropy(logits, targets, reduction=reduction, validate=False)
    if symmetric:
        square = logits[:, :rows].mT if rows else logits
        loss = (loss + cross_entropy(square, targets, reduction=reduction, validate=False)) / 2
    return loss.to(dtype)


def _as_vectors(name: str, value: object) -> Tensor:
    tensor = as_tensor(name, value)
    _checks.floating(name, kind(tensor), tensor.dtype)
    _checks.vectors(name, tuple(tensor.shape))
    return tensor


def _as_temperature(value: float | Tensor) -> float | Tensor:
    if not isinstance(value, Tensor):
        return _checks.positive("temperature", value)
    _checks.floating("temperature", kind(value), value.dtype)
    _checks.exact_shape("temperature", tuple(value.shape), (), "a single number")
    if reads_values(None, value):
        _checks.positive("temperature", value.item())
    return value


def _directions(vectors: Tensor) -> Tensor:
    """Return vectors of length 1, and of length 0 with zero gradient where there is no direction."""
    limits = torch.finfo(vectors.dtype)
    largest = vectors.detach().abs().amax(-1, keepdim=True).clamp(limits.tiny, limits.max / 4)
    # A power of two near the largest entry: no square overflows or vanishes, and no digit is lost. As the direction
    # does not depend on the length, this scale is a constant to every derivative.
    moderate = vectors / largest.log2().floor().exp2()
    zero = (moderate == 0).all(-1, keepdim=True)
    lengths = torch.where(zero, 1, moderate).square().sum(-1, keepdim=True).sqrt()
    return torch.where(zero, 0, moderate / lengths)
