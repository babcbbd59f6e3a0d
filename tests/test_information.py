"""The contract of the information measures, in both paths, against printed tables and sixty-digit arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle import exact, mp
from tests.paths import PATHS, assert_close

pytestmark = pytest.mark.filterwarnings("error")

INF, NAN = float("inf"), float("nan")

# Cover and Thomas, Elements of Information Theory, example 2.2.1: columns x = 1..4, rows y = 1..4
JOINT = np.array([[4, 2, 1, 1], [2, 4, 1, 1], [2, 2, 2, 2], [8, 0, 0, 0]]) / 32


def number(path, function, *arrays, **options):
    return path.to_numpy(path.call(function, *arrays, **options))


def distributions(seed, *shape, sparse=False):
    rng = np.random.default_rng(seed)
    draws = rng.gamma(0.5, size=shape) + 1e-12
    if sparse:
        draws[rng.random(shape) < 0.3] = 0
        draws[..., 0] += 0.1
    return draws / draws.sum(-1, keepdims=True)


def exact_sum(terms):
    return float(mp.fsum(terms))


def exact_entropy(p):
    return exact_sum(-v * mp.log(v) for v in exact(p) if v)


def exact_kl(p, q):
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return INF
    return exact_sum(a * mp.log(a / b) for a, b in zip(exact(p), exact(q), strict=True) if a)


def exact_js(p, q):
    middle = [(a + b) / 2 for a, b in zip(exact(p), exact(q), strict=True)]
    terms = [a * mp.log(a / m) / 2 for side in (p, q) for a, m in zip(exact(side), middle, strict=True) if a]
    return exact_sum(terms)


# Printed numbers


def test_the_table_of_cover_and_thomas_in_bits(path):
    y, x = JOINT.sum(1), JOINT.sum(0)
    assert_close(number(path, "entropy", x, base=2), 7 / 4)
    assert_close(number(path, "entropy", y, base=2), 2)
    assert_close(number(path, "mutual_information", JOINT, base=2), 3 / 8)
    conditional = number(path, "entropy", JOINT / y[:, None], base=2)
    assert_close((y * conditional).sum(), 11 / 8)
    assert_close(number(path, "entropy", JOINT.reshape(-1), base=2), 27 / 8)


def test_kl_is_not_symmetric_on_a_fair_and_a_biased_coin(path):
    fair, biased = np.array([0.5, 0.5]), np.array([0.75, 0.25])
    forward = number(path, "kl_divergence", fair, biased, base=2)
    assert abs(forward - 0.2075) < 5e-5
    assert_close(forward, 1 - math.log2(3) / 2)
    backward = number(path, "kl_divergence", biased, fair, base=2)
    assert abs(backward - 0.1887) < 5e-5
    assert_close(backward, 0.75 * math.log2(3) - 1)


@pytest.mark.parametrize(
    ("p", "nats"),
    [
        (0.6, "0.5108"),
        (0.5, "0.69"),
        (0.1, "2.30"),
        (0.0001, "9.21"),
        (0.7, "0.357"),
        (0.2, "1.609"),
        (0.9, "0.105"),
    ],
)
def test_the_surprisal_of_printed_probabilities(path, p, nats):
    assert f"{number(path, 'surprisal', np.array(p)):.{len(nats) - 2}f}" == nats


def test_a_fair_coin_and_a_fair_die_have_the_entropies_everybody_knows(path):
    assert_close(number(path, "entropy", np.array([0.5, 0.5]), base=2), 1.0)
    assert_close(number(path, "entropy", np.full(8, 0.125), base=2), 3.0)
    assert_close(number(path, "entropy", np.full(8, 0.125)), math.log(8))
    assert_close(number(path, "entropy", np.full(10, 0.1), base=10), 1.0)


# Definitions


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("base", [None, 2, 10, math.e, 0.5])
def test_values_are_those_of_exact_arithmetic_in_any_base(path, sparse, base):
    p, q = distributions(1, 4, 5, sparse=sparse), distributions(2, 4, 5)
    unit = 1.0 if base is None else math.log(base)
    pairs = list(zip(p, q, strict=True))
    expected = {
        "entropy": ([exact_entropy(a) for a in p], (p,)),
        "kl_divergence": ([exact_kl(a, b) for a, b in pairs], (p, q)),
        "cross_entropy_probs": ([exact_entropy(a) + exact_kl(a, b) for a, b in pairs], (p, q)),
        "js_divergence": ([exact_js(a, b) for a, b in pairs], (p, q)),
    }
    for function, (want, arrays) in expected.items():
        np.testing.assert_allclose(
            number(path, function, *arrays, base=base), np.array(want) / unit, rtol=1e-13, atol=1e-15, err_msg=function
        )
    surprisal = np.array([[float(-mp.log(v)) if v else INF for v in exact(row)] for row in p])
    assert_close(number(path, "surprisal", p, base=base), surprisal / unit)


def test_mutual_information_is_the_divergence_from_independence(path):
    joint = distributions(3, 6, 12, sparse=True).reshape(6, 3, 4)
    want = []
    for table in joint:
        product = table.sum(1)[:, None] * table.sum(0)
        want.append(exact_kl(table.ravel(), product.ravel()))
    np.testing.assert_allclose(number(path, "mutual_information", joint), want, rtol=1e-12, atol=1e-15)
    assert number(path, "mutual_information", joint.reshape(2, 3, 3, 4)).shape == (2, 3)


def test_mutual_information_of_independent_and_of_identical_variables(path):
    p, q = distributions(4, 3), distributions(5, 4)
    assert abs(number(path, "mutual_information", p[:, None] * q)) < 1e-15
    assert_close(number(path, "mutual_information", np.diag(p)), exact_entropy(p))


def test_zero_times_log_zero_is_zero_and_a_missing_support_is_infinite(path):
    p, q = np.array([0.0, 1.0, 0.0]), np.array([0.5, 0.5, 0.0])
    assert number(path, "entropy", p) == 0
    assert not np.signbit(number(path, "entropy", p))
    assert_close(number(path, "kl_divergence", p, q), math.log(2))
    assert number(path, "kl_divergence", q, p) == INF
    assert_close(number(path, "cross_entropy_probs", p, q), math.log(2))
    assert number(path, "cross_entropy_probs", q, p) == INF
    assert_close(number(path, "js_divergence", np.array([1.0, 0.0]), np.array([0.0, 1.0])), math.log(2))


def test_surprisal_ends_at_infinity_and_at_a_positive_zero(path):
    got = number(path, "surprisal", np.array([0.0, 1.0, 0.25]), base=2)
    assert got.tolist() == [INF, 0.0, 2.0]
    assert not np.signbit(got[1])


def test_one_hot_integers_are_distributions_too(path):
    one_hot = np.array([[0, 1, 0], [1, 0, 0]])
    assert number(path, "entropy", one_hot).tolist() == [0, 0]
    q = np.array([[0.25, 0.5, 0.25], [0.125, 0.5, 0.375]])
    assert_close(number(path, "cross_entropy_probs", one_hot, q), [math.log(2), math.log(8)])
    assert_close(number(path, "kl_divergence", one_hot, q), [math.log(2), math.log(8)])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_the_outcomes_are_the_last_axis_whatever_leads(path, shape):
    p, q = distributions(6, *shape, 4), distributions(7, *shape, 4)
    for function in ("entropy", "kl_divergence", "js_divergence", "cross_entropy_probs"):
        arrays = (p,) if function == "entropy" else (p, q)
        assert number(path, function, *arrays).shape == shape
    assert number(path, "surprisal", p).shape == p.shape


PRECISIONS = [(p, dtype) for p in PATHS for dtype in p.dtypes]


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
def test_results_follow_the_loss_dtype_and_keep_its_digits(path, dtype):
    p, q = path.array([0.5, 0.25, 0.125, 0.125], dtype), path.array([0.25, 0.25, 0.25, 0.25], dtype)
    wide = "float64" if dtype == "float64" else "float32"
    exact_values = {
        "entropy": ((p,), 1.75),
        "cross_entropy_probs": ((p, q), 2.0),
        "kl_divergence": ((p, q), 0.25),
        "surprisal": ((p,), [1.0, 2.0, 3.0, 3.0]),
    }
    for function, (arrays, want) in exact_values.items():
        got = path.call(function, *arrays, base=2)
        assert path.dtype_name(got) == wide
        np.testing.assert_allclose(path.to_numpy(got), want, rtol=4e-7)
    assert path.dtype_name(path.call("js_divergence", p, q)) == wide
    assert path.dtype_name(path.call("mutual_information", path.array([[0.5, 0.0], [0.25, 0.25]], dtype))) == wide


# Properties


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.booleans())
def test_the_inequalities_of_information_theory_hold(seed, outcomes, sparse):
    p, q = distributions(seed, 3, outcomes, sparse=sparse), distributions(seed + 1, 3, outcomes, sparse=sparse)
    for path in PATHS:
        entropy = number(path, "entropy", p)
        assert (entropy >= 0).all()
        assert (entropy <= math.log(outcomes) * (1 + 1e-15) + 1e-300).all()
        kl = number(path, "kl_divergence", p, q)
        assert (kl >= 0).all()
        js = number(path, "js_divergence", p, q)
        assert (js >= 0).all()
        assert (js <= math.log(2)).all()
        assert_close(js, number(path, "js_divergence", q, p))
        assert_close(number(path, "cross_entropy_probs", p, q), entropy + kl)
        assert np.array_equal(number(path, "kl_divergence", p, p), np.zeros(3))
        assert (number(path, "js_divergence", p, p) < 1e-15).all()
        assert_close(number(path, "cross_entropy_probs", p, p), entropy)
        order = np.random.default_rng(seed).permutation(outcomes)
        assert_close(number(path, "kl_divergence", p[:, order], q[:, order]), kl)


@given(st.integers(0, 2**32 - 1))
def test_mutual_information_is_symmetric_non_negative_and_at_most_either_entropy(seed):
    joint = distributions(seed, 12, sparse=True).reshape(3, 4)
    for path in PATHS:
        mutual = number(path, "mutual_information", joint)
        assert mutual >= 0
        assert_close(number(path, "mutual_information", joint.T), mutual)
        for axis in (0, 1):
            assert mutual <= exact_entropy(joint.sum(axis)) * (1 + 1e-13)


def test_a_tiny_divergence_is_not_lost(path):
    p = np.array([0.5, 0.5])
    q = np.array([0.5 + 2.0**-20, 0.5 - 2.0**-20])
    np.testing.assert_allclose(number(path, "kl_divergence", p, q), exact_kl(p, q), rtol=1e-3)


@pytest.mark.parametrize("smallest", [5e-324, 1e-320])
def test_the_smallest_probability_there_is_does_not_make_two_distributions_infinitely_different(path, smallest):
    p, q = np.array([1.0, smallest]), np.array([1.0, 0.0])
    assert 0 <= number(path, "js_divergence", p, q) <= smallest
    assert 0 <= number(path, "js_divergence", q, p) <= smallest
    assert_close(number(path, "js_divergence", p[::-1].copy(), q), math.log(2))


def test_inputs_are_not_modified(path):
    p, q = path.array(JOINT), path.array(np.full((4, 4), 1 / 16))
    path.call("mutual_information", p)
    rows, flat = path.array([[0.5, 0.0, 0.5]]), path.array([[0.25, 0.25, 0.5]])
    for function in ("kl_divergence", "js_divergence", "cross_entropy_probs"):
        path.call(function, rows, flat)
    path.call("entropy", rows)
    path.call("surprisal", rows)
    assert np.array_equal(path.to_numpy(p), JOINT)
    assert np.array_equal(path.to_numpy(q), np.full((4, 4), 1 / 16))
    assert path.to_numpy(rows).tolist() == [[0.5, 0.0, 0.5]]
    assert path.to_numpy(flat).tolist() == [[0.25, 0.25, 0.5]]


# Refusals


def refusal(path, function, *arrays, **options):
    with pytest.raises((ValueError, TypeError)) as caught:
        path.call(function, *arrays, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_textbook_vector_that_sums_to_98_hundredths_is_refused(path):
    message = refusal(path, "entropy", np.array([0.10, 0.60, 0.20, 0.05, 0.00, 0.02, 0.01]))
    assert "p" in message.split()[0]
    assert "0.98" in message


@pytest.mark.parametrize("function", ["kl_divergence", "js_divergence", "cross_entropy_probs"])
def test_the_second_distribution_is_checked_under_its_own_name(path, function):
    good = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert "q[1]" in refusal(path, function, good, np.array([[0.5, 0.5], [0.5, 0.4]]))
    message = refusal(path, function, good, np.array([[0.5, 0.5], [1.25, -0.25]]))
    assert "q[1, 1]" in message
    assert "-0.25" in message
    assert "p[0" in refusal(path, function, np.array([[NAN, 0.5], [0.5, 0.5]]), good)


@pytest.mark.parametrize("function", ["kl_divergence", "js_divergence", "cross_entropy_probs"])
def test_distributions_over_different_outcomes_are_refused_with_both_shapes(path, function):
    message = refusal(path, function, np.full(2, 0.5), np.full(4, 0.25))
    assert "(2,)" in message
    assert "(4,)" in message


@pytest.mark.parametrize("value", [-0.1, 1.5, NAN])
def test_a_surprisal_outside_the_unit_interval_is_refused(path, value):
    message = refusal(path, "surprisal", np.array([0.5, value]))
    assert "p[1]" in message
    assert str(value) in message


def test_a_message_shows_the_value_that_was_refused_and_not_its_neighbour(path):
    assert "p[0] = 1.000000001 " in refusal(path, "surprisal", np.array([1 + 1e-9])) + " "
    assert "0.99999" in refusal(path, "entropy", np.array([0.5, 0.49999]))


@pytest.mark.parametrize("base", [0, 1, -2, NAN])
def test_a_base_that_measures_nothing_is_refused(path, base):
    assert "base" in refusal(path, "entropy", np.array([0.5, 0.5]), base=base)


def test_a_joint_table_must_be_a_distribution_with_two_axes(path):
    assert "joint" in refusal(path, "mutual_information", np.full((2, 2), 0.3))
    assert "joint" in refusal(path, "mutual_information", np.full(4, 0.25))
    assert "joint" in refusal(path, "mutual_information", np.array([[0.75, -0.25], [0.25, 0.25]]))


@pytest.mark.parametrize(("dtype", "slack"), [("float64", 1e-6), ("float32", 1e-4), ("float16", 1e-2)])
def test_a_sum_may_miss_one_by_what_its_dtype_cannot_hold(path, dtype, slack):
    path.call("entropy", path.array([0.5, 0.25, 0.25 + slack / 2], dtype))
    refusal(path, "entropy", path.array([0.5, 0.25, 0.25 + 3 * slack], dtype))
