"""Tables that describe models, tasks and evaluations.

In: folders of models, tasks and evaluations. Out: rich tables. Weights are counted from the header
of their file.
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
from userbert.inspection.layout import fact_table, table
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
"""Version of the layout of model and task folders."""
_MODEL_FILES = ("config.json", "model.safetensors", "schema.yaml", "training.json")
"""Files that a model folder must hold."""
_CLASSES_SHOWN = 8
"""Number of class names in the table of a task."""


def describe_model(folder: Path) -> RenderableType:
    """Returns tables of a model, its pretraining, losses and inputs.

    Raises `ModelError` if the folder is damaged.
    """
    check_summary(folder, _FORMAT, _MODEL_FILES)
    config, record = read_json(folder / "config.json"), read_json(folder / "training.json")
    schema = Schema.load(folder / "schema.yaml")
    network = network_facts(config, count_weights(folder / "model.safetensors"))
    card = fact_table(
        f"Model {folder}",
        {
            **network,
            "weights": f"{network['weights']}, {_folder_size(folder) / 1e6:,.1f} MB",
            "written by": f"userbert {read_json(folder / 'summary.json').get('version')}",
        },
    )
    return Group(
        card,
        _pretraining_table(record, schema),
        *_loss_tables(folder, record),
        _input_table(config),
    )


def describe_task(folder: Path) -> RenderableType:
    """Returns a table of a task; raises `ModelError` if the folder is damaged."""
    check_summary(folder, _FORMAT, ("task.json", "head.safetensors"))
    task = read_json(folder / "task.json")
    classes = {"classes": _first_classes(task["classes"])} if task["classes"] else {}
    return Group(
        fact_table(f"Task {folder}", {**task_facts(task), **classes}),
        Text(f"its network: userbert inspect {folder / 'model'}"),
    )


def describe_fused(folder: Path) -> RenderableType:
    """Returns tables of a task with aggregates, and of the network in the task.

    Raises `ModelError` if the folder is damaged.
    """
    check_summary(folder, _FORMAT, ("fused.json", "regression.safetensors", "trees.txt"))
    title = f"Task {folder}: the mean of a network, a regression and trees"
    card = fact_table(title, fused_facts(read_json(folder / "fused.json")["record"]))
    return Group(card, describe_task(folder / "network"))


def describe_evaluation(folder: Path) -> RenderableType:
    """Returns the results and warnings of an evaluation."""
    report = read_json(folder / "report.json")
    messages = (*report["warnings"], *report["giveaways"])
    warnings = [Text(f"warning: {message}") for message in messages]
    return Group(evaluation_table(report["rows"]), *warnings)


def evaluation_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns a table of each task's models by its first metric, best first, differences last."""
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


def _pretraining_table(record: Mapping[str, Any], schema: Schema) -> RenderableType:
    """Returns a table of preset, changed settings and facts of the pretraining."""
    if not is_pretrained(record):
        return "The model is not pretrained: its weights are random."
    preset = record["preset"]
    settings = {"preset": preset, "changes to it": _changed_settings(preset, record["config"])}
    return fact_table("Pretraining", {**settings, **pretraining_facts(record, schema)})


def _changed_settings(preset: str, config: Mapping[str, Any]) -> str:
    """Returns the settings that differ from the preset, as text; without torch, all settings."""
    if find_spec("torch") is None:  # presets import it
        return ", ".join(f"{key}={value}" for key, value in _flat_settings(config))
    from userbert.training.settings import PRESETS

    if preset not in PRESETS:
        return f"this version has no preset of this name; settings: {dict(_flat_settings(config))}"
    defaults = dict(_flat_settings(PRESETS[preset].model_dump(mode="json")))
    # The heads (`model.tells_…`) follow from the objectives.
    changed = [
        f"{key}={value} (not {defaults.get(key)})"
        for key, value in _flat_settings(config)
        if defaults.get(key) != value and not key.startswith("model.tells_")
    ]
    return ", ".join(changed) or "none"


def _loss_tables(folder: Path, record: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yields a table of final losses, and the first, last and lowest held-out loss as text."""
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
        (first_step, first_loss), (last_step, last_loss) = curve[0], curve[-1]
        yield (
            f"held-out loss: {first_loss:.3f} after {first_step:,} steps, {last_loss:.3f} after "
            f"{last_step:,}, lowest {best[1]:.3f} after {best[0]:,}"
        )


def _validations(file: Path) -> list[tuple[int, float]]:
    """Returns step and held-out loss of each validation in `metrics.jsonl`.

    Returns an empty list if there is no file. Raises `ModelError` if the file is damaged.
    """
    if not file.is_file():
        return []
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        held_out = [(line["step"], line["validation"]) for line in lines if "validation" in line]
        return [(step, terms.get("loss", sum(terms.values()))) for step, terms in held_out]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: {error}. Copy the folder again.") from error


def _input_table(config: Mapping[str, Any]) -> Table:
    """Returns a table of the attributes that the network reads, with the number of ids of each."""
    attributes = table("Inputs", "segment", "attribute", "ids", "table")
    for row in inputs(config):
        attributes.add_row(*row)
    return attributes


def _folder_size(folder: Path) -> int:
    """Returns the size of all files, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _first_classes(names: Sequence[str]) -> str:
    """Returns the number of classes and the first names, as text."""
    shown = ", ".join(names[:_CLASSES_SHOWN])
    more = len(names) - _CLASSES_SHOWN
    return f"{len(names):,}: {shown}" + (f" and {more:,} more" if more > 0 else "")


def _flat_settings(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each setting of nested mappings, with its keys joined by dots."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat_settings(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, content
