"""Batch embedding: a model and prepared data → user vectors in Parquet.

Memory does not grow with the number of users: vectors are written part by part as they are made.
A file of them appears when the last is in it, and so does a folder of parts; but a run that writes
a folder is gone on with after whatever stopped it. On a Spark cluster executors make the parts.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from userbert.data.prepare.cluster import collected
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs
from userbert.embedding.embedding_folder import (
    Done,
    add_part,
    complete_files,
    count_done,
    parts_done,
    publish,
    work_folder,
)
from userbert.embedding.parts import Asked, OpenPart, Part, about, open_part, parts_of
from userbert.errors import InputError
from userbert.folders import publishing_file, read_json, refuse_existing, require_ending
from userbert.model.userbert import CHUNK, Chunk, Precision, UserBert, embed_chunks
from userbert.progress import progress
from userbert.resuming import refuse_other, resumable
from userbert.schema.files import ENDINGS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

VectorFormat = Literal["list", "columns"]

_PAIRS, _MODEL = "pairs.npy", "model"
"""What all tasks read, in the run's folder."""


@dataclass(frozen=True)
class Form:
    """How vectors are made and written."""

    vectors_as: VectorFormat = "list"
    precision: Precision = "float32"


def write_embeddings(
    model: UserBert,
    data: PreparedData,
    asked: Asked,
    output: Path,
    *,
    vectors_as: VectorFormat = "list",
    precision: Precision = "float32",
    spark: "SparkSession | None" = None,
    resume: bool = False,
) -> int:
    """Write `user_id`, `cutoff` and the vector of each pair: one list, or columns `e0`, `e1` ….

    An `output` that ends in `.parquet` is one file, any other a folder of parts, as it always is
    with a `spark` session, whose executors do the work; they reach data and output under the same
    names. With `resume` a run of the same that was interrupted is gone on with, one that is done is
    left alone, and there may be none. Returns the number of vectors.

    Raises `ModelError` if the data have other ids than the model, `InputError` if `output` exists,
    or holds or would hold other vectors, and `ClusterError` if the cluster gives up.
    """
    model.check_fits(data)
    form = Form(vectors_as, precision)
    if spark is None and is_file(output):
        if resume:
            raise InputError(
                f"{output}: a run that writes one file cannot be gone on with. Choose a folder, "
                f"such as -o {output.with_suffix('')}, or leave --resume out."
            )
        return _write_file(model, data, asked, output, form)
    record = {
        "model": _fingerprint(model),
        "data": data.checksum,
        **about(asked),
        "format": vectors_as,
        "precision": precision,
    }
    work = work_folder(output)
    if resume and output.exists():
        return _finished(output, work, record)
    refuse_existing(output)
    with resumable(output, work, record, resume=resume, done=lambda: _told_of(work)):
        parts = parts_of(data, asked)
        done = parts_done(work, range(len(parts)))
        left = [part for part in parts if part.number not in done]
        if spark is None:
            for opened, table in _tables(model, data, asked, left, form):
                done[opened.number] = _add(work, opened.number, table)
        elif left:
            _write_on(spark, model, data, asked, left, work, form)
            done = parts_done(work, range(len(parts)))
        publish(work, output, done, {"width": model.width(), "run": record})
    return sum(part.vectors for part in done.values())


def is_file(output: Path) -> bool:
    """Whether an output is to be one file; raises `InputError` if its name is of another format."""
    if output.suffix.lower() in ENDINGS:
        require_ending(output, ".parquet")
        return True
    return False


def _fingerprint(model: UserBert) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weight.cpu().numpy()).data)
    return digest.hexdigest()


def _finished(output: Path, work: Path, record: Mapping[str, Any]) -> int:
    """The number of vectors of a folder that is whole, if they are those asked for."""
    complete_files(output)
    summary = read_json(output / "summary.json")
    refuse_other(output, summary["run"], record)
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed when it was done
    return int(summary["vectors"])


def _told_of(work: Path) -> str | None:
    number = count_done(work)
    return f"{number:,} part{'s' if number > 1 else ''} of the vectors" if number else None


def _write_file(model: UserBert, data: PreparedData, asked: Asked, output: Path, form: Form) -> int:
    vectors = 0
    with publishing_file(output) as file, _writer(file, model.width(), form) as writer:
        for _, table in _tables(model, data, asked, parts_of(data, asked), form):
            if len(table):
                writer.write_table(table)
            vectors += len(table)
    return vectors


def _add(work: Path, number: int, table: pa.Table) -> Done:
    def write(file: Path) -> None:
        with pq.ParquetWriter(file, table.schema, **_PARQUET) as writer:
            writer.write_table(table)

    return add_part(work, number, len(table), write)


_PARQUET: Mapping[str, Any] = {
    "compression": "zstd",
    "write_page_checksum": True,  # for who reads them, `inspect` among others
}


def _writer(file: Path, width: int, form: Form) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, _schema(width, form), **_PARQUET)


def _schema(width: int, form: Form) -> pa.Schema:
    vectors = (
        [pa.field("embedding", pa.list_(pa.float32(), width))]
        if form.vectors_as == "list"
        else [pa.field(f"e{number}", pa.float32()) for number in range(width)]
    )
    return pa.schema(
        [
            pa.field("user_id", pa.large_string()),
            pa.field("cutoff", pa.timestamp("us", "UTC")),
            *vectors,
        ]
    )


def _table(part: OpenPart, vectors: NDArray[np.float32], form: Form) -> pa.Table:
    width = vectors.shape[1]
    columns = (
        [pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)]
        if form.vectors_as == "list"
        else [pa.array(vectors[:, number]) for number in range(width)]
    )
    instants = pa.array(part.pairs.cutoffs, pa.timestamp("us", "UTC"))
    return pa.Table.from_arrays([part.user_ids(), instants, *columns], schema=_schema(width, form))


def _tables(
    model: UserBert, data: PreparedData, asked: Asked, parts: Sequence[Part], form: Form
) -> Iterator[tuple[OpenPart, pa.Table]]:
    """Each part with its table, in order; the next ones are begun meanwhile."""
    opened: dict[int, OpenPart] = {}

    def chunks() -> Iterator[Chunk]:
        for part in parts:
            one = opened[part.number] = open_part(data, asked, part)
            # A part without pairs has a chunk, too.
            for first in range(0, max(1, len(one.pairs)), CHUNK):
                own = slice(first, first + CHUNK)
                yield Chunk(one.data, one.pairs.rows[own], one.pairs.cutoffs[own], part.number)

    found = embed_chunks(model, chunks(), precision=form.precision)
    sizes = {part.number: len(part) for part in parts}
    with progress("embedding", sum(sizes.values())) as advance:
        for number, group in groupby(found, key=lambda one: one[0].part):
            vectors = []
            for _, some in group:
                vectors.append(some)
                advance(len(some), "")
            part = opened.pop(number)
            advance(sizes[number] - len(part.pairs), "")
            yield part, _table(part, np.concatenate(vectors), form)


# ---- on a cluster


def _write_on(  # noqa: PLR0917 - what a run is
    spark: "SparkSession",
    model: UserBert,
    data: PreparedData,
    asked: Asked,
    parts: Sequence[Part],
    work: Path,
    form: Form,
) -> None:
    """Let executors make the parts."""
    if not (work / _MODEL).exists():
        model.save_pretrained(work / _MODEL)
    named = isinstance(asked, Pairs)
    if isinstance(asked, Pairs):
        np.save(work / _PAIRS, np.stack([asked.rows, asked.cutoffs]))
    task = _Embed(
        data.path.absolute(), work.absolute(), tuple(parts), None if named else asked, form
    )
    frame = spark.range(0, len(parts), 1, len(parts)).mapInArrow(task, "id bigint")
    collected(spark, frame, "embedding", len(parts))


@dataclass(frozen=True)
class _Embed:
    """Makes the parts whose places in `parts` it is given."""

    data: Path
    work: Path
    parts: tuple[Part, ...]
    asked: Asked | None
    """None: the pairs of a file in the run's folder."""
    form: Form

    def __call__(self, places: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model, data = _opened(self.work / _MODEL, self.data)
        asked = self.asked or Pairs(*np.load(self.work / _PAIRS, mmap_mode="r"))
        for batch in places:
            own = [self.parts[place] for place in batch["id"].to_pylist()]
            for opened, table in _tables(model, data, asked, own, self.form):
                _add(self.work, opened.number, table)
            yield batch


@lru_cache(maxsize=1)
def _opened(model: Path, data: Path) -> tuple[UserBert, PreparedData]:
    """Read once by a process, whatever the number of its tasks."""
    torch.set_num_threads(1)  # Spark gives a task one core
    return UserBert.from_pretrained(model), PreparedData.open(data)
