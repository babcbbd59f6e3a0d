"""Masked language models on the known language and on real text.

``python -m lmloss.lab.experiments.masked_lm`` trains them and stores what they reach for the chapter on masked language
modelling; it takes some twelve minutes on one processor core.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import lmloss.torch as lt
from lmloss.lab import results
from lmloss.lab.language import KnownLanguage, known_language
from lmloss.lab.models import SmallTransformer, ngram, small_transformer, train
from lmloss.lab.text import byte_tokenizer, real_text, split_text

__all__ = [
    "byte_baselines",
    "byte_words",
    "drawn_once",
    "known_blanks",
    "letter_losses",
    "main",
    "masked_batch_loss",
    "measure_bytes",
    "measure_known",
    "measure_proofreading",
    "middle_losses",
    "read_static",
    "windows_around",
    "with_blanks",
]

COMMAND = "python -m lmloss.lab.experiments.masked_lm"
Ids = npt.NDArray[np.int64]
Loss = Callable[[Any, Tensor], Tensor]


def masked_batch_loss(
    mask_token_id: int,
    *,
    seed: int,
    labels_everywhere: bool = False,
    whole_words: bool = False,
    masks_only: bool = False,
) -> Loss:
    """Return the loss for `train` that draws a fresh mask for every batch.

    Parameters
    ----------
    mask_token_id : int
        The mask, the last id of the vocabulary and its only special one.
    seed : int
        Of the masks.
    labels_everywhere : bool
        Scores every position, as a program does that forgets the -100.
    whole_words : bool
        Selects whole words of a text of bytes.
    masks_only : bool
        Shows every selected token as a mask, instead of 80 % of them.
    """
    rng = torch.Generator().manual_seed(seed)

    def loss(model: Any, batch: Tensor) -> Tensor:
        seen, labels, _ = lt.mask_tokens(
            batch,
            mask_token_id=mask_token_id,
            vocab_size=mask_token_id + 1,
            special_token_ids=[mask_token_id],
            word_ids=byte_words(batch) if whole_words else None,
            replace_prob=1.0 if masks_only else 0.8,
            random_prob=0.0 if masks_only else 0.1,
            rng=rng,
        )
        value: Tensor = lt.masked_lm_loss(model(seen), batch if labels_everywhere else labels)
        return value

    return loss


def byte_words(ids: Tensor) -> Tensor:
    """Return the word of each byte: letters in a row are one word, and every other byte is one by itself.

    Examples
    --------
    >>> byte_words(torch.tensor(list(b"a zoo, you"))).tolist()
    [1, 2, 3, 3, 3, 4, 5, 6, 6, 6]
    """
    lower = ids | 32
    letter = (lower >= ord("a")) & (lower <= ord("z")) & (ids < 128)
    goes_on = letter.clone()
    goes_on[..., 0] = False
    goes_on[..., 1:] &= letter[..., :-1]
    return torch.cumsum(~goes_on, dim=-1)


def drawn_once(ids: Ids, mask_token_id: int, *, seed: int) -> Ids:
    """Mask a text once, and return both what is seen and the labels in one row of integers for `train`.

    `read_static` takes them apart.
    """
    seen, labels, _ = lt.mask_tokens(
        torch.as_tensor(ids),
        mask_token_id=mask_token_id,
        vocab_size=mask_token_id + 1,
        special_token_ids=[mask_token_id],
        rng=torch.Generator().manual_seed(seed),
    )
    return (seen * (mask_token_id + 2) + labels.clamp(min=-1) + 1).numpy()


def read_static(mask_token_id: int) -> Loss:
    """Return the loss for `train` on what `drawn_once` returned: the same mask in every epoch."""

    def loss(model: Any, batch: Tensor) -> Tensor:
        labels = batch % (mask_token_id + 2) - 1
        seen = batch // (mask_token_id + 2)
        value: Tensor = lt.masked_lm_loss(model(seen), labels.masked_fill(labels < 0, -100))
        return value

    return loss


def known_blanks(language: KnownLanguage, n_windows: int, *, seed: int, length: int = 32) -> Tensor:
    """Return windows of fresh text, shape (n_windows, length); the blank will be in the middle.

    A sentence has at most 11 words, so that the middle always has its whole sentence around it.
    """
    text = language.sample(n_windows * length, np.random.default_rng(seed))
    return torch.from_numpy(text.reshape(n_windows, length))


def with_blanks(ids: Tensor, mask_token_id: int, *, seed: int, mask_prob: float = 0.15) -> tuple[Tensor, Tensor]:
    """Return what a model sees of a text and the labels, every selected token a mask."""
    seen, labels, _ = lt.mask_tokens(
        ids,
        mask_token_id=mask_token_id,
        vocab_size=mask_token_id + 1,
        special_token_ids=[mask_token_id],
        mask_prob=mask_prob,
        rng=torch.Generator().manual_seed(seed),
        replace_prob=1.0,
        random_prob=0.0,
    )
    return seen, labels


def _read_middle(model: SmallTransformer, windows: Tensor, shown: Tensor | int) -> Tensor:
    """Return the logits at the middle of windows that show there a word of their own, or one for all."""
    middle = windows.shape[1] // 2
    seen = windows.clone()
    seen[:, middle] = shown
    model.eval()
    logits: Tensor = model(seen)
    return logits[:, middle]


@torch.no_grad()
def middle_losses(model: SmallTransformer, windows: Tensor, *, seed: int = 0) -> dict[str, float]:
    """Return the mean loss of the middle word shown as a mask, as itself, and as a random other word."""
    truth, size = windows[:, windows.shape[1] // 2], model.vocab_size - 1
    rng = torch.Generator().manual_seed(seed)
    shown = {
        "blank": torch.full_like(truth, size),
        "kept": truth,
        "replaced": (truth + torch.randint(1, size, truth.shape, generator=rng).to(truth.device)) % size,
    }
    return {name: float(lt.cross_entropy(_read_middle(model, windows, words), truth)) for name, words in shown.items()}


@torch.no_grad()
def _masked_loss(model: SmallTransformer, ids: Tensor, *, seed: int = 7) -> float:
    seen, labels = with_blanks(ids, model.vocab_size - 1, seed=seed)
    model.eval()
    return float(lt.masked_lm_loss(model(seen), labels))


def measure_known(
    seed: int, *, steps: int = 400, tokens: int = 60_000, few: int = 2_048, windows: int = 400, progress: bool = True
) -> dict[str, Any]:
    """Train on the known language in six ways with one seed, and return what each reaches.

    Parameters
    ----------
    seed : int
        Of the weights, the batches and the masks.
    steps : int
        Of each training, batches of 32 windows of 32 words.
    tokens, few : int
        Words to train on, and for the two trainings with masks drawn once and drawn anew.
    windows : int
        How many blanks to judge by.
    """
    language = known_language()
    mask = len(language.vocabulary)
    text = language.sample(tokens, np.random.default_rng(0))
    test = known_blanks(language, windows, seed=1)
    ways: dict[str, tuple[Loss, Ids]] = {
        "80/10/10": (masked_batch_loss(mask, seed=seed), text),
        "100/0/0": (masked_batch_loss(mask, seed=seed, masks_only=True), text),
        "causal": (masked_batch_loss(mask, seed=seed), text),
        "everywhere": (masked_batch_loss(mask, seed=seed, labels_everywhere=True), text),
        "dynamic": (masked_batch_loss(mask, seed=seed), text[:few]),
        "static": (read_static(mask), drawn_once(text[:few], mask, seed=seed)),
    }
    measured: dict[str, Any] = {}
    for name, (loss, ids) in ways.items():
        model = small_transformer(mask + 1, causal=name == "causal", width=48, length=32, dropout=0.0, seed=seed)
        history = train(
            model,
            loss,
            ids,
            steps=steps,
            length=32,
            learning_rate=1e-2,
            seed=seed,
            watch=lambda m: round(middle_losses(m, test)["blank"], 4),
            every=max(1, steps // 8),
            progress=progress,
        )
        measured[name] = {
            "steps": [step for step, _ in history.watched],
            "blank_curve": [value for _, value in history.watched],
            **{shown: round(value, 4) for shown, value in middle_losses(model, test).items()},
            "train_loss": round(float(history.losses[-steps // 8 :].mean()), 4),
            "masked": round(_masked_loss(model, test), 4),
            "masked_read": round(_masked_loss(model, torch.from_numpy(text[:few].reshape(-1, 32))), 4),
        }
    return measured


def windows_around(
    language: KnownLanguage, sentence: str, place: int, n_windows: int, *, seed: int, length: int = 32
) -> Tensor:
    """Return windows of fresh text, shape (n_windows, length), with a sentence's word `place` in the middle of each.

    Examples
    --------
    >>> language = known_language()
    >>> windows = windows_around(language, "every effort moves you forward .", 2, 3, seed=0)
    >>> windows.shape, language.decode(windows[0, 13:20].tolist())
    (torch.Size([3, 32]), '. every effort moves you forward .')
    """
    text = language.sample(2_000 * n_windows, np.random.default_rng(seed))
    wanted, middle = (0, *language.encode(sentence).tolist()), length // 2
    rows = np.lib.stride_tricks.sliding_window_view(text, length)
    first = middle - place - 1
    found = np.flatnonzero((rows[:, first : first + len(wanted)] == wanted).all(axis=1))
    if len(found) < n_windows:
        raise ValueError(f"n_windows = {n_windows}: {sentence!r} was found only {len(found)} times")
    return torch.from_numpy(rows[found[:n_windows]].copy())


@torch.no_grad()
def _answers(model: SmallTransformer, windows: Tensor, shown: int) -> list[float]:
    probs = torch.softmax(_read_middle(model, windows, shown)[:, :-1].double(), dim=-1)
    return [round(value, 4) for value in probs.mean(dim=0).tolist()]


def measure_proofreading(
    seed: int, *, steps: int = 1_600, tokens: int = 300_000, windows: int = 400, progress: bool = True
) -> dict[str, Any]:
    """Train for longer on the known language with one seed, and watch the answers to three kinds of question.

    Parameters
    ----------
    seed : int
        Of the weights, the batches and the masks.
    steps : int
        Of 32 windows of 32 words.
    tokens : int
        Words to train on.
    windows : int
        How many places to judge by.
    """
    language = known_language()
    mask = len(language.vocabulary)
    test = known_blanks(language, windows, seed=1)
    model = small_transformer(mask + 1, causal=False, width=48, length=32, dropout=0.0, seed=seed)
    history = train(
        model,
        masked_batch_loss(mask, seed=seed),
        language.sample(tokens, np.random.default_rng(0)),
        steps=steps,
        length=32,
        learning_rate=1e-2,
        seed=seed,
        watch=lambda m: middle_losses(m, test),
        every=max(1, steps // 16),
        progress=progress,
    )
    around = windows_around(language, "every effort moves you forward .", 2, 50, seed=2)
    shown = {"[MASK]": mask, **{word: language.vocabulary.index(word) for word in ("brings", "zoo")}}
    return {
        "steps": [step for step, _ in history.watched],
        **{name: [round(losses[name], 4) for _, losses in history.watched] for name in ("blank", "kept", "replaced")},
        "answers": {word: _answers(model, around, token) for word, token in shown.items()},
    }


@torch.no_grad()
def letter_losses(model: SmallTransformer, text: str, *, words: int, rng: np.random.Generator) -> dict[str, float]:
    """Measure what a model says of one letter of a word: hidden alone, and hidden with its whole word.

    Parameters
    ----------
    model : SmallTransformer
        Of bytes, with the mask as its last id.
    text : str
        Where the words are: five letters or more.
    words : int
        How many.
    rng : numpy.random.Generator
        Draws the words and the letters.

    Returns
    -------
    dict
        Mean losses, ``alone`` and ``in_hidden_word``, and the mean probability of all 52 letters together.
    """
    ids, half = torch.from_numpy(byte_tokenizer().encode(text)), model.length // 2
    found = [m for m in re.finditer(rb"\b[a-z]{5,}\b", text.encode()) if half < m.start() < len(ids) - 2 * half]
    seen: dict[str, list[Tensor]] = {"alone": [], "in_hidden_word": []}
    truth = []
    for place in rng.choice(len(found), words, replace=False):
        start, end = found[place].span()
        letter = int(rng.integers(start, end))
        for name, hidden in (("alone", slice(letter, letter + 1)), ("in_hidden_word", slice(start, end))):
            copy = ids.clone()
            copy[hidden] = model.vocab_size - 1
            seen[name].append(copy[letter - half : letter + half])
        truth.append(ids[letter])
    model.eval()
    letters = [token for token in range(128) if chr(token).isalpha()]
    measured = {}
    for name, texts in seen.items():
        logits = model(torch.stack(texts))[:, half]
        measured[name] = round(float(lt.cross_entropy(logits, torch.stack(truth))), 4)
        measured[f"letters_{name}"] = round(float(torch.softmax(logits, -1)[:, letters].sum(-1).mean()), 4)
    return measured


def measure_bytes(
    seed: int,
    *,
    whole_words: bool = False,
    steps: int = 500,
    batch_size: int = 16,
    length: int = 64,
    words: int = 1_000,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a masked model on the bytes of the real text with one seed, and judge it on the text held out.

    Parameters
    ----------
    seed : int
        Of the weights, the batches and the masks.
    whole_words : bool
        Whether whole words are hidden in training, or bytes.
    steps, batch_size, length : int
        As for `train`.
    words : int
        How many words `letter_losses` looks at.
    """
    train_text, held_out = split_text(real_text())
    tokenizer, mask = byte_tokenizer(), 256
    rows = tokenizer.encode(held_out)
    rows = rows[: len(rows) // length * length].reshape(-1, length)
    seen, labels = with_blanks(torch.from_numpy(rows), mask, seed=1)
    model = small_transformer(mask + 1, causal=False, length=length, seed=seed)

    @torch.no_grad()
    def watch(model: SmallTransformer) -> float:
        model.eval()
        return round(float(lt.masked_lm_loss(model(seen), labels)), 4)

    history = train(
        model,
        masked_batch_loss(mask, seed=seed, whole_words=whole_words),
        tokenizer.encode(train_text),
        steps=steps,
        batch_size=batch_size,
        length=length,
        learning_rate=5e-3,
        seed=seed,
        watch=watch,
        every=max(1, steps // 10),
        progress=progress,
    )
    return {
        "steps": [step for step, _ in history.watched],
        "curve": [value for _, value in history.watched],
        "letter": letter_losses(model, held_out, words=words, rng=np.random.default_rng(2)),
    }


def byte_baselines(*, length: int = 64) -> dict[str, float]:
    """Return the mean loss, at the same blanks, of models that count bytes and read to the left only."""
    train_text, held_out = split_text(real_text())
    ids, text = byte_tokenizer().encode(train_text), byte_tokenizer().encode(held_out)
    text = text[: len(text) // length * length]
    _, labels = with_blanks(torch.from_numpy(text.reshape(-1, length)), 256, seed=1)
    scored = (labels != -100).flatten().numpy()
    return {
        name: round(float(-ngram(order).fit(ids, 256).log_probs(text)[scored].mean()), 4)
        for order, name in enumerate(("unigram", "bigram", "trigram"), start=1)
    }


def main() -> None:
    """Train all models with three seeds and store what they reach."""
    seeds = [0, 1, 2]
    measured = {
        "known": [measure_known(seed) for seed in seeds],
        "proofreading": [measure_proofreading(seed) for seed in seeds],
        "bytes": {
            "baselines": byte_baselines(),
            "runs": [measure_bytes(seed) for seed in seeds],
            "whole_words": [measure_bytes(seed, whole_words=True) for seed in seeds],
        },
    }
    print(results.save("masked_lm", measured, command=COMMAND, seeds=seeds))


if __name__ == "__main__":
    main()
