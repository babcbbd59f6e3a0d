"""The experiment of the chapter on training: its code at toy size, and what its stored result must show."""

import math

import numpy as np
import pytest

from lmloss.lab import evaluate, known_language, ngram, results
from lmloss.lab.experiments import training

LANGUAGE = known_language()
TEXT = LANGUAGE.sample(3_000, np.random.default_rng(0))
HELD_OUT = LANGUAGE.sample(900, np.random.default_rng(1))
TINY = {"width": 16, "layers": 1, "heads": 2, "length": 16, "progress": False, "vocab_size": 28}


def test_a_run_is_watched_on_each_text_from_before_its_first_step_to_after_its_last() -> None:
    model, looks = training.learn(TEXT, {"new": HELD_OUT, "own": TEXT}, steps=5, every=2, **TINY)
    assert looks["steps"] == [0, 2, 4, 5]
    assert len(looks["batches"]) == 5
    assert abs(looks["new"][0] - math.log(28)) < 0.1
    assert looks["new"][-1] == pytest.approx(evaluate(model, HELD_OUT, length=16), abs=1e-4)
    assert looks["own"] != looks["new"]


def test_blocks_of_a_text_are_judged_one_by_one() -> None:
    model, _ = training.learn(TEXT, {}, steps=1, **TINY)
    blocks = training.block_losses(model, HELD_OUT, blocks=3, length=16)
    assert blocks[1] == pytest.approx(evaluate(model, HELD_OUT[300:600], length=16))


def test_a_comparison_holds_every_seed_against_the_same_counts() -> None:
    got = training.compare_with_ngrams(TEXT, HELD_OUT, seeds=[3, 4], orders=[1, 2], steps=2, every=1, blocks=3, **TINY)
    assert got["tokens"] == [3_000, 900]
    assert got["ngrams"]["2"]["nll"] == pytest.approx(-ngram(2).fit(TEXT, 28).log_probs(HELD_OUT)[1:].mean(), abs=1e-4)
    assert [run["seed"] for run in got["runs"]] == [3, 4]
    assert got["runs"][0]["held_out"] != got["runs"][1]["held_out"]
    assert all(len(row["blocks"]) == 3 for row in [*got["runs"], *got["ngrams"].values()])


def test_overfitting_is_watched_on_two_halves_of_the_text_held_out() -> None:
    got = training.overfit(TEXT, HELD_OUT, seeds=[0], few=500, steps=2, every=1, **TINY)
    assert set(got) == {"few", "few, dropout", "all"} | {"few_tokens"}
    for arm in ("few", "few, dropout", "all"):
        assert set(got[arm][0]) == {"seed", "steps", "train", "choose", "judge"}


def test_every_rate_is_tried_with_every_limit_and_seed() -> None:
    rows = training.try_rates(TEXT, HELD_OUT, seeds=[0, 1], rates=[1e-3, 1e-2], clips=[1.0, None], steps=2, **TINY)
    assert len({(row["rate"], row["clip"], row["seed"]) for row in rows}) == len(rows) == 8


class TestTheStoredResult:
    """What the chapter says of it."""

    @pytest.fixture
    def stored(self):
        return results.load("training")

    def test_it_names_its_command_and_three_seeds(self, stored) -> None:
        assert stored["produced_by"]["command"] == training.COMMAND
        assert stored["produced_by"]["seeds"] == list(training.SEEDS)

    def test_every_seed_beats_unigram_bigram_and_trigram_by_many_times_the_spread(self, stored) -> None:
        final = [run["held_out"][-1] for run in stored["ngrams"]["runs"]]
        assert len(final) == 3
        for order in "123":
            assert stored["ngrams"]["ngrams"][order]["nll"] - max(final) > 20 * np.ptp(final)

    def test_little_text_is_overfitted_and_all_of_it_is_not(self, stored) -> None:
        for run in stored["overfit"]["few"]:
            new = np.add(run["choose"], run["judge"]) / 2
            assert new[-1] > new.min() + 0.05
        for run in stored["overfit"]["all"]:
            assert run["judge"][-1] == min(run["judge"])

    def test_the_pretrained_model_is_ahead_of_all(self, stored) -> None:
        final = [run["held_out"][-1] for run in stored["ngrams"]["runs"]]
        assert stored["pretrained_bits_per_byte"] < min(final) / math.log(2)
