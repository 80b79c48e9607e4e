"""(user, cut-off) pairs: of whom, and up to when.

In: cut-offs, or a file or frame with `user_id` and perhaps `cutoff`. Out: `Pairs`. Used by labels,
embedding and pretraining (`--cutoff`, `--at`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from userbert.data.batches import Int64
from userbert.data.store import PreparedData
from userbert.errors import InputError
from userbert.schema.files import reading, scan

_EXAMPLES = 3


@dataclass(frozen=True)
class Pairs:
    """Users by row, and the instant before which their events are visible."""

    rows: Int64
    """(B,)"""
    cutoffs: Int64
    """(B,): microseconds since 1970."""

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.rows)


def pairs_at(data: PreparedData, cutoffs: Sequence[int]) -> Pairs:
    """Pair every user who has an event before a cut-off with it, one cut-off after the other."""
    first = first_events(data)
    rows = [np.flatnonzero(first < cutoff) for cutoff in cutoffs]
    return Pairs(np.concatenate(rows), np.repeat(np.array(cutoffs, np.int64), [*map(len, rows)]))


def pairs_asked(data: PreparedData, cutoff: str | date | datetime | None, at: Any | None) -> Pairs:
    """Every user who has an event before `cutoff`, or the rows of `at`, a frame of pairs.

    Without either, the cut-off is just after the last event; both together are an `InputError`.
    """
    if at is None:
        return pairs_at(
            data, [data.default_cutoff if cutoff is None else data.schema.instant(cutoff)]
        )
    if cutoff is not None:
        raise InputError("`at` says each user's cut-off; leave `cutoff` out.")
    return pairs_of(pl.DataFrame(at), data, "at")


def first_events(data: PreparedData) -> Int64:
    """(U,): when each user's first action was, in microseconds since 1970."""
    first = np.full(len(data), np.iinfo(np.int64).max)
    for shard in data.shards:
        mine = first[shard.first_row : shard.first_row + shard.users]
        for columns in shard.segments.values():
            some = np.flatnonzero(np.diff(columns.offsets))
            mine[some] = np.minimum(mine[some], columns.times[columns.offsets[some]])
    return first


def read_pairs(path: Path, data: PreparedData) -> Pairs:
    """Read a CSV, JSON Lines or Parquet file of pairs; raise `InputError` as `pairs_of` does."""
    return pairs_of(read_table(path), data, str(path))


def read_table(path: Path) -> pl.DataFrame:
    """Read a small table; of text files all columns are strings."""
    frame = scan(path)
    with reading(path):
        return frame.collect()


def pairs_of(frame: pl.DataFrame, data: PreparedData, name: str) -> Pairs:
    """Find the pairs of a frame with `user_id` and perhaps `cutoff`, called `name` in messages.

    A naive cut-off is in the schema's `timezone`; without the column all are just after the last
    event. Raises `InputError` for users that the data do not know, missing values and pairs that
    stand twice.
    """
    require_column(frame, "user_id", name)
    if frame.is_empty():
        raise InputError(f"{name}: expected one row a user, found none.")
    if "cutoff" in frame.columns:
        require_column(frame, "cutoff", name)
    rows = data.rows_of(frame["user_id"].cast(pl.String).to_arrow())
    strangers = np.flatnonzero(rows < 0)
    if len(strangers):
        examples = ", ".join(map(str, frame["user_id"].gather(strangers[:_EXAMPLES])))
        raise InputError(
            f"{name}: {len(strangers)} of {len(rows)} users are not in {data.path}, the first in "
            f"row {strangers[0] + 1}: {examples}. Remove their rows, or prepare their logs too."
        )
    pairs = Pairs(rows, _cutoffs(frame, data, name))
    twice = pl.DataFrame({"row": rows, "cutoff": pairs.cutoffs}).is_duplicated().arg_true()
    if len(twice):
        raise InputError(
            f"{name}: user {frame['user_id'][twice[0]]} has the same cut-off in {len(twice)} rows "
            f"or more, the first is row {twice[0] + 1}. Keep one row a user and cut-off."
        )
    return pairs


def require_column(frame: pl.DataFrame, column: str, name: str) -> None:
    """Raise `InputError` if a column is not there or lacks values."""
    if column not in frame.columns:
        raise InputError(
            f"{name}: expected a column {column}, found {', '.join(frame.columns) or 'none'}. "
            "Rename the column that is meant."
        )
    missing = frame[column].is_null().arg_true()
    if len(missing):
        raise InputError(
            f"{name}, row {missing[0] + 1}, column {column}: expected a value, found none "
            f"({len(missing)} such rows). Remove these rows."
        )


def _cutoffs(frame: pl.DataFrame, data: PreparedData, name: str) -> Int64:
    if "cutoff" not in frame.columns:
        return np.full(len(frame), data.default_cutoff, dtype=np.int64)
    moments = frame["cutoff"]
    distinct = moments.unique()
    if not (moments.dtype.is_temporal() or moments.dtype == pl.String):
        raise InputError(
            f"{name}, column cutoff: expected dates or times such as 2017-09-01T04:00, found "
            f"{moments.dtype}. Convert the column."
        )
    try:
        instants = [data.schema.instant(moment) for moment in distinct]
    except InputError as error:
        raise InputError(f"{name}, column cutoff: {error}") from error
    return moments.replace_strict(distinct, instants, return_dtype=pl.Int64).to_numpy().copy()
