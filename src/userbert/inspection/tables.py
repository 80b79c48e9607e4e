"""What is inside a file of labels, of scores, or any other table.

In: a file. Out: rich tables: what labels ask and how they are answered, how scores lie.
"""

from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text

from userbert.data.use.pairs import read_table
from userbert.inspection.layout import HEADINGS, bar, facts, quantiles, share, table
from userbert.tasks.label_files import (
    LabelsMetadata,
    check_labels,
    kind_of,
    parse_numbers,
    read_metadata,
    refuse_changed,
)

_SHOWN = 10
_BINS = 10


def describe_file(path: Path) -> RenderableType:
    """Lay out a table; raise `InputError` if it cannot be read or is damaged."""
    files = [path] if path.is_file() else sorted(path.glob("part-*.parquet"))
    frame = pl.concat([read_table(file) for file in files])
    made = table(f"{path}: {len(frame):,} rows", "column", "type", "missing", "examples")
    for column in frame.iter_columns():
        examples = ", ".join(str(value)[:40] for value in column.head(3).to_list())
        kind = str(column.dtype).partition("(")[0]
        missing = share(column.null_count(), len(column))
        made.add_row(Text(column.name), kind, missing, Text(examples))
    parts: list[RenderableType] = [made]
    about = read_metadata(path)
    if about is not None:
        refuse_changed(path, about, frame)
    if {"user_id", "label"} <= set(frame.columns) and len(frame):
        parts += _labels(path, frame, about)
    if "score" in frame.columns and len(frame):
        parts += _scores(frame["score"])
    if "cutoff" in frame.columns and len(frame):
        parts.append(_cutoffs(frame["cutoff"]))
    return Group(*parts)


def _labels(path: Path, frame: pl.DataFrame, about: LabelsMetadata | None) -> list[RenderableType]:
    answers = frame["label"]
    if path.suffix.lower() != ".parquet":
        answers = parse_numbers(answers)
    missing = answers.null_count()
    answers = check_labels(answers.drop_nulls(), str(path))
    kind = kind_of(answers) if about is None else about.kind
    asked = facts("Labels", {"kind": kind, "missing": f"{missing:,}" if missing else None,
                             **_asked(about)})  # fmt: skip
    if kind == "regression":
        spread = table("Quantities", *HEADINGS)
        spread.add_row(*quantiles(answers.to_numpy(), ",.4g"))
        return [asked, spread]
    values = answers.explode().drop_nulls() if kind == "multilabel" else answers
    counts = values.cast(pl.String).value_counts(sort=True)
    whose = "of labels that hold it" if kind == "multilabel" else "of labels"
    classes = table(f"Classes: {len(counts):,}", "class", "labels", whose, "")
    most = int(counts["count"][0]) if len(counts) else 1
    for name, count in counts.head(_SHOWN).iter_rows():
        classes.add_row(Text(name), f"{count:,}", share(count, len(answers)), bar(count / most))
    more = len(counts) - _SHOWN
    return [asked, classes, *([f"… and {more:,} more classes"] if more > 0 else [])]


def _asked(about: LabelsMetadata | None) -> dict[str, str | None]:
    if about is None:
        return {"from": "a file of your own"}
    return {
        "question": about.question,
        "horizon": about.horizon,
        "hidden fields": ", ".join(about.hide) or None,
    }


def _scores(scores: pl.Series) -> list[RenderableType]:
    numbers = scores.drop_nulls().drop_nans().to_numpy()
    if not len(numbers):
        return []
    spread = table("Scores", *HEADINGS)
    spread.add_row(*quantiles(numbers, ".3f"))
    counts, edges = np.histogram(numbers, _BINS)
    bars = table("", "score", "users", "")
    for number, count in enumerate(counts):
        between = f"{edges[number]:.3f} to {edges[number + 1]:.3f}"
        bars.add_row(between, f"{count:,}", bar(count / counts.max()))
    return [spread, bars]


def _cutoffs(cutoffs: pl.Series) -> RenderableType:
    counts = cutoffs.value_counts(sort=True)
    first, last = str(cutoffs.min()), str(cutoffs.max())
    title = f"Cut-offs: {len(counts):,}, from {first} to {last}"
    made = table(title, "cut-off", "rows")
    for moment, count in counts.head(_SHOWN).iter_rows():
        made.add_row(str(moment), f"{count:,}")
    return made
