"""The first pass of preparation: every row checked, counted, and put where its user's are.

In: opened logs and a schema. Out: events and profile rows in hash partitions on disk, rejected rows
with their reasons, and the account of all rows. Used by `data/prepare.py`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from userbert.data.partitions import Partitions
from userbert.data.sources import INVALID, LogFile
from userbert.data.store import TIMELESS
from userbert.errors import SourceError
from userbert.progress import Advance, progress
from userbert.schema.models import Attribute, Number, Schema
from userbert.workers import threaded

_ROWS_AT_A_TIME = 1_048_576
"""That are spread over the partitions: small pieces are slow to write and to read."""
_FILE = 1 << 40
"""Where files matter after the first pass, `row` holds the number of its file, too: so many rows a
file."""

OnInvalid = Literal["fail", "quarantine"]


@dataclass
class RowAccount:
    """What became of the rows of one file; the parts add up to what was read."""

    read: int = 0
    used: int = 0
    outside_segments: int = 0
    quarantined: int = 0
    duplicates_dropped: int = 0
    outside_by_action: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Write as plain JSON: of the action types outside every segment the 50 most frequent."""
        often = sorted(self.outside_by_action.items(), key=lambda item: (-item[1], item[0]))[:50]
        return {**vars(self), "outside_by_action": dict(often)}


class Intake:
    """The first pass: every row checked, counted, and put where its user's are."""

    def __init__(
        self, schema: Schema, on_invalid: OnInvalid, folder: Path, partitions: int
    ) -> None:
        self.schema = schema
        self.partitions = partitions
        coded, numbers = _kinds(schema.attributes)
        self.events = Partitions(folder / "events", partitions, ["action_type", *coded], numbers)
        fields = {} if schema.profile is None else schema.profile.fields
        self.profile = Partitions(folder / "profile", partitions, *_kinds(fields))
        self.accounts: dict[str, RowAccount] = {}
        self.first_event: int = np.iinfo(np.int64).max
        self.last_event: int = np.iinfo(np.int64).min
        self._on_invalid = on_invalid
        self._rejected: list[pl.DataFrame] = []
        # By partition, as each is read more than once.
        self._duplicates: dict[int, list[int]] = {}
        self._second_rows: dict[int, pl.DataFrame] = {}

    def spread(self, logs: list[LogFile]) -> None:
        """Read all logs once; write the events that a segment uses into their partitions."""
        actions = {name for segment in self.schema.segments.values() for name in segment.actions}

        def used(batch: pl.DataFrame, name: str) -> pl.DataFrame:
            return self._used(batch, name, actions)

        with progress("reading events", sum(log.rows for log in logs)) as advance:
            # One thread: what is read meanwhile is checked here.
            chunks = self._chunks(logs, used, advance)
            for _ in threaded(self.events.write, chunks, threads=1):
                pass
        if not any(self.events.sizes):
            seen = {
                name for account in self.accounts.values() for name in account.outside_by_action
            }
            raise SourceError(
                f"no event has an action type of a segment ({', '.join(sorted(actions))}); "
                f"the logs hold: {', '.join(sorted(seen)) or 'no events'}. "
                "Correct `actions:` in the schema, or the source's path."
            )

    def spread_profile(self, files: list[LogFile]) -> None:
        """Read all profile rows once; write those that can be used into their partitions."""
        with progress("reading profiles", sum(file.rows for file in files)) as advance:
            for rows in self._chunks(files, self._usable, advance):
                self.profile.write(rows)

    def _chunks(
        self,
        files: list[LogFile],
        chosen: Callable[[pl.DataFrame, str], pl.DataFrame],
        advance: Advance,
    ) -> Iterator[pl.DataFrame]:
        """The rows that are chosen of each batch, many at a time."""
        waiting: list[pl.DataFrame] = []
        for file in files:
            self.accounts.setdefault(file.name, RowAccount())
            for batch in file.batches():
                waiting.append(chosen(batch, file.name))
                if sum(map(len, waiting)) >= _ROWS_AT_A_TIME:
                    yield pl.concat(waiting)
                    waiting = []
                advance(len(batch), file.name)
        if waiting:
            yield pl.concat(waiting)

    def _used(self, batch: pl.DataFrame, name: str, actions: set[str]) -> pl.DataFrame:
        """The events of a batch that a segment uses."""
        account = self.accounts[name]
        valid = self._check(batch, name)
        is_used = valid["action_type"].is_in(actions)
        used = valid if is_used.all() else valid.filter(is_used)
        outside = valid["action_type"].filter(~is_used)
        account.used += len(used)
        account.outside_segments += len(outside)
        account.outside_by_action.update(dict(outside.value_counts().rows()))
        if len(used):
            self.first_event = min(self.first_event, int(used["time"].min()))  # type: ignore[arg-type]
            self.last_event = max(self.last_event, int(used["time"].max()))  # type: ignore[arg-type]
        if self.schema.duplicates == "keep":
            return used.drop("row")
        return self._of_file(used, name)

    def _usable(self, batch: pl.DataFrame, name: str) -> pl.DataFrame:
        """The profile rows of a batch that can be used."""
        valid = self._check(batch, name)
        self.accounts[name].used += len(valid)
        return self._of_file(valid, name)

    def _of_file(self, rows: pl.DataFrame, name: str) -> pl.DataFrame:
        return rows.with_columns(pl.col("row") + list(self.accounts).index(name) * _FILE)

    def _check(self, batch: pl.DataFrame, name: str) -> pl.DataFrame:
        """The rows that can be used; the others are refused or quarantined."""
        account = self.accounts[name]
        account.read += len(batch)
        invalid = batch.filter(pl.col(INVALID).is_not_null())
        if len(invalid):
            rejected = invalid.select(
                pl.lit(name).alias("file"), "row", pl.col(INVALID).alias("reason")
            )
            self._refuse(rejected)
            account.quarantined += len(invalid)
            self._rejected.append(rejected)
            batch = batch.filter(pl.col(INVALID).is_null())
        return batch.drop(INVALID)

    def _refuse(self, rejected: pl.DataFrame) -> None:
        """Raise `SourceError` for the first row, unless such rows are set aside."""
        if self._on_invalid == "fail" and len(rejected):
            file, row, reason = rejected.row(0)
            raise SourceError(
                f"{file}, row {row}, {reason}. Fix the row, or run with --on-invalid quarantine."
            )

    def events_of(self, partition: int) -> pl.DataFrame:
        """All events of one partition, without duplicates if the schema wants none."""
        events = self.events.read(partition)
        if self.schema.duplicates == "keep":
            return events.drop("row", strict=False)
        said = [name for name in events.columns if name != "row"]
        kept = events.unique(said, keep="first", maintain_order=True)
        before, after = (
            np.bincount(some["row"].to_numpy() // _FILE, minlength=len(self.accounts))
            for some in (events, kept)
        )
        self._duplicates[partition] = (before - after).tolist()
        return kept.drop("row")

    def profile_of(self, partition: int) -> pl.DataFrame:
        """All profile rows of one partition; `time` is TIMELESS where the profile has none.

        Without times a user has one row, the first: raises `SourceError` at a second one, or sets
        it aside.
        """
        rows = self.profile.read(partition)
        if self.schema.profile is not None and self.schema.profile.time is None:
            is_first = rows["user_id"].is_first_distinct()
            files = pl.Series(list(self.accounts), dtype=pl.String)
            second = rows.filter(~is_first)
            rejected = second.select(
                files.gather(second["row"] // _FILE).alias("file"),
                pl.col("row") % _FILE,
                ('a second row of the user "' + pl.col("user_id") + '": expected one (or a '
                 "`time:` in the schema's profile, to say which counts when)").alias("reason"),
            )  # fmt: skip
            self._refuse(rejected)
            self._second_rows[partition] = rejected
            rows = rows.filter(is_first).with_columns(pl.col("time").fill_null(TIMELESS))
        return rows.drop("row")

    def are(self, events: pl.DataFrame, actions: Collection[str]) -> pl.Series:
        """Which events of a partition have one of some action types."""
        known = self.events.codes["action_type"].values
        return events["action_type"].is_in(known.is_in(actions).arg_true().to_list())

    def settle(self) -> pl.DataFrame:
        """Account for what was found in partitions; return all rejected rows, in order."""
        for gone in self._duplicates.values():
            for account, count in zip(self.accounts.values(), gone, strict=False):
                account.used -= count
                account.duplicates_dropped += count
        for second in self._second_rows.values():
            for name, count in second["file"].value_counts().rows():
                self.accounts[name].used -= count
                self.accounts[name].quarantined += count
        schema = {"file": pl.String, "row": pl.Int64, "reason": pl.String}
        rejected = pl.concat(
            [pl.DataFrame(schema=schema), *self._rejected, *self._second_rows.values()]
        )
        files = list(self.accounts)
        order = rejected["file"].replace_strict(files, range(len(files)), return_dtype=pl.Int64)
        return rejected.with_columns(order.alias("order")).sort("order", "row").drop("order")


def _kinds(attributes: Mapping[str, Attribute]) -> tuple[list[str], list[str]]:
    """The names of those that are text, and of numbers."""
    numbers = [name for name, one in attributes.items() if isinstance(one, Number)]
    return [name for name in attributes if name not in numbers], numbers
