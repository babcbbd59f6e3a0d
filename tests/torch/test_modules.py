"""The nn.Module faces of the losses, and the device that notebooks use."""

import copy

import pytest
import torch

import lmloss.torch as lt
from tests.paths import assert_close


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TARGETS = torch.tensor([[0, 3, 1], [1, 2, 3]])
PER_CLASS = torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=torch.float64)
CASES = {
    lt.CrossEntropyLoss: (lt.cross_entropy, (draw(3, 2, 3, 4), TARGETS)),
    lt.DistillationLoss: (lt.distillation_loss, (draw(4, 2, 3, 4), draw(5, 2, 3, 4), TARGETS)),
    lt.FocalLoss: (lt.focal_loss, (draw(6, 2, 3, 4), TARGETS)),
    lt.InfoNCELoss: (lt.info_nce_loss, (draw(7, 4, 5), draw(8, 4, 5))),
}
OPTIONS = [
    (lt.CrossEntropyLoss, {}),
    (lt.CrossEntropyLoss, {"reduction": "sum", "ignore_index": 2}),
    (lt.CrossEntropyLoss, {"reduction": "none", "label_smoothing": 0.1, "smoothing_over": "others"}),
    (lt.CrossEntropyLoss, {"reduction": "sequence", "z_loss": 0.1, "softcap": 5.0}),
    (lt.CrossEntropyLoss, {"class_weight": PER_CLASS}),
    (lt.DistillationLoss, {}),
    (lt.DistillationLoss, {"temperature": 3.0, "alpha": 0.2, "divergence": "reverse_kl", "reduction": "sum"}),
    (lt.DistillationLoss, {"divergence": "jsd", "beta": 0.2, "ignore_index": 3, "reduction": "sequence"}),
    (lt.FocalLoss, {}),
    (lt.FocalLoss, {"gamma": 0.5, "alpha": 0.25, "reduction": "none"}),
    (lt.FocalLoss, {"alpha": PER_CLASS, "ignore_index": 1, "denominator": 7.0}),
    (lt.InfoNCELoss, {}),
    (lt.InfoNCELoss, {"temperature": 0.5, "symmetric": True, "reduction": "none"}),
    (lt.InfoNCELoss, {"temperature": torch.tensor(0.2, dtype=torch.float64)}),
]
WITH_TENSORS = [
    (lt.CrossEntropyLoss, {"class_weight": PER_CLASS}),
    (lt.FocalLoss, {"alpha": PER_CLASS}),
    (lt.InfoNCELoss, {"temperature": torch.tensor(0.2, dtype=torch.float64)}),
]
every_option = pytest.mark.parametrize(("face", "options"), OPTIONS)
every_face = pytest.mark.parametrize("face", CASES)
every_tensor = pytest.mark.parametrize(("face", "options"), WITH_TENSORS)


def batch(face):
    """The arguments of a loss, the first of them a leaf."""
    first, *others = CASES[face][1]
    return first.clone().requires_grad_(), *others


@every_option
def test_the_module_is_the_function_in_value_and_gradient(face, options):
    arguments = batch(face)
    module = face(**options)
    assert isinstance(module, torch.nn.Module)
    value, want = module(*arguments), CASES[face][0](*arguments, **options)
    assert torch.equal(value, want)
    (got,) = torch.autograd.grad(value.sum(), arguments[0])
    assert torch.equal(got, torch.autograd.grad(want.sum(), arguments[0])[0])


@every_face
def test_options_of_the_call_win_over_those_of_the_module(face):
    module, arguments = face(reduction="none"), batch(face)
    assert torch.equal(module(*arguments, reduction="sum"), CASES[face][0](*arguments, reduction="sum"))
    assert module(*arguments).ndim > 0, "and are forgotten after it"
    weighted = lt.CrossEntropyLoss(class_weight=PER_CLASS)
    logits, targets = batch(lt.CrossEntropyLoss)
    assert torch.equal(weighted(logits, targets, class_weight=None), lt.cross_entropy(logits, targets))


def test_what_changes_with_the_step_is_given_to_the_call():
    student, teacher, _ = batch(lt.DistillationLoss)
    assert torch.equal(lt.DistillationLoss()(student, teacher), lt.distillation_loss(student, teacher))
    queries, keys = batch(lt.InfoNCELoss)
    negatives = draw(9, 3, 5)
    want = lt.info_nce_loss(queries, keys, negatives=negatives, temperature=0.5)
    assert torch.equal(lt.InfoNCELoss(temperature=0.5)(queries, keys, negatives=negatives), want)


@every_option
def test_the_module_has_nothing_to_train(face, options):
    assert list(face(**options).parameters()) == []


@every_tensor
def test_a_tensor_among_the_options_is_part_of_the_state(face, options):
    (name, tensor), arguments = *options.items(), batch(face)
    module, other = face(**options), face(**{name: torch.full_like(tensor, 0.125)})
    assert not torch.equal(other(*arguments), module(*arguments))
    assert module.state_dict().keys() == {name}
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(*arguments), module(*arguments))


@every_tensor
def test_a_tensor_among_the_options_moves_with_the_module(face, options):
    module = face(**options).to("meta")
    assert module(*(a.to("meta") for a in CASES[face][1])).device.type == "meta"
    assert next(face(**options).to(torch.float32).buffers()).dtype == torch.float32


@every_option
def test_a_copy_of_the_module_gives_the_same_loss(face, options):
    module, arguments = face(**options), batch(face)
    assert torch.equal(copy.deepcopy(module)(*arguments), module(*arguments))


def test_a_parameter_as_temperature_is_learned_with_the_module():
    queries, keys = batch(lt.InfoNCELoss)
    temperature = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    loss = lt.InfoNCELoss(temperature=temperature)
    assert dict(loss.named_parameters()) == {"temperature": temperature}
    assert loss.state_dict().keys() == {"temperature"}
    start = loss(queries, keys)
    start.backward()
    up, down = (lt.info_nce_loss(queries, keys, temperature=0.5 + step) for step in (1e-5, -1e-5))
    assert_close(temperature.grad, ((up - down) / 2e-5).detach(), rtol=1e-8)
    torch.optim.SGD(loss.parameters(), lr=0.01).step()
    assert loss(queries, keys) < start
    assert copy.deepcopy(loss).temperature is not temperature


@pytest.mark.parametrize(
    ("face", "name", "value"),
    [
        (lt.CrossEntropyLoss, "label_smoothing", 2.0),
        (lt.CrossEntropyLoss, "reduction", "average"),
        (lt.CrossEntropyLoss, "softcap", 0.0),
        (lt.DistillationLoss, "temperature", 0.0),
        (lt.DistillationLoss, "divergence", "kl"),
        (lt.FocalLoss, "gamma", -1.0),
        (lt.FocalLoss, "alpha", torch.tensor([0.5, 1.5, 0.0, 0.0])),
        (lt.InfoNCELoss, "temperature", -0.1),
        (lt.InfoNCELoss, "reduction", "sequence"),
    ],
)
def test_bad_options_are_refused(face, name, value):
    with pytest.raises(ValueError, match=name):
        face(**{name: value})(*batch(face))


@pytest.mark.parametrize(
    ("face", "name"),
    [*((face, "smoothing") for face in CASES), (lt.DistillationLoss, "targets"), (lt.FocalLoss, "validate")],
)
def test_what_is_no_option_is_refused_at_construction(face, name):
    with pytest.raises(TypeError, match=rf"{face.__name__}\(\) got an unexpected keyword argument '{name}'"):
        face(**{name: 0.1})


@every_option
def test_the_module_shows_its_options(face, options):
    shown = repr(face(**options))
    assert shown.startswith(f"{face.__name__}(")
    assert "\n" not in shown
    for name, value in options.items():
        assert f"{name}=" + (f"Tensor{tuple(value.shape)}" if torch.is_tensor(value) else repr(value)) in shown


@every_face
def test_the_module_compiles_in_a_model(face):
    torch._dynamo.reset()
    options = dict(WITH_TENSORS).get(face, {})
    arguments, module = batch(face), face(**options)
    if face is lt.InfoNCELoss:
        module = face(temperature=torch.nn.Parameter(options["temperature"]))
    leaves = [arguments[0], *module.parameters()]
    compiled, want = torch.compile(module, fullgraph=True, backend="aot_eager")(*arguments), module(*arguments)
    assert_close(compiled.detach(), want.detach())
    for got, gradient in zip(torch.autograd.grad(compiled, leaves), torch.autograd.grad(want, leaves), strict=True):
        assert_close(got, gradient)


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_default_device_is_cuda_else_mps_else_the_cpu(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    got = lt.default_device()
    assert isinstance(got, torch.device)
    assert got.type == device


def test_tensors_can_be_made_on_the_default_device():
    assert torch.zeros(2, device=lt.default_device()).sum().item() == 0
