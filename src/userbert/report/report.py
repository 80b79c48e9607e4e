"""Writes `report.html`: the report of an evaluation, for people.

In: `evaluate`'s report, the data, the pretrained models, the tasks' labels. Out: one self-contained
HTML file without scripts or network access, in light and dark. `evaluate` and `demo` write it.
`findings.py` words its results, `comparison.py` lays them out, `figures.py` draws its charts, and
`portraits.py` its maps and portraits of users.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup

from userbert.data.batches import SegmentBatch
from userbert.data.store import PreparedData
from userbert.evaluation import findings
from userbert.evaluation.evaluate import Report
from userbert.evaluation.findings import Score
from userbert.folders import publishing_file, read_json
from userbert.model.userbert import UserBert
from userbert.report import figures
from userbert.report.comparison import (
    calibrations,
    learning_curves,
    models_tried,
    overview,
    positives,
    task_view,
)
from userbert.report.figures import Line
from userbert.report.portraits import Colour, coverage, map_users, portrait, sample_users
from userbert.tasks.labels import Labels
from userbert.training.checkpoint import METRICS_FILE

_MAX_MAPS = 4
"""Maximum number of maps of users, one per field or task; more would make the page long."""
_MAX_REASONS = 6
"""Maximum number of actions or reasons to list by name with their rows; the rest is *others*."""
_MAX_POINTS = 150
"""Maximum number of points of a loss curve. Longer curves are averaged down, which also smooths
them."""


@dataclass(frozen=True)
class Background:
    """Optional content of the report, in addition to the evaluation."""

    metrics: Sequence[Sequence[Mapping[str, Any]]] = ()
    """Lines of `metrics.jsonl` of each model."""
    colours: Sequence[Colour] = ()
    """Fields and tasks that colour the maps of users, by priority; empty: `_default_colours`."""
    source_note: str | None = None
    """Origin and licence of the data."""


@dataclass(frozen=True)
class SegmentView:
    """A segment's name, facts as text, and histogram of words per user."""

    name: str
    facts: str
    chart: Markup


def read_metrics(model_folder: Path) -> list[dict[str, Any]]:
    """Reads the lines of `metrics.jsonl` in a model folder; an empty list if there is no file."""
    path = model_folder / METRICS_FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_report(  # noqa: PLR0917 - the parts of an evaluation
    folder: Path,
    report: Report,
    data: PreparedData,
    models: Sequence[UserBert],
    labels: Sequence[Labels],
    cutoff: int,
    background: Background = Background(),
) -> Path:
    """Writes `folder`/report.html and returns its path.

    `models` (one per pretraining seed) and `labels` are the arguments of `evaluate`. Users are
    described just before `cutoff` (µs since 1970), as the first model reads them. Raises
    `InputError` if the file exists.
    """
    scores = [Score.from_row(row) for row in report.rows]
    evaluated = {score.task for score in scores}
    tasks = [task_view(task, scores) for task in labels if task.name in evaluated]
    users = sample_users(data, cutoff)
    colours = background.colours or _default_colours(data, models[0], labels)
    method, maps = map_users(models[0], data, cutoff, colours[:_MAX_MAPS])
    positive_counts = {task.name: positives(task) for task in labels}
    page = _template().render(
        question=findings.QUESTION,
        answer=findings.answer({task.name: task.finding for task in tasks}),
        overview=overview(scores),
        cautions=[*report.giveaways, *findings.cautions(scores, positive_counts, len(models))],
        tasks=tasks,
        metric_notes=[
            note
            for name, note in findings.METRIC_NOTES.items()
            if any(score.metric == name for score in scores)
        ],
        groups=models_tried(scores),
        curves=learning_curves(report.learning_curves),
        leads=findings.lead_findings(report.leads),
        calibrations=calibrations(report.calibration),
        facts=_data_facts(data),
        cutoff=_format_instant(data, cutoff),
        users=len(users.rows),
        is_drawn=users.is_drawn,
        segments=[_segment_view(segment) for segment in users.batch.segments],
        coverage=coverage(data, users.batch),
        **_row_account(data),
        hidden=models[0].hidden,
        is_timeless=data.schema.profile is not None and data.schema.profile.time is None,
        training=_training_facts(data, models),
        loss_trend=_loss_trend(background.metrics[0]) if background.metrics else "",
        losses=_losses(background.metrics[0]) if background.metrics else [],
        map_method=method,
        maps=maps,
        portrait=portrait(models[0], data, users),
        made=report.made,
        interval_note=findings.intervals_note(
            max((int(row["splits"]) for row in report.rows), default=0), len(models)
        ),
        source_note=background.source_note,
    )
    target = folder / "report.html"
    with publishing_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("userbert.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def _data_facts(data: PreparedData) -> list[tuple[str, str]]:
    summary = read_json(data.path / "summary.json")
    facts = [
        ("users", f"{len(data):,}"),
        ("first event", _format_instant(data, data.first_event)),
        ("last event", _format_instant(data, data.last_event)),
    ]
    for name in data.schema.segments:
        actions, words = summary["actions"][name], summary["words"][name]
        share = actions / max(words, 1)
        facts.append((name, f"{words:,} words, {actions:,} actions, {share:.1f} actions per word"))
    fitted = data.schema.fit_before_us
    source = "all events" if fitted is None else f"events before {_format_instant(data, fitted)}"
    facts.append(("vocabularies", f"from {source}"))
    return facts


def _row_account(data: PreparedData) -> dict[str, Any]:
    """Returns the template's variables about rows.

    They are the table of rows per file, used or left out, notes on why, and warnings.
    """
    summary = read_json(data.path / "summary.json")
    rows = summary["rows"]
    columns = ("outside_segments", "duplicates_dropped", "quarantined")
    nonzero_columns = [name for name in columns if any(account[name] for account in rows.values())]
    notes = [] if nonzero_columns else ["No row was left out."]
    outside: Counter[str] = Counter()
    for account in rows.values():
        outside.update(account["outside_by_action"])
    if outside:
        notes.append(f"Actions outside all segments: {_list_counts(outside)}.")
    rejected = data.path / "rejected.parquet"
    if rejected.is_file():
        reasons = pl.read_parquet(rejected, columns=["reason"])["reason"]
        notes.append(f"Quarantined rows (see rejected.parquet): {_list_counts(Counter(reasons))}.")
    return {
        # Names, not paths: the report may be read on another machine.
        "accounts": [(Path(name).name, account) for name, account in rows.items()],
        "row_columns": ["used", *nonzero_columns],
        "row_notes": notes,
        "warnings": summary["warnings"],
    }


def _list_counts(counts: Counter[str]) -> str:
    most_common = counts.most_common(_MAX_REASONS)
    rest = counts.total() - sum(count for _, count in most_common)
    items = [f"{name} ({count:,})" for name, count in most_common]
    return ", ".join(items + ([f"others ({rest:,})"] if rest else []))


def _segment_view(segment: SegmentBatch) -> SegmentView:
    words, actions = segment.word_counts, np.diff(segment.action_offsets)
    facts = f"Median {np.median(words):.0f} words per user, at most {words.max():,}"
    if len(actions):
        facts += f"; median {np.median(actions):.0f} actions per word, at most {actions.max():,}"
    cuts = [
        f"{count:,} {unit} over the limit per {owner} left out"
        for count, unit, owner in (
            (segment.words_cut, "words", "user"),
            (segment.actions_cut, "actions", "word"),
        )
        if count
    ]
    title = f"{segment.name}: words per user"
    chart = figures.histogram(words, title=title, axis=f"{segment.name} words per user")
    return SegmentView(segment.name, "; ".join([facts, *cuts]) + ".", chart)


def _training_facts(data: PreparedData, models: Sequence[UserBert]) -> list[tuple[str, list[str]]]:
    """Returns the table of training facts: a row per fact, a cell per model."""
    facts: list[tuple[str, list[str]]] = []
    for name, read in {
        "seed": lambda record: str(record["seed"]),
        "preset": lambda record: str(record["preset"]),
        "trained on events before": lambda record: _format_instant(data, record["before"]),
        "steps": lambda record: f"{record['config']['steps']:,}",
        "users per batch": lambda record: str(record["config"]["batch_size"]),
        "training pairs": lambda record: f"{record['pairs']:,}",
        "validation pairs": lambda record: f"{record['held_out_pairs']:,}",
        "last training loss": lambda record: f"{record['loss']:.2f}",
        "last validation loss": lambda record: f"{record['validation']['loss']:.2f}",
        "users per second": lambda record: f"{record['users_per_s']:,.0f}",
        "minutes": lambda record: f"{record['seconds'] / 60:.1f}",
    }.items():
        cells = [_fact(read, model.record) for model in models]
        if any(cells):
            facts.append((name, cells))
    return facts


def _fact(read: Callable[[Mapping[str, Any]], str], record: Mapping[str, Any]) -> str:
    """Reads a fact from a training record; empty if it is missing, as in older records."""
    try:
        return read(record)
    except (KeyError, TypeError):
        return ""


def _losses(lines: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Draws the total loss and the loss of each attribute, in training and validation."""
    training = [
        (line["step"], {"loss": line["loss"], **line["losses"]})
        for line in lines
        if "losses" in line
    ]
    validation = [(line["step"], line["validation"]) for line in lines if "validation" in line]
    if len(training) < 2:
        return []
    charts = []
    for name in training[0][1]:
        training_points = [(step, losses[name]) for step, losses in training]
        validation_points = [(step, losses[name]) for step, losses in validation if name in losses]
        curves = [Line("training", *_thinned(training_points), "baseline")]
        if validation_points:
            curves.append(Line("validation", *_thinned(validation_points), "ours"))
        title = "total" if name == "loss" else name
        chart = figures.losses(curves, name=title, title=f"Loss ({title}) over the steps")
        charts.append(chart)
    return charts


def _loss_trend(lines: Sequence[Mapping[str, Any]]) -> str:
    """Describes how the validation loss changed; empty if there are fewer than two values."""
    points = [(line["step"], line["validation"]["loss"]) for line in lines if "validation" in line]
    if len(points) < 2:
        return ""
    (first_step, first_loss), (last_step, last_loss) = points[0], points[-1]
    best_loss, best_step = min((loss, step) for step, loss in points)
    trend = (
        f"On validation users the loss went from {first_loss:.2f} (step {first_step:,}) to "
        f"{last_loss:.2f} (step {last_step:,})"
    )
    if best_step == last_step:
        return f"{trend} and was lowest at the end."
    return f"{trend}; the lowest was {best_loss:.2f} (step {best_step:,})."


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Returns the steps and values of a curve, averaged down to `_MAX_POINTS` points."""
    parts = np.array_split(np.array(points, float), min(len(points), _MAX_POINTS))
    means = [part.mean(axis=0) for part in parts]
    return [float(step) for step, _ in means], [float(value) for _, value in means]


def _default_colours(data: PreparedData, model: UserBert, labels: Sequence[Labels]) -> list[Colour]:
    """Returns the fields and tasks to colour maps by, in order of interest.

    Hidden fields come first, because they show most about the model; then binary and multiclass
    tasks that hide no field, then the other fields.
    """
    hidden = [field for field in data.vocabularies.profile if field in model.hidden]
    visible = [field for field in data.vocabularies.profile if field not in model.hidden]
    shown_tasks = [
        task for task in labels if task.kind in ("binary", "multiclass") and not task.hide
    ]
    return [*hidden, *shown_tasks, *visible]


def _format_instant(data: PreparedData, instant: int) -> str:
    """Formats an instant (µs since 1970) as a local date, with the time unless it is midnight."""
    moment = datetime.fromtimestamp(instant / 1e6, UTC).astimezone(data.schema.zone)
    return f"{moment:%-d %B %Y}" if moment.time() == time() else f"{moment:%-d %B %Y, %H:%M}"
