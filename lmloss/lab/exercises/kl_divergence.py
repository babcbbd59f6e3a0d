"""The exercises of the chapter on KL divergence."""

import numpy as np

from lmloss.lab.exercises import Hint, call, choice, close, exercise, number


@exercise(
    solution=0.2231,
    because="Every token that stays gains the factor 1/0.8, so the expected log-ratio is -log 0.8.",
    wrong=[
        (np.inf, "other direction"),
        (0.2, "mass that went"),
        (1.609, "went"),
        (0.322, "bits"),
        (-0.223, "never negative"),
        (0.22, "three decimals"),
        (0.8, "the factor"),
        (1.25, "That is the factor"),
    ],
)
def kl_top_p(answer: object) -> str | None:
    """One number, in nats, to three decimals: KL(cut || model) where the cut keeps 0.8 of the probability."""
    value = number(answer)
    if close(value, -np.log(0.8), 6e-4):
        return None
    if np.isposinf(value):
        return "That is the other direction, KL(model || cut). Here the cut model draws; the full one allows it all."
    if close(value, np.log(0.8), 6e-4):
        return "Right size, wrong sign: a divergence is never negative."
    if close(value, -np.log2(0.8), 6e-4):
        return "That is in bits. Take the natural logarithm."
    if close(value, -np.log(0.8), 6e-3):
        return "Very near, but to three decimals it is another number: is it rounded too early, or an approximation?"
    if close(value, 0.2, 6e-4):
        return "That is the mass that went. Each token that stays gains a factor; take the logarithm of it."
    if close(value, 0.8, 6e-4):
        return "That is the mass that stays. By what does it divide each of its tokens, and what is log of the factor?"
    if close(value, 1.25, 6e-4):
        return "That is the factor that every token that stays gains. KL is the mean of its logarithm."
    if close(value, -np.log(0.2), 6e-3):
        return "That is -log of the mass that went. What factor do the tokens that stay gain?"
    return "On the tokens that stay, cut / model is the same number everywhere. Take its logarithm."


@exercise(
    solution=4.5,
    because="(mu_1 - mu_2)**2 / 2: three times the distance, nine times the divergence.",
    wrong=[
        (1.5, "square"),
        (9.0, "half"),
        (6.492, "bits"),
        (3.0, "distance"),
    ],
)
def kl_shifted_normals(answer: object) -> str | None:
    """One number, in nats: KL(N(0, 1) || N(3, 1))."""
    value = number(answer)
    if close(value, 4.5, 0.006):
        return None
    if close(value, 1.5, 0.006):
        return "Three times half a nat? KL does not grow with the distance but with its square."
    if close(value, 9.0, 0.006):
        return "That is the square of the distance; you lost the half."
    if close(value, 4.5 / np.log(2), 0.01):
        return "That is in bits; asked for are nats."
    if close(value, 3.0, 0.006):
        return "That is the distance of the means. What does the theorem on normal distributions make of it?"
    return "With equal variances KL is (mu_1 - mu_2)**2 / (2 sigma**2)."


@exercise(
    solution=0.5,
    because="batchmean divides by 8 sequences, so 64 is per sequence: 64 / 128 per token.",
    wrong=[
        (64.0, "first axis"),
        (8.0, "already"),
        (0.0625, "twice"),
        (0.002, "vocabulary"),
        (512.0, "sum over"),
    ],
)
def kl_batchmean(answer: object) -> str | None:
    """One number, in nats: the mean divergence per token where batchmean prints 64.0 for (8, 128, 32000)."""
    value = number(answer)
    if close(value, 0.5, 1e-4):
        return None
    if close(value, 64.0, 1e-3):
        return "batchmean divides by the first axis only. How many tokens does that leave in each share?"
    if close(value, 8.0, 1e-3):
        return "The division by 8 is done already: 64.0 is per sequence. How many tokens has a sequence?"
    if close(value, 0.0625, 1e-4):
        return "8 * 128 divides by the batch twice: batchmean has divided by 8 already."
    if close(value, 64 / 32000, 1e-4):
        return "The sum over the vocabulary is part of the divergence; do not divide by it."
    if close(value, 512.0, 1e-3):
        return "That is the sum over the whole batch. Divide it by the number of tokens."
    return "Undo the division by 8, then divide by the number of tokens, 8 * 128."


@exercise(
    solution=0.102,
    because="H(X_3 | X_1, X_2) = 1.021 nats, 0.102 above the entropy rate: the price of a word not read.",
    wrong=[
        (1.021, "entropy rate"),
        (0.265, "one word"),
        (0.0, "two words of context"),
        (0.147, "bits"),
        (0.163, "second word"),
    ],
)
def kl_not_read(answer: object) -> str | None:
    """One number, in nats, to two decimals: how far a perfect two-word model stays above the entropy rate."""
    value = number(answer)
    if close(value, 0.1021, 0.006):
        return None
    if close(value, 1.0212, 0.006):
        return "That is the model's loss. Subtract the entropy rate."
    if close(value, 0.2647, 0.006):
        return "That is for one word of context. With two, it takes the entropy of three words in a row."
    if close(value, 0.0, 1e-3):
        return "Three words tell all there is to know in this language; two words of context do not."
    if close(value, 0.1021 / np.log(2), 0.003):
        return "That is in bits; asked for are nats."
    if close(value, 0.1626, 0.006):
        return "That is what the second word saves. Asked for is what is still missing after it."
    return "Take block_entropy(3) - block_entropy(2) and subtract the entropy rate."


@exercise(
    solution="reverse",
    because="The student draws there, and it draws what the teacher calls impossible.",
    wrong=[
        ("forward", "p_j = 0"),
        ("js", "mixture"),
        ("both", "one of the words"),
    ],
)
def kl_forbidden(answer: object) -> str | None:
    """One of 'forward', 'reverse', 'js': what becomes infinite where the student allows what the teacher excludes."""
    guess = choice(answer, ["forward", "reverse", "js"])
    if guess == "reverse":
        return None
    if guess == "forward":
        return "The forward divergence draws from the teacher: a term with p_j = 0 contributes nothing."
    return "JS compares with the mixture, which allows whatever either allows; it is never above ln 2."


@exercise(
    solution=0.0554,
    because="The reference's 0.2 on an outcome that the policy never produces is missing from 0.255.",
    wrong=[
        (0.2554, "biased"),
        (0.06, "three decimals"),
        (np.inf, "never drawn"),
        (0.0652, "k_2"),
        (0.1108, "half of the samples"),
        (0.4554, "sign"),
        (0.0799, "bits"),
    ],
)
def kl_k3_mean(answer: object) -> str | None:
    """One number, to three decimals: what the mean of k_3 approaches for q = (.5, .5, 0) and p = (.5, .3, .2)."""
    value, kl = number(answer), 0.5 * np.log(0.5 / 0.3)
    if close(value, kl - 0.2, 6e-4):
        return None
    if close(value, kl - 0.2, 6e-3):
        return "Very near, but three decimals are asked for: round at the end only."
    if close(value, kl, 6e-4):
        return "That is KL(q || p), what k_1 approaches. k_3 is biased here: what is the mean of rho under q?"
    if np.isinf(value):
        return "The third outcome is never drawn, so its ratio never enters. Average over the two that are."
    if close(value, 0.25 * np.log(0.6) ** 2, 6e-4):
        return "That is the mean of k_2. k_3 is rho - 1 - log rho."
    if close(value, 2 * (kl - 0.2), 6e-4):
        return "That is k_3 of the second outcome, which only half of the samples are."
    if close(value, kl + 0.2, 6e-4):
        return "Mind the sign: the mean of rho - 1 is 0.8 - 1."
    if close(value, (kl - 0.2) / np.log(2), 6e-4):
        return "That is in bits; rho - 1 - log rho takes the natural logarithm."
    return "Compute rho = p/q and rho - 1 - log rho for the two outcomes that occur, and average under q."


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _rows(student_logits: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    log_q, log_p = _log_softmax(student_logits), _log_softmax(teacher_logits)
    p = np.exp(log_p)
    gap = np.where(p > 0, log_p, 0.0) - np.where(p > 0, log_q, 0.0)
    return np.asarray((p * gap).sum(axis=-1))


def _per_token(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    return float(_rows(student_logits, teacher_logits).mean())


def _reversed(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    return _per_token(teacher_logits, student_logits)


def _batchmean(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    return float(_rows(student_logits, teacher_logits).sum() / len(student_logits))


def _summed(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    return float(_rows(student_logits, teacher_logits).sum())


def _elementwise(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    return float(_rows(student_logits, teacher_logits).mean() / student_logits.shape[-1])


def _in_bits(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    return float(_per_token(student_logits, teacher_logits) / np.log(2))


def _in_float16(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    return float(np.float16(_per_token(student_logits, teacher_logits)))


def _not_averaged(student_logits: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    return _rows(student_logits, teacher_logits)


def _cross_entropy(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    log_q, p = _log_softmax(student_logits), np.exp(_log_softmax(teacher_logits))
    return float(-(p * log_q).sum(axis=-1).mean())


def _negative(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    return -_per_token(student_logits, teacher_logits)


def _overflowing(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    q, p = (np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True) for z in (student_logits, teacher_logits))
    return float((p * np.log(p / q)).sum(axis=-1).mean())


def _underflowing(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    q, p = (np.exp(_log_softmax(z)) for z in (student_logits, teacher_logits))
    terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(np.where(p > 0, q, 1))), 0)
    return float(terms.sum(axis=-1).mean())


def _with_epsilon(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    q, p = (np.exp(_log_softmax(z)) for z in (student_logits, teacher_logits))
    return float((p * np.log((p + 1e-12) / (q + 1e-12))).sum(axis=-1).mean())


def _careless(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    log_q, log_p = _log_softmax(student_logits), _log_softmax(teacher_logits)
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean())


def _nan_ignored(student_logits: np.ndarray, teacher_logits: np.ndarray) -> float:
    log_q, log_p = _log_softmax(student_logits), _log_softmax(teacher_logits)
    terms = np.exp(log_p) * (log_p - log_q)
    return float(np.where(np.isfinite(terms), terms, 0).sum(axis=-1).mean())


@exercise(
    solution=_per_token,
    because="Teacher first, a sum over the vocabulary, a mean over all tokens, and infinite only where it should be.",
    wrong=[
        (_reversed, "other direction"),
        (_batchmean, "sequences only"),
        (_summed, "That is the sum"),
        (_elementwise, "divided by V"),
        (_in_bits, "in bits"),
        (_in_float16, "float32 rounds"),
        (_not_averaged, "one number"),
        (_cross_entropy, "cross-entropy"),
        (_negative, "minus"),
        (_overflowing, "logits of 1000"),
        (_underflowing, "underflowed"),
        (_with_epsilon, "constant or a clip"),
        (_careless, "0 * inf"),
        (_nan_ignored, "student alone"),
    ],
)
def kl_per_token(answer: object) -> str | None:
    """A function of student_logits and teacher_logits, (B, T, V): the mean of KL(teacher || student) per token."""
    rng = np.random.default_rng(0)
    student, teacher = np.round(rng.normal(size=(2, 2, 4, 7)) * 64) / 64  # exact in float32, also at 1000 and 2000
    right, tokens = _per_token(student, teacher), student[..., 0].size

    def given(z: np.ndarray, t: np.ndarray) -> float:
        try:
            return number(call(answer, z, t), "The mean over all tokens")
        except Hint as found:
            if "contains NaN" in str(found):
                return float("nan")
            raise

    def agrees(value: float, expected: float) -> bool:  # what float32 can do
        return close(value, expected, 1e-5 * max(1.0, abs(expected)) if np.isfinite(expected) else 0.0)

    value = given(student, teacher)
    if not agrees(value, right):
        if np.isnan(value):
            return "The value is NaN on plain logits of order 1: somewhere there is a 0/0, an inf - inf or a 0 * inf."
        if agrees(value, -right):
            return "Right size, but minus: the logarithm is of teacher over student."
        if agrees(value, _reversed(student, teacher)):
            return "That is the other direction, KL(student || teacher). The teacher is what draws."
        if agrees(value, _cross_entropy(student, teacher)):
            return "That is the cross-entropy of the two. Subtract the teacher's entropy."
        if agrees(value, right * tokens):
            return "That is the sum over the eight tokens; divide by their number."
        if agrees(value, _batchmean(student, teacher)):
            return "That is averaged over sequences only; divide by all B * T tokens."
        if agrees(value, right / student.shape[-1]):
            return "That is divided by V as well. Sum over the vocabulary; only the tokens are averaged."
        if agrees(value, right / np.log(2)):
            return "That is in bits. Use the natural logarithm."
        if close(value, right, 2e-3):
            return "Nearly: it is off by more than float32 rounds. Compute in float32 or float64, without a constant."
        return "The value is off. Log-softmax both on the last axis, sum p (log p - log q) over it, average the tokens."

    def off(z: np.ndarray, t: np.ndarray) -> bool:
        return not agrees(given(z, t), _per_token(z, t))

    if off(student + 1000, teacher - 1000):
        return "Right for small logits, not for logits of 1000. Subtract each row's maximum before the exponential."
    if off(1000 * np.sign(student), 1000 * np.sign(teacher)):
        if np.isfinite(given(1000 * np.sign(student), 1000 * np.sign(teacher))):
            return "A difference of 2000 nats came back too small: a constant or a clip hides it. Stay with logarithms."
        return "A difference of 2000 nats came back infinite or NaN: a probability underflowed. Stay with logarithms."
    apart = np.array([[[0.0]], [[2000.0]]])
    if off(student - apart, teacher + apart):
        return "One maximum cannot serve rows that lie far apart: subtract the maximum of each row (axis=-1)."
    hidden = np.where(np.arange(7) == 2, -np.inf, 0.0)
    if off(student + hidden, teacher + hidden) or off(student, teacher + hidden):
        return "A token that the teacher rules out should contribute 0; a 0 * inf or inf - inf made it something else."
    if off(student + hidden, teacher):
        return "Where the student alone rules a token out, the result should be infinite."
    return None
