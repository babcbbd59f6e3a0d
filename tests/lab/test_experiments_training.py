"""The experiment of the chapter on training: its code at toy size, and what its stored result must show."""

import math

import numpy as np
import pytest
import torch

import lmloss.torch as lt
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


def test_overlapping_windows_show_every_token_half_a_window_at_least() -> None:
    model, _ = training.learn(TEXT, {}, steps=1, **TINY)
    losses = training.overlapping_losses(model, HELD_OUT, length=16)
    assert len(losses) == len(HELD_OUT) - 1
    with torch.no_grad():
        for token in (1, 16, 17, 24, 25, 500):  # predicted from the first window that reaches it
            start = max(0, 8 * -(-(token - 16) // 8))
            assert token <= 16 or token - start >= 8
            logits = model(torch.as_tensor(HELD_OUT[None, start:token]))[0, -1]
            expected = lt.cross_entropy(logits, torch.tensor(HELD_OUT[token])).item()
            assert losses[token - 1] == pytest.approx(expected, abs=1e-5)


def test_a_comparison_holds_every_seed_against_the_same_counts() -> None:
    got = training.compare_with_ngrams(TEXT, HELD_OUT, seeds=[3, 4], orders=[1, 2], steps=2, every=1, blocks=3, **TINY)
    assert got["tokens"] == [3_000, 900]
    assert got["ngrams"]["2"]["nll"] == pytest.approx(-ngram(2).fit(TEXT, 28).log_probs(HELD_OUT)[1:].mean(), abs=1e-4)
    assert [run["seed"] for run in got["runs"]] == [3, 4]
    assert got["runs"][0]["held_out"] != got["runs"][1]["held_out"]
    assert all(len(row["blocks"]) == 3 for row in [*got["runs"], *got["ngrams"].values()])
    assert all(np.mean(run["blocks"]) == pytest.approx(run["overlapping"], abs=0.02) for run in got["runs"])


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
        final = [run["overlapping"] for run in stored["ngrams"]["runs"]]
        assert len(final) == 3
        for order in "123":
            assert stored["ngrams"]["ngrams"][order]["nll"] - max(final) > 15 * np.ptp(final)

    def test_windows_that_overlap_cost_less_for_every_seed(self, stored) -> None:
        for run in stored["ngrams"]["runs"]:
            assert run["overlapping"] < run["held_out"][-1] - 0.02

    def test_little_text_is_overfitted_and_all_of_it_is_not(self, stored) -> None:
        for run in stored["overfit"]["few"]:
            new = np.add(run["choose"], run["judge"]) / 2
            assert new[-1] > new.min() + 0.05
        for run in stored["overfit"]["all"]:
            assert run["judge"][-1] == min(run["judge"])

    def test_the_pretrained_model_is_ahead_of_all(self, stored) -> None:
        final = [run["held_out"][-1] for run in stored["ngrams"]["runs"]]
        assert stored["pretrained_bits_per_byte"] < min(final) / math.log(2)
