"""The experiment on masked language models at toy size, and what its stored result says."""

import math

import numpy as np
import pytest
import torch

import lmloss.torch as lt
from lmloss.lab import byte_tokenizer, known_language, results, small_transformer
from lmloss.lab.experiments import masked_lm as experiment

SEEDS = [0, 1, 2]
WAYS = ["80/10/10", "100/0/0", "causal", "everywhere", "dynamic", "static"]


class Recorder(torch.nn.Module):
    """Remembers what it is shown and answers with equal logits."""

    def __init__(self, size):
        super().__init__()
        self.size, self.seen = size, []

    def forward(self, ids):
        self.seen.append(ids)
        return torch.zeros(*ids.shape, self.size, requires_grad=True)


@pytest.fixture(scope="module")
def language():
    return known_language()


@pytest.fixture(scope="module")
def stored():
    return results.load("masked_lm")


@pytest.fixture(scope="module")
def model():
    return small_transformer(257, causal=False, width=16, layers=1, length=64, seed=0)


def test_every_batch_is_masked_anew_and_only_what_was_selected_is_scored():
    recorder, batch = Recorder(29), torch.randint(0, 28, (64, 32), generator=torch.Generator().manual_seed(0))
    loss = experiment.masked_batch_loss(28, seed=0)
    assert loss(recorder, batch).item() == pytest.approx(math.log(29), abs=1e-6)
    loss(recorder, batch)
    first, second = recorder.seen
    assert not torch.equal(first, second)
    assert (first == 28).float().mean().item() == pytest.approx(0.12, abs=0.02)


def test_masks_alone_show_no_other_word():
    recorder, batch = Recorder(29), torch.randint(0, 28, (64, 32), generator=torch.Generator().manual_seed(0))
    experiment.masked_batch_loss(28, seed=0, masks_only=True)(recorder, batch)
    seen = recorder.seen[0]
    assert torch.equal(seen[seen != 28], batch[seen != 28])
    assert (seen == 28).float().mean().item() == pytest.approx(0.15, abs=0.02)


def test_labels_everywhere_score_every_position():
    batch = torch.zeros(4, 8, dtype=torch.int64)

    def always_zero(seen):
        return torch.zeros(*seen.shape, 29).index_fill(-1, torch.tensor([0]), 5.0)

    everywhere = experiment.masked_batch_loss(28, seed=0, labels_everywhere=True)(always_zero, batch)
    assert everywhere.item() == pytest.approx(lt.cross_entropy(always_zero(batch), batch).item())


def test_the_letters_of_a_word_share_its_number_and_its_fate():
    ids = torch.from_numpy(byte_tokenizer().encode("Zoo, it's a zoo!"))
    assert experiment.byte_words(ids).tolist() == [1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 10, 10, 11]
    recorder, rows = Recorder(257), ids.repeat(200, 1)
    experiment.masked_batch_loss(256, seed=0, whole_words=True, masks_only=True)(recorder, rows)
    hidden = recorder.seen[0] == 256
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert torch.equal(hidden[:, 1], hidden[:, 2])
    assert hidden[:, 0].any()
    assert not hidden[:, 0].all()


def test_a_mask_that_was_drawn_once_comes_back_as_it_was():
    ids = np.random.default_rng(0).integers(0, 28, size=320)
    drawn = experiment.drawn_once(ids, 28, seed=1)
    seen, labels, _ = lt.mask_tokens(
        torch.from_numpy(ids),
        mask_token_id=28,
        vocab_size=29,
        special_token_ids=[28],
        rng=torch.Generator().manual_seed(1),
    )
    recorder = Recorder(29)
    loss = experiment.read_static(28)(recorder, torch.from_numpy(drawn)[None])
    assert torch.equal(recorder.seen[0][0], seen)
    assert loss.item() == pytest.approx(lt.masked_lm_loss(torch.zeros(320, 29), labels).item())


def test_a_window_has_the_wanted_word_in_its_middle(language):
    windows = experiment.windows_around(language, "every effort moves you forward .", 2, 4, seed=0)
    assert windows.shape == (4, 32)
    for window in windows.tolist():
        assert language.decode(window[13:20]) == ". every effort moves you forward ."
        language.log_probs(window)  # a text of this language
    with pytest.raises(ValueError, match="only 0 times"):
        experiment.windows_around(language, "zoo zoo .", 1, 1, seed=0)


def test_a_letter_is_judged_alone_and_with_its_word(model):
    found = experiment.letter_losses(
        model,
        "some ordinary words of length five or more, several times over. " * 20,
        words=30,
        rng=np.random.default_rng(0),
    )
    assert found["alone"] == pytest.approx(math.log(257), abs=0.7)
    assert found["letters_alone"] == pytest.approx(52 / 257, abs=0.1)
    assert set(found) == {"alone", "letters_alone", "in_hidden_word", "letters_in_hidden_word"}


def test_the_known_language_is_learned_in_six_ways_at_toy_size():
    measured = experiment.measure_known(0, steps=8, tokens=2_048, few=1_024, windows=10, progress=False)
    assert list(measured) == WAYS
    for found in measured.values():
        assert found["steps"] == list(range(9))
        assert found["blank_curve"][-1] == found["blank"]
        assert all(0 < found[name] < 6 for name in ("blank", "kept", "replaced", "masked", "masked_read", "train_loss"))


def test_proofreading_is_watched_at_toy_size(language):
    found = experiment.measure_proofreading(0, steps=4, tokens=2_048, windows=10, progress=False)
    assert found["steps"] == [0, 1, 2, 3, 4]
    for name in ("blank", "kept", "replaced"):
        assert len(found[name]) == 5
    for answer in found["answers"].values():
        assert len(answer) == len(language.vocabulary)
        assert 0.9 < sum(answer) <= 1.01


@pytest.mark.parametrize("whole_words", [False, True])
def test_bytes_are_learned_at_toy_size(whole_words):
    found = experiment.measure_bytes(
        0, whole_words=whole_words, steps=2, batch_size=2, length=32, words=20, progress=False
    )
    assert found["steps"] == [0, 1, 2]
    assert all(4 < value < 7 for value in found["curve"])


def test_the_stored_result_has_every_run_once(stored):
    assert stored["produced_by"]["command"] == experiment.COMMAND
    assert stored["produced_by"]["seeds"] == SEEDS
    assert [list(run) for run in stored["known"]] == [WAYS] * 3
    assert all(run[way]["steps"][-1] == 400 for run in stored["known"] for way in WAYS)
    assert [run["steps"][-1] for run in stored["proofreading"]] == [1600] * 3
    assert [run["steps"][-1] for key in ("runs", "whole_words") for run in stored["bytes"][key]] == [500] * 6


def test_in_the_stored_result_both_sides_beat_the_entropy_rate_and_the_left_side_does_not(stored, language):
    for run in stored["known"]:
        assert run["80/10/10"]["blank"] < language.entropy_rate - 0.2
        assert run["causal"]["blank"] > language.entropy_rate - 0.05


def test_in_the_stored_result_only_masks_teach_only_masks(stored):
    for run in stored["known"]:
        assert run["80/10/10"]["kept"] < 0.5
        assert run["100/0/0"]["kept"] > math.log(28) + 2
        assert abs(run["100/0/0"]["blank"] - run["80/10/10"]["blank"]) < 0.1


def test_in_the_stored_result_proofreading_comes_after_guessing(stored):
    for run in stored["proofreading"]:
        early, late = run["steps"].index(300), -1
        assert run["kept"][early] > 0.6 * run["blank"][early]
        assert run["kept"][late] < 0.6 * run["kept"][early]


def test_in_the_stored_result_static_masks_are_learned_by_heart(stored):
    for run in stored["known"]:
        assert run["static"]["train_loss"] < 0.01
        assert run["static"]["masked_read"] > math.log(28) > 2 * run["dynamic"]["masked_read"]


def test_in_the_stored_result_letters_beat_their_frequencies_beyond_the_spread_between_seeds(stored):
    final = np.array([run["curve"][-1] for run in stored["bytes"]["runs"]])
    assert np.all(final < stored["bytes"]["baselines"]["unigram"] - 3 * np.ptp(final))


def test_in_the_stored_result_each_model_knows_the_masks_it_was_trained_on(stored):
    for bytes_only, whole in zip(stored["bytes"]["runs"], stored["bytes"]["whole_words"], strict=True):
        assert bytes_only["letter"]["alone"] + 1 < bytes_only["letter"]["in_hidden_word"]
        assert whole["letter"]["in_hidden_word"] + 0.8 < bytes_only["letter"]["in_hidden_word"]
        assert whole["letter"]["alone"] > math.log(257)
