"""Masking: which tokens a masked language model has to predict, and what it sees in their place.

Nothing here waits for a device: every token has its own draws, used or not, and shapes never depend on values.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from lmloss import _checks
from lmloss.torch._tensors import as_classes, as_tensor, kind, reads_values, refuse_first, uniform

LABEL_DTYPES = {
    torch.uint8: torch.int16,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}


class MaskedTokens(NamedTuple):
    """What `mask_tokens` returns: what the model sees, what it has to predict, and where."""

    input_ids: Tensor
    labels: Tensor
    selected: Tensor


def mask_tokens(
    input_ids: Tensor,
    *,
    mask_token_id: int,
    vocab_size: int,
    special_token_ids: Iterable[int] = (),
    mask_prob: float = 0.15,
    replace_prob: float = 0.8,
    random_prob: float = 0.1,
    word_ids: Tensor | None = None,
    rng: torch.Generator | None = None,
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
    input_ids : Tensor, shape (..., T)
        Token ids of any integer dtype, in [0, `vocab_size`), on any device. Never modified.
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
    word_ids : Tensor of int, shape (..., T), optional
        The word of each token, to select whole words. Tokens of one row with the same number are one word, next to each
        other or not; the same number in another row is another word. A word is selected with probability `mask_prob`,
        and all its tokens become the mask, or random tokens (each drawn for itself), or stay. A negative number is no
        word: that token is never selected. Nor is a word any token of which is special.
    rng : torch.Generator, optional
        The source of randomness; the same state gives the same result. By default the generator of the device, which
        ``torch.manual_seed`` seeds. It may live on the CPU while the ids are on another device; the draws are then
        those of the CPU.

    Returns
    -------
    MaskedTokens
        The named tuple ``(input_ids, labels, selected)`` of new tensors of the shape of `input_ids`: the corrupted ids,
        of the dtype that came in; the original ids where selected and -100 elsewhere, as
        :func:`~lmloss.torch.masked_lm_loss` expects them, of the same dtype if it is signed, else of the next wider
        signed one (int64 for uint64); and the boolean places.

    Raises
    ------
    TypeError, ValueError
        If an id is outside the vocabulary (looked at on the CPU only, where it costs no synchronisation), a probability
        outside [0, 1], `replace_prob` + `random_prob` above 1, every id special, or an argument of the wrong kind,
        shape or device.

    Examples
    --------
    >>> import torch, lmloss.torch as lt
    >>> text = torch.tensor([[1, 17, 25, 18, 33, 2]])
    >>> always = lt.mask_tokens(text, mask_token_id=3, vocab_size=50, special_token_ids=[0, 1, 2, 3], mask_prob=1.0,
    ...                         replace_prob=1.0, random_prob=0.0)
    >>> always.input_ids
    tensor([[1, 3, 3, 3, 3, 2]])
    >>> always.labels
    tensor([[-100,   17,   25,   18,   33, -100]])
    >>> long, rng = torch.full((1000, 100), 17), torch.Generator().manual_seed(0)
    >>> seen, labels, selected = lt.mask_tokens(long, mask_token_id=3, vocab_size=50, rng=rng)
    >>> round(selected.float().mean().item(), 2), round((seen[selected] == 3).float().mean().item(), 1)
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
    _as_integers("input_ids", input_ids, size)
    ids, device = as_classes(input_ids).contiguous(), input_ids.device
    if reads_values(None, ids) and ids.numel():
        smallest, largest = ids.aminmax()
        if smallest < 0 or largest >= size:
            refuse_first("input_ids", input_ids, (ids < 0) | (ids >= size), _checks.outside, classes=size)
    if rng is not None and not isinstance(rng, torch.Generator):
        raise TypeError(f"rng must be a torch.Generator (torch.Generator().manual_seed(seed)), not {rng!r}")
    source = device if rng is None else rng.device

    specials = torch.tensor(special_ids, dtype=torch.int64).to(device, non_blocking=device.type == "cuda")
    # An id is special where the specials up to it are more than those below it.
    excluded = torch.bucketize(ids, specials, right=True) != torch.bucketize(ids, specials)
    fate = uniform(ids.shape, rng, device)
    if word_ids is not None:
        word, no_word = _words(word_ids, ids)
        excluded = _holds_any(word, excluded) | no_word
        fate = fate.reshape(-1)[word]

    # One number u, uniform in [0, 1), decides both whether (u < m) and how: u / m is uniform again where u < m.
    fate = fate.masked_fill(excluded, 1.0)
    selected, masked = fate < select, fate < select * replace
    seen, labels = ids.masked_fill(masked, mask_id), ids.masked_fill(~selected, -100)
    if random:
        drawn = torch.randint(size - len(special_ids), ids.shape, generator=rng, device=source).to(device)
        # The k-th ordinary token: k, moved up by the specials that come before it.
        drawn += torch.bucketize(drawn, specials - torch.arange(len(special_ids), device=device), right=True)
        seen = torch.where((fate < select * (replace + random)) & ~masked, drawn, seen)
    return MaskedTokens(
        seen.to(input_ids.dtype), labels.to(LABEL_DTYPES.get(input_ids.dtype, input_ids.dtype)), selected
    )


def _as_integers(name: str, value: object, size: int) -> Tensor:
    tensor = as_tensor(name, value)
    largest = torch.iinfo(tensor.dtype).max if kind(tensor) == "i" else 0
    _checks.token_ids(name, kind(tensor), tensor.dtype, largest, size)
    return tensor


def _words(word_ids: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Number the words of all rows 0, 1, 2, ...; return each token's number, and which tokens have no word."""
    _as_integers("word_ids", word_ids, 0)
    _checks.exact_shape("word_ids", tuple(word_ids.shape), tuple(ids.shape), "one for each of the input_ids")
    _checks.together("word_ids", word_ids.device, "input_ids", ids.device)
    rows = as_classes(word_ids)
    ordered, order = rows.reshape(rows.shape or (1,)).sort(stable=True, dim=-1)
    first = torch.cat([torch.ones_like(ordered[..., :1]), (ordered.diff(dim=-1) != 0).long()], dim=-1)
    number = first.reshape(-1).cumsum(0).reshape(order.shape) - 1
    return torch.zeros_like(order).scatter(-1, order, number).reshape(rows.shape), rows < 0


def _holds_any(word: Tensor, marked: Tensor) -> Tensor:
    """Return for each token whether its word holds a marked one; no word has the last number, the number of tokens."""
    count = word.numel()
    numbers = torch.where(marked, word, count).reshape(-1)
    table = torch.zeros(count + 1, dtype=torch.bool, device=word.device).scatter(0, numbers, True)
    return table[word]
