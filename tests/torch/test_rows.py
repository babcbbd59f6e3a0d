"""The driver: who sees through it, and what it takes in."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functionalize, hessian, jacfwd, jvp, vmap
from torch.testing import assert_close

import lmloss.torch as lt


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 6, (3, 4), generator=generator)


def torch_loss(z, y):
    return F.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1))


def test_forward_over_forward_differentiation_gives_the_hessian(batch):
    logits, targets = batch
    expected = hessian(lambda z: torch_loss(z, targets))(logits)
    assert_close(jacfwd(jacfwd(lambda z: lt.cross_entropy(z, targets)))(logits), expected)


def test_a_nested_directional_derivative_is_not_lost(batch):
    logits, targets = batch
    direction = torch.ones_like(logits).cumsum(-1)

    def twice(loss):
        return jvp(lambda z: jvp(loss, (z,), (direction,))[1], (logits,), (direction,))[1]

    assert_close(twice(lambda z: lt.cross_entropy(z, targets)), twice(lambda z: torch_loss(z, targets)))


def test_functionalize_sees_the_loss(batch):
    logits, targets = batch
    assert_close(functionalize(lambda z: lt.cross_entropy(z, targets))(logits), torch_loss(logits, targets))


def test_mapping_over_nothing_but_the_denominator_works(batch):
    logits, targets = batch
    many = vmap(lambda d: lt.cross_entropy(logits, targets, denominator=d))(torch.tensor([1.0, 2.0]))
    total = lt.cross_entropy(logits, targets, reduction="sum")
    assert_close(many, torch.stack([total, total / 2]))


def test_forward_mode_of_half_logits_is_computed_in_float32():
    generator = torch.Generator().manual_seed(1)
    logits, direction = (torch.randn(40, 1000, generator=generator).half() for _ in range(2))
    targets = torch.zeros(40, dtype=torch.long)
    slope = jvp(lambda z: lt.cross_entropy(z, targets), (logits,), (direction,))[1]
    expected = jvp(lambda z: torch_loss(z, targets), (logits.float(),), (direction.float(),))[1]
    assert_close(slope, expected, rtol=1e-5, atol=1e-6)


def test_one_row_with_gaps_between_its_logits_is_read_right():
    row = torch.arange(20.0)[::2].requires_grad_()
    loss = lt.cross_entropy(row, torch.tensor(3))
    assert_close(loss, F.cross_entropy(row, torch.tensor(3)))
    assert_close(torch.autograd.grad(loss, row)[0].sum(), torch.tensor(0.0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["class_weight", "token_weight", "alpha"])
def test_float64_weights_keep_their_digits_where_the_logits_are_float32(name):
    for step in range(64):
        weight = 1 - step * 2.0**-27
        given = torch.full((1,) if name == "token_weight" else (3,), weight, dtype=torch.float64)
        loss, options = (lt.focal_loss, {"gamma": 0.0}) if name == "alpha" else (lt.cross_entropy, {})
        got = loss(torch.zeros(1, 3), torch.tensor([0]), reduction="sum", **options, **{name: given})
        assert got == torch.tensor(weight * math.log(3), dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.int16, torch.float64])
def test_weights_may_have_any_real_dtype(batch, dtype):
    logits, targets = batch
    ones, classes = torch.ones(targets.shape).to(dtype), torch.ones(6).to(dtype)
    weighted = lt.cross_entropy(logits, targets, token_weight=ones, class_weight=classes)
    assert_close(weighted, torch_loss(logits, targets))
