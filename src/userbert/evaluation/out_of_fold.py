"""Scores of users by models that did not learn from them, and what they are worth.

In: fits of a workshop, done fold by fold. Out: `OutOfFold`s, the best of several, rows as in
report.json. `evaluate` and its learning curves use it.

Letters in shapes: B pairs, C classes, R resamples.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Floats
from userbert.evaluation.fits import Fit, Material, Workshop, do_all
from userbert.progress import progress
from userbert.tasks.blending import Scored, blend, trust
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import Estimate, MetricName, estimate, roc_auc_or_chance
from userbert.tasks.splits import VALIDATION_SHARE
from userbert.workers import cores

METRICS: Mapping[str, tuple[MetricName, ...]] = {
    "binary": ("roc_auc", "pr_auc", "accuracy"),
    "multiclass": ("map_at_10", "accuracy"),
    "multilabel": ("map_at_10",),
}
"""By the kind of the task; models are chosen by the first."""
BEST = "best-ours − best-classical"  # noqa: RUF001 - the design's name of the row
"""The paired difference of the best of either side, each picked inside the training part."""

Key = tuple[int, str, int | None]
"""A task, a model, and how many labels it learned from, if not all."""


@dataclass
class OutOfFold:
    """A model's scores of all pairs, each from the fold in which it was not learned from."""

    model: str
    scores: list[Floats]
    """(B,) or (B, C), one array a run."""
    validation: Floats
    """(runs, folds)."""
    judges: float
    """How many validation pairs a fold has; of yes-or-no tasks, how many on the rarer side."""
    held: dict[tuple[int, int], Floats] = field(default_factory=dict)
    """By run and fold: scores of the validation pairs, of models that may be blended."""

    def part(self, run: int, fold: int, material: Material) -> Scored:
        """What was found in one run, of one fold."""
        test = material.folds == fold
        value = float(self.validation[run, fold])
        return Scored(self.scores[run][test], value, self.held.get((run, fold)))


def collect(
    workshop: Workshop, fits: Sequence[Fit], folds: int, workers: int | None
) -> dict[Key, OutOfFold]:
    """Do all fits and put the folds together; none as `workers`: a process a core."""
    gathered: dict[Key, OutOfFold] = {}
    runs: dict[Key, int] = defaultdict(int)
    for fit in fits:
        key = fit.task, fit.model, fit.size
        runs[key] = max(runs[key], fit.run + 1)
    with progress("evaluating", len(fits)) as advance:
        for fit, scored in do_all(workshop, fits, min(workers or cores(), len(fits))):
            key = fit.task, fit.model, fit.size
            material = workshop.materials[fit.task]
            if key not in gathered:
                shape = (len(material.labels), *scored.scores.shape[1:])
                gathered[key] = OutOfFold(
                    fit.model,
                    [np.zeros(shape, np.float32) for _ in range(runs[key])],
                    np.zeros((runs[key], folds)),
                    _judges(material.labels, folds, fit.size),
                )
            # Trees of a multiclass task are far apart from probabilities; only ranks are used.
            gathered[key].scores[fit.run][material.folds == fit.fold] = scored.scores
            gathered[key].validation[fit.run, fit.fold] = scored.validation
            if scored.held is not None:
                gathered[key].held[fit.run, fit.fold] = scored.held
            advance(1, f"{material.labels.name}: {fit.model}")
    for task, size in dict.fromkeys((task, size) for task, _, size in gathered):
        for name, parts in workshop.materials[task].blends.items():
            members = [
                gathered[task, part, size] for part in parts if (task, part, size) in gathered
            ]
            if len(members) == len(parts):
                gathered[task, name, size] = _blended(workshop, (task, name, size), members)
    return gathered


def _judges(labels: Labels, folds: int, size: int | None) -> float:
    learned = size or len(labels) * (folds - 1) / folds
    rare = 1.0
    if labels.kind == "binary":
        rare = min(labels.targets.mean(), 1 - labels.targets.mean())
    return max(1.0, learned * VALIDATION_SHARE * rare)


def _blended(workshop: Workshop, key: Key, members: Sequence[OutOfFold]) -> OutOfFold:
    """Blend models run by run.

    Of all labels a model that has fewer runs lends each of them to several; of some, a run has
    labels of its own, so there are as many as each model has.
    """
    task, name, size = key
    material, first = workshop.materials[task], members[0]
    runs = (max if size is None else min)(len(one.scores) for one in members)
    found = OutOfFold(name, [], np.zeros((runs, first.validation.shape[1])), first.judges)
    for run in range(runs):
        found.scores.append(np.zeros_like(first.scores[0]))
        for fold in map(int, np.unique(material.folds[material.folds >= 0])):
            parts = [one.part(run % len(one.scores), fold, material) for one in members]
            if material.labels.kind == "binary":
                held = workshop.split(Fit(task, name, run, 0, fold, size)).validation
                one = _mean(parts, material.labels.targets[held], first.judges)
            else:
                one = _better(*parts)
            found.scores[run][material.folds == fold] = one.scores
            found.validation[run, fold] = one.validation
    return found


def _mean(parts: Sequence[Scored], held: NDArray[Any], judges: float) -> Scored:
    """Yes-or-no answers: the mean of all, weighed by what each is worth on the validation pairs."""
    weights = trust([one.validation for one in parts], judges)
    told = [one.held for one in parts if one.held is not None]
    value = roc_auc_or_chance(held, blend(told, weights))
    return Scored(blend([one.scores for one in parts], weights), value)


def _better(regression: Scored, without: Scored, trees: Scored) -> Scored:
    """Next values: a regression, or the mean of trees without and with the vectors' scores.

    The mean is hardly worse than the better of the two, which is mostly the one with vectors.
    """
    if regression.validation >= trees.validation:
        return regression
    return Scored((without.scores + trees.scores) / 2, trees.validation)


def best_of(material: Material, models: Sequence[OutOfFold]) -> OutOfFold:
    """In each fold, take the model that was best inside the training part, over all its runs.

    Of those within one standard error of the best there, the last is taken, which should be the
    one that reads the most: to pick the luckiest of several that cannot be told apart costs more
    than it brings. The error is at most √(v (1 - v) / n) for mAP and for ROC-AUC, n being the
    rarer side (Birnbaum and Klose, 1957).
    """
    validation = np.stack([one.validation.mean(axis=0) for one in models])  # (models, folds)
    best = validation.max(axis=0)
    near = validation >= best - np.sqrt(best * (1 - best) / models[0].judges)
    chosen = len(models) - 1 - np.argmax(near[::-1], axis=0)  # (folds,)
    runs = max(len(one.scores) for one in models)
    scores = [np.zeros_like(models[0].scores[0]) for _ in range(runs)]
    for fold, number in enumerate(chosen):
        test = material.folds == fold
        for run in range(runs):
            own = models[number].scores
            scores[run][test] = own[run % len(own)][test]
    return OutOfFold("best", scores, np.zeros((runs, len(chosen))), models[0].judges)


def estimated(
    material: Material, found: OutOfFold, metric: MetricName, weights: NDArray[np.float32]
) -> Estimate:
    """A metric of a model; `weights` (R, B) come from `resample_users`."""
    targets = material.labels.targets
    return estimate(metric, targets, found.scores, material.folds, weights)


def row_of(model: str, metric: str, value: Estimate, labels: int, splits: int) -> dict[str, Any]:
    """A row of report.json, without its data and task."""
    return {
        "model": model,
        "metric": metric,
        "mean": round(value.value, 6),
        "low": round(value.low, 6),
        "high": round(value.high, 6),
        "labels": labels,
        "splits": splits,
    }
