"""Tables that describe models, tasks and evaluations.

In: their folders. Out: rich tables. Weights are counted, not read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from userbert.errors import ModelError
from userbert.folders import check_summary, read_json
from userbert.inspection.layout import facts, table
from userbert.model.model_card import (
    count_weights,
    inputs,
    is_pretrained,
    losses,
    network_facts,
    pretraining_facts,
)
from userbert.schema.models import Schema
from userbert.tasks.task_card import fused_facts, task_facts

_FORMAT = 1
_MODEL_FILES = ("config.json", "model.safetensors", "schema.yaml", "training.json")
_CLASSES_SHOWN = 8


def describe_model(folder: Path) -> RenderableType:
    """Return the card of a model; raise `ModelError` if the folder is damaged."""
    check_summary(folder, _FORMAT, _MODEL_FILES)
    config, record = read_json(folder / "config.json"), read_json(folder / "training.json")
    schema = Schema.load(folder / "schema.yaml")
    network = network_facts(config, count_weights(folder / "model.safetensors"))
    card = facts(
        f"Model {folder}",
        {
            **network,
            "weights": f"{network['weights']}, {_size(folder) / 1e6:,.1f} MB",
            "written by": f"userbert {read_json(folder / 'summary.json').get('version')}",
        },
    )
    return Group(card, _pretraining(record, schema), *_losses(folder, record), _inputs(config))


def describe_task(folder: Path) -> RenderableType:
    """Return the card of a task; raise `ModelError` if the folder is damaged."""
    check_summary(folder, _FORMAT, ("task.json", "head.safetensors"))
    task = read_json(folder / "task.json")
    classes = {"classes": _few(task["classes"])} if task["classes"] else {}
    return Group(
        facts(f"Task {folder}", {**task_facts(task), **classes}),
        Text(f"its network: userbert inspect {folder / 'model'}"),
    )


def describe_fused(folder: Path) -> RenderableType:
    """Return the card of a task that averages several models."""
    check_summary(folder, _FORMAT, ("fused.json", "regression.safetensors", "trees.txt"))
    title = f"Task {folder}: the mean of a network, a regression and trees"
    card = facts(title, fused_facts(read_json(folder / "fused.json")["record"]))
    return Group(card, describe_task(folder / "network"))


def describe_evaluation(folder: Path) -> RenderableType:
    """Return the results and warnings of an evaluation."""
    report = read_json(folder / "report.json")
    messages = (*report["warnings"], *report["giveaways"])
    warnings = [Text(f"warning: {message}") for message in messages]
    return Group(evaluation_table(report["rows"]), *warnings)


def evaluation_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of each task's models by its first metric, best first, differences last."""
    table = Table("task", "model", "metric", "mean", "95 % interval")
    for task in dict.fromkeys(row["task"] for row in rows):
        task_rows = [row for row in rows if row["task"] == task]
        metric = task_rows[0]["metric"]
        task_rows = [row for row in task_rows if row["metric"] == metric]
        for row in sorted(task_rows, key=lambda row: (" " in row["model"], -row["mean"])):
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            table.add_row(task, row["model"], row["metric"], f"{row['mean']:.3f}", interval)
        table.add_section()
    return table


def _pretraining(record: Mapping[str, Any], schema: Schema) -> RenderableType:
    """Describe the pretraining: data, duration, changes to the preset."""
    if not is_pretrained(record):
        return "The model is not pretrained: its weights are random."
    preset = record["preset"]
    settings = {"preset": preset, "changes to it": _changes(preset, record["config"])}
    return facts("Pretraining", {**settings, **pretraining_facts(record, schema)})


def _changes(preset: str, config: Mapping[str, Any]) -> str:
    """Return the settings that differ from the preset, as text."""
    if find_spec("torch") is None:  # presets import it
        return ", ".join(f"{key}={value}" for key, value in _flat(config))
    from userbert.training.settings import PRESETS

    if preset not in PRESETS:
        return f"the preset no longer exists: {dict(_flat(config))}"
    defaults = dict(_flat(PRESETS[preset].model_dump(mode="json")))
    # The heads (`model.tells_…`) follow from the objectives.
    changed = [
        f"{key}={value} (not {defaults.get(key)})"
        for key, value in _flat(config)
        if defaults.get(key) != value and not key.startswith("model.tells_")
    ]
    return ", ".join(changed) or "none"


def _losses(folder: Path, record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the final losses, and the course of the held-out loss."""
    rows = losses(record)
    if not rows:
        return
    final = table("Final losses", "loss", "training", "held out")
    for row in rows:
        final.add_row(*row)
    yield final
    curve = _validations(folder / "metrics.jsonl")
    if len(curve) > 1:
        best = min(curve, key=lambda point: point[1])
        (first, loss), (last, end) = curve[0], curve[-1]
        yield (
            f"held-out loss: {loss:.3f} after {first:,} steps, {end:.3f} after {last:,}, lowest "
            f"{best[1]:.3f} after {best[0]:,}"
        )


def _validations(file: Path) -> list[tuple[int, float]]:
    """Return step and held-out loss of each validation."""
    if not file.is_file():
        return []
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        held_out = [(line["step"], line["validation"]) for line in lines if "validation" in line]
        return [(step, losses.get("loss", sum(losses.values()))) for step, losses in held_out]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: {error}. Copy the folder again.") from error


def _inputs(config: Mapping[str, Any]) -> Table:
    """Return a table of the attributes that the network reads, with their numbers of ids."""
    attributes = table("Inputs", "segment", "attribute", "ids", "table")
    for row in inputs(config):
        attributes.add_row(*row)
    return attributes


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_CLASSES_SHOWN])
    more = len(names) - _CLASSES_SHOWN
    return f"{len(names):,}: {shown}" + (f" and {more:,} more" if more > 0 else "")


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, content
