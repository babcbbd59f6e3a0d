"""Every page of the site as a reader's browser shows it, in light and in dark."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.site.pages import documents, notebooks

MODES = ("light", "dark")
OTHER_PAGES = ["search", "genindex"]

# What axe need not look at a thousand times: the formulas for the eye (their MathML stays), and code whose kinds of
# token were all seen before on the page.
THIN_OUT = r"""() => {
  for (const formula of document.querySelectorAll(".katex-html")) formula.remove();
  const seen = new Set();
  for (const code of document.querySelectorAll("article pre")) {
    const place = code.closest(".output") ? "output " : "input ";
    const kinds = [...code.querySelectorAll("span")].map(span => place + span.className);
    if (kinds.every(kind => seen.has(kind))) code.replaceChildren(code.textContent);
    for (const kind of kinds) seen.add(kind);
  }
}"""

# Stylesheets need not be fetched a second time; only colours change from light to dark.
ALL_RULES = {"resultTypes": ["violations"], "preload": False}
RULES_OF_COLOUR = ALL_RULES | {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}

# What the page looks like from inside, collected in one go.
INSPECT = r"""() => {
  const shown = element => element.checkVisibility();
  const article = document.querySelector("article") ?? document.querySelector("main");
  const images = [...document.images];
  const outputs = [...article.querySelectorAll(".cell_output img")];
  return {
    headings: [...article.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(shown).map(h => +h.tagName[1]),
    imagesWithoutAlt: images.filter(i => !i.hasAttribute("alt")).map(i => i.src),
    outputsWithoutAlt: outputs.filter(i => !/\w+ \w+/.test(i.alt)).map(i => i.src),
    brokenImages: images.filter(i => i.complete && !i.naturalWidth).map(i => i.src),
    formulas: document.querySelectorAll(".katex math").length,
    brokenFormulas: [...document.querySelectorAll(".katex-error")].map(e => e.title),
    rawFormulas: article.innerText.match(/\\\(|\\\[|\\(?:frac|sum|log|operatorname)\b/g) || [],
    theme: document.documentElement.dataset.theme,
    paintedImages: outputs.map(i => getComputedStyle(i))
      .filter(s => s.backgroundColor != "rgba(0, 0, 0, 0)" || !["none", "brightness(1.35)"].includes(s.filter)).length,
  };
}"""

# The innermost elements that make the page wider than the window.
TOO_WIDE = r"""() => {
  const root = document.documentElement;
  if (root.scrollWidth <= innerWidth) return [];
  const isWide = element => element.getBoundingClientRect().right > innerWidth + 1;
  const wide = [...document.querySelectorAll("main *")].filter(isWide);
  return [`page is ${root.scrollWidth} px wide`, ...wide.slice(0, 5).map(e => e.outerHTML.slice(0, 120))];
}"""


@dataclass
class Visit:
    """What one visit to one page showed."""

    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    page: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def visit(browser: Any, address: str) -> Iterator[Callable[[str, str], Visit]]:
    """Visit a page once per mode, whatever many tests ask about it."""
    contexts = {mode: browser.new_context(color_scheme=mode, reduced_motion="reduce") for mode in MODES}
    seen: dict[tuple[str, str], Visit] = {}
    axe = Axe()

    def look(document: str, mode: str) -> Visit:
        if (document, mode) in seen:
            return seen[document, mode]
        found = seen[document, mode] = Visit()
        page = contexts[mode].new_page()
        page.set_viewport_size({"width": 1280, "height": 900})
        page.on("request", lambda request: found.elsewhere.append(request.url) if is_elsewhere(request.url) else None)
        page.on("console", lambda line: found.complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.goto(f"{address}{document}.html", wait_until="load")
        found.page = page.evaluate(INSPECT)
        page.evaluate(THIN_OUT)
        report = axe.run(page, options=ALL_RULES if mode == "light" else RULES_OF_COLOUR).response
        found.violations = [
            f"{violation['id']}: {node['html'][:160]}"
            for violation in report["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]
        page.close()
        return found

    def is_elsewhere(url: str) -> bool:
        return urlsplit(url).scheme not in ("data", "blob") and not url.startswith(address)

    yield look
    for context in contexts.values():
        context.close()


every_page = pytest.mark.parametrize("document", documents() + OTHER_PAGES)
both_modes = pytest.mark.parametrize("mode", MODES)


@both_modes
@every_page
def test_a_page_asks_no_other_host_for_anything(visit: Any, document: str, mode: str) -> None:
    assert visit(document, mode).elsewhere == []


@both_modes
@every_page
def test_the_console_is_silent(visit: Any, document: str, mode: str) -> None:
    assert visit(document, mode).complaints == []


@both_modes
@every_page
def test_axe_finds_nothing_serious(visit: Any, document: str, mode: str) -> None:
    assert visit(document, mode).violations == []


@both_modes
@every_page
def test_a_page_follows_the_readers_colour_scheme(visit: Any, document: str, mode: str) -> None:
    assert visit(document, mode).page["theme"] == mode


@every_page
def test_a_page_fits_a_phone(browser: Any, address: str, document: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(f"{address}{document}.html")
    too_wide = page.evaluate(TOO_WIDE)
    page.close()
    assert too_wide == []


@every_page
def test_images_load_and_have_alternative_text(visit: Any, document: str) -> None:
    page = visit(document, "light").page
    assert page["imagesWithoutAlt"] == []
    assert page["outputsWithoutAlt"] == []
    assert page["brokenImages"] == []


@pytest.mark.parametrize("document", notebooks())
def test_figures_stand_on_the_dark_page_as_they_are(visit: Any, document: str) -> None:
    assert visit(document, "dark").page["paintedImages"] == 0


@pytest.mark.parametrize("document", documents())
def test_headings_are_in_order(visit: Any, document: str) -> None:
    levels = visit(document, "light").page["headings"]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


@pytest.mark.parametrize("document", documents())
def test_formulas_are_rendered(visit: Any, document: str) -> None:
    page = visit(document, "light").page
    assert page["brokenFormulas"] == []
    assert page["rawFormulas"] == []
    assert page["formulas"] > 0 or document == "book/reference/bibliography"


def test_search_finds_the_pages_about_a_term(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}search.html?q=surprisal")
    page.wait_for_selector("#search-results li a")
    targets = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
    quotation = page.locator("#search-results li p.context").first.inner_text()
    page.close()
    assert "surpris" in quotation.lower()
    assert any("entropy.html" in target for target in targets)
    assert any("glossary.html" in target for target in targets)


def test_the_search_box_opens_from_the_keyboard_and_leads_to_results(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}book/intro.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("perplexity")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    page.close()


@pytest.mark.parametrize("document", notebooks())
def test_a_notebooks_buttons_open_it_in_colab_and_download_it(
    browser: Any, address: str, config: dict[str, Any], document: str
) -> None:
    repository, colab = config["repository"], config["launch_buttons"]["colab_url"]
    place = repository["url"].removeprefix("https://github.com/")
    page = browser.new_page()
    page.goto(f"{address}{document}.html")
    links = page.eval_on_selector_all(".article-header-buttons a", "links => links.map(link => link.href)")
    assert f"{colab}/github/{place}/blob/{repository['branch']}/{document}.ipynb" in links
    downloads = [link for link in links if link.endswith(f"_sources/{document}.ipynb")]
    assert len(downloads) == 1
    assert page.request.get(downloads[0]).json()["nbformat"] == 4
    page.close()


@pytest.mark.parametrize("document", notebooks())
def test_a_solution_is_folded_until_its_line_is_activated(browser: Any, address: str, document: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}{document}.html")
    solution = page.locator("div.solution.dropdown").first
    content = solution.locator("section")
    assert not content.is_visible()
    solution.locator("button").press("Enter")
    assert content.is_visible()
    page.close()


def test_the_first_tab_stop_skips_to_the_text(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}book/intro.html")
    page.keyboard.press("Tab")
    focused = page.evaluate("[document.activeElement.getAttribute('href'), document.activeElement.checkVisibility()]")
    page.close()
    assert focused == ["#main-content", True]


def test_the_button_changes_between_light_and_dark(browser: Any, address: str) -> None:
    page = browser.new_page(color_scheme="light")
    page.goto(f"{address}book/intro.html")
    modes = set()
    for _ in range(3):
        page.locator(".theme-switch-button").first.click()
        modes.add(page.evaluate("document.documentElement.dataset.theme"))
    page.close()
    assert modes == {"light", "dark"}
