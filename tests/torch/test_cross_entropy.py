"""What only the PyTorch path promises: autograd twice over, torch.func, compile, autocast, devices and memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import lmloss.torch as lt
from tests import oracle
from tests.paths import assert_close

INF, NAN = float("inf"), float("nan")
DEVICES = [
    "cpu",
    *(["cuda"] if torch.cuda.is_available() else []),
    *(["mps"] if torch.backends.mps.is_available() else []),
]
FUNCTIONS = ["cross_entropy", "causal_lm_loss", "masked_lm_loss"]
CLASS_WEIGHT = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
TOKEN_WEIGHT = torch.tensor([[1.0, 0.5, 0.25], [2.0, 0.0, 1.0]], dtype=torch.float64)
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "sequence": {"reduction": "sequence"},
    "denominator": {"denominator": 3.0},
    "smoothed": {"label_smoothing": 0.1},
    "smoothed-others": {"label_smoothing": 0.1, "smoothing_over": "others"},
    "z-loss": {"z_loss": 0.1},
    "softcap": {"softcap": 3.0},
    "class-weight": {"class_weight": CLASS_WEIGHT},
    "class-weight-smoothed": {"class_weight": CLASS_WEIGHT, "label_smoothing": 0.1},
    "token-weight": {"token_weight": TOKEN_WEIGHT},
    "everything": {
        "label_smoothing": 0.2,
        "smoothing_over": "others",
        "z_loss": 0.1,
        "softcap": 4.0,
        "class_weight": CLASS_WEIGHT,
        "token_weight": TOKEN_WEIGHT,
        "reduction": "none",
    },
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
every_function = pytest.mark.parametrize("function", FUNCTIONS)


def batch(dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).to(device, dtype)
    return logits.requires_grad_(), torch.tensor([[0, 3, 1], [1, -100, 3]], device=device)


def distributions():
    generator = torch.Generator().manual_seed(6)
    return torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).softmax(-1)


def moved(options, device):
    return {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in options.items()}


# Autograd


@every_function
@every_option
def test_first_and_second_derivatives_are_those_of_the_function(function, options):
    logits, targets = batch()
    loss = getattr(lt, function)
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, **options), logits, atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, targets, **options), logits, atol=1e-7, rtol=1e-6)


@every_option
def test_derivatives_for_distributions_are_those_of_the_function(options):
    logits, targets = batch()[0], distributions()
    assert torch.autograd.gradcheck(lambda z: lt.cross_entropy(z, targets, **options), logits, atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradgradcheck(lambda z: lt.cross_entropy(z, targets, **options), logits, atol=1e-7, rtol=1e-6)


@every_option
def test_derivatives_hold_when_the_rows_are_walked_in_small_blocks(monkeypatch, options):
    import lmloss.torch._rows as rows

    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 9)
    logits, targets = batch()
    assert torch.autograd.gradcheck(lambda z: lt.cross_entropy(z, targets, **options), logits, atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradgradcheck(lambda z: lt.cross_entropy(z, targets, **options), logits, atol=1e-7, rtol=1e-6)


def test_targets_and_weights_are_constants():
    logits, _ = batch()
    soft = distributions().requires_grad_()
    weight = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    classes = torch.ones(4, dtype=torch.float64, requires_grad=True)
    loss = lt.cross_entropy(logits, soft, token_weight=weight, class_weight=classes, label_smoothing=0.1)
    gradients = torch.autograd.grad(loss, [logits, soft, weight, classes], allow_unused=True)
    assert gradients[0] is not None
    assert all(g is None or not g.any() for g in gradients[1:])


@every_function
@every_option
def test_the_gradient_with_a_graph_is_the_gradient_without_one(function, options):
    logits, targets = batch()
    loss = getattr(lt, function)(logits, targets, **options).sum()
    (plain,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (again,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (graph,) = torch.autograd.grad(loss, logits, create_graph=True)
    assert torch.equal(plain, again)
    assert_close(graph.detach(), plain)
    assert graph.requires_grad


@pytest.mark.parametrize("upstream", [2.5, -1.5, 0.0])
@every_option
def test_the_gradient_is_linear_in_what_comes_from_above(options, upstream):
    logits, targets = batch()
    loss = lt.cross_entropy(logits, targets, **options)
    scale = torch.full_like(loss, upstream) * torch.arange(1, loss.numel() + 1).view(loss.shape)
    (scaled,) = torch.autograd.grad((loss * scale).sum(), logits)
    want = torch.zeros_like(logits)
    for one, factor in zip(lt.cross_entropy(logits, targets, **options).flatten(), scale.flatten(), strict=True):
        want += factor * torch.autograd.grad(one, logits, retain_graph=True)[0]
    assert_close(scaled, want)


@pytest.mark.parametrize("scale", [1.0, 2.0**16, 2.0**-20])
def test_a_loss_scale_neither_overflows_nor_underflows_in_half(scale):
    logits = batch(torch.float16)[0].detach().requires_grad_()
    targets = batch()[1]
    (lt.cross_entropy(logits, targets, reduction="sum") * scale).backward()
    _, want = oracle.cross_entropy(logits.detach().double(), targets.numpy(), reduction="sum")
    assert_close(logits.grad.double(), torch.tensor(want * scale).half().double(), rtol=2e-3)


def test_gradients_accumulate_on_the_leaf_over_two_losses():
    logits, targets = batch()
    lt.cross_entropy(logits, targets).backward()
    once = logits.grad.clone()
    lt.cross_entropy(logits, targets).backward()
    assert torch.equal(logits.grad, 2 * once)


def test_without_grad_nothing_is_attached_and_with_nothing_to_average_it_still_is():
    logits, targets = batch()
    with torch.no_grad():
        assert not lt.cross_entropy(logits, targets).requires_grad
    assert not lt.cross_entropy(logits.detach(), targets).requires_grad
    for reduction in ("mean", "sum", "none", "sequence"):
        loss = lt.cross_entropy(logits, torch.full_like(targets, -100), reduction=reduction)
        assert loss.requires_grad
    with torch.inference_mode():
        lt.cross_entropy(logits, targets)


def test_dead_rows_stay_dead_in_the_second_derivative():
    logits, targets = batch()
    with torch.no_grad():
        logits[1, 1] = NAN
    loss = lt.cross_entropy(logits, targets, z_loss=0.1)
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad((first[0] ** 2).sum(), logits)
    assert torch.equal(first[1, 1], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(second[1, 1], torch.zeros(4, dtype=torch.float64))
    assert second.isfinite().all()


def test_masked_logits_leave_the_second_derivative_finite():
    logits, targets = batch()
    with torch.no_grad():
        logits[0, 0, 2] = -INF
    loss = lt.cross_entropy(logits, targets, label_smoothing=0.1, z_loss=0.1)
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), logits)
    assert first[0, 0, 2] == 0
    assert second[0, 0, 2] == 0
    assert second.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"label_smoothing": 0.1}, {"z_loss": 0.1}])
def test_an_impossible_target_has_one_gradient_however_it_is_taken(options):
    logits, targets = torch.tensor([[-INF, 0.5, 1.0], [0.1, -INF, 0.3]], dtype=torch.float64), torch.tensor([0, 2])

    def loss(z):
        return lt.cross_entropy(z, targets, **options)

    leaf = logits.clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(leaf), leaf)
    assert want.isfinite().all()
    assert want[0, 0] == 0
    (graph,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    assert_close(graph.detach(), want)
    assert_close(grad(loss)(logits), want)
    (inside,) = torch.autograd.grad(compiled(loss, "aot_eager")(leaf), leaf)
    assert_close(inside, want)


# PyTorch's own loss


def torch_batches():
    return st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 6))


@given(
    torch_batches(),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.booleans(),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from(["index", "distribution"]),
)
def test_the_loss_is_that_of_pytorch_where_pytorch_has_the_feature(size, smoothing, weighted, reduction, kind):
    seed, tokens, classes = size
    generator = torch.Generator().manual_seed(seed)
    ours = (torch.randn(tokens, classes, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    targets = torch.randint(classes, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < 0.3] = -100
    targets[0] = 0
    if kind == "distribution":
        targets = torch.randn(tokens, classes, generator=generator, dtype=torch.float64).softmax(-1)
    weight = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.1 if weighted else None
    options = {"label_smoothing": smoothing, "reduction": reduction}
    got = lt.cross_entropy(ours, targets, class_weight=weight, **options)
    want = F.cross_entropy(theirs, targets, weight=weight, **options)
    upstream = torch.randn(got.shape, generator=generator, dtype=torch.float64)
    (got * upstream).sum().backward()
    (want * upstream).sum().backward()
    assert_close(got.detach(), want.detach())
    assert_close(ours.grad, theirs.grad)


def test_any_ignore_index_agrees_with_pytorch():
    logits, targets = batch()
    targets = targets.clamp(min=0)
    for ignore_index in (0, 3, -7):
        ours = lt.cross_entropy(logits, targets, ignore_index=ignore_index)
        theirs = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignore_index)
        assert_close(ours.detach(), theirs.detach())


# torch.func


@every_option
def test_func_grad_is_autograd(options):
    logits, targets = batch()
    (want,) = torch.autograd.grad(lt.cross_entropy(logits, targets, **options).sum(), logits)
    got = grad(lambda z: lt.cross_entropy(z, targets, **options).sum())(logits.detach())
    assert_close(got, want)


@every_function
@every_option
def test_vmap_is_a_loop(function, options):
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(5, 2, 3, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (5, 2, 3), generator=generator)
    targets[1, 0, 1] = -100

    def loss(z, y):
        return getattr(lt, function)(z, y, **options)

    assert_close(vmap(loss)(logits, targets), torch.stack([loss(z, y) for z, y in zip(logits, targets, strict=True)]))
    assert_close(vmap(loss, in_dims=(0, None))(logits, targets[0]), torch.stack([loss(z, targets[0]) for z in logits]))
    assert_close(vmap(loss, in_dims=(None, 0))(logits[0], targets), torch.stack([loss(logits[0], y) for y in targets]))
    sideways = vmap(loss, in_dims=(3, 0))(logits.movedim(0, 3), targets)
    assert_close(sideways, vmap(loss)(logits, targets))


@every_function
@every_option
def test_vmap_of_grad_gives_one_gradient_per_example(function, options):
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(4, 2, 3, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (4, 2, 3), generator=generator)
    targets[2] = -100

    def loss(z, y):
        return getattr(lt, function)(z, y, **options).sum()

    got = vmap(grad(loss))(logits, targets)
    want = []
    for z, y in zip(logits, targets, strict=True):
        leaf = z.clone().requires_grad_()
        want.append(torch.autograd.grad(loss(leaf, y), leaf)[0])
    assert_close(got, torch.stack(want))


def test_vmap_over_distributions_is_a_loop():
    logits, targets = batch()[0].detach(), distributions()
    got = vmap(lambda z, t: lt.cross_entropy(z, t, label_smoothing=0.1))(logits, targets)
    want = [lt.cross_entropy(z, t, label_smoothing=0.1) for z, t in zip(logits, targets, strict=True)]
    assert_close(got, torch.stack(want))


def test_per_example_gradients_of_a_model_are_those_of_one_example_at_a_time():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 5).double()
    inputs, targets = torch.randn(4, 6, 3, dtype=torch.float64), torch.randint(5, (4, 6))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        return lt.causal_lm_loss(functional_call(model, parameters, (x,)), y)

    got = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs, targets)
    for i in range(4):
        model.zero_grad()
        lt.causal_lm_loss(model(inputs[i]), targets[i]).backward()
        assert_close(got["weight"][i], model.weight.grad)


def test_the_hessian_of_the_plain_loss_is_diag_p_minus_p_p():
    logits, p = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), None
    p = logits.softmax(-1)
    want = torch.diag(p) - torch.outer(p, p)
    target = torch.tensor(2)
    assert_close(hessian(lambda z: lt.cross_entropy(z, target))(logits), want)
    assert_close(jacrev(grad(lambda z: lt.cross_entropy(z, target)))(logits), want)
    assert_close(torch.autograd.functional.hessian(lambda z: lt.cross_entropy(z, target), logits), want)


def test_jacrev_of_the_losses_of_the_tokens_is_p_minus_y_on_its_own_row():
    logits, targets = batch()[0].detach(), torch.tensor([[0, 3, 1], [1, 2, 3]])
    jacobian = jacrev(lambda z: lt.cross_entropy(z, targets, reduction="none"))(logits)
    want = logits.softmax(-1) - F.one_hot(targets, 4)
    for i, j in np.ndindex(2, 3):
        expected = torch.zeros_like(logits)
        expected[i, j] = want[i, j]
        assert_close(jacobian[i, j], expected)


def test_batched_upstream_gradients_give_the_jacobian():
    logits, targets = batch()

    def losses(z):
        return lt.cross_entropy(z, targets, reduction="none")

    want = torch.autograd.functional.jacobian(losses, logits)
    assert_close(torch.autograd.functional.jacobian(losses, logits, vectorize=True), want)


@every_option
def test_forward_mode_gives_the_directional_derivative(options):
    logits, targets = batch()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(10), dtype=torch.float64)

    def loss(z):
        return lt.cross_entropy(z, targets, **options).sum()

    (gradient,) = torch.autograd.grad(loss(logits), logits)
    _, slope = jvp(loss, (logits.detach(),), (direction,))
    assert_close(slope, (gradient * direction).sum())


def test_vmap_in_vmap_in_grad_is_two_loops():
    logits, targets = batch()[0].detach(), batch()[1]
    got = vmap(vmap(grad(lt.cross_entropy)))(logits, targets)
    (want,) = torch.autograd.grad(lt.cross_entropy(leaf := logits.requires_grad_(), targets, reduction="sum"), leaf)
    assert_close(got, want)


def test_values_are_not_read_under_transforms():
    logits, bad = batch()[0].detach(), torch.full((2, 3, 4), 0.5, dtype=torch.float64)
    with pytest.raises(ValueError, match="targets"):
        lt.cross_entropy(logits, bad)
    assert grad(lambda z: lt.cross_entropy(z, bad))(logits).isfinite().all()
    assert vmap(lt.cross_entropy)(logits, bad).isfinite().all()


# torch.compile


def compiled(function, backend):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def assert_compiled_equals_eager(function, backend, logits, targets, options):
    loss = getattr(lt, function)
    eager = loss(logits, targets, **options)
    (want,) = torch.autograd.grad(eager.sum(), logits)
    value = compiled(lambda z, y: loss(z, y, **options), backend)(logits, targets)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert_close(value.detach(), eager.detach())
    assert_close(gradient, want)


@every_option
def test_the_loss_compiles_into_one_graph_with_equal_value_and_gradient(options):
    assert_compiled_equals_eager("cross_entropy", "aot_eager", *batch(), options)


@pytest.mark.parametrize("options", ["plain", "sequence", "everything"])
@pytest.mark.parametrize("function", ["causal_lm_loss", "masked_lm_loss"])
def test_the_language_model_losses_compile_into_one_graph(function, options):
    assert_compiled_equals_eager(function, "aot_eager", *batch(), OPTIONS[options])


def test_the_loss_of_distributions_compiles_into_one_graph():
    options = {"label_smoothing": 0.1, "class_weight": CLASS_WEIGHT}
    assert_compiled_equals_eager("cross_entropy", "aot_eager", batch()[0], distributions(), options)


def has_compiler():
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return False
    return True


@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
def test_the_loss_compiles_with_inductor():
    options = {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 5.0}
    assert_compiled_equals_eager("causal_lm_loss", "inductor", *batch(), options)


def test_dead_rows_are_dead_in_compiled_code():
    logits, targets = batch()
    with torch.no_grad():
        logits[1, 1] = NAN
        logits[0, 0, 2] = -INF
    assert_compiled_equals_eager("cross_entropy", "aot_eager", logits, targets, {"label_smoothing": 0.1})
    nothing = torch.full_like(targets, -100)
    assert_compiled_equals_eager("cross_entropy", "aot_eager", logits, nothing, {"z_loss": 0.1})


def test_one_compiled_loss_serves_several_lengths():
    torch._dynamo.reset()
    loss = torch.compile(lt.causal_lm_loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (3, 5, 8):
        logits, labels = torch.randn(2, length, 6, dtype=torch.float64), torch.randint(6, (2, length))
        assert_close(loss(logits, labels), lt.causal_lm_loss(logits, labels))


def test_one_compiled_loss_serves_several_values_of_an_option():
    loss = compiled(lt.cross_entropy, "aot_eager")
    logits, targets = batch()
    for epsilon in (0.1, 0.2, 0.3):
        want = lt.cross_entropy(logits, targets, label_smoothing=epsilon, z_loss=epsilon)
        assert_close(loss(logits, targets, label_smoothing=epsilon, z_loss=epsilon).detach(), want.detach())


def test_a_training_step_compiles_whole():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 6).double()
    hidden, targets = torch.randn(2, 5, 4, dtype=torch.float64), torch.randint(6, (2, 5))
    compiled(lambda: lt.causal_lm_loss(model(hidden), targets), "aot_eager")().backward()
    got = model.weight.grad.clone()
    model.zero_grad()
    lt.causal_lm_loss(model(hidden), targets).backward()
    assert_close(got, model.weight.grad)


# Devices and dtypes


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@every_function
@every_option
def test_every_device_gives_the_value_and_gradient_of_exact_arithmetic(device, dtype, function, options):
    logits, targets = batch(torch.float64)
    logits = logits.detach().to(device, dtype).requires_grad_()
    targets = targets.to(device)
    exact = logits.detach().cpu().double()
    options32 = {n: v.float() if isinstance(v, torch.Tensor) else v for n, v in moved(options, "cpu").items()}
    loss = getattr(lt, function)(logits, targets, **moved(options32, device))
    assert loss.device.type == device
    assert loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.dtype == dtype
    assert gradient.device.type == device
    leaf = exact.requires_grad_()
    want = getattr(lt, function)(leaf, targets.cpu(), **options)
    (want_gradient,) = torch.autograd.grad(want.sum(), leaf)
    epsilon = torch.finfo(dtype).eps
    assert_close(loss.detach().cpu(), want.detach(), rtol=1e-6)
    assert_close(gradient.cpu().double(), want_gradient, rtol=max(epsilon, 1e-6))


@every_function
@every_option
def test_on_the_meta_device_the_loss_has_a_shape_and_a_gradient(function, options):
    logits, targets = batch()
    want = getattr(lt, function)(logits, targets, **options)
    leaf = torch.empty_like(logits, device="meta", requires_grad=True)
    loss = getattr(lt, function)(leaf, targets.to("meta"), **moved(options, "meta"))
    assert loss.device.type == "meta"
    assert loss.shape == want.shape
    assert loss.dtype == want.dtype
    loss.sum().backward()
    assert leaf.grad.shape == logits.shape
    assert leaf.grad.device.type == "meta"


@pytest.mark.parametrize("device", DEVICES)
@every_function
def test_under_autocast_the_loss_is_float32_and_the_leaves_keep_their_dtype(device, function):
    torch.manual_seed(1)
    head = torch.nn.Linear(8, 11).to(device)
    hidden, targets = torch.randn(2, 5, 8, device=device), torch.randint(11, (2, 5), device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        logits = head(hidden)
        loss = getattr(lt, function)(logits, targets)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert head.weight.grad.dtype == torch.float32
    outside = getattr(lt, function)(logits.detach().double(), targets)
    assert_close(loss.detach().cpu(), outside.cpu(), rtol=1e-6)


@pytest.mark.parametrize("device", [d for d in DEVICES if d != "cpu"])
def test_on_an_accelerator_values_are_read_only_when_asked(device):
    logits, targets = torch.zeros(2, 3, device=device), torch.full((2, 3), 0.5, device=device)
    lt.cross_entropy(logits, targets)
    with pytest.raises(ValueError, match="targets"):
        lt.cross_entropy(logits, targets, validate=True)


def test_logits_and_targets_on_different_devices_are_refused():
    logits, targets = batch()
    with pytest.raises((ValueError, TypeError), match="targets") as caught:
        lt.cross_entropy(logits.detach().to("meta"), targets)
    assert "meta" in str(caught.value)
    assert "cpu" in str(caught.value)


@pytest.mark.parametrize("name", ["logits", "targets", "class_weight", "token_weight"])
@pytest.mark.parametrize("kind", [list, np.asarray])
def test_what_is_no_tensor_is_refused_by_name(name, kind):
    arguments = {
        "logits": torch.zeros(2, 2),
        "targets": torch.tensor([0, 1]),
        "class_weight": torch.ones(2),
        "token_weight": torch.ones(2),
    }
    arguments[name] = kind(arguments[name].numpy())
    with pytest.raises(TypeError, match=name):
        lt.cross_entropy(arguments.pop("logits"), arguments.pop("targets"), **arguments)


# Layout and memory


@pytest.mark.parametrize("shift", ["transposed", "sliced", "expanded"])
@every_function
def test_logits_and_targets_need_not_be_contiguous(function, shift):
    generator = torch.Generator().manual_seed(9)
    if shift == "transposed":
        logits = torch.randn(6, 4, 5, generator=generator, dtype=torch.float64).permute(1, 0, 2)
        targets = torch.randint(5, (6, 4), generator=generator).t()
    elif shift == "sliced":
        logits = torch.randn(4, 7, 9, generator=generator, dtype=torch.float64)[:, :-1, 1:9:2][..., :4]
        targets = torch.randint(4, (4, 12), generator=generator)[:, ::2]
    else:
        logits = torch.randn(1, 6, 5, generator=generator, dtype=torch.float64).expand(4, 6, 5)
        targets = torch.randint(5, (6,), generator=generator).expand(4, 6)
    leaf = logits.detach().requires_grad_()
    plain = logits.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    got, want = getattr(lt, function)(leaf, targets), getattr(lt, function)(plain, targets.contiguous())
    assert_close(got.detach(), want.detach())
    assert_close(torch.autograd.grad(got, leaf)[0], torch.autograd.grad(want, plain)[0])


@every_function
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-4}], ids=["plain", "smoothed"])
def test_nothing_of_the_size_of_the_logits_is_saved_but_the_logits(function, options):
    logits = torch.randn(2, 64, 1000, requires_grad=True)
    targets = torch.randint(1000, (2, 64))
    others = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr():
            others[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        getattr(lt, function)(logits, targets, **options).backward()
    assert sum(others.values()) < logits.untyped_storage().nbytes() / 10


MEMORY = """
import resource, sys, torch, lmloss.torch as lt
torch.set_num_threads(1)
function, backward = getattr(lt, sys.argv[1]), sys.argv[2] == "backward"
small = torch.randn(2, 3, 50, requires_grad=True)
function(small, torch.randint(50, (2, 3)), **eval(sys.argv[3])).backward()
logits = torch.randn(2, 160, 50_000, requires_grad=backward)
targets = torch.randint(50_000, (2, 160))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss = function(logits, targets, **eval(sys.argv[3]))
if backward:
    loss.backward()
unit = 1 if sys.platform == "darwin" else 1024
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit / logits.nbytes)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is read with resource")
@pytest.mark.parametrize(
    ("function", "step", "options", "gradients"),
    [
        ("causal_lm_loss", "forward", "{'label_smoothing': 0.1, 'z_loss': 1e-4}", 0.4),
        ("cross_entropy", "backward", "{}", 1.4),
        ("causal_lm_loss", "backward", "{'label_smoothing': 0.1, 'z_loss': 1e-4}", 1.4),
    ],
)
def test_fifty_thousand_classes_stay_within_the_memory_of_one_gradient(function, step, options, gradients):
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, function, step, options], capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < gradients


class Ledger(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.operations.add(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (torch.tensor([0, 7]), {}),
        (torch.tensor([0, 1]), {"label_smoothing": 2.0}),
        (torch.tensor([0, 1]), {"class_weight": torch.tensor([1.0, -1.0, 1.0])}),
        (torch.tensor([0, 1]), {"token_weight": torch.tensor([1.0, -1.0])}),
        (torch.tensor([0, 1]), {"denominator": 1.0, "reduction": "sum"}),
        (torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.4, 0.0]]), {}),
    ],
)
def test_a_bad_argument_is_refused_before_any_arithmetic(targets, options):
    with Ledger() as ledger, pytest.raises(ValueError, match=r"targets|_smoothing|_weight|denominator"):
        # Under a dispatch mode, as under any tracing, values are read only when asked
        lt.cross_entropy(torch.zeros(2, 3), targets, validate=True, **options)
    assert not ledger.operations & {"exp", "exp_", "log", "log_", "logsumexp", "_log_softmax", "_softmax", "tanh"}


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 5.0}])
@every_function
def test_the_version_of_the_inputs_does_not_change(function, options):
    logits, targets = batch()
    before, version = logits.detach().clone(), logits._version
    getattr(lt, function)(logits, targets, **options).backward()
    assert logits._version == version
    assert torch.equal(logits.detach(), before)


# A training loop


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_loop_that_shifts_targets_by_one_learns_the_sentence(device):
    torch.manual_seed(0)
    # every effort moves you forward, in the seven-word vocabulary
    token_ids = torch.tensor([[2, 1, 4, 5, 3]], device=device)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 16), torch.nn.Linear(16, 7)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        logits = model(token_ids)
        loss = lt.cross_entropy(logits[:, :-1], token_ids[:, 1:])
        assert_close(lt.causal_lm_loss(logits, token_ids).detach().cpu(), loss.detach().cpu(), rtol=1e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - np.log(7)) < 1
    assert losses[-1] < 0.02
    assert model(token_ids)[0, :-1].argmax(-1).tolist() == token_ids[0, 1:].tolist()
