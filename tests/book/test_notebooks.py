import base64
import copy
import io
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import notebooks
import repository
from tests.book.prose import code_numbers, prose_numbers

ROOT = Path(__file__).resolve().parents[2]

MAX_LINES_PER_CELL = 30
MAX_UNCOMPARED_CELLS = 3
MIN_EXERCISES = 4

BOOTSTRAP = """\
try:
    import lmloss
except ModuleNotFoundError:
    %pip install -q "lmloss[book] @ git+{url}@{branch}"
"""

ABSOLUTE_PATH = re.compile(r"(?<![\w./:-])/(?:home|root|Users|work|tmp|var|usr|opt|private|content|mnt)/|\b[A-Z]:\\\w")
MEMORY_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")
EXERCISE = re.compile(r"^(?::{3,}|`{3,})\{exercise\}.*\n(?P<options>(?::[\w-]+:.*\n)*)", re.MULTILINE)
SOLUTION = re.compile(r"^(?::{3,}|`{3,})\{solution\}\s*(?P<name>\S+)\s*\n(?P<options>(?::[\w-]+:.*\n)*)", re.MULTILINE)
MARKDOWN_IMAGE = re.compile(r"!\[(?P<alt>[^\]]*)\]\(")


def toc_files():
    """Return the entries of the table of contents, as paths without suffix."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def walk(node):
        if isinstance(node, dict):
            yield from (value for key, value in node.items() if key in ("root", "file"))
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    return list(walk(toc))


def chapter_paths():
    return [path for path in (ROOT / f"{name}.ipynb" for name in toc_files()) if path.exists()]


@dataclass
class Chapter:
    """A notebook of the table of contents."""

    path: Path

    def __post_init__(self):
        self.text = self.path.read_text(encoding="utf-8")
        self.notebook = nbformat.reads(self.text, as_version=4)
        self.code = [cell for cell in self.notebook.cells if cell.cell_type == "code"]
        self.prose = [cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"]

    def where(self, cell):
        """Name a cell in a failure's message."""
        first = cell.source.strip().partition("\n")[0]
        return f"{self.path.name}, cell {self.notebook.cells.index(cell) + 1} ({first[:60]})"


@pytest.fixture(params=chapter_paths(), ids=lambda path: path.stem)
def chapter(request):
    return Chapter(request.param)


def test_the_table_of_contents_names_files_that_exist():
    missing = [name for name in toc_files() if not any((ROOT / f"{name}{end}").exists() for end in (".md", ".ipynb"))]
    assert missing == []


def test_every_notebook_is_in_the_table_of_contents():
    assert set(notebooks.notebook_files()) == set(chapter_paths())


def test_a_notebook_is_in_normal_form(chapter):
    assert chapter.text == notebooks.normal_text(chapter.path), "run `make notebooks`"


def test_a_notebook_is_valid(chapter):
    nbformat.validate(chapter.notebook)


def test_a_notebook_opens_with_one_title(chapter):
    first = chapter.notebook.cells[0]
    titles = re.findall(r"(?m)^# .+", "\n".join(re.sub(r"(?ms)^```.*?^```", "", text) for text in chapter.prose))
    assert first.cell_type == "markdown"
    assert len(titles) == 1
    assert titles[0] in first.source


def test_a_notebook_first_installs_the_package_where_it_is_missing(chapter):
    assert chapter.code[0].source.startswith(BOOTSTRAP.format(**repository.read(ROOT)))


def test_a_notebook_uses_both_paths_on_the_device_at_hand(chapter):
    first = chapter.code[0].source
    for line in ("import lmloss.numpy as ln", "import lmloss.torch as lt", "device = lt.default_device()"):
        assert line in first.split("\n")
    later = "\n".join(cell.source for cell in chapter.code[1:])
    for name in ("ln.", "lt.", "device"):
        assert re.search(rf"\b{re.escape(name)}", later), f"{name} is never used"


def test_a_notebook_was_executed_in_order_without_an_error(chapter):
    counts = [cell.execution_count for cell in chapter.code]
    assert counts == list(range(1, len(counts) + 1))
    errors = [chapter.where(c) for c in chapter.code for output in c.outputs if output.output_type == "error"]
    assert errors == []


def test_a_notebook_warns_of_nothing(chapter):
    warned = [chapter.where(c) for c in chapter.code for output in c.outputs if output.get("name") == "stderr"]
    assert warned == []


def test_a_notebook_holds_nothing_of_the_machine_that_ran_it(chapter):
    texts = [(chapter.where(cell), text) for cell in chapter.notebook.cells for text in texts_of(cell)]
    assert [(where, m[0]) for where, text in texts for m in ABSOLUTE_PATH.finditer(text)] == []
    assert [(where, m[0]) for where, text in texts for m in MEMORY_ADDRESS.finditer(text)] == []


def test_a_notebook_has_exercises_each_with_a_check_and_a_folded_solution(chapter):
    prose = "\n\n".join(chapter.prose)
    exercises = [option(match["options"], "label") for match in EXERCISE.finditer(prose)]
    solutions = {match["name"]: match["options"] for match in SOLUTION.finditer(prose)}

    assert len(exercises) >= MIN_EXERCISES
    assert len(set(exercises)) == len(exercises)
    assert set(exercises) == set(solutions)
    for label in exercises:
        assert label.startswith("ex-")
        assert "dropdown" in option(solutions[label], "class"), f"the solution of {label} is not folded"
        name = label.removeprefix("ex-")
        checks = [
            cell for cell in chapter.code if re.search(rf"""\bcheck\(\s*["']{re.escape(name)}["']""", cell.source)
        ]
        asked = [cell for cell in checks if re.search(r"= \.\.\.", cell.source)]
        solved = [cell for cell in checks if "hide-cell" in notebooks.tags(cell)]
        assert len(asked) == 1, f"{label} needs one cell with `answer = ...` and its check"
        assert len(solved) == 1, f"{label} needs one cell tagged hide-cell that checks the solution"
        assert all(texts_of(cell)[1:] for cell in asked + solved), f"a check of {label} printed nothing"


def test_a_picture_says_in_words_what_one_should_see(chapter):
    for cell in chapter.code:
        if any(mime.startswith("image/") for output in cell.outputs for mime in output.get("data", {})):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) >= 5, f"{chapter.where(cell)}: mystnb.image.alt is {alt!r}"
    for text in chapter.prose:
        assert all(match["alt"].strip() for match in MARKDOWN_IMAGE.finditer(text))


def test_a_notebook_has_a_live_control_that_the_static_page_leaves_out(chapter):
    controls = [c for c in chapter.code if re.search(r"\binteract(?:ive|_manual)?\b|\bwidgets\.", c.source)]
    live = [c for c in controls if {"remove-cell", "nbval-ignore-output"} <= set(notebooks.tags(c))]
    assert live, "no cell with an ipywidgets control is tagged remove-cell and nbval-ignore-output"


def test_few_outputs_of_a_notebook_go_uncompared(chapter):
    uncompared = [chapter.where(c) for c in chapter.code if uncompared_tag(c)]
    assert len(uncompared) <= MAX_UNCOMPARED_CELLS, uncompared


def test_a_notebook_asserts_what_it_claims(chapter):
    assert sum(len(re.findall(r"(?m)^\s*(?:assert\b|\w*\.?assert_\w+\()", cell.source)) for cell in chapter.code) >= 3


def test_no_cell_of_a_notebook_is_long(chapter):
    long = [chapter.where(cell) for cell in chapter.code if len(cell.source.split("\n")) > MAX_LINES_PER_CELL]
    assert long == []


def test_every_decimal_number_in_a_notebooks_prose_is_shown_by_its_code(chapter):
    shown = [number for cell in chapter.code for number in code_numbers(cell.source, cell.outputs)]
    captions = [cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "") for cell in chapter.code]
    unbound = [
        f"{number.text.strip()} in “{text.strip().partition(chr(10))[0][:60]}”"
        for text in chapter.prose + captions
        for number in prose_numbers(text)
        if not any(number.is_shown_by(candidate) for candidate in shown)
    ]
    assert not unbound, "no cell prints or asserts " + "; ".join(unbound)


def texts_of(cell):
    """Return a cell's source and the texts it put out."""
    texts = [cell.source]
    for output in cell.get("outputs", []):
        texts.append(output.get("text", ""))
        texts += [value for mime, value in output.get("data", {}).items() if mime.startswith("text/")]
    return [text for text in texts if text]


def option(options, name):
    """Return the value of a directive's option, empty where it is not given."""
    match = re.search(rf"(?m)^:{name}:\s*(.*?)\s*$", options)
    return match[1] if match else ""


def uncompared_tag(cell):
    """Tell whether nbval does not compare or does not run a cell."""
    markers = r"(?i)#\s*(?:NBVAL_IGNORE_OUTPUT|NBVAL_SKIP|PYTEST_VALIDATE_IGNORE_OUTPUT)"
    return {"nbval-ignore-output", "nbval-skip"} & set(notebooks.tags(cell)) or re.search(markers, cell.source)


class TestTheNormalForm:
    """What normalising keeps, and what it takes out."""

    @pytest.fixture
    def notebook(self):
        code = nbformat.v4.new_code_cell
        cells = [
            nbformat.v4.new_markdown_cell("# Title  \n"),
            code("1 + 1", execution_count=7),
            code("1 + 1", execution_count=9),
            code("interact(f)", execution_count=11),
        ]
        cells[1].outputs = [
            nbformat.v4.new_output(
                "stream", name="stderr", text="\r 10%|#  | 1/9\r100%|###| 9/9 [00:01<00:00, 9.00it/s]\n"
            ),
            nbformat.v4.new_output("stream", name="stdout", text="a"),
            nbformat.v4.new_output("stream", name="stdout", text="b\n"),
            nbformat.v4.new_output("execute_result", data={"text/plain": "2"}, execution_count=7),
        ]
        cells[1].metadata = nbformat.from_dict(
            {"tags": ["real-text"], "execution": {"iopub.status.idle": "now"}, "collapsed": True}
        )
        cells[3].metadata = nbformat.from_dict({"tags": ["remove-cell", "nbval-ignore-output"]})
        cells[3].outputs = [nbformat.v4.new_output("display_data", data={"text/plain": "interactive()"})]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata = nbformat.from_dict({"widgets": {}, "language_info": {"version": "3.0"}, "colab": {}})
        return notebook

    def test_progress_bars_go_and_pieces_of_a_stream_are_joined(self, notebook):
        outputs = notebooks.normalise(notebook).cells[1].outputs
        assert [output.get("text") for output in outputs] == ["ab\n", None]

    def test_a_warning_stays(self):
        warning = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: 3 of 4\n")
        assert notebooks.normal_outputs([warning])[0].text == "UserWarning: 3 of 4\n"

    def test_counts_run_from_one(self, notebook):
        cells = notebooks.normalise(notebook).cells
        assert [cell.execution_count for cell in cells[1:]] == [1, 2, 3]
        assert cells[1].outputs[-1].execution_count == 1

    def test_only_metadata_that_an_author_writes_stays(self, notebook):
        notebooks.normalise(notebook)
        assert notebook.cells[1].metadata == {"tags": ["real-text"]}
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        assert "version" not in notebook.metadata.language_info

    def test_a_live_control_keeps_no_output(self, notebook):
        assert notebooks.normalise(notebook).cells[3].outputs == []

    def test_names_of_cells_follow_from_their_content_and_are_unique(self, notebook):
        other = copy.deepcopy(notebook)
        for number, cell in enumerate(other.cells):
            cell.id = f"random-{number}"
        ids = [cell.id for cell in notebooks.normalise(notebook).cells]
        assert ids == [cell.id for cell in notebooks.normalise(other).cells]
        assert len(set(ids)) == len(ids)

    def test_normalising_twice_changes_nothing(self, notebook):
        once = nbformat.writes(notebooks.normalise(notebook))
        assert nbformat.writes(notebooks.normalise(notebook)) == once

    def test_a_picture_keeps_its_pixels_and_loses_its_notes(self):
        notes, plain, noted = PngInfo(), io.BytesIO(), io.BytesIO()
        notes.add_text("Software", "somebody's version")
        picture = Image.new("RGB", (4, 4), "red")
        picture.save(plain, "png")
        picture.save(noted, "png", pnginfo=notes)
        outputs = [
            nbformat.v4.new_output("display_data", data={"image/png": base64.b64encode(stream.getvalue()).decode()})
            for stream in (plain, noted)
        ]
        first, second = notebooks.normal_outputs(outputs)
        assert first.data == second.data

    def test_a_notebook_whose_cell_fails_is_left_as_it_was(self, tmp_path, capsys):
        path = tmp_path / "fails.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), path)
        before = path.read_text()
        assert notebooks.main(["execute", str(path)]) == 1
        assert "ZeroDivisionError" in capsys.readouterr().err
        assert path.read_text() == before
