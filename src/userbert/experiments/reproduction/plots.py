"""Figures of results as SVG, in the form of the paper's.

In: rows of one study. Out: figures 800 CSS pixels wide; equal rows give equal bytes. Each panel has
the learning curves and, in a strip on the right, the last epoch of each model with its 95 %
interval; models without epochs are in the strip only. Figures of variations show the last epoch by
value of the setting. Colours are those of Okabe and Ito, which colour-blind readers can tell apart;
each model also has its own mark. Used by `page`.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from userbert.experiments.reproduction.rows import (
    METRIC_LABELS,
    Row,
    at_last_epoch,
    model_name,
    models,
    pick,
    scores,
    studies,
    task_name,
    values,
)

_INCH = 1 / 96
"""Inches per CSS pixel; letters of 9 points are 12 pixels high."""
_WIDTH = 800
"""Width of a figure in CSS pixels."""
_GREY = "#6b6b6b"


Dashes = Literal["-", "--", ":", ""]
"""Line style of Matplotlib; empty: no line."""


@dataclass(frozen=True)
class Style:
    """Look of a model: colour by family, dashes by variant, mark by both."""

    colour: str
    mark: str
    dashes: Dashes = "-"


STYLES = {
    "userbert": Style("#0072B2", "o"),
    "userbert-keep-position": Style("#56B4E9", "o", "--"),
    "userbert-from-scratch": Style("#D55E00", "X", "--"),
    "wide-deep-mtl": Style("#E69F00", "s"),
    "wide-deep-from-scratch": Style("#E69F00", "s", ":"),
    "lstm-mtl": Style("#009E73", "^"),
    "lstm-from-scratch": Style("#009E73", "^", ":"),
    "transformer-mtl": Style("#CC79A7", "D"),
    "transformer-mtl-30": Style("#CC79A7", "d", "--"),
    "transformer-from-scratch": Style("#CC79A7", "x", ":"),
    "coles": Style("#222222", "v"),
    "coles-gru": Style("#222222", "<", "--"),
    "aggregates-gbm": Style(_GREY, "P"),
    "one-aggregate": Style(_GREY, "1"),
    "own-popularity": Style(_GREY, "h"),
    "popularity": Style(_GREY, "p"),
    "oracle": Style(_GREY, "*"),
    "profile-oracle": Style(_GREY, "H"),
}


def figure_3(rows: Sequence[Row]) -> Figure:
    """Draws user targeting by epoch: a column per task, ROC-AUC above, accuracy below."""
    return _curves(pick(rows, experiment="figure_3"), ["roc_auc", "accuracy"])


def figure_4(rows: Sequence[Row]) -> Figure:
    """Draws ROC-AUC by epoch of Transformers pretrained on none, some or all of the labels."""
    return _curves(pick(rows, experiment="figure_4"), ["roc_auc"])


def figure_5(rows: Sequence[Row]) -> Figure:
    """Draws ROC-AUC (above), and losses on training and test users (below), by epoch."""
    rows = pick(rows, experiment="figure_5")
    return _curves(rows, ["roc_auc"], losses=True)


def figure_6(rows: Sequence[Row]) -> Figure:
    """Draws ROC-AUC by epoch of attribute prediction: a column per task."""
    return _curves(pick(rows, experiment="figure_6"), ["roc_auc"])


def table_2(rows: Sequence[Row]) -> Figure:
    """Draws our mAP@10 with intervals; the paper's has its own panel, since its users differ."""
    rows = at_last_epoch(scores(pick(rows, experiment="table_2", metric="map_at_10")))
    names = models(rows)
    figure = _figure(70 + 28 * len(names))
    ours, papers = figure.subplots(1, 2, sharey=True)
    for position, model in enumerate(names):
        style = _style(model)
        for row in pick(rows, model=model)[:1]:
            if row["mean"] is not None:
                ours.plot(100 * row["mean"], position, style.mark, color=style.colour, markersize=7)
            if row["low"] is not None:
                ends = [100 * row["low"], 100 * row["high"]]
                ours.plot(ends, [position, position], color=style.colour, linewidth=2)
            if row["paper"] is not None:
                papers.plot(
                    100 * row["paper"], position, style.mark,
                    color=style.colour, markersize=7, markerfacecolor="white", markeredgewidth=1.4,
                )  # fmt: skip
    for axes, title in ((ours, "here"), (papers, "in the paper, on its own users")):
        _hide_frame(axes)
        axes.set_title(title, loc="left")
        axes.set_xlabel(METRIC_LABELS["map_at_10"])
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.margins(x=0.1)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.tick_params(axis="y", length=0)
    ours.set_yticks(range(len(names)), [model_name(model) for model in names])
    ours.set_ylim(len(names) - 0.5, -0.5)
    return figure


def pretraining_length(rows: Sequence[Row]) -> Figure:
    """Draws each task by batches of pretraining, and the loss on users held out from it."""
    return _by_value(pick(rows, experiment="pretraining_length"), "batches of pretraining", ",.0f")


def label_share(rows: Sequence[Row]) -> Figure:
    """Draws each task by the share of training labels."""
    return _by_value(pick(rows, experiment="label_share"), "labels to learn from", ".0%")


FIGURES: Mapping[str, Callable[[Sequence[Row]], Figure]] = {
    "figure_3": figure_3,
    "figure_4": figure_4,
    "figure_5": figure_5,
    "table_2": table_2,
    "figure_6": figure_6,
    "pretraining_length": pretraining_length,
    "label_share": label_share,
}


def write_figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Writes `EXPERIMENT-STUDY.svg` for each experiment of each study in the rows."""
    written = []
    for study in studies(rows):
        for experiment, draw in FIGURES.items():
            experiment_rows = pick(study.rows, experiment=experiment)
            if experiment_rows:
                written.append(folder / f"{experiment}-{study.slug}.svg")
                title = f"{experiment.replace('_', ' ').capitalize()}, {study.name}"
                written[-1].write_text(_svg(draw, experiment_rows, title), encoding="utf-8")
    return written


def _svg(draw: Callable[[Sequence[Row]], Figure], rows: Sequence[Row], title: str) -> str:
    """Returns a figure as SVG, without date and version, so that equal rows give equal bytes."""
    metadata = {**dict.fromkeys(("Creator", "Date", "Format", "Type")), "Title": title}
    buffer = io.StringIO()
    with mpl.rc_context(_LOOK):
        draw(rows).savefig(buffer, format="svg", metadata=metadata)
    # Coordinates need two decimals; no text has a number with five or more.
    return re.sub(r"(\.\d\d)\d{3,}", r"\1", buffer.getvalue())


_LOOK: dict[Any, Any] = {
    # Text stays text, not paths: small files that can be searched.
    "svg.fonttype": "none",
    "svg.hashsalt": "userbert",
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "axes.titlesize": 10,
    "axes.labelsize": 9,
}


def _curves(rows: Sequence[Row], metrics: Sequence[str], *, losses: bool = False) -> Figure:
    """Draws a row of panels per metric, and a row of losses if `losses`; a column per task."""
    rows = scores(rows)
    tasks, shown = values(rows, "task"), models(rows)
    lines = len(metrics) + losses
    figure = _figure(60 + 250 * lines + 18 * -(-len(shown) // 3))
    panels = figure.subplots(lines, len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        task_rows = pick(rows, task=task)
        panels[0, column].set_title(task_name(task), loc="left")
        for line, metric in enumerate(metrics):
            _panel(panels[line, column], pick(task_rows, metric=metric), shown)
        if losses:
            _loss_panel(panels[-1, column], task_rows, shown)
        panels[-1, column].set_xlabel("epoch of fine-tuning")
    for line, metric in enumerate(metrics):
        panels[line, 0].set_ylabel(f"{METRIC_LABELS[metric]} on test users")
    if losses:
        panels[-1, 0].set_ylabel("loss")
    return _with_legend(figure, rows)


def _panel(axes: Axes, rows: Sequence[Row], shown: Sequence[str]) -> None:
    """Draws the curves, then the last epochs with intervals in the strip.

    `shown` are the models of the figure in the order of the legend.
    """
    usable = _rows_with_means(axes, rows)
    if not usable:
        return
    for model in reversed(models(usable)):  # UserBERT on top
        _line(axes, [row for row in pick(usable, model=model) if row["epoch"] is not None], 1.6)
    start, end = _strip(axes, usable, shown)
    step = (end - start) / len(shown)
    for row in at_last_epoch(usable):
        style, x = _style(row["model"]), start + step * (shown.index(row["model"]) + 0.5)
        if row["low"] is not None:
            axes.plot([x, x], [row["low"], row["high"]], color=style.colour, linewidth=1.4)
        axes.plot(x, row["mean"], style.mark, color=style.colour, markersize=5)
    axes.axvspan(start, end, color="#f3f3f3", linewidth=0, zorder=0)
    axes.text(
        (start + end) / 2, 0.01, "last, 95 %", color=_GREY, fontsize=8, ha="center", va="bottom",
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    axes.margins(y=0.09)


def _by_value(rows: Sequence[Row], value_label: str, spec: str) -> Figure:
    """Draws a panel per task, two in a row: the last epoch with its interval, by `value`.

    `spec` formats values.
    """
    rows = scores(rows)
    tasks, shown = values(rows, "task"), models(rows)
    steps = sorted({row["value"] for row in rows})
    lines = -(-len(tasks) // 2)
    figure = _figure(60 + 200 * lines + 18 * -(-len(shown) // 3))
    panels = figure.subplots(lines, 2, squeeze=False).flat
    for axes in panels[len(tasks) :]:
        axes.set_visible(False)
    for axes, task in zip(panels, tasks, strict=False):
        usable = _rows_with_means(axes, pick(rows, task=task))
        axes.set_title(task_name(task), loc="left")
        if not usable:
            continue
        metric = usable[0]["metric"]
        scale = 100 if metric == "map_at_10" else 1
        for number, model in enumerate(models(usable)):
            model_rows, style = pick(usable, model=model), _style(model)
            # Shifted sideways, so that intervals do not overlap.
            shift = 0.06 * (number - (len(models(usable)) - 1) / 2)
            xs = [steps.index(row["value"]) + shift for row in model_rows]
            axes.plot(
                xs, [scale * row["mean"] for row in model_rows],
                color=style.colour, linestyle=style.dashes or ":", marker=style.mark, markersize=5,
            )  # fmt: skip
            for x, row in zip(xs, model_rows, strict=True):
                if row["low"] is not None:
                    ends = [scale * row["low"], scale * row["high"]]
                    axes.plot([x, x], ends, color=style.colour, linewidth=1)
        axes.set_ylabel(METRIC_LABELS[metric])
        axes.set_xticks(range(len(steps)), [format(step, spec) for step in steps])
        axes.set_xlabel(value_label)
    return _with_legend(figure, rows)


def _loss_panel(axes: Axes, rows: Sequence[Row], shown: Sequence[str]) -> None:
    """Draws the losses of each model: training thin, test thick, with labels at the ends.

    Labels are where the panels above have their strip. They are moved up where they would overlap.
    """
    usable = _rows_with_means(axes, [row for row in rows if row["metric"] in _LOSSES])
    if not usable:
        return
    for model in models(usable):
        for metric, (_, width) in _LOSSES.items():
            _line(axes, pick(usable, model=model, metric=metric), width)
    start, _ = _strip(axes, usable, shown)
    low, high = axes.get_ylim()
    y = low - high
    for row in sorted(at_last_epoch(usable), key=lambda row: row["mean"]):
        y = max(y + 0.065 * (high - low), row["mean"])  # a line of text is about 0.065 high
        name, _ = _LOSSES[row["metric"]]
        axes.text(start, y, name, color=_style(row["model"]).colour, va="center")


_LOSSES = {"train_loss": ("training", 0.9), "test_loss": ("test", 2.2)}
"""Label and line width in points of each loss curve."""


def _rows_with_means(axes: Axes, rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with a mean; if there are none, writes the note of a row into the panel."""
    _hide_frame(axes)
    usable = [row for row in rows if row["mean"] is not None]
    if not usable:
        notes = [row["note"] for row in rows if row.get("note")]
        axes.text(
            0.5, 0.5, notes[0] if notes else "no figures", color=_GREY, ha="center", va="center",
            wrap=True, transform=axes.transAxes,
        )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
    return usable


def _strip(axes: Axes, rows: Sequence[Row], shown: Sequence[str]) -> tuple[float, float]:
    """Leaves room for the strip after the last epoch; returns its start and end in epochs."""
    epochs = max([row["epoch"] for row in rows if row["epoch"] is not None], default=1)
    start = epochs + 0.35
    end = start + max(0.5 * len(shown), 0.25 * epochs)
    axes.set_xlim(0.6, end)
    axes.set_xticks(range(1, epochs + 1))
    return start, end


def _line(axes: Axes, curve: Sequence[Row], width: float) -> None:
    """Draws a curve; thin lines have no marks."""
    if not curve:
        return
    style = _style(curve[0]["model"])
    axes.plot(
        [row["epoch"] for row in curve], [row["mean"] for row in curve],
        color=style.colour, linestyle=style.dashes, linewidth=width,
        marker=style.mark if width > 1 else "", markersize=4, markevery=(2, 5),
    )  # fmt: skip


def _with_legend(figure: Figure, rows: Sequence[Row]) -> Figure:
    """Adds a legend of the models below the panels, and returns the figure."""
    shown = models(rows)
    figure.legend(
        [_key(pick(rows, model=model)) for model in shown], [model_name(model) for model in shown],
        loc="outside lower center", ncols=3, frameon=False,
    )  # fmt: skip
    return figure


def _key(rows: Sequence[Row]) -> Line2D:
    """Returns the legend key of a model; a model without epochs has a mark and no line."""
    style = _style(rows[0]["model"])
    dashes: Dashes = "" if all(row["epoch"] is None for row in rows) else style.dashes
    return Line2D([], [], color=style.colour, linestyle=dashes, marker=style.mark, markersize=5)


def _style(model: str) -> Style:
    """Returns the look of a model; unknown models are grey dots."""
    return STYLES.get(model, Style(_GREY, "."))


def _figure(height: int) -> Figure:
    """Returns an empty figure; `height` is in CSS pixels."""
    return Figure(figsize=(_WIDTH * _INCH, height * _INCH), layout="constrained")


def _hide_frame(axes: Axes) -> None:
    """Removes the upper and right edges of a panel, and greys the others."""
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color("#bbbbbb")
    axes.tick_params(color="#bbbbbb")
    axes.set_axisbelow(True)
