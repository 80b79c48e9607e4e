"""What prepared data hold, at a glance: `/v1/data`.

In: `PreparedData`. Out: an `Overview`. Of many actions a sample is looked at, and counts of it are
brought up to all: what is asked for first must be there at once.
"""

from dataclasses import dataclass, replace
from datetime import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from userbert.data.prepare.words import DayGrid
from userbert.data.ragged import Int64
from userbert.data.shards import Shard
from userbert.data.store import PreparedData
from userbert.data.vocabulary import FIRST_VALUE
from userbert.inspection.data_statistics import (
    PROFILE,
    FileRows,
    Rejected,
    ValueCounts,
    below_common,
    columns_of,
    counts_of_values,
    read_summary,
    rejected_rows,
    row_accounts,
    some_shards,
    words_of_users,
)
from userbert.schema.attributes import Derived, Number
from userbert.schema.models import DayWords

_ACTIONS = 5_000_000
"""So many of a segment's actions are looked at, or a shard's if it has more."""
_NAMED = 12
"""Action types that are counted by their names."""
_OTHERS = "(others)"
_VALUES = 12
_BARS = 30
_MOST_DAYS = 400
"""More days are summed to weeks, more weeks to months."""
_REJECTED = 20
_MONDAY = 3
"""1970 began three days after a Monday."""

Unit = Literal["day", "week", "month"]


@dataclass(frozen=True)
class WordsPerUser:
    """How many words users have, in all of the log."""

    edges: list[int]
    """(n + 1,): bar i holds `edges[i]` up to but without `edges[i + 1]`."""
    counts: list[int]
    """(n,): users."""
    median: float
    p90: float
    max: int


@dataclass(frozen=True)
class SegmentOverview:
    """A segment."""

    name: str
    by: Literal["day", "gap"]
    actions: int
    words: int
    users: int
    """With a word."""
    words_per_user: WordsPerUser


@dataclass(frozen=True)
class Days:
    """Actions over time."""

    unit: Unit
    days: list[str]
    """Local dates: of a week the Monday, of a month the first."""
    actions: dict[str, list[int]]
    """By action type; of those that a segment does not tell apart, by its name."""
    is_sampled: bool
    """Whether they were counted of some users at random, and brought up to all."""


@dataclass(frozen=True)
class Values:
    """An attribute, or a profile field."""

    place: str
    attribute: str
    kind: Literal["category", "number", "derived"]
    known: int
    """Values, or bins."""
    missing: float
    unknown: float
    rows: int
    """So many were looked at."""
    top: list[tuple[str, float]]


@dataclass(frozen=True)
class Overview:
    """Prepared data at a glance; times are microseconds since 1970, shares 0 to 1."""

    name: str
    users: int
    first_event: int
    last_event: int
    cutoff: int
    timezone: str
    fit_before: int | None
    version: str
    segments: list[SegmentOverview]
    days: Days
    values: list[Values]
    rows: list[FileRows]
    outside: list[tuple[str, int]]
    rejected: Rejected
    warnings: list[str]


def overview(data: PreparedData) -> Overview:
    """Look at prepared data; files are told without the folder that all lie in."""
    summary, schema = read_summary(data), data.schema
    shards = {name: some_shards(data, name, _ACTIONS) for name in (*schema.segments, PROFILE)}
    accounts = row_accounts(summary)
    short = below_common([row.file for row in accounts.files])
    files = [replace(row, file=name) for row, name in zip(accounts.files, short, strict=True)]
    named = dict(zip((row.file for row in accounts.files), short, strict=True))
    aside = rejected_rows(data, _REJECTED) or Rejected(0, [])
    first = [{**row, "file": named.get(row["file"], "")} for row in aside.first]
    values = [
        _values(data, found)
        for place, some in shards.items()
        for found in counts_of_values(data, some, place)
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
        [_segment(data, name, shards[name], summary) for name in schema.segments],
        _days(data, shards),
        values,
        files,
        accounts.outside,
        Rejected(aside.rows, first),
        [*summary["warnings"]],
    )


def _segment(
    data: PreparedData, name: str, shards: list[Shard], summary: dict[str, Any]
) -> SegmentOverview:
    words = words_of_users(shards, name)
    scale = len(data) / max(len(words), 1)
    is_by_day = isinstance(data.schema.segments[name].words, DayWords)
    return SegmentOverview(
        name,
        "day" if is_by_day else "gap",
        int(summary["actions"][name]),
        int(summary["words"][name]),
        round(int(np.count_nonzero(words)) * scale),
        _spread(words, scale),
    )


def _spread(words: Int64, scale: float) -> WordsPerUser:
    """Bars of equal width, but for the last: in it are the few who have very many."""
    if not len(words):
        return WordsPerUser([0, 1], [0], 0.0, 0.0, 0)
    most, usual = int(words.max()), float(np.percentile(words, 99))
    width = max(1, -(-int(usual + 1) // _BARS))
    edges = [*range(0, int(usual) + 1, width), most + 1]
    counts, _ = np.histogram(words, edges)
    median, p90 = np.percentile(words, [50, 90])
    scaled = [round(int(count) * scale) for count in counts]
    return WordsPerUser(edges, scaled, float(median), float(p90), most)


def _values(data: PreparedData, found: ValueCounts) -> Values:
    rows = max(found.rows, 1)
    return Values(
        found.place,
        found.attribute,
        _kind(data, found.place, found.attribute),
        found.vocabulary.size - FIRST_VALUE,
        found.missing / rows,
        found.unknown / rows,
        found.rows,
        [(value, count / rows) for value, count in found.top(_VALUES)],
    )


def _kind(
    data: PreparedData, place: str, attribute: str
) -> Literal["category", "number", "derived"]:
    profile = data.schema.profile
    fields = {} if profile is None else profile.fields
    meant = fields[attribute] if place == PROFILE else data.schema.attributes[attribute]
    if isinstance(meant, Derived):
        return "derived"
    return "number" if isinstance(meant, Number) else "category"


def _days(data: PreparedData, shards: dict[str, list[Shard]]) -> Days:
    grid = DayGrid(data.schema.zone, time())
    first, last = grid.index(np.array([data.first_event, data.last_event])).tolist()
    unit, bars = _unit(np.arange(first, last + 1))
    numbers = np.cumsum(np.diff(bars, prepend=bars[0]) != 0)  # (D,): the bar of each day
    total: dict[str, Int64] = {}
    is_sampled = False
    for name, some in shards.items():
        if name == PROFILE:
            continue
        fresh = _fresh(data, name, total)
        if not fresh:  # an event that stands in several segments is counted once
            continue
        users = sum(shard.users for shard in some)
        is_sampled |= users < len(data)
        counts = np.zeros((len(fresh), int(numbers[-1]) + 1), np.int64)
        for shard in some:
            columns = columns_of(shard, name)
            day = (grid.index(columns.times) - first).clip(0, last - first)
            for action, own in enumerate(_actions(data, name, columns.values, fresh)):
                here = numbers[day] if own is None else numbers[day[own]]
                counts[action] += np.bincount(here, minlength=counts.shape[1])
        scale = len(data) / max(users, 1)
        total |= {
            action: np.rint(row * scale).astype(np.int64)
            for action, row in zip(fresh, counts, strict=True)
        }
    starts = np.unique(bars)
    return Days(unit, [str(day) for day in _dates(starts, unit)], _most(total), is_sampled)


def _unit(days: Int64) -> tuple[Unit, Int64]:
    """What is summed, and (D,) the number of each day's sum."""
    if len(days) <= _MOST_DAYS:
        return "day", days
    if len(days) <= _MOST_DAYS * 7:
        return "week", (days + _MONDAY) // 7
    return "month", days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _dates(starts: Int64, unit: Unit) -> NDArray[np.datetime64]:
    if unit == "month":
        return starts.astype("datetime64[M]").astype("datetime64[D]")
    days = starts * 7 - _MONDAY if unit == "week" else starts
    return days.astype("datetime64[D]")


def _action_of(data: PreparedData, segment: str) -> str | None:
    """The attribute that says which action type an event is; none if there is none."""
    for name in data.vocabularies.segments[segment]:
        meant = data.schema.attributes[name]
        if isinstance(meant, Derived) and meant.of == "action":
            return name
    return None


def _fresh(data: PreparedData, segment: str, counted: dict[str, Int64]) -> list[str]:
    """The names by which a segment's actions are counted that no segment before it has."""
    types = data.schema.segments[segment].actions
    if len(types) == 1 or _action_of(data, segment) is not None:
        return [name for name in types if name not in counted]
    return [] if set(types) & set(counted) else [segment]


def _actions(
    data: PreparedData, segment: str, values: Any, names: list[str]
) -> list[NDArray[np.bool_] | None]:
    """Of each name, which rows are its own; none: all."""
    attribute = _action_of(data, segment)
    if attribute is None:
        return [None]
    known = data.vocabularies.segments[segment][attribute].names
    ids = values[attribute]
    return [
        ids == known.index(name) if name in known else np.zeros(len(ids), bool) for name in names
    ]


def _most(total: dict[str, Int64]) -> dict[str, list[int]]:
    order = sorted(total, key=lambda name: -int(total[name].sum()))
    shown = {name: total[name].tolist() for name in order[:_NAMED]}
    rest = [total[name] for name in order[_NAMED:]]
    return shown | ({_OTHERS: np.sum(rest, axis=0).tolist()} if rest else {})
