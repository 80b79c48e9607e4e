"""What evaluations found: sentences, rows, and where the page of each lies.

In: a folder under which they lie. Out: `Report`s. What is damaged is left out, and named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from userbert.evaluation import findings
from userbert.evaluation.findings import Score
from userbert.explorer.runs import under, unreadable
from userbert.folders import read_json

_REPORT, _PAGE = "report.json", "report.html"
_MOST = 100
"""Reports that are told."""


@dataclass(frozen=True)
class Row:
    """A model's metric on a task, with its 95 % interval."""

    task: str
    model: str
    metric: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Report:
    """An evaluation."""

    name: str
    sentences: list[str]
    rows: list[Row]
    """Of each task the models by its first metric, the best first, differences last."""
    warnings: list[str]
    page: str | None
    """Where the service has its page."""


@dataclass(frozen=True)
class Reports:
    """All evaluations, and what could not be read."""

    reports: list[Report] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def all_reports(folder: Path | None) -> Reports:
    """Tell the evaluations under a folder."""
    reports, warnings = [], []
    for name, path in _reports_under(folder)[:_MOST]:
        try:
            reports.append(_read(name, path))
        except Exception:  # as of runs
            warnings.append(unreadable(name))
    return Reports(reports, warnings)


def page_of(folder: Path | None, name: str) -> bytes | None:
    """The page of a report; none if there is none. Names are looked up, never made to paths."""
    path = dict(_reports_under(folder)).get(name)
    try:
        return None if path is None else (path / _PAGE).read_bytes()
    except OSError:
        return None


def _reports_under(folder: Path | None) -> list[tuple[str, Path]]:
    found = [] if folder is None else under(folder)
    return [(name, path) for name, path in found if (path / _REPORT).is_file()]


def _read(name: str, path: Path) -> Report:
    content = read_json(path / _REPORT)
    has_page = (path / _PAGE).is_file()
    return Report(
        name,
        _sentences([Score.from_row(row) for row in content["rows"]]),
        _rows(content["rows"]),
        [str(one) for one in (*content["warnings"], *content["giveaways"])],
        f"/v1/reports/{quote(name)}/page" if has_page else None,
    )


def _sentences(scores: Sequence[Score]) -> list[str]:
    tasks = dict.fromkeys(score.task for score in scores)
    found = {task: findings.find([one for one in scores if one.task == task]) for task in tasks}
    each = [f"{task}: {finding.text}" for task, finding in found.items()]
    return [f"{findings.QUESTION} {findings.answer(found)}", *each]


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    read = [
        Row(*(row[key] for key in ("task", "model", "metric", "mean", "low", "high")))
        for row in rows
    ]
    first = {row.task: row.metric for row in reversed(read)}
    place = {task: number for number, task in enumerate(dict.fromkeys(row.task for row in read))}
    return sorted(
        (row for row in read if row.metric == first[row.task]),
        key=lambda row: (place[row.task], " " in row.model, -row.mean),
    )
