"""The exercises of the chapter on log-softmax."""

import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lmloss.lab.exercises import Hint, array, call, close, exercise, number

Array = npt.NDArray[Any]


@exercise(
    solution=16.6,
    because="The smallest positive float16 is 2**-24, and -log(2**-24) = 16.6.",
    wrong=[
        (23.03, "no clip here"),
        (9.7, "subnormal"),
        (np.inf, "finite"),
        (-16.6, "sign"),
        (7.2, "natural logarithm"),
    ],
)
def clip_fp16(answer: object) -> str | None:
    """One number, to one decimal: the largest finite loss that -log(softmax(z)) reports in float16."""
    loss = number(answer)
    right = -np.log(2.0**-24)
    if close(loss, right, 0.06):
        return None
    if np.isinf(loss):
        return "That is the loss at probability 0. What is the last finite one, at the smallest positive float16?"
    if close(loss, -np.log(1e-10), 0.06):
        return "That is -log(1e-10), but there is no clip here. What is the smallest positive float16?"
    if close(loss, -np.log(2.0**-14), 0.06):
        return "That is -log of the smallest normal float16, 2**-14; subnormal numbers go ten halvings further down."
    if close(loss, -right, 0.06):
        return "Mind the sign: a loss is the negative logarithm, and -log of a number below 1 is positive."
    if close(loss, right / np.log(10), 0.06) or close(loss, right / np.log(2), 0.06):
        return "Losses are in nats: take the natural logarithm."
    return "The loss is -log of a probability, so it is largest at the smallest positive float16, about 6e-8."


@exercise(
    solution=1010.82,
    because="Equal logits meet the upper bound: max + ln V = 1000 + 10.82.",
    wrong=[
        (10.82, "loss"),
        (1000.0, "lower bound"),
        (np.inf, "Shift"),
        (17.73, "outside"),
        (989.18, "sign"),
    ],
)
def lse_equal(answer: object) -> str | None:
    """One number, to two decimals: the logsumexp of 50,257 logits that are all 1000."""
    value = number(answer)
    log_v = np.log(50_257)
    if close(value, 1000 + log_v, 0.006):
        return None
    if close(value, log_v, 0.006):
        return "That is ln V, the loss of equal logits. The logsumexp moves with the shift: what do the 1000s add?"
    if close(value, 1000, 0.006):
        return "That is the lower bound, the maximum. It needs all but one logit to be far below; here V of them tie."
    if np.isinf(value):
        return "That is what exp(1000) makes of it in float64. Shift by the maximum first, then add it back."
    if close(value, log_v + np.log(1000), 0.006):
        return "That is log(V * 1000). The logarithm meets V * e**1000: what comes outside of it?"
    if close(value, 1000 - log_v, 0.006):
        return "Mind the sign: the sum of V exponentials is larger than one of them."
    return "All exponentials are equal, so their sum is V * e**1000. Take its logarithm by hand."


@exercise(
    solution=0.0,
    because="In float32, 1 + 2e-9 rounds to 1, and log 1 = 0: wrong by 2e-9, or by the whole loss.",
    wrong=[
        (2.06e-9, "float32 has about seven digits"),
        (20.0, "other class"),
        (-2.06e-9, "negative"),
        (1.2e-7, "one step above 1"),
    ],
)
def tiny_loss(answer: object) -> str | None:
    """One number: what log-softmax in float32 reports as the loss of the first of two classes with logits (20, 0)."""
    loss = number(answer)
    if loss == 0:
        return None
    if close(loss, 20, 0.1):
        return "That is the loss of the other class. The target is the one with logit 20."
    if loss < 0:
        return "A loss of one class is never negative: its probability is at most 1."
    if close(loss, np.log1p(np.exp(-20)), 1e-10):
        return "That is the truth, in enough digits. But float32 has about seven digits: what is 1 + e**-20 in it?"
    if loss < 3e-7:
        return "Near: that is about one step above 1. Is e**-20 = 2e-9 large enough to reach half a step of 1.2e-7?"
    return "Shift by the maximum: the logits become (0, -20), and the loss is log(1 + e**-20), computed in float32."


@exercise(
    solution=0.25,
    because="Near 60,000 the float16 numbers are 32 apart: all four become -60,000, and equal logits are uniform.",
    wrong=[
        (0.032, "still there"),
        (0.0, "sum to 1"),
        (0.644, "last"),
        (1.0, "four equal"),
    ],
)
def mask_fp16(answer: object) -> str | None:
    """One number, to two decimals: the probability that softmax then gives to the first of the four positions."""
    prob = number(answer)
    if close(prob, 0.25, 0.005):
        return None
    if close(prob, 0.0321, 0.002):
        return "That needs the differences 1, 2, 3, 4 to be still there. How far apart are float16s near 60,000?"
    if prob == 0:
        return "Every position is masked, so none is far below another; and probabilities sum to 1."
    if close(prob, 0.644, 0.005):
        return "That is the last position's share of unmasked logits. And are the four still different once masked?"
    if close(prob, 1, 0.005):
        return "One position would have to stand far above the rest. What are the four equal to in float16?"
    return "Compute the four sums in float16 first, whose numbers near 60,000 are 32 apart; then take the softmax."


@exercise(
    solution=0.91,
    because="The odds are e**(2 / tau) = 9, so tau = 2 / ln 9 = 0.91: slightly sharper than tau = 1, which gives 0.88.",
    wrong=[
        (1.0986, "Upside down"),
        (2.197, "gap between the logits"),
        (0.868, "ln 10"),
        (0.63, "ratio"),
        (1.5, "flattens"),
        (-0.91, "positive"),
    ],
)
def temperature_for(answer: object) -> str | None:
    """One number, to two decimals: the temperature at which logits (2, 0) give the first class probability 0.9."""
    tau = number(answer)
    right = 2 / np.log(9)
    if close(tau, right, 0.006):
        return None
    if tau <= 0:
        return "A temperature is positive."
    if close(tau, 1 / right, 0.006):
        return "Upside down: that is 1 / tau. Logits are divided by the temperature."
    if close(tau, np.log(9), 0.006):
        return "ln 9 is the gap between the logits that gives 0.9. Which tau makes 2 / tau that gap?"
    if close(tau, 2 / np.log(10), 0.006):
        return "ln 10 belongs to odds of 10 : 1. A probability of 0.9 is odds of 9 : 1."
    if tau > 1:
        return "Above 1 a temperature flattens, and tau = 1 gives 0.88 only; so it must be below 1."
    return "Start from the ratio of the two probabilities: q / (1 - q) = e**((2 - 0) / tau) should be 9."


def _max_of_the_batch(logits: Array, targets: Array) -> Array:
    shifted = logits - logits.max()
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    return np.asarray(log_sum - shifted[np.arange(len(targets)), targets])


def _sum_of_the_batch(logits: Array, targets: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum()) - shifted[np.arange(len(targets)), targets])


def _clipped(logits: Array, targets: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs = shifted / shifted.sum(axis=-1, keepdims=True)
    return np.asarray(-np.log(np.clip(probs, 1e-10, 1))[np.arange(len(targets)), targets])


def _unclipped(logits: Array, targets: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs = shifted / shifted.sum(axis=-1, keepdims=True)
    return np.asarray(-np.log(probs)[np.arange(len(targets)), targets])


def _unshifted(logits: Array, targets: Array) -> Array:
    return np.asarray(np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(targets)), targets])


def _mean_instead_of_max(logits: Array, targets: Array) -> Array:
    shifted = logits - logits.mean(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=-1)) - shifted[np.arange(len(targets)), targets])


def _mean_of_the_rows(logits: Array, targets: Array) -> float:
    return float(_right_losses(logits, targets).mean())


def _right_losses(logits: Array, targets: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=-1)) - shifted[np.arange(len(targets)), targets])


@exercise(
    solution=_right_losses,
    because="Each row has its own maximum and its own sum, and no probability is formed before the logarithm.",
    wrong=[
        (_max_of_the_batch, "maximum of that row"),
        (_sum_of_the_batch, "sums over the whole batch"),
        (_clipped, "cannot count past"),
        (_unclipped, "underflowed"),
        (_unshifted, "overflowed"),
        (_mean_instead_of_max, "not the mean"),
        (_mean_of_the_rows, "one loss for each row"),
    ],
)
def row_losses(answer: object) -> str | None:
    """A function of logits (N, V) and targets (N,) that returns one loss for each row, whatever the logits' size."""
    rng = np.random.default_rng(7)
    plain, targets = rng.normal(size=(4, 9)), np.array([0, 3, 8, 3])
    huge = plain + 1000.0
    spread = plain + np.array([0.0, -2000.0, -5.0, -1000.0])[:, None]
    deep = plain.copy()
    deep[np.arange(4), targets] = [-30.0, -80.0, -300.0, -900.0]
    peak = np.zeros((4, 9))
    peak[:, 3] = 2000.0

    def wrong(logits: Array) -> bool:
        losses = _losses(call(answer, logits, targets))
        if losses.shape != targets.shape:
            raise Hint(f"Return one loss for each row, shape (4,) for four rows; this has shape {losses.shape}.")
        return not close(losses, _right_losses(logits, targets), 1e-9)

    if wrong(plain):
        if wrong(plain[:1].repeat(4, axis=0)) and not _wrong_for_one_row(answer, plain[:1], targets[:1]):
            return "One row alone is right, several are not: the denominator sums over the whole batch. Which axis?"
        return "Logits of ordinary size already differ from logsumexp(z) - z[target] in each row."
    if wrong(huge):
        return "Right for small logits; with 1000 added to each, something overflowed. Subtract the maximum first."
    if wrong(spread):
        return "One shift cannot serve rows that lie far apart: shift each row by the maximum of that row (axis=-1)."
    if wrong(deep):
        if np.isinf(_losses(call(answer, deep, targets))).any():
            return "A loss of 900 became inf: its probability underflowed before the logarithm. Never form it."
        return "A loss of 80 comes back too small: a clip cannot count past its own logarithm."
    if wrong(peak):
        return "One logit stands 2000 above the rest and overflows: subtract the maximum of the row, not the mean."
    masked = plain.copy()
    masked[:, 5] = -np.inf
    if wrong(masked):
        return "A logit of -inf that is not the target should cost nothing; here it spoils its row."
    return None


def _wrong_for_one_row(answer: object, logits: Array, targets: Array) -> bool:
    return not close(_losses(call(answer, logits, targets)), _right_losses(logits, targets), 1e-9)


def _losses(result: object) -> Array:
    """Return what the reader's function returned as an array in which NaN may stand; a hint if it is none."""
    try:
        return np.asarray(result, dtype=float)
    except (TypeError, ValueError):
        return array(result, "What your function returns")


class _Stream:
    """Chunks of one row, read once: every chunk comes in the same buffer, as from a file or a kernel's fast memory."""

    def __init__(self, chunks: list[list[float]]) -> None:
        self.chunks = chunks
        self.read = False

    def __repr__(self) -> str:
        return "chunks" if len(str(self.chunks)) > 50 else f"chunks of {self.chunks}"

    def __iter__(self) -> Iterator[Array]:
        if self.read:
            raise RuntimeError("the chunks can be read once only")
        self.read = True
        buffer = np.empty(max((len(chunk) for chunk in self.chunks), default=0))
        for chunk in self.chunks:
            buffer[:] = np.nan
            buffer[: len(chunk)] = chunk
            yield buffer[: len(chunk)]


def _online(chunks: Iterable[Array]) -> float:
    top, total = -np.inf, 0.0
    for chunk in chunks:
        new_top = max(top, chunk.max(initial=-np.inf))
        if new_top == -np.inf:
            continue
        total = total * np.exp(top - new_top) + np.exp(chunk - new_top).sum()
        top = new_top
    return float(top + np.log(total)) if total > 0 else -np.inf


def _no_maximum(chunks: Iterable[Array]) -> float:
    return float(np.log(sum(np.exp(chunk).sum() for chunk in chunks)))


def _never_rescaled(chunks: Iterable[Array]) -> float:
    top, total = -np.inf, 0.0
    for chunk in chunks:
        top = max(top, chunk.max(initial=-np.inf))
        total += np.exp(chunk - top).sum()
    return float(top + np.log(total))


def _inf_minus_inf(chunks: Iterable[Array]) -> float:
    top, total = -np.inf, 0.0
    for chunk in chunks:
        new_top = max(top, chunk.max(initial=-np.inf))
        total = total * np.exp(top - new_top) + np.exp(chunk - new_top).sum()
        top = new_top
    return float(top + np.log(total))


def _first_maximum(chunks: Iterable[Array]) -> float:
    top, total = None, 0.0
    for chunk in chunks:
        top = chunk.max() if top is None else top
        total += np.exp(chunk - top).sum()
    return float((top or 0.0) + np.log(total))


def _keeps_the_chunks(chunks: Iterable[Array]) -> float:
    row = np.concatenate(list(chunks))
    return float(row.max() + np.log(np.exp(row - row.max()).sum()))


def _two_passes(chunks: Iterable[Array]) -> float:
    top = max(chunk.max() for chunk in chunks)
    return float(top + np.log(sum(np.exp(chunk - top).sum() for chunk in chunks)))


@exercise(
    solution=_online,
    because="A running maximum and a sum rescaled whenever it moves: one read of every logit, exact at any offset.",
    wrong=[
        (_no_maximum, "no shift"),
        (_never_rescaled, "rescale the old sum"),
        (_first_maximum, "later chunk"),
        (_inf_minus_inf, "-inf minus -inf"),
        (_keeps_the_chunks, "same buffer"),
        (_two_passes, "read once"),
    ],
)
def online_logsumexp(answer: object) -> str | None:
    """A function of an iterable of chunks (1-D float64 arrays), the pieces of one row, that returns its logsumexp."""
    inf = np.inf
    rising = np.random.default_rng(3).normal(size=12).cumsum()

    def result(chunks: list[list[float]]) -> float:
        value = _losses(call(answer, _Stream(chunks)))
        if value.size != 1:
            raise Hint(f"Return one number for the whole row; this has shape {value.shape}.")
        return float(value.reshape(()))

    def wrong(chunks: list[list[float]]) -> bool:
        return not close(result(chunks), _online(_Stream(chunks)), 1e-9)

    if wrong([[0.5, -1.0, 2.0]]):
        return "One chunk of ordinary logits is already wrong: it should be max + log of the sum of exp(x - max)."
    if wrong([[0.0, 3.0], [1.0, -1.0]]):
        same = close(result([[0.0, 3.0], [1.0, -1.0]]), _online(_Stream([[1.0, -1.0], [1.0, -1.0]])), 1e-9)
        if same:
            return "Chunks come in the same buffer, which the next one overwrites: keep a maximum and a sum, no chunk."
        return "Two chunks whose maximum stands in the first are wrong: add the second chunk's sum, at the same shift."
    if wrong([[0.0, 1.0], [3.0, 2.0]]) or wrong([[value] for value in sorted(rising)]):
        return "When a later chunk raises the maximum, rescale the old sum by exp(old maximum - new maximum)."
    if wrong([[1000.0, 999.0], [998.0]]) or wrong([[-1000.0], [-1001.0, -1002.0]]):
        return "Right for small logits, but there is no shift: exp(1000) overflows and exp(-1000) underflows."
    if wrong([[-800.0, -801.0], [0.0, 1.0]]) or wrong([[0.0], [1500.0, 1499.0]]):
        return "A later chunk stands hundreds above the first and overflows: the shift must follow the maximum."
    for chunks in ([[-inf, -inf], [0.0, 1.0]], [[0.0], [-inf, -inf], [2.0]], [[-inf, 4.0], [-inf]]):
        if wrong(chunks):
            return "A chunk of only -inf spoils the result: -inf minus -inf is NaN. Skip what adds nothing."
    if wrong([[-inf], [-inf, -inf]]):
        return "A row of only -inf has an empty sum: its logsumexp is -inf."
    if wrong([[1.0], [], [2.0, 0.5]]):
        return "A chunk may be empty: it should change nothing."
    if wrong([[value] for value in rising]) or wrong([rising[:5].tolist(), rising[5:].tolist()]):
        return "The same logits cut at other places give another result: check what happens between chunks."
    million = _Stream([[0.5] * 1000] * 1000)
    tracemalloc.start()
    answer(million)  # type: ignore[operator]  # by now it is known to be a function
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if peak > 2e6:  # the million logits would take 8 MB
        return "Right value, but the logits pile up in memory: keep a maximum and a sum between chunks, nothing else."
    return None
