"""How Sphinx makes a site of the pages; they stay plain Markdown, which a forge shows as it is.

The source is the project's folder, not this one, so that links to pages outside docs/ lead
somewhere. The site's contents are the links of docs/index.md, heading by heading.
"""

import re
from importlib import metadata
from typing import Any

from sphinx.application import Sphinx

project = "userbert"
release = metadata.version("userbert")
html_title = f"userbert {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "experiments/quality/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = [".*", "build", "demo", "src", "tests", "experiments/results"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "code"  # docstrings write `names` as Markdown does

html_theme = "furo"
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_additional_pages = {"index": "entrance.html"}
templates_path = ["templates"]
highlight_language = "none"  # of blocks that name no language


def add_contents(_: Sphinx, name: str, source: list[str]) -> None:
    """Give the index a table of contents for each heading, of the pages that it links to."""
    if name != root_doc:
        return
    for section in re.split(r"^## ", source[0], flags=re.M)[1:]:
        heading, _, text = section.partition("\n")
        links = re.findall(r"\[([^]]+)\]\(([^):#]+)\.md", text)
        pages = [f"{_title(said)} <{page}>" for said, page in links]
        lines = ["", "```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```", ""]
        source[0] += "\n".join(lines)


def _title(text: str) -> str:
    """A link's text as a title; a file's name stays as it is."""
    plain = text.replace("`", "")
    return plain if "." in plain else plain[0].upper() + plain[1:]


def setup(app: Sphinx) -> dict[str, Any]:
    """Have Sphinx call it."""
    app.connect("source-read", add_contents)
    return {"parallel_read_safe": True}
