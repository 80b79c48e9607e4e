"""What prepared data hold, counted: words of users, values of attributes, what became of rows.

In: `PreparedData`. Out: records. `inspect` lays them out as tables, the service answers with them.
Shards are ranges of a hash, so those of some shards are users at random.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from userbert.data.ragged import Int64, offsets_of
from userbert.data.read.reading import REJECTED
from userbert.data.shards import Columns, Shard
from userbert.data.store import PreparedData
from userbert.data.vocabulary import FIRST_VALUE, NONE, UNKNOWN, Categories, Vocabulary
from userbert.folders import read_json

PROFILE = "profile"
"""Where profile fields stand, beside segments."""


@dataclass(frozen=True)
class ValueCounts:
    """How many rows carry each value of an attribute or profile field."""

    place: str
    """A segment, or `PROFILE`."""
    attribute: str
    vocabulary: Vocabulary
    counts: Int64
    """(V,): by id."""

    @property
    def rows(self) -> int:
        """How many were looked at."""
        return int(self.counts.sum())

    @property
    def missing(self) -> int:
        """Rows without a value."""
        return int(self.counts[NONE])

    @property
    def unknown(self) -> int:
        """Rows whose value the vocabulary does not know."""
        return int(self.counts[UNKNOWN])

    def top(self, most: int) -> list[tuple[str, int]]:
        """The values that most rows carry, and how many."""
        order = np.argsort(-self.counts[FIRST_VALUE:], kind="stable")[:most] + FIRST_VALUE
        names = self.vocabulary.names
        return [(names[i], int(self.counts[i])) for i in order if self.counts[i]]


@dataclass(frozen=True)
class FileRows:
    """What became of a file's rows."""

    file: str
    read: int
    used: int
    outside_segments: int
    duplicates: int
    quarantined: int


@dataclass(frozen=True)
class RowAccounts:
    """What became of all rows."""

    files: list[FileRows]
    outside: list[tuple[str, int]]
    """Action types of rows in no segment, the most frequent first."""


@dataclass(frozen=True)
class Rejected:
    """Rows that were set aside."""

    rows: int
    first: list[dict[str, Any]]
    """Each with `file`, `row` and `reason`."""


def columns_of(shard: Shard, place: str) -> Columns:
    """A shard's rows of a segment, or of profiles."""
    return shard.profile if place == PROFILE else shard.segments[place]


def some_shards(data: PreparedData, place: str, most: int) -> list[Shard]:
    """The first shard, and those after it as long as they hold no more than so many rows in all."""
    chosen, rows = list(data.shards[:1]), len(columns_of(data.shards[0], place).times)
    for shard in data.shards[1:]:
        rows += len(columns_of(shard, place).times)
        if rows > most:
            break
        chosen.append(shard)
    return chosen


def words_of_users(shards: Sequence[Shard], segment: str) -> Int64:
    """(U,): how many words each user of some shards has, in all of the log."""
    counts = []
    for shard in shards:
        columns = shard.segments[segment]
        before = offsets_of(columns.word_start)
        counts.append(np.diff(before[columns.offsets]))
    return np.concatenate(counts)


def counts_of_values(data: PreparedData, shards: Sequence[Shard], place: str) -> list[ValueCounts]:
    """How many rows of some shards carry each value, attribute by attribute."""
    found = []
    for name, vocabulary in vocabularies_of(data, place).items():
        counts = np.zeros(vocabulary.size, np.int64)
        for shard in shards:
            values = columns_of(shard, place).values[name]
            ids = values if isinstance(vocabulary, Categories) else vocabulary.ids(values)
            counts += np.bincount(ids, minlength=vocabulary.size)
        found.append(ValueCounts(place, name, vocabulary, counts))
    return found


def vocabularies_of(data: PreparedData, place: str) -> Mapping[str, Vocabulary]:
    """The vocabularies of a segment, or of profiles."""
    known = data.vocabularies
    return known.profile if place == PROFILE else known.segments[place]


def row_accounts(summary: Mapping[str, Any]) -> RowAccounts:
    """What became of rows, by the `summary.json` of prepared data."""
    outside: dict[str, int] = {}
    files = []
    for name, account in summary["rows"].items():
        files.append(
            FileRows(
                name,
                account.get("read", 0),
                account.get("used", 0),
                account.get("outside_segments", 0),
                account.get("duplicates_dropped", 0),
                account.get("quarantined", 0),
            )
        )
        for action, count in account.get("outside_by_action", {}).items():
            outside[action] = outside.get(action, 0) + count
    return RowAccounts(files, sorted(outside.items(), key=lambda item: -item[1]))


def rejected_rows(data: PreparedData, most: int) -> Rejected | None:
    """The rows that were set aside, the first of them in full; none if all were used."""
    file = data.path / REJECTED
    if not file.is_file():
        return None
    rows = pl.scan_parquet(file)
    shown = [name for name in ("file", "row", "reason") if name in rows.collect_schema().names()]
    return Rejected(
        int(rows.select(pl.len()).collect().item()),
        rows.select(shown).head(most).collect().to_dicts(),
    )


def read_summary(data: PreparedData) -> dict[str, Any]:
    """How the data were made."""
    content: dict[str, Any] = read_json(data.path / "summary.json")
    return content


def below_common(names: Sequence[str]) -> list[str]:
    """Files by what tells them apart: without the folder that all lie in."""
    if not names:
        return []
    parents = [str(Path(name).parent) for name in names]
    try:
        common = os.path.commonpath(parents)
    except ValueError:  # some are absolute, others are not
        return [Path(name).name for name in names]
    return [os.path.relpath(name, common) if common else name for name in names]
