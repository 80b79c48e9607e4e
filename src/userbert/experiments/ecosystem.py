"""Parameters of the simulated ecosystem: sizes, rates and habits.

Out: `Ecosystem`, a record of all parameters. Sizes and rates are the paper's (§4.1, table 1); the
rest is invented, with reasons in docs/explanation/simulated-ecosystem.md.
Used by `catalogue`, `people`, `behavior` and `simulate`.
"""

from dataclasses import dataclass
from datetime import date, timedelta

TIMEZONE = "Asia/Tokyo"
"""Time zone of all users. Without daylight saving, every local day has 24 hours."""

USAGE_TYPES = ("earned_by_purchase", "earned_by_service", "spent_on_purchase", "spent_on_service")
EVENT_TYPES = ("click", "search", "page_view")
DEVICES = ("mobile", "desktop")
GENDERS = ("female", "male")
OCCUPATIONS = (
    "student", "retired", "office", "sales", "public_service", "manual", "health", "self_employed",
    "homemaker", "other",
)  # fmt: skip
STUDENT, RETIRED = 0, 1
"""Indices in `OCCUPATIONS`, which depend on age."""


@dataclass(frozen=True)
class Trait:
    """A hidden trait, with the log-odds that a user has it given the profile."""

    name: str
    base: float
    """Log-odds at ages far from `peak_age`, for a man in a metropolitan region."""
    peak_age: float
    """Age in years."""
    at_peak: float
    """Log-odds added at `peak_age`; a Gaussian of age with a standard deviation of 12 years."""
    woman: float = 0.0
    """Log-odds added for women."""
    rural: float = 0.0
    """Log-odds added outside the metropolitan regions."""


@dataclass(frozen=True)
class Service:
    """A service that some users respond to after the pretraining period (paper §4.2, targeting)."""

    name: str
    base: float
    """Log-odds of a response for a user without any of its traits."""
    traits: tuple[tuple[str, float], ...]
    """Traits, and the log-odds that each adds."""


TRAITS = (
    Trait("parent", -1.6, 40, 2.0, woman=0.1),
    Trait("car_owner", -0.6, 50, 0.9, woman=-0.4, rural=0.8),
    Trait("pet_owner", -1.3, 50, 0.3, woman=0.2, rural=0.2),
    Trait("traveller", -1.3, 62, 0.6, woman=0.2, rural=-0.2),
    Trait("golfer", -3.0, 58, 1.2, woman=-1.0),
    Trait("investor", -2.0, 55, 0.8, woman=-0.4),
    Trait("gamer", -1.4, 24, 1.4, woman=-0.6),
    Trait("gardener", -2.2, 66, 1.4, woman=0.2, rural=0.6),
)

SERVICES = (
    Service("travel_booking", -4.6, (("traveller", 1.8), ("investor", 0.4), ("parent", -0.3))),
    Service("golf_booking", -5.2, (("golfer", 3.0), ("car_owner", 0.4), ("investor", 0.4))),
)


@dataclass(frozen=True)
class Habits:
    """Shares of reasons among purchases without a trait or a routine behind them.

    The other purchases follow the popularity of genres in the month of the purchase.
    """

    favourite_shop: float = 0.30
    favourite_genre: float = 0.25
    interest: float = 0.12


@dataclass(frozen=True)
class Topics:
    """Shares of topics among sessions.

    The other sessions follow the popularity of genres in the month of the session.
    """

    interest: float = 0.50
    """The user's interest in the week of the session."""
    fading_interest: float = 0.15
    """The user's interest in the week before."""
    favourite: float = 0.20
    """One of the user's favourite genres, which do not change."""


@dataclass(frozen=True)
class Ecosystem:
    """All parameters of the generating process.

    The defaults read 50 million, the paper's number of short-term events, as the total of a week;
    `DAILY` reads it as a number per day.
    """

    first_day: date = date(2024, 4, 2)
    days: int = 90
    """Days of the long-term log (paper §4.1: three months)."""
    short_days: int = 7
    """Days of the short-term log, the last of `days` (paper §4.1)."""
    future_days: int = 30
    """Days of purchases after the log, for labels (paper §4.2: one month)."""

    genres: int = 11_438
    shops: int = 85_124
    channels: int = 742
    browsed_genres: int = 10_386
    """Number of genres in short-term events."""
    browsed_shops: int = 40_804
    """Number of shops in short-term events."""
    regions: int = 47
    metropolitan_regions: int = 8
    departments: int = 150
    """Groups of genres."""
    lifestyles: int = 24
    """Groups of users by their taste for departments; hidden, only in `truth`."""

    long_term_events: float = 20.0
    """Mean events per user in `days` (paper §4.1: 5 million a day for 22.5 million users)."""
    visits: float = 16.0
    """Mean visits per user in `days`. Some fall on the same day, so users have about 12 words."""
    short_term_events: float = 2.2
    """Mean events per user in `short_days` (paper §4.1: 50 million, read as a total)."""
    sessions: float = 1.8
    """Mean sessions per user in `short_days`, many with one event."""
    activity_spread: float = 1.3
    """Standard deviation of the logarithm of users' visit rates."""
    activity_shared: float = 0.6
    """Correlation between the logarithms of the long-term and short-term rates."""
    most_visits: float = 1_000.0
    """Cap of a user's expected visits after the first in `days`, and ten times the cap of expected
    sessions."""
    burst: float = 0.5
    """Gamma shape of the number of events after a visit's first; smaller is more uneven."""

    popularity: float = 1.05
    """Zipf exponent of genres, shops and channels."""
    popularity_offset: float = 5.0
    """Number added to ranks, so that the first few do not dominate."""
    lifestyle_spread: float = 1.2
    """Standard deviation of log-affinities of lifestyles to departments."""
    season: float = 0.35
    """Amplitude of the yearly cycle of departments, in logarithms."""
    local_shops: float = 0.5
    """Share of shops that sell in one region; the others sell everywhere."""

    purchase_share: float = 0.6
    """Share of purchases among long-term events; the others are point usage."""
    habits: Habits = Habits()
    topics: Topics = Topics()
    favourite_channel: float = 0.6
    """Share of point usage in one of the user's three favourite channels."""
    trait_intensity: float = 0.04
    """Mean share of events that show a trait the user has; exponential across users."""
    trait_genres: int = 12
    """Number of genres that show a trait."""
    trait_channels: int = 4
    """Number of channels that show a trait."""
    routine: float = 0.3
    """Share of users who buy one genre every month, on about the same day."""
    routine_purchase: float = 0.4
    """Share of a routine user's purchases on the days of the routine that follow it."""
    interest_lag_days: float = 4.0
    """Mean days from an interest to a purchase that follows it."""
    interest_kept: float = 0.3
    """Probability that an interest continues into the next week."""
    traits: tuple[Trait, ...] = TRAITS
    services: tuple[Service, ...] = SERVICES

    @property
    def end_day(self) -> date:
        """First day after the long-term log: `fit_before` of the schema."""
        return self.first_day + timedelta(days=self.days)

    @property
    def all_days(self) -> int:
        """Number of days of the long-term log and of the future after it."""
        return self.days + self.future_days


DAILY = Ecosystem(short_term_events=15.6, sessions=5.0)
"""The other reading of §4.1: 50 million short-term events a day, 15.6 per user in seven days."""
