"""Tables that describe a file of labels, of scores, or any other table.

In: a file, or a folder of `part-*.parquet`. Out: rich tables of columns, labels, scores, cut-offs.
"""

from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text

from userbert.data.use.pairs import read_table
from userbert.inspection.layout import HEADINGS, bar, fact_table, quantiles, share, table
from userbert.tasks.label_files import (
    LabelsMetadata,
    check_labels,
    kind_of,
    parse_numbers,
    read_metadata,
    refuse_changed,
)

_MAX_ROWS = 10
"""Maximum number of classes, or of cut-offs, in a table."""
_BINS = 10
"""Number of bars of the histogram of scores."""


def describe_file(path: Path) -> RenderableType:
    """Returns tables of a file's columns and, if it has them, labels, scores and cut-offs.

    Raises `InputError` if the file cannot be read, is damaged, or has labels that cannot be used.
    """
    files = [path] if path.is_file() else sorted(path.glob("part-*.parquet"))
    frame = pl.concat([read_table(file) for file in files])
    columns = table(f"{path}: {len(frame):,} rows", "column", "type", "missing", "examples")
    for column in frame.iter_columns():
        examples = ", ".join(str(value)[:40] for value in column.head(3).to_list())
        kind = str(column.dtype).partition("(")[0]
        missing = share(column.null_count(), len(column))
        columns.add_row(Text(column.name), kind, missing, Text(examples))
    tables: list[RenderableType] = [columns]
    metadata = read_metadata(path)
    if metadata is not None:
        refuse_changed(path, metadata, frame)
    if {"user_id", "label"} <= set(frame.columns) and len(frame):
        tables += _label_tables(path, frame, metadata)
    if "score" in frame.columns and len(frame):
        tables += _score_tables(frame["score"])
    if "cutoff" in frame.columns and len(frame):
        tables.append(_cutoff_table(frame["cutoff"]))
    return Group(*tables)


def _label_tables(
    path: Path, frame: pl.DataFrame, metadata: LabelsMetadata | None
) -> list[RenderableType]:
    """Returns tables of the kind of labels, and of their quantiles or most frequent classes."""
    labels = frame["label"]
    if path.suffix.lower() != ".parquet":
        labels = parse_numbers(labels)
    missing = labels.null_count()
    labels = check_labels(labels.drop_nulls(), str(path))
    kind = kind_of(labels) if metadata is None else metadata.kind
    card = fact_table("Labels", {"kind": kind, "missing": f"{missing:,}" if missing else None,
                             **_label_facts(metadata)})  # fmt: skip
    if kind == "regression":
        spread = table("Quantities", *HEADINGS)
        spread.add_row(*quantiles(labels.to_numpy(), ",.4g"))
        return [card, spread]
    values = labels.explode().drop_nulls() if kind == "multilabel" else labels
    counts = values.cast(pl.String).value_counts(sort=True)
    share_heading = "share of label sets" if kind == "multilabel" else "share of labels"
    classes = table(f"Classes: {len(counts):,}", "class", "labels", share_heading, "")
    largest = int(counts["count"][0]) if len(counts) else 1
    for name, count in counts.head(_MAX_ROWS).iter_rows():
        classes.add_row(Text(name), f"{count:,}", share(count, len(labels)), bar(count / largest))
    more = len(counts) - _MAX_ROWS
    return [card, classes, *([f"… and {more:,} more classes"] if more > 0 else [])]


def _label_facts(metadata: LabelsMetadata | None) -> dict[str, str | None]:
    """Returns the origin of labels, by name."""
    if metadata is None:
        return {"from": "a file of your own"}
    return {
        "question": metadata.question,
        "horizon": metadata.horizon,
        "hidden fields": ", ".join(metadata.hide) or None,
    }


def _score_tables(scores: pl.Series) -> list[RenderableType]:
    """Returns a table of quantiles and a histogram; no tables if all scores are missing or NaN."""
    numbers = scores.drop_nulls().drop_nans().to_numpy()
    if not len(numbers):
        return []
    spread = table("Scores", *HEADINGS)
    spread.add_row(*quantiles(numbers, ".3f"))
    counts, edges = np.histogram(numbers, _BINS)
    bars = table("", "score", "users", "")
    for number, count in enumerate(counts):
        score_range = f"{edges[number]:.3f} to {edges[number + 1]:.3f}"
        bars.add_row(score_range, f"{count:,}", bar(count / counts.max()))
    return [spread, bars]


def _cutoff_table(cutoffs: pl.Series) -> RenderableType:
    """Returns a table of the most frequent cut-offs."""
    counts = cutoffs.value_counts(sort=True)
    first, last = str(cutoffs.min()), str(cutoffs.max())
    title = f"Cut-offs: {len(counts):,}, from {first} to {last}"
    rows = table(title, "cut-off", "rows")
    for cutoff, count in counts.head(_MAX_ROWS).iter_rows():
        rows.add_row(str(cutoff), f"{count:,}")
    return rows
