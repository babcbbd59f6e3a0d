"""The known language against its own samples, against enumeration, and against the theory of renewal."""

import math

import mpmath
import numpy as np
import pytest

from lmloss.lab import VOCAB, KnownLanguage, known_language

GOLDEN = "forward . a small step moves you forward today . a small bird waits ."
MOVES = "0x1.53d96f2ff38aap-1"
SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


def sentences(language: KnownLanguage) -> list[tuple[list[str], mpmath.mpf]]:
    """List every sentence with its probability, asking for nothing but next_token_probs."""
    complete, open_ = [], [([], mpmath.mpf(1))]
    while open_:
        words, prob = open_.pop()
        probs = language.next_token_probs([".", *words])
        for token in np.flatnonzero(probs):
            longer = [*words, language.vocabulary[token]], prob * mpmath.mpf(float(probs[token]))
            (complete if longer[0][-1] == "." else open_).append(longer)
    return complete


def test_the_seven_words_of_the_book_are_in_it() -> None:
    assert VOCAB == ("a", "effort", "every", "forward", "moves", "you", "zoo")
    assert set(VOCAB) <= set(known_language().vocabulary)
    assert 20 <= len(known_language().vocabulary) <= 40
    assert list(known_language().vocabulary) == sorted(set(known_language().vocabulary))


@SEEDS
def test_the_mean_surprisal_of_a_million_tokens_is_the_entropy_rate(seed: int) -> None:
    language = known_language(seed)
    surprisals = -language.log_probs(language.sample(1_000_000, np.random.default_rng(seed)))
    means = surprisals.reshape(1000, 1000).mean(axis=1)  # stretches this long are all but independent
    assert abs(means.mean() - language.entropy_rate) < 4 * means.std(ddof=1) / math.sqrt(len(means))
    assert means.std(ddof=1) / math.sqrt(len(means)) < 0.002


@SEEDS
def test_the_entropy_rate_is_a_sentences_entropy_over_its_mean_length(seed: int) -> None:
    language = known_language(seed)
    with mpmath.workdps(50):
        every = sentences(language)
        assert abs(mpmath.fsum(prob for _, prob in every) - 1) < 1e-13
        entropy = mpmath.fsum(-prob * mpmath.log(prob) for _, prob in every)
        length = mpmath.fsum(prob * len(words) for words, prob in every)
        assert abs(entropy / length - language.entropy_rate) < 1e-13


@SEEDS
def test_a_word_is_as_frequent_as_sentences_make_it(seed: int) -> None:
    language = known_language(seed)
    every = sentences(language)
    length = mpmath.fsum(prob * len(words) for words, prob in every)
    stationary = language.next_token_probs([])
    for word, prob in zip(language.vocabulary, stationary, strict=True):
        visits = mpmath.fsum(chance * words.count(word) for words, chance in every)
        assert abs(visits / length - prob) < 1e-13
    assert language.unigram_entropy == pytest.approx(-np.sum(stationary * np.log(stationary)), abs=1e-13)


@SEEDS
def test_a_token_further_on_is_distributed_like_the_first(seed: int) -> None:
    language = known_language(seed)
    first = language.next_token_probs([])
    second = sum(prob * language.next_token_probs([token]) for token, prob in enumerate(first))
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-15)


@SEEDS
def test_context_matters(seed: int) -> None:
    language = known_language(seed)
    assert 0.25 * language.unigram_entropy < language.entropy_rate < 0.7 * language.unigram_entropy


def test_block_entropies_are_those_of_all_blocks_enumerated() -> None:
    language = known_language()
    blocks = {(): 1.0}
    for length in range(1, 5):
        longer = {}
        for block, prob in blocks.items():
            probs = language.next_token_probs(block)
            for token in np.flatnonzero(probs):
                longer[*block, int(token)] = prob * probs[token]
        blocks = longer
        entropy = -math.fsum(prob * math.log(prob) for prob in blocks.values())
        assert language.block_entropy(length) == pytest.approx(entropy, abs=1e-12)
    assert language.block_entropy(0) == 0


@SEEDS
def test_what_a_token_adds_to_a_block_falls_to_the_entropy_rate_and_stays(seed: int) -> None:
    language = known_language(seed)
    added = np.diff([language.block_entropy(length) for length in range(10)])
    assert added[0] == pytest.approx(language.unigram_entropy, abs=1e-13)
    assert np.all(np.diff(added) < 1e-12)
    assert added[2] > language.entropy_rate + 0.05, "two tokens of context are not enough"
    np.testing.assert_allclose(added[3:], language.entropy_rate, rtol=0, atol=1e-12)


def test_every_row_is_a_distribution_and_the_two_faces_agree() -> None:
    language = known_language()
    ids = language.sample(300, np.random.default_rng(5))
    rows = language.conditionals(ids)
    assert rows.shape == (300, len(language.vocabulary))
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-14)
    for place in [0, 1, 2, 3, 50, 299]:
        np.testing.assert_array_equal(rows[place], language.next_token_probs(ids[:place]))
    np.testing.assert_allclose(language.log_probs(ids), np.log(rows[np.arange(300), ids]), rtol=0, atol=1e-15)
    assert language.log_probs([]).shape == (0,)
    assert language.conditionals([]).shape == (0, len(language.vocabulary))


def test_the_state_is_hidden_two_words_do_not_tell_it() -> None:
    language = known_language()
    near, start = (language.next_token_probs(f"{words} the zoo") for words in (". you wait near", "."))
    assert near[language.vocabulary.index(".")] == 1
    assert start[language.vocabulary.index(".")] == 0


def test_the_sentence_of_the_book_is_frequent() -> None:
    language = known_language()
    text = language.decode(language.sample(100_000, np.random.default_rng(0)))
    assert text.count(". every effort moves you forward .") > 0.03 * text.count(".")
    probs = language.next_token_probs("every effort moves you")
    assert language.vocabulary[np.argmax(probs)] == "forward"


def test_every_word_occurs_and_the_text_is_stationary_from_its_first_token() -> None:
    language = known_language()
    firsts = np.array([language.sample(1, np.random.default_rng(seed))[0] for seed in range(4000)])
    frequencies = np.bincount(firsts, minlength=len(language.vocabulary)) / len(firsts)
    expected = language.next_token_probs([])
    assert np.all(np.abs(frequencies - expected) < 4.5 * np.sqrt(expected / len(firsts)))
    assert set(language.sample(20_000, np.random.default_rng(0))) == set(range(len(language.vocabulary)))


def test_a_seed_fixes_the_text_on_every_machine() -> None:
    language = known_language(0)
    assert language.decode(language.sample(15, np.random.default_rng(0))) == GOLDEN
    assert float.hex(float(language.next_token_probs("every effort")[language.vocabulary.index("moves")])) == MOVES
    long, short = (language.sample(count, np.random.default_rng(3)) for count in (200, 100))
    np.testing.assert_array_equal(long[:100], short)
    assert language.sample(0, np.random.default_rng(0)).dtype == np.int64


def test_a_seed_varies_the_probabilities_and_nothing_else() -> None:
    one, two = known_language(0), known_language(1)
    assert one.vocabulary == two.vocabulary
    assert one.entropy_rate != two.entropy_rate
    assert {tuple(words) for words, _ in sentences(one)} == {tuple(words) for words, _ in sentences(two)}
    rows = [language.next_token_probs(". every") for language in (one, two)]
    np.testing.assert_array_equal(rows[0] > 0, rows[1] > 0)
    assert 0 < np.abs(rows[0] - rows[1]).max() < 0.2


def test_ids_words_and_strings_mean_the_same_context() -> None:
    torch = pytest.importorskip("torch")
    language = known_language()
    ids = language.encode("the small child")
    for context in ["the small child", ["the", "small", "child"], ids, ids.tolist(), torch.tensor(ids)]:
        np.testing.assert_array_equal(language.next_token_probs(context), language.next_token_probs(ids))
    assert language.decode(ids) == "the small child"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda x: x.next_token_probs("every cat"), r"context\[1\] = 'cat' is not a word of this language"),
        (lambda x: x.next_token_probs([0, 99]), r"context\[1\] = 99 is neither a word nor an id in \[0, 28\)"),
        (lambda x: x.next_token_probs(np.array([0, -1])), r"context\[1\] = .*-1.* is neither"),
        (lambda x: x.next_token_probs([1.0]), r"context\[0\] = 1.0 is neither"),
        (lambda x: x.next_token_probs([True]), r"context\[0\] = True is neither"),
        (
            lambda x: x.next_token_probs("every effort zoo"),
            r"context\[2\] = 'zoo' cannot come after 'every effort' here",
        ),
        (lambda x: x.log_probs(x.encode("zoo zoo")), r"ids\[1\] = 'zoo' cannot come after 'zoo' here"),
        (lambda x: x.encode("every cat"), r"text\[1\] = 'cat' is not a word"),
        (lambda x: x.decode([28]), r"ids\[0\] = 28 is neither"),
        (lambda x: x.sample(-1, np.random.default_rng(0)), "n_tokens = -1 should be a non-negative integer"),
        (lambda x: x.sample(1.5, np.random.default_rng(0)), r"n_tokens = 1\.5 should be"),
        (lambda x: x.block_entropy(-1), "length = -1 should be a non-negative integer"),
        (lambda x: known_language(-1), "seed = -1 should be a non-negative integer"),
        (lambda x: known_language(True), "seed = True should be"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(ask: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ask(known_language())
    assert "\n" not in str(caught.value)


def test_a_seed_in_place_of_a_generator_is_refused() -> None:
    with pytest.raises(TypeError, match=r"rng = 0 should be a numpy\.random\.Generator"):
        known_language().sample(3, 0)
