"""Oracle scores from the hidden truth of simulated data: an upper bound for every model.

In: a task of `questions`, the folder of the simulated logs, the data prepared from them. Out:
scores or rankings by the generating process, which docs/explanation/simulated-ecosystem.md
describes. Compare a model with them rather than with chance: they show how much there is to learn.
Used by `references`.

Letters: B users of the task, G genres, C classes, T traits, K components with a single genre, N
names.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from userbert.data.ragged import Float64, Int64, list_numbers
from userbert.data.store import PreparedData
from userbert.data.use.sequences import actions_between
from userbert.data.vocabulary import NONE
from userbert.errors import InputError
from userbert.experiments.behavior import MAIN_GENRE, ROUTINE_DAYS
from userbert.experiments.catalogue import Catalogue, Choices, build_catalogue
from userbert.experiments.ecosystem import (
    GENDERS,
    Ecosystem,
    Habits,
    Service,
    Topics,
    Trait,
)
from userbert.experiments.people import (
    FAVOURITE_GENRES,
    FAVOURITE_SHOPS,
    MISSING,
    response_odds,
    trait_odds,
)
from userbert.folders import read_json
from userbert.tasks.labels import Labels

RANKED = 10
"""Number of ranked genres per user: the 10 of mAP@10."""
_USERS_AT_A_TIME = 1_000
"""Users whose probabilities (users, C) are in memory at a time."""


def oracle_scores(task: Labels, ecosystem: Path, data: PreparedData) -> NDArray[Any]:
    """Returns scores (B,) of a simulated task, or a ranking (B, 10) of classes, the best first.

    `ecosystem` is the folder that `simulate` wrote.

    - Targeting: the log-odds of a response, from the hidden traits.
    - An attribute: the hidden trait is the label itself, so scores are its log-odds given the
      profile. A model of behavior may beat this oracle of the profile.
    - Next genre: the ten most probable genres of the first purchase, from tastes and interests.
      The truth does not contain three inputs of the process: how much of a trait each user shows
      (the oracle takes the mean), the day of a routine (all are equally likely), and interests
      outside the last two weeks (ignored). The oracle also ignores campaigns, sales
      and pay-days. It estimates a user's purchase rate, which determines how soon the next
      purchase is, from purchases before the cut-off.

    Raises `InputError` if the folder does not hold all users of the task.
    """
    summary = read_json(ecosystem / "summary.json")
    parameters = _parameters(summary["ecosystem"])
    if task.kind == "multiclass":
        return _next_genres(task, ecosystem, data, build_catalogue(parameters, summary["seed"]))
    traits = [trait.name for trait in parameters.traits]
    if task.name in traits:
        return _profile_odds(task, ecosystem, parameters)[:, traits.index(task.name)]
    services = [service.name for service in parameters.services]
    holds = _rows_of_users(task, ecosystem / "truth").select(traits).to_numpy()
    odds: Float64 = response_odds(holds, parameters)[:, services.index(task.name)]
    return odds


def _profile_odds(task: Labels, ecosystem: Path, parameters: Ecosystem) -> Float64:
    """Returns the log-odds (B, T) of each trait given the profile."""
    profiles = _rows_of_users(task, ecosystem / "profiles")
    is_woman = (profiles["gender"] == GENDERS[0]).to_numpy()
    is_rural = _numbers(profiles["region"]) >= parameters.metropolitan_regions
    return trait_odds(profiles["age"].cast(pl.Int64).to_numpy(), is_woman, is_rural, parameters)


def _next_genres(
    task: Labels, ecosystem: Path, data: PreparedData, catalogue: Catalogue
) -> NDArray[np.int64]:
    """Returns the ten most probable classes (B, 10), the best first.

    Probabilities are those of the mixture from which `behavior` draws purchases.
    """
    truth = _rows_of_users(task, ecosystem / "truth")
    class_genre = _numbers(pl.Series(task.classes))  # (C,)
    class_of = np.full(catalogue.ecosystem.genres, MISSING)  # (G,)
    class_of[class_genre] = np.arange(len(class_genre))
    broad = _broad_shares(catalogue)[:, class_genre]  # (1 + lifestyles + departments, C)
    broad_weights, genres, weights = _mixture(
        truth, _interest_shares(task, data, catalogue), catalogue
    )
    classes = class_of[genres]
    weights = np.where((genres == MISSING) | (classes == MISSING), 0, weights)
    rankings = []
    for first in range(0, len(task), _USERS_AT_A_TIME):
        block = slice(first, first + _USERS_AT_A_TIME)
        probability = broad_weights[block] @ broad
        users = np.arange(len(probability))[:, None]
        np.add.at(probability, (users, classes[block]), weights[block])
        top = np.argpartition(-probability, RANKED - 1, axis=1)[:, :RANKED]
        order = np.argsort(-np.take_along_axis(probability, top, axis=1), axis=1)
        rankings.append(np.take_along_axis(top, order, axis=1))
    return np.concatenate(rankings)


def _broad_shares(catalogue: Catalogue) -> Float64:
    """Returns the probabilities of genres (1 + lifestyles + departments, G).

    Rows: the month after the log, each lifestyle, each department.
    """
    month = catalogue.month[catalogue.ecosystem.days]
    return np.concatenate(
        [
            _shares(catalogue.genres_of_month, catalogue)[month, None],
            _shares(catalogue.genres_of_lifestyle, catalogue),
            _shares(catalogue.genres_of_department, catalogue),
        ]
    )


def _shares(choices: Choices, catalogue: Catalogue) -> Float64:
    """Returns the probability (groups, G) of each genre in each group."""
    groups = len(choices.first) - 1
    shares = np.zeros((groups, catalogue.ecosystem.genres))
    group = list_numbers(choices.first)
    # The weights of group g end at g + 1, where the next group begins.
    shares[group, choices.items] = np.diff(choices.cumulative, prepend=0)
    return shares


def _mixture(
    truth: pl.DataFrame, interest_shares: Float64, catalogue: Catalogue
) -> tuple[Float64, Int64, Float64]:
    """Returns the mixture from which `behavior` draws purchases.

    The first array has the weights of the rows of `_broad_shares` (B, rows). The others have
    components with a single genre: genres (B, K), `MISSING` for none, and weights (B, K).
    """
    ecosystem, habits = catalogue.ecosystem, catalogue.ecosystem.habits
    routine = _numbers(truth["routine_genre"])
    in_routine = (routine != MISSING) * ecosystem.routine_purchase * ROUTINE_DAYS / 30
    holds = truth.select(trait.name for trait in ecosystem.traits).to_numpy()  # (B, T)
    shown = holds * ecosystem.trait_intensity * (1 - in_routine)[:, None]
    unexplained = 1 - in_routine - shown.sum(axis=1)

    shops = _columns(truth, "favourite_shop", len(FAVOURITE_SHOPS))
    shop_genre = catalogue.shop_genre[shops]
    in_shop = unexplained[:, None] * habits.favourite_shop * FAVOURITE_SHOPS
    favourites = _columns(truth, "favourite_genre", FAVOURITE_GENRES)
    in_favourite = np.full(favourites.shape, habits.favourite_genre / FAVOURITE_GENRES)
    interests = np.stack([_numbers(truth[name]) for name in ("interest", "fading_interest")], 1)
    in_interest = (unexplained * habits.interest)[:, None] * interest_shares  # (B, 2)
    in_new_interest = unexplained * habits.interest - in_interest.sum(axis=1)

    # `behavior` draws the k-th of n genres of a trait if n u² is between k and k + 1.
    steps = np.diff(np.sqrt(np.arange(ecosystem.trait_genres + 1) / ecosystem.trait_genres))
    trait_genres = np.tile(catalogue.trait_genres.ravel(), (len(truth), 1))
    in_trait = (shown[:, :, None] * steps).reshape(len(truth), -1)

    broad = np.zeros((len(truth), 1 + ecosystem.lifestyles + ecosystem.departments))
    users = np.arange(len(truth))
    popular = 1 - habits.favourite_shop - habits.favourite_genre - habits.interest
    broad[:, 0] = unexplained * popular + in_new_interest / 2
    broad[users, 1 + truth["lifestyle"].to_numpy()] = in_new_interest / 2
    department = 1 + ecosystem.lifestyles + catalogue.department[shop_genre]
    np.add.at(broad, (users[:, None], department), in_shop * (1 - MAIN_GENRE))
    genres = np.hstack([routine[:, None], trait_genres, shop_genre, favourites, interests])
    weights = np.hstack(
        [
            in_routine[:, None],
            in_trait,
            in_shop * MAIN_GENRE,
            unexplained[:, None] * in_favourite,
            in_interest,
        ]
    )
    return broad, genres, weights


def _interest_shares(task: Labels, data: PreparedData, catalogue: Catalogue) -> Float64:
    """Returns the probabilities (B, 2) that a purchase follows a known interest.

    The columns are the interests of the last week of the log and of the week before. The
    probabilities are higher for users whose next purchase is sooner. An interest lasts into the
    next week with probability `interest_kept`.
    """
    ecosystem = catalogue.ecosystem
    day = np.arange(ecosystem.future_days)
    lag = np.arange(ecosystem.days)
    mean = ecosystem.interest_lag_days
    lag_probability = np.exp(-lag / mean) * (1 - np.exp(-1 / mean))
    # Week 0 ends with the log.
    week = (day[:, None] - lag) // 7 + 1  # (days, lags)
    after, before = np.maximum(week, 0), np.maximum(-1 - week, 0)
    last = np.where(week >= 0, ecosystem.interest_kept**after, 0) @ lag_probability
    fading = np.where(week < 0, ecosystem.interest_kept**before, 0) @ lag_probability
    rate = (_purchase_counts(task, data) + 1) / ecosystem.days
    day_probability = np.exp(-rate[:, None] * day)  # (B, days)
    day_probability /= day_probability.sum(axis=1, keepdims=True)
    shares: Float64 = day_probability @ np.stack([last, fading], axis=1)
    return shares


def _purchase_counts(task: Labels, data: PreparedData) -> Int64:
    """Returns the number of purchases (B,) before the cut-off."""
    rows = data.rows_of(task.user_ids)
    actions = actions_between(data, "long_term", rows, None, task.cutoffs)
    genres = actions.ids[list(data.vocabularies.segments["long_term"]).index("genre")]
    users = list_numbers(actions.offsets)
    return np.bincount(users[genres != NONE], minlength=len(rows))


def _rows_of_users(task: Labels, folder: Path) -> pl.DataFrame:
    """Returns the rows of a folder's Parquet files for the task's users, in the task's order."""
    users = pl.DataFrame({"user_id": task.user_ids})
    all_rows = pl.read_parquet(folder / "*.parquet")
    joined = users.join(all_rows, on="user_id", how="inner", maintain_order="left")
    if len(joined) < len(users):
        raise InputError(
            f"{folder} does not hold {len(users) - len(joined)} of the {len(users)} users of task "
            f"{task.name}. Pass the folder of logs that the task was made from."
        )
    return joined


def _columns(truth: pl.DataFrame, name: str, number: int) -> Int64:
    """Returns the ids (B, number) of the names in the columns `name_1` to `name_NUMBER`."""
    return np.stack([_numbers(truth[f"{name}_{rank}"]) for rank in range(1, number + 1)], axis=1)


def _numbers(names: pl.Series) -> Int64:
    """Returns the ids (N,) of names: 17 for "genre-00017", `MISSING` for null."""
    numbers = names.cast(pl.String).str.extract(r"-(\d+)$").cast(pl.Int64).fill_null(MISSING)
    return numbers.to_numpy()


def _parameters(content: Mapping[str, Any]) -> Ecosystem:
    """Returns the ecosystem from its JSON object in `summary.json`."""
    return Ecosystem(
        **{
            **content,
            "first_day": date.fromisoformat(content["first_day"]),
            "habits": Habits(**content["habits"]),
            "topics": Topics(**content["topics"]),
            "traits": tuple(Trait(**trait) for trait in content["traits"]),
            "services": tuple(_service(**service) for service in content["services"]),
        }
    )


def _service(name: str, base: float, traits: Sequence[Sequence[Any]]) -> Service:
    return Service(name, base, tuple((trait, added) for trait, added in traits))
