"""Simulated people and events as columns with names in place of numbers, and their Parquet files.

In: what `people` and `behavior` drew. Out: the columns of the logs, the profiles and the truth.
Used by `simulate`.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, time
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from userbert.data.ragged import Int64
from userbert.experiments.behavior import LongTerm, Moments, ShortTerm
from userbert.experiments.catalogue import Catalogue
from userbert.experiments.ecosystem import (
    DEVICES,
    EVENT_TYPES,
    GENDERS,
    OCCUPATIONS,
    TIMEZONE,
    USAGE_TYPES,
    Ecosystem,
)
from userbert.experiments.people import NOBODY, People

Columns = Mapping[str, pa.Array]


def write(path: Path, columns: Columns) -> None:
    """Write a Parquet file; columns of few values are dictionaries there, and plain to readers."""
    # Arrow's own schema would have readers take names for categories; smallest and largest names
    # help no reader, and finding them takes half of the time.
    pq.write_table(
        pa.table(dict(columns)),
        path,
        compression="zstd",
        store_schema=False,
        write_statistics=False,
    )


def user_ids(numbers: Int64) -> pa.Array:
    """The ids of users, by their number in the whole simulation."""
    return pa.array([f"u{number:08d}" for number in numbers.tolist()], pa.string())


def long_term_columns(log: LongTerm, ids: pa.Array, ecosystem: Ecosystem) -> Columns:
    """Purchases and point usage."""
    return {
        **_who_and_when(log.moments, ids, ecosystem),
        "action_type": _named(log.is_purchase * 1, ("point_usage", "purchase")),
        "usage_type": _named(log.usage_type, USAGE_TYPES),
        "channel": _named(log.channel, _numbered("channel", ecosystem.channels)),
        "shop": _named(log.shop, _numbered("shop", ecosystem.shops)),
        "genre": _named(log.genre, _numbered("genre", ecosystem.genres)),
        "price": pa.array(log.price.astype(np.int32), mask=log.price == NOBODY),
    }


def short_term_columns(log: ShortTerm, ids: pa.Array, ecosystem: Ecosystem) -> Columns:
    """Clicks, searches and page views."""
    return {
        **_who_and_when(log.moments, ids, ecosystem),
        "event_type": _named(log.event_type, EVENT_TYPES),
        "shop": _named(log.shop, _numbered("shop", ecosystem.shops)),
        "genre": _named(log.genre, _numbered("genre", ecosystem.genres)),
        "device": _named(log.device, DEVICES),
    }


def profile_columns(people: People, ids: pa.Array, ecosystem: Ecosystem) -> Columns:
    """What the ecosystem knows of its users."""
    return {
        "user_id": ids,
        "age": pa.array(people.age.astype(np.int16)),
        "gender": _named(1 - people.is_woman, GENDERS),
        "region": _named(people.region, _numbered("region", ecosystem.regions)),
        "occupation": _named(people.occupation, OCCUPATIONS),
        "tenure_months": pa.array(people.tenure_months.astype(np.int16)),
    }


def truth_columns(people: People, ids: pa.Array, catalogue: Catalogue) -> Columns:
    """What nobody knows but an oracle: traits, responses to come, tastes and interests."""
    ecosystem = catalogue.ecosystem
    genres = _numbered("genre", ecosystem.genres)
    shops = _numbered("shop", ecosystem.shops)
    this_week = catalogue.week[ecosystem.days - 1]
    traits = zip(ecosystem.traits, people.traits.T, strict=True)
    services = zip(ecosystem.services, people.responses.T, strict=True)
    return {
        "user_id": ids,
        **{trait.name: pa.array(held) for trait, held in traits},
        **{f"responds_{service.name}": pa.array(responds) for service, responds in services},
        "lifestyle": pa.array(people.lifestyle.astype(np.int16)),
        **{
            f"favourite_genre_{place}": _named(genre, genres)
            for place, genre in enumerate(people.favourite_genres.T, 1)
        },
        **{
            f"favourite_shop_{place}": _named(shop, shops)
            for place, shop in enumerate(people.favourite_shops.T, 1)
        },
        "routine_genre": _named(people.routine_genre, genres),
        "interest": _named(people.interests[:, this_week], genres),
        "fading_interest": _named(people.interests[:, this_week - 1], genres),
    }


def _who_and_when(moments: Moments, ids: pa.Array, ecosystem: Ecosystem) -> Columns:
    midnight = datetime.combine(ecosystem.first_day, time(), ZoneInfo(TIMEZONE))
    instants = (moments.second + int(midnight.timestamp())) * 1_000_000
    return {
        "user_id": pa.DictionaryArray.from_arrays(moments.user.astype(np.int32), ids),
        "time": pa.array(instants, pa.timestamp("us", "UTC")),
    }


@lru_cache(maxsize=8)
def _numbered(what: str, number: int) -> tuple[str, ...]:
    width = len(str(number - 1))
    return tuple(f"{what}-{index:0{width}d}" for index in range(number))


def _named(numbers: Int64, names: Sequence[str]) -> pa.DictionaryArray:
    """Names in place of numbers; null for NOBODY."""
    is_none = numbers == NOBODY
    # A file of few users names what they met, not the whole catalogue.
    counts = np.bincount(numbers[~is_none], minlength=len(names))
    met = np.flatnonzero(counts).tolist()
    place = np.cumsum(counts > 0) - 1
    indices = pa.array(place[numbers].astype(np.int32), mask=is_none)
    return pa.DictionaryArray.from_arrays(indices, pa.array([names[i] for i in met], pa.string()))
