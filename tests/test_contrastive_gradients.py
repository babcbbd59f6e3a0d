"""The gradients of InfoNCE against exact differences and their closed form, and its life among PyTorch's transforms."""

import warnings

import numpy as np
import pytest
import torch

import lmloss.numpy as ln
from tests.oracle import STEP, mp
from tests.paths import assert_close
from tests.test_contrastive import OPTIONS, exact_array, exact_loss, numpy_loss, tensors, torch_loss, vectors

# The compiler and forward mode still script parts of themselves with what PyTorch itself now calls old.
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]


# Values


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_are_those_of_exact_differences(symmetric):
    arrays = vectors(2, 3, 3, 2, width=3)
    leaves = [torch.from_numpy(v).requires_grad_() for v in arrays]
    value = torch_loss(*leaves[:2], negatives=leaves[2], temperature=0.3, symmetric=symmetric)
    at = [exact_array(v) for v in arrays]
    for leaf, rows in zip(torch.autograd.grad(value, leaves), at, strict=True):
        want = np.empty(leaf.shape)
        for i, j in np.ndindex(*leaf.shape):
            value_at = rows[i][j]
            sides = []
            for step in (STEP, -STEP):
                rows[i][j] = value_at + step
                sides.append(exact_loss(*at, mp.mpf(0.3), symmetric, "mean"))
            rows[i][j] = value_at
            want[i, j] = (sides[0] - sides[1]) / (2 * STEP)
        assert_close(leaf, want)


def closed_form(queries, keys, negatives, temperature):
    """The gradient of the mean loss: the cross-entropy's, through the cosines, less the part along each vector."""
    arrays = [queries, keys, negatives]
    lengths = [np.linalg.norm(v, axis=1, keepdims=True) for v in arrays]
    units = [v / length for v, length in zip(arrays, lengths, strict=True)]
    candidates = np.concatenate(units[1:])
    logits = units[0] @ candidates.T / temperature
    value, pull = ln.value_and_grad(ln.cross_entropy)(logits, np.arange(len(queries)))
    to_units = [pull @ candidates, *np.split(pull.T @ units[0], [len(keys)])]
    slopes = [g - (g * u).sum(1, keepdims=True) * u for g, u in zip(to_units, units, strict=True)]
    return value, [g / (temperature * length) for g, length in zip(slopes, lengths, strict=True)]


def test_gradients_are_the_closed_form():
    arrays = vectors(19, 6, 6, 4)
    leaves = [torch.from_numpy(v).requires_grad_() for v in arrays]
    got = torch_loss(*leaves[:2], negatives=leaves[2], temperature=0.2)
    value, gradients = closed_form(*arrays, 0.2)
    assert_close(got.detach(), value)
    assert_close(numpy_loss(*arrays[:2], negatives=arrays[2], temperature=0.2), value)
    for leaf, want in zip(torch.autograd.grad(got, leaves), gradients, strict=True):
        assert_close(leaf, want)


def test_a_gradient_never_stretches_its_vector():
    leaves = tensors(20, 6, 6, 4)
    torch_loss(*leaves[:2], negatives=leaves[2], symmetric=True).backward()
    for leaf in leaves:
        along = (leaf.grad * leaf.detach()).sum(-1).abs()
        assert (along <= 1e-13 * leaf.grad.norm(dim=-1) * leaf.detach().norm(dim=-1)).all()


def test_the_numpy_gradient_of_a_loss_on_logits_says_that_it_is_none():
    with pytest.raises(TypeError, match="info_nce_loss"):
        ln.value_and_grad(numpy_loss)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_vector_of_zeros_gets_no_gradient_and_spoils_no_other(symmetric):
    arrays = vectors(13, 4, 4, 2)
    arrays[0][1], arrays[1][2], arrays[2][0] = 0, 0, 0
    leaves = [torch.from_numpy(v).requires_grad_() for v in arrays]
    value = torch_loss(*leaves[:2], negatives=leaves[2], symmetric=symmetric)
    gradients = torch.autograd.grad(value, leaves, create_graph=True)
    for gradient, row in zip(gradients, (1, 2, 0), strict=True):
        assert torch.isfinite(gradient).all()
        assert (gradient[row] == 0).all()
        assert (gradient.abs().sum(-1) > 0).sum() == len(gradient) - 1
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)
    assert all(torch.isfinite(g).all() for g in second)


# PyTorch


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_first_and_second_derivatives_are_those_of_differences(options):
    leaves = tensors(21, 3, 3, 2, width=4)[: 3 if options["with_negatives"] else 2]

    def loss(queries, keys, negatives=None):
        rest = {name: options[name] for name in ("symmetric", "reduction")}
        return torch_loss(queries, keys, negatives=negatives, temperature=0.5, **rest)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


def test_forward_mode_is_right_too():
    leaves = tensors(22, 3, 3, 2, width=4)
    assert torch.autograd.gradcheck(
        lambda q, k, n: torch_loss(q, k, negatives=n, temperature=0.5, symmetric=True), leaves, check_forward_ad=True
    )


def test_a_temperature_can_be_learned():
    queries, keys = tensors(23, 4, 4)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: torch_loss(queries, keys, temperature=t), [temperature])
    assert torch.autograd.gradgradcheck(lambda t: torch_loss(queries, keys, temperature=t), [temperature])
    assert torch_loss(queries, keys, temperature=temperature) == torch_loss(queries, keys, temperature=0.3)
    wide = torch_loss(queries.float(), keys.float(), temperature=temperature)
    assert wide.dtype == torch.float32


def test_functional_transforms_give_the_same_numbers():
    batch = torch.stack(tensors(24, 4, 4, 4, grad=False))
    keys, others = tensors(25, 4, 3, grad=False)

    def loss(queries):
        return torch_loss(queries, keys, negatives=others, symmetric=True)

    leaves = [v.clone().requires_grad_() for v in batch]
    want = torch.stack([loss(v) for v in leaves])
    gradients = torch.autograd.grad(want.sum(), leaves)
    assert_close(torch.func.vmap(loss)(batch), want.detach())
    assert_close(torch.func.grad(loss)(batch[0]), gradients[0])
    assert_close(torch.func.vmap(torch.func.grad(loss))(batch), torch.stack(gradients))
    hessian = torch.func.hessian(loss)(batch[0])
    assert_close(hessian, torch.autograd.functional.hessian(loss, batch[0]), rtol=1e-11)


@pytest.mark.parametrize("with_negatives", [False, True])
def test_it_compiles_in_one_piece(with_negatives):
    def loss(queries, keys, negatives, temperature):
        return torch_loss(queries, keys, negatives=negatives, temperature=temperature, symmetric=True)

    leaves = tensors(26, 4, 4, 3)
    used = leaves if with_negatives else leaves[:2]
    arguments = (*leaves[:2], leaves[2] if with_negatives else None, torch.tensor(0.2, dtype=torch.float64))
    want = loss(*arguments)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = torch.compile(loss, fullgraph=True, backend="aot_eager")(*arguments)
        gradients = torch.autograd.grad(got, used)
    assert_close(got.detach(), want.detach())
    for gradient, expected in zip(gradients, torch.autograd.grad(want, used), strict=True):
        assert_close(gradient, expected)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_loss_nor_gradient(low):
    leaves = [v.detach().float().requires_grad_() for v in tensors(27, 8, 8, 4)]
    want = torch_loss(*leaves[:2], negatives=leaves[2], symmetric=True)
    with torch.autocast("cpu", dtype=low):
        got = torch_loss(*leaves[:2], negatives=leaves[2], symmetric=True)
    assert got.dtype == torch.float32
    assert got == want
    for ours, expected in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        assert torch.equal(ours, expected)


def test_it_runs_where_there_are_no_values():
    queries, keys, others = (torch.empty(n, 6, device="meta", requires_grad=True) for n in (4, 4, 3))
    temperature = torch.empty((), device="meta")
    value = torch_loss(queries, keys, negatives=others, temperature=temperature, symmetric=True)
    assert value.device.type == "meta"
    assert torch_loss(queries, keys, reduction="none").shape == (4,)
    assert all(
        g.shape == v.shape for g, v in zip(torch.autograd.grad(value, (queries, keys)), (queries, keys), strict=True)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_gives_the_same_numbers():
    leaves = tensors(28, 6, 6, 4)
    want = torch.autograd.grad(torch_loss(*leaves[:2], negatives=leaves[2], symmetric=True), leaves)
    there = [v.detach().cuda().requires_grad_() for v in leaves]
    with torch.autocast("cuda"):
        value = torch_loss(*there[:2], negatives=there[2], symmetric=True)
    for got, expected in zip(torch.autograd.grad(value, there), want, strict=True):
        assert_close(got.cpu(), expected, rtol=1e-11)
