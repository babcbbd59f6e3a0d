"""What only PyTorch can do with the losses on whole sequences: gradients, transforms, compilers, other devices."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import lmloss.numpy.sequence as ns
import lmloss.torch.sequence as ts

# Forward-mode differentiation loads PyTorch's own scripted formulas, which warn.
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]

INF = float("inf")


def draws(seed, *shape, shift=0.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(shift, 1.0, size=shape))


TARGETS = torch.tensor([[0, 3, -100, 2], [1, -100, -100, 4], [4, 4, 0, 1]])
REWARDS, RISKS = draws(1, 3, 4), draws(2, 3, 4).abs()
REFERENCE = draws(3, 3, 4, shift=-30), draws(4, 3, 4, shift=-30)

# Each loss as a function of what is learned.
LOSSES = {
    "sequence_log_prob": (lambda z: ts.sequence_log_prob(z, TARGETS), lambda: (draws(5, 3, 4, 5),)),
    "reinforce_loss": (
        lambda lp: ts.reinforce_loss(lp, REWARDS, baseline=REWARDS.mean(0)),
        lambda: (draws(6, 3, 4, shift=-5),),
    ),
    "minimum_risk_loss": (
        lambda lp: ts.minimum_risk_loss(lp, RISKS, sharpness=0.7),
        lambda: (draws(7, 3, 4, shift=-90),),
    ),
    "dpo_loss": (
        lambda c, r: ts.dpo_loss(c, r, *REFERENCE, beta=0.5, label_smoothing=0.1),
        lambda: (draws(8, 3, 4, shift=-30), draws(9, 3, 4, shift=-30)),
    ),
    "dpo_loss, each pair": (
        lambda c, r: ts.dpo_loss(c, r, *REFERENCE, reduction="none"),
        lambda: (draws(8, 3, 4, shift=-30), draws(9, 3, 4, shift=-30)),
    ),
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def case(request):
    loss, inputs = request.param
    return loss, inputs()


def learned(inputs):
    return tuple(tensor.clone().requires_grad_() for tensor in inputs)


@pytest.mark.parametrize("fast", [False, True])
def test_first_and_second_derivatives_are_those_of_finite_differences(case, fast):
    loss, inputs = case
    assert gradcheck(loss, learned(inputs), fast_mode=fast, check_forward_ad=True, check_batched_grad=not fast)
    assert gradgradcheck(loss, learned(inputs), fast_mode=fast)


def test_values_and_gradients_are_those_of_the_numpy_path():
    z, y = draws(10, 3, 4, 5), TARGETS
    np.testing.assert_allclose(ts.sequence_log_prob(z, y), ns.sequence_log_prob(z.numpy(), y.numpy()), rtol=1e-13)
    scores = draws(11, 3, 4, shift=-50)
    for sharpness in (0.0, 0.005, 1.0, 7.0):
        want = ns.minimum_risk_loss(scores.numpy(), RISKS.numpy(), sharpness=sharpness)
        np.testing.assert_allclose(ts.minimum_risk_loss(scores, RISKS, sharpness=sharpness), want, rtol=1e-13)
    for baseline in (None, 0.3, REWARDS.mean(-1, keepdim=True)):
        plain = baseline.numpy() if isinstance(baseline, torch.Tensor) else baseline
        want = ns.reinforce_loss(scores.numpy(), REWARDS.numpy(), baseline=plain)
        np.testing.assert_allclose(ts.reinforce_loss(scores, REWARDS, baseline=baseline), want, rtol=1e-13)
    sides = scores, draws(12, 3, 4, shift=-50), *REFERENCE
    for epsilon in (0.0, 0.3, 1.0):
        got = ts.dpo_loss(*sides, label_smoothing=epsilon, reduction="none")
        want = ns.dpo_loss(*(side.numpy() for side in sides), label_smoothing=epsilon, reduction="none")
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_the_gradient_of_a_sequences_log_probability_is_one_hot_minus_softmax_and_zero_where_ignored():
    z = draws(13, 3, 4, 5).requires_grad_()
    with torch.no_grad():
        z[0, 2], z[1, 1] = float("nan"), INF
    (gradient,) = torch.autograd.grad(ts.sequence_log_prob(z, TARGETS).sum(), z)
    counted = TARGETS != -100
    want = torch.nn.functional.one_hot(TARGETS.clamp(min=0), 5) - torch.softmax(z.detach(), -1)
    np.testing.assert_allclose(gradient[counted], want[counted], rtol=0, atol=1e-15)
    assert (gradient[~counted] == 0).all()


def test_an_impossible_sequence_leaves_the_gradients_of_the_others_alone():
    scores = torch.tensor([[-1.0, -INF, -2.0], [-INF, -3.0, -INF]], dtype=torch.float64, requires_grad=True)
    risks = torch.tensor([[1.0, math.nan, 5.0], [INF, 2.0, 0.0]], dtype=torch.float64)
    for sharpness in (0.0, 1.0):
        loss = ts.minimum_risk_loss(scores, risks, sharpness=sharpness)
        (gradient,) = torch.autograd.grad(loss, scores, create_graph=True)
        share = 1 / (1 + math.exp(-sharpness))
        want = sharpness * share * (1 - share) * -4 / 2
        torch.testing.assert_close(gradient, torch.tensor([[want, 0, -want], [0, 0, 0]], dtype=torch.float64))
        (second,) = torch.autograd.grad(gradient[0, 0], scores)
        assert torch.isfinite(second).all()

    advantage = torch.tensor([0.0, 2.0], dtype=torch.float64)
    log_probs = torch.tensor([-INF, -1.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ts.reinforce_loss(log_probs, advantage), log_probs)
    assert gradient.tolist() == [0.0, -1.0]

    chosen = torch.tensor([-INF, -1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-1.0, -INF, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    reference = torch.full((4,), -1.0, dtype=torch.float64)
    for epsilon, expected in ((0.0, [-0.1, 0.0, -0.05, -0.05]), (1.0, [0.0, 0.1, 0.05, 0.05])):
        each = ts.dpo_loss(chosen, rejected, reference, reference, label_smoothing=epsilon, reduction="none")
        first, second = torch.autograd.grad(each.sum(), (chosen, rejected))
        assert first.tolist() == pytest.approx(expected)
        assert second.tolist() == pytest.approx([-slope for slope in expected])


def test_a_margin_of_a_thousand_has_a_bounded_gradient():
    leaf = torch.tensor([1000.0, -1000.0], requires_grad=True)
    zero = torch.zeros(2)
    each = ts.dpo_loss(leaf, zero, zero, zero, beta=1.0, reduction="none")
    assert each.tolist() == [0.0, 1000.0]
    assert torch.autograd.grad(each.sum(), leaf)[0].tolist() == [0.0, -1.0]


def test_rewards_baselines_risks_and_the_reference_are_constants():
    lp = draws(14, 4).requires_grad_()
    constants = [draws(15 + i, 4).requires_grad_() for i in range(2)]
    for loss in (
        ts.reinforce_loss(lp, constants[0], baseline=constants[1]),
        ts.minimum_risk_loss(lp, constants[0]),
        ts.dpo_loss(lp, lp * 2, *constants),
    ):
        gradients = torch.autograd.grad(loss, (lp, *constants), allow_unused=True)
        assert (gradients[0] != 0).all()
        assert gradients[1:] == (None, None)


def test_gradients_have_the_dtype_of_their_input():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        lp = torch.tensor([-1.0, -2.0], dtype=dtype, requires_grad=True)
        wide = torch.tensor([1.0, 0.5], dtype=torch.float64)
        for loss in (
            ts.reinforce_loss(lp, wide, baseline=torch.tensor(0.5, dtype=torch.float64)),
            ts.minimum_risk_loss(lp, wide),
            ts.dpo_loss(lp, -lp, -wide, -wide),
            ts.sequence_log_prob(lp[None], torch.tensor([0])),
        ):
            assert loss.dtype == torch.float32
            assert torch.autograd.grad(loss, lp)[0].dtype == dtype


def test_close_rewards_and_close_models_keep_their_difference():
    ones = torch.tensor([-1.0, -1.0])
    rewards = torch.tensor([1e9 + 1, 1e9 + 3], dtype=torch.float64)
    for baseline in (1e9, torch.tensor(1e9, dtype=torch.float64)):
        assert ts.reinforce_loss(ones, rewards, baseline=baseline).item() == 2.0
    sides = [torch.tensor([value]) for value in (-1e5 - 0.0625, -3.3, -1e5, -3.304)]  # float32 has steps of 0.008 there
    for got in (ts.dpo_loss(*sides, beta=1.0), ns.dpo_loss(*(side.numpy() for side in sides), beta=1.0)):
        assert float(got) == pytest.approx(math.log1p(math.exp(0.0665)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 10.0, 100.0])
def test_low_precision_is_at_least_as_exact_as_the_naive_composition(dtype, scale):
    scores, others = (scale * draws(50 + i, 64, 8).to(dtype) - 3 * scale for i in range(2))
    risks = draws(52, 64, 8).abs().to(dtype)
    wide = [tensor.double().numpy() for tensor in (scores, others, risks)]
    shares = np.exp(0.7 * (wide[0] - wide[0].max(-1, keepdims=True)))
    exact_risk = ((shares / shares.sum(-1, keepdims=True)) * wide[2]).sum(-1)
    naive_risk = ((0.7 * scores).softmax(-1) * risks).sum(-1).double().numpy()
    exact_pairs = np.logaddexp(0, -0.1 * ((wide[0] - wide[1]) - (wide[1] - wide[2])))
    naive_pairs = -(0.1 * ((scores - others) - (others - risks))).sigmoid().log().double().numpy()
    unit = np.finfo(np.float32).eps
    for module in (ts, ns):
        low = (scores, others, risks)
        if module is ns:
            low = tuple(t.numpy() if dtype != torch.bfloat16 else t.float().numpy() for t in low)
        risk = np.array(
            [float(module.minimum_risk_loss(a, r, sharpness=0.7)) for a, r in zip(low[0], low[2], strict=True)]
        )
        pairs = np.asarray(module.dpo_loss(low[0], low[1], low[1], low[2], reduction="none"), np.float64)
        for got, naive, want in ((risk, naive_risk, exact_risk), (pairs, naive_pairs, exact_pairs)):
            assert np.abs(got - want).max() <= np.abs(naive - want).max() + unit * np.abs(want).max()


def test_function_transforms_agree_with_autograd(case):
    loss, inputs = case
    leaves = learned(inputs)
    total = loss(*leaves).sum()
    want = torch.autograd.grad(total, leaves)
    got = torch.func.grad(lambda *x: loss(*x).sum(), argnums=tuple(range(len(inputs))))(*inputs)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    batched = torch.func.vmap(loss)(*(torch.stack([x, x - 1]) for x in inputs))
    torch.testing.assert_close(batched, torch.stack([loss(*inputs), loss(*(x - 1 for x in inputs))]))


def test_a_batch_of_constants_is_mapped_over_too():
    lp = draws(20, 5, 4)
    constants = draws(21, 5, 4)
    for loss in (ts.reinforce_loss, ts.minimum_risk_loss, lambda a, b: ts.dpo_loss(a, 2 * a, b, 3 * b)):
        want = torch.stack([loss(a, b) for a, b in zip(lp, constants, strict=True)])
        torch.testing.assert_close(torch.func.vmap(loss)(lp, constants), want)


def test_compilers_take_it_as_one_graph(case):
    loss, inputs = case
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves, again = learned(inputs), learned(inputs)
    got, want = compiled(*leaves), loss(*again)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    got.sum().backward()
    want.sum().backward()
    for a, b in zip(leaves, again, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-12)


def test_no_value_is_read_on_a_device_that_has_none():
    lp, ids = torch.zeros(2, 3, device="meta", requires_grad=True), torch.zeros(2, 3, dtype=torch.long, device="meta")
    table = torch.zeros(2, 3, 7, device="meta", requires_grad=True)
    assert ts.sequence_log_prob(table, ids).shape == (2,)
    for loss in (
        ts.reinforce_loss(lp, lp, baseline=lp),
        ts.minimum_risk_loss(lp, lp),
        ts.dpo_loss(lp, lp, lp, lp, label_smoothing=0.1),
    ):
        assert loss.device.type == "meta"
        loss.backward()
        assert lp.grad.device.type == "meta"
    rng = torch.Generator().manual_seed(0)
    assert ts.scheduled_sampling(ids, ids, keep_prob=0.5, rng=rng).device.type == "meta"


def test_inputs_are_not_modified_and_other_devices_refused():
    sides = [draws(30 + i, 4) for i in range(4)]
    copies = [side.clone() for side in sides]
    ts.dpo_loss(*sides)
    ts.reinforce_loss(*sides[:2], baseline=sides[2])
    ts.minimum_risk_loss(*sides[:2])
    assert all(torch.equal(a, b) for a, b in zip(sides, copies, strict=True))
    away = sides[0].to("meta")
    for call in (lambda: ts.reinforce_loss(sides[0], away), lambda: ts.dpo_loss(*sides[:3], away)):
        with pytest.raises(ValueError, match=r"is on meta and \w+ on cpu; move one of them"):
            call()


def test_what_is_no_tensor_is_refused_by_name():
    lp = draws(40, 3)
    with pytest.raises(TypeError, match=r"rewards must be a torch\.Tensor, not list"):
        ts.reinforce_loss(lp, [1.0, 2.0, 3.0])
    with pytest.raises(TypeError, match=r"targets must be a torch\.Tensor, not ndarray"):
        ts.sequence_log_prob(lp, np.array([1]))
