"""The contract of logsumexp, softmax, log_softmax and softcap, in both paths, against sixty-digit arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.paths import PATHS, assert_close

pytestmark = pytest.mark.filterwarnings("error")

INF, NAN = float("inf"), float("nan")
ULP = 2.0**-52
ROWS = {
    "usual": [0.5, 2.0, 1.2],
    "thousands": [1000.0, -1000.0, 0.0],
    "all-low": [-1000.0, -1000.0, -1000.0],
    "offset": [1e4, 1e4 + 1, 1e4 - 2],
    "nearly-equal": [1e-9, 0.0, -1e-9],
    "masked": [-INF, 0.5, -0.5],
    "one-left": [-INF, 3.0, -INF],
    "far-apart": [0.0, -745.0, -40.0],
    "huge": [1e300, -1e300, 1e300],
}
EXACT = {"softmax": oracle.softmax, "log_softmax": oracle.log_softmax, "logsumexp": lambda z: [oracle.logsumexp(z)]}


def number(path, function, *arrays, **options):
    return path.to_numpy(path.call(function, *arrays, **options))


def exact_row(function, row, temperature=1.0):
    z = [v / oracle.mp.mpf(temperature) for v in oracle.exact(row)]
    return np.array([float(v) for v in EXACT[function](z)])


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("function", EXACT)
def test_values_are_those_of_exact_arithmetic(path, function, row):
    want = exact_row(function, ROWS[row])
    got = number(path, function, np.array(ROWS[row]))
    np.testing.assert_allclose(np.atleast_1d(got), want, rtol=2e-15, atol=ULP)


@pytest.mark.parametrize("temperature", [0.01, 0.5, 2.0, 100.0])
@pytest.mark.parametrize("row", ["usual", "thousands", "masked"])
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_the_temperature_divides_the_logits(path, function, row, temperature):
    want = exact_row(function, ROWS[row], temperature)
    got = number(path, function, np.array(ROWS[row]), temperature=temperature)
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=ULP)


def test_numbers_of_a_known_softmax(path):
    got = number(path, "softmax", np.log(np.array([1.0, 2.0, 5.0])))
    assert_close(got, [0.125, 0.25, 0.625])


# SciPy's own tests of scipy.special hold these, computed with mpmath at 200 digits and rounded to float64.
SCIPY = [
    ("log_softmax", [1000, 1], [0, -999]),
    (
        "log_softmax",
        [0, 1, 2, 3],
        [-3.4401896985611953, -2.4401896985611953, -1.4401896985611953, -0.44018969856119533],
    ),
    ("softmax", [1000, 0, 0, 0], [1, 0, 0, 0]),
    ("softmax", [1, 1], [0.5, 0.5]),
    ("softmax", [0, 1, 2, 3], [0.03205860328008499, 0.08714431874203256, 0.23688281808991013, 0.6439142598879722]),
]


@pytest.mark.parametrize(("function", "x", "expected"), SCIPY)
@pytest.mark.parametrize("shift", [0, 100])
def test_the_constants_of_scipys_tests_are_met_shifted_or_not(path, function, x, expected, shift):
    got = number(path, function, np.array(x, dtype=float) + shift)
    np.testing.assert_allclose(got, expected, rtol=1e-13)
    np.testing.assert_allclose(got, exact_row(function, x), rtol=1e-15)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
def test_the_classes_are_the_last_axis_whatever_leads(path, shape):
    x = np.random.default_rng(0).normal(size=shape)
    for function in ("softmax", "log_softmax"):
        assert number(path, function, x).shape == shape
    lse = number(path, "logsumexp", x)
    assert lse.shape == shape[:-1]
    want = [exact_row("logsumexp", row)[0] for row in x.reshape(-1, 4)]
    assert_close(lse, np.reshape(want, shape[:-1]))


@pytest.mark.parametrize("row", [[NAN, 0.0], [INF, 0.0], [-INF, -INF]])
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_a_row_without_a_softmax_is_nan_and_keeps_it_to_itself(path, function, row):
    got = number(path, function, np.array([[0.0, 0.0], row, [0.0, 0.0]]))
    half = 0.5 if function == "softmax" else -math.log(2)
    assert np.isnan(got[1]).all()
    assert_close(got[[0, 2]], np.full((2, 2), half))


def test_logsumexp_knows_the_infinities(path):
    rows = np.array([[-INF, -INF], [INF, 0.0], [INF, INF], [INF, -INF], [-INF, 2.0], [NAN, 0.0], [NAN, INF]])
    got = number(path, "logsumexp", rows)
    assert got[:5].tolist() == [-INF, INF, INF, INF, 2.0]
    assert math.isnan(got[5])
    assert math.isnan(got[6]) or got[6] == INF


PRECISIONS = [(p, dtype) for p in PATHS for dtype in p.dtypes]


def spacing(values, dtype):
    digits, smallest = {"float64": (52, -1074), "float32": (23, -149), "float16": (10, -24), "bfloat16": (7, -133)}[
        dtype
    ]
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 2.0 ** (smallest + digits))))
    return 2.0 ** (exponent - digits)


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
def test_dtypes_follow_the_contract(path, dtype):
    x = path.array([[0.5, 1.5], [2.0, 0.0]], dtype)
    for function in ("softmax", "log_softmax"):
        assert path.dtype_name(path.call(function, x)) == dtype
        assert path.dtype_name(path.call(function, x, temperature=2.0)) == dtype
    assert path.dtype_name(path.call("softcap", x, 5.0)) == dtype
    assert path.dtype_name(path.call("logsumexp", x)) == ("float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
def test_no_precision_loses_more_than_the_textbook_formula_does(path, function, dtype, offset):
    x = path.array(np.random.default_rng(1).normal(size=(30, 9)) * 4 + offset, dtype)
    rounded = path.to_numpy(x)
    want = np.array([exact_row(function, row) for row in rounded])
    if function == "logsumexp":
        want = want[:, 0]
        dtype = "float64" if dtype == "float64" else "float32"
    z = path.array(rounded, dtype)
    axis = {"axis": -1, "keepdims": True} if path.name == "numpy" else {"dim": -1, "keepdim": True}
    top = z.max(-1, keepdims=True) if path.name == "numpy" else z.max(-1, keepdim=True).values
    exp, log = (np.exp, np.log) if path.name == "numpy" else (path_exp, path_log)
    total = exp(z - top).sum(**axis)
    naive = {
        "softmax": exp(z - top) / total,
        "log_softmax": z - top - log(total),
        "logsumexp": (top + log(total))[..., 0],
    }
    naive_error = np.abs(path.to_numpy(naive[function]) - want).max()
    error = np.abs(number(path, function, x) - want)
    assert (error <= naive_error + spacing(want, dtype)).all()


def path_exp(x):
    return x.exp()


def path_log(x):
    return x.log()


@given(st.integers(0, 2**32 - 1), st.floats(-1e6, 1e6), st.sampled_from([0.1, 5.0, 100.0]))
def test_a_shift_changes_no_probability_and_permuting_classes_permutes_them(seed, shift, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, 5)) * scale
    shifted, order = x + shift, rng.permutation(5)
    back = shifted - shift
    for path in PATHS:
        p = number(path, "softmax", x)
        assert_close(p.sum(-1), np.ones(3))
        assert (p >= 0).all()
        assert_close(number(path, "softmax", shifted), number(path, "softmax", back))
        assert_close(number(path, "softmax", x[:, order]), p[:, order])
        assert_close(number(path, "log_softmax", shifted), number(path, "log_softmax", back))
        lse = number(path, "logsumexp", x)
        assert (lse >= x.max(-1)).all()
        assert (lse <= x.max(-1) + math.log(5) + 1e-12 * np.abs(x).max()).all()
        np.testing.assert_allclose(number(path, "log_softmax", x), x - lse[:, None], rtol=1e-12, atol=1e-12 * scale)


def test_low_and_high_temperature_are_the_argmax_and_the_uniform_distribution(path):
    x = np.array([1.0, 3.0, 2.0])
    assert_close(number(path, "softmax", x, temperature=1e-3), [0.0, 1.0, 0.0])
    np.testing.assert_allclose(number(path, "softmax", x, temperature=1e9), [1 / 3] * 3, rtol=1e-8)


# Softcap


@pytest.mark.parametrize("cap", [0.5, 5.0, 30.0])
def test_softcap_is_cap_tanh_of_the_quotient(path, cap):
    x = np.array([-1e4, -50.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 50.0, 1e4])
    want = [float(v) for v in oracle.softcap(oracle.exact(x), oracle.mp.mpf(cap))]
    np.testing.assert_allclose(number(path, "softcap", x, cap), want, rtol=1e-15)


def test_softcap_leaves_minus_infinity_makes_infinity_the_cap_and_passes_nan_on(path):
    got = number(path, "softcap", np.array([-INF, INF, NAN, 0.0]), 5.0)
    assert got[0] == -INF
    assert got[1] == 5.0
    assert math.isnan(got[2])
    assert got[3] == 0.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.floats(0.1, 100))
def test_softcap_is_odd_bounded_by_the_cap_and_never_above_its_argument(x, cap):
    for path in PATHS:
        got = number(path, "softcap", np.array(x), cap)
        assert (np.abs(got) <= cap).all()
        assert (np.abs(got) <= np.abs(x) * (1 + 1e-15)).all()
        assert np.array_equal(number(path, "softcap", -np.array(x), cap), -got)


def test_inputs_are_not_modified(path):
    before = np.array([[0.5, -INF, 3.0], [INF, 1.0, NAN]])
    x = path.array(before)
    for function in EXACT:
        path.call(function, x)
    path.call("softmax", x, temperature=2.0)
    path.call("softcap", x, 2.0)
    assert np.array_equal(path.to_numpy(x), before, equal_nan=True)


# Refusals


def refusal(path, function, *arrays, **options):
    with pytest.raises((ValueError, TypeError)) as caught:
        path.call(function, *arrays, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
@pytest.mark.parametrize("temperature", [0.0, -1.0, NAN])
def test_a_temperature_that_is_not_positive_is_refused(path, function, temperature):
    message = refusal(path, function, np.ones(3), temperature=temperature)
    assert "temperature" in message
    assert repr(temperature).removesuffix(".0") in message


@pytest.mark.parametrize("cap", [0.0, -2.0, NAN])
def test_a_cap_that_is_not_positive_is_refused(path, cap):
    message = refusal(path, "softcap", np.ones(3), cap)
    assert "cap" in message
    assert repr(cap).removesuffix(".0") in message


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_integer_logits_are_refused(path, function):
    message = refusal(path, function, np.array([1, 2, 3]))
    assert "logits" in message
    assert "int64" in message


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
def test_a_scalar_and_an_empty_class_axis_are_refused(path, function):
    refusal(path, function, np.array(1.0))
    refusal(path, function, np.zeros((2, 0)))


def test_temperature_is_keyword_only(path):
    with pytest.raises(TypeError):
        path.call("softmax", np.ones(3), 2.0)
