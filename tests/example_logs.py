"""Logs of a small synthetic shop, in the format of the README's example files."""

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

FIRST_DAY = datetime(2024, 1, 1)
DAYS = 120
CATEGORIES = ["bread", "milk", "fruit", "wine", "toys", "tools", "books", "tea", "shoes", "soap"]


def write_example_logs(folder: Path, users: int = 200, seed: int = 0) -> None:
    """Writes `events.parquet` and `profiles.parquet`.

    Parents buy toys and milk; each user has a constant rate of visits.
    """
    generator = np.random.default_rng(seed)
    parent = generator.random(users) < 0.4
    visits_a_day = generator.gamma(1.5, 0.12, users)
    taste = generator.dirichlet(np.full(len(CATEGORIES), 0.5), users)
    taste[parent] += np.isin(CATEGORIES, ["toys", "milk"]) * 0.4
    taste /= taste.sum(axis=1, keepdims=True)
    visits = generator.poisson(visits_a_day * DAYS) + 1
    user_of_visit = np.repeat(np.arange(users), visits)
    start = generator.uniform(0, DAYS * 86_400, len(user_of_visit))
    actions = generator.integers(1, 6, len(user_of_visit))
    user = np.repeat(user_of_visit, actions)
    second = np.repeat(start, actions) + generator.uniform(0, 900, len(user))
    chosen = (taste[user].cumsum(axis=1) < generator.random((len(user), 1))).sum(axis=1)
    events = pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in user],
            "timestamp": pl.Series((second * 1e6).astype(np.int64)).cast(pl.Duration("us"))
            + FIRST_DAY,
            "event_type": np.where(generator.random(len(user)) < 0.7, "view", "purchase"),
            "category": [CATEGORIES[min(number, 9)] for number in chosen],
            "price": np.round(generator.gamma(2.0, 8.0, len(user)), 2),
        }
    )
    events.sort("timestamp").write_parquet(folder / "events.parquet")
    pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in range(users)],
            "kids": np.where(parent, "yes", "no"),
            "age": generator.integers(18, 80, users),
        }
    ).write_parquet(folder / "profiles.parquet")
