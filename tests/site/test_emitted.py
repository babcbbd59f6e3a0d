"""What the build emitted, read without a browser."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from selfcontained import BROKEN_FORMULA, loaded_by_css, loaded_from_elsewhere
from tests.site.pages import ROOT, documents, notebooks

LARGEST_SCRIPT = 300_000
SCRIPTS_OF_THE_THEME = {"bootstrap.js", "pydata-sphinx-theme.js", "sphinx-book-theme.js"}


def pages(site: Path) -> list[Path]:
    """Every emitted page."""
    return sorted(page for page in site.rglob("*.html") if "_static" not in page.parts)


def test_every_document_of_the_contents_has_a_page_and_no_other_has(site: Path) -> None:
    built = {str(page.relative_to(site).with_suffix("")) for page in (site / "book").rglob("*.html")}
    assert built == set(documents())


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    found = {str(page): loaded_from_elsewhere(page.read_text()) for page in pages(site)}
    assert {page: addresses for page, addresses in found.items() if addresses} == {}


def test_no_stylesheet_loads_anything_from_another_host(site: Path) -> None:
    found = {str(sheet): loaded_by_css(sheet.read_text()) for sheet in site.rglob("*.css")}
    assert {sheet: addresses for sheet, addresses in found.items() if addresses} == {}


def test_no_page_carries_widgets_their_loader_or_thebe(site: Path) -> None:
    for page in pages(site):
        text = page.read_text().lower()
        for word in ("widget-state+json", "widget-view+json", "require.js", "embed-amd", "unpkg.com", "mathjax.js"):
            assert word not in text, f"{page} holds {word}"


def test_no_script_of_ours_or_of_a_library_is_heavy(site: Path) -> None:
    heavy = {
        script.name: script.stat().st_size
        for script in site.rglob("*.js")
        if script.stat().st_size > LARGEST_SCRIPT and script.name not in SCRIPTS_OF_THE_THEME
    }
    assert heavy == {}


def test_the_themes_icon_script_is_gone_and_its_icon_font_is_there(site: Path) -> None:
    assert not list(site.rglob("fontawesome.js"))
    assert not any("fontawesome.js" in page.read_text() for page in pages(site))
    assert list(site.rglob("fa-solid-900.woff2"))


def test_katex_rendered_every_formula(site: Path) -> None:
    found = {str(page): BROKEN_FORMULA.findall(page.read_text()) for page in pages(site)}
    assert {page: formulas for page, formulas in found.items() if formulas} == {}


def test_every_local_file_that_a_page_loads_exists(site: Path) -> None:
    missing = []
    for page in pages(site):
        for address in LocalFiles.of(page.read_text()):
            if not (page.parent / address).resolve().exists():
                missing.append(f"{page.relative_to(site)}: {address}")
    assert missing == []


def test_every_link_within_the_site_leads_somewhere(site: Path) -> None:
    anchors = {page: set(re.findall(r'\bid="([^"]+)"', page.read_text())) for page in pages(site)}
    broken = []
    for page in pages(site):
        for href in re.findall(r'<a\b[^>]*\bhref="([^"]*)"', page.read_text()):
            if re.match(r"[a-z]+:|//", href):
                continue
            path, _, anchor = href.partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            if not target.exists() or (anchor and target in anchors and anchor not in anchors[target]):
                broken.append(f"{page.relative_to(site)}: {href}")
    assert broken == []


@pytest.mark.parametrize("document", documents())
def test_a_page_says_what_it_is_about_and_in_which_language(site: Path, document: str) -> None:
    text = (site / f"{document}.html").read_text()
    assert '<html lang="en"' in text
    descriptions = re.findall(r'<meta [^>]*name="description"[^>]*>', text)
    assert len(descriptions) == 1
    content = re.search(r'content="([^"]*)"', descriptions[0])
    assert content
    assert 40 <= len(content[1]) <= 200


@pytest.mark.parametrize("document", documents())
def test_a_page_leaves_no_placeholder_behind(site: Path, document: str) -> None:
    text = (site / f"{document}.html").read_text()
    assert "{REPOSITORY}" not in text
    assert "{COLAB}" not in text


def test_the_repositorys_address_stands_in_no_page_of_ours(config: dict[str, Any]) -> None:
    name = config["repository"]["url"].removeprefix("https://")
    assert [page.name for page in (ROOT / "book").rglob("*.md") if name in page.read_text()] == []


@pytest.mark.parametrize("document", notebooks())
def test_what_a_notebook_hides_from_the_site_is_not_there(site: Path, document: str) -> None:
    assert "interact(" not in re.sub(r"<[^>]+>", "", (site / f"{document}.html").read_text())


@pytest.mark.parametrize("package", ["lmloss.numpy", "lmloss.torch", "lmloss.lab"])
def test_the_api_page_documents_every_public_name(site: Path, package: str) -> None:
    import importlib

    text = (site / "book/reference/api.html").read_text()
    undocumented = [
        name
        for name in importlib.import_module(package).__all__
        if f'id="{package}.{name}"' not in text and f'id="{package}.{name}.' not in text
    ]
    assert undocumented == []


def test_the_bibliography_lists_what_is_cited_and_no_key_is_unknown(site: Path) -> None:
    keys = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text(), re.MULTILINE))
    cited = set()
    for source in (ROOT / "book").rglob("*.*"):
        if source.suffix in (".md", ".ipynb"):
            for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", source.read_text()):
                cited |= {key.strip() for key in group.split(",")}
    assert cited <= keys
    listed = (site / "book/reference/bibliography.html").read_text().count('class="citation"')
    assert listed == len(cited)


def test_the_first_pages_numbers_are_right() -> None:
    import numpy as np

    import lmloss.numpy as ln

    text = (ROOT / "book/intro.md").read_text()
    assert f"with probability 0.51, pays {ln.surprisal(0.51):.2f} nats" in text
    assert f"= {ln.cross_entropy(np.zeros(50257), 0):.2f}$ nats" in text
    assert f"cannot exceed {ln.surprisal(1e-10):.2f}" in text
    for q in (0.01, 0.10, 0.60, 0.99):
        assert f"{q:.2f} costs {ln.surprisal(q):.2f}" in text


class LocalFiles(HTMLParser):
    """Collect the files of the site that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def of(cls, html: str) -> list[str]:
        """Read one page."""
        parser = cls()
        parser.feed(html)
        return parser.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what is fetched while the page is shown."""
        attributes = dict(attrs)
        loads = attributes.get("src") if tag in ("script", "img", "source") else None
        if tag == "link" and attributes.get("rel") in ("stylesheet", "preload", "icon"):
            loads = attributes.get("href")
        if loads and not re.match(r"[a-z]+:|//", loads):
            self.found.append(re.split(r"[?#]", loads)[0])
