"""Preparation on a Spark cluster: the same passes over the same rows, by its executors.

In: a `Preparation` whose files and folder every executor reaches under the same name, and a
session. Out: its shards, byte for byte those of this machine. Spark moves rows and tries again what
fails; what is done with them is done by the code that all engines share, through `mapInArrow`:

1. `_Read` checks pieces of files. It sends rows to the task that owns the shard of their user, many
   at once as a block of Arrow, and notes what became of all others. Blocks stay on the disks of
   executors.
2. `_Count` counts the values of a shard; Spark adds them up.
3. `_Build` writes a shard beside its place and renames it, so a try that was cut off, or two at the
   same time, do no harm.
"""

import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl
import pyarrow as pa

from userbert.data.building import Builder
from userbert.data.cluster import collected
from userbert.data.codes import CodedLogs
from userbert.data.engine import Preparation
from userbert.data.fitting import PROFILE, count_values, counted_values, fit_vocabularies
from userbert.data.intake import LeftOut, UserLogs, user_logs
from userbert.data.partitions import by_user
from userbert.data.reading import OnInvalid, Reading
from userbert.data.sources import Piece, open_piece
from userbert.data.store import PreparedData, ShardSize, shard_name, total, write_shard
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError
from userbert.folders import checksums
from userbert.schema.models import Number, Schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ROWS_PER_PIECE = 4_194_304
"""Of a Parquet file, that one task reads."""

_EVENTS, _PROFILE, _NOTE = "events", "profile", "note"
_BLOCKS = "shard int, kind string, content binary"
_COUNTS = "owner string, name string, text string, number float, count bigint, users bigint"
_NOTES = "content binary"
_ARROW_COUNTS = pa.schema(
    {
        "owner": pa.string(), "name": pa.string(), "text": pa.string(), "number": pa.float32(),
        "count": pa.int64(), "users": pa.int64(),
    }
)  # fmt: skip

Batches = Iterator[pa.RecordBatch]


class SparkEngine:
    """Runs the passes on the executors of a session."""

    def __init__(self, preparation: Preparation, session: "SparkSession") -> None:
        given = preparation
        self.preparation = given
        self._session = session
        # Where tasks run, relative paths would start elsewhere.
        self._schema = Schema.parse(given.schema.dump(), given.schema.folder.absolute())
        logs = [*given.logs, *given.profile]
        self._pieces = [piece for log in logs for piece in log.pieces(_ROWS_PER_PIECE)]
        self._blocks: DataFrame | None = None

    def read(self) -> None:
        """Check pieces of files, and bring the rows of each shard's users into one task."""
        from pyspark import StorageLevel

        given, pieces = self.preparation, len(self._pieces)
        numbers = {name: number for number, name in enumerate(given.files)}
        task = _Read(self._schema, self._pieces, numbers, given.reading.on_invalid, given.shards)
        self._blocks = (
            self._session.range(0, pieces, 1, pieces)
            .mapInArrow(task, _BLOCKS)
            .repartitionById(given.shards, "shard")
            .persist(StorageLevel.DISK_ONLY)
        )
        notes = self._blocks.filter(f"kind = '{_NOTE}'").select("content")
        for _, found in self._notes(notes, "reading events", pieces + given.shards):
            if isinstance(found, InputError):
                raise found
            given.reading.add(found)

    def fit(self) -> Vocabularies:
        """Count the values of each shard, and add them up."""
        assert self._blocks is not None
        counted = self._blocks.mapInArrow(_Count(self._schema, self.preparation.files), _COUNTS)
        summed = counted.groupBy("owner", "name", "text", "number").sum("count", "users")
        table = collected(self._session, summed, "counting values", self.preparation.shards)
        found = pl.DataFrame(table).rename({"sum(count)": "count", "sum(users)": "users"})
        counts = {}
        for (owner, name), attribute in counted_values(self._schema).items():
            rows = found.filter((pl.col("owner") == owner) & (pl.col("name") == name))
            value = "number" if isinstance(attribute, Number) else "text"
            counts[owner, name] = rows.select(pl.col(value).alias("value"), "count", "users")
        return fit_vocabularies(self._schema, [counts], coded=None)

    def build(self, vocabularies: Vocabularies) -> tuple[ShardSize, dict[str, str]]:
        """Write each shard in a task of its own."""
        assert self._blocks is not None
        given = self.preparation
        folder = given.folder.absolute()
        (folder / "shards").mkdir()
        append = None if given.append is None else given.append.path.absolute()
        task = _Build(self._schema, given.files, vocabularies, append, folder, given.shards)
        notes = self._blocks.mapInArrow(task, _NOTES)
        built = [one for _, one in self._notes(notes, "building words", given.shards)]
        self._blocks.unpersist()
        for one in built:
            given.reading.refuse(one.left_out.second_rows)
            given.reading.leave_out(one.left_out)
        sums = {name: found for one in built for name, found in one.checksums.items()}
        return total([one.size for one in built]), sums

    def _notes(self, frame: "DataFrame", description: str, tasks: int) -> list[tuple[int, Any]]:
        """What tasks have to say, by their numbers."""
        table = collected(self._session, frame, description, tasks)
        notes = [pickle.loads(note) for note in table["content"].to_pylist()]
        return sorted(notes, key=lambda note: note[0])


@dataclass(frozen=True)
class _Read:
    """Reads the pieces whose numbers it is given."""

    schema: Schema
    pieces: Sequence[Piece]
    files: Mapping[str, int]
    on_invalid: OnInvalid
    shards: int

    def __call__(self, numbers: Batches) -> Batches:
        for batch in numbers:
            for number in batch["id"].to_pylist():
                yield from self._read(number)

    def _read(self, number: int) -> Batches:
        piece = self.pieces[number]
        reading = Reading(self.schema, self.on_invalid, {piece.name: self.files[piece.name]})
        said: Reading | InputError = reading
        try:
            log = open_piece(self.schema, piece)
            if piece.source is None:
                yield from self._sent(_PROFILE, reading.profile([log], _not_shown))
            else:
                yield from self._sent(_EVENTS, reading.events([log], _not_shown))
        except InputError as error:  # another try would end as this one
            said = error
        yield _row(shard=number % self.shards, kind=_NOTE, content=pickle.dumps((number, said)))

    def _sent(self, kind: str, rows: Iterator[pl.DataFrame]) -> Batches:
        for some in rows:
            for shard, block in by_user(some, self.shards):
                content = BytesIO()
                block.write_ipc_stream(content, compression="lz4")
                yield _row(shard=shard, kind=kind, content=content.getvalue())


@dataclass(frozen=True)
class _Owner:
    """Has all rows of the users of a shard."""

    schema: Schema
    files: Sequence[str]

    def _gathered(self, blocks: Batches) -> tuple[CodedLogs, UserLogs]:
        coded = CodedLogs.of(self.schema)
        kinds = {_EVENTS: coded.events, _PROFILE: coded.profile}
        found = {kind: [rows.no_rows] for kind, rows in kinds.items()}
        if self.schema.duplicates == "keep":
            found[_EVENTS] = [coded.events.no_rows.drop("row")]
        for batch in blocks:
            for kind, content in zip(batch["kind"].to_pylist(), batch["content"], strict=True):
                if kind != _NOTE:
                    block = pl.read_ipc_stream(BytesIO(content.as_buffer()))
                    found[kind].append(kinds[kind].encode(block))
        events, profile = (pl.concat(found[kind]) for kind in (_EVENTS, _PROFILE))
        # Blocks come in any order.
        if self.schema.duplicates == "drop":
            events = events.sort("row")
        return coded, user_logs(self.schema, self.files, events, profile.sort("row"))


@dataclass(frozen=True)
class _Count(_Owner):
    """Counts the values of a shard."""

    def __call__(self, blocks: Batches) -> Batches:
        coded, logs = self._gathered(blocks)
        attributes = counted_values(self.schema)
        for (owner, name), counts in count_values(self.schema, coded, logs).items():
            number, text = (
                counts["value"],
                pl.Series(dtype=pl.String).extend_constant(None, len(counts)),
            )
            if not isinstance(attributes[owner, name], Number):
                rows = coded.profile if owner == PROFILE else coded.events
                text = rows.codes[name].values.gather(number)
                number = pl.Series(dtype=pl.Float32).extend_constant(None, len(counts))
            table = counts.select(
                pl.lit(owner).alias("owner"),
                pl.lit(name).alias("name"),
                text.alias("text"),
                number.alias("number"),
                pl.col("count", "users").cast(pl.Int64),
            ).to_arrow(compat_level=pl.CompatLevel.oldest())
            yield from table.cast(_ARROW_COUNTS).combine_chunks().to_batches()


@dataclass(frozen=True)
class _Build(_Owner):
    """Writes a shard."""

    vocabularies: Vocabularies
    append: Path | None
    folder: Path
    shards: int

    def __call__(self, blocks: Batches) -> Batches:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        number = context.partitionId()
        coded, logs = self._gathered(blocks)
        append = None if self.append is None else PreparedData.open(self.append)
        builder = Builder(self.schema, self.vocabularies, coded, append, self.shards)
        target = self.folder / shard_name(number)
        mine = target.with_name(f".{target.name}.{uuid4().hex}")
        size = write_shard(mine, [builder.build(number, logs)])
        sums = {f"{shard_name(number)}/{name}": one for name, one in checksums(mine).items()}
        try:
            mine.rename(target)
        except OSError:  # an earlier try of this task was not cut off after all
            if not target.is_dir():
                raise
            shutil.rmtree(mine)
        yield _row(content=pickle.dumps((number, _Built(size, sums, logs.left_out))))


@dataclass(frozen=True)
class _Built:
    """What the task of a shard did."""

    size: ShardSize
    checksums: Mapping[str, str]
    left_out: LeftOut


def _row(**values: Any) -> pa.RecordBatch:
    """One row, of which whole numbers are `int`."""
    columns = {name: pa.array([value]) for name, value in values.items()}
    if "shard" in columns:
        columns["shard"] = columns["shard"].cast(pa.int32())
    return pa.record_batch(columns)


def _not_shown(_done: int, _note: str = "") -> None:
    """A task draws no bar; the driver counts tasks."""
