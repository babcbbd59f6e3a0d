"""What every dense loss on logits lives through: the fast path, its second derivative, layouts, transforms, compilers.

A fast path has bugs where nobody looks: each promise is held for each loss against the same loss in the plain case.
"""

from functools import partial

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, jacrev, vmap

import lmloss.numpy as ln
import lmloss.torch as lt
from tests.paths import assert_close

NAN, INF = float("nan"), float("inf")
PER_CLASS = torch.tensor([1.0, 0.5, 0.25, 0.0, 0.75], dtype=torch.float64)
LOSSES = {
    "cross_entropy": ("cross_entropy", {}),
    "cross_entropy, smoothed": ("cross_entropy", {"label_smoothing": 0.1}),
    "cross_entropy, smoothed over others": ("cross_entropy", {"label_smoothing": 0.1, "smoothing_over": "others"}),
    "cross_entropy, z-loss": ("cross_entropy", {"z_loss": 0.1}),
    "cross_entropy, softcap": ("cross_entropy", {"softcap": 3.0}),
    "cross_entropy, class weights": ("cross_entropy", {"class_weight": PER_CLASS}),
    "cross_entropy, everything": (
        "cross_entropy",
        {"class_weight": PER_CLASS, "label_smoothing": 0.2, "z_loss": 0.1, "softcap": 4.0, "denominator": 7.0},
    ),
    "causal_lm_loss": ("causal_lm_loss", {}),
    "masked_lm_loss": ("masked_lm_loss", {"label_smoothing": 0.1, "z_loss": 0.1}),
    "distillation_loss, forward KL": ("distillation_loss", {}),
    "distillation_loss, reverse KL": ("distillation_loss", {"divergence": "reverse_kl", "alpha": 0.2}),
    "distillation_loss, JSD": ("distillation_loss", {"divergence": "jsd", "beta": 0.3, "temperature": 3.0}),
    "focal_loss": ("focal_loss", {}),
    "focal_loss, alpha": ("focal_loss", {"gamma": 0.5, "alpha": PER_CLASS}),
    "hinge_loss": ("hinge_loss", {}),
    "brier_loss": ("brier_loss", {}),
}
every_loss = pytest.mark.parametrize("case", LOSSES.values(), ids=LOSSES)
IGNORED = (1, 2)
UNVALIDATED = {"focal_loss", "hinge_loss", "brier_loss"}  # they have no `validate`


def batch(case, dtype=torch.float64, classes=5, seed=0):
    """Logits, the constants after them, and the function of logits alone; one token is ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(2, 4, classes, generator=generator, dtype=torch.float64)).to(dtype)
    teacher = torch.randn(2, 4, classes, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(classes, (2, 4), generator=generator)
    targets[IGNORED] = -100
    others = (teacher, targets) if case[0] == "distillation_loss" else (targets,)
    return logits, others, lambda z, *rest, **more: getattr(lt, case[0])(z, *(rest or others), **{**case[1], **more})


def slope(loss, leaf, create_graph=False, upstream=None):
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf, upstream, create_graph=create_graph)
    return gradient


@every_loss
def test_first_and_second_derivatives_are_those_of_differences(case):
    logits, _, loss = batch(case)
    leaf = logits[:, :3].requires_grad_()
    others = tuple(o[:, :3] for o in batch(case)[1])
    options = {} if "denominator" in case[1] else {"reduction": "none"}

    def function(z):
        return loss(z, *others, **options)

    assert torch.autograd.gradcheck(function, leaf, atol=1e-7, rtol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaf, atol=1e-7, rtol=1e-6, fast_mode=True)


@every_loss
def test_backward_may_be_repeated_and_differentiated_and_gives_the_same(case):
    logits, _, loss = batch(case)
    leaf = logits.requires_grad_()
    value = loss(leaf)
    value.backward(retain_graph=True)
    once = leaf.grad.clone()
    value.backward(retain_graph=True)
    assert torch.equal(leaf.grad, 2 * once)
    with_graph = slope(loss, leaf, create_graph=True)
    assert_close(with_graph.detach(), once)
    (second,) = torch.autograd.grad(with_graph.square().sum(), leaf)
    assert second.isfinite().all()
    value.backward()
    assert torch.equal(leaf.grad, 3 * once)


@every_loss
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "reversed classes"])
def test_the_layout_of_the_inputs_does_not_matter(case, layout):
    logits, others, loss = batch(case)

    def laid_out(tensor, is_logits):
        if layout == "transposed":
            return tensor.transpose(0, 1).contiguous().transpose(0, 1)
        if layout == "strided":
            wide = torch.stack((tensor, tensor + 1), -1)
            return wide.flatten(-2)[..., ::2]
        if layout == "expanded":
            return tensor[:1].expand(tensor.shape)
        return tensor.movedim(-1, 0).contiguous().movedim(0, -1) if is_logits else tensor

    odd = laid_out(logits, True), *(laid_out(o, o.ndim == 3) for o in others)
    plain = tuple(tensor.contiguous().clone() for tensor in odd)
    assert not odd[0].is_contiguous()
    values, slopes = [], []
    for z, *rest in (odd, plain):
        leaf = z.detach().requires_grad_()
        values.append(loss(leaf, *rest).detach())
        slopes.append(slope(lambda a, rest=rest: loss(a, *rest), leaf))
    assert torch.equal(*values)
    assert_close(slopes[0], slopes[1], rtol=1e-15)


@every_loss
@pytest.mark.parametrize("upstream", ["zero-stride", "strided", "partly zero", "negative"])
def test_what_comes_from_above_may_have_any_layout_and_sign(case, upstream):
    if "denominator" in case[1]:
        case = case[0], {k: v for k, v in case[1].items() if k != "denominator"}
    logits, _, loss = batch(case)
    leaf = logits.requires_grad_()
    shape = loss(leaf, reduction="none").shape
    given = {
        "zero-stride": torch.tensor(0.7, dtype=torch.float64).expand(shape),
        "strided": torch.linspace(0.1, 2, 2 * shape.numel(), dtype=torch.float64)[::2].view(shape),
        "partly zero": torch.linspace(-1, 1, shape.numel(), dtype=torch.float64).clamp(min=0).view(shape),
        "negative": -torch.linspace(0.1, 2, shape.numel(), dtype=torch.float64).view(shape),
    }[upstream]
    got = slope(lambda z: loss(z, reduction="none"), leaf, upstream=given)
    want = torch.zeros_like(logits)
    for row, factor in zip(loss(leaf, reduction="none").flatten(), given.flatten(), strict=True):
        want += factor * torch.autograd.grad(row, leaf, retain_graph=True)[0]
    assert_close(got, want, rtol=1e-13)


@every_loss
def test_an_ignored_row_costs_nothing_whatever_stands_in_it_on_every_way(case):
    logits, others, loss = batch(case)
    dead = (1, 1) if case[0] == "causal_lm_loss" else IGNORED  # position t is scored on label t + 1
    unchecked = {} if case[0] in UNVALIDATED else {"validate": False}
    want = slope(loss, logits.clone().requires_grad_())
    for filling in (NAN, INF, -INF):
        poisoned = logits.clone()
        poisoned[dead] = filling
        rest = others
        if case[0] == "distillation_loss":
            rest = (
                others[0].index_put(tuple(map(torch.tensor, dead)), torch.tensor(filling, dtype=torch.float64)),
                others[1],
            )

        def function(z, rest=rest, **more):
            return loss(z, *rest, **more)

        leaf = poisoned.requires_grad_()
        ways = {
            "fast": slope(function, leaf),
            "with a graph": slope(function, leaf, create_graph=True).detach(),
            "transformed": grad(function)(poisoned.detach()),
            "unchecked": slope(partial(function, **unchecked), leaf),
        }
        if np.isnan(filling):
            torch._dynamo.reset()
            ways["compiled whole"] = slope(torch.compile(function, fullgraph=True, backend="aot_eager"), leaf)
        for way, got in ways.items():
            assert not got[dead].any(), way
            assert_close(got, want)


@every_loss
def test_a_masked_class_has_no_gradient_and_spoils_none(case):
    logits, others, loss = batch(case)
    targets = others[-1]
    hidden = (0, 1, (int(targets[0, 2 if case[0] == "causal_lm_loss" else 1]) + 1) % 5)
    logits[hidden] = -INF
    if case[0] == "distillation_loss":
        others[0][hidden] = -INF
    leaf = logits.requires_grad_()
    got = slope(loss, leaf, create_graph=True)
    assert_close(got.detach(), slope(loss, leaf))
    assert got.isfinite().all()
    assert got[hidden] == 0
    (second,) = torch.autograd.grad(got.square().sum(), leaf)
    assert second.isfinite().all()
    assert second[hidden] == 0


@every_loss
def test_function_transforms_agree_with_autograd(case):
    logits, others, loss = batch(case)
    leaf = logits.clone().requires_grad_()
    want = slope(loss, leaf)
    assert_close(grad(loss)(logits), want)
    assert_close(jacrev(loss)(logits), want)
    each = [loss(z, *rest) for z, *rest in zip(logits, *others, strict=True)]
    assert_close(vmap(loss)(logits, *others), torch.stack(each))
    gradients = [
        slope(lambda a, rest=rest: loss(a, *rest), z.clone().requires_grad_())
        for z, *rest in zip(logits, *others, strict=True)
    ]
    assert_close(vmap(grad(loss))(logits, *others), torch.stack(gradients))
    model = torch.nn.Linear(5, 5).double()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    got = grad(lambda w: loss(functional_call(model, w, (logits,))))(weights)
    loss(model(logits)).backward()
    assert_close(got["weight"], model.weight.grad)


@every_loss
def test_under_autocast_the_loss_is_float32_and_the_leaves_keep_their_dtype(case):
    logits, others, loss = batch(case, torch.float32)
    head = torch.nn.Linear(5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = head(logits)
        value = loss(outputs, *others)
    assert outputs.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    value.backward()
    assert head.weight.grad.dtype == torch.float32
    wide = tuple(o.double() if o.is_floating_point() else o for o in others)
    assert_close(value.detach(), loss(outputs.detach().double(), *wide), rtol=1e-6)


@every_loss
def test_where_there_are_no_values_there_are_shapes_and_gradients(case):
    logits, others, loss = batch(case)
    options = {k: v.to("meta") for k, v in case[1].items() if torch.is_tensor(v)}
    leaf = logits.to("meta").requires_grad_()
    value = loss(leaf, *(o.to("meta") for o in others), **options)
    value.backward()
    assert (value.shape, value.dtype, leaf.grad.device.type) == ((), torch.float64, "meta")


@every_loss
def test_fifty_thousand_classes_in_float32_give_the_numbers_of_the_numpy_path(case):
    if any(torch.is_tensor(v) for v in case[1].values()):
        classes = torch.linspace(0, 1, 50_257, dtype=torch.float64)
        case = case[0], {k: classes if torch.is_tensor(v) else v for k, v in case[1].items()}
    logits, others, loss = batch(case, torch.float32, classes=50_257)
    leaf = logits.requires_grad_()
    value, gradient = loss(leaf).detach(), slope(loss, leaf)
    plain = [a.double().numpy() if a.is_floating_point() else a.numpy() for a in (logits.detach(), *others)]
    options = {k: v.numpy() if torch.is_tensor(v) else v for k, v in case[1].items()}
    want, want_gradient = ln.value_and_grad(getattr(ln, case[0]))(*plain, **options)
    assert (value.dtype, gradient.dtype) == (torch.float32, torch.float32)
    assert_close(value, want, rtol=2**-24)
    assert_close(gradient, want_gradient, rtol=2**-23)
    assert not gradient[(1, 1) if case[0] == "causal_lm_loss" else IGNORED].any()


# Where the formula for compilers, transforms and higher derivatives could go its own way

DISTILLATIONS = {name: case for name, case in LOSSES.items() if case[0] == "distillation_loss"}
every_divergence = pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])


def every_way(function, z):
    """The value and the gradient of the sum of a loss, on each way that leads to them."""
    leaf = z.clone().requires_grad_()
    value = function(leaf)
    ways = {"fast": (value.detach(), torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0])}
    ways["with a graph"] = value.detach(), torch.autograd.grad(value.sum(), leaf, create_graph=True)[0].detach()
    gradient, traced = grad(lambda x: (lambda v: (v.sum(), v))(function(x)), has_aux=True)(z)
    ways["transformed"] = traced, gradient
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(leaf)
    ways["compiled"] = compiled.detach(), torch.autograd.grad(compiled.sum(), leaf)[0]
    return ways


@every_divergence
@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_masked_by_the_lowest_number_of_its_format_is_a_class_without_probability(
    divergence, temperature, dtype
):
    lowest = torch.finfo(dtype).min
    student = torch.tensor([[0.0, 1.0, 2.0, lowest]], dtype=dtype)
    teacher = torch.tensor([[0.0, 1.0, -2.0, -INF if divergence == "forward_kl" else 1.5]], dtype=dtype)
    options = {"divergence": divergence, "temperature": temperature, "reduction": "none"}
    want = lt.distillation_loss(student.masked_fill(student == lowest, -INF).double(), teacher.double(), **options)
    ways = every_way(lambda z: lt.distillation_loss(z, teacher, **options), student)
    for way, (value, gradient) in ways.items():
        assert_close(value, want, rtol=3e-6 if dtype == torch.float32 else 1e-12), way
        assert gradient.isfinite().all(), way
        assert_close(gradient, ways["fast"][1], rtol=2e-6), way
    assert_close(ln.distillation_loss(student.numpy(), teacher.numpy(), **options), want, rtol=3e-6)


@pytest.mark.parametrize("gap", [50.0, 200.0, 800.0])
def test_what_a_model_rules_out_costs_infinity_however_little_the_other_gives_it(gap):
    sharp, cut = torch.tensor([[gap, gap - 1, 0.0]]), torch.tensor([[0.0, 1.0, -INF]])
    for student, teacher, divergence in ((cut, sharp, "forward_kl"), (sharp, cut, "reverse_kl")):
        options = {"divergence": divergence, "temperature": 1.0, "reduction": "none"}
        ways = every_way(lambda z, t=teacher, o=options: lt.distillation_loss(z, t, **o), student)
        for way, (value, gradient) in ways.items():
            assert value == INF, way
            assert_close(gradient, ways["fast"][1], rtol=1e-6)
            assert gradient.isfinite().all(), way
        for dtype in (np.float32, np.float64):
            arrays = (t.numpy().astype(dtype) for t in (student, teacher))
            assert np.isposinf(ln.distillation_loss(*arrays, **options))


@every_divergence
def test_no_divergence_is_negative_where_the_models_nearly_agree(divergence):
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(300, 50, generator=generator)
    student = teacher + 1e-6 * torch.randn(300, 50, generator=generator)

    def function(z):
        return lt.distillation_loss(z, teacher, divergence=divergence, reduction="none")

    ways = every_way(function, student)
    ways["mapped"] = vmap(lambda s, t: lt.distillation_loss(s, t, divergence=divergence))(student, teacher), None
    for way, (value, gradient) in ways.items():
        assert (value >= 0).all(), way
        assert value.max() < 1e-6, way
        if gradient is not None:
            assert gradient.abs().max() < 1e-5, way
            assert gradient.any(), "where rounding lifts the value to 0 the gradient stays"


@every_loss
@pytest.mark.parametrize("filling", [NAN, INF])
def test_a_broken_row_is_nan_in_value_and_gradient_on_every_way(case, filling):
    if "softcap" in case[1] and filling == INF:
        return  # the cap makes a number of it
    logits, others, loss = batch(case)
    others[-1][0, 1:3] = 0  # a class whose weight is not 0
    options = {} if "denominator" in case[1] else {"reduction": "none"}
    logits[0, 1, 2] = filling
    for way, (value, gradient) in every_way(partial(loss, **options), logits).items():
        assert value.isnan().any(), way
        assert gradient[0, 1].isnan().all(), way
        assert gradient[0, 0].isfinite().all(), way


@pytest.mark.parametrize("case", DISTILLATIONS.values(), ids=DISTILLATIONS)
@pytest.mark.parametrize("filling", [NAN, INF])
def test_a_broken_row_of_the_teacher_breaks_the_row_unless_nothing_is_learned_from_it(case, filling):
    logits, (teacher, targets), loss = batch(case)
    teacher[0, 1, 2] = filling
    for way, (value, gradient) in every_way(lambda z: loss(z, teacher, targets, reduction="none"), logits).items():
        assert value[0, 1].isnan(), way
        assert gradient[0, 1].isnan().all(), way
        assert gradient[0, 0].isfinite().all(), way
    alone = {"alpha": 1.0, "reduction": "none"}
    want = lt.cross_entropy(logits, targets, reduction="none")
    for value, gradient in every_way(lambda z: loss(z, teacher, targets, **alone), logits).values():
        assert_close(value, want, rtol=1e-14)
        assert gradient.isfinite().all()
    arrays = (t.numpy() for t in (logits, teacher, targets))
    value, gradient = ln.value_and_grad(ln.distillation_loss)(*arrays, **{**case[1], "alpha": 1.0})
    assert_close(value, lt.cross_entropy(logits, targets), rtol=1e-14)
    assert np.isfinite(gradient).all()


@every_loss
@pytest.mark.parametrize("filling", [NAN, INF])
def test_nothing_to_divide_by_is_nothing_to_pay_whatever_stands_in_a_row(case, filling):
    logits, _, loss = batch(case)
    logits[0, 1] = filling
    for way, (value, gradient) in every_way(lambda z: loss(z, denominator=0.0), logits).items():
        assert value == 0, way
        assert not gradient.any(), way


def test_every_loss_on_logits_is_held_to_these_promises():
    described = {name for name in ln.__all__ if hasattr(getattr(ln, name), "describe")}
    assert described == {case[0] for case in LOSSES.values()}
