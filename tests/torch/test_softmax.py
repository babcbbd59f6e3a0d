"""Gradients of the softmax family in PyTorch."""

import pytest
import torch
from torch.func import vmap

import lmloss.torch as lt
from tests.paths import assert_close

INF = float("inf")
CALLS = {
    "softmax": lt.softmax,
    "softmax at 2": lambda z: lt.softmax(z, temperature=2.0),
    "log_softmax": lt.log_softmax,
    "log_softmax at half": lambda z: lt.log_softmax(z, temperature=0.5),
    "logsumexp": lt.logsumexp,
    "softcap": lambda z: lt.softcap(z, 2.0),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def rows(**options):
    return torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.1, 0.2]], dtype=torch.float64, **options)


@every_call
def test_first_and_second_derivatives_are_those_of_the_function(call):
    assert torch.autograd.gradcheck(call, rows(requires_grad=True))
    assert torch.autograd.gradgradcheck(call, rows(requires_grad=True))


@every_call
def test_a_masked_class_brings_no_nan_into_the_gradient(call):
    z = rows()
    z[0, 1] = -INF
    z.requires_grad_()
    out = call(z)
    out[out.isfinite()].mul(torch.arange(1.0, 1 + out.isfinite().sum())).sum().backward()
    assert z.grad.isfinite().all()
    assert z.grad[0, 1] == 0


def test_no_probability_no_gradient_of_the_logsumexp_of_nothing():
    z = torch.full((1, 3), -INF, dtype=torch.float64, requires_grad=True)
    assert lt.logsumexp(z).item() == -INF


@every_call
def test_the_functions_run_under_vmap_compile_and_on_meta(call):
    z = torch.stack([rows(), rows() * 2])
    assert_close(vmap(call)(z), call(z))
    torch._dynamo.reset()
    assert_close(torch.compile(call, fullgraph=True, backend="aot_eager")(z), call(z))
    assert call(z.to("meta")).shape == call(z).shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@every_call
def test_gradients_have_the_dtype_of_the_input(call, dtype):
    z = rows().to(dtype).requires_grad_()
    call(z).float().pow(2).sum().backward()
    assert z.grad.dtype == dtype
