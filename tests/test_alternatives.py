"""Focal, hinge and Brier: values from closed forms and 50 digits, gradients, and what they share with cross-entropy."""

import itertools

import mpmath
import numpy as np
import pytest
import torch

import lmloss.numpy as ln
import lmloss.torch as lt
from tests.paths import assert_close

INF, NAN = np.inf, np.nan

LOSSES = [
    ("focal_loss", {}),
    ("focal_loss", {"gamma": 0.0}),
    ("focal_loss", {"gamma": 0.5, "alpha": 0.25}),
    ("focal_loss", {"gamma": 3.0, "alpha": np.array([0.1, 0.0, 1.0, 0.5, 0.25])}),
    ("hinge_loss", {}),
    ("hinge_loss", {"margin": 0.0}),
    ("hinge_loss", {"margin": 2.5}),
    ("brier_loss", {}),
]
every_loss = pytest.mark.parametrize(
    ("function", "options"), LOSSES, ids=[f"{f}-{'-'.join(map(str, o))}" for f, o in LOSSES]
)


def batch(seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, 4, 5)) * scale, rng.integers(5, size=(3, 4))


def exact(function, row, y, gamma=2.0, alpha=1.0, margin=1.0):
    """One token's loss at 50 digits."""
    with mpmath.workdps(50):
        z = [mpmath.mpf(float(v)) for v in row]
        if function == "hinge_loss":
            return max(mpmath.mpf(0), margin + max(v for j, v in enumerate(z) if j != y) - z[y])
        total = mpmath.fsum(mpmath.exp(v) for v in z)
        q = [mpmath.exp(v) / total for v in z]
        if function == "brier_loss":
            return mpmath.fsum((p - (j == y)) ** 2 for j, p in enumerate(q))
        weight = alpha[y] if np.ndim(alpha) else alpha
        return -mpmath.mpf(float(weight)) * (1 - q[y]) ** gamma * mpmath.log(q[y])


def torch_options(options):
    return {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}


@every_loss
@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_each_token_costs_what_fifty_digits_say(path, function, options, scale):
    logits, targets = batch(scale=scale)
    losses = path.to_numpy(path.call(function, logits, targets, reduction="none", **options))
    for index in np.ndindex(targets.shape):
        want = float(exact(function, logits[index], targets[index], **options))
        assert abs(losses[index] - want) <= 1e-12 * abs(want) + 1e-15


@every_loss
@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_the_paths_agree_in_value_and_gradient(function, options, scale):
    logits, targets = batch(1, scale)
    targets[0, 1] = -100
    logits[0, 1] = NAN
    weights = np.random.default_rng(2).random((3, 4))
    for reduction, denominator in (("mean", None), ("sum", None), ("mean", 7.0)):
        common = {"reduction": reduction, "denominator": denominator}
        value, gradient = ln.value_and_grad(getattr(ln, function))(
            logits, targets, token_weight=weights, **options, **common
        )
        z = torch.tensor(logits, requires_grad=True)
        loss = getattr(lt, function)(
            z, torch.tensor(targets), token_weight=torch.tensor(weights), **torch_options(options), **common
        )
        loss.backward()
        assert_close(value, loss.item(), rtol=1e-12)
        assert_close(gradient, z.grad.numpy(), rtol=1e-11)
        assert not gradient[0, 1].any(), "an ignored token has no gradient, whatever stands in its row"


@every_loss
def test_the_closed_form_gradient_is_the_slope(function, options):
    logits, targets = batch(3)
    assert ln.check_gradient(getattr(ln, function), logits, targets, **options) < 1e-8


@every_loss
def test_autograd_is_right_once_twice_and_forwards(function, options):
    logits, targets = batch(4)
    z, y = torch.tensor(logits[0], requires_grad=True), torch.tensor(targets[0])

    def loss(z):
        return getattr(lt, function)(z, y, reduction="none", **torch_options(options))

    assert torch.autograd.gradcheck(loss, (z,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, (z,))


@every_loss
def test_transforms_compilers_and_the_meta_device_see_the_same_loss(function, options):
    logits, targets = (torch.tensor(a) for a in batch(5))
    options = torch_options(options)

    def loss(z, y):
        return getattr(lt, function)(z, y, **options)

    each = torch.stack([loss(z, y) for z, y in zip(logits, targets, strict=True)])
    assert_close(torch.func.vmap(loss)(logits, targets), each)
    assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(logits, targets), loss(logits, targets))
    on_meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    assert getattr(lt, function)(logits.to("meta"), targets.to("meta"), **on_meta).shape == ()


def test_at_nine_tenths_focal_counts_a_hundred_times_less(path):
    logits = np.log([[0.9, 0.1]])
    plain, focal = (path.to_numpy(path.call(f, logits, np.array([0]))) for f in ("cross_entropy", "focal_loss"))
    assert_close(plain / focal, 100.0, rtol=1e-12)


def test_focal_without_focus_is_cross_entropy(path):
    logits, targets = batch(6)
    plain, plain_gradient = path.value_and_grad("cross_entropy", logits, targets)
    focal, focal_gradient = path.value_and_grad("focal_loss", logits, targets, gamma=0.0)
    assert_close(path.to_numpy(focal), path.to_numpy(plain))
    assert_close(path.to_numpy(focal_gradient), path.to_numpy(plain_gradient))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_certain_or_impossible_target_leaves_no_nan(path, gamma):
    logits = np.array([[800.0, 0.0, -INF], [-INF, 0.0, 0.0]])
    value, gradient = path.value_and_grad("focal_loss", logits, np.array([0, 0]), gamma=gamma, reduction="sum")
    assert path.to_numpy(value) == INF
    assert_close(path.to_numpy(gradient), np.array([[0, 0, 0], [0, 0.5, 0.5]]))


def test_the_multi_class_hinge_agrees_with_pytorch_where_there_are_two_classes(path):
    logits, targets = batch(7)
    logits, targets = logits[..., :2].reshape(-1, 2), targets.reshape(-1) % 2
    want = torch.nn.functional.multi_margin_loss(torch.tensor(logits), torch.tensor(targets)) * 2
    assert_close(path.to_numpy(path.call("hinge_loss", logits, targets)), want.item())


def test_where_rivals_are_level_the_first_takes_the_gradient(path):
    _, gradient = path.value_and_grad("hinge_loss", np.array([[0.0, 1.0, 1.0]]), np.array([0]))
    assert np.array_equal(path.to_numpy(gradient), [[-1, 1, 0]])


def test_a_masked_class_is_no_rival_and_a_masked_target_has_no_slope(path):
    logits = np.array([[0.0, -INF, -INF], [-INF, 0.0, -1.0]])
    losses = path.to_numpy(path.call("hinge_loss", logits, np.array([0, 0]), reduction="none"))
    assert np.array_equal(losses, [0, INF])
    _, gradient = path.value_and_grad("hinge_loss", logits, np.array([0, 0]), reduction="sum")
    assert np.array_equal(path.to_numpy(gradient), [[0, 0, 0], [0, 1, 0]])


def test_the_brier_loss_is_strictly_proper(path):
    truth = np.array([0.5, 0.3, 0.2])
    classes = np.arange(3)

    def expected(model):
        losses = path.call("brier_loss", np.log(np.tile(model, (3, 1))), classes, reduction="none")
        return truth @ path.to_numpy(losses)

    best = expected(truth)
    for model in np.random.default_rng(8).dirichlet(np.ones(3), size=50):
        assert abs(expected(model) - best - ((model - truth) ** 2).sum()) < 1e-14


def test_the_brier_loss_lies_between_zero_and_two(path):
    logits = np.array([[1000.0, 0.0, -INF], [0.0, 1000.0, 0.0]])
    losses = path.to_numpy(path.call("brier_loss", logits, np.array([0, 0]), reduction="none"))
    assert_close(losses, [0.0, 2.0])


@pytest.mark.parametrize("function", ["focal_loss", "hinge_loss", "brier_loss"])
@pytest.mark.parametrize("bad", [[NAN, 0.0, 1.0], [INF, 0.0, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF]])
def test_a_row_that_has_no_distribution_is_nan_and_alone_in_it(path, function, bad):
    logits = np.array([[0.0, 1.0, 2.0], bad])
    losses = path.to_numpy(path.call(function, logits, np.array([0, 0]), reduction="none"))
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])
    _, gradient = path.value_and_grad(function, logits, np.array([0, 0]), reduction="sum")
    assert np.isfinite(path.to_numpy(gradient)[0]).all()


@pytest.mark.parametrize("function", ["focal_loss", "hinge_loss", "brier_loss"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "sequence"])
def test_with_nothing_to_average_the_loss_is_zero(path, function, reduction):
    value = path.call(function, np.full((2, 3, 4), NAN), np.full((2, 3), -100), reduction=reduction)
    assert np.array_equal(path.to_numpy(value), np.zeros({"none": (2, 3), "sequence": (2,)}.get(reduction, ())))


@pytest.mark.parametrize("function", ["focal_loss", "hinge_loss", "brier_loss"])
def test_blocks_of_any_size_give_the_same_result(path, function, monkeypatch):
    logits, targets = batch(9)
    whole = path.value_and_grad(function, logits, targets)
    module = {"numpy": "lmloss.numpy._rows", "torch": "lmloss.torch._rows"}[path.name]
    monkeypatch.setattr(f"{module}.BLOCK_ELEMENTS", 7)
    for a, b in zip(path.value_and_grad(function, logits, targets), whole, strict=True):
        assert_close(path.to_numpy(a), path.to_numpy(b), rtol=1e-13)


@pytest.mark.parametrize("function", ["focal_loss", "hinge_loss", "brier_loss"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_narrow_logits_are_computed_in_float32_and_keep_their_gradients_dtype(path, function, dtype):
    if dtype not in path.dtypes:
        return
    logits, targets = batch(10)
    logits = path.array(logits + 1000 * (dtype == "float32"), dtype)
    value, gradient = path.value_and_grad(function, logits, targets)
    assert path.dtype_name(value) == "float32"
    assert path.dtype_name(gradient) == dtype
    rows = path.to_numpy(logits).reshape(-1, 5)
    want = np.mean([float(exact(function, row, y)) for row, y in zip(rows, targets.flat, strict=True)])
    assert_close(path.to_numpy(value), want, rtol=1e-5)


REFUSED = [
    ("focal_loss", {"gamma": -1.0}, "gamma"),
    ("focal_loss", {"alpha": 1.5}, "alpha"),
    ("focal_loss", {"alpha": np.array([0.1, 0.2, 1.5, 0.3, 0.4])}, r"alpha\[2\] = 1.5"),
    ("focal_loss", {"alpha": np.array([0.1, 0.2])}, "alpha has shape"),
    ("hinge_loss", {"margin": -0.5}, "margin"),
    *((f, {"reduction": "sum", "denominator": 3.0}, "denominator") for f in ("focal_loss", "hinge_loss", "brier_loss")),
    *((f, {"reduction": "average"}, "average") for f in ("focal_loss", "hinge_loss", "brier_loss")),
    *((f, {"token_weight": -np.ones((3, 4))}, r"token_weight\[0, 0\]") for f in ("focal_loss", "brier_loss")),
]


@pytest.mark.parametrize(("function", "options", "words"), REFUSED)
def test_a_bad_argument_is_refused_by_name(path, function, options, words):
    logits, targets = batch()
    with pytest.raises(ValueError, match=words):
        path.call(function, logits, targets, **options)


@pytest.mark.parametrize("function", ["focal_loss", "hinge_loss", "brier_loss"])
def test_targets_that_are_no_classes_are_refused(path, function):
    logits, targets = batch()
    with pytest.raises(ValueError, match=r"targets\[0, 0\] = 9 is outside \[0, 5\)"):
        path.call(function, logits, np.full_like(targets, 9))
    with pytest.raises(TypeError, match="classes, not distributions"):
        path.call(function, logits, np.full(logits.shape, 0.2))


def test_a_hinge_needs_a_rival(path):
    with pytest.raises(ValueError, match="at least 2"):
        path.call("hinge_loss", np.zeros((2, 1)), np.zeros(2, int))


def test_each_loss_falls_as_the_targets_logit_rises(path):
    for function, rise in itertools.product(["focal_loss", "hinge_loss", "brier_loss"], [0.1, 1.0]):
        before, after = (
            path.to_numpy(path.call(function, np.array([[up, 0.5, 0.2]]), np.array([0]))) for up in (0.0, rise)
        )
        assert after < before


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_target_masked_with_the_lowest_float_has_one_gradient_however_it_is_taken(gamma):
    logits = torch.tensor([[0.0, torch.finfo(torch.float32).min, 1.0]])
    z = logits.clone().requires_grad_()
    loss = lt.focal_loss(z, torch.tensor([1]), gamma=gamma)
    (plain,) = torch.autograd.grad(loss, z, retain_graph=True)
    (graph,) = torch.autograd.grad(loss, z, create_graph=True)
    transformed = torch.func.grad(lambda a: lt.focal_loss(a, torch.tensor([1]), gamma=gamma))(logits)
    want = torch.tensor([[1, -np.e - 1, np.e]], dtype=torch.float32) / (1 + np.e)
    for got in (plain, graph.detach(), transformed):
        assert_close(got, want, rtol=1e-6)
