"""What models, tasks and evaluations say of themselves.

In: their folders. Out: rich tables. Weights are not read, but for how many there are.
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
    """Lay out a model's card; raise `ModelError` if the folder is damaged."""
    check_summary(folder, _FORMAT, _MODEL_FILES)
    config, record = read_json(folder / "config.json"), read_json(folder / "training.json")
    schema = Schema.load(folder / "schema.yaml")
    told = network_facts(config, count_weights(folder / "model.safetensors"))
    network = facts(
        f"Model {folder}",
        {
            **told,
            "weights": f"{told['weights']}, {_size(folder) / 1e6:,.1f} MB",
            "written by": f"userbert {read_json(folder / 'summary.json').get('version')}",
        },
    )
    return Group(network, _learned(record, schema), *_losses(folder, record), _inputs(config))


def describe_task(folder: Path) -> RenderableType:
    """Lay out a task model's card; raise `ModelError` if the folder is damaged."""
    check_summary(folder, _FORMAT, ("task.json", "head.safetensors"))
    task = read_json(folder / "task.json")
    classes = {"classes": _few(task["classes"])} if task["classes"] else {}
    return Group(
        facts(f"Task {folder}", {**task_facts(task), **classes}),
        Text(f"its network: userbert inspect {folder / 'model'}"),
    )


def describe_fused(folder: Path) -> RenderableType:
    """Lay out the card of a task that is the mean of several models."""
    check_summary(folder, _FORMAT, ("fused.json", "regression.safetensors", "trees.txt"))
    title = f"Task {folder}: the mean of a network, a regression and trees"
    card = facts(title, fused_facts(read_json(folder / "fused.json")["record"]))
    return Group(card, describe_task(folder / "network"))


def describe_evaluation(folder: Path) -> RenderableType:
    """Lay out what an evaluation found."""
    report = read_json(folder / "report.json")
    warnings = [Text(f"warning: {one}") for one in (*report["warnings"], *report["giveaways"])]
    return Group(verdict(report["rows"]), *warnings)


def verdict(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out an evaluation's rows: each task's models by its first metric, differences last."""
    table = Table("task", "model", "metric", "mean", "95 % interval")
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        mine = [row for row in mine if row["metric"] == mine[0]["metric"]]
        for row in sorted(mine, key=lambda row: (" " in row["model"], -row["mean"])):
            interval = f"{row['low']:.3f} to {row['high']:.3f}"
            table.add_row(task, row["model"], row["metric"], f"{row['mean']:.3f}", interval)
        table.add_section()
    return table


def _learned(record: Mapping[str, Any], schema: Schema) -> RenderableType:
    """From what a model learned, for how long, and how it differs from its preset."""
    if not is_pretrained(record):
        return "It has not been pretrained: its weights are as they were drawn."
    preset = record["preset"]
    differs = {"preset": preset, "differs from it": _differences(preset, record["config"])}
    return facts("Pretraining", {**differs, **pretraining_facts(record, schema)})


def _differences(preset: str, config: Mapping[str, Any]) -> str:
    """The settings that are not the preset's."""
    if find_spec("torch") is None:  # by which presets say what networks are
        return ", ".join(f"{key}={value}" for key, value in _flat(config))
    from userbert.training.settings import PRESETS

    if preset not in PRESETS:
        return f"there is no such preset any more: {dict(_flat(config))}"
    usual = dict(_flat(PRESETS[preset].model_dump(mode="json")))
    # Which heads there are follows from the objectives.
    changed = [
        f"{key}={value} (not {usual.get(key)})"
        for key, value in _flat(config)
        if usual.get(key) != value and not key.startswith("model.tells_")
    ]
    return ", ".join(changed) or "in nothing"


def _losses(folder: Path, record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """How well it learned what, and whether it still did so at the end."""
    rows = losses(record)
    if not rows:
        return
    made = table("Losses at the end", "of", "learned from", "held out")
    for row in rows:
        made.add_row(*row)
    yield made
    curve = _validations(folder / "metrics.jsonl")
    if len(curve) > 1:
        best = min(curve, key=lambda point: point[1])
        (first, loss), (last, end) = curve[0], curve[-1]
        yield (
            f"held-out loss: {loss:.3f} after {first:,} steps, {end:.3f} after {last:,}, least "
            f"{best[1]:.3f} after {best[0]:,}"
        )


def _validations(file: Path) -> list[tuple[int, float]]:
    if not file.is_file():
        return []
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        found = [(line["step"], line["validation"]) for line in lines if "validation" in line]
        return [(step, one.get("loss", sum(one.values()))) for step, one in found]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: {error}. Copy the folder again.") from error


def _inputs(config: Mapping[str, Any]) -> Table:
    """What it reads: attributes by segment, with the number of their ids."""
    made = table("Inputs", "where", "attribute", "ids", "table")
    for row in inputs(config):
        made.add_row(*row)
    return made


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
