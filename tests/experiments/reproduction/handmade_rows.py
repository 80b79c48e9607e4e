"""Invented rows in the format of `results.json`; no figure here was measured."""

import math
from collections.abc import Iterator
from typing import Any

from userbert.experiments.reproduction.rows import MINUS

MTL = ("wide-deep-mtl", "lstm-mtl", "transformer-mtl")


def row(experiment: str, task: str, model: str, metric: str, **values: Any) -> dict[str, Any]:
    """Returns a row; `low` and `high` default to `mean` ± 0.01."""
    mean = values.get("mean", 0.7)
    ends = (
        {"low": None, "high": None} if mean is None else {"low": mean - 0.01, "high": mean + 0.01}
    )
    return {
        "experiment": experiment, "data": "simulated", "task": task, "model": model, "epoch": 10,
        "metric": metric, "mean": mean, **ends, "seeds": 3, "paper": None, "learning_rate": 1e-4,
        **values,
    }  # fmt: skip


def minus(
    experiment: str, task: str, first: str, second: str, metric: str, *ends: float
) -> dict[str, Any]:
    """Returns a paired difference with the interval `ends`."""
    low, high = ends
    name = first + MINUS + second
    return row(experiment, task, name, metric, mean=(low + high) / 2, low=low, high=high)


def curve(
    experiment: str, task: str, model: str, metric: str, *means: float
) -> list[dict[str, Any]]:
    """Returns a row per epoch, with the given means."""
    return [
        row(experiment, task, model, metric, epoch=epoch, mean=mean)
        for epoch, mean in enumerate(means, 1)
    ]


def learning(start: float, end: float, epochs: int = 10) -> list[float]:
    return [end - (end - start) * math.exp(-0.5 * epoch) for epoch in range(epochs)]


STRENGTH = {
    "userbert": 0.78, "userbert-keep-position": 0.775, "wide-deep-mtl": 0.75,
    "lstm-mtl": 0.71, "transformer-mtl": 0.74, "coles": 0.745, "coles-gru": 0.73,
}  # fmt: skip
SCRATCH = "userbert-from-scratch"
SERVICES = {"travel_booking": 0.0, "golf_booking": 0.06}
"""Targeting tasks, and the shift of their figures."""


def whole_study() -> list[dict[str, Any]]:
    """Returns all experiments on one data set, ranked as in the paper, all differences clear."""
    targeting = [
        figure_row
        for task, easier in SERVICES.items()
        for figure in (_figure_3, _figure_4, _figure_5)
        for figure_row in figure(task, easier)
    ]
    return [*targeting, *_table_2(), *_figure_6(), *_variations()]


def _figure_3(task: str, easier: float) -> Iterator[dict[str, Any]]:
    for metric, drop in {"roc_auc": 0.0, "accuracy": 0.02}.items():
        for model, end in STRENGTH.items():
            means = learning(0.62 + easier, end + easier - drop)
            yield from curve("figure_3", task, model, metric, *means)
        for model, mean in {"aggregates-gbm": 0.76, "oracle": 0.84}.items():
            yield row("figure_3", task, model, metric, mean=mean, epoch=None)
        for model in MTL:
            yield minus("figure_3", task, "userbert", model, metric, 0.01, 0.05)
        for model in ("wide-deep-mtl", "transformer-mtl"):
            yield minus("figure_3", task, model, "lstm-mtl", metric, 0.01, 0.05)


def _figure_4(task: str, easier: float) -> Iterator[dict[str, Any]]:
    ends = {"transformer-from-scratch": 0.69, "transformer-mtl-30": 0.72, "transformer-mtl": 0.74}
    for model, end in ends.items():
        yield from curve("figure_4", task, model, "roc_auc", *learning(0.6, end + easier))
    names = list(ends)
    for first, second in ((2, 1), (1, 0), (2, 0)):
        yield minus("figure_4", task, names[first], names[second], "roc_auc", 0.01, 0.03)


def _figure_5(task: str, easier: float) -> Iterator[dict[str, Any]]:
    yield from curve("figure_5", task, "userbert", "roc_auc", *learning(0.64, 0.78 + easier))
    yield from curve("figure_5", task, SCRATCH, "roc_auc", *learning(0.55, 0.7 + easier))
    yield minus("figure_5", task, "userbert", SCRATCH, "roc_auc", 0.05, 0.1)
    yield from curve("figure_5", task, "userbert", "train_loss", *learning(0.55, 0.44))
    yield from curve("figure_5", task, "userbert", "test_loss", *learning(0.56, 0.47))
    yield from curve("figure_5", task, SCRATCH, "train_loss", *learning(0.6, 0.3))
    rising = [0.58, 0.53, *(0.52 + 0.02 * step for step in range(8))]
    yield from curve("figure_5", task, SCRATCH, "test_loss", *rising)
    yield row("figure_5", task, "userbert", "test_loss_rise", mean=0.002, low=0.0, high=0.004)
    yield row("figure_5", task, SCRATCH, "test_loss_rise", mean=0.14, low=0.11, high=0.16)
    yield minus("figure_5", task, "userbert", SCRATCH, "test_loss_rise", -0.16, -0.11)


def _table_2() -> Iterator[dict[str, Any]]:
    papers = {
        "userbert": 0.0897, "wide-deep-mtl": 0.0765, "lstm-mtl": 0.069, "transformer-mtl": 0.071,
    }  # fmt: skip
    for model, paper in papers.items():
        for point in curve(
            "table_2", "next_genre", model, "map_at_10", *learning(0.03, paper * 1.2)
        ):
            ends = {"low": point["mean"] - 0.002, "high": point["mean"] + 0.002}
            yield {**point, **ends, "paper": paper}
        yield minus("table_2", "next_genre", model, "popularity", "map_at_10", 0.02, 0.04)
    constant = {"mean": 0.05, "low": 0.048, "high": 0.052, "epoch": None, "paper": 0.0422}
    yield row("table_2", "next_genre", "popularity", "map_at_10", **constant)
    for model in MTL:
        yield minus("table_2", "next_genre", "userbert", model, "map_at_10", 0.012, 0.02)


def _figure_6() -> Iterator[dict[str, Any]]:
    for task, gain in {"car_owner": (-0.004, 0.006), "parent": (0.01, 0.03)}.items():
        for model in ("userbert", *MTL):
            end = STRENGTH[model] if task == "parent" else 0.66
            yield from curve("figure_6", task, model, "roc_auc", *learning(0.58, end))
        for model in MTL:
            yield minus("figure_6", task, "userbert", model, "roc_auc", *gain)


def _variations() -> Iterator[dict[str, Any]]:
    for batches, mean in {0: 0.7, 7_500: 0.72, 30_000: 0.74}.items():
        yield row("pretraining_length", "parent", "userbert", "roc_auc", mean=mean, value=batches)
    for share, mean in {0.25: 0.6, 1.0: 0.7}.items():
        for model in ("userbert", "aggregates-gbm"):
            yield row("label_share", "parent", model, "roc_auc", mean=mean, value=share)
