"""What is inside prepared data: what was read and what of it is used, words, values.

In: `PreparedData`. Out: rich tables. Words are counted of all users; values of at most so many
actions, of users at random, as shards are ranges of a hash.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from userbert.data.store import PreparedData
from userbert.data.vocabulary import FIRST_VALUE
from userbert.inspection.data_statistics import (
    PROFILE,
    ValueCounts,
    columns_of,
    counts_of_values,
    read_summary,
    rejected_rows,
    row_accounts,
    some_shards,
    words_of_users,
)
from userbert.inspection.layout import (
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
_COUNTS = ("read", "used", "in no segment", "duplicates", "set aside")
"""What becomes of rows, as people read it."""


def describe_data(data: PreparedData) -> RenderableType:
    """Lay out prepared data."""
    data.verify()
    summary = read_summary(data)
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
    words = {name: words_of_users(data.shards, name) for name in data.schema.segments}
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
    rows = table("Rows", "file", *_COUNTS)
    accounts = row_accounts(summary)
    for one in accounts.files:
        counts = (one.read, one.used, one.outside_segments, one.duplicates, one.quarantined)
        rows.add_row(Text(one.file), *(f"{count:,}" for count in counts))
    found: list[RenderableType] = [rows]
    if accounts.outside:
        most = accounts.outside[:_VALUES_SHOWN]
        told = ", ".join(f"{action} ({count:,})" for action, count in most)
        found.append(Text(f"in no segment, by their action: {told}"))
    rejected = rejected_rows(data, _REASONS_SHOWN)
    if rejected is not None:
        shown = ("file", "row", "reason")
        aside = table(f"Rows set aside: {rejected.rows:,}, the first of them", *shown)
        for row in rejected.first:
            aside.add_row(*(Text(str(row.get(name, ""))) for name in shown))
        found.append(aside)
    return found


def _vocabularies(data: PreparedData) -> list[RenderableType]:
    """How many values are known, and how much of the actions they make up."""
    made = table("Values", "where", "attribute", "known", "missing", "unknown", "the most frequent")
    notes = []
    for place in (*data.vocabularies.segments, PROFILE):
        shards = some_shards(data, place, _ACTIONS)
        for found in counts_of_values(data, shards, place):
            made.add_row(place, found.attribute, *_coverage(found))
        looked_at, total = (
            sum(len(columns_of(shard, place).times) for shard in some)
            for some in (shards, data.shards)
        )
        if looked_at < total and place != PROFILE:
            notes.append(
                f"values of {place}: of {looked_at:,} of its {total:,} actions, of users at random"
            )
    return [made, *notes]


def _coverage(found: ValueCounts) -> tuple[str, str, str, str]:
    """Known values, the shares of rows without one and of unknown ones, and those most seen."""
    total, is_category = found.rows, found.vocabulary.is_categorical
    told = ", ".join(f"{name} ({share(count, total)})" for name, count in found.top(_VALUES_SHOWN))
    return (
        f"{found.vocabulary.size - FIRST_VALUE:,}{'' if is_category else ' bins'}",
        share(found.missing, total),
        share(found.unknown, total) if is_category else "",
        told,
    )
