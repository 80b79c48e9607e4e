"""The source tree keeps its rules: sizes, no circles of files, plain docstrings and names."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/userbert"
FILES = sorted(SOURCE.rglob("*.py"))
EVERYWHERE = sorted(
    path for folder in ("src", "research", "tests") for path in (ROOT / folder).rglob("*.py")
)
VAGUE_NAMES = {"found", "one", "told", "whole", "asked", "left"}
"""Names of variables that say nothing of what they hold."""
MOST_LINES, LEAST_MEAN_LINES, MOST_FILES, MOST_FILES_IN_A_PACKAGE = 400, 150, 215, 22
MOST_VAGUE_NAMES = 20


def module_name(path: Path) -> str:
    name = ".".join(["userbert", *path.relative_to(SOURCE).with_suffix("").parts])
    return name.removesuffix(".__init__")


def imports(path: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports, at its head or late."""
    needs = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in modules:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            needs |= (names & modules) or {node.module}
    return needs


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Docstrings of modules, classes and functions, and the strings below constants and fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    yield str(statement.value.value)


def test_no_file_is_long_and_the_mean_is_not_short() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in EVERYWHERE}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}
    assert sum(lines[path] for path in FILES) / len(FILES) >= LEAST_MEAN_LINES


def test_packages_hold_few_files() -> None:
    assert len(FILES) <= MOST_FILES
    packages = Counter(path.parent for path in FILES)
    assert {
        folder: count for folder, count in packages.items() if count > MOST_FILES_IN_A_PACKAGE
    } == {}


def test_no_files_import_each_other() -> None:
    modules = {module_name(path): path for path in FILES}
    graph = {name: imports(path, set(modules)) for name, path in modules.items()}
    # Remove files that import no file of the rest, again and again: what remains is a circle.
    while removable := {name for name, needs in graph.items() if not needs & graph.keys()}:
        graph = {name: needs for name, needs in graph.items() if name not in removable}
    assert graph == {}


def test_docstrings_begin_with_a_subject() -> None:
    odd = [
        (path.relative_to(ROOT), text)
        for path in EVERYWHERE
        for text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if re.match(r"(Of|Whose|Whoever|That of|The same)\b", text)
    ]
    assert odd == []


def test_variables_say_what_they_hold() -> None:
    vague = Counter(
        (path.relative_to(SOURCE), name)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in [
            node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else "",
            node.arg if isinstance(node, ast.arg) else "",
        ]
        if name in VAGUE_NAMES
    )
    assert vague.total() <= MOST_VAGUE_NAMES, vague
