"""The rooms of lmloss: who may import whom, read from the source."""

import ast
from pathlib import Path

import pytest

import lmloss

ROOT = Path(lmloss.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PATHS = ("numpy", "torch")


def module_name(file):
    parts = ("lmloss", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(file) for file in FILES}


def imports(file):
    """Every module that a file imports, wherever in it, relative imports made absolute."""
    found = set()
    package = module_name(file) if file.name == "__init__.py" else module_name(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{a.name}" if f"{source}.{a.name}" in NAMES else source for a in node.names}
    return found


def is_within(name, package):
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("path", PATHS)
def test_neither_path_imports_the_other_nor_a_room_above_it(path):
    other = "torch" if path == "numpy" else "numpy"
    for file in (ROOT / path).rglob("*.py"):
        for name in imports(file):
            assert not is_within(name, f"lmloss.{other}"), (file, name)
            assert not is_within(name, "lmloss.lab"), (file, name)
            assert not is_within(name, "lmloss.conformance"), (file, name)


def test_the_reference_path_needs_numpy_alone():
    import sys

    for file in (ROOT / "numpy").rglob("*.py"):
        for name in imports(file):
            top = name.partition(".")[0]
            assert top in {"numpy", "lmloss"} or top in sys.stdlib_module_names, (file, name)


def test_the_fast_path_does_no_arithmetic_in_numpy():
    for file in (ROOT / "torch").rglob("*.py"):
        assert not any(is_within(name, "numpy") for name in imports(file)), file


def test_the_root_imports_neither_path():
    assert not {name for name in imports(ROOT / "__init__.py") if is_within(name, "lmloss")}


@pytest.mark.parametrize("file", ["_checks.py", "_huffman.py"])
def test_what_both_paths_share_knows_no_framework(file):
    for name in imports(ROOT / file):
        assert name.partition(".")[0] not in {"numpy", "torch", "jax"}, name


@pytest.mark.parametrize("path", PATHS)
def test_the_rows_and_the_reductions_know_nothing_of_the_losses(path):
    public = {module_name(f) for f in (ROOT / path).glob("[!_]*.py")}
    for private in (ROOT / path).glob("_[!_]*.py"):
        assert not imports(private) & public, private


def test_no_import_goes_in_a_circle():
    graph = {module_name(file): imports(file) & NAMES for file in FILES}
    done, trail = set(), []

    def walk(name):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        trail.append(name)
        for below in sorted(graph[name]):
            walk(below)
        done.add(trail.pop())

    for name in sorted(graph):
        walk(name)


def test_both_paths_have_the_same_rooms():
    shared = {"information", "softmax", "cross_entropy", "metrics", "_rows", "_reduce"}
    for path in PATHS:
        assert shared <= {file.stem for file in (ROOT / path).glob("*.py")}
    assert (ROOT / "numpy" / "gradients.py").exists()
    assert (ROOT / "torch" / "modules.py").exists()


def test_no_file_is_a_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    for file in [*FILES, *ROOT.parent.joinpath("tests").rglob("*.py")]:
        assert not drawers & {part.strip("_") for part in file.with_suffix("").parts[len(ROOT.parent.parts) :]}, file
