"""Preparation on this machine: hash partitions of the users on its disk, and all of its cores.

In: a `Preparation`, and the memory to keep to. Out: its shards. Memory holds a partition a core and
one shard, whatever the number of users.

Rows on the disk, spread by the hash of their user: all of a user's are in one partition.

In: rows of any users, many at a time. Out: one partition after the other, in the order in which
rows came. Text that vocabularies will know is written as codes. Used by preparation.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from userbert.data.prepare.building import Builder, UserLogs, user_logs
from userbert.data.prepare.dictionary import CodedLogs, CodedRows
from userbert.data.prepare.engine import Preparation
from userbert.data.prepare.fitting import Counts, added_up, count_values, fit_vocabularies
from userbert.data.ragged import offsets_of
from userbert.data.read.reading import LeftOut
from userbert.data.shards import (
    ShardSize,
    ShardTables,
    power_of_two,
    shard_name,
    shard_of,
    total,
    user_hash,
    write_shard,
)
from userbert.data.vocabulary import Vocabularies
from userbert.folders import require_space
from userbert.progress import progress
from userbert.workers import cores, threaded


def by_user(rows: pl.DataFrame, parts: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """The rows of each part (of a power of two) that has some, in their order."""
    if parts == 1 or rows.is_empty():
        yield from [(0, rows)] if len(rows) else []
        return
    number = shard_of(user_hash(rows["user_id"].to_arrow()), parts)
    rows = rows[np.argsort(number, kind="stable")]
    counts = np.bincount(number, minlength=parts)
    first = offsets_of(counts)
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


_BYTES_PER_EVENT = 1_000
"""Of one event at the kernel's peak: its strings, their copy sorted and encoded, and the result."""
_BYTES_OF_ROW, _BYTES_OF_VALUE = 45, 8
"""On disk, in partitions and in shards together; an id of more than 24 letters takes more."""
_ADDED_AT_ONCE = 16
"""Counts of partitions, which may each hold every value that there is."""


class LocalEngine:
    """Runs the passes on this machine."""

    def __init__(self, preparation: Preparation, memory: int) -> None:
        self.preparation = preparation
        self._coded = CodedLogs.of(preparation.schema)
        self._number = max(
            preparation.shards, power_of_two(preparation.rows * _BYTES_PER_EVENT / memory)
        )
        self._temporary = preparation.folder / "temporary"
        self._events = Partitions(self._temporary / "events", self._number, self._coded.events)
        self._profile = Partitions(self._temporary / "profile", self._number, self._coded.profile)

    def read(self) -> None:
        """Spread events and profile rows over partitions by the hash of their user."""
        given, reading = self.preparation, self.preparation.reading
        per_row = _BYTES_OF_ROW + _BYTES_OF_VALUE * len(given.schema.attributes)
        needed, what = given.rows * per_row, f"{given.rows:,} rows"
        require_space(given.output, given.folder, needed, what, "fewer logs")
        with progress("reading events", sum(log.rows for log in given.logs)) as advance:
            # One thread: what is read meanwhile is checked here.
            for _ in threaded(self._events.write, reading.events(given.logs, advance), threads=1):
                pass
        with progress("reading profiles", sum(file.rows for file in given.profile)) as advance:
            for profile in reading.profile(given.profile, advance):
                self._profile.write(profile)

    def fit(self) -> Vocabularies:
        """Count values partition by partition, then give them ids."""

        def count(partition: int) -> Counts:
            return count_values(self.preparation.schema, self._coded, self._logs(partition))

        counts: list[Counts] = []
        with progress("counting values", sum(self._events.sizes)) as advance:
            counted = threaded(count, range(self._number), cores())
            for size, found in zip(self._events.sizes, counted, strict=True):
                counts.append(found)
                if len(counts) == _ADDED_AT_ONCE:
                    counts = [added_up(counts)]
                advance(size, "")
        return fit_vocabularies(self.preparation.schema, added_up(counts), self._coded)

    def build(self, vocabularies: Vocabularies) -> tuple[ShardSize, dict[str, str]]:
        """Write all shards, each of some partitions in a row."""
        given = self.preparation
        builder = Builder(given.schema, vocabularies, self._coded, given.append, self._number)
        sizes = []
        each = self._number // given.shards
        with progress("building words", sum(self._events.sizes)) as advance:
            for shard in range(given.shards):
                numbers = range(shard * each, (shard + 1) * each)
                sizes.append(
                    write_shard(given.folder / shard_name(shard), self._built(builder, numbers))
                )
                advance(sum(self._events.sizes[number] for number in numbers), f"shard {shard + 1}")
        shutil.rmtree(self._temporary, ignore_errors=True)
        return total(sizes), {}

    def _built(self, builder: Builder, numbers: Iterable[int]) -> Iterator[ShardTables]:
        def build(partition: int) -> tuple[ShardTables, LeftOut]:
            logs = self._logs(partition)
            return builder.build(partition, logs), logs.left_out

        for tables, left_out in threaded(build, numbers, cores()):
            self.preparation.reading.leave_out(left_out)
            yield tables

    def _logs(self, partition: int) -> UserLogs:
        events, profile = self._events.read(partition), self._profile.read(partition)
        logs = user_logs(self.preparation.schema, self.preparation.files, events, profile)
        self.preparation.reading.refuse(logs.left_out.second_rows)
        return logs
