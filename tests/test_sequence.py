"""The contract of the losses on whole sequences, against enumeration, sixty-digit arithmetic and statistics."""

import itertools
import math
import types

import numpy as np
import pytest
import torch

import lmloss.numpy.sequence as numpy_sequence
import lmloss.torch.sequence as torch_sequence
from tests.oracle import exact, log_softmax, mp
from tests.paths import PATHS, assert_close

pytestmark = pytest.mark.filterwarnings("error")

INF, NAN = float("inf"), float("nan")
MODULES: dict[str, types.ModuleType] = {"numpy": numpy_sequence, "torch": torch_sequence}


def given(path, value):
    return torch.from_numpy(np.array(value)) if path.name == "torch" and isinstance(value, np.ndarray) else value


def raw(path, function, *arrays, **options):
    named = {name: given(path, value) for name, value in options.items()}
    return getattr(MODULES[path.name], function)(*(given(path, a) for a in arrays), **named)


def number(path, function, *arrays, **options):
    return path.to_numpy(raw(path, function, *arrays, **options))


def slopes(path, function, scores, *arrays, **options):
    """d loss / d scores: by autograd in PyTorch, by central differences in NumPy, where no derivative is given."""
    if path.name == "torch":
        leaf = torch.from_numpy(np.array(scores)).requires_grad_()
        loss = raw(path, function, leaf, *arrays, **options)
        return torch.autograd.grad(loss, leaf)[0].numpy()
    gradient, h = np.zeros_like(scores), 2.0**-14
    for index in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[index] = h
        up, down = (number(path, function, scores + sign * step, *arrays, **options) for sign in (1, -1))
        gradient[index] = (up - down) / (2 * h)
    return gradient


def tolerance(path):
    return 1e-12 if path.name == "torch" else 1e-8


# A model small enough to write down every sequence: 3 words, 2 positions, the second depends on the first.

WORDS = 3
SEQUENCES = np.array(list(itertools.product(range(WORDS), repeat=2)))
START = np.array([0.5, -1.0, 0.25])
NEXT = np.array([[0.0, 1.0, -0.5], [2.0, 0.0, 0.5], [-1.0, 0.5, 0.75]])
PAYS = np.array([[1.0, 0.0, 3.0], [-2.0, 4.0, 0.5], [2.0, 2.5, -1.0]])
LOGITS = np.stack([np.broadcast_to(START, (9, WORDS)), NEXT[SEQUENCES[:, 0]]], axis=1)
REWARDS = PAYS.reshape(-1)


def normalised(z):
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def chances():
    """The probability of each of the nine sequences, by multiplication."""
    return (normalised(START)[:, None] * normalised(NEXT)).reshape(-1)


def gradient_of_the_expectation(values):
    """The derivative of sum_ab p_a p_ab v_ab with respect to START and NEXT, by the product rule: no score function."""
    first, second = normalised(START), normalised(NEXT)
    means = (second * values).sum(1)
    return np.concatenate(
        [first * (means - first @ means), (first[:, None] * second * (values - means[:, None])).ravel()]
    )


def scores_of_the_sequences():
    """d log p(y) / d (START, NEXT) for each sequence, in closed form: one-hot minus softmax at each step."""
    rows = []
    for a, b in SEQUENCES:
        table = np.zeros((WORDS, WORDS))
        table[a] = np.eye(WORDS)[b] - normalised(NEXT[a])
        rows.append(np.concatenate([np.eye(WORDS)[a] - normalised(START), table.ravel()]))
    return np.array(rows)


# sequence_log_prob


def test_it_is_the_logarithm_of_the_product_of_the_probabilities(path):
    rng = np.random.default_rng(0)
    logits, targets = 3 * rng.normal(size=(4, 6, 5)), rng.integers(0, 5, (4, 6))
    want = []
    for rows, row_targets in zip(logits, targets, strict=True):
        product = mp.mpf(1)
        for z, y in zip(rows, row_targets, strict=True):
            product *= mp.exp(log_softmax(exact(z))[y])
        want.append(float(mp.log(product)))
    got = number(path, "sequence_log_prob", logits, targets)
    np.testing.assert_allclose(got, want, rtol=1e-13)


def test_all_sequences_together_are_certain(path):
    got = number(path, "sequence_log_prob", LOGITS, SEQUENCES)
    assert_close(np.exp(got), chances())
    assert_close(np.exp(got).sum(), 1.0)


def test_a_sequence_and_its_continuation_add_up(path):
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(2, 3, 7, 5)), rng.integers(0, 5, (2, 3, 7))
    whole = number(path, "sequence_log_prob", logits, targets)
    parts = [number(path, "sequence_log_prob", logits[:, :, s], targets[:, :, s]) for s in (slice(3), slice(3, None))]
    assert whole.shape == (2, 3)
    assert_close(whole, parts[0] + parts[1])


def test_what_underflows_as_a_product_does_not_as_a_sum(path):
    token = np.log(np.array([0.8, 0.2]))
    got = number(path, "sequence_log_prob", np.broadcast_to(token, (250, 2)), np.zeros(250, int))
    np.testing.assert_allclose(got, 250 * math.log(0.8), rtol=1e-13)
    assert math.exp(got) == pytest.approx(0.8**250)
    rare = np.broadcast_to(np.log(np.array([1e-5, 1 - 1e-5])), (250, 2))
    got = number(path, "sequence_log_prob", rare, np.zeros(250, int))
    assert 1e-5**250 == 0
    np.testing.assert_allclose(got, 250 * math.log(1e-5), rtol=1e-13)


@pytest.mark.parametrize("ignore_index", [-100, 1, 7])
def test_ignored_positions_contribute_nothing_whatever_stands_there(path, ignore_index):
    logits = np.random.default_rng(2).normal(size=(2, 4, 5))
    targets = np.array([[2, 3, 0, 4], [0, 4, 2, 3]])
    padded = logits.copy()
    padded[0, 2:], padded[1, 1] = NAN, INF
    labels = targets.copy()
    labels[0, 2:] = labels[1, 1] = ignore_index
    got = number(path, "sequence_log_prob", padded, labels, ignore_index=ignore_index)
    first = number(path, "sequence_log_prob", logits[0, :2], targets[0, :2])
    second = number(path, "sequence_log_prob", logits[1, [0, 2, 3]], targets[1, [0, 2, 3]])
    assert got.tolist() == pytest.approx([first.item(), second.item()], rel=1e-14)
    nothing = number(path, "sequence_log_prob", np.full((3, 2, 5), NAN), np.full((3, 2), -100))
    assert nothing.tolist() == [0, 0, 0]
    assert not np.signbit(nothing).any()


def test_an_impossible_token_makes_an_impossible_sequence_and_an_empty_one_is_certain(path):
    logits = np.array([[[0.0, -INF, 0.0], [0.0, 0.0, 0.0]]] * 2)
    got = number(path, "sequence_log_prob", logits, np.array([[1, 0], [0, 0]]))
    assert got.tolist() == [-INF, pytest.approx(-math.log(6))]
    assert number(path, "sequence_log_prob", np.zeros((2, 0, 3)), np.zeros((2, 0), int)).tolist() == [0, 0]


PRECISIONS = [(p, dtype) for p in PATHS for dtype in p.dtypes]


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
def test_results_are_float64_for_float64_and_float32_for_everything_narrower(path, dtype):
    wide = "float64" if dtype == "float64" else "float32"
    scores = path.array([-1.0, -2.5, -0.5], dtype)
    constants = path.array([0.5, 1.0, 0.0], "float64")
    got = raw(path, "sequence_log_prob", path.array(np.zeros((3, 4)), dtype), np.array([0, 1, 2]))
    results = {
        "sequence_log_prob": (got, -3 * math.log(4)),
        "reinforce_loss": (raw(path, "reinforce_loss", scores, constants), 1.0),
        "minimum_risk_loss": (
            raw(path, "minimum_risk_loss", scores, constants),
            (0.5 * math.exp(-1) + math.exp(-2.5)) / (math.exp(-1) + math.exp(-2.5) + math.exp(-0.5)),
        ),
        "dpo_loss": (raw(path, "dpo_loss", scores, scores, constants, constants), math.log(2)),
    }
    for name, (result, want) in results.items():
        assert path.dtype_name(result) == wide, name
        np.testing.assert_allclose(path.to_numpy(result), want, rtol=3e-7, err_msg=name)


# scheduled_sampling


def coins(path, seed):
    return np.random.default_rng(seed) if path.name == "numpy" else torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("keep_prob", [0.01, 0.3, 0.5, 0.9])
def test_tokens_are_kept_at_the_rate_that_was_asked_for_at_every_position_independently(path, keep_prob):
    rows, positions = 40_000, 5
    shape = (rows, positions)
    mixed = number(
        path, "scheduled_sampling", np.ones(shape, int), np.zeros(shape, int), keep_prob=keep_prob, rng=coins(path, 3)
    )
    deviation = math.sqrt(keep_prob * (1 - keep_prob))
    assert abs(mixed.mean() - keep_prob) < 4 * deviation / math.sqrt(mixed.size)
    columns = (mixed.mean(0) - keep_prob) / (deviation / math.sqrt(rows))
    assert (columns**2).sum() < 20.5  # chi-square with 5 degrees of freedom: 0.1 %
    patterns = np.bincount(mixed.astype(int) @ (1 << np.arange(positions)), minlength=32)
    kept = np.array([bin(i).count("1") for i in range(32)])
    expected = rows * keep_prob**kept * (1 - keep_prob) ** (positions - kept)
    common = expected > 5
    chi_square = ((patterns - expected)[common] ** 2 / expected[common]).sum()
    degrees = common.sum()
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees)


def test_each_token_is_the_true_one_or_the_sampled_one_of_its_place(path):
    truth = np.arange(1000).reshape(10, 100)
    mixed = number(path, "scheduled_sampling", truth, -truth, keep_prob=0.5, rng=coins(path, 4))
    assert np.array_equal(np.abs(mixed), truth)
    assert 400 < (mixed < 0).sum() < 600


def test_the_ends_are_exact(path):
    truth, drawn = np.zeros(100_000, int), np.ones(100_000, int)
    for keep_prob, want in ((1, 0), (1.0, 0), (0, 1), (0.0, 1)):
        mixed = number(path, "scheduled_sampling", truth, drawn, keep_prob=keep_prob, rng=coins(path, 5))
        assert (mixed == want).all()


def test_the_same_generator_gives_the_same_tokens_and_moves_on(path):
    truth, drawn = np.zeros(64, int), np.ones(64, int)
    rng, again = coins(path, 6), coins(path, 6)
    first, second = (number(path, "scheduled_sampling", truth, drawn, keep_prob=0.5, rng=rng) for _ in range(2))
    assert np.array_equal(first, number(path, "scheduled_sampling", truth, drawn, keep_prob=0.5, rng=again))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("dtypes", "want"), [("i4 i4", "int32"), ("u1 u1", "uint8"), ("i4 i8", "int64"), ("u1 i2", "int64")]
)
def test_ids_keep_their_dtype_where_they_share_one(path, dtypes, want):
    ids = [np.array([1, 2, 3], dtype) for dtype in dtypes.split()]
    got = raw(path, "scheduled_sampling", *ids, keep_prob=0.5, rng=coins(path, 7))
    assert path.dtype_name(got) == want
    assert path.to_numpy(got).tolist() == [1, 2, 3]


# reinforce_loss


@pytest.mark.parametrize("baseline", [None, 1.25, -40.0])
def test_the_expected_gradient_is_that_of_the_expected_reward_with_any_baseline(path, baseline):
    estimates = [
        slopes(path, "reinforce_loss", np.log(chances()[i : i + 1]), REWARDS[i : i + 1], baseline=baseline) * score
        for i, score in enumerate(scores_of_the_sequences())
    ]
    np.testing.assert_allclose(chances() @ estimates, -gradient_of_the_expectation(PAYS), rtol=0, atol=1e-11)


def test_a_baseline_lowers_the_variance_and_a_bad_one_raises_it(path):
    variance = {}
    for name, baseline in (("none", None), ("expected", float(chances() @ REWARDS)), ("far", 40.0)):
        gradient = [slopes(path, "reinforce_loss", np.zeros(1), r[None], baseline=baseline) for r in REWARDS]
        estimates = gradient * scores_of_the_sequences()
        variance[name] = chances() @ ((estimates - chances() @ estimates) ** 2).sum(1)
    assert variance["expected"] < 0.9 * variance["none"]
    assert variance["far"] > 10 * variance["none"]


def test_the_mean_reward_of_two_draws_as_baseline_halves_the_expected_gradient(path):
    log_probs, scores = np.log(chances()), scores_of_the_sequences()
    expected = np.zeros(scores.shape[1])
    for pair in itertools.product(range(9), repeat=2):
        both = list(pair)
        gradient = slopes(path, "reinforce_loss", log_probs[both], REWARDS[both], baseline=REWARDS[both].mean())
        expected += chances()[both].prod() * gradient @ scores[both]
    np.testing.assert_allclose(expected, -gradient_of_the_expectation(PAYS) / 2, rtol=0, atol=1e-11)


def test_the_value_is_minus_the_mean_of_advantage_times_log_probability(path):
    rng = np.random.default_rng(8)
    log_probs, rewards = -rng.exponential(size=(3, 4)), rng.normal(size=(3, 4))
    for baseline in (np.array(0.3), rng.normal(size=4), rng.normal(size=(3, 1)), rng.normal(size=(3, 4))):
        got = number(path, "reinforce_loss", log_probs, rewards, baseline=baseline)
        assert_close(got, -((rewards - baseline) * log_probs).mean())
    assert_close(number(path, "reinforce_loss", log_probs, np.ones((3, 4), int)), -log_probs.mean())
    assert_close(number(path, "reinforce_loss", np.array(-2.0), np.array(3.0)), 6.0)


def test_an_impossible_draw_without_advantage_and_an_empty_batch_cost_nothing(path):
    log_probs, rewards = np.array([-INF, -1.0, NAN]), np.array([2.0, 3.0, 2.0])
    assert number(path, "reinforce_loss", log_probs, rewards, baseline=2.0) == pytest.approx(1 / 3)
    assert number(path, "reinforce_loss", np.array([-INF, -1.0]), np.array([1.0, 1.0])) == INF
    assert number(path, "reinforce_loss", np.zeros(0), np.zeros(0)) == 0


# minimum_risk_loss


def exact_risk(log_probs, risks, sharpness):
    weights = [mp.exp(mp.mpf(sharpness) * v) if v != -mp.inf else mp.mpf(0) for v in exact(log_probs)]
    return float(mp.fsum(w * r for w, r in zip(weights, exact(risks), strict=True)) / mp.fsum(weights))


def test_over_all_sequences_it_is_the_expected_risk_and_so_is_its_gradient(path):
    log_probs = np.log(chances())
    assert_close(number(path, "minimum_risk_loss", log_probs, REWARDS), chances() @ REWARDS)
    gradient = slopes(path, "minimum_risk_loss", log_probs, REWARDS) @ scores_of_the_sequences()
    want = gradient_of_the_expectation(PAYS)
    np.testing.assert_allclose(gradient, want, rtol=0, atol=tolerance(path) * np.abs(want).max())


@pytest.mark.parametrize("sharpness", [0.005, 0.5, 1, 3.0, 200])
def test_the_risk_is_that_of_exact_arithmetic_far_below_the_smallest_float(path, sharpness):
    rng = np.random.default_rng(9)
    log_probs, risks = rng.normal(-900, 3, size=(4, 6)), rng.normal(size=(4, 6))
    assert np.exp(log_probs).max() < 1e-300
    rows = [exact_risk(lp, r, sharpness) for lp, r in zip(log_probs, risks, strict=True)]
    np.testing.assert_allclose(
        number(path, "minimum_risk_loss", log_probs, risks, sharpness=sharpness), np.mean(rows), rtol=1e-12
    )
    one = number(path, "minimum_risk_loss", log_probs[1], risks[1], sharpness=sharpness)
    np.testing.assert_allclose(one, rows[1], rtol=1e-12)
    shares = normalised(sharpness * (log_probs - log_probs.max(1, keepdims=True)))
    want = sharpness * shares * (risks - np.array(rows)[:, None]) / 4
    got = slopes(path, "minimum_risk_loss", log_probs, risks, sharpness=sharpness)
    if path.name == "torch" or sharpness <= 3:
        np.testing.assert_allclose(got, want, rtol=0, atol=100 * tolerance(path) * np.abs(want).max())


def test_sharpness_goes_from_the_mean_risk_to_that_of_the_best_candidate(path):
    log_probs, risks = np.array([[-3.0, -1.0, -2.0], [-7.0, -9.0, -8.0]]), np.array([[1.0, 2.0, 6.0], [5.0, 0.0, 4.0]])
    assert number(path, "minimum_risk_loss", log_probs, risks, sharpness=0) == 3.0
    assert number(path, "minimum_risk_loss", log_probs, risks, sharpness=1e6) == 3.5
    assert number(path, "minimum_risk_loss", log_probs, risks, sharpness=1e308) == 3.5


def test_only_differences_between_candidates_matter(path):
    rng = np.random.default_rng(10)
    log_probs, risks = rng.integers(-9, 0, size=(2, 3, 5)) / 8, rng.normal(size=(2, 3, 5))
    want = number(path, "minimum_risk_loss", log_probs, risks, sharpness=0.7)
    for shift in (-1000.0, -1e6, 1e9, rng.integers(-99, 99, size=(2, 3, 1))):
        assert number(path, "minimum_risk_loss", log_probs + shift, risks, sharpness=0.7) == want
    assert np.abs(slopes(path, "minimum_risk_loss", log_probs, risks).sum(-1)).max() < 1e-9


@pytest.mark.parametrize("sharpness", [0, 0.5, 1.0])
def test_an_impossible_candidate_has_no_share_and_its_risk_is_not_read(path, sharpness):
    log_probs, risks = np.array([[-1.0, -INF, -2.0]]), np.array([[1.0, NAN, 5.0]])
    got = number(path, "minimum_risk_loss", log_probs, risks, sharpness=sharpness)
    assert_close(got, exact_risk([-1.0, -2.0], [1.0, 5.0], sharpness))
    assert np.isnan(number(path, "minimum_risk_loss", np.full((1, 2), -INF), np.ones((1, 2))))
    assert number(path, "minimum_risk_loss", np.zeros((0, 3)), np.zeros((0, 3))) == 0


# dpo_loss

# Multiples of 1/8, so that every margin is exact: what is compared is the loss, not the subtraction.
MARGINS = np.array([-8000.0, -5600.0, -300.0, -8.0, -1.0, -0.125, 0.0, 0.125, 1.0, 8.0, 300.0, 3200.0, 5600.0, 8000.0])
PAIR = (MARGINS / 2 - 40, -50 - MARGINS / 4, np.full(14, -45.0), -55 + MARGINS / 4)


def exact_dpo(margin, beta, epsilon):
    h, epsilon = mp.mpf(beta) * mp.mpf(margin), mp.mpf(epsilon)
    return float((1 - epsilon) * mp.log1p(mp.exp(-h)) + epsilon * mp.log1p(mp.exp(h)))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("beta", [0.125, 0.0625, 1])
def test_the_loss_is_that_of_exact_arithmetic_up_to_margins_of_thousands(path, beta, epsilon):
    want = [exact_dpo(m, beta, epsilon) for m in MARGINS]
    got = number(path, "dpo_loss", *PAIR, beta=beta, label_smoothing=epsilon, reduction="none")
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=0)
    for reduction in ("mean", "sum"):
        total = number(path, "dpo_loss", *PAIR, beta=beta, label_smoothing=epsilon, reduction=reduction)
        np.testing.assert_allclose(total, getattr(np, reduction)(want), rtol=1e-13)


def test_the_loss_is_log_two_at_the_reference_and_falls_as_the_chosen_answer_gains(path):
    a, b = np.array([-400.1, -3.0]), np.array([-7.7, -812.3])
    assert_close(number(path, "dpo_loss", a, b, a, b, reduction="none"), [math.log(2)] * 2)
    gains = [number(path, "dpo_loss", a + step, b, a, b) for step in (-2.0, 0.0, 2.0, 4.0)]
    assert gains == sorted(gains, reverse=True)


def test_half_of_the_labels_flipped_makes_the_loss_symmetric(path):
    swapped = PAIR[1], PAIR[0], PAIR[3], PAIR[2]
    options = {"label_smoothing": 0.5, "reduction": "none"}
    assert_close(number(path, "dpo_loss", *PAIR, **options), number(path, "dpo_loss", *swapped, **options))
    one = number(path, "dpo_loss", *PAIR, label_smoothing=0.25, reduction="none")
    assert_close(one, number(path, "dpo_loss", *swapped, label_smoothing=0.75, reduction="none"))


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0])
def test_the_gradient_is_in_closed_form_that_of_a_logistic_regression(path, epsilon):
    small = [side[3:10] for side in PAIR]
    h = 0.25 * MARGINS[3:10]
    want = 0.25 / 7 * (epsilon / (1 + np.exp(-h)) - (1 - epsilon) / (1 + np.exp(h)))
    got = slopes(path, "dpo_loss", small[0], *small[1:], beta=0.25, label_smoothing=epsilon)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance(path) * np.abs(want).max())
    if epsilon in (0.0, 1.0):
        assert (np.sign(got) == (1 if epsilon else -1)).all()


@pytest.mark.parametrize(
    ("scores", "want"),
    [((-INF, -1, -1, -1), INF), ((-1, -INF, -1, -1), 0.0), ((-1, -1, -INF, -1), 0.0), ((-1, -1, -1, -INF), INF)],
)
def test_an_impossible_answer_decides_and_makes_nothing_undefined(path, scores, want):
    sides = [np.array([s, -1.0]) for s in scores]
    got = number(path, "dpo_loss", *sides, reduction="none")
    assert got.tolist() == [want, pytest.approx(math.log(2))]
    flipped = number(path, "dpo_loss", *sides, label_smoothing=1, reduction="none")
    assert flipped[0] == (0.0 if want else INF)
    assert number(path, "dpo_loss", *[np.zeros(0)] * 4) == 0


def test_without_beta_nothing_is_preferred_not_even_the_possible_over_the_impossible(path):
    sides = [np.array(side) for side in ([-INF, -1.0, -3.0], [-1.0, -INF, -9.0], [-1.0] * 3, [-2.0] * 3)]
    assert_close(number(path, "dpo_loss", *sides, beta=0, reduction="none"), [math.log(2)] * 3)
    if path.name == "torch":
        assert not slopes(path, "dpo_loss", sides[0], *sides[1:], beta=0).any()


def test_opposite_infinities_are_undefined_and_nobody_is_warned(path):
    assert math.isnan(number(path, "reinforce_loss", np.array([-INF, -INF]), np.array([1.0, -1.0])))


# Refusals

LP, IDS, TABLE = np.array([-1.0, -2.0]), np.array([0, 1]), np.zeros((2, 3))
REFUSED = [
    ("sequence_log_prob", (TABLE, np.array([0, 3])), {}, "targets[1] = 3 is outside [0, 3)"),
    ("sequence_log_prob", (TABLE, np.full((2, 3), 1 / 3)), {}, "targets must be integers (token ids), not"),
    ("sequence_log_prob", (np.zeros(3), np.array(1)), {}, "targets is a single target; a sequence needs"),
    ("sequence_log_prob", (TABLE, IDS), {"ignore_index": 0.5}, "ignore_index = 0.5"),
    ("scheduled_sampling", (IDS, IDS), {"keep_prob": 1.5}, "keep_prob = 1.5 is outside [0, 1]"),
    ("scheduled_sampling", (IDS, IDS), {"keep_prob": 0.5, "rng": 3}, "Generator, not int"),
    ("scheduled_sampling", (IDS, LP), {"keep_prob": 0.5}, "samples must be integers (token ids), not"),
    ("scheduled_sampling", (IDS > 0, IDS), {"keep_prob": 0.5}, "targets must be integers (token ids), not"),
    ("scheduled_sampling", (IDS, IDS[:1]), {"keep_prob": 0.5}, "samples has shape (1,); expected (2,)"),
    ("scheduled_sampling", (IDS, IDS.astype("u8")), {"keep_prob": 0.5}, "targets are int64 and samples uint64"),
    ("reinforce_loss", (IDS, LP), {}, "log_probs must be floating point"),
    ("reinforce_loss", (LP, np.array([1.0, NAN])), {}, "rewards[1] = nan must be finite"),
    ("reinforce_loss", (LP[:, None], LP), {}, "rewards has shape (2,); expected (2, 1)"),
    ("reinforce_loss", (LP, LP), {"baseline": LP[:, None]}, "baseline has shape (2, 1); it must broadcast"),
    ("reinforce_loss", (LP, LP), {"baseline": np.array([0.0, INF])}, "baseline[1] = inf must be finite"),
    ("reinforce_loss", (LP, LP), {"baseline": NAN}, "baseline = nan"),
    ("minimum_risk_loss", (LP, np.array([INF, 0.0])), {}, "risks[0] = inf must be finite"),
    ("minimum_risk_loss", (LP, LP[None]), {}, "risks has shape (1, 2); expected (2,)"),
    ("minimum_risk_loss", (np.zeros((2, 0)), np.zeros((2, 0))), {}, "shape (2, 0); the last axis holds"),
    ("minimum_risk_loss", (LP, LP), {"sharpness": -1}, "sharpness = -1 must not be negative"),
    ("dpo_loss", (LP, LP, LP[:1], LP), {}, "reference_chosen has shape (1,); expected (2,)"),
    ("dpo_loss", (LP, LP, LP, IDS), {}, "reference_rejected must be floating point"),
    ("dpo_loss", (LP, LP, LP, LP), {"beta": -0.1}, "beta = -0.1 must not be negative"),
    ("dpo_loss", (LP, LP, LP, LP), {"label_smoothing": 1.1}, "label_smoothing = 1.1 is outside"),
    ("dpo_loss", (LP, LP, LP, LP), {"reduction": "sequence"}, "reduction = 'sequence' is not one of"),
]


@pytest.mark.parametrize(("function", "arrays", "options", "words"), REFUSED)
def test_what_makes_no_sense_is_refused_in_one_line_that_names_it(path, function, arrays, options, words):
    if function == "scheduled_sampling":
        options = {"rng": coins(path, 0), **options}
    with pytest.raises((ValueError, TypeError)) as caught:
        raw(path, function, *arrays, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
