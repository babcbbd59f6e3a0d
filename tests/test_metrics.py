"""The contract of the metrics, in both paths."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracle
from tests.paths import PATHS, assert_close

pytestmark = pytest.mark.filterwarnings("error")

NAN = float("nan")


def number(path, function, *arrays, **options):
    return float(path.call(function, *arrays, **options))


def updated(path, *batches, **options):
    metric = path.module.Perplexity(**options)
    for logits, targets in batches:
        metric.update(path.array(logits, logits.dtype.name), path.array(targets, targets.dtype.name))
    return metric


def batch(seed, *shape, classes=7):
    rng = np.random.default_rng(seed)
    targets = rng.integers(classes, size=shape)
    targets[rng.random(shape) < 0.3] = -100
    return rng.normal(size=(*shape, classes)) * 3, targets


@pytest.mark.parametrize(
    ("nll", "printed"), [(1.0, 2.72), (2.3, 9.97), (3.0, 20.1), (3.5, 33.1), (6.0, 403), (0.0, 1), (math.log(50), 50)]
)
def test_perplexity_is_the_exponential_of_the_mean_loss(path, nll, printed):
    assert f"{number(path, 'perplexity', nll):.3g}" == f"{printed:.3g}"
    assert_close(number(path, "perplexity", np.array(nll)), math.exp(nll))


def test_perplexity_of_an_array_is_element_by_element(path):
    got = path.to_numpy(path.call("perplexity", np.array([0.0, 1.0])))
    assert_close(got, [1.0, math.e])


def test_an_infinite_loss_has_an_infinite_perplexity(path):
    assert number(path, "perplexity", math.inf) == math.inf
    assert number(path, "perplexity", np.array(math.inf)) == math.inf
    assert number(path, "bits_per_byte", math.inf, 3) == math.inf
    assert float(updated(path, (np.array([[-math.inf, 0.0]]), np.array([0]))).compute()) == math.inf


@pytest.mark.parametrize("nll", [-0.5, NAN])
def test_perplexity_of_no_loss_is_refused(path, nll):
    with pytest.raises((ValueError, TypeError), match="mean_nll.*" + str(nll)):
        path.call("perplexity", nll)


def test_bits_per_byte_counts_bits_and_bytes(path):
    assert_close(number(path, "bits_per_byte", np.array(100 * math.log(2)), 50), 2.0)
    assert_close(number(path, "bits_per_byte", np.array(3.6), 3), 1.2 / math.log(2))
    assert number(path, "bits_per_byte", 0.0, 10) == 0


@pytest.mark.parametrize("num_bytes", [0, -3])
def test_a_text_without_bytes_is_refused(path, num_bytes):
    with pytest.raises(ValueError, match=f"num_bytes.*{num_bytes}"):
        path.call("bits_per_byte", 1.0, num_bytes)


def test_a_negative_total_is_refused(path):
    with pytest.raises(ValueError, match="total_nll"):
        path.call("bits_per_byte", -1.0, 10)


# Streaming perplexity


def test_streaming_perplexity_is_exact_whatever_the_batch_sizes(path):
    batches = [batch(1, 5), batch(2, 2, 3), batch(3, 1, 40), batch(4, 4)]
    rows = [oracle.cross_entropy(*b, reduction="none")[0].ravel() for b in batches]
    counted = sum(int((t != -100).sum()) for _, t in batches)
    metric = updated(path, *batches)
    assert_close(float(metric.nll_sum), sum(r.sum() for r in rows))
    assert int(metric.token_count) == counted
    assert_close(float(metric.compute()), math.exp(sum(r.sum() for r in rows) / counted))


def test_the_mean_of_batch_perplexities_is_another_number(path):
    batches = [batch(5, 3), batch(6, 30)]
    means = [float(updated(path, b).compute()) for b in batches]
    assert abs(float(updated(path, *batches).compute()) / np.mean(means) - 1) > 0.01


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_merging_is_updating(seed, cut):
    logits, targets = batch(seed, 10)
    targets[0], targets[9] = 1, 2
    for path in PATHS:
        whole = updated(path, (logits, targets))
        left, right = (updated(path, (logits[s], targets[s])) for s in (slice(None, cut), slice(cut, None)))
        merged = left.merge(right)
        assert isinstance(merged, path.module.Perplexity)
        assert_close(float(merged.compute()), float(whole.compute()))
        assert int(merged.token_count) == int(whole.token_count)


def test_the_result_of_compute_is_a_scalar_of_the_path(path):
    value = updated(path, batch(7, 4)).compute()
    if path.name == "numpy":
        assert isinstance(value, np.float64)
    else:
        assert value.shape == ()


@pytest.mark.parametrize("ignore_index", [-100, 3, None])
def test_streaming_perplexity_ignores_what_it_is_told_to(path, ignore_index):
    logits, targets = np.random.default_rng(8).normal(size=(4, 5)), np.array([3, 1, 3, 0])
    if ignore_index == -100:
        targets[0] = -100
    rows, _ = oracle.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    counted = 4 if ignore_index is None else int((targets != ignore_index).sum())
    metric = updated(path, (logits, targets), ignore_index=ignore_index)
    assert_close(float(metric.compute()), math.exp(rows.sum() / counted))


def test_many_small_batches_in_float32_lose_nothing(path):
    logits, targets = np.zeros((1, 3), dtype=np.float32), np.array([1])
    metric = updated(path, *[(logits, targets)] * 1000)
    assert abs(float(metric.compute()) - 3) < 2e-6


@pytest.mark.parametrize("seen", ["nothing", "ignored tokens only"])
def test_no_token_counted_is_an_error_and_not_a_number(path, seen):
    batches = [] if seen == "nothing" else [(np.zeros((2, 3)), np.array([-100, -100]))]
    with pytest.raises((ValueError, RuntimeError)) as caught:
        updated(path, *batches).compute()
    assert "\n" not in str(caught.value)


def test_a_refused_batch_leaves_the_metric_as_it_was(path):
    metric = updated(path, batch(9, 4))
    before = float(metric.nll_sum), int(metric.token_count)
    with pytest.raises(ValueError, match=r"targets\[1\] = 9 is outside \[0, 3\)"):
        metric.update(path.array(np.zeros((2, 3))), path.array(np.array([0, 9]), "int64"))
    assert (float(metric.nll_sum), int(metric.token_count)) == before


def test_perplexity_of_equal_logits_is_the_number_of_classes(path):
    assert_close(float(updated(path, (np.ones((4, 50)), np.arange(4))).compute()), 50)


# Calibration


def test_a_calibrated_and_an_overconfident_model_by_hand(path):
    # five answers of confidence .8, four of them right; then four of confidence .9 of which two are right
    calibrated = np.tile([0.8, 0.2], (5, 1)), np.array([0, 0, 0, 0, 1])
    assert abs(number(path, "expected_calibration_error", *calibrated)) < 1e-15
    overconfident = np.tile([0.1, 0.9], (4, 1)), np.array([1, 1, 0, 0])
    assert_close(number(path, "expected_calibration_error", *overconfident), 0.4)
    both = [np.concatenate(pair) for pair in zip(calibrated, overconfident, strict=True)]
    assert_close(number(path, "expected_calibration_error", *both), 0.4 * 4 / 9)


def test_the_bins_decide_what_cancels(path):
    # .55 and .95: gaps -.45 (right) and +.95 (wrong) cancel only in one bin
    probs, targets = np.array([[0.55, 0.45], [0.95, 0.05]]), np.array([0, 1])
    assert_close(number(path, "expected_calibration_error", probs, targets, bins=1), 0.25)
    assert_close(number(path, "expected_calibration_error", probs, targets, bins=10), (0.45 + 0.95) / 2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_the_calibration_error_is_the_weighted_mean_gap_of_the_bins(seed, bins):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(4), size=(6, 5))
    targets = rng.integers(4, size=(6, 5))
    confidence, right = probs.max(-1).ravel(), (probs.argmax(-1) == targets).ravel()
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    want = sum(abs((right[index == b] - confidence[index == b]).sum()) for b in range(bins)) / 30
    for path in PATHS:
        assert_close(number(path, "expected_calibration_error", probs, targets, bins=bins), want)


def test_a_certain_and_right_model_is_calibrated_and_a_certain_and_wrong_one_is_not(path):
    probs = np.eye(3)
    assert number(path, "expected_calibration_error", probs, np.arange(3)) == 0
    assert number(path, "expected_calibration_error", probs, np.array([1, 2, 0])) == 1


def test_calibration_refuses_what_is_no_distribution_and_no_class(path):
    probs = np.array([[0.5, 0.5], [0.5, 0.4]])
    with pytest.raises(ValueError, match=r"probs\[1\]"):
        path.call("expected_calibration_error", probs, np.array([0, 1]))
    with pytest.raises(ValueError, match=r"targets\[1\] = 2"):
        path.call("expected_calibration_error", np.full((2, 2), 0.5), np.array([0, 2]))
    with pytest.raises((ValueError, TypeError), match="bins"):
        path.call("expected_calibration_error", np.full((2, 2), 0.5), np.array([0, 1]), bins=0)
    with pytest.raises((ValueError, TypeError), match="targets"):
        path.call("expected_calibration_error", np.full((2, 2), 0.5), np.array([0, 1, 1]))


def test_both_paths_put_a_prediction_on_the_edge_of_a_bin_into_the_same_bin():
    rng = np.random.default_rng(0)
    for _ in range(100):
        top = rng.integers(51, 100, size=20) / 100
        probs = np.stack([top, 1 - top], axis=-1).astype(np.float32)
        targets = rng.integers(0, 2, size=20)
        both = [path.to_numpy(path.call("expected_calibration_error", probs, targets, bins=10)) for path in PATHS]
        assert abs(both[0] - both[1]) < 1e-6
