"""Masking: which tokens a masked language model has to predict, and what it sees in their place."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lmloss import _checks
from lmloss.numpy._arrays import Array, kind, refuse_first


class MaskedTokens(NamedTuple):
    """What `mask_tokens` returns: what the model sees, what it has to predict, and where."""

    input_ids: Array
    labels: Array
    selected: Array


def mask_tokens(
    input_ids: ArrayLike,
    *,
    mask_token_id: int,
    vocab_size: int,
    special_token_ids: Iterable[int] = (),
    mask_prob: float = 0.15,
    replace_prob: float = 0.8,
    random_prob: float = 0.1,
    word_ids: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> MaskedTokens:
    r"""Select tokens for a masked language model to predict, and corrupt them as BERT does.

    Each token that is not special is selected with probability :math:`m` = `mask_prob`. The model sees in its place

    .. math:: \tilde x_t = \begin{cases}
        \texttt{mask\_token\_id} & \text{with probability } r = \texttt{replace\_prob} \\
        \text{a random ordinary token} & \text{with probability } s = \texttt{random\_prob} \\
        x_t & \text{with probability } 1 - r - s
        \end{cases}

    and has to predict :math:`x_t` in all three cases: since no token it sees can be trusted, it has to represent all.

    Parameters
    ----------
    input_ids : array_like, shape (..., T)
        Token ids of any integer dtype, in [0, `vocab_size`). Never modified.
    mask_token_id : int
        The id that stands for a hidden token. It counts as special only if `special_token_ids` lists it, and it should:
        otherwise a mask that is already there may be selected as a target, and may be drawn as a random token.
    vocab_size : int
        The number of ids, special and added ones included.
    special_token_ids : iterable of int
        Ids that are never selected and never drawn, such as padding, separators and the mask itself; a tokenizer's
        ``all_special_ids``.
    mask_prob : float
        Probability that a token is selected.
    replace_prob, random_prob : float
        Probabilities that a selected token becomes the mask or a random token; together at most 1. Random tokens are
        uniform over all ordinary ones, the token itself included.
    word_ids : array_like of int, shape (..., T), optional
        The word of each token, to select whole words. Tokens of one row with the same number are one word, next to each
        other or not; the same number in another row is another word. A word is selected with probability `mask_prob`,
        and all its tokens become the mask, or random tokens (each drawn for itself), or stay. A negative number is no
        word: that token is never selected. Nor is a word any token of which is special.
    rng : numpy.random.Generator, optional
        The source of randomness; the same state gives the same result. A fresh one by default.

    Returns
    -------
    MaskedTokens
        The named tuple ``(input_ids, labels, selected)`` of new arrays of the shape of `input_ids`: the corrupted ids,
        of the dtype that came in; the original ids where selected and -100 elsewhere, as
        :func:`~lmloss.numpy.masked_lm_loss` expects them, of the same dtype if it is signed, else of the next wider
        signed one (int64 for uint64); and the boolean places.

    Raises
    ------
    TypeError, ValueError
        If an id is outside the vocabulary, a probability outside [0, 1], `replace_prob` + `random_prob` above 1, every
        id special, or an argument of the wrong kind or shape.

    Examples
    --------
    >>> import numpy as np, lmloss.numpy as ln
    >>> text = np.array([[1, 17, 25, 18, 33, 2]])
    >>> always = ln.mask_tokens(text, mask_token_id=3, vocab_size=50, special_token_ids=[0, 1, 2, 3], mask_prob=1.0,
    ...                         replace_prob=1.0, random_prob=0.0)
    >>> always.input_ids
    array([[1, 3, 3, 3, 3, 2]])
    >>> always.labels
    array([[-100,   17,   25,   18,   33, -100]])
    >>> long = np.full((1000, 100), 17)
    >>> seen, labels, selected = ln.mask_tokens(long, mask_token_id=3, vocab_size=50, rng=np.random.default_rng(0))
    >>> round(float(selected.mean()), 2), round(float((seen[selected] == 3).mean()), 1)
    (0.15, 0.8)

    References
    ----------
    Devlin et al., "BERT: pre-training of deep bidirectional transformers", NAACL (2019), section 3.1 and appendix A.1.
    Whole words: the authors' repository, google-research/bert, which corrupts the pieces of a selected word one by one;
    here they share their fate, so that no piece gives its word away.
    """
    size = _checks.count("vocab_size", vocab_size)
    mask_id = _checks.token_id("mask_token_id", mask_token_id, size)
    special_ids = _checks.special_token_ids(special_token_ids, size)
    select, replace, random = _checks.masking_rates(mask_prob, replace_prob, random_prob)
    ids = np.asarray(input_ids)
    largest = np.iinfo(ids.dtype).max if ids.dtype.kind in "iu" else 0
    _checks.token_ids("input_ids", kind(ids), ids.dtype, largest, size)
    if ids.size and not 0 <= ids.min() <= ids.max() < size:
        refuse_first("input_ids", ids, (ids < 0) | (ids >= size), _checks.outside, classes=size)
    if rng is None:
        rng = np.random.default_rng()
    elif not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator (numpy.random.default_rng(seed)), not {rng!r}")

    is_special = np.zeros(size, dtype=bool)
    is_special[special_ids] = True
    excluded = is_special[ids]
    if word_ids is None:
        fate = rng.random(ids.shape)
    else:
        word, words, outside_words = _words(word_ids, ids.shape)
        spoiled = np.zeros(words, dtype=bool)
        spoiled[word[excluded]] = True
        excluded = spoiled[word] | outside_words
        fate = rng.random(words)[word]

    # One number u, uniform in [0, 1), decides both whether (u < m) and how: u / m is uniform again where u < m.
    selected = np.asarray((fate < select) & ~excluded)
    places = np.flatnonzero(selected)
    fate = fate.reshape(-1)[places]
    masked = fate < select * replace
    drawn = ~masked & (fate < select * (replace + random))
    seen, labels = np.array(ids, order="C", subok=False), np.full(ids.shape, -100, dtype=_label_dtype(ids.dtype))
    labels.reshape(-1)[places] = seen.reshape(-1)[places]
    ordinary = np.flatnonzero(~is_special)
    seen.reshape(-1)[places[masked]] = mask_id
    seen.reshape(-1)[places[drawn]] = rng.choice(ordinary, size=np.count_nonzero(drawn))
    return MaskedTokens(seen, labels, selected)


def _label_dtype(dtype: np.dtype[Any]) -> Any:
    """Return a signed dtype that holds all ids of an integer dtype, and -100."""
    return np.int64 if dtype.itemsize == 8 else np.result_type(dtype, np.int8)


def _words(word_ids: ArrayLike, shape: _checks.Shape) -> tuple[Array, int, Array]:
    """Number the words of all rows 0, 1, 2, ...; return each token's number, how many there are and who has no word."""
    rows = np.asarray(word_ids)
    if rows.dtype.kind == "O":
        raise TypeError("word_ids must be integers; use -1, not None, where a token has no word")
    _checks.token_ids("word_ids", kind(rows), rows.dtype, 0, 0)
    _checks.exact_shape("word_ids", rows.shape, shape, "one for each of the input_ids")
    no_word = rows < 0
    rows = np.atleast_1d(rows)
    order = np.argsort(rows, axis=-1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=-1)
    first = np.ones(rows.shape, dtype=bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    number = np.empty(rows.shape, dtype=np.intp)
    np.put_along_axis(number, order, np.cumsum(first).reshape(rows.shape) - 1, axis=-1)
    return number.reshape(shape), int(np.count_nonzero(first)), no_word
