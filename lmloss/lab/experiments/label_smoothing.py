"""What label smoothing does to small language models of the real text, and to students of such models.

``python -m lmloss.lab.experiments.label_smoothing`` trains them all, in some ten minutes on one processor core, and
stores what it measured.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from lmloss.lab.models import SmallTransformer, small_transformer, train
from lmloss.lab.results import save
from lmloss.lab.text import Ids, byte_tokenizer, real_text, split_text
from lmloss.torch import causal_lm_loss, cross_entropy, distillation_loss, expected_calibration_error

__all__ = [
    "EPSILONS",
    "SITUATIONS",
    "Data",
    "Situation",
    "distil",
    "fit_temperature",
    "fit_to",
    "held_out_logits",
    "main",
    "measure",
    "read_data",
    "reliability",
]

EPSILONS = (0.0, 0.1)
SEEDS = [0, 1, 2, 3, 4]
LENGTH = 64
BATCH = 16
TEMPERATURES = (1.0, 2.0)
STUDENT_STEPS = 300


class Situation(NamedTuple):
    """How much of the training text a model sees, and for how many steps."""

    share: float
    steps: int


SITUATIONS = {"whole text": Situation(1.0, 500), "a twentieth": Situation(0.05, 400)}
"""Less than two passes over the text, and more than twenty over a twentieth of it."""


class Data(NamedTuple):
    """The bytes of the real text to train on, and those held out."""

    train: Ids
    held_out: Ids


def read_data() -> Data:
    """Return the real text as bytes, split so that no paragraph is in both parts."""
    tokenizer = byte_tokenizer()
    return Data(*(tokenizer.encode(part) for part in split_text(real_text())))


def fit_to(
    data: Data,
    situation: Situation,
    *,
    label_smoothing: float,
    seed: int,
    width: int = 64,
    layers: int = 2,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> tuple[SmallTransformer, npt.NDArray[np.float64]]:
    """Train one model without dropout, and return it with its training losses.

    Its smoothing is over all classes. Whatever its smoothing, `train` lets its weights decay and clips its gradients.
    """
    model = small_transformer(256, width=width, layers=layers, length=LENGTH, dropout=0.0, seed=seed).to(device)
    history = train(
        model,
        lambda model, batch: causal_lm_loss(model(batch), batch, label_smoothing=label_smoothing),
        data.train[: round(situation.share * len(data.train))],
        steps=situation.steps,
        batch_size=BATCH,
        length=LENGTH,
        learning_rate=5e-3,
        seed=seed,
        progress=progress,
    )
    return model, history.losses


def distil(
    data: Data,
    teacher: SmallTransformer | None,
    *,
    temperature: float = 1.0,
    steps: int = STUDENT_STEPS,
    seed: int,
    progress: bool = False,
) -> SmallTransformer:
    """Train a smaller model: on a teacher's distributions alone, or without one on the text."""

    def loss(student: SmallTransformer, batch: Tensor) -> Tensor:
        if teacher is None:
            from_text: Tensor = causal_lm_loss(student(batch), batch)
            return from_text
        with torch.no_grad():
            known = teacher(batch)
        from_teacher: Tensor = distillation_loss(student(batch), known, temperature=temperature)
        return from_teacher

    student = small_transformer(256, width=32, layers=1, length=LENGTH, dropout=0.0, seed=seed + 100)
    train(
        student,
        loss,
        data.train,
        steps=steps,
        batch_size=BATCH,
        length=LENGTH,
        learning_rate=5e-3,
        seed=seed,
        progress=progress,
    )
    return student


@torch.no_grad()
def held_out_logits(model: SmallTransformer, ids: Ids) -> tuple[Tensor, Tensor]:
    """Return the logits of a text's tokens, shape (N, V), and the tokens, read in windows that overlap by one."""
    text = torch.as_tensor(ids, device=model.embedding.weight.device)
    windows = text.unfold(0, LENGTH, LENGTH - 1)
    logits = torch.cat([model(part)[:, :-1] for part in torch.split(windows, 64)])
    return logits.reshape(-1, model.vocab_size), windows[:, 1:].reshape(-1)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    r"""Return the temperature at which the mean loss of the targets is smallest.

    With :math:`\beta = 1/\tau` the slope of the mean loss is the mean of :math:`\mathbb{E}_q[z] - z_y`. It rises with
    :math:`\beta`, so that bisection finds its root between temperatures 1/8 and 8.

    Parameters
    ----------
    logits : Tensor, shape (N, V)
        Finite.
    targets : Tensor, shape (N,)
        The classes that came.
    """
    z = logits.float()
    of_targets = z.gather(1, targets[:, None]).mean()
    low, high = -3.0, 3.0  # log2 of beta
    for _ in range(20):
        middle = (low + high) / 2
        slope = (torch.softmax(2**middle * z, dim=-1) * z).sum(-1).mean() - of_targets
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(2 ** -((low + high) / 2))


def reliability(probs: Tensor, targets: Tensor, *, bins: int = 15) -> npt.NDArray[np.float64]:
    """Return a row for each bin of confidence: how many predictions, their mean confidence, their accuracy.

    An empty bin has confidence and accuracy 0.
    """
    confidence, choice = (part.cpu().numpy() for part in probs.max(-1))
    right = choice == targets.cpu().numpy()
    place = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    count, sure, correct = (np.bincount(place, values, bins) for values in (np.ones(len(right)), confidence, right))
    return np.stack([count, sure / np.maximum(count, 1), correct / np.maximum(count, 1)], axis=1)


def measure(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> dict[str, Any]:
    """Measure predictions as they are, at a fitted temperature, and with the smoothing taken out of them.

    The temperature of each half of the predictions is fitted on the other half.

    Parameters
    ----------
    logits : Tensor, shape (N, V)
        The predictions.
    targets : Tensor, shape (N,)
        What came.
    label_smoothing : float
        What the model was trained with.
    """
    half = len(targets) // 2
    first, second = fit_temperature(logits[:half], targets[:half]), fit_temperature(logits[half:], targets[half:])
    scaled = torch.cat([logits[:half] / second, logits[half:] / first])
    probs = torch.softmax(logits, dim=-1)
    sharpened = (probs - label_smoothing / logits.shape[-1]).clamp(min=0)
    sharpened /= sharpened.sum(-1, keepdim=True)
    return {
        "loss": float(cross_entropy(logits, targets)),
        "accuracy": float((probs.argmax(-1) == targets).float().mean()),
        "confidence": float(probs.amax(-1).mean()),
        "ece": float(expected_calibration_error(probs, targets)),
        "temperature": (first + second) / 2,
        "scaled_loss": float(cross_entropy(scaled, targets)),
        "scaled_ece": float(expected_calibration_error(torch.softmax(scaled, dim=-1), targets)),
        "sharpened_ece": float(expected_calibration_error(sharpened, targets)),
        "reliability": reliability(probs, targets).round(5).tolist(),
    }


def main() -> None:
    """Train and measure everything, and store it."""
    data = read_data()
    models: list[dict[str, Any]] = []
    students: list[dict[str, Any]] = []
    bar = tqdm(total=len(SEEDS) * (len(SITUATIONS) * len(EPSILONS) + 1 + len(EPSILONS) * len(TEMPERATURES)))
    for seed in SEEDS:
        lessons: list[tuple[float | None, float, SmallTransformer | None]] = [(None, 1.0, None)]
        for name, situation in SITUATIONS.items():
            for eps in EPSILONS:
                model, losses = fit_to(data, situation, label_smoothing=eps, seed=seed)
                found = measure(*held_out_logits(model, data.held_out), label_smoothing=eps)
                run = {"situation": name, "label_smoothing": eps, "seed": seed}
                models.append({**run, "training_loss": float(losses[-50:].mean()), **found})
                if situation.share == 1:
                    lessons += [(eps, temperature, model) for temperature in TEMPERATURES]
                bar.update()
        for eps_of_teacher, temperature, teacher in lessons:
            student = distil(data, teacher, temperature=temperature, seed=seed)
            found = measure(*held_out_logits(student, data.held_out))
            lesson = {"teacher": eps_of_teacher, "temperature_of_lesson": temperature, "seed": seed}
            students.append({**lesson, **found})
            bar.update()
    bar.close()
    command = "python -m lmloss.lab.experiments.label_smoothing"
    print(save("label_smoothing", {"models": models, "students": students}, command=command, seeds=SEEDS))


if __name__ == "__main__":
    main()
