"""Learning curves: the same models with a quarter of the labels, a sixteenth, and so on.

In: a task's material. Out: fits for a workshop, and rows of what came of them. Few labels are the
usual case, and the one that pretraining is for; which few is luck, so each point is a mean over
many draws. `evaluate` makes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userbert.evaluation.fits import CLASSICAL, OURS, Fit, Material
from userbert.evaluation.out_of_fold import (
    BEST,
    METRICS,
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
"""By number of labels (none: all) and model, the fewest labels first."""
_STEP = 4
"""A point has so many times the labels of the one before."""
_MANY = 2_000
"""Labels of which another draw is much like the first."""
_QUICK = 500
"""Labels of which a network learns within seconds."""
_FEWEST_OF_SETS = 100
"""Labels of a task of sets, whose classes cannot all be there ten times."""


def sizes(material: Material, folds: int, least: int) -> list[int]:
    """Numbers of labels below all that may be learned from, with `least` of each class."""
    labels = material.labels
    learned = len(labels) * (folds - 1) // folds
    if labels.kind == "binary":
        rarest = min(labels.targets.mean(), 1 - labels.targets.mean())
        fewest = least / rarest
    else:
        fewest = _FEWEST_OF_SETS
    found = []
    while learned / _STEP >= fewest:
        learned //= _STEP
        found.append(learned)
    return found


def fits_of(  # noqa: PLR0917 - a task's place, and how thoroughly it is looked at
    number: int, material: Material, seeds: int, folds: int, least: int, draws: int
) -> Iterator[Fit]:
    """The fits of a task's curve: about `draws` of each point, spread over the folds.

    Networks take long, so where labels are not few each fold draws once for them; so do all where
    a draw is of many. A network from scratch only stands beside, and is never drawn for again.
    """
    if draws == 0:
        return
    for size in sizes(material, folds, least):
        for model in (name for name in MODELS if name in material.fitted):
            most = {"from-scratch": 0, "fine-tuned": _QUICK}.get(model, _MANY)
            is_once = size > most
            for run in range(1 if is_once else max(1, draws // folds)):
                for fold in range(folds):
                    yield Fit(number, model, run, (fold + run) % seeds, fold, size)


def points_of(
    number: int,
    material: Material,
    results: Mapping[Key, OutOfFold],
    weights: NDArray[np.float32],
) -> Points:
    """What each model of a task is worth at all points of its curve, all labels being the last."""
    sizes = sorted({size for task, _, size in results if task == number and size is not None})
    metric = METRICS[material.labels.kind][0]
    points: Points = {}
    for size in (*sizes, None):
        found = [
            results[number, model, size] for model in MODELS if (number, model, size) in results
        ]
        values = {one.model: estimated(material, one, metric, weights) for one in found}
        ours, theirs = (_of(found, names) for names in (OURS, CLASSICAL))
        if ours and theirs:
            values[BEST] = estimated(material, best_of(material, ours), metric, weights).minus(
                estimated(material, best_of(material, theirs), metric, weights)
            )
        points[size] = values
    return points


def rows_of(points: Points, material: Material, folds: int) -> list[dict[str, Any]]:
    """The rows of a task's curve."""
    everything = len(material.labels) * (folds - 1) // folds
    metric = METRICS[material.labels.kind][0]
    return [
        row_of(model, metric, value, size or everything, folds)
        for size, values in points.items()
        for model, value in values.items()
    ]


def leads_of(curves: Sequence[Points]) -> list[dict[str, Any]]:
    """By how much `fused` leads trees on features, on average over the tasks that have a point.

    Beside a part of the labels (`share`) stand all labels of the same tasks, and the difference of
    the two: whether the lead is larger where labels are few. Tasks must share their resamples.
    """
    rows = []
    for number in range(1, max(map(len, curves), default=0)):
        reach = [[*points.values()] for points in curves if len(points) > number]
        few = _mean([_lead(points[-1 - number]) for points in reach])
        all_labels = _mean([_lead(points[-1]) for points in reach])
        row: dict[str, Any] = {"share": float(_STEP) ** -number, "tasks": len(reach)}
        for name, value in (
            ("lead", few),
            ("with_all_labels", all_labels),
            ("growth", few.minus(all_labels)),
        ):
            ends = (value.value, value.low, value.high)
            row[name] = dict(
                zip(("mean", "low", "high"), (round(end, 6) for end in ends), strict=True)
            )
        rows.append(row)
    return rows


def _lead(values: Mapping[str, Estimate]) -> Estimate:
    # Trees cannot do tasks of classes that are no attribute's values.
    theirs = values.get("aggregates-gbm") or values["aggregates-linear"]
    return values["fused"].minus(theirs)


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(
        float(np.mean([one.value for one in estimates])),
        np.mean([one.resampled for one in estimates], axis=0),
    )


def _of(found: Sequence[OutOfFold], names: Sequence[str]) -> list[OutOfFold]:
    """Take those of the names, in their order: the last is the one that reads the most."""
    return sorted(
        (one for one in found if one.model in names), key=lambda one: names.index(one.model)
    )
