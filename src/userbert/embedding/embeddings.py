"""User vectors in files and frames: checked, and read a part at a time.

In: a Parquet file, a folder of its parts, or a frame in memory, with one list or the columns `e0`,
`e1` … a vector. Out: parts of users, cut-offs and vectors (B, H), in the order of the rows. Memory
is that of one part, so any number of users can be read. `inspection` and `lookalike.py` use it.
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
from userbert.embedding.embedding_folder import complete_files
from userbert.errors import InputError

_UNREADABLE = (OSError, ValueError, TypeError, pa.ArrowException, pl.exceptions.PolarsError)
_ROWS_AT_A_TIME = 65_536
_REMEDY = "Write it by userbert embed, or name the columns so."


@dataclass(frozen=True)
class Part:
    """Some rows after each other."""

    name: str
    """In messages."""
    first: int
    """The number of its first row, counted from 0 in all parts together."""
    rows: int
    read: Callable[[Sequence[str]], pa.Table]
    """Its columns of these names."""


@dataclass(frozen=True)
class Embeddings:
    """Float32 of users at cut-offs, which are read when they are asked for."""

    name: str
    """In messages."""
    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    """That hold the vector: one of lists, or one a number."""

    @classmethod
    def open(cls, path: Path) -> "Embeddings":
        """Open a file, or a folder of `part-*.parquet`.

        Raises `InputError` if it is damaged, lacks a column, or holds no row.
        """
        parts: list[Part] = []
        columns: tuple[str, ...] | None = None
        for file in complete_files(path):
            with _told(file):
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                names = parquet.schema_arrow.names
                sizes = [
                    parquet.metadata.row_group(group).num_rows
                    for group in range(parquet.metadata.num_row_groups)
                ]
            found = _vector_columns(names, str(file))
            if columns is not None and found != columns:
                raise InputError(
                    f"{file}: expected vectors in {_listed(columns)} as in {parts[0].name}, found "
                    f"{_listed(found)}. Keep the parts of one run in a folder, and no others."
                )
            columns = found
            for group, rows in enumerate(sizes):
                first = parts[-1].first + parts[-1].rows if parts else 0
                parts.append(Part(str(file), first, rows, _reader(file, group)))
        return cls._of(str(path), parts, columns or ())

    @classmethod
    def of(cls, frame: Any, name: str = "embeddings") -> "Embeddings":
        """Read a Polars frame or any Arrow table, called `name` in messages.

        Raises `InputError` if it lacks a column, or holds no row.
        """
        table = pl.DataFrame(frame).to_arrow(compat_level=pl.CompatLevel.oldest())
        columns = _vector_columns(table.column_names, name)
        parts = []
        for first in range(0, len(table), _ROWS_AT_A_TIME):
            some = table.slice(first, _ROWS_AT_A_TIME)
            parts.append(Part(name, first, len(some), some.select))
        return cls._of(name, parts, columns)

    @classmethod
    def _of(cls, name: str, parts: list[Part], columns: tuple[str, ...]) -> "Embeddings":
        if not sum(part.rows for part in parts):
            raise InputError(f"{name}: expected vectors, found no rows. Embed again.")
        return cls(name, tuple(part for part in parts if part.rows), columns)

    def __len__(self) -> int:
        """Count the rows."""
        return self.parts[-1].first + self.parts[-1].rows

    def people(self) -> pl.DataFrame:
        """`user_id` as text and `cutoff` (in UTC, without saying so), of all rows in their order.

        Raises `InputError` where one is missing.
        """
        return pl.concat([self.people_of(part) for part in self.parts])

    def people_of(self, part: Part) -> pl.DataFrame:
        """The same of one part."""
        with _told(part.name):
            table = part.read(["user_id", "cutoff"])
            # Some write text as a dictionary, or ids as numbers.
            users = table["user_id"].cast(pa.large_string())
            cutoffs = table["cutoff"].cast(pa.timestamp("us"))
            frame = pl.DataFrame({"user_id": users, "cutoff": cutoffs})
        for column in frame.iter_columns():
            missing = column.is_null().arg_true()
            if len(missing):
                raise InputError(
                    f"{part.name}, row {self._row(part, missing[0])}, column {column.name}: "
                    f"expected a value, found none. Remove the row, or embed again."
                )
        return frame

    def vectors(self, part: Part) -> Float32:
        """The vectors (B, H) of a part; raises `InputError` if they are no vectors of one width."""
        with _told(part.name):
            table = part.read(self.columns)
        if self.columns != ("embedding",):
            return np.stack(
                [self._numbers(table[name], part, name) for name in self.columns], axis=1
            )
        lists = table["embedding"].combine_chunks()
        if not _is_list(lists.type):
            self._refuse(part, "embedding", "lists of numbers", str(lists.type))
        is_there = lists.is_valid().to_numpy(zero_copy_only=False)
        if not is_there.all():
            self._refuse(part, "embedding", "a vector", "none", int(is_there.argmin()))
        if not pa.types.is_fixed_size_list(lists.type):
            widths = lists.value_lengths().to_numpy(zero_copy_only=False)
            other = np.flatnonzero(widths != widths[0])
            if len(other):
                expected, found = f"{widths[0]} numbers", f"{widths[other[0]]}"
                self._refuse(part, "embedding", expected, found, int(other[0]))
        numbers = self._numbers(lists.flatten(), part, "embedding")
        if not len(numbers):
            self._refuse(part, "embedding", "numbers", "empty lists")
        return numbers.reshape(part.rows, -1)

    def blocks(self, parts: Sequence[Part] | None = None) -> Iterator[tuple[int, Float32]]:
        """Float32 (B, H) of every part, or of some, and the number of the first row of each block.

        Raises `InputError` if they differ in width.
        """
        before: tuple[Part, int] | None = None
        for part in self.parts if parts is None else parts:
            vectors = self.vectors(part)
            width = vectors.shape[1]
            if before is not None and width != before[1]:
                raise InputError(
                    f"{part.name}: expected vectors of {before[1]} numbers as in "
                    f"{before[0].name}, found {width}. Float32 of two models have nothing in "
                    "common: embed all users by one."
                )
            before = before or (part, width)
            # Others write parts of any size.
            for first in range(0, part.rows, _ROWS_AT_A_TIME):
                yield part.first + first, vectors[first : first + _ROWS_AT_A_TIME]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Float32:
        """The vectors (B, H) of some rows, in the order given."""
        wanted = np.asarray(rows, np.int64)
        parts = np.searchsorted([part.first for part in self.parts], wanted, "right") - 1
        found: Float32 | None = None
        for first, vectors in self.blocks([self.parts[number] for number in np.unique(parts)]):
            mine = np.flatnonzero((wanted >= first) & (wanted < first + len(vectors)))
            if found is None:
                found = np.zeros((len(wanted), vectors.shape[1]), np.float32)
            found[mine] = vectors[wanted[mine] - first]
        return np.zeros((0, 0), np.float32) if found is None else found

    def _numbers(self, column: Any, part: Part, name: str) -> Float32:
        kind = column.type
        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if not is_number:
            self._refuse(part, name, "numbers", str(kind))
        if column.null_count:
            self._refuse(part, name, "a number everywhere", f"{column.null_count:,} without one")
        with np.errstate(over="ignore"):  # it is told as infinite, where that matters
            return np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.float32, copy=False)

    def _refuse(
        self, part: Part, column: str, expected: str, found: str, row: int | None = None
    ) -> None:
        where = "" if row is None else f", row {self._row(part, row)}"
        raise InputError(
            f"{part.name}{where}, column {column}: expected {expected}, found {found}. Embed again."
        )

    def _row(self, part: Part, row: int) -> int:
        """A row of a part as people count those of its file."""
        return part.first - next(one.first for one in self.parts if one.name == part.name) + row + 1


def holds_vectors(path: Path) -> bool:
    """Whether a file or folder is one of embeddings."""
    try:
        names = set(pq.read_schema(complete_files(path)[0]).names)
    except (OSError, ValueError, pa.ArrowException):  # names may be no text
        return False
    return "user_id" in names and ("embedding" in names or "e0" in names)


def _vector_columns(names: Sequence[str], where: str) -> tuple[str, ...]:
    numbered = sorted((name for name in names if name[:1] == "e" and name[1:].isdigit()),
                      key=lambda name: int(name[1:]))  # fmt: skip
    vector = ("embedding",) if "embedding" in names else tuple(numbered)
    missing = [name for name in ("user_id", "cutoff") if name not in names]
    if not vector:
        missing.append("embedding, or e0, e1 …")
    if missing:
        raise InputError(
            f"{where}: expected the columns user_id, cutoff and embedding (or e0, e1 …), found "
            f"{_listed(names)}: {', '.join(missing)} is missing. {_REMEDY}"
        )
    gap = next((n for n, name in enumerate(vector) if name != f"e{n}"), None)
    if vector != ("embedding",) and gap is not None:
        raise InputError(f"{where}: expected a column e{gap}, found {vector[gap]}. Embed again.")
    return vector


def _listed(names: Sequence[str]) -> str:
    """Names, the first ones of many."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _reader(file: Path, group: int) -> Callable[[Sequence[str]], pa.Table]:
    def read(columns: Sequence[str]) -> pa.Table:
        # Pages are compared with their checksums.
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            return parquet.read_row_group(group, columns=list(columns))

    return read


@contextmanager
def _told(file: Path | str) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise InputError(
            f"{file} is damaged: {' '.join(str(error).split())}. Copy it again, or embed again."
        ) from error
