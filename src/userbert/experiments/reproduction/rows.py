"""Rows of `results.json`: filters, and the labels that readers see.

In: rows as `reproduce` writes them (docs/reference/design.md, "Results for machines"): mappings
with `experiment`, `data`, `task`, `model`, `epoch`, `metric`, `mean`, `low`, `high`, `seeds`,
`paper` and `learning_rate`; also a `note` where a mean is missing, and a `value` where a setting
was varied. Out: filtered rows, and text. Used by the tables, plots, claims and page.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Row = Mapping[str, Any]
"""A row of `results.json`."""
Side = Literal["ahead", "behind", "no difference"]
"""Outcome of a paired difference for its first model."""

MINUS = " − "  # noqa: RUF001 - joins two models into the name of their difference

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
    "one-aggregate": "Best single aggregate",
    "own-popularity": "Own popularity",
    "popularity": "Popularity",
    "oracle": "Oracle (knows the truth)",
    "profile-oracle": "Oracle (profile alone)",
}
"""Labels by model, in the order of tables and legends."""

DATA = {"simulated": "simulated logs", "complete-journey": "Complete Journey"}
"""Labels by data set."""
METRIC_LABELS = {
    "roc_auc": "ROC-AUC",
    "accuracy": "accuracy",
    "map_at_10": "mAP@10, %",
    "train_loss": "loss in training",
    "test_loss": "loss on test users",
    "test_loss_rise": "rise of the test loss",
    "held_out_loss": "loss on held-out users",
}
"""Labels by metric."""
LOSSES = ("train_loss", "test_loss", "test_loss_rise", "held_out_loss")
"""Metrics for which lower is better."""


@dataclass(frozen=True)
class Study:
    """Rows of one data set and one learning rate; rows of different studies are not comparable."""

    data: str
    learning_rate: float | None
    """Learning rate of pretraining."""
    rows: list[Row]

    @property
    def name(self) -> str:
        """Name in the text of pages and figures."""
        return ", ".join([DATA.get(self.data, self.data), *self._rate()])

    @property
    def slug(self) -> str:
        """Name in file names."""
        return "-".join([self.data, *self._rate()])

    def _rate(self) -> list[str]:
        """Returns the learning rate as text, such as 1e-4; empty if there is none."""
        if self.learning_rate is None:
            return []
        return [np.format_float_scientific(self.learning_rate, trim="-", exp_digits=1)]


def studies(rows: Iterable[Row]) -> list[Study]:
    """Groups rows by data set and learning rate, in the order of the rows."""
    groups: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["data"], row.get("learning_rate")), []).append(row)
    return [Study(data, rate, study_rows) for (data, rate), study_rows in groups.items()]


def pick(rows: Iterable[Row], **required: object) -> list[Row]:
    """Returns the rows that have the value of each keyword argument under its key."""
    return [row for row in rows if all(row[key] == value for key, value in required.items())]


def scores(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows of single models, without paired differences."""
    return [row for row in rows if MINUS not in row["model"]]


def differences(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows of paired differences."""
    return [row for row in rows if MINUS in row["model"]]


def at_last_epoch(rows: Iterable[Row]) -> list[Row]:
    """Returns the last row of each learning curve, and the row of each model without epochs."""
    last: dict[tuple[object, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in ("experiment", "task", "model", "metric"))
        if key not in last or (row["epoch"] or 0) >= (last[key]["epoch"] or 0):
            last[key] = row
    return list(last.values())


def values(rows: Iterable[Row], key: str) -> list[str]:
    """Returns the distinct values of `key`, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def models(rows: Iterable[Row]) -> list[str]:
    """Returns the models in the order of `MODELS`; unknown models come last."""
    order = list(MODELS)
    names = values(rows, "model")
    return sorted(names, key=lambda model: order.index(model) if model in MODELS else len(order))


def model_name(model: str) -> str:
    """Returns the label of a model, or both labels of a paired difference."""
    return MINUS.join(MODELS.get(name, name) for name in model.split(MINUS))


def task_name(task: str) -> str:
    """Returns the label of a task: `travel_booking` becomes "travel booking"."""
    return task.replace("_", " ")


def paired(rows: Sequence[Row], first: str, second: str) -> Row | None:
    """Returns `first` minus `second` at the last epoch, or None if they were not compared.

    If the rows hold `second` minus `first`, its signs are flipped.
    """
    for row in at_last_epoch(rows):
        if row["model"] == first + MINUS + second:
            return row
        if row["model"] == second + MINUS + first:
            if row["mean"] is None:
                return row
            flipped = {"mean": -row["mean"], "low": -row["high"], "high": -row["low"]}
            return {**row, "model": first + MINUS + second, **flipped}
    return None


def side(row: Row) -> Side | None:
    """Returns whether the first model of a paired difference is ahead; None if it has no mean."""
    if row["mean"] is None:
        return None
    low, high = row["low"], row["high"]
    if row["metric"] in LOSSES:  # lower is better
        low, high = -high, -low
    return "ahead" if low > 0 else "behind" if high < 0 else "no difference"


def figure_text(row: Row, *, signed: bool = False) -> str:
    """Formats a mean with its interval, or the note of a row without a mean.

    mAP is in per cent; `signed` writes a plus before positive numbers.
    """
    if row["mean"] is None:
        return f"*{row.get('note') or 'no figure'}*"
    percent = row["metric"] == "map_at_10"
    spec = f"{'+' if signed else ''}.{2 if percent else 3}f"
    mean, *bounds = (
        format(value * (100 if percent else 1), spec)
        for value in (row["mean"], row["low"], row["high"])
        if value is not None
    )
    return f"{mean} ({' to '.join(bounds)})" if bounds else mean
