"""The parameters of the simulated ecosystem: how many, how often, how much of each habit.

Out: `Ecosystem`, a record of all of them; the sizes and rates are the paper's (§4.1, table 1), the
rest is made, not measured, and stands in docs/explanation/simulated-ecosystem.md with its reasons.
Used by `catalogue`, `people`, `behavior` and `simulate`.
"""

from dataclasses import dataclass
from datetime import date, timedelta

TIMEZONE = "Asia/Tokyo"
"""Of all users. It has no daylight saving, so every local day has 24 hours."""

USAGE_TYPES = ("earned_by_purchase", "earned_by_service", "spent_on_purchase", "spent_on_service")
EVENT_TYPES = ("click", "search", "page_view")
DEVICES = ("mobile", "desktop")
GENDERS = ("female", "male")
OCCUPATIONS = (
    "student", "retired", "office", "sales", "public_service", "manual", "health", "self_employed",
    "homemaker", "other",
)  # fmt: skip
STUDENT, RETIRED = 0, 1


@dataclass(frozen=True)
class Trait:
    """A hidden trait: the log-odds that a user holds it, given the profile."""

    name: str
    base: float
    """Far from `peak_age`, of a man in a metropolitan region."""
    peak_age: float
    at_peak: float
    """Added at `peak_age`; it falls off as a bell of a standard deviation of 12 years."""
    woman: float = 0.0
    rural: float = 0.0
    """Added outside the metropolitan regions."""


@dataclass(frozen=True)
class Service:
    """A service that some users respond to after the pretraining period (paper §4.2, targeting)."""

    name: str
    base: float
    """The log-odds of a response of a user without any of its traits."""
    traits: tuple[tuple[str, float], ...]
    """Which traits add how much."""


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
    """Why a purchase is what it is: shares of all purchases that no trait and no routine explains.

    What is left of 1 is bought for its popularity in that month.
    """

    favourite_shop: float = 0.30
    favourite_genre: float = 0.25
    interest: float = 0.12


@dataclass(frozen=True)
class Topics:
    """What a session is about; what is left of 1 is popular in that month."""

    interest: float = 0.50
    """The interest of this week."""
    fading_interest: float = 0.15
    """The interest of the week before."""
    favourite: float = 0.20
    """One of the long-standing favourite genres."""


@dataclass(frozen=True)
class Ecosystem:
    """All parameters of the generating process; the defaults are its published reading."""

    first_day: date = date(2024, 4, 2)
    days: int = 90
    """Of the long-term log (paper §4.1: three months)."""
    short_days: int = 7
    """Of the short-term log, the last of `days` (paper §4.1)."""
    future_days: int = 30
    """Of purchases after it, for labels (paper §4.2: one month)."""

    genres: int = 11_438
    shops: int = 85_124
    channels: int = 742
    browsed_genres: int = 10_386
    """Those of `genres` that short-term events know."""
    browsed_shops: int = 40_804
    """Those of `shops` that short-term events know."""
    regions: int = 47
    metropolitan_regions: int = 8
    departments: int = 150
    """Groups of genres."""
    lifestyles: int = 24
    """Groups of users by which departments they like; hidden, in `truth` alone."""

    long_term_events: float = 20.0
    """Mean a user in `days` (paper §4.1: 5 million a day of 22.5 million users)."""
    visits: float = 16.0
    """Mean a user in `days`; some share a day, which leaves about 12 days, hence 12 words."""
    short_term_events: float = 2.2
    """Mean a user in `short_days` (paper §4.1: 50 million, read as a total)."""
    sessions: float = 1.8
    """Mean a user in `short_days`, many of one event."""
    activity_spread: float = 1.3
    """Standard deviation of the logarithm of users' rates."""
    activity_shared: float = 0.6
    """Correlation of the long-term rate and the short-term rate, both as logarithms."""
    most_visits: float = 1_000.0
    """Cap of a user's rate in `days`, and of sessions a tenth of it."""
    burst: float = 0.5
    """Shape of the number of events beyond a visit's first: the smaller, the more uneven."""

    popularity: float = 1.05
    """Exponent of the Zipf law of genres, shops and channels."""
    popularity_offset: float = 5.0
    """Added to ranks, so that the first few do not take all."""
    lifestyle_spread: float = 1.2
    """Standard deviation of log-affinities of lifestyles to departments."""
    season: float = 0.35
    """Amplitude of departments' yearly waves, in logarithms."""
    local_shops: float = 0.5
    """Share of shops with a region; the others sell everywhere."""

    purchase_share: float = 0.6
    """Of long-term events; the others are point usage."""
    habits: Habits = Habits()
    topics: Topics = Topics()
    favourite_channel: float = 0.6
    """Share of point usage in one of the user's three favourite channels."""
    trait_intensity: float = 0.04
    """Mean share of a holder's events that show a trait; it varies exponentially by holder."""
    trait_genres: int = 12
    trait_channels: int = 4
    routine: float = 0.3
    """Share of users with a genre that they buy again every month, on about the same day."""
    routine_purchase: float = 0.4
    """Share of purchases on such days that are the routine's."""
    interest_lag_days: float = 4.0
    """Mean days from an interest to a purchase that follows it."""
    interest_kept: float = 0.3
    """Probability that a week's interest is that of the week before."""
    traits: tuple[Trait, ...] = TRAITS
    services: tuple[Service, ...] = SERVICES

    @property
    def end_day(self) -> date:
        """The first day after the long-term log: `fit_before` of the schema."""
        return self.first_day + timedelta(days=self.days)

    @property
    def all_days(self) -> int:
        """Days of the long-term log and of the future."""
        return self.days + self.future_days


DAILY = Ecosystem(short_term_events=15.6, sessions=5.0)
"""The other reading of §4.1: 50 million short-term events a day, so 15.6 a user in seven days."""
