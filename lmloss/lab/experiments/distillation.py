"""A small student of the real model: trained on the text alone, and on the text with the teacher's distributions.

``python -m lmloss.lab.experiments.distillation`` asks the teacher about the whole text once, trains every student and
stores the result for the chapter on distillation: about twenty minutes on one processor core, and 3 GB of memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm  # type: ignore[import-untyped]

import lmloss.torch as lt
from lmloss.lab import results
from lmloss.lab.models import SmallTransformer, evaluate, ngram, small_transformer, train
from lmloss.lab.pretrained import SmolLM2, smollm2
from lmloss.lab.text import Ids, real_text, split_text

__all__ = [
    "SETTINGS",
    "Data",
    "Setting",
    "compare",
    "hidden_states",
    "learn",
    "main",
    "measure",
    "read_data",
    "teacher_logits",
]

COMMAND = "python -m lmloss.lab.experiments.distillation"
LENGTH = 64
SOFT: dict[str, Any] = {"temperature": 2.0, "alpha": 0.5}
Lesson = dict[str, Any] | None


class Setting(NamedTuple):
    """How much text there is, who learns from it for how long, and in which lessons.

    Attributes
    ----------
    tokens : tuple of int
        Tokens to train on and tokens held out, at most; both from the beginning of their part.
    options : dict
        What `learn` takes.
    lessons : dict
        By name: what `distillation_loss` takes, or, without a temperature, what `cross_entropy` takes; None stands for
        the text alone.
    seeds : tuple of int
        A student of each lesson for each.
    """

    tokens: tuple[int, int]
    options: dict[str, Any]
    lessons: dict[str, Lesson]
    seeds: tuple[int, ...]


SETTINGS = {
    "small": Setting(
        (4_000, 2_000),
        {"steps": 100, "every": 25, "batch_size": 8, "width": 64, "layers": 1},
        {
            "hard": None,
            "smoothed": {"label_smoothing": 0.1},
            "soft": SOFT,
            "temperature 1": {**SOFT, "temperature": 1.0},
            "temperature 3": {**SOFT, "temperature": 3.0},
            "temperature 5": {**SOFT, "temperature": 5.0},
            "temperature 20": {**SOFT, "temperature": 20.0},
            "alpha 0": {**SOFT, "alpha": 0.0},
            "reverse": {**SOFT, "divergence": "reverse_kl"},
            "jsd": {**SOFT, "divergence": "jsd"},
        },
        (0, 1, 2, 3, 4),
    ),
    "quarter": Setting((20_000, 5_000), {}, {"hard": None, "soft": SOFT}, (0, 1, 2)),
    "whole": Setting((10**9, 10**9), {}, {"hard": None, "soft": SOFT}, (0, 1, 2, 3, 4)),
}
"""From a page of text and a very small student to all of the text."""


class Data(NamedTuple):
    """A text in the teacher's tokens, renumbered so that the student has only those that occur.

    Attributes
    ----------
    train, held_out : ndarray of int
        The student's ids.
    vocabulary : ndarray of int, shape (V,)
        The teacher's id of each of the student's.
    """

    train: Ids
    held_out: Ids
    vocabulary: Ids


def read_data(model: SmolLM2, tokens: tuple[int, int]) -> Data:
    """Cut both parts of the real text into the teacher's tokens, keep the first of each, and renumber them."""
    parts = [model.ids(part).cpu().numpy()[:size] for part, size in zip(split_text(real_text()), tokens, strict=True)]
    vocabulary, renumbered = np.unique(np.concatenate(parts), return_inverse=True)
    return Data(renumbered[: len(parts[0])], renumbered[len(parts[0]) :], vocabulary)


@torch.no_grad()
def hidden_states(model: SmolLM2, ids: Ids, *, length: int = 256, batch_size: int = 8, progress: bool = True) -> Tensor:
    """Return what the teacher's output layer multiplies after every token of a text: shape (N, 576), float32.

    Parameters
    ----------
    model : SmolLM2
        The teacher.
    ids : ndarray of int, shape (N,)
        The text in the teacher's ids.
    length, batch_size : int
        The text is read in windows of this many tokens, so many at a time; a window knows nothing of the one before.
    progress : bool
        Whether to show a bar.
    """
    text = torch.as_tensor(ids, device=model.device)
    whole = len(text) // length * length
    windows = [*torch.split(text[:whole].view(-1, length), batch_size), text[None, whole:]]
    states = [
        model.model.model(window, use_cache=False).last_hidden_state.flatten(0, 1)
        for window in tqdm(windows, desc="teacher", leave=False, disable=not progress)
        if window.numel()
    ]
    return torch.cat(states).float()


@torch.no_grad()
def teacher_logits(model: SmolLM2, hidden: Tensor, vocabulary: Ids) -> Tensor:
    """Return the teacher's logits of the student's tokens: shape (N, V), float32, on the teacher's device.

    Only the rows of the output layer that belong to the student's tokens are multiplied: to drop a logit is to
    condition on the others.

    Parameters
    ----------
    model : SmolLM2
        The teacher.
    hidden : Tensor, shape (N, H)
        What `hidden_states` returns.
    vocabulary : ndarray of int, shape (V,)
        The teacher's id of each of the student's.
    """
    rows = model.model.get_output_embeddings().weight[torch.as_tensor(vocabulary, device=model.device)]
    logits: Tensor = hidden @ rows.float().T
    return logits


def learn(
    data: Data,
    teacher: Tensor | None,
    options: Lesson = None,
    *,
    seed: int = 0,
    steps: int = 300,
    every: int = 75,
    batch_size: int = 16,
    learning_rate: float = 5e-3,
    progress: bool = True,
    **shape: Any,
) -> tuple[SmallTransformer, list[tuple[int, float]]]:
    """Train one student; without a teacher on the text alone, otherwise by `distillation_loss`.

    With the same seed both see the same batches in the same order, start from the same weights, and drop the same.

    Parameters
    ----------
    data : Data
        The text.
    teacher : Tensor or None, shape (N, V)
        What `teacher_logits` says of the training text; it stands where the student will.
    options : dict, optional
        What `distillation_loss` takes (temperature, alpha, divergence); without a teacher, what `cross_entropy` takes.
    seed, steps, every, batch_size, learning_rate, progress
        As in `train`.
    **shape
        What else `small_transformer` takes: width, layers, heads, dropout.

    Returns
    -------
    tuple
        The student, and its loss on the text held out along the way: pairs of steps and nats per token.
    """
    device = torch.device("cpu") if teacher is None else teacher.device
    student = small_transformer(len(data.vocabulary), length=LENGTH, seed=seed, **shape).to(device)
    ids = torch.as_tensor(data.train, device=device)

    def loss(model: SmallTransformer, places: Tensor) -> Tensor:
        logits, targets = model(ids[places[:, :-1]]), ids[places[:, 1:]]
        if teacher is None:
            from_text: Tensor = lt.cross_entropy(logits, targets, **(options or {}))
            return from_text
        known = teacher[places[:, :-1]]
        from_teacher: Tensor = lt.distillation_loss(logits, known, targets, **(options or {}))
        return from_teacher

    history = train(
        student,
        loss,
        np.arange(len(data.train)),
        steps=steps,
        batch_size=batch_size,
        length=LENGTH + 1,
        learning_rate=learning_rate,
        seed=seed,
        watch=lambda model: evaluate(model, data.held_out, length=LENGTH),
        every=every,
        progress=progress,
    )
    return student, history.watched


@torch.no_grad()
def compare(student: SmallTransformer, held_out: Ids, teacher: Tensor) -> dict[str, float]:
    """Measure a student on the text held out, in windows of 64 tokens, beside the teacher.

    Returns
    -------
    dict
        ``"loss"`` in nats per token, ``"accuracy"`` of the likeliest token, ``"kl"`` of the student from the teacher at
        temperature 1, and ``"agreement"``, how often both have the same favourite.
    """
    places = torch.arange(len(held_out) - 1, device=teacher.device)
    ids = torch.as_tensor(held_out, device=teacher.device)
    student.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    for window in torch.split(places[: len(places) // LENGTH * LENGTH].view(-1, LENGTH), 8):
        logits, targets, known = student(ids[window]), ids[window + 1], teacher[window]
        best = logits.argmax(-1)
        sums += torch.stack(
            [
                lt.cross_entropy(logits, targets, reduction="sum"),
                (best == targets).sum(),
                lt.distillation_loss(logits, known, temperature=1.0, reduction="sum"),
                (best == known.argmax(-1)).sum(),
            ]
        ).cpu()
    means = sums / (len(places) // LENGTH * LENGTH)
    return {
        name: round(float(value), 4) for name, value in zip(("loss", "accuracy", "kl", "agreement"), means, strict=True)
    }


def measure(
    data: Data, teacher: Tensor, teacher_held_out: Tensor, setting: Setting, *, progress: bool = True
) -> dict[str, Any]:
    """Train a student for each lesson and seed of a setting, and hold all of them against n-grams and the teacher.

    All losses are in nats per token of the text held out.
    """
    size = len(data.vocabulary)
    ngrams = {order: -ngram(order).fit(data.train, size).log_probs(data.held_out)[1:].mean() for order in (1, 2, 3)}
    targets = torch.as_tensor(data.held_out[1:], device=teacher.device)
    runs = []
    for name, lesson in tqdm(setting.lessons.items(), desc="lessons", leave=False, disable=not progress):
        for seed in setting.seeds:
            known = teacher if lesson and "temperature" in lesson else None
            student, looks = learn(data, known, lesson, seed=seed, progress=progress, **setting.options)
            curve = [[step, round(loss, 4)] for step, loss in looks]
            runs.append(
                {"lesson": name, "seed": seed, "curve": curve, **compare(student, data.held_out, teacher_held_out)}
            )
    return {
        "tokens": [len(data.train), len(data.held_out)],
        "vocabulary": size,
        "ngrams": {str(order): round(float(loss), 4) for order, loss in ngrams.items()},
        "teacher": round(float(lt.cross_entropy(teacher_held_out[:-1], targets)), 4),
        "runs": runs,
    }


def main() -> None:
    """Ask the teacher, train every student and store the result."""
    model, measured = smollm2(), {}
    text = read_data(model, SETTINGS["whole"].tokens)
    hidden = [hidden_states(model, text.vocabulary[ids]) for ids in (text.train, text.held_out)]
    for name, setting in SETTINGS.items():
        data = read_data(model, setting.tokens)
        known = [
            teacher_logits(model, states[: len(ids)], data.vocabulary)
            for states, ids in zip(hidden, (data.train, data.held_out), strict=True)
        ]
        measured[name] = measure(data, known[0], known[1], setting)
    seeds = sorted({seed for setting in SETTINGS.values() for seed in setting.seeds})
    print(results.save("distillation", measured, command=COMMAND, seeds=seeds))


if __name__ == "__main__":
    main()
