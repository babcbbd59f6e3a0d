"""The real text and the tokenizers on it, and which tokens the batches hold."""

import sys

import numpy as np
import pytest

from lmloss.lab import Tokenizer, batches, bpe_tokenizer, byte_tokenizer, real_text, split_text, word_tokenizer

TEXT = real_text()
STRANGE = "  two  spaces\n\n\tété ∑ 日本語 don't _x1 3.14\r\n"
TOKENIZERS = {
    "bytes": byte_tokenizer(),
    "words": word_tokenizer(TEXT + STRANGE, min_count=1),
    "bpe": bpe_tokenizer(TEXT, 1000),
}
EACH = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=list(TOKENIZERS))


def test_the_real_text_is_a_long_stable_str_about_python() -> None:
    assert isinstance(TEXT, str)
    assert real_text() == TEXT
    assert 60_000 < len(TEXT.split()) < 90_000
    assert TEXT.startswith('The "assert" statement')


def test_a_python_without_its_topics_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(RuntimeError, match=r"has no module pydoc_data\.topics; use a Python from"):
        real_text()


def test_the_split_shares_no_paragraph_and_loses_none() -> None:
    parts = [part.rstrip("\n").split("\n\n") for part in split_text(TEXT)]
    words = [{" ".join(paragraph.split()) for paragraph in part} for part in parts]
    assert not words[0] & words[1]
    assert words[0] | words[1] == {" ".join(paragraph.split()) for paragraph in TEXT.split("\n\n")}
    assert len(words[0]) + len(words[1]) == len(parts[0]) + len(parts[1]), "each once"
    assert 0.08 < len(parts[1]) / len(parts[0] + parts[1]) < 0.12
    repeated = 1 - sum(map(len, split_text(TEXT))) / len(TEXT)
    assert 0.1 < repeated < 0.3, "a fifth of the text is repetition"


@pytest.mark.parametrize("held_out", [0, 1, -0.1, 0.001])
def test_a_split_needs_two_parts(held_out: float) -> None:
    with pytest.raises(ValueError, match=r"held_out = .* should lie between 0\.01 and 0\.99"):
        split_text(TEXT, held_out=held_out)


def test_a_text_too_short_to_hold_anything_out_says_so() -> None:
    text = "\n\n".join(str(n) for n in range(90))
    assert split_text(text + "\n\nthe last")[1] == "the last\n"
    with pytest.raises(
        ValueError, match=r"the text has 90 different paragraphs; held_out = 0\.1 leaves one part without"
    ):
        split_text(text)


def test_blank_lines_may_hold_spaces_and_nothing_is_no_paragraph() -> None:
    paragraphs = [str(n) for n in range(95)]
    want = split_text("\n\n".join(paragraphs))
    assert split_text("\n \t\n".join(paragraphs)) == split_text("\n\n\n\n".join(paragraphs)) == want


def test_a_repeated_paragraph_stands_where_it_was_last() -> None:
    paragraphs = ["again", *map(str, range(93)), "again"]
    assert "again" in split_text("\n\n".join(paragraphs))[1]


@EACH
@pytest.mark.parametrize("text", [TEXT, STRANGE, ""], ids=["real", "strange", "empty"])
def test_decoding_restores_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.tolist()) == text
    assert len(ids) == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)


@EACH
def test_every_token_has_a_name(tokenizer: Tokenizer) -> None:
    assert all(isinstance(tokenizer.token(token), str) for token in range(tokenizer.vocab_size))
    ids = tokenizer.encode("every effort moves you forward")
    assert "".join(tokenizer.token(token) for token in ids) == "every effort moves you forward" or (
        tokenizer.token(0) == "<unk>"
    )


@EACH
@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([0, 10**6], ValueError, r"ids\[1\] = 1000000 is outside \[0, "),
        ([-1], ValueError, r"ids\[0\] = -1 is outside"),
        ([0.5], TypeError, r"one row of integers; these have shape \(1,\) and type float64"),
        ([[1]], TypeError, r"one row of integers; these have shape \(1, 1\)"),
    ],
)
def test_ids_that_do_not_exist_are_refused(tokenizer: Tokenizer, ids: list, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        tokenizer.decode(ids)
    with pytest.raises(ValueError, match=r"token_id = -1 should be an integer in \[0, "):
        tokenizer.token(-1)
    with pytest.raises(TypeError, match="text should be a str; this is bytes"):
        tokenizer.encode(b"text")


def test_bytes_are_the_bytes() -> None:
    tokenizer = byte_tokenizer()
    assert tokenizer.encode("é\n").tolist() == [0xC3, 0xA9, 0x0A]
    assert [tokenizer.token(byte) for byte in (0x41, 0x0A, 0xC3)] == ["A", "\\x0a", "\\xc3"]
    assert tokenizer.decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"


def test_rare_words_are_unknown_and_it_says_how_often() -> None:
    tokenizer = word_tokenizer("you and you and zoo")
    assert [tokenizer.token(token) for token in range(tokenizer.vocab_size)] == ["<unk>", " and"]
    tokenizer = word_tokenizer(" you and you and zoo and")
    assert [tokenizer.token(token) for token in range(tokenizer.vocab_size)] == ["<unk>", " and", " you"]
    assert tokenizer.encode(" you are you").tolist() == [2, tokenizer.unknown_id, 2]
    assert tokenizer.decode([2, 0]) == " you<unk>"
    assert tokenizer.split(" you are you") == [" you", " are", " you"]
    assert tokenizer.unknown_rate(" you are you") == pytest.approx(1 / 3)
    assert tokenizer.unknown_rate("") == 0
    assert 0.0 < word_tokenizer(TEXT).unknown_rate(TEXT) < 0.1
    with pytest.raises(ValueError, match="min_count = 0 should be a positive integer"):
        word_tokenizer("you", min_count=0)


def test_bpe_merges_the_most_frequent_pair_first() -> None:
    tokenizer = bpe_tokenizer("zoo zoo zoo", 259)
    assert tokenizer.token(256) in {"zo", "oo"}
    assert tokenizer.token(257) == "zoo"
    assert tokenizer.token(258) == " zoo"
    assert tokenizer.encode("zoo zoo").tolist() == [257, 258]


def test_bpe_is_the_same_when_trained_again() -> None:
    again = bpe_tokenizer(TEXT, 1000)
    assert again.vocab_size == 1000
    np.testing.assert_array_equal(again.encode(TEXT), TOKENIZERS["bpe"].encode(TEXT))
    assert len(again.encode(TEXT)) < 0.4 * len(TEXT.encode())


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (255, "vocab_size = 255 should be an integer of at least 256"),
        (300, "vocab_size = 300 is too large: .* 259 tokens"),
    ],
)
def test_a_vocabulary_size_that_cannot_be_reached_is_refused(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bpe_tokenizer("zoo zoo zoo", size)


@pytest.mark.parametrize(("tokens", "length", "size"), [(100, 10, 4), (101, 5, 3), (7, 7, 2), (8, 2, 100)])
def test_one_epoch_makes_every_token_but_the_first_a_target_once(tokens: int, length: int, size: int) -> None:
    epoch = list(batches(np.arange(tokens), size, length, np.random.default_rng(0)))
    windows = np.concatenate(epoch)
    assert all(batch.shape == (size, length) for batch in epoch[:-1])
    assert 1 <= len(epoch[-1]) <= size
    assert windows.dtype == np.int64
    np.testing.assert_array_equal(np.diff(windows, axis=1), 1)
    targets = np.sort(windows[:, 1:].ravel())
    np.testing.assert_array_equal(targets, np.arange(1, len(targets) + 1))
    assert tokens - 1 - len(targets) < length - 1


def test_the_generator_alone_decides_the_order() -> None:
    def epoch(rng: np.random.Generator) -> list:
        return np.concatenate(list(batches(range(1000), 8, 9, rng))).tolist()

    rng = np.random.default_rng(1)
    first, second = epoch(rng), epoch(rng)
    assert first == epoch(np.random.default_rng(1))
    assert first != second
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ids": np.zeros((2, 3), int)}, TypeError, r"ids should be one row of integers; these have shape \(2, 3\)"),
        ({"ids": np.zeros(9)}, TypeError, "and type float64"),
        ({"ids": range(3)}, ValueError, "ids has 3 tokens, too few for one window of length = 4"),
        ({"batch_size": 0}, ValueError, "batch_size = 0 should be an integer of at least 1"),
        ({"length": 1}, ValueError, "length = 1 should be an integer of at least 2"),
        ({"rng": 0}, TypeError, r"rng = 0 should be a numpy\.random\.Generator"),
    ],
)
def test_batches_refuses_at_once_what_it_cannot_cut(change: dict, error: type, message: str) -> None:
    asked = {"ids": range(9), "batch_size": 2, "length": 4, "rng": np.random.default_rng(0)} | change
    with pytest.raises(error, match=message):
        batches(**asked)
