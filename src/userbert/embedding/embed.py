"""Embeds users in bulk: a model and prepared data → user vectors in Parquet.

Memory does not grow with the number of users: each part is written as soon as its vectors are
computed. The output file or folder appears only when it is complete. An interrupted run that writes
a folder can be resumed. On a Spark cluster the executors compute the parts.
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

from userbert.data.prepare.cluster import collect
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs
from userbert.embedding.embedding_folder import (
    FinishedPart,
    add_part,
    count_finished,
    embedding_files,
    finished_parts,
    publish,
    work_folder,
)
from userbert.embedding.parts import (
    MAX_PAIRS_PER_PART,
    OpenPart,
    Part,
    Selection,
    open_part,
    selection_record,
    split_selection,
)
from userbert.errors import InputError
from userbert.folders import publishing_file, read_json, refuse_existing, require_ending
from userbert.model.userbert import CHUNK, Chunk, Precision, UserBert, embed_chunks
from userbert.progress import progress
from userbert.resuming import refuse_other_settings, resumable_run
from userbert.schema.files import ENDINGS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

VectorFormat = Literal["list", "columns"]

_PAIRS_FILE, _MODEL_FOLDER = "pairs.npy", "model"
"""File of pairs and folder of the model in the work folder; every Spark task reads both."""


@dataclass(frozen=True)
class VectorOptions:
    """How vectors are computed and written."""

    vectors_as: VectorFormat = "list"
    """`list`: one list column `embedding`; `columns`: one column per number, `e0`, `e1` …."""
    precision: Precision = "float32"
    """Number format of the encoder."""


def write_embeddings(
    model: UserBert,
    data: PreparedData,
    selection: Selection,
    output: Path,
    *,
    vectors_as: VectorFormat = "list",
    precision: Precision = "float32",
    spark: "SparkSession | None" = None,
    resume: bool = False,
    max_pairs_per_part: int = MAX_PAIRS_PER_PART,
) -> int:
    """Writes `user_id`, `cutoff` and the vector of each pair; returns the number of vectors.

    `vectors_as` writes a vector as one list column, or as the columns `e0`, `e1` …. `precision` is
    the number format of the encoder. If the name of `output` ends in `.parquet`, one file is
    written, otherwise a folder of parts. With a `spark` session the output is always a folder: the
    executors write the parts, and must reach data and output under the same paths. With `resume`,
    an interrupted run with the same settings continues, a finished output is left unchanged, and
    without an earlier run a new run begins. A part has at most `max_pairs_per_part` pairs.

    Raises `ModelError` if ids or segments of the data differ from the model's, `InputError` if
    `output` exists, has the ending of another file format, or belongs to a run with other settings,
    and `ClusterError` if the cluster fails.
    """
    model.check_fits(data)
    options = VectorOptions(vectors_as, precision)
    if spark is None and is_single_file(output):
        if resume:
            raise InputError(
                f"{output}: a run that writes one file cannot be resumed. Choose a folder, "
                f"such as -o {output.with_suffix('')}, or leave --resume out."
            )
        parts = split_selection(data, selection, max_pairs_per_part)
        return _write_file(model, data, selection, output, options, parts=parts)
    record = {
        "model": _weights_checksum(model),
        "data": data.checksum,
        **selection_record(selection),
        "format": vectors_as,
        "precision": precision,
    }
    work = work_folder(output)
    if resume and output.exists():
        return _check_finished(output, work, record)
    refuse_existing(output)
    with resumable_run(
        output, work, record, resume=resume, describe_progress=lambda: _progress_of(work)
    ):
        parts = split_selection(data, selection, max_pairs_per_part)
        finished = finished_parts(work, range(len(parts)))
        missing = [part for part in parts if part.number not in finished]
        if spark is None:
            for opened, table in _embed_parts(model, data, selection, missing, options):
                finished[opened.number] = _write_part(work, opened.number, table)
        elif missing:
            _write_on_spark(spark, model, data, selection, missing, work, options)
            finished = finished_parts(work, range(len(parts)))
        publish(work, output, finished, {"width": model.width(), "run": record})
    return sum(part.vectors for part in finished.values())


def is_single_file(output: Path) -> bool:
    """Returns whether `output` is the name of a Parquet file, rather than of a folder.

    Raises `InputError` if the name has the ending of another file format.
    """
    if output.suffix.lower() in ENDINGS:
        require_ending(output, ".parquet")
        return True
    return False


def _weights_checksum(model: UserBert) -> str:
    """Returns the SHA-256 of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weight.cpu().numpy()).data)
    return digest.hexdigest()


def _check_finished(output: Path, work: Path, record: Mapping[str, Any]) -> int:
    """Returns the number of vectors in a complete folder, and removes the work folder.

    Raises `InputError` if the folder is damaged, or was written with other settings.
    """
    embedding_files(output)
    summary = read_json(output / "summary.json")
    refuse_other_settings(output, summary["run"], record)
    shutil.rmtree(work, ignore_errors=True)  # left by a run that was killed after publishing
    return int(summary["vectors"])


def _progress_of(work: Path) -> str | None:
    """Describes the finished parts of an interrupted run; returns None if no part is finished."""
    count = count_finished(work)
    return f"{count:,} part{'s' if count > 1 else ''} of the vectors" if count else None


def _write_file(
    model: UserBert, data: PreparedData, selection: Selection, output: Path, options: VectorOptions,
    *, parts: Sequence[Part],
) -> int:  # fmt: skip
    """Writes all vectors into one file; returns the number of vectors."""
    vector_count = 0
    with publishing_file(output) as file, _writer(file, model.width(), options) as writer:
        for _, table in _embed_parts(model, data, selection, parts, options):
            if len(table):
                writer.write_table(table)
            vector_count += len(table)
    return vector_count


def _write_part(work: Path, number: int, table: pa.Table) -> FinishedPart:
    """Writes the file and the record of a part into the work folder."""

    def write(file: Path) -> None:
        with pq.ParquetWriter(file, table.schema, **_PARQUET_OPTIONS) as writer:
            writer.write_table(table)

    return add_part(work, number, len(table), write)


_PARQUET_OPTIONS: Mapping[str, Any] = {
    "compression": "zstd",
    "write_page_checksum": True,  # readers such as `inspect` verify it
}
"""Options of every Parquet writer of vectors."""


def _writer(file: Path, width: int, options: VectorOptions) -> pq.ParquetWriter:
    """Opens a Parquet writer for vectors of `width` numbers."""
    return pq.ParquetWriter(file, _arrow_schema(width, options), **_PARQUET_OPTIONS)


def _arrow_schema(width: int, options: VectorOptions) -> pa.Schema:
    """Returns the schema of a table with vectors of `width` numbers."""
    vectors = (
        [pa.field("embedding", pa.list_(pa.float32(), width))]
        if options.vectors_as == "list"
        else [pa.field(f"e{number}", pa.float32()) for number in range(width)]
    )
    return pa.schema(
        [
            pa.field("user_id", pa.large_string()),
            pa.field("cutoff", pa.timestamp("us", "UTC")),
            *vectors,
        ]
    )


def _output_table(part: OpenPart, vectors: NDArray[np.float32], options: VectorOptions) -> pa.Table:
    """Returns the output table of a part with vectors (B, width)."""
    width = vectors.shape[1]
    columns = (
        [pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)]
        if options.vectors_as == "list"
        else [pa.array(vectors[:, number]) for number in range(width)]
    )
    cutoffs = pa.array(part.pairs.cutoffs, pa.timestamp("us", "UTC"))
    schema = _arrow_schema(width, options)
    return pa.Table.from_arrays([part.user_ids(), cutoffs, *columns], schema=schema)


def _embed_parts(
    model: UserBert,
    data: PreparedData,
    selection: Selection,
    parts: Sequence[Part],
    options: VectorOptions,
) -> Iterator[tuple[OpenPart, pa.Table]]:
    """Yields each part with its table, in order; threads already compute the next parts."""
    open_parts: dict[int, OpenPart] = {}

    def chunks() -> Iterator[Chunk]:
        for part in parts:
            opened = open_parts[part.number] = open_part(data, selection, part)
            pairs = opened.pairs
            # A part without pairs still yields one chunk, so that its file is written.
            for first in range(0, max(1, len(pairs)), CHUNK):
                span = slice(first, first + CHUNK)
                yield Chunk(opened.data, pairs.rows[span], pairs.cutoffs[span], part.number)

    embedded = embed_chunks(model, chunks(), precision=options.precision)
    sizes = {part.number: len(part) for part in parts}
    with progress("embedding", sum(sizes.values())) as advance:
        for number, group in groupby(embedded, key=lambda item: item[0].part):
            vectors = []
            for _, chunk_vectors in group:
                vectors.append(chunk_vectors)
                advance(len(chunk_vectors), "")
            opened = open_parts.pop(number)
            advance(sizes[number] - len(opened.pairs), "")
            yield opened, _output_table(opened, np.concatenate(vectors), options)


# ---- Spark


def _write_on_spark(  # noqa: PLR0917 - each parameter describes the run
    spark: "SparkSession",
    model: UserBert,
    data: PreparedData,
    selection: Selection,
    parts: Sequence[Part],
    work: Path,
    options: VectorOptions,
) -> None:
    """Writes the model and the pairs into the work folder, and lets executors write the parts."""
    if not (work / _MODEL_FOLDER).exists():
        model.save_pretrained(work / _MODEL_FOLDER)
    has_pairs = isinstance(selection, Pairs)
    if isinstance(selection, Pairs):
        np.save(work / _PAIRS_FILE, np.stack([selection.rows, selection.cutoffs]))
    task = _SparkTask(
        data.path.absolute(),
        work.absolute(),
        tuple(parts),
        None if has_pairs else selection,
        options,
    )
    frame = spark.range(0, len(parts), 1, len(parts)).mapInArrow(task, "id bigint")
    collect(spark, frame, "embedding", len(parts))


@dataclass(frozen=True)
class _SparkTask:
    """Function that Spark runs: receives indices in `parts`, and writes these parts."""

    data: Path
    """Folder of the prepared data."""
    work: Path
    """Work folder."""
    parts: tuple[Part, ...]
    """Parts that are not finished."""
    selection: Selection | None
    """None if the pairs are in a file in the work folder."""
    options: VectorOptions

    def __call__(self, indices: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model, data = _open_once(self.work / _MODEL_FOLDER, self.data)
        selection = self.selection or Pairs(*np.load(self.work / _PAIRS_FILE, mmap_mode="r"))
        for batch in indices:
            parts = [self.parts[index] for index in batch["id"].to_pylist()]
            for opened, table in _embed_parts(model, data, selection, parts, self.options):
                _write_part(self.work, opened.number, table)
            yield batch


@lru_cache(maxsize=1)
def _open_once(model: Path, data: Path) -> tuple[UserBert, PreparedData]:
    """Opens model and data once per process, which may run several tasks."""
    torch.set_num_threads(1)  # Spark gives a task one core
    return UserBert.from_pretrained(model), PreparedData.open(data)
