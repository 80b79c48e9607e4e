"""Summary of prepared data for the explorer's first view, `/v1/data`.

In: `PreparedData`. Out: an `Overview`. For large data, only some shards are read and their counts
scaled up, so that the first view appears at once.
"""

from dataclasses import dataclass, replace
from datetime import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from userbert.data.prepare.words import DayGrid
from userbert.data.ragged import Int64
from userbert.data.shards import Shard
from userbert.data.store import PreparedData, read_summary
from userbert.data.vocabulary import FIRST_VALUE
from userbert.inspection.data_statistics import (
    PROFILE,
    FileRows,
    RejectedRows,
    ValueCounts,
    count_values,
    place_columns,
    rejected_rows,
    row_accounts,
    sample_shards,
    shorten_paths,
    word_counts,
)
from userbert.schema.attributes import Derived, Number
from userbert.schema.models import DayWords

_MAX_ACTIONS = 5_000_000
"""Maximum number of actions to read per segment; at least one whole shard is read."""
_MAX_ACTION_TYPES = 12
"""Maximum number of action types with separate counts, one per hue of the page."""
_OTHERS = "(others)"
"""Name of the group of all less frequent action types."""
_TOP_VALUES = 12
"""Maximum number of most frequent values to list per attribute."""
_HISTOGRAM_BARS = 30
"""Maximum number of bars of a histogram."""
_MAX_BARS = 400
"""Maximum number of days or weeks in the time chart: more days are shown as weeks, then months."""
_REJECTED_ROWS = 20
"""Maximum number of rejected rows to list as examples."""
_DAYS_SINCE_MONDAY = 3
"""Weekday of 1970-01-01, a Thursday, in days since Monday."""

Unit = Literal["day", "week", "month"]
"""Time that a bar of the time chart covers."""


@dataclass(frozen=True)
class WordsPerUser:
    """Histogram of the number of words per user, over the whole log."""

    edges: list[int]
    """Edges of n bars (n + 1,); bar i holds `edges[i] <= words < edges[i + 1]`."""
    counts: list[int]
    """Number of users per bar (n,)."""
    median: float
    p90: float
    """90th percentile."""
    max: int


@dataclass(frozen=True)
class SegmentOverview:
    """Size of a segment."""

    name: str
    by: Literal["day", "gap"]
    """Whether a word is a day, or a session that a gap ends."""
    actions: int
    words: int
    users: int
    """Number of users with a word in the segment."""
    words_per_user: WordsPerUser


@dataclass(frozen=True)
class ActionCounts:
    """Number of actions over time."""

    unit: Unit
    days: list[str]
    """Local date on which each day, week (Monday) or month (first day) starts."""
    actions: dict[str, list[int]]
    """Counts by action type, or by segment if a segment does not distinguish its action types."""
    is_sampled: bool
    """Whether the counts are scaled up from some of the shards."""


@dataclass(frozen=True)
class ValueSummary:
    """Coverage and most frequent values of an attribute or a profile field."""

    place: str
    """Name of the segment, or `profile`."""
    attribute: str
    """Name of the attribute or profile field."""
    kind: Literal["category", "number", "derived"]
    known: int
    """Number of values in the vocabulary, or number of bins of a number."""
    missing: float
    """Share of the rows without a value."""
    unknown: float
    """Share of the rows whose value is not in the vocabulary."""
    rows: int
    """Number of rows that were counted."""
    top: list[tuple[str, float]]
    """Most frequent values, each with its share of the rows."""


@dataclass(frozen=True)
class Overview:
    """Summary of prepared data; times are microseconds since 1970, shares are from 0 to 1."""

    name: str
    """Name of the data folder."""
    users: int
    first_event: int
    last_event: int
    cutoff: int
    """Default cut-off of the data."""
    timezone: str
    fit_before: int | None
    """Cut-off of the vocabularies; `None` if they were fitted on all events."""
    version: str
    """Version of userbert that wrote the data."""
    segments: list[SegmentOverview]
    days: ActionCounts
    values: list[ValueSummary]
    rows: list[FileRows]
    outside: list[tuple[str, int]]
    """Action types in no segment, each with its number of rows."""
    rejected: RejectedRows
    warnings: list[str]
    """Warnings of `prepare`."""


def overview(data: PreparedData, *, max_actions: int = _MAX_ACTIONS) -> Overview:
    """Summarizes prepared data; file names omit the folder that all files share.

    For each segment, reads the first shards with at most `max_actions` actions in total, or one
    shard.
    """
    summary, schema = read_summary(data), data.schema
    shards = {name: sample_shards(data, name, max_actions) for name in (*schema.segments, PROFILE)}
    accounts = row_accounts(summary)
    short = shorten_paths([row.file for row in accounts.files])
    files = [replace(row, file=name) for row, name in zip(accounts.files, short, strict=True)]
    short_names = dict(zip((row.file for row in accounts.files), short, strict=True))
    rejected = rejected_rows(data, _REJECTED_ROWS) or RejectedRows(0, [])
    examples = [{**row, "file": short_names.get(row["file"], "")} for row in rejected.first]
    values = [
        _value_summary(data, counts)
        for place, place_shards in shards.items()
        for counts in count_values(data, place_shards, place)
    ]
    return Overview(
        data.path.resolve().name,
        len(data),
        data.first_event,
        data.last_event,
        data.default_cutoff,
        schema.timezone,
        None if schema.fit_before is None else schema.instant(schema.fit_before),
        str(data.manifest["version"]),
        [_segment_overview(data, name, shards[name], summary) for name in schema.segments],
        _count_actions(data, shards),
        values,
        files,
        accounts.outside,
        RejectedRows(rejected.rows, examples),
        [*summary["warnings"]],
    )


def _segment_overview(
    data: PreparedData, name: str, shards: list[Shard], summary: dict[str, Any]
) -> SegmentOverview:
    words = word_counts(shards, name)
    scale = len(data) / max(len(words), 1)
    is_by_day = isinstance(data.schema.segments[name].words, DayWords)
    return SegmentOverview(
        name,
        "day" if is_by_day else "gap",
        int(summary["actions"][name]),
        int(summary["words"][name]),
        round(int(np.count_nonzero(words)) * scale),
        _histogram(words, scale),
    )


def _histogram(words: Int64, scale: float) -> WordsPerUser:
    """Makes bars of equal width up to the 99th percentile of the words per user (U,).

    The last bar also holds all users with more words. `scale` is the ratio of all users to counted
    users.
    """
    if not len(words):
        return WordsPerUser([0, 1], [0], 0.0, 0.0, 0)
    maximum, percentile_99 = int(words.max()), float(np.percentile(words, 99))
    width = max(1, -(-int(percentile_99 + 1) // _HISTOGRAM_BARS))
    edges = [*range(0, int(percentile_99) + 1, width), maximum + 1]
    counts, _ = np.histogram(words, edges)
    median, p90 = np.percentile(words, [50, 90])
    scaled = [round(int(count) * scale) for count in counts]
    return WordsPerUser(edges, scaled, float(median), float(p90), maximum)


def _value_summary(data: PreparedData, counts: ValueCounts) -> ValueSummary:
    rows = max(counts.rows, 1)
    return ValueSummary(
        counts.place,
        counts.attribute,
        _column_kind(data, counts.place, counts.attribute),
        counts.vocabulary.size - FIRST_VALUE,
        counts.missing / rows,
        counts.unknown / rows,
        counts.rows,
        [(value, count / rows) for value, count in counts.top(_TOP_VALUES)],
    )


def _column_kind(
    data: PreparedData, place: str, attribute: str
) -> Literal["category", "number", "derived"]:
    profile = data.schema.profile
    fields = {} if profile is None else profile.fields
    column = fields[attribute] if place == PROFILE else data.schema.attributes[attribute]
    if isinstance(column, Derived):
        return "derived"
    return "number" if isinstance(column, Number) else "category"


def _count_actions(data: PreparedData, shards: dict[str, list[Shard]]) -> ActionCounts:
    grid = DayGrid(data.schema.zone, time())
    first_day, last_day = grid.index(np.array([data.first_event, data.last_event])).tolist()
    unit, bars = _choose_unit(np.arange(first_day, last_day + 1))
    bar_of_day = np.cumsum(np.diff(bars, prepend=bars[0]) != 0)  # (D,)
    total: dict[str, Int64] = {}
    is_sampled = False
    for name, segment_shards in shards.items():
        if name == PROFILE:
            continue
        new_names = _uncounted(data, name, total)
        if not new_names:  # an event that is in several segments is counted once
            continue
        users_read = sum(shard.users for shard in segment_shards)
        is_sampled |= users_read < len(data)
        counts = np.zeros((len(new_names), int(bar_of_day[-1]) + 1), np.int64)
        for shard in segment_shards:
            columns = place_columns(shard, name)
            day = (grid.index(columns.times) - first_day).clip(0, last_day - first_day)
            for action, mask in enumerate(_action_masks(data, name, columns.values, new_names)):
                bar = bar_of_day[day] if mask is None else bar_of_day[day[mask]]
                counts[action] += np.bincount(bar, minlength=counts.shape[1])
        scale = len(data) / max(users_read, 1)
        total |= {
            action: np.rint(row * scale).astype(np.int64)
            for action, row in zip(new_names, counts, strict=True)
        }
    starts = np.unique(bars)
    return ActionCounts(
        unit, [str(day) for day in _dates(starts, unit)], _most_frequent(total), is_sampled
    )


def _choose_unit(days: Int64) -> tuple[Unit, Int64]:
    """Returns the unit of the bars, and the number of each day's bar, counted from 1970 (D,)."""
    if len(days) <= _MAX_BARS:
        return "day", days
    if len(days) <= _MAX_BARS * 7:
        return "week", (days + _DAYS_SINCE_MONDAY) // 7
    return "month", days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _dates(starts: Int64, unit: Unit) -> NDArray[np.datetime64]:
    if unit == "month":
        return starts.astype("datetime64[M]").astype("datetime64[D]")
    days = starts * 7 - _DAYS_SINCE_MONDAY if unit == "week" else starts
    return days.astype("datetime64[D]")


def _action_attribute(data: PreparedData, segment: str) -> str | None:
    """Returns the attribute of a segment that holds the action type; `None` if there is none."""
    for name in data.vocabularies.segments[segment]:
        attribute = data.schema.attributes[name]
        if isinstance(attribute, Derived) and attribute.of == "action":
            return name
    return None


def _uncounted(data: PreparedData, segment: str, counted: dict[str, Int64]) -> list[str]:
    """Lists the keys of `ActionCounts.actions` for a segment, without the keys in `counted`."""
    types = data.schema.segments[segment].actions
    if len(types) == 1 or _action_attribute(data, segment) is not None:
        return [name for name in types if name not in counted]
    return [] if set(types) & set(counted) else [segment]


def _action_masks(
    data: PreparedData, segment: str, values: Any, names: list[str]
) -> list[NDArray[np.bool_] | None]:
    """Returns a mask of the rows of each action type in `names`; `None` means all rows."""
    attribute = _action_attribute(data, segment)
    if attribute is None:
        return [None]
    known_names = data.vocabularies.segments[segment][attribute].names
    ids = values[attribute]
    return [
        ids == known_names.index(name) if name in known_names else np.zeros(len(ids), bool)
        for name in names
    ]


def _most_frequent(total: dict[str, Int64]) -> dict[str, list[int]]:
    """Keeps the most frequent action types, and sums all others as `_OTHERS`."""
    order = sorted(total, key=lambda name: -int(total[name].sum()))
    shown = {name: total[name].tolist() for name in order[:_MAX_ACTION_TYPES]}
    rest = [total[name] for name in order[_MAX_ACTION_TYPES:]]
    return shown | ({_OTHERS: np.sum(rest, axis=0).tolist()} if rest else {})
