"""What only the NumPy path promises: NumPy scalars, memory, and no arithmetic before a refusal."""

import tracemalloc

import numpy as np
import pytest

import lmloss.numpy as ln

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_reduced_loss_is_a_numpy_scalar_of_the_loss_dtype(dtype, reduction):
    value = ln.cross_entropy(np.zeros((2, 3), dtype), np.array([0, 1]), reduction=reduction)
    assert isinstance(value, np.float64 if dtype is np.float64 else np.float32)
    nothing = ln.cross_entropy(np.zeros((2, 3), dtype), np.array([-100, -100]), reduction=reduction)
    assert isinstance(nothing, np.float64 if dtype is np.float64 else np.float32)


def peak(function, *arguments, **options):
    """The most bytes that were held at once during a call, what it returns included."""
    tracemalloc.start()
    try:
        function(*arguments, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


OPTIONS = [
    {},
    {"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 30.0},
    {"label_smoothing": 0.1, "smoothing_over": "others", "class_weight": np.ones(50_000, dtype=np.float32)},
]


@pytest.mark.parametrize("function", ["cross_entropy", "causal_lm_loss", "masked_lm_loss"])
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "smoothed-capped", "class-weighted"])
def test_fifty_thousand_classes_stay_within_the_memory_of_one_gradient(function, options):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 64, 50_000)).astype(np.float32), rng.integers(50_000, size=(2, 64))
    loss = getattr(ln, function)
    assert peak(loss, logits, targets, **options) < 0.4 * logits.nbytes
    assert peak(ln.value_and_grad(loss), logits, targets, **options) < 1.4 * logits.nbytes


def test_the_class_holds_one_gradient_at_most():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(128, 50_000)).astype(np.float32), rng.integers(50_000, size=128)

    def step():
        loss = ln.CrossEntropyLoss()
        loss.forward(logits, targets)
        return loss.backward()

    assert peak(step) < 1.4 * logits.nbytes


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (np.array([0, 7]), {}),
        (np.array([0, 1]), {"label_smoothing": 2.0}),
        (np.array([0, 1]), {"class_weight": np.array([1.0, -1.0, 1.0])}),
        (np.array([0, 1]), {"token_weight": np.array([1.0, -1.0])}),
        (np.array([0, 1]), {"denominator": 1.0, "reduction": "sum"}),
        (np.array([[0.5, 0.5, 0.0], [0.5, 0.4, 0.0]]), {}),
    ],
)
def test_a_bad_argument_is_refused_before_any_arithmetic(monkeypatch, targets, options):
    def arithmetic(*_, **__):
        raise AssertionError("something was computed")

    for name in ("exp", "log", "log1p", "expm1", "logaddexp", "tanh"):
        monkeypatch.setattr(np, name, arithmetic)
    with pytest.raises(ValueError, match=r"targets|label_smoothing|class_weight|token_weight|denominator"):
        ln.cross_entropy(np.zeros((2, 3)), targets, **options)


def test_the_loss_ranks_in_float_arithmetic_even_under_strict_floating_point_errors():
    logits = np.array([[1000.0, -1000.0, -np.inf], [np.nan, 0.0, 1.0], [-np.inf, -np.inf, -np.inf]])
    targets = np.array([0, -100, 1])
    with np.errstate(all="raise", under="ignore"):
        rows = ln.cross_entropy(logits, targets, reduction="none")
    assert rows[0] == 0
    assert rows[1] == 0
    assert np.isnan(rows[2])
