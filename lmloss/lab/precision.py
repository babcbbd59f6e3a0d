"""How exact the losses on logits, scores and distributions are in low precision, next to the formula composed by hand.

``python -m lmloss.lab.precision`` measures all of it and stores the table as `results/precision.json`.

The inputs are rounded to the precision first; what is measured is the distance from the exact value *of the rounded
inputs*, so that only the arithmetic counts. The composition by hand is the shifted textbook formula, each step rounded
to the precision of the inputs. The path `torch.func` is PyTorch's under a transform, which compilers see too. The
exact value is the textbook formula in float64: its own error, 2**-29 of float32's, is far below everything that is
compared here, and the tests hold it against 50 digits.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import lmloss.numpy
import lmloss.torch
from lmloss.lab import results

__all__ = ["CASES", "CLASSES", "PRECISIONS", "SCALES", "Case", "Row", "main", "measure", "rounded"]

Arrays = tuple[NDArray[Any], ...]

SEED = 0
CLASSES = (7, 100, 1000, 50_257)
SCALES = (0.1, 1.0, 10.0, 100.0)
PRECISIONS = {
    "numpy": ("float32", "float16"),
    "torch": ("float32", "float16", "bfloat16"),
    "torch.func": ("float32", "float16", "bfloat16"),
}
STORED = Path(__file__).parent / "results" / "precision.json"
FORMATS = {"float32": (23, -149), "float16": (10, -24), "bfloat16": (7, -133)}  # digits after the first; smallest step


class Case(NamedTuple):
    """A loss with options, what it is measured on, and the same formula composed by hand."""

    function: str
    options: dict[str, Any]
    draw: Callable[[np.random.Generator, int, float], Arrays]
    by_hand: Callable[..., Tensor]


class Row(NamedTuple):
    """One line of the table, at the entry that is worst in relation to what is allowed.

    `error` is the distance from the exact value, `by_hand` the largest distance of the composition (None where it
    overflows), `unit` one unit in the last place of the result: the claim is error <= by_hand + unit.
    """

    loss: str
    path: str
    precision: str
    classes: int
    scale: float
    quantity: str
    error: float
    by_hand: float | None
    unit: float

    @property
    def holds(self) -> bool:
        """Whether the claim is true here."""
        return self.by_hand is None or self.error <= self.by_hand + self.unit


# What is drawn


def _tokens(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    """Eight rows of logits: four with a target drawn at random, four with the most probable one."""
    logits = scale * rng.normal(size=(8, classes))
    targets = logits.argmax(-1)
    targets[::2] = rng.integers(classes, size=4)
    return logits, targets


def _sequences(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    logits, targets = _tokens(rng, classes, scale)
    return logits.reshape(2, 4, classes), targets.reshape(2, 4)


def _logits(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    return _tokens(rng, classes, scale)[:1]


def _two_models(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    return scale * rng.normal(size=(8, classes)), scale * rng.normal(size=(8, classes))


def _distributions(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    return tuple(lmloss.numpy.softmax(z) for z in _two_models(rng, classes, scale))


def _distribution(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    return _distributions(rng, classes, scale)[:1]


def _joint(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    return (lmloss.numpy.softmax(scale * rng.normal(size=(4, 2 * classes))).reshape(4, 2, classes),)


def _pairs(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    return tuple(scale * (rng.normal(size=(classes, 1)) - 3) for _ in range(4))


def _candidates(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    return scale * (rng.normal(size=(8, classes)) - 3), rng.random((8, classes))


def _vectors(rng: np.random.Generator, classes: int, scale: float) -> Arrays:
    sizes = (min(8, classes),) * 2 + (max(classes - 8, 0),)
    return tuple(scale * rng.normal(size=(size, 16)) for size in sizes)


# The formulas, composed by hand


def _log_softmax(z: Tensor) -> Tensor:
    shifted = z - z.detach().amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def _logsumexp(z: Tensor) -> Tensor:
    top = z.detach().amax(-1, keepdim=True)
    return (top + (z - top).exp().sum(-1, keepdim=True).log())[..., 0]


def _picked(values: Tensor, y: Tensor) -> Tensor:
    return values.gather(-1, y[..., None])[..., 0]


def _cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return -_picked(_log_softmax(z), y)


def _smoothed(z: Tensor, y: Tensor) -> Tensor:
    log_q = _log_softmax(z)
    return -0.9 * _picked(log_q, y) - 0.1 * log_q.mean(-1)


def _with_z_loss(z: Tensor, y: Tensor) -> Tensor:
    return _cross_entropy(z, y) + 1e-2 * _logsumexp(z) ** 2


def _divergence(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (log_p - log_q), 0).sum(-1)


def _forward_kl(s: Tensor, t: Tensor) -> Tensor:
    log_p, log_q = _log_softmax(t / 2), _log_softmax(s / 2)
    return 4 * _divergence(log_p.exp(), log_p, log_q)


def _reverse_kl(s: Tensor, t: Tensor) -> Tensor:
    return _forward_kl(t, s)


def _jsd(s: Tensor, t: Tensor) -> Tensor:
    log_p, log_q = _log_softmax(t / 2), _log_softmax(s / 2)
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.where(p + q > 0, (p + q) / 2, 1).log()
    return 4 * (_divergence(p, log_p, log_m) + _divergence(q, log_q, log_m)) / 2


def _focal(z: Tensor, y: Tensor) -> Tensor:
    log_q = _picked(_log_softmax(z), y)
    return -((1 - log_q.exp()) ** 2) * log_q


def _hinge(z: Tensor, y: Tensor) -> Tensor:
    best = z.scatter(-1, y[..., None], -torch.inf).argmax(-1)  # the first, where rivals are level
    return torch.relu(1 + _picked(z, best) - _picked(z, y))


def _brier(z: Tensor, y: Tensor) -> Tensor:
    return ((_log_softmax(z).exp() - F.one_hot(y, z.shape[-1])) ** 2).sum(-1)


def _log(p: Tensor) -> Tensor:
    return torch.where(p > 0, p, 1).log()


def _mutual_information(joint: Tensor) -> Tensor:
    apart = torch.where(joint > 0, joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True), 1)
    return (joint * (_log(joint) - apart.log())).sum((-2, -1))


def _js(p: Tensor, q: Tensor) -> Tensor:
    log_m = _log((p + q) / 2)
    return (_divergence(p, _log(p), log_m) + _divergence(q, _log(q), log_m)) / 2


def _dpo(chosen: Tensor, rejected: Tensor, was_chosen: Tensor, was_rejected: Tensor) -> Tensor:
    return -F.logsigmoid(0.1 * ((chosen - was_chosen) - (rejected - was_rejected)))


def _minimum_risk(scores: Tensor, risks: Tensor) -> Tensor:
    return (_log_softmax(scores).exp() * risks).sum(-1).mean()


def _info_nce(queries: Tensor, keys: Tensor, negatives: Tensor) -> Tensor:
    unit = [v / (v * v).sum(-1, keepdim=True).sqrt() for v in (queries, torch.cat((keys, negatives)))]
    return _cross_entropy(unit[0] @ unit[1].mT / 0.07, torch.arange(len(queries)))


CASES = {
    "cross_entropy": Case("cross_entropy", {"reduction": "none"}, _tokens, _cross_entropy),
    "cross_entropy, smoothed": Case("cross_entropy", {"label_smoothing": 0.1, "reduction": "none"}, _tokens, _smoothed),
    "cross_entropy, z-loss": Case("cross_entropy", {"z_loss": 1e-2, "reduction": "none"}, _tokens, _with_z_loss),
    "distillation_loss, forward KL": Case("distillation_loss", {"reduction": "none"}, _two_models, _forward_kl),
    "distillation_loss, reverse KL": Case(
        "distillation_loss", {"divergence": "reverse_kl", "reduction": "none"}, _two_models, _reverse_kl
    ),
    "distillation_loss, JSD": Case("distillation_loss", {"divergence": "jsd", "reduction": "none"}, _two_models, _jsd),
    "focal_loss": Case("focal_loss", {"reduction": "none"}, _tokens, _focal),
    "hinge_loss": Case("hinge_loss", {"reduction": "none"}, _tokens, _hinge),
    "brier_loss": Case("brier_loss", {"reduction": "none"}, _tokens, _brier),
    "log_softmax": Case("log_softmax", {}, _logits, _log_softmax),
    "logsumexp": Case("logsumexp", {}, _logits, _logsumexp),
    "sequence_log_prob": Case("sequence_log_prob", {}, _sequences, lambda z, y: -_cross_entropy(z, y).sum(-1)),
    "dpo_loss": Case("dpo_loss", {"reduction": "none"}, _pairs, _dpo),
    "minimum_risk_loss": Case("minimum_risk_loss", {}, _candidates, _minimum_risk),
    "info_nce_loss": Case("info_nce_loss", {"reduction": "none"}, _vectors, _info_nce),
    "surprisal": Case("surprisal", {}, _distribution, lambda p: -p.log()),
    "entropy": Case("entropy", {}, _distribution, lambda p: -(p * _log(p)).sum(-1)),
    "cross_entropy_probs": Case(
        "cross_entropy_probs", {}, _distributions, lambda p, q: -torch.where(p > 0, p * q.log(), 0).sum(-1)
    ),
    "kl_divergence": Case("kl_divergence", {}, _distributions, lambda p, q: _divergence(p, _log(p), q.log())),
    "js_divergence": Case("js_divergence", {}, _distributions, _js),
    "mutual_information": Case("mutual_information", {}, _joint, _mutual_information),
}


# What is measured


def rounded(case: Case, classes: int, scale: float, precision: str) -> tuple[Tensor, ...]:
    """Return the inputs of a case, rounded to a precision; classes stay what they are."""
    arrays = case.draw(np.random.default_rng((SEED, classes, round(10 * scale))), classes, scale)
    tensors = map(torch.from_numpy, arrays)
    return tuple(t.to(getattr(torch, precision)) if t.is_floating_point() else t for t in tensors)


def measure(loss: str, path: str, precision: str, classes: int, scale: float) -> Iterator[Row]:
    """Yield the errors of a loss and, where the path has one, of its gradient in the first argument."""
    case = CASES[loss]
    inputs = rounded(case, classes, scale, precision)
    wide = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    exact, by_hand = _differentiated(case.by_hand, wide), _differentiated(case.by_hand, inputs)
    ours = _in_numpy(case, inputs) if path == "numpy" else _in_torch(case, inputs, transformed=path == "torch.func")
    for quantity, got in ours.items():
        want, naive = (pair[quantity].double().numpy() for pair in (exact, by_hand))
        digits = precision if got.dtype.itemsize == 2 else "float32"
        error, composed = _distance(got.double().numpy(), want), _distance(naive, want).max(initial=0)
        size = np.abs(want)
        if want.ndim == inputs[0].ndim:  # one entry for each logit: a vector, as large as its largest entry
            size = np.broadcast_to(size.max(-1, keepdims=True), size.shape)
        unit = _unit(size, digits)
        worst = np.unravel_index(np.argmax(error - unit), error.shape)
        overflows = not np.isfinite(composed)
        row = float(error[worst]), None if overflows else float(composed), float(unit[worst])
        yield Row(loss, path, precision, classes, scale, quantity, *row)


def _distance(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):  # inf - inf
        return np.where(first == second, 0, np.abs(first - second))


def _differentiated(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], transformed: bool = False
) -> dict[str, Tensor]:
    def total(leaf: Tensor) -> tuple[Tensor, Tensor]:
        value = function(leaf, *inputs[1:])
        number = value[..., 0] if value.ndim == leaf.ndim else value  # of a whole row, the first entry
        return number.sum(), value

    if transformed:
        gradient, value = torch.func.grad(total, has_aux=True)(inputs[0])
    else:
        leaf = inputs[0].clone().requires_grad_()
        number, value = total(leaf)
        (gradient,) = torch.autograd.grad(number, leaf)
    return {"value": value.detach(), "gradient": gradient}


def _options(case: Case, library: ModuleType, inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments of a call."""
    if case.function == "info_nce_loss":
        return inputs[:2], {"negatives": inputs[2], **case.options}
    return inputs, case.options


def _in_torch(case: Case, inputs: tuple[Tensor, ...], transformed: bool) -> dict[str, Tensor]:
    def function(*tensors: Tensor) -> Tensor:
        given, options = _options(case, lmloss.torch, tensors)
        result: Tensor = getattr(lmloss.torch, case.function)(*given, **options)
        return result

    return _differentiated(function, inputs, transformed)


def _in_numpy(case: Case, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    arrays = tuple(t.numpy() for t in inputs)
    function = getattr(lmloss.numpy, case.function)
    given, options = _options(case, lmloss.numpy, arrays)
    found = {"value": function(*given, **options)}
    if hasattr(function, "describe"):
        found["gradient"] = lmloss.numpy.value_and_grad(function)(*given, **{**options, "reduction": "sum"})[1]
    return {quantity: torch.from_numpy(np.asarray(array)) for quantity, array in found.items()}


def _unit(values: NDArray[Any], precision: str) -> NDArray[Any]:
    """Return one unit in the last place of the format at these values."""
    digits, smallest = FORMATS[precision]
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 2.0 ** (smallest + digits))))
    return np.asarray(2.0 ** (exponent - digits))


def main() -> int:
    """Measure everything, store the table and say where the claim does not hold."""
    torch.set_num_threads(1)
    rows = [
        row
        for loss in CASES
        for path, precisions in PRECISIONS.items()
        for precision in precisions
        for classes in CLASSES
        for scale in SCALES
        for row in measure(loss, path, precision, classes, scale)
    ]
    produced_by = results.produced_by("python -m lmloss.lab.precision", [SEED])
    lines = ",\n".join(json.dumps([float(f"{v:.6g}") if isinstance(v, float) else v for v in row]) for row in rows)
    head = f'"produced_by": {json.dumps(produced_by)},\n"columns": {json.dumps(Row._fields)}'
    text = f'{{\n{head},\n"rows": [\n{lines}\n]\n}}\n'
    STORED.write_text(text, encoding="utf-8")
    broken = [row for row in rows if not row.holds]
    print(f"{len(rows)} errors measured, {len(broken)} above the composition by hand and one unit")
    for row in broken:
        print(row)
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
