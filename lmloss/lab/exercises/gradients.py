"""The exercises of the chapter on gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lmloss.lab.exercises import Hint, array, call, choice, close, exercise, number

Array = npt.NDArray[Any]


@exercise(
    solution=1.6,
    because="Up and down are equal: 0.8 on the target, 0.8 on all rivals together, 2 (1 - q_y) in all.",
    wrong=[
        (0.8, "one of the two halves"),
        (0.0, "with their signs"),
        (2.0, "most it can be"),
        (1.609, "That is the loss"),
        (-1.6, "Absolute values"),
        (0.4, "2 q_y"),
    ],
)
def whole_push(answer: object) -> str | None:
    """One number: the sum of the absolute values of a row's gradient where the target's probability is 0.2."""
    total = number(answer)
    if close(total, 1.6, 0.004):
        return None
    if close(total, 0.8, 0.004):
        return "That is one of the two halves: the push up on the target, or the push down on all its rivals."
    if total == 0:
        return "That is the sum of the entries with their signs. Add up their absolute values."
    if total < 0:
        return "Absolute values are not negative, and neither is their sum."
    if close(total, 2.0, 0.004):
        return "That is the most it can be, where the model gave the target nothing. Here it gave it 0.2."
    if close(total, -np.log(0.2), 0.004):
        return "That is the loss, -log 0.2. The gradient is q - e_y: what does each entry contribute?"
    if close(total, 0.4, 0.004):
        return "That is 2 q_y. The target is pushed by what it lacks, not by what it has."
    return "The gradient is q - e_y: one entry is 0.2 - 1, the others are the rivals' probabilities, 0.8 in all."


@exercise(
    solution=["you", "forward"],
    because="The threshold is 0.46 - 0.1 = 0.36: 'you', at 0.3, lies below it and gains, pushed down as it is.",
    wrong=[
        (["forward"], "one more"),
        (["forward", "zoo"], "favourite"),
        (["you"], "word that came"),
        (["zoo", "you", "forward"], "sum to 1"),
        (["zoo", "you"], "the other way"),
        ("away", "one of the words"),
    ],
)
def who_gains(answer: object) -> str | None:
    """A list of those of the words zoo, you and forward whose probability rises."""
    given = answer.tolist() if hasattr(answer, "tolist") else answer
    if isinstance(given, str):
        given = given.replace(",", " ").split()
    if not isinstance(given, list | tuple | set) or not given:
        raise Hint('The answer should be a list of words, such as ["zoo", "forward"].')
    chosen = {choice(word, ["zoo", "you", "forward"], "Each entry") for word in given}
    if chosen == {"you", "forward"}:
        return None
    if len(chosen) == 3:
        return "The three probabilities sum to 1 before and after: they cannot all rise."
    if chosen == {"forward"}:
        return "It gains, but so does one more: compare each rival's q_j with the sum of squares minus q_y."
    if "forward" not in chosen and "zoo" in chosen:
        return "It is the other way round: gradient descent lowers the loss, so the word that came must gain."
    if "forward" not in chosen:
        return "The word that came gains at every step size. Which rivals gain with it?"
    return "The favourite, with the largest push down, cannot gain. Compare each rival's q_j with the threshold."


@exercise(
    solution=0.04,
    because="The plain part sums to 0; the z-loss adds 2 zeta LSE(z) = 0.04, shared out by q.",
    wrong=[
        (0.0, "shift"),
        (0.02, "derivative of a square"),
        (0.4, "That is the z-loss itself"),
        (-0.04, "sign"),
        (0.8, "one LSE too many"),
        (40.0, "the weight"),
    ],
)
def row_sum(answer: object) -> str | None:
    """One number, to two decimals: the sum of a row's gradient with z_loss=0.001 where LSE(z) = 20."""
    total = number(answer)
    if close(total, 0.04, 0.004):
        return None
    if close(total, 0.0, 0.004):
        return "That holds for the plain loss, which no shift of the logits changes. A shift does change the z-loss."
    if close(total, 0.02, 0.004):
        return "Nearly: the z-loss has the square of LSE, and the derivative of a square brings a 2."
    if close(total, 0.4, 0.004):
        return "That is the z-loss itself, 0.001 * 20**2. Differentiate it."
    if close(total, -0.04, 0.004):
        return "Mind the sign: the gradient points where the loss grows, and a larger LSE costs more here."
    if close(total, 0.8, 0.004):
        return "That has one LSE too many: the derivative of LSE**2 is 2 LSE times the derivative of LSE, which is q."
    if close(total, 40.0, 0.004):
        return "You left out the weight of the z-loss, 0.001."
    return "The entries of 2 zeta LSE(z) q, whose q sums to 1, and those of q - e_y: add them up."


@exercise(
    solution=5e-3,
    because="The best step is of the order eps**(1/3), 5e-3 in float32; the error is then some 1e-5.",
    wrong=[
        (1.2e-7, "moves no logit"),
        (1e-5, "left arm"),
        (3.5e-4, "square root of eps"),
        (0.5, "right arm"),
        (0, "positive"),
    ],
)
def step_size(answer: object) -> str | None:
    """One number: the step of a central difference in float32, right to an order of magnitude."""
    step = number(answer)
    if step <= 0:
        return "A step is a positive number."
    if 4.9e-4 <= step <= 5.1e-2:  # ten times less or more than 5e-3
        return None
    if step > 5.1e-2:
        return "That is the right arm of the V: the truncation error grows with the square of the step. Go smaller."
    if step <= 3e-7:
        return "In float32 so small a step moves no logit of order 1, or moves it by one unit. Go much larger."
    if step >= 2e-4:
        return "That is about the square root of eps, best for a forward difference. A central one allows more."
    return "That is on the left arm of the V, good in float64 only. The best step is the cube root of float32's eps."


@exercise(
    solution=0.375,
    because="Divided by 8 rows instead of the 3 that count: 3/8, and another factor in the next batch.",
    wrong=[
        (8 / 3, "upside down"),
        (0.625, "padding"),
        (0.125, "whole"),
        (1 / 3, "right gradient divides"),
        (1.0, "too small"),
    ],
)
def too_small(answer: object) -> str | None:
    """One number: the colleague's gradient divided by the right one."""
    factor = number(answer)
    if close(factor, 0.375, 0.006):
        return None
    if close(factor, 8 / 3, 0.01):
        return "That is upside down: the colleague's gradient is the smaller one."
    if close(factor, 5 / 8, 0.004):
        return "That is the share of padding. What does the mean divide by, and what should it divide by?"
    if close(factor, 1 / 8, 0.004):
        return "The colleague divides by 8, but the right gradient is not the whole sum: it is divided too. By what?"
    if close(factor, 1 / 3, 0.004):
        return "The right gradient divides by 3. By what does the colleague divide, if not by the rows that count?"
    if factor >= 1:
        return "The colleague's gradient is too small, so the factor is below 1."
    return "One of them divides the sum by the rows that count, the other by all rows. Take the ratio."


def _softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _right_gradient(logits: Array, targets: Array, ignore_index: int) -> Array:
    gradient = np.zeros(logits.shape)
    rows = np.flatnonzero(targets != ignore_index)
    gradient[rows] = _softmax(logits[rows])
    gradient[rows, targets[rows]] -= 1
    return np.asarray(gradient / max(len(rows), 1))


def _recipe(logits: Array, targets: Array, ignore_index: int) -> Array:
    gradient = _softmax(logits)
    gradient[np.arange(len(targets)), targets % logits.shape[-1]] -= 1
    return np.asarray(gradient / len(targets))


def _masked(logits: Array, targets: Array, ignore_index: int) -> Array:
    counts = targets != ignore_index
    gradient = _softmax(logits)
    gradient[np.arange(len(targets)), np.where(counts, targets, 0)] -= 1
    return np.asarray(gradient * counts[:, None] / max(counts.sum(), 1))


def _by_rows(logits: Array, targets: Array, ignore_index: int) -> Array:
    return np.asarray(_right_gradient(logits, targets, ignore_index) * np.mean(targets != ignore_index))


def _summed(logits: Array, targets: Array, ignore_index: int) -> Array:
    return np.asarray(_right_gradient(logits, targets, ignore_index) * max((targets != ignore_index).sum(), 1))


def _uphill(logits: Array, targets: Array, ignore_index: int) -> Array:
    return np.asarray(-_right_gradient(logits, targets, ignore_index))


def _unshifted(logits: Array, targets: Array, ignore_index: int) -> Array:
    gradient = np.zeros(logits.shape)
    rows = np.flatnonzero(targets != ignore_index)
    exponentials = np.exp(logits[rows])
    gradient[rows] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    gradient[rows, targets[rows]] -= 1
    return np.asarray(gradient / max(len(rows), 1))


def _one_maximum(logits: Array, targets: Array, ignore_index: int) -> Array:
    gradient = np.zeros(logits.shape)
    rows = np.flatnonzero(targets != ignore_index)
    exponentials = np.exp(logits[rows] - logits[rows].max(initial=-np.inf))
    gradient[rows] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    gradient[rows, targets[rows]] -= 1
    return np.asarray(gradient / max(len(rows), 1))


def _divides_by_nothing(logits: Array, targets: Array, ignore_index: int) -> Array:
    return np.asarray(_summed(logits, targets, ignore_index) / (targets != ignore_index).sum())


def _always_minus_100(logits: Array, targets: Array, ignore_index: int) -> Array:
    return _right_gradient(logits, targets, -100)


def _negative_is_padding(logits: Array, targets: Array, ignore_index: int) -> Array:
    return _right_gradient(logits, np.where(targets < 0, -1, targets), -1)


def _probabilities(logits: Array, targets: Array, ignore_index: int) -> Array:
    return np.asarray(
        _right_gradient(logits, targets, ignore_index) + (targets == ignore_index)[:, None] * _softmax(logits)
    )


def _almost_ignored(logits: Array, targets: Array, ignore_index: int) -> Array:
    return np.asarray(_right_gradient(logits, targets, ignore_index) + 1e-9)


def _only_losses(logits: Array, targets: Array, ignore_index: int) -> Array:
    return np.asarray(-np.log(_softmax(logits))[np.arange(len(targets)), targets % logits.shape[-1]])


@exercise(
    solution=_right_gradient,
    because="It agrees with lmloss on padding of any index, on NaN in ignored rows, at logits of 1000, and on nothing.",
    wrong=[
        (_recipe, "two ignored rows"),
        (_masked, "NaN times 0"),
        (_by_rows, "divides by all rows"),
        (_summed, "sum"),
        (_uphill, "other way"),
        (_unshifted, "logits of 1000"),
        (_one_maximum, "its own maximum"),
        (_divides_by_nothing, "nothing counts"),
        (_always_minus_100, "ignore_index = -1"),
        (_negative_is_padding, "ignore_index = 0"),
        (_probabilities, "its probabilities"),
        (_almost_ignored, "not almost"),
        (_only_losses, "shape"),
    ],
)
def batch_gradient(answer: object) -> str | None:
    """A function of logits (N, V), targets (N,) and ignore_index that returns the mean loss's gradient, (N, V)."""
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=(5, 7)) * 64) / 64  # exact in float32, also at 1000 and 8000
    targets = np.array([3, 6, 0, 5, 3])

    def off(z: Array, y: Array, ignore_index: int, what_nan_means: str) -> Array:
        try:
            mine = array(call(answer, z, y, ignore_index), "What your function returns", z.shape)
        except Hint as found:
            raise Hint(what_nan_means) if "contains NaN" in str(found) else found from None
        distance = np.abs(mine - _right_gradient(z, y, ignore_index)).max(axis=-1)
        return np.asarray(distance > np.where(y == ignore_index, 0, 1e-6))  # what float32 can do; ignored means 0

    if off(logits, targets, -100, "On a plain batch the gradient contains NaN; start from the softmax.").any():
        mine, right = array(call(answer, logits, targets, -100)), _right_gradient(logits, targets, -100)
        if close(mine, 5 * right, 1e-6):
            return "That is the gradient of the sum of the five losses; the mean divides it by their number."
        if close(mine, -right, 1e-6):
            return "All entries point the other way: the gradient is q - e_y, the push is its opposite."
        return "On a plain batch, nothing ignored, it is off. Softmax of each row, minus 1 at its target, over N."

    padded = np.array([3, -100, 0, -100, 3])
    wrong = off(logits, padded, -100, "With padding of -100 the gradient contains NaN.")
    if wrong[[1, 3]].any():
        if wrong[[0, 2, 4]].any():
            return "The two ignored rows have a gradient, and the others are divided by their number as well."
        mine = array(call(answer, logits, padded, -100))
        if np.abs(mine[[1, 3]]).max() < 1e-5:
            return "An ignored row must be exactly 0, not almost: write the rows that count into zeros."
        return "An ignored row must be exactly 0: neither its probabilities nor its target may be left."
    if wrong.any():
        return "The ignored rows are right, but the mean divides by all rows instead of those that count."
    if off(logits, np.where(padded < 0, -1, padded), -1, "Padding of -1 gives NaN.").any():
        return "With ignore_index = -1 it is off. In NumPy, index -1 is the last class: pick the rows first."
    if off(logits, targets, 0, "With ignore_index = 0 the gradient contains NaN.").any():
        return "With ignore_index = 0 it is off: rows with that target do not count, whatever its sign."

    poisoned = logits.copy()
    poisoned[1], poisoned[3, 2] = np.nan, np.inf
    nan_times_zero = "An ignored row holds NaN, and it reached the gradient: NaN times 0 is NaN. Do not read such rows."
    if off(poisoned, padded, -100, nan_times_zero).any():
        return "An ignored row holds NaN or inf, and its gradient is not exactly 0."
    large = 1000 * np.sign(logits) + logits
    overflow = "At logits of 1000 the gradient is NaN: subtract each row's maximum before the exponential."
    if off(large, targets, -100, overflow).any():
        return "At logits of 1000 it is off: subtract each row's maximum, not that of the batch."
    apart = logits + 2000 * np.arange(5)[:, None]
    if off(apart, targets, -100, "Rows that lie 2000 apart give NaN: every row needs its own maximum.").any():
        return "Rows that lie 2000 apart come out wrong: every row needs its own maximum."
    empty = "Where nothing counts the gradient is NaN, 0/0. It should be 0: there is nothing to learn."
    if off(logits, np.full(5, -100), -100, empty).any():
        return "Where nothing counts, every entry should be 0."
    return None


def _tied(
    W: Array,
    x: Array,
    y: Array,
    *,
    inner: bool = True,
    output: bool = True,
    embedding: bool = True,
    repeat: bool = True,
) -> Array:
    H = np.tanh(W[x])
    G = _right_gradient(H @ W.T, y, -100)
    entering = (G @ W) * (1 - H**2 if inner else 1)
    gradient = G.T @ H if output else np.zeros(W.shape)
    if embedding and repeat:
        np.add.at(gradient, x, entering)
    elif embedding:
        gradient[x] += entering
    return np.asarray(gradient)


def _tied_solution(W: Array, x: Array, y: Array) -> Array:
    return _tied(W, x, y)


def _no_inner(W: Array, x: Array, y: Array) -> Array:
    return _tied(W, x, y, inner=False)


def _output_only(W: Array, x: Array, y: Array) -> Array:
    return _tied(W, x, y, embedding=False)


def _embedding_only(W: Array, x: Array, y: Array) -> Array:
    return _tied(W, x, y, output=False)


def _loses_repeats(W: Array, x: Array, y: Array) -> Array:
    return _tied(W, x, y, repeat=False)


def _linear(W: Array, x: Array, y: Array) -> Array:
    G = _right_gradient(W[x] @ W.T, y, -100)
    gradient = G.T @ W[x]
    np.add.at(gradient, x, G @ W)
    return np.asarray(gradient)


def _tied_sum(W: Array, x: Array, y: Array) -> Array:
    return np.asarray(_tied(W, x, y) * len(x))


def _tied_uphill(W: Array, x: Array, y: Array) -> Array:
    return -_tied(W, x, y)


def _tanh_of_tanh(W: Array, x: Array, y: Array) -> Array:
    H = np.tanh(W[x])
    G = _right_gradient(H @ W.T, y, -100)
    gradient = G.T @ H
    np.add.at(gradient, x, (G @ W) * (1 - np.tanh(H) ** 2))
    return np.asarray(gradient)


def _transposed(W: Array, x: Array, y: Array) -> Array:
    return _tied(W, x, y).T


@exercise(
    solution=_tied_solution,
    because="Both uses of W, the tanh's slope on the embedding's side, and every repeated word counted.",
    wrong=[
        (_no_inner, "1 - h**2"),
        (_output_only, "as the embedding"),
        (_embedding_only, "as the output layer"),
        (_loses_repeats, "np.add.at"),
        (_linear, "without the tanh"),
        (_tied_sum, "mean"),
        (_tied_uphill, "other way"),
        (_tanh_of_tanh, "already the tanh"),
        (_transposed, "shape"),
    ],
)
def tied_tanh(answer: object) -> str | None:
    """A function of W (V, d) and ids x, y (N,) that returns the gradient of the mean loss with respect to W, (V, d)."""
    W = np.random.default_rng(0).normal(size=(7, 4))
    x, y = np.array([2, 1, 4, 5, 3]), np.array([1, 4, 5, 3, 2])
    guesses: list[tuple[Callable[[Array, Array, Array], Array], str]] = [
        (_no_inner, "The embedding's part lacks the slope of the tanh: 1 - h**2, entry by entry."),
        (_output_only, "That is W's gradient as the output layer. It is used a second time, as the embedding."),
        (_embedding_only, "That is W's gradient as the embedding. It is used a second time, as the output layer."),
        (_linear, "That is the model without the tanh: h = tanh(W[x])."),
        (_tied_uphill, "All entries point the other way: the gradient in the logits is q - e_y over N, not e_y - q."),
        (_tied_sum, "That is the gradient of the summed loss; the mean divides it by the number of tokens."),
        (_tanh_of_tanh, "h is already the tanh: its slope is 1 - h**2, not 1 - tanh(h)**2."),
    ]
    for xs, ys in [(x, y), (np.array([2, 1, 4, 2, 2]), np.array([1, 4, 2, 2, 6]))]:
        mine = array(call(answer, W, xs, ys), "What your function returns", W.shape)
        if close(mine, _tied(W, xs, ys), 1e-6):
            continue
        for guess, hint in guesses:
            if close(mine, guess(W, xs, ys), 1e-6):
                return hint
        if xs is x:
            return "It is off, even where no word repeats. Compare it with central differences, entry by entry."
        return "It is off where a word is read twice: `dW[x] += ...` keeps one of its pushes, np.add.at adds them all."
    return None
