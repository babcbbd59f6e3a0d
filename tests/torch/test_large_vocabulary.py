"""What only PyTorch can do with the losses for large vocabularies: gradients, transforms, compilers, other devices."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lmloss.numpy as ln
import lmloss.torch as lt
from tests.paths import assert_close

# Forward-mode differentiation loads PyTorch's own scripted formulas, which warn.
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")]

INF, NAN = float("inf"), float("nan")
CLASSES, WIDTH = 7, 4
DRAWN = [2, 5, 2, 0]
PROBS = torch.tensor([0.05, 0.1, 0.3, 0.05, 0.2, 0.25, 0.05], dtype=torch.float64)
BIAS = torch.tensor([0.3, -1.0, 0.5, 0.0, 2.0, -0.7, 0.1], dtype=torch.float64)
TREE = lt.huffman_tree(PROBS)
TARGETS = torch.tensor([[1, 2, -100], [5, 0, 2]])
CLASSES_ONLY = TARGETS.clamp(min=0)
CUTOFFS = [2, 4]
SAMPLED = (lt.sampled_softmax_loss, lt.nce_loss)


def draws(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def sampled(function):
    def loss(hidden, weight, bias, targets=TARGETS, **options):
        common = {"num_samples": 4, "sampling_probs": PROBS.to(hidden.device), "bias": bias}
        return function(hidden, weight, targets, **{**common, **options})

    return loss


# Each function of what is learned, and the shapes of that.
FUNCTIONS = {
    "hierarchical": (
        lambda h, v: lt.hierarchical_log_prob(h, v, TREE, CLASSES_ONLY),
        [(2, 3, WIDTH), (CLASSES - 1, WIDTH)],
    ),
    "adaptive": (
        lambda h, w, p1, u1, p2, u2: lt.adaptive_log_prob(h, w, [(p1, u1), (p2, u2)], CUTOFFS),
        [(2, 3, WIDTH), (4, WIDTH), (2, WIDTH), (2, 2), (1, WIDTH), (3, 1)],
    ),
    "sampled softmax": (sampled(lt.sampled_softmax_loss), [(2, 3, WIDTH), (CLASSES, WIDTH), (CLASSES,)]),
    "noise-contrastive": (sampled(lt.nce_loss), [(2, 3, WIDTH), (CLASSES, WIDTH), (CLASSES,)]),
}
every_function = pytest.mark.parametrize("case", FUNCTIONS.values(), ids=FUNCTIONS.keys())


@pytest.fixture(autouse=True)
def fixed_samples(samples):
    samples(DRAWN)


def leaves(shapes, seed=0):
    return tuple(draws(seed + i, *shape).requires_grad_() for i, shape in enumerate(shapes))


# Gradients


@every_function
def test_first_and_second_derivatives_are_those_of_differences(case):
    function, shapes = case
    assert torch.autograd.gradcheck(function, leaves(shapes), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves(shapes))


def test_the_gradient_of_a_walk_is_its_closed_form_and_that_of_numpys_differences():
    hidden, node_weight = leaves(FUNCTIONS["hierarchical"][1])
    value = lt.hierarchical_log_prob(hidden, node_weight, TREE, CLASSES_ONLY)
    got = torch.autograd.grad(value.sum(), (hidden, node_weight))
    h, v = hidden.detach().numpy(), node_weight.detach().numpy()
    want_h, want_v = np.zeros_like(h), np.zeros_like(v)
    for index in np.ndindex(2, 3):
        y = CLASSES_ONLY[index].item()
        for node, turn in zip(TREE.nodes[y, : TREE.lengths[y]].tolist(), TREE.turns[y].tolist(), strict=False):
            pull = turn / (1 + np.exp(turn * v[node] @ h[index]))
            want_h[index] += pull * v[node]
            want_v[node] += pull * h[index]
    assert_close(got[0], want_h, rtol=1e-14)
    assert_close(got[1], want_v, rtol=1e-14)
    tree, y = ln.huffman_tree(PROBS.numpy()), CLASSES_ONLY.numpy()
    check_differences(lambda h, v: ln.hierarchical_log_prob(h, v, tree, y).sum(), (h, v), got)


def check_differences(function, arrays, gradients, step=1e-6):
    """Hold gradients against central differences of a NumPy function."""
    for i, gradient in enumerate(gradients):
        for index in np.ndindex(arrays[i].shape):
            sides = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[i][index] += sign * step
                sides.append(function(*moved))
            assert abs((sides[0] - sides[1]) / (2 * step) - gradient[index].item()) < 1e-8


def test_the_gradient_of_adaptive_log_probabilities_is_that_of_numpys_differences():
    function, shapes = FUNCTIONS["adaptive"]
    tensors = leaves(shapes)
    picked = draws(9, 2, 3, CLASSES)
    got = torch.autograd.grad((function(*tensors) * picked).sum(), tensors)

    def numpy(h, w, *rest):
        log_probs = ln.adaptive_log_prob(h, w, [rest[:2], rest[2:]], CUTOFFS)
        return (log_probs * picked.numpy()).sum()

    check_differences(numpy, [t.detach().numpy() for t in tensors], got)


def test_gradients_of_sampled_softmax_are_their_closed_form():
    tensors = leaves(FUNCTIONS["sampled softmax"][1])
    got = torch.autograd.grad(sampled(lt.sampled_softmax_loss)(*tensors, reduction="sum"), tensors)
    want = [np.zeros(t.shape) for t in tensors]
    h, w, b = (t.detach().numpy() for t in tensors)
    for index in np.ndindex(2, 3):
        y = TARGETS[index].item()
        if y == -100:
            continue
        z = w @ h[index] + b
        terms = [(y, np.exp(z[y]))] + [(s, np.exp(z[s]) / (4 * PROBS[s].item())) for s in DRAWN if s != y]
        total = sum(term for _, term in terms)
        for place, (j, term) in enumerate(terms):
            pull = term / total - (place == 0)
            want[0][index] += pull * w[j]
            want[1][j] += pull * h[index]
            want[2][j] += pull
    for ours, expected in zip(got, want, strict=True):
        assert_close(ours, expected, rtol=1e-13)


def test_gradients_of_noise_contrastive_estimation_are_their_closed_form():
    tensors = leaves(FUNCTIONS["noise-contrastive"][1])
    got = torch.autograd.grad(sampled(lt.nce_loss)(*tensors, reduction="sum"), tensors)
    want = [np.zeros(t.shape) for t in tensors]
    h, w, b = (t.detach().numpy() for t in tensors)
    for index in np.ndindex(2, 3):
        y = TARGETS[index].item()
        if y == -100:
            continue
        delta = w @ h[index] + b - np.log(4 * PROBS.numpy())
        for j, pull in [(y, -1 / (1 + np.exp(delta[y])))] + [(s, 1 / (1 + np.exp(-delta[s]))) for s in DRAWN]:
            want[0][index] += pull * w[j]
            want[1][j] += pull * h[index]
            want[2][j] += pull
    for ours, expected in zip(got, want, strict=True):
        assert_close(ours, expected, rtol=1e-13)


@pytest.mark.parametrize("function", SAMPLED)
def test_numpys_differences_are_these_gradients(function):
    tensors = leaves(FUNCTIONS["sampled softmax"][1])
    got = torch.autograd.grad(sampled(function)(*tensors), tensors)

    def numpy(h, w, b):
        options = {"num_samples": 4, "sampling_probs": PROBS.numpy(), "bias": b}
        return getattr(ln, function.__name__)(h, w, TARGETS.numpy(), **options)

    arrays = [t.detach().numpy() for t in tensors]
    assert_close(numpy(*arrays), sampled(function)(*tensors).item(), rtol=1e-14)
    check_differences(numpy, arrays, got)


@pytest.mark.parametrize("function", SAMPLED)
@pytest.mark.parametrize("filler", [NAN, INF])
@pytest.mark.parametrize("twice", [False, True])
def test_an_ignored_row_passes_no_gradient_whatever_stands_in_it(function, filler, twice):
    hidden, weight, bias = leaves(FUNCTIONS["sampled softmax"][1])
    want = torch.autograd.grad(sampled(function)(hidden, weight, bias), (hidden, weight, bias))
    with torch.no_grad():
        hidden[0, 2] = filler
    got = torch.autograd.grad(sampled(function)(hidden, weight, bias), (hidden, weight, bias), create_graph=twice)
    for ours, expected in zip(got, want, strict=True):
        assert_close(ours.detach(), expected, rtol=1e-14)
    assert (got[0][0, 2] == 0).all()


@pytest.mark.parametrize("function", SAMPLED)
@pytest.mark.parametrize("targets", [torch.full((2, 3), -100), torch.zeros(0, 3, dtype=torch.int64)], ids=str)
def test_with_nothing_to_average_the_gradient_is_zero_and_attached(function, targets):
    hidden = torch.full((*targets.shape, WIDTH), NAN, dtype=torch.float64, requires_grad=True)
    _, weight, bias = leaves(FUNCTIONS["sampled softmax"][1])
    loss = sampled(function)(hidden, weight, bias, targets)
    assert loss == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (hidden, weight, bias)))


@pytest.mark.parametrize("function", SAMPLED)
def test_an_impossible_class_gets_no_gradient_and_spoils_no_other(function):
    hidden, weight, _ = leaves(FUNCTIONS["sampled softmax"][1])
    bias = torch.where(torch.arange(CLASSES) == 2, -INF, BIAS).requires_grad_()
    each = sampled(function)(hidden, weight, bias, reduction="none")
    assert (each[TARGETS == 2] == INF).all()
    gradients = torch.autograd.grad(each.sum(), (hidden, weight, bias), create_graph=True)
    assert all(torch.isfinite(g).all() for g in gradients)
    assert (gradients[1][2] == 0).all()
    assert gradients[2][2] == 0
    assert gradients[2][5] != 0
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), (hidden, weight))
    assert all(torch.isfinite(g).all() for g in second)


@pytest.mark.parametrize("function", SAMPLED)
def test_probabilities_and_weights_are_constants(function):
    hidden, weight, bias = leaves(FUNCTIONS["sampled softmax"][1])
    probs, token_weight = PROBS.clone().requires_grad_(), torch.ones(2, 3, requires_grad=True)
    loss = sampled(function)(hidden, weight, bias, sampling_probs=probs, token_weight=token_weight)
    grads = torch.autograd.grad(loss, (probs, token_weight), allow_unused=True)
    assert grads == (None, None)


# Precision


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_gradients_that_meet_in_one_row_are_summed_in_float32(low):
    """4,096 tokens with the same target: a sum in bfloat16 would stop growing after 256 of them."""
    tokens = 4096
    hidden = torch.full((tokens, WIDTH), 0.5, dtype=low)
    targets = torch.zeros(tokens, dtype=torch.int64)
    tree = lt.huffman_tree([1, 1])
    losses = {
        "hierarchical": (1, lambda w: -lt.hierarchical_log_prob(hidden, w, tree, targets).sum()),
        "sampled softmax": (
            CLASSES,
            lambda w: lt.sampled_softmax_loss(hidden, w, targets, num_samples=4, sampling_probs=PROBS, reduction="sum"),
        ),
        "noise-contrastive": (
            CLASSES,
            lambda w: lt.nce_loss(hidden, w, targets, num_samples=4, sampling_probs=PROBS, reduction="sum"),
        ),
    }
    for rows, loss in losses.values():
        narrow = torch.zeros(rows, WIDTH, dtype=low, requires_grad=True)
        wide = torch.zeros(rows, WIDTH, requires_grad=True)
        (got,), (want,) = (torch.autograd.grad(loss(w), w) for w in (narrow, wide))
        assert got.dtype == low
        assert_close(got.float(), want, rtol=torch.finfo(low).eps)


@every_function
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_value_nor_gradient(case, low):
    function, shapes = case
    tensors = [t.detach().float().requires_grad_() for t in leaves(shapes)]
    want = function(*tensors)
    with torch.autocast("cpu", dtype=low):
        got = function(*tensors)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)
    gradients = torch.autograd.grad(got.sum(), tensors), torch.autograd.grad(want.sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@every_function
def test_gradients_keep_the_dtype_of_their_inputs(case):
    function, shapes = case
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float16, torch.bfloat16, torch.float32]
    tensors = [t.detach().to(d).requires_grad_() for t, d in zip(leaves(shapes), dtypes, strict=False)]
    value = function(*tensors)
    assert value.dtype == torch.float32
    assert [g.dtype for g in torch.autograd.grad(value.sum(), tensors)] == [t.dtype for t in tensors]


# Memory: what is read, and what is formed


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any operation returned in one tensor, and how many rows were looked up."""

    numbers = rows = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= tensor.numel():
                self.numbers = max(self.numbers, tensor.numel())
        if operation is torch.ops.aten.embedding.default:
            self.rows += result.shape[:-1].numel()
        return result


@pytest.mark.parametrize("classes", [1000, 64000])
def test_rows_read_grow_with_the_depth_of_the_tree_or_not_at_all(classes):
    tokens, width = 100, 2
    shares = 1 / torch.arange(1, classes + 1, dtype=torch.float64)
    probs, tree = shares / shares.sum(), lt.huffman_tree(shares)
    hidden, weight = draws(1, tokens, width).requires_grad_(), draws(2, classes, width).requires_grad_()
    targets = torch.from_numpy(np.random.default_rng(3).integers(classes, size=tokens))
    calls = {
        lambda: lt.hierarchical_log_prob(hidden, weight[1:], tree, targets).sum(): tokens * tree.nodes.shape[1],
        lambda: lt.sampled_softmax_loss(hidden, weight, targets, num_samples=4, sampling_probs=probs): tokens + 4,
        lambda: lt.nce_loss(hidden, weight, targets, num_samples=4, sampling_probs=probs): tokens + 4,
    }
    assert tree.nodes.shape[1] == {1000: 13, 64000: 19}[classes]
    for call, rows in calls.items():
        with Largest() as seen:
            call().backward()
        assert seen.rows == rows
        assert seen.numbers == max(classes, rows) * width, "the weight's gradient or the rows, not tokens times classes"


# Transforms, compilers, devices


@every_function
def test_it_compiles_in_one_piece(case):
    function, shapes = case
    tensors = leaves(shapes)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = torch.compile(function, fullgraph=True, backend="aot_eager")(*tensors)
        gradients = torch.autograd.grad(got.sum(), tensors)
    want = function(*tensors)
    assert_close(got.detach(), want.detach())
    for ours, expected in zip(gradients, torch.autograd.grad(want.sum(), tensors), strict=True):
        assert_close(ours, expected)


@every_function
def test_functional_transforms_give_the_same_numbers(case):
    function, shapes = case
    first, *rest = leaves(shapes)
    stack = torch.stack([first, 2 * first, -first]).detach()
    rest = [t.detach() for t in rest]
    states = [h.clone().requires_grad_() for h in stack]
    want = torch.stack([function(h, *rest).sum() for h in states])
    gradients = torch.autograd.grad(want.sum(), states)

    def total(h, *others):
        return function(h, *others).sum()

    in_dims = (0, *(None for _ in rest))
    assert_close(torch.func.vmap(total, in_dims=in_dims)(stack, *rest), want.detach())
    got = torch.func.vmap(torch.func.grad(total), in_dims=in_dims)(stack, *rest)
    assert_close(got, torch.stack(gradients))
    jacobians = torch.func.jacfwd(total)(stack[0], *rest), torch.func.jacrev(total)(stack[0], *rest)
    assert_close(jacobians[0], gradients[0])
    assert_close(jacobians[1], gradients[0])


@pytest.mark.parametrize("function", SAMPLED)
def test_examples_may_have_their_own_targets_under_vmap(function):
    hidden, weight, bias = (t.detach() for t in leaves(FUNCTIONS["sampled softmax"][1]))
    each = torch.func.vmap(lambda h, y: sampled(function)(h, weight, bias, y))(hidden, TARGETS)
    want = [sampled(function)(h, weight, bias, y) for h, y in zip(hidden, TARGETS, strict=True)]
    assert_close(each, torch.stack(want))
    walks = torch.func.vmap(lambda h, y: lt.hierarchical_log_prob(h, weight[1:], TREE, y))(hidden, CLASSES_ONLY)
    assert_close(walks, lt.hierarchical_log_prob(hidden, weight[1:], TREE, CLASSES_ONLY))


@every_function
def test_it_runs_where_there_are_no_values(case, monkeypatch):
    monkeypatch.undo()  # draw as always
    function, shapes = case
    tensors = [torch.empty(*shape, device="meta", requires_grad=True) for shape in shapes]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if function.__name__ == "loss":
            value = function(*tensors, TARGETS.to("meta"), rng=torch.Generator())
        elif len(shapes) == 2:
            value = lt.hierarchical_log_prob(*tensors, TREE, CLASSES_ONLY.to("meta"))
        else:
            value = function(*tensors)
    assert value.device.type == "meta"
    gradients = torch.autograd.grad(value.sum(), tensors)
    assert all(g.shape == t.shape for g, t in zip(gradients, tensors, strict=True))


@pytest.mark.parametrize("function", SAMPLED)
def test_compiled_draws_are_pytorchs_own(function, monkeypatch):
    monkeypatch.undo()
    hidden, weight, bias = (t.detach() for t in leaves(FUNCTIONS["sampled softmax"][1]))
    torch._dynamo.reset()
    compiled = torch.compile(lambda h: sampled(function)(h, weight, bias), fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    first, second = compiled(hidden), compiled(hidden)
    torch.manual_seed(0)
    assert compiled(hidden) == first
    assert first != second
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(lambda h, y: sampled(function)(h, weight, bias, y))(hidden, TARGETS)
    for randomness in ("same", "different"):
        each = torch.vmap(lambda h, y: sampled(function)(h, weight, bias, y), randomness=randomness)(hidden, TARGETS)
        assert torch.isfinite(each).all()


def test_a_tree_moves_where_it_is_told_or_needed():
    assert all(part.device.type == "meta" for part in TREE.to("meta"))
    hidden, node_weight = torch.empty(3, WIDTH, device="meta"), torch.empty(CLASSES - 1, WIDTH, device="meta")
    targets = torch.empty(3, dtype=torch.int64, device="meta")
    assert lt.hierarchical_log_prob(hidden, node_weight, TREE, targets).device.type == "meta"


# Refusals of what only PyTorch has


def test_other_devices_and_what_is_no_tensor_are_refused_by_name():
    hidden, weight, bias = (t.detach() for t in leaves(FUNCTIONS["sampled softmax"][1]))
    away = "is on meta and hidden on cpu; move one of them"
    options = {"num_samples": 4, "sampling_probs": PROBS}
    for function in SAMPLED:
        for name, call in {
            "weight": lambda f=function: f(hidden, weight.to("meta"), TARGETS, **options),
            "targets": lambda f=function: f(hidden, weight, TARGETS.to("meta"), **options),
            "bias": lambda f=function: f(hidden, weight, TARGETS, bias=bias.to("meta"), **options),
            "sampling_probs": lambda f=function: f(
                hidden, weight, TARGETS, num_samples=4, sampling_probs=PROBS.to("meta")
            ),
        }.items():
            with pytest.raises(ValueError, match=f"^{name} {away}$"):
                call()
        with pytest.raises(TypeError, match=r"^targets must be a torch\.Tensor, not list$"):
            function(hidden, weight, [[0] * 3] * 2, **options)
        with pytest.raises(TypeError, match=r"rng must be a torch\.Generator"):
            function(hidden, weight, TARGETS, rng=np.random.default_rng(0), **options)
        with pytest.raises(ValueError, match=r"denominator = -2\.0 must not be negative"):
            function(hidden, weight, TARGETS, denominator=torch.tensor(-2.0), **options)
    with pytest.raises(ValueError, match=f"^node_weight {away}$"):
        lt.hierarchical_log_prob(hidden, weight[1:].to("meta"), TREE, CLASSES_ONLY)
    with pytest.raises(ValueError, match=f"^targets {away}$"):
        lt.hierarchical_log_prob(hidden, weight[1:], TREE, CLASSES_ONLY.to("meta"))
    with pytest.raises(ValueError, match=rf"^tails\[0\]\[1\] {away}$"):
        lt.adaptive_log_prob(hidden, weight[:3], [(weight[:2], torch.ones(5, 2, device="meta"))], [2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@every_function
def test_an_accelerator_gives_the_same_numbers(case):
    function, shapes = case
    tensors = leaves(shapes)
    there = [t.detach().cuda().requires_grad_() for t in tensors]
    want = function(*tensors)
    if function.__name__ == "loss":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lmloss.torch._candidates._draw", lambda *_: torch.tensor(DRAWN).cuda())
            got = function(*there, TARGETS.cuda())
    elif len(shapes) == 2:
        got = lt.hierarchical_log_prob(*there, TREE, CLASSES_ONLY.cuda())
    else:
        got = function(*there)
    assert_close(got.detach().cpu(), want.detach(), rtol=1e-11)
    pairs = zip(torch.autograd.grad(got.sum(), there), torch.autograd.grad(want.sum(), tensors), strict=True)
    for ours, expected in pairs:
        assert_close(ours.cpu(), expected, rtol=1e-11)


@pytest.mark.parametrize("loss", [lt.sampled_softmax_loss, lt.nce_loss])
def test_gradients_of_half_weights_that_cancel_are_rounded_once(loss):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(512, 4, generator=generator)
    weight = torch.randn(10, 4, generator=generator).bfloat16()
    targets = torch.randint(10, (512,), generator=generator)
    got = []
    for matrix in (weight.clone(), weight.float()):
        matrix.requires_grad_()
        rng = torch.Generator().manual_seed(1)
        options = {"num_samples": 64, "sampling_probs": torch.full((10,), 0.1), "rng": rng}
        loss(hidden, matrix, targets, reduction="sum", **options).backward()
        got.append(matrix.grad)
    assert torch.equal(got[0], got[1].bfloat16())


def test_an_infinite_score_before_a_ways_end_leaves_no_nan_in_the_gradient():
    tree = lt.huffman_tree([4, 2, 1, 1])
    hidden = torch.full((1, 1), 1e20, requires_grad=True)
    nodes = torch.tensor([[1e20], [0.0], [0.0]], requires_grad=True)
    value = lt.hierarchical_log_prob(hidden, nodes, tree, torch.tensor([0]))
    value.sum().backward()
    assert value.item() == 0
    assert not hidden.grad.any()
    assert not nodes.grad.any()
