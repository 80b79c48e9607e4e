"""The usual hand-made features of users: counts, recency, frequency, money, profile.

In: prepared data and (user, cut-off) pairs. Out: a sparse matrix with named columns, counted from
events before the cut-offs. Models without vectors, and models that combine counts and vectors,
read the matrix. It covers more than a network sees: all history, not only a window, and every
action of a word.

Letters in shapes: B pairs, D columns, N actions of all pairs.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import time

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from userbert.data.prepare.words import DAY_US, DayGrid
from userbert.data.ragged import Int32, Int64, list_numbers, offsets_of
from userbert.data.store import PreparedData
from userbert.data.use.sequences import Actions, actions_between, profile_ids

WINDOWS: dict[str, int | None] = {"7d": 7, "30d": 30, "90d": 90, "ever": None}
"""Length in days of each window before the cut-off over which actions are counted; `None`: all
history."""

_CHUNK_PAIRS = 50_000
"""Number of pairs counted at once, to bound memory."""


def aggregates(
    data: PreparedData, rows: Int64, cutoffs: Int64, hidden: Collection[str] = ()
) -> tuple[sparse.csr_matrix, list[str]]:
    """Returns counts of users' actions before their cut-offs (B, D) float32, and D column names.

    `rows` (B,) are the users' rows in the data, `cutoffs` (B,) microseconds since 1970. For each
    segment and window: how often each attribute had each value; actions, words and active days; the
    sum, mean and largest of each number. For each segment: days since the last and the first
    action. For each profile field that is not `hidden`: one column per value.
    """
    chunks = [
        _chunk_aggregates(
            data,
            rows[first : first + _CHUNK_PAIRS],
            cutoffs[first : first + _CHUNK_PAIRS],
            hidden,
        )
        for first in range(0, max(len(rows), 1), _CHUNK_PAIRS)
    ]
    return sparse.vstack([matrix for matrix, _ in chunks], format="csr"), chunks[0][1]


def all_history_columns(names: Sequence[str]) -> Int64:
    """Returns the indices of the columns that cover all history, chosen by the columns' `names`.

    They include recency and profile columns, which have no window.
    """
    recent = tuple(f", {window}" for window, length in WINDOWS.items() if length is not None)
    return np.flatnonzero([not name.endswith(recent) for name in names])


def _chunk_aggregates(
    data: PreparedData, rows: Int64, cutoffs: Int64, hidden: Collection[str]
) -> tuple[sparse.csr_matrix, list[str]]:
    """Returns what `aggregates` returns, without splitting the pairs."""
    blocks: list[tuple[sparse.csr_matrix, list[str]]] = []
    for segment in data.schema.segments:
        blocks += _segment_columns(data, segment, rows, cutoffs)
    blocks += _profile_columns(data, rows, cutoffs, hidden)
    matrix = sparse.hstack([block for block, _ in blocks], format="csr", dtype=np.float32)
    return matrix, [name for _, names in blocks for name in names]


def _segment_columns(
    data: PreparedData, segment: str, rows: Int64, cutoffs: Int64
) -> Iterator[tuple[sparse.csr_matrix, list[str]]]:
    """Yields blocks of columns counted from one segment's actions, with the columns' names."""
    actions = actions_between(data, segment, rows, None, cutoffs)
    users = list_numbers(actions.offsets)
    ages = cutoffs[users] - actions.times
    days = DayGrid(data.schema.zone, time()).index(actions.times)
    new_day = np.r_[True, (np.diff(days) != 0) | (np.diff(users) != 0)][: len(days)]
    for window, length in WINDOWS.items():
        in_window = np.ones(len(ages), bool) if length is None else ages <= length * DAY_US
        suffix = f", {window}"
        frequency = {
            "actions": in_window,
            "words": in_window & actions.word_starts,
            "active days": in_window & new_day,
        }
        for measure, is_counted in frequency.items():
            counts = np.bincount(users[is_counted], minlength=len(rows))
            yield _to_sparse(counts), [f"{segment} {measure}{suffix}"]
        for name, numbers in actions.numbers.items():
            amounts = _sum_mean_largest(numbers[in_window], users[in_window], len(rows))
            statistics = ("sum", "mean", "largest")
            names = [f"{segment} {name} {statistic}{suffix}" for statistic in statistics]
            yield _to_sparse(amounts), names
        for attribute, name in enumerate(data.schema.segments[segment].attributes):
            if not _is_counted_elsewhere(data, segment, name):
                vocabulary = data.vocabularies.segments[segment][name]
                counts = count_ids(
                    actions.ids[attribute], in_window, actions.offsets, vocabulary.size
                )
                yield (
                    counts,
                    [f"{segment} {name}={value}{suffix}" for value in vocabulary.names[1:]],
                )
    yield (
        _recency(data, actions, cutoffs),
        [
            f"{segment} days since the last action",
            f"{segment} days since the first action",
        ],
    )


def count_ids(
    ids: Int32,
    is_counted: NDArray[np.bool_],
    offsets: Int64,
    size: int,
    weights: NDArray[np.float32] | None = None,
) -> sparse.csr_matrix:
    """Returns how often each user's actions have each id: (B, size - 1).

    `ids` and `is_counted` (N,) have an entry per action; only actions with `is_counted` count.
    The actions of user b are `offsets[b]:offsets[b + 1]`. `size` is the vocabulary's size. Column i
    counts the id i + 1; id 0 (none) has no column. An action counts 1, or its weight in `weights`
    (N,).
    """
    is_counted = is_counted & (ids > 0)
    ends = offsets_of(is_counted)[offsets]
    columns = ids[is_counted] - 1
    values = np.ones(len(columns), np.float32) if weights is None else weights[is_counted]
    counts = sparse.csr_matrix((values, columns, ends), shape=(len(offsets) - 1, size - 1))
    counts.sum_duplicates()
    return counts


def _is_counted_elsewhere(data: PreparedData, segment: str, attribute: str) -> bool:
    """Returns whether an earlier segment already counts this attribute of these actions."""
    segments = data.schema.segments
    for earlier in list(segments)[: list(segments).index(segment)]:
        if attribute in segments[earlier].attributes and set(segments[segment].actions) <= set(
            segments[earlier].actions
        ):
            return True
    return False


def _sum_mean_largest(
    numbers: NDArray[np.float32], users: Int64, count: int
) -> NDArray[np.float64]:
    """Returns sum, mean and largest of each user's numbers, without NaN: (N,), (N,) → (count, 3).

    `users` (N,) is the user of each number, ascending; `count` is the number of users. Users
    without numbers have 0.
    """
    is_known = ~np.isnan(numbers)
    values, users = numbers[is_known].astype(np.float64), users[is_known]
    total = np.bincount(users, values, minlength=count)
    number = np.bincount(users, minlength=count)
    largest = np.zeros(count)
    present = np.flatnonzero(number)
    if len(present):
        largest[present] = np.maximum.reduceat(values, np.searchsorted(users, present))
    return np.stack([total, total / np.maximum(number, 1), largest], axis=1)


def _recency(data: PreparedData, actions: Actions, cutoffs: Int64) -> sparse.csr_matrix:
    """Returns the days since each user's last and first action (B, 2).

    Users without actions have the days since the first event of the data in both columns.
    """
    is_active = np.diff(actions.offsets) > 0
    last = np.full(len(cutoffs), data.first_event)
    first = last.copy()
    last[is_active] = actions.times[actions.offsets[1:][is_active] - 1]
    first[is_active] = actions.times[actions.offsets[:-1][is_active]]
    return _to_sparse((cutoffs[:, None] - np.stack([last, first], axis=1)) / DAY_US)


def _profile_columns(
    data: PreparedData, rows: Int64, cutoffs: Int64, hidden: Collection[str]
) -> Iterator[tuple[sparse.csr_matrix, list[str]]]:
    """Yields a block of columns per visible profile field, with the columns' names."""
    visible = [name for name in data.vocabularies.profile if name not in hidden]
    ids = profile_ids(data, rows, cutoffs, hidden)
    offsets = np.arange(len(rows) + 1)
    for field, name in enumerate(visible):
        vocabulary = data.vocabularies.profile[name]
        counts = count_ids(ids[:, field], np.ones(len(rows), bool), offsets, vocabulary.size)
        yield counts, [f"profile {name}={value}" for value in vocabulary.names[1:]]


def _to_sparse(values: NDArray[np.generic]) -> sparse.csr_matrix:
    """Converts values (B,) or (B, D) to a sparse matrix (B, 1) or (B, D)."""
    return sparse.csr_matrix(values.reshape(len(values), -1).astype(np.float32))
