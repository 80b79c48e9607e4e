"""`Reading`: yields the usable rows of logs, and accounts for every row.

In: opened files. Out: usable rows, file after file; a `RowAccount` per file; and a file of rejected
rows, each with its reason. Every engine of preparation reads through a `Reading`; Spark adds those
of its tasks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from userbert.data.read.rows import INVALID
from userbert.data.read.sources import LogFile
from userbert.errors import SourceError
from userbert.progress import Advance
from userbert.schema import files
from userbert.schema.models import Schema

_ROWS_AT_A_TIME = 1_048_576
"""Minimum number of rows of a chunk: small chunks are slow to write and to read."""

FILE_STRIDE = 1 << 40
"""Number that a file's rows stay below. `row` is the file's number * FILE_STRIDE + the row in the
file, so rows are ordered by file and fit into int64."""

REJECTED = "rejected.parquet"
"""Name of the file of rejected rows in prepared data."""

OnInvalid = Literal["fail", "quarantine"]
"""Whether an invalid row stops the preparation or is rejected with its reason."""


@dataclass(frozen=True)
class UnusedRows:
    """Valid rows of some users that preparation does not use."""

    duplicates: list[int]
    """Number of duplicate events, by file."""
    repeated_profiles: pl.DataFrame
    """Profile rows after a user's first: columns `file`, `row` and `reason`, sorted by user."""


@dataclass
class RowAccount:
    """Counts of the rows of one file by outcome.

    `used`, `outside_segments`, `quarantined` and `duplicates_dropped` add up to `read`.
    """

    read: int = 0
    used: int = 0
    outside_segments: int = 0
    """Events whose action type no segment uses."""
    quarantined: int = 0
    """Invalid rows, and repeated profile rows."""
    duplicates_dropped: int = 0
    outside_by_action: Counter[str] = field(default_factory=Counter)
    """`outside_segments` by action type."""

    def add(self, other: "RowAccount") -> None:
        """Adds the account of other rows of the file."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON, with the 50 most frequent action types outside all segments."""
        frequent = sorted(self.outside_by_action.items(), key=lambda item: (-item[1], item[0]))[:50]
        return {**vars(self), "outside_by_action": dict(frequent)}


class Reading:
    """Reads files: checks rows, accounts for them, and collects rejected rows.

    `numbers` holds the number of each file, by name. `rejected_file` is the file of rejected rows;
    None keeps the rows in memory, for `add`. Usable rows are yielded in chunks of at least
    `rows_at_a_time` rows, of which only the last may be smaller. Rejected rows are written in row
    groups of `rows_at_a_time` rows.
    """

    def __init__(
        self,
        schema: Schema,
        on_invalid: OnInvalid,
        numbers: Mapping[str, int],
        rejected_file: Path | None = None,
        *,
        rows_at_a_time: int = _ROWS_AT_A_TIME,
    ) -> None:
        self.schema = schema
        self.accounts = {name: RowAccount() for name in numbers}
        """Account of each file, by name, in the order of the files' numbers."""
        self.first_event: int = np.iinfo(np.int64).max
        """Time of the first used event, in microseconds since 1970."""
        self.last_event: int = np.iinfo(np.int64).min
        """Time of the last used event; before `first_event` if no event is used."""
        self.unseen = schema.actions
        """Action types of segments that no event read so far has."""
        self.first_rejected: tuple[str, int, str] | None = None
        """File, row and reason of the first rejected row."""
        self.on_invalid = on_invalid
        self._rows_at_a_time = rows_at_a_time
        self._numbers = numbers
        self._rejected_file = rejected_file
        self._rejected: list[pl.DataFrame] = []
        """Rejected rows that are not written yet."""
        self._writer: pq.ParquetWriter | None = None

    def events(self, logs: Iterable[LogFile], advance: Advance) -> Iterator[pl.DataFrame]:
        """Yields the events whose action type a segment uses, in chunks.

        Events have the column `row` only if the schema drops duplicates: it tells which is first.
        """
        actions = self.schema.actions
        batches = (self._used_events(log, actions, advance) for log in logs)
        chunks = _in_chunks(batches, self._rows_at_a_time)
        return chunks if self.schema.duplicates == "drop" else (rows.drop("row") for rows in chunks)

    def profile(self, logs: Iterable[LogFile], advance: Advance) -> Iterator[pl.DataFrame]:
        """Yields the profile rows in chunks, with the column `row` to order them."""
        return _in_chunks((self._profile_rows(log, advance) for log in logs), self._rows_at_a_time)

    def _used_events(
        self, log: LogFile, actions: frozenset[str], advance: Advance
    ) -> Iterator[pl.DataFrame]:
        account = self.accounts[log.name]
        for batch in log.batches():
            valid = self._check(batch, log.name)
            is_used = valid["action_type"].is_in(actions)
            used = valid if is_used.all() else valid.filter(is_used)
            if self.unseen:
                self.unseen -= set(used["action_type"].unique())
            outside = valid["action_type"].filter(~is_used)
            account.used += len(used)
            account.outside_segments += len(outside)
            account.outside_by_action.update(dict(outside.value_counts().rows()))
            if len(used):
                self.first_event = min(self.first_event, int(used["time"].min()))  # type: ignore[arg-type]
                self.last_event = max(self.last_event, int(used["time"].max()))  # type: ignore[arg-type]
            advance(len(batch), log.name)
            yield used

    def _profile_rows(self, log: LogFile, advance: Advance) -> Iterator[pl.DataFrame]:
        for batch in log.batches():
            valid = self._check(batch, log.name)
            self.accounts[log.name].used += len(valid)
            advance(len(batch), log.name)
            yield valid

    def _check(self, batch: pl.DataFrame, name: str) -> pl.DataFrame:
        """Returns the valid rows. Rejects the invalid rows, or raises as `refuse` does."""
        self.accounts[name].read += len(batch)
        invalid = batch.filter(pl.col(INVALID).is_not_null())
        if len(invalid):
            rejected = invalid.select(pl.lit(name).alias("file"), "row", reason=INVALID)
            self.refuse(rejected)
            self._reject(rejected)
            self.accounts[name].quarantined += len(rejected)
            batch = batch.filter(pl.col(INVALID).is_null())
        return batch.drop(INVALID).with_columns(pl.col("row") + self._numbers[name] * FILE_STRIDE)

    def refuse(self, rejected: pl.DataFrame) -> None:
        """Raises `SourceError` for the first rejected row, unless `on_invalid` is `quarantine`."""
        if self.on_invalid == "fail" and len(rejected):
            raise SourceError(
                f"{_describe(rejected.row(0))}. Fix the row, or run with --on-invalid quarantine."
            )

    def require_events(self, logs: Sequence[LogFile]) -> None:
        """Raises `SourceError` if no event is used; the message says what the logs hold instead."""
        if self.first_event <= self.last_event:
            return
        names = files.join_names(dict.fromkeys(log.name for log in logs))
        read = sum(self.accounts[log.name].read for log in logs)
        if not read:
            raise SourceError(f"{names}: expected rows, found none. Correct `path:` in the schema.")
        if self.first_rejected and read == sum(self.accounts[log.name].quarantined for log in logs):
            raise SourceError(
                f"{names}: none of the {read:,} rows can be used; the first is "
                f"{_describe(self.first_rejected)}. Correct the schema or the logs."
            )
        outside = {name for account in self.accounts.values() for name in account.outside_by_action}
        raise SourceError(
            f"{names}: no event has an action type of a segment "
            f"({', '.join(sorted(self.schema.actions))}); found: "
            f"{files.join_names(sorted(outside))}. Correct `actions:` in the schema."
        )

    def add(self, other: "Reading") -> None:
        """Adds the accounts, the span of events and the rejected rows of another reading."""
        for name, account in other.accounts.items():
            self.accounts[name].add(account)
        self.first_event = min(self.first_event, other.first_event)
        self.last_event = max(self.last_event, other.last_event)
        self.unseen &= other.unseen
        for rows in other._rejected:
            self._reject(rows)

    def add_rejected(self, file: Path) -> None:
        """Adds the rejected rows in a file, without accounting for them."""
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches():
                self._reject(pl.DataFrame(batch))

    def account_unused(self, unused: UnusedRows) -> None:
        """Corrects the accounts for rows that counted as used, and rejects repeated profile rows.

        These rows are known only once all rows of a user are together.
        """
        for account, count in zip(self.accounts.values(), unused.duplicates, strict=True):
            account.used -= count
            account.duplicates_dropped += count
        for name, count in unused.repeated_profiles["file"].value_counts().rows():
            self.accounts[name].used -= count
            self.accounts[name].quarantined += count
        self._reject(unused.repeated_profiles)

    def _reject(self, rows: pl.DataFrame) -> None:
        """Collects rejected rows, and writes them once there are enough."""
        if len(rows):
            self.first_rejected = self.first_rejected or rows.row(0)
            self._rejected.append(rows)
        size = self._rows_at_a_time
        if self._rejected_file is not None and sum(map(len, self._rejected)) >= size:
            self._write(multiple=size)

    def _write(self, multiple: int) -> None:
        """Writes a multiple of `multiple` rows, so that the file does not depend on the batches."""
        rejected = pl.concat(self._rejected)
        size = len(rejected) // multiple * multiple
        table = rejected[:size].to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._rejected_file, table.schema)
        self._writer.write_table(table, row_group_size=self._rows_at_a_time)
        self._rejected = [rejected[size:]]

    def close(self) -> None:
        """Completes the file of rejected rows. Without rejected rows, no file is written."""
        if any(map(len, self._rejected)):
            self._write(multiple=1)
        if self._writer is not None:
            self._writer.close()


def _describe(rejected: tuple[Any, ...]) -> str:
    """Describes a rejected row: its file, its number in the file and the reason."""
    file, row, reason = rejected
    return f"{file}, row {row}, {reason}"


def _in_chunks(
    batches_by_file: Iterable[Iterator[pl.DataFrame]], rows: int
) -> Iterator[pl.DataFrame]:
    """Joins batches into chunks of at least `rows` rows; the last chunk may be smaller."""
    chunk: list[pl.DataFrame] = []
    for batches in batches_by_file:
        for batch in batches:
            chunk.append(batch)
            if sum(map(len, chunk)) >= rows:
                yield pl.concat(chunk)
                chunk = []
    if chunk:
        yield pl.concat(chunk)
