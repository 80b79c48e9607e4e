"""Learning curves: the contestants fitted on 1/4 of the labels, on 1/16, and so on.

In: a task's material. Out: the fits to run, and rows of report.json from their results. Labels are
usually few, and pretraining helps most with few labels. Labels are drawn at random, so each point
is a mean over draws. Used by `evaluate`.
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
"""Models of the curves; blends among them are made from their members' fits."""
Points = dict[int | None, dict[str, Estimate]]
"""Estimates by number of labels (ascending; `None`, for all, is last) and model."""
_SIZE_RATIO = 4
"""Ratio of the numbers of labels at neighbouring points."""
_MAX_SIZE_FOR_DRAWS = 2_000
"""Maximum number of labels at a point with several draws per fold; draws of more hardly differ."""
_MAX_SIZE_FOR_NETWORK_DRAWS = 500
"""Maximum number of labels at a point with several draws per fold for a fine-tuned network, whose
fits are slow."""
_MIN_LABELS_FOR_CLASSES = 100
"""Minimum number of labels at a point of a task with many classes, where a minimum per class would
rule every point out."""


def sizes(material: Material, folds: int, min_per_class: int) -> list[int]:
    """Returns the number of labels at each point, descending.

    A point of a binary task has at min_per_class `min_per_class` labels of each class.
    """
    labels = material.labels
    train_labels = len(labels) * (folds - 1) // folds
    if labels.kind == "binary":
        rarer_share = min(labels.targets.mean(), 1 - labels.targets.mean())
        min_size = min_per_class / rarer_share
    else:
        min_size = _MIN_LABELS_FOR_CLASSES
    point_sizes = []
    while train_labels / _SIZE_RATIO >= min_size:
        train_labels //= _SIZE_RATIO
        point_sizes.append(train_labels)
    return point_sizes


def fits_of(  # noqa: PLR0917 - the task, and the numbers that its fits depend on
    number: int, material: Material, seeds: int, folds: int, min_per_class: int, draws: int
) -> Iterator[Fit]:
    """Yields the fits of a task's curve: about `draws` per point and model, spread over the folds.

    `number` is the task's index in the workshop, `seeds` the number of pretrained models; for
    `min_per_class`, see `sizes`. A fold draws only once for points above `_MAX_SIZE_FOR_DRAWS`
    labels, or above `_MAX_SIZE_FOR_NETWORK_DRAWS` for the fine-tuned network. The network from
    scratch always gets one draw per fold. There are no fits if `draws` is 0.
    """
    if draws == 0:
        return
    for size in sizes(material, folds, min_per_class):
        for model in (name for name in MODELS if name in material.fitted):
            limits = {"from-scratch": 0, "fine-tuned": _MAX_SIZE_FOR_NETWORK_DRAWS}
            is_single_draw = size > limits.get(model, _MAX_SIZE_FOR_DRAWS)
            for run in range(1 if is_single_draw else max(1, draws // folds)):
                for fold in range(folds):
                    yield Fit(number, model, run, (fold + run) % seeds, fold, size)


def points_of(
    number: int,
    material: Material,
    results: Mapping[Key, OutOfFold],
    weights: NDArray[np.float32],
) -> Points:
    """Estimates each model of a task at all points of its curve; the last point is all labels.

    Each point also has the paired difference `BEST`, if both sides have a model. `number` is the
    task's index in the workshop; `weights` (R, B) come from `resample_users`, with R resamples and
    B pairs.
    """
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
    """Returns the rows of a task's curve, as in report.json, without `data` and `task`."""
    all_labels = len(material.labels) * (folds - 1) // folds
    metric = METRICS_BY_KIND[material.labels.kind][0]
    return [
        row_of(model, metric, value, size or all_labels, folds)
        for size, values in points.items()
        for model, value in values.items()
    ]


def leads_of(curves: Sequence[Points]) -> list[dict[str, Any]]:
    """Returns the mean lead of `fused` over `aggregates-gbm`, for each share of the labels.

    For tasks without `aggregates-gbm`, the lead is over `aggregates-linear`. A row has the lead
    with a `share` of the labels, the lead with all labels on the same tasks, and the growth: the
    first lead minus the second. A row averages over the tasks whose curves have the point. Tasks
    must share their resamples.
    """
    rows = []
    for number in range(1, max(map(len, curves), default=0)):
        long_curves = [[*points.values()] for points in curves if len(points) > number]
        few_labels = _mean([_lead(points[-1 - number]) for points in long_curves])
        all_labels = _mean([_lead(points[-1]) for points in long_curves])
        row: dict[str, Any] = {"share": float(_SIZE_RATIO) ** -number, "tasks": len(long_curves)}
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
    """Returns the lead of `fused` over the baseline at one point of a curve."""
    # Tasks whose classes are not an attribute's values have no trees.
    baseline = values.get("aggregates-gbm") or values["aggregates-linear"]
    return values["fused"].minus(baseline)


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Returns the mean of paired estimates, over all and in each resample."""
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
