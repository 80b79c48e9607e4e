"""Batch embedding: a model and prepared data → a Parquet file of user vectors.

Memory does not grow with the number of users: vectors are written in row groups as they are made,
and the file appears when the last is in it.
"""

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from userbert.data.pairs import Pairs
from userbert.data.store import PreparedData
from userbert.folders import publishing_file
from userbert.model.userbert import Precision, UserBert, embed_pairs

VectorFormat = Literal["list", "columns"]

_ROW_GROUP = 65_536


def write_embeddings(
    model: UserBert,
    data: PreparedData,
    pairs: Pairs,
    output: Path,
    *,
    vectors_as: VectorFormat = "list",
    precision: Precision = "float32",
) -> None:
    """Write `user_id`, `cutoff` and the vector of each pair: one list, or columns `e0`, `e1` ….

    Raises `ModelError` if the data have other ids than the model, `InputError` if `output` exists.
    """
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
    with (
        publishing_file(output) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
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
