"""`cut`: user sequences of the actions and profiles that are visible before cut-offs.

In: histories, of prepared data or of a request, and (user, cut-off) pairs. Out: a `UserBatch`, or
plain `Actions` for labels and aggregates. Both are slices of sorted actions (design, decisions 2
and 3): an action at the cut-off is not visible, and no cut moves a word boundary. Letters in
shapes: B users or pairs, N actions, A attributes, F profile fields, S segments.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import Future, SegmentBatch, UserBatch
from userbert.data.prepare.words import grid_of
from userbert.data.ragged import Float64, Int32, Int64, by_shard, list_numbers, offsets_of, ranges
from userbert.data.shards import Columns, Shard
from userbert.data.store import Histories
from userbert.data.vocabulary import Categories, Vocabulary
from userbert.schema.models import DayWords, Segment

_T = TypeVar("_T", bound=np.generic)

_FEW_USERS = 64
"""Maximum number of users for which a loop is faster than the vectorized binary search."""


@dataclass(frozen=True)
class Actions:
    """All actions of users in a time span, even outside windows or above `max_words`."""

    ids: Int32
    """(A, N): id of each attribute of each action."""
    numbers: dict[str, NDArray[np.float32]]
    """(N,) by binned attribute: raw numbers; NaN is none."""
    times: Int64
    """(N,): microseconds since 1970."""
    word_starts: NDArray[np.bool_]
    """(N,): whether a word starts at the action. The span may begin inside a word."""
    offsets: Int64
    """(B + 1,): the actions of user b are `offsets[b]:offsets[b + 1]`, oldest first."""


@dataclass(frozen=True)
class _Slices:
    """Range of a segment's rows for each of B users, in the user's shard."""

    low: Int64
    """(B,): first row."""
    high: Int64
    """(B,): row after the last; `low` if the range is empty."""
    shards: list[tuple[Columns, Int64]]
    """Columns of each shard that holds some of the users, and the indices of these users."""

    @property
    def lengths(self) -> Int64:
        """(B,): number of rows."""
        return self.high - self.low


@dataclass(frozen=True)
class _Rows:
    """N rows of one segment, in the order of users."""

    offsets: Int64
    """(B + 1,): the rows of user b are `offsets[b]:offsets[b + 1]`."""
    parts: list[tuple[Columns, Int64, Int64]]
    """Per shard: its columns, indices of rows in these columns, and places of the rows in (N,)."""

    def gather(self, values_of: Callable[[Columns], NDArray[_T]]) -> NDArray[_T]:
        """Returns the values of a column (N,)."""
        (columns, rows, _), *more = self.parts
        first = values_of(columns)
        if not more:
            return first[rows]
        gathered = np.empty(self.offsets[-1], dtype=first.dtype)
        for columns, rows, places in self.parts:
            gathered[places] = values_of(columns)[rows]
        return gathered

    def values(self, name: str) -> NDArray[Any]:
        """Returns an attribute's ids or raw numbers (N,)."""
        return self.gather(lambda columns: columns.values[name])

    @property
    def times(self) -> Int64:
        """(N,): microseconds since 1970."""
        return self.gather(lambda columns: columns.times)

    @property
    def word_starts(self) -> NDArray[np.bool_]:
        """(N,): whether a word starts at the row."""
        return self.gather(lambda columns: columns.word_start).astype(np.bool_)


def actions_between(
    data: Histories,
    segment: str,
    rows: Int64,
    start: Int64 | int | None,
    end: Int64 | int | None,
) -> Actions:
    """Returns all actions of a segment with `start` ≤ time < `end`, for the users in `rows` (B,).

    `start` and `end` are microseconds since 1970: one number for all users, or (B,). None means no
    limit.
    """
    actions = _rows(_slice(data, segment, rows, _instants(start, rows), _instants(end, rows)))
    vocabularies = data.vocabularies.segments[segment]
    numbers = {
        name: actions.values(name)
        for name, vocabulary in vocabularies.items()
        if not vocabulary.is_categorical
    }
    ids = _ids(actions, vocabularies)
    return Actions(ids, numbers, actions.times, actions.word_starts, actions.offsets)


def cut(
    data: Histories,
    rows: Int64,
    cutoffs: Int64,
    hidden: Collection[str] = (),
    until: Int64 | None = None,
) -> UserBatch:
    """Returns the user sequences of (user, cut-off) pairs, in the order of the pairs.

    `rows` and `cutoffs` are (B,). With `until` (B,), the batch's future holds what each user did
    from the cut-off to that instant; where the two are equal, the future is unknown. A segment
    whose window ends before the cut-off also ends before the first visible action of a segment with
    a later window and a common action type, so no action is in both (design, decision 8).
    """
    segments = data.schema.segments
    batches: dict[str, SegmentBatch] = {}
    begins: dict[str, Int64] = {}
    # Segments that end later come first, as they bound segments that end earlier.
    for name, segment in sorted(
        segments.items(), key=lambda item: item[1].window.to or timedelta(0)
    ):
        end = cutoffs
        if segment.window.to is not None:
            end = cutoffs - _microseconds(segment.window.to)
            for later_name, begin in begins.items():
                if set(segments[later_name].actions) & set(segment.actions):
                    end = np.minimum(end, begin)
        batches[name], begins[name] = _cut_segment(data, name, segment, rows, cutoffs, end)
    return UserBatch(
        np.arange(len(rows), dtype=np.int64),
        tuple(batches[name] for name in segments),
        profile_ids(data, rows, cutoffs, hidden),
        None if until is None else _future(data, rows, cutoffs, until),
    )


def _future(data: Histories, rows: Int64, cutoffs: Int64, until: Int64) -> Future:
    ids, offsets = [], []
    for name in data.schema.segments:
        actions = _rows(_slice(data, name, rows, cutoffs, until))
        ids.append(_ids(actions, data.vocabularies.segments[name]))
        offsets.append(actions.offsets)
    return Future(until > cutoffs, tuple(ids), tuple(offsets))


def times_within(data: Histories, rows: Int64, cutoffs: Int64, shares: Float64) -> Int64:
    """Returns the time of one action of each user (B,), at a share in [0, 1) of the user's actions.

    `shares` (B,) select among the actions before the cut-off, in the order of segments, then of
    time. A user without actions gets the cut-off.
    """
    by_segment = [_slice(data, name, rows, None, cutoffs) for name in data.schema.segments]
    lengths = np.stack([slices.lengths for slices in by_segment])  # (S, B)
    ranks = (shares * lengths.sum(axis=0)).astype(np.int64)
    times = cutoffs.copy()
    for slices, before in zip(by_segment, np.cumsum(lengths, axis=0) - lengths, strict=True):
        place = ranks - before
        for columns, where in slices.shards:
            here = where[(place[where] >= 0) & (place[where] < slices.lengths[where])]
            times[here] = columns.times[slices.low[here] + place[here]]
    return times


def profile_ids(
    data: Histories, rows: Int64, cutoffs: Int64, hidden: Collection[str] = ()
) -> Int32:
    """Returns profile ids (B, F), from each user's newest profile row before the cut-off.

    Fields in `hidden` are left out. Without a profile row, all ids are 0, none.
    """
    visible = [
        (name, vocabulary)
        for name, vocabulary in data.vocabularies.profile.items()
        if name not in hidden
    ]
    ids = np.zeros((len(rows), len(visible)), dtype=np.int32)
    for columns, known, newest in _newest_profiles(data, rows, cutoffs):
        for field, (name, vocabulary) in enumerate(visible):
            values = columns.values[name][newest]
            ids[known, field] = (
                values if isinstance(vocabulary, Categories) else vocabulary.ids(values)
            )
    return ids


def profile_numbers(data: Histories, rows: Int64, cutoffs: Int64, field: str) -> Float64:
    """Returns the raw numbers (B,) of a binned profile field; NaN is none."""
    numbers = np.full(len(rows), np.nan)
    for columns, known, newest in _newest_profiles(data, rows, cutoffs):
        numbers[known] = columns.values[field][newest]
    return numbers


def _newest_profiles(
    data: Histories, rows: Int64, cutoffs: Int64
) -> Iterator[tuple[Columns, Int64, Int64]]:
    """Yields per shard its profile rows, the users with a row before their cut-off, and these rows.

    Users are indices into `rows`. The rows, one per user, are indices into the shard's columns.
    """
    for shard, where in _by_shard(data, rows):
        columns = shard.profile
        local = rows[where] - shard.first_row
        low, high = columns.offsets[local], columns.offsets[local + 1]
        newest = _first_at_or_after(columns.times, low, high, cutoffs[where]) - 1
        known = newest >= low
        yield columns, where[known], newest[known]


def _cut_segment(  # noqa: PLR0917 - the pairs are three arrays
    data: Histories, name: str, segment: Segment, rows: Int64, cutoffs: Int64, end: Int64
) -> tuple[SegmentBatch, Int64]:
    """Returns a segment's words before `end` (B,), and the time of each user's first action (B,).

    The time is the largest int64 for a user without visible actions.
    """
    grid = grid_of(segment.words, data.schema.zone)
    start = cutoffs - _microseconds(segment.window.from_)
    if isinstance(segment.words, DayWords):
        start = grid.floor(start)
    slices = _slice(data, name, rows, start, end)
    if not isinstance(segment.words, DayWords):
        slices = _whole_words(slices)
    actions = _rows(slices)
    times, starts = actions.times, actions.word_starts
    # Slices start with a word: day words are cut on their grid, gap words were completed above.
    is_active = slices.lengths > 0
    begin = np.full(len(rows), np.iinfo(np.int64).max)
    begin[is_active] = times[actions.offsets[:-1][is_active]]

    word_first = np.flatnonzero(starts)
    word_of_action = np.cumsum(starts) - 1
    user_of_word = list_numbers(actions.offsets)[word_first]
    # A gap word that begins before the window is kept whole, at position 0.
    positions = grid.index(times[word_first]) - grid.index(start)[user_of_word]
    positions = np.maximum(positions, 0).astype(np.int32)

    keep_word = _rank_from_end(user_of_word) < segment.max_words
    keep_action = _rank_from_end(word_of_action) < segment.max_actions
    words_cut = int(np.count_nonzero(~keep_word))
    actions_cut = int(np.count_nonzero(keep_word[word_of_action] & ~keep_action))
    keep_action &= keep_word[word_of_action]
    ids = _ids(actions, data.vocabularies.segments[name])
    if words_cut or actions_cut:
        ids = ids[:, keep_action]
    per_word = np.bincount(word_of_action[keep_action], minlength=len(word_first))[keep_word]
    per_user = np.bincount(user_of_word[keep_word], minlength=len(rows))
    batch = SegmentBatch(
        name,
        ids,
        offsets_of(per_word),
        offsets_of(per_user),
        positions[keep_word],
        words_cut,
        actions_cut,
    )
    return batch, begin


def _rank_from_end(group: Int64) -> Int64:
    """Returns the number of later members of each member's group (N,). Groups are contiguous."""
    ends = np.cumsum(np.bincount(group))
    return ends[group] - 1 - np.arange(len(group)) if len(group) else np.zeros(0, np.int64)


def _slice(
    data: Histories, segment: str, rows: Int64, start: Int64 | None, end: Int64 | None
) -> _Slices:
    """Returns the slice of each user's rows with `start` ≤ time < `end`; None means no limit."""
    low, high = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    shards = []
    for shard, where in _by_shard(data, rows):
        columns = shard.segments[segment]
        local = rows[where] - shard.first_row
        first, last = columns.offsets[local], columns.offsets[local + 1]
        if end is not None:
            last = _first_at_or_after(columns.times, first, last, end[where])
        if start is not None:
            first = _first_at_or_after(columns.times, first, last, start[where])
        low[where], high[where] = first, last
        shards.append((columns, where))
    return _Slices(low, high, shards)


def _whole_words(slices: _Slices) -> _Slices:
    """Extends each slice back to the start of its first word."""
    low = slices.low.copy()
    for columns, where in slices.shards:
        inside = where[slices.lengths[where] > 0]
        while len(inside := inside[columns.word_start[low[inside]] == 0]):
            low[inside] -= 1
    return replace(slices, low=low)


def _rows(slices: _Slices) -> _Rows:
    """Returns the rows of all slices, user after user."""
    offsets = offsets_of(slices.lengths)
    parts = []
    for columns, where in slices.shards:
        lengths = slices.lengths[where]
        places = ranges(offsets[:-1][where], lengths)
        parts.append((columns, ranges(slices.low[where], lengths), places))
    return _Rows(offsets, parts)


def _ids(rows: _Rows, vocabularies: Mapping[str, Vocabulary]) -> Int32:
    """Returns the ids of all attributes (A, N); bins numbers."""
    ids = np.empty((len(vocabularies), int(rows.offsets[-1])), dtype=np.int32)
    for attribute, (name, vocabulary) in enumerate(vocabularies.items()):
        values = rows.values(name)
        ids[attribute] = values if isinstance(vocabulary, Categories) else vocabulary.ids(values)
    return ids


def _by_shard(data: Histories, rows: Int64) -> Iterator[tuple[Shard, Int64]]:
    """Yields each shard that holds some of the users, and the indices of these users in `rows`."""
    for number, where in by_shard(data.first_rows, rows):
        yield data.shards[number], where


def _first_at_or_after(times: Int64, low: Int64, high: Int64, instants: Int64) -> Int64:
    """Returns, by slice `low:high`, the first row at or after the slice's instant, else `high`."""
    if len(low) <= _FEW_USERS:
        rows = [
            first + times[first:last].searchsorted(instant)
            for first, last, instant in zip(
                low.tolist(), high.tolist(), instants.tolist(), strict=True
            )
        ]
        return np.array(rows, np.int64)
    lengths = high - low
    for _ in range(int(lengths.max()).bit_length()):
        half = lengths >> 1
        middle = low + half
        before = (times.take(middle, mode="clip") < instants) & (lengths > 0)
        low = np.where(before, middle + 1, low)
        lengths = np.where(before, lengths - half - 1, half)
    return low


def _instants(value: Int64 | int | None, rows: Int64) -> Int64 | None:
    return None if value is None else np.broadcast_to(np.asarray(value, np.int64), rows.shape)


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
