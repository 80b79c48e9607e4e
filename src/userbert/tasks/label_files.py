"""Labels in Parquet files: what else is known of them, and whether they still are what was written.

In: the columns of `Labels` and what is asked. Out: a file whose metadata say it, with a checksum of
all of it. Used by `labels.py` alone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from userbert.data.batches import Int64
from userbert.errors import LabelError
from userbert.folders import publishing_file, require_ending
from userbert.schema.strict import Strict
from userbert.tasks.label_columns import Kind, column_of, targets_of

_METADATA = b"userbert"
_TYPES: Mapping[str, type] = {"multilabel": np.bool_, "regression": np.float32}
"""Of targets; those of other kinds are numbers of classes."""


class About(Strict):
    """What labels ask."""

    question: str
    kind: Kind
    classes: tuple[str, ...] = ()
    attribute: tuple[str, str] | None = None
    hide: tuple[str, ...] = ()
    horizon: str | None = None
    checksum: str | None = None
    """SHA-256 of all of it and of the labels; the first files that were written have none."""


def write_labels(
    path: Path, about: About, user_ids: Sequence[str], cutoffs: Int64, targets: NDArray[Any]
) -> None:
    """Write `user_id`, `cutoff`, `label`, each (B,), whole or not at all."""
    require_ending(path, ".parquet")
    table = pa.table(
        {
            "user_id": pa.array(user_ids, pa.large_string()),
            "cutoff": pa.array(cutoffs, pa.timestamp("us", "UTC")),
            "label": column_of(targets, about.kind, about.classes),
        }
    )
    checksum = checksum_of(about, user_ids, cutoffs, targets)
    content = about.model_copy(update={"checksum": checksum}).model_dump(mode="json")
    told = {_METADATA: json.dumps(content, ensure_ascii=False)}
    with publishing_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(told), temporary, compression="zstd")


def read_about(path: Path) -> About | None:
    """What `write_labels` left in a file; none if another program wrote it.

    Raises `LabelError` if it is damaged.
    """
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return None
    try:
        with pq.ParquetFile(path) as file:
            # It stands there twice, in Arrow's own description too: one may be damaged.
            told = (file.schema_arrow.metadata or {}).get(_METADATA)
            again = (file.metadata.metadata or {}).get(_METADATA)
        if told is None and again is None:
            return None
        about = About.model_validate_json(told or b"") if told == again else None
    except (OSError, ValueError, pa.ArrowException, ValidationError):
        about = None
    if about is None:
        raise changed(path)
    return about


def refuse_changed(path: Path, about: About, frame: pl.DataFrame) -> None:
    """Raise `LabelError` if the rows of a file are not those that were written."""
    if about.checksum is None:
        return
    try:
        users = frame["user_id"].cast(pl.String).to_list()
        cutoffs = frame["cutoff"].cast(pl.Datetime("us", "UTC")).cast(pl.Int64).to_numpy()
        targets = targets_of(frame["label"], about.kind, about.classes)
        is_same = checksum_of(about, users, cutoffs, targets) == about.checksum
    except (pl.exceptions.PolarsError, TypeError, ValueError, IndexError):
        is_same = False
    if not is_same:
        raise changed(path)


def checksum_of(
    about: About, user_ids: Sequence[str], cutoffs: Int64, targets: NDArray[Any]
) -> str:
    """SHA-256 of labels and of what they ask."""
    content = about.model_dump(mode="json", exclude={"checksum"})
    digest = hashlib.sha256(json.dumps(content).encode())
    digest.update("\0".join(user_ids).encode(errors="surrogatepass"))
    digest.update(np.ascontiguousarray(cutoffs).data)
    digest.update(np.ascontiguousarray(targets, _TYPES.get(about.kind, np.int64)).data)
    return digest.hexdigest()


def changed(path: Path | str) -> LabelError:
    """The error of a file that is not as it was written."""
    return LabelError(
        f"{path} has changed since it was written. Copy it again, or make the labels again. If you "
        "changed them yourself, write them without the file's metadata: then they are labels of "
        "your own, and hide no profile fields."
    )
