"""The contract of masking, in both paths: rates by chi-square tests, everything else place by place."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lmloss.numpy as ln
import lmloss.numpy.masking as numpy_masking
import lmloss.torch as lt
import lmloss.torch.masking as torch_masking
from lmloss.torch._tensors import uniform
from tests.oracle import mp
from tests.paths import PATHS

pytestmark = pytest.mark.filterwarnings("error")

ALPHA = 1e-3  # the seeds are fixed: a right implementation passes always, a wrong one fails almost surely
BERT = {"mask_token_id": 103, "vocab_size": 30522, "special_token_ids": [0, 100, 101, 102, 103]}
SMALL = {"mask_token_id": 3, "vocab_size": 20, "special_token_ids": (0, 3, 4, 19)}
ORDINARY = sorted(set(range(20)) - {0, 3, 4, 19})
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def generator(path, seed=0):
    return np.random.default_rng(seed) if path.name == "numpy" else torch.Generator().manual_seed(seed)


def native(path, array):
    return array if path.name == "numpy" or array is None else torch.from_numpy(np.array(array))


def mask(path, ids, *, seed=0, word_ids=None, **options):
    """Both paths' function: NumPy arrays in, NumPy arrays out."""
    function = (numpy_masking if path.name == "numpy" else torch_masking).mask_tokens
    options.setdefault("rng", generator(path, seed))
    ids = np.asarray(ids)
    result = function(native(path, ids), word_ids=native(path, word_ids), **options)
    assert result._fields == ("input_ids", "labels", "selected")
    if path.name == "torch":
        assert all(isinstance(tensor, torch.Tensor) for tensor in result)
        return type(result)(*(tensor.numpy() for tensor in result))
    assert all(type(array) is np.ndarray for array in result)
    return result


def text(seed, *shape, vocab=20):
    return np.random.default_rng(seed).integers(0, vocab, shape)


# The chi-square test


def tail(x, freedom):
    """P(chi-square > x): the regularised upper incomplete gamma function."""
    return mp.gammainc(mp.mpf(freedom) / 2, mp.mpf(x) / 2, mp.inf, regularized=True)


@cache
def critical(freedom, alpha=ALPHA):
    low, high = 0.0, freedom + 40 * math.sqrt(freedom) + 40
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, freedom) > alpha else (low, middle)
    return high


def chi_square(counts, probabilities):
    counts, expected = np.asarray(counts, float), np.sum(counts) * np.asarray(probabilities, float)
    assert abs(np.sum(probabilities) - 1) < 1e-12
    assert not counts[expected == 0].any()
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert expected.min() > 5
    return ((counts - expected) ** 2 / expected).sum(), len(counts) - 1


def assert_drawn_from(counts, probabilities):
    statistic, freedom = chi_square(counts, probabilities)
    assert statistic == 0 or statistic < critical(freedom), (
        f"chi-square {statistic:.1f} with {freedom} degrees of freedom"
    )


def assert_not_drawn_from(counts, probabilities):
    statistic, freedom = chi_square(counts, probabilities)
    assert statistic > critical(freedom)


def assert_independent(first, second):
    """A contingency table's counts are those of the product of its margins."""
    (rows, first), (columns, second) = (np.unique(values, return_inverse=True) for values in (first, second))
    table = np.bincount(first * columns.size + second, minlength=rows.size * columns.size)
    table = table.reshape(rows.size, columns.size)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert expected.min() > 5
    statistic = ((table - expected) ** 2 / expected).sum()
    assert statistic < critical((table.shape[0] - 1) * (table.shape[1] - 1))


def test_critical_values_are_those_of_the_printed_tables():
    # Abramowitz and Stegun, table 26.8
    for alpha, freedom, printed in [(0.05, 1, 3.841), (0.05, 10, 18.307), (0.01, 2, 9.210), (0.001, 5, 20.515)]:
        assert abs(critical(freedom, alpha) - printed) < 6e-4


# Rates


@pytest.mark.parametrize("mask_prob", [0.15, 0.4, 0.01])
def test_tokens_are_selected_at_the_rate_asked_for(path, mask_prob):
    selected = mask(path, np.full((2000, 1000), 17), **BERT, mask_prob=mask_prob).selected
    counts = [selected.sum(), (~selected).sum()]
    assert_drawn_from(counts, [mask_prob, 1 - mask_prob])
    assert_not_drawn_from(counts, [mask_prob * 0.97, 1 - mask_prob * 0.97])


def test_fifteen_percent_is_the_default_rate_and_one_percent_of_it_would_be_seen(path):
    selected = mask(path, np.full((4000, 1000), 2000), **BERT).selected
    counts = [selected.sum(), (~selected).sum()]
    assert_drawn_from(counts, [0.15, 0.85])
    for wrong in (0.1485, 0.1515):
        assert_not_drawn_from(counts, [wrong, 1 - wrong])


@pytest.mark.parametrize(
    ("replace_prob", "random_prob"), [(None, None), (0.8, 0.2), (0.5, 0.0), (0.0, 0.3), (0.0, 0.0), (1.0, 0.0)]
)
@pytest.mark.parametrize("mask_prob", [0.15, 1.0])
def test_a_selected_token_is_masked_drawn_or_kept_at_the_rates_asked_for(path, mask_prob, replace_prob, random_prob):
    rates = {} if replace_prob is None else {"replace_prob": replace_prob, "random_prob": random_prob}
    r, s = (0.8, 0.1) if replace_prob is None else (replace_prob, random_prob)
    seen, _, selected = mask(path, np.full(1_000_000, 7), **SMALL, mask_prob=mask_prob, **rates)
    seen = seen[selected]
    same = s / len(ORDINARY)  # a random token may be the token itself
    assert_drawn_from(
        [(seen == 3).sum(), (seen == 7).sum(), (~np.isin(seen, [3, 7])).sum()], [r, 1 - r - s + same, s - same]
    )


@pytest.mark.parametrize("special", [(), (0,), (19,), (0, 3, 4, 19), (7, 7, 6, 5), tuple(range(18))])
def test_random_tokens_are_uniform_over_the_ordinary_ones(path, special):
    options = {"mask_token_id": 3, "vocab_size": 20, "mask_prob": 1.0, "replace_prob": 0.0, "random_prob": 1.0}
    ordinary = np.setdiff1d(np.arange(20), special)
    ids = np.resize(ordinary, (400, 500))
    seen = mask(path, ids, special_token_ids=special, **options).input_ids
    uniform = np.isin(np.arange(20), special, invert=True) / len(ordinary)
    assert_drawn_from(np.bincount(seen.ravel(), minlength=20), uniform)
    if len(ordinary) > 2:
        own = seen[ids == ordinary[0]]  # whatever stood there
        assert_drawn_from(np.bincount(own, minlength=20), uniform)


def test_random_tokens_reach_the_whole_of_a_large_vocabulary(path):
    ids = np.full((1000, 2000), 7)
    options = {"mask_prob": 1.0, "replace_prob": 0.0, "random_prob": 1.0}
    seen = mask(path, ids, mask_token_id=50256, vocab_size=50257, special_token_ids=[50256], **options).input_ids
    assert seen.max() == 50255
    counts = np.bincount(seen.ravel(), minlength=50256)
    assert_drawn_from(counts, np.full(50256, 1 / 50256))


def test_a_rare_event_is_as_rare_as_asked_for():
    coins = uniform(torch.Size([1000]), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert (coins * 2**24 % 1 != 0).any(), "a float32 would put every probability below 2**-24 at 2**-24"
    assert (coins * 2**53 % 1 == 0).all()
    assert (coins >= 0).all()
    assert (coins < 1).all()


# Independence


def test_tokens_are_drawn_independently_of_their_neighbours_and_of_other_rows(path):
    seen, _, selected = mask(path, np.full((1000, 1000), 7), **SMALL, mask_prob=0.4, replace_prob=0.5, random_prob=0.25)
    fate = np.select([~selected, seen == 3, seen == 7], [0, 1, 2], 3)
    for there, here in [(fate[:, 1:], fate[:, :-1]), (fate[1:], fate[:-1]), (fate[:, 7:], fate[:, :-7])]:
        assert_independent(there.ravel(), here.ravel())
    assert_independent(fate.ravel(), np.broadcast_to(np.arange(1000) // 100, fate.shape).ravel())


def test_random_tokens_are_drawn_independently_of_each_other_and_of_where_they_stand(path):
    options = SMALL | {"mask_prob": 1.0, "replace_prob": 0.0, "random_prob": 1.0}
    seen = mask(path, np.full((500, 1000), 7), **options).input_ids
    assert_independent(seen[:, 1:].ravel(), seen[:, :-1].ravel())
    assert_independent(seen[1:].ravel(), seen[:-1].ravel())


# Whole words


def words_by_hand(word_ids, special):
    """The places of each word that may be selected, from a dictionary for each row."""
    words = []
    for row, (numbers, bad) in enumerate(zip(word_ids, special, strict=True)):
        places = {}
        for column, number in enumerate(numbers.tolist()):
            places.setdefault(number, []).append((row, column))
        good = (p for n, p in places.items() if n >= 0 and not any(bad[column] for _, column in p))
        words += [tuple(np.array(p).T) for p in good]
    return words


@pytest.mark.parametrize("mask_prob", [0.15, 0.5])
def test_words_are_selected_at_the_rate_asked_for_all_or_nothing(path, mask_prob):
    rng = np.random.default_rng(1)
    word_ids = np.cumsum(rng.random((300, 200)) < 0.4, axis=-1)
    word_ids[:, 0], word_ids[:, -10:] = -1, -1
    ids = rng.choice(ORDINARY, word_ids.shape)
    selected = mask(path, ids, word_ids=word_ids, mask_prob=mask_prob, **SMALL).selected
    words = words_by_hand(word_ids, np.zeros(ids.shape, dtype=bool))
    chosen = np.array([selected[word].all() for word in words])
    assert all(chosen[i] == selected[word].any() for i, word in enumerate(words))
    assert_drawn_from([chosen.sum(), (~chosen).sum()], [mask_prob, 1 - mask_prob])
    assert_independent(chosen[1:], chosen[:-1])
    assert selected.sum() == sum(len(words[i][0]) for i in np.flatnonzero(chosen))


def test_the_pieces_of_a_word_share_their_fate_and_random_pieces_are_drawn_one_by_one(path):
    word_ids = np.tile(np.arange(500) // 2, (1200, 1))
    ids = np.full(word_ids.shape, 7)
    seen, _, selected = mask(path, ids, word_ids=word_ids, **SMALL, mask_prob=0.5, replace_prob=0.5, random_prob=0.3)
    first, second = seen[selected].reshape(-1, 2).T
    np.testing.assert_array_equal(first == 3, second == 3)
    drawn = (first != 3) & ((first != 7) | (second != 7))
    rest = 0.3 / len(ORDINARY) ** 2  # both pieces drawn, and both the token itself
    assert_drawn_from([(first == 3).sum(), drawn.sum(), (~drawn & (first != 3)).sum()], [0.5, 0.3 - rest, 0.2 + rest])
    pairs = np.bincount(20 * first[drawn] + second[drawn], minlength=400)
    uniform = np.isin(np.arange(20), ORDINARY)
    uniform = np.outer(uniform, uniform).astype(float)
    uniform[7, 7] = 0
    assert_drawn_from(pairs, uniform.ravel() / uniform.sum())


def test_a_number_is_a_word_of_its_own_in_every_row(path):
    selected = mask(path, np.full((20_000, 4), 7), word_ids=np.full((20_000, 4), 5), **SMALL, mask_prob=0.3).selected
    assert (selected.all(-1) == selected.any(-1)).all()
    assert_drawn_from([selected[:, 0].sum(), (~selected[:, 0]).sum()], [0.3, 0.7])
    assert_independent(selected[1:, 0], selected[:-1, 0])


def test_the_pieces_of_a_word_need_not_stand_side_by_side_and_numbers_may_be_large(path):
    word_ids = np.tile([2**62, 0, 2**62, -7, 0, 5], (500, 1))
    selected = mask(path, np.full((500, 6), 7), word_ids=word_ids, **SMALL, mask_prob=0.5).selected
    np.testing.assert_array_equal(selected[:, 0], selected[:, 2])
    np.testing.assert_array_equal(selected[:, 1], selected[:, 4])
    assert not selected[:, 3].any()
    assert 0 < (selected[:, 0] != selected[:, 1]).mean() < 1


def test_no_word_and_a_word_with_a_special_token_are_never_selected(path):
    ids = np.array([[0, 7, 8, 9, 3, 10, 11, 12, 4]] * 2)
    word_ids = np.array([[-1, 0, 0, 1, 1, 1, 2, -1, -1], [0, 0, 1, 1, -1, 2, 2, -2, 2]])
    want = np.array([[0, 1, 1, 0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0, 0]], dtype=bool)
    for dtype in ("int64", "int16"):
        result = mask(path, ids, word_ids=word_ids.astype(dtype), **SMALL, mask_prob=1.0)
        np.testing.assert_array_equal(result.selected, want)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 12), st.integers(1, 8))
def test_both_paths_find_the_same_words_as_a_dictionary(seed, rows, length, numbers):
    rng = np.random.default_rng(seed)
    word_ids = rng.integers(-1, numbers, (rows, length))
    ids = np.where(rng.random((rows, length)) < 0.1, 0, 7)
    want = np.zeros((rows, length), dtype=bool)
    for word in words_by_hand(word_ids, ids == 0):
        want[word] = True
    for path in PATHS:
        result = mask(path, ids, word_ids=word_ids, **SMALL, mask_prob=1.0, replace_prob=1.0, random_prob=0.0)
        np.testing.assert_array_equal(result.selected, want)
        np.testing.assert_array_equal(result.input_ids, np.where(want, 3, ids))


# Place by place


@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(), (0,), (1,), (9,), (3, 5), (2, 0), (0, 4), (2, 3, 4)]),
    dtype=st.sampled_from(INTEGERS),
    special=st.lists(st.integers(0, 19), max_size=8),
    rates=st.sampled_from([{}, {"mask_prob": 0.7, "replace_prob": 0.3, "random_prob": 0.6}, {"mask_prob": 1.0}]),
    whole_words=st.booleans(),
)
def test_labels_and_places_agree_and_special_tokens_are_left_alone(seed, shape, dtype, special, rates, whole_words):
    ids = np.asarray(text(seed, *shape), dtype=dtype)
    word_ids = np.asarray(text(seed + 1, *shape, vocab=4)) - 1 if whole_words else None
    options = {"mask_token_id": 3, "vocab_size": 20, "special_token_ids": special} | rates
    for path in PATHS:
        seen, labels, selected = mask(path, ids, word_ids=word_ids, seed=seed, **options)
        assert seen.shape == labels.shape == selected.shape == ids.shape
        assert (seen.dtype, selected.dtype) == (ids.dtype, np.dtype(bool))
        signed = {"uint8": "int16", "uint16": "int32", "uint32": "int64", "uint64": "int64"}
        assert labels.dtype == np.dtype(signed.get(dtype, dtype))
        np.testing.assert_array_equal(labels, np.where(selected, ids.astype("int64"), -100))
        np.testing.assert_array_equal(seen[~selected], ids[~selected])
        assert not selected[np.isin(ids, special)].any()
        assert not np.isin(seen[selected], np.setdiff1d(special, [3])).any()


def test_the_input_is_not_modified_and_no_result_shares_its_memory(path):
    for mask_prob in (0.0, 0.5, 1.0):
        ids, word_ids = text(3, 40, 50), text(4, 40, 50)
        before, words_before = ids.copy(), word_ids.copy()
        function = (numpy_masking if path.name == "numpy" else torch_masking).mask_tokens
        given_ids, given_words = (ids, word_ids) if path.name == "numpy" else map(torch.from_numpy, (ids, word_ids))
        for words in (None, given_words):
            result = function(given_ids, word_ids=words, **SMALL, mask_prob=mask_prob)
            for array in map(np.asarray, result):
                assert not np.shares_memory(array, ids)
                array[...] = 0
            np.testing.assert_array_equal(ids, before)
            np.testing.assert_array_equal(word_ids, words_before)


def test_a_view_is_masked_like_its_copy(path):
    ids, word_ids = text(3, 60, 40), text(4, 60, 40)
    function = (numpy_masking if path.name == "numpy" else torch_masking).mask_tokens
    views = (ids.T[::2], word_ids.T[::2])
    if path.name == "torch":
        views = tuple(torch.from_numpy(a).T[::2] for a in (ids, word_ids))
    want = mask(path, ids.T[::2].copy(), word_ids=word_ids.T[::2].copy(), **SMALL, mask_prob=0.5)
    got = function(views[0], word_ids=views[1], rng=generator(path), **SMALL, mask_prob=0.5)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)


def test_nothing_and_everything_are_selected_at_the_ends(path):
    ids = text(5, 200, 100)
    nothing = mask(path, ids, **SMALL, mask_prob=0.0)
    np.testing.assert_array_equal(nothing.input_ids, ids)
    assert not nothing.selected.any()
    assert (nothing.labels == -100).all()
    ordinary = np.isin(ids, ORDINARY)
    everything = mask(path, ids, **SMALL, mask_prob=1, replace_prob=1, random_prob=0)
    np.testing.assert_array_equal(everything.selected, ordinary)
    np.testing.assert_array_equal(everything.input_ids, np.where(ordinary, 3, ids))
    kept = mask(path, ids, **SMALL, mask_prob=1.0, replace_prob=0.0, random_prob=0.0)
    np.testing.assert_array_equal(kept.input_ids, ids)
    np.testing.assert_array_equal(kept.labels, np.where(ordinary, ids, -100))


def test_a_text_of_special_tokens_alone_has_nothing_to_predict(path):
    ids = np.tile([0, 3, 4, 19], (50, 3))
    seen, labels, selected = mask(path, ids, **SMALL, mask_prob=1.0)
    np.testing.assert_array_equal(seen, ids)
    assert not selected.any()
    assert (labels == -100).all()


def test_the_mask_is_special_only_where_it_is_listed(path):
    ids = np.full((300, 300), 3)
    assert not mask(path, ids, **SMALL, mask_prob=1.0).selected.any()
    options = {"mask_token_id": 3, "vocab_size": 20, "mask_prob": 1.0, "replace_prob": 0.0, "random_prob": 1.0}
    result = mask(path, ids, **options)
    assert result.selected.all()
    assert_drawn_from(np.bincount(result.input_ids.ravel(), minlength=20), np.full(20, 0.05))


def test_special_ids_may_come_as_any_collection(path):
    ids = text(6, 30, 40)
    want = mask(path, ids, **SMALL)
    for special in (
        [19, 4, 3, 0, 0],
        {0, 3, 4, 19},
        np.array([0, 3, 4, 19]),
        iter((0, 3, 4, 19)),
        torch.tensor([0, 3, 4, 19]),
    ):
        got = mask(path, ids, **SMALL | {"special_token_ids": special})
        np.testing.assert_array_equal(got.input_ids, want.input_ids)


def test_narrow_integers_hold_their_whole_range(path):
    for dtype, vocab in (("uint8", 256), ("int8", 128), ("uint16", 65536)):
        ids = np.full((50, 50), vocab - 1, dtype=dtype)
        seen, labels, selected = mask(path, ids, mask_token_id=vocab - 2, vocab_size=vocab, mask_prob=0.5)
        assert set(np.unique(seen[~selected])) == {vocab - 1}
        assert set(np.unique(labels)) == {-100, vocab - 1}


# Randomness


@pytest.mark.parametrize("whole_words", [False, True])
def test_the_same_state_gives_the_same_result_and_moves_on(path, whole_words):
    ids = text(7, 60, 70)
    options = SMALL | {"word_ids": np.tile(np.arange(70) // 2, (60, 1)) if whole_words else None}
    rng = generator(path, 5)
    first, second = mask(path, ids, **options, rng=rng), mask(path, ids, **options, rng=rng)
    again, other = mask(path, ids, **options, seed=5), mask(path, ids, **options, seed=6)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.selected != second.selected).any()
    assert (first.selected != other.selected).any()


def test_without_a_generator_numpy_draws_afresh_and_leaves_the_global_state_alone():
    ids = text(7, 60, 70)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (numpy_masking.mask_tokens(ids, **SMALL) for _ in range(2))
    assert (first.selected != second.selected).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_without_a_generator_torch_draws_from_its_own():
    ids = torch.from_numpy(text(7, 60, 70))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = (torch_masking.mask_tokens(ids, **SMALL) for _ in range(2))
        torch.manual_seed(3)
        again = torch_masking.mask_tokens(ids, **SMALL)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.selected, second.selected)
    state = torch.get_rng_state()
    torch_masking.mask_tokens(ids, **SMALL, rng=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"replace_prob": 0.8, "random_prob": 0.3}, ValueError, "replace_prob + random_prob = 0.8 + 0.3 must not be"),
        ({"mask_prob": 1.5}, ValueError, "mask_prob = 1.5 is outside [0, 1]"),
        ({"mask_prob": -0.1}, ValueError, "mask_prob = -0.1 is outside [0, 1]"),
        ({"mask_prob": float("nan")}, ValueError, "mask_prob = nan is not finite"),
        ({"replace_prob": "0.8"}, TypeError, "replace_prob = '0.8' is not a number"),
        ({"random_prob": 2}, ValueError, "random_prob = 2 is outside [0, 1]"),
        ({"mask_token_id": 20}, ValueError, "mask_token_id = 20 is outside [0, 20)"),
        ({"mask_token_id": None}, TypeError, "mask_token_id = None is not an integer"),
        ({"vocab_size": 0}, ValueError, "vocab_size = 0 must be at least 1"),
        ({"vocab_size": 20.0}, TypeError, "vocab_size = 20.0 is not an integer"),
        ({"special_token_ids": [0, -1]}, ValueError, "special_token_ids[1] = -1 is outside [0, 20)"),
        ({"special_token_ids": [0, None]}, TypeError, "special_token_ids[1] = None is not an integer"),
        ({"special_token_ids": 3}, TypeError, "special_token_ids must be a sequence of ids, not int"),
        ({"special_token_ids": "[MASK]"}, TypeError, "special_token_ids must be a sequence of ids, not str"),
        ({"special_token_ids": range(20)}, ValueError, "special_token_ids are all 20 ids of the vocabulary"),
        ({"rng": 0}, TypeError, "rng must be a"),
        ({"word_ids": np.zeros((3, 3), int)}, ValueError, "word_ids has shape (3, 3); expected (2, 3)"),
        ({"word_ids": np.zeros((2, 3))}, TypeError, "word_ids must be integers, not"),
        ({"word_ids": np.zeros((2, 3), bool)}, TypeError, "word_ids must be integers, not"),
    ],
)
def test_bad_arguments_are_refused_by_name(path, options, error, message):
    with pytest.raises(error) as caught:
        mask(path, np.full((2, 3), 7), **SMALL | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[7, 7], [7, 20]], ValueError, "input_ids[1, 1] = 20 is outside [0, 20)"),
        ([7, -100, 7], ValueError, "input_ids[1] = -100 is outside [0, 20)"),
        (np.array([7, 2**64 - 1], dtype="uint64"), ValueError, "input_ids[1] = 18446744073709551615 is outside"),
        ([7.0, 8.0], TypeError, "input_ids must be integers, not"),
        ([True, False], TypeError, "input_ids must be integers, not"),
    ],
)
def test_bad_ids_are_refused_by_place_and_value(path, ids, error, message):
    with pytest.raises(error) as caught:
        mask(path, ids, **SMALL)
    assert message in str(caught.value)


def test_an_integer_too_narrow_for_the_vocabulary_is_refused(path):
    with pytest.raises(ValueError, match=r"input_ids of .*int8 cannot hold every id of vocab_size = 30522"):
        mask(path, np.full((2, 3), 7, dtype="int8"), **BERT)


def test_what_is_no_array_is_refused_by_name():
    with pytest.raises(TypeError, match="use -1, not None"):
        numpy_masking.mask_tokens([7, 7], word_ids=[None, 0], **SMALL)
    with pytest.raises(TypeError, match=r"input_ids must be a torch\.Tensor, not list"):
        torch_masking.mask_tokens([7, 7], **SMALL)
    with pytest.raises(TypeError, match=r"word_ids must be a torch\.Tensor, not list"):
        torch_masking.mask_tokens(torch.tensor([7, 7]), word_ids=[0, 0], **SMALL)
    with pytest.raises(ValueError, match="word_ids is on meta and input_ids on cpu"):
        torch_masking.mask_tokens(torch.tensor([7]), word_ids=torch.zeros(1, dtype=torch.int64, device="meta"), **SMALL)


# PyTorch alone


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("special", [(), (0, 3, 4, 19)])
def test_it_compiles_and_maps_and_runs_where_there_are_no_values(whole_words, special):
    ids = torch.from_numpy(text(8, 4, 500))
    words = torch.arange(500).expand(4, 500) // 3 if whole_words else None
    options = SMALL | {"special_token_ids": special, "mask_prob": 0.5}

    def function(ids, words):
        return torch_masking.mask_tokens(ids, word_ids=words, **options)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        want = function(ids, words)
        torch.manual_seed(1)
        got = compiled(ids, words)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))

    mapped = torch.func.vmap(
        lambda *rows: tuple(function(*rows)), in_dims=(0, 0 if whole_words else None), randomness="different"
    )
    _, labels, selected = mapped(ids, words)
    assert torch.equal(labels, torch.where(selected, ids, -100))
    assert not selected[torch.isin(ids, torch.tensor(special, dtype=torch.int64))].any()
    assert 0.4 < selected.float().mean() < 0.6 or special
    assert (selected[0] != selected[1]).any()

    meta = function(ids.to("meta"), None if words is None else words.to("meta"))
    assert [t.dtype for t in meta] == [torch.int64, torch.int64, torch.bool]
    assert all(t.shape == ids.shape and t.device.type == "meta" for t in meta)
    far = torch_masking.mask_tokens(ids.to("meta"), rng=torch.Generator(), **options)
    assert far.input_ids.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_the_default_floating_type_changes_nothing(dtype):
    ids = torch.full((300, 300), 7)
    want = torch_masking.mask_tokens(ids, rng=torch.Generator().manual_seed(0), **SMALL)
    torch.set_default_dtype(dtype)
    try:
        got = torch_masking.mask_tokens(ids, rng=torch.Generator().manual_seed(0), **SMALL)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_what_the_cpu_draws_from_a_generator_on_the_cpu():
    ids, words = torch.from_numpy(text(9, 50, 60)), torch.arange(60).expand(50, 60) // 3
    for word_ids in (None, words):
        here = torch_masking.mask_tokens(ids, word_ids=word_ids, rng=torch.Generator().manual_seed(0), **SMALL)
        moved = None if word_ids is None else word_ids.cuda()
        there = torch_masking.mask_tokens(ids.cuda(), word_ids=moved, rng=torch.Generator().manual_seed(0), **SMALL)
        assert all(b.is_cuda and torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch_masking.mask_tokens(ids.cuda(), word_ids=moved, **SMALL | {"special_token_ids": ()})
        finally:
            torch.cuda.set_sync_debug_mode("default")


# What it is for


def test_the_labels_are_those_of_the_masked_language_model_loss(path):
    _, labels, selected = mask(path, text(10, 20, 30), **SMALL)
    module, logits = (ln, np.zeros((20, 30, 20))) if path.name == "numpy" else (lt, torch.zeros(20, 30, 20))
    losses = np.asarray(module.masked_lm_loss(logits, native(path, labels), reduction="none"))
    np.testing.assert_allclose(losses, np.where(selected, math.log(20), 0), rtol=1e-6)
    none = mask(path, text(10, 20, 30), **SMALL, mask_prob=0.0).labels
    assert float(module.masked_lm_loss(logits, native(path, none))) == 0.0
