import contextlib
import io
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

import notebooks
import repository

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "lib", "shared", "stuff"}
BUILT = {".git", ".venv", "_build", "vendor", "node_modules"}


def make_targets():
    return set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))


def made_by(text):
    """Return the make targets that a text of commands calls."""
    return re.findall(r"(?m)(?:^|[\s;&`])make ([a-z-]+)", text)


def blocks(markdown, language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", markdown)


def strays(root):
    """Return the places that name this repository by another address than _config.yml does."""
    match = repository.ADDRESS.fullmatch(repository.read(root)["url"])
    here, names = (match["owner"].lower(), match["name"]), {match["name"], "lmloss"}
    return [
        f"{path.relative_to(root)}: {owner}/{name}"
        for path in repository.files(root)
        for owner, name in repository.mentions(path)
        if name in names and (owner.lower(), name) != here
    ]


def test_the_repository_is_named_by_one_address_everywhere():
    assert strays(ROOT) == [], "write the address with `make repository URL=...`"


@pytest.mark.parametrize("name", ["README.md", "CITATION.cff", "pyproject.toml"])
def test_a_file_that_leads_to_the_repository_names_its_address(name):
    assert repository.read(ROOT)["url"] in (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture
def small_repository(tmp_path):
    """A repository with the configuration of this one, a page and a notebook."""
    url = repository.read(ROOT)["url"]
    slug = url.removeprefix("https://github.com/")
    owner, name = slug.split("/")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "page.md").write_text(
        f"{url}/issues and git+{url}@main and https://colab.research.google.com/github/{slug}/blob/main/a.ipynb\n"
        f"https://{owner.lower()}.github.io/{name}/ but not https://github.com/numpy/numpy\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f'%pip install -q "git+{url}@main"')])
    nbformat.write(notebook, tmp_path / "a.ipynb")
    (tmp_path / "a.ipynb").write_text(notebooks.normal_text(tmp_path / "a.ipynb"))
    return tmp_path


def test_one_command_writes_a_new_address_everywhere(small_repository):
    changed = repository.write(small_repository, "https://github.com/Some-Body/losses")
    page = (small_repository / "page.md").read_text()
    assert {path.name for path in changed} == {"_config.yml", "page.md", "a.ipynb"}
    assert repository.read(small_repository)["url"] == "https://github.com/Some-Body/losses"
    assert page.count("Some-Body/losses") == 3
    assert "https://some-body.github.io/losses/" in page
    assert "https://github.com/numpy/numpy" in page
    assert strays(small_repository) == []
    path = small_repository / "a.ipynb"
    assert "git+https://github.com/Some-Body/losses@main" in path.read_text()
    assert path.read_text() == notebooks.normal_text(path)


def test_writing_an_address_and_the_old_one_again_changes_nothing(small_repository):
    before = {path: path.read_text() for path in repository.files(small_repository)}
    old = repository.read(small_repository)["url"]
    repository.write(small_repository, "https://github.com/somebody/losses")
    repository.write(small_repository, old)
    assert {path: path.read_text() for path in repository.files(small_repository)} == before


def test_a_stray_address_is_found(small_repository):
    name = repository.read(small_repository)["url"].rpartition("/")[2]
    (small_repository / "page.md").write_text("https://github.com/" + f"somebody-else/{name}")
    assert strays(small_repository) == [f"page.md: somebody-else/{name}"]


@pytest.mark.parametrize(
    "url", ["", "somebody/losses", "https://example.org/somebody/losses", "https://github.com/losses"]
)
def test_an_address_that_is_none_is_refused(small_repository, url):
    with pytest.raises(ValueError, match=r"expected https://github\.com/OWNER/NAME"):
        repository.write(small_repository, url)


def test_the_commands_of_the_readme_are_targets_of_the_makefile():
    commands = made_by(README) + made_by((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert {"book", "test"} <= set(commands) <= make_targets()


def test_continuous_integration_runs_the_commands_of_the_readme():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert made_by(ci) == ["test"]
    runs = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS}
    called = {name: [t for step in steps_of(flow) for t in made_by(step.get("run", ""))] for name, flow in runs.items()}
    assert "test" in called["test"]
    assert "book" in called["pages"]
    assert {target for targets in called.values() for target in targets} <= make_targets()


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_make_test_builds_the_book_strictly_and_runs_every_kind_of_test():
    needs = re.search(r"(?m)^test:([^#\n]*)", MAKEFILE)[1].split()
    assert {"browser", "lint", "types", "unit", "nbval", "book", "site-test"} <= set(needs)
    assert "-W -n --keep-going" in MAKEFILE


def test_ci_is_executable_and_needs_no_input():
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_valid(path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_python_of_the_readme_prints_what_it_says():
    (code,), (printed,) = blocks(README, "python"), blocks(README, "text")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue() == printed


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_a_relative_link_leads_to_a_file(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    local = [t.partition("#")[0] for t in targets if not re.match(r"https?:|mailto:|#", t)]
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_no_file_is_a_drawer_for_odds_and_ends():
    paths = [path for path in ROOT.rglob("*") if not BUILT & set(path.relative_to(ROOT).parts)]
    assert [str(path.relative_to(ROOT)) for path in paths if path.stem.strip("_").lower() in DRAWERS] == []


def test_every_requirement_is_pinned_to_one_version():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)] == []
    names = [re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins]
    assert len(set(names)) == len(names)


def test_every_dependency_of_the_package_is_among_the_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["torch"],
        *project["optional-dependencies"]["book"],
    ]
    pinned = re.findall(r"(?m)^([A-Za-z0-9._-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"))
    assert {re.match(r"[A-Za-z0-9._-]+", name)[0] for name in wanted} <= set(pinned)


def test_the_version_is_the_same_wherever_it_stands():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_citation_follows_its_format():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The lmloss authors"}]
    assert citation["license"] == ["MIT", "CC-BY-4.0"]
