"""The perplexity experiment at toy size: windows that score each token once, gaps with a known answer, its file."""

import numpy as np
import pytest
import torch

import lmloss.torch as lt
from lmloss.lab import bpe_tokenizer, byte_tokenizer, ngram, results, small_transformer, split_text
from lmloss.lab.experiments import perplexity as experiment
from lmloss.lab.text import real_text

MODEL = small_transformer(40, width=16, layers=1, heads=2, length=64).eval()
IDS = torch.from_numpy(np.random.default_rng(0).integers(40, size=45))
TRAIN, HELD_OUT = split_text(real_text())


@pytest.fixture(scope="module")
def windows():
    return experiment.window_losses(MODEL, IDS, length=32, every=4, progress=False)


@pytest.fixture(scope="module")
def questions():
    return experiment.cloze_questions(TRAIN, HELD_OUT, 20, np.random.default_rng(0))


def test_a_window_s_losses_are_those_of_the_tokens_after_its_first(windows):
    assert [len(window) for window in windows[:2] + windows[-1:]] == [32, 32, 4]
    with torch.no_grad():
        expected = lt.causal_lm_loss(MODEL(IDS[None, 8:41]), IDS[None, 8:41], reduction="none")[0]
    np.testing.assert_allclose(windows[2], expected, rtol=1e-5)


@pytest.mark.parametrize(("length", "stride"), [(4, 4), (8, 4), (16, 8), (32, 4), (32, 32)])
def test_each_token_is_scored_once_by_the_first_window_that_reaches_it(windows, length, stride):
    losses, read = experiment.strided_losses(windows, every=4, length=length, stride=stride)
    assert len(losses) == 44
    for token in range(44):
        start = 0 if token < length else stride * -(-(token + 1 - length) // stride)
        assert losses[token] == windows[start // 4][token - start]
    starts = range(0, max(1, 44 - length + stride), stride)
    assert read == sum(min(length, 44 - start) for start in starts)


@pytest.mark.parametrize("stride", [0, 3, 12])
def test_a_stride_that_leaves_gaps_is_refused(windows, stride):
    with pytest.raises(ValueError, match=f"stride = {stride} should be a multiple of every = 4 and at most length = 8"):
        experiment.strided_losses(windows, every=4, length=8, stride=stride)


def test_the_sweep_compares_every_window_with_the_most_thorough_one():
    measured = experiment.measure_windows(MODEL, IDS, lengths=(8, 32), every=4, progress=False)
    assert measured["tokens"] == 44
    rows = {(row["length"], row["stride"]): row for row in measured["rows"]}
    assert set(rows) == {(8, 4), (8, 8), (32, 4), (32, 8), (32, 16), (32, 32)}
    assert rows[32, 4]["excess"] == 0
    assert rows[8, 8]["read_per_token"] == 1
    assert len(measured["context"]) == len(measured["nll_by_context"])


class TestCloze:
    def test_the_first_candidate_is_the_word_that_came(self, questions):
        for context, candidates in questions:
            assert len(context) == 160
            assert context + candidates[0] in HELD_OUT
            assert len(set(candidates)) == 4
            assert len({len(word) for word in candidates}) == 1

    def test_more_questions_than_gaps_are_refused(self):
        with pytest.raises(ValueError, match=r"n = 99999, but the text held out has \d+ questions"):
            experiment.cloze_questions(TRAIN, HELD_OUT, 99_999, np.random.default_rng(0))

    def test_an_ngram_scores_a_word_by_the_sum_over_its_tokens(self, questions):
        tokenizer = byte_tokenizer()
        grams = ngram(3).fit(tokenizer.encode(TRAIN[:20_000]), 256)
        context, candidates = questions[0]
        text = tokenizer.encode(context + candidates[1])
        expected = grams.log_probs(text)[160:].sum()
        assert experiment.ngram_scores(grams, tokenizer, questions[:1])[0, 1] == pytest.approx(expected)

    def test_a_network_s_score_does_not_depend_on_what_shares_its_batch(self, questions):
        bpe = bpe_tokenizer(TRAIN, 300)
        network = small_transformer(300, width=16, layers=1, heads=2, length=96).eval()
        whole, alone = (
            experiment.network_scores(network, bpe.encode, questions, longest=96, batch=batch) for batch in (16, 1)
        )
        np.testing.assert_allclose(whole, alone, rtol=1e-4)
        context, candidates = questions[2]
        before, after = bpe.encode(context), bpe.encode(candidates[3])
        ids = torch.as_tensor(np.append(before, after)[-96:])[None]
        with torch.no_grad():
            losses = lt.causal_lm_loss(network(ids), ids, reduction="none")[0]
        assert whole[2, 3] == pytest.approx(-losses[-len(after) :].sum().item(), rel=1e-4)

    def test_accuracy_counts_the_first_candidate(self):
        assert experiment.accuracy(np.array([[2.0, 1.0], [0.0, 1.0], [3.0, -1.0], [1.0, 0.0]])) == 0.75

    def test_bits_per_byte_of_a_network_come_from_every_token_but_the_first(self):
        bits = experiment.network_bits(lambda ids: torch.zeros(*ids.shape, 256), torch.arange(101), 100, length=7)
        assert bits == pytest.approx(8)

    def test_the_whole_measurement_runs(self):
        measured = experiment.measure_cloze(
            seeds=[0], steps=2, every=2, n_questions=4, model=None, judged_characters=500
        )
        kinds = [point["kind"] for point in measured["points"]]
        assert [kinds.count(kind) for kind in ("bytes", "bpe", "transformer")] == [5, 4, 2]
        assert all(0 <= point["accuracy"] <= 1 for point in measured["points"])


class TestTheStoredResult:
    STORED = results.load("perplexity")

    def test_it_says_what_produced_it(self):
        assert self.STORED["produced_by"]["command"] == experiment.COMMAND
        assert self.STORED["produced_by"]["seeds"] == [0, 1, 2]

    def test_more_context_never_costs_much_and_little_context_costs_a_lot(self):
        rows = {(row["length"], row["stride"]): row for row in self.STORED["windows"]["rows"]}
        assert rows[1024, 1024]["read_per_token"] == 1
        assert rows[32, 32]["nll"] > rows[1024, 1024]["nll"] + 0.5
        for (length, stride), row in rows.items():
            assert row["excess"] > -3 * row["excess_error"] - 0.02
            assert stride == 32 or row["read_per_token"] <= rows[length, stride // 2]["read_per_token"]

    def test_every_family_was_measured(self):
        kinds = {point["kind"] for point in self.STORED["cloze"]["points"]}
        assert kinds == {"bytes", "bpe", "transformer", "smollm2"}
        trained = [point for point in self.STORED["cloze"]["points"] if point.get("steps") == 640]
        assert len(trained) == 3
