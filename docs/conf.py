"""How the pages become a site: ``make docs``. They are plain Markdown, and read as well on a code host."""

import re
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.application import Sphinx

project = "closingbell"
copyright = "the closingbell authors"
version = release = installed("closingbell")

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

# Headings get the anchors that code hosts give them, so that the same links work in both places.
myst_heading_anchors = 4

# Nothing is fetched, neither while it is built nor by who reads it.
html_theme = "furo"
html_title = f"closingbell {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["tables.css"]

ROOT = Path(__file__).resolve().parents[1]

#: Pages that stand outside docs/, where people look for them; the site gets copies.
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")
COPIES = "_outside"

_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


def setup(app: Sphinx) -> None:
    """Copy the pages from outside, let links lead to the copies, and make the navigation of the index page's lists."""
    for name in OUTSIDE:
        copy = ROOT / "docs" / COPIES / Path(name).name
        copy.parent.mkdir(exist_ok=True)
        text = _LINK.sub(lambda link, name=name: f"]({_from_copies((ROOT / name).parent / link[1])}", _read(name))
        copy.write_text(text)
    app.connect("source-read", _adapt)


def _read(name: str) -> str:
    return (ROOT / name).read_text()


def _from_copies(target: Path) -> str:
    """A link as it has to be in a copy."""
    path = str(target.resolve().relative_to(ROOT))
    if path in OUTSIDE:
        return Path(path).name
    return f"../{path.removeprefix('docs/')}" if path.startswith("docs/") else f"../../{path}"


def _adapt(app: Sphinx, page: str, source: list[str]) -> None:
    if page.startswith(COPIES):
        return
    for name in OUTSIDE:
        source[0] = source[0].replace(f"](../{name}", f"]({COPIES}/{Path(name).name}")
    if page == "index":
        source[0] += _navigation(source[0])


def _navigation(index: str) -> str:
    """The site's list of pages: those of each section of the index, each once."""
    trees: list[str] = []
    seen: set[str] = set()
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        caption = section.partition("\n")[0]
        pages = [page for page in re.findall(r"\]\(([\w/]+)\.md\)", section) if page not in seen]
        seen.update(pages)
        if pages:
            trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]))
    return "\n" + "\n\n".join(trees) + "\n"
