"""Perplexity against window and stride, and loss against accuracy at a task.

``python -m lmloss.lab.experiments.perplexity`` measures both and stores them for the chapter on perplexity; it takes
about ten minutes on one processor core.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm  # type: ignore[import-untyped]

import lmloss.torch as lt
from lmloss.lab import results
from lmloss.lab.models import NGram, ngram, small_transformer, train
from lmloss.lab.pretrained import SmolLM2, smollm2
from lmloss.lab.text import Tokenizer, bpe_tokenizer, byte_tokenizer, real_text, split_text

__all__ = [
    "Question",
    "accuracy",
    "cloze_questions",
    "main",
    "measure_cloze",
    "measure_windows",
    "network_bits",
    "network_scores",
    "ngram_scores",
    "strided_losses",
    "window_losses",
]

COMMAND = "python -m lmloss.lab.experiments.perplexity"
Losses = npt.NDArray[np.float64]
Logits = Callable[[Tensor], Tensor]


@torch.no_grad()
def window_losses(logits_of: Logits, ids: Tensor, *, length: int, every: int, progress: bool = True) -> list[Losses]:
    """Return what a model pays for a text that it reads in windows, one window every few tokens.

    Parameters
    ----------
    logits_of : callable
        The model: ids (1, T) to logits (1, T, V).
    ids : Tensor
        The text, shape (N + 1,): N tokens are predicted, the first is only read.
    length : int
        How many tokens a window reads; fewer at the end of the text.
    every : int
        How far apart the windows start.

    Returns
    -------
    list of ndarray
        For the window that starts at token ``k * every`` the losses in nats of the tokens after it: entry i is that of
        token ``k * every + i + 1``, predicted from the i + 1 tokens before it.
    """
    starts = range(0, len(ids) - 1, every)
    windows = []
    for start in tqdm(starts, desc="windows", leave=False, disable=not progress):
        text = ids[start : start + length + 1]
        windows.append(lt.cross_entropy(logits_of(text[None, :-1])[0], text[1:], reduction="none").cpu().double())
    return [np.asarray(window) for window in windows]


def strided_losses(windows: Sequence[Losses], *, every: int, length: int, stride: int) -> tuple[Losses, int]:
    """Return every token's loss when windows of `length` tokens move by `stride`, and how many tokens that reads.

    A window scores the tokens that no window before it has scored: the last `stride` ones, the first window all. As a
    causal model's losses depend on the past alone, the beginnings of longer windows serve for shorter ones.

    Parameters
    ----------
    windows : sequence of ndarray
        From `window_losses`, made with a length of at least this one.
    every : int
        How far apart they start.
    length, stride : int
        The windows to evaluate; `stride` is a multiple of `every` and at most `length`.
    """
    if stride % every or not 0 < stride <= length:
        raise ValueError(f"stride = {stride} should be a multiple of every = {every} and at most length = {length}")
    total = (len(windows) - 1) * every + len(windows[-1])
    losses, read, start = np.empty(0), 0, 0
    while len(losses) < total:
        window = windows[start // every][:length]
        losses = np.append(losses, window[len(losses) - start :])
        read, start = read + len(window), start + stride
    return losses, read


def measure_windows(
    logits_of: Logits, ids: Tensor, *, lengths: Sequence[int], every: int, progress: bool = True
) -> dict[str, Any]:
    """Return the mean loss of a text for every window length and stride, with the tokens read for each token scored."""
    windows = window_losses(logits_of, ids, length=max(lengths), every=every, progress=progress)
    best, _ = strided_losses(windows, every=every, length=max(lengths), stride=every)
    rows = []
    for length in lengths:
        stride = every
        while stride <= length:
            losses, read = strided_losses(windows, every=every, length=length, stride=stride)
            excess = losses - best
            rows.append(
                {
                    "length": length,
                    "stride": stride,
                    "nll": round(float(losses.mean()), 4),
                    "read_per_token": round(read / len(losses), 3),
                    "excess": round(float(excess.mean()), 4),
                    "excess_error": round(float(excess.std(ddof=1) / np.sqrt(len(excess))), 4),
                }
            )
            stride *= 2
    by_context = np.array([window[: max(lengths) // 2] for window in windows if len(window) >= max(lengths) // 2])
    edges = [0, *(2**power for power in range(int(np.log2(by_context.shape[1])) + 1))]
    return {
        "tokens": len(best),
        "rows": rows,
        "context": [edge + 1 for edge in edges[:-1]],
        "nll_by_context": [round(float(by_context[:, low:high].mean()), 3) for low, high in pairwise(edges)],
    }


class Question(NamedTuple):
    """A gap in a text: what stands before it, and four words; the first is the one that came."""

    context: str
    candidates: tuple[str, ...]


def cloze_questions(
    train_text: str, held_out: str, n: int, rng: np.random.Generator, *, context: int = 160
) -> list[Question]:
    """Draw gaps from a text, each with the word that came and three others as long and about as frequent.

    Parameters
    ----------
    train_text : str
        Where words are counted; a candidate occurs in it at least five times.
    held_out : str
        Where the gaps are: words of four letters or more.
    n : int
        How many questions.
    rng : numpy.random.Generator
        Draws the gaps and the other words.
    context : int
        Characters before the gap.
    """
    counts = Counter(re.findall(r" [a-z]{4,}\b", train_text))
    words = sorted(word for word, count in counts.items() if count >= 5)
    gaps = [m for m in re.finditer(r" [a-z]{4,}\b", held_out) if m.start() >= context and counts[m[0]] >= 5]
    questions: list[Question] = []
    for place in rng.permutation(len(gaps)):
        came = gaps[place][0]
        near = [
            word
            for word in words
            if word != came and len(word) == len(came) and 0.5 <= counts[word] / counts[came] <= 2
        ]
        if len(near) >= 3 and len(questions) < n:
            before = held_out[gaps[place].start() - context : gaps[place].start()]
            others = [near[other] for other in rng.choice(len(near), 3, replace=False)]
            questions.append(Question(before, (came, *others)))
    if len(questions) < n:
        raise ValueError(f"n = {n}, but the text held out has {len(questions)} questions")
    return questions


def ngram_scores(model: NGram, tokenizer: Tokenizer, questions: Iterable[Question]) -> Losses:
    """Return the log-probability of each candidate after its context: shape (questions, 4)."""
    scores = []
    for question in questions:
        before = tokenizer.encode(question.context)[-model.order :]
        after = [tokenizer.encode(word) for word in question.candidates]
        scores.append([model.log_probs(np.append(before, word))[len(before) :].sum() for word in after])
    return np.array(scores)


@torch.no_grad()
def network_scores(
    logits_of: Logits,
    encode: Callable[[str], npt.ArrayLike],
    questions: Sequence[Question],
    *,
    longest: int,
    batch: int = 16,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Losses:
    """Return the log-probability of each candidate after its context, of which the last `longest` tokens are read."""
    rows = []
    for question in questions:
        before = np.asarray(encode(question.context))
        for word in question.candidates:
            after = np.asarray(encode(word))
            ids = np.append(before, after)[-longest:]
            rows.append((ids, np.append(np.full(len(ids) - len(after), -100), after)))
    scores = []
    for first in tqdm(range(0, len(rows), batch), desc="cloze", leave=False, disable=not progress):
        some = rows[first : first + batch]
        padded = nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row, _ in some], batch_first=True)
        labels = nn.utils.rnn.pad_sequence(
            [torch.as_tensor(label) for _, label in some], batch_first=True, padding_value=-100
        )
        logits = logits_of(padded.to(device))
        losses = lt.causal_lm_loss(logits, labels.to(device), reduction="none")
        scores.extend((-losses.sum(-1)).cpu().double().tolist())
    return np.array(scores).reshape(len(questions), -1)


def accuracy(scores: Losses) -> float:
    """Return how often the word that came, the first candidate, has the highest score."""
    return float(np.mean(scores.argmax(axis=-1) == 0))


@torch.no_grad()
def network_bits(logits_of: Logits, ids: Tensor, num_bytes: float, *, length: int) -> float:
    """Return a network's bits per byte on a text read in windows of `length` tokens that overlap by one."""
    windows = window_losses(logits_of, ids, length=length, every=length, progress=False)
    return float(lt.bits_per_byte(float(np.concatenate(windows).sum()), num_bytes))


def measure_cloze(
    *,
    seeds: Sequence[int],
    steps: int,
    every: int,
    n_questions: int,
    model: SmolLM2 | None,
    judged_characters: int = 9_000,
    smollm2_questions: int = 100,
) -> dict[str, Any]:
    """Return bits per byte and accuracy at gaps of n-grams, of a transformer while it learns, and of a real model."""
    train_text, held_out = split_text(real_text())
    judged = held_out[:judged_characters]
    num_bytes = len(judged.encode())
    questions = cloze_questions(train_text, held_out, n_questions, np.random.default_rng(0))
    bpe = bpe_tokenizer(train_text, 512)
    points: list[dict[str, Any]] = []

    def add(kind: str, name: str, bits: float, right: float, **more: float) -> None:
        points.append({"kind": kind, "name": name, "bits": round(bits, 4), "accuracy": round(right, 4), **more})

    for kind, tokenizer, orders in (("bytes", byte_tokenizer(), (1, 2, 3, 4, 6)), ("bpe", bpe, (1, 2, 3, 4))):
        text = tokenizer.encode(train_text)
        for order in orders:
            grams = ngram(order).fit(text, tokenizer.vocab_size)
            bits = lt.bits_per_byte(-float(grams.log_probs(tokenizer.encode(judged)).sum()), num_bytes).item()
            add(kind, f"{order}-gram", bits, accuracy(ngram_scores(grams, tokenizer, questions)))

    learned, judged_ids = bpe.encode(train_text), torch.as_tensor(bpe.encode(judged))
    rest = num_bytes - len(bpe.decode(judged_ids[:1].tolist()).encode())
    for seed in seeds:
        network = small_transformer(bpe.vocab_size, seed=seed)

        def watch(network: nn.Module) -> tuple[float, float]:
            network.eval()
            scores = network_scores(network, bpe.encode, questions, longest=64)
            return network_bits(network, judged_ids, rest, length=64), accuracy(scores)

        history = train(
            network,
            lambda network, batch: lt.causal_lm_loss(network(batch), batch),
            learned,
            steps=steps,
            batch_size=16,
            learning_rate=5e-3,
            seed=seed,
            watch=watch,
            every=every,
        )
        for step, (bits, right) in history.watched:
            add("transformer", f"seed {seed}", bits, right, steps=step)

    if model is not None:
        real_ids = model.ids(judged)
        rest = num_bytes - len(model.tokenizer.decode(real_ids[:1].tolist()).encode())

        def logits_of(ids: Tensor) -> Tensor:
            logits: Tensor = model.model(ids, use_cache=False).logits
            return logits.float()

        bits = network_bits(logits_of, real_ids, rest, length=512)
        nll_per_token = bits * rest * np.log(2) / (len(real_ids) - 1)
        some = questions[:smollm2_questions]
        scores = network_scores(
            logits_of, lambda text: model.ids(text).cpu(), some, longest=64, device=model.device, progress=True
        )
        add("smollm2", "SmolLM2", bits, accuracy(scores), nll_per_token=round(nll_per_token, 4))
    return {
        "judged_bytes": num_bytes,
        "questions": n_questions,
        "smollm2_questions": smollm2_questions,
        "points": points,
    }


def main() -> None:
    """Measure both and store them."""
    model, seeds = smollm2(), [0, 1, 2]

    def logits_of(ids: Tensor) -> Tensor:
        logits: Tensor = model.model(ids, use_cache=False).logits
        return logits.float()

    passage = model.ids(split_text(real_text())[0][:8_000])[:1025]
    windows = measure_windows(logits_of, passage, lengths=(32, 64, 128, 256, 512, 1024), every=32)
    cloze = measure_cloze(seeds=seeds, steps=640, every=80, n_questions=400, model=model)
    path = results.save("perplexity", {"windows": windows, "cloze": cloze}, command=COMMAND, seeds=seeds)
    print(path)


if __name__ == "__main__":
    main()
