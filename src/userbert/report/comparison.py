"""Sections of the report that compare models: tasks, learning curves, calibration.

In: `evaluate`'s rows and the tasks' labels. Out: views of strings and figures. Only `report.py`
uses this file; the sentences come from `findings.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from userbert.evaluation import findings
from userbert.evaluation.findings import METRIC_LABELS, Finding, Score
from userbert.report import figures
from userbert.report.figures import Interval, Line
from userbert.tasks.labels import Labels

_GROUPS: tuple[findings.Group, ...] = ("classical", "ours", "baseline")
"""Groups of models in the order of the report."""


@dataclass(frozen=True)
class TaskView:
    """A task's section of the page."""

    name: str
    question: str
    facts: str
    """Sentence with the numbers of labels, users and answers."""
    finding: Finding
    """Verdict on the task."""
    remarks: list[str]
    """Sentences on habit and on pretraining, if the models were compared."""
    chart: Markup
    """Figure of the headline metric of each model."""
    metrics: list[str]
    """Display names of the metrics: the columns of the table."""
    rows: list[tuple[str, str, list[str]]]
    """Rows of the table: model (or difference), group, and one cell per metric."""


def task_view(labels: Labels, scores: Sequence[Score]) -> TaskView:
    """Returns a task's section: its question, the verdict, and all metrics of all models."""
    task_scores = [score for score in scores if score.task == labels.name]
    headline = findings.headline_metric(task_scores)
    metrics = [
        metric for metric in METRIC_LABELS if any(score.metric == metric for score in task_scores)
    ]
    metrics += sorted({score.metric for score in task_scores} - set(metrics))
    names = _in_groups({score.model for score in task_scores if not findings.is_difference(score)})
    names += sorted({score.model for score in task_scores if findings.is_difference(score)})
    by_cell = {(score.model, score.metric): score for score in task_scores}
    rows = [
        (name, _group(name), [_cell(by_cell.get((name, metric))) for metric in metrics])
        for name in names
    ]
    dots = [
        _dot(by_cell[name, headline], name)
        for name in names
        if (name, headline) in by_cell
        and findings.DIFFERENCE not in name
        # Constant scores have a ROC-AUC of 0.5: their dot would only squeeze the other dots.
        and (name, headline) != ("popularity", "roc_auc")
    ]
    label = METRIC_LABELS.get(headline, headline)
    return TaskView(
        labels.name,
        labels.question,
        _task_facts(labels),
        findings.find(task_scores),
        [
            sentence
            for sentence in (
                findings.habit_finding(task_scores),
                findings.pretraining_finding(task_scores),
            )
            if sentence
        ],
        figures.intervals(dots, title=f"{labels.name}: {label} of each model", axis=label),
        [METRIC_LABELS.get(metric, metric) for metric in metrics],
        rows,
    )


def overview(scores: Sequence[Score]) -> Markup | None:
    """Draws the paired differences of all tasks on one axis; returns `None` without differences."""
    tasks = list(dict.fromkeys(score.task for score in scores))
    rows = []
    for task in tasks:
        task_scores = [score for score in scores if score.task == task]
        metric = findings.headline_metric(task_scores)
        rows += [
            Interval(task, score.mean, score.low, score.high, "ours")
            for score in task_scores
            if score.metric == metric and score.model.startswith("best-ours")
        ]
    if not rows:
        return None
    title = "Best model with vectors minus best classical model, by task, with 95 % intervals"
    return figures.intervals(rows, title=title, axis="gain over the best classical", zero=True)


def learning_curves(curves: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """Returns the name and figure of each task whose curve has at least two points.

    `curves` are the rows of the learning curves in report.json.
    """
    scores = [Score.from_row(row) for row in curves]
    charts = []
    for task in dict.fromkeys(score.task for score in scores):
        task_scores = [score for score in scores if score.task == task]
        if len({score.labels for score in task_scores}) < 2:
            continue  # too few labels for a second point
        metric = findings.headline_metric(task_scores)
        lines = []
        models = {score.model for score in task_scores if not findings.is_difference(score)}
        for model in _in_groups(models):
            points = sorted(
                (score for score in task_scores if (score.model, score.metric) == (model, metric)),
                key=lambda score: score.labels,
            )
            lines.append(
                Line(
                    model,
                    [point.labels for point in points],
                    [point.mean for point in points],
                    findings.group_of(model),
                    [point.low for point in points],
                    [point.high for point in points],
                )
            )
        label = METRIC_LABELS.get(metric, metric)
        title = f"{task}: {label} over the number of labels"
        charts.append((task, figures.learning_curves(lines, title=title, axis=label)))
    return charts


def calibrations(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Markup]]:
    """Returns the name, calibration sentence and calibration figure of each task.

    `rows` are the rows of the calibration in report.json. The figure shows the best calibrated
    classical model and the best calibrated model of ours.
    """
    charts = []
    for task in dict.fromkeys(row["task"] for row in rows):
        # A constant score is calibrated on average, but carries no information.
        task_rows = [row for row in rows if row["task"] == task and row["model"] != "popularity"]
        shown = [
            min(side, key=lambda row: row["error"])
            for group in ("classical", "ours")
            if (side := [row for row in task_rows if findings.group_of(row["model"]) == group])
        ]
        if not shown:
            continue
        lines = [
            Line(
                row["model"],
                [group["predicted"] for group in row["bins"]],
                [group["observed"] for group in row["bins"]],
                findings.group_of(row["model"]),
                [group["low"] for group in row["bins"]],
                [group["high"] for group in row["bins"]],
            )
            for row in shown
        ]
        figure = figures.calibration(lines, title=f"{task}: share of yes over the score")
        charts.append((task, findings.calibration_finding(task_rows), figure))
    return charts


def models_tried(scores: Sequence[Score]) -> list[tuple[str, str, str]]:
    """Returns the group, name and description of each model that has a description."""
    models = {score.model for score in scores}
    return [
        (findings.group_of(name), name, meaning)
        for name in _in_groups(models)
        if (meaning := findings.meaning_of(name)) is not None
    ]


def _task_facts(labels: Labels) -> str:
    users = len(set(labels.user_ids))
    facts = f"{len(labels):,} labels" + (f" of {users:,} users" if users < len(labels) else "")
    yes = positives(labels)
    if yes is not None:
        facts += f", {yes:,} of them yes ({yes / len(labels):.0%})"
    elif labels.kind == "multilabel":
        mean_size = labels.targets.sum(axis=1).mean()
        facts += f", on average {mean_size:.1f} of {len(labels.classes):,} values right"
    elif labels.classes:
        facts += f", {len(labels.classes):,} classes"
    return f"{facts}."


def _group(model: str) -> str:
    return "difference" if findings.DIFFERENCE in model else findings.group_of(model)


def _in_groups(models: set[str]) -> list[str]:
    """Returns the models sorted by group (see `_GROUPS`), then in the glossary's order."""
    order = [*findings.GLOSSARY]
    return sorted(
        models,
        key=lambda name: (
            _GROUPS.index(findings.group_of(name)),
            order.index(name) if name in order else len(order),
            name,
        ),
    )


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    write = findings.signed if findings.is_difference(score) else findings.number
    return f"{write(score.mean)} ({findings.interval(score)})"


def _dot(score: Score, name: str) -> Interval:
    return Interval(name, score.mean, score.low, score.high, findings.group_of(score.model))


def positives(labels: Labels) -> int | None:
    """Returns the number of labels with the answer yes; `None` if the task is not binary."""
    return int(labels.targets.sum()) if labels.kind == "binary" else None
