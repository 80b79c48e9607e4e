"""Learning curves: the contestants fitted on 1/4 of the labels, on 1/16, and so on.

In: a task's material. Out: the fits to run, and rows of report.json from their results. Labels are
usually few, and few labels are what pretraining is for. Labels are drawn at random, so each point
is a mean over many draws. Used by `evaluate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.evaluation.fits import CLASSICAL, OURS, Fit, Material
from userbert.evaluation.out_of_fold import (
    BEST,
    METRICS_BY_KIND,
    Key,
    OutOfFold,
    best_of,
    estimated,
    row_of,
)
from userbert.tasks.metrics import Estimate

MODELS = (
    "aggregates-linear",
    "aggregates-gbm",
    "aggregates-both",
    "frozen-linear",
    "fused-linear",
    "fused-gbm",
    "fused",
    "fine-tuned",
    "from-scratch",
)
Points = dict[int | None, dict[str, Estimate]]
"""Estimates by number of labels (ascending; `None`, for all, is last) and model."""
_STEP = 4
"""Ratio between the numbers of labels at neighbouring points."""
_MANY = 2_000
"""Labels above which a point needs one draw per fold only, because draws hardly differ."""
_MANY_FOR_NETWORK = 500
"""Labels above which a network is fitted to one draw per fold only, because fits are slow."""
_MIN_LABELS_FOR_CLASSES = 100
"""Fewest labels at a point of a task with classes, where ten labels per class may not exist."""


def sizes(material: Material, folds: int, least: int) -> list[int]:
    """Returns the number of labels at each point, descending.

    A point of a binary task has at least `least` labels of each class.
    """
    labels = material.labels
    train_labels = len(labels) * (folds - 1) // folds
    if labels.kind == "binary":
        rarer_share = min(labels.targets.mean(), 1 - labels.targets.mean())
        fewest = least / rarer_share
    else:
        fewest = _MIN_LABELS_FOR_CLASSES
    point_sizes = []
    while train_labels / _STEP >= fewest:
        train_labels //= _STEP
        point_sizes.append(train_labels)
    return point_sizes


def fits_of(  # noqa: PLR0917 - the task, and how many fits it gets
    number: int, material: Material, seeds: int, folds: int, least: int, draws: int
) -> Iterator[Fit]:
    """Yields the fits of a task's curve: about `draws` per point and model, spread over the folds.

    `number` is the task's number in the workshop; for `least`, see `sizes`. A fold draws only once
    for points with many labels: over `_MANY`, or `_MANY_FOR_NETWORK` for the fine-tuned network,
    which takes long. The network from scratch always gets one draw per fold.
    """
    if draws == 0:
        return
    for size in sizes(material, folds, least):
        for model in (name for name in MODELS if name in material.fitted):
            many = {"from-scratch": 0, "fine-tuned": _MANY_FOR_NETWORK}.get(model, _MANY)
            is_single_draw = size > many
            for run in range(1 if is_single_draw else max(1, draws // folds)):
                for fold in range(folds):
                    yield Fit(number, model, run, (fold + run) % seeds, fold, size)


def points_of(
    number: int,
    material: Material,
    results: Mapping[Key, OutOfFold],
    weights: NDArray[np.float32],
) -> Points:
    """Estimates each model of a task at all points of its curve; the last point is all labels."""
    point_sizes = sorted({size for task, _, size in results if task == number and size is not None})
    metric = METRICS_BY_KIND[material.labels.kind][0]
    points: Points = {}
    for size in (*point_sizes, None):
        models = [
            results[number, model, size] for model in MODELS if (number, model, size) in results
        ]
        values = {scores.model: estimated(material, scores, metric, weights) for scores in models}
        ours, classical = (_select(models, names) for names in (OURS, CLASSICAL))
        if ours and classical:
            values[BEST] = estimated(material, best_of(material, ours), metric, weights).minus(
                estimated(material, best_of(material, classical), metric, weights)
            )
        points[size] = values
    return points


def rows_of(points: Points, material: Material, folds: int) -> list[dict[str, Any]]:
    """Returns the rows of a task's curve, as in report.json."""
    all_labels = len(material.labels) * (folds - 1) // folds
    metric = METRICS_BY_KIND[material.labels.kind][0]
    return [
        row_of(model, metric, value, size or all_labels, folds)
        for size, values in points.items()
        for model, value in values.items()
    ]


def leads_of(curves: Sequence[Points]) -> list[dict[str, Any]]:
    """Returns the mean lead of `fused` over trees on features, for each share of the labels.

    A row has the lead with a `share` of the labels, the lead with all labels on the same tasks, and
    the growth, which is their difference and positive if few labels make the lead larger. It
    averages over the tasks that have the point. Tasks must share their resamples.
    """
    rows = []
    for number in range(1, max(map(len, curves), default=0)):
        long_curves = [[*points.values()] for points in curves if len(points) > number]
        few_labels = _mean([_lead(points[-1 - number]) for points in long_curves])
        all_labels = _mean([_lead(points[-1]) for points in long_curves])
        row: dict[str, Any] = {"share": float(_STEP) ** -number, "tasks": len(long_curves)}
        for name, value in (
            ("lead", few_labels),
            ("with_all_labels", all_labels),
            ("growth", few_labels.minus(all_labels)),
        ):
            figures = (value.value, value.low, value.high)
            row[name] = dict(
                zip(("mean", "low", "high"), (round(figure, 6) for figure in figures), strict=True)
            )
        rows.append(row)
    return rows


def _lead(values: Mapping[str, Estimate]) -> Estimate:
    # Tasks whose classes are not an attribute's values have no trees.
    baseline = values.get("aggregates-gbm") or values["aggregates-linear"]
    return values["fused"].minus(baseline)


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(
        float(np.mean([estimate.value for estimate in estimates])),
        np.mean([estimate.resampled for estimate in estimates], axis=0),
    )


def _select(models: Sequence[OutOfFold], names: Sequence[str]) -> list[OutOfFold]:
    """Returns the named models in the order of `names`: the model with the most inputs is last."""
    return sorted(
        (scores for scores in models if scores.model in names),
        key=lambda scores: names.index(scores.model),
    )
