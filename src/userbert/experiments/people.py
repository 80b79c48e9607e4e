"""Draws simulated users: their profiles, and their hidden traits and tastes.

In: a catalogue and a generator. Out: `People`, from which `behavior` draws events; `simulate`
writes their profiles and, separately, the hidden truth.

Letters: U users, N draws, T traits, W weeks.
"""

from dataclasses import dataclass

import numpy as np

from userbert.data.ragged import Bools, Float64, Int64
from userbert.experiments.catalogue import (
    AGE_BANDS,
    CLOCKS,
    EVERYWHERE,
    RHYTHMS,
    Catalogue,
    regions,
)
from userbert.experiments.ecosystem import OCCUPATIONS, RETIRED, STUDENT, Ecosystem

MISSING = -1
"""Id in place of an item that an event or a user does not have."""
FAVOURITE_SHOPS = np.array([0.45, 0.25, 0.18, 0.12])
"""Share of each of a user's four favourite shops among the events in favourite shops."""
FAVOURITE_GENRES = 3
"""Number of favourite genres of a user; all are equally likely."""
FAVOURITE_CHANNELS = 3
"""Number of favourite channels of a user; all are equally likely."""

_PEAK_YEARS = 12.0
"""Standard deviation in years of the Gaussian around a trait's `peak_age`."""


@dataclass(frozen=True)
class People:
    """The users of one block."""

    age: Int64
    """Age in years (U,)."""
    is_woman: Bools
    region: Int64
    occupation: Int64
    tenure_months: Int64
    traits: Bools
    """Whether each user has each hidden trait (U, T)."""
    intensity: Float64
    """Shares of a user's events that show each trait, summed up from the first trait on (U, T)."""
    responses: Bools
    """Whether each user responds to each service after the log's end (U, services)."""
    lifestyle: Int64
    favourite_genres: Int64
    """Favourite genres (U, FAVOURITE_GENRES)."""
    favourite_shops: Int64
    """Favourite shops (U, 4)."""
    favourite_channels: Int64
    """Favourite channels (U, FAVOURITE_CHANNELS)."""
    routine_genre: Int64
    """Genre bought every month (U,), or `MISSING`."""
    routine_day: Int64
    """Day on which the routine recurs (U,), from 0 to 29."""
    interests: Int64
    """Genre of interest in each week (U, W)."""
    visits: Float64
    """Expected visits in the long-term log after the first (U,)."""
    sessions: Float64
    """Expected sessions in the short-term log (U,)."""
    rhythm: Int64
    """Index of the rhythm of visits over days (U,), below `RHYTHMS`."""
    clock: Int64
    """Index of the clock of visits over hours (U,), below `CLOCKS`."""
    spending: Float64
    """Logarithm of the user's price level relative to the genres' typical prices (U,)."""
    mobile: Float64
    """Share of sessions on a phone (U,)."""
    spends: Float64
    """Share of point usage that spends points (U,)."""

    def __len__(self) -> int:
        """Returns the number of users."""
        return len(self.age)


def draw_people(number: int, catalogue: Catalogue, generator: np.random.Generator) -> People:
    """Draws `number` independent users."""
    ecosystem = catalogue.ecosystem
    age = np.clip(generator.normal(46, 16, number).round(), 18, 90).astype(np.int64)
    is_woman = generator.random(number) < 0.5
    region = regions(ecosystem).draw(np.zeros(number, np.int64), generator)
    traits = generator.random((number, len(ecosystem.traits))) < _sigmoid(
        trait_odds(age, is_woman, region >= ecosystem.metropolitan_regions, ecosystem)
    )
    intensity = traits * generator.exponential(ecosystem.trait_intensity, traits.shape)
    # At least half of a user's events show no trait, however many traits there are.
    intensity *= np.minimum(1, 0.5 / np.maximum(intensity.sum(axis=1, keepdims=True), 1e-9))
    band = np.minimum((age - 18) // 10, AGE_BANDS - 1)
    lifestyle = catalogue.lifestyles.draw(band + AGE_BANDS * is_woman, generator)
    favourite_genres = catalogue.genres_of_lifestyle.draw(
        np.repeat(lifestyle, FAVOURITE_GENRES), generator
    ).reshape(number, FAVOURITE_GENRES)
    favourite_shops = [
        shop_of(favourite_genres[:, rank % FAVOURITE_GENRES], region, catalogue, generator)
        for rank in range(len(FAVOURITE_SHOPS))
    ]
    has_routine = generator.random(number) < ecosystem.routine
    routine_genre = catalogue.genres_of_lifestyle.draw(lifestyle, generator)
    visit_normal, session_normal = _two_normals(number, ecosystem.activity_shared, generator)
    return People(
        age=age,
        is_woman=is_woman,
        region=region,
        occupation=_occupations(age, generator),
        tenure_months=np.minimum(generator.exponential(60, number), 240).astype(np.int64),
        traits=traits,
        intensity=np.cumsum(intensity, axis=1),
        responses=_responses(traits, ecosystem, generator),
        lifestyle=lifestyle,
        favourite_genres=favourite_genres,
        favourite_shops=np.stack(favourite_shops, axis=1),
        favourite_channels=catalogue.channels.draw(
            np.zeros(number * FAVOURITE_CHANNELS, np.int64), generator
        ).reshape(number, FAVOURITE_CHANNELS),
        routine_genre=np.where(has_routine, routine_genre, MISSING),
        routine_day=generator.integers(0, 30, number),
        interests=_interests(lifestyle, catalogue, generator),
        visits=_rates(visit_normal, ecosystem.visits - 1, ecosystem.most_visits, ecosystem),
        sessions=_rates(session_normal, ecosystem.sessions, ecosystem.most_visits / 10, ecosystem),
        rhythm=generator.integers(0, RHYTHMS, number),
        clock=generator.integers(0, CLOCKS, number),
        spending=generator.normal(0, 0.3, number),
        mobile=generator.beta(2, 1, number),
        spends=generator.beta(2, 4, number),
    )


def shop_of(
    genre: Int64, region: Int64, catalogue: Catalogue, generator: np.random.Generator
) -> Int64:
    """Draws shops (N,) that sell genres (N,) for users of regions (N,).

    A shop of another region is drawn a second time, so most shops are near or sell everywhere.
    """
    shops = catalogue.shops_of_genre.draw(genre, generator)
    shop_regions = catalogue.shop_region[shops]
    distant = np.flatnonzero((shop_regions != EVERYWHERE) & (shop_regions != region))
    shops[distant] = catalogue.shops_of_genre.draw(genre[distant], generator)
    return shops


def trait_odds(age: Int64, is_woman: Bools, is_rural: Bools, ecosystem: Ecosystem) -> Float64:
    """Returns the log-odds (U, T) of each trait given the profiles (U,)."""
    odds = [
        trait.base
        + trait.at_peak * np.exp(-0.5 * ((age - trait.peak_age) / _PEAK_YEARS) ** 2)
        + trait.woman * is_woman
        + trait.rural * is_rural
        for trait in ecosystem.traits
    ]
    return np.stack(odds, axis=1)


def response_odds(traits: Bools, ecosystem: Ecosystem) -> Float64:
    """Returns the log-odds (U, services) of a response given traits (U, T)."""
    names = [trait.name for trait in ecosystem.traits]
    odds = [
        service.base + sum(added * traits[:, names.index(name)] for name, added in service.traits)
        for service in ecosystem.services
    ]
    return np.stack(odds, axis=1)


def _responses(traits: Bools, ecosystem: Ecosystem, generator: np.random.Generator) -> Bools:
    """Draws whether each user responds to each service (U, services)."""
    odds = response_odds(traits, ecosystem)
    responds: Bools = generator.random(odds.shape) < _sigmoid(odds)
    return responds


def _occupations(age: Int64, generator: np.random.Generator) -> Int64:
    """Draws occupations (U,) by age (U,).

    Three in five users below 24 are students, and three in five from 65 on are retired; the others
    have any other occupation.
    """
    other_occupations = [
        number for number in range(len(OCCUPATIONS)) if number not in (STUDENT, RETIRED)
    ]
    occupation = generator.choice(other_occupations, len(age))
    is_typical = generator.random(len(age)) < 0.6
    occupation[is_typical & (age < 24)] = STUDENT
    occupation[is_typical & (age >= 65)] = RETIRED
    return occupation


def _interests(lifestyle: Int64, catalogue: Catalogue, generator: np.random.Generator) -> Int64:
    """Draws interests (U, W).

    With probability `interest_kept`, an interest continues from the week before. Half of the new
    interests follow the lifestyle, half the month.
    """
    weeks = catalogue.week[-1] + 1
    shape = (len(lifestyle), weeks)
    first_days = np.searchsorted(catalogue.week, np.arange(weeks))
    month = np.broadcast_to(catalogue.month[first_days], shape)
    follows_lifestyle = generator.random(shape) < 0.5
    interests = np.empty(shape, np.int64)
    interests[follows_lifestyle] = catalogue.genres_of_lifestyle.draw(
        np.broadcast_to(lifestyle[:, None], shape)[follows_lifestyle], generator
    )
    interests[~follows_lifestyle] = catalogue.genres_of_month.draw(
        month[~follows_lifestyle], generator
    )
    is_kept = generator.random(shape) < catalogue.ecosystem.interest_kept
    for week in range(1, weeks):
        interests[:, week] = np.where(is_kept[:, week], interests[:, week - 1], interests[:, week])
    return interests


def _rates(normal: Float64, mean: float, cap: float, ecosystem: Ecosystem) -> Float64:
    """Returns log-normal rates (U,) from standard normals (U,), with mean `mean` before `cap`."""
    spread = ecosystem.activity_spread
    return np.minimum(mean * np.exp(spread * normal - spread**2 / 2), cap)


def _two_normals(
    number: int, correlation: float, generator: np.random.Generator
) -> tuple[Float64, Float64]:
    """Draws `number` pairs of standard normals with a correlation, as two arrays (number,)."""
    first, independent = generator.standard_normal((2, number))
    return first, correlation * first + np.sqrt(1 - correlation**2) * independent


def _sigmoid(odds: Float64) -> Float64:
    return 1 / (1 + np.exp(-odds))
