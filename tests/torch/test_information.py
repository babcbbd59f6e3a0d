"""Gradients of the information measures in PyTorch, taken through a softmax so that the distributions stay such."""

import pytest
import torch

import lmloss.torch as lt
from tests.paths import assert_close

INF = float("inf")
P = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]], dtype=torch.float64)
MEASURES = {
    "surprisal": lambda z: lt.surprisal(z.softmax(-1)),
    "entropy": lambda z: lt.entropy(z.softmax(-1)),
    "cross_entropy_probs": lambda z: lt.cross_entropy_probs(P, z.softmax(-1), base=2),
    "kl_divergence from P": lambda z: lt.kl_divergence(P, z.softmax(-1)),
    "kl_divergence to P": lambda z: lt.kl_divergence(z.softmax(-1), P + torch.tensor([0.0, 0.0, 0.0])),
    "js_divergence": lambda z: lt.js_divergence(P, z.softmax(-1)),
    "mutual_information": lambda z: lt.mutual_information(z.flatten().softmax(-1).view(z.shape)),
}


def logits():
    return torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.1, 0.2]], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", [name for name in MEASURES if name != "kl_divergence to P"])
def test_first_and_second_derivatives_are_those_of_the_function(name):
    assert torch.autograd.gradcheck(MEASURES[name], logits())
    assert torch.autograd.gradgradcheck(MEASURES[name], logits())


@pytest.mark.parametrize("name", ["entropy", "js_divergence", "mutual_information"])
def test_a_class_of_probability_zero_brings_no_nan_into_the_gradient(name):
    z = logits()
    with torch.no_grad():
        z[1, 0] = -INF
    MEASURES[name](z).sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad[1, 0] == 0


@pytest.mark.parametrize("name", ["cross_entropy_probs", "kl_divergence from P"])
def test_a_class_that_neither_distribution_allows_brings_no_nan_into_the_gradient(name):
    z = logits()
    with torch.no_grad():
        z[1, 0] = -INF
    MEASURES[name](z).sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad[1, 0] == 0


def test_the_gradient_of_kl_in_the_logits_is_q_minus_p():
    z = logits()
    MEASURES["kl_divergence from P"](z).sum().backward()
    assert_close(z.grad, z.detach().softmax(-1) - P)


@pytest.mark.parametrize("name", [name for name in MEASURES if "surprisal" not in name])
def test_measures_compile_and_run_on_meta(name):
    torch._dynamo.reset()
    z = logits().detach()
    assert_close(torch.compile(MEASURES[name], fullgraph=True, backend="aot_eager")(z), MEASURES[name](z))


def test_on_the_meta_device_measures_have_a_shape():
    p = torch.empty(4, 3, device="meta")
    assert lt.entropy(p).shape == (4,)
    assert lt.kl_divergence(p, p).shape == (4,)
    assert lt.js_divergence(p, p).shape == (4,)
    assert lt.cross_entropy_probs(p, p).shape == (4,)
    assert lt.surprisal(p).shape == (4, 3)
    assert lt.mutual_information(p).shape == ()
