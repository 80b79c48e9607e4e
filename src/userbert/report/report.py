"""`report.html`: an evaluation that people can read and decide by.

In: `evaluate`'s report, the data, the pretrained models, the tasks' labels. Out: one HTML file that
needs nothing else: no script, no network, light and dark. `evaluate` and `demo` write it. Its words
follow from the numbers (`findings.py`, laid out in `comparison.py`), its figures are drawn in
`figures.py`, what is shown of users comes from `portraits.py`.
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

_MAPS = 4
_REASONS = 6
_POINTS = 150
"""Of a loss curve."""


@dataclass(frozen=True)
class Background:
    """What the report tells beside the evaluation; each part may be left out."""

    metrics: Sequence[Sequence[Mapping[str, Any]]] = ()
    """The lines of `metrics.jsonl` of each model."""
    colours: Sequence[Colour] = ()
    """What colours the maps of users; none: fields that no model saw, then the others."""
    source_note: str | None = None
    """Where the data come from, and under which licence."""


@dataclass(frozen=True)
class SegmentView:
    """A segment's words as the page shows them."""

    name: str
    facts: str
    chart: Markup


def read_metrics(model_folder: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics that pretraining left in a model folder; none if it has none."""
    path = model_folder / METRICS_FILE
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_report(  # noqa: PLR0917 - what an evaluation is made of
    folder: Path,
    report: Report,
    data: PreparedData,
    models: Sequence[UserBert],
    labels: Sequence[Labels],
    cutoff: int,
    background: Background = Background(),
) -> Path:
    """Write `folder`/report.html; return its path.

    `models`, one a pretraining seed, and `labels` are those that `evaluate` was given. Users are
    shown at `cutoff` (µs since 1970), through the first model. Raises `InputError` if the file
    exists.
    """
    scores = [Score.from_row(row) for row in report.rows]
    tasks = [task_view(one, scores) for one in labels if any(s.task == one.name for s in scores)]
    users = sample_users(data, cutoff)
    colours = background.colours or _chosen_colours(data, models[0], labels)
    method, maps = map_users(models[0], data, cutoff, colours[:_MAPS])
    yes = {one.name: positives(one) for one in labels}
    page = _template().render(
        question=findings.QUESTION,
        answer=findings.answer({task.name: task.finding for task in tasks}),
        overview=overview(scores),
        cautions=[*report.giveaways, *findings.cautions(scores, yes, len(models))],
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
        cutoff=_day(data, cutoff),
        users=len(users.rows),
        is_drawn=users.is_drawn,
        segments=[_segment(segment) for segment in users.batch.segments],
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
        ("first event", _day(data, data.first_event)),
        ("last event", _day(data, data.last_event)),
    ]
    for name in data.schema.segments:
        actions, words = summary["actions"][name], summary["words"][name]
        share = actions / max(words, 1)
        facts.append((name, f"{words:,} words of {actions:,} actions, {share:.1f} a word"))
    fitted = data.schema.fit_before_us
    source = "all events" if fitted is None else f"events before {_day(data, fitted)}"
    facts.append(("vocabularies", f"from {source}"))
    return facts


def _row_account(data: PreparedData) -> dict[str, Any]:
    """The rows of each file, the ways out that any row took, and why."""
    summary = read_json(data.path / "summary.json")
    rows = summary["rows"]
    ways = ("outside_segments", "duplicates_dropped", "quarantined")
    left_out = [way for way in ways if any(account[way] for account in rows.values())]
    notes = [] if left_out else ["No row was left out."]
    outside: Counter[str] = Counter()
    for account in rows.values():
        outside.update(account["outside_by_action"])
    if outside:
        notes.append(f"Outside every segment are the actions {_counted(outside)}.")
    rejected = data.path / "rejected.parquet"
    if rejected.is_file():
        reasons = pl.read_parquet(rejected, columns=["reason"])["reason"]
        notes.append(
            f"Quarantined, as rejected.parquet says row by row: {_counted(Counter(reasons))}."
        )
    return {
        # A path says where a file lay on some machine; its name says which file it was.
        "accounts": [(Path(name).name, account) for name, account in rows.items()],
        "left_out": ["used", *left_out],
        "row_notes": notes,
        "warnings": summary["warnings"],
    }


def _counted(counts: Counter[str]) -> str:
    most = counts.most_common(_REASONS)
    rest = counts.total() - sum(count for _, count in most)
    said = [f"{name} ({count:,})" for name, count in most]
    return ", ".join(said + ([f"others ({rest:,})"] if rest else []))


def _segment(segment: SegmentBatch) -> SegmentView:
    words, actions = segment.word_counts, np.diff(segment.action_offsets)
    facts = f"Median {np.median(words):.0f} words a user, at most {words.max():,}"
    if len(actions):
        facts += f"; median {np.median(actions):.0f} actions a word, at most {actions.max():,}"
    cut = [
        f"{count:,} {what} beyond the limit of {limit} left out"
        for count, what, limit in (
            (segment.words_cut, "words", "a user"),
            (segment.actions_cut, "actions", "a word"),
        )
        if count
    ]
    title = f"{segment.name}: words a user"
    chart = figures.histogram(words, title=title, axis=f"{segment.name} words a user")
    return SegmentView(segment.name, "; ".join([facts, *cut]) + ".", chart)


def _training_facts(data: PreparedData, models: Sequence[UserBert]) -> list[tuple[str, list[str]]]:
    """A row a fact, a cell a model."""
    facts: list[tuple[str, list[str]]] = []
    for name, read in {
        "seed": lambda record: str(record["seed"]),
        "preset": lambda record: str(record["preset"]),
        "learned from events before": lambda record: _day(data, record["before"]),
        "steps": lambda record: f"{record['config']['steps']:,}",
        "users in a batch": lambda record: str(record["config"]["batch_size"]),
        "users learned from": lambda record: f"{record['pairs']:,}",
        "users held out": lambda record: f"{record['held_out_pairs']:,}",
        "last training loss": lambda record: f"{record['loss']:.2f}",
        "last validation loss": lambda record: f"{record['validation']['loss']:.2f}",
        "users a second": lambda record: f"{record['users_per_s']:,.0f}",
        "minutes": lambda record: f"{record['seconds'] / 60:.1f}",
    }.items():
        cells = [_fact(read, model.record) for model in models]
        if any(cells):
            facts.append((name, cells))
    return facts


def _fact(read: Callable[[Mapping[str, Any]], str], record: Mapping[str, Any]) -> str:
    """A fact of a training record; empty if the record, of another version, has it not."""
    try:
        return read(record)
    except (KeyError, TypeError):
        return ""


def _losses(lines: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """A figure for the whole loss and one an attribute: training, and validation dashed."""
    training = [
        (line["step"], {"loss": line["loss"], **line["losses"]})
        for line in lines
        if "losses" in line
    ]
    validation = [(line["step"], line["validation"]) for line in lines if "validation" in line]
    if len(training) < 2:
        return []
    drawn = []
    for name in training[0][1]:
        learned = Line(
            "training", *_thinned([(step, named[name]) for step, named in training]), "baseline"
        )
        held_out = [(step, named[name]) for step, named in validation if name in named]
        shown = [learned]
        if held_out:
            shown.append(Line("validation", *_thinned(held_out), "ours"))
        title = "all together" if name == "loss" else name
        drawn.append(figures.losses(shown, name=title, title=f"Loss of {title} over the steps"))
    return drawn


def _loss_trend(lines: Sequence[Mapping[str, Any]]) -> str:
    held_out = [
        (line["step"], line["validation"]["loss"]) for line in lines if "validation" in line
    ]
    if len(held_out) < 2:
        return ""
    (first_step, first), (last_step, last) = held_out[0], held_out[-1]
    best, best_step = min((loss, step) for step, loss in held_out)
    said = (
        f"On users held out the loss went from {first:.2f} (step {first_step:,}) to {last:.2f} "
        f"(step {last_step:,})"
    )
    if best_step == last_step:
        return f"{said} and was still falling."
    return f"{said}; its lowest was {best:.2f} (step {best_step:,})."


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Steps and values, means of neighbours if there are more than the eye can part."""
    parts = np.array_split(np.array(points, float), min(len(points), _POINTS))
    means = [part.mean(axis=0) for part in parts]
    return [float(step) for step, _ in means], [float(value) for _, value in means]


def _chosen_colours(data: PreparedData, model: UserBert, labels: Sequence[Labels]) -> list[Colour]:
    """Fields that the model never saw say most; then labels, then the other fields."""
    unseen = [field for field in data.vocabularies.profile if field in model.hidden]
    seen = [field for field in data.vocabularies.profile if field not in model.hidden]
    answers = [one for one in labels if one.kind in ("binary", "multiclass") and not one.hide]
    return [*unseen, *answers, *seen]


def _day(data: PreparedData, instant: int) -> str:
    moment = datetime.fromtimestamp(instant / 1e6, UTC).astimezone(data.schema.zone)
    return f"{moment:%-d %B %Y}" if moment.time() == time() else f"{moment:%-d %B %Y, %H:%M}"
