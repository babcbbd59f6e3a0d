"""The exercises of the chapter on cross-entropy."""

import numpy as np

from lmloss.lab.exercises import array, call, choice, close, exercise, number


@exercise(
    solution=0.693,
    because="-log(q/2) = -log q + log 2, wherever q was: equal ratios cost equal amounts.",
    wrong=[
        (0.15, "difference of the probabilities"),
        (2.0, "ratio"),
        (-0.693, "sign"),
        (1.0, "bits"),
        (1.897, "whole loss"),
        (0.5, "logarithm"),
    ],
)
def halved_probability(answer: object) -> str | None:
    """One number, to two decimals: by how many nats the loss rises when the target's probability is halved."""
    rise = number(answer)
    if close(rise, np.log(2), 0.006):
        return None
    if close(rise, -np.log(2), 0.006):
        return "Mind the sign: a smaller probability costs more, so the loss rises."
    if close(rise, 1.0, 0.006):
        return "One is the answer in bits; the losses here are in nats, so take the natural logarithm."
    if close(rise, -np.log(0.15), 0.01):
        return "That is the whole loss at 0.15. Subtract the loss at 0.30."
    if close(rise, 0.15, 0.006) or close(rise, 0.075, 0.006):
        return "That is the difference of the probabilities. Subtract their losses, -log q, instead."
    if close(rise, 2.0, 0.006):
        return "Two is the ratio of the probabilities. Which function of a ratio is a difference of logarithms?"
    return "Write -log(q/2) - (-log q) as one logarithm. What is left of q?"


@exercise(
    solution=1.9459,
    because="A winner may have barely more than 1/7, so the loss can come as close to log 7 as you like.",
    wrong=[
        (0.0, "probability 1"),
        (0.693, "more than half"),
        (1 / 7, "probability"),
        (2.807, "bits"),
        (np.inf, "beat the other six"),
    ],
)
def always_right(answer: object) -> str | None:
    """One number, to two decimals: the least number that the mean loss of an always-right classifier stays below."""
    bound = number(answer)
    if close(bound, np.log(7), 0.006):
        return None
    if close(bound, 0.0, 0.006):
        return "Loss 0 needs probability 1 on every target. Being right only needs the target to have the most."
    if close(bound, np.log(2), 0.006):
        return "With seven classes a winner does not need more than half. How little can the largest of seven have?"
    if close(bound, 1 / 7, 0.006):
        return "That is the probability such a target has at least. The loss is its negative logarithm."
    if close(bound, np.log2(7), 0.006):
        return "That is in bits. Take the natural logarithm."
    if np.isinf(bound):
        return "The target must beat the other six, so its probability cannot be arbitrarily small. How small?"
    return "The target has the largest of seven probabilities that sum to 1. How small can the largest be?"


@exercise(
    solution=12.82,
    because="log V + sigma**2/2: the mean of exp(sigma z) is exp(sigma**2/2), and the target's own logit averages 0.",
    wrong=[
        (10.82, "equal logits"),
        (11.32, "standard deviation 1"),
        (11.82, "square"),
        (14.82, "half"),
        (2.0, "log V"),
    ],
)
def random_start(answer: object) -> str | None:
    """One number, to one decimal: the mean loss of 50,257 independent normal logits of standard deviation 2."""
    loss, equal = number(answer), np.log(50257)
    if close(loss, equal + 2, 0.06):
        return None
    if close(loss, equal, 0.06):
        return "That is log V, the loss of equal logits. Random ones give some wrong words large probabilities."
    if close(loss, equal + 0.5, 0.06):
        return "That holds for standard deviation 1. What is the mean of exp(2 z) for a standard normal z?"
    if close(loss, equal + 1, 0.06):
        return "Is the excess proportional to sigma or to its square? Compute the mean of exp(sigma z)."
    if close(loss, equal + 4, 0.06):
        return "Almost: the mean of exp(sigma z) is exp(sigma**2 / 2); you lost the half."
    if close(loss, 2.0, 0.06):
        return "That is the excess; the whole loss adds it to log V."
    return "Follow the proof for standard normal logits with sigma z instead of z: log V plus the log of a mean."


@exercise(
    solution=0.746,
    because="The best is to answer with the frequencies, and then the mean loss is their entropy.",
    wrong=[
        (0.357, "always says"),
        (1.0986, "uniform"),
        (0.0, "three different"),
        (1.0766, "bits"),
        (14.92, "mean"),
    ],
)
def counts_floor(answer: object) -> str | None:
    """One number, to two decimals: the lowest mean loss on 14 forward, 5 home and 1 closer after one context."""
    loss = number(answer)
    freqs = np.array([14, 5, 1]) / 20
    best = -np.sum(freqs * np.log(freqs))
    if close(loss, best, 0.006):
        return None
    if close(loss, 20 * best, 0.06):
        return "That is the sum over the twenty; the mean divides it by 20."
    if close(loss, best / np.log(2), 0.006):
        return "That is in bits. Take the natural logarithm."
    if close(loss, np.log(3), 0.006):
        return "That is what the uniform guess among three words pays. Some of the words are more frequent."
    if close(loss, -np.log(0.7), 0.006):
        return "That is the loss on one 'forward'. A model that always says it with more pays dearly for the other six."
    if close(loss, 0.0, 0.006):
        return "One context was followed by three different words; one distribution cannot be certain of all three."
    return "By Gibbs' inequality the frequencies 14/20, 5/20 and 1/20 are best. What do they pay on average?"


@exercise(
    solution="softmax twice",
    because="10.37 = log 32000 is a healthy start, and 9.37 = log(1 + 31999/e) is the floor of a doubled softmax.",
    wrong=[
        ("log(p + 1e-12)", "27.63"),
        ("learning rate", "exactly one nat"),
        ("wrong axis", "32,000"),
        ("Softmax once", "one of the words"),
    ],
)
def stuck_loss(answer: object) -> str | None:
    """One of 'softmax twice', 'wrong axis', 'log(p + 1e-12)', 'learning rate': why the loss stays at 9.37."""
    options = ["softmax twice", "wrong axis", "log(p + 1e-12)", "learning rate"]
    guess = choice(answer, options)
    if guess == "softmax twice":
        return None
    if guess == "wrong axis":
        return "The first loss is log 32,000, so the softmax runs over the 32,000 words and not over another axis."
    if guess == "log(p + 1e-12)":
        return "That caps the loss from above, at 27.63. Here it is stuck from below."
    return "A learning rate does not stop at exactly one nat below log V. Which function cannot go lower than that?"


def _batched_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_q = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(-np.take_along_axis(log_q, targets[..., None], axis=-1).mean())


def _wrong_axis(logits: np.ndarray, targets: np.ndarray) -> float:
    log_q = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-np.take_along_axis(log_q, targets[..., None], axis=-1).mean())


def _summed(logits: np.ndarray, targets: np.ndarray) -> float:
    return _batched_loss(logits, targets) * targets.size


def _per_token(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.full(targets.shape, _batched_loss(logits, targets))


def _overflowing(logits: np.ndarray, targets: np.ndarray) -> float:
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return float(-np.log(np.take_along_axis(probs, targets[..., None], axis=-1)).mean())


def _shifted_softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _log_of_softmax(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(np.take_along_axis(_shifted_softmax(logits), targets[..., None], axis=-1)).mean())


def _clipped(logits: np.ndarray, targets: np.ndarray) -> float:
    probs = np.take_along_axis(_shifted_softmax(logits), targets[..., None], axis=-1)
    return float(-np.log(np.clip(probs, 1e-12, 1)).mean())


def _one_maximum(logits: np.ndarray, targets: np.ndarray) -> float:
    shifted = logits - logits.max()
    log_q = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(-np.take_along_axis(log_q, targets[..., None], axis=-1).mean())


def _positive(logits: np.ndarray, targets: np.ndarray) -> float:
    return -_batched_loss(logits, targets)


def _from_probs(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(np.take_along_axis(np.abs(logits), targets[..., None], axis=-1)).mean())


@exercise(
    solution=_batched_loss,
    because="It agrees with lmloss for (B, T, V) logits, small, large and shifted.",
    wrong=[
        (_wrong_axis, "another axis"),
        (_summed, "sum"),
        (_per_token, "one number"),
        (_overflowing, "logits of 1000"),
        (_log_of_softmax, "underflowed"),
        (_clipped, "clipped"),
        (_one_maximum, "each row"),
        (_positive, "minus"),
        (_from_probs, "log-softmax"),
    ],
)
def batched_loss(answer: object) -> str | None:
    """A function of logits, shape (B, T, V), and targets, shape (B, T), that returns the mean loss in nats."""
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 4, 7)), rng.integers(7, size=(2, 4))
    right = _batched_loss(logits, targets)
    loss = array(call(answer, logits, targets), "What your function returns")
    if loss.size != 1:
        return f"The mean over all tokens is one number; yours has shape {loss.shape}."
    if not close(loss.reshape(()), right, 1e-9):
        if close(loss.reshape(()), -right, 1e-9):
            return "Right size, wrong sign: the loss is minus the log-probability."
        if close(loss.reshape(()), right * targets.size, 1e-9):
            return "That is the sum over the eight tokens; divide by their number."
        if close(loss.reshape(()), right * targets.shape[1], 1e-9):
            return "That is summed over positions and averaged over sequences only; divide by all eight tokens."
        if close(loss.reshape(()), _wrong_axis(logits, targets), 1e-9):
            return "Your probabilities sum to 1 over another axis. The vocabulary is the last one."
        return "The value is off. Take log-softmax over the last axis, pick each target's entry, average, negate."

    def loss_of(z: np.ndarray) -> float:
        return float(np.asarray(call(answer, z, targets), dtype=float).reshape(()))

    def off(z: np.ndarray) -> bool:
        return not close(loss_of(z), _batched_loss(z, targets), 1e-6)

    if off(logits + 1000):
        return "Right for small logits, not for logits of 1000. Subtract each row's maximum before the exponential."
    if off(1000 * np.sign(logits)):
        if np.isinf(loss_of(1000 * np.sign(logits))):
            return "A loss of 2000 came back infinite: its probability underflowed to 0. Never form the probability."
        return "A loss of 2000 came back too small: its probability was clipped. Never form the probability."
    if off(logits - np.array([[[0.0]], [[2000.0]]])):
        return "One maximum cannot serve rows that lie far apart: subtract the maximum of each row (axis=-1)."
    return None
