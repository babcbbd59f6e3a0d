"""The errors in low precision: what is stored, what this machine measures, and the truth both are held against."""

import itertools
import json

import numpy as np
import pytest
import torch

import lmloss.numpy as ln
import lmloss.torch as lt
from lmloss.lab import precision
from tests.oracle import STEP, exact, log_softmax, logsumexp, mp, softmax
from tests.paths import assert_close

TABLE = json.loads(precision.STORED.read_text(encoding="utf-8"))
ROWS = [precision.Row(*row) for row in TABLE["rows"]]
KINDS = [(path, name) for path, names in precision.PRECISIONS.items() for name in names]


# The claim


def test_the_stored_table_is_complete_and_says_where_it_comes_from():
    assert TABLE["columns"] == list(precision.Row._fields)
    assert {"command", "seeds", "numpy", "torch", "python"} <= TABLE["produced_by"].keys()
    assert TABLE["produced_by"]["seeds"] == [precision.SEED]
    expected = set()
    for loss, (path, name), classes, scale in itertools.product(
        precision.CASES, KINDS, precision.CLASSES, precision.SCALES
    ):
        differentiable = path != "numpy" or hasattr(getattr(ln, precision.CASES[loss].function), "describe")
        for quantity in ("value", "gradient") if differentiable else ("value",):
            expected.add((loss, path, name, classes, scale, quantity))
    assert {row[:6] for row in ROWS} == expected
    assert len(ROWS) == len(expected)


def test_no_stored_error_is_above_that_of_the_composition_by_hand_and_one_unit():
    assert [row for row in ROWS if not row.holds] == []


@pytest.mark.parametrize(("path", "name"), KINDS)
@pytest.mark.parametrize("loss", precision.CASES)
def test_nor_is_any_that_this_machine_measures(loss, path, name):
    sizes = [(classes, scale) for classes in (7, 1000) for scale in precision.SCALES]
    if (path, name) == ("torch", "float32") and not hasattr(getattr(ln, precision.CASES[loss].function), "describe"):
        sizes.append((50_257, 10.0))  # tests/torch/test_dense_losses.py does so for losses on logits
    measured = [row for size in sizes for row in precision.measure(loss, path, name, *size)]
    assert len(measured) >= len(sizes)
    assert [row for row in measured if not row.holds] == []


def test_every_loss_on_logits_is_measured():
    described = {name for name in ln.__all__ if hasattr(getattr(ln, name), "describe")}
    namings = {"causal_lm_loss", "masked_lm_loss"}  # of the same kernel
    assert described - namings <= {case.function for case in precision.CASES.values()}


def test_a_loss_that_is_two_units_off_is_found(monkeypatch):
    honest = lt.cross_entropy
    monkeypatch.setattr(lt, "cross_entropy", lambda *a, **k: honest(*a, **k) * (1 + 2.0**-20))
    rows = list(precision.measure("cross_entropy", "torch", "float32", 100, 1.0))
    assert [row.quantity for row in rows if not row.holds] == ["value", "gradient"]
    monkeypatch.setattr(lt, "cross_entropy", lambda *a, **k: honest(*a, **k) * torch.nan)
    assert not any(row.holds for row in precision.measure("cross_entropy", "torch", "float32", 7, 1.0))


def test_where_the_composition_overflows_there_is_nothing_to_beat():
    (value, _) = precision.measure("cross_entropy, z-loss", "torch", "float16", 100, 100.0)  # a square above 65,504
    assert value.by_hand is None
    assert value.holds
    assert value.error <= value.unit


@pytest.mark.parametrize(
    ("name", "value", "unit"), [("float32", 1.0, 2**-23), ("float16", -3.0, 2**-9), ("bfloat16", 0.0, 2.0**-133)]
)
def test_a_unit_is_the_distance_to_the_next_number(name, value, unit):
    assert precision._unit(np.array(value), name) == unit
    if value:
        at = torch.tensor(value, dtype=getattr(torch, name))
        assert torch.nextafter(at, 2 * at).sub(at).abs() == unit


def test_the_command_writes_the_table_and_fails_where_the_claim_does(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(precision, "STORED", tmp_path / "precision.json")
    monkeypatch.setattr(precision, "CASES", {"brier_loss": precision.CASES["brier_loss"]})
    monkeypatch.setattr(precision, "CLASSES", (7,))
    assert precision.main() == 0
    assert "0 above" in capsys.readouterr().out
    written = json.loads((tmp_path / "precision.json").read_text())
    assert written.keys() == TABLE.keys()
    assert written["columns"] == TABLE["columns"]
    honest = lt.brier_loss
    monkeypatch.setattr(lt, "brier_loss", lambda *a, **k: honest(*a, **k) * 1.01)
    assert precision.main() == 1
    assert "Row(loss='brier_loss', path='torch'" in capsys.readouterr().out


# The exact values are exact: the same formulas in fifty digits and more, gradients from differences of twenty


def picked(z, y):
    return -log_softmax(z)[int(y)]


def divergence(p, q):
    return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q, strict=True) if a)


def softened(logits):
    return softmax([v / 2 for v in logits])


def mean_of(*pairs):
    middle = [mp.fsum(column) / 2 for column in zip(*pairs, strict=True)]
    return mp.fsum(divergence(p, middle) for p in pairs) / 2


def hinge(z, y):
    return max(mp.mpf(0), 1 + max(v for j, v in enumerate(z) if j != int(y)) - z[int(y)])


def information_of(joint):
    totals = [mp.fsum(row) for row in joint], [mp.fsum(column) for column in zip(*joint, strict=True)]
    return mp.fsum(
        v * mp.log(v / (totals[0][a] * totals[1][b])) for a, row in enumerate(joint) for b, v in enumerate(row) if v
    )


def contrast(query, keys, negatives, i):
    def cosine(a, b):
        return mp.fdot(a, b) / mp.sqrt(mp.fdot(a, a) * mp.fdot(b, b))

    return picked([cosine(query, c) / mp.mpf(0.07) for c in keys + negatives], i)


EXACT = {
    "cross_entropy": picked,
    "cross_entropy, smoothed": lambda z, y: mp.mpf(0.9) * picked(z, y) - mp.mpf(0.1) * mp.fsum(log_softmax(z)) / len(z),
    "cross_entropy, z-loss": lambda z, y: picked(z, y) + mp.mpf(1e-2) * logsumexp(z) ** 2,
    "distillation_loss, forward KL": lambda s, t: 4 * divergence(softened(t), softened(s)),
    "distillation_loss, reverse KL": lambda s, t: 4 * divergence(softened(s), softened(t)),
    "distillation_loss, JSD": lambda s, t: 4 * mean_of(softened(s), softened(t)),
    "focal_loss": lambda z, y: (1 - softmax(z)[int(y)]) ** 2 * picked(z, y),
    "hinge_loss": hinge,
    "brier_loss": lambda z, y: mp.fsum((q - (j == int(y))) ** 2 for j, q in enumerate(softmax(z))),
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "sequence_log_prob": lambda z, y: -mp.fsum(map(picked, z, y)),
    "dpo_loss": lambda a, b, c, d: [mp.log1p(mp.exp(-mp.mpf(0.1) * ((a[0] - c[0]) - (b[0] - d[0]))))],
    "minimum_risk_loss": lambda z, r: mp.fdot(softmax(z), r) / 8,
    "info_nce_loss": contrast,
    "surprisal": lambda p: [-mp.log(v) for v in p],
    "entropy": lambda p: -mp.fsum(v * mp.log(v) for v in p),
    "cross_entropy_probs": lambda p, q: -mp.fsum(a * mp.log(b) for a, b in zip(p, q, strict=True)),
    "kl_divergence": divergence,
    "js_divergence": mean_of,
    "mutual_information": information_of,
}
DISTRIBUTIONS = {"surprisal", "entropy", "cross_entropy_probs", "kl_divergence", "js_divergence", "mutual_information"}


def in_digits(array):
    array = np.asarray(array, np.float64)
    return (
        [in_digits(part) for part in array] if array.ndim > 1 else exact(array) if array.ndim else mp.mpf(array.item())
    )


def arguments_of(loss, inputs):
    """The arguments of each row's loss."""
    if loss == "info_nce_loss":
        queries, keys, negatives = map(in_digits, inputs)
        return [(query, keys, negatives, i) for i, query in enumerate(queries)]
    return list(zip(*map(in_digits, inputs), strict=True))


def slope(function, first, rest):
    """The derivative in every entry of the first argument; of a result with several entries, that of the first."""
    if isinstance(first[0], list):
        return [
            slope(lambda row, i=i: function([*first[:i], row, *first[i + 1 :]], *rest), r, ())
            for i, r in enumerate(first)
        ]
    gradient = []
    for j, v in enumerate(first):
        sides = [function([*first[:j], v + step, *first[j + 1 :]], *rest) for step in (STEP, -STEP)]
        up, down = (side[0] if isinstance(side, list) else side for side in sides)
        gradient.append(float((up - down) / (2 * STEP)))
    return gradient


@pytest.mark.parametrize("loss", precision.CASES)
def test_the_exact_values_and_gradients_are_those_of_fifty_digits(loss):
    for scale in precision.SCALES[
        : 2 if loss in DISTRIBUTIONS else 4
    ]:  # at the last, some probabilities are below STEP
        inputs = precision.rounded(precision.CASES[loss], 7, scale, "float32")
        wide = tuple(t.double() if t.is_floating_point() else t for t in inputs)
        got = precision._differentiated(precision.CASES[loss].by_hand, wide)
        rows = arguments_of(loss, inputs)
        values = [EXACT[loss](*row) for row in rows]
        want = np.array(values, dtype=np.float64)
        assert_close(got["value"], want.sum() if loss == "minimum_risk_loss" else want, rtol=1e-12)
        assert_close(got["gradient"], [slope(EXACT[loss], row[0], row[1:]) for row in rows], rtol=1e-12)
