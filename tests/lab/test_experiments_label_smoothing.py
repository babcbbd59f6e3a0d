"""The experiment on label smoothing at toy size, and what its stored result says."""

import numpy as np
import pytest
import torch

import lmloss.torch as lt
from lmloss.lab import results
from lmloss.lab.experiments import label_smoothing as experiment


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return experiment.Data(rng.integers(97, 101, size=2_000), rng.integers(97, 101, size=600))


@pytest.fixture(scope="module")
def stored():
    return results.load("label_smoothing")


def drawn(temperature, n=20_000, classes=6):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(n, classes))
    targets = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(-1)
    return torch.tensor(logits), torch.tensor(targets)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_fitted_temperature_is_the_one_that_the_targets_were_drawn_at(temperature):
    assert experiment.fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_the_slope_of_the_loss_is_zero_at_the_fitted_temperature():
    logits, targets = drawn(2.5, n=500)
    best = experiment.fit_temperature(logits, targets)
    losses = [lt.cross_entropy(logits / tau, targets).item() for tau in (0.99 * best, best, 1.01 * best)]
    assert losses[1] == min(losses)


def test_the_bins_of_reliability_add_up_to_the_calibration_error():
    logits, targets = drawn(2.0, n=1_000)
    probs = logits.softmax(-1)
    count, sure, right = experiment.reliability(probs, targets, bins=10).T
    assert count.sum() == 1_000
    ece = (count * np.abs(right - sure)).sum() / 1_000
    assert ece == pytest.approx(lt.expected_calibration_error(probs, targets, bins=10).item(), abs=1e-9)


def test_scaling_and_sharpening_mend_what_was_done_to_calibrated_predictions():
    logits, targets = drawn(1.0)
    overconfident = experiment.measure(2 * logits, targets)
    assert overconfident["ece"] > 0.05 > 0.02 > overconfident["scaled_ece"]
    assert overconfident["temperature"] == pytest.approx(2, rel=0.05)
    smoothed = (0.8 * logits.softmax(-1) + 0.2 / 6).log()
    timid = experiment.measure(smoothed, targets, label_smoothing=0.2)
    assert timid["ece"] == pytest.approx(0.2 * (timid["accuracy"] - 1 / 6), abs=0.01)
    assert timid["sharpened_ece"] < 0.02


def test_a_model_and_its_student_are_trained_and_measured(data):
    situation = experiment.Situation(share=0.5, steps=3)
    teacher, losses = experiment.fit_to(data, situation, label_smoothing=0.1, seed=0, width=16, layers=1)
    assert losses.shape == (3,)
    logits, targets = experiment.held_out_logits(teacher, data.held_out)
    windows = (len(data.held_out) - experiment.LENGTH) // (experiment.LENGTH - 1) + 1
    assert logits.shape == (windows * (experiment.LENGTH - 1), 256)
    np.testing.assert_array_equal(targets.numpy(), data.held_out[1 : len(targets) + 1])
    for lesson in (None, teacher):
        student = experiment.distil(data, lesson, temperature=2.0, steps=2, seed=0)
        assert 3 < experiment.measure(*experiment.held_out_logits(student, data.held_out))["loss"] < 7


def test_a_student_does_not_change_its_teacher(data):
    teacher, _ = experiment.fit_to(
        data, experiment.Situation(share=0.5, steps=2), label_smoothing=0.0, seed=0, width=16, layers=1
    )
    before = [parameter.clone() for parameter in teacher.parameters()]
    experiment.distil(data, teacher, steps=2, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_the_stored_result_has_every_run_once(stored):
    assert stored["produced_by"]["command"] == "python -m lmloss.lab.experiments.label_smoothing"
    assert stored["produced_by"]["seeds"] == experiment.SEEDS
    models = {(run["situation"], run["label_smoothing"], run["seed"]) for run in stored["models"]}
    wanted = [
        (name, eps, seed) for name in experiment.SITUATIONS for eps in experiment.EPSILONS for seed in experiment.SEEDS
    ]
    assert models == set(wanted)
    assert len(stored["models"]) == len(wanted)
    lessons = [(None, 1.0), *((eps, tau) for eps in experiment.EPSILONS for tau in experiment.TEMPERATURES)]
    students = [(run["teacher"], run["temperature_of_lesson"], run["seed"]) for run in stored["students"]]
    assert sorted(map(str, students)) == sorted(str((*lesson, seed)) for lesson in lessons for seed in experiment.SEEDS)


def test_the_stored_calibration_errors_follow_from_the_stored_bins(stored):
    for run in stored["models"] + stored["students"]:
        count, sure, right = np.array(run["reliability"]).T
        assert (count * np.abs(right - sure)).sum() / count.sum() == pytest.approx(run["ece"], abs=1e-4)
        assert (count * right).sum() / count.sum() == pytest.approx(run["accuracy"], abs=1e-4)
