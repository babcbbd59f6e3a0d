"""Language models that are ready in seconds: n-gram counts, and a small transformer with the loop that trains it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from lmloss.lab.text import Ids, batches, checked_ids
from lmloss.torch import causal_lm_loss

__all__ = ["History", "NGram", "SmallTransformer", "evaluate", "ngram", "small_transformer", "train"]

Probs = npt.NDArray[np.float64]


class NGram:
    """A model of the next token given the `order - 1` tokens before it; `ngram` makes one."""

    def __init__(self, order: int) -> None:
        self.order = _positive("order", order)
        self.vocab_size = 0
        self._levels: list[tuple[float, dict[tuple[int, ...], tuple[dict[int, int], int]]]] = []

    def __repr__(self) -> str:
        return f"NGram(order={self.order}, vocab_size={self.vocab_size})"

    def fit(self, ids: npt.ArrayLike, vocab_size: int) -> NGram:
        """Count the n-grams of a text and return the model.

        Parameters
        ----------
        ids : array_like of int
            The text, shape (T,).
        vocab_size : int
            V. Every token has a positive probability, whether it occurs or not.
        """
        text = checked_ids(ids, _positive("vocab_size", vocab_size)).tolist()
        if len(text) < self.order:
            raise ValueError(f"ids has {len(text)} tokens, fewer than one n-gram of order {self.order}")
        self.vocab_size, levels = int(vocab_size), []
        # The highest order counts how often an n-gram occurs, a lower one how many different tokens come before it.
        grams = Counter(zip(*(text[place:] for place in range(self.order)), strict=False))
        for _ in range(self.order):
            followers: defaultdict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
            for gram, count in grams.items():
                followers[gram[:-1]][gram[-1]] = count
            of_counts = Counter(grams.values())
            once, twice = of_counts[1], of_counts[2]
            discount = once / (once + 2 * twice) if once and twice else 0.5
            levels.append((discount, {past: (counts, sum(counts.values())) for past, counts in followers.items()}))
            grams = Counter(gram[1:] for gram in grams)
        self._levels = levels[::-1]
        return self

    def next_token_probs(self, context: Sequence[int]) -> Probs:
        """Return the distribution of the token after a context: shape (V,).

        Of a longer context the last `order - 1` tokens count; a shorter one will do.
        """
        probs = np.full(self._fitted(), 1 / self.vocab_size)
        for discount, counts, total in self._seen_after(tuple(checked_ids(context, self.vocab_size).tolist())):
            probs *= discount * len(counts) / total
            probs[list(counts)] += (np.array(list(counts.values())) - discount) / total
        return probs

    def log_probs(self, ids: npt.ArrayLike) -> Probs:
        """Return the log-probability in nats of each token of a text given those before it: shape (T,)."""
        text = tuple(checked_ids(ids, self._fitted()).tolist())
        log_probs = np.empty(len(text))
        for place, token in enumerate(text):
            prob = 1 / self.vocab_size
            for discount, counts, total in self._seen_after(text[max(0, place - self.order + 1) : place]):
                prob = discount * len(counts) / total * prob + max(counts.get(token, 0) - discount, 0.0) / total
            log_probs[place] = math.log(prob)
        return log_probs

    def _seen_after(self, context: tuple[int, ...]) -> Iterator[tuple[float, dict[int, int], int]]:
        """Yield, from no context to the longest one known: the discount, the counts of what followed, their sum."""
        for size, (discount, followers) in enumerate(self._levels[: len(context) + 1]):
            known = followers.get(context[len(context) - size :])
            if known is None:
                return
            yield discount, *known

    def _fitted(self) -> int:
        if not self.vocab_size:
            raise RuntimeError("the model has counted nothing yet: call .fit(ids, vocab_size) first")
        return self.vocab_size


def ngram(order: int) -> NGram:
    r"""Return an n-gram model with interpolated Kneser-Ney smoothing, the strongest of the classical ones.

    .. math:: q(w \mid h) = \frac{\max(c(h w) - d, 0)}{c(h)} + \frac{d \, n(h)}{c(h)} \, q(w \mid h')

    where :math:`c` counts, :math:`n(h)` is how many different tokens followed the context :math:`h`, and :math:`h'` is
    :math:`h` without its first token. Below the highest order :math:`c(h w)` is how many different tokens were seen
    before :math:`h w`. The last resort is the uniform distribution. Each order has its discount
    :math:`d = n_1 / (n_1 + 2 n_2)` from the numbers of n-grams counted once and twice, 0.5 where either is 0.

    Parameters
    ----------
    order : int
        1 for unigrams, 2 for bigrams, and so on.

    Returns
    -------
    NGram
        With ``.fit(ids, vocab_size)``, ``.log_probs(ids)`` and ``.next_token_probs(context)``.

    Examples
    --------
    >>> from lmloss.lab import known_language, ngram
    >>> language = known_language()
    >>> text = language.sample(20_000, np.random.default_rng(0))
    >>> losses = [-ngram(order).fit(text, 28).log_probs(language.sample(5_000, np.random.default_rng(1))).mean()
    ...           for order in (2, 3)]
    >>> [round(float(loss), 1) for loss in losses], round(language.entropy_rate, 1)
    ([1.2, 1.0], 0.9)

    References
    ----------
    Kneser & Ney, "Improved backing-off for m-gram language modeling", ICASSP (1995); in this form: Chen & Goodman,
    "An empirical study of smoothing techniques for language modeling", Computer Speech & Language 13 (1999).
    """
    return NGram(order)


class SmallTransformer(nn.Module):
    """A transformer whose output layer is tied to its embedding; `small_transformer` makes one.

    Attributes
    ----------
    vocab_size, length : int
        V, and the most tokens of one sequence.
    causal : bool
        Whether a position sees only what came before it.
    embedding : torch.nn.Embedding
        Its weight, shape (V, H), is the output layer's too.
    """

    def __init__(
        self, vocab_size: int, *, causal: bool, width: int, layers: int, heads: int, length: int, dropout: float
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(
                f"width = {width} is no multiple of heads = {heads}, twice: a position turns pairs of entries"
            )
        self.vocab_size, self.causal, self.length = vocab_size, causal, length
        self.embedding = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout, causal) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def hidden(self, ids: Tensor) -> Tensor:
        """Return what the output layer multiplies: shape (B, T, H) for ids of shape (B, T)."""
        if ids.shape[-1] > self.length:
            raise ValueError(f"ids has {ids.shape[-1]} tokens in a row; this model reads at most {self.length}")
        x = self.dropout(self.embedding(ids))
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits, shape (B, T, V): of the token after each position, or at it where the model is not causal."""
        return F.linear(self.hidden(ids), self.embedding.weight)

    @torch.no_grad()
    def generate(self, ids: npt.ArrayLike, n_tokens: int, *, temperature: float = 1.0, rng: np.random.Generator) -> Ids:
        """Return a text and `n_tokens` more that the model draws after it, as ids of shape (T + n_tokens,)."""
        if not temperature > 0:
            raise ValueError(f"temperature = {temperature!r} should be greater than 0")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng should be a numpy.random.Generator, not {type(rng).__name__}")
        if not self.causal:
            raise ValueError("only a causal model continues a text; this one sees both sides")
        text = checked_ids(ids, self.vocab_size).tolist()
        if not text:
            raise ValueError("ids is empty; the model continues what it has read, at least one token")
        with _evaluated(self):
            for _ in range(_positive("n_tokens", n_tokens)):
                window = torch.tensor([text[-self.length :]], device=self.embedding.weight.device)
                logits = self(window)[0, -1].cpu().double()
                steps = torch.softmax((logits - logits.max()) / temperature, dim=-1).numpy().cumsum()
                if not np.isfinite(steps[-1]):
                    raise ValueError("the model's logits are not finite; there is nothing to draw from")
                place = np.searchsorted(steps, rng.random() * steps[-1], side="right")
                text.append(min(int(place), self.vocab_size - 1))
        return np.array(text, dtype=np.int64)


class _Block(nn.Module):
    """Attention and a two-layer network, each on the normalised stream and added to it."""

    def __init__(self, width: int, heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = _rotated(q), _rotated(k)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(-2)
        x = x + self.dropout(self.out(attended))
        added: Tensor = self.dropout(self.network(self.before_network(x)))
        return x + added


def _rotated(x: Tensor) -> Tensor:
    """Turn pairs of entries (..., T, D) by angles that grow with the position, so that scores depend on distances."""
    half = x.shape[-1] // 2
    speed = 1000.0 ** -(torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def small_transformer(
    vocab_size: int,
    *,
    causal: bool = True,
    width: int = 96,
    layers: int = 2,
    heads: int = 4,
    length: int = 64,
    dropout: float = 0.1,
    seed: int = 0,
) -> SmallTransformer:
    """Return an untrained transformer, small enough to learn something in seconds on two processor cores.

    Before training its logits are nearly equal, so that its loss is about ``log(vocab_size)``.

    Parameters
    ----------
    vocab_size : int
        V.
    causal : bool
        True for a model of the next token, False for one that sees both sides and fills in blanks.
    width, layers, heads : int
        H, the number of blocks, and the attention heads of each.
    length : int
        The most tokens of one sequence.
    dropout : float
        How much is dropped in training.
    seed : int
        Draws the weights, and leaves PyTorch's own generator as it was.

    Returns
    -------
    SmallTransformer
        A module: ids (B, T) to logits (B, T, V); with ``.hidden(ids)``, ``.embedding`` and ``.generate(...)``.

    Examples
    --------
    >>> model = small_transformer(1000).eval()
    >>> ids = torch.arange(64)[None]
    >>> tuple(model(ids).shape), round(causal_lm_loss(model(ids), ids).item(), 1)  # log 1000 = 6.9
    ((1, 64, 1000), 6.9)

    References
    ----------
    Vaswani et al., arXiv:1706.03762 (2017); layers that normalise first: Radford et al., "Language models are
    unsupervised multitask learners" (2019); positions as rotations: Su et al., arXiv:2104.09864 (2021); tied output:
    Press & Wolf, arXiv:1608.05859 (2017).
    """
    for name, value in {"vocab_size": vocab_size, "width": width, "layers": layers, "heads": heads}.items():
        _positive(name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallTransformer(
            vocab_size,
            causal=causal,
            width=width,
            layers=layers,
            heads=heads,
            length=_positive("length", length),
            dropout=dropout,
        )


class History(NamedTuple):
    """What `train` saw: the loss of every step, and what was watched along the way."""

    losses: Probs
    watched: list[tuple[int, Any]]


def train(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    ids: npt.ArrayLike,
    *,
    steps: int,
    batch_size: int = 32,
    length: int = 64,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.1,
    clip: float | None = 1.0,
    seed: int = 0,
    watch: Callable[[Any], Any] | None = None,
    every: int = 50,
    progress: bool = True,
) -> History:
    """Train a model on a text with AdamW: the learning rate rises for a tenth of the steps, then falls along a cosine.

    The cosine goes from `learning_rate` at the first step to a tenth of it after the last; the rise, a straight line,
    meets it a little below the top.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place, on the device where it stands.
    loss : callable
        ``loss(model, batch)``, a single number for a batch of ids of shape (batch_size, length).
    ids : array_like of int
        The text, shape (T,), cut into windows by `batches`, anew for every epoch.
    steps : int
        How many batches.
    batch_size, length : int
        As for `batches`; a window's last token is only a target.
    learning_rate, weight_decay : float
        Where the cosine begins; how much every matrix shrinks in proportion to the learning rate.
    clip : float, optional
        The gradient's norm is cut to this; None cuts nothing.
    seed : int
        Draws the order of the windows and what dropout drops; PyTorch's own generator is left as it was.
    watch : callable, optional
        ``watch(model)`` is called before the first step, every `every` steps and after the last.
    every : int
        Steps between two looks.
    progress : bool
        Whether to show a bar; it is cleared when done.

    Returns
    -------
    History
        ``losses`` of shape (steps,), each before its step; ``watched``, pairs of the steps done and what `watch` said.

    Examples
    --------
    >>> from lmloss.lab import known_language, small_transformer
    >>> text = known_language().sample(4_000, np.random.default_rng(0))
    >>> model = small_transformer(28, width=32, layers=1)
    >>> history = train(model, lambda model, batch: causal_lm_loss(model(batch), batch), text, steps=30)
    >>> bool(history.losses[0] > 3.2 > 2.9 > history.losses[-1])
    True
    """
    device = next(model.parameters()).device
    _positive("steps", steps)
    _positive("every", every)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.55 + 0.45 * math.cos(math.pi * step / steps))
    )
    rng, losses, watched = np.random.default_rng(seed), [], []
    epoch: Iterator[Ids] = iter(())
    with torch.random.fork_rng(), tqdm(range(steps), leave=False, disable=not progress) as bar:
        torch.manual_seed(seed)
        for step in bar:
            if watch is not None and step % every == 0:
                watched.append((step, watch(model)))
            batch = next(epoch, None)
            if batch is None:
                epoch = batches(ids, batch_size, length, rng)
                batch = next(epoch)
            model.train()
            value = loss(model, torch.as_tensor(batch, device=device))
            optimizer.zero_grad()
            torch.autograd.backward(value)
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            schedule.step()
            losses.append(value.detach())
    model.eval()
    if watch is not None:
        watched.append((steps, watch(model)))
    return History(torch.stack(losses).cpu().double().numpy(), watched)


@torch.no_grad()
def evaluate(model: nn.Module, ids: npt.ArrayLike, *, length: int = 64, batch_size: int = 32) -> float:
    """Return a causal model's mean loss in nats on every token of a text but the first, in windows of `length` tokens.

    A window's last token is the next window's first, so that each token is scored once, given what its window shows
    before it.

    Parameters
    ----------
    model : torch.nn.Module
        From ids (B, T) to logits (B, T, V) of the token after each position.
    ids : array_like of int
        The text, shape (T,), at least two tokens.
    length : int
        Tokens of a window, at least 2.
    batch_size : int
        Windows read at a time.

    Raises
    ------
    TypeError, ValueError
        If the ids are no integers or too few, if `length` is too small, or if the model sees both sides.

    Examples
    --------
    >>> from lmloss.lab import small_transformer
    >>> round(evaluate(small_transformer(1000), np.arange(1000)), 1)  # untrained: log 1000
    6.9
    """
    if not getattr(model, "causal", True):
        raise ValueError("only a causal model predicts the next token; this one sees both sides")
    if _positive("length", length) < 2:
        raise ValueError(f"length = {length} leaves a window nothing to predict; it takes at least 2")
    vocab_size = getattr(model, "vocab_size", 2**63 - 1)
    text = torch.as_tensor(checked_ids(ids, vocab_size), device=next(model.parameters()).device)
    if len(text) < 2:
        raise ValueError(f"ids has {len(text)} tokens; the first is never scored, so at least 2 are needed")
    stride, total = length - 1, 0.0
    whole = (len(text) - 1) // stride
    windows = text[: whole * stride + 1].unfold(0, length, stride) if whole else text.new_zeros(0, length)
    rest = text[None, whole * stride :]
    with _evaluated(model):
        for window in [*torch.split(windows, _positive("batch_size", batch_size)), rest]:
            total += float(causal_lm_loss(model(window), window, reduction="sum")) if window.numel() > 1 else 0.0
    return total / (len(text) - 1)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation, and leave each of its modules as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} = {value!r} should be a positive integer")
    return int(value)
