"""The exercises of the chapter on masked language modelling."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from lmloss.lab.exercises import Hint, array, call, close, exercise, number

Array = npt.NDArray[Any]
Model = Callable[[Array], Array]


@exercise(
    solution=120,
    because="8 x 100 ordinary tokens, each selected with probability 0.15: 120 labels, of which about 96 show a mask.",
    wrong=[
        (153.6, "never selected"),
        (96, "masks the model sees"),
        (1024, "every position"),
        (15, "one sequence"),
        (102, "unselected"),
    ],
)
def mlm_labels(answer: object) -> str | None:
    """One number: how many labels a batch of 8 sequences of 128 tokens, 28 of them special, has on average."""
    labels = number(answer)
    if close(labels, 120, 0.5):
        return None
    if close(labels, 0.15 * 1024, 0.7):
        return "That counts all 1,024 positions, but special tokens and padding are never selected."
    if close(labels, 96, 0.5):
        return "Those are the masks the model sees. A selected token has a label whether it is masked, random or kept."
    if close(labels, 1024, 0.5) or close(labels, 800, 0.5):
        return "That scores every position. Only selected tokens have a label; the rest are -100."
    if close(labels, 15, 0.5):
        return "That is one sequence; the batch has eight."
    if close(labels, 102, 0.5) or close(labels, 680, 0.5):
        return "That counts unselected tokens: 0.15 is the share that is selected."
    return "Count the ordinary tokens of the batch, then take 15 % of them."


@exercise(
    solution=0.0388,
    because="0.85**20 = 0.039: one batch in 26 teaches nothing, and a mean taken by hand is 0 / 0 there.",
    wrong=[
        (0.1969, "both rows"),
        (0.9612, "opposite"),
        (0.15, "one token"),
        (0.0498, "expected number"),
        (0.04, "three decimals"),
        (3.9, "percent"),
    ],
)
def mlm_none(answer: object) -> str | None:
    """One number, to three decimals: the probability that a batch of 2 rows of 10 ordinary tokens has no label."""
    value = number(answer)
    if close(value, 0.85**20, 0.0006):
        return None
    if close(value, 0.85**10, 0.0006):
        return "That is one row. The batch has a label unless both rows have none."
    if close(value, 1 - 0.85**20, 0.0006):
        return "That is the opposite event: at least one label."
    if close(value, 0.15, 1e-6) or close(value, 0.85, 1e-6):
        return "That is about one token. All twenty must go unselected."
    if close(value, np.exp(-3), 0.0006):
        return "That is exp(-3), from the expected number of labels; 20 tokens are too few for this approximation."
    if close(value, 3.9, 0.06):
        return "That is in percent; give the probability itself."
    if close(value, 0.04, 1e-9):
        return "The right way, it seems, but rounded too far: give three decimals."
    return "Each token is left alone with probability 0.85, independently of the others. All twenty must be."


@exercise(
    solution=0.842,
    because="0.05 (0.001 + 0.1) against 0.95 x 0.001: the shown word's odds rise by the factor 1 + U = 101.",
    wrong=[
        (0.05, "as at a mask"),
        (0.5, "forgets the context"),
        (0.833, "draw the word itself"),
        (0.158, "other words"),
        (0.997, "is selected"),
        (0.84, "three decimals"),
        (1.0, "certain"),
    ],
)
def mlm_shown(answer: object) -> str | None:
    """One number, to three decimals: the best model's probability of the word that a selected position shows."""
    value = number(answer)
    shown, rivals = 0.05 * (0.001 + 0.1), 0.95 * 0.001
    if close(value, shown / (shown + rivals), 0.0012):
        return None
    if close(value, 0.05, 0.001):
        return "That is the answer as at a mask. Here the word shown is evidence: it may have been kept."
    if close(value, 0.5, 0.001) or close(value, 0.505, 0.002):
        return (
            "Kept and random are equally frequent, but this forgets the context: how likely is the word by either way?"
        )
    if close(value, 0.005 / 0.006, 0.0015):
        return "Almost: a random draw may draw the word itself, which adds 0.1 / 100 to its weight."
    if close(value, rivals / (shown + rivals), 0.0012):
        return "That is what remains for all the other words."
    if close(value, 1.0, 1e-9):
        return "It is not certain: one word in ten of those selected is a random one."
    everywhere = 0.05 * (0.85 + 0.015 + 0.15 * 0.001)
    if close(value, everywhere / (everywhere + 0.15 * rivals), 0.0012):
        return "That counts unselected positions too. This position is selected: the loss looks at no other."
    if close(value, 0.84, 1e-9):
        return "The right way, it seems, but rounded too far: give three decimals."
    return (
        "Weight each word v by p(v | context) times the probability of seeing zoo if v is the truth: 0.1 / 100, "
        "and 0.1 more if v is zoo. Normalise."
    )


@exercise(
    solution=0.0588,
    because="0.04 of all words are random, and 0.68 of them can be seen as words: 5.9 %, where 15 % gives 1.7 %.",
    wrong=[
        (0.04, "words that can be seen"),
        (0.1, "of the selected"),
        (0.0667, "kept ones"),
        (0.017, "rate of 15"),
        (5.9, "percent"),
        (0.118, "kept words are true"),
        (0.5, "unselected"),
        (0.06, "three decimals"),
    ],
)
def mlm_lies(answer: object) -> str | None:
    """One number, to three decimals: the share of false words among those not masked, at a mask rate of 40 %."""
    value = number(answer)
    if close(value, 0.04 / 0.68, 0.0006):
        return None
    if close(value, 0.04, 0.0006):
        return "That is their share of all words. Of the words that can be seen, the masks are not part."
    if close(value, 0.1, 0.001):
        return "That is the share of the selected words that become random. Most words that can be seen are unselected."
    if close(value, 0.04 / 0.6, 0.0006) or close(value, 0.04 / 0.64, 0.0006):
        return "The words that can be seen are the unselected, the random and the kept ones: 0.6 + 0.04 + 0.04."
    if close(value, 0.015 / 0.88, 0.0006):
        return "That is the answer at a rate of 15 %. Here 40 % are selected."
    if close(value, 5.9, 0.06):
        return "That is in percent; give the share itself."
    if close(value, 0.08 / 0.68, 0.0006):
        return "The kept words are true; only the random ones are false."
    if close(value, 0.5, 1e-6):
        return (
            "That is the share among the selected words that show a word. The model sees the unselected ones as well."
        )
    if close(value, 0.06, 1e-9):
        return "The right way, it seems, but rounded too far: give three decimals."
    return "Divide the share of random words, 0.4 x 0.1, by the share of words that are not hidden, 1 - 0.4 x 0.8."


@exercise(
    solution=1.0,
    because="Each word gives the other away: PLL = 0 and e**0 = 1, while a sentence has probability 1/8.",
    wrong=[
        (8, "without the other"),
        (2.83, "chain rule"),
        (0, "exponential"),
        (2.08, "entropy"),
        (4, "how large is the choice"),
    ],
)
def mlm_echo(answer: object) -> str | None:
    """One number: the pseudo-perplexity, under its exact conditionals, of a language that says one of 8 words twice."""
    value = number(answer)
    if close(value, 1, 1e-6):
        return None
    if close(value, 8, 1e-6):
        return "That is a word's perplexity without the other word. Here the other word is visible, on either side."
    if close(value, 8**0.5, 0.006) or close(value, 0.125, 1e-6):
        return "That is what the chain rule gives. The pseudo-likelihood hides one word at a time and shows the other."
    if close(value, 0, 1e-9):
        return "That is the loss per word; perplexity is its exponential."
    if close(value, np.log(8), 0.006) or close(value, np.log(8) / 2, 0.006):
        return "That is an entropy of the language, in nats. Hide one word at a time, with the other in view."
    return "Hide one word and look at the other: how large is the choice that remains?"


def _wrong_leaves_it_visible(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    log_probs, special = model(np.asarray(ids)), set(special_ids)
    return float(sum(log_probs[t, ids[t]] for t in range(len(ids)) if ids[t] not in special))


def _wrong_hides_all(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    ids = np.asarray(ids)
    ordinary = ~np.isin(ids, list(special_ids))
    log_probs = model(np.where(ordinary, mask_id, ids))
    return float(log_probs[np.flatnonzero(ordinary), ids[ordinary]].sum())


def _wrong_left_only(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    ids, total = np.asarray(ids), 0.0
    for t in np.flatnonzero(~np.isin(ids, list(special_ids))):
        seen = np.append(ids[:t], mask_id)
        total += model(seen)[t, ids[t]]
    return float(total)


def _wrong_scores_specials(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    ids, total = np.asarray(ids), 0.0
    for t in range(len(ids)):
        seen = ids.copy()
        seen[t] = mask_id
        total += model(seen)[t, ids[t]]
    return float(total)


def _wrong_hides_for_good(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    truth, seen, total = np.asarray(ids), np.array(ids), 0.0
    for t in np.flatnonzero(~np.isin(truth, list(special_ids))):
        seen[t] = mask_id
        total += model(seen)[t, truth[t]]
    return float(total)


def _wrong_shifted(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    ids, total = np.asarray(ids), 0.0
    for t in np.flatnonzero(~np.isin(ids, list(special_ids))):
        seen = ids.copy()
        seen[t] = mask_id
        total += model(seen)[t - 1, ids[t]]
    return float(total)


def _wrong_scores_the_mask(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    ids, total = np.asarray(ids), 0.0
    for t in np.flatnonzero(~np.isin(ids, list(special_ids))):
        seen = ids.copy()
        seen[t] = mask_id
        total += model(seen)[t, mask_id]
    return float(total)


def _wrong_mean(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    return pseudo_log_likelihood(model, ids, mask_id, special_ids) / int(np.sum(~np.isin(ids, list(special_ids))))


def pseudo_log_likelihood(model: Model, ids: Array, mask_id: int, special_ids: Iterable[int]) -> float:
    """Return the sum of each ordinary token's log-probability when it alone is hidden: the official solution."""
    ids, total = np.asarray(ids), 0.0
    for t in np.flatnonzero(~np.isin(ids, list(special_ids))):
        seen = ids.copy()
        seen[t] = mask_id
        total += float(model(seen)[t, ids[t]])
    return total


def _reader_model(seen: npt.ArrayLike) -> Array:
    """Return log-probabilities (T, 9) that depend on the position and on everything that is seen."""
    seen = np.asarray(seen)
    places = np.arange(len(seen))
    inputs = np.cos(np.outer(seen + 1.0, np.arange(1, 10)) / 3)
    near = np.exp(-np.abs(places[:, None] - places) / 2) * (1 + 0.3 * (places[:, None] > places))
    logits = near @ inputs + 4.0 * np.eye(9)[seen] * (seen != 8)[:, None]
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))


@exercise(
    solution=pseudo_log_likelihood,
    because="One reading per ordinary token, each with that token alone hidden and both of its sides in view.",
    wrong=[
        (_wrong_leaves_it_visible, "visible"),
        (_wrong_hides_all, "at once"),
        (_wrong_left_only, "right"),
        (_wrong_scores_specials, "special"),
        (_wrong_hides_for_good, "put back"),
        (_wrong_mean, "sum"),
        (_wrong_shifted, "shifted"),
        (_wrong_scores_the_mask, "true id"),
    ],
)
def mlm_pll(answer: object) -> str | None:
    """A function of (model, ids, mask_id, special_ids) that returns the pseudo-log-likelihood, a sum in nats."""
    for ids in ([0, 3, 4, 5, 3, 1, 2, 2], [0, 6, 1], [5, 1, 4, 8, 7, 0, 6], [0, 1, 2]):
        settings: Any = (_reader_model, np.array(ids), 8, (0, 1, 2, 8))
        value = number(call(answer, *settings), "What your function returns")
        right = pseudo_log_likelihood(*settings)
        if close(value, right, 1e-5):  # a sum in float32 is right, too
            continue
        mistakes = {
            _wrong_leaves_it_visible: "The token is visible while you score it: the model may copy it. Hide it first.",
            _wrong_hides_all: "You hide all tokens at once. Hide one, read, score it, and show it again.",
            _wrong_left_only: "The model sees only the left side. Leave what stands to the right in place.",
            _wrong_scores_specials: "You score special tokens too; they are never masked, so they have no score.",
            _wrong_hides_for_good: "A token that was scored stays hidden. It must be put back before the next one.",
            _wrong_mean: "That is the mean over the tokens; the pseudo-log-likelihood is their sum.",
            _wrong_shifted: "You read the row before. Nothing is shifted here: row t speaks about token t.",
            _wrong_scores_the_mask: "That is the probability of the mask itself. Look up the true id.",
        }
        for wrong, hint in mistakes.items():
            if np.any(~np.isin(ids, [0, 1, 2])) and close(value, wrong(*settings), 1e-9):
                return hint
        if close(value, -right, 1e-9):
            return "The sign is turned: a log-likelihood is negative, a loss positive."
        return "For each ordinary token: copy the ids, put the mask there, read, add the true id's log-probability."
    return None


Corrupted = tuple[Array, Array]
_SPECIAL, _MASK, _SIZE = (0, 1, 2, 3), 3, 50


def corrupt(ids: Array, rng: np.random.Generator) -> Corrupted:
    """Corrupt ids as BERT does (ids 0 to 3 special, 3 the mask, V = 50): the official solution."""
    selected = (rng.random(ids.shape) < 0.15) & (ids > 3)
    fate = rng.random(ids.shape)
    seen = np.where(selected & (fate < 0.8), 3, ids)
    drawn = selected & (fate >= 0.8) & (fate < 0.9)
    seen[drawn] = rng.integers(4, 50, size=drawn.sum())
    return seen, np.where(selected, ids, -100)


def _wrong_rest_of_rest(ids: Array, rng: np.random.Generator) -> Corrupted:
    selected = (rng.random(ids.shape) < 0.15) & (ids > 3)
    masked = selected & (rng.random(ids.shape) < 0.8)
    drawn = selected & ~masked & (rng.random(ids.shape) < 0.1)
    seen = np.where(masked, 3, ids)
    seen[drawn] = rng.integers(4, 50, size=drawn.sum())
    return seen, np.where(selected, ids, -100)


def _wrong_pads(ids: Array, rng: np.random.Generator) -> Corrupted:
    selected = rng.random(ids.shape) < 0.15
    fate = rng.random(ids.shape)
    seen = np.where(selected & (fate < 0.8), 3, ids)
    drawn = selected & (fate >= 0.8) & (fate < 0.9)
    seen[drawn] = rng.integers(4, 50, size=drawn.sum())
    return seen, np.where(selected, ids, -100)


def _wrong_draws_specials(ids: Array, rng: np.random.Generator) -> Corrupted:
    selected = (rng.random(ids.shape) < 0.15) & (ids > 3)
    fate = rng.random(ids.shape)
    seen = np.where(selected & (fate < 0.8), 3, ids)
    drawn = selected & (fate >= 0.8) & (fate < 0.9)
    seen[drawn] = rng.integers(0, 50, size=drawn.sum())
    return seen, np.where(selected, ids, -100)


def _wrong_labels_masks_only(ids: Array, rng: np.random.Generator) -> Corrupted:
    seen, _ = corrupt(ids, rng)
    return seen, np.where(seen != ids, ids, -100)


def _wrong_labels_everywhere(ids: Array, rng: np.random.Generator) -> Corrupted:
    return corrupt(ids, rng)[0], ids


def _wrong_one_word_for_all(ids: Array, rng: np.random.Generator) -> Corrupted:
    selected = (rng.random(ids.shape) < 0.15) & (ids > 3)
    fate = rng.random(ids.shape)
    seen = np.where(selected & (fate < 0.8), 3, ids)
    seen[selected & (fate >= 0.8) & (fate < 0.9)] = rng.integers(4, 50)
    return seen, np.where(selected, ids, -100)


def _wrong_leaves_out_the_last(ids: Array, rng: np.random.Generator) -> Corrupted:
    seen, labels = corrupt(ids, rng)
    drawn = (labels != -100) & (seen != ids) & (seen != 3)
    seen[drawn] = rng.integers(4, 49, size=drawn.sum())
    return seen, labels


def _wrong_words_of_the_batch(ids: Array, rng: np.random.Generator) -> Corrupted:
    seen, labels = corrupt(ids, rng)
    drawn = (labels != -100) & (seen != ids) & (seen != 3)
    seen[drawn] = rng.choice(ids[ids > 3], size=drawn.sum())
    return seen, labels


def _wrong_clips(ids: Array, rng: np.random.Generator) -> Corrupted:
    seen, labels = corrupt(ids, rng)
    drawn = (labels != -100) & (seen != ids) & (seen != 3)
    seen[drawn] = np.maximum(4, rng.integers(0, 50, size=drawn.sum()))
    return seen, labels


def _wrong_same_for_every_row(ids: Array, rng: np.random.Generator) -> Corrupted:
    selected = (rng.permutation(ids.shape[1]) < 0.15 * ids.shape[1]) & (ids > 3)
    fate = rng.random(ids.shape)
    seen = np.where(selected & (fate < 0.8), 3, ids)
    drawn = selected & (fate >= 0.8) & (fate < 0.9)
    seen[drawn] = rng.integers(4, 50, size=drawn.sum())
    return seen, np.where(selected, ids, -100)


def _wrong_one_fate_for_a_row(ids: Array, rng: np.random.Generator) -> Corrupted:
    selected = (rng.random(ids.shape) < 0.15) & (ids > 3)
    fate = np.broadcast_to(rng.permutation(len(ids))[:, None] / len(ids), ids.shape)
    seen = np.where(selected & (fate < 0.8), 3, ids)
    drawn = selected & (fate >= 0.8) & (fate < 0.9)
    seen[drawn] = rng.integers(4, 50, size=drawn.sum())
    return seen, np.where(selected, ids, -100)


def _wrong_rng_of_its_own(ids: Array, rng: np.random.Generator) -> Corrupted:
    return corrupt(ids, np.random.default_rng())


def _wrong_seed_of_its_own(ids: Array, rng: np.random.Generator) -> Corrupted:
    return corrupt(ids, np.random.default_rng(0))


@exercise(
    solution=corrupt,
    because="15 % of the ordinary tokens, 80/10/10 of those, labels for all three kinds and -100 for the rest.",
    wrong=[
        (_wrong_rest_of_rest, "a tenth of the selected"),
        (_wrong_pads, "were selected"),
        (_wrong_draws_specials, "drawn"),
        (_wrong_labels_masks_only, "kept"),
        (_wrong_labels_everywhere, "-100"),
        (_wrong_one_word_for_all, "each"),
        (_wrong_leaves_out_the_last, "never drawn"),
        (_wrong_words_of_the_batch, "never drawn"),
        (_wrong_clips, "more often"),
        (_wrong_same_for_every_row, "independently"),
        (_wrong_one_fate_for_a_row, "independently"),
        (_wrong_rng_of_its_own, "comes in"),
        (_wrong_seed_of_its_own, "comes in"),
    ],
)
def mlm_corrupt(answer: object) -> str | None:
    """A function of (ids, rng) that returns (seen, labels), corrupted as BERT does."""
    rng = np.random.default_rng(0)
    ids = rng.integers(4, _SIZE - 4, size=(2_000, 100))  # the last four ids are rare words: none in this batch
    ids[:, 0], ids[:, 70], ids[:, 71:] = 1, 2, 0
    result = call(answer, ids, np.random.default_rng(1))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Hint("Return two arrays, (seen, labels).")
    seen, labels = array(result[0], "seen", ids.shape), array(result[1], "labels", ids.shape)
    ordinary, has_label = ids > 3, labels != -100
    if np.any(has_label & (labels != ids)):
        return "A label is the original id where a token is selected, and -100 everywhere else."
    if np.any(has_label & ~ordinary):
        every = has_label.mean() > 0.9
        return (
            "Every position has a label. Where a token was not selected the label is -100."
            if every
            else "Special tokens (ids 0 to 3, padding among them) were selected; they never are."
        )
    if np.any((seen != ids) & ~has_label):
        return "Some tokens were changed without a label: what is seen differs only where a token was selected."
    n, changed = int(ordinary.sum()), has_label & (seen != ids)
    drawn = changed & (seen != _MASK)
    if np.any(drawn & (seen < 4)) or np.any(seen >= _SIZE):
        return "A special token was drawn as a random word. Random words are ordinary ones, ids 4 to 49."
    share = {"selected": has_label.sum() / n, "masked": (seen == _MASK).sum() / n, "random": drawn.sum() / n}
    if close(share["selected"], share["masked"] + share["random"], 1e-9):
        return "No selected token was kept as it is, or those kept have no label: the 10 % kept are scored too."
    for what, fate in (("is selected", has_label[:, 1:70]), ("becomes a mask", (seen == _MASK)[:, 1:70])):
        mean = fate.mean()
        for axis, most in ((0, 2.5), (1, 1.5)):  # a fixed number in each row is fine; all or none is not
            if fate.sum(axis=axis).var() > most * fate.shape[axis] * mean * (1 - mean):
                return f"Whole rows or columns share the draw of what {what}. Draw independently for each position."
    if not close(share["selected"], 0.15, 0.006):
        return f"{share['selected']:.1%} of the ordinary tokens were selected; wanted are 15 %."
    if not close(share["masked"] / share["selected"], 0.8, 0.016):
        return f"{share['masked'] / share['selected']:.0%} of the selected tokens became the mask; wanted are 80 %."
    if not close(share["random"] / share["selected"], 0.1 * 45 / 46, 0.012):
        return f"{share['random'] / share['selected']:.1%} became random words; wanted is a tenth of the selected."
    times = np.bincount(seen[drawn].astype(int), minlength=_SIZE)[4:]
    if np.count_nonzero(times) < 30:
        return "The random words are all the same one, or few. Draw one for each position."
    if np.any(times == 0):
        return f"Id {4 + int(np.argmin(times))} was never drawn as a random word. Draw from all ordinary ids, 4 to 49."
    if times.max() > 2 * times.mean():
        return f"Id {4 + int(np.argmax(times))} was drawn much more often than the others. Random words are uniform."
    same, other = (call(answer, ids, np.random.default_rng(seed)) for seed in (1, 2))
    if np.array_equal(other[0], seen):
        return "Another rng gave the same masks: draw everything from the rng that comes in."
    if not np.array_equal(same[0], seen):
        return "The same rng gave other masks: draw everything from the rng that comes in, and from no other."
    return None
