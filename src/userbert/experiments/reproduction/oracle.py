"""What the truth allows: scores that no model can expect to beat, on simulated data alone.

In: a task of `questions`, the folder of the simulated logs, the data prepared from them. Out:
scores, or rankings, by the generating process itself, which stands in
docs/explanation/simulated-ecosystem.md. They say how much there is to be found: a model's distance
from chance means little beside the distance from here. Used by the experiments' plan.

Letters: B users of the task, G genres, C classes, T traits.
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
    NOBODY,
    response_odds,
    trait_odds,
)
from userbert.folders import read_json
from userbert.tasks.labels import Labels

RANKED = 10
"""Genres a user: as many as mAP@10 looks at."""
_USERS_AT_A_TIME = 1_000


def oracle_scores(task: Labels, ecosystem: Path, data: PreparedData) -> NDArray[Any]:
    """Score a simulated task by the truth: (B,), or (B, 10) classes, the best first.

    - Targeting: the log-odds of a response, from the hidden traits.
    - An attribute: the trait is the answer, so knowing it would say nothing. The scores are the
      log-odds of the trait given the profile: an oracle of the profile, which a model of behavior
      may well beat.
    - Next genre: the ten most probable genres of the first purchase, from tastes and interests.
      Left out, since the truth's files do not have them: how much of a trait each user shows (the
      mean is taken), the day of the month of a routine (any is as likely), interests of the weeks
      to come and older than two weeks; and the calendar's campaigns. The user's rate, which says
      how soon the purchase is, comes from the purchases before the cut-off.

    Raises `InputError` if the folder does not know the task's users.
    """
    summary = read_json(ecosystem / "summary.json")
    parameters = _parameters(summary["ecosystem"])
    if task.kind == "multiclass":
        return _next_genres(task, ecosystem, data, build_catalogue(parameters, summary["seed"]))
    traits = [trait.name for trait in parameters.traits]
    if task.name in traits:
        return _profile_odds(task, ecosystem, parameters)[:, traits.index(task.name)]
    services = [service.name for service in parameters.services]
    held = _of_users(task, ecosystem / "truth").select(traits).to_numpy()
    odds: Float64 = response_odds(held, parameters)[:, services.index(task.name)]
    return odds


def _profile_odds(task: Labels, ecosystem: Path, parameters: Ecosystem) -> Float64:
    """(B, T): log-odds of each trait, as the profile has it."""
    profiles = _of_users(task, ecosystem / "profiles")
    is_woman = (profiles["gender"] == GENDERS[0]).to_numpy()
    is_rural = _numbers(profiles["region"]) >= parameters.metropolitan_regions
    return trait_odds(profiles["age"].cast(pl.Int64).to_numpy(), is_woman, is_rural, parameters)


def _next_genres(
    task: Labels, ecosystem: Path, data: PreparedData, catalogue: Catalogue
) -> NDArray[np.int64]:
    """(B, 10): class indices by falling probability in the mixture that purchases come of."""
    truth = _of_users(task, ecosystem / "truth")
    class_genre = _numbers(pl.Series(task.classes))  # (C,)
    class_of = np.full(catalogue.ecosystem.genres, NOBODY)  # (G,)
    class_of[class_genre] = np.arange(len(class_genre))
    wide = _wide(catalogue)[:, class_genre]  # (1 + lifestyles + departments, C)
    wide_weights, genres, weights = _mixture(
        truth, _interest_shares(task, data, catalogue), catalogue
    )
    classes = class_of[genres]
    weights = np.where((genres == NOBODY) | (classes == NOBODY), 0, weights)
    best = []
    for first in range(0, len(task), _USERS_AT_A_TIME):
        part = slice(first, first + _USERS_AT_A_TIME)
        probability = wide_weights[part] @ wide
        users = np.arange(len(probability))[:, None]
        np.add.at(probability, (users, classes[part]), weights[part])
        top = np.argpartition(-probability, RANKED - 1, axis=1)[:, :RANKED]
        order = np.argsort(-np.take_along_axis(probability, top, axis=1), axis=1)
        best.append(np.take_along_axis(top, order, axis=1))
    return np.concatenate(best)


def _wide(catalogue: Catalogue) -> Float64:
    """(1 + lifestyles + departments, G): shares of genres that day, by lifestyle, by department."""
    month = catalogue.month[catalogue.ecosystem.days]
    return np.concatenate(
        [
            _shares(catalogue.genres_of_month, catalogue)[month, None],
            _shares(catalogue.genres_of_lifestyle, catalogue),
            _shares(catalogue.genres_of_department, catalogue),
        ]
    )


def _shares(choices: Choices, catalogue: Catalogue) -> Float64:
    """(groups, G): the probability of each genre in each group."""
    groups = len(choices.first) - 1
    shares = np.zeros((groups, catalogue.ecosystem.genres))
    group = list_numbers(choices.first)
    # Group g's weights end at g + 1, where the next ones begin.
    shares[group, choices.items] = np.diff(choices.cumulative, prepend=0)
    return shares


def _mixture(
    truth: pl.DataFrame, interest_shares: Float64, catalogue: Catalogue
) -> tuple[Float64, Int64, Float64]:
    """Weights (B, rows of `_wide`), and single genres (B, K) with their weights (B, K).

    The same reasons in the same order as `behavior` draws them.
    """
    ecosystem, habits = catalogue.ecosystem, catalogue.ecosystem.habits
    routine = _numbers(truth["routine_genre"])
    in_routine = (routine != NOBODY) * ecosystem.routine_purchase * ROUTINE_DAYS / 30
    held = truth.select(trait.name for trait in ecosystem.traits).to_numpy()  # (B, T)
    shown = held * ecosystem.trait_intensity * (1 - in_routine)[:, None]
    free = 1 - in_routine - shown.sum(axis=1)

    shops = _columns(truth, "favourite_shop", len(FAVOURITE_SHOPS))
    shop_genre = catalogue.shop_genre[shops]
    in_shop = free[:, None] * habits.favourite_shop * FAVOURITE_SHOPS
    favourites = _columns(truth, "favourite_genre", FAVOURITE_GENRES)
    in_favourite = np.full(favourites.shape, habits.favourite_genre / FAVOURITE_GENRES)
    interests = np.stack([_numbers(truth[name]) for name in ("interest", "fading_interest")], 1)
    curious = (free * habits.interest)[:, None] * interest_shares  # (B, 2)
    newly_curious = free * habits.interest - curious.sum(axis=1)

    # The k-th of n genres of a trait is shown where n u² lies between k and k + 1.
    steps = np.diff(np.sqrt(np.arange(ecosystem.trait_genres + 1) / ecosystem.trait_genres))
    of_traits = np.tile(catalogue.trait_genres.ravel(), (len(truth), 1))
    in_trait = (shown[:, :, None] * steps).reshape(len(truth), -1)

    wide = np.zeros((len(truth), 1 + ecosystem.lifestyles + ecosystem.departments))
    users = np.arange(len(truth))
    popular = 1 - habits.favourite_shop - habits.favourite_genre - habits.interest
    wide[:, 0] = free * popular + newly_curious / 2
    wide[users, 1 + truth["lifestyle"].to_numpy()] = newly_curious / 2
    department = 1 + ecosystem.lifestyles + catalogue.department[shop_genre]
    np.add.at(wide, (users[:, None], department), in_shop * (1 - MAIN_GENRE))
    genres = np.hstack([routine[:, None], of_traits, shop_genre, favourites, interests])
    weights = np.hstack(
        [in_routine[:, None], in_trait, in_shop * MAIN_GENRE, free[:, None] * in_favourite, curious]
    )
    return wide, genres, weights


def _interest_shares(task: Labels, data: PreparedData, catalogue: Catalogue) -> Float64:
    """(B, 2): how likely a purchase out of an interest follows that of the last week, or before.

    The sooner a user's next purchase, the likelier; each interest lasts into the next week with
    the probability `interest_kept`.
    """
    ecosystem = catalogue.ecosystem
    day = np.arange(ecosystem.future_days)
    lag = np.arange(ecosystem.days)
    mean = ecosystem.interest_lag_days
    of_lag = np.exp(-lag / mean) * (1 - np.exp(-1 / mean))
    # Weeks after the log's last one; it ends with the log.
    week = (day[:, None] - lag) // 7 + 1  # (days, lags)
    after, before = np.maximum(week, 0), np.maximum(-1 - week, 0)
    last = np.where(week >= 0, ecosystem.interest_kept**after, 0) @ of_lag
    fading = np.where(week < 0, ecosystem.interest_kept**before, 0) @ of_lag
    rate = (_purchases(task, data) + 1) / ecosystem.days
    of_day = np.exp(-rate[:, None] * day)  # (B, days)
    of_day /= of_day.sum(axis=1, keepdims=True)
    shares: Float64 = of_day @ np.stack([last, fading], axis=1)
    return shares


def _purchases(task: Labels, data: PreparedData) -> Int64:
    """(B,): before the cut-off."""
    rows = data.rows_of(task.user_ids)
    actions = actions_between(data, "long_term", rows, None, task.cutoffs)
    genres = actions.ids[list(data.vocabularies.segments["long_term"]).index("genre")]
    users = list_numbers(actions.offsets)
    return np.bincount(users[genres != NONE], minlength=len(rows))


def _of_users(task: Labels, folder: Path) -> pl.DataFrame:
    """The rows of a folder's Parquet files that are the task's users, in the task's order."""
    users = pl.DataFrame({"user_id": task.user_ids})
    everybody = pl.read_parquet(folder / "*.parquet")
    found = users.join(everybody, on="user_id", how="inner", maintain_order="left")
    if len(found) < len(users):
        raise InputError(
            f"{folder} does not know {len(users) - len(found)} of the {len(users)} users of "
            f"{task.name}. Name the folder of logs that the task was made from."
        )
    return found


def _columns(truth: pl.DataFrame, name: str, number: int) -> Int64:
    """(B, number): the numbers of what stands in `name_1`, `name_2` and so on."""
    return np.stack([_numbers(truth[f"{name}_{place}"]) for place in range(1, number + 1)], axis=1)


def _numbers(names: pl.Series) -> Int64:
    """(N,): from "genre-00017" to 17, NOBODY where there is no name."""
    numbers = names.cast(pl.String).str.extract(r"-(\d+)$").cast(pl.Int64).fill_null(NOBODY)
    return numbers.to_numpy()


def _parameters(content: Mapping[str, Any]) -> Ecosystem:
    """The ecosystem as `summary.json` names it."""
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
