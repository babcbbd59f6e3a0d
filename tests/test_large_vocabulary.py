"""Hierarchical, adaptive and sampled softmax and noise-contrastive estimation, in both paths, against exact sums."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch

import lmloss.numpy as ln
import lmloss.torch as lt
from tests.oracle import exact, log_softmax, logsumexp, mp
from tests.paths import PATHS, assert_close

pytestmark = pytest.mark.filterwarnings("error")

INF, NAN = np.inf, np.nan
PRECISIONS = [(p, dtype) for p in PATHS for dtype in p.dtypes]
SAMPLED = ("sampled_softmax_loss", "nce_loss")
COUNTS = [7, 1, 12, 3, 3, 20, 1]


def number(path, function, *arrays, **options):
    return path.to_numpy(path.call(function, *arrays, **options))


def batch(seed=0, shape=(2, 3), width=4, classes=7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*shape, width)), rng.normal(size=(classes, width)), rng.integers(classes, size=shape)


def exact_dots(hidden, weight, bias=None):
    """The logits of one token at sixty digits."""
    h = exact(hidden)
    dots = [mp.fsum(a * b for a, b in zip(h, exact(row), strict=True)) for row in weight]
    return dots if bias is None else [z + b for z, b in zip(dots, exact(bias), strict=True)]


def exact_softplus(x):
    return mp.log(1 + mp.exp(x)) if x != -mp.inf else mp.mpf(0)


# Hierarchical softmax


def below(tree, node_weight, hidden, prefix=()):
    """Walk from the root: the exact log-probability of every class that the prefix of a way leads to."""
    nodes, turns, lengths = (np.asarray(part) for part in tree)
    classes = [j for j in range(len(lengths)) if all((nodes[j, i], turns[j, i]) == p for i, p in enumerate(prefix))]
    if len(classes) == 1 and lengths[classes[0]] == len(prefix):
        return {classes[0]: mp.mpf(0)}
    (node,) = {int(nodes[j, len(prefix)]) for j in classes}
    (score,) = exact_dots(hidden, [node_weight[node]])
    found = {}
    for turn in (1, -1):
        for j, rest in below(tree, node_weight, hidden, (*prefix, (node, turn))).items():
            found[j] = rest - exact_softplus(-turn * score)
    return found


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_a_class_costs_its_turns_as_sixty_digits_say(path, scale):
    hidden, node_weight, targets = batch(1, classes=6)
    hidden, tree = hidden * scale, path.module.huffman_tree(path.array(COUNTS))
    got = number(path, "hierarchical_log_prob", hidden, node_weight, tree, targets)
    assert got.shape == (2, 3)
    for index in np.ndindex(2, 3):
        want = below(tree, node_weight, hidden[index])
        assert abs(mp.fsum(mp.exp(v) for v in want.values()) - 1) < 1e-50
        assert abs(got[index] - float(want[targets[index]])) <= 1e-13 * abs(float(want[targets[index]]))


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 1000])
def test_the_probabilities_of_all_classes_sum_to_one(path, classes):
    rng = np.random.default_rng(classes)
    tree = path.module.huffman_tree(path.array(rng.random(classes)))
    hidden = np.tile(rng.normal(size=(1, 5)) * 2, (classes, 1))
    log_probs = number(
        path, "hierarchical_log_prob", hidden, rng.normal(size=(classes - 1, 5)), tree, np.arange(classes)
    )
    assert abs(math.fsum(np.exp(log_probs)) - 1) < 4e-15
    assert (log_probs <= 0).all()


def test_without_weights_each_turn_is_a_fair_coin(path):
    tree = path.module.huffman_tree(path.array([4, 2, 1, 1]))
    got = number(path, "hierarchical_log_prob", np.ones((4, 3)), np.zeros((3, 3)), tree, np.arange(4))
    assert_close(got, np.log([1 / 2, 1 / 4, 1 / 8, 1 / 8]), rtol=1e-15)


def test_a_lone_class_is_certain(path):
    tree = path.module.huffman_tree(path.array([3]))
    assert_close(
        number(path, "hierarchical_log_prob", np.ones((2, 3)), np.zeros((0, 3)), tree, np.zeros(2, int)), [0, 0]
    )


@pytest.mark.parametrize("y", range(7))
def test_only_the_nodes_on_the_way_are_read(path, y):
    tree = path.module.huffman_tree(path.array(COUNTS))
    hidden, node_weight, _ = batch(2, shape=(), classes=6)
    want = number(path, "hierarchical_log_prob", hidden, node_weight, tree, np.array(y))
    nodes, _, lengths = (np.asarray(part)[y] for part in tree)
    way = nodes[:lengths]
    spoiled = np.full_like(node_weight, NAN)
    spoiled[way] = node_weight[way]
    assert number(path, "hierarchical_log_prob", hidden, spoiled, tree, np.array(y)) == want


def test_an_undefined_row_is_undefined_alone(path):
    tree = path.module.huffman_tree(path.array(COUNTS))
    hidden, node_weight, targets = batch(3, classes=6)
    want = number(path, "hierarchical_log_prob", hidden, node_weight, tree, targets)
    hidden[0, 1] = NAN
    got = number(path, "hierarchical_log_prob", hidden, node_weight, tree, targets)
    assert np.isnan(got[0, 1])
    got[0, 1] = want[0, 1]
    assert np.array_equal(got, want)


def test_scores_beyond_any_exponential_leave_no_nan(path):
    tree = path.module.huffman_tree(path.array([1, 1]))
    right, wrong = number(
        path, "hierarchical_log_prob", np.array([[1e5], [1e5]]), np.array([[1.0]]), tree, np.array([0, 1])
    )
    assert (right, wrong) == (0, -1e5)


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
def test_log_probabilities_are_computed_in_float32_or_wider(path, dtype):
    tree = path.module.huffman_tree(path.array(COUNTS))
    hidden, node_weight, targets = batch(4, classes=6)
    narrow = path.array(hidden, dtype), path.array(node_weight, dtype)
    got = path.call("hierarchical_log_prob", *narrow, tree, targets)
    assert path.dtype_name(got) == ("float64" if dtype == "float64" else "float32")
    want = number(path, "hierarchical_log_prob", *map(path.to_numpy, narrow), tree, targets)
    assert_close(path.to_numpy(got), want, rtol=1e-6)


# Adaptive softmax


def adaptive_batch(seed=0, shape=(2, 3), width=6, cutoffs=(4, 7), classes=12, widths=(3, 2)):
    rng = np.random.default_rng(seed)
    sizes = np.diff([*cutoffs, classes])
    tails = [(rng.normal(size=(w, width)), rng.normal(size=(n, w))) for w, n in zip(widths, sizes, strict=True)]
    return rng.normal(size=(*shape, width)), rng.normal(size=(cutoffs[0] + len(cutoffs), width)), tails, list(cutoffs)


def adaptive(path, hidden, head, tails, cutoffs, dtype="float64"):
    pairs = [tuple(path.array(matrix, dtype) for matrix in pair) for pair in tails]
    return path.module.adaptive_log_prob(path.array(hidden, dtype), path.array(head, dtype), pairs, cutoffs)


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"cutoffs": (1,), "widths": (4,)},
        {"cutoffs": (2, 3, 11), "widths": (1, 1, 7)},
        {"shape": ()},
        {"shape": (0,)},
    ],
    ids=str,
)
def test_adaptive_log_probabilities_are_the_chain_rule_at_sixty_digits(path, case):
    hidden, head, tails, cutoffs = adaptive_batch(5, **case)
    got = path.to_numpy(adaptive(path, hidden, head, tails, cutoffs))
    assert got.shape == (*hidden.shape[:-1], 12)
    for index in np.ndindex(hidden.shape[:-1]):
        first = log_softmax(exact_dots(hidden[index], head))
        want = first[: cutoffs[0]]
        for i, (projection, output) in enumerate(tails):
            projected = exact_dots(hidden[index], projection)
            inner = [mp.fsum(a * b for a, b in zip(exact(row), projected, strict=True)) for row in output]
            want += [first[cutoffs[0] + i] + v for v in log_softmax(inner)]
        assert_close(got[index], [float(v) for v in want], rtol=1e-14)


def test_adaptive_probabilities_sum_to_one(path):
    hidden, head, tails, cutoffs = adaptive_batch(6, shape=(50,))
    assert_close(
        np.exp(path.to_numpy(adaptive(path, hidden * 5, head, tails, cutoffs))).sum(-1), np.ones(50), rtol=1e-14
    )


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
def test_adaptive_log_probabilities_are_computed_in_float32_or_wider(path, dtype):
    hidden, head, tails, cutoffs = adaptive_batch(7)
    got = adaptive(path, hidden, head, tails, cutoffs, dtype)
    assert path.dtype_name(got) == ("float64" if dtype == "float64" else "float32")
    rounded = [path.to_numpy(path.array(m, dtype)) for m in (hidden, head, *itertools.chain(*tails))]
    want = adaptive(path, *rounded[:2], list(zip(rounded[2::2], rounded[3::2], strict=True)), cutoffs)
    assert_close(path.to_numpy(got), path.to_numpy(want), rtol=1e-6)


def test_an_undefined_state_is_undefined_alone(path):
    hidden, head, tails, cutoffs = adaptive_batch(8)
    hidden[1, 0] = INF
    got = path.to_numpy(adaptive(path, hidden, head, tails, cutoffs))
    assert np.isnan(got[1, 0]).any()
    assert np.isfinite(np.delete(got.reshape(6, 12), 3, axis=0)).all()


# The target and a sample of the others

DRAWN = [2, 5, 2, 0]  # twice the same, and among them some of the targets
PROBS = np.array([0.05, 0.1, 0.3, 0.05, 0.2, 0.25, 0.05])
BIAS = np.array([0.3, -1.0, 0.5, 0.0, 2.0, -0.7, 0.1])


def exact_sampled(function, hidden, weight, bias, y, drawn=DRAWN, probs=PROBS):
    """One token's loss from its definition at sixty digits; a logit is -inf where the bias is."""
    z = exact_dots(hidden, weight, bias)
    q = exact(probs / probs.sum())
    size = len(drawn)
    if function == "nce_loss":
        delta = [v - mp.log(size * q_j) for v, q_j in zip(z, q, strict=True)]
        return exact_softplus(-delta[y]) + mp.fsum(exact_softplus(delta[s]) for s in drawn)
    partition = mp.exp(z[y]) + mp.fsum(mp.exp(z[s]) / q[s] for s in drawn if s != y) / size
    return mp.log(partition) - z[y]


@pytest.mark.parametrize("function", SAMPLED)
@pytest.mark.parametrize("bias", [None, BIAS], ids=["no bias", "bias"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_a_token_costs_what_its_sample_says_at_sixty_digits(path, samples, function, bias, scale):
    samples(DRAWN)
    hidden, weight, _ = batch(9, shape=(7,))
    hidden = hidden * scale
    options = {"num_samples": 4, "sampling_probs": PROBS, "bias": bias, "reduction": "none"}
    got = number(path, function, hidden, weight, np.arange(7), **options)
    want = [float(exact_sampled(function, hidden[y], weight, bias, y)) for y in range(7)]
    np.testing.assert_allclose(got, want, rtol=3e-14, atol=1e-15)


@pytest.mark.parametrize("function", SAMPLED)
def test_probabilities_that_miss_a_sum_of_one_are_brought_to_it(path, samples, function):
    samples(DRAWN)
    hidden, weight, _ = batch(9, shape=(7,))
    probs = (PROBS * (1 + 8e-5)).astype(np.float32)
    got = number(path, function, hidden, weight, np.arange(7), num_samples=4, sampling_probs=probs, reduction="none")
    want = [float(exact_sampled(function, hidden[y], weight, None, y, probs=PROBS)) for y in range(7)]
    np.testing.assert_allclose(got, want, rtol=2e-6)


@pytest.mark.parametrize("score", [-40.0, -21.0, 21.0, 25.0, 40.0, 1e5])
def test_a_sure_choice_between_data_and_noise_loses_no_digit(path, samples, score):
    samples([1])
    bias = np.array([score, score]) + math.log(0.5)  # Delta is the score, for the target and for the sample
    options = {"num_samples": 1, "sampling_probs": np.full(2, 0.5), "bias": bias}
    got = number(path, "nce_loss", np.zeros((1, 1)), np.zeros((2, 1)), np.array([0]), **options)
    data, noise = (mp.log1p(mp.exp(v)) for v in (-mp.mpf(score), mp.mpf(score)))
    np.testing.assert_allclose(got, float(data + noise), rtol=4e-15)


def test_a_sample_that_is_all_target_leaves_nothing_to_pay(path, samples):
    samples([3, 3, 3])
    hidden, weight, _ = batch(10, shape=(2,))
    options = {"num_samples": 3, "sampling_probs": PROBS}
    assert number(path, "sampled_softmax_loss", hidden, weight, np.array([3, 3]), **options) == 0


@pytest.mark.parametrize("function", SAMPLED)
def test_an_impossible_class_costs_nothing_unless_it_is_the_target(path, samples, function):
    samples(DRAWN)
    hidden, weight, _ = batch(11, shape=(3,))
    bias = np.where(np.arange(7) == 2, -INF, BIAS)
    options = {"num_samples": 4, "sampling_probs": PROBS, "reduction": "none"}
    got = number(path, function, hidden, weight, np.array([1, 2, 5]), bias=bias, **options)
    assert got[1] == INF
    for i, y in ((0, 1), (2, 5)):
        assert_close(got[i], float(exact_sampled(function, hidden[i], weight, bias, y)))
    samples([2, 2])
    options["num_samples"] = 2
    got = number(path, function, hidden, weight, np.array([1, 2, 5]), bias=bias, **options)
    assert got[1] == INF
    if function == "sampled_softmax_loss":
        assert got[0] == got[2] == 0


@pytest.mark.parametrize("function", SAMPLED)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"reduction": "sequence"},
        {"denominator": 5.0},
        {"denominator": 0.0},
        {"ignore_index": None},
        {"ignore_index": 3},
        {"token_weight": np.array([[0.5, 0, 2], [1, 3, 0.25]])},
        {"token_weight": np.array([[True, False, True], [False, False, False]]), "reduction": "sequence"},
    ],
    ids=str,
)
def test_tokens_are_averaged_as_in_every_other_loss(path, samples, function, options):
    samples(DRAWN)
    hidden, weight, _ = batch(12)
    targets = np.array([[1, 3, 0], [5, 2, 3]])
    if options.get("ignore_index", -100) == -100:
        targets[1, 1] = -100
    common = {"num_samples": 4, "sampling_probs": PROBS, "bias": BIAS}
    got = number(path, function, hidden, weight, targets, **common, **options)
    losses, weights = np.zeros((2, 3)), np.ones((2, 3)) * options.get("token_weight", 1.0)
    for index in np.ndindex(2, 3):
        if targets[index] == options.get("ignore_index", -100):
            weights[index] = 0
        else:
            losses[index] = exact_sampled(function, hidden[index], weight, BIAS, targets[index])
    total = losses * weights
    reduction = options.get("reduction", "mean")
    if reduction == "none":
        want = total
    elif reduction == "sum":
        want = total.sum()
    elif reduction == "sequence":
        counts = weights.sum(-1)
        want = np.divide(total.sum(-1), counts, out=np.zeros(2), where=counts > 0)
    else:
        divisor = options.get("denominator", weights.sum())
        want = total.sum() / divisor if divisor else 0.0
    assert_close(got, want, rtol=1e-13)


@pytest.mark.parametrize("function", SAMPLED)
@pytest.mark.parametrize("filler", [NAN, INF, 1e300])
def test_an_ignored_row_costs_nothing_whatever_stands_in_it(path, function, filler):
    hidden, weight, targets = batch(13)
    hidden[0, 1], targets[0, 1] = filler, -100
    options = {"num_samples": 5, "sampling_probs": PROBS, "reduction": "none"}
    got = number(path, function, hidden, weight, targets, **options)
    assert got[0, 1] == 0
    assert np.isfinite(got).all()
    weights = np.arange(6.0).reshape(2, 3)
    assert (
        number(path, function, np.full_like(hidden, NAN), weight, targets, token_weight=0 * weights, **options).max()
        == 0
    )


@pytest.mark.parametrize("function", SAMPLED)
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_an_empty_batch_costs_nothing(path, function, shape):
    hidden, weight, targets = batch(14, shape=shape)
    assert number(path, function, hidden, weight, targets, num_samples=5, sampling_probs=PROBS) == 0
    none = number(path, function, hidden, weight, targets, num_samples=5, sampling_probs=PROBS, reduction="none")
    assert none.shape == shape


@pytest.mark.parametrize("function", SAMPLED)
def test_leading_axes_are_free_and_share_one_sample(path, samples, function):
    samples(DRAWN)
    hidden, weight, targets = batch(15, shape=(2, 3, 2))
    options = {"num_samples": 4, "sampling_probs": PROBS, "reduction": "none"}
    whole = number(path, function, hidden, weight, targets, **options)
    for index in np.ndindex(2, 3, 2):
        one = number(path, function, hidden[index], weight, np.asarray(targets[index]), **options)
        assert_close(one, whole[index], rtol=1e-13)


@pytest.mark.parametrize("function", SAMPLED)
@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
def test_losses_are_computed_in_float32_or_wider(path, samples, function, dtype):
    samples(DRAWN)
    hidden, weight, targets = batch(16)
    narrow = path.array(hidden, dtype), path.array(weight, dtype)
    options = {"num_samples": 4, "bias": path.array(BIAS, dtype)}
    got = path.call(function, *narrow, targets, sampling_probs=PROBS.astype(np.float32), **options)
    assert path.dtype_name(got) == ("float64" if dtype == "float64" else "float32")
    options["bias"] = path.to_numpy(options["bias"])
    want = number(path, function, *map(path.to_numpy, narrow), targets, sampling_probs=PROBS, **options)
    assert_close(path.to_numpy(got), want, rtol=1e-6)


@pytest.mark.parametrize("function", SAMPLED)
def test_the_widest_of_hidden_weight_and_bias_decides(path, function):
    hidden, weight, targets = batch(17)
    for widest in range(3):
        arrays = [path.array(a, "float64" if i == widest else "float16") for i, a in enumerate((hidden, weight, BIAS))]
        got = path.call(function, *arrays[:2], targets, bias=arrays[2], num_samples=4, sampling_probs=PROBS)
        assert path.dtype_name(got) == "float64"


@pytest.mark.parametrize("function", SAMPLED)
def test_inputs_are_not_modified(path, function):
    arrays = [*batch(18), PROBS, BIAS, np.ones((2, 3))]
    given = [path.array(a, str(a.dtype)) for a in arrays]
    hidden, weight, targets, probs, bias, token_weight = given
    options = {"num_samples": 5, "sampling_probs": probs, "bias": bias, "token_weight": token_weight}
    path.call(function, hidden, weight, targets, **options)
    assert all(np.array_equal(path.to_numpy(a), b) for a, b in zip(given, arrays, strict=True))


# A vocabulary of the usual size


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_at_the_size_of_gpt_2_everything_is_as_precise_as_the_numbers_that_came_in(path, dtype):
    classes, rng = 50257, np.random.default_rng(19)
    shares = 1 / np.arange(1, classes + 1)
    shares /= shares.sum()
    hidden, weight = rng.normal(size=(8, 16)), rng.normal(size=(classes, 16)) / 4
    targets = np.array([0, 1, 10, 100, 1000, 10000, 50255, 50256])
    hidden, weight, probs = (path.array(a, dtype) for a in (hidden, weight, shares))
    wide = [path.to_numpy(a) for a in (hidden, weight)]
    eps = np.finfo(dtype).eps
    tree = path.module.huffman_tree(probs)
    log_probs = number(path, "hierarchical_log_prob", hidden, weight[1:], tree, targets)
    for i, y in enumerate(targets):
        nodes, turns, lengths = (np.asarray(part)[y] for part in tree)
        dots = exact_dots(wide[0][i], wide[1][1:][nodes[:lengths]])
        want = -mp.fsum(exact_softplus(-int(turn) * dot) for turn, dot in zip(turns[:lengths], dots, strict=True))
        assert abs(log_probs[i] - float(want)) <= 8 * eps * abs(float(want))

    drawn = np.random.default_rng(20).choice(classes, size=50, p=shares)
    z = wide[0] @ wide[1][drawn].T
    own = (wide[0] * wide[1][targets]).sum(-1)
    for function in SAMPLED:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lmloss.numpy._candidates._draw", lambda probs, size, rng: drawn)
            patch.setattr("lmloss.torch._candidates._draw", lambda probs, size, rng: torch.tensor(drawn))
            options = {"num_samples": 50, "sampling_probs": probs, "reduction": "none"}
            got = number(path, function, hidden, weight, targets, **options)
        rates = 50 * path.to_numpy(probs) / path.to_numpy(probs).sum()
        corrected = z - np.log(rates[drawn])
        if function == "nce_loss":
            want = np.logaddexp(0, np.log(rates[targets]) - own) + np.logaddexp(0, corrected).sum(-1)
        else:
            corrected[drawn == targets[:, None]] = -INF
            want = np.logaddexp.reduce(np.concatenate([own[:, None], corrected], 1), axis=1) - own
        np.testing.assert_allclose(got, want, rtol=16 * eps, atol=32 * eps)


def test_no_array_of_tokens_times_vocabulary_is_formed_in_numpy():
    tokens, classes, width = 400, 20000, 8
    rng = np.random.default_rng(21)
    hidden, weight = rng.normal(size=(tokens, width)), rng.normal(size=(classes, width))
    targets, probs = rng.integers(classes, size=tokens), np.full(classes, 1 / classes)
    tree = ln.huffman_tree(probs)
    calls = [
        lambda: ln.hierarchical_log_prob(hidden, weight[1:], tree, targets),
        *(lambda f=f: getattr(ln, f)(hidden, weight, targets, num_samples=20, sampling_probs=probs) for f in SAMPLED),
    ]
    for call in calls:
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < tokens * classes * 8 / 20


# Refusals


def refusal(path, function, *arrays, **options):
    with pytest.raises((ValueError, TypeError)) as caught:
        path.call(function, *arrays, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HIDDEN, WEIGHT, TARGETS = batch(22)
BAD_SAMPLED = [
    ({"num_samples": 0}, "num_samples = 0 must be at least 1"),
    ({"num_samples": 2.5}, "num_samples = 2.5 is not an integer"),
    ({"sampling_probs": PROBS * 2}, "sampling_probs sums to 2, not to 1 (tolerance 1e-06)"),
    ({"sampling_probs": PROBS[:5]}, "sampling_probs sums to 0.7"),
    (
        {"sampling_probs": np.full(5, 0.2)},
        "sampling_probs has shape (5,); expected (7,), one probability for each class",
    ),
    ({"sampling_probs": np.full((1, 7), 1 / 7)}, "sampling_probs has shape (1, 7); expected (7,)"),
    (
        {"sampling_probs": np.array([0.5, 0, 0.5, 0, 0, 0, 0])},
        "sampling_probs[1] = 0.0 must be greater than 0: the loss",
    ),
    ({"sampling_probs": np.array([1.5, -0.5, 0, 0, 0, 0, 0])}, "sampling_probs[1] = -0.5 is not a probability"),
    ({"bias": np.zeros(6)}, "bias has shape (6,); expected (7,), one number for each class"),
    ({"bias": np.zeros(7, int)}, "bias must be floating point, not"),
    ({"rng": 3}, "rng must be a"),
    ({"ignore_index": 1.5}, "ignore_index = 1.5 is neither an integer nor None"),
    ({"token_weight": -np.ones((2, 3))}, "token_weight[0, 0] = -1.0 must be finite and not negative"),
    ({"token_weight": np.ones(3)}, "token_weight has shape (3,); expected (2, 3)"),
    ({"reduction": "average"}, "reduction = 'average' is not one of"),
    ({"reduction": "sum", "denominator": 2.0}, 'denominator goes with reduction="mean" only'),
    ({"denominator": -1.0}, "denominator = -1.0 must not be negative"),
]


@pytest.mark.parametrize("function", SAMPLED)
@pytest.mark.parametrize(("options", "words"), BAD_SAMPLED, ids=str)
def test_a_bad_option_is_refused_by_name_and_value(path, function, options, words):
    common = {"num_samples": 4, "sampling_probs": PROBS}
    assert words in refusal(path, function, HIDDEN, WEIGHT, TARGETS, **{**common, **options})


@pytest.mark.parametrize("function", SAMPLED)
def test_arrays_that_do_not_fit_are_refused(path, function):
    options = {"num_samples": 4, "sampling_probs": PROBS}

    def words(hidden=HIDDEN, weight=WEIGHT, targets=TARGETS):
        return refusal(path, function, hidden, weight, targets, **options)

    assert words(hidden=HIDDEN.astype(int)).startswith("hidden must be floating point")
    assert words(hidden=np.array(1.0)) == "hidden has shape (); the last axis holds the features and needs at least 1"
    assert words(weight=WEIGHT[:, :3]) == (
        "weight has shape (7, 3); expected (7, 4), one row for each class, as wide as hidden"
    )
    assert words(weight=np.ones(4)).startswith("weight has shape (4,); expected two axes")
    assert words(targets=TARGETS[0]) == "targets has shape (3,); expected (2, 3), one class for each row of hidden"
    assert "this loss is defined for classes, not distributions" in words(targets=TARGETS.astype(float))
    assert words(targets=np.full((2, 3), 7)) == "targets[0, 0] = 7 is outside [0, 7); ignore_index is -100"
    assert "targets[0, 0] = -1 is outside [0, 7)" in words(targets=np.full((2, 3), -1))


def test_a_walk_that_leads_nowhere_is_refused(path):
    tree = path.module.huffman_tree(path.array(COUNTS))
    nodes = WEIGHT[:6]

    def words(hidden=HIDDEN, node_weight=nodes, tree=tree, targets=TARGETS):
        return refusal(path, "hierarchical_log_prob", hidden, node_weight, tree, targets)

    builds = f"tree must be a HuffmanTree as lmloss.{path.name}.huffman_tree builds it, not"
    assert words(tree=[1, 2]) == f"{builds} list"
    name, other = ("torch", lt) if path.name == "numpy" else ("numpy", ln)
    assert words(tree=other.huffman_tree([1, 1])) == f"{builds} lmloss.{name}.large_vocabulary.HuffmanTree"
    why = "one row for each inner node of the tree of 7 classes, as wide as hidden"
    assert words(node_weight=WEIGHT) == f"node_weight has shape (7, 4); expected (6, 4), {why}"
    assert words(node_weight=nodes > 0).startswith("node_weight must be floating point")
    assert words(hidden=HIDDEN > 0).startswith("hidden must be floating point")
    assert words(targets=TARGETS + 0.5).startswith("targets must be integers")
    assert words(targets=TARGETS[:1]) == "targets has shape (1, 3); expected (2, 3), one class for each row of hidden"
    assert words(targets=np.full((2, 3), -100)) == "targets[0, 0] = -100 is outside [0, 7)"
    assert words(targets=np.full((2, 3), 2**64 - 1, np.uint64)).endswith("is outside [0, 7)")


def test_clusters_that_do_not_fit_are_refused(path):
    hidden, head, tails, cutoffs = adaptive_batch()

    def words(hidden=hidden, head=head, tails=tails, cutoffs=cutoffs):
        with pytest.raises((ValueError, TypeError)) as caught:
            adaptive(path, hidden, head, tails, cutoffs)
        return str(caught.value)

    assert words(cutoffs=[]).startswith("cutoffs is empty")
    assert words(cutoffs=4).startswith("cutoffs must be a sequence of integers, not int")
    assert words(cutoffs=[4, 4]) == "cutoffs[1] = 4 must be greater than cutoffs[0] = 4"
    assert words(cutoffs=[0, 4]) == "cutoffs[0] = 0 must be greater than 0"
    assert words(cutoffs=[4.0, 7]) == "cutoffs[0] = 4.0 is not an integer"
    assert words(cutoffs=[4, 7, 12]).startswith("tails has 2 entries and cutoffs 3: each cutoff begins the cluster of")
    why = "one row for each of 4 classes and 2 clusters, as wide as hidden"
    assert words(head=head[1:]) == f"head has shape (5, 6); expected (6, 6), {why}"
    first, second = tails
    assert "tails[0][0] has shape (3, 5); expected (3, 6)" in words(tails=[(first[0][:, 1:], first[1]), second])
    why = "one row for each class from 4 to 6, as wide as the projection is high"
    assert words(tails=[(first[0], first[1][1:]), second]) == f"tails[0][1] has shape (2, 3); expected (3, 3), {why}"
    assert "tails[1][1] has shape (5, 1); expected (5, 2)" in words(tails=[first, (second[0], second[1][:, 1:])])
    assert "tails[1][1] has shape (0, 2); expected (1, 2)" in words(tails=[first, (second[0], second[1][:0])])
    for bad in ([first, second[0]], [first, (second[0],)]):
        with pytest.raises(TypeError, match=r"tails\[1\] must be a pair \(projection, output\)"):
            path.module.adaptive_log_prob(path.array(hidden), path.array(head), bad, cutoffs)
    with pytest.raises(TypeError, match="tails must be a sequence of pairs"):
        path.module.adaptive_log_prob(path.array(hidden), path.array(head), 5, cutoffs)


def test_the_full_loss_is_what_the_sampled_one_estimates():
    """The definition above against cross-entropy: with every other class drawn once, nothing is left to chance."""
    hidden, weight, _ = batch(23, shape=(1,))
    others, uniform = [0, 1, 2, 4, 5, 6], np.full(7, 1 / 7)
    estimate = exact_sampled("sampled_softmax_loss", hidden[0], weight, BIAS, 3, others, uniform)
    z = exact_dots(hidden[0], weight, BIAS)
    rest = logsumexp([v for j, v in enumerate(z) if j != 3])
    assert abs(estimate - (logsumexp([z[3], rest + mp.log(mp.mpf(7) / 6)]) - z[3])) < 1e-15
    full = lt.cross_entropy(torch.tensor(hidden @ weight.T + BIAS), torch.tensor([3])).item()
    assert abs(full - float(logsumexp(z) - z[3])) < 1e-12
