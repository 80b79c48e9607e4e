"""The bench's parts as a table: recipes and models by tasks, beside the best classical model.

In: the folder of parts. Out: `table.md` in it. Intervals are by resamples of users that all parts
share, over the seeds that were run; differences are paired.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.folders import read_json, replacing_file

CLASSICAL = "classical"
"""The recipe that pretrains nothing."""
PICKED = "picked"
"""The model that was picked inside the training parts: the best of the classical or of ours."""
Found = Mapping[tuple[str, str, str, str], list[Mapping[str, Any]]]
"""By study, task, recipe and model: what each seed gave."""


def write_table(results: Path) -> Path:
    """Write the table of all parts that are there; return its path."""
    found = _read(results)
    lines = ["# Recipes of pretraining, tried", ""]
    for study, task in dict.fromkeys((study, task) for study, task, *_ in found):
        lines += [f"## {study}: {task}", "", *_of_task(found, study, task), ""]
    path = results / "table.md"
    with replacing_file(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
    return path


def _read(results: Path) -> Found:
    found: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for path in sorted(results.glob("*/*.json")):
        part = read_json(path)
        for task in part["tasks"]:
            for model, told in task["models"].items():
                found[part["study"], task["task"], part["recipe"], model].append(told)
    return found


def _of_task(found: Found, study: str, task: str) -> list[str]:
    mine = {key[2:]: seeds for key, seeds in found.items() if key[:2] == (study, task)}
    classical = mine.get((CLASSICAL, PICKED))
    lines = [
        "| recipe | model | mean | 95 % | seeds | ahead of the classical one picked |",
        "|---|---|---|---|---|---|",
    ]
    for (recipe, model), seeds in sorted(mine.items(), key=lambda item: -_mean(item[1])):
        low, high = _ends(_resampled(seeds))
        ahead = ""
        if classical is not None and recipe != CLASSICAL:
            difference = _resampled(seeds) - _resampled(classical)
            lead = _mean(seeds) - _mean(classical)
            ahead = "{:+.3f} ({:+.3f} to {:+.3f})".format(lead, *_ends(difference))
        lines.append(
            f"| {recipe} | {model} | {_mean(seeds):.4f} | {low:.3f} to {high:.3f} "
            f"| {len(seeds)} | {ahead} |"
        )
    return lines


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
