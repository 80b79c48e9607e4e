"""Tables that describe prepared data: users, files and their rows, words, values.

In: `PreparedData`. Out: rich tables. Words are counted over all users. Values are counted over a
limited number of actions, of random users.
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
    count_values,
    place_columns,
    read_summary,
    rejected_rows,
    row_accounts,
    sample_shards,
    word_counts,
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
_MAX_ACTIONS = 10_000_000
"""Actions of a segment in which values are counted, at most; one shard is always counted."""
_ROW_HEADINGS = ("read", "used", "in no segment", "duplicates", "set aside")


def describe_data(data: PreparedData) -> RenderableType:
    """Describe prepared data; raise an error if they are damaged."""
    data.verify()
    summary = read_summary(data)
    size = sum(file.stat().st_size for file in data.path.rglob("*") if file.is_file())
    days = (data.last_event - data.first_event) / 86_400e6
    card = facts(
        f"Prepared data {data.path}",
        {
            "users": f"{len(data):,}",
            "first event": local(data, data.first_event),
            "last event": f"{local(data, data.last_event)}, {days:,.0f} days later",
            "values counted before": str(data.schema.fit_before or "(all events)"),
            "forgotten": _forgotten(summary),
            "files": f"{size / 1e6:,.1f} MB, checksums correct",
            "written by": f"userbert {data.manifest['version']}",
        },
    )
    segments = table("Segments", "segment", "actions", "words", "actions per word", "users")
    words = {name: word_counts(data.shards, name) for name in data.schema.segments}
    for name, counts in words.items():
        actions, total = summary["actions"][name], summary["words"][name]
        users = share(int(np.count_nonzero(counts)), len(counts))
        per_word = f"{actions / max(total, 1):.1f}"
        segments.add_row(name, f"{actions:,}", f"{total:,}", per_word, users)
    spread = table("Words per user, over the whole log", "segment", *HEADINGS)
    for name, counts in words.items():
        spread.add_row(name, *quantiles(counts))
    # The long-term segment if there is one: only it covers the whole history.
    first = next(iter(words))
    return Group(
        card,
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
    """Return tables of used and unused rows of each file, with the reasons."""
    rows = table("Rows", "file", *_ROW_HEADINGS)
    accounts = row_accounts(summary)
    for file in accounts.files:
        counts = (
            file.read, file.used, file.outside_segments, file.duplicates, file.quarantined,
        )  # fmt: skip
        rows.add_row(Text(file.file), *(f"{count:,}" for count in counts))
    parts: list[RenderableType] = [rows]
    if accounts.outside:
        frequent = accounts.outside[:_VALUES_SHOWN]
        actions = ", ".join(f"{action} ({count:,})" for action, count in frequent)
        parts.append(Text(f"action types in no segment: {actions}"))
    rejected = rejected_rows(data, _REASONS_SHOWN)
    if rejected is not None:
        columns = ("file", "row", "reason")
        examples = table(f"Rows set aside: {rejected.rows:,}; the first are", *columns)
        for row in rejected.first:
            examples.add_row(*(Text(str(row.get(name, ""))) for name in columns))
        parts.append(examples)
    return parts


def _vocabularies(data: PreparedData) -> list[RenderableType]:
    """Return a table of the values of each attribute, and how many rows have them."""
    values = table(
        "Values", "where", "attribute", "known", "missing", "unknown", "the most frequent"
    )
    notes = []
    for place in (*data.vocabularies.segments, PROFILE):
        shards = sample_shards(data, place, _MAX_ACTIONS)
        for counts in count_values(data, shards, place):
            values.add_row(place, counts.attribute, *_coverage(counts))
        counted, total = (
            sum(len(place_columns(shard, place).times) for shard in group)
            for group in (shards, data.shards)
        )
        if counted < total and place != PROFILE:
            notes.append(
                f"values of {place}: counted in {counted:,} of {total:,} actions, of random users"
            )
    return [values, *notes]


def _coverage(counts: ValueCounts) -> tuple[str, str, str, str]:
    """Return the number of known values, the shares of missing and unknown, the top values."""
    total, is_category = counts.rows, counts.vocabulary.is_categorical
    top = ", ".join(f"{name} ({share(count, total)})" for name, count in counts.top(_VALUES_SHOWN))
    return (
        f"{counts.vocabulary.size - FIRST_VALUE:,}{'' if is_category else ' bins'}",
        share(counts.missing, total),
        share(counts.unknown, total) if is_category else "",
        top,
    )
