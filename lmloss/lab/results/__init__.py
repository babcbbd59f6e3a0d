"""Results of experiments that take longer than a notebook may, stored with what produced them.

Each is one JSON file in this folder, written by the command that it names; `load` reads it in a notebook.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["load", "produced_by", "save"]


def load(name: str) -> dict[str, Any]:
    """Return a stored result: what was measured, with the command, the seeds and the versions that produced it.

    Parameters
    ----------
    name : str
        The file's name without ``.json``.

    Raises
    ------
    ValueError
        If there is no such result.
    """
    folder = files(__name__)
    known = sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))
    if name not in known:
        raise ValueError(f"name = {name!r} is not a stored result; there are {', '.join(known) or 'none'}")
    result: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return result


def produced_by(command: str, seeds: list[int]) -> dict[str, Any]:
    """Return what stands in every stored result beside its numbers: the command, the seeds and the versions."""
    return {
        "command": command,
        "seeds": seeds,
        "python": platform.python_version(),
        **{package: version(package) for package in ("numpy", "torch")},
    }


def save(name: str, measured: dict[str, Any], *, command: str, seeds: list[int]) -> Path:
    """Store what an experiment measured, with the command, the seeds and the versions; return the file's path.

    Parameters
    ----------
    name : str
        The file's name without ``.json``.
    measured : dict
        The numbers: anything that JSON can hold, under names other than ``produced_by``.
    command : str
        What a reader types to get them again.
    seeds : list of int
        The seeds of its runs.
    """
    if "produced_by" in measured:
        raise ValueError("measured has a key 'produced_by', the place of the command, the seeds and the versions")
    path = Path(__file__).parent / f"{name}.json"
    text = json.dumps({"produced_by": produced_by(command, seeds), **measured}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path
