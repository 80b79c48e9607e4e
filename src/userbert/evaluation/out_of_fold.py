"""Out-of-fold scores, the best of several models, and their metrics.

In: a workshop and the fits to run. Out: `OutOfFold`s, the best model of each fold, and rows of
report.json. Used by `evaluate` and its learning curves.

Letters in shapes: B (user, cut-off) pairs, C classes, R resamples.
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

METRICS_BY_KIND: Mapping[str, tuple[MetricName, ...]] = {
    "binary": ("roc_auc", "pr_auc", "accuracy"),
    "multiclass": ("map_at_10", "accuracy"),
    "multilabel": ("map_at_10",),
}
"""Metrics reported for each kind of task; models are chosen by the first metric of the kind."""
BEST = "best-ours − best-classical"  # noqa: RUF001 - the design's name of the row
"""Row name of the paired difference between the best models of both sides; each fold's best models
are chosen on its validation pairs."""

Key = tuple[int, str, int | None]
"""Task index, model, and number of labels (`None`: all)."""


@dataclass
class OutOfFold:
    """A model's out-of-fold scores: each pair is scored by a fit that did not train on the pair."""

    model: str
    scores: list[Floats]
    """Scores (B,) or (B, C), one array per run."""
    validation: Floats
    """First metric of the task on the validation pairs, (runs, folds)."""
    judges: float
    """Expected number of validation pairs per fold; for binary tasks, of the rarer answer."""
    held: dict[tuple[int, int], Floats] = field(default_factory=dict)
    """Scores of the validation pairs by (run, fold), for models whose fits keep them."""

    def part(self, run: int, fold: int, material: Material) -> Scored:
        """Returns a run's scores of the test pairs of one fold."""
        test = material.folds == fold
        value = float(self.validation[run, fold])
        return Scored(self.scores[run][test], value, self.held.get((run, fold)))


def collect(
    workshop: Workshop, fits: Sequence[Fit], folds: int, workers: int | None
) -> dict[Key, OutOfFold]:
    """Runs all fits in `workers` processes (`None`: one per core); returns the models' scores.

    Joins the folds of each model, and adds the blends whose members were all fitted.
    """
    collected: dict[Key, OutOfFold] = {}
    runs: dict[Key, int] = defaultdict(int)
    for fit in fits:
        key = fit.task, fit.model, fit.size
        runs[key] = max(runs[key], fit.run + 1)
    with progress("evaluating", len(fits)) as advance:
        for fit, scored in do_all(workshop, fits, min(workers or cores(), len(fits))):
            key = fit.task, fit.model, fit.size
            material = workshop.materials[fit.task]
            if key not in collected:
                shape = (len(material.labels), *scored.scores.shape[1:])
                collected[key] = OutOfFold(
                    fit.model,
                    [np.zeros(shape, np.float32) for _ in range(runs[key])],
                    np.zeros((runs[key], folds)),
                    _judges(material.labels, folds, fit.size),
                )
            # Scores of ranking trees are not probabilities; only their order is used.
            collected[key].scores[fit.run][material.folds == fit.fold] = scored.scores
            collected[key].validation[fit.run, fit.fold] = scored.validation
            if scored.held is not None:
                collected[key].held[fit.run, fit.fold] = scored.held
            advance(1, f"{material.labels.name}: {fit.model}")
    for task, size in dict.fromkeys((task, size) for task, _, size in collected):
        for name, parts in workshop.materials[task].blends.items():
            members = [
                collected[task, part, size] for part in parts if (task, part, size) in collected
            ]
            if len(members) == len(parts):
                collected[task, name, size] = _blended(workshop, (task, name, size), members)
    return collected


def _judges(labels: Labels, folds: int, size: int | None) -> float:
    """Returns `OutOfFold.judges` for fits on `size` labels (`None`: all)."""
    train_labels = size or len(labels) * (folds - 1) / folds
    rarer_share = 1.0
    if labels.kind == "binary":
        rarer_share = min(labels.targets.mean(), 1 - labels.targets.mean())
    return max(1.0, train_labels * VALIDATION_SHARE * rarer_share)


def _blended(workshop: Workshop, key: Key, members: Sequence[OutOfFold]) -> OutOfFold:
    """Blends models run by run.

    With all labels, a blend has as many runs as the member with the most runs; other members' runs
    are used repeatedly. With fewer labels, each run has another draw of labels, so the blend has
    as many runs as the member with the fewest runs.
    """
    task, name, size = key
    material, first = workshop.materials[task], members[0]
    runs = (max if size is None else min)(len(member.scores) for member in members)
    blended = OutOfFold(name, [], np.zeros((runs, first.validation.shape[1])), first.judges)
    for run in range(runs):
        blended.scores.append(np.zeros_like(first.scores[0]))
        for fold in map(int, np.unique(material.folds[material.folds >= 0])):
            parts = [member.part(run % len(member.scores), fold, material) for member in members]
            if material.labels.kind == "binary":
                held = workshop.split(Fit(task, name, run, 0, fold, size)).validation
                scored = _mean(parts, material.labels.targets[held], first.judges)
            else:
                scored = _better(*parts)
            blended.scores[run][material.folds == fold] = scored.scores
            blended.validation[run, fold] = scored.validation
    return blended


def _mean(parts: Sequence[Scored], held: NDArray[Any], judges: float) -> Scored:
    """Returns the blend for a binary task: the mean, weighted by quality on validation pairs.

    `held` holds the targets of the validation pairs; for `judges`, see `OutOfFold`.
    """
    weights = trust([part.validation for part in parts], judges)
    held_scores = [part.held for part in parts if part.held is not None]
    value = roc_auc_or_chance(held, blend(held_scores, weights))
    return Scored(blend([part.scores for part in parts], weights), value)


def _better(regression: Scored, trees_without: Scored, trees_with: Scored) -> Scored:
    """Returns the blend for a next-value task: the regression, or the mean of both models of trees.

    The trees differ in whether they read the vectors' scores. The regression is taken if it is at
    least as good on the validation pairs as the trees with vectors, which mostly are the better
    trees. The mean is hardly worse than the better trees.
    """
    if regression.validation >= trees_with.validation:
        return regression
    return Scored((trees_without.scores + trees_with.scores) / 2, trees_with.validation)


def best_of(material: Material, models: Sequence[OutOfFold]) -> OutOfFold:
    """Takes, in each fold, the scores of the model that was best on the validation pairs.

    Models within one standard error of the best are tied, and the last tied model is taken; order
    `models` by inputs, most inputs last. Picking the luckiest of tied models would cost more than
    it gains. The standard error of a value v is at most √(v (1 - v) / n) for mAP and for ROC-AUC,
    where n is `OutOfFold.judges` (Birnbaum and Klose, 1957).
    """
    validation = np.stack([model.validation.mean(axis=0) for model in models])  # (models, folds)
    best = validation.max(axis=0)
    near = validation >= best - np.sqrt(best * (1 - best) / models[0].judges)
    chosen = len(models) - 1 - np.argmax(near[::-1], axis=0)  # (folds,)
    runs = max(len(model.scores) for model in models)
    scores = [np.zeros_like(models[0].scores[0]) for _ in range(runs)]
    for fold, number in enumerate(chosen):
        test = material.folds == fold
        for run in range(runs):
            model_scores = models[number].scores
            scores[run][test] = model_scores[run % len(model_scores)][test]
    return OutOfFold("best", scores, np.zeros((runs, len(chosen))), models[0].judges)


def estimated(
    material: Material, model: OutOfFold, metric: MetricName, weights: NDArray[np.float32]
) -> Estimate:
    """Estimates a metric of a model; `weights` (R, B) come from `resample_users`."""
    targets = material.labels.targets
    return estimate(metric, targets, model.scores, material.folds, weights)


def row_of(model: str, metric: str, value: Estimate, labels: int, splits: int) -> dict[str, Any]:
    """Returns a row of report.json, without `data` and `task`; `splits` is the number of folds."""
    return {
        "model": model,
        "metric": metric,
        "mean": round(value.value, 6),
        "low": round(value.low, 6),
        "high": round(value.high, 6),
        "labels": labels,
        "splits": splits,
    }
