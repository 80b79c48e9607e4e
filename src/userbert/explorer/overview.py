"""Summary of prepared data for the explorer's first view, `/v1/data`.

In: `PreparedData`. Out: an `Overview`. Large data are sampled and the counts scaled up, so that the
first view appears at once.
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

_MOST_ACTIONS = 5_000_000
"""Most actions of a segment to sample; at least one whole shard is read."""
_MOST_ACTION_TYPES = 12
"""Number of most frequent action types with counts of their own; the rest become `_OTHERS`."""
_OTHERS = "(others)"
_TOP_VALUES = 12
"""Number of most frequent values to list per attribute."""
_HISTOGRAM_BARS = 30
_MOST_BARS = 400
"""Most bars of the time chart: more days are summed by week, more weeks by month."""
_REJECTED_ROWS = 20
"""Number of rejected rows to list as examples."""
_DAYS_SINCE_MONDAY = 3
"""Weekday of 1970-01-01, a Thursday, in days since Monday."""

Unit = Literal["day", "week", "month"]


@dataclass(frozen=True)
class WordsPerUser:
    """Histogram of the number of words per user, over the whole log."""

    edges: list[int]
    """Bar i holds `edges[i] <= words < edges[i + 1]` (n + 1,)."""
    counts: list[int]
    """Users per bar (n,)."""
    median: float
    p90: float
    max: int


@dataclass(frozen=True)
class SegmentOverview:
    """Size of a segment."""

    name: str
    by: Literal["day", "gap"]
    actions: int
    words: int
    users: int
    """Users with a word in the segment."""
    words_per_user: WordsPerUser


@dataclass(frozen=True)
class ActionCounts:
    """Number of actions over time."""

    unit: Unit
    days: list[str]
    """Local dates on which each day, week (Monday) or month (first day) starts."""
    actions: dict[str, list[int]]
    """Counts by action type; by segment name where a segment does not tell its types apart."""
    is_sampled: bool
    """Whether the counts are of a random sample of users, scaled up."""


@dataclass(frozen=True)
class ValueSummary:
    """Coverage and most frequent values of an attribute or a profile field."""

    place: str
    """Name of the segment, or `profile`."""
    attribute: str
    kind: Literal["category", "number", "derived"]
    known: int
    """Number of values in the vocabulary, or of bins."""
    missing: float
    """Share of the rows without a value."""
    unknown: float
    """Share of the rows whose value is not in the vocabulary."""
    rows: int
    """Rows that were counted."""
    top: list[tuple[str, float]]
    """Most frequent values and their shares of the rows."""


@dataclass(frozen=True)
class Overview:
    """Summary of prepared data; times are microseconds since 1970, shares are from 0 to 1."""

    name: str
    users: int
    first_event: int
    last_event: int
    cutoff: int
    timezone: str
    fit_before: int | None
    version: str
    segments: list[SegmentOverview]
    days: ActionCounts
    values: list[ValueSummary]
    rows: list[FileRows]
    outside: list[tuple[str, int]]
    rejected: RejectedRows
    warnings: list[str]


def overview(data: PreparedData, *, max_actions: int = _MOST_ACTIONS) -> Overview:
    """Summarizes prepared data; file names omit the folder that all files share.

    Counts come from whole shards with at most `max_actions` actions of a segment, or one shard.
    """
    summary, schema = read_summary(data), data.schema
    shards = {name: sample_shards(data, name, max_actions) for name in (*schema.segments, PROFILE)}
    accounts = row_accounts(summary)
    short = shorten_paths([row.file for row in accounts.files])
    files = [replace(row, file=name) for row, name in zip(accounts.files, short, strict=True)]
    short_names = dict(zip((row.file for row in accounts.files), short, strict=True))
    rejected = rejected_rows(data, _REJECTED_ROWS) or RejectedRows(0, [])
    first = [{**row, "file": short_names.get(row["file"], "")} for row in rejected.first]
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
        RejectedRows(rejected.rows, first),
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
    """Makes bars of equal width up to the 99th percentile; the last bar holds all above it."""
    if not len(words):
        return WordsPerUser([0, 1], [0], 0.0, 0.0, 0)
    most, percentile_99 = int(words.max()), float(np.percentile(words, 99))
    width = max(1, -(-int(percentile_99 + 1) // _HISTOGRAM_BARS))
    edges = [*range(0, int(percentile_99) + 1, width), most + 1]
    counts, _ = np.histogram(words, edges)
    median, p90 = np.percentile(words, [50, 90])
    scaled = [round(int(count) * scale) for count in counts]
    return WordsPerUser(edges, scaled, float(median), float(p90), most)


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
    first, last = grid.index(np.array([data.first_event, data.last_event])).tolist()
    unit, bars = _choose_unit(np.arange(first, last + 1))
    bar_of_day = np.cumsum(np.diff(bars, prepend=bars[0]) != 0)  # (D,)
    total: dict[str, Int64] = {}
    is_sampled = False
    for name, segment_shards in shards.items():
        if name == PROFILE:
            continue
        new_names = _uncounted(data, name, total)
        if not new_names:  # an event that is in several segments is counted once
            continue
        users = sum(shard.users for shard in segment_shards)
        is_sampled |= users < len(data)
        counts = np.zeros((len(new_names), int(bar_of_day[-1]) + 1), np.int64)
        for shard in segment_shards:
            columns = place_columns(shard, name)
            day = (grid.index(columns.times) - first).clip(0, last - first)
            for action, mask in enumerate(_action_masks(data, name, columns.values, new_names)):
                bar = bar_of_day[day] if mask is None else bar_of_day[day[mask]]
                counts[action] += np.bincount(bar, minlength=counts.shape[1])
        scale = len(data) / max(users, 1)
        total |= {
            action: np.rint(row * scale).astype(np.int64)
            for action, row in zip(new_names, counts, strict=True)
        }
    starts = np.unique(bars)
    return ActionCounts(
        unit, [str(day) for day in _dates(starts, unit)], _most_frequent(total), is_sampled
    )


def _choose_unit(days: Int64) -> tuple[Unit, Int64]:
    """Returns the unit of the bars, and the day, week or month number of each day (D,)."""
    if len(days) <= _MOST_BARS:
        return "day", days
    if len(days) <= _MOST_BARS * 7:
        return "week", (days + _DAYS_SINCE_MONDAY) // 7
    return "month", days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _dates(starts: Int64, unit: Unit) -> NDArray[np.datetime64]:
    if unit == "month":
        return starts.astype("datetime64[M]").astype("datetime64[D]")
    days = starts * 7 - _DAYS_SINCE_MONDAY if unit == "week" else starts
    return days.astype("datetime64[D]")


def _action_attribute(data: PreparedData, segment: str) -> str | None:
    """Returns the attribute that holds an event's action type; `None` if there is none."""
    for name in data.vocabularies.segments[segment]:
        attribute = data.schema.attributes[name]
        if isinstance(attribute, Derived) and attribute.of == "action":
            return name
    return None


def _uncounted(data: PreparedData, segment: str, counted: dict[str, Int64]) -> list[str]:
    """Lists the names of a segment's action counts that no earlier segment has counted."""
    types = data.schema.segments[segment].actions
    if len(types) == 1 or _action_attribute(data, segment) is not None:
        return [name for name in types if name not in counted]
    return [] if set(types) & set(counted) else [segment]


def _action_masks(
    data: PreparedData, segment: str, values: Any, names: list[str]
) -> list[NDArray[np.bool_] | None]:
    """Returns a mask of the rows of each name; `None` for all rows."""
    attribute = _action_attribute(data, segment)
    if attribute is None:
        return [None]
    known = data.vocabularies.segments[segment][attribute].names
    ids = values[attribute]
    return [
        ids == known.index(name) if name in known else np.zeros(len(ids), bool) for name in names
    ]


def _most_frequent(total: dict[str, Int64]) -> dict[str, list[int]]:
    order = sorted(total, key=lambda name: -int(total[name].sum()))
    shown = {name: total[name].tolist() for name in order[:_MOST_ACTION_TYPES]}
    rest = [total[name] for name in order[_MOST_ACTION_TYPES:]]
    return shown | ({_OTHERS: np.sum(rest, axis=0).tolist()} if rest else {})
