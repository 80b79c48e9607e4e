"""What is inside prepared data: what was read and what of it is used, words, values.

In: `PreparedData`. Out: rich tables. Words are counted of all users; values of at most so many
actions, of users at random, as shards are ranges of a hash.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text

from userbert.data.batches import Int64
from userbert.data.reading import REJECTED
from userbert.data.store import PreparedData
from userbert.data.vocabulary import FIRST_VALUE, NONE, UNKNOWN, Categories, Vocabulary
from userbert.folders import read_json
from userbert.serving.inspection.layout import (
    HEADINGS,
    counts_as_bars,
    facts,
    local,
    quantiles,
    share,
    table,
)

_VALUES_SHOWN = 4
_REASONS_SHOWN = 3
_ACTIONS = 10_000_000
"""So many of a segment's actions are looked at, or a shard's if it has more."""
_COUNTS = {
    "read": "read",
    "used": "used",
    "outside_segments": "in no segment",
    "duplicates_dropped": "duplicates",
    "quarantined": "set aside",
}
"""What becomes of rows, as the account has it and as people read it."""


def describe_data(data: PreparedData) -> RenderableType:
    """Lay out prepared data."""
    data.verify()
    summary = read_json(data.path / "summary.json")
    size = sum(file.stat().st_size for file in data.path.rglob("*") if file.is_file())
    days = (data.last_event - data.first_event) / 86_400e6
    about = facts(
        f"Prepared data {data.path}",
        {
            "users": f"{len(data):,}",
            "first event": local(data, data.first_event),
            "last event": f"{local(data, data.last_event)}, {days:,.0f} days later",
            "values counted before": str(data.schema.fit_before or "(all events)"),
            "forgotten": _forgotten(summary),
            "files": f"{size / 1e6:,.1f} MB, all as they were written",
            "written by": f"userbert {data.manifest['version']}",
        },
    )
    segments = table("Segments", "segment", "actions", "words", "actions a word", "users")
    words = {name: _words(data, name) for name in data.schema.segments}
    for name, counts in words.items():
        actions, total = summary["actions"][name], summary["words"][name]
        some = share(int(np.count_nonzero(counts)), len(counts))
        each = f"{actions / max(total, 1):.1f}"
        segments.add_row(name, f"{actions:,}", f"{total:,}", each, some)
    spread = table("Words of a user, in all of the log", "segment", *HEADINGS)
    for name, counts in words.items():
        spread.add_row(name, *quantiles(counts))
    # Of the long-term segment where there is one, as of it alone all history is seen.
    first = next(iter(words))
    return Group(
        about,
        *_rows(data, summary),
        segments,
        spread,
        counts_as_bars(words[first], f"{first} words"),
        *_vocabularies(data),
        *(Text(f"warning: {warning}") for warning in summary["warnings"]),
    )


def _forgotten(summary: Mapping[str, Any]) -> str | None:
    return f"{summary['forgotten']['users']:,} users" if "forgotten" in summary else None


def _rows(data: PreparedData, summary: Mapping[str, Any]) -> list[RenderableType]:
    """What became of the rows of each file, and why of those that are not used."""
    rows = table("Rows", "file", *_COUNTS.values())
    outside: dict[str, int] = {}
    for name, account in summary["rows"].items():
        rows.add_row(Text(name), *(f"{account.get(count, 0):,}" for count in _COUNTS))
        for action, count in account.get("outside_by_action", {}).items():
            outside[action] = outside.get(action, 0) + count
    found: list[RenderableType] = [rows]
    if outside:
        most = sorted(outside.items(), key=lambda item: -item[1])[:_VALUES_SHOWN]
        told = ", ".join(f"{action} ({count:,})" for action, count in most)
        found.append(Text(f"in no segment, by their action: {told}"))
    if (data.path / REJECTED).is_file():
        rejected = pl.read_parquet(data.path / REJECTED)
        shown = ("file", "row", "reason")
        aside = table(f"Rows set aside: {len(rejected):,}, the first of them", *shown)
        for row in rejected.head(_REASONS_SHOWN).iter_rows(named=True):
            aside.add_row(*(Text(str(row.get(name, ""))) for name in shown))
        found.append(aside)
    return found


def _words(data: PreparedData, segment: str) -> Int64:
    """(U,): how many words each user has."""
    counts = []
    for shard in data.shards:
        columns = shard.segments[segment]
        before = np.concatenate([[0], np.cumsum(columns.word_start, dtype=np.int64)])
        counts.append(np.diff(before[columns.offsets]))
    return np.concatenate(counts)


def _vocabularies(data: PreparedData) -> list[RenderableType]:
    """How many values are known, and how much of the actions they make up."""
    made = table("Values", "where", "attribute", "known", "missing", "unknown", "the most frequent")
    notes = []
    for segment, attributes in data.vocabularies.segments.items():
        counts, looked_at, total = _counts(data, segment, attributes)
        for name, vocabulary in attributes.items():
            made.add_row(segment, name, *_coverage(vocabulary, counts[name]))
        if looked_at < total:
            notes.append(
                f"values of {segment}: of {looked_at:,} of its {total:,} actions, of users at "
                "random"
            )
    counts, _, _ = _counts(data, "profile", data.vocabularies.profile)
    for name, vocabulary in data.vocabularies.profile.items():
        made.add_row("profile", name, *_coverage(vocabulary, counts[name]))
    return [made, *notes]


def _counts(
    data: PreparedData, place: str, attributes: Mapping[str, Vocabulary]
) -> tuple[dict[str, Int64], int, int]:
    """How many rows carry each id, by attribute; of how many rows, and how many there are."""
    counts = {name: np.zeros(one.size, np.int64) for name, one in attributes.items()}
    looked_at = total = 0
    for shard in data.shards:
        columns = shard.profile if place == "profile" else shard.segments[place]
        rows = len(columns.times)
        total += rows
        if looked_at and looked_at + rows > _ACTIONS:
            continue
        looked_at += rows
        for name, vocabulary in attributes.items():
            values = columns.values[name]
            ids = values if isinstance(vocabulary, Categories) else vocabulary.ids(values)
            counts[name] += np.bincount(ids, minlength=vocabulary.size)
    return counts, looked_at, total


def _coverage(vocabulary: Vocabulary, counts: Int64) -> tuple[str, str, str, str]:
    """Known values, the shares of rows without one and of unknown ones, and those most seen."""
    total = int(counts.sum())
    order = np.argsort(-counts[FIRST_VALUE:], kind="stable")[:_VALUES_SHOWN] + FIRST_VALUE
    names = vocabulary.names
    told = ", ".join(f"{names[i]} ({share(counts[i], total)})" for i in order if counts[i])
    kind = "" if vocabulary.is_categorical else " bins"
    return (
        f"{vocabulary.size - FIRST_VALUE:,}{kind}",
        share(counts[NONE], total),
        share(counts[UNKNOWN], total) if vocabulary.is_categorical else "",
        told,
    )
