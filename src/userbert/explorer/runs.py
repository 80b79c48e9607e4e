"""How models learned: loss curves and facts of those that are whole, and of those that still learn.

In: folders of models, and a folder under which more lie. Out: `Run`s. What is damaged or half
written is left out and named in a warning: of a run that goes on, the last line may lack its end.
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
"""Of the folder in which a run lives until its model is whole: `.NAME.training`."""
_POINTS = 300
"""Of a curve: more are thinned out to means."""
_RESULTS = {"config.json", "task.json", "fused.json", "manifest.json"}
"""Of a folder that holds one, what lies deeper is its own."""
_DEEP = 4
"""Folders below the one that is looked through."""
_MOST = 200
"""Runs that are told."""


@dataclass(frozen=True)
class Point:
    """Losses after so many steps."""

    step: float
    loss: float
    by: dict[str, float]


@dataclass(frozen=True)
class Run:
    """A model's training."""

    name: str
    kind: Literal["model", "running"]
    preset: str | None
    steps: int | None
    """That were or will be done."""
    seconds: float | None
    learned: list[Point]
    held_out: list[Point]
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Runs:
    """All runs, and what could not be read."""

    runs: list[Run] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def all_runs(served: Mapping[str, Path], folder: Path | None) -> Runs:
    """Tell the runs of models that are served, and of those under a folder."""
    runs, warnings = [], []
    known = {path.resolve() for path in served.values()}
    found = [] if folder is None else [
        (name, path) for name, path in under(folder) if path.resolve() not in known
    ]  # fmt: skip
    for name, path in [*served.items(), *found][:_MOST]:
        try:
            run = _running(name, path) if _is_running(path) else _whole(name, path)
        except Exception:  # files of any kind: what is wrong with one takes no other away
            warnings.append(unreadable(name))
            continue
        if run is not None:
            runs.append(run)
    return Runs(runs, warnings)


def unreadable(name: str) -> str:
    """What is said of a result that is left out."""
    return f"{name} cannot be read: it is damaged, or is being written."


def under(folder: Path) -> Iterator[tuple[str, Path]]:
    """Folders in a folder, by their names below it; what a result holds is not looked into."""
    root = folder.resolve()
    for text, inner, files in os.walk(root):  # follows no link
        path = Path(text)
        depth = len(path.relative_to(root).parts)
        may_go_on = depth < _DEEP and not _RESULTS & set(files)
        inner[:] = sorted(name for name in inner if may_go_on and _is_shown(path / name))
        yield "/".join((root.name, *path.relative_to(root).parts)), path
        if _is_running(path):
            inner.clear()


def read_lines(file: Path) -> list[Any]:
    """Lines of JSON that are whole; none of a file that is not there."""
    if not file.is_file():
        return []
    texts = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [json.loads(text) for text in texts if text.endswith("\n")]


def _is_shown(path: Path) -> bool:
    return not path.name.startswith(".") or _is_running(path)


def _is_running(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_TRAINING)


def _running(name: str, path: Path) -> Run | None:
    if not (path / METRICS).is_file():
        return None
    learned, held_out = _curves(read_lines(path / METRICS))
    record = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    parent, _, own = name.rpartition("/")
    own = own.removeprefix(".").removesuffix(_TRAINING)
    config = record.get("config") or {}
    last = max([point.step for point in (*learned, *held_out)], default=0)
    return Run(
        f"{parent}/{own}" if parent else own,
        "running",
        record.get("preset"),
        config.get("steps"),
        None,
        learned,
        held_out,
        [("done", f"{last:,.0f} steps")],
    )


def _whole(name: str, path: Path) -> Run | None:
    """The run of a model or a task; none of another folder."""
    if (path / "task.json").is_file():
        facts = {**task_facts(read_json(path / "task.json")), **_network_facts(path / "model")}
        return Run(name, "model", None, None, None, [], [], _told(facts))
    if not (path / "training.json").is_file():
        return None
    record = read_json(path / "training.json")
    learned, held_out = _curves(read_lines(path / METRICS))
    steps, seconds = record.get("config", {}).get("steps"), record.get("seconds")
    told = _told(_network_facts(path))
    return Run(name, "model", record.get("preset"), steps, seconds, learned, held_out, told)


def _network_facts(model: Path) -> Facts:
    record, config = read_json(model / "training.json"), read_json(model / "config.json")
    facts = network_facts(config, count_weights(model / "model.safetensors"))
    if not is_pretrained(record):
        return facts
    return {**facts, **pretraining_facts(record, Schema.load(model / "schema.yaml"))}


def _told(facts: Facts) -> list[tuple[str, str]]:
    return [(title, text) for title, text in facts.items() if text is not None]


def _curves(lines: Sequence[Any]) -> tuple[list[Point], list[Point]]:
    """The losses that were learned from, and of users held out."""
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
    """Means of neighbours, if there are more than the eye can part."""
    if len(points) <= _POINTS:
        return points
    thinned = []
    for part in np.array_split(np.arange(len(points)), _POINTS):
        some = [points[number] for number in part.tolist()]
        by = {
            name: float(np.mean([one.by.get(name, np.nan) for one in some])) for name in some[0].by
        }
        thinned.append(Point(some[-1].step, float(np.mean([one.loss for one in some])), by))
    return thinned
