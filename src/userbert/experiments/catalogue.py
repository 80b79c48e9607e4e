"""What there is to buy and where: the catalogue of the simulated ecosystem, and its calendar.

In: an `Ecosystem` and a seed. Out: a `Catalogue`, the same for all parts of a simulation. Ids are
numbers from 0; `simulate` names them. Used by `people` and `behavior`.

Letters: N draws, G genres, S shops, C channels, T traits.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import numpy as np

from userbert.data.ragged import Bools, Float64, Int64
from userbert.experiments.ecosystem import Ecosystem

RHYTHMS = 12
"""Kinds of calendar: three kinds of week, keen on campaigns or not, on pay-days or not."""
AGE_BANDS = 7
EVERYWHERE = -1
"""The region of a shop that sells everywhere."""

_WEEKS = np.array(
    [[1.0] * 7, [1.2, 1.2, 1.1, 1.1, 1.0, 0.7, 0.7], [0.6, 0.6, 0.7, 0.8, 1.0, 1.8, 1.7]]
)
"""How likely each weekday is, from Monday: even, on working days, on weekends."""
_CAMPAIGN_DAYS = (5, 10, 15, 20, 25, 30)
"""Of each month; the keen come 1.8 times as often."""
_SALE = range(60, 64)
"""Days of the log with a sale: everybody comes 1.6 times as often."""
_PAY_DAYS = (25, 26, 27, 28)
"""Of each month; those who wait for them come 1.7 times as often."""
_CLOCKS = (
    ((8, 1.5, 0.5), (12, 1.5, 0.3), (19, 2.0, 0.2)),
    ((11, 2.5, 0.6), (15, 2.0, 0.4)),
    ((12, 1.0, 0.2), (21, 1.8, 0.8)),
    ((23, 1.5, 0.7), (2, 1.5, 0.3)),
)
"""Peaks of the day as (hour, standard deviation, weight): early, by day, evening, night."""
CLOCKS = len(_CLOCKS)


@dataclass(frozen=True)
class Choices:
    """Items with weights, in groups; an item of a given group is drawn in proportion to them."""

    items: Int64
    """(M,): group after group."""
    cumulative: Float64
    """(M,): group g ends at g + 1."""
    first: Int64
    """(groups + 1,): where each group's items begin."""

    @classmethod
    def grouped(cls, groups: Int64, items: Int64, weights: Float64, number: int) -> Self:
        """Sort items into `number` groups; from a group without items none may be drawn."""
        order = np.argsort(groups, kind="stable")
        groups, weights = groups[order], weights[order]
        first = np.searchsorted(groups, np.arange(number + 1))
        sums = np.concatenate([[0.0], np.cumsum(weights)])
        within = (sums[1:] - sums[first[groups]]) / (sums[first[1:]] - sums[first[:-1]])[groups]
        return cls(items[order], groups + within, first)

    @classmethod
    def table(cls, weights: Float64) -> Self:
        """The same items for each group: `weights` (groups, items)."""
        groups, items = np.indices(weights.shape)
        return cls.grouped(groups.ravel(), items.ravel(), weights.ravel(), len(weights))

    def draw(self, groups: Int64, generator: np.random.Generator) -> Int64:
        """(N,): an item of each of `groups` (N,)."""
        # As one search over all groups, since group g's weights end at g + 1.
        found = np.searchsorted(self.cumulative, groups + generator.random(len(groups)), "right")
        # Sums that rounding left a little off must not lead into a neighbour.
        return self.items[np.clip(found, self.first[groups], self.first[groups + 1] - 1)]


@dataclass(frozen=True)
class Catalogue:
    """What all users of a simulation share."""

    ecosystem: Ecosystem
    department: Int64
    """(G,)"""
    log_price: Float64
    """(G,): of yen."""
    genres_of_department: Choices
    genres_of_month: Choices
    """By the number of the month in the log."""
    genres_of_lifestyle: Choices
    shop_genre: Int64
    """(S,): what a shop sells above all."""
    shop_region: Int64
    """(S,)"""
    shops_of_genre: Choices
    browsed_genre: Int64
    """(G,): the genre under which short-term events know it."""
    is_browsed_shop: Bools
    """(S,)"""
    browsed_shops_of_genre: Choices
    """Of browsed genres alone."""
    channels: Choices
    trait_genres: Int64
    """(T, trait_genres)"""
    trait_channels: Int64
    """(T, trait_channels)"""
    lifestyles: Choices
    """By age band and gender: band + AGE_BANDS for women."""
    month: Int64
    """(all_days,): the number of the month of each day."""
    week: Int64
    """(all_days,): the number of each day's week; a week ends with the log's last day."""
    day_of_month: Int64
    """(all_days,)"""
    hours: Choices
    """By clock."""


def build_catalogue(ecosystem: Ecosystem, seed: int) -> Catalogue:
    """Draw the catalogue; the same ecosystem and seed give the same one."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    genres, shops = np.arange(ecosystem.genres), np.arange(ecosystem.shops)
    popularity = zipf(len(genres), ecosystem)
    department = _spread(len(genres), np.ones(ecosystem.departments), generator)
    # A genre of many buyers has many shops, but not in proportion.
    shop_genre = _spread(len(shops), popularity**0.7, generator)
    shop_popularity = zipf(len(shops), ecosystem)[generator.permutation(len(shops))]
    is_local = generator.random(len(shops)) < ecosystem.local_shops
    region = regions(ecosystem).draw(np.zeros(len(shops), np.int64), generator)
    browsed_genre = _browsed_genres(department, popularity, ecosystem.browsed_genres, generator)
    is_browsed = browsed_genre[shop_genre] == shop_genre
    is_browsed &= _browsed_shops(
        shop_genre, np.where(is_browsed, shop_popularity, 0), ecosystem.browsed_shops, generator
    )
    dates = [ecosystem.first_day + timedelta(days=day) for day in range(ecosystem.all_days)]
    month = np.array([12 * day.year + day.month for day in dates])
    month_of_year = ecosystem.first_day.month + np.arange(month[-1] - month[0] + 1)[:, None]
    phase = generator.random(ecosystem.departments)[department]
    wave = ecosystem.season * np.sin(2 * np.pi * (month_of_year / 12 + phase))  # (months, G)
    affinity = generator.standard_normal((ecosystem.lifestyles, ecosystem.departments))
    liking = ecosystem.lifestyle_spread * affinity[:, department]  # (lifestyles, G)
    trait_genres = _of_traits(ecosystem, 200, 3_000, ecosystem.trait_genres, generator)
    trait_channels = _of_traits(ecosystem, 30, 300, ecosystem.trait_channels, generator)
    return Catalogue(
        ecosystem=ecosystem,
        log_price=generator.normal(7.5, 0.9, len(genres)),
        genres_of_department=Choices.grouped(department, genres, popularity, ecosystem.departments),
        department=department,
        genres_of_month=Choices.table(popularity * np.exp(wave)),
        genres_of_lifestyle=Choices.table(popularity * np.exp(liking)),
        shop_genre=shop_genre,
        shop_region=np.where(is_local, region, EVERYWHERE),
        shops_of_genre=Choices.grouped(shop_genre, shops, shop_popularity, len(genres)),
        browsed_genre=browsed_genre,
        is_browsed_shop=is_browsed,
        browsed_shops_of_genre=Choices.grouped(
            shop_genre[is_browsed], shops[is_browsed], shop_popularity[is_browsed], len(genres)
        ),
        channels=Choices.table(zipf(ecosystem.channels, ecosystem)[None]),
        trait_genres=trait_genres,
        trait_channels=trait_channels,
        lifestyles=Choices.table(
            np.exp(generator.standard_normal((AGE_BANDS * 2, ecosystem.lifestyles)))
        ),
        month=month - month[0],
        week=(np.arange(ecosystem.all_days) - ecosystem.days) // 7 + -(-ecosystem.days // 7),
        day_of_month=np.array([day.day for day in dates]),
        hours=Choices.table(_hour_weights()),
    )


def zipf(number: int, ecosystem: Ecosystem) -> Float64:
    """Weights by rank, the most popular first, with the ecosystem's exponent and offset."""
    ranks = np.arange(1, number + 1) + ecosystem.popularity_offset
    return (ranks**-ecosystem.popularity).astype(np.float64)


def regions(ecosystem: Ecosystem) -> Choices:
    """Where users and local shops are: one group, the metropolitan regions first."""
    return Choices.table(np.arange(1.0, ecosystem.regions + 1)[None] ** -0.8)


def calendar(ecosystem: Ecosystem, first: int, days: int) -> Choices:
    """Days from day `first` of the log on, by rhythm."""
    dates = [ecosystem.first_day + timedelta(days=first + day) for day in range(days)]
    weekday = np.array([date.weekday() for date in dates])
    day_of_month = np.array([date.day for date in dates])
    campaign = np.where(np.isin(day_of_month, _CAMPAIGN_DAYS), 1.8, 1.0)
    pay = np.where(np.isin(day_of_month, _PAY_DAYS), 1.7, 1.0)
    sale = np.where(np.isin(first + np.arange(days), _SALE), 1.6, 1.0)
    weights = [
        _WEEKS[week][weekday] * campaign**is_keen * pay**waits * sale
        for week in range(len(_WEEKS))
        for is_keen in (0, 1)
        for waits in (0, 1)
    ]
    return Choices.table(np.array(weights))


def _spread(members: int, weights: Float64, generator: np.random.Generator) -> Int64:
    """The group of each member, by weight, but at least one member a group."""
    groups = len(weights)
    others = Choices.table(weights[None]).draw(np.zeros(members - groups, np.int64), generator)
    return generator.permutation(np.concatenate([np.arange(groups), others]))


def _most(weights: Float64, number: int, generator: np.random.Generator) -> Bools:
    """Draw `number` without replacement, in proportion to weights."""
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + generator.gumbel(size=len(weights))
    chosen = np.zeros(len(weights), np.bool_)
    chosen[np.argsort(-keys, kind="stable")[:number]] = True
    return chosen


def _browsed_genres(
    department: Int64, popularity: Float64, number: int, generator: np.random.Generator
) -> Int64:
    """(G,): itself if it is browsed, else one of its department (or the next) that is."""
    is_browsed = _most(popularity, number, generator)
    order = np.argsort(department, kind="stable")
    candidates = order[is_browsed[order]]
    nearest = np.searchsorted(department[candidates], department)
    instead = candidates[np.minimum(nearest, number - 1)]
    return np.where(is_browsed, np.arange(len(department)), instead)


def _browsed_shops(
    shop_genre: Int64, popularity: Float64, number: int, generator: np.random.Generator
) -> Bools:
    """(S,): the most popular shop of each genre, and so many more that they are `number`."""
    order = np.lexsort((-popularity, shop_genre))
    best = order[np.flatnonzero(np.diff(shop_genre[order], prepend=-1))]
    best = best[popularity[best] > 0]
    others = popularity.copy()
    others[best] = 0
    chosen = _most(others, number - len(best), generator)
    chosen[best] = True
    return chosen


def _of_traits(
    ecosystem: Ecosystem, first: int, last: int, each: int, generator: np.random.Generator
) -> Int64:
    """(T, each): popularity ranks that show a trait, neither the top nor the tail."""
    traits = len(ecosystem.traits)
    ranks = generator.choice(np.arange(first, last), traits * each, replace=False)
    return ranks.reshape(traits, each)


def _hour_weights() -> Float64:
    """(clocks, 24): bells around the peaks, over a floor."""
    hours = np.arange(24)
    weights = np.full((CLOCKS, 24), 0.005)
    for clock, peaks in enumerate(_CLOCKS):
        for peak, spread, weight in peaks:
            apart = np.abs(hours - peak)
            apart = np.minimum(apart, 24 - apart)
            weights[clock] += weight / spread * np.exp(-0.5 * (apart / spread) ** 2)
    return weights
