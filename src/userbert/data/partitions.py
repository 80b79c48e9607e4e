"""Rows on the disk, spread by the hash of their user: all of a user's are in one partition.

In: rows of any users, many at a time. Out: one partition after the other, in the order in which
rows came. Text that vocabularies will know is written as codes. Used by preparation.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from userbert.data.codes import Codes
from userbert.data.store import shard_of
from userbert.data.words import user_hash


class Partitions:
    """Partitions of rows that have a `user_id`."""

    def __init__(
        self, folder: Path, number: int, coded: Iterable[str], numbers: Iterable[str]
    ) -> None:
        self.codes = {name: Codes() for name in coded}
        """Of the columns of text."""
        self.sizes = [0] * number
        """The rows of each partition."""
        self.folder = folder
        self._no_rows = pl.DataFrame(
            schema={
                "user_id": pl.String, "time": pl.Int64, "row": pl.Int64,
                **dict.fromkeys(self.codes, pl.UInt32), **dict.fromkeys(numbers, pl.Float32),
            }
        )  # fmt: skip

    def write(self, rows: pl.DataFrame) -> None:
        """Add rows to the partitions of their users."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = rows.with_columns(
            codes.encode(rows[name]).alias(name) for name, codes in self.codes.items()
        )
        for number, part in self._parts(rows):
            self.sizes[number] += len(part)
            table = part.to_arrow(compat_level=pl.CompatLevel.newest())
            # Opened each time: there may be more partitions than files may be open.
            with (
                self._file(number).open("ab") as sink,
                pa.ipc.new_stream(sink, table.schema) as writer,
            ):
                writer.write_table(table)

    def read(self, number: int) -> pl.DataFrame:
        """All rows of one partition."""
        if self.sizes[number] == 0:
            return self._no_rows
        tables = []
        # Read, not mapped: pages of a map count as ours until the system wants them back.
        with pa.OSFile(str(self._file(number))) as source:
            while source.tell() < source.size():
                tables.append(pa.ipc.open_stream(source).read_all())
        return pl.DataFrame(pa.concat_tables(tables))

    def _parts(self, rows: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
        if len(self.sizes) == 1 or rows.is_empty():
            yield from [(0, rows)] if len(rows) else []
            return
        number = shard_of(user_hash(rows["user_id"].to_arrow()), len(self.sizes))
        rows = rows[np.argsort(number, kind="stable")]
        counts = np.bincount(number, minlength=len(self.sizes))
        first = np.cumsum(counts) - counts
        for partition in np.flatnonzero(counts).tolist():
            yield partition, rows.slice(first[partition], counts[partition])

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.arrow"
