"""A small language whose every probability, and so its entropy, is known exactly.

Real text has an entropy that nobody knows. This language has one that can be written down, which gives a chapter the
floor below which no loss can go.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["VOCAB", "KnownLanguage", "known_language"]

VOCAB = ("a", "effort", "every", "forward", "moves", "you", "zoo")
"""The seven words of the book's running example, in the order of their ids."""

# One line per state: what may come next, how often (before the seed varies it), and the state it leads to.
# The full stop leads to START, every other word to a state further down, so there are finitely many sentences.
_GRAMMAR = """
START       every 5 EVERY | a 2 A | the 2 THE | you 1 YOU
EVERY       effort 6 EFFORT | step 2 STEP | child 1 CREATURE | bird 1 CREATURE
A           small 2 SMALL | friend 3 CREATURE | child 2 CREATURE | bird 2 CREATURE
THE         small 2 SMALL | zoo 3 PLACE | river 2 PLACE | bird 2 CREATURE
SMALL       step 4 STEP | effort 2 EFFORT | child 2 CREATURE | bird 2 CREATURE
EFFORT      moves 7 MOVES | brings 2 MOVES | helps 1 HELPS
STEP        moves 4 MOVES | brings 3 MOVES | counts 3 DONE
CREATURE    finds 3 FINDS | helps 3 HELPS | waits 3 DONE | moves 1 MOVES
PLACE       waits 6 DONE | moves 2 MOVES | helps 2 HELPS
YOU         find 4 FIND | wait 3 DONE | help 3 FIND
MOVES       you 7 MOVED | a 1 MOVED_A | the 2 MOVED_THE
MOVED_A     child 3 MOVED | bird 3 MOVED | friend 4 MOVED
MOVED_THE   river 2 MOVED | bird 4 MOVED | zoo 1 MOVED
MOVED       forward 7 DONE | home 2 DONE | closer 1 CLOSER
CLOSER      to 8 NEAR | . 2 START
FIND        a 4 FOUND_A | the 4 FOUND_THE
FINDS       you 2 DONE | a 4 FOUND_A | the 4 FOUND_THE
HELPS       you 6 DONE | a 2 FOUND_A | the 2 FOUND_THE
FOUND_A     friend 5 DONE | river 2 DONE | zoo 1 DONE
FOUND_THE   zoo 4 DONE | river 3 DONE | child 2 DONE
DONE        . 7 START | near 2 NEAR | today 1 END
NEAR        the 7 NEAR_THE | you 3 END
NEAR_THE    zoo 6 END | river 4 END
END         . 1 START
"""


class KnownLanguage:
    """A source of words whose probabilities are known exactly; `known_language` makes one.

    Behind the words walks a Markov chain on a few grammatical states. A word and the state before it fix the next
    state, so whoever has read a full stop always knows the state, and the entropy rate is the mean entropy of the
    next word over the states.

    The text is stationary and endless: a sample is a window on it and may begin in the middle of a sentence.

    Attributes
    ----------
    vocabulary : tuple of str
        The words in the order of their ids: the full stop, then alphabetically.
    entropy_rate : float
        Nats per token that remain uncertain once all earlier tokens are known: no model's mean loss can be lower.
    unigram_entropy : float
        Entropy in nats of one token when nothing is known before it.
    """

    def __init__(self, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed = {seed!r} should be a non-negative integer")
        self.seed = int(seed)
        rules = {
            name: rule.split(" | ") for name, rule in (line.split(None, 1) for line in _GRAMMAR.split("\n") if line)
        }
        states = {name: state for state, name in enumerate(rules)}
        words = {option.split()[0] for rule in rules.values() for option in rule}
        self.vocabulary: tuple[str, ...] = tuple(sorted(words))
        self._ids = {word: token for token, word in enumerate(self.vocabulary)}
        self._next = np.full((len(states), len(words)), -1)
        self._emission = np.zeros((len(states), len(words)))
        rng = np.random.Generator(np.random.PCG64(self.seed))
        for state, rule in enumerate(rules.values()):
            options = [option.split() for option in rule]
            # Only +, *, / and a uniform draw: the same bits on every machine, which logarithms do not promise.
            weights = [float(weight) * (0.75 + 0.5 * rng.random()) for _, weight, _ in options]
            total = math.fsum(weights)
            for (word, _, follower), weight in zip(options, weights, strict=True):
                self._next[state, self._ids[word]] = states[follower]
                self._emission[state, self._ids[word]] = weight / total

    def __repr__(self) -> str:
        return f"known_language(seed={self.seed})"

    @cached_property
    def _stationary(self) -> npt.NDArray[np.float64]:
        """Probability of each state, far into the text."""
        # States stand in the order in which a sentence meets them, so one pass counts the expected visits per sentence.
        visits = [1.0] + [0.0] * (len(self._emission) - 1)
        for state, (probs, followers) in enumerate(zip(self._emission, self._next, strict=True)):
            for token in np.flatnonzero(probs):
                if followers[token] > 0:
                    visits[followers[token]] += visits[state] * float(probs[token])
        return np.array(visits) / math.fsum(visits)

    @cached_property
    def entropy_rate(self) -> float:
        """Nats per token that remain uncertain once all earlier tokens are known."""
        return float(self._stationary @ _entropy(self._emission))

    @cached_property
    def unigram_entropy(self) -> float:
        """Entropy in nats of one token when nothing is known before it."""
        return float(_entropy(self.next_token_probs([])))

    def encode(self, text: str | Iterable[str]) -> npt.NDArray[np.int64]:
        """Return the ids of words: a string is split at its spaces.

        Examples
        --------
        >>> known_language().encode("every effort moves you forward .")
        array([ 8,  7, 16, 26, 11,  0])
        """
        words = text.split() if isinstance(text, str) else list(text)
        return np.array(self._tokens(words, "text"), dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words of ids, with spaces between them.

        Examples
        --------
        >>> known_language().decode([8, 7, 16, 26, 11, 0])
        'every effort moves you forward .'
        """
        return " ".join(self.vocabulary[token] for token in self._tokens(ids, "ids"))

    def sample(self, n_tokens: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the ids of a stretch of text; the same on every machine.

        Parameters
        ----------
        n_tokens : int
            How many tokens.
        rng : numpy.random.Generator
            Where chance comes from; ``n_tokens + 1`` uniform numbers are drawn.

        Returns
        -------
        numpy.ndarray
            The ids, int64, shape (n_tokens,).

        Examples
        --------
        >>> language = known_language()
        >>> language.decode(language.sample(12, np.random.default_rng(1)))
        'you forward today . every step counts . a friend helps the'
        """
        if isinstance(n_tokens, bool) or not isinstance(n_tokens, (int, np.integer)) or n_tokens < 0:
            raise ValueError(f"n_tokens = {n_tokens!r} should be a non-negative integer")
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng = {rng!r} should be a numpy.random.Generator, as np.random.default_rng(0) makes one")
        start, *draws = rng.random(int(n_tokens) + 1).tolist()
        state = bisect_right(self._starts, start)
        ids = np.empty(n_tokens, dtype=np.int64)
        for place, draw in enumerate(draws):
            edges, tokens, followers = self._steps[state]
            chosen = bisect_right(edges, draw)
            ids[place], state = tokens[chosen], followers[chosen]
        return ids

    @cached_property
    def _starts(self) -> list[float]:
        """Where the unit interval is cut so that a uniform number chooses the first state."""
        return list(accumulate(self._stationary.tolist()))[:-1]

    @cached_property
    def _table(self) -> list[dict[int, tuple[float, int]]]:
        """For each state, what may come next: the token, its probability and the state after it."""
        return [
            {token: (float(probs[token]), int(followers[token])) for token in np.flatnonzero(probs).tolist()}
            for probs, followers in zip(self._emission, self._next, strict=True)
        ]

    @cached_property
    def _steps(self) -> list[tuple[list[float], list[int], list[int]]]:
        """For each state the cuts of the unit interval, and the token and the next state of each piece."""
        steps = []
        for options in self._table:
            probs, followers = zip(*options.values(), strict=True)
            steps.append((list(accumulate(probs))[:-1], list(options), list(followers)))
        return steps

    def next_token_probs(self, context: str | Sequence[int] | Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the exact distribution of the next token after a context.

        Parameters
        ----------
        context : str or sequence of int or str
            The tokens so far: ids, words, or a string of words with spaces between them. It may begin in the middle of
            a sentence. Empty, it gives the distribution of a token about which nothing is known.

        Returns
        -------
        numpy.ndarray
            One probability per word of the vocabulary, float64, shape (V,).

        Examples
        --------
        >>> language = known_language()
        >>> probs = language.next_token_probs("every effort moves you")
        >>> {word: round(float(p), 3) for word, p in zip(language.vocabulary, probs) if p > 0}
        {'closer': 0.095, 'forward': 0.75, 'home': 0.155}
        """
        tokens = self._tokens(context.split() if isinstance(context, str) else context, "context")
        last: npt.NDArray[np.float64] = self._predict(*self._follow(tokens, "context"))[-1]
        return last

    def conditionals(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the exact distribution of every token given all before it: row t is ``next_token_probs(ids[:t])``.

        Parameters
        ----------
        ids : sequence of int
            The tokens, shape (T,).

        Returns
        -------
        numpy.ndarray
            Probabilities, float64, shape (T, V).

        Examples
        --------
        >>> language = known_language()
        >>> ids = language.encode("every effort moves you forward .")
        >>> language.conditionals(ids)[range(6), ids].round(2)
        array([0.09, 0.6 , 0.66, 0.66, 0.75, 0.68])
        """
        return self._predict(*self._follow(self._tokens(ids, "ids"), "ids"))[:-1]

    def log_probs(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the log-probability in nats of each token given all tokens before it: shape (T,).

        The mean of its negative along a long sample approaches the entropy rate.

        Examples
        --------
        >>> language = known_language()
        >>> ids = language.sample(100_000, np.random.default_rng(0))
        >>> bool(abs(-language.log_probs(ids).mean() - language.entropy_rate) < 0.01)
        True
        """
        tokens = self._tokens(ids, "ids")
        beliefs, states = self._follow(tokens, "ids")
        unsure = [float((belief @ self._emission)[token]) for belief, token in zip(beliefs, tokens, strict=False)]
        known = self._emission[states[:-1], tokens[len(beliefs) :]]
        log_probs: npt.NDArray[np.float64] = np.log(np.concatenate([unsure, known]))
        return log_probs

    def block_entropy(self, length: int) -> float:
        """Return the exact entropy in nats of `length` tokens in a row, H(X_1, ..., X_length).

        Divided by the length it falls from the unigram entropy towards the entropy rate.

        Examples
        --------
        >>> language = known_language()
        >>> [round(language.block_entropy(n) / n, 2) for n in (1, 2, 3)]
        [2.95, 2.07, 1.72]
        """
        if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 0:
            raise ValueError(f"length = {length!r} should be a non-negative integer")
        known = np.zeros(len(self._emission))  # probability of the beginnings that reveal the state, by state
        unsure = [self._stationary]  # for every other beginning, its probability together with each state
        total = 0.0
        for _ in range(length):
            total += float(known @ _entropy(self._emission))
            advanced = np.zeros_like(known)
            for state, token in np.argwhere(self._next >= 0):
                advanced[self._next[state, token]] += known[state] * self._emission[state, token]
            still_unsure = []
            for joint in unsure:
                mass = joint.sum()
                total += float(mass * _entropy(joint @ self._emission / mass))
                for token in np.flatnonzero(joint @ self._emission):
                    after = self._read(joint, int(token))
                    if np.count_nonzero(after) == 1:
                        advanced += after
                    else:
                        still_unsure.append(after)
            known, unsure = advanced, still_unsure
        return total

    def _follow(self, tokens: list[int], what: str) -> tuple[list[npt.NDArray[np.float64]], list[int]]:
        """Return what is known of the state before each token and after the last.

        First come the distributions of the state, as long as the tokens leave it open; then the states themselves.
        """
        beliefs = [self._stationary]
        states: list[int] = []
        for place, token in enumerate(tokens):
            if states:
                following = self._table[states[-1]].get(token, (0.0, -1))[1]
                possible = [following] if following >= 0 else []
            else:
                joint = self._read(beliefs[-1], token)
                possible = np.flatnonzero(joint).tolist()
            if not possible:
                before = self.decode(tokens[max(0, place - 3) : place])
                raise ValueError(f"{what}[{place}] = {self.vocabulary[token]!r} cannot come after {before!r} here")
            if len(possible) == 1:
                states.append(possible[0])
            else:
                beliefs.append(joint / joint.sum())
        return beliefs, states

    def _predict(self, beliefs: list[npt.NDArray[np.float64]], states: list[int]) -> npt.NDArray[np.float64]:
        """Return the next token's distribution for each belief, then for each state."""
        return np.vstack([np.array(beliefs) @ self._emission, self._emission[states]])

    def _read(self, joint: npt.NDArray[np.float64], token: int) -> npt.NDArray[np.float64]:
        """Return the probability of each state together with reading the token, given those before it."""
        after = np.zeros_like(joint)
        possible = np.flatnonzero(self._next[:, token] >= 0)
        np.add.at(after, self._next[possible, token], joint[possible] * self._emission[possible, token])
        return after

    def _tokens(self, values: Iterable[Any], what: str) -> list[int]:
        """Return ids for words or ids, refusing what the language does not have."""
        size = len(self.vocabulary)
        if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
            outside = np.flatnonzero((values < 0) | (values >= size))
            if len(outside) == 0:
                ids: list[int] = values.tolist()
                return ids
        tokens = []
        for place, value in enumerate(values):
            if isinstance(value, str):
                if value not in self._ids:
                    raise ValueError(f"{what}[{place}] = {value!r} is not a word of this language; see .vocabulary")
                tokens.append(self._ids[value])
                continue
            try:
                token = -1 if isinstance(value, bool) else operator.index(value)
            except TypeError:
                token = -1
            if not 0 <= token < size:
                raise ValueError(f"{what}[{place}] = {value!r} is neither a word nor an id in [0, {size})")
            tokens.append(token)
        return tokens


def _entropy(probs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the entropy in nats of distributions on the last axis."""
    logs = np.log(np.where(probs > 0, probs, 1.0))
    entropy: npt.NDArray[np.float64] = -(probs * logs).sum(axis=-1)
    return entropy


def known_language(seed: int = 0) -> KnownLanguage:
    """Return a small language of everyday words whose every probability is known exactly.

    Parameters
    ----------
    seed : int
        Varies the probabilities by up to a quarter; words and grammar stay the same.

    Returns
    -------
    KnownLanguage
        With ``.sample(n_tokens, rng)``, ``.vocabulary``, ``.entropy_rate``, ``.unigram_entropy``,
        ``.next_token_probs(context)``, ``.log_probs(ids)``, ``.block_entropy(length)``, ``.encode`` and ``.decode``.

    Examples
    --------
    >>> language = known_language()
    >>> len(language.vocabulary), round(language.entropy_rate, 4), round(language.unigram_entropy, 4)
    (28, 0.9191, 2.9471)
    """
    return KnownLanguage(seed)
