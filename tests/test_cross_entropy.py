"""The contract of cross_entropy, causal_lm_loss and masked_lm_loss, in both paths, against sixty-digit arithmetic."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.paths import PATHS, assert_close

pytestmark = pytest.mark.filterwarnings("error")

INF, NAN = float("inf"), float("nan")
SCALARS = ("mean", "sum")
REDUCTIONS = ("none", "sum", "mean", "sequence")
TARGET_DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def number(path, function, *arrays, **options):
    return path.to_numpy(path.call(function, *arrays, **options))


def value_and_grad(path, function, logits, targets, **options):
    value, gradient = path.value_and_grad(function, logits, targets, **options)
    return path.to_numpy(value), path.to_numpy(gradient)


def random_logits(rng, *shape, scale=3.0):
    return rng.normal(size=shape) * scale


def random_distributions(rng, *shape):
    draws = rng.gamma(0.5, size=shape) + 1e-3
    return draws / draws.sum(-1, keepdims=True)


# Every combination of options against the oracle

RNG = np.random.default_rng(20)
GRID_LOGITS = random_logits(RNG, 3, 2, 4)
GRID_LOGITS[1, 0, 3] = -INF
GRID_LOGITS[2, 1, :2] = -INF
GRID_TARGETS = np.array([[0, 3], [2, -100], [-100, 2]])
GRID_DISTRIBUTIONS = random_distributions(RNG, 3, 2, 4)
GRID_DISTRIBUTIONS[1, 0] = [0.5, 0.25, 0.25, 0.0]
GRID_DISTRIBUTIONS[2, 1] = [0.0, 0.0, 0.75, 0.25]
GRID_CLASS_WEIGHT = np.array([0.5, 0.0, 2.0, 1.25])
GRID_TOKEN_WEIGHT = np.array([[1.0, 0.5], [2.0, 1.0], [0.0, 0.75]])
SMOOTHINGS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "smoothed-others": {"label_smoothing": 0.3, "smoothing_over": "others"},
}
EXTRAS = {
    "": {},
    "z": {"z_loss": 0.25},
    "cap": {"softcap": 2.5},
    "z-cap": {"z_loss": 0.25, "softcap": 2.5},
}
WEIGHTS = {
    "": {},
    "class": {"class_weight": GRID_CLASS_WEIGHT},
    "token": {"token_weight": GRID_TOKEN_WEIGHT},
    "class-token": {"class_weight": GRID_CLASS_WEIGHT, "token_weight": GRID_TOKEN_WEIGHT},
}
AVERAGES = {**{name: {"reduction": name} for name in REDUCTIONS}, "denominator": {"denominator": 2.5}}
TARGETS = {"index": GRID_TARGETS, "distribution": GRID_DISTRIBUTIONS}


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("targets", TARGETS)
def test_value_and_gradient_are_those_of_exact_arithmetic_for_every_combination_of_options(
    path, targets, smoothing, extra, weight, average
):
    options = {**SMOOTHINGS[smoothing], **EXTRAS[extra], **WEIGHTS[weight], **AVERAGES[average]}
    want, want_gradient = oracle.cross_entropy(GRID_LOGITS, TARGETS[targets], **options)
    assert_close(number(path, "cross_entropy", GRID_LOGITS, TARGETS[targets], **options), want)
    if path.name == "numpy" and options.get("reduction", "mean") not in SCALARS:
        return
    value, gradient = value_and_grad(path, "cross_entropy", GRID_LOGITS, TARGETS[targets], **options)
    assert_close(value, want)
    assert_close(gradient, want_gradient)


options_strategy = st.fixed_dictionaries(
    {
        "label_smoothing": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "smoothing_over": st.sampled_from(["all", "others"]),
        "z_loss": st.sampled_from([0.0, 1e-4, 0.5]),
        "softcap": st.sampled_from([None, 3.0, 30.0]),
        "ignore_index": st.sampled_from([-100, 0, 1, None]),
        "average": st.sampled_from([*REDUCTIONS, "denominator"]),
        "class_weight": st.booleans(),
        "token_weight": st.sampled_from([None, "float", "int", "bool"]),
        "kind": st.sampled_from(["index", "distribution"]),
    }
)


def draw_batch(seed, tokens, classes, length, scale, *, finite=False):
    rng = np.random.default_rng(seed)
    logits = random_logits(rng, tokens, length, classes, scale=scale)
    targets = rng.integers(classes, size=(tokens, length))
    if not finite:
        hidden = rng.random(logits.shape) < 0.2
        hidden[rng.random((tokens, length)) < 0.5] = False
        np.put_along_axis(hidden, targets[..., None], False, -1)
        logits[hidden] = -INF
    return rng, logits, targets


batches = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(2, 7),
    st.integers(1, 4),
    st.sampled_from([0.1, 3.0, 50.0]),
)


def draw_options(rng, targets, classes, drawn):
    options = dict(drawn)
    average, kind = options.pop("average"), options.pop("kind")
    if average == "denominator":
        options |= {"reduction": "mean", "denominator": 3.5}
    else:
        options["reduction"] = average
    weights = rng.integers(0, 4, size=classes) / 2
    options["class_weight"] = weights if options["class_weight"] else None
    dtype = options["token_weight"]
    options["token_weight"] = None if dtype is None else rng.integers(0, 3, size=targets.shape).astype(dtype)
    if options["ignore_index"] == -100:
        targets = np.where(rng.random(targets.shape) < 0.2, -100, targets)
    if kind == "distribution":
        targets = random_distributions(rng, *targets.shape, classes)
    return targets, options


@given(batches, options_strategy)
def test_numpy_and_pytorch_agree_in_value_and_gradient_on_random_batches_and_options(batch, drawn):
    rng, logits, targets = draw_batch(*batch)
    if drawn["kind"] == "distribution":
        logits = np.where(np.isfinite(logits), logits, -20.0)
    targets, options = draw_options(rng, targets, logits.shape[-1], drawn)
    ours, theirs = (number(path, "cross_entropy", logits, targets, **options) for path in PATHS)
    assert_close(ours, theirs)
    if options["reduction"] in SCALARS:
        (_, ours), (_, theirs) = (value_and_grad(path, "cross_entropy", logits, targets, **options) for path in PATHS)
        assert_close(ours, theirs)


@given(batches, options_strategy, st.sampled_from([(-INF,), (-INF, INF, NAN)]))
def test_numpy_and_pytorch_agree_on_hostile_rows_to_the_last_nan(batch, drawn, poison):
    rng, logits, targets = draw_batch(*batch, finite=True)
    targets, options = draw_options(rng, targets, logits.shape[-1], drawn)
    logits = np.where(rng.random(logits.shape) < 0.3, rng.choice(poison, size=logits.shape), logits)
    if targets.dtype.kind == "f":
        targets = np.where(targets < 0.2, 0, targets)
        targets /= targets.sum(-1, keepdims=True)
        if options["token_weight"] is not None:
            targets[options["token_weight"] == 0] = NAN
    ours, theirs = (number(path, "cross_entropy", logits, targets, **options) for path in PATHS)
    assert_close(ours, theirs)
    if options["reduction"] in SCALARS:
        (_, ours), (_, theirs) = (value_and_grad(path, "cross_entropy", logits, targets, **options) for path in PATHS)
        assert_close(ours, theirs)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}])
def test_rows_that_nobody_counts_are_dead_in_both_paths_whatever_stands_in_them(path, options):
    logits = random_logits(np.random.default_rng(1), 6, 4)
    logits[1], logits[2], logits[3], logits[4] = NAN, INF, -INF, [NAN, INF, -INF, 1.0]
    targets = np.array([2, -100, -100, 1, 3, 0])
    weight = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 2.0])
    living = [0, 5]
    value, gradient = value_and_grad(path, "cross_entropy", logits, targets, token_weight=weight, **options)
    want, want_gradient = oracle.cross_entropy(logits[living], targets[living], token_weight=weight[living], **options)
    assert_close(value, want)
    assert_close(gradient[living], want_gradient)
    assert np.array_equal(gradient[1:5], np.zeros((4, 4)))
    rows = number(path, "cross_entropy", logits, targets, token_weight=weight, reduction="none", **options)
    assert np.array_equal(rows[1:5], np.zeros(4))


@pytest.mark.parametrize("filling", [NAN, INF, -INF])
def test_a_row_whose_target_has_class_weight_zero_is_dead(path, filling):
    logits = random_logits(np.random.default_rng(2), 3, 3)
    logits[1] = filling
    targets, weight = np.array([0, 1, 2]), np.array([1.0, 0.0, 3.0])
    value, gradient = value_and_grad(path, "cross_entropy", logits, targets, class_weight=weight, z_loss=0.5)
    want, _ = oracle.cross_entropy(logits[[0, 2]], targets[[0, 2]], class_weight=weight, z_loss=0.5)
    assert_close(value, want)
    assert np.array_equal(gradient[1], np.zeros(3))


@pytest.mark.parametrize("filling", [[NAN, 7.0, -1.0], [0.0, 0.0, 0.0]])
def test_dead_rows_of_distributions_are_neither_read_nor_checked(path, filling):
    logits = random_logits(np.random.default_rng(3), 2, 3)
    targets = random_distributions(np.random.default_rng(3), 2, 3)
    want = number(path, "cross_entropy", logits[:1], targets[:1])
    logits[1], targets[1] = NAN, filling
    value, gradient = value_and_grad(path, "cross_entropy", logits, targets, token_weight=np.array([1, 0]))
    assert_close(value, want)
    assert np.array_equal(gradient[1], np.zeros(3))


@pytest.mark.parametrize("row", [[NAN, 0.0, 1.0], [INF, 0.0, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF]])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"class_weight": np.ones(3)}])
def test_a_row_without_a_softmax_is_nan_and_keeps_it_to_itself(path, row, options):
    logits = random_logits(np.random.default_rng(4), 3, 3)
    logits[1] = row
    targets = np.array([0, 1, 2])
    rows = number(path, "cross_entropy", logits, targets, reduction="none", **options)
    want, _ = oracle.cross_entropy(logits[[0, 2]], targets[[0, 2]], reduction="none", **options)
    assert math.isnan(rows[1])
    assert_close(rows[[0, 2]], want)
    value, gradient = value_and_grad(path, "cross_entropy", logits, targets, reduction="sum", **options)
    assert math.isnan(value)
    assert np.isnan(gradient[1]).any()
    assert np.isfinite(gradient[[0, 2]]).all()


def test_softcap_makes_an_infinite_logit_the_cap_and_leaves_minus_infinity(path):
    logits = np.array([[INF, 1.0, -INF], [INF, 1.0, 0.0]])
    targets = np.array([0, 1])
    finite = np.array([[1e9, 1.0, -INF], [1e9, 1.0, 0.0]])
    value, gradient = value_and_grad(path, "cross_entropy", logits, targets, softcap=5.0)
    want, want_gradient = oracle.cross_entropy(finite, targets, softcap=5.0)
    assert_close(value, want)
    assert_close(gradient, want_gradient)


@pytest.mark.parametrize("reduction", SCALARS)
@pytest.mark.parametrize("cap", [None, 4.0])
def test_an_impossible_target_costs_infinity_and_its_gradient_has_no_nan(path, reduction, cap):
    logits = np.array([[-INF, 0.5, 1.0, -INF], [0.1, 0.2, 0.3, 0.4]])
    targets = np.array([0, 1])
    value, gradient = value_and_grad(path, "cross_entropy", logits, targets, reduction=reduction, softcap=cap)
    assert value == INF
    share = 2 if reduction == "mean" else 1
    z = logits[0, 1:3] if cap is None else cap * np.tanh(logits[0, 1:3] / cap)
    mass = np.exp(z) / np.exp(z).sum() * (1 if cap is None else 1 - np.tanh(logits[0, 1:3] / cap) ** 2)
    assert_close(gradient[0], np.array([0.0, mass[0], mass[1], 0.0]) / share)
    _, want = oracle.cross_entropy(logits[1:], targets[1:], softcap=cap)
    assert_close(gradient[1:], want / share)


def test_a_distribution_that_puts_mass_on_an_impossible_class_costs_infinity(path):
    logits = np.array([[-INF, 0.5, 1.0]])
    value, gradient = value_and_grad(path, "cross_entropy", logits, np.array([[0.25, 0.25, 0.5]]))
    assert value == INF
    assert gradient[0, 0] == 0
    assert np.isfinite(gradient).all()


def test_smoothing_charges_nothing_for_a_masked_class_and_still_divides_by_all_classes(path):
    logits = np.array([[0.0, 0.0, -INF, -INF]])
    smoothed = number(path, "cross_entropy", logits, np.array([0]), label_smoothing=0.4)
    assert_close(smoothed, (0.6 + 0.4 * 2 / 4) * math.log(2))
    others = number(path, "cross_entropy", logits, np.array([0]), label_smoothing=0.3, smoothing_over="others")
    assert_close(others, (0.7 + 0.3 / 3) * math.log(2))


# Numbers that stand in books


@pytest.mark.parametrize(
    ("probabilities", "target", "loss"),
    [
        ([0.1, 0.7, 0.1, 0.1], 1, "0.357"),
        ([0.4, 0.2, 0.3, 0.1], 1, "1.609"),
        ([0.5, 0.5], 0, "0.69"),
        ([0.1, 0.9], 0, "2.30"),
        ([0.0001, 0.9999], 0, "9.21"),
        ([0.3, 0.7], 0, "1.204"),
        ([0.15, 0.85], 0, "1.897"),
        ([0.9, 0.1], 0, "0.105"),
        ([0.01, 0.99], 0, "4.605"),
        ([0.1, 0.6, 0.2, 0.1], 1, "0.5108"),
    ],
)
def test_the_loss_of_a_printed_example_is_the_printed_number(path, probabilities, target, loss):
    value = number(path, "cross_entropy", np.log(np.array([probabilities])), np.array([target]))
    assert f"{value:.{len(loss) - 2}f}" == loss


@pytest.mark.parametrize(("classes", "loss"), [(4, 1.3863), (10_000, 9.2103), (50_257, 10.8249)])
def test_equal_logits_cost_the_logarithm_of_the_number_of_classes(path, classes, loss):
    value = number(path, "cross_entropy", np.full((2, classes), 3.25), np.array([0, classes - 1]))
    assert_close(value, math.log(classes))
    assert abs(value - loss) < 5e-5


def test_the_examples_of_the_pytorch_way_cost_what_pytorch_says(path):
    # log(1 + e^-1.5 + e^-.8), log(1 + e^-1.2 + e^-2.3) and log(1 + e^-1.3 + e^-2.5), worked out by hand
    rows = [math.log(1 + math.exp(-1.5) + math.exp(-0.8)), math.log(1 + math.exp(-1.2) + math.exp(-2.3))]
    logits = np.array([[0.5, 2.0, 1.2], [1.3, 0.2, 2.5]])
    assert_close(number(path, "cross_entropy", logits, np.array([1, 2])), sum(rows) / 2)
    last = math.log(1 + math.exp(-1.3) + math.exp(-2.5))
    assert_close(number(path, "cross_entropy", np.array([[1.5, 0.3, 2.8]]), np.array([2])), last)


def test_smoothing_over_the_others_and_over_all_differ_by_the_known_change_of_epsilon(path):
    _, logits, targets = draw_batch(5, 4, 5, 3, 3.0, finite=True)
    over_all = value_and_grad(path, "cross_entropy", logits, targets, label_smoothing=0.2)
    others = value_and_grad(
        path, "cross_entropy", logits, targets, label_smoothing=0.2 * 4 / 5, smoothing_over="others"
    )
    assert_close(over_all[0], others[0])
    assert_close(over_all[1], others[1])


# Numerics


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
@pytest.mark.parametrize(
    "row",
    [
        [1000.0, -1000.0, 0.0],
        [-1000.0, -1000.0, -1000.0],
        [1000.0, 1000.0, 999.0],
        [1e-9, 0.0, -1e-9],
        [30.0, 0.0, -30.0],
        [700.0, 710.0, 720.0],
    ],
)
def test_extreme_logits_keep_their_digits(path, row, offset):
    logits = np.tile(np.array(row) + offset, (3, 1))
    targets = np.arange(3)
    rows = number(path, "cross_entropy", logits, targets, reduction="none")
    want, want_gradient = oracle.cross_entropy(logits, targets, reduction="none")
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows, want, rtol=1e-15, atol=1e-15)
    _, gradient = value_and_grad(path, "cross_entropy", logits, targets, reduction="sum")
    np.testing.assert_allclose(gradient, want_gradient, rtol=1e-14, atol=1e-15)


def spacing(values, dtype):
    """One unit in the last place of the given format at these values."""
    digits, smallest = {"float64": (52, -1074), "float32": (23, -149), "float16": (10, -24), "bfloat16": (7, -133)}[
        dtype
    ]
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 2.0 ** (smallest + digits))))
    return 2.0 ** (exponent - digits)


def textbook(path, logits, dtype):
    """z - max - log(sum(exp(z - max))) with every step rounded to the dtype."""
    z = path.array(logits, dtype)
    if path.name == "numpy":
        shifted = z - z.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=z.dtype))
    shifted = z - z.max(-1, keepdim=True).values
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


PRECISIONS = [(p, dtype) for p in PATHS for dtype in p.dtypes]
REGIMES = {
    "usual": (3.0, 0.0),
    "wide": (30.0, 0.0),
    "flat": (0.01, 0.0),
    "offset": (3.0, 1e4),
    "far-offset": (2.0, -3e4),
}


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("regime", REGIMES)
def test_no_precision_loses_more_than_the_textbook_formula_does_in_the_loss_dtype(path, dtype, regime):
    scale, offset = REGIMES[regime]
    rng = np.random.default_rng(6)
    logits = path.array(random_logits(rng, 40, 11, scale=scale) + offset, dtype)
    targets = path.to_numpy(logits).argmax(-1)
    targets[::2] = rng.integers(11, size=20)
    rounded = path.to_numpy(logits)
    loss_dtype = "float64" if dtype == "float64" else "float32"
    want, want_gradient = oracle.cross_entropy(rounded, targets, reduction="none")

    got = path.call("cross_entropy", logits, targets, reduction="none")
    assert path.dtype_name(got) == loss_dtype
    naive = path.to_numpy(textbook(path, rounded, loss_dtype))
    error = np.abs(path.to_numpy(got) - want)
    naive_error = np.abs(-naive[np.arange(40), targets] - want)
    assert error.max() <= naive_error.max() + spacing(np.abs(want).max(), loss_dtype)

    _, gradient = path.value_and_grad("cross_entropy", logits, targets, reduction="sum")
    assert path.dtype_name(gradient) == dtype
    naive_gradient = np.exp(naive) - np.eye(11)[targets]
    error = np.abs(path.to_numpy(gradient) - want_gradient)
    naive_error = np.abs(naive_gradient - want_gradient)
    assert error.max() <= naive_error.max() + spacing(np.abs(want_gradient).max(), dtype)


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", [{}, {"class_weight": np.ones(3)}, {"token_weight": np.ones((2, 2))}])
def test_the_loss_is_float64_for_float64_and_float32_for_everything_narrower(path, dtype, reduction, options):
    logits = path.array(np.ones((2, 2, 3)), dtype)
    loss = path.call("cross_entropy", logits, np.array([[0, 1], [2, 0]]), reduction=reduction, **options)
    assert path.dtype_name(loss) == ("float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
def test_a_mean_over_very_many_tokens_is_not_averaged_in_half(path, dtype):
    logits = path.array(np.zeros((70_000, 2)), dtype)
    value = path.call("cross_entropy", logits, np.zeros(70_000, dtype=np.int64))
    assert abs(path.to_numpy(value) - math.log(2)) < 1e-6


# Reductions

LEADING = [(), (5,), (3, 4), (2, 3, 2)]


@pytest.mark.parametrize("leading", LEADING)
def test_any_leading_shape_gives_the_losses_of_the_flattened_batch(path, leading):
    rng = np.random.default_rng(7)
    logits, targets = random_logits(rng, *leading, 6), rng.integers(6, size=leading)
    targets = np.asarray(targets)
    want, want_gradient = oracle.cross_entropy(logits, targets, reduction="none")
    rows = number(path, "cross_entropy", logits, targets, reduction="none")
    assert rows.shape == leading
    assert_close(rows, want)
    value, gradient = value_and_grad(path, "cross_entropy", logits, targets, reduction="sum")
    assert value.shape == ()
    assert_close(gradient, want_gradient)
    if leading:
        assert number(path, "cross_entropy", logits, targets, reduction="sequence").shape == leading[:-1]


@given(batches, options_strategy)
def test_none_sum_mean_and_sequence_tell_the_same_story(batch, drawn):
    rng, logits, targets = draw_batch(*batch, finite=True)
    targets, options = draw_options(rng, targets, logits.shape[-1], drawn | {"average": "none"})
    weight = np.ones(logits.shape[:-1]) if options["token_weight"] is None else options["token_weight"].astype(float)
    if targets.dtype.kind == "i":
        counted = (
            np.ones(targets.shape, bool) if options["ignore_index"] is None else targets != options["ignore_index"]
        )
        weight = weight * counted
        if options["class_weight"] is not None:
            weight = weight * options["class_weight"][np.where(counted, targets, 0)]
    for path in PATHS:
        rows = number(path, "cross_entropy", logits, targets, **options)
        total = number(path, "cross_entropy", logits, targets, **options | {"reduction": "sum"})
        mean = number(path, "cross_entropy", logits, targets, **options | {"reduction": "mean"})
        sequences = number(path, "cross_entropy", logits, targets, **options | {"reduction": "sequence"})
        assert_close(total, rows.sum())
        assert_close(mean, rows.sum() / weight.sum() if weight.sum() else 0.0)
        live = weight.sum(-1) > 0
        assert_close(sequences[live], rows.sum(-1)[live] / weight.sum(-1)[live])
        assert np.array_equal(sequences[~live], np.zeros((~live).sum()))


@given(batches, options_strategy, st.integers(1, 3))
def test_the_mean_over_micro_batches_with_one_denominator_is_the_full_batch(batch, drawn, cut):
    rng, logits, targets = draw_batch(*batch)
    targets, options = draw_options(rng, targets, logits.shape[-1], drawn | {"average": "mean", "kind": "index"})
    token_weight = options.pop("token_weight")
    token_weight = np.ones(targets.shape) if token_weight is None else token_weight
    weight = token_weight.astype(float)
    counted = np.ones(targets.shape, bool) if options["ignore_index"] is None else targets != options["ignore_index"]
    weight = weight * counted
    if options["class_weight"] is not None:
        weight = weight * options["class_weight"][np.where(counted, targets, 0)]
    denominator = float(weight.sum())
    for path in PATHS:
        whole = value_and_grad(path, "cross_entropy", logits, targets, token_weight=token_weight, **options)
        parts = [
            value_and_grad(
                path,
                "cross_entropy",
                logits[part],
                targets[part],
                token_weight=token_weight[part],
                denominator=denominator,
                **options,
            )
            for part in (slice(None, cut), slice(cut, None))
        ]
        assert_close(sum(value for value, _ in parts), whole[0])
        assert_close(np.concatenate([gradient for _, gradient in parts]), whole[1])


def test_gradient_accumulation_over_uneven_batches_is_32_hundredths_and_not_forty(path):
    def tokens(count, loss):
        return np.tile([[0.0, math.log(math.expm1(loss))]], (count, 1)), np.zeros(count, dtype=np.int64)

    few, many = tokens(100, 0.5), tokens(900, 0.3)
    means = [number(path, "cross_entropy", *batch) for batch in (few, many)]
    assert_close(np.mean(means), 0.40)
    right = [number(path, "cross_entropy", *batch, denominator=1000) for batch in (few, many)]
    assert_close(sum(right), 0.32)


# Nothing to average


def nothing():
    logits = random_logits(np.random.default_rng(8), 2, 3, 4)
    targets = np.array([[0, 1, 2], [3, 0, 1]])
    yield "all ignored", logits, np.full((2, 3), -100), {}
    yield "zero token weight", logits, targets, {"token_weight": np.zeros((2, 3))}
    yield "zero class weight", logits, targets, {"class_weight": np.zeros(4)}
    yield "zero class weight, smoothed", logits, targets, {"class_weight": np.zeros(4), "label_smoothing": 0.1}
    yield "ignored with z-loss", logits, np.full((2, 3), 7), {"ignore_index": 7, "z_loss": 0.1, "softcap": 3.0}
    yield "ignored and NaN", np.full((2, 3, 4), NAN), np.full((2, 3), -100), {"label_smoothing": 0.1}
    yield "weightless distributions", logits, np.full((2, 3, 4), 0.25), {"token_weight": np.zeros((2, 3))}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("logits", "targets", "options"), [pytest.param(*c[1:], id=c[0]) for c in nothing()])
@pytest.mark.parametrize("function", ["cross_entropy", "masked_lm_loss", "causal_lm_loss"])
def test_with_nothing_to_average_the_loss_and_its_gradient_are_exactly_zero(
    path, function, logits, targets, options, reduction
):
    value = number(path, function, logits, targets, reduction=reduction, **options)
    shape = (2, 2 if function == "causal_lm_loss" else 3)
    assert np.array_equal(value, np.zeros({"none": shape, "sequence": shape[:1]}.get(reduction, ())))
    if path.name == "numpy" and reduction not in SCALARS:
        return
    _, gradient = value_and_grad(path, function, logits, targets, reduction=reduction, **options)
    assert np.array_equal(gradient, np.zeros(logits.shape))


def test_a_denominator_of_zero_gives_zero_with_a_zero_gradient(path):
    logits = random_logits(np.random.default_rng(9), 3, 4)
    value, gradient = value_and_grad(path, "cross_entropy", logits, np.array([0, 1, 2]), denominator=0)
    assert value == 0
    assert np.array_equal(gradient, np.zeros((3, 4)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0)])
def test_an_empty_batch_costs_nothing(path, shape, reduction):
    logits, targets = np.zeros((*shape, 4)), np.zeros(shape, dtype=np.int64)
    value = number(path, "cross_entropy", logits, targets, reduction=reduction)
    assert np.array_equal(value, np.zeros({"none": shape, "sequence": shape[:-1]}.get(reduction, ())))
    if path.name == "torch" or reduction in SCALARS:
        _, gradient = value_and_grad(path, "cross_entropy", logits, targets, reduction=reduction)
        assert gradient.shape == logits.shape


@pytest.mark.parametrize("reduction", SCALARS)
def test_an_infinite_loss_does_not_reach_the_average_through_a_zero_denominator(path, reduction):
    logits, targets = np.array([[-INF, 0.0]]), np.array([0])
    value, gradient = value_and_grad(
        path, "cross_entropy", logits, targets, reduction=reduction, token_weight=np.array([0.0])
    )
    assert value == 0
    assert np.array_equal(gradient, np.zeros((1, 2)))


# Targets


@pytest.mark.parametrize("dtype", TARGET_DTYPES)
def test_targets_of_every_integer_dtype_mean_the_same(path, dtype):
    logits = random_logits(np.random.default_rng(10), 3, 5)
    want, want_gradient = oracle.cross_entropy(logits, np.array([4, 0, 2]))
    value, gradient = value_and_grad(path, "cross_entropy", logits, np.array([4, 0, 2], dtype=dtype))
    assert_close(value, want)
    assert_close(gradient, want_gradient)


@pytest.mark.parametrize("dtype", TARGET_DTYPES)
def test_no_unsigned_class_is_mistaken_for_the_negative_ignore_index(path, dtype):
    # -100 wraps to 156 in eight unsigned bits
    target = 156 if dtype != "int8" else 100
    logits = np.zeros((1, 200))
    logits[0, target] = 1.0
    want = math.log(199 + math.e) - 1
    assert_close(number(path, "cross_entropy", logits, np.array([target], dtype=dtype)), want)


@pytest.mark.parametrize("ignore_index", [0, 3, -1, 99])
def test_any_index_can_be_the_ignored_one(path, ignore_index):
    logits = random_logits(np.random.default_rng(12), 3, 5)
    targets = np.array([1, ignore_index, 2])
    value, gradient = value_and_grad(path, "cross_entropy", logits, targets, ignore_index=ignore_index)
    want, want_gradient = oracle.cross_entropy(logits, targets, ignore_index=ignore_index)
    assert_close(value, want)
    assert_close(gradient, want_gradient)


def test_ignore_index_none_ignores_nothing(path):
    logits = random_logits(np.random.default_rng(13), 2, 3)
    with pytest.raises(ValueError, match=r"targets\[1\] = -100 is outside \[0, 3\)"):
        path.call("cross_entropy", logits, np.array([0, -100]), ignore_index=None)
    want, _ = oracle.cross_entropy(logits, np.array([0, 2]))
    assert_close(number(path, "cross_entropy", logits, np.array([0, 2]), ignore_index=None), want)


def test_one_hot_distributions_cost_what_their_indices_cost(path):
    logits = random_logits(np.random.default_rng(14), 4, 5)
    targets = np.array([4, 0, 2, 2])
    for options in (
        {},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.1, "smoothing_over": "others"},
        {"z_loss": 0.1},
    ):
        by_index = value_and_grad(path, "cross_entropy", logits, targets, **options)
        by_row = value_and_grad(path, "cross_entropy", logits, np.eye(5)[targets], **options)
        assert_close(by_row[0], by_index[0])
        assert_close(by_row[1], by_index[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distributions_may_be_wider_or_narrower_than_the_logits(path, dtype):
    logits = path.array(random_logits(np.random.default_rng(15), 2, 3), "float64" if dtype == "float32" else "float32")
    targets = path.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], dtype)
    want, _ = oracle.cross_entropy(path.to_numpy(logits), path.to_numpy(targets))
    value = path.call("cross_entropy", logits, targets)
    assert path.dtype_name(value) == path.dtype_name(logits)
    assert_close(path.to_numpy(value), want, rtol=1e-6)


def test_a_single_class_costs_nothing(path):
    value, gradient = value_and_grad(path, "cross_entropy", np.array([[3.0], [4.0]]), np.array([0, 0]))
    assert value == 0
    assert np.array_equal(gradient, np.zeros((2, 1)))


# Properties


@given(batches, st.floats(-1e4, 1e4))
def test_adding_a_constant_to_a_row_changes_nothing(batch, shift):
    _, logits, targets = draw_batch(*batch)
    shift = float(np.float32(shift))
    for path in PATHS:
        value, gradient = value_and_grad(path, "cross_entropy", logits, targets)
        moved, moved_gradient = value_and_grad(path, "cross_entropy", logits + shift, targets)
        np.testing.assert_allclose(moved, value, rtol=1e-12, atol=1e-11)
        np.testing.assert_allclose(moved_gradient, gradient, rtol=1e-10, atol=1e-11)


@given(batches, options_strategy)
def test_renaming_classes_and_reordering_tokens_reorders_the_gradient_alone(batch, drawn):
    rng, logits, targets = draw_batch(*batch)
    drawn |= {"average": "mean", "kind": "index", "ignore_index": -100}
    targets, options = draw_options(rng, targets, logits.shape[-1], drawn)
    classes, tokens = rng.permutation(logits.shape[-1]), rng.permutation(len(logits))
    renamed = np.where(targets == -100, -100, np.argsort(classes)[np.maximum(targets, 0)])[tokens]
    other = dict(options)
    if other["class_weight"] is not None:
        other["class_weight"] = other["class_weight"][classes]
    if other["token_weight"] is not None:
        other["token_weight"] = other["token_weight"][tokens]
    for path in PATHS:
        value, gradient = value_and_grad(path, "cross_entropy", logits, targets, **options)
        moved, moved_gradient = value_and_grad(path, "cross_entropy", logits[tokens][..., classes], renamed, **other)
        assert_close(moved, value)
        assert_close(moved_gradient, gradient[tokens][..., classes])


@given(batches, options_strategy, st.integers(1, 3))
def test_padding_with_ignored_tokens_changes_neither_the_mean_nor_its_gradient(batch, drawn, padding):
    rng, logits, targets = draw_batch(*batch)
    drawn |= {"kind": "index", "ignore_index": -100}
    if drawn["average"] == "none":
        drawn |= {"average": "mean"}
    targets, options = draw_options(rng, targets, logits.shape[-1], drawn)
    room = ((0, 0), (0, padding))
    padded = np.pad(logits, (*room, (0, 0)), constant_values=NAN)
    padded_targets = np.pad(targets, room, constant_values=-100)
    other = dict(options)
    if other["token_weight"] is not None:
        other["token_weight"] = np.pad(other["token_weight"], room, constant_values=1)
    for path in PATHS:
        assert_close(
            number(path, "cross_entropy", padded, padded_targets, **other),
            number(path, "cross_entropy", logits, targets, **options),
        )
        if options["reduction"] in SCALARS:
            _, gradient = value_and_grad(path, "cross_entropy", logits, targets, **options)
            _, wide = value_and_grad(path, "cross_entropy", padded, padded_targets, **other)
            assert_close(wide[:, : logits.shape[1]], gradient)
            assert np.array_equal(wide[:, logits.shape[1] :], np.zeros_like(wide[:, logits.shape[1] :]))


@pytest.fixture
def tiny_blocks(monkeypatch):
    import lmloss.numpy._rows as numpy_rows
    import lmloss.torch._rows as torch_rows

    def shrink(elements):
        monkeypatch.setattr(numpy_rows, "BLOCK_ELEMENTS", elements)
        monkeypatch.setattr(torch_rows, "BLOCK_ELEMENTS", elements)

    return shrink


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), options_strategy)
def test_the_size_of_a_block_shows_in_no_result(tiny_blocks, seed, elements, drawn):
    rng, logits, targets = draw_batch(seed, 4, 5, 3, 3.0, finite=True)
    targets, options = draw_options(rng, targets, 5, drawn)
    if options["reduction"] not in SCALARS:
        options |= {"reduction": "sum"}
    for path in PATHS:
        tiny_blocks(1 << 20)
        whole = value_and_grad(path, "cross_entropy", logits, targets, **options)
        tiny_blocks(elements)
        blocks = value_and_grad(path, "cross_entropy", logits, targets, **options)
        assert_close(blocks[0], whole[0], rtol=1e-14)
        assert_close(blocks[1], whole[1], rtol=1e-14)


@given(batches)
def test_the_plain_loss_is_never_negative_and_its_gradient_rows_sum_to_zero(batch):
    _, logits, targets = draw_batch(*batch)
    for path in PATHS:
        rows = number(path, "cross_entropy", logits, targets, reduction="none")
        assert (rows >= 0).all()
        assert not np.signbit(rows).any()
        _, gradient = value_and_grad(path, "cross_entropy", logits, targets, reduction="sum")
        assert (np.abs(gradient.sum(-1)) < 1e-15 * logits.shape[-1]).all()
        on_target = np.take_along_axis(gradient, targets[..., None], -1)
        assert (on_target <= 0).all()


@given(batches, st.sampled_from([0.05, 0.3, 1.0]), st.sampled_from(["all", "others"]))
def test_a_smoothed_loss_is_at_least_the_entropy_of_its_target_and_reaches_it(batch, epsilon, over):
    _, logits, targets = draw_batch(*batch, finite=True)
    classes = logits.shape[-1]
    background = epsilon / classes if over == "all" else epsilon / (classes - 1)
    truth = np.full((classes, classes), background)
    np.fill_diagonal(truth, 1 - epsilon + (background if over == "all" else 0))
    t = truth[0]
    bound = -np.sum(t[t > 0] * np.log(t[t > 0]))
    options = {"label_smoothing": epsilon, "smoothing_over": over, "reduction": "none"}
    for path in PATHS:
        assert (number(path, "cross_entropy", logits, targets, **options) >= bound * (1 - 1e-13)).all()
        if (t > 0).all():
            best = number(path, "cross_entropy", np.log(truth)[targets], targets, **options)
            assert_close(best, np.full(targets.shape, bound))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 30.0}])
def test_the_loss_falls_as_the_logit_of_the_target_rises(path, options):
    rising = np.zeros((40, 5))
    rising[:, 2] = np.linspace(-4, 4, 40) if options.get("label_smoothing") is None else np.linspace(-4, 3, 40)
    losses = number(path, "cross_entropy", rising, np.full(40, 2), reduction="none", **options)
    assert (np.diff(losses) < 0).all()


# What a builder of the loss checks first


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_perfect_logits_cost_nearly_nothing(path, dtype):
    logits = path.array(100.0 * np.eye(7), dtype)
    value = path.to_numpy(path.call("cross_entropy", logits, np.arange(7)))
    assert 0 <= value < 1e-6


def test_a_batch_of_sequences_gives_one_number_and_a_gradient_of_the_shape_of_its_logits(path):
    rng = np.random.default_rng(16)
    logits, targets = random_logits(rng, 2, 5, 100), rng.integers(100, size=(2, 5))
    value, gradient = path.value_and_grad("cross_entropy", logits, targets)
    assert value.shape == ()
    assert tuple(gradient.shape) == (2, 5, 100)


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
def test_logits_of_a_thousand_and_minus_a_thousand_give_no_nan_and_no_infinity(path, dtype):
    logits = path.array([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 1000.0]], dtype)
    for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 1e-4}, {"softcap": 30.0}):
        value, gradient = path.value_and_grad("cross_entropy", logits, np.array([1, 0]), **options)
        assert np.isfinite(path.to_numpy(value))
        assert np.isfinite(path.to_numpy(gradient)).all()


def test_mean_sum_and_one_loss_per_sequence_have_the_shapes_a_builder_asks_for(path):
    rng = np.random.default_rng(17)
    logits, targets = random_logits(rng, 3, 4, 6), rng.integers(6, size=(3, 4))
    targets[1, 2:] = -100
    sequences = number(path, "cross_entropy", logits, targets, reduction="sequence")
    assert sequences.shape == (3,)
    by_hand = [
        number(path, "cross_entropy", logits[i, : 2 if i == 1 else 4], targets[i, : 2 if i == 1 else 4])
        for i in range(3)
    ]
    assert_close(sequences, by_hand)


def test_neither_logits_nor_targets_nor_weights_are_modified(path):
    rng = np.random.default_rng(18)
    arrays = {
        "logits": random_logits(rng, 3, 4, 5),
        "targets": rng.integers(5, size=(3, 4)),
        "class_weight": rng.random(5),
        "token_weight": rng.random((3, 4)),
    }
    arrays["targets"][0, 1] = -100
    tensors = {name: path.array(a, a.dtype.name) for name, a in arrays.items()}
    for function in ("cross_entropy", "causal_lm_loss", "masked_lm_loss"):
        for options in ({}, {"label_smoothing": 0.1, "softcap": 5.0, "z_loss": 0.1}):
            given_options = {name: tensors[name] for name in ("class_weight", "token_weight")} | options
            path.call(function, tensors["logits"], tensors["targets"], **given_options)
            path.value_and_grad(function, tensors["logits"], tensors["targets"], **given_options)
    for name, before in arrays.items():
        assert np.array_equal(path.to_numpy(tensors[name]), before.astype(np.float64)), name


@pytest.mark.parametrize("layout", ["reversed", "strided", "transposed"])
def test_the_layout_in_memory_does_not_matter(path, layout):
    rng = np.random.default_rng(19)
    wide, labels = random_logits(rng, 4, 6, 10), rng.integers(5, size=(4, 6))
    wide_t, labels_t = path.array(wide), path.array(labels, "int64")
    # Tensors have no negative strides, so there a reversed one is a copy.
    reverse = np.flip if path.name == "numpy" else lambda a: a.flip(tuple(range(a.ndim)))
    pick = {
        "reversed": lambda a, b: (reverse(reverse(a)[..., 5:]), reverse(b)),
        "strided": lambda a, b: (a[::2, 1::2, ::2], b[::2, 1::2]),
        "transposed": lambda a, b: (a[..., :5].swapaxes(0, 1), b.T),
    }[layout]
    logits, targets = pick(wide_t, labels_t)
    want, want_gradient = oracle.cross_entropy(path.to_numpy(logits), path.to_numpy(targets).astype(int))
    value, gradient = path.value_and_grad("cross_entropy", logits, targets)
    assert_close(path.to_numpy(value), want)
    assert_close(path.to_numpy(gradient), want_gradient)


# Language models

CAUSAL_OPTIONS = [
    {},
    {"label_smoothing": 0.1, "z_loss": 0.1},
    {"label_smoothing": 0.1, "smoothing_over": "others", "softcap": 3.0},
    {"class_weight": np.array([0.5, 1.0, 0.0, 2.0, 1.0])},
    {"ignore_index": 3},
    {"denominator": 11.0},
]


@pytest.mark.parametrize(
    ("options", "reduction"),
    # A denominator belongs to the mean.
    [(o, r) for o in CAUSAL_OPTIONS for r in REDUCTIONS if "denominator" not in o or r == "mean"],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
@pytest.mark.parametrize("leading", [(), (3,), (2, 2)])
def test_the_causal_loss_scores_each_position_on_the_next_label(path, leading, options, reduction):
    rng = np.random.default_rng(21)
    logits, labels = random_logits(rng, *leading, 6, 5), rng.integers(5, size=(*leading, 6))
    weight = rng.integers(0, 3, size=labels.shape) / 2
    options = options | {"reduction": reduction}
    want, want_gradient = oracle.cross_entropy(
        logits[..., :-1, :], labels[..., 1:], token_weight=weight[..., 1:], **options
    )
    got = number(path, "causal_lm_loss", logits, labels, token_weight=weight, **options)
    assert_close(got, want)
    if path.name == "torch" or reduction in SCALARS:
        _, gradient = value_and_grad(path, "causal_lm_loss", logits, labels, token_weight=weight, **options)
        assert_close(gradient[..., :-1, :], want_gradient)
        assert np.array_equal(gradient[..., -1, :], np.zeros_like(gradient[..., -1, :]))


def test_the_causal_loss_reads_neither_the_first_label_nor_the_last_logits(path):
    logits, labels = random_logits(np.random.default_rng(22), 2, 4, 5), np.array([[1, 2, 3, 4], [0, 1, 2, 3]])
    want = value_and_grad(path, "causal_lm_loss", logits, labels)
    logits[:, -1], labels[:, 0] = NAN, 10**6
    value, gradient = value_and_grad(path, "causal_lm_loss", logits, labels)
    assert_close(value, want[0])
    assert_close(gradient, want[1])


def test_a_sequence_of_one_token_has_nothing_to_predict(path):
    value, gradient = value_and_grad(path, "causal_lm_loss", np.ones((2, 1, 3)), np.array([[0], [1]]))
    assert value == 0
    assert np.array_equal(gradient, np.zeros((2, 1, 3)))
    assert number(path, "causal_lm_loss", np.ones((2, 1, 3)), np.array([[0], [1]]), reduction="none").shape == (2, 0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_masked_loss_scores_the_labelled_positions_alone(path, reduction):
    rng = np.random.default_rng(23)
    logits, labels = random_logits(rng, 3, 5, 6), np.full((3, 5), -100)
    labels[0, 1], labels[2, 4], labels[2, 0] = 3, 0, 5
    options = {"reduction": reduction, "label_smoothing": 0.1}
    want, want_gradient = oracle.cross_entropy(logits, labels, **options)
    assert_close(number(path, "masked_lm_loss", logits, labels, **options), want)
    if path.name == "torch" or reduction in SCALARS:
        _, gradient = value_and_grad(path, "masked_lm_loss", logits, labels, **options)
        assert_close(gradient, want_gradient)


# Refusals


def refusal(path, error, function, *arrays, **options):
    with pytest.raises(error) as caught:
        path.call(function, *arrays, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_target_out_of_range_is_named_with_its_place_its_value_and_the_range(path):
    logits, targets = np.zeros((4, 18, 50_257), dtype=np.float32), np.zeros((4, 18), dtype=np.int64)
    targets[3, 17] = 50_300
    message = refusal(path, ValueError, "cross_entropy", logits, targets)
    assert message == "targets[3, 17] = 50300 is outside [0, 50257); ignore_index is -100"
    targets[3, 17] = -1
    message = refusal(path, ValueError, "cross_entropy", logits, targets)
    assert message == "targets[3, 17] = -1 is outside [0, 50257); ignore_index is -100"


@pytest.mark.parametrize("function", ["causal_lm_loss", "masked_lm_loss"])
def test_the_language_model_losses_index_labels_in_their_messages(path, function):
    labels = np.zeros((2, 4), dtype=np.int64)
    labels[1, 3] = 9
    message = refusal(path, ValueError, function, np.zeros((2, 4, 5)), labels)
    assert message == "labels[1, 3] = 9 is outside [0, 5); ignore_index is -100"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
def test_a_target_out_of_range_is_refused_in_every_integer_dtype(path, dtype):
    message = refusal(path, ValueError, "cross_entropy", np.zeros((2, 5)), np.array([0, 5], dtype=dtype))
    assert message.startswith("targets[1] = 5 is outside [0, 5)")


@pytest.mark.parametrize("target", [2**64 - 100, 2**63 + 1])
def test_the_largest_unsigned_classes_are_refused_under_their_own_number(path, target):
    # 2**64 - 100 wraps to -100, the ignore_index, in 64 signed bits
    message = refusal(path, ValueError, "cross_entropy", np.zeros((1, 3)), np.array([target], dtype=np.uint64))
    assert message.startswith(f"targets[0] = {target} is outside [0, 3)")


def test_a_lone_target_out_of_range_is_refused(path):
    message = refusal(path, ValueError, "cross_entropy", np.zeros(5), np.array(5))
    assert message.startswith("targets")
    assert "5 is outside [0, 5)" in message


LOGITS, INDICES = np.zeros((2, 3)), np.array([0, 1])
BAD = {
    "bool targets": (LOGITS, np.array([True, False]), {}, ["targets", "bool"]),
    "float targets": (LOGITS, np.array([0.0, 1.0]), {}, ["targets", "float64"]),
    "bool one-hot targets": (LOGITS, np.eye(3)[:2].astype(bool), {}, ["targets", "bool"]),
    "integer one-hot targets": (LOGITS, np.eye(3)[:2].astype(int), {}, ["targets", "(2, 3)"]),
    "integer logits": (np.zeros((2, 3), dtype=int), INDICES, {}, ["logits", "int64"]),
    "logits without classes": (np.zeros((2, 0)), INDICES, {}, ["logits", "(2, 0)"]),
    "logits without an axis": (np.array(1.0), np.array(0), {}, ["logits"]),
    "class axis in the middle": (np.zeros((2, 7, 5)), np.zeros((2, 5), int), {}, ["targets", "(2, 5)", "(2, 7, 5)"]),
    "too many targets": (LOGITS, np.array([0, 1, 2]), {}, ["targets", "(3,)", "(2, 3)"]),
    "distribution over too many": (LOGITS, np.full((2, 4), 0.25), {}, ["targets", "(2, 4)", "(2, 3)"]),
    "negative probability": (LOGITS, np.array([[1, 0, 0], [1.5, -0.5, 0]]), {}, ["targets[1, 1]", "-0.5"]),
    "probabilities of sum 0.98": (LOGITS, np.array([[1, 0, 0], [0.5, 0.48, 0]]), {}, ["targets[1]", "0.98", "1"]),
    "NaN probability": (LOGITS, np.array([[1, 0, 0], [NAN, 0.5, 0.5]]), {}, ["targets[1", "nan"]),
    "short class_weight": (LOGITS, INDICES, {"class_weight": np.ones(2)}, ["class_weight", "(2,)", "(3,)"]),
    "matrix of class_weight": (LOGITS, INDICES, {"class_weight": np.ones((2, 3))}, ["class_weight", "(2, 3)", "(3,)"]),
    "negative class_weight": (
        LOGITS,
        INDICES,
        {"class_weight": np.array([1.0, -0.5, 1.0])},
        ["class_weight[1]", "-0.5"],
    ),
    "NaN class_weight": (LOGITS, INDICES, {"class_weight": np.array([1.0, NAN, 1.0])}, ["class_weight[1]", "nan"]),
    "short token_weight": (LOGITS, INDICES, {"token_weight": np.ones(3)}, ["token_weight", "(3,)", "(2,)"]),
    "negative token_weight": (LOGITS, INDICES, {"token_weight": np.array([1.0, -2.0])}, ["token_weight[1]", "-2"]),
    "infinite token_weight": (LOGITS, INDICES, {"token_weight": np.array([INF, 1.0])}, ["token_weight[0]", "inf"]),
    "NaN token_weight": (LOGITS, INDICES, {"token_weight": np.array([NAN, 1.0])}, ["token_weight[0]", "nan"]),
    "label_smoothing below 0": (LOGITS, INDICES, {"label_smoothing": -0.1}, ["label_smoothing", "-0.1", "[0, 1]"]),
    "label_smoothing above 1": (LOGITS, INDICES, {"label_smoothing": 1.5}, ["label_smoothing", "1.5", "[0, 1]"]),
    "NaN label_smoothing": (LOGITS, INDICES, {"label_smoothing": NAN}, ["label_smoothing", "nan"]),
    "unknown smoothing_over": (
        LOGITS,
        INDICES,
        {"smoothing_over": "some"},
        ["smoothing_over", "some", "all", "others"],
    ),
    "one class and others": (
        np.zeros((2, 1)),
        np.array([0, 0]),
        {"label_smoothing": 0.1, "smoothing_over": "others"},
        ["logits", "(2, 1)", "2"],
    ),
    "negative z_loss": (LOGITS, INDICES, {"z_loss": -1.0}, ["z_loss", "-1"]),
    "zero softcap": (LOGITS, INDICES, {"softcap": 0.0}, ["softcap", "0"]),
    "negative softcap": (LOGITS, INDICES, {"softcap": -3.0}, ["softcap", "-3"]),
    "unknown reduction": (LOGITS, INDICES, {"reduction": "average"}, ["reduction", "average", "mean"]),
    "sequence of no axis": (np.zeros(3), np.array(0), {"reduction": "sequence"}, ["targets", "sequence"]),
    "negative denominator": (LOGITS, INDICES, {"denominator": -1.0}, ["denominator", "-1"]),
    "NaN denominator": (LOGITS, INDICES, {"denominator": NAN}, ["denominator", "nan"]),
    "denominator of a sum": (LOGITS, INDICES, {"denominator": 2.0, "reduction": "sum"}, ["denominator", "sum", "mean"]),
    "denominator of none": (
        LOGITS,
        INDICES,
        {"denominator": 2.0, "reduction": "none"},
        ["denominator", "none", "mean"],
    ),
    "denominator of sequences": (
        np.zeros((1, 2, 3)),
        np.array([[0, 1]]),
        {"denominator": 2.0, "reduction": "sequence"},
        ["denominator", "sequence", "mean"],
    ),
    "fractional ignore_index": (LOGITS, INDICES, {"ignore_index": 0.5}, ["ignore_index", "0.5"]),
}


@pytest.mark.parametrize("validate", [None, True])
@pytest.mark.parametrize(("logits", "targets", "options", "words"), [pytest.param(*c, id=n) for n, c in BAD.items()])
def test_a_bad_argument_is_refused_with_its_name_its_value_and_what_was_expected(
    path, logits, targets, options, words, validate
):
    message = refusal(path, (ValueError, TypeError), "cross_entropy", logits, targets, validate=validate, **options)
    for word in words:
        torch_word = word.replace("float64", "(torch.)?float64").replace("int64", "(torch.)?int64")
        assert word in message or re.search(torch_word, message), (word, message)


@pytest.mark.parametrize(
    ("logits", "targets", "options"),
    [pytest.param(*c[:3], id=n) for n, c in BAD.items() if c[1].dtype.kind == "i" and c[0].ndim > 1],
)
def test_the_other_faces_refuse_the_same_arguments(path, logits, targets, options):
    with pytest.raises((ValueError, TypeError)):
        path.call("masked_lm_loss", logits, targets, **options)
    if path.name == "numpy":
        with pytest.raises((ValueError, TypeError)):
            path.value_and_grad("cross_entropy", logits, targets, **options)


def test_options_are_keyword_only(path):
    with pytest.raises(TypeError):
        path.call("cross_entropy", LOGITS, INDICES, -100)


def test_validate_false_looks_at_no_value(path):
    logits, targets = random_logits(np.random.default_rng(24), 1, 3), np.array([[0.5, 0.5, 0.5]])
    with pytest.raises(ValueError, match="targets"):
        path.call("cross_entropy", logits, targets, validate=True)
    value = number(path, "cross_entropy", logits, targets, validate=False)
    log_p = np.array([float(v) for v in oracle.log_softmax(oracle.exact(logits[0]))])
    assert_close(value, -0.5 * log_p.sum())


@pytest.mark.parametrize(("dtype", "slack"), [("float64", 1e-6), ("float32", 1e-4), ("float16", 1e-2)])
def test_a_distribution_may_miss_one_by_what_its_dtype_cannot_hold(path, dtype, slack):
    logits = path.array(LOGITS[:1], dtype)
    path.call("cross_entropy", logits, path.array([[0.5, 0.25, 0.25 + slack / 2]], dtype))
    with pytest.raises(ValueError, match="targets"):
        path.call("cross_entropy", logits, path.array([[0.5, 0.25, 0.25 + 3 * slack]], dtype))


def test_every_pair_of_options_that_is_allowed_alone_is_allowed_together(path):
    alone = [SMOOTHINGS["smoothed"], EXTRAS["z"], EXTRAS["cap"], {"ignore_index": None}, {"validate": True}]
    for a, b in itertools.combinations(alone, 2):
        path.call("cross_entropy", GRID_LOGITS[:1], GRID_TARGETS[:1], **a, **b)


@pytest.mark.parametrize("function", ["causal_lm_loss", "masked_lm_loss"])
def test_what_is_no_option_of_cross_entropy_is_refused(path, function):
    with pytest.raises(TypeError, match="unexpected keyword argument 'shift'"):
        path.call(function, np.zeros((2, 3, 5)), np.zeros((2, 3), int), shift=True)
