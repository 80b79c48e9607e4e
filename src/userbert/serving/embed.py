"""Batch embedding: a model and prepared data → user vectors in Parquet.

Memory does not grow with the number of users: vectors are written in row groups as they are made.
On this machine they make one file, which appears when the last is in it; on a Spark cluster a
folder of files, of which any Parquet reader makes one table, which appears when the last file is.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from userbert.data.cluster import collected
from userbert.data.pairs import Pairs
from userbert.data.store import PreparedData
from userbert.folders import publishing_file, publishing_folder, require_ending
from userbert.model.userbert import Precision, UserBert, embed_pairs

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

VectorFormat = Literal["list", "columns"]

_ROW_GROUP = 65_536
_PAIRS, _MODEL = "pairs.npy", "model"
"""What all tasks read, in a folder that is being written."""


def write_embeddings(
    model: UserBert,
    data: PreparedData,
    pairs: Pairs,
    output: Path,
    *,
    vectors_as: VectorFormat = "list",
    precision: Precision = "float32",
    spark: "SparkSession | None" = None,
) -> None:
    """Write `user_id`, `cutoff` and the vector of each pair: one list, or columns `e0`, `e1` ….

    With a `spark` session its executors do the work; they reach data and output under the same
    names. Raises `ModelError` if the data have other ids than the model, `InputError` if `output`
    exists, and `ClusterError` if the cluster gives up.
    """
    model.check_fits(data)
    if spark is None:
        require_ending(output, ".parquet")
        with publishing_file(output) as file:
            _write(file, model, data, pairs, vectors_as=vectors_as, precision=precision)
        return
    with publishing_folder(output) as folder:
        work = folder / "work"
        work.mkdir()
        np.save(work / _PAIRS, np.stack([pairs.rows, pairs.cutoffs]))
        model.save_pretrained(work / _MODEL)
        tasks = max(1, -(-len(pairs) // _ROW_GROUP))
        task = _Embed(data.path.absolute(), folder.absolute(), _ROW_GROUP, vectors_as, precision)
        frame = spark.range(0, tasks, 1, tasks).mapInArrow(task, "id bigint")
        collected(spark, frame, "embedding", tasks)
        shutil.rmtree(work)


@dataclass(frozen=True)
class _Embed:
    """Writes the files whose numbers it is given."""

    data: Path
    output: Path
    pairs_each: int
    vectors_as: VectorFormat
    precision: Precision

    def __call__(self, numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        work = self.output / "work"
        model, data = _opened(work / _MODEL, self.data)
        all_pairs = np.load(work / _PAIRS, mmap_mode="r")
        for batch in numbers:
            for number in batch["id"].to_pylist():
                rows, cutoffs = all_pairs[
                    :, number * self.pairs_each : (number + 1) * self.pairs_each
                ]
                pairs = Pairs(np.array(rows), np.array(cutoffs))
                # Of two tries at once, each has a name of its own until its file is whole.
                mine = work / uuid4().hex
                _write(
                    mine, model, data, pairs, vectors_as=self.vectors_as, precision=self.precision
                )
                mine.replace(self.output / f"part-{number:05d}.parquet")
            yield batch


@lru_cache(maxsize=1)
def _opened(model: Path, data: Path) -> tuple[UserBert, PreparedData]:
    """Read once by a process, whatever the number of its tasks."""
    torch.set_num_threads(1)  # Spark gives a task one core
    return UserBert.from_pretrained(model), PreparedData.open(data)


def _write(
    file: Path,
    model: UserBert,
    data: PreparedData,
    pairs: Pairs,
    *,
    vectors_as: VectorFormat,
    precision: Precision,
) -> None:
    width = model.width()
    vector_fields = (
        [pa.field("embedding", pa.list_(pa.float32(), width))]
        if vectors_as == "list"
        else [pa.field(f"e{number}", pa.float32()) for number in range(width)]
    )
    schema = pa.schema(
        [
            pa.field("user_id", pa.large_string()),
            pa.field("cutoff", pa.timestamp("us", "UTC")),
            *vector_fields,
        ]
    )
    checked = {"write_page_checksum": True}  # for who reads them, `inspect` among others
    with pq.ParquetWriter(file, schema, compression="zstd", **checked) as writer:
        for start in range(0, len(pairs), _ROW_GROUP):
            part = slice(start, start + _ROW_GROUP)
            rows, cutoffs = pairs.rows[part], pairs.cutoffs[part]
            vectors = embed_pairs(model, data, rows, cutoffs, precision=precision)
            columns = (
                [pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)]
                if vectors_as == "list"
                else [pa.array(vectors[:, number]) for number in range(width)]
            )
            users = data.user_ids.take(pa.array(rows)).combine_chunks()
            instants = pa.array(cutoffs, pa.timestamp("us", "UTC"))
            writer.write_table(pa.Table.from_arrays([users, instants, *columns], schema=schema))
