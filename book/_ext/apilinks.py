"""Link every `ln.name` and `lt.name` that a page writes as code to its entry on the API page."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PACKAGES = {"ln": "lmloss.numpy", "lt": "lmloss.torch"}
MENTION = re.compile(r"(ln|lt)\.(\w+)")


def link_mentions(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Wrap the code of each known name in a link; a name that the API page does not have stays as it is."""
    objects = app.env.get_domain("py").objects  # type: ignore[attr-defined]
    for literal in list(doctree.findall(nodes.literal)):
        mention = MENTION.match(literal.astext())
        if not mention or isinstance(literal.parent, nodes.reference):
            continue
        entry = objects.get(f"{PACKAGES[mention[1]]}.{mention[2]}")
        if entry is None or entry.docname == docname:
            continue
        address = f"{app.builder.get_relative_uri(docname, entry.docname)}#{entry.node_id}"
        link = nodes.reference("", "", internal=True, refuri=address)
        literal.replace_self(link)
        link += literal


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", link_mentions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
