"""Keep the site self-contained: no page asks another host for anything, and no page carries what it does not use.

The build warns, and so fails where warnings are errors, when an emitted page or stylesheet loads a script, a style, a
font or a picture from elsewhere, or when a formula could not be rendered. Also here: what the theme offers no setting
for, and the directive ``public-names`` of the API page.
"""

import importlib
import re
import socket as sockets
import sys
import time
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinxcontrib import katex

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
LOADING = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])\s*((?:https?:)?//[^)'"\s]+)""", re.IGNORECASE)
LOADING_RELS = {"stylesheet", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "icon", "manifest"}
ICON_SCRIPT = re.compile(r"\s*<script[^>]*fontawesome\.js[^>]*></script>")
BROKEN_FORMULA = re.compile(r'katex-error"[^>]*?title="([^"]*)"|mathcolor="#cc0000"[^>]*><mtext>([^<]*)')
PUNCTUATION = (",", ".", ";", ":", "?", "!", ")", "’")
ONE_LINE = 40  # letters of TeX
DESCRIPTION_LENGTH = 155

log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    sys.path.insert(0, str(ROOT))  # autodoc reads this tree, not an installed copy of it
    wait_for_katex()
    app.add_directive("public-names", PublicNames)
    app.connect("config-inited", set_theme)
    app.connect("source-read", write_addresses)
    app.connect("autodoc-process-docstring", document_data)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-resolved", drop_thebe, priority=900)
    app.connect("doctree-resolved", lift_displays)
    app.connect("doctree-resolved", tie_punctuation)
    app.connect("html-page-context", trim_page, priority=900)
    app.connect("build-finished", finish_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def wait_for_katex() -> None:
    """Give the process that renders formulas the time it needs on a busy machine.

    Its socket exists a moment before it answers, and sphinxcontrib-katex gives up when it asks in that moment.
    """
    katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 60.0
    katex.socket = PatientSockets()


class PatientSockets:
    """The module ``socket``, with sockets that knock for some seconds before they call a connection refused."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sockets, name)

    class socket(sockets.socket):
        """A socket that knocks again."""

        def connect(self, address: Any) -> None:
            """Connect, if need be at the 20th attempt."""
            for _ in range(19):
                try:
                    super().connect(address)
                except ConnectionRefusedError:
                    time.sleep(0.25)
                else:
                    return
            super().connect(address)


def set_theme(app: Sphinx, config: Config) -> None:
    """Set the theme's options that ``_config.yml`` cannot set without losing what Jupyter Book computes."""
    config.html_context.setdefault("default_mode", "auto")
    config.html_theme_options.update(
        {
            "navbar_persistent": [],  # no second search box in an empty bar
            "logo": {
                "image_light": "book/_static/logo-light.svg",
                "image_dark": "book/_static/logo-dark.svg",
                "text": config.html_title,
            },
            "toc_title": "On this page",
            "search_bar_text": "Search the book",
            "show_toc_level": 2,
            "pygments_light_style": "a11y-high-contrast-light",
            "pygments_dark_style": "a11y-high-contrast-dark",
        }
    )


def write_addresses(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the repository's address, which stands in ``_config.yml`` alone, where a page writes REPOSITORY or COLAB."""
    options = app.config.html_theme_options
    repository = options["repository_url"].rstrip("/")
    notebooks = f"{repository.removeprefix('https://github.com/')}/blob/{options['repository_branch']}"
    colab = f"{options['launch_buttons']['colab_url'].rstrip('/')}/github/{notebooks}"
    source[0] = source[0].replace("{REPOSITORY}", repository).replace("{COLAB}", colab)


def drop_thebe(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Remove the configuration of Thebe, whose library would come from another host."""
    for node in list(doctree.findall(nodes.raw)):
        text = node.astext()
        if "x-thebe-config" in text or text.strip().startswith("<script>kernelName"):
            node.parent.remove(node)


def lift_displays(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take displayed formulas out of the paragraphs they interrupt: HTML has no block inside a paragraph."""
    for paragraph in list(doctree.findall(nodes.paragraph)):
        if not any(isinstance(child, nodes.math_block) for child in paragraph):
            continue
        pieces: list[nodes.Element] = []
        for child in list(paragraph):
            if isinstance(child, nodes.math_block):
                pieces.append(child)
            elif pieces and isinstance(pieces[-1], nodes.paragraph):
                pieces[-1] += child
            elif child.astext().strip():
                pieces.append(nodes.paragraph("", "", child))
        paragraph.replace_self(pieces)


def tie_punctuation(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Keep a comma or a full stop on the line of the formula that it follows, if the formula is one for a line."""
    for math in list(doctree.findall(nodes.math)):
        after = math.next_node(descend=False, siblings=True)
        if isinstance(after, nodes.Text) and after.startswith(PUNCTUATION) and len(math.astext()) <= ONE_LINE:
            rest = after.lstrip("".join(PUNCTUATION))
            marks = nodes.Text(after[: len(after) - len(rest)])
            math.parent.replace(after, nodes.Text(rest))
            tied = nodes.inline("", "", classes=["tied"])
            math.parent.replace(math, tied)
            tied += [math, marks]


def trim_page(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave out scripts that no page uses, and describe the page for search engines."""
    context["script_files"] = [script for script in context.get("script_files", []) if not is_unused(script)]
    tags = context.get("metatags", "")
    if doctree is not None and 'name="description"' not in tags:
        context["metatags"] = f'{tags}\n<meta name="description" content="{escape(description(doctree))}" />'


def is_unused(script: Any) -> bool:
    """Recognise Thebe, MathJax, and the loader and state of widgets."""
    attributes = getattr(script, "attributes", {})
    marks = (str(getattr(script, "filename", script) or ""), attributes.get("body") or "", attributes.get("type") or "")
    words = ("thebe", "mathjax", "require.js", "embed-amd", "jupyter.widget")
    return any(word in mark[:2000].lower() for mark in marks for word in words)


def description(doctree: nodes.document) -> str:
    """Return the page's first sentences, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) > 40 and not any(isinstance(node, nodes.math) for node in paragraph.findall()):
            break
    else:
        text = doctree.next_node(nodes.title).astext() if doctree.next_node(nodes.title) else ""
    if len(text) <= DESCRIPTION_LENGTH:
        return text
    return text[:DESCRIPTION_LENGTH].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def finish_site(app: Sphinx, failure: Exception | None) -> None:
    """Rewrite what the theme has no setting for, then check every emitted page and stylesheet."""
    if failure is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    for script in (site / "_static" / "scripts").glob("fontawesome.js*"):
        script.unlink()  # 1.5 MB; the icon font that the theme's stylesheet loads shows the same icons
    search = site / "_static" / "searchtools.js"
    if search.exists():  # a result quotes the text of a page, not the names of the buttons above it
        search.write_text(search.read_text(encoding="utf-8").replace('[role="main"]', "article.bd-article"))
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        clean = ICON_SCRIPT.sub("", text)
        clean = clean.replace('role="doc-biblioentry"', 'role="listitem"')  # a deprecated role, not allowed in a list
        clean = clean.replace('<i class="fa', '<i aria-hidden="true" class="fa')
        clean = re.sub(r'(<button class="btn search-button-field[^>]*?) title="[^"]*" aria-label="[^"]*"', r"\1", clean)
        if clean != text:
            page.write_text(clean, encoding="utf-8")
        name = page.relative_to(site)
        for address in loaded_from_elsewhere(clean):
            log.warning("%s loads %s; serve that file from the site itself", name, address, type="selfcontained")
        for formula in BROKEN_FORMULA.findall(clean):
            log.warning("%s holds a formula that KaTeX cannot render: %s", name, "".join(formula), type="selfcontained")
    for sheet in sorted(site.rglob("*.css")):
        for address in loaded_by_css(sheet.read_text(encoding="utf-8")):
            log.warning(
                "%s loads %s; serve it from the site itself", sheet.relative_to(site), address, type="selfcontained"
            )


def loaded_from_elsewhere(html: str) -> list[str]:
    """List the addresses on other hosts that a browser would ask for while it shows the page."""
    page = LoadedFiles()
    page.feed(html)
    return page.addresses


def loaded_by_css(css: str) -> list[str]:
    """List the addresses on other hosts in a stylesheet's ``url(...)`` and ``@import``."""
    return LOADING.findall(css)


class LoadedFiles(HTMLParser):
    """Collect what a page loads from other hosts; links that a reader may follow do not count."""

    SOURCES: ClassVar = {
        "script",
        "img",
        "iframe",
        "source",
        "video",
        "audio",
        "track",
        "embed",
        "input",
        "image",
        "use",
    }

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at the attributes that make a browser fetch."""
        attributes = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        candidates = []
        if tag in self.SOURCES:
            candidates += [attributes.get(name, "") for name in ("src", "poster", "href", "xlink:href")]
            candidates += re.split(r",\s+", attributes.get("srcset", ""))
        if tag == "object":
            candidates.append(attributes.get("data", ""))
        if tag == "link" and LOADING_RELS & set(attributes.get("rel", "").lower().split()):
            candidates.append(attributes.get("href", ""))
        self.addresses += [address for address in candidates if ELSEWHERE.match(address)]
        self.addresses += loaded_by_css(attributes.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        """Leave a style element."""
        self.in_style = False

    def handle_data(self, data: str) -> None:
        """Look into style elements."""
        if self.in_style:
            self.addresses += loaded_by_css(data)


def document_data(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Give a constant the words below it in the module that defines it; its type's own would say nothing."""
    if what == "data" and name in PublicNames.constants:
        module, last = PublicNames.constants[name]
        lines[:] = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", last), [])


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of a named tuple, which its docstring explains."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


class PublicNames(SphinxDirective):
    """Document what a package makes public out of one of its modules, under the package's own address.

    ``{public-names} lmloss.numpy.softmax`` documents ``lmloss.numpy.softmax``, ``lmloss.numpy.logsumexp`` and so on, in
    the order in which the module defines them. A module that is itself public, as ``lmloss.lab.figures`` is, keeps its
    address.
    """

    required_arguments = 1
    constants: ClassVar[dict[str, tuple[str, str]]] = {}

    def run(self) -> list[nodes.Node]:
        """Write the reStructuredText that autodoc reads."""
        package, _, last = self.arguments[0].rpartition(".")
        module = importlib.import_module(self.arguments[0])
        public = set(importlib.import_module(package).__all__)
        own = last in public and not hasattr(module, last)
        address = self.arguments[0] if own else package
        names = {
            name: value
            for name, value in vars(module).items()
            if (not name.startswith("_") if own else name in public)
            and not isinstance(value, ModuleType)
            and getattr(value, "__module__", module.__name__) == module.__name__
        }
        if not names:
            raise self.error(f"{package} makes nothing public out of {self.arguments[0]}")
        lines = ["```{eval-rst}", f".. currentmodule:: {address}", "", ".. autosummary::", ""]
        lines += [f"   {name}" for name in names]
        for name, value in names.items():
            kind = "class" if isinstance(value, type) else "function" if callable(value) else "data"
            if kind == "data":
                self.constants[f"{address}.{name}"] = self.arguments[0], name
            lines += ["", f".. auto{kind}:: {address}.{name}"]
            lines += ["   :members:"] if kind == "class" else ["   :no-value:"] if kind == "data" else []
        lines.append("```")
        container = nodes.container()
        self.state.nested_parse(StringList(lines, self.env.docname), self.content_offset, container)
        return container.children
