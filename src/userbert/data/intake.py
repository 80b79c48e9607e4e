"""The first pass of preparation: every row checked, counted, and put where its user's events are.

In: opened logs and a schema. Out: events in hash partitions on disk, their values as codes, profile
rows, rejected rows with their reasons, and the account of all rows. Used by `data/prepare.py`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from userbert.data.codes import Codes
from userbert.data.sources import INVALID, LogFile, RowAccount, read_profile
from userbert.data.store import TIMELESS, shard_of
from userbert.data.words import user_hash
from userbert.errors import SourceError
from userbert.progress import Advance, progress
from userbert.schema.models import Number, Schema
from userbert.workers import threaded

_ROWS_AT_A_TIME = 1_048_576
"""Of events that are spread over the partitions: small pieces are slow to write and to read."""

_FILE = "row"
"""Where duplicates are looked for, the number of an event's file stands in place of its row's."""

OnInvalid = Literal["fail", "quarantine"]


@dataclass
class Intake:
    """The first pass: every row checked, counted, and put where its user's events are."""

    schema: Schema
    on_invalid: OnInvalid
    folder: Path
    partitions: int
    accounts: dict[str, RowAccount] = field(default_factory=dict)
    rejected: list[pl.DataFrame] = field(default_factory=list)
    first_event: int = np.iinfo(np.int64).max
    last_event: int = np.iinfo(np.int64).min
    codes: dict[str, Codes] = field(default_factory=dict)
    """Of action types and of attributes that are not numbers."""
    dropped: dict[int, dict[str, int]] = field(default_factory=dict)
    """Duplicates, by partition and file; of partitions that were looked at."""
    sizes: list[int] = field(default_factory=list)
    """The events of each partition."""
    no_events: pl.DataFrame = field(default_factory=pl.DataFrame)
    """A partition without users."""

    def __post_init__(self) -> None:
        attributes = self.schema.attributes.items()
        coded = [name for name, one in attributes if not isinstance(one, Number)]
        self.codes = {name: Codes() for name in ("action_type", *coded)}
        self.sizes = [0] * self.partitions

    def spread(self, logs: list[LogFile]) -> None:
        """Read all logs once; write the events that a segment uses into their partitions."""
        self.folder.mkdir()
        actions = {name for segment in self.schema.segments.values() for name in segment.actions}
        with progress("reading events", sum(log.rows for log in logs)) as advance:
            # One thread: what is read meanwhile is checked here.
            for _ in threaded(self._write, self._chunks(logs, actions, advance), threads=1):
                pass
        if not any(self.folder.iterdir()):
            seen = {
                name for account in self.accounts.values() for name in account.outside_by_action
            }
            raise SourceError(
                f"no event has an action type of a segment ({', '.join(sorted(actions))}); "
                f"the logs hold: {', '.join(sorted(seen)) or 'no events'}. "
                "Correct `actions:` in the schema, or the source's path."
            )

    def _chunks(
        self, logs: list[LogFile], actions: set[str], advance: Advance
    ) -> Iterator[pl.DataFrame]:
        """The events that a segment uses, many at a time."""
        waiting: list[pl.DataFrame] = []
        for log in logs:
            account = self.accounts.setdefault(log.name, RowAccount())
            for batch in log.batches():
                waiting.append(self._used(batch, log.name, account, actions))
                if sum(map(len, waiting)) >= _ROWS_AT_A_TIME:
                    yield pl.concat(waiting)
                    waiting = []
                advance(len(batch), log.name)
        if waiting:
            yield pl.concat(waiting)

    def _used(
        self, batch: pl.DataFrame, name: str, account: RowAccount, actions: set[str]
    ) -> pl.DataFrame:
        """The events of a batch that a segment uses."""
        valid = self._check(batch, name, account)
        if self.schema.duplicates == "drop":
            number = list(self.accounts).index(name)
            valid = valid.with_columns(pl.lit(number, pl.UInt32).alias(_FILE))
        is_used = valid["action_type"].is_in(actions)
        used = valid if is_used.all() else valid.filter(is_used)
        outside = valid["action_type"].filter(~is_used)
        account.used += len(used)
        account.outside_segments += len(outside)
        account.outside_by_action.update(dict(outside.value_counts().rows()))
        if len(used):
            self.first_event = min(self.first_event, int(used["time"].min()))  # type: ignore[arg-type]
            self.last_event = max(self.last_event, int(used["time"].max()))  # type: ignore[arg-type]
        return used

    def _write(self, events: pl.DataFrame) -> None:
        """Add events, with codes in place of values, to the partitions of their users."""
        events = events.with_columns(
            codes.encode(events[name]).alias(name) for name, codes in self.codes.items()
        )
        self.no_events = events.clear()
        if events.is_empty():
            return
        for partition, part in self._partitioned(events):
            self.sizes[partition] += len(part)
            table = part.to_arrow(compat_level=pl.CompatLevel.newest())
            # Opened each time: there may be more partitions than files may be open.
            with (
                self._file(partition).open("ab") as sink,
                pa.ipc.new_stream(sink, table.schema) as writer,
            ):
                writer.write_table(table)

    def profiles(self, given: Any | None) -> pl.DataFrame:
        """Read, check and count the profile rows; `time` is TIMELESS where there is none."""
        if self.schema.profile is None:
            return pl.DataFrame(schema={"user_id": pl.String, "time": pl.Int64})
        parts = read_profile(self.schema, self.schema.profile, given)
        rows = pl.concat([part for _, part in parts])
        if self.schema.profile.time is None:
            usable = pl.col(INVALID).is_null()
            again = usable & ~pl.struct("user_id", usable).is_first_distinct()
            reason = 'a second row of the user "' + pl.col("user_id") + (
                '": expected one (or a `time:` in the schema\'s profile, to say which counts when)'
            )  # fmt: skip
            rows = rows.with_columns(pl.when(again).then(reason).otherwise(INVALID).alias(INVALID))
        valid, first = [], 0
        for name, part in parts:
            account = self.accounts.setdefault(name, RowAccount())
            valid.append(self._check(rows.slice(first, len(part)), name, account))
            account.used += len(valid[-1])
            first += len(part)
        return pl.concat(valid).with_columns(pl.col("time").fill_null(TIMELESS))

    def partition(self, number: int) -> pl.DataFrame:
        """All events of one partition."""
        file = self._file(number)
        if not file.exists():
            return self.no_events.drop(_FILE, strict=False)
        tables = []
        # Read, not mapped: pages of a map count as ours until the system wants them back.
        with pa.OSFile(str(file)) as source:
            while source.tell() < source.size():
                tables.append(pa.ipc.open_stream(source).read_all())
        events = pl.DataFrame(pa.concat_tables(tables))
        return events if self.schema.duplicates == "keep" else self._distinct(events, number)

    def _distinct(self, events: pl.DataFrame, number: int) -> pl.DataFrame:
        """One of each event, the first that was read; count the others by file."""
        said = [name for name in events.columns if name != _FILE]
        kept = events.unique(said, keep="first", maintain_order=True)
        before, after = (
            np.bincount(some[_FILE].to_numpy(), minlength=len(self.accounts))
            for some in (events, kept)
        )
        gone = (before - after).tolist()
        self.dropped[number] = dict(zip(self.accounts, gone, strict=False))
        return kept.drop(_FILE)

    def account_for_duplicates(self) -> None:
        """Move what was dropped in all partitions from the events that were used."""
        for files in self.dropped.values():
            for name, count in files.items():
                self.accounts[name].used -= count
                self.accounts[name].duplicates_dropped += count

    def are(self, events: pl.DataFrame, actions: Collection[str]) -> pl.Series:
        """Which events of a partition have one of some action types."""
        known = self.codes["action_type"].values
        return events["action_type"].is_in(known.is_in(actions).arg_true().to_list())

    def clear(self) -> None:
        """Remove the partitions."""
        for file in self.folder.iterdir():
            file.unlink()
        self.folder.rmdir()

    def _check(self, batch: pl.DataFrame, name: str, account: RowAccount) -> pl.DataFrame:
        """The rows that can be used; the others are refused or quarantined."""
        account.read += len(batch)
        invalid = batch.filter(pl.col(INVALID).is_not_null())
        if len(invalid):
            row, reason = invalid.select("row", INVALID).row(0)
            if self.on_invalid == "fail":
                raise SourceError(
                    f"{name}, row {row}, {reason}. "
                    "Fix the row, or run with --on-invalid quarantine."
                )
            account.quarantined += len(invalid)
            self.rejected.append(
                invalid.select(pl.lit(name).alias("file"), "row", pl.col(INVALID).alias("reason"))
            )
            batch = batch.filter(pl.col(INVALID).is_null())
        return batch.drop("row", INVALID)

    def _partitioned(self, events: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
        if self.partitions == 1:
            yield 0, events
            return
        number = shard_of(user_hash(events["user_id"].to_arrow()), self.partitions)
        events = events[np.argsort(number, kind="stable")]
        counts = np.bincount(number, minlength=self.partitions)
        first = np.cumsum(counts) - counts
        for partition in np.flatnonzero(counts).tolist():
            yield partition, events.slice(first[partition], counts[partition])

    def _file(self, partition: int) -> Path:
        return self.folder / f"{partition:06d}.arrow"
