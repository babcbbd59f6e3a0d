"""Distillation: values at 50 digits, both paths against each other, limits, and what is impossible on one side."""

import itertools

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lmloss.numpy as ln
import lmloss.torch as lt
from tests.paths import assert_close

INF, NAN = np.inf, np.nan
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def batch(seed=0, scale=2.0):
    rng = np.random.default_rng(seed)
    student, teacher = (rng.normal(size=(2, 3, 5)) * scale for _ in range(2))
    return student, teacher, rng.integers(5, size=(2, 3))


def exact(student, teacher, y=None, temperature=2.0, alpha=0.5, divergence="forward_kl", beta=0.5):
    """One token's loss at 50 digits."""
    with mpmath.workdps(50):

        def softmax(row, tau):
            weights = [mpmath.exp(mpmath.mpf(float(v)) / mpmath.mpf(tau)) for v in row]
            return [w / mpmath.fsum(weights) for w in weights]

        def kl(a, b):
            return mpmath.fsum(x * mpmath.log(x / w) for x, w in zip(a, b, strict=True))

        p, q = softmax(teacher, temperature), softmax(student, temperature)
        beta = mpmath.mpf(beta)
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        apart = {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": beta * kl(p, m) + (1 - beta) * kl(q, m)}
        soft = mpmath.mpf(temperature) ** 2 * apart[divergence]
        if y is None:
            return soft
        return -mpmath.mpf(alpha) * mpmath.log(softmax(student, 1)[y]) + (1 - mpmath.mpf(alpha)) * soft


GRID = [
    {"divergence": d, "alpha": a, "temperature": t, "beta": b}
    for d, a, t, b in itertools.product(DIVERGENCES, (0.0, 0.3, 1.0), (1.0, 3.0), (0.25,))
]
every_option = pytest.mark.parametrize("options", GRID, ids=lambda o: "-".join(map(str, o.values())))


@every_option
@pytest.mark.parametrize("with_targets", [True, False])
def test_each_token_costs_what_fifty_digits_say(path, options, with_targets):
    student, teacher, targets = batch()
    labels = (targets,) if with_targets else ()
    losses = path.to_numpy(path.call("distillation_loss", student, teacher, *labels, reduction="none", **options))
    for at in np.ndindex(targets.shape):
        want = float(exact(student[at], teacher[at], targets[at] if with_targets else None, **options))
        assert abs(losses[at] - want) <= 1e-12 * max(abs(want), 1)


@every_option
@pytest.mark.parametrize("masked", ["nobody", "teacher", "student", "both"])
def test_the_paths_agree_in_value_and_gradient_however_it_is_taken(options, masked):
    student, teacher, targets = batch(1)
    targets[0, 1] = -100
    student[0, 1], teacher[0, 1] = NAN, INF
    hidden = (1, 1, (targets[1, 1] + 1) % 5)
    if masked in ("teacher", "both"):
        teacher[hidden] = -INF
    if masked in ("student", "both"):
        student[hidden] = -INF
    value, gradient = ln.value_and_grad(ln.distillation_loss)(student, teacher, targets, **options)
    z = torch.tensor(student, requires_grad=True)
    loss = lt.distillation_loss(z, torch.tensor(teacher), torch.tensor(targets), **options)
    assert_close(value, loss.item())
    for graph in (False, True):
        (got,) = torch.autograd.grad(loss, z, retain_graph=True, create_graph=graph)
        assert_close(got.detach().numpy(), gradient, rtol=1e-11)
    assert np.isfinite(gradient).all(), "nothing becomes NaN because of a masked class"
    assert not gradient[0, 1].any(), "an ignored token has no gradient, whatever stands in its row"


@every_option
def test_the_closed_form_gradient_is_the_slope(options):
    student, teacher, targets = batch(2)
    assert ln.check_gradient(ln.distillation_loss, student, teacher, targets, **options) < 1e-8
    assert ln.check_gradient(ln.distillation_loss, student, teacher, **options) < 1e-8


@every_option
def test_autograd_is_right_once_twice_and_forwards(options):
    student, teacher, targets = (torch.tensor(a[0]) for a in batch(3))
    student.requires_grad_()

    def loss(z):
        return lt.distillation_loss(z, teacher, targets, reduction="none", **options)

    assert torch.autograd.gradcheck(loss, (student,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, (student,))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_transforms_compilers_and_the_meta_device_see_the_same_loss(divergence):
    arguments = [torch.tensor(a) for a in batch(4)]

    def loss(z, t, y):
        return lt.distillation_loss(z, t, y, divergence=divergence)

    each = torch.stack([loss(*rows) for rows in zip(*arguments, strict=True)])
    assert_close(torch.func.vmap(loss)(*arguments), each)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*arguments), loss(*arguments))
    assert loss(*(a.to("meta") for a in arguments)).shape == ()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_that_equals_its_teacher_pays_nothing_and_stands_still(path, divergence):
    logits, _, _ = batch(5)
    logits[0, 0, 2] = -INF
    value, gradient = path.value_and_grad("distillation_loss", logits, logits, divergence=divergence)
    if divergence == "jsd":
        assert abs(path.to_numpy(value)) < 1e-15
        assert np.abs(path.to_numpy(gradient)).max() < 1e-15
    else:
        assert path.to_numpy(value) == 0
        assert not path.to_numpy(gradient).any()


def test_forward_kl_is_pytorchs_usual_recipe(path):
    student, teacher, targets = batch(6)
    value = path.to_numpy(path.call("distillation_loss", student, teacher, targets, temperature=3.0, alpha=0.2))
    s, t = torch.tensor(student).reshape(-1, 5), torch.tensor(teacher).reshape(-1, 5)
    soft = F.kl_div(F.log_softmax(s / 3, -1), F.softmax(t / 3, -1), reduction="batchmean")
    want = 0.2 * F.cross_entropy(s, torch.tensor(targets).reshape(-1)) + 0.8 * 9 * soft
    assert_close(value, want.item())


def test_at_a_high_temperature_the_gradient_matches_logits():
    rng = np.random.default_rng(7)
    student, teacher = rng.normal(size=(4, 6)), rng.normal(size=(4, 6))
    centred = [z - z.mean(-1, keepdims=True) for z in (student, teacher)]  # the limit is for zero-mean logits
    _, gradient = ln.value_and_grad(ln.distillation_loss)(*centred, temperature=1e5, reduction="sum")
    np.testing.assert_allclose(gradient, (centred[0] - centred[1]) / 6, rtol=0, atol=1e-5)


def test_the_factor_of_temperature_squared_keeps_the_gradients_size():
    student, teacher, _ = batch(8, scale=0.1)
    sizes = [
        np.abs(ln.value_and_grad(ln.distillation_loss)(student, teacher, temperature=t)[1]).sum() for t in (2.0, 50.0)
    ]
    assert 0.8 < sizes[0] / sizes[1] < 1.25


def test_the_generalised_jsd_tends_to_each_kl_at_its_ends(path):
    student, teacher, _ = batch(9, scale=0.5)
    for beta, divergence, factor in ((1e-6, "forward_kl", 1e-6), (1 - 1e-6, "reverse_kl", 1e-6)):
        mixed = path.to_numpy(path.call("distillation_loss", student, teacher, divergence="jsd", beta=beta))
        alone = path.to_numpy(path.call("distillation_loss", student, teacher, divergence=divergence))
        assert abs(mixed / factor / alone - 1) < 1e-3


def test_a_symmetric_jsd_exchanges_student_and_teacher_and_stays_below_log_two(path):
    student, teacher, _ = batch(10, scale=20.0)
    options = {"divergence": "jsd", "temperature": 1.0, "reduction": "none"}
    one = path.to_numpy(path.call("distillation_loss", student, teacher, **options))
    assert_close(one, path.to_numpy(path.call("distillation_loss", teacher, student, **options)))
    assert (one <= np.log(2) + 1e-12).all()


@pytest.mark.parametrize(
    ("divergence", "side", "infinite"),
    [("forward_kl", "student", True), ("forward_kl", "teacher", False), ("reverse_kl", "teacher", True)],
)
def test_what_one_side_calls_impossible_is_infinite_only_where_the_other_needs_it(path, divergence, side, infinite):
    student, teacher, _ = batch(11)
    (student if side == "student" else teacher)[0, 0, 3] = -INF
    losses = path.to_numpy(path.call("distillation_loss", student, teacher, divergence=divergence, reduction="none"))
    assert np.isinf(losses[0, 0]) == infinite
    assert np.isfinite(losses.ravel()[1:]).all()


@pytest.mark.parametrize("bad", [[NAN, 0, 0, 0, 0], [INF, 0, 0, 0, 0], [-INF] * 5])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_row_that_has_no_distribution_is_nan_and_alone_in_it(path, bad, side, divergence):
    logits = list(batch(12)[:2])
    logits[side][1, 2] = bad
    losses = path.to_numpy(path.call("distillation_loss", *logits, divergence=divergence, reduction="none"))
    assert np.isnan(losses[1, 2])
    assert np.isfinite(losses.ravel()[:-1]).all()


def test_no_gradient_reaches_the_teacher():
    student, teacher, targets = (torch.tensor(a) for a in batch(13))
    student.requires_grad_()
    teacher.requires_grad_()
    lt.distillation_loss(student, teacher, targets).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    transformed = torch.func.grad(lambda t: lt.distillation_loss(student.detach(), t, targets))(teacher.detach())
    assert not transformed.any()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "sequence"])
def test_with_nothing_to_average_the_loss_is_zero(path, reduction):
    student, teacher, targets = batch(14)
    value = path.call("distillation_loss", student, teacher, np.full_like(targets, -100), reduction=reduction)
    assert np.array_equal(path.to_numpy(value), np.zeros({"none": (2, 3), "sequence": (2,)}.get(reduction, ())))


def test_micro_batches_over_a_common_denominator_make_the_whole(path):
    student, teacher, targets = batch(15)
    targets[0, 0] = -100
    whole = path.to_numpy(path.call("distillation_loss", student, teacher, targets))
    parts = [
        path.to_numpy(path.call("distillation_loss", s, t, y, denominator=5))
        for s, t, y in zip(student, teacher, targets, strict=True)
    ]
    assert_close(sum(parts), whole)


def test_a_common_shift_of_either_sides_logits_changes_nothing(path):
    student, teacher, targets = batch(16)
    here = path.to_numpy(path.call("distillation_loss", student, teacher, targets))
    there = path.to_numpy(path.call("distillation_loss", student + 1000, teacher - 500, targets))
    assert_close(there, here, rtol=1e-11)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"alpha": 1.5}, "alpha"),
        ({"divergence": "kl"}, "'kl' is not one of"),
        ({"beta": 1.0}, "beta = 1.0 is not strictly between"),
        ({"reduction": "sum", "denominator": 2.0}, "denominator"),
    ],
)
def test_a_bad_argument_is_refused_by_name(path, options, words):
    student, teacher, targets = batch()
    with pytest.raises(ValueError, match=words):
        path.call("distillation_loss", student, teacher, targets, **options)


def test_different_vocabularies_are_refused(path):
    student, teacher, _ = batch()
    with pytest.raises(ValueError, match=r"teacher_logits has shape \(2, 3, 4\); expected \(2, 3, 5\)"):
        path.call("distillation_loss", student, teacher[..., :4])
