"""Real English text, three ways to cut it into tokens, and batches of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "batches",
    "bpe_tokenizer",
    "byte_tokenizer",
    "real_text",
    "split_text",
    "word_tokenizer",
]

Ids = npt.NDArray[np.int64]


def real_text() -> str:
    """Return some 65,000 words of English prose about Python: the topics that ``help()`` shows.

    The text ships with CPython (``pydoc_data.topics``), so nothing is downloaded. It is read from the running
    interpreter, its topics in alphabetical order with blank lines between them. It grows from one Python version to the
    next: what is printed about it holds for one version only.

    Raises
    ------
    RuntimeError
        If this Python was installed without its ``pydoc_data``.

    Examples
    --------
    >>> text = real_text()
    >>> 400_000 < len(text) < 1_000_000, "assertion" in text
    (True, True)
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise RuntimeError(
            "the real text is Python's own documentation, and this Python has no module pydoc_data.topics; "
            "use a Python from python.org, conda or uv, or install your system's full python3 package"
        ) from None
    return "\n\n".join(topics[name].strip("\n") for name in sorted(topics)) + "\n"


def split_text(text: str, *, held_out: float = 0.1) -> tuple[str, str]:
    r"""Split a text into a part to train on and a part to judge by, which have no paragraph in common.

    A paragraph that occurs twice is kept once, where it stands last: in `real_text` a fifth of the characters are
    repetitions, and a model that had read them would be judged by its memory. Of every hundred paragraphs in a row the
    last go to the part held out, so that both parts are on the same subjects.

    Parameters
    ----------
    text : str
        The text; its paragraphs have blank lines between them.
    held_out : float
        The share of the paragraphs that is held out, in whole hundredths from 0.01 to 0.99.

    Returns
    -------
    tuple of str
        The text to train on and the text held out.

    Raises
    ------
    ValueError
        If a part would be empty: a share of 0.1 takes more than 90 different paragraphs.

    Examples
    --------
    >>> train_text, held_out_text = split_text(real_text())
    >>> set(train_text.split("\n\n")) & set(held_out_text.split("\n\n"))
    set()
    """
    _checked_text(text)
    if not 0.01 <= held_out <= 0.99:
        raise ValueError(f"held_out = {held_out!r} should lie between 0.01 and 0.99")
    found = [part for part in re.split(r"\n[ \t\r]*\n", text) if part.strip()]
    paragraphs = list({" ".join(part.split()): part for part in reversed(found)}.values())[::-1]
    kept = round(100 * (1 - held_out))
    parts: tuple[list[str], list[str]] = [], []
    for place, paragraph in enumerate(paragraphs):
        parts[place % 100 >= kept].append(paragraph)
    if not all(parts):
        n = len(paragraphs)
        raise ValueError(f"the text has {n} different paragraphs; held_out = {held_out!r} leaves one part without any")
    return "\n\n".join(parts[0]) + "\n", "\n\n".join(parts[1]) + "\n"


class Tokenizer(Protocol):
    """What every tokenizer here can do: turn text into ids 0, ..., vocab_size - 1 and back."""

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""
        ...

    def encode(self, text: str) -> Ids:
        """Return the ids of a text: int64, one dimension."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids."""
        ...

    def token(self, token_id: int) -> str:
        """Return one token as text that can be printed."""
        ...


class ByteTokenizer:
    """Every byte of the UTF-8 text is a token; `byte_tokenizer` makes one."""

    vocab_size = 256

    def encode(self, text: str) -> Ids:
        """Return the bytes of the text as ids."""
        return np.frombuffer(_checked_text(text).encode(), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of bytes; where they are not valid UTF-8 stands a replacement character."""
        return bytes(checked_ids(ids, self.vocab_size).tolist()).decode(errors="replace")

    def token(self, token_id: int) -> str:
        r"""Return the byte as a character if it is a printable one, else as ``\x..``."""
        value = _checked_id(token_id, self.vocab_size)
        return chr(value) if 32 <= value < 127 else f"\\x{value:02x}"


class WordTokenizer:
    """Words and punctuation are tokens; `word_tokenizer` makes one.

    A token carries the space before it, so decoding restores every text that has no unknown words.
    """

    unknown = "<unk>"

    def __init__(self, words: Sequence[str]) -> None:
        self._words = [self.unknown, *words]
        self._ids = {word: token for token, word in enumerate(self._words)}

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are, the unknown one included."""
        return len(self._words)

    @property
    def unknown_id(self) -> int:
        """The id that stands for every word outside the vocabulary: 0."""
        return 0

    def split(self, text: str) -> list[str]:
        """Return the words of a text, known or not, one for each of its ids; joined they are the text."""
        return _words(_checked_text(text))

    def encode(self, text: str) -> Ids:
        """Return the ids of the words; a word outside the vocabulary becomes `unknown_id`."""
        return np.array([self._ids.get(word, 0) for word in self.split(text)], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, with ``<unk>`` for the unknown."""
        return "".join(self._words[token] for token in checked_ids(ids, self.vocab_size).tolist())

    def token(self, token_id: int) -> str:
        """Return the word, with the space before it if it has one."""
        return self._words[_checked_id(token_id, self.vocab_size)]

    def unknown_rate(self, text: str) -> float:
        """Return the fraction of a text's tokens that are outside the vocabulary."""
        ids = self.encode(text)
        return float(np.mean(ids == self.unknown_id)) if len(ids) else 0.0


class BPETokenizer:
    """Frequent runs of bytes are tokens; `bpe_tokenizer` trains one."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are: the 256 bytes and the merges."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> Ids:
        """Return the ids of a text; no text is unknown, as every byte is a token."""
        return np.array(self._tokenizer.encode(_checked_text(text)).ids, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; where their bytes are not valid UTF-8 stands a replacement character."""
        return str(self._tokenizer.decode(checked_ids(ids, self.vocab_size).tolist(), skip_special_tokens=False))

    def token(self, token_id: int) -> str:
        """Return the token's text; a part of a character shows as a replacement character."""
        return self.decode([_checked_id(token_id, self.vocab_size)])


def byte_tokenizer() -> ByteTokenizer:
    """Return the tokenizer whose tokens are the 256 bytes.

    Examples
    --------
    >>> tokenizer = byte_tokenizer()
    >>> tokenizer.encode("zoo"), tokenizer.decode([122, 111, 111])
    (array([122, 111, 111]), 'zoo')
    """
    return ByteTokenizer()


def word_tokenizer(text: str, *, min_count: int = 2) -> WordTokenizer:
    """Return a tokenizer whose tokens are the words and punctuation marks of a text, the most frequent first.

    Parameters
    ----------
    text : str
        Where the vocabulary is taken from.
    min_count : int
        How often a word must occur to enter the vocabulary. With the default a word seen once is unknown, so that a
        model meets the unknown token while it learns.

    Examples
    --------
    >>> tokenizer = word_tokenizer("every effort moves you, every effort")
    >>> tokenizer.vocab_size, tokenizer.decode(tokenizer.encode(" effort counts"))
    (2, ' effort<unk>')
    """
    _checked_text(text)
    if isinstance(min_count, bool) or not isinstance(min_count, (int, np.integer)) or min_count < 1:
        raise ValueError(f"min_count = {min_count!r} should be a positive integer")
    counts = Counter(_words(text))
    words = sorted(
        (word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word)
    )
    return WordTokenizer(words)


def bpe_tokenizer(text: str, vocab_size: int) -> BPETokenizer:
    """Train a byte-level byte-pair encoding on a text: start from bytes, merge the most frequent pair, repeat.

    Parameters
    ----------
    text : str
        What the merges are learned from.
    vocab_size : int
        How many tokens, the 256 bytes included.

    References
    ----------
    Sennrich, Haddow and Birch (2016), "Neural machine translation of rare words with subword units".

    Examples
    --------
    >>> tokenizer = bpe_tokenizer("every effort moves you. " * 3, 260)
    >>> tokenizer.decode(tokenizer.encode("every word fits"))
    'every word fits'
    """
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers import decoders, models, pre_tokenizers, trainers

    _checked_text(text)
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, (int, np.integer)) or vocab_size < 256:
        raise ValueError(f"vocab_size = {vocab_size!r} should be an integer of at least 256, one token for every byte")
    tokenizer = HuggingFaceTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=int(vocab_size), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise ValueError(
            f"vocab_size = {vocab_size} is too large: this text has pairs for {tokenizer.get_vocab_size()} tokens only"
        )
    return BPETokenizer(tokenizer)


def batches(ids: npt.ArrayLike, batch_size: int, length: int, rng: np.random.Generator) -> Iterator[Ids]:
    """Cut a text into windows of `length` tokens and yield them once, in random order, as batches.

    A window's last token is the next window's first. A training loop shifts by one inside the window (inputs
    ``batch[:, :-1]``, targets ``batch[:, 1:]``), so that in one epoch every token of the text but the first is the
    target exactly once. The fewer than ``length - 1`` tokens that fill no window at the end are left out.

    Parameters
    ----------
    ids : array_like of int
        The text, shape (T,).
    batch_size : int
        How many windows in a batch; the last batch of the epoch holds those that remain.
    length : int
        Tokens in a window, at least 2; a window has ``length - 1`` targets.
    rng : numpy.random.Generator
        Draws the order of the windows.

    Yields
    ------
    numpy.ndarray
        Shape (batch_size, length), int64.

    Examples
    --------
    >>> for batch in batches(range(10), batch_size=2, length=4, rng=np.random.default_rng(0)):
    ...     print(batch.tolist())
    [[6, 7, 8, 9], [0, 1, 2, 3]]
    [[3, 4, 5, 6]]
    """
    text = np.asarray(ids)
    if text.ndim != 1 or text.dtype.kind not in "iu":
        raise TypeError(f"ids should be one row of integers; these have shape {text.shape} and type {text.dtype}")
    for name, value, least in (("batch_size", batch_size, 1), ("length", length, 2)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} = {value!r} should be an integer of at least {least}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng = {rng!r} should be a numpy.random.Generator, as np.random.default_rng(0) makes one")
    if len(text) < length:
        raise ValueError(f"ids has {len(text)} tokens, too few for one window of length = {length}")
    text = text.astype(np.int64)
    order = rng.permutation((len(text) - 1) // (length - 1))
    starts = [order[first : first + batch_size] * (length - 1) for first in range(0, len(order), batch_size)]
    return (text[start[:, None] + np.arange(length)] for start in starts)


def _words(text: str) -> list[str]:
    """Split into words, punctuation marks and runs of space; a single space belongs to what follows it."""
    return re.findall(r" ?\w+| ?[^\w\s]|\s+(?=\s)|\s", text)


def _checked_text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text should be a str; this is {type(text).__name__}")
    return text


def checked_ids(ids: npt.ArrayLike | Iterable[int], vocab_size: int) -> Ids:
    """Return ids as int64, refused unless they are one row of integers in [0, vocab_size)."""
    values = np.asarray(list(ids) if isinstance(ids, Iterable) and not isinstance(ids, np.ndarray) else ids)
    if values.size == 0:
        return np.zeros(0, dtype=np.int64)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise TypeError(f"ids should be one row of integers; these have shape {values.shape} and type {values.dtype}")
    outside = np.flatnonzero((values < 0) | (values >= vocab_size))
    if len(outside):
        raise ValueError(f"ids[{outside[0]}] = {values[outside[0]]} is outside [0, {vocab_size})")
    return values.astype(np.int64)


def _checked_id(token_id: int, vocab_size: int) -> int:
    if isinstance(token_id, bool) or not isinstance(token_id, (int, np.integer)) or not 0 <= token_id < vocab_size:
        raise ValueError(f"token_id = {token_id!r} should be an integer in [0, {vocab_size})")
    return int(token_id)
