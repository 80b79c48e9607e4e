"""Tables that describe prepared data: users, files and their rows, words, values.

In: `PreparedData`. Out: rich tables. Words are counted for all users. Values are counted in a
limited number of actions of random users.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from userbert.data.store import PreparedData, read_summary
from userbert.data.vocabulary import FIRST_VALUE
from userbert.inspection.data_statistics import (
    PROFILE,
    ValueCounts,
    count_values,
    place_columns,
    rejected_rows,
    row_accounts,
    sample_shards,
    word_counts,
)
from userbert.inspection.layout import (
    HEADINGS,
    counts_as_bars,
    fact_table,
    local_time,
    quantiles,
    share,
    table,
)

_VALUES_SHOWN = 4
"""Number of most frequent values, or action types, in a cell or line."""
_REASONS_SHOWN = 3
"""Number of quarantined rows that are listed with their reasons."""
_MAX_ACTIONS = 10_000_000
"""Maximum number of actions of a segment, or of profile rows, in which values are counted, to limit
time; one shard is always counted."""
_ROW_HEADINGS = ("read", "used", "in no segment", "duplicates", "quarantined")
"""Headings of the counts of a file's rows."""


def describe_data(data: PreparedData, *, max_actions: int = _MAX_ACTIONS) -> RenderableType:
    """Describes prepared data; raises `DataError` if they are damaged.

    Values are counted in at most `max_actions` actions of each segment, but at least in one shard.
    """
    data.verify()
    summary = read_summary(data)
    size = sum(file.stat().st_size for file in data.path.rglob("*") if file.is_file())
    days = (data.last_event - data.first_event) / 86_400e6
    card = fact_table(
        f"Prepared data {data.path}",
        {
            "users": f"{len(data):,}",
            "first event": local_time(data, data.first_event),
            "last event": f"{local_time(data, data.last_event)}, {days:,.0f} days later",
            "values counted before": str(data.schema.fit_before or "(all events)"),
            "forgotten": _forgotten_text(summary),
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
    words_per_user = table("Words per user, over the whole log", "segment", *HEADINGS)
    for name, counts in words.items():
        words_per_user.add_row(name, *quantiles(counts))
    # The long-term segment if there is one: only it covers the whole history.
    first_segment = next(iter(words))
    return Group(
        card,
        *_row_tables(data, summary),
        segments,
        words_per_user,
        counts_as_bars(words[first_segment], f"{first_segment} words"),
        *_value_tables(data, max_actions),
        *(Text(f"warning: {warning}") for warning in summary["warnings"]),
    )


def _forgotten_text(summary: Mapping[str, Any]) -> str | None:
    """Returns the number of forgotten users as text; None if no user was forgotten."""
    return f"{summary['forgotten']['users']:,} users" if "forgotten" in summary else None


def _row_tables(data: PreparedData, summary: Mapping[str, Any]) -> list[RenderableType]:
    """Returns a table of used and unused rows per file, unused action types, and rejected rows."""
    rows = table("Rows", "file", *_ROW_HEADINGS)
    accounts = row_accounts(summary)
    for file in accounts.files:
        counts = (
            file.read, file.used, file.outside_segments, file.duplicates, file.quarantined,
        )  # fmt: skip
        rows.add_row(Text(file.file), *(f"{count:,}" for count in counts))
    tables: list[RenderableType] = [rows]
    if accounts.outside:
        frequent = accounts.outside[:_VALUES_SHOWN]
        actions = ", ".join(f"{action} ({count:,})" for action, count in frequent)
        tables.append(Text(f"action types in no segment: {actions}"))
    rejected = rejected_rows(data, _REASONS_SHOWN)
    if rejected is not None:
        columns = ("file", "row", "reason")
        examples = table(f"Quarantined rows: {rejected.rows:,}; the first are", *columns)
        for row in rejected.first:
            examples.add_row(*(Text(str(row.get(name, ""))) for name in columns))
        tables.append(examples)
    return tables


def _value_tables(data: PreparedData, max_actions: int) -> list[RenderableType]:
    """Returns a table of value counts per attribute, and notes on segments that were sampled."""
    values = table(
        "Values", "where", "attribute", "known", "missing", "unknown", "the most frequent"
    )
    notes = []
    for place in (*data.vocabularies.segments, PROFILE):
        shards = sample_shards(data, place, max_actions)
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
    """Returns cells: number of known values, shares of missing and unknown rows, top values."""
    total, is_category = counts.rows, counts.vocabulary.is_categorical
    top = ", ".join(f"{name} ({share(count, total)})" for name, count in counts.top(_VALUES_SHOWN))
    return (
        f"{counts.vocabulary.size - FIRST_VALUE:,}{'' if is_category else ' bins'}",
        share(counts.missing, total),
        share(counts.unknown, total) if is_category else "",
        top,
    )
