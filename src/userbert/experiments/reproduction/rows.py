"""Rows of `results.json`: how to pick among them, and what a reader calls their names.

In: rows as `reproduce` writes them (docs/reference/design.md, "Results for machines"): mappings
with `experiment`, `data`, `task`, `model`, `epoch`, `metric`, `mean`, `low`, `high`, `seeds`,
`paper`, also `learning_rate`, a `note` where a mean is missing, and a `value` where something was
varied. Out: fewer rows, and texts.
Used by the tables, the plots, the claims and the page of this package.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Row = Mapping[str, Any]
Side = Literal["ahead", "behind", "no difference"]

MINUS = " − "  # noqa: RUF001 - the design's name of a paired difference

MODELS = {
    "userbert": "UserBERT",
    "userbert-keep-position": "UserBERT, position kept",
    "userbert-from-scratch": "UserBERT, not pretrained",
    "wide-deep-mtl": "Wide&Deep + MTL",
    "wide-deep-from-scratch": "Wide&Deep, not pretrained",
    "lstm-mtl": "LSTM + MTL",
    "lstm-from-scratch": "LSTM, not pretrained",
    "transformer-mtl": "Transformer + MTL",
    "transformer-mtl-30": "Transformer + MTL, 30 % of the labels",
    "transformer-from-scratch": "Transformer, not pretrained",
    "coles": "CoLES, our encoder",
    "coles-gru": "CoLES, its authors' encoder",
    "aggregates-gbm": "Aggregates + LightGBM",
    "one-aggregate": "The one aggregate that tells the most",
    "own-popularity": "Own popularity",
    "popularity": "Popularity",
    "oracle": "Oracle, who knows the truth",
    "profile-oracle": "Oracle of the profile alone",
}
"""In the order in which tables and legends have them."""

DATA = {"simulated": "simulated logs", "complete-journey": "Complete Journey"}
METRICS = {
    "roc_auc": "ROC-AUC",
    "accuracy": "accuracy",
    "map_at_10": "mAP@10, %",
    "train_loss": "loss in training",
    "test_loss": "loss on test users",
    "test_loss_rise": "rise of the test loss",
    "held_out_loss": "loss on held-out users",
}
LOSSES = ("train_loss", "test_loss", "test_loss_rise", "held_out_loss")
"""The metrics of which less is better."""


@dataclass(frozen=True)
class Study:
    """The rows of one data set and one learning rate: what may be compared."""

    data: str
    learning_rate: float | None
    rows: list[Row]

    @property
    def name(self) -> str:
        """For a reader."""
        return ", ".join([DATA.get(self.data, self.data), *self._rate()])

    @property
    def slug(self) -> str:
        """For the names of files."""
        return "-".join([self.data, *self._rate()])

    def _rate(self) -> list[str]:
        if self.learning_rate is None:
            return []
        return [np.format_float_scientific(self.learning_rate, trim="-", exp_digits=1)]


def studies(rows: Iterable[Row]) -> list[Study]:
    """Part rows that must not be mixed, in the order of the rows."""
    found: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        found.setdefault((row["data"], row.get("learning_rate")), []).append(row)
    return [Study(data, rate, mine) for (data, rate), mine in found.items()]


def pick(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Keep the rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def scores(rows: Iterable[Row]) -> list[Row]:
    """Keep the rows of one model each."""
    return [row for row in rows if MINUS not in row["model"]]


def differences(rows: Iterable[Row]) -> list[Row]:
    """Keep the rows of paired differences."""
    return [row for row in rows if MINUS in row["model"]]


def at_last_epoch(rows: Iterable[Row]) -> list[Row]:
    """Keep, of each curve of a study, its last row; what has no epochs has one and keeps it."""
    last: dict[tuple[object, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in ("experiment", "task", "model", "metric"))
        if key not in last or (row["epoch"] or 0) >= (last[key]["epoch"] or 0):
            last[key] = row
    return list(last.values())


def values(rows: Iterable[Row], key: str) -> list[str]:
    """List what `key` is in these rows, each once, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def models(rows: Iterable[Row]) -> list[str]:
    """List the models in the reader's order; those without a name in `MODELS` come last."""
    order = list(MODELS)
    found = values(rows, "model")
    return sorted(found, key=lambda model: order.index(model) if model in MODELS else len(order))


def model_name(model: str) -> str:
    """Name a model, or both of a difference, for a reader."""
    return MINUS.join(MODELS.get(one, one) for one in model.split(MINUS))


def task_name(task: str) -> str:
    """Name a task for a reader: `travel_booking` is "travel booking"."""
    return task.replace("_", " ")


def paired(rows: Sequence[Row], first: str, second: str) -> Row | None:
    """Find the difference of two models at its last epoch, turned round if need be."""
    for row in at_last_epoch(rows):
        if row["model"] == first + MINUS + second:
            return row
        if row["model"] == second + MINUS + first:
            if row["mean"] is None:
                return row
            turned = {"mean": -row["mean"], "low": -row["high"], "high": -row["low"]}
            return {**row, "model": first + MINUS + second, **turned}
    return None


def side(row: Row) -> Side | None:
    """Tell what the interval of a paired difference says of the first; None without a figure."""
    if row["mean"] is None:
        return None
    low, high = row["low"], row["high"]
    if row["metric"] in LOSSES:  # the lower, the better
        low, high = -high, -low
    return "ahead" if low > 0 else "behind" if high < 0 else "no difference"


def figure_text(row: Row, *, signed: bool = False) -> str:
    """Write a mean with its interval; mAP in per cent; in place of a missing mean, its note."""
    if row["mean"] is None:
        return f"*{row.get('note') or 'no figure'}*"
    percent = row["metric"] == "map_at_10"
    form = f"{'+' if signed else ''}.{2 if percent else 3}f"
    mean, *ends = (
        format(value * (100 if percent else 1), form)
        for value in (row["mean"], row["low"], row["high"])
        if value is not None
    )
    return f"{mean} ({' to '.join(ends)})" if ends else mean
