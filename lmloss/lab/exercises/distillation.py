"""The exercises of the chapter on distillation."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lmloss.lab.exercises import Hint, array, call, close, exercise, number

Array = npt.NDArray[Any]


@exercise(
    solution=[-1 / 3, 1 / 3, 0],
    because="Centred, the student is (1, 0, -1) and the teacher (2, -1, -1); their difference, divided by 3.",
    wrong=[
        ([-2 / 3, 0, -1 / 3], "mean zero"),
        ([-1, 1, 0], "divided by V"),
        ([1 / 3, -1 / 3, 0], "sign"),
        ([0, 0, 0], "multiplied by tau"),
        ([1, 2], "shape"),
    ],
)
def distil_hot_limit(answer: object) -> str | None:
    """Three numbers: the limit of tau**2 times the gradient in the student's logits, as tau grows without bound."""
    limit = array(answer, shape=(3,))
    right = np.array([-1, 1, 0]) / 3
    if close(limit, right, 0.006):
        return None
    if close(limit, [0, 0, 0], 0.006):
        return "The gradient itself goes to 0; but it is multiplied by tau**2, and that product does not."
    if close(limit, -right, 0.006):
        return (
            "Mind the sign: the gradient is student minus teacher, so that the step, its negative, goes to the teacher."
        )
    if close(limit, 3 * right, 0.006):
        return (
            "Those are the differences of the centred logits. In the limit each probability is near 1/3: divided by V."
        )
    if close(limit, [-2 / 3, 0, -1 / 3], 0.006) or close(limit, [-2, 0, -1], 0.006):
        return "A gradient in logits sums to 0, and this does not: give both rows of logits mean zero first."
    if abs(limit.sum()) > 0.01:
        return "A gradient in logits sums to 0. Did you subtract each row's own mean?"
    return "Subtract from each row its mean, take student minus teacher, and divide by the number of classes."


@exercise(
    solution=0.88,
    because="The student copies the softened teacher: its logits end at (2, 0), and sigmoid(2) = 0.88 instead of 0.98.",
    wrong=[
        (0.982, "softens both"),
        (0.731, "twice"),
        (0.9997, "half"),
        (0.5, "infinite"),
        (88, "between 0 and 1"),
    ],
)
def distil_one_side(answer: object) -> str | None:
    """One number, to two decimals: the probability that the fully trained student gives the first class, unsoftened."""
    prob = number(answer)
    if not 0 <= prob <= 1:
        return "A probability lies between 0 and 1."
    if close(prob, 1 / (1 + np.exp(-2)), 0.006):
        return None
    if close(prob, 1 / (1 + np.exp(-4)), 0.006):
        return "That is the teacher itself, where a loss that softens both ends. This one softens the teacher alone."
    if close(prob, 1 / (1 + np.exp(-8)), 0.0015):
        return "The student ends flatter, not sharper: its logits become half of the teacher's, not twice."
    if close(prob, 1 / (1 + np.exp(-1)), 0.006):
        return "That halves the logits twice. The loss is least where the student's own softmax equals the target."
    if close(prob, 0.5, 0.006):
        return "Only an infinite temperature makes two classes equal."
    return "The loss is least where softmax(z) equals the teacher's softened distribution. What is that distribution?"


@exercise(
    solution=[0.714, 0.214, 0.071],
    because="Dropping a logit and taking the softmax of the rest divides the rest by their sum, 0.7.",
    wrong=[
        ([0.5, 0.15, 0.05], "sum to 1"),
        ([0.6, 0.25, 0.15], "equal parts"),
        ([0.425, 0.300, 0.271], "probabilities"),
        ([1 / 3, 1 / 3, 1 / 3], "ratios"),
        ([0.5, 0.3, 0.15, 0.05], "shape"),
    ],
)
def distil_drop(answer: object) -> str | None:
    """Three numbers, to two decimals or more: the teacher's distribution over the student's three words."""
    probs = array(answer, shape=(3,))
    rest = np.array([0.5, 0.15, 0.05])
    if close(probs, rest / rest.sum(), 0.006):
        return None
    if close(probs, rest, 0.006):
        return "These do not sum to 1: the softmax of what is left divides by the sum of what is left."
    if close(probs, rest + 0.1, 0.006):
        return "That shares the lost 0.3 in equal parts. A softmax keeps the ratios between the words that stay."
    twice = np.exp(rest) / np.exp(rest).sum()
    if close(probs, twice, 0.02) and not close(probs, [1 / 3] * 3, 0.006):
        return "That is the softmax of probabilities. Logits are logarithms: e**z is what is divided by the sum."
    if close(probs.sum(), 1, 0.01):
        return "They sum to 1, but the ratios between the three words should stay what they were: 10 to 3 to 1."
    return "Take out the second word and divide the other three by their sum."


@exercise(
    solution=23,
    because="A sampled label is off by 1 - 0.54 = 0.46 in square, the teacher by 0.02: 0.46 / 0.02 = 23.",
    wrong=[
        (0.46, "one label"),
        (27, "1 minus"),
        (0.0435, "Upside down"),
        (3.25, "squared"),
        (2.3, "absolute"),
        (46, "both classes"),
    ],
)
def distil_break_even(answer: object) -> str | None:
    """One number: how many sampled labels in one context are as good as this teacher, in mean square."""
    labels = number(answer)
    if close(labels, 23, 0.6):
        return None
    if close(labels, 0.46, 0.006):
        return "That is the squared noise of one label. How many labels bring it down to the teacher's squared error?"
    if close(labels, 27, 0.6):
        return "The noise of a label is 1 minus the sum of the squared probabilities, not that sum."
    if close(labels, 0.02 / 0.46, 0.001):
        return "Upside down: the noise of N labels, 0.46 / N, should equal the teacher's squared error."
    if close(labels, 0.46 / np.sqrt(0.02), 0.06):
        return "The teacher's error enters squared too: the sum of the squared differences, without a root."
    if close(labels, 2.3, 0.06):
        return "That divides by the sum of the absolute differences; in mean square it is the sum of their squares."
    if close(labels, 46, 0.6):
        return "The teacher is off in both classes, the first and the second: the squared differences add up to 0.02."
    return "Solve (1 - sum of p**2) / N = sum of (r - p)**2 for N."


@exercise(
    solution=24,
    because="batchmean divides by B = 4; a mean over counted tokens by 4 * 32 * 3/4 = 96, which is 24 times as much.",
    wrong=[
        (32, "padding"),
        (96, "times too large"),
        (128, "positions"),
        (1 / 24, "Upside down"),
        (8, "quarter"),
    ],
)
def distil_batchmean(answer: object) -> str | None:
    """One number: the loss of batchmean divided by the mean over the tokens that count."""
    factor = number(answer)
    if close(factor, 24, 0.01):
        return None
    if close(factor, 32, 0.01):
        return "That would be right without padding. How many of a sequence's 32 tokens count?"
    if close(factor, 1 / 24, 0.001):
        return "Upside down: dividing by the smaller number gives the larger loss, and batchmean divides by B."
    if close(factor, 8, 0.01):
        return "A quarter of the positions are padding, so three quarters count."
    if close(factor, 128, 0.01):
        return "That is the number of positions, padding and all. One sum is divided by 4, the other by what counts."
    if close(factor, 4, 0.01) or close(factor, 96, 0.01):
        return "That is one of the two divisors. How many times too large is the sum over 4, next to the sum over 96?"
    return "Both divide the same sum. By what does batchmean divide, and how many tokens count?"


def _one_number(result: Any) -> float:
    """Return what a function returned, a number of NumPy or PyTorch alike, as a float; NaN stays NaN."""
    value = np.asarray(result.tolist() if hasattr(result, "tolist") else result, dtype=float)
    if value.shape:
        raise Hint(f"Your function should return one number; this has shape {value.shape}.")
    return float(value)


def _log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _soft_rows(student: Array, teacher: Array, tau: float) -> Array:
    log_p, log_q = _log_softmax(teacher / tau), _log_softmax(student / tau)
    p = np.exp(log_p)
    return np.asarray(np.where(p > 0, p * (np.where(p > 0, log_p, 0) - log_q), 0).sum(axis=-1))


def _right_soft_loss(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    return float(tau**2 * _soft_rows(student, teacher, tau)[counted].mean())


def _one_side_soft(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    return float(tau**2 * _soft_rows(student * tau, teacher, tau)[counted].mean())


def _without_square(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    return float(_soft_rows(student, teacher, tau)[counted].mean())


def _times_tau(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    return float(tau * _soft_rows(student, teacher, tau)[counted].mean())


def _over_padding(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    return float(tau**2 * (_soft_rows(student, teacher, tau) * counted).mean())


def _not_masked(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    return float(tau**2 * _soft_rows(student, teacher, tau).mean())


def _zero_times_log_zero(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    log_p, log_q = _log_softmax(teacher / tau), _log_softmax(student / tau)
    rows = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return float(tau**2 * rows[counted].mean())


def _reversed_soft(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    return float(tau**2 * _soft_rows(teacher, student, tau)[counted].mean())


def _mean_of_sequences(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    rows = _soft_rows(student, teacher, tau)
    return float(np.mean([tau**2 * row[some].mean() for row, some in zip(rows, counted, strict=True)]))


def _trusting_teacher(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    rows = _soft_rows(np.where(counted[..., None], student, 0), teacher, tau)
    rows = np.where(np.isnan(teacher).any(axis=-1), np.nan, rows)
    return float(tau**2 * (rows * counted).sum() / counted.sum())


def _with_epsilon(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    p, q = np.exp(_log_softmax(teacher[counted] / tau)), np.exp(_log_softmax(student[counted] / tau))
    return float(tau**2 * (p * (np.log(p + 1e-12) - np.log(q + 1e-12))).sum(axis=-1).mean())


def _multiplied_by_mask(student: Array, teacher: Array, tau: float, counted: Array) -> float:
    return float(tau**2 * (_soft_rows(student, teacher, tau) * counted).sum() / counted.sum())


@exercise(
    solution=_right_soft_loss,
    because="Both softened, multiplied by tau**2, averaged over what counts, and 0 log 0 is 0.",
    wrong=[
        (_one_side_soft, "softened too"),
        (_without_square, "tau**2"),
        (_times_tau, "tau**2"),
        (_over_padding, "padding"),
        (_not_masked, "do not count"),
        (_zero_times_log_zero, "rules out"),
        (_reversed_soft, "exchanged"),
        (_mean_of_sequences, "sequence"),
        (_multiplied_by_mask, "0 times NaN"),
        (_trusting_teacher, "of both"),
        (_with_epsilon, "no epsilon"),
        (lambda student, teacher, tau, counted: tau**2 * _soft_rows(student, teacher, tau), "shape"),
    ],
)
def distil_repair(answer: object) -> str | None:
    """A function of student, teacher (B, T, V), tau and counted (B, T) that returns the soft loss as one number."""
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(size=(2, 3, 5, 7))
    every, some = np.ones((3, 5), bool), rng.random((3, 5)) < 0.6
    some[:, 0], some[0, 1:] = True, False

    def loss(student: Array, teacher: Array, tau: float, counted: Array) -> float:
        return _one_number(call(answer, student, teacher, tau, counted))

    plain, right = loss(student, teacher, 1.0, every), _right_soft_loss
    if close(plain, _reversed_soft(student, teacher, 1.0, every), 1e-6):
        return "Teacher and student are exchanged: the teacher's probabilities weigh the logarithms."
    if not close(plain, right(student, teacher, 1.0, every), 1e-6):
        return "At temperature 1, with every token counted, this is not the mean of KL(teacher || student) over tokens."
    hot = loss(student, teacher, 3.0, every)
    for slip, hint in (
        (_without_square(student, teacher, 3.0, every), "The softened divergence is still to be multiplied by tau**2."),
        (_times_tau(student, teacher, 3.0, every), "The factor is tau**2, not tau: the gradient loses two powers."),
    ):
        if close(hot, slip, 1e-6):
            return hint
    if not close(hot, right(student, teacher, 3.0, every), 1e-6):
        return "At temperature 3 the value is off. Is the student softened too, and is there one factor of tau**2?"
    masked = loss(student, teacher, 3.0, some)
    for slip, hint in (
        (
            _over_padding(student, teacher, 3.0, some),
            "The sum is divided by all positions, padding too; divide by those that count.",
        ),
        (hot, "The tokens that do not count are in the mean: the mask changes nothing."),
        (
            _mean_of_sequences(student, teacher, 3.0, some),
            "That averages within each sequence first; every counted token should weigh the same.",
        ),
    ):
        if close(masked, slip, 1e-6):
            return hint
    if not close(masked, right(student, teacher, 3.0, some), 1e-6):
        return "With some tokens masked the value is off: sum over the counted ones, divide by how many they are."
    forbidden = teacher.copy()
    forbidden[..., 2] = -np.inf
    if not close(loss(student, forbidden, 2.0, every), right(student, forbidden, 2.0, every), 1e-6):
        return "A word that the teacher rules out (logit -inf) should add 0 to the sum, and not 0 * -inf, which is NaN."
    far = 40 * student
    if not close(loss(far, teacher, 1.0, every), right(far, teacher, 1.0, every), 1e-3):
        return (
            "Where the student gives a word e**-100 the logarithm is -100: use log_softmax of its logits, no epsilon."
        )
    wanted = right(student, teacher, 2.0, some)
    padded_student, padded_teacher = (np.where(some[..., None], logits, np.nan) for logits in (student, teacher))
    if not close(loss(padded_student, teacher, 2.0, some), wanted, 1e-6):
        return "Padding may hold anything, NaN too, and 0 times NaN is NaN: pick the counted tokens, do not multiply."
    if not close(loss(student, padded_teacher, 2.0, some), wanted, 1e-6):
        return "The teacher's rows at padding may hold NaN as well: pick the counted tokens of both, then compute."
    return None


def _log_sum_exp(z: Array) -> float:
    top = z.max(initial=-np.inf)
    return float(top + np.log(np.exp(z - top).sum())) if top > -np.inf else -np.inf


def _top_k(student: Array, ids: Array, log_probs: Array) -> float:
    others = np.delete(student, ids)
    log_q = np.append(student[ids], _log_sum_exp(others)) - _log_sum_exp(student)
    kept = np.exp(log_probs)
    left = max(1 - kept.sum(), 0.0) if len(others) else 0.0
    value = float((kept * (log_probs - log_q[:-1])).sum())
    return value + (float(left * (np.log(left) - log_q[-1])) if left > 0 else 0.0)


def _renormalised(student: Array, ids: Array, log_probs: Array) -> float:
    log_p, log_q = log_probs - _log_sum_exp(log_probs), student[ids] - _log_sum_exp(student[ids])
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def _teacher_renormalised(student: Array, ids: Array, log_probs: Array) -> float:
    log_p, log_q = log_probs - _log_sum_exp(log_probs), student[ids] - _log_sum_exp(student)
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def _rest_forgotten(student: Array, ids: Array, log_probs: Array) -> float:
    return float((np.exp(log_probs) * (log_probs - student[ids] + _log_sum_exp(student))).sum())


def _overflowing(student: Array, ids: Array, log_probs: Array) -> float:
    q = np.exp(student) / np.exp(student).sum()
    q = np.append(q[ids], 1 - q[ids].sum())
    p = np.append(np.exp(log_probs), 1 - np.exp(log_probs).sum())
    return float((p * np.log(p / q))[p > 1e-12].sum())


def _one_minus(student: Array, ids: Array, log_probs: Array) -> float:
    log_q = student[ids] - _log_sum_exp(student)
    p, q = (np.append(np.exp(row), max(1 - np.exp(row).sum(), 0)) for row in (log_probs, log_q))
    return float((p * np.log(p / q))[p > 1e-12].sum())


@exercise(
    solution=_top_k,
    because="k tokens and one class for the rest: never more than the full divergence, and equal to it at k = V.",
    wrong=[
        (_renormalised, "Nothing is said"),
        (_teacher_renormalised, "renormalised"),
        (_rest_forgotten, "negative"),
        (_overflowing, "log-sum-exp"),
        (_one_minus, "1 - sum"),
        (lambda student, ids, log_probs: student, "one number"),
    ],
)
def distil_top_k(answer: object) -> str | None:
    """A function of student logits (V,), ids (k,) and teacher's log-probabilities (k,) that returns one number."""
    rng = np.random.default_rng(5)
    student, teacher = rng.normal(size=(2, 50)) * 2
    log_p = _log_softmax(teacher)
    order = np.argsort(-log_p)

    def value(student: Array, ids: Array, log_probs: Array) -> float:
        return _one_number(call(answer, student, ids, log_probs))

    ids = order[[2, 0, 4, 1, 3]]  # an interface need not sort
    found = value(student, ids, log_p[ids])
    if close(found, _renormalised(student, ids, log_p[ids]), 1e-5):
        return (
            "Both are renormalised over the k tokens. Nothing is said about what the student gives to all the others."
        )
    if close(found, _teacher_renormalised(student, ids, log_p[ids]), 1e-5):
        return "The teacher is renormalised over its k tokens: it now claims that no other token ever comes."
    if close(found, _rest_forgotten(student, ids, log_p[ids]), 1e-5):
        return "The class for the rest is missing: without it the sum is no divergence, and can be negative."
    if not close(found, _top_k(student, ids, log_p[ids]), 1e-5):
        return "Make k + 1 classes on both sides, the k tokens and all the others as one; take KL(teacher || student)."
    if not close(value(student, order, log_p[order]), float(_soft_rows(student, teacher, 1.0)), 1e-5):
        return "With k = V nothing is left over, and the value should be the full divergence. What is the rest's share?"
    if not close(value(student + 1000, ids, log_p[ids]), found, 1e-3):
        return "Adding 1000 to all logits should change nothing: use log-sum-exp, as for any loss."
    sure = student.copy()
    sure[ids] += 60
    if not close(value(sure, ids, log_p[ids]), _top_k(sure, ids, log_p[ids]), 1e-3):
        return (
            "Where the student gives the rest e**-60, 1 - sum rounds to 0: take the log-sum-exp of the others' logits."
        )
    return None
