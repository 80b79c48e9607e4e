"""Every snippet of the docs runs, on example logs, in the order in which a page has them."""

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
"""Pages that begin with prepared data."""
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(page: Path, language: str) -> list[str]:
    found = re.findall(rf"```({language})\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    return [text for _, text in found]


def commands(page: Path) -> list[list[str]]:
    """What the page has one run, in its order; trainings are cut short, to one of two data sets."""
    text = re.sub(r"(--steps |steps=)\d+", r"\g<1>30", page.read_text(encoding="utf-8"))
    text = re.sub(
        r"(userbert reproduce .*--quick)$", r"\1 --data complete-journey", text, flags=re.M
    )
    run = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}
    found = re.findall(r"```(sh|python)\n(.*?)```", text, re.S)
    return [[*run[language], code] for language, code in found]


def keep_a_fifth_of_the_households(logs: Path) -> None:
    """Of real logs that a page has copied."""
    for file in logs.glob("*.parquet"):
        table = pl.read_parquet(file)
        if "household_id" in table.columns:
            table.filter(pl.col("household_id") % 5 == 0).write_parquet(file)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_snippets_run_as_they_stand(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if page.name == "cluster.md":
        request.getfixturevalue("java")
    write_example_logs(tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    prepare = (
        "userbert init events.parquet --profiles profiles.parquet\n"
        "userbert prepare schema.yaml -o data"
    )
    before = [["bash", "-euc", prepare]] if page.stem in PREPARED else []
    for command in before + commands(page):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
        keep_a_fifth_of_the_households(tmp_path / "logs")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_or_an_address_elsewhere(tmp_path: Path) -> None:
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
    for made in site.rglob("*.html"):
        text = made.read_text(encoding="utf-8")
        needed = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"([^\"]+)|<link[^>]* href=\"([^\"]+)", text
        )
        assert not [name for pair in needed for name in pair if re.match(r"(https?:)?//", name)]
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
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_page_of_the_source_tree_is_that_of_the_code() -> None:
    found = code_page.PAGE.read_text(encoding="utf-8")
    assert found == code_page.page(), "write it anew: python -m research.code_page"
    folders = {path.parent for path in code_page.SOURCE.rglob("*.py")} - {code_page.SOURCE}
    named = {code_page.SOURCE / name for name in code_page.PACKAGES}
    assert named == folders, "research/code_page.py: name every package"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/results").glob("*.json")), ids=lambda path: path.name
)
def test_pages_of_results_are_those_of_the_json(path: Path) -> None:
    expected = page(read_json(path), path.stem)
    found = path.with_suffix(".md").read_text(encoding="utf-8")
    assert found == expected, f"run python -m research.results_pages {path}"


def test_page_of_the_reproduction_is_that_of_its_results() -> None:
    found = ROOT / "docs/explanation/reproduction.md"
    # Beside the page, as links to figures are relative to it.
    copy = found.with_name(".reproduction-again.md")
    try:
        reproduction.main(ROOT / "experiments/results", copy)
        assert found.read_text(encoding="utf-8") == copy.read_text(encoding="utf-8"), (
            "write it anew: python -m userbert.experiments.reproduction.page experiments/results "
            "docs/explanation/reproduction.md"
        )
    finally:
        copy.unlink(missing_ok=True)


def test_page_of_the_command_line_is_its_help() -> None:
    command = [sys.executable, "-m", "typer", "userbert.cli", "utils", "docs", "--name", "userbert"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    assert found.strip() == done.stdout.strip(), f"write it anew: {' '.join(command)}"
