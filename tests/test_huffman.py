"""Huffman's tree against published codes, brute force and the theorems about it."""

import functools
import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lmloss.numpy as ln
import lmloss.torch as lt
from tests.paths import PATHS

NAN, INF = math.nan, math.inf
counts_of_classes = st.lists(st.integers(0, 40), min_size=1, max_size=24).filter(any)


def build(path, counts, dtype="int64"):
    return path.module.huffman_tree(path.array(counts, dtype))


def as_arrays(tree):
    return tuple(np.asarray(part) for part in tree)


def lengths_of(path, counts, dtype="int64"):
    return np.asarray(build(path, counts, dtype).lengths).tolist()


def entropy_in_bits(counts):
    total = sum(counts)
    return sum(c / total * math.log2(total / c) for c in counts if c)


def mean_length(path, counts):
    return sum(c * length for c, length in zip(counts, lengths_of(path, counts), strict=True)) / sum(counts)


# Published codes


@pytest.mark.parametrize(
    ("counts", "lengths"),
    [
        ([45, 13, 12, 16, 9, 5], [1, 3, 3, 3, 4, 4]),  # Cormen et al., Introduction to Algorithms, figure 16.3
        ([25, 25, 20, 15, 15], [2, 2, 2, 3, 3]),  # Cover & Thomas, Elements of Information Theory, example 5.6.1
        ([4, 2, 1, 1], [1, 2, 3, 3]),  # dyadic: each length is the surprisal in bits
        ([1], [0]),
        ([3, 5], [1, 1]),
    ],
)
def test_lengths_are_those_of_published_codes(path, counts, lengths):
    assert lengths_of(path, counts) == lengths


def test_the_mean_length_of_huffmans_own_example_is_his(path):
    # Huffman (1952), table I
    counts = [20, 18, 10, 10, 10, 6, 6, 4, 4, 4, 4, 3, 1]
    assert mean_length(path, counts) == pytest.approx(3.42, abs=1e-12)


def test_the_tree_of_a_small_code_is_this_one(path):
    # 3 and 4 join first (1 + 1), then they and 2 (both 2, the class is older), then all and 1.
    nodes, turns, lengths = as_arrays(build(path, [8, 2, 1, 1]))
    assert nodes.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 2], [0, 1, 2]]
    assert turns.tolist() == [[-1, 0, 0], [1, 1, 0], [1, -1, 1], [1, -1, -1]]
    assert lengths.tolist() == [1, 2, 3, 3]


# Theorems


@given(counts_of_classes)
def test_the_mean_length_lies_between_the_entropy_and_one_bit_more(counts):
    for path in PATHS:
        got, bits = mean_length(path, counts), entropy_in_bits(counts)
        assert bits - 1e-12 <= got <= bits + 1 + 1e-12
        if all(counts):
            assert got < bits + 1


def test_a_class_that_has_all_the_counts_needs_a_turn(path):
    assert lengths_of(path, [7, 0]) == [1, 1]


@given(counts_of_classes)
def test_krafts_sum_is_one_and_every_edge_of_the_tree_is_there_once(counts):
    for path in PATHS:
        nodes, turns, lengths = as_arrays(build(path, counts))
        classes = len(counts)
        assert sum(Fraction(1, 2 ** int(length)) for length in lengths) == 1
        assert nodes.shape == turns.shape == (classes, max(lengths))
        edges = set()
        for j in range(classes):
            way = list(zip(nodes[j, : lengths[j]].tolist(), turns[j, : lengths[j]].tolist(), strict=True))
            assert all(turn in (1, -1) for _, turn in way)
            assert [node for node, _ in way] == sorted({node for node, _ in way}), "a child is younger than its parent"
            assert not nodes[j, lengths[j] :].any()
            assert not turns[j, lengths[j] :].any()
            edges |= {tuple(way[: i + 1]) for i in range(len(way))}
        assert len(edges) == 2 * (classes - 1), "two edges leave each inner node, and no more"
        assert {way[-1] for way in edges} == set(itertools.product(range(classes - 1), (1, -1)))


def cheapest(counts):
    """The smallest sum of count times depth over all binary trees, by trying every way to split every set."""

    @functools.cache
    def cost(members):
        if len(members) == 1:
            return 0
        first, rest = members[0], members[1:]
        splits = itertools.chain.from_iterable(itertools.combinations(rest, r) for r in range(len(rest)))
        halves = (((first, *side), tuple(m for m in rest if m not in side)) for side in splits)
        return sum(counts[m] for m in members) + min(cost(a) + cost(b) for a, b in halves)

    return cost(tuple(range(len(counts))))


@pytest.mark.parametrize("seed", range(25))
def test_no_binary_tree_is_cheaper(path, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, [3, 10, 1000][seed % 3], size=rng.integers(2, 8)).tolist()
    counts[0] += 1
    assert sum(c * length for c, length in zip(counts, lengths_of(path, counts), strict=True)) == cheapest(counts)


@given(counts_of_classes)
def test_a_more_frequent_class_is_never_further_from_the_root(counts):
    for path in PATHS:
        lengths = lengths_of(path, counts)
        for (a, la), (b, lb) in itertools.combinations(zip(counts, lengths, strict=True), 2):
            assert a == b or (la <= lb) == (a > b) or la == lb


# Which of several best trees


@pytest.mark.parametrize("classes", [2, 3, 4, 6, 8, 31, 32, 33, 100])
def test_equal_counts_make_a_balanced_tree(path, classes):
    lengths = lengths_of(path, [5] * classes)
    assert max(lengths) == math.ceil(math.log2(classes))
    assert min(lengths) == math.floor(math.log2(classes))


def test_classes_never_seen_hang_in_a_balanced_tree_of_their_own(path):
    lengths = lengths_of(path, [9, 0, 0, 0, 0, 0, 0, 0, 0])
    assert lengths == [1] + [4] * 8


def test_fibonacci_counts_make_the_deepest_tree(path):
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(counts[-1] + counts[-2])
    assert max(lengths_of(path, counts)) == 29


@given(counts_of_classes)
def test_both_paths_build_the_same_tree_whatever_holds_the_counts(counts):
    want = as_arrays(ln.huffman_tree(counts))
    shares = [c / 64 for c in counts]  # exact, so that what was equal stays equal
    for same in (
        ln.huffman_tree(np.array(counts, np.uint8)),
        ln.huffman_tree(shares),
        ln.huffman_tree(np.array(shares, np.float16)),
        lt.huffman_tree(counts),
        lt.huffman_tree(shares),
        lt.huffman_tree(torch.tensor(counts, dtype=torch.uint64)),
        lt.huffman_tree(torch.tensor(shares, dtype=torch.bfloat16)),
        lt.huffman_tree(np.array(counts)),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(as_arrays(same), want, strict=True))


def test_numbers_in_no_tensor_keep_their_precision():
    close = [1 + 1e-12, 1 + 2e-12, 1.0]  # all alike in float32
    assert lt.huffman_tree(close).lengths.tolist() == ln.huffman_tree(close).lengths.tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    "counts",
    [
        torch.tensor([1, 2**63, 2, 2**64 - 1], dtype=torch.uint64),
        np.array([1, 2**63, 2, 2**64 - 1], np.uint64),
        [1, 2**63, 2, 10**20],
        np.array([4, 2, 3, 1])[::-1],
        np.array([1, 3, 2, 4], ">f8"),
        [Decimal(1), Decimal(3), 2, Decimal(4)],
    ],
    ids=["uint64 tensor", "uint64 array", "large integers", "reversed", "big-endian", "decimals"],
)
def test_counts_are_read_whatever_holds_them(path, counts):
    assert path.module.huffman_tree(counts).lengths.tolist() == [3, 2, 3, 1]


def test_the_counts_are_not_modified(path):
    counts = path.array([3, 1, 2])
    path.module.huffman_tree(counts)
    assert path.to_numpy(counts).tolist() == [3, 1, 2]


# What it is for


@pytest.mark.parametrize("classes", [1000, 50257])
def test_words_of_a_natural_vocabulary_are_on_average_as_far_away_as_their_entropy(path, classes):
    shares = 1 / np.arange(1, classes + 1)
    shares /= shares.sum()
    lengths = np.asarray(path.module.huffman_tree(path.array(shares)).lengths)
    mean, bits = shares @ lengths, -shares @ np.log2(shares)
    assert bits <= mean < bits + 1
    assert mean < bits + 0.05, "for a law of Zipf the bound is far from reached"
    assert mean < math.log2(classes)
    assert lengths.max() <= 2 * math.log2(classes)


# Refusals


def refusal(path, counts, kind, dtype="float64"):
    with pytest.raises(kind) as caught:
        build(path, counts, dtype)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_counts_nothing_is_refused(path):
    assert refusal(path, [1, -2, 3], ValueError, "int64") == "counts[1] = -2 must be finite and not negative"
    assert refusal(path, [1, 2, NAN], ValueError) == "counts[2] = nan must be finite and not negative"
    assert refusal(path, [INF, 2], ValueError) == "counts[0] = inf must be finite and not negative"
    assert refusal(path, [0, 0], ValueError) == "counts are all 0; at least one class must have been counted"
    assert "counts has shape (0,)" in refusal(path, [], ValueError)
    assert "counts is a single number" in refusal(path, 3.0, ValueError)
    assert refusal(path, [[1.0, 2.0]], ValueError) == "counts has shape (1, 2); expected (2,), one count for each class"
    assert "counts must hold real numbers" in refusal(path, [1j, 2j], TypeError, "complex64")


@pytest.mark.parametrize("counts", [None, "abc", [[1], [2, 3]], ["a"], [10**400, 1]])
def test_what_is_no_number_is_refused_by_name(counts):
    with pytest.raises(TypeError, match=r"counts must be a torch\.Tensor or numbers, not"):
        lt.huffman_tree(counts)


def test_the_meta_device_has_nothing_to_build_from():
    with pytest.raises(ValueError, match="counts are on the meta device"):
        lt.huffman_tree(torch.ones(3, device="meta"))
