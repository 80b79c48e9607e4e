"""Catalogue of the simulated ecosystem: genres, shops, channels and the calendar.

In: an `Ecosystem` and a seed. Out: a `Catalogue`, the same for all blocks of a simulation. Ids are
numbers from 0; `simulate` names them. Used by `people` and `behavior`.

Letters: N draws, M items of all groups, G genres, S shops, T traits.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import numpy as np

from userbert.data.ragged import Bools, Float64, Int64
from userbert.experiments.ecosystem import Ecosystem

RHYTHMS = 12
"""Number of rhythms of visits: each of three kinds of week, with and without campaigns, with and
without pay-days."""
AGE_BANDS = 7
"""Number of ten-year age bands from 18 on; the last has no upper end."""
EVERYWHERE = -1
"""Region of a shop that sells everywhere."""

_WEEKS = np.array(
    [[1.0] * 7, [1.2, 1.2, 1.1, 1.1, 1.0, 0.7, 0.7], [0.6, 0.6, 0.7, 0.8, 1.0, 1.8, 1.7]]
)
"""Weights of weekdays from Monday, per kind of week: even, working days, weekends."""
_CAMPAIGN_DAYS = (5, 10, 15, 20, 25, 30)
"""Campaign days of each month; users who follow campaigns visit 1.8 times as often."""
_SALE = range(60, 64)
"""Days of the log with a sale, on which all users visit 1.6 times as often."""
_PAY_DAYS = (25, 26, 27, 28)
"""Pay-days of each month; users who wait for them visit 1.7 times as often."""
_CLOCKS = (
    ((8, 1.5, 0.5), (12, 1.5, 0.3), (19, 2.0, 0.2)),
    ((11, 2.5, 0.6), (15, 2.0, 0.4)),
    ((12, 1.0, 0.2), (21, 1.8, 0.8)),
    ((23, 1.5, 0.7), (2, 1.5, 0.3)),
)
"""Activity peaks of the day (hour, standard deviation in hours, weight) of four kinds of user:
early, day, evening and night."""
CLOCKS = len(_CLOCKS)
"""Number of kinds of user by time of day."""


@dataclass(frozen=True)
class Choices:
    """Items in groups, with weights. Draws an item of a group in proportion to the weights."""

    items: Int64
    """Items (M,), group after group."""
    cumulative: Float64
    """Cumulative weights (M,), scaled so that the weights of group g run from g to g + 1."""
    first: Int64
    """Offsets (groups + 1,) of each group's items."""

    @classmethod
    def grouped(cls, groups: Int64, items: Int64, weights: Float64, number: int) -> Self:
        """Sorts items with groups and weights (M,) into `number` groups.

        A group may be empty, but nothing can be drawn from it.
        """
        order = np.argsort(groups, kind="stable")
        groups, weights = groups[order], weights[order]
        first = np.searchsorted(groups, np.arange(number + 1))
        sums = np.concatenate([[0.0], np.cumsum(weights)])
        within = (sums[1:] - sums[first[groups]]) / (sums[first[1:]] - sums[first[:-1]])[groups]
        return cls(items[order], groups + within, first)

    @classmethod
    def table(cls, weights: Float64) -> Self:
        """Returns choices among the same items in each group, by `weights` (groups, items)."""
        groups, items = np.indices(weights.shape)
        return cls.grouped(groups.ravel(), items.ravel(), weights.ravel(), len(weights))

    def draw(self, groups: Int64, generator: np.random.Generator) -> Int64:
        """Draws an item from each group in `groups` (N,)."""
        # One search over all groups, since the weights of group g end at g + 1.
        drawn = np.searchsorted(self.cumulative, groups + generator.random(len(groups)), "right")
        # Rounding errors must not lead into a neighbouring group.
        return self.items[np.clip(drawn, self.first[groups], self.first[groups + 1] - 1)]


@dataclass(frozen=True)
class Catalogue:
    """Items and calendar that all users of a simulation share."""

    ecosystem: Ecosystem
    department: Int64
    """Department of each genre (G,)."""
    log_price: Float64
    """Logarithm of the typical price in yen of each genre (G,)."""
    genres_of_department: Choices
    genres_of_month: Choices
    """Genres by index of the month; see `month`."""
    genres_of_lifestyle: Choices
    shop_genre: Int64
    """Main genre of each shop (S,)."""
    shop_region: Int64
    """Region of each shop (S,), or `EVERYWHERE`."""
    shops_of_genre: Choices
    browsed_genre: Int64
    """Genre that short-term events have in place of each genre (G,)."""
    is_browsed_shop: Bools
    """Whether each shop occurs in short-term events (S,)."""
    browsed_shops_of_genre: Choices
    """Shops by genre, for browsed genres only."""
    channels: Choices
    trait_genres: Int64
    """Genres that show each trait (T, trait_genres)."""
    trait_channels: Int64
    """Channels that show each trait (T, trait_channels)."""
    lifestyles: Choices
    """Lifestyles by age band and gender; women's bands start at `AGE_BANDS`."""
    month: Int64
    """Index of the calendar month of each day (all_days,), from 0."""
    week: Int64
    """Index of the week of each day (all_days,), from 0; a week ends with the log's last day."""
    day_of_month: Int64
    """Day of the month of each day (all_days,)."""
    hours: Choices
    """Hours of the day, from 0 to 23, by clock."""


def build_catalogue(ecosystem: Ecosystem, seed: int) -> Catalogue:
    """Draws the catalogue; equal ecosystem and seed give an equal catalogue."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    genres, shops = np.arange(ecosystem.genres), np.arange(ecosystem.shops)
    popularity = zipf(len(genres), ecosystem)
    department = _draw_groups(len(genres), np.ones(ecosystem.departments), generator)
    # A popular genre has more shops, but not in proportion to its popularity.
    shop_genre = _draw_groups(len(shops), popularity**0.7, generator)
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
    trait_genres = _trait_items(ecosystem, 200, 3_000, ecosystem.trait_genres, generator)
    trait_channels = _trait_items(ecosystem, 30, 300, ecosystem.trait_channels, generator)
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
    """Returns Zipf weights (number,) by rank, with the ecosystem's exponent and offset."""
    ranks = np.arange(1, number + 1) + ecosystem.popularity_offset
    return (ranks**-ecosystem.popularity).astype(np.float64)


def regions(ecosystem: Ecosystem) -> Choices:
    """Returns the regions as one group, by falling weight; the first ones are metropolitan."""
    return Choices.table(np.arange(1.0, ecosystem.regions + 1)[None] ** -0.8)


def calendar(ecosystem: Ecosystem, first: int, days: int) -> Choices:
    """Returns `days` days, the first of which is day `first` of the log, weighted by rhythm."""
    dates = [ecosystem.first_day + timedelta(days=first + day) for day in range(days)]
    weekday = np.array([date.weekday() for date in dates])
    day_of_month = np.array([date.day for date in dates])
    campaign = np.where(np.isin(day_of_month, _CAMPAIGN_DAYS), 1.8, 1.0)
    pay = np.where(np.isin(day_of_month, _PAY_DAYS), 1.7, 1.0)
    sale = np.where(np.isin(first + np.arange(days), _SALE), 1.6, 1.0)
    weights = [
        _WEEKS[week][weekday] * campaign**follows_campaigns * pay**waits_for_pay * sale
        for week in range(len(_WEEKS))
        for follows_campaigns in (0, 1)
        for waits_for_pay in (0, 1)
    ]
    return Choices.table(np.array(weights))


def _draw_groups(members: int, weights: Float64, generator: np.random.Generator) -> Int64:
    """Draws the group of each of `members` members by weight; each group has at least one."""
    groups = len(weights)
    extra_groups = Choices.table(weights[None]).draw(
        np.zeros(members - groups, np.int64), generator
    )
    return generator.permutation(np.concatenate([np.arange(groups), extra_groups]))


def _draw_distinct(weights: Float64, number: int, generator: np.random.Generator) -> Bools:
    """Draws `number` items without replacement by weight; returns a mask of the items."""
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + generator.gumbel(size=len(weights))
    chosen = np.zeros(len(weights), np.bool_)
    chosen[np.argsort(-keys, kind="stable")[:number]] = True
    return chosen


def _browsed_genres(
    department: Int64, popularity: Float64, number: int, generator: np.random.Generator
) -> Int64:
    """Draws `number` browsed genres; returns a browsed genre for each genre (G,).

    A browsed genre has itself. Any other has a browsed genre of its department, or, if there is
    none, of the next department that has one.
    """
    is_browsed = _draw_distinct(popularity, number, generator)
    order = np.argsort(department, kind="stable")
    candidates = order[is_browsed[order]]
    nearest = np.searchsorted(department[candidates], department)
    replacement = candidates[np.minimum(nearest, number - 1)]
    return np.where(is_browsed, np.arange(len(department)), replacement)


def _browsed_shops(
    shop_genre: Int64, popularity: Float64, number: int, generator: np.random.Generator
) -> Bools:
    """Draws `number` shops with a popularity above 0; returns a mask (S,).

    The most popular shop of each genre is always among them.
    """
    order = np.lexsort((-popularity, shop_genre))
    best = order[np.flatnonzero(np.diff(shop_genre[order], prepend=-1))]
    best = best[popularity[best] > 0]
    weights = popularity.copy()
    weights[best] = 0
    chosen = _draw_distinct(weights, number - len(best), generator)
    chosen[best] = True
    return chosen


def _trait_items(
    ecosystem: Ecosystem, first: int, last: int, per_trait: int, generator: np.random.Generator
) -> Int64:
    """Draws the items (T, per_trait) that show each trait; no item shows two traits.

    Items are numbered by falling popularity; those from `first` up to `last` are drawn, so that
    neither the most popular nor rare items show a trait.
    """
    traits = len(ecosystem.traits)
    ranks = generator.choice(np.arange(first, last), traits * per_trait, replace=False)
    return ranks.reshape(traits, per_trait)


def _hour_weights() -> Float64:
    """Returns weights of hours (CLOCKS, 24): Gaussians around the peaks, and a small constant."""
    hours = np.arange(24)
    weights = np.full((CLOCKS, 24), 0.005)
    for clock, peaks in enumerate(_CLOCKS):
        for peak, spread, weight in peaks:
            distance = np.abs(hours - peak)
            distance = np.minimum(distance, 24 - distance)
            weights[clock] += weight / spread * np.exp(-0.5 * (distance / spread) ** 2)
    return weights
