"""Tests of the docs: snippets run in order on example logs, and generated pages are current."""

import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from example_logs import write_example_logs
from research import code_page
from research.results_pages import page
from userbert.experiments.reproduction import page as reproduction
from userbert.folders import read_json
from userbert.schema import Schema

ROOT = Path(__file__).parents[1]
RUN = [
    ROOT / "README.md",
    *sorted((ROOT / "docs/tutorial").glob("*.md")),
    *sorted((ROOT / "docs/how-to").glob("*.md")),
]
PREPARED = [
    "embed", "explain", "export", "forget", "inspect", "labels", "lookalike", "many-processes",
    "next-value", "pretrain", "resume", "scikit-learn", "track",
]  # fmt: skip
"""Pages whose snippets need prepared data."""
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(page: Path, language: str) -> list[str]:
    blocks = re.findall(rf"```({language})\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    return [text for _, text in blocks]


def commands(page: Path) -> list[list[str]]:
    """Returns the commands of a page in order, with short trainings on one of two data sets."""
    text = re.sub(r"(--steps |steps=)\d+", r"\g<1>30", page.read_text(encoding="utf-8"))
    text = re.sub(
        r"(userbert reproduce .*--quick)$", r"\1 --data complete-journey", text, flags=re.M
    )
    interpreters = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}
    blocks = re.findall(r"```(sh|python)\n(.*?)```", text, re.S)
    return [[*interpreters[language], code] for language, code in blocks]


def keep_a_fifth_of_the_households(logs: Path) -> None:
    """Drops four fifths of the households from real logs that a page has copied."""
    for file in logs.glob("*.parquet"):
        table = pl.read_parquet(file)
        if "household_id" in table.columns:
            table.filter(pl.col("household_id") % 5 == 0).write_parquet(file)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_snippets_run_unchanged(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if page.name == "cluster.md":
        request.getfixturevalue("java")
    write_example_logs(tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    prepare = (
        "userbert init events.parquet --profiles profiles.parquet\n"
        "userbert prepare schema.yaml -o data"
    )
    preparation = [["bash", "-euc", prepare]] if page.stem in PREPARED else []
    for command in preparation + commands(page):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
        keep_a_fifth_of_the_households(tmp_path / "logs")


@pytest.mark.slow
def test_the_site_builds_without_warnings_or_external_resources(tmp_path: Path) -> None:
    options = [
        "--quiet",
        "--fail-on-warning",
        "--keep-going",
        "-c",
        "docs",
        "-d",
        str(tmp_path / "t"),
    ]
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "sphinx", *options, ".", str(site)], cwd=ROOT, check=True)
    assert "url=docs/index.html" in (site / "index.html").read_text(encoding="utf-8")
    assert "docs/how-to/schema" in (site / "searchindex.js").read_text(encoding="utf-8")
    for html_file in site.rglob("*.html"):
        text = html_file.read_text(encoding="utf-8")
        resources = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"([^\"]+)|<link[^>]* href=\"([^\"]+)", text
        )
        assert not [name for pair in resources for name in pair if re.match(r"(https?:)?//", name)]
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(.?https?:|@import .?https?:", sheet.read_text(encoding="utf-8"))


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / name).resolve() for name in re.findall(r"\]\(([^):#]+\.md)", index)}
    missing = set((ROOT / "docs").rglob("*.md")) - linked - {ROOT / "docs/index.md"}
    assert not missing, "docs/index.md is the site's table of contents: add a line"


def test_schemas_in_docs_are_schemas() -> None:
    texts = [text for page in PAGES for text in snippets(page, "yaml") if "sources:" in text]
    assert len(texts) >= 2
    for text in texts:
        Schema.parse(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_have_targets(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_page_of_the_source_tree_is_current() -> None:
    text = code_page.PAGE.read_text(encoding="utf-8")
    assert text == code_page.page(), "regenerate it: python -m research.code_page"
    folders = {path.parent for path in code_page.SOURCE.rglob("*.py")} - {code_page.SOURCE}
    listed = {code_page.SOURCE / name for name in code_page.PACKAGES}
    assert listed == folders, "add the missing packages to research/code_page.py"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/results").glob("*.json")), ids=lambda path: path.name
)
def test_pages_of_results_are_current(path: Path) -> None:
    expected = page(read_json(path), path.stem)
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert text == expected, f"regenerate it: python -m research.results_pages {path}"


def test_the_page_of_the_reproduction_is_current() -> None:
    path = ROOT / "docs/explanation/reproduction.md"
    # In the same folder, since links to figures are relative.
    copy = path.with_name(".reproduction-again.md")
    try:
        reproduction.main(ROOT / "experiments/results", copy)
        assert path.read_text(encoding="utf-8") == copy.read_text(encoding="utf-8"), (
            "regenerate it: python -m userbert.experiments.reproduction.page experiments/results "
            "docs/explanation/reproduction.md"
        )
    finally:
        copy.unlink(missing_ok=True)


def test_the_page_of_the_command_line_is_current() -> None:
    command = [sys.executable, "-m", "typer", "userbert.cli", "utils", "docs", "--name", "userbert"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert text.strip() == result.stdout.strip(), f"regenerate it: {' '.join(command)}"
