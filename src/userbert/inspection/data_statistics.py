"""Counts in prepared data: words per user, rows per attribute value, used and rejected rows.

In: `PreparedData`. Out: records, which `inspect` shows as tables and the service as JSON. Shards
are ranges of a hash of the user id, so the users of some shards are a random sample.

Letters in shapes: U users, V ids of a vocabulary.
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

PROFILE = "profile"
"""Name of the place that holds profile fields. A place is a segment, or the profile."""


@dataclass(frozen=True)
class ValueCounts:
    """Number of rows with each value of an attribute or profile field."""

    place: str
    """Segment name, or `PROFILE`."""
    attribute: str
    """Name of the attribute or profile field."""
    vocabulary: Vocabulary
    counts: Int64
    """Number of rows with each id (V,)."""

    @property
    def rows(self) -> int:
        """Number of rows counted."""
        return int(self.counts.sum())

    @property
    def missing(self) -> int:
        """Number of rows without a value."""
        return int(self.counts[NONE])

    @property
    def unknown(self) -> int:
        """Number of rows with a value that is not in the vocabulary."""
        return int(self.counts[UNKNOWN])

    def top(self, limit: int) -> list[tuple[str, int]]:
        """Returns at most `limit` values with the number of rows of each, most frequent first."""
        order = np.argsort(-self.counts[FIRST_VALUE:], kind="stable")[:limit] + FIRST_VALUE
        names = self.vocabulary.names
        return [(names[i], int(self.counts[i])) for i in order if self.counts[i]]


@dataclass(frozen=True)
class FileRows:
    """Numbers of used and unused rows of a file or frame."""

    file: str
    """Path of the file, or name of the frame."""
    read: int
    """Number of all rows."""
    used: int
    """Number of rows that a segment or the profile uses."""
    outside_segments: int
    """Number of rows that no segment uses."""
    duplicates: int
    """Number of dropped duplicates."""
    quarantined: int
    """Number of rows that were rejected."""


@dataclass(frozen=True)
class RowAccounts:
    """Numbers of used and unused rows of all files."""

    files: list[FileRows]
    outside: list[tuple[str, int]]
    """Action types that no segment uses, with the number of rows of each, most frequent first."""


@dataclass(frozen=True)
class RejectedRows:
    """Rows that were rejected and written to quarantine."""

    rows: int
    """Number of rejected rows."""
    first: list[dict[str, Any]]
    """The first rows, each with `file`, `row` and `reason`."""


def place_columns(shard: Shard, place: str) -> Columns:
    """Returns the columns of a shard's segment, or of its profiles."""
    return shard.profile if place == PROFILE else shard.segments[place]


def sample_shards(data: PreparedData, place: str, max_rows: int) -> list[Shard]:
    """Returns as many first shards as hold at most `max_rows` rows of a place; at least one."""
    sample, rows = list(data.shards[:1]), len(place_columns(data.shards[0], place).times)
    for shard in data.shards[1:]:
        rows += len(place_columns(shard, place).times)
        if rows > max_rows:
            break
        sample.append(shard)
    return sample


def word_counts(shards: Sequence[Shard], segment: str) -> Int64:
    """Returns the number of words of each user (U,) of `shards`, over the whole log."""
    counts = []
    for shard in shards:
        columns = shard.segments[segment]
        words_before = offsets_of(columns.word_start)
        counts.append(np.diff(words_before[columns.offsets]))
    return np.concatenate(counts)


def count_values(data: PreparedData, shards: Sequence[Shard], place: str) -> list[ValueCounts]:
    """Counts the rows of `shards` by value, for each attribute of a place."""
    value_counts = []
    for name, vocabulary in place_vocabularies(data, place).items():
        counts = np.zeros(vocabulary.size, np.int64)
        for shard in shards:
            values = place_columns(shard, place).values[name]
            ids = values if isinstance(vocabulary, Categories) else vocabulary.ids(values)
            counts += np.bincount(ids, minlength=vocabulary.size)
        value_counts.append(ValueCounts(place, name, vocabulary, counts))
    return value_counts


def place_vocabularies(data: PreparedData, place: str) -> Mapping[str, Vocabulary]:
    """Returns the vocabularies of a segment or of the profile, by attribute."""
    vocabularies = data.vocabularies
    return vocabularies.profile if place == PROFILE else vocabularies.segments[place]


def row_accounts(summary: Mapping[str, Any]) -> RowAccounts:
    """Returns the row counts in the `summary.json` of prepared data."""
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


def rejected_rows(data: PreparedData, limit: int) -> RejectedRows | None:
    """Returns the number of rejected rows and the first `limit` rows; None if there are none."""
    file = data.path / REJECTED
    if not file.is_file():
        return None
    rows = pl.scan_parquet(file)
    columns = [name for name in ("file", "row", "reason") if name in rows.collect_schema().names()]
    return RejectedRows(
        int(rows.select(pl.len()).collect().item()),
        rows.select(columns).head(limit).collect().to_dicts(),
    )


def shorten_paths(names: Sequence[str]) -> list[str]:
    """Returns file names without the folder that they have in common."""
    if not names:
        return []
    parents = [str(Path(name).parent) for name in names]
    try:
        common = os.path.commonpath(parents)
    except ValueError:  # absolute and relative paths are mixed
        return [Path(name).name for name in names]
    return [os.path.relpath(name, common) if common else name for name in names]
