"""PyTorch's own sample inputs of nn.CrossEntropyLoss in both paths, and each place where the contract differs from it.

PyTorch has the classes on axis 1, the contract has them last. Apart from that the two agree on every sample but these,
and each difference is asserted for what it is:

* with nothing to average (all targets ignored, all weights 0) a mean is NaN there and 0 here, with zero gradient;
* negative class weights are taken there and refused here (the samples draw weights of either sign);
* a class of probability 0 makes a smoothed loss infinite there and costs nothing here, unless it is the target;
* probabilities as targets get a gradient there and are constants here, and `ignore_index` does not concern them here;
* integer targets narrower than int64 are refused there and are classes here;
* half-precision logits give a half-precision loss there and float32 here.
"""

import pytest
import torch
from torch.nn import functional as F
from torch.testing._internal.common_modules import module_db

import lmloss.numpy as ln
import lmloss.torch as lt
from tests.paths import assert_close

NAN, INF = float("nan"), float("inf")
SEEDS = (0, 6)  # weights of both signs and an ignored batch; positive weights


def samples(seed):
    (info,) = (entry for entry in module_db if entry.module_cls is torch.nn.CrossEntropyLoss)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)


SAMPLES = [(seed, sample) for seed in SEEDS for sample in samples(seed)]


def has_positive_weights(sample):
    weight = sample.constructor_input.kwargs.get("weight")
    return weight is None or bool((weight >= 0).all())


def each(chosen):
    return pytest.mark.parametrize("sample", [pytest.param(s, id=f"{i}-{s.desc}") for i, s in chosen])


def arguments(sample):
    """The leaf, the targets and PyTorch's options; weights made positive, as the contract wants them."""
    options = dict(sample.constructor_input.kwargs)
    if "weight" in options:
        options["weight"] = options["weight"].abs()
    logits, targets = sample.forward_input.args
    return logits.detach().requires_grad_(), targets.detach(), options


def in_our_layout(logits, targets, options):
    """The same with the classes last, and under our names."""
    axis = min(1, logits.ndim - 1)
    last = targets.movedim(axis, -1) if targets.shape == logits.shape else targets
    return logits.movedim(axis, -1), last, {"class_weight" if k == "weight" else k: v for k, v in options.items()}


def upstream_of(value):
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def in_numpy(logits, targets, options, upstream):
    """Value and gradient of the NumPy path, in our layout."""
    plain = {k: v.numpy() if torch.is_tensor(v) else v for k, v in options.items()}
    loss = ln.CrossEntropyLoss(**plain)
    return loss.forward(logits.detach().numpy(), targets.numpy()), loss.backward(upstream.numpy())


def test_there_are_as_many_samples_as_pytorch_has_and_they_reach_every_feature():
    assert len(SAMPLES) == 105 * len(SEEDS)
    options = [sample.constructor_input.kwargs for _, sample in SAMPLES]
    assert {name for given in options for name in given} == {"weight", "ignore_index", "label_smoothing", "reduction"}
    assert {given["reduction"] for given in options} == {"mean", "sum", "none"}
    shapes = {tuple(a.ndim for a in sample.forward_input.args) for _, sample in SAMPLES}
    assert shapes == {(1, 0), (2, 1), (3, 2), (4, 3), (6, 5), (2, 2), (3, 3), (4, 4), (6, 6)}
    assert all(sample.reference_fn for _, sample in SAMPLES)
    assert len({has_positive_weights(sample) for _, sample in SAMPLES if "weight" in sample.desc}) == 2


@each(SAMPLES)
def test_value_and_gradient_are_pytorchs(sample):
    logits, targets, options = arguments(sample)
    module = torch.nn.CrossEntropyLoss(**options)
    want = module(logits, targets)
    upstream = upstream_of(want)
    z, y, ours = in_our_layout(logits, targets, options)
    got = lt.cross_entropy(z, y, **ours)
    (gradient,) = torch.autograd.grad((got * upstream).sum(), logits)
    value, slope = in_numpy(z, y, ours, upstream)
    if want.isnan().any():
        assert (targets == options["ignore_index"]).all()
        assert options["reduction"] == "mean"
        assert got == value == 0
        assert not gradient.any()
        assert not slope.any()
        return  # the difference that the samples show
    (want_gradient,) = torch.autograd.grad((want * upstream).sum(), logits)
    assert_close(got.detach(), want.detach())
    assert_close(gradient, want_gradient)
    assert_close(value, want.detach())
    assert_close(slope, in_our_layout(want_gradient, targets, {})[0])
    if has_positive_weights(sample):  # the reference function knows the sample's own weights only
        assert_close(got.detach(), sample.reference_fn(module, logits, targets).detach())


@each([(seed, sample) for seed, sample in SAMPLES if not has_positive_weights(sample)])
def test_negative_class_weights_are_refused(sample):
    logits, targets, _ = arguments(sample)
    z, y, ours = in_our_layout(logits, targets, dict(sample.constructor_input.kwargs))
    message = r"class_weight\[\d\] = -\d.* must be finite and not negative"
    with pytest.raises(ValueError, match=message):
        lt.cross_entropy(z, y, **ours)
    with pytest.raises(ValueError, match=message):
        in_numpy(z, y, ours, torch.tensor(1.0))


# What the samples cannot show, or do not always


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        ([-100, -100], {}),
        ([-100, -100], {"label_smoothing": 0.15}),
        ([1, 1], {"ignore_index": 1}),
        ([1, 1], {"weight": torch.tensor([1.0, 0.0, 2.0])}),
        ([], {}),
    ],
)
def test_with_nothing_to_average_pytorchs_mean_is_nan_and_ours_is_zero(targets, options):
    logits, y = torch.randn(len(targets), 3, requires_grad=True), torch.tensor(targets, dtype=torch.int64)
    assert F.cross_entropy(logits, y, **options).isnan()
    _, _, ours = in_our_layout(logits, y, options)
    loss = lt.cross_entropy(logits, y, **ours)
    value, slope = in_numpy(logits, y, ours, torch.tensor(1.0))
    assert loss == value == 0
    assert not torch.autograd.grad(loss, logits)[0].any()
    assert not slope.any()


def test_a_masked_class_makes_pytorchs_smoothed_loss_infinite_and_costs_nothing_here():
    logits, targets = torch.tensor([[1.0, 0.5, -INF]], dtype=torch.float64, requires_grad=True), torch.tensor([0])
    theirs = F.cross_entropy(logits, targets, label_smoothing=0.15)
    assert theirs == INF
    surprisals = -torch.log_softmax(logits[0, :2].detach(), -1)
    want = 0.85 * surprisals[0] + 0.15 / 3 * surprisals.sum()
    loss = lt.cross_entropy(logits, targets, label_smoothing=0.15)
    value, slope = in_numpy(logits, targets, {"label_smoothing": 0.15}, torch.tensor(1.0))
    assert_close(loss.detach(), want)
    assert_close(value, want)
    assert_close(torch.autograd.grad(loss, logits)[0], slope)
    assert slope[0, 2] == 0


def test_probabilities_as_targets_are_variables_of_pytorch_and_constants_here():
    logits = torch.randn(2, 3, requires_grad=True)
    soft = torch.rand(2, 3).softmax(-1).requires_grad_()
    assert torch.autograd.grad(F.cross_entropy(logits, soft), soft)[0].any()
    assert torch.autograd.grad(lt.cross_entropy(logits, soft), [logits, soft], allow_unused=True)[1] is None


def test_an_ignore_index_for_probabilities_is_refused_by_pytorch_and_without_effect_here():
    logits, soft = torch.randn(2, 3), torch.rand(2, 3).softmax(-1)
    with pytest.raises(RuntimeError, match="ignore_index is not supported"):
        F.cross_entropy(logits, soft, ignore_index=1)
    assert lt.cross_entropy(logits, soft, ignore_index=1) == lt.cross_entropy(logits, soft)
    assert ln.cross_entropy(logits.numpy(), soft.numpy(), ignore_index=1) == ln.cross_entropy(
        logits.numpy(), soft.numpy()
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_narrow_integers_are_refused_by_pytorch_and_are_classes_here(dtype):
    logits, targets = torch.randn(2, 3), torch.tensor([0, 2])
    with pytest.raises(RuntimeError, match="Long or Byte"):
        F.cross_entropy(logits, targets.to(dtype))
    assert lt.cross_entropy(logits, targets.to(dtype)) == lt.cross_entropy(logits, targets)
    assert ln.cross_entropy(logits.numpy(), targets.to(dtype).numpy()) == ln.cross_entropy(
        logits.numpy(), targets.numpy()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_pytorch_a_half_precision_loss_and_float32_here(dtype):
    logits, targets = torch.randn(50, 30).to(dtype), torch.arange(50) % 30
    assert F.cross_entropy(logits, targets).dtype == dtype
    loss = lt.cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert_close(loss, F.cross_entropy(logits.double(), targets), rtol=1e-6)


def test_a_class_out_of_range_is_an_index_error_there_and_named_here():
    logits, targets = torch.randn(2, 3), torch.tensor([0, 3])
    with pytest.raises(IndexError):
        F.cross_entropy(logits, targets)
    with pytest.raises(ValueError, match=r"targets\[1\] = 3 is outside \[0, 3\)"):
        lt.cross_entropy(logits, targets)
    with pytest.raises(ValueError, match=r"targets\[1\] = 3 is outside \[0, 3\)"):
        ln.cross_entropy(logits.numpy(), targets.numpy())
