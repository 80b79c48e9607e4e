"""Evaluation reports for the explorer: sentences, metrics, and the address of each page.

In: a folder to search for reports. Out: `Report`s. A damaged report is left out and named in a
warning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from userbert.evaluation import findings
from userbert.evaluation.findings import Score
from userbert.explorer.runs import folders_under, unreadable_warning
from userbert.folders import read_json

_REPORT, _PAGE = "report.json", "report.html"
"""Files of an evaluation."""
_MAX_REPORTS = 100
"""Maximum number of reports to read, to bound the time of a call."""


@dataclass(frozen=True)
class Row:
    """Metric of a model on a task, or of a difference between two models, with a 95 % interval."""

    task: str
    model: str
    metric: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Report:
    """Result of an evaluation, as the explorer shows it."""

    name: str
    sentences: list[str]
    """Verdict on the question of the evaluation, then a sentence per task."""
    rows: list[Row]
    """First metric of each task: of models, best first, then of differences between models."""
    warnings: list[str]
    """Warnings of the evaluation, among them signs of target leakage."""
    page: str | None
    """Path of the report's page in the service; `None` if the report has no page."""


@dataclass(frozen=True)
class Reports:
    """Reports, and a warning for each report that cannot be read."""

    reports: list[Report] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_reports(folder: Path | None) -> Reports:
    """Reads the reports under a folder."""
    reports, warnings = [], []
    for name, path in _reports_under(folder)[:_MAX_REPORTS]:
        try:
            reports.append(_read(name, path))
        except Exception:  # any kind of damage: one report must not hide the others
            warnings.append(unreadable_warning(name))
    return Reports(reports, warnings)


def read_page(folder: Path | None, name: str) -> bytes | None:
    """Reads the page of a report under a folder; `None` if there is no such page.

    `name` is looked up and never used as a path, so that no other file can be read.
    """
    path = dict(_reports_under(folder)).get(name)
    try:
        return None if path is None else (path / _PAGE).read_bytes()
    except OSError:
        return None


def _reports_under(folder: Path | None) -> list[tuple[str, Path]]:
    folders = [] if folder is None else folders_under(folder)
    return [(name, path) for name, path in folders if (path / _REPORT).is_file()]


def _read(name: str, path: Path) -> Report:
    content = read_json(path / _REPORT)
    has_page = (path / _PAGE).is_file()
    return Report(
        name,
        _sentences([Score.from_row(row) for row in content["rows"]]),
        _rows(content["rows"]),
        [str(warning) for warning in (*content["warnings"], *content["giveaways"])],
        f"/v1/reports/{quote(name)}/page" if has_page else None,
    )


def _sentences(scores: Sequence[Score]) -> list[str]:
    tasks = dict.fromkeys(score.task for score in scores)
    by_task = {
        task: findings.find([score for score in scores if score.task == task]) for task in tasks
    }
    task_sentences = [f"{task}: {finding.text}" for task, finding in by_task.items()]
    return [f"{findings.QUESTION} {findings.answer(by_task)}", *task_sentences]


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    table = [
        Row(*(row[key] for key in ("task", "model", "metric", "mean", "low", "high")))
        for row in rows
    ]
    first_metric = {row.task: row.metric for row in reversed(table)}
    task_rank = {task: rank for rank, task in enumerate(dict.fromkeys(row.task for row in table))}
    return sorted(
        (row for row in table if row.metric == first_metric[row.task]),
        key=lambda row: (task_rank[row.task], " " in row.model, -row.mean),
    )
