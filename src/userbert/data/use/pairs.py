"""(user, cut-off) pairs: of whom, and up to when.

In: cut-offs, or a file or frame with `user_id` and perhaps `cutoff`. Out: `Pairs`. Used by labels,
embedding and pretraining (`--cutoff`, `--at`).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import Int64, by_shard
from userbert.data.shards import Shard
from userbert.data.store import Histories, PreparedData
from userbert.errors import InputError
from userbert.folders import found_at
from userbert.schema.files import ENDINGS, reading, scan

_EXAMPLES = 3
_UNREADABLE = (
    OSError, ValueError, TypeError, pa.ArrowException, pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
)  # fmt: skip


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


def pairs_at(data: PreparedData, cutoffs: Sequence[int], name: str = "the cut-off") -> Pairs:
    """Pair every user who has an event before a cut-off with it, one cut-off after the other.

    Raises `InputError` for a cut-off, called `name`, at which nothing of anybody is visible.
    """
    cutoffs = list(dict.fromkeys(cutoffs))
    for cutoff in cutoffs:
        refuse_blind(data, cutoff, name)
    first = first_events(data)
    rows = [np.flatnonzero(first < cutoff) for cutoff in cutoffs]
    return Pairs(np.concatenate(rows), np.repeat(np.array(cutoffs, np.int64), [*map(len, rows)]))


def pairs_asked(data: PreparedData, cutoff: str | date | datetime | None, at: Any | None) -> Pairs:
    """Every user who has an event before `cutoff`, or the rows of `at`, a frame of pairs.

    Without either, the cut-off is just after the last event; both together are an `InputError`.
    """
    if at is None:
        return pairs_at(
            data, [data.default_cutoff if cutoff is None else instant_of(cutoff, data, "cutoff")]
        )
    if cutoff is not None:
        raise InputError("`at` says each user's cut-off; leave `cutoff` out.")
    return pairs_of(pl.DataFrame(at), data, "at")


def first_events(data: PreparedData) -> Int64:
    """(U,): when each user's first action was, in microseconds since 1970."""
    first = np.full(len(data), np.iinfo(np.int64).max)
    for shard in data.shards:
        first[shard.first_row : shard.first_row + shard.users] = first_events_of(shard)
    return first


def first_events_of(shard: Shard) -> Int64:
    """The same of one shard's users."""
    first = np.full(shard.users, np.iinfo(np.int64).max)
    for columns in shard.segments.values():
        some = np.flatnonzero(np.diff(columns.offsets))
        first[some] = np.minimum(first[some], columns.times[columns.offsets[some]])
    return first


def last_events(data: Histories, rows: Int64) -> Int64:
    """(B,): when the last action of each user was, in microseconds since 1970."""
    last = np.full(len(rows), np.iinfo(np.int64).min)
    for number, here in by_shard(data.first_rows, rows):
        shard = data.shards[number]
        local = rows[here] - shard.first_row
        for columns in shard.segments.values():
            some = columns.offsets[local + 1] > columns.offsets[local]
            newest = columns.times[columns.offsets[local[some] + 1] - 1]
            last[here[some]] = np.maximum(last[here[some]], newest)
    return last


def user_ids_of(data: Histories, rows: Int64) -> pa.Array:
    """The ids (B,) of the users in some rows.

    Arrow's own `take` of chunks puts the ids of all users together first, at each call.
    """
    ids, places = [], []
    for number, here in by_shard(data.first_rows, rows):
        shard = data.shards[number]
        ids.append(shard.user_ids.take(pa.array(rows[here] - shard.first_row)))
        places.append(here)
    order = np.argsort(np.concatenate(places))
    return pa.concat_arrays(ids).take(pa.array(order))


def read_pairs(path: Path, data: PreparedData) -> Pairs:
    """Read a CSV, JSON Lines or Parquet file of pairs; raise `InputError` as `pairs_of` does."""
    return pairs_of(read_table(path), data, str(path))


def instant_of(moment: str | date | datetime, data: PreparedData, name: str) -> int:
    """Microseconds since 1970 of a moment, which messages call `name`."""
    try:
        return data.schema.instant(moment)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def refuse_blind(data: PreparedData, cutoff: int, name: str) -> None:
    """Raise `InputError` if at a cut-off, called `name`, nothing of anybody can be visible.

    That is before the first event, or so long after the last that no window reaches back to it.
    """
    window = max(segment.window.from_ for segment in data.schema.segments.values())
    if cutoff <= data.first_event:
        raise InputError(
            f"{name}, {_told(data, cutoff)}, is not after the first event of {data.path}, at "
            f"{_told(data, data.first_event)}: nobody has done anything yet. Choose a later one."
        )
    # Words reach back to the beginning of their day.
    if cutoff > data.last_event + window // timedelta(microseconds=1) + DAY_US:
        days = (cutoff - data.last_event) // DAY_US
        raise InputError(
            f"{name}, {_told(data, cutoff)}, is {days:,} days after the last event of {data.path}, "
            f"at {_told(data, data.last_event)}: the windows of {window.days} days are empty. "
            "Choose an earlier one, or prepare the later logs, too."
        )


def _told(data: PreparedData, instant: int) -> str:
    moment = np.datetime64(instant, "us").item()
    if not isinstance(moment, datetime):  # a year that Python's own type does not have
        return str(np.datetime64(instant, "us"))
    try:
        local = moment.replace(tzinfo=UTC).astimezone(data.schema.zone)
    except OverflowError:
        return f"{moment:%Y-%m-%d}"
    return local.isoformat(" ", "seconds")


def read_table(path: Path) -> pl.DataFrame:
    """Read a small table; of text files all columns are strings."""
    if path.is_dir():
        raise InputError(f"{path}: expected a table in a file, found a folder ({found_at(path)}).")
    if path.is_file() and not any(ending in ENDINGS for ending in path.suffixes[-2:]):
        raise InputError(
            f"{path}: expected a table, in a file whose name ends in {', '.join(ENDINGS)}. Convert "
            "or rename it."
        )
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: expected a table, found an empty file. Write it again.")
    if path.is_file() and path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    frame = scan(path)
    with reading(path):
        return frame.collect()


def _read_parquet(path: Path) -> pl.DataFrame:
    """Read a Parquet file by Arrow, which compares pages with their checksums if they have any."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            content = file.read().replace_schema_metadata()
            ",".join(content.column_names).encode()  # Polars panics at names that are no text
            return pl.DataFrame(content)
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: expected a complete Parquet file, found a damaged one. Write it again, or "
            "copy it."
        ) from error


def pairs_of(
    frame: pl.DataFrame, data: PreparedData, name: str, *, may_repeat: bool = False
) -> Pairs:
    """Find the pairs of a frame with `user_id` and perhaps `cutoff`, called `name` in messages.

    A naive cut-off is in the schema's `timezone`; without the column all are just after the last
    event. Raises `InputError` for users that the data do not know, missing values and, unless they
    `may_repeat`, pairs that stand twice.
    """
    require_column(frame, "user_id", name)
    if frame.is_empty():
        raise InputError(f"{name}: expected one row a user, found no rows. Write it again.")
    if "cutoff" in frame.columns:
        require_column(frame, "cutoff", name)
    rows = data.rows_of(users_of(frame, name).to_arrow())
    strangers = np.flatnonzero(rows < 0)
    if len(strangers):
        examples = ", ".join(map(str, frame["user_id"].gather(strangers[:_EXAMPLES])))
        raise InputError(
            f"{name}: {len(strangers):,} of {len(rows):,} users are not in {data.path}, the first "
            f"in row {strangers[0] + 1}: {examples}. {_strangers(data, len(strangers), len(rows))}"
        )
    pairs = Pairs(rows, _cutoffs(frame, data, name))
    for number in map(int, (pairs.cutoffs.argmin(), pairs.cutoffs.argmax())):
        refuse_blind(data, int(pairs.cutoffs[number]), f"{name}, row {number + 1}: the cut-off")
    keys = pl.DataFrame({"row": rows, "cutoff": pairs.cutoffs})
    twice = keys.is_duplicated().arg_true()
    if len(twice) and not may_repeat:
        first = twice[0]
        same = np.flatnonzero((rows == rows[first]) & (pairs.cutoffs == pairs.cutoffs[first]))
        others = len(twice) - len(same)
        more = f" ({others} more rows are like that)" if others else ""
        raise InputError(
            f"{name}: user {frame['user_id'][first]} has the same cut-off in the rows "
            f"{', '.join(map(str, same[:_EXAMPLES] + 1))}{more}. Keep one row a user and cut-off."
        )
    return pairs


def users_of(frame: pl.DataFrame, name: str) -> pl.Series:
    """The column `user_id` of a frame, as text; raise `InputError` if it holds no ids."""
    users = frame["user_id"]
    with suppress(pl.exceptions.PolarsError):  # bytes that are no text
        if not (users.dtype.is_nested() or users.dtype.is_temporal()):
            return users.cast(pl.String)
    raise InputError(
        f"{name}, column user_id: expected one id a row, as text or whole numbers, found "
        f"{users.dtype}. Convert the column."
    )


def _strangers(data: PreparedData, count: int, of: int) -> str:
    """The way out: a few may have no logs; all are other ids, or those of other data."""
    if count < of:
        return "Remove their rows, or prepare their logs too."
    return f"Ids must be written as in the logs, such as {data.user_ids[0]}. Is it of other data?"


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
            f"({len(missing):,} of {len(frame):,} rows lack it). Remove these rows."
        )


def _cutoffs(frame: pl.DataFrame, data: PreparedData, name: str) -> Int64:
    if "cutoff" not in frame.columns:
        return np.full(len(frame), data.default_cutoff, dtype=np.int64)
    moments = frame["cutoff"]
    distinct = moments.unique()
    if not (moments.dtype in (pl.Date, pl.String) or isinstance(moments.dtype, pl.Datetime)):
        raise InputError(
            f"{name}, column cutoff: expected dates or times such as 2017-09-01T04:00, found "
            f"{moments.dtype}. Convert the column."
        )
    instants = [instant_of(moment, data, f"{name}, column cutoff") for moment in distinct]
    return moments.replace_strict(distinct, instants, return_dtype=pl.Int64).to_numpy().copy()
