"""(user, cut-off) pairs, from cut-offs for all users or from a table of users.

In: cut-offs, or a file or frame with `user_id` and perhaps `cutoff`. Out: `Pairs`. Used by labels,
embedding and pretraining. Letters in shapes: B pairs or rows, U users of the data or of a shard.
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
from userbert.folders import describe_path
from userbert.schema.files import ENDINGS, locating_faults, scan

_MAX_EXAMPLES = 3
"""Maximum number of users or rows that a message lists, so that it stays readable."""
_UNREADABLE = (
    OSError, ValueError, TypeError, pa.ArrowException, pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
)  # fmt: skip
"""Errors that Arrow and Polars raise for a damaged Parquet file."""


@dataclass(frozen=True)
class Pairs:
    """Users by row, and the instant before which each user's events are visible."""

    rows: Int64
    """(B,): row of each user in the data."""
    cutoffs: Int64
    """(B,): microseconds since 1970."""

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.rows)


def pairs_at(data: PreparedData, cutoffs: Sequence[int], name: str = "the cut-off") -> Pairs:
    """Pairs each distinct cut-off with all users who have an event before it, in the given order.

    Raises `InputError`, which calls the cut-off `name`, if no event can be visible at a cut-off.
    """
    cutoffs = list(dict.fromkeys(cutoffs))
    for cutoff in cutoffs:
        require_visible_events(data, cutoff, name)
    first = first_events(data)
    rows = [np.flatnonzero(first < cutoff) for cutoff in cutoffs]
    return Pairs(np.concatenate(rows), np.repeat(np.array(cutoffs, np.int64), [*map(len, rows)]))


def pairs_from(data: PreparedData, cutoff: str | date | datetime | None, at: Any | None) -> Pairs:
    """Pairs `cutoff` with all users who have an event before it, or returns the pairs in `at`.

    `at` is a frame as in `pairs_in`. If both are None, the cut-off is just after the last event.
    Raises `InputError` if neither is None.
    """
    refuse_both(cutoff, at)
    if at is None:
        return pairs_at(
            data, [data.default_cutoff if cutoff is None else instant_of(cutoff, data, "cutoff")]
        )
    return pairs_in(pl.DataFrame(at), data, "at")


def refuse_both(
    cutoff: Any | None, at: Any | None, names: tuple[str, str] = ("`cutoff`", "`at`")
) -> None:
    """Raises `InputError`, which calls the two `names`, unless `cutoff` or `at` is None."""
    if cutoff is not None and at is not None:
        raise InputError(f"{names[1]} names each user's cut-off; leave {names[0]} out.")


def first_events(data: PreparedData) -> Int64:
    """Returns the time of each user's first action (U,), in microseconds since 1970.

    The time is the largest int64 for a user without actions.
    """
    first = np.full(len(data), np.iinfo(np.int64).max)
    for shard in data.shards:
        first[shard.first_row : shard.first_row + shard.users] = first_events_in(shard)
    return first


def first_events_in(shard: Shard) -> Int64:
    """Returns what `first_events` does, for the users of a shard (U,)."""
    first = np.full(shard.users, np.iinfo(np.int64).max)
    for columns in shard.segments.values():
        active = np.flatnonzero(np.diff(columns.offsets))
        first[active] = np.minimum(first[active], columns.times[columns.offsets[active]])
    return first


def last_events(data: Histories, rows: Int64) -> Int64:
    """Returns the time of the last action of each user (B,), in microseconds since 1970.

    `rows` (B,) are the users' rows. The time is the smallest int64 for a user without actions.
    """
    last = np.full(len(rows), np.iinfo(np.int64).min)
    for number, here in by_shard(data.first_rows, rows):
        shard = data.shards[number]
        local = rows[here] - shard.first_row
        for columns in shard.segments.values():
            active = columns.offsets[local + 1] > columns.offsets[local]
            newest = columns.times[columns.offsets[local[active] + 1] - 1]
            last[here[active]] = np.maximum(last[here[active]], newest)
    return last


def user_ids_of(data: Histories, rows: Int64) -> pa.Array:
    """Returns the user ids of rows (B,).

    Takes the ids shard by shard, as `ChunkedArray.take` copies the ids of all users at each call.
    """
    ids, places = [], []
    for number, here in by_shard(data.first_rows, rows):
        shard = data.shards[number]
        ids.append(shard.user_ids.take(pa.array(rows[here] - shard.first_row)))
        places.append(here)
    order = np.argsort(np.concatenate(places))
    return pa.concat_arrays(ids).take(pa.array(order))


def read_pairs(path: Path, data: PreparedData) -> Pairs:
    """Reads a CSV, JSON Lines or Parquet file of pairs; raises `InputError` as `pairs_in` does."""
    return pairs_in(read_table(path), data, str(path))


def instant_of(moment: str | date | datetime, data: PreparedData, name: str) -> int:
    """Returns a moment in microseconds since 1970. Raises `InputError`, which calls it `name`."""
    try:
        return data.schema.instant(moment)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def require_visible_events(data: PreparedData, cutoff: int, name: str) -> None:
    """Raises `InputError`, which calls the cut-off `name`, if no event can be visible at it.

    No event is visible at or before the first event, nor if all windows start after the last event.
    """
    window = max(segment.window.from_ for segment in data.schema.segments.values())
    if cutoff <= data.first_event:
        raise InputError(
            f"{name}, {_local_time(data, cutoff)}, is not after the first event of {data.path}, "
            f"at {_local_time(data, data.first_event)}, so no event is visible. Choose a later "
            "cut-off."
        )
    # The window of day words starts at the beginning of a day, up to a day earlier.
    if cutoff > data.last_event + window // timedelta(microseconds=1) + DAY_US:
        days = (cutoff - data.last_event) // DAY_US
        raise InputError(
            f"{name}, {_local_time(data, cutoff)}, is {days:,} days after the last event of "
            f"{data.path}, at {_local_time(data, data.last_event)}: the windows of "
            f"{window.days} days are empty. Choose an earlier cut-off, or prepare later logs, too."
        )


def _local_time(data: PreparedData, instant: int) -> str:
    moment = np.datetime64(instant, "us").item()
    if not isinstance(moment, datetime):  # a year beyond Python's datetime
        return str(np.datetime64(instant, "us"))
    try:
        local = moment.replace(tzinfo=UTC).astimezone(data.schema.zone)
    except OverflowError:
        return f"{moment:%Y-%m-%d}"
    return local.isoformat(" ", "seconds")


def read_table(path: Path) -> pl.DataFrame:
    """Reads a table into memory. All columns of CSV and TSV files are text.

    Raises `InputError` if the file cannot be read or is not a table.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: expected a table in a file, found a folder ({describe_path(path)})."
        )
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
    with locating_faults(path):
        return frame.collect()


def _read_parquet(path: Path) -> pl.DataFrame:
    """Reads a Parquet file with Arrow, which verifies the checksums of pages that have one."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            content = file.read().replace_schema_metadata()
            ",".join(content.column_names).encode()  # Polars panics on names that are not UTF-8
            return pl.DataFrame(content)
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: expected a complete Parquet file, found a damaged one. Write it again, or "
            "copy it."
        ) from error


def pairs_in(
    frame: pl.DataFrame, data: PreparedData, name: str, *, may_repeat: bool = False
) -> Pairs:
    """Returns the pairs in a frame with the column `user_id` and perhaps `cutoff`.

    A naive cut-off is in the schema's `timezone`. Without the column, all cut-offs are just after
    the last event. Raises `InputError`, which calls the frame `name`, for unknown users, missing
    values, a cut-off at which no event can be visible and, unless `may_repeat`, repeated pairs.
    """
    require_column(frame, "user_id", name)
    if frame.is_empty():
        raise InputError(
            f"{name}: expected one row per user, found no rows. Add rows to the table."
        )
    if "cutoff" in frame.columns:
        require_column(frame, "cutoff", name)
    rows = data.rows_of(user_id_column(frame, name).to_arrow())
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        examples = ", ".join(map(str, frame["user_id"].gather(unknown[:_MAX_EXAMPLES])))
        raise InputError(
            f"{name}: {len(unknown):,} of {len(rows):,} users are not in {data.path}, the first "
            f"in row {unknown[0] + 1}: {examples}. {_advice(data, len(unknown), len(rows))}"
        )
    pairs = Pairs(rows, _cutoffs(frame, data, name))
    for number in map(int, (pairs.cutoffs.argmin(), pairs.cutoffs.argmax())):
        require_visible_events(
            data, int(pairs.cutoffs[number]), f"{name}, row {number + 1}: the cut-off"
        )
    keys = pl.DataFrame({"row": rows, "cutoff": pairs.cutoffs})
    repeated = keys.is_duplicated().arg_true()
    if len(repeated) and not may_repeat:
        first = repeated[0]
        equal_rows = np.flatnonzero((rows == rows[first]) & (pairs.cutoffs == pairs.cutoffs[first]))
        others = len(repeated) - len(equal_rows)
        more = f" ({others} more rows repeat other pairs)" if others else ""
        raise InputError(
            f"{name}: user {frame['user_id'][first]} has the same cut-off in the rows "
            f"{', '.join(map(str, equal_rows[:_MAX_EXAMPLES] + 1))}{more}. Keep one row per user "
            "and cut-off."
        )
    return pairs


def user_id_column(frame: pl.DataFrame, name: str) -> pl.Series:
    """Returns the column `user_id` of a frame as text; raises `InputError` if it holds no ids."""
    users = frame["user_id"]
    with suppress(pl.exceptions.PolarsError):  # bytes that are not valid text
        if not (users.dtype.is_nested() or users.dtype.is_temporal()):
            return users.cast(pl.String)
    raise InputError(
        f"{name}, column user_id: expected one id per row, as text or whole numbers, found "
        f"{users.dtype}. Convert the column."
    )


def _advice(data: PreparedData, unknown: int, users: int) -> str:
    """Returns advice on unknown users. If no user is known, ids may have another form."""
    if unknown < users:
        return "Remove their rows, or prepare their logs."
    return (
        f"Write ids as the logs do, such as {data.user_ids[0]}, and check that the table belongs "
        "to these data."
    )


def require_column(frame: pl.DataFrame, column: str, name: str) -> None:
    """Raises `InputError` if a column is missing or has missing values."""
    if column not in frame.columns:
        raise InputError(
            f"{name}: expected a column {column}, found {', '.join(frame.columns) or 'none'}. "
            "Rename the column that holds these values."
        )
    missing = frame[column].is_null().arg_true()
    if len(missing):
        raise InputError(
            f"{name}, row {missing[0] + 1}, column {column}: expected a value, found none "
            f"({len(missing):,} of {len(frame):,} rows have none). Remove these rows."
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
