"""Loss curves and facts of training runs, finished or still running.

In: folders of models, and a folder to search for more. Out: `Run`s. A damaged run is left out and
named in a warning. A half-written last line in the metrics of an unfinished run is ignored.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from userbert.folders import read_json
from userbert.model.model_card import (
    Facts,
    count_weights,
    is_pretrained,
    network_facts,
    pretraining_facts,
)
from userbert.schema.models import Schema
from userbert.tasks.task_card import task_facts

METRICS = "metrics.jsonl"
_TRAINING = ".training"
"""Suffix of the folder of an unfinished run: `.NAME.training`."""
_POINTS = 300
"""Most points of a curve; longer curves are averaged down to this."""
_RESULTS = {"config.json", "task.json", "fused.json", "manifest.json"}
"""Files that mark a folder as a result; the subfolders of a result are not searched."""
_MOST_LEVELS = 4
"""Levels of subfolders to search."""
_MOST_RUNS = 200
"""Most runs to read."""


@dataclass(frozen=True)
class Point:
    """Losses at a training step."""

    step: float
    loss: float
    by: dict[str, float]
    """Loss of each attribute."""


@dataclass(frozen=True)
class Run:
    """Training run of a model."""

    name: str
    kind: Literal["model", "running"]
    preset: str | None
    steps: int | None
    """Steps of the whole run."""
    seconds: float | None
    learned: list[Point]
    """Training losses."""
    held_out: list[Point]
    """Validation losses."""
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Runs:
    """Runs, and a warning for each run that cannot be read."""

    runs: list[Run] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_runs(served: Mapping[str, Path], folder: Path | None) -> Runs:
    """Reads the runs of the served models (paths by name), and the runs under a folder."""
    runs, warnings = [], []
    served_paths = {path.resolve() for path in served.values()}
    others = [] if folder is None else [
        (name, path) for name, path in folders_under(folder) if path.resolve() not in served_paths
    ]  # fmt: skip
    for name, path in [*served.items(), *others][:_MOST_RUNS]:
        try:
            run = _read_running(name, path) if _is_running(path) else _read_finished(name, path)
        except Exception:  # any kind of damage: one run must not hide the others
            warnings.append(unreadable_warning(name))
            continue
        if run is not None:
            runs.append(run)
    return Runs(runs, warnings)


def unreadable_warning(name: str) -> str:
    """Returns the warning about a result that is left out."""
    return f"{name} cannot be read: it is damaged, or is being written."


def folders_under(folder: Path) -> Iterator[tuple[str, Path]]:
    """Walks the folders in a folder and yields their relative names; skips a result's subfolders.

    Does not follow links.
    """
    root = folder.resolve()
    for text, subfolders, files in os.walk(root):
        path = Path(text)
        depth = len(path.relative_to(root).parts)
        may_descend = depth < _MOST_LEVELS and not _RESULTS & set(files)
        subfolders[:] = sorted(
            name for name in subfolders if may_descend and _is_shown(path / name)
        )
        yield "/".join((root.name, *path.relative_to(root).parts)), path
        if _is_running(path):
            subfolders.clear()


def read_lines(file: Path) -> list[Any]:
    """Reads the complete lines of a JSONL file; an empty list if there is no file."""
    if not file.is_file():
        return []
    texts = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(text) for text in texts if text.endswith("\n")]


def _is_shown(path: Path) -> bool:
    return not path.name.startswith(".") or _is_running(path)


def _is_running(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_TRAINING)


def _read_running(name: str, path: Path) -> Run | None:
    if not (path / METRICS).is_file():
        return None
    learned, held_out = _curves(read_lines(path / METRICS))
    record = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    parent, _, base = name.rpartition("/")
    base = base.removeprefix(".").removesuffix(_TRAINING)
    config = record.get("config") or {}
    last = max([point.step for point in (*learned, *held_out)], default=0)
    return Run(
        f"{parent}/{base}" if parent else base,
        "running",
        record.get("preset"),
        config.get("steps"),
        None,
        learned,
        held_out,
        [("done", f"{last:,.0f} steps")],
    )


def _read_finished(name: str, path: Path) -> Run | None:
    """Reads the run of a finished model or task; `None` for any other folder."""
    if (path / "task.json").is_file():
        facts = {**task_facts(read_json(path / "task.json")), **_network_facts(path / "model")}
        return Run(name, "model", None, None, None, [], [], _known_facts(facts))
    if not (path / "training.json").is_file():
        return None
    record = read_json(path / "training.json")
    learned, held_out = _curves(read_lines(path / METRICS))
    steps, seconds = record.get("config", {}).get("steps"), record.get("seconds")
    rows = _known_facts(_network_facts(path))
    return Run(name, "model", record.get("preset"), steps, seconds, learned, held_out, rows)


def _network_facts(model: Path) -> Facts:
    record, config = read_json(model / "training.json"), read_json(model / "config.json")
    facts = network_facts(config, count_weights(model / "model.safetensors"))
    if not is_pretrained(record):
        return facts
    return {**facts, **pretraining_facts(record, Schema.load(model / "schema.yaml"))}


def _known_facts(facts: Facts) -> list[tuple[str, str]]:
    return [(title, text) for title, text in facts.items() if text is not None]


def _curves(lines: Sequence[Any]) -> tuple[list[Point], list[Point]]:
    """Returns the training losses and the validation losses."""
    learned = [
        Point(float(line["step"]), float(line["loss"]), _numbers(line["losses"]))
        for line in lines
        if "losses" in line
    ]
    held_out = []
    for line in lines:
        if "validation" in line:
            by = _numbers(line["validation"])
            loss = by.pop("loss", None)
            held_out.append(
                Point(float(line["step"]), sum(by.values()) if loss is None else loss, by)
            )
    return _thinned(learned), _thinned(held_out)


def _numbers(named: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in named.items()}


def _thinned(points: list[Point]) -> list[Point]:
    """Averages neighbouring points if there are more than `_POINTS`."""
    if len(points) <= _POINTS:
        return points
    thinned = []
    for numbers in np.array_split(np.arange(len(points)), _POINTS):
        group = [points[number] for number in numbers.tolist()]
        by = {
            name: float(np.mean([point.by.get(name, np.nan) for point in group]))
            for name in group[0].by
        }
        thinned.append(Point(group[-1].step, float(np.mean([point.loss for point in group])), by))
    return thinned
