"""Labels in Parquet files: what else is known of them, and whether they still are what was written.

In: the columns of `Labels` and what is asked. Out: a file whose metadata say it, with a checksum of
all of it. Used by `labels.py` alone.

Labels as a column of a table, and as the arrays that are learned from.

In: the `label` column of a file. Out: what kind of task it makes, its classes and targets; and the
way back. Used by `labels.py` alone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from userbert.data.ragged import Int64, offsets_of
from userbert.errors import LabelError
from userbert.folders import publishing_file, require_ending
from userbert.schema.strict import Strict

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
        offsets = offsets_of(targets.sum(axis=1))
        return pa.LargeListArray.from_arrays(offsets, names.take(pa.array(np.nonzero(targets)[1])))
    return names.take(pa.array(targets)) if kind == "multiclass" else pa.array(targets)


_METADATA = b"userbert"
_TYPES: Mapping[str, type] = {"multilabel": np.bool_, "regression": np.float32}
"""Of targets; those of other kinds are numbers of classes."""


class About(Strict):
    """What labels ask."""

    question: str
    kind: Kind
    classes: tuple[str, ...] = ()
    attribute: tuple[str, str] | None = None
    hide: tuple[str, ...] = ()
    horizon: str | None = None
    checksum: str | None = None
    """SHA-256 of all of it and of the labels; the first files that were written have none."""


def write_labels(
    path: Path, about: About, user_ids: Sequence[str], cutoffs: Int64, targets: NDArray[Any]
) -> None:
    """Write `user_id`, `cutoff`, `label`, each (B,), whole or not at all."""
    require_ending(path, ".parquet")
    table = pa.table(
        {
            "user_id": pa.array(user_ids, pa.large_string()),
            "cutoff": pa.array(cutoffs, pa.timestamp("us", "UTC")),
            "label": column_of(targets, about.kind, about.classes),
        }
    )
    checksum = checksum_of(about, user_ids, cutoffs, targets)
    content = about.model_copy(update={"checksum": checksum}).model_dump(mode="json")
    told = {_METADATA: json.dumps(content, ensure_ascii=False)}
    with publishing_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(told), temporary, compression="zstd")


def read_about(path: Path) -> About | None:
    """What `write_labels` left in a file; none if another program wrote it.

    Raises `LabelError` if it is damaged.
    """
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:
            # It stands there twice, in Arrow's own description too: one may be damaged.
            told = (file.schema_arrow.metadata or {}).get(_METADATA)
            again = (file.metadata.metadata or {}).get(_METADATA)
        if told is None and again is None:
            return None
        about = About.model_validate_json(told or b"") if told == again else None
    except (OSError, ValueError, pa.ArrowException, ValidationError):
        about = None
    if about is None:
        raise changed(path)
    return about


def refuse_changed(path: Path, about: About, frame: pl.DataFrame) -> None:
    """Raise `LabelError` if the rows of a file are not those that were written."""
    if about.checksum is None:
        return
    try:
        users = frame["user_id"].cast(pl.String).to_list()
        cutoffs = frame["cutoff"].cast(pl.Datetime("us", "UTC")).cast(pl.Int64).to_numpy()
        targets = targets_of(frame["label"], about.kind, about.classes)
        is_same = checksum_of(about, users, cutoffs, targets) == about.checksum
    except (pl.exceptions.PolarsError, TypeError, ValueError, IndexError):
        is_same = False
    if not is_same:
        raise changed(path)


def checksum_of(
    about: About, user_ids: Sequence[str], cutoffs: Int64, targets: NDArray[Any]
) -> str:
    """SHA-256 of labels and of what they ask."""
    content = about.model_dump(mode="json", exclude={"checksum"})
    digest = hashlib.sha256(json.dumps(content).encode())
    digest.update("\0".join(user_ids).encode(errors="surrogatepass"))
    digest.update(np.ascontiguousarray(cutoffs).data)
    digest.update(np.ascontiguousarray(targets, _TYPES.get(about.kind, np.int64)).data)
    return digest.hexdigest()


def changed(path: Path | str) -> LabelError:
    """The error of a file that is not as it was written."""
    return LabelError(
        f"{path} has changed since it was written. Copy it again, or make the labels again. If you "
        "changed them yourself, write them without the file's metadata: then they are labels of "
        "your own, and hide no profile fields."
    )
