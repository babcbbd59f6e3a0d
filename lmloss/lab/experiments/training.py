"""A small transformer trained on the bytes of the real text: against n-grams, on too little text, at other rates.

``python -m lmloss.lab.experiments.training`` runs it with every seed and stores the result for the chapter on training;
it takes about ten minutes on one processor core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm  # type: ignore[import-untyped]

import lmloss.torch as lt
from lmloss.lab import results
from lmloss.lab.experiments.perplexity import strided_losses, window_losses
from lmloss.lab.models import SmallTransformer, evaluate, ngram, small_transformer, train
from lmloss.lab.pretrained import SmolLM2, smollm2
from lmloss.lab.text import Ids, byte_tokenizer, real_text, split_text

__all__ = [
    "compare_with_ngrams",
    "learn",
    "main",
    "next_token_loss",
    "overfit",
    "overlapping_losses",
    "pretrained_bits_per_byte",
    "try_rates",
]

COMMAND = "python -m lmloss.lab.experiments.training"
SEEDS = (0, 1, 2)
PROMPT = "The "
Losses = npt.NDArray[np.float64]


def next_token_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the mean loss of a batch's tokens, each given those before it: what every run here minimises."""
    loss: Tensor = lt.causal_lm_loss(model(batch), batch)
    return loss


def learn(
    train_ids: Ids,
    watched: dict[str, Ids],
    *,
    vocab_size: int = 256,
    seed: int = 0,
    steps: int,
    every: int = 100,
    batch_size: int = 16,
    learning_rate: float = 5e-3,
    weight_decay: float = 0.1,
    clip: float | None = 1.0,
    progress: bool = True,
    **shape: Any,
) -> tuple[SmallTransformer, dict[str, list[float]]]:
    """Train a transformer on a text and look at its loss on other texts along the way.

    Parameters
    ----------
    train_ids : ndarray of int
        The text to train on.
    watched : dict of ndarray
        Texts by name; the model is evaluated on each every `every` steps, with dropout off.
    vocab_size, seed, steps, every, batch_size, learning_rate, weight_decay, clip
        As in `small_transformer` and `train`; the seed draws the weights, the batches and the dropout.
    progress : bool
        Whether to show a bar.
    **shape
        What else `small_transformer` takes: width, layers, heads, length, dropout.

    Returns
    -------
    tuple
        The trained model, and its history: the ``"steps"`` of the looks, the mean loss of each watched text there, in
        nats per token, and the loss of each training batch, ``"batches"``.
    """
    model = small_transformer(vocab_size, seed=seed, **shape).to(lt.default_device())
    length = model.length
    history = train(
        model,
        next_token_loss,
        train_ids,
        steps=steps,
        batch_size=batch_size,
        length=length,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip=clip,
        seed=seed,
        watch=lambda model: {name: evaluate(model, ids, length=length) for name, ids in watched.items()},
        every=every,
        progress=progress,
    )
    looks: dict[str, list[float]] = {"steps": [float(step) for step, _ in history.watched]}
    for name in watched:
        looks[name] = [round(losses[name], 4) for _, losses in history.watched]
    looks["batches"] = [round(float(loss), 4) for loss in history.losses]
    return model, looks


def overlapping_losses(model: nn.Module, ids: Ids, *, length: int = 64) -> Losses:
    """Return what each token of a text but the first costs a model that reads it in windows overlapping by half.

    Each token is scored once, and all but the first `length` ones with at least half a window before it. So a model
    that may read far is not judged by the beginnings of its windows, where it can read little.
    """
    text = torch.as_tensor(ids, device=next(model.parameters()).device)
    every = length // 2
    windows = window_losses(model, text, length=length, every=every, progress=False)
    return strided_losses(windows, every=every, length=length, stride=every)[0]


def compare_with_ngrams(
    train_ids: Ids,
    held_out: Ids,
    *,
    vocab_size: int = 256,
    seeds: Sequence[int] = SEEDS,
    orders: Sequence[int] = (1, 2, 3, 4, 6, 8),
    steps: int = 1000,
    every: int = 100,
    blocks: int = 20,
    prompt: Ids | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Train one transformer per seed and hold each against n-grams on the text held out.

    All losses are in nats per token, on the text held out unless named otherwise. Along the way a transformer reads it
    in windows without overlap, as `evaluate` does; ``"overlapping"`` and its ``"blocks"`` are from windows that overlap
    by half, because an n-gram never lacks its context either.
    """
    rows = {}
    for order in orders:
        log_probs = ngram(order).fit(train_ids, vocab_size).log_probs(held_out)
        rows[str(order)] = {
            "nll": round(float(-log_probs[1:].mean()), 4),
            "blocks": [round(float(-block[1:].mean()), 4) for block in np.array_split(log_probs, blocks)],
        }
    watched = {"train": train_ids[: len(held_out)], "held_out": held_out}
    runs: list[dict[str, Any]] = []
    texts: dict[str, list[int]] = {}
    for seed in tqdm(seeds, desc="seeds", leave=False, disable=not progress):
        if prompt is not None and not runs:
            untrained = small_transformer(vocab_size, seed=seed)
            texts["before"] = untrained.generate(prompt, 60, rng=np.random.default_rng(0)).tolist()
        model, looks = learn(
            train_ids,
            watched,
            vocab_size=vocab_size,
            seed=seed,
            steps=steps,
            every=every,
            progress=progress,
            **options,
        )
        if prompt is not None and not runs:
            texts["after"] = model.generate(prompt, 500, temperature=0.8, rng=np.random.default_rng(0)).tolist()
        looks.pop("batches")
        losses = overlapping_losses(model, held_out, length=model.length)
        pieces = np.array_split(np.append(np.nan, losses), blocks)  # cut where the n-grams' are
        runs.append(
            {
                "seed": seed,
                **looks,
                "overlapping": round(float(losses.mean()), 4),
                "blocks": [round(float(piece[1:].mean()), 4) for piece in pieces],
            }
        )
    return {"tokens": [len(train_ids), len(held_out)], "ngrams": rows, "runs": runs, "texts": texts}


def overfit(
    train_ids: Ids,
    held_out: Ids,
    *,
    vocab_size: int = 256,
    seeds: Sequence[int] = SEEDS,
    few: int = 20_000,
    steps: int = 400,
    every: int = 40,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Train on the beginning of the text without and with dropout, and on all of it.

    The text held out is watched in two halves, so that a step chosen on one can be judged on the other.
    """
    halves = np.array_split(held_out, 2)
    arms = {"few": (train_ids[:few], 0.0), "few, dropout": (train_ids[:few], 0.3), "all": (train_ids, 0.0)}
    measured: dict[str, Any] = {"few_tokens": few}
    for name, (text, dropout) in arms.items():
        runs = []
        for seed in tqdm(seeds, desc=name, leave=False, disable=not progress):
            watched = {"train": text[:few], "choose": halves[0], "judge": halves[1]}
            _, looks = learn(
                text,
                watched,
                vocab_size=vocab_size,
                seed=seed,
                steps=steps,
                every=every,
                dropout=dropout,
                progress=progress,
                **options,
            )
            looks.pop("batches")
            runs.append({"seed": seed, **looks})
        measured[name] = runs
    return measured


def try_rates(
    train_ids: Ids,
    held_out: Ids,
    *,
    vocab_size: int = 256,
    seeds: Sequence[int] = SEEDS,
    rates: Sequence[float] = (1e-4, 1e-3, 5e-3, 2e-2, 1e-1),
    clips: Sequence[float | None] = (1.0, None),
    steps: int = 100,
    progress: bool = True,
    **options: Any,
) -> list[dict[str, Any]]:
    """Make the same short run at several learning rates, with the gradient's norm cut and not cut."""
    rows = []
    runs = [(rate, clip, seed) for rate in rates for clip in clips for seed in seeds]
    for rate, clip, seed in tqdm(runs, desc="rates", leave=False, disable=not progress):
        _, looks = learn(
            train_ids,
            {"held_out": held_out},
            vocab_size=vocab_size,
            seed=seed,
            steps=steps,
            every=steps,
            learning_rate=rate,
            clip=clip,
            progress=progress,
            **options,
        )
        first, last = looks["held_out"]
        worst = max(looks["batches"])
        rows.append({"rate": rate, "clip": clip, "seed": seed, "first": first, "worst_batch": worst, "nll": last})
    return rows


class _Logits(nn.Module):
    """A pretrained model as `evaluate` wants one: ids in, logits out."""

    def __init__(self, pretrained: SmolLM2) -> None:
        super().__init__()
        self.model = pretrained.model

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids, use_cache=False).logits
        return logits.float()


def pretrained_bits_per_byte(pretrained: SmolLM2, text: str, *, length: int = 512) -> float:
    """Return what a pretrained model pays for a text in bits per byte, read in windows of `length` tokens.

    Its first token is not scored, and neither are that token's bytes counted.
    """
    ids = pretrained.ids(text)
    nll = evaluate(_Logits(pretrained), ids.cpu().numpy(), length=length, batch_size=1) * (len(ids) - 1)
    unscored = len(pretrained.tokenizer.decode([int(ids[0])]).encode())
    return float(lt.bits_per_byte(torch.tensor(nll), len(text.encode()) - unscored))


def main() -> None:
    """Run everything at full size and store the result."""
    train_text, held_out_text = split_text(real_text())
    tokenizer = byte_tokenizer()
    train_ids, held_out = tokenizer.encode(train_text), tokenizer.encode(held_out_text)
    measured: dict[str, Any] = {
        "ngrams": compare_with_ngrams(train_ids, held_out, prompt=tokenizer.encode(PROMPT)),
        "overfit": overfit(train_ids, held_out, layers=1),
        "rates": try_rates(train_ids, held_out[:10_000], layers=1),
        "pretrained_bits_per_byte": round(pretrained_bits_per_byte(smollm2(), held_out_text), 4),
    }
    results.save("training", measured, command=COMMAND, seeds=list(SEEDS))


if __name__ == "__main__":
    main()
