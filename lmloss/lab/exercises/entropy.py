"""The exercises of the chapter on entropy."""

import math
from typing import Any

import numpy as np

from lmloss.lab.exercises import array, call, close, exercise, number


@exercise(
    solution=math.log(2),
    because="H(word, spelling) = H(word) + H(spelling | word), and an even choice of two adds ln 2 nats.",
    wrong=[(1.0, "in bits"), (0.0, "one more yes/no question"), (2.0, "factor"), (2.38, "does not depend on p")],
)
def entropy_split(answer: object) -> str | None:
    """One number, in nats: how much the entropy grows when every word gets two equally likely spellings."""
    growth = number(answer)
    if close(growth, math.log(2), 0.004):
        return None
    if close(growth, 1.0, 0.004):
        return "That is the growth in bits. How many nats are one bit?"
    if close(growth, 0.0, 0.004):
        return "Whoever wants the spelling must ask one more yes/no question after the word is known."
    if close(growth, 2.0, 0.004):
        return "2 is the factor by which the number of tokens grows; by how much does their expected surprisal grow?"
    if close(growth, 0.7, 0.004):
        return "Nearly; give three decimals."
    return "The growth does not depend on p. Write the token as a pair (word, spelling) and use the chain rule."


@exercise(
    solution=13 / 8,
    because="H(Y | X) = H(X, Y) - H(X) = 27/8 - 7/4 = 13/8 bits.",
    wrong=[
        (11 / 8, "H(X | Y)"),
        (3 / 8, "mutual information"),
        (2.0, "before anything is known"),
        (13 / 8 * math.log(2), "nats"),
        (27 / 8, "both variables"),
    ],
)
def entropy_conditional(answer: object) -> str | None:
    """One number, in bits: H(Y | X) of Cover and Thomas's table."""
    bits = number(answer)
    if close(bits, 13 / 8, 0.006):
        return None
    if close(bits, 11 / 8, 0.006):
        return "That is H(X | Y). Here X is known and Y is asked for."
    if close(bits, 3 / 8, 0.006):
        return "That is the mutual information: what X tells about Y. Wanted is what it leaves open."
    if close(bits, 2.0, 0.006):
        return "That is H(Y), before anything is known."
    if close(bits, 27 / 8, 0.006):
        return "That is H(X, Y), for both variables; subtract what X costs."
    if close(bits, 13 / 8 * math.log(2), 0.006):
        return "The number is right in nats; the table is in bits."
    return "Use the chain rule: H(X, Y) = H(X) + H(Y | X)."


@exercise(
    solution=1.763,
    because="I = 2 H(X1) - H(X1, X2): the word before takes away 60 % of a word's 2.947 nats.",
    wrong=[
        (1.184, "still open"),
        (2.028, "every earlier word"),
        (2.544, "bits"),
        (-1.763, "sign"),
        (4.131, "two words together"),
    ],
)
def entropy_saved(answer: object) -> str | None:
    """One number, in nats, to two decimals: what the word before tells about a word of the known language."""
    from lmloss.lab.language import known_language

    language = known_language()
    one, two = language.block_entropy(1), language.block_entropy(2)
    saved = number(answer)
    right = 2 * one - two
    if close(saved, right, 0.006):
        return None
    if close(saved, two - one, 0.006):
        return "That is H(X2 | X1), what is still open once the word before is known. Wanted is what it saved."
    if close(saved, one - language.entropy_rate, 0.006):
        return "That is what every earlier word together saves; wanted is the one word before."
    if close(saved, right / math.log(2), 0.006):
        return "That is the number in bits; wanted are nats."
    if close(saved, -right, 0.006):
        return "Mind the sign: mutual information is never negative."
    if close(saved, two, 0.006):
        return "That is H(X1, X2), the entropy of two words together."
    return "I(X1; X2) = H(X1) + H(X2) - H(X1, X2); language.block_entropy(n) is the entropy of n words in a row."


def _shannon_lengths(p: Any) -> Any:
    return np.ceil(-np.log2(p)).astype(int)


@exercise(
    solution=_shannon_lengths,
    because="Rounded up, the lengths satisfy Kraft's inequality and cost less than one bit above the entropy.",
    wrong=[
        (lambda p: np.floor(-np.log2(p)), "no prefix code"),
        (lambda p: np.round(-np.log2(p)), "nearest"),
        (lambda p: -np.log2(p), "whole numbers"),
        (lambda p: np.ceil(-np.log(p)), "natural logarithm"),
        (lambda p: np.full(len(p), np.ceil(np.log2(len(p)))), "same length"),
    ],
)
def entropy_shannon_lengths(answer: object) -> str | None:
    """A function of an array p of positive probabilities that returns the surprisals in bits, rounded up."""
    for p in (
        np.array([0.36, 0.36, 0.2, 0.08]),
        np.array([0.6, 0.2, 0.1, 0.05, 0.03, 0.02]),
        np.array([0.5, 0.25, 0.25]),
    ):
        lengths = array(call(answer, p), "What your function returns", shape=p.shape)
        right = _shannon_lengths(p)
        if close(lengths, right):
            continue
        if not close(lengths, np.round(lengths)):
            return f"A code word has a whole number of bits; for p = {p.tolist()} yours are not whole numbers."
        if np.ptp(lengths) == 0:
            return f"For p = {p.tolist()} you give every word the same length; likely words should get shorter ones."
        if close(lengths, np.ceil(-np.log(p))):
            return "You rounded the natural logarithm; code words are counted in bits, with np.log2."
        if close(lengths, np.round(-np.log2(p))):
            return f"Rounding to the nearest length breaks Kraft's inequality for p = {p.tolist()}; round up."
        if (lengths < 0).any():
            return "A length is never negative: surprisal is minus the logarithm."
        if close(lengths, np.floor(-np.log2(p)) + 1):
            return "Where the surprisal is already whole, as for 1/2, it needs no rounding."
        kraft = np.sum(2.0**-lengths)
        if kraft > 1 + 1e-9:
            return f"For p = {p.tolist()} the Kraft sum is {kraft:.2f}, above 1: no prefix code has these lengths."
        return f"For p = {p.tolist()} the lengths should be {right.tolist()}, not {lengths.astype(int).tolist()}."
    return None


@exercise(
    solution=72_135,
    because="(K - 1) / (2 N) nats is 1000 / (2 N ln 2) bits, and that is 0.01 at N = 72,135.",
    wrong=[
        (50_000, "0.01 nat"),
        (144_270, "2 in the denominator"),
        (721, "0.01 bit, not 1 bit"),
        (34_657, "more bits than nats"),
    ],
)
def entropy_sample_size(answer: object) -> str | None:
    """One number, the sample size N, to within one per cent."""
    size = number(answer)
    right = 1000 / (2 * 0.01 * math.log(2))
    if close(size / right, 1, 0.01):
        return None
    if close(size / 50_000, 1, 0.01):
        return "That N brings the bias to 0.01 nat. Turn (K - 1) / (2 N) nats into bits first."
    if close(size / (2 * right), 1, 0.01):
        return "Mind the 2 in the denominator of (K - 1) / (2 N)."
    if close(size / (right / 100), 1, 0.02):
        return "The bias should be 0.01 bit, not 1 bit."
    if close(size / (right * math.log(2) ** 2), 1, 0.01):
        return "There are more bits than nats in the same entropy: divide the nats by ln 2, do not multiply."
    return "Set (K - 1) / (2 N ln 2) to 0.01 and solve for N, with K = 1,001."


def _entropy_from_logits(z: Any) -> Any:
    z = np.asarray(z, dtype=np.float64)
    shifted = z - z.max(axis=-1, keepdims=True)
    q = np.exp(shifted)
    total = q.sum(axis=-1)
    finite = np.where(q > 0, shifted, 0.0)
    return np.log(total) - (q * finite).sum(axis=-1) / total


def _naive(z: Any) -> Any:
    q = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    return -(q * np.log(q)).sum(axis=-1)


def _as_probabilities(z: Any) -> Any:
    q = np.abs(z) / np.abs(z).sum(axis=-1, keepdims=True)
    return -(q * np.log(np.where(q > 0, q, 1))).sum(axis=-1)


def _no_mask(z: Any) -> Any:
    shifted = z - z.max(axis=-1, keepdims=True)
    log_q = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -(np.exp(log_q) * log_q).sum(axis=-1)


def _one_maximum(z: Any) -> Any:
    q = np.exp(z - np.max(z))
    total = q.sum(axis=-1)
    return np.log(total) - (q * np.where(q > 0, z - np.max(z), 0.0)).sum(axis=-1) / total


def _clipped(z: Any) -> Any:
    q = np.exp(z - z.max(axis=-1, keepdims=True))
    q = np.clip(q / q.sum(axis=-1, keepdims=True), 1e-12, 1)
    return -(q * np.log(q)).sum(axis=-1)


@exercise(
    solution=_entropy_from_logits,
    because="LSE(z) minus the expected logit: nothing overflows, and a logit of -inf contributes nothing.",
    wrong=[
        (_naive, "overflow"),
        (_no_mask, "0 * inf"),
        (_one_maximum, "own maximum"),
        (_clipped, "clip"),
        (_as_probabilities, "softmax"),
        (lambda z: _entropy_from_logits(z) / np.log(2), "bits"),
        (lambda z: float(np.mean(_entropy_from_logits(z))), "one entropy per row"),
        (lambda z: -_entropy_from_logits(z), "sign"),
    ],
)
def entropy_from_logits(answer: object) -> str | None:
    """A function of logits z, shape (..., V), that returns the entropy in nats of softmax(z), shape (...)."""
    z = np.array([[2.0, -1.0, 0.5, 0.0], [0.0, 3.0, -2.0, 1.0]])
    right = _entropy_from_logits(z)
    what = "What your function returns"
    value = np.asarray(call(answer, z[0]), dtype=float)
    if value.shape == () and np.isfinite(value):
        if close(value, right[0] / math.log(2), 1e-9):
            return "Your values are in bits; wanted are nats."
        if close(value, -right[0], 1e-9):
            return "Mind the sign: entropy is the expected value of minus log q, and never negative."
        if not close(value, right[0], 1e-9):
            return (
                f"For z = {z[0].tolist()} this gives {value:.4f}. Are the logits turned into probabilities by softmax?"
            )
    if np.shape(call(answer, z)) != (2,):
        return "For logits of shape (2, 4) there should be one entropy per row: reduce over the last axis only."
    if not close(array(call(answer, z), what), right, 1e-9):
        return "One row alone is right, but two rows at once are not: is every reduction over the last axis?"
    if not close(np.nan_to_num(np.asarray(call(answer, z + 1000.0)), nan=-1.0), right, 1e-9):
        return "At logits near 1000 the exponentials overflow. Subtract the row's maximum first; q does not change."
    apart = z + np.array([[1000.0], [0.0]])
    if not close(np.nan_to_num(np.asarray(call(answer, apart)), nan=-1.0), right, 1e-9):
        return "One row near 1000 and one near 0: subtract from every row its own maximum, not the largest of all."
    hidden = np.where(np.arange(50_000) < 2, 0.0, -np.inf)
    value = np.asarray(call(answer, hidden), dtype=float)
    if not np.isfinite(value).all():
        return "A logit of -inf is probability 0 and should contribute 0; yours gives 0 * inf somewhere."
    if not close(value, np.log(2), 1e-9):
        return "Two logits of 0 and 49,998 of -inf have entropy ln 2. Is there a clip, or a small number added to q?"
    return None
