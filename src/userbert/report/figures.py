"""Small figures of the report: numbers in, SVG text out.

The SVG is embedded in the HTML page and takes its colours from the page: each of the `_INKS` is
replaced by a CSS variable, so that one file suits light and dark. No figure is wider than a phone.
The other modules of this package use the figures.

Letter in shapes: B users.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from userbert.evaluation.findings import Group

WIDTH = 360
"""Width of a figure in CSS pixels; a phone shows it without shrinking the text."""

_BARS = 36
"""Maximum number of bars of a histogram."""
_TEXT, _RULE = "#010203", "#020304"
"""Placeholder colours of text and of lines such as axes; see `_INKS`."""
_GROUP_INKS: dict[Group, str] = {
    "classical": "#030405",
    "ours": "#040506",
    "baseline": "#050607",
}
"""Placeholder colours of the groups of models; see `_INKS`."""
_INKS = {
    _TEXT: "currentColor",
    _RULE: "var(--rule)",
    **{ink: f"var(--{group})" for group, ink in _GROUP_INKS.items()},
}
"""CSS value in the page by placeholder colour; no figure uses a placeholder otherwise."""

UNKNOWN_COLOUR = "#9a9a9a"
"""Colour of users whose value is not known or has no colour."""
NAMED_COLOURS = ("#3f7fc1", "#d9822b", "#3c9d6e", "#c0507f", "#8a6fc7", "#a08a2c", "#4aa3b5")
"""Colours of values without an order, most frequent value first; readable on white and black."""
ORDERED_COLOURS = ("#3558b8", "#3f8fc4", "#3fae96", "#8fae3c", "#d9a02b", "#dd6f2b", "#c23b3b")
"""Colours of ordered values, from low to high."""


@dataclass(frozen=True)
class Interval:
    """A named value and its 95 % interval from `low` to `high`."""

    name: str
    value: float
    low: float
    high: float
    group: Group
    """Group of models whose colour is used."""


@dataclass(frozen=True)
class Line:
    """A named line in the colour of its group; `low` and `high` bound its band, if not empty."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    group: Group
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


def intervals(rows: Sequence[Interval], *, title: str, axis: str, zero: bool = False) -> Markup:
    """Draws values with their intervals, one row each; `zero` adds a line at zero.

    `title` names the figure for screen readers, here and below; `axis` is the label of the x-axis.
    """
    figure, axes = _axes(height=46 + 21 * len(rows))
    for position, row in enumerate(rows):
        ink = _GROUP_INKS[row.group]
        axes.plot([row.low, row.high], [position, position], color=ink, linewidth=2)
        axes.plot([row.value], [position], "o", color=ink, markersize=6)
    axes.set_yticks(range(len(rows)), [_plain(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    axes.set_xlabel(axis)
    if zero:
        axes.axvline(0, color=_TEXT, linewidth=0.8)
        axes.margins(x=0.08)
    else:
        axes.grid(axis="x", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
    return _svg(figure, title)


def learning_curves(lines: Sequence[Line], *, title: str, axis: str) -> Markup:
    """Draws a metric, named by `axis`, over the number of labels, on a logarithmic axis."""
    figure, axes = _axes(height=220)
    _draw(axes, lines)
    ticks = sorted({x for line in lines for x in line.x})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labels to learn from")
    axes.set_ylabel(axis)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _name_at_end(axes, lines)
    return _svg(figure, title)


def calibration(lines: Sequence[Line], *, title: str) -> Markup:
    """Draws the share of yes over the score; on the thin line, share and score are equal."""
    figure, axes = _axes(height=200)
    ends = [value for line in lines for value in (*line.x, *line.y)]
    ends = [min(ends), max(ends)]
    axes.plot(ends, ends, color=_TEXT, linewidth=0.8)
    _draw(axes, lines)
    axes.set_xlabel("mean score")
    axes.set_ylabel("share of yes")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    _name_at_end(axes, lines)
    return _svg(figure, title)


def losses(lines: Sequence[Line], *, name: str, title: str) -> Markup:
    """Draws the loss of one attribute, `name`, over the steps of pretraining."""
    figure, axes = _axes(height=120, width=WIDTH // 2 - 6)
    _draw(axes, lines)
    axes.set_title(_plain(name), loc="left", fontsize=11, color=_TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    return _svg(figure, title)


def histogram(counts: NDArray[np.integer[Any]], *, title: str, axis: str) -> Markup:
    """Draws a histogram of counts without the largest 1 %; `axis` is the label of the x-axis."""
    figure, axes = _axes(height=130)
    top = max(int(np.percentile(counts, 99)), 1) if len(counts) else 1
    width = -(-(top + 1) // _BARS)
    edges = np.arange(0, top + width + 1, width) - 0.5
    axes.hist(counts, bins=list(edges), color=_GROUP_INKS["ours"], rwidth=0.86)
    axes.set_xlabel(_plain(axis))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return _svg(figure, title)


def user_map(points: NDArray[np.floating[Any]], colours: Sequence[str], *, title: str) -> Markup:
    """Draws users at `points` (B, 2) as dots; dots of `UNKNOWN_COLOUR` are under other dots."""
    figure = Figure(figsize=(WIDTH / 72, 300 / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    is_known = np.array([colour != UNKNOWN_COLOUR for colour in colours], bool)
    inks = np.array(colours)
    # Rasterised: thousands of dots as SVG elements would make the page heavy.
    size = float(np.clip(12000 / max(len(points), 1), 4, 30))
    for is_drawn, alpha in ((~is_known, 0.3), (is_known, 0.75)):
        x, y = points[is_drawn].T
        axes.scatter(x, y, c=inks[is_drawn], s=size, alpha=alpha, linewidths=0, rasterized=True)
    return _svg(figure, title)


def _axes(height: int, width: int = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_RULE)
    axes.tick_params(colors=_TEXT, labelsize=11, length=3, width=0.6)
    axes.tick_params(which="both", color=_RULE)
    axes.xaxis.label.set(color=_TEXT, fontsize=11)
    axes.yaxis.label.set(color=_TEXT, fontsize=11)
    return figure, axes


def _draw(axes: Axes, lines: Sequence[Line]) -> None:
    for line in lines:
        ink = _GROUP_INKS[line.group]
        style = "--" if line.dashed else "-"
        marker = "o" if len(line.x) <= 10 else ""
        axes.plot(line.x, line.y, style, color=ink, marker=marker, markersize=4)
        if line.low:
            axes.fill_between(line.x, line.low, line.high, color=ink, alpha=0.13, linewidth=0)


def _name_at_end(axes: Axes, lines: Sequence[Line]) -> None:
    """Writes each line's name at its right end; moves names up where lines end close together."""
    low, high = axes.get_ylim()
    room = (high - low) * 0.075
    height = -np.inf
    for line in sorted(lines, key=lambda line: line.y[-1]):
        height = max(height + room, line.y[-1])
        axes.annotate(
            _plain(line.name),
            (line.x[-1], height),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
            color=_GROUP_INKS[line.group],
            annotation_clip=False,
        )


def _plain(name: str) -> str:
    """Escapes dollars, which matplotlib would read as a formula."""
    return name.replace("$", r"\$")


def _svg(figure: Figure, title: str) -> Markup:
    """Returns a figure as an inline SVG element that the page can label, colour and scale."""
    buffer = io.StringIO()
    # Text stays text instead of outlines, so that it is searchable and in the page's font.
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=160, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for ink, name in _INKS.items():
        text = text.replace(ink, name)
    # Figures share the page, so matplotlib's ids ("axes_1") need a prefix to be unique.
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    width, height = (round(inches * 72) for inches in figure.get_size_inches())
    opening = (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width} {height}" '
        f'style="max-width: {width}px" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f"<title>{escape(title)}</title>"
    )
    return Markup(opening + text[text.index(">") + 1 :])
