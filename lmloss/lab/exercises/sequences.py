"""The exercises of the chapter on sequences."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lmloss.lab.exercises import Hint, array, call, choice, close, exercise, number

Array = npt.NDArray[Any]


@exercise(
    solution=42,
    because="Below 2**-150 a number rounds to 0 in float32, and 103.97 / 2.5 = 41.6: a paragraph is too long.",
    wrong=[
        (41, "still rounds"),
        (41.6, "whole number"),
        (35, "subnormal"),
        (36, "one more"),
        (299, "float64"),
        (7, "float16"),
        (96, "natural"),
        (466, "0.8"),
        (104, "per token"),
        (60, "powers of two"),
    ],
)
def words_in_float32(answer: object) -> str | None:
    """One whole number: from how many tokens at 2.5 nats the exact probability of a text rounds to 0 in float32."""
    count = number(answer)
    if count == 42:
        return None
    if count == 41:
        return "41 tokens have probability e**-102.5, which still rounds to the smallest float32, 2**-149."
    if 41 < count < 42:
        return "That is where the line is crossed; a text has a whole number of tokens, so which is the first past it?"
    if count == 35 or 34.9 < count < 35:
        return "That is where the normal numbers end, at 2**-126. The subnormal ones go on to 2**-149."
    if count == 36:
        return "One token after the normal numbers end is one more than 35; but the subnormal ones go on to 2**-149."
    if 297 < count < 300:
        return "That is the edge of float64, near 745 nats. Float32 ends near 104."
    if 6 <= count <= 7:
        return "That is the edge of float16, near 17 nats. Float32 ends near 104."
    if 95 < count < 97:
        return "Nats are natural logarithms: a token costs a factor of e**2.5. Compare 2.5 n with -ln(2**-150)."
    if count == 466:
        return "That is for tokens of probability 0.8, 0.22 nats each. Here each token costs 2.5 nats."
    if count in (59, 60, 61):
        return "150 / 2.5 is 60, but the 150 of 2**-150 counts powers of two. How many nats is one of them?"
    if 103 < count < 105:
        return "That is how many nats fit into float32. How many tokens is it, at 2.5 nats per token?"
    return "A number rounds to 0 below half of the smallest positive float32, 2**-149. How many nats is that?"


@exercise(
    solution=13,
    because="Each text has one target fewer than tokens: 4 + 2 + 7 = 13.",
    wrong=[
        (16, "nothing before it"),
        (24, "rectangle"),
        (21, "Padding"),
        (15, "next text"),
        (3, "per text"),
        (10, "last token"),
    ],
)
def count_targets(answer: object) -> str | None:
    """One whole number: how many tokens causal_lm_loss counts in texts of 5, 3 and 8 tokens, padded with -100."""
    hints: dict[float, str] = {
        16: "That counts all tokens of the texts. The first token of a text has nothing before it, so it is no target.",
        24: "That is the whole rectangle of 3 x 8, padding included, and nothing is shifted.",
        21: "That is 3 x 7: the shift is there, but so is the padding. Padding does not count.",
        15: "That is the flattened batch, shifted once: it scores a text's first token after the end of another: "
        "the next text is none of its business.",
        3: "That would be one per text. The default mean is over tokens.",
        10: "That takes two tokens from each text. The last token is a target; only the first is not.",
    }
    count = number(answer)
    if count == 13:
        return None
    return hints.get(count, "Count for each text the tokens that have a token of the same text before them.")


@exercise(
    solution=[2.2, 3.0],
    because="(40 + 180) / 100 = 2.2 per token, (4 + 2) / 2 = 3 per text; a token of the short text weighs nine times.",
    wrong=[
        ([3.0, 2.2], "other order"),
        ([3.0, 3.0], "weigh"),
        ([3.8, 3.0], "exchanged"),
        ([2.2, 2.2], "ignores"),
        ([220.0, 3.0], "sum"),
        ([2.2, 6.0], "divide"),
    ],
)
def two_averages(answer: object) -> str | None:
    """A list of two numbers: the mean loss over all 100 tokens, and the mean of the two texts' means."""
    by_token, by_text = array(answer, shape=(2,))
    right = close(by_token, 2.2, 0.006), close(by_text, 3.0, 0.006)
    if all(right):
        return None
    if close(by_token, 3, 0.006) and close(by_text, 2.2, 0.006):
        return "Both numbers are right, in the other order: first over the tokens, then over the texts."
    if not right[0]:
        if close(by_token, 3, 0.006):
            return "The first: that is the mean of the means. Over tokens, weigh each text's mean by its length."
        if close(by_token, 3.8, 0.006):
            return "The first: the two lengths are exchanged. The text of 10 tokens is the one with 4 nats."
        if close(by_token, 220, 0.6):
            return "The first: that is the sum of all losses. How many tokens share it?"
        return "The first: add up what all tokens cost, 10 * 4 + 90 * 2, and divide by how many there are."
    if close(by_text, 2.2, 0.006):
        return "The second: a mean of the two means ignores how long the texts are."
    if close(by_text, 6, 0.006):
        return "The second: you added the two means; now divide by how many texts there are."
    return "The second: the mean of 4 and 2, whatever the lengths."


RUNS = ("11.1", "8.8", "1.6", "the training run at 0.0002")


@exercise(
    solution=["unshifted", "twice", "divided", "unshifted"],
    because="Copying is punished in a good model and learned by a new one; two ahead is plausible; padding dilutes.",
    wrong=[
        (["twice", "unshifted", "divided", "unshifted"], "ln V"),
        (["unshifted", "divided", "divided", "unshifted"], "never make it larger"),
        (["unshifted", "twice", "twice", "unshifted"], "below the right loss"),
        (["unshifted", "twice", "divided", "divided"], "almost all"),
        (["unshifted", "twice", "divided", "twice"], "two ahead"),
        (["unshifted", "twice", "unshifted", "unshifted"], "expects again"),
        (["unshifted", "unshifted", "divided", "unshifted"], "above a uniform guess"),
        (["divided", "twice", "divided", "unshifted"], "lowers"),
    ],
)
def sick_runs(answer: object) -> str | None:
    """A list of four words, each "unshifted", "twice" or "divided": the mistake behind 11.1, 8.8, 1.6 and 0.0002."""
    if isinstance(answer, str) or not isinstance(answer, Sequence) or len(answer) != 4:
        raise Hint('Give a list of four words, each "unshifted", "twice" or "divided".')
    words = [
        choice(word, ["unshifted", "twice", "divided"], f"The word for {run}")
        for word, run in zip(answer, RUNS, strict=True)
    ]
    hints = [
        {
            "twice": "11.1 is above ln V = 10.8, but two tokens ahead a good model still knows more than nothing.",
            "divided": "11.1: dividing by too many places only lowers the loss.",
        },
        {
            "unshifted": "8.8: on the token just read a good model ends up above a uniform guess. This is below.",
            "divided": "8.8 is above 2.5: padding in the denominator can never make it larger.",
        },
        {
            "twice": "1.6 is below the right loss: to look two tokens ahead is harder than one, never easier.",
            "unshifted": "1.6: a good model rarely expects again the token that it has just read; it would pay more.",
        },
        {
            "divided": "0.0002: to divide 2.5 down to that, almost all of the batch would have to be padding.",
            "twice": "0.0002: what comes two ahead stays uncertain, however long one trains. What is certain?",
        },
    ]
    for word, hint in zip(words, hints, strict=True):
        if word in hint:
            return hint[word]
    return None


def _labels(ids: Array, lengths: Array) -> Array:
    inside = np.arange(np.asarray(ids).shape[1]) < np.asarray(lengths)[:, None]
    return np.where(inside, ids, -100)


def _masked_by_id(ids: Array, lengths: Array) -> Array:
    return np.where(ids == ids[0, -1], -100, ids)


def _masked_after_the_first(ids: Array, lengths: Array) -> Array:
    ended = np.cumsum(ids == 0, axis=1) - (ids == 0) > 0
    return np.where(ended, -100, ids)


def _first_of_the_run(ids: Array, lengths: Array) -> Array:
    stop = ids[0, -1]
    run = np.cumprod(ids[:, ::-1] == stop, axis=1)[:, ::-1]
    first = run.argmax(axis=1)[:, None]
    return np.where((run == 1) & (np.arange(ids.shape[1]) > first), -100, ids)


def _one_too_short(ids: Array, lengths: Array) -> Array:
    return np.where(np.arange(ids.shape[1]) < lengths[:, None] - 1, ids, -100)


def _one_too_long(ids: Array, lengths: Array) -> Array:
    return np.where(np.arange(ids.shape[1]) <= lengths[:, None], ids, -100)


def _not_masked(ids: Array, lengths: Array) -> Array:
    return ids.copy()


def _shifted_labels(ids: Array, lengths: Array) -> Array:
    return np.pad(_labels(ids, lengths)[:, 1:], ((0, 0), (0, 1)), constant_values=-100)


def _overwrites(ids: Array, lengths: Array) -> Array:
    ids[np.arange(ids.shape[1]) >= lengths[:, None]] = -100
    return ids


@exercise(
    solution=_labels,
    because="Masked by position: the true end-of-text tokens stay targets, and only the filling is ignored.",
    wrong=[
        (_masked_by_id, "same id"),
        (_masked_after_the_first, "in its middle"),
        (_first_of_the_run, "cut off"),
        (_one_too_short, "last token of each text"),
        (_one_too_long, "one position too far"),
        (_not_masked, "is still a label"),
        (_shifted_labels, "shifts"),
        (_overwrites, "unchanged"),
    ],
)
def labels_with_end(answer: object) -> str | None:
    """A function of ids (B, T) and lengths (B,) that returns the labels: ids where the text is, -100 where padded."""
    ids = np.array([[5, 3, 0, 0, 0, 0], [4, 0, 6, 2, 0, 0], [7, 7, 1, 2, 3, 0], [6, 0, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0]])
    lengths = np.array([3, 5, 6, 2, 4])  # each ends with a 0 of its own but the last; the second has one in its middle
    right = _labels(ids, lengths)
    labels = array(call(answer, ids, lengths), "What your function returns", ids.shape)
    if not close(labels, right):
        padded = np.arange(6) >= lengths[:, None]
        if close(labels, _masked_by_id(ids, lengths)):
            return "Every 0 is gone, the true ends too: they have the same id as the padding. Use the lengths."
        if close(labels, _masked_after_the_first(ids, lengths)):
            return "The second text has an end-of-text token in its middle, and goes on after it. Use the lengths."
        if close(labels, _first_of_the_run(ids, lengths)):
            return "The last text was cut off and has no end of its own; its first 0 is padding. Use the lengths."
        if close(labels, _shifted_labels(ids, lengths)):
            return "Shifted: causal_lm_loss shifts by itself, so the label of a token is the token."
        if close(labels, _one_too_short(ids, lengths)):
            return "The last token of each text is missing: positions 0 to length - 1 belong to it."
        if close(labels, _one_too_long(ids, lengths)):
            return "The mask begins one position too far to the right: position `length` is the first of the padding."
        if not (labels[padded] == -100).all():
            return "Some padding is still a label: position t of row i is padding where t >= lengths[i]."
        return "Labels are the ids themselves wherever t < lengths[i]; compare with a small example by hand."
    mine = ids.copy()
    answer(mine, lengths.copy())  # type: ignore[operator]  # by now it is known to be a function
    if not np.array_equal(mine, ids):
        return "The labels are right, but the ids must stay unchanged: they are the model's input. Copy them first."
    other = np.array([[9, 8], [8, 8]])
    if not close(
        array(call(answer, other, np.array([2, 1])), "What your function returns", (2, 2)), [[9, 8], [8, -100]]
    ):
        return "With another end-of-text id (8 instead of 0), or a batch of another size, the labels are wrong."
    return None


def _text_losses(logits: Array, labels: Array) -> Array:
    z, y = logits[:, :-1], labels[:, 1:]
    counts = y != -100
    shifted = z - z.max(axis=-1, keepdims=True)
    log_q = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_q, np.where(counts, y, 0)[..., None], axis=-1)[..., 0]
    return np.asarray(np.where(counts, -picked, 0).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1))


def _token_losses(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Return each row's loss on the label at the same place, and where it counts."""
    counts = labels != -100
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_q = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_q, np.where(counts, labels, 0)[..., None], axis=-1)[..., 0]
    return np.where(counts, -picked, 0), counts


def _means(losses: Array, counts: Array) -> Array:
    return np.asarray(losses.sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1))


def _unshifted_means(logits: Array, labels: Array) -> Array:
    return _means(*_token_losses(logits, labels))


def _twice_shifted_means(logits: Array, labels: Array) -> Array:
    return _means(*_token_losses(logits[:, :-2], labels[:, 2:]))


def _means_over_places(logits: Array, labels: Array) -> Array:
    return np.asarray(_token_losses(logits[:, :-1], labels[:, 1:])[0].mean(axis=-1))


def _means_over_labels(logits: Array, labels: Array) -> Array:
    losses, _ = _token_losses(logits[:, :-1], labels[:, 1:])
    return np.asarray(losses.sum(axis=-1) / np.maximum((labels != -100).sum(axis=-1), 1))


def _padding_reads_a_class(logits: Array, labels: Array) -> Array:
    z, y = logits[:, :-1], labels[:, 1:]
    shifted = z - z.max(axis=-1, keepdims=True)
    log_q = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(-np.take_along_axis(log_q, np.maximum(y, 0)[..., None], axis=-1)[..., 0].mean(axis=-1))


def _log_of_the_product(logits: Array, labels: Array) -> Array:
    losses, counts = _token_losses(logits[:, :-1], labels[:, 1:])
    return np.asarray(-np.log(np.exp(-losses).prod(axis=-1)) / np.maximum(counts.sum(axis=-1), 1))


def _no_shift_by_the_maximum(logits: Array, labels: Array) -> Array:
    z, y = logits[:, :-1], labels[:, 1:]
    counts = y != -100
    log_q = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    picked = np.take_along_axis(log_q, np.where(counts, y, 0)[..., None], axis=-1)[..., 0]
    return np.asarray(np.where(counts, -picked, 0).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1))


def _one_shift_for_all(logits: Array, labels: Array) -> Array:
    return _no_shift_by_the_maximum(logits - logits.max(), labels)


def _log_of_softmax(logits: Array, labels: Array) -> Array:
    return _clipped_softmax(logits, labels, smallest=0.0)


def _clipped_softmax(logits: Array, labels: Array, smallest: float = 1e-10) -> Array:
    z, y = logits[:, :-1], labels[:, 1:]
    counts = y != -100
    q = np.exp(z - z.max(axis=-1, keepdims=True))
    q /= q.sum(axis=-1, keepdims=True)
    picked = np.take_along_axis(q, np.where(counts, y, 0)[..., None], axis=-1)[..., 0]
    losses = -np.log(np.maximum(picked, smallest))
    return np.asarray(np.where(counts, losses, 0).sum(axis=-1) / np.maximum(counts.sum(axis=-1), 1))


def _zero_by_zero(logits: Array, labels: Array) -> Array:
    losses, counts = _token_losses(logits[:, :-1], labels[:, 1:])
    return np.asarray(losses.sum(axis=-1) / counts.sum(axis=-1))


def _sums_per_text(logits: Array, labels: Array) -> Array:
    return np.asarray(_token_losses(logits[:, :-1], labels[:, 1:])[0].sum(axis=-1))


def _one_for_the_batch(logits: Array, labels: Array) -> float:
    losses, counts = _token_losses(logits[:, :-1], labels[:, 1:])
    return float(losses.sum() / counts.sum())


@exercise(
    solution=_text_losses,
    because="Shifted once, safe at any logit and any length, and each text is divided by its own count.",
    wrong=[
        (_unshifted_means, "token that it has just read"),
        (_twice_shifted_means, "two tokens ahead"),
        (_means_over_places, "places"),
        (_means_over_labels, "first token"),
        (_padding_reads_a_class, "as if it were a token"),
        (_log_of_the_product, "product"),
        (_no_shift_by_the_maximum, "1000 added"),
        (_one_shift_for_all, "its own maximum"),
        (_log_of_softmax, "underflowed"),
        (_clipped_softmax, "cut off"),
        (_zero_by_zero, "nothing counts"),
        (_sums_per_text, "sum"),
        (_one_for_the_batch, "one number per text"),
    ],
)
def text_losses(answer: object) -> str | None:
    """A function of logits (B, T, V) and labels (B, T) that returns the mean next-token loss of each text, (B,)."""
    rng = np.random.default_rng(11)
    logits, labels = rng.normal(size=(3, 6, 5)), rng.integers(5, size=(3, 6))

    def result(z: Array, y: Array) -> Array:
        losses = np.asarray(_plain(call(answer, z, y)), dtype=float)
        if losses.shape != (len(y),):
            raise Hint(f"Return one number per text, shape ({len(y)},) here; this has shape {losses.shape}.")
        return losses

    def gives(wrong: Callable[[Array, Array], Any], z: Array, y: Array, losses: Array) -> bool:
        return close(losses, wrong(z, y), 1e-9)

    full = result(logits, labels)
    if not close(full, _text_losses(logits, labels), 1e-9):
        if gives(_unshifted_means, logits, labels, full):
            return "Each row is scored on the token that it has just read: row t belongs to label t + 1."
        if gives(_twice_shifted_means, logits, labels, full):
            return "Each row is scored two tokens ahead: the shift was made twice."
        if gives(_sums_per_text, logits, labels, full):
            return "These are the sums. The mean of a text divides by how many of its labels count."
        if gives(_means_over_labels, logits, labels, full):
            return "Divided by one too many: the first token of a text is no target, so T tokens give T - 1 losses."
        return (
            "Without any padding it is already wrong: -log_softmax(logits[:, :-1]) at labels[:, 1:], averaged per text."
        )
    padded = labels.copy()
    padded[1, 4:] = padded[2, 2:] = -100
    losses = result(logits, padded)
    if not close(losses, _text_losses(logits, padded), 1e-9):
        if gives(_means_over_places, logits, padded, losses):
            return "With padding the mean still divides by all places of the row; divide by those that count."
        if gives(_padding_reads_a_class, logits, padded, losses):
            return "A label of -100 is looked up and averaged as if it were a token: it should not count at all."
        return "With padded texts it is wrong: a label of -100 adds nothing and is missing from the denominator."
    holes = labels.copy()
    holes[0, 2] = holes[1, 0] = -100  # ignored in the middle, and where no target is
    if not close(result(logits, holes), _text_losses(logits, holes), 1e-9):
        return "A label of -100 may stand anywhere, in the middle of a text too; here it was expected at the end."
    if not close(result(logits + 1000, padded), _text_losses(logits, padded), 1e-9):
        return "With 1000 added to every logit the losses should not change: subtract the maximum of each row first."
    levels = np.linspace(-3000, 3000, 18).reshape(3, 6, 1)
    if not close(result(logits + levels, padded), _text_losses(logits, padded), 1e-6):
        return "Rows at very different heights break it: subtract from each row its own maximum, not one for all rows."
    long_z, long_y = rng.normal(size=(2, 1001, 5)), rng.integers(5, size=(2, 1001))
    if not close(result(long_z, long_y), _text_losses(long_z, long_y), 1e-9):
        return (
            "Texts of a thousand tokens come out wrong: the product of their probabilities underflows. Add logarithms."
        )
    spiked = logits.copy()
    for place, other in ((0, 0), (1, 1), (3, 2)):  # one logit of 1000: at the target, then at two of its rivals
        spiked[0, place, (labels[0, place + 1] + other) % 5] = 1000.0
    losses = result(spiked, padded)
    if not close(losses, _text_losses(spiked, padded), 1e-6):
        if not np.isfinite(losses).all():
            return (
                "A rival's logit of 1000 made it inf or NaN: a probability underflowed before its log. Use log-softmax."
            )
        return (
            "A rival at 1000 makes a loss of 1000, and yours was cut off: a clip cannot count past its own logarithm."
        )
    padded[0, 1:] = -100
    if not close(result(logits, padded), _text_losses(logits, padded), 1e-9):
        return "A text in which nothing counts should have the loss 0; here it is 0 / 0 or worse."
    return None


def _plain(value: object) -> object:
    """Return what a reader's function returned as something NumPy reads, NaN included."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return array(value, "What your function returns")


def _packed(logits: Array, ids: Array, text_of: Array) -> float:
    losses, _ = _token_losses(logits[:-1], ids[1:])
    same = np.asarray(text_of)[1:] == np.asarray(text_of)[:-1]
    return float(np.where(same, losses, 0).sum() / max(int(same.sum()), 1))


def _packed_crossing(logits: Array, ids: Array, text_of: Array) -> float:
    return float(_token_losses(logits[:-1], ids[1:])[0].mean())


def _packed_all_places(logits: Array, ids: Array, text_of: Array) -> float:
    losses, _ = _token_losses(logits[:-1], ids[1:])
    return float(np.where(text_of[1:] == text_of[:-1], losses, 0).mean())


def _packed_last_dropped(logits: Array, ids: Array, text_of: Array) -> float:
    losses, _ = _token_losses(logits[:-1], ids[1:])
    same = text_of[1:] == text_of[:-1]
    ends = np.append(text_of[1:] != text_of[:-1], True)[1:]
    return float(losses[same & ~ends].mean())


def _packed_mean_of_means(logits: Array, ids: Array, text_of: Array) -> float:
    losses, _ = _token_losses(logits[:-1], ids[1:])
    same = text_of[1:] == text_of[:-1]
    return float(np.mean([losses[same & (text_of[1:] == text)].mean() for text in np.unique(text_of[1:][same])]))


def _packed_log_of_softmax(logits: Array, ids: Array, text_of: Array) -> float:
    return _packed_clipped(logits, ids, text_of, smallest=0.0)


def _packed_clipped(logits: Array, ids: Array, text_of: Array, smallest: float = 1e-10) -> float:
    q = np.exp(logits - logits.max(axis=-1, keepdims=True))
    q /= q.sum(axis=-1, keepdims=True)
    losses = -np.log(np.maximum(q[np.arange(len(ids) - 1), ids[1:]], smallest))
    return float(losses[text_of[1:] == text_of[:-1]].mean())


def _packed_one_shift(logits: Array, ids: Array, text_of: Array) -> float:
    z = logits - logits.max()
    losses = np.log(np.exp(z).sum(axis=-1))[:-1] - z[np.arange(len(ids) - 1), ids[1:]]
    return float(losses[text_of[1:] == text_of[:-1]].mean())


def _packed_unshifted(logits: Array, ids: Array, text_of: Array) -> float:
    first = np.concatenate([[True], text_of[1:] != text_of[:-1]])
    return float(_token_losses(logits, ids)[0][~first].mean())


@exercise(
    solution=_packed,
    because="The first token of each packed text is no target; all others are, and the mean is over them.",
    wrong=[
        (_packed_crossing, "end of another text"),
        (_packed_all_places, "denominator"),
        (_packed_last_dropped, "last token"),
        (_packed_mean_of_means, "mean of means"),
        (_packed_unshifted, "just read"),
        (_packed_one_shift, "its own maximum"),
        (_packed_log_of_softmax, "underflowed"),
        (_packed_clipped, "cut off"),
    ],
)
def packed_loss(answer: object) -> str | None:
    """A function of logits (T, V), ids (T,) and text_of (T,) that returns the mean loss over targets within a text."""
    rng = np.random.default_rng(12)
    logits, ids = rng.normal(size=(9, 5)), rng.integers(5, size=9)
    packed = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])

    def result(z: Array, y: Array, text_of: Array) -> float:
        value = np.asarray(_plain(call(answer, z, y, text_of)), dtype=float)
        if value.size != 1:
            raise Hint(f"Return one number for the whole row; this has shape {value.shape}.")
        return float(value.reshape(()))

    loss = result(logits, ids, packed)
    if not close(loss, _packed(logits, ids, packed), 1e-9):
        if close(loss, _packed_crossing(logits, ids, packed), 1e-9):
            return "The first token of a text is scored after the end of another text; leave these targets out."
        if close(loss, _packed_all_places(logits, ids, packed), 1e-9):
            return "The sum is right, but the denominator still counts the targets that were left out."
        if close(loss, _packed_last_dropped(logits, ids, packed), 1e-9):
            return "The last token of each text is missing: it is a target. Only the first has nothing before it."
        if close(loss, _packed_mean_of_means(logits, ids, packed), 1e-9):
            return "That is a mean of means, one per text. Average over all targets of the row alike."
        if close(loss, _packed_unshifted(logits, ids, packed), 1e-9):
            return "The border is right, but each row is scored on the token just read: shift by one."
        return "Row t is scored on id t + 1 where text_of[t + 1] == text_of[t]; average over these targets."
    one = np.zeros(9, dtype=np.int64)
    if not close(result(logits, ids, one), _packed(logits, ids, one), 1e-9):
        return "With a single text in the row all T - 1 targets count; here the result differs."
    numbered = np.array([7, 7, 7, 7, 2, 2, 7, 7, 7])
    if not close(result(logits, ids, numbered), _packed(logits, ids, numbered), 1e-9):
        return "The numbers of the texts are only names: they need not start at 0, rise, or differ from earlier ones."
    if not close(result(logits + 1000, ids, packed), _packed(logits, ids, packed), 1e-9):
        return "With 1000 added to every logit the loss should not change: subtract the maximum of each row first."
    levels = np.linspace(-3000, 3000, 9)[:, None]
    if not close(result(logits + levels, ids, packed), _packed(logits, ids, packed), 1e-6):
        return "Rows at very different heights break it: subtract from each row its own maximum, not one for all rows."
    spiked = logits.copy()
    for place, other in ((0, 0), (1, 1), (7, 2)):  # one logit of 1000: at the target, then at two of its rivals
        spiked[place, (ids[place + 1] + other) % 5] = 1000.0
    loss = result(spiked, ids, packed)
    if not close(loss, _packed(spiked, ids, packed), 1e-6):
        if not np.isfinite(loss):
            return (
                "A rival's logit of 1000 made it inf or NaN: a probability underflowed before its log. Use log-softmax."
            )
        return (
            "A rival at 1000 makes a loss of 1000, and yours was cut off: a clip cannot count past its own logarithm."
        )
    single = np.array([0, 1, 1, 1, 1, 1, 1, 1, 2])
    if not close(result(logits, ids, single), _packed(logits, ids, single), 1e-9):
        return "A text of one token has no target at all; here it spoils the mean."
    return None
