"""Results as tables: rows → CSV and Markdown in the paper's form.

In: rows of one study (of any number, for `write_csv`). Out: lines of Markdown, empty where the
rows have nothing for a table. Numbers are of the last epoch: choosing each model's best epoch on
the users who judge it would flatter all of them. Used by `page.py` and by `reproduce`.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from userbert.experiments.reproduction.rows import (
    METRICS,
    MINUS,
    MODELS,
    Row,
    at_last_epoch,
    differences,
    figure_text,
    model_name,
    models,
    pick,
    scores,
    side,
    task_name,
    values,
)

COLUMNS = (
    "experiment", "data", "task", "learning_rate", "finetuning_rate", "model", "epoch", "metric",
    "mean", "low", "high", "seeds", "paper", "note", "value",
)  # fmt: skip

LABELS_SEEN = {
    "transformer-from-scratch": "Transformer, 0 % of the labels",
    "transformer-mtl-30": "Transformer, 30 %",
    "transformer-mtl": "Transformer, 100 %",
}
"""What figure 4 compares: the share of the labels that pretraining saw."""


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write all rows, a column for each key; what is missing is empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row.get(column) for column in COLUMNS] for row in rows)


def figure_3(rows: Sequence[Row]) -> list[str]:
    """User targeting: models by tasks and metrics."""
    return _models_by_tasks(pick(rows, experiment="figure_3"), MODELS)


def figure_4(rows: Sequence[Row]) -> list[str]:
    """User targeting again: what labels add to multi-task pretraining."""
    return _models_by_tasks(pick(rows, experiment="figure_4"), LABELS_SEEN)


def figure_5(rows: Sequence[Row]) -> list[str]:
    """With and without pretraining: ROC-AUC, and how far the test loss rises from its lowest.

    The lowest is that of the mean over seeds; the rise is each seed's own, then the mean.
    """
    rows = scores(pick(rows, experiment="figure_5"))
    cells = []
    for task in values(rows, "task"):
        for model in models(pick(rows, task=task)):
            mine = pick(rows, task=task, model=model)
            auc = [figure_text(row) for row in at_last_epoch(pick(mine, metric="roc_auc"))]
            cells.append([task_name(task), model_name(model), *(auc or [""]), *_rise_cells(mine)])
    head = ["task", "model", "ROC-AUC", "lowest test loss", "at epoch", "at the last", "rise"]
    return _table(head, cells)


def table_2(rows: Sequence[Row]) -> list[str]:
    """Next genre: mAP@10 in per cent, the paper's beside ours."""
    rows = at_last_epoch(scores(pick(rows, experiment="table_2", metric="map_at_10")))
    tasks = values(rows, "task")
    cells = []
    for model in models(rows):
        mine = pick(rows, model=model)
        papers = [f"{100 * row['paper']:.2f}" for row in mine if row["paper"] is not None]
        ours = [_only(pick(mine, task=task)) for task in tasks]
        cells.append([model_name(model), *ours, *(papers[:1] or [""])])
    head = [_head((task, "map_at_10")) for task in tasks]
    return _table(["model", *head, "the paper's"], cells)


def figure_6(rows: Sequence[Row]) -> list[str]:
    """Attribute prediction: models by tasks."""
    return _models_by_tasks(pick(rows, experiment="figure_6"), MODELS)


def pretraining_length(rows: Sequence[Row]) -> list[str]:
    """What more batches of pretraining give: models and batches by tasks."""
    return _by_value(pick(rows, experiment="pretraining_length"), "batches", ",.0f")


def label_share(rows: Sequence[Row]) -> list[str]:
    """What more labels give: models and shares by tasks."""
    return _by_value(pick(rows, experiment="label_share"), "labels", ".0%")


TABLES = {
    "figure_3": figure_3,
    "figure_4": figure_4,
    "figure_5": figure_5,
    "table_2": table_2,
    "figure_6": figure_6,
    "pretraining_length": pretraining_length,
    "label_share": label_share,
}


def paired_differences(rows: Sequence[Row], experiment: str) -> list[str]:
    """Say of each pair of models, task and metric who is ahead, and by how much."""
    found = at_last_epoch(differences(pick(rows, experiment=experiment)))
    columns = _columns(found)
    cells = []
    for pair in values(found, "model"):
        first, second = pair.split(MINUS)
        verdicts = [
            "".join(map(_verdict, pick(found, model=pair, task=task, metric=metric)))
            for task, metric in columns
        ]
        cells.append([model_name(first), model_name(second), *verdicts])
    return _table(["model", "against", *map(_head, columns)], cells)


def _models_by_tasks(rows: Sequence[Row], names: Mapping[str, str]) -> list[str]:
    rows = at_last_epoch(scores(rows))
    columns = _columns(rows)
    order = list(names)
    cells = [
        [
            names.get(model, model_name(model)),
            *(_only(pick(rows, model=model, task=task, metric=metric)) for task, metric in columns),
        ]
        for model in sorted(
            models(rows), key=lambda model: order.index(model) if model in names else len(order)
        )
    ]
    return _table(["model", *map(_head, columns)], cells)


def _by_value(rows: Sequence[Row], what: str, form: str) -> list[str]:
    """A line a model and value: its figure, and how it differs from that of the usual value.

    Then a line a pair of models and value: how they differ from each other.
    """
    columns = _columns(rows)
    cells = []
    for model in models(scores(rows)):
        for value in values(pick(rows, model=model), "value"):
            found = []
            for task, metric in columns:
                mine = pick(rows, value=value, task=task, metric=metric)
                told = [figure_text(row) for row in pick(mine, model=model)]
                told += [_verdict(row) for row in pick(mine, model=model + MINUS + model)]
                found.append("; ".join(told))
            cells.append([model_name(model), format(value, form).replace("%", " %"), *found])
    for pair in values(differences(rows), "model"):
        if len(set(pair.split(MINUS))) == 1:
            continue
        for value in values(pick(rows, model=pair), "value"):
            mine = pick(rows, model=pair, value=value)
            found = [
                "".join(map(_verdict, pick(mine, task=task, metric=metric)))
                for task, metric in columns
            ]
            cells.append([model_name(pair), format(value, form).replace("%", " %"), *found])
    return _table(["model", what, *map(_head, columns)], cells)


def _columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """List tasks and metrics, a task's metrics together."""
    return [
        (task, metric)
        for task in values(rows, "task")
        for metric in values(pick(rows, task=task), "metric")
    ]


def _head(column: tuple[str, str]) -> str:
    task, metric = column
    return f"{task_name(task)} ({METRICS[metric]})"


def _verdict(row: Row) -> str:
    told = side(row)
    return f"**{told}** " * (told is not None) + figure_text(row, signed=True)


def _rise_cells(rows: Sequence[Row]) -> list[str]:
    """The lowest test loss, its epoch, the last, and the rise, of one model on one task."""
    curve = [row for row in pick(rows, metric="test_loss") if row["mean"] is not None]
    if not curve:
        return [""] * 4
    low = min(curve, key=lambda row: row["mean"])
    rise = [figure_text(row, signed=True) for row in pick(rows, metric="test_loss_rise")]
    last = at_last_epoch(curve)[0]
    return [figure_text(low), str(low["epoch"]), figure_text(last), *(rise or [""])]


def _only(rows: Sequence[Row]) -> str:
    """Write the one row that there is, if it is there."""
    return figure_text(rows[0]) if rows else ""


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    if not cells:
        return []
    lines = [head, ["---"] * len(head), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]
