"""Which pages the site has, and where."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"


def documents() -> list[str]:
    """Every page that the table of contents names, without its suffix."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


def notebooks() -> list[str]:
    """The documents that are notebooks."""
    return [document for document in documents() if re.match(r"book/\d", document)]
