"""Reads user vectors from files and frames, one row group at a time, and checks them.

In: a Parquet file, a folder of parts, or a frame in memory. The vectors are in one list column, or
in the columns `e0`, `e1` …. Out: users, cut-offs and vectors, in row order. Vectors
are read one row group at a time. Used by `inspection`, `search` and the service.

Letters in shapes: B rows, H numbers of a vector.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from userbert.data.ragged import Float32
from userbert.embedding.embedding_folder import embedding_files
from userbert.errors import InputError

_UNREADABLE = (OSError, ValueError, TypeError, pa.ArrowException, pl.exceptions.PolarsError)
"""Errors of the libraries that read damaged files."""
_ROWS_AT_A_TIME = 65_536
"""Maximum number of rows that callers receive at once, to limit memory: 32 MiB at width 128."""
_REMEDY = "Write it with userbert embed, or rename the columns."
"""Advice if a column is missing."""
_NAMES_SHOWN = 5
"""Maximum number of column names in a message."""


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows that are read together."""

    name: str
    """Name of the file or frame, for messages."""
    first: int
    """Row number of the first row, counted from 0 over all row groups."""
    rows: int
    """Number of rows."""
    read: Callable[[Sequence[str]], pa.Table]
    """Function that reads the columns with the given names."""


@dataclass(frozen=True)
class Embeddings:
    """Float32 vectors of users at cut-offs, read on demand."""

    name: str
    """Name of the file, folder or frame, for messages."""
    row_groups: tuple[RowGroup, ...]
    """Row groups of all files, in order, without empty groups."""
    columns: tuple[str, ...]
    """Columns that hold the vector: `embedding`, or `e0`, `e1` …."""
    rows_per_block: int = _ROWS_AT_A_TIME
    """Maximum number of rows that `blocks` yields at once."""

    @classmethod
    def open(cls, path: Path) -> "Embeddings":
        """Opens a file, or a folder of `part-*.parquet`.

        Raises `InputError` if it is damaged, a column is missing, or it holds no row.
        """
        groups: list[RowGroup] = []
        columns: tuple[str, ...] | None = None
        for file in embedding_files(path):
            with _damage_as_input_error(file):
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                names = parquet.schema_arrow.names
                sizes = [
                    parquet.metadata.row_group(number).num_rows
                    for number in range(parquet.metadata.num_row_groups)
                ]
            file_columns = _vector_columns(names, str(file))
            if columns is not None and file_columns != columns:
                raise InputError(
                    f"{file}: expected vectors in {_first_names(columns)} as in {groups[0].name}, "
                    f"found {_first_names(file_columns)}. Keep the parts of one run only."
                )
            columns = file_columns
            for number, rows in enumerate(sizes):
                first = groups[-1].first + groups[-1].rows if groups else 0
                groups.append(RowGroup(str(file), first, rows, _reader(file, number)))
        return cls._of_groups(str(path), groups, columns or ())

    @classmethod
    def of(cls, frame: Any, name: str = "embeddings") -> "Embeddings":
        """Wraps a Polars, pandas or Arrow table; messages call it `name`.

        Raises `InputError` if a column is missing, or the table holds no row.
        """
        table = pl.DataFrame(frame).to_arrow(compat_level=pl.CompatLevel.oldest())
        columns = _vector_columns(table.column_names, name)
        groups = []
        for first in range(0, len(table), _ROWS_AT_A_TIME):
            rows = table.slice(first, _ROWS_AT_A_TIME)
            groups.append(RowGroup(name, first, len(rows), rows.select))
        return cls._of_groups(name, groups, columns)

    @classmethod
    def _of_groups(
        cls, name: str, groups: list[RowGroup], columns: tuple[str, ...]
    ) -> "Embeddings":
        if not sum(group.rows for group in groups):
            raise InputError(f"{name}: expected vectors, found no rows. Embed again.")
        return cls(name, tuple(group for group in groups if group.rows), columns)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self.row_groups[-1].first + self.row_groups[-1].rows

    def user_cutoffs(self) -> pl.DataFrame:
        """Returns the columns `user_id` (text) and `cutoff` (UTC, without a zone) of all rows.

        Raises `InputError` if a value is missing, or a column has values of another type.
        """
        return pl.concat([self._user_cutoffs_of(group) for group in self.row_groups])

    def _user_cutoffs_of(self, group: RowGroup) -> pl.DataFrame:
        with _damage_as_input_error(group.name):
            table = group.read(["user_id", "cutoff"])
            # Other writers store text as a dictionary, or ids as numbers.
            users = table["user_id"].cast(pa.large_string())
            cutoffs = table["cutoff"].cast(pa.timestamp("us"))
            frame = pl.DataFrame({"user_id": users, "cutoff": cutoffs})
        for column in frame.iter_columns():
            missing = column.is_null().arg_true()
            if len(missing):
                raise InputError(
                    f"{group.name}, row {self._row_number(group, missing[0])}, column "
                    f"{column.name}: expected a value, found none. Remove the row, or embed again."
                )
        return frame

    def vectors(self, group: RowGroup) -> Float32:
        """Returns the vectors (B, H) of a row group.

        Raises `InputError` if a vector or a number is missing, values are not numbers, or vectors
        differ in width.
        """
        with _damage_as_input_error(group.name):
            table = group.read(self.columns)
        if self.columns != ("embedding",):
            return np.stack(
                [self._as_float32(table[name], group, name) for name in self.columns], axis=1
            )
        lists = table["embedding"].combine_chunks()
        if not _is_list(lists.type):
            self._refuse(group, "embedding", "lists of numbers", str(lists.type))
        is_present = lists.is_valid().to_numpy(zero_copy_only=False)
        if not is_present.all():
            self._refuse(group, "embedding", "a vector", "none", int(is_present.argmin()))
        if not pa.types.is_fixed_size_list(lists.type):
            widths = lists.value_lengths().to_numpy(zero_copy_only=False)
            differing = np.flatnonzero(widths != widths[0])
            if len(differing):
                expected, actual = f"{widths[0]} numbers", f"{widths[differing[0]]}"
                self._refuse(group, "embedding", expected, actual, int(differing[0]))
        numbers = self._as_float32(lists.flatten(), group, "embedding")
        if not len(numbers):
            self._refuse(group, "embedding", "numbers", "empty lists")
        return numbers.reshape(group.rows, -1)

    def blocks(self, groups: Sequence[RowGroup] | None = None) -> Iterator[tuple[int, Float32]]:
        """Yields the first row number and the vectors (B, H) of each block of rows.

        Reads all row groups, or only `groups`. Raises `InputError` as `vectors` does, and if row
        groups differ in width.
        """
        first_group: tuple[RowGroup, int] | None = None
        for group in self.row_groups if groups is None else groups:
            vectors = self.vectors(group)
            width = vectors.shape[1]
            if first_group is not None and width != first_group[1]:
                raise InputError(
                    f"{group.name}: expected vectors of {first_group[1]} numbers as in "
                    f"{first_group[0].name}, found {width}. Vectors of two models cannot be "
                    "compared: embed all users with one model."
                )
            first_group = first_group or (group, width)
            # Files of other writers may have row groups of any size.
            for first in range(0, group.rows, self.rows_per_block):
                yield group.first + first, vectors[first : first + self.rows_per_block]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Float32:
        """Returns the vectors (B, H) of the row numbers `rows`, in the order of `rows`."""
        row_numbers = np.asarray(rows, np.int64)
        group_numbers = (
            np.searchsorted([group.first for group in self.row_groups], row_numbers, "right") - 1
        )
        taken: Float32 | None = None
        groups = [self.row_groups[group_number] for group_number in np.unique(group_numbers)]
        for first, vectors in self.blocks(groups):
            positions = np.flatnonzero(
                (row_numbers >= first) & (row_numbers < first + len(vectors))
            )
            if taken is None:
                taken = np.zeros((len(row_numbers), vectors.shape[1]), np.float32)
            taken[positions] = vectors[row_numbers[positions] - first]
        return np.zeros((0, 0), np.float32) if taken is None else taken

    def _as_float32(self, column: Any, group: RowGroup, name: str) -> Float32:
        """Returns the numbers of a column.

        Raises `InputError` if values are not numbers, or a number is missing.
        """
        kind = column.type
        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if not is_number:
            self._refuse(group, name, "numbers", str(kind))
        if column.null_count:
            self._refuse(group, name, "no missing number", f"{column.null_count:,} missing")
        with np.errstate(over="ignore"):  # too large becomes infinite, which callers report
            return np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.float32, copy=False)

    def _refuse(
        self, group: RowGroup, column: str, expected: str, actual: str, row: int | None = None
    ) -> None:
        """Raises an `InputError` that names the file, the column and, if given, the row.

        `row` is counted from 0 within the row group.
        """
        where = "" if row is None else f", row {self._row_number(group, row)}"
        raise InputError(
            f"{group.name}{where}, column {column}: expected {expected}, found {actual}. "
            "Embed again."
        )

    def _row_number(self, group: RowGroup, row: int) -> int:
        """Returns the row number within the file, from 1, of a row of the group, from 0."""
        file_start = next(item.first for item in self.row_groups if item.name == group.name)
        return group.first - file_start + row + 1


def holds_vectors(path: Path) -> bool:
    """Returns whether a file or folder has the columns of embeddings.

    Raises `InputError` as `embedding_files` does.
    """
    try:
        names = set(pq.read_schema(embedding_files(path)[0]).names)
    except (OSError, ValueError, pa.ArrowException):  # column names may be invalid text
        return False
    return "user_id" in names and ("embedding" in names or "e0" in names)


def _vector_columns(names: Sequence[str], source: str) -> tuple[str, ...]:
    """Returns the names of the columns that hold the vectors.

    Raises `InputError`, which calls the table `source`, if a column is missing.
    """
    numbered = sorted((name for name in names if name[:1] == "e" and name[1:].isdigit()),
                      key=lambda name: int(name[1:]))  # fmt: skip
    vector = ("embedding",) if "embedding" in names else tuple(numbered)
    missing = [name for name in ("user_id", "cutoff") if name not in names]
    if not vector:
        missing.append("embedding, or e0, e1 …")
    if missing:
        raise InputError(
            f"{source}: expected the columns user_id, cutoff and embedding (or e0, e1 …), found "
            f"{_first_names(names)}: {', '.join(missing)} is missing. {_REMEDY}"
        )
    gap = next((number for number, name in enumerate(vector) if name != f"e{number}"), None)
    if vector != ("embedding",) and gap is not None:
        raise InputError(f"{source}: expected a column e{gap}, found {vector[gap]}. Embed again.")
    return vector


def _first_names(names: Sequence[str]) -> str:
    """Joins the first `_NAMES_SHOWN` names, and adds the number of further names."""
    more = len(names) - _NAMES_SHOWN
    suffix = f" and {more:,} more" if more > 0 else ""
    return (", ".join(names[:_NAMES_SHOWN]) or "none") + suffix


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _reader(file: Path, number: int) -> Callable[[Sequence[str]], pa.Table]:
    """Returns a function that reads named columns of a row group."""

    def read(columns: Sequence[str]) -> pa.Table:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            return parquet.read_row_group(number, columns=list(columns))

    return read


@contextmanager
def _damage_as_input_error(file: Path | str) -> Iterator[None]:
    """Raises an `InputError` that names the file if reading inside the block fails."""
    try:
        yield
    except _UNREADABLE as error:
        raise InputError(
            f"{file} is damaged: {' '.join(str(error).split())}. Copy it again, or embed again."
        ) from error
