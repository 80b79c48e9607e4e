"""Twelve labels a user for the multi-task pretraining of the paper's baselines (§4.3).

In: prepared data, (user, cut-off) pairs and what to ask. Out: `MultiTaskLabels`, from behavior and
profiles before the cut-offs alone. The paper says only that there are 12, which "classify the
categories of user activities such as the usage frequency of certain services or attributes like
type of occupation"; which ones is ours (docs/explanation/multitask-labels.md). Used by the
baselines' pretraining.

Letters: P (user, cut-off) pairs, N actions.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from userbert.data.prepare.words import DAY_US, DayGrid
from userbert.data.ragged import Float64, Int32, Int64, list_numbers, offsets_of
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs
from userbert.data.use.sequences import Actions, actions_between, profile_ids
from userbert.data.vocabulary import FIRST_VALUE, NONE, UNKNOWN, Bins
from userbert.errors import InputError
from userbert.tasks.aggregates import count_ids

NOT_KNOWN = -1
"""In place of a class: the profile does not say."""
DAYTIMES = ("night", "morning", "afternoon", "evening")
"""Six hours each, from midnight on."""
_BANDS = 5
_SHARES = (0.25, 0.5, 0.75)
_USERS_AT_A_TIME = 50_000
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class MultiTaskLabels:
    """The labels of P pairs."""

    names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    """Of each label, those that occur."""
    targets: Int64
    """(P, labels): class indices; -1 where the profile does not say."""


@dataclass(frozen=True)
class Seen:
    """The actions before the cut-offs of P users that a label looks at."""

    cutoffs: Int64
    """(P,): microseconds since 1970."""
    users: Int64
    """(N,): from 0 to P - 1, rising."""
    times: Int64
    """(N,): microseconds since 1970, rising for each user."""
    words: Int64
    """(N,): by number; no word has two users."""
    ids: Int32
    """(N,): of the attribute that the label names; 1 if it names none."""
    amounts: Float64
    """(N,): of the attribute if that is a number, else nan."""
    zone: ZoneInfo

    def sums(self, values: NDArray[Any] | None = None) -> Float64:
        """(P,): by user, of values (N,); without, the number of actions."""
        return np.bincount(self.users, values, minlength=len(self.cutoffs)).astype(np.float64)


Measure = Callable[[Seen], Float64]
"""(P,): a number a user; nan where nothing was done that it could be told from."""


@dataclass(frozen=True)
class Field:
    """The value of a profile field."""

    name: str


@dataclass(frozen=True)
class Favourite:
    """The value that most actions carry, if it is one of the `top` most common of all."""

    name: str
    segment: str
    attribute: str
    top: int


@dataclass(frozen=True)
class Daytime:
    """The quarter of the local day with the most actions that carry an attribute."""

    name: str
    segment: str
    attribute: str


@dataclass(frozen=True)
class Amount:
    """A number, in bands: with these edges, or else fifths of the users."""

    name: str
    segment: str
    measure: Measure
    attribute: str | None = None
    """Only actions that carry it."""
    value: str | None = None
    """Only actions that carry this value of it."""
    edges: tuple[float, ...] | None = None


Spec = Field | Favourite | Daytime | Amount


def actions(seen: Seen) -> Float64:
    """How many actions."""
    return seen.sums()


def words(seen: Seen) -> Float64:
    """How many words, such as days or sessions."""
    return seen.sums(np.diff(seen.words, prepend=-1) != 0)


def total(seen: Seen) -> Float64:
    """The sum of the attribute."""
    return seen.sums(np.nan_to_num(seen.amounts))


def total_a_word(seen: Seen) -> Float64:
    """The mean over words of the attribute's sum in each."""
    return _ratio(total(seen), words(seen))


def days_since_the_last(seen: Seen) -> Float64:
    """Days from the last action to the cut-off."""
    last = np.full(len(seen.cutoffs), np.nan)
    # Of equal indices the last assignment stays, and each user's times rise.
    last[seen.users] = seen.times
    days: Float64 = (seen.cutoffs - last) / DAY_US
    return days


def weekend_share(seen: Seen) -> Float64:
    """The share of actions on Saturdays and Sundays, local."""
    # Day 0, 1 January 1970, was a Thursday.
    weekday = (DayGrid(seen.zone, time()).index(seen.times) + 3) % 7
    return _ratio(seen.sums(weekday >= 5), seen.sums())


def top_share(seen: Seen) -> Float64:
    """The share of actions that carry the attribute's most frequent value of the user."""
    _, most = _favourites(seen)
    return _ratio(most, seen.sums())


SIMULATED: tuple[Spec, ...] = (
    Field("occupation"),
    Favourite("usage type", "long_term", "usage_type", 4),
    Favourite("channel", "long_term", "channel", 20),
    Favourite("genre", "long_term", "genre", 50),
    Amount("purchases", "long_term", actions, "expense"),
    Amount("spend", "long_term", total, "expense"),
    Amount("point usages", "long_term", actions, "usage_type"),
    Amount("days since the last event", "long_term", days_since_the_last),
    Daytime("time of day", "long_term", "hour"),
    Amount("weekend share", "long_term", weekend_share, edges=_SHARES),
    Amount("sessions", "short_term", words, edges=(1, 2, 4)),
    Favourite("device", "short_term", "device", 2),
)
"""Of the simulated ecosystem, on its own schema."""

COMPLETE_JOURNEY: tuple[Spec, ...] = (
    Field("marital_status"),
    Field("home_ownership"),
    Favourite("category", "short_term", "category", 20),
    Favourite("store", "short_term", "shop", 20),
    Amount("store loyalty", "short_term", top_share, "shop", edges=_SHARES),
    Amount("baskets", "short_term", words),
    Amount("spend", "short_term", total, "expense"),
    Amount("spend a basket", "short_term", total_a_word, "expense"),
    Amount("redemptions", "long_term", actions, "action", "redemption", edges=(1, 2, 5)),
    Amount("days since the last basket", "short_term", days_since_the_last),
    Daytime("time of day", "short_term", "hour"),
    Amount("weekend share", "short_term", weekend_share, edges=_SHARES),
)
"""Of Complete Journey, on the demo's schema; its short-term segment has all purchases."""


def multitask_labels(
    data: PreparedData,
    pairs: Pairs,
    specs: Sequence[Spec],
    silent: NDArray[np.bool_] | None = None,
) -> MultiTaskLabels:
    """Label every pair with one class a spec, from what lies in its window before its cut-off.

    Bands are cut at quantiles of these pairs, and values are common by the vocabulary, which is
    fitted before `fit_before`. Who did nothing of the kind has the class "none". Of those who are
    `silent` (P,) no profile field is known: a network that learns them by heart would know of the
    test users of an attribute what goes with it. Raises `InputError` for a label of one class, from
    which nothing is learned.
    """
    parts = [
        _measured(data, Pairs(pairs.rows[part], pairs.cutoffs[part]), specs)
        for first in range(0, max(len(pairs), 1), _USERS_AT_A_TIME)
        for part in [slice(first, first + _USERS_AT_A_TIME)]
    ]
    classes, targets = [], []
    for spec, values in zip(specs, zip(*parts, strict=True), strict=True):
        named, numbers = _present(*_classes(data, spec, np.concatenate(values)))
        if len(named) < 2:
            raise InputError(
                f"{data.path}: the label {spec.name!r} has fewer than two classes among "
                f"{len(pairs)} users. Take more users, or another label."
            )
        classes.append(named)
        targets.append(numbers)
    names = tuple(spec.name for spec in specs)
    labels = MultiTaskLabels(names, tuple(classes), np.stack(targets, axis=1))
    if silent is not None:
        fields = np.array([isinstance(spec, Field) for spec in specs])
        labels.targets[silent[:, None] & fields] = NOT_KNOWN
    return labels


def _measured(data: PreparedData, pairs: Pairs, specs: Sequence[Spec]) -> list[NDArray[Any]]:
    """(P,) a spec: ids of a field, value or daytime (0 is none), or numbers (nan is none)."""
    segments = {spec.segment for spec in specs if not isinstance(spec, Field)}
    # No longer than the networks look back: a label must not tell what they cannot see.
    windows = {name: data.schema.segments[name].window.from_ for name in sorted(segments)}
    histories = {
        name: actions_between(
            data, name, pairs.rows, pairs.cutoffs - window // _MICROSECOND, pairs.cutoffs
        )
        for name, window in windows.items()
    }
    return [_measure(data, pairs, spec, histories) for spec in specs]


def _measure(
    data: PreparedData, pairs: Pairs, spec: Spec, histories: Mapping[str, Actions]
) -> NDArray[Any]:
    if isinstance(spec, Field):
        others = set(data.vocabularies.profile) - {spec.name}
        return profile_ids(data, pairs.rows, pairs.cutoffs, others)[:, 0]
    seen = _seen(data, pairs, spec, histories[spec.segment])
    if isinstance(spec, Favourite):
        return _favourites(seen)[0]
    if isinstance(spec, Daytime):
        return _daytimes(seen)
    return spec.measure(seen)


def _seen(
    data: PreparedData, pairs: Pairs, spec: Favourite | Daytime | Amount, history: Actions
) -> Seen:
    vocabularies = data.vocabularies.segments[spec.segment]
    amounts = np.full(len(history.times), np.nan)
    ids = np.full(len(history.times), UNKNOWN, np.int32)
    if spec.attribute is not None:
        ids = history.ids[list(vocabularies).index(spec.attribute)]
        amounts = history.numbers.get(spec.attribute, amounts)
    chosen = ids != NONE
    if isinstance(spec, Amount) and spec.value is not None:
        assert spec.attribute is not None, "a value is one of an attribute's"
        chosen = ids == vocabularies[spec.attribute].names.index(spec.value)
    users = list_numbers(history.offsets)
    return Seen(
        pairs.cutoffs,
        users[chosen],
        history.times[chosen],
        np.cumsum(history.word_starts)[chosen],
        ids[chosen],
        amounts[chosen].astype(np.float64),
        data.schema.zone,
    )


def _favourites(seen: Seen) -> tuple[Int64, Float64]:
    """(P,), (P,): each user's most frequent id, the most common of equals, and how often it is."""
    offsets = offsets_of(seen.sums().astype(np.int64))
    every = np.ones(len(seen.ids), np.bool_)
    counts = count_ids(seen.ids, every, offsets, int(seen.ids.max(initial=0)) + 1)
    of_user = np.diff(counts.indptr)
    favourite = np.zeros(len(of_user), np.int64)
    most = np.zeros(len(of_user))
    some = np.flatnonzero(of_user)
    if len(some):
        most[some] = np.maximum.reduceat(counts.data, counts.indptr[:-1][some])
        users = list_numbers(counts.indptr)
        best = np.flatnonzero(counts.data == most[users])
        first = best[np.flatnonzero(np.diff(users[best], prepend=-1))]
        favourite[some] = counts.indices[first] + 1
    return favourite, most


def _daytimes(seen: Seen) -> Int64:
    """(P,): 1 plus the daytime with the most actions, the earliest of equals; 0 is none."""
    since_midnight = seen.times - DayGrid(seen.zone, time()).floor(seen.times)
    quarters = len(DAYTIMES)
    # The day on which summer time ends has 25 hours.
    daytime = np.minimum(since_midnight * quarters // DAY_US, quarters - 1)
    cells = np.bincount(seen.users * quarters + daytime, minlength=len(seen.cutoffs) * quarters)
    counts = cells.reshape(-1, quarters)
    return np.where(counts.any(axis=1), 1 + counts.argmax(axis=1), 0)


def _classes(
    data: PreparedData, spec: Spec, values: NDArray[Any]
) -> tuple[Sequence[str], NDArray[np.integer[Any]]]:
    """The names of all classes that a spec can have, and (P,) which one each value is in."""
    if isinstance(spec, Field):
        names = data.vocabularies.profile[spec.name].names[FIRST_VALUE:]
        return names, np.where(values > UNKNOWN, values - FIRST_VALUE, NOT_KNOWN)
    if isinstance(spec, Daytime):
        return ("none", *DAYTIMES), values
    if isinstance(spec, Favourite):
        names = data.vocabularies.segments[spec.segment][spec.attribute].names[FIRST_VALUE:]
        names = ["none", *names[: spec.top], "other"]
        is_common = (values > UNKNOWN) & (values < FIRST_VALUE + spec.top)
        place = np.where(is_common, values - UNKNOWN, len(names) - 1)
        return names, np.where(values == NONE, 0, place)
    bins = _bands(values) if spec.edges is None else Bins(spec.edges)
    names = ["none", *bins.names[FIRST_VALUE:]]
    return names, np.maximum(bins.ids(values.astype(np.float32)) - UNKNOWN, 0)


def _bands(numbers: Float64) -> Bins:
    counts = pl.DataFrame({"value": numbers.astype(np.float32)}).group_by("value").len("count")
    return Bins.fit(counts, _BANDS)


def _present(
    names: Collection[str], numbers: NDArray[np.integer[Any]]
) -> tuple[tuple[str, ...], Int64]:
    """Leave out the classes that nobody is in."""
    counts = np.bincount(numbers[numbers != NOT_KNOWN], minlength=len(names))
    place = np.where(counts > 0, np.cumsum(counts > 0) - 1, NOT_KNOWN)
    kept = tuple(name for name, count in zip(names, counts, strict=True) if count)
    return kept, np.where(numbers == NOT_KNOWN, NOT_KNOWN, place[numbers]).astype(np.int64)


def _ratio(above: Float64, below: Float64) -> Float64:
    """`above / below`, nan where there is nothing below."""
    ratio: Float64 = np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
    return ratio
