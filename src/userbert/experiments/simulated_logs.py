"""Writes simulated people and events to Parquet, with names in place of numbers.

In: people and events of `people` and `behavior`. Out: columns of the logs, the profiles and the
truth, and their files. Used by `simulate`.
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
from userbert.experiments.people import MISSING, People

Columns = Mapping[str, pa.Array]
"""Arrow arrays by column name."""


def write(path: Path, columns: Columns) -> None:
    """Writes a Parquet file; columns with few values are dictionary-encoded but read as strings."""
    # With Arrow's stored schema, readers would load names as categories. Minima and maxima of
    # names are useless, and computing them takes half of the time.
    pq.write_table(
        pa.table(dict(columns)),
        path,
        compression="zstd",
        store_schema=False,
        write_statistics=False,
    )


def user_ids(numbers: Int64) -> pa.Array:
    """Returns the ids of users from their indices in the simulation."""
    return pa.array([f"u{number:08d}" for number in numbers.tolist()], pa.string())


def long_term_columns(log: LongTerm, ids: pa.Array, ecosystem: Ecosystem) -> Columns:
    """Returns the columns of purchases and point usage."""
    return {
        **_user_and_time(log.moments, ids, ecosystem),
        "action_type": _named(log.is_purchase * 1, ("point_usage", "purchase")),
        "usage_type": _named(log.usage_type, USAGE_TYPES),
        "channel": _named(log.channel, _numbered("channel", ecosystem.channels)),
        "shop": _named(log.shop, _numbered("shop", ecosystem.shops)),
        "genre": _named(log.genre, _numbered("genre", ecosystem.genres)),
        "price": pa.array(log.price.astype(np.int32), mask=log.price == MISSING),
    }


def short_term_columns(log: ShortTerm, ids: pa.Array, ecosystem: Ecosystem) -> Columns:
    """Returns the columns of clicks, searches and page views."""
    return {
        **_user_and_time(log.moments, ids, ecosystem),
        "event_type": _named(log.event_type, EVENT_TYPES),
        "shop": _named(log.shop, _numbered("shop", ecosystem.shops)),
        "genre": _named(log.genre, _numbered("genre", ecosystem.genres)),
        "device": _named(log.device, DEVICES),
    }


def profile_columns(people: People, ids: pa.Array, ecosystem: Ecosystem) -> Columns:
    """Returns the columns of the profiles."""
    return {
        "user_id": ids,
        "age": pa.array(people.age.astype(np.int16)),
        "gender": _named(1 - people.is_woman, GENDERS),
        "region": _named(people.region, _numbered("region", ecosystem.regions)),
        "occupation": _named(people.occupation, OCCUPATIONS),
        "tenure_months": pa.array(people.tenure_months.astype(np.int16)),
    }


def truth_columns(people: People, ids: pa.Array, catalogue: Catalogue) -> Columns:
    """Returns the columns of the hidden truth: traits, later responses, tastes and interests.

    `interest` is from the last week of the log, `fading_interest` from the week before.
    """
    ecosystem = catalogue.ecosystem
    genres = _numbered("genre", ecosystem.genres)
    shops = _numbered("shop", ecosystem.shops)
    last_week = catalogue.week[ecosystem.days - 1]
    traits = zip(ecosystem.traits, people.traits.T, strict=True)
    services = zip(ecosystem.services, people.responses.T, strict=True)
    return {
        "user_id": ids,
        **{trait.name: pa.array(holds) for trait, holds in traits},
        **{f"responds_{service.name}": pa.array(responds) for service, responds in services},
        "lifestyle": pa.array(people.lifestyle.astype(np.int16)),
        **{
            f"favourite_genre_{rank}": _named(genre, genres)
            for rank, genre in enumerate(people.favourite_genres.T, 1)
        },
        **{
            f"favourite_shop_{rank}": _named(shop, shops)
            for rank, shop in enumerate(people.favourite_shops.T, 1)
        },
        "routine_genre": _named(people.routine_genre, genres),
        "interest": _named(people.interests[:, last_week], genres),
        "fading_interest": _named(people.interests[:, last_week - 1], genres),
    }


def _user_and_time(moments: Moments, ids: pa.Array, ecosystem: Ecosystem) -> Columns:
    """Returns the id of each event's user, and its time in UTC."""
    midnight = datetime.combine(ecosystem.first_day, time(), ZoneInfo(TIMEZONE))
    instants = (moments.second + int(midnight.timestamp())) * 1_000_000
    return {
        "user_id": pa.DictionaryArray.from_arrays(moments.user.astype(np.int32), ids),
        "time": pa.array(instants, pa.timestamp("us", "UTC")),
    }


@lru_cache(maxsize=8)
def _numbered(prefix: str, number: int) -> tuple[str, ...]:
    """Returns `number` names such as `shop-00017`, counted from 0."""
    width = len(str(number - 1))
    return tuple(f"{prefix}-{index:0{width}d}" for index in range(number))


def _named(numbers: Int64, names: Sequence[str]) -> pa.DictionaryArray:
    """Returns the name of each number (N,) as a dictionary array; null for `MISSING`."""
    is_missing = numbers == MISSING
    # Only names that occur go into the dictionary, not the whole catalogue.
    counts = np.bincount(numbers[~is_missing], minlength=len(names))
    used_numbers = np.flatnonzero(counts).tolist()
    dictionary_index = np.cumsum(counts > 0) - 1
    indices = pa.array(dictionary_index[numbers].astype(np.int32), mask=is_missing)
    return pa.DictionaryArray.from_arrays(
        indices, pa.array([names[i] for i in used_numbers], pa.string())
    )
