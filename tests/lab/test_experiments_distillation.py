"""The experiment on distillation at toy size, with a tiny teacher, and what its stored result says."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lmloss.torch as lt
from lmloss.lab import ngram, results
from lmloss.lab.experiments import distillation as experiment
from lmloss.lab.experiments.distillation import SETTINGS, SOFT, Data, Setting

V_TEACHER, WIDTH = 40, 8


class TinyTeacher:
    """What the experiment uses of `SmolLM2`: a token's hidden vector is its embedding plus that of the one before."""

    device = torch.device("cpu")

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(V_TEACHER, WIDTH, generator=generator)
        self.rows = torch.randn(V_TEACHER, WIDTH, generator=generator)
        self.windows = []
        self.model = self

    def __call__(self, window, use_cache):
        assert not use_cache
        self.windows.append(tuple(window.shape))
        hidden = self.embedding[window]
        hidden[:, 1:] += self.embedding[window[:, :-1]]
        return SimpleNamespace(last_hidden_state=hidden)

    def ids(self, text):
        return torch.tensor([ord(letter) % V_TEACHER for letter in text])

    def get_output_embeddings(self):
        return SimpleNamespace(weight=self.rows)


@pytest.fixture
def teacher():
    return TinyTeacher()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return Data(rng.integers(6, size=500), rng.integers(6, size=200), np.array([3, 5, 8, 20, 31, 39]))


@pytest.fixture(scope="module")
def stored():
    return results.load("distillation")


def of(stored, size, lesson, measure="loss"):
    return np.array([run[measure] for run in stored[size]["runs"] if run["lesson"] == lesson])


def test_the_students_ids_stand_for_the_teachers_tokens(teacher, monkeypatch):
    monkeypatch.setattr(experiment, "real_text", lambda: "")
    monkeypatch.setattr(experiment, "split_text", lambda text: ("every effort moves you", "forward"))
    data = experiment.read_data(teacher, (10, 4))
    assert (len(data.train), len(data.held_out)) == (10, 4)
    np.testing.assert_array_equal(data.vocabulary[data.train], teacher.ids("every effo"))
    np.testing.assert_array_equal(data.vocabulary[data.held_out], teacher.ids("forw"))
    assert set(data.train) | set(data.held_out) == set(range(len(data.vocabulary)))


@pytest.mark.parametrize("n", [24, 30, 3])
def test_the_teacher_reads_every_token_once_in_windows(teacher, n):
    ids = np.arange(n) % V_TEACHER
    hidden = experiment.hidden_states(teacher, ids, length=8, batch_size=2, progress=False)
    assert hidden.shape == (n, WIDTH)
    assert sum(rows * length for rows, length in teacher.windows) == n
    alone = experiment.hidden_states(teacher, ids[-(n % 8 or 8) :], length=8, progress=False)
    torch.testing.assert_close(hidden[-len(alone) :], alone)


def test_dropping_logits_conditions_the_teacher_on_the_students_tokens(teacher, data):
    hidden = experiment.hidden_states(teacher, data.vocabulary[data.train], progress=False)
    few = lt.softmax(experiment.teacher_logits(teacher, hidden, data.vocabulary))
    every = lt.softmax(hidden @ teacher.rows.T)[:, data.vocabulary]
    torch.testing.assert_close(few, every / every.sum(-1, keepdim=True))


def test_a_student_is_measured_as_it_is_trained(data):
    logits = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    options = {"steps": 2, "every": 2, "batch_size": 2, "width": 16, "layers": 1, "progress": False}
    student, looks = experiment.learn(data, logits.repeat(3, 1)[:500], SOFT, **options)
    assert [step for step, _ in looks] == [0, 2]
    found = experiment.compare(student, data.held_out, logits)
    kept = torch.as_tensor(data.held_out[:192]).view(-1, 64)
    with torch.no_grad():
        student_logits = student(kept)
    targets = torch.as_tensor(data.held_out[1:193]).view(-1, 64)
    known = logits[:192].view(-1, 64, 6)
    assert found["loss"] == pytest.approx(lt.cross_entropy(student_logits, targets).item(), abs=1e-4)
    divergence = lt.kl_divergence(known.softmax(-1), student_logits.softmax(-1)).mean().item()
    assert found["kl"] == pytest.approx(divergence, abs=1e-4)
    assert found["accuracy"] == pytest.approx((student_logits.argmax(-1) == targets).float().mean().item(), abs=1e-4)


def test_a_teacher_who_knows_the_next_token_teaches_it(data):
    pattern = np.arange(500) % 6
    cyclic = Data(pattern, pattern[:200], data.vocabulary)
    knows = 5.0 * torch.eye(6)[(torch.arange(500) + 1) % 6]
    options = {"steps": 60, "every": 60, "batch_size": 4, "width": 16, "layers": 1, "progress": False}
    soft_only = {"temperature": 1.0, "alpha": 0.0}
    student, _ = experiment.learn(cyclic, knows, soft_only, **options)
    assert experiment.compare(student, cyclic.held_out, knows[:200])["agreement"] > 0.95


def test_the_same_seed_starts_from_the_same_student(data):
    options = {"steps": 1, "every": 1, "batch_size": 2, "width": 16, "layers": 1, "progress": False}
    starts = [
        experiment.learn(data, None, lesson, seed=3, **options)[1][0] for lesson in (None, {"label_smoothing": 0.1})
    ]
    assert starts[0] == starts[1]


def test_every_lesson_of_a_setting_is_measured(data):
    logits = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    options = {"steps": 1, "every": 1, "batch_size": 2, "width": 16, "layers": 1}
    setting = Setting((500, 200), options, SETTINGS["small"].lessons, (0, 1))
    found = experiment.measure(data, logits, logits[:200], setting, progress=False)
    assert [(run["lesson"], run["seed"]) for run in found["runs"]] == [
        (name, seed) for name in setting.lessons for seed in (0, 1)
    ]
    bigram = -ngram(2).fit(data.train, 6).log_probs(data.held_out)[1:].mean()
    assert found["ngrams"]["2"] == pytest.approx(bigram, abs=1e-4)
    targets = torch.as_tensor(data.held_out[1:])
    assert found["teacher"] == pytest.approx(lt.cross_entropy(logits[:199], targets).item(), abs=1e-4)


def test_the_stored_result_has_every_run_once(stored):
    assert stored["produced_by"]["command"] == experiment.COMMAND
    assert stored["produced_by"]["seeds"] == sorted({seed for s in SETTINGS.values() for seed in s.seeds})
    for size, setting in SETTINGS.items():
        runs = [(run["lesson"], run["seed"]) for run in stored[size]["runs"]]
        assert runs == [(name, seed) for name in setting.lessons for seed in setting.seeds]
        assert all(a <= b for a, b in zip(stored[size]["tokens"], setting.tokens, strict=True))
        for run in stored[size]["runs"]:
            assert run["curve"][-1][0] == setting.options.get("steps", 300)
            assert run["curve"][0][1] == pytest.approx(np.log(stored[size]["vocabulary"]), abs=0.1)


def test_with_a_page_of_text_every_soft_lesson_beats_the_text_alone(stored):
    hard = of(stored, "small", "hard")
    for lesson in SETTINGS["small"].lessons:
        if lesson != "hard":
            assert of(stored, "small", lesson).max() < hard.min()
    assert of(stored, "small", "soft").max() < of(stored, "small", "smoothed").min()


def test_the_teacher_is_ahead_of_every_student(stored):
    for size in SETTINGS:
        assert stored[size]["teacher"] < min(run["loss"] for run in stored[size]["runs"]) - 1
