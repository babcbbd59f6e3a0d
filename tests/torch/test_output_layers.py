"""The two output layers against the log-probabilities they stand on, and PyTorch's adaptive softmax."""

import copy
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import lmloss.torch as lt
from lmloss.torch import output_layers
from tests.paths import assert_close

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]

INF, NAN = float("inf"), float("nan")
WIDTH, CLASSES, CUTOFFS = 16, 30, [6, 14]
SHARES = [1 / rank for rank in range(1, CLASSES + 1)]


def hierarchical(dtype=torch.float64):
    torch.manual_seed(0)
    layer = lt.HierarchicalSoftmax(WIDTH, SHARES).to(dtype)
    nn.init.normal_(layer.node_weight, std=0.5)
    return layer


def adaptive(dtype=torch.float64):
    torch.manual_seed(0)
    return lt.AdaptiveSoftmax(WIDTH, CLASSES, CUTOFFS, div_value=2.0).to(dtype)


LAYERS = {"hierarchical": hierarchical, "adaptive": adaptive}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())
OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"reduction": "sequence"},
    {"denominator": 11.0},
    {"denominator": torch.tensor(0.0)},
    {"ignore_index": 3},
    {"token_weight": torch.tensor([[0.5, 0, 2, 1], [1, 3, 0, 0], [0, 0, 0, 0]])},
    {"token_weight": torch.tensor([[True, False, True, True]] * 3), "reduction": "sequence"},
]


def batch(seed=1):
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 4, WIDTH, generator=rng, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 5, 6, 13], [14, 29, -100, 3], [7, 3, 20, 1]])
    return hidden, targets


def gradients(value, layer, *more):
    return torch.autograd.grad(value.sum(), [*more, *layer.parameters()])


# Values and gradients


@every_layer
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_loss_is_the_cross_entropy_of_all_log_probabilities_with_every_option(make, options):
    layer, (hidden, targets) = make(), batch()
    if "ignore_index" in options:
        targets[1, 2] = 17
    value = layer(hidden, targets, **options)
    want = lt.cross_entropy(layer.log_prob(hidden), targets, **options)
    assert value.dtype == torch.float64
    assert_close(value.detach(), want.detach(), rtol=1e-14)
    for ours, expected in zip(gradients(value, layer, hidden), gradients(want, layer, hidden), strict=True):
        assert_close(ours, expected, rtol=1e-13)


@every_layer
def test_log_probabilities_of_all_classes_are_those_of_each(make):
    layer, (hidden, _) = make(), batch()
    log_probs = layer.log_prob(hidden)
    assert log_probs.shape == (3, 4, CLASSES)
    assert_close(log_probs.detach().exp().sum(-1), np.ones((3, 4)), rtol=1e-14)
    for y in range(CLASSES):
        losses = layer(hidden, torch.full((3, 4), y), reduction="none", ignore_index=None)
        assert_close(-losses.detach(), log_probs[..., y].detach(), rtol=1e-14)


def test_the_layers_stand_on_the_functions():
    hidden, targets = batch()
    layer = hierarchical()
    want = lt.hierarchical_log_prob(hidden, layer.node_weight, layer.tree, targets.clamp(min=0))
    assert torch.equal(layer(hidden, targets.clamp(min=0), reduction="none"), -want)
    layer = adaptive()
    want = lt.adaptive_log_prob(hidden, layer.head.weight, layer.tails, CUTOFFS)
    assert torch.equal(layer.log_prob(hidden), want)


@every_layer
def test_first_and_second_derivatives_are_those_of_differences(make):
    layer, (hidden, targets) = make(), batch()
    names, values = zip(*((n, p.detach().clone().requires_grad_()) for n, p in layer.named_parameters()), strict=True)
    small = hidden[:1].detach().requires_grad_()

    def loss(hidden, *parameters):
        arguments = hidden, targets[1:2]
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), arguments)

    assert torch.autograd.gradcheck(loss, (small, *values))
    assert torch.autograd.gradgradcheck(loss, (small, *values), fast_mode=True)
    assert torch.autograd.gradcheck(loss, (small, *values), check_forward_ad=True, fast_mode=True)


# PyTorch's adaptive softmax


@pytest.mark.parametrize(
    ("width", "classes", "cutoffs", "div_value"),
    [(16, 30, [6, 14], 2.0), (16, 30, [1], 4.0), (64, 100, [10, 11, 99], 4.0), (8, 12, [4, 8], 1.0), (9, 20, [5], 1.5)],
)
def test_it_is_pytorchs_with_the_same_weights(width, classes, cutoffs, div_value):
    torch.manual_seed(1)
    theirs = nn.AdaptiveLogSoftmaxWithLoss(width, classes, cutoffs, div_value=div_value).double()
    torch.manual_seed(1)
    ours = lt.AdaptiveSoftmax(width, classes, cutoffs, div_value=div_value).double()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), "the same shapes in the same order, and the same first values"
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    hidden = torch.randn(50, width, dtype=torch.float64, requires_grad=True)
    targets = torch.linspace(0, classes - 1, 50).long()  # some in each cluster
    assert_close(ours.log_prob(hidden).detach(), theirs.log_prob(hidden).detach(), rtol=1e-13)
    value, want = ours(hidden, targets), theirs(hidden, targets).loss
    assert_close(value.detach(), want.detach(), rtol=1e-13)
    pairs = zip(gradients(value, ours, hidden), gradients(want, theirs, hidden), strict=True)
    for mine, expected in pairs:
        assert_close(mine, expected, rtol=1e-12)
    picked = torch.randn(50, classes, dtype=torch.float64)
    pairs = zip(
        gradients(ours.log_prob(hidden) * picked, ours, hidden),
        gradients(theirs.log_prob(hidden) * picked, theirs, hidden),
        strict=True,
    )
    for mine, expected in pairs:
        assert_close(mine, expected, rtol=1e-12)
    theirs.load_state_dict(ours.state_dict())


class Scored:
    """Counts the logits that cross-entropies were taken of, and of how many rows."""

    def __init__(self, monkeypatch):
        self.shapes = []
        original = output_layers.cross_entropy

        def counting(logits, targets, **options):
            self.shapes.append(tuple(logits.shape))
            return original(logits, targets, **options)

        monkeypatch.setattr(output_layers, "cross_entropy", counting)


def test_a_token_is_scored_in_its_own_cluster_and_an_ignored_one_nowhere(monkeypatch):
    scored, layer, (hidden, targets) = Scored(monkeypatch), adaptive(), batch()
    layer(hidden, targets)
    assert scored.shapes == [(11, 8), (3, 8), (3, 16)]


def test_natural_text_opens_few_clusters(monkeypatch):
    """Exact counts of logits: for words by Zipf's law the head takes most, and the work is a fraction of the full."""
    classes, cutoffs, tokens = 50000, [2000, 10000], 400
    shares = 1 / torch.arange(1, classes + 1, dtype=torch.float64)
    targets = torch.multinomial(shares, tokens, replacement=True, generator=torch.Generator().manual_seed(2))
    layer = lt.AdaptiveSoftmax(16, classes, cutoffs)
    scored = Scored(monkeypatch)
    layer(torch.zeros(tokens, 16), targets)
    rows = [shape[0] for shape in scored.shapes]
    assert rows[1:] == [
        ((targets >= a) & (targets < b)).sum().item() for a, b in itertools.pairwise([*cutoffs, classes])
    ]
    assert rows[0] == tokens
    work = sum(math.prod(shape) for shape in scored.shapes)
    assert work < 0.25 * tokens * classes


def test_weights_of_clusters_without_targets_are_not_read_and_get_zeros():
    layer, (hidden, _) = adaptive(), batch()
    with torch.no_grad():
        layer.tail[1][1].weight.fill_(NAN)
    value = layer(hidden, torch.full((3, 4), 7))
    assert value.isfinite()
    got = dict(zip((n for n, _ in layer.named_parameters()), gradients(value, layer), strict=True))
    assert all((got[f"tail.1.{i}.weight"] == 0).all() for i in (0, 1)), (
        "zeros, not None: every worker has every gradient"
    )
    assert all(g.isfinite().all() for g in got.values())
    assert got["tail.0.1.weight"].any()


def test_weights_of_clusters_without_targets_reach_no_token_of_a_compiled_layer():
    layer, (hidden, _) = adaptive(), batch()
    with torch.no_grad():
        layer.tail[1][1].weight.fill_(NAN)
    targets = torch.full((3, 4), 7)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = torch.compile(layer, fullgraph=True, backend="aot_eager")(hidden, targets)
        got = gradients(value, layer, hidden)
    want = layer(hidden, targets)
    assert_close(value.detach(), want.detach(), rtol=1e-14)
    named = zip(["hidden", *dict(layer.named_parameters())], got, gradients(want, layer, hidden), strict=True)
    for name, ours, expected in named:
        if not name.startswith("tail.1"):
            assert_close(ours, expected, rtol=1e-13)


# Ignored rows, empty batches


@every_layer
@pytest.mark.parametrize("filler", [NAN, INF, 1e300])
def test_an_ignored_row_costs_nothing_and_passes_nothing_whatever_stands_in_it(make, filler):
    layer, (hidden, targets) = make(), batch()
    want = gradients(layer(hidden, targets), layer, hidden)
    with torch.no_grad():
        hidden[1, 2] = filler
    losses = layer(hidden, targets, reduction="none")
    assert losses[1, 2] == 0
    got = gradients(layer(hidden, targets), layer, hidden)
    assert (got[0][1, 2] == 0).all()
    for ours, expected in zip(got, want, strict=True):
        assert torch.equal(ours, expected)
    weight = torch.ones(3, 4)
    weight[1, 2] = 0
    got = gradients(layer(hidden, targets.clamp(min=0), token_weight=weight), layer, hidden)
    assert all(torch.equal(ours, expected) for ours, expected in zip(got, want, strict=True))


@every_layer
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "sequence"])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_with_nothing_to_average_loss_and_gradient_are_zero(make, reduction, shape):
    layer, hidden = make(), torch.full((*shape, WIDTH), NAN, dtype=torch.float64, requires_grad=True)
    value = layer(hidden, torch.full(shape, -100), reduction=reduction)
    assert value.shape == {"none": shape, "sequence": shape[:-1]}.get(reduction, ())
    assert (value == 0).all()
    assert all((g == 0).all() for g in gradients(value, layer, hidden))


@every_layer
def test_an_undefined_row_is_undefined_alone(make):
    layer, (hidden, targets) = make(), batch()
    with torch.no_grad():
        hidden[0, 1] = NAN
    losses = layer(hidden, targets, reduction="none")
    assert losses[0, 1].isnan()
    assert losses.isnan().sum() == 1


@every_layer
def test_a_single_token_needs_no_axes(make):
    layer, (hidden, targets) = make(), batch()
    one = layer(hidden[0, 2], targets[0, 2])
    assert_close(one.detach(), layer(hidden, targets, reduction="none")[0, 2].detach(), rtol=1e-14)
    assert layer.log_prob(hidden[0, 2]).shape == (CLASSES,)


# Precision


@every_layer
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_narrow_numbers_are_computed_in_float32(make, low):
    layer, (hidden, targets) = make(low), batch()
    narrow = hidden.detach().to(low).requires_grad_()
    value = layer(narrow, targets)
    assert value.dtype == layer.log_prob(narrow).dtype == torch.float32
    wide = copy.deepcopy(layer).double()
    want = wide(narrow.double(), targets)
    assert_close(value.detach(), want.detach(), rtol=1e-6)
    got = gradients(value, layer, narrow)
    assert all(g.dtype == low for g in got)
    for ours, expected in zip(got[1:], gradients(want, wide), strict=True):
        assert_close(ours.float(), expected, rtol=torch.finfo(low).eps)


@every_layer
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_under_autocast_the_loss_is_that_of_float32(make, low):
    layer, (hidden, targets) = make(torch.float32), batch()
    hidden = hidden.detach().float().requires_grad_()
    want = layer(hidden, targets)
    with torch.autocast("cpu", dtype=low):
        value = layer(hidden, targets)
        assert torch.equal(layer.log_prob(hidden), layer.log_prob(hidden).float())
    assert value.dtype == torch.float32
    assert torch.equal(value, want)


def test_a_vocabulary_of_the_usual_size_in_float32():
    torch.manual_seed(3)
    classes = 50257
    shares = 1 / torch.arange(1, classes + 1)
    hidden, targets = torch.randn(8, WIDTH), torch.tensor([0, 1, 10, 100, 1000, 10000, 50255, 50256])
    layers = lt.HierarchicalSoftmax(WIDTH, shares), lt.AdaptiveSoftmax(WIDTH, classes, [1000, 10000], div_value=2.0)
    nn.init.normal_(layers[0].node_weight)
    for layer in layers:
        value = layer(hidden, targets, reduction="none")
        want = copy.deepcopy(layer).double()(hidden.double(), targets, reduction="none")
        assert_close(value.detach(), want.detach(), rtol=2e-6)
        total = layer.log_prob(hidden).detach().double().exp().sum(-1)
        assert_close(total, torch.ones(8), rtol=1e-5)


# Modules


def test_a_new_tree_gives_every_class_about_its_share():
    counts = torch.tensor([8, 4, 2, 1, 1])
    layer = lt.HierarchicalSoftmax(WIDTH, counts)
    assert_close(layer.log_prob(torch.randn(WIDTH)).detach().exp(), counts / 16, rtol=1e-6)
    hidden = torch.randn(16, WIDTH)
    loss = layer(hidden, torch.arange(5).repeat_interleave(counts))
    assert loss.item() == pytest.approx(lt.entropy(counts / 16).item(), rel=1e-6)


def test_a_lone_class_costs_nothing():
    layer = lt.HierarchicalSoftmax(WIDTH, [3])
    hidden = torch.randn(2, WIDTH, requires_grad=True)
    loss = layer(hidden, torch.zeros(2, dtype=torch.int64))
    assert loss == 0
    assert all((g == 0).all() for g in gradients(loss, layer, hidden))
    assert torch.equal(layer.log_prob(hidden), torch.zeros(2, 1))


def test_the_tree_is_part_of_the_state():
    first, second = hierarchical(), lt.HierarchicalSoftmax(WIDTH, torch.ones(32))
    assert set(first.state_dict()) == {"node_weight", "nodes", "turns", "lengths"}
    other = lt.HierarchicalSoftmax(WIDTH, SHARES).double()
    other.load_state_dict(first.state_dict())
    hidden, targets = batch()
    assert torch.equal(other(hidden, targets), first(hidden, targets))
    with pytest.raises(RuntimeError, match="size mismatch"):
        second.load_state_dict(first.state_dict())
    assert first.half().turns.dtype == torch.int8


@every_layer
def test_the_layer_moves_copies_and_learns(make):
    layer, (hidden, targets) = make(), batch()
    assert torch.equal(copy.deepcopy(layer)(hidden, targets), layer(hidden, targets))
    optimizer = torch.optim.Adam([*layer.parameters(), hidden], lr=0.1)
    before = layer(hidden, targets).item()
    for _ in range(60):
        optimizer.zero_grad()
        layer(hidden, targets).backward()
        optimizer.step()
    assert layer(hidden, targets).item() < 0.1 * before
    layer.to("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = layer(torch.empty(3, 4, WIDTH, device="meta"), targets.to("meta"))
        assert loss.device.type == layer.log_prob(torch.empty(3, 4, WIDTH, device="meta")).device.type == "meta"
        loss.backward()
    assert all(p.grad.device.type == "meta" for p in layer.parameters())


@every_layer
def test_it_is_made_where_the_context_says(make):
    with torch.device("meta"):
        layer = make()
    assert all(t.device.type == "meta" for t in layer.state_dict().values())


@every_layer
def test_the_layer_compiles_in_one_piece(make):
    layer, (hidden, targets) = make(), batch()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = torch.compile(layer, fullgraph=True, backend="aot_eager")(hidden, targets)
        got = gradients(value, layer, hidden)
        log_probs = torch.compile(layer.log_prob, fullgraph=True, backend="aot_eager")(hidden)
    want = layer(hidden, targets)
    assert_close(value.detach(), want.detach(), rtol=1e-14)
    assert_close(log_probs.detach(), layer.log_prob(hidden).detach(), rtol=1e-14)
    for ours, expected in zip(got, gradients(want, layer, hidden), strict=True):
        assert_close(ours, expected, rtol=1e-13)


@every_layer
@pytest.mark.parametrize("filler", [0.0, NAN])
def test_functional_transforms_give_the_same_numbers(make, filler):
    layer, (hidden, targets) = make(), batch()
    with torch.no_grad():
        hidden[1, 2] = filler
    each = torch.stack([layer(h, y) for h, y in zip(hidden, targets, strict=True)])
    assert_close(torch.func.vmap(layer)(hidden, targets).detach(), each.detach(), rtol=1e-14)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, h, y):
        return torch.func.functional_call(layer, parameters, (h, y))

    got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, hidden.detach(), targets)
    for i in range(3):
        want = (
            gradients(each[i], layer) if i == 2 else torch.autograd.grad(each[i], layer.parameters(), retain_graph=True)
        )
        for ours, expected in zip(got.values(), want, strict=True):
            assert_close(ours[i], expected, rtol=1e-12)


def test_what_a_layer_is_shows_in_its_repr():
    assert repr(hierarchical()) == "HierarchicalSoftmax(in_features=16, vocab_size=30)"
    assert repr(adaptive()).startswith("AdaptiveSoftmax(\n  vocab_size=30, cutoffs=[6, 14], div_value=2.0")


# Refusals


@every_layer
def test_what_does_not_fit_is_refused_by_name(make):
    layer, (hidden, targets) = make(), batch()

    def words(hidden=hidden, targets=targets, **options):
        with pytest.raises((TypeError, ValueError)) as caught:
            layer(hidden, targets, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    why = "in_features = 16 numbers for each token"
    assert words(hidden=hidden[..., :5]) == f"hidden has shape (3, 4, 5); expected (3, 4, 16), {why}"
    assert words(hidden=hidden.long()).startswith("hidden must be floating point")
    assert words(hidden=[1.0]) == "hidden must be a torch.Tensor, not list"
    assert words(targets=targets[0]) == "targets has shape (4,); expected (3, 4), one class for each row of hidden"
    assert words(targets=targets + 25) == "targets[0, 1] = 30 is outside [0, 30); ignore_index is -100"
    assert "defined for classes, not distributions" in words(targets=targets.double())
    assert words(targets=targets.to("meta")) == "targets is on meta and hidden on cpu; move one of them"
    assert "reduction = 'average'" in words(reduction="average")
    assert "denominator goes with" in words(reduction="sum", denominator=3.0)
    assert "denominator = -1.0" in words(denominator=-1.0)
    assert "token_weight[0, 0]" in words(token_weight=torch.full((3, 4), -1.0))
    with pytest.raises(ValueError, match=r"expected \(3, 4, 16\)"):
        layer.log_prob(hidden[..., :5])
    with pytest.raises(TypeError, match="label_smoothing"):
        layer(hidden, targets, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((0, 30, [6]), {}, "in_features = 0 must be at least 1"),
        ((16, 30.0, [6]), {}, "vocab_size = 30.0 is not an integer"),
        ((16, 30, [6, 30]), {}, "cutoffs[1] = 30 must be less than vocab_size = 30: the last cluster runs"),
        ((16, 30, [6, 3]), {}, "cutoffs[1] = 3 must be greater than cutoffs[0] = 6"),
        ((16, 30, []), {}, "cutoffs is empty"),
        ((16, 30, [6, 10, 20]), {}, "div_value = 4.0 leaves the cluster of cutoffs[2] no features: in_features = 16"),
        ((16, 30, [6]), {"div_value": 0}, "div_value = 0 must be greater than 0"),
    ],
)
def test_an_adaptive_softmax_that_cannot_be_is_refused(arguments, options, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        lt.AdaptiveSoftmax(*arguments, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tree_of_nothing_is_refused():
    with pytest.raises(ValueError, match="in_features = 0 must be at least 1"):
        lt.HierarchicalSoftmax(0, [1, 2])
    with pytest.raises(ValueError, match="counts are all 0"):
        lt.HierarchicalSoftmax(4, [0, 0])
