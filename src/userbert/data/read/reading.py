"""Rows of logs, each of them accounted for.

In: opened files. Out: the rows that can be used, some files' after the other, and what became of
all others: `RowAccount`s, and a file of rows that were set aside, each with its reason. Every
engine of preparation reads through this; what several readers found is added up.
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
"""That are given together: small pieces are slow to write and to read."""

FILE = 1 << 40
"""`row` holds the number of its file, too: so many rows a file."""

REJECTED = "rejected.parquet"
"""The file of rows that were set aside, in prepared data."""

OnInvalid = Literal["fail", "quarantine"]


@dataclass(frozen=True)
class LeftOut:
    """Rows of some users that are not used."""

    duplicates: list[int]
    """By file."""
    second_rows: pl.DataFrame
    """`file`, `row` and `reason` of profile rows of users who have one, in the order of users."""


@dataclass
class RowAccount:
    """What became of the rows of one file; the parts add up to what was read."""

    read: int = 0
    used: int = 0
    outside_segments: int = 0
    quarantined: int = 0
    duplicates_dropped: int = 0
    outside_by_action: Counter[str] = field(default_factory=Counter)

    def add(self, other: "RowAccount") -> None:
        """Account for what other rows of the file became, too."""
        for name, found in vars(other).items():
            setattr(self, name, getattr(self, name) + found)

    def to_json(self) -> dict[str, Any]:
        """Write as plain JSON: of the action types outside every segment the 50 most frequent."""
        often = sorted(self.outside_by_action.items(), key=lambda item: (-item[1], item[0]))[:50]
        return {**vars(self), "outside_by_action": dict(often)}


class Reading:
    """Rows of files, checked and accounted for."""

    def __init__(
        self,
        schema: Schema,
        on_invalid: OnInvalid,
        numbers: Mapping[str, int],
        aside: Path | None = None,
    ) -> None:
        self.schema = schema
        self.accounts = {name: RowAccount() for name in numbers}
        self.first_event: int = np.iinfo(np.int64).max
        """Microseconds since 1970 of the first event that is used."""
        self.last_event: int = np.iinfo(np.int64).min
        self.unseen = schema.actions
        """Action types of segments that no event was found to have."""
        self.first_rejected: tuple[str, int, str] | None = None
        """File, row and reason of the first row that was set aside."""
        self.on_invalid = on_invalid
        self._numbers = numbers
        """Of files, by which rows are in order."""
        self._aside = aside
        """The file of rows that are set aside; None: they are kept, to be taken over."""
        self._waiting: list[pl.DataFrame] = []
        self._writer: pq.ParquetWriter | None = None

    def events(self, logs: Iterable[LogFile], advance: Advance) -> Iterator[pl.DataFrame]:
        """The events that a segment uses, many at a time.

        Where duplicates are dropped they have a `row`, by which the first of them is known.
        """
        actions = self.schema.actions
        many = _many(self._used(log, actions, advance) for log in logs)
        return many if self.schema.duplicates == "drop" else (rows.drop("row") for rows in many)

    def profile(self, logs: Iterable[LogFile], advance: Advance) -> Iterator[pl.DataFrame]:
        """The profile rows, many at a time, with `row` for the order of all."""
        return _many(self._usable(log, advance) for log in logs)

    def _used(
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

    def _usable(self, log: LogFile, advance: Advance) -> Iterator[pl.DataFrame]:
        for batch in log.batches():
            valid = self._check(batch, log.name)
            self.accounts[log.name].used += len(valid)
            advance(len(batch), log.name)
            yield valid

    def _check(self, batch: pl.DataFrame, name: str) -> pl.DataFrame:
        """The rows that can be used; the others are refused or set aside."""
        self.accounts[name].read += len(batch)
        invalid = batch.filter(pl.col(INVALID).is_not_null())
        if len(invalid):
            rejected = invalid.select(pl.lit(name).alias("file"), "row", reason=INVALID)
            self.refuse(rejected)
            self._set_aside(rejected)
            self.accounts[name].quarantined += len(rejected)
            batch = batch.filter(pl.col(INVALID).is_null())
        return batch.drop(INVALID).with_columns(pl.col("row") + self._numbers[name] * FILE)

    def refuse(self, rejected: pl.DataFrame) -> None:
        """Raise `SourceError` for the first row, unless such rows are set aside."""
        if self.on_invalid == "fail" and len(rejected):
            raise SourceError(
                f"{_told(rejected.row(0))}. Fix the row, or run with --on-invalid quarantine."
            )

    def require_events(self, logs: Sequence[LogFile]) -> None:
        """Raise `SourceError` that says what there is instead, if no event of logs is used."""
        if self.first_event <= self.last_event:
            return
        names = files.join_names(dict.fromkeys(log.name for log in logs))
        read = sum(self.accounts[log.name].read for log in logs)
        if not read:
            raise SourceError(f"{names}: expected rows, found none. Correct `path:` in the schema.")
        if self.first_rejected and read == sum(self.accounts[log.name].quarantined for log in logs):
            raise SourceError(
                f"{names}: none of the {read:,} rows can be used; the first is "
                f"{_told(self.first_rejected)}. Correct the schema or the logs."
            )
        seen = {name for account in self.accounts.values() for name in account.outside_by_action}
        raise SourceError(
            f"{names}: no event has an action type of a segment "
            f"({', '.join(sorted(self.schema.actions))}); found: {files.join_names(sorted(seen))}. "
            "Correct `actions:` in the schema."
        )

    def add(self, other: "Reading") -> None:
        """Take over what was read elsewhere."""
        for name, account in other.accounts.items():
            self.accounts[name].add(account)
        self.first_event = min(self.first_event, other.first_event)
        self.last_event = max(self.last_event, other.last_event)
        self.unseen &= other.unseen
        for rows in other._waiting:
            self._set_aside(rows)

    def add_rejected(self, file: Path) -> None:
        """Take over the rows that were set aside in a file."""
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches():
                self._set_aside(pl.DataFrame(batch))

    def leave_out(self, left_out: LeftOut) -> None:
        """Account for rows that were taken for used until all of their users' were there."""
        for account, count in zip(self.accounts.values(), left_out.duplicates, strict=True):
            account.used -= count
            account.duplicates_dropped += count
        for name, count in left_out.second_rows["file"].value_counts().rows():
            self.accounts[name].used -= count
            self.accounts[name].quarantined += count
        self._set_aside(left_out.second_rows)

    def _set_aside(self, rows: pl.DataFrame) -> None:
        if len(rows):
            self.first_rejected = self.first_rejected or rows.row(0)
            self._waiting.append(rows)
        if self._aside is not None and sum(map(len, self._waiting)) >= _ROWS_AT_A_TIME:
            self._write(_ROWS_AT_A_TIME)

    def _write(self, multiple: int) -> None:
        """Write so many rows, or several times as many, whatever the batches they came in."""
        waiting = pl.concat(self._waiting)
        size = len(waiting) // multiple * multiple
        table = waiting[:size].to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._aside, table.schema)
        self._writer.write_table(table, row_group_size=_ROWS_AT_A_TIME)
        self._waiting = [waiting[size:]]

    def close(self) -> None:
        """Complete the file of rows that were set aside; without any, there is none."""
        if any(map(len, self._waiting)):
            self._write(multiple=1)
        if self._writer is not None:
            self._writer.close()


def _told(rejected: tuple[Any, ...]) -> str:
    file, row, reason = rejected
    return f"{file}, row {row}, {reason}"


def _many(batches: Iterable[Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Rows many at a time."""
    waiting: list[pl.DataFrame] = []
    for some in batches:
        for batch in some:
            waiting.append(batch)
            if sum(map(len, waiting)) >= _ROWS_AT_A_TIME:
                yield pl.concat(waiting)
                waiting = []
    if waiting:
        yield pl.concat(waiting)
