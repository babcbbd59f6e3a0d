"""The models that the notebooks train: that they are what they are called, and that training does what it says."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

import lmloss.torch as lt
from lmloss.lab import evaluate, known_language, ngram, results, small_transformer, train
from lmloss.lab.models import SmallTransformer

LANGUAGE = known_language()
TEXT = LANGUAGE.sample(6_000, np.random.default_rng(0))
HELD_OUT = LANGUAGE.sample(3_000, np.random.default_rng(1))


def causal(model, batch):
    return lt.causal_lm_loss(model(batch), batch)


def tiny(**options):
    return small_transformer(28, **{"width": 16, "layers": 1, "heads": 2, "length": 16, **options})


def step(model, count=1, **options):
    return train(model, causal, TEXT, **{"steps": count, "length": 16, "progress": False, **options})


def test_a_unigram_discounts_what_it_has_seen_and_spreads_that_evenly() -> None:
    probs = ngram(1).fit([0, 0, 0, 1, 1, 2], vocab_size=4).next_token_probs([])
    discount = 1 / (1 + 2 * 1)  # one token was seen once, one twice
    left = discount * 3 / 6 / 4
    np.testing.assert_allclose(
        probs, [(3 - discount) / 6 + left, (2 - discount) / 6 + left, (1 - discount) / 6 + left, left]
    )


def test_a_bigram_backs_off_to_how_many_contexts_a_token_continues() -> None:
    text = [0, 1, 0, 1, 0, 1, 2, 3, 0, 3, 1, 3]
    model = ngram(2).fit(text, vocab_size=4)
    grams = set(itertools.pairwise(text))
    counts = {gram: list(itertools.pairwise(text)).count(gram) for gram in grams}
    preceded = np.array([len({a for a, b in grams if b == token}) for token in range(4)])

    def discount(values):
        once, twice = list(values).count(1), list(values).count(2)
        return once / (once + 2 * twice) if once and twice else 0.5

    d1, d2 = discount(preceded), discount(counts.values())
    lower = np.maximum(preceded - d1, 0) / preceded.sum() + d1 * (preceded > 0).sum() / preceded.sum() / 4
    seen = np.array([counts.get((1, token), 0) for token in range(4)])
    want = np.maximum(seen - d2, 0) / seen.sum() + d2 * (seen > 0).sum() / seen.sum() * lower
    np.testing.assert_allclose(model.next_token_probs([0, 1]), want)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_an_ngrams_probabilities_are_a_distribution_after_any_context(order: int) -> None:
    model = ngram(order).fit(TEXT, vocab_size=30)  # two tokens never occur
    for context in ([], TEXT[:1], TEXT[:2], TEXT[:7], [29, 28, 29]):
        probs = model.next_token_probs(context)
        assert probs.min() > 0
        assert abs(probs.sum() - 1) < 1e-12


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_texts_log_probs_are_those_of_its_tokens_one_by_one(order: int) -> None:
    model = ngram(order).fit(TEXT, 28)
    got = model.log_probs(HELD_OUT[:50])
    want = [math.log(model.next_token_probs(HELD_OUT[:t])[HELD_OUT[t]]) for t in range(50)]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_longer_contexts_come_closer_to_the_entropy_rate_and_never_below_it() -> None:
    losses = [-ngram(order).fit(TEXT, 28).log_probs(HELD_OUT).mean() for order in (1, 2, 3)]
    floor = -LANGUAGE.log_probs(HELD_OUT).mean()
    assert losses[0] > losses[1] > losses[2] > floor


@pytest.mark.parametrize("causal_model", [True, False])
def test_a_causal_model_sees_no_future_and_the_other_does(causal_model: bool) -> None:
    model = tiny(causal=causal_model).eval()
    ids = torch.tensor(TEXT[None, :16])
    changed = ids.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 28
    same = (model(ids) == model(changed)).all(-1)[0]
    assert bool(same[:10].all()) is causal_model
    assert not same[10:].any()


def test_a_position_counts() -> None:
    model = tiny().eval()
    logits = model(torch.tensor([[5, 5, 3, 3], [5, 3, 5, 3]]))
    assert not torch.allclose(logits[0, -1], logits[1, -1], atol=1e-6)


def test_the_output_layer_is_the_embedding() -> None:
    model = tiny()
    ids = torch.tensor(TEXT[None, :8])
    model.eval()
    assert torch.equal(model(ids), model.hidden(ids) @ model.embedding.weight.T)
    assert sum(p.numel() for p in model.parameters() if p.shape == (28, 16)) == 28 * 16


def test_before_training_it_knows_nothing() -> None:
    for vocab_size in (28, 1000):
        model = small_transformer(vocab_size)
        ids = np.random.default_rng(0).integers(vocab_size, size=2_000)
        assert abs(evaluate(model, ids) - math.log(vocab_size)) < 0.1


def test_the_same_seed_gives_the_same_model_and_training_and_leaves_pytorchs_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = tiny(), tiny(), tiny(seed=1)
    runs = [step(model, 3).losses for model in (first, second, other)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_step_of_training_is_adamw_on_the_clipped_gradient() -> None:
    model, twin = tiny(dropout=0.0), tiny(dropout=0.0)
    batch = []
    train(
        model,
        lambda m, b: (batch.append(b), causal(m, b))[1],
        TEXT,
        steps=1,
        length=16,
        learning_rate=0.01,
        weight_decay=0.0,
        clip=0.5,
        progress=False,
    )
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.0)
    causal(twin, batch[0]).backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_rate_rises_in_a_line_meets_a_cosine_and_falls_to_a_tenth() -> None:
    model, norms = tiny(dropout=0.0), []

    def flat(model, batch):  # gradients of one size: AdamW then moves each weight by the rate
        return sum(p.sum() for p in model.parameters())

    weight = [model.embedding.weight[0, 0].item()]
    options = {"steps": 20, "weight_decay": 0.0, "clip": None, "learning_rate": 0.01}
    train(
        model,
        flat,
        TEXT,
        length=16,
        progress=False,
        every=1,
        watch=lambda m: weight.append(m.embedding.weight[0, 0].item()),
        **options,
    )
    norms = -np.diff(weight)[1:]
    want = [0.01 * min((s + 1) / 2, 0.55 + 0.45 * math.cos(math.pi * s / 20)) for s in range(20)]
    np.testing.assert_allclose(norms, want, rtol=2e-3)
    assert 0.0095 < max(norms) < 0.01


def test_matrices_decay_and_vectors_do_not() -> None:
    model, before = tiny(), tiny()

    def nothing(model, batch):
        return sum((0 * p).sum() for p in model.parameters())

    train(model, nothing, TEXT, steps=1, length=16, learning_rate=0.01, weight_decay=0.5, progress=False)
    for p, old in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, old * (1 - 0.01 * 0.5) if p.ndim > 1 else old)


def test_training_learns_and_reports_what_was_watched() -> None:
    model = tiny(dropout=0.0)
    history = step(model, 60, learning_rate=1e-2, watch=lambda m: evaluate(m, HELD_OUT, length=16), every=20)
    assert history.losses.shape == (60,)
    assert [done for done, _ in history.watched] == [0, 20, 40, 60]
    values = [value for _, value in history.watched]
    assert values == sorted(values, reverse=True)
    assert values[-1] < LANGUAGE.unigram_entropy < values[0]
    assert not model.training


def test_evaluation_scores_every_token_but_the_first_once() -> None:
    model = tiny().train()
    ids = HELD_OUT[:53]
    total = 0.0
    for start in range(0, 52, 15):
        window = torch.tensor(ids[None, start : start + 16])
        model.eval()
        total += torch.nn.functional.cross_entropy(model(window)[0, :-1], window[0, 1:], reduction="sum").item()
    model.train()
    assert abs(evaluate(model, ids, length=16, batch_size=2) - total / 52) < 1e-6
    assert model.training, "left as it was"
    assert abs(evaluate(model, ids[:46], length=16) - evaluate(model, ids[:46], length=16, batch_size=1)) < 1e-6


def test_generated_tokens_follow_the_models_probabilities() -> None:
    model = tiny()
    step(model, 40, learning_rate=1e-2)
    probs = torch.softmax(model(torch.tensor([[3]]))[0, -1], -1).detach().double().numpy()
    rng = np.random.default_rng(0)
    drawn = np.array([model.generate([3], 1, rng=rng)[-1] for _ in range(2_000)])
    counts, expected = np.bincount(drawn, minlength=28), 2_000 * probs
    rare = expected < 5
    terms = [(counts[~rare] - expected[~rare]) ** 2 / expected[~rare]]
    assert np.concatenate(terms).sum() < (~rare).sum() + 5 * math.sqrt(2 * (~rare).sum())
    text = model.generate([3], 40, rng=rng)  # longer than the model reads at once
    assert text.shape == (41,)
    assert text[0] == 3


def test_a_low_temperature_keeps_the_favourite_and_a_high_one_knows_none() -> None:
    model = tiny()
    step(model, 40, learning_rate=1e-2)
    favourite = model(torch.tensor([[3]]))[0, -1].argmax().item()
    rng = np.random.default_rng(0)
    drawn = [[model.generate([3], 1, temperature=t, rng=rng)[-1] for _ in range(600)] for t in (0.01, 1.0, 1e6)]
    shares = [float(np.mean(np.array(tokens) == favourite)) for tokens in drawn]
    assert shares[0] == 1 > shares[1] + 0.1
    assert abs(shares[2] - 1 / 28) < 0.03
    assert model.generate([3], 1, temperature=1e-320, rng=rng)[-1] == favourite


def test_a_look_leaves_every_module_as_it_was_even_if_it_fails() -> None:
    model = tiny().train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    model.generate([3], 2, rng=np.random.default_rng(0))
    evaluate(model, HELD_OUT[:40], length=16)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="this model reads at most 16"):
        evaluate(model, HELD_OUT, length=17)
    with torch.no_grad():
        model.embedding.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="the model's logits are not finite"):
        model.generate([3], 1, rng=np.random.default_rng(0))
    assert [module.training for module in model.modules()] == before


def test_without_tokens_counted_twice_the_discount_is_a_half() -> None:
    probs = ngram(1).fit([0, 1, 2, 2, 2], vocab_size=4).next_token_probs([])  # twice one, never two
    left = 0.5 * 3 / 5 / 4
    np.testing.assert_allclose(probs, [0.5 / 5 + left, 0.5 / 5 + left, 2.5 / 5 + left, left])


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_a_model_runs_in_half_precision(low: torch.dtype) -> None:
    model, ids = tiny().eval(), torch.tensor(TEXT[None, :16])
    wide = model(ids)
    narrow = model.to(low)(ids)
    assert narrow.dtype == low
    assert (narrow.float() - wide).abs().max() < 0.02 * wide.abs().max()


def test_a_stored_result_says_what_produced_it(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(results, "__file__", f"{tmp_path}/__init__.py")
    path = results.save("trial", {"loss": [1.5, 2.0]}, command="python -m trial", seeds=[0, 1])
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["loss"] == [1.5, 2.0]
    assert stored["produced_by"]["seeds"] == [0, 1]
    assert stored["produced_by"]["torch"] == torch.__version__
    with pytest.raises(ValueError, match="Out of range float"):
        results.save("trial", {"loss": math.nan}, command="", seeds=[])
    with pytest.raises(ValueError, match="measured has a key 'produced_by'"):
        results.save("trial", {"produced_by": "me"}, command="", seeds=[])
    assert json.loads(path.read_text(encoding="utf-8")) == stored, "a refusal leaves what is there"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ngram(0), "order = 0 should be a positive integer"),
        (lambda: ngram(3).fit([0, 1], 2), "ids has 2 tokens, fewer than one n-gram of order 3"),
        (lambda: ngram(2).fit([0, 5], 3), r"ids\[1\] = 5 is outside \[0, 3\)"),
        (lambda: ngram(2).fit(TEXT, 0), "vocab_size = 0 should be a positive integer"),
        (lambda: small_transformer(10, width=12, heads=4), "width = 12 is no multiple of heads = 4"),
        (lambda: small_transformer(10, layers=0), "layers = 0 should be a positive integer"),
        (
            lambda: tiny()(torch.zeros(1, 17, dtype=torch.long)),
            "ids has 17 tokens in a row; this model reads at most 16",
        ),
        (lambda: tiny(causal=False).generate([1], 1, rng=np.random.default_rng(0)), "only a causal model"),
        (lambda: tiny().generate([], 1, rng=np.random.default_rng(0)), "ids is empty"),
        (lambda: tiny().generate([1], 1, temperature=0.0, rng=np.random.default_rng(0)), "temperature = 0.0 should be"),
        (lambda: tiny().generate([1], 0, rng=np.random.default_rng(0)), "n_tokens = 0 should be a positive integer"),
        (lambda: evaluate(tiny(), TEXT, batch_size=0), "batch_size = 0 should be a positive integer"),
        (lambda: ngram(2).fit(TEXT, 28).next_token_probs([99]), r"ids\[0\] = 99 is outside \[0, 28\)"),
        (lambda: evaluate(tiny(), [1]), "ids has 1 tokens"),
        (lambda: evaluate(tiny(), [1, 28]), r"ids\[1\] = 28 is outside \[0, 28\)"),
        (lambda: evaluate(tiny(), TEXT, length=1), "length = 1 leaves a window nothing to predict"),
        (lambda: evaluate(tiny(causal=False), TEXT), "only a causal model predicts the next token"),
        (lambda: step(tiny(), 1, every=0), "every = 0 should be a positive integer"),
        (lambda: step(tiny(), 0), "steps = 0 should be a positive integer"),
        (lambda: results.load("nothing"), "name = 'nothing' is not a stored result"),
    ],
)
def test_a_bad_argument_is_refused_in_one_sentence(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_generation_wants_numpys_generator() -> None:
    with pytest.raises(TypeError, match=r"rng should be a numpy\.random\.Generator, not Generator"):
        tiny().generate([1], 1, rng=torch.Generator())


def test_a_text_of_fractions_is_refused() -> None:
    with pytest.raises(TypeError, match="ids should be one row of integers"):
        evaluate(tiny(), np.array([1.0, 2.0]))


def test_a_model_that_has_counted_nothing_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"call \.fit\(ids, vocab_size\) first"):
        ngram(2).log_probs([0])
    assert isinstance(tiny(), SmallTransformer)
