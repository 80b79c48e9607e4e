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

DAY = 86_400
LONGEST_GAP = 1_500
"""Longest gap between events of a visit, in seconds; below the 30 minutes that end a session."""
ROUTINE_DAYS = 3
"""Length of a monthly routine, in days."""
MAIN_GENRE = 0.8
"""Share of purchases in a favourite shop, or of events in a session, that have its main genre."""
_SAME_SHOP = 0.5
"""Share of a session's events in the session's shop."""
_FAVOURITE_SHOP, _FAVOURITE_GENRE, _INTEREST, _POPULAR = range(4)
"""Reasons of a purchase, if no trait or routine explains it; shares are in `Habits`."""
_THIS_WEEK, _LAST_WEEK, _FAVOURITE, _OTHER = range(4)
"""Topics of a session, if it does not show a trait; shares are in `Topics`."""
_CLICK, _SEARCH = 0.35, 0.15
"""Shares of clicks and searches among short-term events; all others are page views."""


@dataclass(frozen=True)
class Span:
    """Period of visits, and the size of a visit."""

    first_day: int
    days: int
    events: float
    """Mean number of events of a visit."""
    gap_seconds: float
    """Mean seconds between two events of a visit."""


@dataclass(frozen=True)
class Moments:
    """User, time and visit of N events."""

    user: Int64
    """Number of the user in the block (N,)."""
    second: Int64
    """Seconds since the log's first local midnight (N,)."""
    visit: Int64
    """Number of the visit or session (N,)."""

    def __len__(self) -> int:
        """Returns the number of events."""
        return len(self.user)


@dataclass(frozen=True)
class LongTerm:
    """Purchases and point usage; `MISSING` where an event lacks an attribute."""

    moments: Moments
    is_purchase: Bools
    usage_type: Int64
    channel: Int64
    shop: Int64
    genre: Int64
    price: Int64


@dataclass(frozen=True)
class ShortTerm:
    """Clicks, searches and page views; a search has no shop."""

    moments: Moments
    event_type: Int64
    shop: Int64
    genre: Int64
    device: Int64


def long_term(people: People, catalogue: Catalogue, generator: np.random.Generator) -> LongTerm:
    """Draws three months of purchases and point usage; each user has at least one visit."""
    ecosystem = catalogue.ecosystem
    span = Span(0, ecosystem.days, ecosystem.long_term_events / ecosystem.visits, 300)
    visits = 1 + generator.poisson(people.visits)
    moments = _draw_moments(visits, span, people, catalogue, generator)
    is_purchase = generator.random(len(moments)) < ecosystem.purchase_share
    return _draw_attributes(moments, is_purchase, people, catalogue, generator)


def future(people: People, catalogue: Catalogue, generator: np.random.Generator) -> LongTerm:
    """Draws the purchases of the month after the log; some users have none."""
    ecosystem = catalogue.ecosystem
    events = ecosystem.long_term_events / ecosystem.visits
    span = Span(ecosystem.days, ecosystem.future_days, events, 300)
    visits = generator.poisson((1 + people.visits) * ecosystem.future_days / ecosystem.days)
    all_moments = _draw_moments(visits, span, people, catalogue, generator)
    kept = generator.random(len(all_moments)) < ecosystem.purchase_share
    moments = Moments(all_moments.user[kept], all_moments.second[kept], all_moments.visit[kept])
    is_purchase = np.ones(len(moments), np.bool_)
    return _draw_attributes(moments, is_purchase, people, catalogue, generator)


def short_term(people: People, catalogue: Catalogue, generator: np.random.Generator) -> ShortTerm:
    """Draws the sessions of the last days; each has one genre and one device."""
    ecosystem = catalogue.ecosystem
    events, days = ecosystem.short_term_events / ecosystem.sessions, ecosystem.short_days
    span = Span(ecosystem.days - days, days, events, 45)
    sessions = generator.poisson(people.sessions)
    moments = _draw_moments(sessions, span, people, catalogue, generator)
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
        moments, event_type, np.where(event_type == 1, MISSING, shop), genre, device[moments.visit]
    )


def _draw_moments(
    visits: Int64, span: Span, people: People, catalogue: Catalogue, generator: np.random.Generator
) -> Moments:
    """Draws day, hour and length of each visit in a span; `visits` (U,) are numbers of visits."""
    user = np.repeat(np.arange(len(visits)), visits)  # (K,)
    days = calendar(catalogue.ecosystem, span.first_day, span.days)
    day = days.draw(people.rhythm[user], generator)
    hour = catalogue.hours.draw(people.clock[user], generator)
    second = hour * 3_600 + generator.integers(0, 3_600, len(user))
    # User, day and second as one integer, so that one sort orders the visits.
    order = np.sort((user * span.days + day) * DAY + second)
    start = order % (span.days * DAY) + span.first_day * DAY
    extra_events = span.events - 1
    burst = catalogue.ecosystem.burst
    length = 1 + generator.poisson(generator.gamma(burst, extra_events / burst, len(user)))
    visit = np.repeat(np.arange(len(user)), length)  # (N,)
    gaps = 1 + generator.exponential(span.gap_seconds, len(visit)).astype(np.int64)
    gaps = np.minimum(gaps, LONGEST_GAP)
    since = np.cumsum(gaps)
    first = np.cumsum(length) - length
    end = (span.first_day + span.days) * DAY
    return Moments(
        user[visit], np.minimum(start[visit] + since - since[first][visit], end - 1), visit
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
    day = moments.second[purchases] // DAY
    shop[purchases], genre[purchases] = _draw_purchases(user, day, people, catalogue, generator)
    noise = 0.5 * generator.standard_normal(len(user))
    log_price = catalogue.log_price[genre[purchases]] + people.spending[user] + noise
    price[purchases] = np.maximum(np.exp(log_price), 1).astype(np.int64)
    user = moments.user[usages]
    channel[usages] = _draw_channels(user, people, catalogue, generator)
    # Every third channel belongs to a shop, the others are services.
    is_service = channel[usages] % 3 != 0
    is_spent = generator.random(len(user)) < people.spends[user]
    usage_type[usages] = is_service + 2 * is_spent
    return LongTerm(moments, is_purchase, usage_type, channel, shop, genre, price)


def _draw_purchases(
    user: Int64, day: Int64, people: People, catalogue: Catalogue, generator: np.random.Generator
) -> tuple[Int64, Int64]:
    """Draws shop (N,) and genre (N,) of each purchase, by one of six reasons."""
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
    is_free = ~is_routine & (trait == MISSING)
    favourite = np.flatnonzero(is_free & (reason == _FAVOURITE_GENRE))
    place = generator.integers(0, FAVOURITE_GENRES, len(favourite))
    genre[favourite] = people.favourite_genres[user[favourite], place]
    curious = np.flatnonzero(is_free & (reason == _INTEREST))
    lag = generator.exponential(catalogue.ecosystem.interest_lag_days, len(curious))
    week = catalogue.week[np.maximum(day[curious] - lag.astype(np.int64), 0)]
    genre[curious] = people.interests[user[curious], week]
    popular = np.flatnonzero(is_free & (reason == _POPULAR))
    genre[popular] = catalogue.genres_of_month.draw(catalogue.month[day[popular]], generator)
    shop = np.full(len(user), MISSING)
    loyal = np.flatnonzero(is_free & (reason == _FAVOURITE_SHOP))
    shop[loyal] = _draw_favourite_shop(user[loyal], people, generator)
    genre[loyal] = catalogue.shop_genre[shop[loyal]]
    other_genre = loyal[generator.random(len(loyal)) >= MAIN_GENRE]
    departments = catalogue.department[genre[other_genre]]
    genre[other_genre] = catalogue.genres_of_department.draw(departments, generator)
    free = np.flatnonzero(shop == MISSING)
    shop[free] = shop_of(genre[free], people.region[user[free]], catalogue, generator)
    return shop, genre


def _draw_channels(
    user: Int64, people: People, catalogue: Catalogue, generator: np.random.Generator
) -> Int64:
    """Draws the channels (N,) where points are earned or spent."""
    trait, reason = _draw_reasons(user, people, (catalogue.ecosystem.favourite_channel,), generator)
    place = generator.integers(0, FAVOURITE_CHANNELS, len(user))
    channel = people.favourite_channels[user, place]
    popular = np.flatnonzero(reason == 1)
    channel[popular] = catalogue.channels.draw(np.zeros(len(popular), np.int64), generator)
    shown = trait != MISSING
    channel[shown] = _draw_trait_items(catalogue.trait_channels, trait[shown], generator)
    return channel


def _draw_topics(
    user: Int64, people: People, catalogue: Catalogue, generator: np.random.Generator
) -> tuple[Int64, Int64]:
    """Draws the first shop (K,) and genre (K,) of each session."""
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
    loyal = np.flatnonzero(~shows_trait & (reason == _FAVOURITE))
    favourite = _draw_favourite_shop(user[loyal], people, generator)
    genre[loyal] = catalogue.shop_genre[favourite]
    shop[loyal] = np.where(catalogue.is_browsed_shop[favourite], favourite, MISSING)
    genre = catalogue.browsed_genre[genre]
    free = np.flatnonzero(shop == MISSING)
    shop[free] = catalogue.browsed_shops_of_genre.draw(genre[free], generator)
    return shop, genre


def _draw_reasons(
    user: Int64, people: People, shares: tuple[float, ...], generator: np.random.Generator
) -> tuple[Int64, Int64]:
    """Draws the trait that each event shows (N,), or `MISSING`, and the index of a share (N,)."""
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
    """Draws a genre or channel of each trait (N,); the first items of a trait are more frequent."""
    places = table.shape[1] * generator.random(len(trait)) ** 2
    items: Int64 = table[trait, places.astype(np.int64)]
    return items


def _draw_favourite_shop(user: Int64, people: People, generator: np.random.Generator) -> Int64:
    place = np.searchsorted(np.cumsum(FAVOURITE_SHOPS), generator.random(len(user)), "right")
    shop: Int64 = people.favourite_shops[user, np.minimum(place, len(FAVOURITE_SHOPS) - 1)]
    return shop
