"""Writes the page of the source tree, with the first docstring line of each file.

In: `src/userbert`. Out: `docs/reference/code.md`. Run it by `python -m research.code_page`; a test
checks that the page is up to date.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/userbert"
PAGE = ROOT / "docs/reference/code.md"
PACKAGES = (
    "schema", "infer", "data", "data/read", "data/prepare", "data/use", "kernels", "model",
    "training", "tasks", "evaluation", "report", "embedding", "search", "export", "inspection",
    "explorer", "service", "experiments", "experiments/baselines", "experiments/reproduction",
    "benchmarks", "cli",
)  # fmt: skip
"""Packages in the order of the data flow; a package imports only earlier ones."""
_HEAD = """# The source tree

Folders are inside `src/userbert/`, in the order of the data flow. A file imports only files above
it; `make check` tests this. `python -m research.code_page` writes this page from the first line of
each file.
"""


def page() -> str:
    """Returns the page as Markdown."""
    sections = [_HEAD, "## `userbert/`\n\nWhat every stage uses.\n\n" + _table(SOURCE)]
    for name in PACKAGES:
        title = _first_line(SOURCE / name / "__init__.py").rstrip(".")
        sections.append(f"## `{name}/`\n\n{title}.\n\n{_table(SOURCE / name)}")
    return "\n".join(sections)


def _table(folder: Path) -> str:
    """Returns the table of a folder's files."""
    rows = [f"| `{path.relative_to(folder)}` | {_first_line(path)} |\n" for path in _files(folder)]
    return "| file | holds |\n|---|---|\n" + "".join(rows)


def _files(folder: Path) -> Iterator[Path]:
    """Yields the source files of a folder, and the scripts of its web page."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".py", ".c", ".h", ".js", ".html") and path.name != "__init__.py":
            yield path
    if (folder / "page").is_dir():
        yield from (
            path for path in sorted((folder / "page").rglob("*.js")) if ".min." not in path.name
        )


def _first_line(path: Path) -> str:
    """Returns the first line of a file's docstring or leading comment."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    if path.suffix == ".html":
        return "The page's frame."
    comment = text.lstrip().removeprefix("/*").removeprefix("//").lstrip("* \n")
    return comment.splitlines()[0].removesuffix("*/").strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
