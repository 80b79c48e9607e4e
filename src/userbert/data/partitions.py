"""Rows on the disk, spread by the hash of their user: all of a user's are in one partition.

In: rows of any users, many at a time. Out: one partition after the other, in the order in which
rows came. Text that vocabularies will know is written as codes. Used by preparation.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from userbert.data.codes import CodedRows
from userbert.data.shards import shard_of
from userbert.data.words import user_hash


def by_user(rows: pl.DataFrame, parts: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """The rows of each part (of a power of two) that has some, in their order."""
    if parts == 1 or rows.is_empty():
        yield from [(0, rows)] if len(rows) else []
        return
    number = shard_of(user_hash(rows["user_id"].to_arrow()), parts)
    rows = rows[np.argsort(number, kind="stable")]
    counts = np.bincount(number, minlength=parts)
    first = np.cumsum(counts) - counts
    for part in np.flatnonzero(counts).tolist():
        yield part, rows.slice(first[part], counts[part])


class Partitions:
    """Partitions of rows that have a `user_id`."""

    def __init__(self, folder: Path, number: int, coded: CodedRows) -> None:
        self.sizes = [0] * number
        """The rows of each partition."""
        self._folder = folder
        self._coded = coded

    def write(self, rows: pl.DataFrame) -> None:
        """Add rows to the partitions of their users."""
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = self._coded.encode(rows)
        for number, part in by_user(rows, len(self.sizes)):
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
            return self._coded.no_rows
        tables = []
        # Read, not mapped: pages of a map count as ours until the system wants them back.
        with pa.OSFile(str(self._file(number))) as source:
            while source.tell() < source.size():
                tables.append(pa.ipc.open_stream(source).read_all())
        return pl.DataFrame(pa.concat_tables(tables))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.arrow"
