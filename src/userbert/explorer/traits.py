"""Values that set a group of users apart from the rest, and values that two users share.

In: prepared data and rows of users. Out: `Trait`s, the values of attributes and profile fields that
are more frequent in the group than among the other users; and `SharedValue`s, the values that two
users have in common. A user has the values that a model sees at the cut-off, in actions and in the
profile; the value of a number is its bin.

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
"""Number of users whose sequences are cut at once; memory holds an entry per action of a chunk."""
_MAX_PAIRS = 20_000_000
"""Number of (user, value) pairs above which no more users are read: about 320 MB."""
_MAX_TRAITS = 100
"""Maximum number of traits in an answer, the strongest."""
_MAX_SHARED_VALUES = 20
"""Maximum number of shared values in an answer, the rarest."""


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
    """Fraction of the other users that have the value."""
    lift: float
    """Ratio of the two shares, with half a user added to each count and one to each total."""
    users: int
    """Number of users of the group that have the value."""


@dataclass(frozen=True)
class SharedValue:
    """A value that two users have in common."""

    place: str
    """Name of the segment, or `profile`."""
    attribute: str
    value: str
    own: int
    """Number of the first user's actions with the value; 1 for a profile field."""
    other: int
    """Number of the second user's actions with the value; 1 for a profile field."""
    share_of_all: float
    """Fraction of all compared users that have the value."""


@dataclass(frozen=True, eq=False)
class ValueIndex:
    """Numbers the values of all attributes and profile fields from 0 to K - 1."""

    columns: list[tuple[str, str, Vocabulary]]
    """Segment (or `profile`), attribute and vocabulary of each column."""
    offsets: Int64
    """(columns + 1,): number of each column's id 0, then K."""

    @classmethod
    def of(cls, data: PreparedData) -> "ValueIndex":
        """Numbers the values of prepared data."""
        vocabularies = data.vocabularies
        segments = [*vocabularies.segments.items(), (PROFILE, vocabularies.profile)]
        columns = [
            (segment, name, vocabulary)
            for segment, attributes in segments
            for name, vocabulary in attributes.items()
        ]
        sizes = [vocabulary.size for _, _, vocabulary in columns]
        return cls(columns, offsets_of(sizes))

    def __len__(self) -> int:
        """Returns the number of values K, including each column's "none" and "unknown"."""
        return int(self.offsets[-1])

    def name(self, number: int) -> tuple[str, str, str]:
        """Returns the segment (or `profile`), attribute and value with a number."""
        column = int(np.searchsorted(self.offsets, number, side="right")) - 1
        segment, attribute, vocabulary = self.columns[column]
        return segment, attribute, vocabulary.names[number - int(self.offsets[column])]

    def codes(self, batch: UserBatch) -> Int64:
        """Returns `user * K + value` for each known value of each action and profile field."""
        codes, column, size = [], 0, len(self)
        for segment in batch.segments:
            users = segment.user_of_action * size
            for ids in segment.ids:
                is_known = ids >= FIRST_VALUE
                codes.append(users[is_known] + self.offsets[column] + ids[is_known])
                column += 1
        users = np.arange(len(batch)) * size
        for ids in batch.profile_ids.T:
            is_known = ids >= FIRST_VALUE
            codes.append(users[is_known] + self.offsets[column] + ids[is_known])
            column += 1
        return np.concatenate(codes) if codes else np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class UserValues:
    """Values that each of B users has."""

    offsets: Int64
    """(B + 1,): user b has the entries `offsets[b]:offsets[b + 1]` of `values` and `actions`."""
    values: Int64
    """(N,): values by their number in `ValueIndex`, each once per user."""
    actions: Int64
    """(N,): number of the user's actions with each value; 1 for a profile field."""

    def __len__(self) -> int:
        """Returns the number of users B."""
        return len(self.offsets) - 1

    def users_by_value(self, users: Int64 | None, size: int) -> Int64:
        """Returns the number of users with each value (K,), among `users`; `None`: all users."""
        if users is None:
            return np.bincount(self.values, minlength=size)
        return np.bincount(self.values[take_lists(self.offsets, users)[0]], minlength=size)


def values_of_users(
    data: PreparedData, index: ValueIndex, rows: Int64, cutoff: int, max_pairs: int = _MAX_PAIRS
) -> UserValues:
    """Collects the values of users just before a cut-off, in chunks of rows.

    Stops after the chunk at which the total exceeds `max_pairs` (user, value) pairs; the result
    then has only the users of the first rows.
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
        if pair_count > max_pairs:
            break
    empty = [np.zeros(0, np.int64)]
    return UserValues(
        offsets_of(np.concatenate(lengths or empty)),
        np.concatenate(values or empty),
        np.concatenate(actions or empty),
    )


def find_traits(
    index: ValueIndex, group_counts: Int64, group_size: int, other_counts: Int64, other_size: int
) -> list[Trait]:
    """Finds the values that set a group apart, strongest first.

    `group_counts` (K,) are the numbers of users of the group with each value, out of `group_size`
    users; `other_counts` (K,) and `other_size` count the other users. Strength is the likelihood
    ratio G² (Dunning 1993). Leaves out values with G² ≤ 2 ln V, about the largest of V values by
    chance; V is the number of values that occur.
    """
    if not group_size or not other_size:
        return []
    shares, shares_of_others = group_counts / group_size, other_counts / other_size
    strength = _g2(group_counts, group_size, other_counts, other_size)
    is_more_frequent = (group_counts > 0) & (shares > shares_of_others)
    threshold = 2 * np.log(max(int(np.count_nonzero(group_counts + other_counts)), 1))
    is_trait = is_more_frequent & (strength > threshold)
    numbers = np.flatnonzero(is_trait)
    order = numbers[np.argsort(-strength[numbers], kind="stable")][:_MAX_TRAITS]
    lift = ((group_counts + 0.5) / (group_size + 1)) / ((other_counts + 0.5) / (other_size + 1))
    return [
        Trait(
            *index.name(number),
            float(shares[number]),
            float(shares_of_others[number]),
            float(lift[number]),
            int(group_counts[number]),
        )
        for number in order.tolist()
    ]


def find_shared_values(
    index: ValueIndex, pair: UserValues, all_counts: Int64, users: int
) -> list[SharedValue]:
    """Finds the values that two users share, rarest first.

    `pair` holds the values of both users. `all_counts` (K,) are the numbers of users with each
    value, out of `users`.
    """
    (first_values, second_values), (first_actions, second_actions) = (
        np.split(array, [pair.offsets[1]]) for array in (pair.values, pair.actions)
    )
    shared, in_first, in_second = np.intersect1d(
        first_values, second_values, assume_unique=True, return_indices=True
    )
    order = np.argsort(all_counts[shared], kind="stable")[:_MAX_SHARED_VALUES]
    return [
        SharedValue(
            *index.name(int(shared[entry])),
            int(first_actions[in_first[entry]]),
            int(second_actions[in_second[entry]]),
            int(all_counts[shared[entry]]) / max(users, 1),
        )
        for entry in order.tolist()
    ]


def _g2(group_counts: Int64, group_size: int, other_counts: Int64, other_size: int) -> Float64:
    """Returns twice the log-likelihood ratio of two separate shares to a common share (K,)."""
    common_share = (group_counts + other_counts) / (group_size + other_size)
    log_ratio = np.zeros(len(group_counts))
    for with_value, total in ((group_counts, group_size), (other_counts, other_size)):
        for count, share in ((with_value, common_share), (total - with_value, 1 - common_share)):
            with np.errstate(divide="ignore", invalid="ignore"):
                term = count * np.log(count / (total * share))
            log_ratio += np.where(count > 0, term, 0.0)
    return 2 * log_ratio
