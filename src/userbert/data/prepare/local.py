"""Prepares logs on this machine with all cores; rows are partitioned on disk by user hash.

In: a `Preparation` and a memory limit. Out: its shards. All rows of a user are in one partition, in
the order of the logs, with text as dictionary codes. Memory holds one partition per core and one
shard, for any number of users.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from userbert.data.prepare.building import Builder, UserLogs, user_logs
from userbert.data.prepare.dictionary import LogDictionaries, RowDictionaries
from userbert.data.prepare.engine import Preparation
from userbert.data.prepare.fitting import Counts, add_counts, count_values, fit_vocabularies
from userbert.data.ragged import offsets_of
from userbert.data.read.reading import UnusedRows
from userbert.data.shards import (
    ShardSize,
    ShardTables,
    power_of_two,
    shard_name,
    shard_of,
    total_size,
    user_hash,
    write_shard,
)
from userbert.data.vocabulary import Vocabularies
from userbert.folders import require_space
from userbert.progress import progress
from userbert.workers import cores, map_threaded


def split_by_user(rows: pl.DataFrame, parts: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Splits rows by user hash into `parts` (a power of two); yields (part, rows) unless empty.

    Parts are numbered in the order of hashes.
    """
    if parts == 1 or rows.is_empty():
        yield from [(0, rows)] if len(rows) else []
        return
    part_of_row = shard_of(user_hash(rows["user_id"].to_arrow()), parts)
    rows = rows[np.argsort(part_of_row, kind="stable")]
    counts = np.bincount(part_of_row, minlength=parts)
    offsets = offsets_of(counts)
    for part in np.flatnonzero(counts).tolist():
        yield part, rows.slice(offsets[part], counts[part])


class Partitions:
    """Rows on disk, in `count` partitions by user hash. Text is encoded."""

    def __init__(self, folder: Path, count: int, dictionaries: RowDictionaries) -> None:
        self.sizes = [0] * count
        """Number of rows of each partition."""
        self._folder = folder
        self._dictionaries = dictionaries

    def write(self, rows: pl.DataFrame) -> None:
        """Appends rows to the partitions of their users."""
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = self._dictionaries.encode(rows)
        for number, part in split_by_user(rows, len(self.sizes)):
            self.sizes[number] += len(part)
            table = part.to_arrow(compat_level=pl.CompatLevel.newest())
            # Opened for each write: partitions may exceed the limit on open files.
            with (
                self._file(number).open("ab") as sink,
                pa.ipc.new_stream(sink, table.schema) as writer,
            ):
                writer.write_table(table)

    def read(self, number: int) -> pl.DataFrame:
        """Returns all rows of one partition."""
        if self.sizes[number] == 0:
            return self._dictionaries.no_rows
        tables = []
        # Not memory-mapped: mapped pages would count as memory of this process until reclaimed.
        with pa.OSFile(str(self._file(number))) as source:
            while source.tell() < source.size():
                tables.append(pa.ipc.open_stream(source).read_all())
        return pl.DataFrame(pa.concat_tables(tables))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:06d}.arrow"


_BYTES_PER_EVENT = 1_000
"""Peak memory in bytes per event in the kernel: strings, their sorted encoded copy, the result."""
_BYTES_PER_ROW, _BYTES_PER_VALUE = 45, 8
"""Bytes on disk per row and per value, partitions plus shards, for ids of up to 24 characters."""
_MAX_HELD_COUNTS = 16
"""Maximum number of partitions whose counts are held before they are summed.

The counts of each partition may contain every value.
"""


class LocalEngine:
    """Runs the three passes (`read`, `fit`, `build`) on this machine.

    `memory` is the limit in bytes from which the number of partitions is chosen.
    """

    def __init__(self, preparation: Preparation, memory: int) -> None:
        self.preparation = preparation
        self._dictionaries = LogDictionaries.of(preparation.schema)
        self._partition_count = max(
            preparation.shards, power_of_two(preparation.rows * _BYTES_PER_EVENT / memory)
        )
        self._temporary = preparation.folder / "temporary"
        self._events = Partitions(
            self._temporary / "events", self._partition_count, self._dictionaries.events
        )
        self._profile = Partitions(
            self._temporary / "profile", self._partition_count, self._dictionaries.profile
        )

    def read(self) -> None:
        """Distributes events and profile rows over partitions by user hash."""
        preparation, reading = self.preparation, self.preparation.reading
        per_row = _BYTES_PER_ROW + _BYTES_PER_VALUE * len(preparation.schema.attributes)
        needed, content = preparation.rows * per_row, f"{preparation.rows:,} rows"
        require_space(preparation.output, preparation.folder, needed, content, "fewer logs")
        with progress("reading events", sum(log.rows for log in preparation.logs)) as advance:
            # Another thread writes rows while this thread reads and checks the next rows.
            for _ in map_threaded(
                self._events.write, reading.events(preparation.logs, advance), threads=1
            ):
                pass
        with progress(
            "reading profiles", sum(file.rows for file in preparation.profile)
        ) as advance:
            for profile in reading.profile(preparation.profile, advance):
                self._profile.write(profile)

    def fit(self) -> Vocabularies:
        """Counts values by partition, sums the counts, and gives the values ids."""

        def count(partition: int) -> Counts:
            return count_values(self.preparation.schema, self._dictionaries, self._logs(partition))

        counts: list[Counts] = []
        with progress("counting values", sum(self._events.sizes)) as advance:
            results = map_threaded(count, range(self._partition_count), cores())
            for size, partition_counts in zip(self._events.sizes, results, strict=True):
                counts.append(partition_counts)
                if len(counts) == _MAX_HELD_COUNTS:
                    counts = [add_counts(counts)]
                advance(size, "")
        return fit_vocabularies(self.preparation.schema, add_counts(counts), self._dictionaries)

    def build(self, vocabularies: Vocabularies) -> tuple[ShardSize, dict[str, str]]:
        """Writes all shards, each from consecutive partitions; removes temporary files.

        Returns the total size, and no checksums.
        """
        preparation = self.preparation
        builder = Builder(
            preparation.schema,
            vocabularies,
            self._dictionaries,
            preparation.append,
            self._partition_count,
        )
        sizes = []
        partitions_per_shard = self._partition_count // preparation.shards
        with progress("building words", sum(self._events.sizes)) as advance:
            for shard in range(preparation.shards):
                numbers = range(shard * partitions_per_shard, (shard + 1) * partitions_per_shard)
                sizes.append(
                    write_shard(
                        preparation.folder / shard_name(shard), self._shard_tables(builder, numbers)
                    )
                )
                advance(sum(self._events.sizes[number] for number in numbers), f"shard {shard + 1}")
        shutil.rmtree(self._temporary, ignore_errors=True)
        return total_size(sizes), {}

    def _shard_tables(self, builder: Builder, numbers: Iterable[int]) -> Iterator[ShardTables]:
        def build(partition: int) -> tuple[ShardTables, UnusedRows]:
            logs = self._logs(partition)
            return builder.build(partition, logs), logs.unused

        for tables, unused in map_threaded(build, numbers, cores()):
            self.preparation.reading.account_unused(unused)
            yield tables

    def _logs(self, partition: int) -> UserLogs:
        events, profile = self._events.read(partition), self._profile.read(partition)
        logs = user_logs(self.preparation.schema, self.preparation.files, events, profile)
        self.preparation.reading.refuse(logs.unused.repeated_profiles)
        return logs
