"""The nn.Module face of cross_entropy, and the device that notebooks use."""

import copy

import pytest
import torch

import lmloss.torch as lt
from tests.paths import assert_close

OPTIONS = [
    {},
    {"reduction": "sum", "ignore_index": 2},
    {"reduction": "none", "label_smoothing": 0.1, "smoothing_over": "others"},
    {"reduction": "sequence", "z_loss": 0.1, "softcap": 5.0},
    {"class_weight": torch.tensor([1.0, 0.5, 2.0, 0.0], dtype=torch.float64)},
]


def batch():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.tensor([[0, 3, 1], [1, 2, 3]])


@pytest.mark.parametrize("options", OPTIONS)
def test_the_module_is_the_function(options):
    logits, targets = batch()
    module = lt.CrossEntropyLoss(**options)
    assert isinstance(module, torch.nn.Module)
    value, want = module(logits, targets), lt.cross_entropy(logits, targets, **options)
    assert torch.equal(value, want)
    (got,) = torch.autograd.grad(value.sum(), logits)
    assert_close(got, torch.autograd.grad(want.sum(), logits)[0])


def test_the_module_has_nothing_to_train():
    assert list(lt.CrossEntropyLoss(class_weight=torch.ones(4)).parameters()) == []


def test_the_class_weight_moves_with_the_module():
    module = lt.CrossEntropyLoss(class_weight=torch.ones(4)).to("meta")
    loss = module(torch.empty(2, 4, device="meta"), torch.empty(2, dtype=torch.int64, device="meta"))
    assert loss.device.type == "meta"


def test_a_copy_of_the_module_gives_the_same_loss():
    module = lt.CrossEntropyLoss(class_weight=torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64), z_loss=0.1)
    assert torch.equal(copy.deepcopy(module)(*batch()), module(*batch()))


@pytest.mark.parametrize("options", [{"label_smoothing": 2.0}, {"reduction": "average"}, {"softcap": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        lt.CrossEntropyLoss(**options)(*batch())


def test_the_module_compiles_in_a_model():
    torch._dynamo.reset()
    logits, targets = batch()
    module = lt.CrossEntropyLoss(label_smoothing=0.1)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert_close(compiled(logits, targets).detach(), module(logits, targets).detach())


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
