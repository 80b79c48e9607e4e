"""Preparation on a Spark cluster: the same passes over the same rows, by its executors.

In: a `Preparation` whose files and folder every executor reaches under the same name, and a
session. Out: its shards, byte for byte those of this machine. Spark moves rows and tries again what
fails; what is done with them is done by the code that all engines share, through `mapInArrow`:

1. `_Read` checks pieces of files. It sends rows to the task that owns the shard of their user, many
   at once as a block of Arrow, and notes what became of all others. `_Keep` writes the blocks of a
   shard, as they are, into files beside the output.
2. `_Count` counts the values of a shard; Spark adds them up.
3. `_Build` writes a shard.

Whatever a task writes gets its name when it is complete, so a try that was cut off, or two at the
same time, do no harm.
"""

import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

import polars as pl
import pyarrow as pa

from userbert.data.prepare.building import Builder, UserLogs, user_logs
from userbert.data.prepare.cluster import collected
from userbert.data.prepare.dictionary import CodedLogs, CodedRows
from userbert.data.prepare.engine import Preparation
from userbert.data.prepare.fitting import PROFILE, count_values, counted_values, fit_vocabularies
from userbert.data.prepare.local import by_user
from userbert.data.read.reading import LeftOut, OnInvalid, Reading
from userbert.data.read.sources import Piece, open_piece
from userbert.data.shards import ShardSize, shard_name, total, write_shard
from userbert.data.store import PreparedData
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError
from userbert.folders import checksums
from userbert.schema.attributes import Number
from userbert.schema.models import Schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ROWS_PER_PIECE = 4_194_304
"""Of a Parquet file, that one task reads."""
_ROWS_AT_A_TIME = 262_144
"""That are encoded together."""

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
        self._folder = given.folder.absolute()
        logs = [*given.logs, *given.profile]
        self._pieces = [piece for log in logs for piece in log.pieces(_ROWS_PER_PIECE)]

    def read(self) -> None:
        """Check pieces of files, and bring the rows of each shard's users together."""
        given, tasks = self.preparation, len(self._pieces)
        numbers = {name: number for number, name in enumerate(given.files)}
        read = _Read(self._schema, self._pieces, numbers, given.reading.on_invalid, given.shards)
        _kept(self._folder, _EVENTS, 0).parent.mkdir()
        notes = (
            self._tasks(tasks)
            .mapInArrow(read, _BLOCKS)
            .repartitionById(given.shards, "shard")
            .mapInArrow(_Keep(self._folder), _NOTES)
        )
        for _, found in self._said(notes, "reading events", tasks + given.shards):
            if isinstance(found, InputError):
                raise found
            given.reading.add(found)

    def fit(self) -> Vocabularies:
        """Count the values of each shard, and add them up."""
        given = self.preparation
        count = _Count(self._schema, given.files, self._folder)
        counted = self._tasks(given.shards).mapInArrow(count, _COUNTS)
        summed = counted.groupBy("owner", "name", "text", "number").sum("count", "users")
        table = collected(self._session, summed, "counting values", given.shards)
        found = pl.DataFrame(table).rename({"sum(count)": "count", "sum(users)": "users"})
        counts = {}
        for (owner, name), attribute in counted_values(self._schema).items():
            rows = found.filter((pl.col("owner") == owner) & (pl.col("name") == name))
            value = "number" if isinstance(attribute, Number) else "text"
            counts[owner, name] = rows.select(pl.col(value).alias("value"), "count", "users")
        return fit_vocabularies(self._schema, counts, coded=None)

    def build(self, vocabularies: Vocabularies) -> tuple[ShardSize, dict[str, str]]:
        """Write each shard in a task of its own."""
        given = self.preparation
        append = None if given.append is None else given.append.path.absolute()
        build = _Build(self._schema, given.files, self._folder, vocabularies, append, given.shards)
        (self._folder / shard_name(0)).parent.mkdir()
        notes = self._tasks(given.shards).mapInArrow(build, _NOTES)
        built = [one for _, one in self._said(notes, "building words", given.shards)]
        shutil.rmtree(_kept(self._folder, _EVENTS, 0).parent)
        for one in built:
            given.reading.refuse(one.left_out.second_rows)
            given.reading.leave_out(one.left_out)
        sums = {name: found for one in built for name, found in one.checksums.items()}
        return total([one.size for one in built]), sums

    def _tasks(self, number: int) -> "DataFrame":
        """So many tasks, each of which is given its number."""
        return self._session.range(0, number, 1, max(1, number))

    def _said(self, frame: "DataFrame", description: str, tasks: int) -> list[tuple[int, Any]]:
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
        for number in _each(numbers):
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
class _Keep:
    """Writes the blocks of a shard into files, and passes notes on."""

    folder: Path

    def __call__(self, blocks: Batches) -> Batches:
        with ExitStack() as stack:
            files: dict[tuple[int, str], tuple[Path, BinaryIO]] = {}
            for batch in blocks:
                columns = (batch[name].to_pylist() for name in ("shard", "kind", "content"))
                for shard, kind, content in zip(*columns, strict=True):
                    if kind == _NOTE:
                        yield _row(content=content)
                        continue
                    if (shard, kind) not in files:
                        mine = _unfinished(self.folder)
                        files[shard, kind] = mine, stack.enter_context(mine.open("wb"))
                    files[shard, kind][1].write(content)
        for (shard, kind), (mine, _) in files.items():
            mine.replace(_kept(self.folder, kind, shard))


@dataclass(frozen=True)
class _Owner:
    """Has all rows of the users of the shards whose numbers it is given."""

    schema: Schema
    files: Sequence[str]
    folder: Path

    def _gathered(self, shard: int) -> tuple[CodedLogs, UserLogs]:
        coded = CodedLogs.of(self.schema)
        events = self._rows(_EVENTS, shard, coded.events)
        if self.schema.duplicates == "drop":
            events = events.sort("row")  # blocks were kept in the order in which they came
        profile = self._rows(_PROFILE, shard, coded.profile).sort("row")
        return coded, user_logs(self.schema, self.files, events, profile)

    def _rows(self, kind: str, shard: int, coded: CodedRows) -> pl.DataFrame:
        file = _kept(self.folder, kind, shard)
        if not file.exists():
            return coded.no_rows
        # Of many shards, each has many small blocks, which are encoded many at a time.
        rows, waiting, size = [], [], 0
        with pa.OSFile(str(file)) as source:
            while source.tell() < source.size():
                waiting.append(pa.ipc.open_stream(source).read_all())
                size += len(waiting[-1])
                if size >= _ROWS_AT_A_TIME or source.tell() == source.size():
                    rows.append(coded.encode(pl.DataFrame(pa.concat_tables(waiting))))
                    waiting, size = [], 0
        return pl.concat(rows)


@dataclass(frozen=True)
class _Count(_Owner):
    """Counts the values of shards."""

    def __call__(self, numbers: Batches) -> Batches:
        for shard in _each(numbers):
            yield from self._count(shard)

    def _count(self, shard: int) -> Batches:
        coded, logs = self._gathered(shard)
        attributes = counted_values(self.schema)
        for (owner, name), counts in count_values(self.schema, coded, logs).items():
            if isinstance(attributes[owner, name], Number):
                found = counts.rename({"value": "number"}).with_columns(text=pl.lit(None))
            else:
                rows = coded.profile if owner == PROFILE else coded.events
                text = rows.codes[name].values.gather(counts["value"]).alias("text")
                found = counts.with_columns(text, number=pl.lit(None))
            table = (
                found.with_columns(owner=pl.lit(owner), name=pl.lit(name))
                .select(_ARROW_COUNTS.names)
                .to_arrow(compat_level=pl.CompatLevel.oldest())
            )
            yield from table.cast(_ARROW_COUNTS).combine_chunks().to_batches()


@dataclass(frozen=True)
class _Build(_Owner):
    """Writes shards."""

    vocabularies: Vocabularies
    append: Path | None
    shards: int

    def __call__(self, numbers: Batches) -> Batches:
        for shard in _each(numbers):
            yield _row(content=pickle.dumps((shard, self._build(shard))))

    def _build(self, shard: int) -> "_Built":
        coded, logs = self._gathered(shard)
        append = None if self.append is None else PreparedData.open(self.append)
        builder = Builder(self.schema, self.vocabularies, coded, append, self.shards)
        target = self.folder / shard_name(shard)
        mine = _unfinished(self.folder)
        size = write_shard(mine, [builder.build(shard, logs)])
        sums = {f"{shard_name(shard)}/{name}": one for name, one in checksums(mine).items()}
        try:
            mine.rename(target)
        except OSError:  # an earlier try of this task was not cut off after all
            if not target.is_dir():
                raise
            shutil.rmtree(mine)
        return _Built(size, sums, logs.left_out)


@dataclass(frozen=True)
class _Built:
    """What the task of a shard did."""

    size: ShardSize
    checksums: Mapping[str, str]
    left_out: LeftOut


def _each(numbers: Batches) -> Iterator[int]:
    """The numbers of tasks, of which Spark gives each process one."""
    for batch in numbers:
        yield from batch["id"].to_pylist()


def _kept(folder: Path, kind: str, shard: int) -> Path:
    """Where the blocks of a shard are kept between the passes."""
    return folder / "temporary" / f"{kind}-{shard:05d}"


def _unfinished(folder: Path) -> Path:
    """A name of its own for what is not complete yet; it goes with all that is temporary."""
    return folder / "temporary" / uuid4().hex


def _row(**values: Any) -> pa.RecordBatch:
    """One row, of which whole numbers are `int`."""
    columns = {name: pa.array([value]) for name, value in values.items()}
    if "shard" in columns:
        columns["shard"] = columns["shard"].cast(pa.int32())
    return pa.record_batch(columns)


def _not_shown(_done: int, _note: str = "") -> None:
    """A task draws no bar; the driver counts tasks."""
