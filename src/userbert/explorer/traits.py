"""Values that set a group of users apart from the rest, and values that two users share.

In: prepared data and rows of users. Out: `Trait`s, the values of attributes and profile fields that
are more frequent in the group than among the other users; and `SharedValue`s. A user has a value if
it is visible at the cut-off, as a model sees it: numbers by their bins.

Letters in shapes: B users, K values of all attributes and fields, N (user, value) pairs.
"""

from dataclasses import dataclass

import numpy as np

from userbert.data.batches import UserBatch
from userbert.data.ragged import Float64, Int64, offsets_of, take_lists
from userbert.data.store import PreparedData
from userbert.data.use.sequences import cut
from userbert.data.vocabulary import FIRST_VALUE, Vocabulary
from userbert.inspection.data_statistics import PROFILE

_CHUNK_USERS = 1_000
"""Users whose sequences are cut at once: memory holds one entry per action."""
_MOST_PAIRS = 20_000_000
"""(user, value) pairs after which no more users are read, to bound memory."""
_MOST_TRAITS, _MOST_SHARED = 100, 20


@dataclass(frozen=True)
class Trait:
    """A value that is more frequent in a group of users than among the others."""

    place: str
    """Name of the segment, or `profile`."""
    attribute: str
    value: str
    share: float
    """Fraction of the group that has the value."""
    share_of_others: float
    lift: float
    """Ratio of the two shares, with half a user added to each count."""
    users: int
    """Users of the group that have the value."""


@dataclass(frozen=True)
class SharedValue:
    """A value that two users have in common."""

    place: str
    """Name of the segment, or `profile`."""
    attribute: str
    value: str
    own: int
    """Actions of the first user with the value; 1 for a profile field."""
    other: int
    """Actions of the second user with the value."""
    share_of_all: float
    """Fraction of all users that have the value."""


@dataclass(frozen=True, eq=False)
class ValueIndex:
    """Numbers the values of all attributes and profile fields from 0 to K - 1."""

    columns: list[tuple[str, str, Vocabulary]]
    """Place, attribute and vocabulary of each column."""
    first: Int64
    """Number of each column's id 0, then K (columns + 1,)."""

    @classmethod
    def of(cls, data: PreparedData) -> "ValueIndex":
        """Numbers the values of prepared data."""
        vocabularies = data.vocabularies
        places = [*vocabularies.segments.items(), (PROFILE, vocabularies.profile)]
        columns = [
            (place, name, vocabulary) for place, own in places for name, vocabulary in own.items()
        ]
        sizes = [vocabulary.size for _, _, vocabulary in columns]
        return cls(columns, offsets_of(sizes))

    def __len__(self) -> int:
        """Number of values K, including each column's "none" and "unknown"."""
        return int(self.first[-1])

    def name(self, number: int) -> tuple[str, str, str]:
        """Returns the place, attribute and value of a number."""
        column = int(np.searchsorted(self.first, number, side="right")) - 1
        place, attribute, vocabulary = self.columns[column]
        return place, attribute, vocabulary.names[number - int(self.first[column])]

    def codes(self, batch: UserBatch) -> Int64:
        """Returns `user * K + value` for each known value of each action and profile field."""
        parts, column, size = [], 0, len(self)
        for segment in batch.segments:
            users = segment.user_of_action * size
            for ids in segment.ids:
                is_known = ids >= FIRST_VALUE
                parts.append(users[is_known] + self.first[column] + ids[is_known])
                column += 1
        users = np.arange(len(batch)) * size
        for ids in batch.profile_ids.T:
            is_known = ids >= FIRST_VALUE
            parts.append(users[is_known] + self.first[column] + ids[is_known])
            column += 1
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class UserValues:
    """Values that each of B users has."""

    offsets: Int64
    """User b has the entries `offsets[b]:offsets[b + 1]` (B + 1,)."""
    values: Int64
    """Numbers of values, each once per user (N,)."""
    actions: Int64
    """Actions of the user with that value (N,)."""

    def __len__(self) -> int:
        """Number of users B."""
        return len(self.offsets) - 1

    def users_by_value(self, users: Int64 | None, size: int) -> Int64:
        """Returns the number of users with each value (K,), among `users`; `None`: all users."""
        if users is None:
            return np.bincount(self.values, minlength=size)
        return np.bincount(self.values[take_lists(self.offsets, users)[0]], minlength=size)


def values_of_users(
    data: PreparedData, index: ValueIndex, rows: Int64, cutoff: int, most: int = _MOST_PAIRS
) -> UserValues:
    """Collects users' values just before a cut-off; stops after a chunk that exceeds `most` pairs.

    The users that are left out are the last rows.
    """
    size, pair_count = len(index), 0
    lengths: list[Int64] = []
    values: list[Int64] = []
    actions: list[Int64] = []
    for start in range(0, len(rows), _CHUNK_USERS):
        chunk = rows[start : start + _CHUNK_USERS]
        codes = index.codes(cut(data, chunk, np.full(len(chunk), cutoff)))
        pairs, counts = np.unique(codes, return_counts=True)
        lengths.append(np.bincount(pairs // size, minlength=len(chunk)))
        values.append(pairs % size)
        actions.append(counts)
        pair_count += len(pairs)
        if pair_count > most:
            break
    empty = [np.zeros(0, np.int64)]
    return UserValues(
        offsets_of(np.concatenate(lengths or empty)),
        np.concatenate(values or empty),
        np.concatenate(actions or empty),
    )


def find_traits(index: ValueIndex, own: Int64, users: int, others: Int64, rest: int) -> list[Trait]:
    """Finds the values that set a group apart, strongest first.

    `own` (K,) counts the users of the group with each value, out of `users`; `others` (K,) counts
    the other users, out of `rest`. Strength is the likelihood ratio G² (Dunning 1993). Values are
    left out if their G² is not above the largest G² that chance gives this number of values.
    """
    if not users or not rest:
        return []
    shares, shares_of_others = own / users, others / rest
    strength = _g2(own, users, others, rest)
    is_more_frequent = (own > 0) & (shares > shares_of_others)
    by_chance = 2 * np.log(max(int(np.count_nonzero(own + others)), 1))
    chosen = np.flatnonzero(is_more_frequent & (strength > by_chance))
    order = chosen[np.argsort(-strength[chosen], kind="stable")][:_MOST_TRAITS]
    lift = ((own + 0.5) / (users + 1)) / ((others + 0.5) / (rest + 1))
    return [
        Trait(
            *index.name(number),
            float(shares[number]),
            float(shares_of_others[number]),
            float(lift[number]),
            int(own[number]),
        )
        for number in order.tolist()
    ]


def find_shared_values(
    index: ValueIndex, pair: UserValues, all_counts: Int64, users: int
) -> list[SharedValue]:
    """Finds the values that two users share, rarest first.

    `pair` holds the values of both users. `all_counts` (K,) counts the users with each value, out
    of `users`.
    """
    (first_values, second_values), (first_actions, second_actions) = (
        np.split(array, [pair.offsets[1]]) for array in (pair.values, pair.actions)
    )
    shared, in_first, in_second = np.intersect1d(
        first_values, second_values, assume_unique=True, return_indices=True
    )
    order = np.argsort(all_counts[shared], kind="stable")[:_MOST_SHARED]
    return [
        SharedValue(
            *index.name(int(shared[place])),
            int(first_actions[in_first[place]]),
            int(second_actions[in_second[place]]),
            min(1.0, int(all_counts[shared[place]]) / max(users, 1)),
        )
        for place in order.tolist()
    ]


def _g2(own: Int64, users: int, others: Int64, rest: int) -> Float64:
    """Returns twice the log-likelihood ratio of two separate shares to a common share (K,)."""
    common_share = (own + others) / (users + rest)
    log_ratio = np.zeros(len(own))
    for with_value, total in ((own, users), (others, rest)):
        for count, share in ((with_value, common_share), (total - with_value, 1 - common_share)):
            with np.errstate(divide="ignore", invalid="ignore"):
                term = count * np.log(count / (total * share))
            log_ratio += np.where(count > 0, term, 0.0)
    return 2 * log_ratio
