"""Tables of the bench's results: models by tasks, and the gain of each setting of `default`.

In: the folder of results. Out: `table.md` and `differences.md` in it. Intervals come from resamples
of users that all runs share, over the finished seeds; differences are paired.
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
"""Recipe without pretraining."""
PICKED = "picked"
"""Best classical model, or best model of ours, chosen on training data."""
_VECTOR_MODELS = ("frozen-linear", "fused-linear")
"""Models that show differences between vectors: linear on vectors, and on vectors and counts."""
Results = Mapping[tuple[str, str, str, str], Mapping[int, Mapping[str, Any]]]
"""Results of each seed, by study, task, recipe and model."""


def write_tables(results: Path) -> None:
    """Writes the tables of all finished runs."""
    results_by_key = _read(results)
    tasks = list(dict.fromkeys((study, task) for study, task, *_ in results_by_key))
    lines = ["# Comparison of pretraining recipes", ""]
    for study, task in tasks:
        lines += [f"## {study}: {task}", "", *_task_table(results_by_key, study, task), ""]
    _write(results / "table.md", lines)
    changed = sorted({recipe for *_, recipe, _ in results_by_key} - {CLASSICAL, DEFAULT})
    if changed:
        lines = [
            "# Gain of each setting",
            "",
            "The preset `default` minus the recipe with one setting changed: paired differences "
            "over shared seeds, with 95 % intervals over users. Above 0, `default` is better.",
            "",
            *_differences(results_by_key, changed),
            "",
        ]
        _write(results / "differences.md", lines)


def _write(path: Path, lines: list[str]) -> None:
    """Writes lines to a file atomically."""
    with replacing_file(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _read(results: Path) -> Results:
    """Reads the results of all finished runs."""
    results_by_key: dict[tuple[str, str, str, str], dict[int, Mapping[str, Any]]] = defaultdict(
        dict
    )
    for path in sorted(results.glob("*/*.json")):
        content = read_json(path)
        for task in content["tasks"]:
            for model, result in task["models"].items():
                key = content["study"], task["task"], content["recipe"], model
                results_by_key[key][content["seed"]] = result
    return results_by_key


def _differences(results_by_key: Results, changed: list[str]) -> list[str]:
    """Returns a row per changed recipe and model on vectors, with a column per task."""
    tasks = list(dict.fromkeys(key[:2] for key in results_by_key if key[2] in changed))
    lines = [
        "| changed | model | seeds | " + " | ".join(map(": ".join, tasks)) + " |",
        "|---|---|---|" + "---|" * len(tasks),
    ]
    for recipe, model in product(changed, _VECTOR_MODELS):
        cells, shared = [], set()
        for task in tasks:
            default_seeds, changed_seeds = (
                results_by_key.get((*task, name, model), {}) for name in (DEFAULT, recipe)
            )
            seeds = default_seeds.keys() & changed_seeds.keys()
            shared |= seeds
            cells.append(
                _gain([default_seeds[i] for i in seeds], [changed_seeds[i] for i in seeds])
            )
        lines.append(f"| {recipe} | {model} | {len(shared)} | {' | '.join(cells)} |")
    return lines


def _task_table(results_by_key: Results, study: str, task: str) -> list[str]:
    """Returns the table of a task: recipes and models, the best first."""
    by_model = {
        key[2:]: list(seeds.values())
        for key, seeds in results_by_key.items()
        if key[:2] == (study, task)
    }
    classical = by_model.get((CLASSICAL, PICKED))
    lines = [
        "| recipe | model | mean | 95 % | seeds | lead over the picked classical model |",
        "|---|---|---|---|---|---|",
    ]
    for (recipe, model), seeds in sorted(by_model.items(), key=lambda item: -_mean(item[1])):
        low, high = _interval(_resampled(seeds))
        ahead = "" if classical is None or recipe == CLASSICAL else _gain(seeds, classical)
        lines.append(
            f"| {recipe} | {model} | {_mean(seeds):.4f} | {low:.3f} to {high:.3f} "
            f"| {len(seeds)} | {ahead} |"
        )
    return lines


def _gain(first: list[Mapping[str, Any]], second: list[Mapping[str, Any]]) -> str:
    """Formats the paired difference of two lists of results, by the same seeds; empty if none."""
    if not first or not second:
        return ""
    low, high = _interval(_resampled(first) - _resampled(second))
    return f"{_mean(first) - _mean(second):+.3f} ({low:+.3f} to {high:+.3f})"


def _mean(seeds: list[Mapping[str, Any]]) -> float:
    """Returns the mean of a metric over seeds."""
    return float(np.mean([result["value"] for result in seeds]))


def _resampled(seeds: list[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Returns the mean over seeds on each of R resamples (R,)."""
    values = np.array([result["resampled"].split() for result in seeds], np.float64)
    mean: NDArray[np.float64] = values.mean(axis=0)
    return mean


def _interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """Returns the 95 % interval of resampled values (R,)."""
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return float(low), float(high)
