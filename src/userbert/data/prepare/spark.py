"""Preparation on a Spark cluster, by its executors.

In: a `Preparation` whose files and folder have the same path on every executor, and a session. Out:
its shards, equal byte for byte to the shards of the local engine. Spark moves rows and retries
failed tasks. The tasks run the code that all engines share, through `mapInArrow`:

1. `_ReadTask` checks pieces of files. It sends usable rows, as blocks of Arrow, to the task of
   their user's shard, and a note with the account of all rows, or with an error. `_StoreTask`
   writes the blocks of a shard into files in the output folder.
2. `_CountTask` counts the values of a shard; Spark adds the counts.
3. `_BuildTask` writes a shard.

Files get their final name once they are complete, so interrupted or concurrent attempts at a
task do no harm.
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
from userbert.data.prepare.cluster import collect
from userbert.data.prepare.dictionary import LogDictionaries, RowDictionaries
from userbert.data.prepare.engine import Preparation
from userbert.data.prepare.fitting import (
    PROFILE,
    count_values,
    counted_attributes,
    fit_vocabularies,
)
from userbert.data.prepare.local import split_by_user
from userbert.data.read.reading import OnInvalid, Reading, UnusedRows
from userbert.data.read.sources import Piece, open_piece
from userbert.data.shards import ShardSize, shard_name, total_size, write_shard
from userbert.data.store import PreparedData
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError
from userbert.folders import checksums
from userbert.schema.attributes import Number
from userbert.schema.models import Schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ROWS_PER_PIECE = 4_194_304
"""Maximum number of rows of a Parquet file that a task reads: enough to outweigh its start."""
_ROWS_AT_A_TIME = 262_144
"""Minimum number of rows that are encoded at once, as each call has a cost."""
_EVENTS, _PROFILE, _NOTE = "events", "profile", "note"
"""Kinds of content in blocks: rows of events, profile rows, and notes with a task's result."""
_BLOCKS = "shard int, kind string, content binary"
_COUNTS = "owner string, name string, text string, number float, count bigint, users bigint"
_NOTES = "content binary"
"""Columns and types of blocks, counts and notes, in Spark's notation."""
_ARROW_COUNTS = pa.schema(
    {
        "owner": pa.string(), "name": pa.string(), "text": pa.string(), "number": pa.float32(),
        "count": pa.int64(), "users": pa.int64(),
    }
)  # fmt: skip
"""Columns and types of counts, in Arrow's notation."""

Batches = Iterator[pa.RecordBatch]


class SparkEngine:
    """Runs the passes of a preparation on the executors of a session.

    A task reads at most `rows_per_piece` rows of a Parquet file.
    """

    def __init__(
        self,
        preparation: Preparation,
        session: "SparkSession",
        *,
        rows_per_piece: int = _ROWS_PER_PIECE,
    ) -> None:
        self.preparation = preparation
        self._session = session
        # Executors may have another working directory.
        schema = preparation.schema
        self._schema = Schema.parse(schema.dump(), schema.folder.absolute())
        self._folder = preparation.folder.absolute()
        logs = [*preparation.logs, *preparation.profile]
        self._pieces = [piece for log in logs for piece in log.pieces(rows_per_piece)]

    def read(self) -> None:
        """Checks pieces of files, and groups rows by shard."""
        preparation, tasks = self.preparation, len(self._pieces)
        numbers = {name: number for number, name in enumerate(preparation.files)}
        read = _ReadTask(
            self._schema,
            self._pieces,
            numbers,
            preparation.reading.on_invalid,
            preparation.shards,
        )
        _block_file(self._folder, _EVENTS, 0).parent.mkdir()
        notes = (
            self._tasks(tasks)
            .mapInArrow(read, _BLOCKS)
            .repartitionById(preparation.shards, "shard")
            .mapInArrow(_StoreTask(self._folder), _NOTES)
        )
        for _, note in self._notes(notes, "reading events", tasks + preparation.shards):
            if isinstance(note, InputError):
                raise note
            preparation.reading.add(note)

    def fit(self) -> Vocabularies:
        """Counts the values of each shard, and adds the counts."""
        shards = self.preparation.shards
        count = _CountTask(self._schema, self.preparation.files, self._folder)
        counted = self._tasks(shards).mapInArrow(count, _COUNTS)
        summed = counted.groupBy("owner", "name", "text", "number").sum("count", "users")
        table = collect(self._session, summed, "counting values", shards)
        all_counts = pl.DataFrame(table).rename({"sum(count)": "count", "sum(users)": "users"})
        counts = {}
        for (owner, name), attribute in counted_attributes(self._schema).items():
            rows = all_counts.filter((pl.col("owner") == owner) & (pl.col("name") == name))
            value = "number" if isinstance(attribute, Number) else "text"
            counts[owner, name] = rows.select(pl.col(value).alias("value"), "count", "users")
        return fit_vocabularies(self._schema, counts, dictionaries=None)

    def build(self, vocabularies: Vocabularies) -> tuple[ShardSize, dict[str, str]]:
        """Writes each shard in its own task."""
        preparation, shards = self.preparation, self.preparation.shards
        append = None if preparation.append is None else preparation.append.path.absolute()
        build = _BuildTask(
            self._schema, preparation.files, self._folder, vocabularies, append, shards
        )
        (self._folder / shard_name(0)).parent.mkdir()
        notes = self._tasks(shards).mapInArrow(build, _NOTES)
        results = [result for _, result in self._notes(notes, "building words", shards)]
        shutil.rmtree(_block_file(self._folder, _EVENTS, 0).parent)
        for result in results:
            preparation.reading.refuse(result.unused.repeated_profiles)
            preparation.reading.account_unused(result.unused)
        file_checksums = {
            name: value for result in results for name, value in result.checksums.items()
        }
        return total_size([result.size for result in results]), file_checksums

    def _tasks(self, number: int) -> "DataFrame":
        """Returns a frame with a row per task, which holds the task's number."""
        return self._session.range(0, number, 1, max(1, number))

    def _notes(self, frame: "DataFrame", description: str, tasks: int) -> list[tuple[int, Any]]:
        """Runs tasks; returns their notes, sorted by task number."""
        table = collect(self._session, frame, description, tasks)
        notes = [pickle.loads(note) for note in table["content"].to_pylist()]
        return sorted(notes, key=lambda note: note[0])


@dataclass(frozen=True)
class _ReadTask:
    """Task that reads pieces of files, by number."""

    schema: Schema
    pieces: Sequence[Piece]
    """Pieces of all files; a task's number is the index of its piece."""
    files: Mapping[str, int]
    """Number of each file, by name."""
    on_invalid: OnInvalid
    shards: int
    """Number of shards."""

    def __call__(self, numbers: Batches) -> Batches:
        for number in _task_numbers(numbers):
            yield from self._read(number)

    def _read(self, number: int) -> Batches:
        piece = self.pieces[number]
        reading = Reading(self.schema, self.on_invalid, {piece.name: self.files[piece.name]})
        note: Reading | InputError = reading
        try:
            log = open_piece(self.schema, piece)
            if piece.source is None:
                yield from self._blocks(_PROFILE, reading.profile([log], _ignore_progress))
            else:
                yield from self._blocks(_EVENTS, reading.events([log], _ignore_progress))
        except InputError as error:  # sent, as Spark would retry a task that raises
            note = error
        yield _row(shard=number % self.shards, kind=_NOTE, content=pickle.dumps((number, note)))

    def _blocks(self, kind: str, rows: Iterator[pl.DataFrame]) -> Batches:
        for chunk in rows:
            for shard, block in split_by_user(chunk, self.shards):
                content = BytesIO()
                block.write_ipc_stream(content, compression="lz4")
                yield _row(shard=shard, kind=kind, content=content.getvalue())


@dataclass(frozen=True)
class _StoreTask:
    """Task that writes the blocks of shards into files, and forwards notes."""

    folder: Path
    """Folder of the preparation, which holds temporary files."""

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
                        file = _unfinished(self.folder)
                        files[shard, kind] = file, stack.enter_context(file.open("wb"))
                    files[shard, kind][1].write(content)
        for (shard, kind), (file, _) in files.items():
            file.replace(_block_file(self.folder, kind, shard))


@dataclass(frozen=True)
class _ShardTask:
    """Base class of the tasks that read all rows of a shard."""

    schema: Schema
    files: Sequence[str]
    """Names of all files, in the order of their numbers."""
    folder: Path
    """Folder of the preparation, which holds temporary files."""

    def _gathered(self, shard: int) -> tuple[LogDictionaries, UserLogs]:
        dictionaries = LogDictionaries.of(self.schema)
        events = self._rows(_EVENTS, shard, dictionaries.events)
        if self.schema.duplicates == "drop":
            events = events.sort("row")  # blocks arrive in any order
        profile = self._rows(_PROFILE, shard, dictionaries.profile).sort("row")
        return dictionaries, user_logs(self.schema, self.files, events, profile)

    def _rows(self, kind: str, shard: int, dictionaries: RowDictionaries) -> pl.DataFrame:
        file = _block_file(self.folder, kind, shard)
        if not file.exists():
            return dictionaries.no_rows
        # If there are many shards, blocks are small, so several blocks are encoded at once.
        rows, waiting, size = [], [], 0
        with pa.OSFile(str(file)) as source:
            while source.tell() < source.size():
                waiting.append(pa.ipc.open_stream(source).read_all())
                size += len(waiting[-1])
                if size >= _ROWS_AT_A_TIME or source.tell() == source.size():
                    rows.append(dictionaries.encode(pl.DataFrame(pa.concat_tables(waiting))))
                    waiting, size = [], 0
        return pl.concat(rows)


@dataclass(frozen=True)
class _CountTask(_ShardTask):
    """Task that counts the values of shards."""

    def __call__(self, numbers: Batches) -> Batches:
        for shard in _task_numbers(numbers):
            yield from self._count(shard)

    def _count(self, shard: int) -> Batches:
        dictionaries, logs = self._gathered(shard)
        attributes = counted_attributes(self.schema)
        for (owner, name), counts in count_values(self.schema, dictionaries, logs).items():
            if isinstance(attributes[owner, name], Number):
                columns = counts.rename({"value": "number"}).with_columns(text=pl.lit(None))
            else:
                rows = dictionaries.profile if owner == PROFILE else dictionaries.events
                text = rows.dictionaries[name].values.gather(counts["value"]).alias("text")
                columns = counts.with_columns(text, number=pl.lit(None))
            table = (
                columns.with_columns(owner=pl.lit(owner), name=pl.lit(name))
                .select(_ARROW_COUNTS.names)
                .to_arrow(compat_level=pl.CompatLevel.oldest())
            )
            yield from table.cast(_ARROW_COUNTS).combine_chunks().to_batches()


@dataclass(frozen=True)
class _BuildTask(_ShardTask):
    """Task that writes shards."""

    vocabularies: Vocabularies
    append: Path | None
    """Folder of prepared data whose rows also go into the shards."""
    shards: int
    """Number of shards."""

    def __call__(self, numbers: Batches) -> Batches:
        for shard in _task_numbers(numbers):
            yield _row(content=pickle.dumps((shard, self._build(shard))))

    def _build(self, shard: int) -> "_BuiltShard":
        dictionaries, logs = self._gathered(shard)
        append = None if self.append is None else PreparedData.open(self.append)
        builder = Builder(self.schema, self.vocabularies, dictionaries, append, self.shards)
        target = self.folder / shard_name(shard)
        unfinished = _unfinished(self.folder)
        size = write_shard(unfinished, [builder.build(shard, logs)])
        file_checksums = {
            f"{shard_name(shard)}/{name}": value for name, value in checksums(unfinished).items()
        }
        try:
            unfinished.rename(target)
        except OSError:  # another attempt at this task has written the shard
            if not target.is_dir():
                raise
            shutil.rmtree(unfinished)
        return _BuiltShard(size, file_checksums, logs.unused)


@dataclass(frozen=True)
class _BuiltShard:
    """Result of the task that wrote a shard."""

    size: ShardSize
    checksums: Mapping[str, str]
    """Checksum of each file, by its name in the prepared data."""
    unused: UnusedRows


def _task_numbers(numbers: Batches) -> Iterator[int]:
    """Yields the numbers of the tasks in a partition of the frame from `_tasks`."""
    for batch in numbers:
        yield from batch["id"].to_pylist()


def _block_file(folder: Path, kind: str, shard: int) -> Path:
    """Returns the file that holds the blocks of a shard between the passes."""
    return folder / "temporary" / f"{kind}-{shard:05d}"


def _unfinished(folder: Path) -> Path:
    """Returns a unique temporary path for an incomplete file or folder."""
    return folder / "temporary" / uuid4().hex


def _row(**values: Any) -> pa.RecordBatch:
    """Returns a batch of one row; `shard` is an int32, as Spark expects."""
    columns = {name: pa.array([value]) for name, value in values.items()}
    if "shard" in columns:
        columns["shard"] = columns["shard"].cast(pa.int32())
    return pa.record_batch(columns)


def _ignore_progress(_done: int, _note: str = "") -> None:
    """Does nothing, as the driver shows the progress of tasks."""
