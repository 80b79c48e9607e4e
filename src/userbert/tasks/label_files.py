"""Reads and writes files of labels, with metadata and a checksum of all columns and metadata.

In: a file's `label` column, or the fields of `Labels`. Out: the kind of task, its classes and its
targets; or a Parquet file whose metadata describe the task and hold the checksum. Used by
`labels.py` and `inspect`.
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

_MAX_NUMBER_CLASSES = 20
"""Maximum number of distinct whole numbers that are classes; a column with more is a quantity."""
_LARGEST = float(np.finfo(np.float32).max)
"""Largest absolute label of a regression: targets are float32."""
_TEXT_TYPES = (pl.String, pl.Boolean, pl.Categorical, pl.Enum)
"""Types of labels that are not numbers."""
_BINARY_TARGETS = {"1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0, "yes": 1, "no": 0}
"""Target of each label of a binary task, as text in lower case."""


def kind_of(column: pl.Series) -> Kind:
    """Infers the kind of a task from its labels.

    Lists: multilabel. Only 0, 1, yes, no, true and false, as numbers, booleans or text: binary.
    Other text, even digits, and at most 20 distinct whole numbers: multiclass. Other numbers:
    regression.
    """
    if isinstance(column.dtype, pl.List):
        return "multilabel"
    texts = set(column.unique().cast(pl.String).str.to_lowercase())
    if texts <= set(_BINARY_TARGETS):
        return "binary"
    if not column.dtype.is_numeric():
        return "multiclass"
    is_whole = bool((column == column.floor()).all())
    return "multiclass" if is_whole and len(texts) <= _MAX_NUMBER_CLASSES else "regression"


def check_labels(column: pl.Series, name: str) -> pl.Series:
    """Returns the labels of a file called `name`; raises `LabelError` if they cannot be used.

    Labels are finite numbers, text, booleans, or lists of text without nulls.
    """
    if isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
    is_supported = inner.is_numeric() or inner in _TEXT_TYPES
    if not is_supported:
        raise LabelError(
            f"{name}, column label: expected numbers, text, booleans or lists of text, found "
            f"{column.dtype}. Convert the column."
        )
    if isinstance(column.dtype, pl.List):
        has_null = column.list.eval(pl.element().is_null()).list.any()
        _refuse_rows(column, has_null, name, "a list without nulls")
        if not (column.list.len() > 0).any():
            raise LabelError(
                f"{name}, column label: all lists are empty. At least one must hold a value."
            )
    elif column.dtype.is_float():
        _refuse_rows(column, ~column.is_finite(), name, "a finite number")
        _refuse_rows(
            column, column.abs() > _LARGEST, name, f"an absolute value below {_LARGEST:.2g}"
        )
    return column


def _refuse_rows(column: pl.Series, is_bad: pl.Series, name: str, expected: str) -> None:
    """Raises `LabelError` about the first row where `is_bad` is true, if any row is bad."""
    rows = is_bad.arg_true()
    if len(rows):
        raise LabelError(
            f"{name}, row {rows[0] + 1}, column label: expected {expected}, found "
            f"{column[rows[0]]} ({len(rows):,} of {len(column):,} rows have this fault). Correct "
            "or remove these rows."
        )


def parse_numbers(column: pl.Series) -> pl.Series:
    """Converts a column of an untyped text file to numbers if all its values are numbers."""
    for dtype in (pl.Int64, pl.Float64):
        numbers = column.cast(dtype, strict=False)
        if numbers.null_count() == column.null_count():
            return numbers
    return column


def classes_of(column: pl.Series, kind: Kind) -> list[str]:
    """Returns the classes of a task, sorted; empty for binary tasks and regressions."""
    if kind in ("binary", "regression"):
        return []
    values = column.explode() if kind == "multilabel" else column
    return sorted(values.drop_nulls().cast(pl.String).unique())


def targets_of(column: pl.Series, kind: Kind, classes: Sequence[str]) -> NDArray[Any]:
    """Converts labels to targets: (B,), or (B, C) for a multilabel task (B rows, C classes)."""
    if kind == "binary":
        texts = column.cast(pl.String).str.to_lowercase()
        return texts.replace_strict(_BINARY_TARGETS, return_dtype=pl.Int64).to_numpy()
    if kind == "regression":
        return column.cast(pl.Float32).to_numpy()
    class_index = {value: index for index, value in enumerate(classes)}
    if kind == "multiclass":
        return column.cast(pl.String).replace_strict(class_index, return_dtype=pl.Int64).to_numpy()
    targets = np.zeros((len(column), len(classes)), dtype=bool)
    values = column.cast(pl.List(pl.String)).explode(empty_as_null=False)
    rows = np.repeat(np.arange(len(column)), column.list.len().to_numpy())
    targets[rows, values.replace_strict(class_index, return_dtype=pl.Int64).to_numpy()] = True
    return targets


def labels_of(targets: NDArray[Any], kind: Kind, classes: Sequence[str]) -> pa.Array:
    """Converts targets back to labels: numbers, class names, or lists of class names."""
    names = pa.array(classes, pa.large_string())
    if kind == "multilabel":
        offsets = offsets_of(targets.sum(axis=1))
        return pa.LargeListArray.from_arrays(offsets, names.take(pa.array(np.nonzero(targets)[1])))
    return names.take(pa.array(targets)) if kind == "multiclass" else pa.array(targets)


_METADATA_KEY = b"userbert"
"""Key of the metadata in the Parquet file."""
_TARGET_TYPES: Mapping[str, type] = {"multilabel": np.bool_, "regression": np.float32}
"""Target types by kind of task; int64 class indices for all other kinds."""


class LabelsMetadata(Strict):
    """Description of a task in the metadata of its file of labels."""

    question: str
    kind: Kind
    classes: tuple[str, ...] = ()
    attribute: tuple[str, str] | None = None
    hide: tuple[str, ...] = ()
    horizon: str | None = None
    checksum: str | None = None
    """SHA-256 of all rows and the other fields; None in files of versions without checksums."""


def write_labels(
    path: Path,
    metadata: LabelsMetadata,
    user_ids: Sequence[str],
    cutoffs: Int64,
    targets: NDArray[Any],
) -> None:
    """Writes a Parquet file of `user_id`, `cutoff` and `label` atomically.

    `cutoffs` (B,) are microseconds since 1970; `targets` are (B,) or (B, C).
    """
    require_ending(path, ".parquet")
    table = pa.table(
        {
            "user_id": pa.array(user_ids, pa.large_string()),
            "cutoff": pa.array(cutoffs, pa.timestamp("us", "UTC")),
            "label": labels_of(targets, metadata.kind, metadata.classes),
        }
    )
    checksum = checksum_of(metadata, user_ids, cutoffs, targets)
    content = metadata.model_copy(update={"checksum": checksum}).model_dump(mode="json")
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(content, ensure_ascii=False)})
    with publishing_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_metadata(path: Path) -> LabelsMetadata | None:
    """Reads the metadata that `write_labels` wrote; `None` if another program wrote the file.

    Raises `LabelError` if the metadata are damaged.
    """
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:
            # Arrow writes the metadata twice, in the footer and in the stored Arrow schema: if the
            # copies differ, the file is damaged.
            arrow_copy = (file.schema_arrow.metadata or {}).get(_METADATA_KEY)
            parquet_copy = (file.metadata.metadata or {}).get(_METADATA_KEY)
        if arrow_copy is None and parquet_copy is None:
            return None
        is_intact = arrow_copy == parquet_copy
        metadata = LabelsMetadata.model_validate_json(arrow_copy or b"") if is_intact else None
    except (OSError, ValueError, pa.ArrowException, ValidationError):
        metadata = None
    if metadata is None:
        raise changed_error(path)
    return metadata


def refuse_changed(path: Path, metadata: LabelsMetadata, frame: pl.DataFrame) -> None:
    """Raises `LabelError` if the rows and metadata of a file do not match its checksum.

    Files without a checksum pass.
    """
    if metadata.checksum is None:
        return
    try:
        users = frame["user_id"].cast(pl.String).to_list()
        cutoffs = frame["cutoff"].cast(pl.Datetime("us", "UTC")).cast(pl.Int64).to_numpy()
        targets = targets_of(frame["label"], metadata.kind, metadata.classes)
        is_same = checksum_of(metadata, users, cutoffs, targets) == metadata.checksum
    except (pl.exceptions.PolarsError, TypeError, ValueError, IndexError):
        is_same = False
    if not is_same:
        raise changed_error(path)


def checksum_of(
    metadata: LabelsMetadata, user_ids: Sequence[str], cutoffs: Int64, targets: NDArray[Any]
) -> str:
    """Returns the SHA-256 of users, cut-offs (B,), targets and the metadata without `checksum`."""
    content = metadata.model_dump(mode="json", exclude={"checksum"})
    digest = hashlib.sha256(json.dumps(content).encode())
    digest.update("\0".join(user_ids).encode(errors="surrogatepass"))
    digest.update(np.ascontiguousarray(cutoffs).data)
    digest.update(np.ascontiguousarray(targets, _TARGET_TYPES.get(metadata.kind, np.int64)).data)
    return digest.hexdigest()


def changed_error(path: Path | str) -> LabelError:
    """Returns the error for a file whose content does not match its checksum."""
    return LabelError(
        f"{path} has changed since it was written. Copy it again, or make the labels again. If you "
        "edited it yourself, save it without its metadata, for instance as CSV. It then counts as "
        "your own labels, which hide no profile fields."
    )
