"""Tables of results in CSV and Markdown, in the form of the paper's.

In: rows of one study; `write_csv` takes rows of any studies. Out: lines of Markdown, none if a
table has no rows. Figures are those of the last epoch: the best epoch on the test users would be
biased in favour of each model. Used by `page`.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from userbert.experiments.reproduction.rows import (
    METRIC_LABELS,
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
"""Columns of the CSV: keys of rows."""

LABELS_SEEN = {
    "transformer-from-scratch": "Transformer, 0 % of the labels",
    "transformer-mtl-30": "Transformer, 30 %",
    "transformer-mtl": "Transformer, 100 %",
}
"""Labels of the models in figure 4, which compares the share of labels seen in pretraining."""


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes all rows with the columns `COLUMNS`; missing values are empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row.get(column) for column in COLUMNS] for row in rows)


def figure_3(rows: Sequence[Row]) -> list[str]:
    """Returns the table of user targeting: models by tasks and metrics."""
    return _models_by_tasks(pick(rows, experiment="figure_3"), MODELS)


def figure_4(rows: Sequence[Row]) -> list[str]:
    """Returns the table of user targeting by the share of labels in multi-task pretraining."""
    return _models_by_tasks(pick(rows, experiment="figure_4"), LABELS_SEEN)


def figure_5(rows: Sequence[Row]) -> list[str]:
    """Returns the table of ROC-AUC and of the rise of the test loss, with and without pretraining.

    The lowest test loss is the minimum of the mean over seeds. The rise, from the minimum to the
    last epoch, is computed for each seed and then averaged.
    """
    rows = scores(pick(rows, experiment="figure_5"))
    cells = []
    for task in values(rows, "task"):
        for model in models(pick(rows, task=task)):
            selected = pick(rows, task=task, model=model)
            auc = [figure_text(row) for row in at_last_epoch(pick(selected, metric="roc_auc"))]
            cells.append(
                [task_name(task), model_name(model), *(auc or [""]), *_rise_cells(selected)]
            )
    head = ["task", "model", "ROC-AUC", "lowest test loss", "at epoch", "at the last", "rise"]
    return _table(head, cells)


def table_2(rows: Sequence[Row]) -> list[str]:
    """Returns the table of next genre: our mAP@10 in per cent, next to the paper's."""
    rows = at_last_epoch(scores(pick(rows, experiment="table_2", metric="map_at_10")))
    tasks = values(rows, "task")
    cells = []
    for model in models(rows):
        model_rows = pick(rows, model=model)
        papers = [f"{100 * row['paper']:.2f}" for row in model_rows if row["paper"] is not None]
        ours = [_figure(pick(model_rows, task=task)) for task in tasks]
        cells.append([model_name(model), *ours, *(papers[:1] or [""])])
    head = [_head((task, "map_at_10")) for task in tasks]
    return _table(["model", *head, "the paper's"], cells)


def figure_6(rows: Sequence[Row]) -> list[str]:
    """Returns the table of attribute prediction: models by tasks."""
    return _models_by_tasks(pick(rows, experiment="figure_6"), MODELS)


def pretraining_length(rows: Sequence[Row]) -> list[str]:
    """Returns the table of pretraining lengths: models and numbers of batches by tasks."""
    return _by_value(pick(rows, experiment="pretraining_length"), "batches", ",.0f")


def label_share(rows: Sequence[Row]) -> list[str]:
    """Returns the table of label shares: models and shares by tasks."""
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
    """Returns the table of paired differences: pairs of models by tasks and metrics.

    A cell says whether the first model is ahead, and by how much.
    """
    last_rows = at_last_epoch(differences(pick(rows, experiment=experiment)))
    columns = _columns(last_rows)
    cells = []
    for pair in values(last_rows, "model"):
        first, second = pair.split(MINUS)
        verdicts = [
            "".join(map(_verdict, pick(last_rows, model=pair, task=task, metric=metric)))
            for task, metric in columns
        ]
        cells.append([model_name(first), model_name(second), *verdicts])
    return _table(["model", "against", *map(_head, columns)], cells)


def _models_by_tasks(rows: Sequence[Row], names: Mapping[str, str]) -> list[str]:
    """Returns a table of last epochs: models, in the order of their labels `names`, by tasks."""
    rows = at_last_epoch(scores(rows))
    columns = _columns(rows)
    order = list(names)
    cells = [
        [
            names.get(model, model_name(model)),
            *(
                _figure(pick(rows, model=model, task=task, metric=metric))
                for task, metric in columns
            ),
        ]
        for model in sorted(
            models(rows), key=lambda model: order.index(model) if model in names else len(order)
        )
    ]
    return _table(["model", *map(_head, columns)], cells)


def _by_value(rows: Sequence[Row], value_label: str, spec: str) -> list[str]:
    """Returns a table of a variation: models and values of the setting by tasks.

    A cell has the figure of a model, and its difference from the figure at the usual value. Lines
    of paired differences between models follow, one per pair and value. `spec` formats values.
    """
    columns = _columns(rows)
    cells = []
    for model in models(scores(rows)):
        for value in values(pick(rows, model=model), "value"):
            figures = []
            for task, metric in columns:
                selected = pick(rows, value=value, task=task, metric=metric)
                texts = [figure_text(row) for row in pick(selected, model=model)]
                texts += [_verdict(row) for row in pick(selected, model=model + MINUS + model)]
                figures.append("; ".join(texts))
            cells.append([model_name(model), format(value, spec).replace("%", " %"), *figures])
    for pair in values(differences(rows), "model"):
        if len(set(pair.split(MINUS))) == 1:
            continue
        for value in values(pick(rows, model=pair), "value"):
            selected = pick(rows, model=pair, value=value)
            figures = [
                "".join(map(_verdict, pick(selected, task=task, metric=metric)))
                for task, metric in columns
            ]
            cells.append([model_name(pair), format(value, spec).replace("%", " %"), *figures])
    return _table(["model", value_label, *map(_head, columns)], cells)


def _columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Returns the pairs (task, metric) of the rows, grouped by task."""
    return [
        (task, metric)
        for task in values(rows, "task")
        for metric in values(pick(rows, task=task), "metric")
    ]


def _head(column: tuple[str, str]) -> str:
    """Returns the heading of a column (task, metric)."""
    task, metric = column
    return f"{task_name(task)} ({METRIC_LABELS[metric]})"


def _verdict(row: Row) -> str:
    """Formats a paired difference: whether the first model is ahead, in bold, and the numbers."""
    outcome = side(row)
    return f"**{outcome}** " * (outcome is not None) + figure_text(row, signed=True)


def _rise_cells(rows: Sequence[Row]) -> list[str]:
    """Returns cells of a model on a task: lowest test loss, its epoch, last test loss, and rise."""
    curve = [row for row in pick(rows, metric="test_loss") if row["mean"] is not None]
    if not curve:
        return [""] * 4
    lowest = min(curve, key=lambda row: row["mean"])
    rise = [figure_text(row, signed=True) for row in pick(rows, metric="test_loss_rise")]
    last = at_last_epoch(curve)[0]
    return [figure_text(lowest), str(lowest["epoch"]), figure_text(last), *(rise or [""])]


def _figure(rows: Sequence[Row]) -> str:
    """Formats the first row; empty if there are no rows."""
    return figure_text(rows[0]) if rows else ""


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table; none without cells."""
    if not cells:
        return []
    lines = [head, ["---"] * len(head), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]
