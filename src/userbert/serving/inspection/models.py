"""What models, tasks and evaluations say of themselves.

In: their folders. Out: rich tables. Weights are not read, but for how many there are.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from userbert.errors import ModelError
from userbert.folders import check_summary, read_json
from userbert.schema.models import Schema
from userbert.serving.inspection.layout import facts, table

_FORMAT = 1
_MODEL_FILES = ("config.json", "model.safetensors", "schema.yaml", "training.json")
_CLASSES_SHOWN = 8


def describe_model(folder: Path) -> RenderableType:
    """Lay out a model's card; raise `ModelError` if the folder is damaged."""
    check_summary(folder, _FORMAT, _MODEL_FILES)
    config, record = read_json(folder / "config.json"), read_json(folder / "training.json")
    schema = Schema.load(folder / "schema.yaml")
    size = config["model"]
    weights, file_size = _weights(folder / "model.safetensors"), _size(folder)
    network = facts(
        f"Model {folder}",
        {
            "network": f"{size['layers']} layers of width {size['hidden']}, {size['heads']} heads",
            "weights": f"{weights:,}, {file_size / 1e6:,.1f} MB",
            "vectors": f"{_width(config):,} numbers, pool={size['pool']}",
            "never saw": ", ".join(config["hidden"]) or None,
            "written by": f"userbert {read_json(folder / 'summary.json').get('version')}",
        },
    )
    return Group(network, _learned(record, schema), *_losses(folder, record), _inputs(config))


def describe_task(folder: Path) -> RenderableType:
    """Lay out a task model's card; raise `ModelError` if the folder is damaged."""
    check_summary(folder, _FORMAT, ("task.json", "head.safetensors"))
    task = read_json(folder / "task.json")
    record = task["record"]
    classes = task["classes"]
    card = facts(
        f"Task {folder}",
        {
            "question": task["question"],
            "kind": task["kind"],
            "classes": _few(classes) if classes else None,
            "horizon": task["horizon"],
            "hidden fields": ", ".join(task["hide"]) or None,
            "labels": f"{record['labels']:,}, and {record['validation_labels']:,} set apart",
            "quality on those": f"{record['quality']:.3f}",
            "best after": f"{record['best_epoch']} of {record['epochs']} epochs",
            "started from": "new weights" if record["from_scratch"] else "the pretrained network",
            "learning": f"seed {record['seed']}, batches of {record['batch_size']}, "
            f"learning rate {record['learning_rate']:g}, {record['precision']}",
        },
    )
    return Group(card, Text(f"its network: userbert inspect {folder / 'model'}"))


def describe_fused(folder: Path) -> RenderableType:
    """Lay out the card of a task that is the mean of three models."""
    check_summary(folder, _FORMAT, ("fused.json", "regression.safetensors", "trees.txt"))
    record = read_json(folder / "fused.json")["record"]
    each = {f"{name} alone": f"{value:.3f}" for name, value in record["qualities"].items()}
    card = facts(
        f"Task {folder}: the mean of a network, a regression and trees",
        {"quality on those set apart": f"{record['quality']:.3f}", **each},
    )
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
    if "steps" not in record.get("config", {}):
        return "It has not been pretrained: its weights are as they were drawn."
    config, before = record["config"], record["before"]
    earlier = record.get("from")
    moment = datetime.fromtimestamp(before / 1e6, UTC).astimezone(schema.zone)
    return facts(
        "Pretraining",
        {
            "preset": record["preset"],
            "differs from it": _differences(record["preset"], config),
            "learned from events before": moment.isoformat(" ", "seconds"),
            "of users with cut-offs of their own": "yes (--at)" if record["at"] else None,
            "users": f"{record['people']:,}" if "people" in record else None,
            "pairs of user and cut-off": f"{record['pairs']:,}",
            "held out": f"{record['held_out_pairs']:,} pairs",
            "data": record["data"][:12],
            "steps": f"{config['steps']:,} batches of {config['batch_size']}, "
            f"{record['users']:,} user sequences",
            "time": f"{record['seconds']:,.0f} s, {record['users_per_s']:,.0f} users a second",
            "seed": str(record["seed"]),
            "processes": str(record["processes"]),
            "precision": record["precision"],
            "went on from": None
            if not earlier
            else f"a model of seed {earlier.get('seed')}, "
            f"{earlier.get('config', {}).get('steps', 0):,} steps",
            "new values since": str(record["extended_by"]) if "extended_by" in record else None,
        },
    )


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
    if "losses" not in record:
        return
    held_out = record.get("validation") or {}
    made = table("Losses at the end", "of", "learned from", "held out")
    whole = {"all together": record["loss"], **record["losses"]}
    for name, loss in whole.items():
        other = held_out.get("loss" if name == "all together" else name)
        made.add_row(name, f"{loss:.3f}", "" if other is None else f"{other:.3f}")
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
    for segment in config["input"]["segments"]:
        for one in segment["attributes"]:
            made.add_row(segment["name"], one["name"], f"{one['size']:,}", one["table"])
    for one in config["input"]["profile"]:
        made.add_row("profile", one["name"], f"{one['size']:,}", one["table"])
    return made


def _width(config: Mapping[str, Any]) -> int:
    """Of user embeddings."""
    size = config["model"]
    parts = 2 + bool(config["input"]["profile"]) + bool(size["summary"])
    return int(size["hidden"]) * (parts if size["pool"] == "all" else 1)


def _weights(file: Path) -> int:
    """Count the numbers in a safetensors file by its header."""
    with file.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        header = json.loads(content.read(length))
    return sum(prod(one["shape"]) for name, one in header.items() if name != "__metadata__")


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
