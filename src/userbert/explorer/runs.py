"""Loss curves and facts of training runs, finished or still running.

In: folders of models, and a folder to search for more runs. Out: `Run`s. A damaged run is left out
and named in a warning. A half-written last line of metrics is ignored.
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
"""File with the losses of a run, as JSON lines."""
_TRAINING = ".training"
"""Suffix of the folder of an unfinished run: `.NAME.training`."""
_MAX_POINTS = 300
"""Maximum number of points of a curve; longer curves are averaged down to this number."""
_RESULT_FILES = {"config.json", "task.json", "fused.json", "manifest.json"}
"""Files that mark a folder as a result, such as a model; its subfolders are not searched."""
_MAX_DEPTH = 4
"""Maximum number of levels of subfolders to search, to bound the time of a call."""
_MAX_FOLDERS = 200
"""Maximum number of folders to read, with or without a run."""


@dataclass(frozen=True)
class Point:
    """Losses at a training step, or mean losses of several steps up to it."""

    step: float
    loss: float
    """Total loss of all attributes."""
    by: dict[str, float]
    """Loss by attribute."""


@dataclass(frozen=True)
class Run:
    """Training run of a model."""

    name: str
    kind: Literal["model", "running"]
    """Whether the run has finished (`model`) or is unfinished (`running`)."""
    preset: str | None
    steps: int | None
    """Number of steps of the whole run."""
    seconds: float | None
    """Duration of a finished run."""
    learned: list[Point]
    """Training losses."""
    held_out: list[Point]
    """Validation losses."""
    facts: list[tuple[str, str]]
    """Titles and texts of facts, in the order to show them."""


@dataclass(frozen=True)
class Runs:
    """Runs, and a warning for each run that cannot be read."""

    runs: list[Run] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_runs(served: Mapping[str, Path], folder: Path | None) -> Runs:
    """Reads the runs of the served models (paths by name), then the other runs under a folder."""
    runs, warnings = [], []
    served_paths = {path.resolve() for path in served.values()}
    other_folders = [] if folder is None else [
        (name, path) for name, path in folders_under(folder) if path.resolve() not in served_paths
    ]  # fmt: skip
    for name, path in [*served.items(), *other_folders][:_MAX_FOLDERS]:
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
    """Yields the names and paths of a folder and its subfolders, down to `_MAX_DEPTH` levels.

    A name is the path relative to the parent of `folder`. Skips subfolders of results and of
    unfinished runs, and hidden folders except unfinished runs. Does not follow links.
    """
    root = folder.resolve()
    for text, subfolders, files in os.walk(root):
        path = Path(text)
        depth = len(path.relative_to(root).parts)
        may_descend = depth < _MAX_DEPTH and not _RESULT_FILES & set(files)
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
    """Reads an unfinished run; `None` if it has no metrics yet."""
    if not (path / METRICS).is_file():
        return None
    learned, held_out = _curves(read_lines(path / METRICS))
    record = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    parent, _, base = name.rpartition("/")
    base = base.removeprefix(".").removesuffix(_TRAINING)
    config = record.get("config") or {}
    last_step = max([point.step for point in (*learned, *held_out)], default=0)
    return Run(
        f"{parent}/{base}" if parent else base,
        "running",
        record.get("preset"),
        config.get("steps"),
        None,
        learned,
        held_out,
        [("done", f"{last_step:,.0f} steps")],
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
        Point(float(line["step"]), float(line["loss"]), _as_floats(line["losses"]))
        for line in lines
        if "losses" in line
    ]
    held_out = []
    for line in lines:
        if "validation" in line:
            by = _as_floats(line["validation"])
            loss = by.pop("loss", None)
            held_out.append(
                Point(float(line["step"]), sum(by.values()) if loss is None else loss, by)
            )
    return _thinned(learned), _thinned(held_out)


def _as_floats(losses: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(loss) for name, loss in losses.items()}


def _thinned(points: list[Point]) -> list[Point]:
    """Averages groups of consecutive points if there are more than `_MAX_POINTS`."""
    if len(points) <= _MAX_POINTS:
        return points
    thinned = []
    for indices in np.array_split(np.arange(len(points)), _MAX_POINTS):
        group = [points[index] for index in indices.tolist()]
        by = {
            name: float(np.mean([point.by.get(name, np.nan) for point in group]))
            for name in group[0].by
        }
        thinned.append(Point(group[-1].step, float(np.mean([point.loss for point in group])), by))
    return thinned
