"""The contract of InfoNCE, in both paths, against closed forms, sixty-digit arithmetic and PyTorch's cross-entropy."""

import inspect
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lmloss.numpy.contrastive import info_nce_loss as numpy_loss
from lmloss.torch.contrastive import info_nce_loss as torch_loss
from tests.oracle import exact, mp
from tests.paths import PATHS, assert_close

pytestmark = pytest.mark.filterwarnings("error")

INF, NAN = float("inf"), float("nan")
OPTIONS = [
    {"with_negatives": with_negatives, "symmetric": symmetric, "reduction": reduction}
    for with_negatives in (False, True)
    for symmetric in (False, True)
    for reduction in ("mean", "sum", "none")
]
PRECISIONS = [(p, dtype) for p in PATHS for dtype in p.dtypes]


def call(path, queries, keys, **options):
    if path.name == "numpy":
        return numpy_loss(queries, keys, **options)
    return torch_loss(path._tensor(queries), path._tensor(keys), **{k: path._tensor(v) for k, v in options.items()})


def number(path, queries, keys, **options):
    return path.to_numpy(call(path, queries, keys, **options))


def vectors(seed, *sizes, width=6):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, width)) * rng.uniform(0.1, 10, size=(size, 1)) for size in sizes]


def tensors(seed, *sizes, width=6, grad=True):
    return [torch.from_numpy(v).requires_grad_(grad) for v in vectors(seed, *sizes, width=width)]


def exact_cosine(a, b):
    length = mp.sqrt(mp.fsum(v * v for v in a)) * mp.sqrt(mp.fsum(v * v for v in b))
    return mp.fsum(x * y for x, y in zip(a, b, strict=True)) / length if length else mp.mpf(0)


def exact_rows(queries, keys, negatives, temperature):
    losses = []
    for i, query in enumerate(queries):
        scores = [mp.exp(exact_cosine(query, other) / temperature) for other in [*keys, *negatives]]
        losses.append(-mp.log(scores[i] / mp.fsum(scores)))
    return losses


def exact_loss(queries, keys, negatives, temperature, symmetric, reduction):
    losses = exact_rows(queries, keys, negatives, temperature)
    if symmetric:
        backwards = exact_rows(keys, queries, [], temperature)
        losses = [(a + b) / 2 for a, b in zip(losses, backwards, strict=True)]
    if reduction == "none":
        return losses
    return mp.fsum(losses) / (len(losses) if reduction == "mean" else 1)


def exact_array(array):
    return [exact(row) for row in np.asarray(array, dtype=np.float64)]


# Values


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("temperature", [0.07, 1.0, 5.0])
def test_values_are_those_of_exact_arithmetic(path, options, temperature):
    queries, keys, others = vectors(1, 4, 4, 3)
    given_negatives = others if options["with_negatives"] else None
    symmetric, reduction = options["symmetric"], options["reduction"]
    inside = [exact_array(v) for v in (queries, keys, others if options["with_negatives"] else np.zeros((0, 6)))]
    want = exact_loss(*inside, mp.mpf(temperature), symmetric, reduction)
    got = number(
        path,
        queries,
        keys,
        negatives=given_negatives,
        temperature=temperature,
        symmetric=symmetric,
        reduction=reduction,
    )
    assert_close(got, [float(v) for v in want] if reduction == "none" else float(want))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_pytorchs_cross_entropy_of_normalised_vectors(path, options):
    queries, keys, others = tensors(3, 7, 7, 5, grad=False)
    reduction = options["reduction"]
    candidates = torch.cat((keys, others)) if options["with_negatives"] else keys
    scores = F.cosine_similarity(queries[:, None], candidates, dim=-1) / 0.2
    want = F.cross_entropy(scores, torch.arange(7), reduction=reduction)
    if options["symmetric"]:
        want = (want + F.cross_entropy(scores[:, :7].T, torch.arange(7), reduction=reduction)) / 2
    got = number(
        path,
        queries.numpy(),
        keys.numpy(),
        negatives=others.numpy() if options["with_negatives"] else None,
        temperature=0.2,
        symmetric=options["symmetric"],
        reduction=reduction,
    )
    assert_close(got, want)


@pytest.mark.parametrize(("rows", "extra"), [(1, 0), (2, 0), (5, 0), (64, 0), (1, 3), (5, 11)])
def test_candidates_that_look_alike_cost_the_logarithm_of_their_number(path, rows, extra):
    queries = vectors(4, rows)[0]
    same = np.tile(np.arange(1.0, 7.0), (rows, 1))
    negatives = np.tile(np.arange(1.0, 7.0), (extra, 1)) if extra else None
    got = number(path, queries, same, negatives=negatives, reduction="none")
    np.testing.assert_allclose(got, np.full(rows, math.log(rows + extra)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
def test_orthonormal_keys_have_a_closed_form(path, temperature):
    almost = partial(np.testing.assert_allclose, rtol=1e-13, atol=5e-15)
    basis = np.linalg.qr(vectors(5, 6)[0])[0]
    pull = math.exp(-1 / temperature)
    perfect = math.log1p(3 * pull)
    almost(number(path, 5 * basis[:4], basis[:4], temperature=temperature), perfect)
    with_two = math.log1p(5 * pull)
    almost(number(path, basis[:4], basis[:4], negatives=basis[4:], temperature=temperature), with_two)
    both = (with_two + perfect) / 2
    got = number(path, basis[:4], basis[:4], negatives=basis[4:], temperature=temperature, symmetric=True)
    almost(got, both)
    rolled = np.roll(basis[:4], 1, axis=0)  # the key of another row fits perfectly, the own one not at all
    almost(number(path, basis[:4], rolled, temperature=temperature), 1 / temperature + perfect)


def test_opposite_keys_are_the_worst_there_are(path):
    axis = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert_close(number(path, axis, axis, temperature=0.25), math.log1p(math.exp(-8)))
    assert_close(number(path, axis, -axis, temperature=0.25), 8 + math.log1p(math.exp(-8)))


def test_the_temperature_runs_from_the_hardest_negative_to_none(path):
    queries, keys = vectors(6, 5, 5)
    flat = number(path, queries, keys, temperature=1e9, reduction="none")
    np.testing.assert_allclose(flat, math.log(5), rtol=1e-8)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, keys)]
    scores = unit[0] @ unit[1].T
    gap = scores.max(1) - scores.diagonal()
    cold = number(path, queries, keys, temperature=1e-5, reduction="none")
    np.testing.assert_allclose(cold * 1e-5, gap, rtol=1e-9, atol=1e-12)
    assert (gap > 0).any()


def test_the_temperature_is_seven_hundredths_by_default(path):
    queries, keys = vectors(7, 3, 3)
    assert number(path, queries, keys) == number(path, queries, keys, temperature=0.07)
    assert number(path, queries, keys) != number(path, queries, keys, temperature=0.08)


# Properties


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(0, 4), st.booleans())
def test_rows_may_be_permuted_and_negatives_and_axes_too(seed, rows, extra, symmetric):
    rng = np.random.default_rng(seed)
    queries, keys, others = vectors(seed, rows, rows, extra)
    options = {"temperature": 0.3, "symmetric": symmetric, "reduction": "none"}
    order, other_order, axes = rng.permutation(rows), rng.permutation(extra), rng.permutation(6)
    for path in PATHS:
        losses = number(path, queries, keys, negatives=others, **options)
        moved = number(path, queries[order], keys[order], negatives=others[other_order], **options)
        assert_close(moved, losses[order])
        turned = number(path, queries[:, axes], keys[:, axes], negatives=others[:, axes], **options)
        assert_close(turned, losses)
        assert (losses >= 0).all()
        assert (losses <= 2 / 0.3 + math.log(rows + extra) + 1e-12).all()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_lengths_do_not_matter(seed, symmetric):
    queries, keys, others = vectors(seed, 4, 4, 2)
    lengths = [10.0 ** np.random.default_rng(seed).uniform(-150, 150, (n, 1)) for n in (4, 4, 2)]
    for path in PATHS:
        base = number(path, queries, keys, negatives=others, symmetric=symmetric)
        got = number(path, queries * lengths[0], keys * lengths[1], negatives=others * lengths[2], symmetric=symmetric)
        assert_close(got, base, rtol=1e-11)


@given(st.integers(0, 2**32 - 1))
def test_without_negatives_the_symmetric_loss_does_not_know_which_side_is_which(seed):
    queries, keys, others = vectors(seed, 5, 5, 3)
    for path in PATHS:
        both = number(path, queries, keys, symmetric=True)
        assert_close(number(path, keys, queries, symmetric=True), both)
        assert_close((number(path, queries, keys) + number(path, keys, queries)) / 2, both)
        forward = number(path, queries, keys, negatives=others)
        with_others = number(path, queries, keys, negatives=others, symmetric=True)
        assert_close(with_others, (forward + number(path, keys, queries)) / 2)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_sum_mean_and_none_agree_and_more_negatives_cost_more(seed, symmetric):
    queries, keys, others = vectors(seed, 6, 6, 3)
    for path in PATHS:
        rows = number(path, queries, keys, symmetric=symmetric, reduction="none")
        assert_close(number(path, queries, keys, symmetric=symmetric, reduction="sum"), rows.sum())
        assert_close(number(path, queries, keys, symmetric=symmetric), rows.mean())
        assert (number(path, queries, keys, negatives=others, symmetric=symmetric, reduction="none") > rows).all()


def test_no_negatives_and_an_empty_set_of_them_are_the_same(path):
    queries, keys = vectors(8, 4, 4)
    assert number(path, queries, keys, negatives=np.zeros((0, 6))) == number(path, queries, keys)


def test_a_negative_may_stand_in_for_the_key_of_another_row(path):
    queries, keys = vectors(9, 4, 4)
    batch = number(path, queries, keys, reduction="none")
    alone = [number(path, queries[i : i + 1], keys[i : i + 1], negatives=np.delete(keys, i, 0)) for i in range(4)]
    assert_close(alone, batch)


# Edges


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_lone_pair_costs_nothing_and_pulls_nowhere(path, symmetric, reduction):
    query, key = vectors(10, 1, 1)
    assert_close(
        number(path, query, key, symmetric=symmetric, reduction=reduction), [0.0] if reduction == "none" else 0
    )
    leaves = tensors(10, 1, 1)
    torch_loss(*leaves, symmetric=symmetric, reduction=reduction).sum().backward()
    assert all((leaf.grad == 0).all() for leaf in leaves)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_empty_batch_costs_nothing_and_stays_attached(path, options):
    queries, keys, others = vectors(11, 0, 0, 3)
    with_negatives = options["with_negatives"]
    rest = {name: options[name] for name in ("symmetric", "reduction")}
    got = number(path, queries, keys, negatives=others if with_negatives else None, **rest)
    assert_close(got, np.zeros(0) if rest["reduction"] == "none" else 0.0)
    leaves = tensors(11, 0, 0, 3)
    value = torch_loss(*leaves[:2], negatives=leaves[2] if with_negatives else None, **rest)
    gradients = torch.autograd.grad(value.sum(), leaves[: 3 if with_negatives else 2])
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_vector_of_zeros_is_as_far_from_everything(path, symmetric):
    queries, keys, others = vectors(12, 4, 4, 2)
    queries[1], keys[2], others[0] = 0, 0, 0
    options = {"temperature": 0.3, "symmetric": symmetric, "reduction": "none"}
    got = number(path, queries, keys, negatives=others, **options)
    inside = [exact_array(v) for v in (queries, keys, others)]
    want = exact_loss(*inside, mp.mpf(0.3), symmetric, "none")
    assert_close(got, [float(v) for v in want])
    if not symmetric:
        assert_close(got[1], math.log(6))


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("where", ["largest", "smallest"])
def test_the_ends_of_the_number_range_are_directions_like_any_other(path, dtype, where):
    info = torch.finfo(getattr(torch, dtype))
    size = info.max if where == "largest" else info.smallest_normal * info.eps * 2
    queries, keys = path.array([[size, 0], [size, size]], dtype), path.array([[1, 0], [0, size]], dtype)
    got = number(path, queries, keys, temperature=1.0, reduction="none")
    half = math.sqrt(0.5)
    np.testing.assert_allclose(got, [math.log1p(math.exp(-1)), math.log(2)], rtol=1e-6)
    swapped = number(path, keys, queries, temperature=1.0, reduction="none")
    np.testing.assert_allclose(swapped, [math.log1p(math.exp(half - 1)), math.log1p(math.exp(-half))], rtol=1e-6)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_undefined_query_is_undefined_alone_and_an_undefined_key_spoils_all(path, bad):
    queries, keys = vectors(14, 4, 4)
    base = number(path, queries, keys, reduction="none")
    queries[2, 1] = bad
    got = number(path, queries, keys, reduction="none")
    assert np.isnan(got).tolist() == [False, False, True, False]
    assert_close(np.delete(got, 2), np.delete(base, 2))
    assert np.isnan(number(path, keys, queries, reduction="none")).all()
    queries[0] = 0
    assert np.isnan(number(path, keys, queries, reduction="none")).all()


def test_inputs_are_not_modified(path):
    arrays = vectors(15, 4, 4, 2)
    given_arrays = [path.array(v) for v in arrays]
    call(path, *given_arrays[:2], negatives=given_arrays[2], symmetric=True)
    assert all(np.array_equal(path.to_numpy(a), b) for a, b in zip(given_arrays, arrays, strict=True))


# Precision


@pytest.mark.parametrize(("path", "dtype"), PRECISIONS, ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_loss_is_computed_in_float32_or_wider(path, dtype, reduction):
    arrays = [path.array(v, dtype) for v in vectors(16, 5, 5, 3)]
    for symmetric in (False, True):
        got = call(path, *arrays[:2], negatives=arrays[2], symmetric=symmetric, reduction=reduction)
        assert path.dtype_name(got) == ("float64" if dtype == "float64" else "float32")
        if path.name == "numpy" and reduction == "mean":
            assert isinstance(got, np.generic)


def test_the_widest_input_decides_and_gradients_keep_their_own_dtype(path):
    queries, keys, others = vectors(17, 4, 4, 2)
    mixed = [path.array(queries, "float16"), path.array(keys, "float32"), path.array(others, "float64")]
    assert path.dtype_name(call(path, *mixed[:2])) == "float32"
    assert path.dtype_name(call(path, *mixed[:2], negatives=mixed[2])) == "float64"
    pair = path.array(queries, "float32"), path.array(keys)
    assert path.dtype_name(call(path, *pair)) == path.dtype_name(call(path, *pair[::-1])) == "float64"
    if path.name == "torch":
        leaves = [v.requires_grad_() for v in mixed]
        call(path, *leaves[:2], negatives=leaves[2]).backward()
        assert [v.grad.dtype for v in leaves] == [torch.float16, torch.float32, torch.float64]
        pair = leaves[0].detach(), leaves[1].detach().bfloat16()
        assert call(path, *pair).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_low_precision_is_no_worse_than_the_usual_recipe(dtype, temperature):
    low = getattr(torch, dtype)
    queries, keys = (v.to(low) for v in tensors(18, 32, 32, width=64, grad=False))
    want = torch_loss(queries.double(), keys.double(), temperature=temperature, reduction="none")
    got = {"torch": torch_loss(queries, keys, temperature=temperature, reduction="none")}
    if dtype != "bfloat16":
        losses = numpy_loss(queries.numpy(), keys.numpy(), temperature=temperature, reduction="none")
        got["numpy"] = torch.from_numpy(losses)
    scores = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T / temperature
    usual = (F.cross_entropy(scores, torch.arange(32), reduction="none").double() - want).abs().max()
    unit = torch.finfo(torch.float32).eps * want.max()
    for name, losses in got.items():
        error = (losses.double() - want).abs().max()
        assert error <= usual + unit, name
        assert error <= 8 * unit, name  # of float32, however narrow the inputs


# Refusals


def refusal(path, *arrays, **options):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(path, *arrays, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"temperature": 0}, ["temperature", "0"]),
        ({"temperature": -0.5}, ["temperature", "-0.5"]),
        ({"temperature": NAN}, ["temperature", "nan"]),
        ({"temperature": INF}, ["temperature", "inf"]),
        ({"temperature": "cold"}, ["temperature", "cold"]),
        ({"temperature": True}, ["temperature", "True"]),
        ({"temperature": np.array([0.1, 0.2])}, ["temperature"]),
        ({"symmetric": None}, ["symmetric", "None"]),
        ({"symmetric": 1}, ["symmetric", "1"]),
        ({"reduction": "sequence"}, ["reduction", "sequence", "'mean', 'sum' or 'none'"]),
        ({"reduction": "average"}, ["reduction", "average"]),
        ({"reduction": None}, ["reduction", "None"]),
        ({"negatives": np.eye(4)}, ["negatives", "(4, 4)", "(4, 3)"]),
        ({"negatives": np.ones(3)}, ["negatives", "(3,)"]),
        ({"negatives": np.ones((2, 1, 3))}, ["negatives", "(2, 1, 3)"]),
        ({"negatives": np.ones((2, 3), dtype=int)}, ["negatives", "int64"]),
    ],
    ids=str,
)
def test_a_bad_option_is_refused_with_its_name_and_value(path, options, fragments):
    message = refusal(path, GOOD, GOOD, **options).replace('"', "'")
    for fragment in fragments:
        assert fragment in message


def test_a_refused_reduction_is_told_which_there_are(path):
    assert refusal(path, GOOD, GOOD, reduction="average").endswith("not one of 'mean', 'sum', 'none'")


def test_vectors_of_the_wrong_kind_or_shape_are_refused(path):
    assert "queries must be floating point" in refusal(path, np.eye(3, dtype=int), GOOD)
    assert "keys must be floating point" in refusal(path, GOOD, GOOD > 0)
    assert "queries has shape (3,)" in refusal(path, np.ones(3), np.ones(3))
    assert "queries has shape (2, 3, 3)" in refusal(path, np.ones((2, 3, 3)), np.ones((2, 3, 3)))
    assert "queries has shape (3, 0)" in refusal(path, np.ones((3, 0)), np.ones((3, 0)))
    assert "keys has shape (2, 3); expected (3, 3)" in refusal(path, GOOD, GOOD[:2])
    assert "keys has shape (3, 2); expected (3, 3)" in refusal(path, GOOD, GOOD[:, :2])


def test_both_paths_have_the_parameters_of_the_contract():
    for function in (numpy_loss, torch_loss):
        parameters = inspect.signature(function).parameters
        assert list(parameters)[:2] == ["queries", "keys"]
        options = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
        assert options == {"negatives": None, "temperature": 0.07, "symmetric": False, "reduction": "mean"}


def test_options_are_keyword_only(path):
    with pytest.raises(TypeError):
        (numpy_loss if path.name == "numpy" else torch_loss)(GOOD, GOOD, GOOD)


def test_tensors_are_told_from_arrays_and_devices_from_each_other():
    good = torch.eye(3)
    with pytest.raises(TypeError, match=r"keys must be a torch\.Tensor, not ndarray"):
        torch_loss(good, GOOD)
    with pytest.raises(ValueError, match="keys is on meta and queries on cpu"):
        torch_loss(good, good.to("meta"))
    with pytest.raises(ValueError, match="negatives is on meta and queries on cpu"):
        torch_loss(good, good, negatives=good.to("meta"))
    with pytest.raises(ValueError, match=r"temperature = -1\.0 must be greater than 0"):
        torch_loss(good, good, temperature=torch.tensor(-1.0))
    with pytest.raises(TypeError, match="temperature must be floating point"):
        torch_loss(good, good, temperature=torch.tensor(1))
