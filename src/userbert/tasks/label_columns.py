"""Labels as a column of a table, and as the arrays that are learned from.

In: the `label` column of a file. Out: what kind of task it makes, its classes and targets; and the
way back. Used by `labels.py` alone.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from userbert.errors import LabelError

Kind = Literal["binary", "multiclass", "multilabel", "regression"]

_MOST_CLASSES_OF_NUMBERS = 20
"""Whole numbers of more distinct values than this are quantities, not classes."""
_LARGEST = float(np.finfo(np.float32).max)
_WORDS = (pl.String, pl.Boolean, pl.Categorical, pl.Enum)
_YES_AND_NO = {"1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0, "yes": 1, "no": 0}


def kind_of(column: pl.Series) -> Kind:
    """Tell the kind of a task by its labels.

    Lists make a multilabel task; 0 and 1, yes and no, true and false a binary one; words or a few
    whole numbers a multiclass one; other numbers a regression. Codes that are written as text are
    words, even if all are of digits.
    """
    if isinstance(column.dtype, pl.List):
        return "multilabel"
    texts = set(column.unique().cast(pl.String).str.to_lowercase())
    if texts <= set(_YES_AND_NO):
        return "binary"
    if not column.dtype.is_numeric():
        return "multiclass"
    whole = bool((column == column.floor()).all())
    return "multiclass" if whole and len(texts) <= _MOST_CLASSES_OF_NUMBERS else "regression"


def check_labels(column: pl.Series, name: str) -> pl.Series:
    """The labels of a file called `name`, as they can be used; raise `LabelError` if they cannot.

    They are numbers, words, yes or no, or lists of words; each is there, and none is NaN.
    """
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    is_known = inner.is_numeric() or inner in _WORDS
    if not is_known:
        raise LabelError(
            f"{name}, column label: expected numbers, words, yes or no, or lists of words, found "
            f"{column.dtype}. Convert the column."
        )
    if isinstance(column.dtype, pl.List):
        gaps = column.list.eval(pl.element().is_null()).list.any()
        _refuse(column, gaps, name, "a list without gaps")
        if not (column.list.len() > 0).any():
            raise LabelError(f"{name}, column label: all lists are empty. Nothing can be learned.")
    elif column.dtype.is_float():
        _refuse(column, ~column.is_finite(), name, "a number")
        _refuse(column, column.abs() > _LARGEST, name, f"a number below {_LARGEST:.2g}")
    return column


def _refuse(column: pl.Series, is_bad: pl.Series, name: str, expected: str) -> None:
    rows = is_bad.arg_true()
    if len(rows):
        raise LabelError(
            f"{name}, row {rows[0] + 1}, column label: expected {expected}, found "
            f"{column[rows[0]]} ({len(rows):,} of {len(column):,} rows are like that). Correct or "
            "remove them."
        )


def as_numbers(column: pl.Series) -> pl.Series:
    """Read a column of a text file, which has no types, as numbers if it holds nothing else."""
    for dtype in (pl.Int64, pl.Float64):
        numbers = column.cast(dtype, strict=False)
        if numbers.null_count() == column.null_count():
            return numbers
    return column


def classes_of(column: pl.Series, kind: Kind) -> list[str]:
    """List the classes of a task in the order of the alphabet; none of binary ones and numbers."""
    if kind in ("binary", "regression"):
        return []
    values = column.explode() if kind == "multilabel" else column
    return sorted(values.drop_nulls().cast(pl.String).unique())


def targets_of(column: pl.Series, kind: Kind, classes: Sequence[str]) -> NDArray[Any]:
    """Read targets: (B,), or (B, C) of a multilabel task."""
    if kind == "binary":
        texts = column.cast(pl.String).str.to_lowercase()
        return texts.replace_strict(_YES_AND_NO, return_dtype=pl.Int64).to_numpy()
    if kind == "regression":
        return column.cast(pl.Float32).to_numpy()
    number = {value: index for index, value in enumerate(classes)}
    if kind == "multiclass":
        return column.cast(pl.String).replace_strict(number, return_dtype=pl.Int64).to_numpy()
    targets = np.zeros((len(column), len(classes)), dtype=bool)
    held = column.cast(pl.List(pl.String)).explode(empty_as_null=False)
    users = np.repeat(np.arange(len(column)), column.list.len().to_numpy())
    targets[users, held.replace_strict(number, return_dtype=pl.Int64).to_numpy()] = True
    return targets


def column_of(targets: NDArray[Any], kind: Kind, classes: Sequence[str]) -> pa.Array:
    """Write targets as people read them: numbers, a class's name, or a list of names."""
    names = pa.array(classes, pa.large_string())
    if kind == "multilabel":
        offsets = np.concatenate([[0], np.cumsum(targets.sum(axis=1))])
        return pa.LargeListArray.from_arrays(offsets, names.take(pa.array(np.nonzero(targets)[1])))
    return names.take(pa.array(targets)) if kind == "multiclass" else pa.array(targets)
