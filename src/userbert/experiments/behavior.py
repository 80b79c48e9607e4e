"""Draws the events of simulated users: long-term log, short-term log and future purchases.

In: people and a catalogue. Out: flat arrays by event, in the order of users and visits; times are
seconds since the log's first local midnight. `simulate` writes them.

Letters: U users, K visits, N events.
"""

from dataclasses import dataclass

import numpy as np

from userbert.data.ragged import Bools, Float64, Int64
from userbert.experiments.catalogue import Catalogue, calendar
from userbert.experiments.people import (
    FAVOURITE_CHANNELS,
    FAVOURITE_GENRES,
    FAVOURITE_SHOPS,
    MISSING,
    People,
    shop_of,
)

DAY_SECONDS = 86_400
"""Seconds of a day."""
LONGEST_GAP = 1_500
"""Longest gap between events of a visit, in seconds; below the 30 minutes that end a session."""
ROUTINE_DAYS = 3
"""Length of a monthly routine, in days."""
MAIN_GENRE = 0.8
"""Share of purchases in a favourite shop, or of events in a session, that have its main genre."""
_SAME_SHOP = 0.5
"""Share of a session's events of its main genre that are in the session's shop."""
_FAVOURITE_SHOP, _FAVOURITE_GENRE, _INTEREST, _POPULAR = range(4)
"""Reasons of a purchase, if no trait or routine explains it; shares are in `Habits`."""
_THIS_WEEK, _LAST_WEEK, _FAVOURITE, _OTHER = range(4)
"""Topics of a session, if it does not show a trait; shares are in `Topics`."""
_CLICK, _SEARCH = 0.35, 0.15
"""Shares of clicks and searches among short-term events; all others are page views."""
_SEARCH_TYPE = 1
"""Index of searches in `EVENT_TYPES`: clicks, searches, page views."""
_POPULAR_CHANNEL = 1
"""Reason of a point usage that neither a trait nor a favourite channel (0) explains."""
_CHANNELS_PER_SHOP = 3
"""One in this number of channels belongs to a shop; the others are services."""


@dataclass(frozen=True)
class VisitPeriod:
    """Period of visits, and the mean size of a visit."""

    first_day: int
    """First day of the period; day 0 is the first day of the log."""
    days: int
    """Number of days of the period."""
    events: float
    """Mean number of events of a visit."""
    gap_seconds: float
    """Mean seconds between two events of a visit."""


@dataclass(frozen=True)
class Moments:
    """User, time and visit of N events."""

    user: Int64
    """Index of the user in the block (N,)."""
    second: Int64
    """Seconds since the log's first local midnight (N,)."""
    visit: Int64
    """Index of the visit or session among those of the block (N,)."""

    def __len__(self) -> int:
        """Returns the number of events."""
        return len(self.user)


@dataclass(frozen=True)
class LongTerm:
    """N purchases and point usages; `MISSING` where an event does not have an attribute."""

    moments: Moments
    is_purchase: Bools
    """Whether each event is a purchase (N,); else it is a point usage."""
    usage_type: Int64
    """Index in `USAGE_TYPES`, of point usages (N,)."""
    channel: Int64
    """Channel where points are earned or spent, of point usages (N,)."""
    shop: Int64
    """Shop of purchases (N,)."""
    genre: Int64
    """Genre of purchases (N,)."""
    price: Int64
    """Price of purchases, at least 1 (N,)."""


@dataclass(frozen=True)
class ShortTerm:
    """N clicks, searches and page views."""

    moments: Moments
    event_type: Int64
    """Index in `EVENT_TYPES` (N,)."""
    shop: Int64
    """Shop of clicks and page views (N,); `MISSING` for searches."""
    genre: Int64
    """Genre (N,)."""
    device: Int64
    """Index in `DEVICES` (N,), equal within a session."""


def long_term(people: People, catalogue: Catalogue, generator: np.random.Generator) -> LongTerm:
    """Draws the purchases and point usage of all days of the log; each user has a visit or more."""
    ecosystem = catalogue.ecosystem
    period = VisitPeriod(0, ecosystem.days, ecosystem.long_term_events / ecosystem.visits, 300)
    visits = 1 + generator.poisson(people.visits)
    moments = _draw_moments(visits, period, people, catalogue, generator)
    is_purchase = generator.random(len(moments)) < ecosystem.purchase_share
    return _draw_attributes(moments, is_purchase, people, catalogue, generator)


def future(people: People, catalogue: Catalogue, generator: np.random.Generator) -> LongTerm:
    """Draws the purchases of the `future_days` days after the log; users may have none."""
    ecosystem = catalogue.ecosystem
    events = ecosystem.long_term_events / ecosystem.visits
    period = VisitPeriod(ecosystem.days, ecosystem.future_days, events, 300)
    visits = generator.poisson((1 + people.visits) * ecosystem.future_days / ecosystem.days)
    all_moments = _draw_moments(visits, period, people, catalogue, generator)
    kept = generator.random(len(all_moments)) < ecosystem.purchase_share
    moments = Moments(all_moments.user[kept], all_moments.second[kept], all_moments.visit[kept])
    is_purchase = np.ones(len(moments), np.bool_)
    return _draw_attributes(moments, is_purchase, people, catalogue, generator)


def short_term(people: People, catalogue: Catalogue, generator: np.random.Generator) -> ShortTerm:
    """Draws the sessions of the last `short_days` days of the log; users may have none.

    A session has one device and one main genre; some of its events have another genre.
    """
    ecosystem = catalogue.ecosystem
    events, days = ecosystem.short_term_events / ecosystem.sessions, ecosystem.short_days
    period = VisitPeriod(ecosystem.days - days, days, events, 45)
    sessions = generator.poisson(people.sessions)
    moments = _draw_moments(sessions, period, people, catalogue, generator)
    count = len(moments)
    user = np.repeat(np.arange(len(people)), sessions)  # (K,)
    shop, genre = _draw_topics(user, people, catalogue, generator)
    device = (generator.random(len(user)) >= people.mobile[user]).astype(np.int64)
    shop, genre = shop[moments.visit], genre[moments.visit]  # (N,)
    other_genre = np.flatnonzero(generator.random(count) >= MAIN_GENRE)
    stray_genres = catalogue.genres_of_department.draw(
        catalogue.department[genre[other_genre]], generator
    )
    genre[other_genre] = catalogue.browsed_genre[stray_genres]
    other_shop = generator.random(count) >= _SAME_SHOP
    other_shop[other_genre] = True
    shop[other_shop] = catalogue.browsed_shops_of_genre.draw(genre[other_shop], generator)
    event_type = np.searchsorted([_CLICK, _CLICK + _SEARCH], generator.random(count), "right")
    return ShortTerm(
        moments,
        event_type,
        np.where(event_type == _SEARCH_TYPE, MISSING, shop),
        genre,
        device[moments.visit],
    )


def _draw_moments(
    visits: Int64,
    period: VisitPeriod,
    people: People,
    catalogue: Catalogue,
    generator: np.random.Generator,
) -> Moments:
    """Draws the events of all visits in a period; `visits` (U,) is the number per user."""
    user = np.repeat(np.arange(len(visits)), visits)  # (K,)
    days = calendar(catalogue.ecosystem, period.first_day, period.days)
    day = days.draw(people.rhythm[user], generator)
    hour = catalogue.hours.draw(people.clock[user], generator)
    second = hour * 3_600 + generator.integers(0, 3_600, len(user))
    # User, day and second as one integer, so that one sort orders the visits.
    order = np.sort((user * period.days + day) * DAY_SECONDS + second)
    start = order % (period.days * DAY_SECONDS) + period.first_day * DAY_SECONDS
    extra_events = period.events - 1
    burst = catalogue.ecosystem.burst
    length = 1 + generator.poisson(generator.gamma(burst, extra_events / burst, len(user)))
    visit = np.repeat(np.arange(len(user)), length)  # (N,)
    gaps = 1 + generator.exponential(period.gap_seconds, len(visit)).astype(np.int64)
    gaps = np.minimum(gaps, LONGEST_GAP)
    elapsed = np.cumsum(gaps)
    first = np.cumsum(length) - length
    end = (period.first_day + period.days) * DAY_SECONDS
    return Moments(
        user[visit], np.minimum(start[visit] + elapsed - elapsed[first][visit], end - 1), visit
    )


def _draw_attributes(
    moments: Moments,
    is_purchase: Bools,
    people: People,
    catalogue: Catalogue,
    generator: np.random.Generator,
) -> LongTerm:
    """Draws the attributes of purchases and point usage."""
    usage_type, channel, shop, genre, price = np.full((5, len(moments)), MISSING)
    purchases, usages = np.flatnonzero(is_purchase), np.flatnonzero(~is_purchase)
    user = moments.user[purchases]
    day = moments.second[purchases] // DAY_SECONDS
    shop[purchases], genre[purchases] = _draw_purchases(user, day, people, catalogue, generator)
    noise = 0.5 * generator.standard_normal(len(user))
    log_price = catalogue.log_price[genre[purchases]] + people.spending[user] + noise
    price[purchases] = np.maximum(np.exp(log_price), 1).astype(np.int64)
    user = moments.user[usages]
    channel[usages] = _draw_channels(user, people, catalogue, generator)
    is_service = channel[usages] % _CHANNELS_PER_SHOP != 0
    is_spent = generator.random(len(user)) < people.spends[user]
    # The order of `USAGE_TYPES`: purchase before service, earned before spent.
    usage_type[usages] = is_service + 2 * is_spent
    return LongTerm(moments, is_purchase, usage_type, channel, shop, genre, price)


def _draw_purchases(
    user: Int64, day: Int64, people: People, catalogue: Catalogue, generator: np.random.Generator
) -> tuple[Int64, Int64]:
    """Draws the shop (N,) and genre (N,) of each purchase.

    The reason is a routine, a trait, or a favourite shop, favourite genre, interest or popularity.
    """
    habits = catalogue.ecosystem.habits
    shares = (habits.favourite_shop, habits.favourite_genre, habits.interest)
    trait, reason = _draw_reasons(user, people, shares, generator)
    days_since = (catalogue.day_of_month[day] - people.routine_day[user]) % 30
    routine = people.routine_genre[user]
    is_routine = (routine != MISSING) & (days_since < ROUTINE_DAYS)
    is_routine &= generator.random(len(user)) < catalogue.ecosystem.routine_purchase
    genre = np.where(is_routine, routine, MISSING)
    shows_trait = ~is_routine & (trait != MISSING)
    genre[shows_trait] = _draw_trait_items(catalogue.trait_genres, trait[shows_trait], generator)
    is_unexplained = ~is_routine & (trait == MISSING)
    favourite = np.flatnonzero(is_unexplained & (reason == _FAVOURITE_GENRE))
    rank = generator.integers(0, FAVOURITE_GENRES, len(favourite))
    genre[favourite] = people.favourite_genres[user[favourite], rank]
    interested = np.flatnonzero(is_unexplained & (reason == _INTEREST))
    lag = generator.exponential(catalogue.ecosystem.interest_lag_days, len(interested))
    week = catalogue.week[np.maximum(day[interested] - lag.astype(np.int64), 0)]
    genre[interested] = people.interests[user[interested], week]
    popular = np.flatnonzero(is_unexplained & (reason == _POPULAR))
    genre[popular] = catalogue.genres_of_month.draw(catalogue.month[day[popular]], generator)
    shop = np.full(len(user), MISSING)
    in_favourite = np.flatnonzero(is_unexplained & (reason == _FAVOURITE_SHOP))
    shop[in_favourite] = _draw_favourite_shop(user[in_favourite], people, generator)
    genre[in_favourite] = catalogue.shop_genre[shop[in_favourite]]
    other_genre = in_favourite[generator.random(len(in_favourite)) >= MAIN_GENRE]
    departments = catalogue.department[genre[other_genre]]
    genre[other_genre] = catalogue.genres_of_department.draw(departments, generator)
    unset = np.flatnonzero(shop == MISSING)
    shop[unset] = shop_of(genre[unset], people.region[user[unset]], catalogue, generator)
    return shop, genre


def _draw_channels(
    user: Int64, people: People, catalogue: Catalogue, generator: np.random.Generator
) -> Int64:
    """Draws the channels (N,) where points are earned or spent."""
    trait, reason = _draw_reasons(user, people, (catalogue.ecosystem.favourite_channel,), generator)
    rank = generator.integers(0, FAVOURITE_CHANNELS, len(user))
    channel = people.favourite_channels[user, rank]
    popular = np.flatnonzero(reason == _POPULAR_CHANNEL)
    channel[popular] = catalogue.channels.draw(np.zeros(len(popular), np.int64), generator)
    shown = trait != MISSING
    channel[shown] = _draw_trait_items(catalogue.trait_channels, trait[shown], generator)
    return channel


def _draw_topics(
    user: Int64, people: People, catalogue: Catalogue, generator: np.random.Generator
) -> tuple[Int64, Int64]:
    """Draws the main shop (K,) and main genre (K,) of each session."""
    topics, last_day = catalogue.ecosystem.topics, catalogue.ecosystem.days - 1
    shares = (topics.interest, topics.fading_interest, topics.favourite)
    trait, reason = _draw_reasons(user, people, shares, generator)
    last = catalogue.week[last_day]
    genre = people.interests[user, last]
    fading = reason == _LAST_WEEK
    genre[fading] = people.interests[user[fading], last - 1]
    popular = np.flatnonzero(reason == _OTHER)
    month = np.full(len(popular), catalogue.month[last_day])
    genre[popular] = catalogue.genres_of_month.draw(month, generator)
    shows_trait = trait != MISSING
    genre[shows_trait] = _draw_trait_items(catalogue.trait_genres, trait[shows_trait], generator)
    shop = np.full(len(user), MISSING)
    in_favourite = np.flatnonzero(~shows_trait & (reason == _FAVOURITE))
    favourite = _draw_favourite_shop(user[in_favourite], people, generator)
    genre[in_favourite] = catalogue.shop_genre[favourite]
    shop[in_favourite] = np.where(catalogue.is_browsed_shop[favourite], favourite, MISSING)
    genre = catalogue.browsed_genre[genre]
    unset = np.flatnonzero(shop == MISSING)
    shop[unset] = catalogue.browsed_shops_of_genre.draw(genre[unset], generator)
    return shop, genre


def _draw_reasons(
    user: Int64, people: People, shares: tuple[float, ...], generator: np.random.Generator
) -> tuple[Int64, Int64]:
    """Draws the trait that each event shows (N,), or `MISSING`, and another reason (N,).

    The reason is an index in `shares`, or `len(shares)` for the remainder. It is only meaningful
    for events that show no trait.
    """
    uniform = generator.random(len(user))
    trait_share = people.intensity[:, -1][user]
    trait = np.full(len(user), MISSING)
    shows_trait = np.flatnonzero(uniform < trait_share)
    trait[shows_trait] = (people.intensity[user[shows_trait]] <= uniform[shows_trait][:, None]).sum(
        axis=1
    )
    remainder: Float64 = (uniform - trait_share) / (1 - trait_share)
    return trait, np.searchsorted(np.cumsum(shares), remainder, "right")


def _draw_trait_items(table: Int64, trait: Int64, generator: np.random.Generator) -> Int64:
    """Draws a genre or channel (N,) of each trait (N,) from the rows of `table` (T, items).

    The first items of a row are more frequent.
    """
    ranks = table.shape[1] * generator.random(len(trait)) ** 2
    items: Int64 = table[trait, ranks.astype(np.int64)]
    return items


def _draw_favourite_shop(user: Int64, people: People, generator: np.random.Generator) -> Int64:
    """Draws one of each user's favourite shops (N,)."""
    rank = np.searchsorted(np.cumsum(FAVOURITE_SHOPS), generator.random(len(user)), "right")
    shop: Int64 = people.favourite_shops[user, np.minimum(rank, len(FAVOURITE_SHOPS) - 1)]
    return shop
