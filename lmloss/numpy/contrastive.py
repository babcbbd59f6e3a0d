"""The contrastive loss InfoNCE: a cross-entropy whose classes are the other vectors of the batch."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, kind, loss_dtype
from lmloss.numpy.cross_entropy import cross_entropy


def info_nce_loss(
    queries: ArrayLike,
    keys: ArrayLike,
    *,
    negatives: ArrayLike | None = None,
    temperature: float = 0.07,
    symmetric: bool = False,
    reduction: str = "mean",
) -> Any:
    r"""Compute InfoNCE: how hard it is to pick each query's own key out of all the keys.

    With :math:`s` the cosine similarity, row i costs

    .. math:: \ell_i = -\log
        \frac{e^{s(q_i, k_i) / \tau}}{\sum_j e^{s(q_i, k_j) / \tau} + \sum_m e^{s(q_i, n_m) / \tau}}

    which is the cross-entropy of the logits :math:`z_{ij} = s(q_i, c_j) / \tau` against the class :math:`y_i = i`, the
    candidates :math:`c` being all keys and then all negatives.

    Parameters
    ----------
    queries : array_like, shape (N, D)
        One vector in each row, floating point, of any length: only the direction counts. A vector of zeros points
        nowhere: its cosine with everything is taken as 0.
    keys : array_like, shape (N, D)
        Key i is the positive of query i; the other keys are its negatives.
    negatives : array_like, shape (M, D), optional
        Further negatives, shared by all rows.
    temperature : float
        :math:`\tau > 0`. The smaller, the more the hardest negatives weigh; towards infinity all candidates are alike.
    symmetric : bool
        Average each row's loss with that of key i among all queries. `negatives` take no part in that second loss.
    reduction : {"mean", "sum", "none"}
        ``"mean"`` divides by N, ``"none"`` returns the losses of the rows.

    Returns
    -------
    float or ndarray, shape () or (N,)
        In nats; computed in float64 where an input is float64, in float32 where all are narrower. ``log(N + M)`` where
        all candidates look alike. 0.0 for an empty batch, and for a single pair without negatives (there is nothing
        to mistake it for).

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
    >>> import numpy as np, lmloss.numpy as ln
    >>> queries, keys = np.eye(4), 3 * np.eye(4)
    >>> round(float(ln.info_nce_loss(queries, keys, temperature=1.0)), 4)  # log(e + 3) - 1
    0.7437
    >>> ln.info_nce_loss(queries, np.ones((4, 4)), reduction="none").round(4)  # keys that tell nothing: log 4
    array([1.3863, 1.3863, 1.3863, 1.3863])

    References
    ----------
    van den Oord, Li & Vinyals, arXiv:1807.03748 (2018), equation 4; cosine and temperature: Chen et al. (SimCLR),
    arXiv:2002.05709 (2020), equation 1; shared negatives: He et al. (MoCo), arXiv:1911.05722 (2020), equation 1;
    symmetric: Radford et al. (CLIP), arXiv:2103.00020 (2021), figure 3.
    """
    temperature = _checks.positive("temperature", temperature)
    _checks.contrast(symmetric, reduction)
    anchors, positives = _as_vectors("queries", queries), _as_vectors("keys", keys)
    _checks.exact_shape("keys", positives.shape, anchors.shape, "that of the queries: key i is the positive of query i")
    candidates = [positives]
    if negatives is not None:
        others = _as_vectors("negatives", negatives)
        _checks.exact_shape("negatives", others.shape, (len(others), anchors.shape[1]), "as wide as the queries")
        candidates.append(others)

    rows, dtype = len(anchors), loss_dtype(np.result_type(anchors, *candidates))
    compute = np.result_type(dtype, np.float64)
    with np.errstate(invalid="ignore"):  # an infinite or undefined entry shows in the result
        unit = _directions(anchors.astype(compute))
        similarities = unit @ np.concatenate([_directions(vectors.astype(compute)) for vectors in candidates]).T
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        logits = similarities / temperature if rows else np.zeros((0, 1), compute)
    loss = cross_entropy(logits, np.arange(rows), reduction=reduction)
    if symmetric:
        backwards = cross_entropy(logits[:, :rows].T if rows else logits, np.arange(rows), reduction=reduction)
        loss = (loss + backwards) / 2
    return loss.astype(dtype)


def _as_vectors(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values)
    _checks.floating(name, kind(array), array.dtype)
    _checks.vectors(name, array.shape)
    return array


def _directions(vectors: Array) -> Array:
    """Return vectors of length 1, and of length 0 where there is no direction."""
    _, exponent = np.frexp(np.abs(vectors).max(axis=-1, keepdims=True))
    moderate = np.ldexp(vectors, -exponent)  # so that no square overflows or vanishes; a power of two rounds nothing
    lengths = np.sqrt(np.square(moderate).sum(axis=-1, keepdims=True))
    directions: Array = np.divide(moderate, lengths, out=np.zeros_like(moderate), where=lengths != 0)
    return directions
