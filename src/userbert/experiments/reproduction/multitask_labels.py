"""Twelve labels per user for the multi-task pretraining of the paper's baselines (§4.3).

In: prepared data, (user, cut-off) pairs and label specs. Out: `MultiTaskLabels`, from behavior and
profiles before the cut-offs only. The paper says only that there are 12, which "classify the
categories of user activities such as the usage frequency of certain services or attributes like
type of occupation"; the choice is ours (docs/explanation/multitask-labels.md). Used by the
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
"""Target of a user without a known profile field, or with fields that give no labels; the loss
ignores the user."""
DAYTIMES = ("night", "morning", "afternoon", "evening")
"""Six-hour periods of the day, from midnight on."""
_BANDS = 5
"""Number of bands without `edges`: quintiles."""
_SHARES = (0.25, 0.5, 0.75)
"""Edges of the bands of a share: quarters."""
_USERS_AT_A_TIME = 50_000
"""Users whose actions are in memory at a time."""
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class MultiTaskLabels:
    """The labels of P pairs."""

    names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    """Classes of each label that at least one user has."""
    targets: Int64
    """Class indices (P, labels), or `NOT_KNOWN`."""


@dataclass(frozen=True)
class LabelActions:
    """The actions of P pairs before their cut-offs that a label reads."""

    cutoffs: Int64
    """Cut-offs (P,), microseconds since 1970."""
    users: Int64
    """Index of the pair of each action (N,), from 0 to P - 1, rising."""
    times: Int64
    """Times (N,), microseconds since 1970, rising for each user."""
    words: Int64
    """Index of the word of each action (N,), rising; no word has two users."""
    ids: Int32
    """Ids (N,) of the label's attribute; `UNKNOWN` if the label has no attribute."""
    amounts: Float64
    """Values (N,) of a numeric attribute, else nan."""
    zone: ZoneInfo
    """Time zone of the schema."""

    def sums(self, values: NDArray[Any] | None = None) -> Float64:
        """Returns the sum of values (N,) per user (P,); without values, the number of actions."""
        return np.bincount(self.users, values, minlength=len(self.cutoffs)).astype(np.float64)


Measure = Callable[[LabelActions], Float64]
"""Returns a number per user (P,); nan for users without actions to compute it from."""


@dataclass(frozen=True)
class ProfileField:
    """Label: the value of a profile field."""

    name: str


@dataclass(frozen=True)
class FavouriteValue:
    """Label: the user's most frequent value of an attribute.

    It is "other" if the value is not among the `top` most common values of all users.
    """

    name: str
    segment: str
    attribute: str
    top: int


@dataclass(frozen=True)
class Daytime:
    """Label: the quarter of the local day with the most actions that have an attribute."""

    name: str
    segment: str
    attribute: str


@dataclass(frozen=True)
class BandedNumber:
    """Label: the band of a number, between `edges`, or between quintiles of the users."""

    name: str
    segment: str
    measure: Measure
    attribute: str | None = None
    """Only actions that have this attribute count."""
    value: str | None = None
    """Only actions with this value of the attribute count."""
    edges: tuple[float, ...] | None = None


Spec = ProfileField | FavouriteValue | Daytime | BandedNumber
"""How a label is made."""


def actions(history: LabelActions) -> Float64:
    """Returns the number of actions."""
    return history.sums()


def words(history: LabelActions) -> Float64:
    """Returns the number of words, such as days or sessions."""
    return history.sums(np.diff(history.words, prepend=-1) != 0)


def total(history: LabelActions) -> Float64:
    """Returns the sum of a numeric attribute."""
    return history.sums(np.nan_to_num(history.amounts))


def total_per_word(history: LabelActions) -> Float64:
    """Returns the mean over words of a numeric attribute's sum per word."""
    return _ratio(total(history), words(history))


def days_since_last_action(history: LabelActions) -> Float64:
    """Returns the days from the last action to the cut-off."""
    last = np.full(len(history.cutoffs), np.nan)
    # With repeated indices numpy keeps the last assignment, and times rise within a user.
    last[history.users] = history.times
    days: Float64 = (history.cutoffs - last) / DAY_US
    return days


def weekend_share(history: LabelActions) -> Float64:
    """Returns the share of actions on Saturdays and Sundays, local time."""
    # Day 0, 1 January 1970, was a Thursday.
    weekday = (DayGrid(history.zone, time()).index(history.times) + 3) % 7
    return _ratio(history.sums(weekday >= 5), history.sums())


def top_share(history: LabelActions) -> Float64:
    """Returns the share of actions that have the user's most frequent value."""
    _, counts = _favourites(history)
    return _ratio(counts, history.sums())


SIMULATED: tuple[Spec, ...] = (
    ProfileField("occupation"),
    FavouriteValue("usage type", "long_term", "usage_type", 4),
    FavouriteValue("channel", "long_term", "channel", 20),
    FavouriteValue("genre", "long_term", "genre", 50),
    BandedNumber("purchases", "long_term", actions, "expense"),
    BandedNumber("spend", "long_term", total, "expense"),
    BandedNumber("point usages", "long_term", actions, "usage_type"),
    BandedNumber("days since the last event", "long_term", days_since_last_action),
    Daytime("time of day", "long_term", "hour"),
    BandedNumber("weekend share", "long_term", weekend_share, edges=_SHARES),
    BandedNumber("sessions", "short_term", words, edges=(1, 2, 4)),
    FavouriteValue("device", "short_term", "device", 2),
)
"""Labels of the simulated ecosystem, on its own schema."""

COMPLETE_JOURNEY: tuple[Spec, ...] = (
    ProfileField("marital_status"),
    ProfileField("home_ownership"),
    FavouriteValue("category", "short_term", "category", 20),
    FavouriteValue("store", "short_term", "shop", 20),
    BandedNumber("store loyalty", "short_term", top_share, "shop", edges=_SHARES),
    BandedNumber("baskets", "short_term", words),
    BandedNumber("spend", "short_term", total, "expense"),
    BandedNumber("spend a basket", "short_term", total_per_word, "expense"),
    BandedNumber("redemptions", "long_term", actions, "action", "redemption", edges=(1, 2, 5)),
    BandedNumber("days since the last basket", "short_term", days_since_last_action),
    Daytime("time of day", "short_term", "hour"),
    BandedNumber("weekend share", "short_term", weekend_share, edges=_SHARES),
)
"""Labels of Complete Journey, on the demo's schema; its short-term segment has all purchases."""


def multitask_labels(
    data: PreparedData,
    pairs: Pairs,
    specs: Sequence[Spec],
    silent: NDArray[np.bool_] | None = None,
    *,
    users_at_a_time: int = _USERS_AT_A_TIME,
) -> MultiTaskLabels:
    """Labels each pair with one class per spec, from the window before its cut-off.

    Quintiles are computed from these pairs. The most common values come from the vocabulary, which
    is fitted before `fit_before`. Users without actions that a label reads have the class "none".
    Profile fields of the users in the mask `silent` (P,) give no labels: a network could memorize
    them, which leaks the labels of test users. Actions of `users_at_a_time` users are in memory at
    a time. Raises `InputError` for a label with one class, from which nothing can be learned.
    """
    chunks = [
        _measure_all(data, Pairs(pairs.rows[chunk], pairs.cutoffs[chunk]), specs)
        for first in range(0, max(len(pairs), 1), users_at_a_time)
        for chunk in [slice(first, first + users_at_a_time)]
    ]
    classes, targets = [], []
    for spec, values in zip(specs, zip(*chunks, strict=True), strict=True):
        present, numbers = _drop_empty(*_classes(data, spec, np.concatenate(values)))
        if len(present) < 2:
            raise InputError(
                f"{data.path}: the label {spec.name!r} has fewer than two classes among "
                f"{len(pairs)} users. Use more users, or another label."
            )
        classes.append(present)
        targets.append(numbers)
    names = tuple(spec.name for spec in specs)
    labels = MultiTaskLabels(names, tuple(classes), np.stack(targets, axis=1))
    if silent is not None:
        fields = np.array([isinstance(spec, ProfileField) for spec in specs])
        labels.targets[silent[:, None] & fields] = NOT_KNOWN
    return labels


def _measure_all(data: PreparedData, pairs: Pairs, specs: Sequence[Spec]) -> list[NDArray[Any]]:
    """Returns an array (P,) per spec.

    It holds ids of a field or value, daytimes from 1 on (0: none), or numbers (nan: none).
    """
    segments = {spec.segment for spec in specs if not isinstance(spec, ProfileField)}
    # Labels look back no further than the networks do, so that they can be learned.
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
    """Returns the array (P,) of one spec; `histories` are actions by segment."""
    if isinstance(spec, ProfileField):
        other_fields = set(data.vocabularies.profile) - {spec.name}
        return profile_ids(data, pairs.rows, pairs.cutoffs, other_fields)[:, 0]
    label_actions = _actions_of(data, pairs, spec, histories[spec.segment])
    if isinstance(spec, FavouriteValue):
        return _favourites(label_actions)[0]
    if isinstance(spec, Daytime):
        return _daytimes(label_actions)
    return spec.measure(label_actions)


def _actions_of(
    data: PreparedData,
    pairs: Pairs,
    spec: FavouriteValue | Daytime | BandedNumber,
    history: Actions,
) -> LabelActions:
    """Returns the actions of a segment that a spec reads."""
    vocabularies = data.vocabularies.segments[spec.segment]
    amounts = np.full(len(history.times), np.nan)
    ids = np.full(len(history.times), UNKNOWN, np.int32)
    if spec.attribute is not None:
        ids = history.ids[list(vocabularies).index(spec.attribute)]
        amounts = history.numbers.get(spec.attribute, amounts)
    kept = ids != NONE
    if isinstance(spec, BandedNumber) and spec.value is not None:
        assert spec.attribute is not None, "a value needs an attribute"
        kept = ids == vocabularies[spec.attribute].names.index(spec.value)
    users = list_numbers(history.offsets)
    return LabelActions(
        pairs.cutoffs,
        users[kept],
        history.times[kept],
        np.cumsum(history.word_starts)[kept],
        ids[kept],
        amounts[kept].astype(np.float64),
        data.schema.zone,
    )


def _favourites(history: LabelActions) -> tuple[Int64, Float64]:
    """Returns each user's most frequent id (P,) and the count of this id (P,).

    Of equally frequent ids, the more common id of all users is returned. Users without actions have
    0 and 0.
    """
    offsets = offsets_of(history.sums().astype(np.int64))
    all_actions = np.ones(len(history.ids), np.bool_)
    counts = count_ids(history.ids, all_actions, offsets, int(history.ids.max(initial=0)) + 1)
    distinct_ids = np.diff(counts.indptr)
    favourite = np.zeros(len(distinct_ids), np.int64)
    count = np.zeros(len(distinct_ids))
    active = np.flatnonzero(distinct_ids)
    if len(active):
        count[active] = np.maximum.reduceat(counts.data, counts.indptr[:-1][active])
        users = list_numbers(counts.indptr)
        is_best = np.flatnonzero(counts.data == count[users])
        first = is_best[np.flatnonzero(np.diff(users[is_best], prepend=-1))]
        favourite[active] = counts.indices[first] + 1
    return favourite, count


def _daytimes(history: LabelActions) -> Int64:
    """Returns 1 + the index of the daytime with the most actions (P,); 0: no action.

    Of daytimes with equally many actions, the earliest is returned.
    """
    since_midnight = history.times - DayGrid(history.zone, time()).floor(history.times)
    quarters = len(DAYTIMES)
    # A day on which summer time ends has 25 hours.
    daytime = np.minimum(since_midnight * quarters // DAY_US, quarters - 1)
    cells = np.bincount(
        history.users * quarters + daytime, minlength=len(history.cutoffs) * quarters
    )
    counts = cells.reshape(-1, quarters)
    return np.where(counts.any(axis=1), 1 + counts.argmax(axis=1), 0)


def _classes(
    data: PreparedData, spec: Spec, values: NDArray[Any]
) -> tuple[Sequence[str], NDArray[np.integer[Any]]]:
    """Returns the names of all classes of a spec, and the class index of each value (P,)."""
    if isinstance(spec, ProfileField):
        names = data.vocabularies.profile[spec.name].names[FIRST_VALUE:]
        return names, np.where(values > UNKNOWN, values - FIRST_VALUE, NOT_KNOWN)
    if isinstance(spec, Daytime):
        return ("none", *DAYTIMES), values
    if isinstance(spec, FavouriteValue):
        names = data.vocabularies.segments[spec.segment][spec.attribute].names[FIRST_VALUE:]
        names = ["none", *names[: spec.top], "other"]
        is_common = (values > UNKNOWN) & (values < FIRST_VALUE + spec.top)
        class_index = np.where(is_common, values - UNKNOWN, len(names) - 1)
        return names, np.where(values == NONE, 0, class_index)
    bins = _bands(values) if spec.edges is None else Bins(spec.edges)
    names = ["none", *bins.names[FIRST_VALUE:]]
    return names, np.maximum(bins.ids(values.astype(np.float32)) - UNKNOWN, 0)


def _bands(numbers: Float64) -> Bins:
    """Returns `_BANDS` bands with equal shares of the numbers."""
    counts = pl.DataFrame({"value": numbers.astype(np.float32)}).group_by("value").len("count")
    return Bins.fit(counts, _BANDS)


def _drop_empty(
    names: Collection[str], numbers: NDArray[np.integer[Any]]
) -> tuple[tuple[str, ...], Int64]:
    """Drops the classes without users; returns the other names, and new class indices (P,)."""
    counts = np.bincount(numbers[numbers != NOT_KNOWN], minlength=len(names))
    new_index = np.where(counts > 0, np.cumsum(counts > 0) - 1, NOT_KNOWN)
    kept = tuple(name for name, count in zip(names, counts, strict=True) if count)
    return kept, np.where(numbers == NOT_KNOWN, NOT_KNOWN, new_index[numbers]).astype(np.int64)


def _ratio(numerator: Float64, denominator: Float64) -> Float64:
    """Returns `numerator / denominator`, nan where `denominator` is 0."""
    ratio: Float64 = np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0
    )
    return ratio
