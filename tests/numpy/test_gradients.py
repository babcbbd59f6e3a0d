"""Closed-form gradients of the NumPy path, held against central differences and sixty-digit arithmetic."""

import numpy as np
import pytest

import lmloss.numpy as ln
from tests import oracle
from tests.paths import assert_close

pytestmark = pytest.mark.filterwarnings("error")

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "denominator": {"denominator": 3.0},
    "smoothed": {"label_smoothing": 0.1},
    "smoothed-others": {"label_smoothing": 0.1, "smoothing_over": "others"},
    "z-loss": {"z_loss": 0.1},
    "softcap": {"softcap": 3.0},
    "class-weight": {"class_weight": np.array([1.0, 0.5, 0.0, 2.0, 1.5])},
    "token-weight": {"token_weight": np.array([[1.0, 0.5, 0.0], [2.0, 1.0, 1.0]])},
    "everything": {
        "label_smoothing": 0.2,
        "z_loss": 0.1,
        "softcap": 4.0,
        "class_weight": np.array([1.0, 0.5, 0.0, 2.0, 1.5]),
        "token_weight": np.array([[1.0, 0.5, 0.0], [2.0, 1.0, 1.0]]),
        "denominator": 2.0,
    },
}


def batch():
    rng = np.random.default_rng(3)
    return rng.normal(size=(2, 3, 5)), np.array([[0, 4, 1], [2, -100, 3]])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("function", ["cross_entropy", "causal_lm_loss", "masked_lm_loss"])
def test_check_gradient_finds_the_closed_form_equal_to_central_differences(function, options):
    error = ln.check_gradient(getattr(ln, function), *batch(), **options)
    assert 0 <= error < 1e-6


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_closed_form_equals_our_own_central_differences(options):
    logits, targets = batch()
    _, gradient = ln.value_and_grad(ln.cross_entropy)(logits, targets, **options)
    for place in np.ndindex(logits.shape):
        above, below = logits.copy(), logits.copy()
        above[place] += 1e-5
        below[place] -= 1e-5
        slope = (ln.cross_entropy(above, targets, **options) - ln.cross_entropy(below, targets, **options)) / 2e-5
        assert abs(gradient[place] - slope) < 1e-9


def test_check_gradient_reports_a_gradient_that_is_off_by_a_hundredth(monkeypatch):
    logits, targets = batch()
    honest = ln.gradients.value_and_grad

    def dishonest(loss):
        def both(*arguments, **options):
            value, gradient = honest(loss)(*arguments, **options)
            return value, gradient * 1.01

        return both

    monkeypatch.setattr(ln.gradients, "value_and_grad", dishonest)
    assert ln.check_gradient(ln.cross_entropy, logits, targets) > 5e-3


def test_value_and_grad_returns_the_value_of_the_loss_itself():
    logits, targets = batch()
    value, gradient = ln.value_and_grad(ln.cross_entropy)(logits, targets, label_smoothing=0.1)
    assert value == ln.cross_entropy(logits, targets, label_smoothing=0.1)
    assert isinstance(value, np.float64)
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_the_gradient_has_the_dtype_of_the_logits(dtype):
    logits, targets = batch()
    value, gradient = ln.value_and_grad(ln.cross_entropy)(logits.astype(dtype), targets)
    assert gradient.dtype == dtype
    assert value.dtype == (np.float64 if dtype is np.float64 else np.float32)


@pytest.mark.parametrize("reduction", ["none", "sequence"])
def test_a_gradient_of_several_numbers_is_refused(reduction):
    with pytest.raises(ValueError, match="reduction") as caught:
        ln.value_and_grad(ln.cross_entropy)(*batch(), reduction=reduction)
    assert reduction in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_that_is_no_loss_of_ours_is_refused():
    with pytest.raises((ValueError, TypeError)) as caught:
        ln.value_and_grad(np.sum)(*batch())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", ["cross_entropy", "causal_lm_loss", "masked_lm_loss"])
def test_value_and_grad_refuses_what_the_loss_refuses(function):
    logits, targets = batch()
    name = "targets" if function == "cross_entropy" else "labels"
    with pytest.raises(ValueError, match=rf"{name}\[1, 2\] = 9 is outside \[0, 5\)"):
        ln.value_and_grad(getattr(ln, function))(logits, np.where(targets == 3, 9, targets))


# The class


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_class_remembers_what_backward_needs(options):
    if "token_weight" in options:
        options = {name: value for name, value in options.items() if name != "token_weight"}
    logits, targets = batch()
    loss = ln.CrossEntropyLoss(**options)
    want, want_gradient = oracle.cross_entropy(logits, targets, **options)
    assert_close(loss.forward(logits, targets), want)
    assert_close(loss.backward(), want_gradient)
    assert_close(loss.backward(upstream=2.5), 2.5 * want_gradient)
    assert_close(loss.backward(), want_gradient)


def test_a_second_forward_replaces_the_first():
    logits, targets = batch()
    loss = ln.CrossEntropyLoss()
    loss.forward(logits * 3, targets)
    loss.backward()
    loss.forward(logits[0], targets[0])
    assert_close(loss.backward(), oracle.cross_entropy(logits[0], targets[0])[1])


def test_backward_before_forward_is_refused():
    with pytest.raises((ValueError, RuntimeError), match="forward"):
        ln.CrossEntropyLoss().backward()


def test_the_defaults_of_the_class_are_those_of_the_function():
    logits, targets = batch()
    assert ln.CrossEntropyLoss().forward(logits, targets) == ln.cross_entropy(logits, targets)
    ignoring = ln.CrossEntropyLoss(ignore_index=4, reduction="sum")
    targets = np.where(targets == -100, 0, targets)
    assert ignoring.forward(logits, targets) == ln.cross_entropy(logits, targets, ignore_index=4, reduction="sum")


def test_gradients_flow_on_through_an_output_layer():
    rng = np.random.default_rng(4)
    hidden, weight, targets = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)), rng.integers(5, size=6)
    loss = ln.CrossEntropyLoss()
    loss.forward(hidden @ weight.T, targets)
    d_logits = loss.backward()
    d_hidden, d_weight = d_logits @ weight, d_logits.T @ hidden
    for array, gradient in ((hidden, d_hidden), (weight, d_weight)):
        for place in np.ndindex(array.shape):
            kept, values = array[place], []
            for step in (1e-5, -1e-5):
                array[place] = kept + step
                values.append(ln.cross_entropy(hidden @ weight.T, targets))
            array[place] = kept
            assert abs((values[0] - values[1]) / 2e-5 - gradient[place]) < 1e-9


def test_a_training_loop_that_shifts_targets_by_one_learns_the_sentence():
    # every effort moves you forward, in the seven-word vocabulary
    token_ids = np.array([[2, 1, 4, 5, 3]])
    embedding = np.zeros((7, 7))
    loss = ln.CrossEntropyLoss()
    losses = []
    for _ in range(200):
        logits = embedding[token_ids]
        losses.append(loss.forward(logits[:, :-1], token_ids[:, 1:]))
        gradient = loss.backward()
        np.subtract.at(embedding, token_ids[:, :-1], 4.0 * gradient)
    assert_close(losses[0], np.log(7))
    assert losses[-1] < 0.02
    assert (np.diff(losses) < 0).all()
    assert embedding[token_ids[0, :-1]].argmax(-1).tolist() == token_ids[0, 1:].tolist()


def test_where_the_loss_is_infinite_there_is_no_gradient_to_check():
    assert np.isnan(ln.check_gradient(ln.cross_entropy, [[0.0, -np.inf, 1.0]], [1]))
