"""The build's own check for files from other hosts, and what it lets pass."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils import new_document

from selfcontained import description, finish_site, is_unused, lift_displays, loaded_by_css, loaded_from_elsewhere


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<script async src="//cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="https://fonts.example" rel="preconnect">',
        '<img alt="" src="http://images.example/x.png">',
        '<img alt="" srcset="x.png 1x, https://images.example/x.png 2x">',
        '<iframe src="https://video.example/embed"></iframe>',
        '<video poster="https://video.example/x.png"></video>',
        '<object data="https://files.example/x.svg"></object>',
        '<div style="background: url(https://images.example/x.png)"></div>',
        '<style>@import "https://fonts.example/x.css";</style>',
        "<style>@font-face { src: url('//fonts.example/x.woff2') }</style>",
    ],
)
def test_a_file_from_another_host_is_seen(html: str) -> None:
    assert len(loaded_from_elsewhere(html)) == 1


@pytest.mark.parametrize(
    "html",
    [
        '<a href="https://github.com/example/lmloss">the source</a>',
        '<link rel="canonical" href="https://example.org/">',
        '<script src="../_static/x.js"></script>',
        '<img alt="" src="data:image/png;base64,AAAA">',
        '<p>@import "https://fonts.example/x.css" in a text</p>',
        '<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    ],
)
def test_a_link_or_a_file_of_the_site_is_not(html: str) -> None:
    assert loaded_from_elsewhere(html) == []


def test_stylesheets_may_load_their_own_files_only() -> None:
    assert loaded_by_css('a { src: url("fonts/x.woff2") } b { background: url(data:image/svg+xml,x) }') == []
    assert loaded_by_css("@import url(https://fonts.example/x.css);") == ["https://fonts.example/x.css"]


@pytest.mark.parametrize("name", ["sphinx-thebe.js", "https://unpkg.com/thebe@0.8.2/lib/index.js", "vendor/require.js"])
def test_scripts_that_no_page_uses_are_left_out(name: str) -> None:
    assert is_unused(name)
    assert not is_unused("custom.js")


def test_a_description_is_the_first_prose_cut_at_a_word() -> None:
    document = new_document("page")
    document += nodes.paragraph("", "Short.")
    document += nodes.paragraph("", "word " * 100)
    text = description(document)
    assert len(text) <= 160
    assert text.endswith("word …")


def test_the_build_warns_of_what_a_page_or_a_stylesheet_loads_from_elsewhere_and_of_broken_formulas(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "page.html").write_text('<script src="https://cdn.example/x.js"></script>')
    (tmp_path / "formula.html").write_text('<span class="katex-error" title="Undefined control sequence">x</span>')
    (tmp_path / "style.css").write_text("@import url(https://fonts.example/x.css);")
    with caplog.at_level(logging.WARNING):
        finish_site(SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format="html")), None)
    text = caplog.text
    assert "page.html loads https://cdn.example/x.js" in text
    assert "style.css loads https://fonts.example/x.css" in text
    assert "formula.html holds a formula that KaTeX cannot render: Undefined control sequence" in text


def test_the_build_replaces_the_icon_script_by_the_icon_font(tmp_path: Path) -> None:
    scripts = tmp_path / "_static" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "fontawesome.js").touch()
    page = tmp_path / "page.html"
    page.write_text(
        '<script defer src="_static/scripts/fontawesome.js?digest=1"></script><i class="fa-solid fa-bars"></i>'
    )
    finish_site(SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format="html")), None)
    assert not (scripts / "fontawesome.js").exists()
    assert page.read_text() == '<i aria-hidden="true" class="fa-solid fa-bars"></i>'


def test_a_displayed_formula_stands_beside_the_paragraphs_it_interrupts() -> None:
    document = new_document("page")
    document += nodes.paragraph("", "", nodes.Text("Before"), nodes.math_block("x", "x"), nodes.Text("\nafter."))
    lift_displays(SimpleNamespace(), document, "page")
    assert [type(child) for child in document] == [nodes.paragraph, nodes.math_block, nodes.paragraph]
    assert document[2].astext().strip() == "after."
