"""What some users have in common against the rest, and two users with each other.

In: prepared data and rows of users. Out: `Trait`s: values of attributes and profile fields that
more of them carry than of the others, and `Shared` values. Whether a user carries a value is looked
up in what is visible at the cut-off, as models see it: numbers by their bins.

Letters in shapes: B users, K values of all places, N pairs of a user and a value of theirs.
"""

from dataclasses import dataclass

import numpy as np

from userbert.data.batches import UserBatch
from userbert.data.ragged import Float64, Int64, offsets_of, take_lists
from userbert.data.store import PreparedData
from userbert.data.use.sequences import cut
from userbert.data.vocabulary import FIRST_VALUE, Vocabulary
from userbert.inspection.data_statistics import PROFILE

_AT_ONCE = 1_000
"""Users who are cut together: their values lie in memory one action after the other."""
_PAIRS = 20_000_000
"""So many pairs of a user and a value are kept of a sample, or those of fewer users."""
_TRAITS, _SHARED = 100, 20


@dataclass(frozen=True)
class Trait:
    """A value that more of some users carry than of the others."""

    place: str
    attribute: str
    value: str
    share: float
    share_of_others: float
    lift: float
    """The one by the other, as if half a user more of each carried it."""
    users: int
    """Of those looked at, who carry it."""


@dataclass(frozen=True)
class Shared:
    """A value that two users carry."""

    place: str
    attribute: str
    value: str
    own: int
    """Actions that carry it; of a profile field one."""
    other: int
    share_of_all: float
    """Of all users, who carry it."""


@dataclass(frozen=True, eq=False)
class Named:
    """Numbers for the values of all attributes and fields."""

    columns: list[tuple[str, str, Vocabulary]]
    """Place, attribute, and what its ids mean."""
    first: Int64
    """(columns + 1,): the number of each column's id 0."""

    @classmethod
    def of(cls, data: PreparedData) -> "Named":
        """Number the values of some data."""
        known = data.vocabularies
        places = [*known.segments.items(), (PROFILE, known.profile)]
        columns = [
            (place, name, vocabulary) for place, own in places for name, vocabulary in own.items()
        ]
        sizes = [vocabulary.size for _, _, vocabulary in columns]
        return cls(columns, offsets_of(sizes))

    def __len__(self) -> int:
        """Count the values, none and unknown of each column among them."""
        return int(self.first[-1])

    def name(self, number: int) -> tuple[str, str, str]:
        """Place, attribute and value."""
        column = int(np.searchsorted(self.first, number, side="right")) - 1
        place, attribute, vocabulary = self.columns[column]
        return place, attribute, vocabulary.names[number - int(self.first[column])]

    def codes(self, batch: UserBatch) -> Int64:
        """What the users of a batch carry, action by action: user x K + value."""
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
class Carried:
    """Which values some users carry."""

    offsets: Int64
    """(B + 1,): those of user b are `offsets[b]:offsets[b + 1]`."""
    values: Int64
    """(N,): numbers of values, each once a user."""
    actions: Int64
    """(N,): how many actions carry each."""

    def __len__(self) -> int:
        """Count the users."""
        return len(self.offsets) - 1

    def users_by_value(self, users: Int64 | None, size: int) -> Int64:
        """(K,): how many of the users, by number, or of all, carry each value."""
        if users is None:
            return np.bincount(self.values, minlength=size)
        return np.bincount(self.values[take_lists(self.offsets, users)[0]], minlength=size)


def carried(
    data: PreparedData, named: Named, rows: Int64, cutoff: int, most: int = _PAIRS
) -> Carried:
    """Look up what users carry just before a cut-off; beyond `most` pairs those that come first."""
    size, kept = len(named), 0
    lengths: list[Int64] = []
    values: list[Int64] = []
    actions: list[Int64] = []
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        codes = named.codes(cut(data, some, np.full(len(some), cutoff)))
        pairs, counts = np.unique(codes, return_counts=True)
        lengths.append(np.bincount(pairs // size, minlength=len(some)))
        values.append(pairs % size)
        actions.append(counts)
        kept += len(pairs)
        if kept > most:
            break
    none = [np.zeros(0, np.int64)]
    return Carried(
        offsets_of(np.concatenate(lengths or none)),
        np.concatenate(values or none),
        np.concatenate(actions or none),
    )


def traits(named: Named, own: Int64, users: int, others: Int64, rest: int) -> list[Trait]:
    """What sets users apart, strongest first.

    Of `users` users and of `rest` others (K,) are known to carry each value. Strong is what chance
    would hardly bring about, by the likelihood ratio G² (Dunning 1993); what it would, among so
    many values, is left out.
    """
    if not users or not rest:
        return []
    shares, shares_of_others = own / users, others / rest
    strength = _g2(own, users, others, rest)
    is_seen = (own > 0) & (shares > shares_of_others)
    by_chance = 2 * np.log(max(int(np.count_nonzero(own + others)), 1))
    chosen = np.flatnonzero(is_seen & (strength > by_chance))
    order = chosen[np.argsort(-strength[chosen], kind="stable")][:_TRAITS]
    lift = ((own + 0.5) / (users + 1)) / ((others + 0.5) / (rest + 1))
    return [
        Trait(
            *named.name(number),
            float(shares[number]),
            float(shares_of_others[number]),
            float(lift[number]),
            int(own[number]),
        )
        for number in order.tolist()
    ]


def shared(named: Named, two: Carried, everybody: Int64, users: int) -> list[Shared]:
    """Values that both of two users carry, the rarest first; of `users` (K,) carry each."""
    (one, other), (many, more) = (
        np.split(part, [two.offsets[1]]) for part in (two.values, two.actions)
    )
    both, left, right = np.intersect1d(one, other, assume_unique=True, return_indices=True)
    order = np.argsort(everybody[both], kind="stable")[:_SHARED]
    return [
        Shared(
            *named.name(int(both[place])),
            int(many[left[place]]),
            int(more[right[place]]),
            min(1.0, int(everybody[both[place]]) / max(users, 1)),
        )
        for place in order.tolist()
    ]


def _g2(own: Int64, users: int, others: Int64, rest: int) -> Float64:
    """(K,): twice the log of how much likelier two shares are than one."""
    together = (own + others) / (users + rest)
    found = np.zeros(len(own))
    for seen, of in ((own, users), (others, rest)):
        for count, share in ((seen, together), (of - seen, 1 - together)):
            with np.errstate(divide="ignore", invalid="ignore"):
                term = count * np.log(count / (of * share))
            found += np.where(count > 0, term, 0.0)
    return 2 * found
