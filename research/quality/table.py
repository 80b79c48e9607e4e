"""The bench's parts as tables: models by tasks, and what each difference of `default` brings.

In: the folder of parts. Out: `table.md` and `differences.md` in it. Intervals are by resamples of
users that all parts share, over the seeds that were run; differences are paired.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.folders import read_json, replacing_file
from userbert.training.settings import DEFAULT

CLASSICAL = "classical"
"""The recipe that pretrains nothing."""
PICKED = "picked"
"""The model that was picked inside the training parts: the best of the classical or of ours."""
_OF_VECTORS = ("frozen-linear", "fused-linear")
"""What tells a difference between vectors: alone, and beside counts."""
Found = Mapping[tuple[str, str, str, str], Mapping[int, Mapping[str, Any]]]
"""By study, task, recipe and model: what each seed gave."""


def write_tables(results: Path) -> None:
    """Write the tables of all parts that are there."""
    found = _read(results)
    tasks = list(dict.fromkeys((study, task) for study, task, *_ in found))
    lines = ["# Recipes of pretraining, tried", ""]
    for study, task in tasks:
        lines += [f"## {study}: {task}", "", *_of_task(found, study, task), ""]
    _write(results / "table.md", lines)
    changed = sorted({recipe for *_, recipe, _ in found} - {CLASSICAL, DEFAULT})
    if changed:
        lines = [
            "# What each difference brings",
            "",
            "The preset `default` less the same with one thing changed: paired differences of the "
            "same seeds, with 95 % intervals over users. Above 0, `default` is better.",
            "",
            *_differences(found, changed),
            "",
        ]
        _write(results / "differences.md", lines)


def _write(path: Path, lines: list[str]) -> None:
    with replacing_file(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _read(results: Path) -> Found:
    found: dict[tuple[str, str, str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for path in sorted(results.glob("*/*.json")):
        part = read_json(path)
        for task in part["tasks"]:
            for model, told in task["models"].items():
                key = part["study"], task["task"], part["recipe"], model
                found[key][part["seed"]] = told
    return found


def _differences(found: Found, changed: list[str]) -> list[str]:
    """A row for each changed recipe and model on vectors, a column for each task of theirs."""
    tasks = list(dict.fromkeys(key[:2] for key in found if key[2] in changed))
    lines = [
        "| changed | model | seeds | " + " | ".join(map(": ".join, tasks)) + " |",
        "|---|---|---|" + "---|" * len(tasks),
    ]
    for recipe, model in product(changed, _OF_VECTORS):
        cells, shared = [], set()
        for task in tasks:
            usual, other = (found.get((*task, name, model), {}) for name in (DEFAULT, recipe))
            seeds = usual.keys() & other.keys()
            shared |= seeds
            cells.append(_gain([usual[i] for i in seeds], [other[i] for i in seeds]))
        lines.append(f"| {recipe} | {model} | {len(shared)} | {' | '.join(cells)} |")
    return lines


def _of_task(found: Found, study: str, task: str) -> list[str]:
    mine = {
        key[2:]: list(seeds.values()) for key, seeds in found.items() if key[:2] == (study, task)
    }
    classical = mine.get((CLASSICAL, PICKED))
    lines = [
        "| recipe | model | mean | 95 % | seeds | ahead of the classical one picked |",
        "|---|---|---|---|---|---|",
    ]
    for (recipe, model), seeds in sorted(mine.items(), key=lambda item: -_mean(item[1])):
        low, high = _ends(_resampled(seeds))
        ahead = "" if classical is None or recipe == CLASSICAL else _gain(seeds, classical)
        lines.append(
            f"| {recipe} | {model} | {_mean(seeds):.4f} | {low:.3f} to {high:.3f} "
            f"| {len(seeds)} | {ahead} |"
        )
    return lines


def _gain(one: list[Mapping[str, Any]], other: list[Mapping[str, Any]]) -> str:
    if not one or not other:
        return ""
    low, high = _ends(_resampled(one) - _resampled(other))
    return f"{_mean(one) - _mean(other):+.3f} ({low:+.3f} to {high:+.3f})"


def _mean(seeds: list[Mapping[str, Any]]) -> float:
    return float(np.mean([told["value"] for told in seeds]))


def _resampled(seeds: list[Mapping[str, Any]]) -> NDArray[np.float64]:
    """(R,): the mean over seeds on each resample."""
    values = np.array([told["resampled"].split() for told in seeds], np.float64)
    mean: NDArray[np.float64] = values.mean(axis=0)
    return mean


def _ends(resampled: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return float(low), float(high)
