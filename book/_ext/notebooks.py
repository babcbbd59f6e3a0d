"""Execute the book's notebooks and keep them in one normal form.

python book/_ext/notebooks.py execute [FILE ...]    run in fresh kernels, write back in normal form
python book/_ext/notebooks.py normalise [FILE ...]  write back in normal form, outputs as they are
python book/_ext/notebooks.py check [FILE ...]      exit with 1 where a file is not in normal form

Without files: every notebook under book/. The normal form holds what the author wrote and what the code
answered, and nothing that changes from one run, machine or editor to the next; git then shows real changes only.
"""

import argparse
import base64
import binascii
import hashlib
import os
import re
import struct
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

BOOK = Path(__file__).resolve().parents[1]

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
NOTEBOOK_METADATA = {"kernelspec", "language_info", "myst", "mystnb"}
CELL_METADATA = {"jupyter", "mystnb", "tags"}

WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT = 300  # seconds
PROGRESS = re.compile(r"\d+%\||\d+(?:\.\d+)?(?:it|s)/(?:s|it)\b|^\s*$")


def notebook_files():
    """Return every notebook of the book, in reading order of the folders."""
    return sorted(path for path in BOOK.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def tags(cell):
    """Return the tags of a cell."""
    return cell.metadata.get("tags", [])


def normal_outputs(outputs):
    """Return outputs without progress bars and widgets, neighbouring pieces of one stream joined."""
    kept = []
    for output in outputs:
        output = nbformat.from_dict(output)
        if WIDGET in output.get("data", {}):
            continue  # a widget is nothing without its kernel
        if output.output_type == "stream":
            output.text = _shown(output.text)
            if output.name == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not PROGRESS.search(line))
            if not output.text:
                continue
            if kept and kept[-1].output_type == "stream" and kept[-1].name == output.name:
                kept[-1].text += output.text
                continue
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = _plain_png(output.data["image/png"])
        kept.append(output)
    return kept


def normalise(notebook):
    """Bring a notebook into normal form, in place."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata.update(kernelspec=KERNELSPEC, language_info=LANGUAGE)
    _keep(notebook.metadata, NOTEBOOK_METADATA)

    count, ids = 0, set()
    for cell in notebook.cells:
        _keep(cell.metadata, CELL_METADATA)
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
        cell.id = _cell_id(cell, ids)
        if cell.cell_type != "code":
            continue
        if {"remove-cell", "nbval-ignore-output"} <= set(tags(cell)):
            cell.outputs = []  # a live control: only a kernel can draw it
        cell.outputs = normal_outputs(cell.outputs)
        if cell.execution_count is not None:
            count += 1
            cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    return notebook


def normal_text(path):
    """Return what the file would hold in normal form."""
    notebook = nbformat.read(path, as_version=4)
    return nbformat.writes(normalise(notebook)) + "\n"


def execute(path):
    """Run a notebook in a fresh kernel, from its own folder, and write it back in normal form."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        kernel_name=KERNELSPEC["name"],
        timeout=CELL_TIMEOUT,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env={**os.environ, "PYTHONHASHSEED": "0"})
    _write(path, nbformat.writes(normalise(notebook)) + "\n")


def _keep(metadata, names):
    for name in set(metadata) - names:
        del metadata[name]


def _cell_id(cell, taken):
    """Name a cell after its content: the same notebook has the same ids, whatever editor wrote it."""
    digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
    name, copies = digest, 1
    while name in taken:
        copies += 1
        name = f"{digest}-{copies}"
    taken.add(name)
    return name


def _shown(text):
    """Return what a terminal would still show: a carriage return overwrites its line."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


def _plain_png(encoded):
    """Drop a PNG's text and time chunks: they name versions and moments, not the picture."""
    data = base64.b64decode(encoded)
    chunks, place = [data[:8]], 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        end = place + 12 + length
        if kind not in (b"tEXt", b"iTXt", b"zTXt", b"tIME"):
            chunks.append(data[place:end])
        place = end
    return binascii.b2a_base64(b"".join(chunks), newline=False).decode()


def _write(path, text):
    if path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def main(arguments=None):
    """Run one of the three commands; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["execute", "normalise", "check"])
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args(arguments)

    failed = False
    for path in [path.resolve() for path in options.files] or notebook_files():
        if options.command == "execute":
            print(f"executing {path.name}", flush=True)
            try:
                execute(path)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                print(f"{path}: not written, a cell failed\n{error}", file=sys.stderr)
                failed = True
        elif options.command == "normalise":
            _write(path, normal_text(path))
        elif path.read_text(encoding="utf-8") != normal_text(path):
            print(f"{path}: not in normal form; `make notebooks` writes it so", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
