"""The exercises of the chapter on training a small language model."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lmloss.lab.exercises import Hint, array, call, choice, close, exercise, number

Array = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@exercise(
    solution=4.5,
    because="ln 512 nats are 9 bits for a token, and its two bytes share them.",
    wrong=[
        (9.0, "per token"),
        (6.24, "nats"),
        (3.12, "in nats"),
        (8.0, "bytes"),
        (18.0, "divide"),
    ],
)
def first_bits(answer: object) -> str | None:
    """One number: the bits per byte of an untrained model with 512 tokens of two bytes each on average."""
    bits = number(answer)
    right = np.log2(512) / 2
    if close(bits, right, 0.01):
        return None
    if close(bits, 9, 0.01):
        return "Those are the bits per token. A token here is two bytes long."
    if close(bits, np.log(512), 0.01):
        return "That is ln 512: nats per token. Turn nats into bits, and tokens into bytes."
    if close(bits, np.log(512) / 2, 0.01):
        return "Right per byte, but in nats. A bit is ln 2 nats."
    if close(bits, 8, 0.01):
        return "8 bits is where a model of single bytes starts, V = 256. Here one guess among 512 settles two bytes."
    if close(bits, 18, 0.01):
        return "More bytes per token make a byte cheaper: divide by the two bytes."
    return "Knowing nothing costs log2(512) bits per token; then share them among the token's bytes."


@exercise(
    solution=10.0,
    because="The steps follow G, 2G, 3G and 4G, as if the learning rate grew with every step.",
    wrong=[
        (4.0, "with zero_grad"),
        (16.0, "last step"),
        (1.0, "four steps"),
        (24.0, "product"),
        (15.0, "double"),
    ],
)
def forgotten_zero(answer: object) -> str | None:
    """One number: how many times the length of a single step the four steps go."""
    steps = number(answer)
    if close(steps, 10, 1e-6):
        return None
    if close(steps, 4, 1e-6):
        return "That is how far four steps go with zero_grad. Without it, what does .grad hold at the second step?"
    if close(steps, 16, 1e-6):
        return "Only the last step follows 4G; the first follows G."
    if close(steps, 1, 1e-6):
        return "There are four steps, and they add up."
    if close(steps, 24, 1e-6):
        return "That is the product 1 * 2 * 3 * 4; the steps add up."
    if close(steps, 15, 1e-6):
        return "1 + 2 + 4 + 8: the gradient does not double at each pass, it grows by one G."
    return "backward() adds: at step s the stored gradient is s times G. Add up the four steps."


@exercise(
    solution=2.02,
    because="The last batch holds 4 of 260 windows, so it counts 4 / 260 and not 1 / 9.",
    wrong=[
        (2.1111, "9 batches"),
        (2.0, "leave out"),
        (2.5, "two numbers"),
        (2.98, "other way"),
    ],
)
def smaller_last_batch(answer: object) -> str | None:
    """One number, to two decimals: the mean loss of all tokens."""
    loss = number(answer)
    right = (256 * 2.0 + 4 * 3.0) / 260
    if close(loss, right, 0.0051):
        return None
    if close(loss, (8 * 2.0 + 3.0) / 9, 0.006):
        return "That is the mean of the 9 batches, each counted once. How many windows does the last one hold?"
    if close(loss, 2.0, 0.004):
        return "Close, but do not leave out the last batch: its four windows count like any others."
    if close(loss, 2.5, 0.006):
        return "That is the mean of the two numbers 2.0 and 3.0. Weight each by its windows."
    if close(loss, (256 * 3.0 + 4 * 2.0) / 260, 0.006):
        return "The other way round: most windows are in the batches with loss 2.0."
    return "Add the losses of all 260 windows (they have equally many tokens) and divide by 260."


_CAUSES = ("too low", "too high", "overfitting", "not shifted")


@exercise(
    solution=["too low", "overfitting", "not shifted", "too high"],
    because="Slow everywhere, memory, copying, and a run that was thrown about: each leaves its own mark.",
    wrong=[
        (["too high", "overfitting", "not shifted", "too low"], "Run A"),
        (["too low", "not shifted", "overfitting", "too high"], "Run C"),
        (["too low", "too high", "not shifted", "overfitting"], "Run B"),
        (["too low", "overfitting", "not shifted"], "four"),
        (["too low", "too low", "not shifted", "too high"], "once"),
    ],
)
def diagnose_training(answer: object) -> str | None:
    """A list of four causes, for runs A to D: each of "too low", "too high", "overfitting", "not shifted" once."""
    if isinstance(answer, str) or not isinstance(answer, list | tuple):
        raise Hint(f"Give a list of four causes, one for each run, out of {', '.join(_CAUSES)}.")
    if len(answer) != 4:
        return f"There are four runs, A to D; this list has {len(answer)} entries."
    causes = [choice(cause, _CAUSES, f"Entry {run}") for run, cause in zip("ABCD", answer, strict=True)]
    if len(set(causes)) < 4:
        return "Each cause belongs to one run: use each of the four once."
    a, b, c, d = causes
    if c != "not shifted":
        return "Run C pays almost nothing, on new text as well. No model can know that much: what does its loss ask?"
    if a != "too low":
        return "Run A has hardly moved, and new text costs it no more than its own. What is it short of?"
    if b != "overfitting" or d != "too high":
        return "Run B pays far less on its own text than on new text. That is memory, not a matter of steps."
    return None


def _table_gradient(Z: Array, ids: Ids) -> Array:
    read, came = ids[:-1], ids[1:]
    shifted = np.exp(Z[read] - Z[read].max(axis=-1, keepdims=True))
    g = shifted / shifted.sum(axis=-1, keepdims=True)
    g[np.arange(len(came)), came] -= 1
    gradient = np.zeros_like(Z)
    np.add.at(gradient, read, g / len(came))
    return gradient


def _rows_of(Z: Array, ids: Ids, weight: Callable[[Array, float], Array]) -> Array:
    counts = np.zeros_like(Z)
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    n = counts.sum(axis=1, keepdims=True)
    shifted = np.exp(Z - Z.max(axis=-1, keepdims=True))
    q = shifted / shifted.sum(axis=-1, keepdims=True)
    return np.asarray(weight(n, float(n.sum())) * (q - counts / np.maximum(n, 1)))


def _not_divided(Z: Array, ids: Ids) -> Array:
    return _table_gradient(Z, ids) * (len(ids) - 1)


def _divided_by_words(Z: Array, ids: Ids) -> Array:
    return _table_gradient(Z, ids) * (len(ids) - 1) / len(ids)


def _last_write_wins(Z: Array, ids: Ids) -> Array:
    gradient = np.zeros_like(Z)
    for place in range(len(ids) - 1):
        row = _table_gradient(Z, ids[place : place + 2])[ids[place]] / (len(ids) - 1)
        gradient[ids[place]] = row
    return gradient


def _uphill(Z: Array, ids: Ids) -> Array:
    return -_table_gradient(Z, ids)


def _unweighted_rows(Z: Array, ids: Ids) -> Array:
    return _rows_of(Z, ids, lambda n, total: (n > 0).astype(float))


def _pushes_unread_rows(Z: Array, ids: Ids) -> Array:
    return _rows_of(Z, ids, lambda n, total: np.maximum(n, 1) / total)


def _transposed(Z: Array, ids: Ids) -> Array:
    return _table_gradient(Z, ids[::-1])


def _naive_exponentials(Z: Array, ids: Ids) -> Array:
    counts = np.zeros_like(Z)
    np.add.at(counts, (ids[:-1], ids[1:]), 1)
    n = counts.sum(axis=1, keepdims=True)
    exponentials = np.exp(Z)
    return np.asarray((n * exponentials / exponentials.sum(axis=1, keepdims=True) - counts) / n.sum())


@exercise(
    solution=_table_gradient,
    because="Each row collects q - e_y from all its questions, divided by the number of questions.",
    wrong=[
        (_not_divided, "divided by the number"),
        (_divided_by_words, "one fewer"),
        (_last_write_wins, "last occurrence"),
        (_uphill, "sign"),
        (_unweighted_rows, "how often"),
        (_pushes_unread_rows, "never read"),
        (_transposed, "word that came"),
        (_naive_exponentials, "overflow"),
    ],
)
def bigram_gradient(answer: object) -> str | None:
    """A function of a table of logits (V, V) and a text's ids (T,) that returns the gradient in the table, (V, V)."""
    rng = np.random.default_rng(11)
    Z = rng.normal(size=(5, 5))
    once = np.array([0, 2, 1, 3, 4])
    often = np.array([0, 1, 0, 2, 0, 1, 0, 3, 3, 3, 4, 0, 1])

    def got(Z: Array, ids: Ids) -> Array:
        result = call(answer, Z, ids)
        try:
            return array(result, "What your function returns", Z.shape)
        except Hint as hint:
            if "NaN" in str(hint):
                raise Hint("There is NaN: do the exponentials overflow? Shift each row by its maximum.") from None
            raise

    result = got(Z, once)
    right = _table_gradient(Z, once)
    if not close(result, right, 1e-9):
        if close(result, -right, 1e-9):
            return "The sign is wrong: that is the push, minus the gradient. The gradient of a token is q - e_y."
        if close(result, right * 4, 1e-9):
            if close(got(Z, often), _unweighted_rows(Z, often), 1e-9):
                return "A row should count as how often its word was read, n_c / N; here every row counts as one."
            return "The loss is a mean: the sum of q - e_y has to be divided by the number of questions."
        if close(result, right * 4 / 5, 1e-9):
            return "Five words ask four questions, as the last one has no successor: the mean has one fewer than words."
        if close(result, _table_gradient(Z, once[::-1]), 1e-9):
            return "The row belongs to the word that was read, and the one-hot to the word that came after it."
        unread = np.setdiff1d(np.arange(5), once[:-1])
        if np.any(result[unread] != 0):
            return "A row that was never read got a gradient: its word asks no question here."
        return "Five different words go wrong. Row c collects (q_c - e_y) / N from every place where c was read."
    result, right = got(Z, often), _table_gradient(Z, often)
    if not close(result, right, 1e-9):
        if close(result, _last_write_wins(Z, often), 1e-9):
            return "Where a word is read twice, only its last occurrence is left: += on repeated indices writes once."
        return "Right while every word is read once; with repetitions a row should count as how often it was read."
    huge = Z + np.array([1000.0, -1000.0, 0.0, 500.0, -2000.0])[:, None]
    if not close(got(huge, often), right, 1e-9):
        return "Rows of 1000 or -1000 break it: the exponentials overflow or vanish. Shift each row by its maximum."
    return None


Arrays = list[Array]


def _clip(gradients: Arrays, max_norm: float) -> Arrays:
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    factor = min(1.0, max_norm / norm) if norm > 0 else 1.0
    return [g * factor for g in gradients]


def _clip_each(gradients: Arrays, max_norm: float) -> Arrays:
    return [_clip([g], max_norm)[0] for g in gradients]


def _clip_entries(gradients: Arrays, max_norm: float) -> Arrays:
    return [np.clip(g, -max_norm, max_norm) for g in gradients]


def _always_scaled(gradients: Arrays, max_norm: float) -> Arrays:
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    return [g * (max_norm / norm) for g in gradients]


def _square_compared(gradients: Arrays, max_norm: float) -> Arrays:
    square = sum(np.sum(g**2) for g in gradients)
    return [g * min(1.0, max_norm / square) if square > 0 else g for g in gradients]


def _divides_by_zero(gradients: Arrays, max_norm: float) -> Arrays:
    norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
    with np.errstate(all="ignore"):
        return [g * np.minimum(1.0, max_norm / norm) if norm else g * np.nan for g in gradients]


def _sum_of_norms(gradients: Arrays, max_norm: float) -> Arrays:
    total = sum(float(np.linalg.norm(g)) for g in gradients)
    return [g * min(1.0, max_norm / total) if total > 0 else g for g in gradients]


@exercise(
    solution=_clip,
    because="One norm over everything, one factor for everything, and nothing happens below the limit.",
    wrong=[
        (_clip_each, "one norm over all"),
        (_clip_entries, "direction"),
        (_always_scaled, "short gradient"),
        (_square_compared, "square root"),
        (_sum_of_norms, "not add"),
        (_divides_by_zero, "zero"),
    ],
)
def clip_by_norm(answer: object) -> str | None:
    """A function of a list of gradients (arrays) and max_norm that returns the list cut to that norm over all."""

    def got(gradients: Arrays, max_norm: float) -> Arrays:
        result = call(answer, gradients, max_norm)
        if not isinstance(result, list | tuple) or len(result) != len(gradients):
            raise Hint(f"Return a list of {len(gradients)} arrays, one for each gradient.")
        return [array(g, "A clipped gradient", want.shape) for g, want in zip(result, gradients, strict=True)]

    def same(left: Arrays, right: Arrays) -> bool:
        return all(close(a, b, 1e-9) for a, b in zip(left, right, strict=True))

    long = [np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([12.0])]  # norm 13
    result = got(long, 3.25)
    if not same(result, _clip(long, 3.25)):
        if same(result, _clip_each(long, 3.25)):
            return "Each array was cut by itself, which bends the step. There is one norm over all of them, 13 here."
        if same(result, _clip_entries(long, 3.25)):
            return "Cutting entries changes the direction. Multiply everything by one factor."
        if same(result, _square_compared(long, 3.25)):
            return "The square of the norm was compared with max_norm: take the square root first."
        if same(result, _sum_of_norms(long, 3.25)):
            return "Norms do not add: 5 and 12 make 13 and not 17. Sum the squares over all arrays, then take the root."
        return "The arrays (3, 4) and (12) have norm 13 together; cut to 3.25, everything should become a quarter."
    short = [np.array([0.3]), np.array([[0.4]])]
    if not same(got(short, 1.0), short):
        return "A short gradient was made longer: below the limit nothing should happen."
    try:
        nothing = got([np.zeros(2), np.zeros((1, 2))], 1.0)
    except Hint as hint:
        if "NaN" in str(hint) or "ZeroDivision" in str(hint):
            return "A gradient that is zero everywhere has norm zero, and 0 / 0 is NaN: leave it as it is."
        raise
    if not same(nothing, [np.zeros(2), np.zeros((1, 2))]):
        return "A gradient that is zero everywhere should stay zero."
    tiny = [np.full(3, 1e-3), np.full((2, 2), -2e-3)]
    if not same(got(tiny, 1e-3), _clip(tiny, 1e-3)):
        return "Wrong for small numbers: is something added to the norm, or rounded?"
    return None
