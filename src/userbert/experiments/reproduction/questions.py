"""Tasks of the reproduction: the paper's three kinds of task (§4.2) on two data sets.

In: prepared data, and for the simulated ecosystem the folder of its logs. Out: `Labels`, sampled to
sizes in fixed proportions, with the profile fields that are hidden from all compared models. Used
by the jobs of the reproduction.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import list_numbers
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.data.use.sequences import actions_between
from userbert.data.vocabulary import FIRST_VALUE, Categories
from userbert.errors import InputError
from userbert.experiments import complete_journey
from userbert.experiments.ecosystem import Ecosystem
from userbert.tasks.labels import Labels, label_response

CUTOFF_SIMULATED = str(Ecosystem().end_day)
"""Cut-off of the simulated tasks: models see earlier events and predict later ones."""

HIDDEN: Mapping[str, tuple[str, ...]] = {
    "simulated": ("occupation",),
    "complete-journey": (*complete_journey.HIDDEN, "marital_status", "home_ownership"),
}
"""Profile fields hidden from all models, by data set. They give away the labels of a task, or are
themselves labels of multi-task pretraining, which would be trivial to predict."""

PAPER_SIZES: Mapping[str, int] = {
    "travel_booking": 30_204,
    "golf_booking": 31_106,
    "next_genre": 5 * 586_130,
    "car_owner": 448_501,
    "parent": 400_268,
}
"""Number of labels of each task's counterpart in the paper (§4.5): two services, next genre (a
fifth, 586,130, are test users), has_car and is_parent."""

SCALE = 1_300.0
"""Default scale of the numbers of labels; see `scaled`."""
NEGATIVES = 3
"""Negatives per positive in user targeting (paper §4.2)."""

_TRAITS = {
    "car_owner": "Does the user own a car?",
    "parent": "Is the user a parent?",
}
_SERVICES = {
    "travel_booking": "Does the user respond to the travel booking service?",
    "golf_booking": "Does the user respond to the golf booking service?",
}


def scaled(count: int, scale: float = SCALE) -> int:
    """Returns our number of labels for `count` labels of the paper: the sixth root times `scale`.

    The paper's sizes span a factor of 97, and we have about a hundredth of its users. In
    proportion, the smallest tasks would have 300 labels, too few to learn from. Sixth roots keep
    the order and span a factor of 2.1: the smallest task has enough labels, and the largest trains
    in reasonable time.
    """
    return round(scale * math.pow(count, 1 / 6))


def simulated_questions(
    data: PreparedData, ecosystem: Path, scale: float = SCALE, seed: int = 0
) -> list[Labels]:
    """Returns five simulated tasks: two of user targeting, next genre, two of attributes.

    `ecosystem` is the folder that `simulate` wrote, from which `data` were prepared. The number of
    labels of a task is `scaled`, or all labels if there are fewer. `seed` draws the labels.
    Raises `InputError` if the folder and the data have different users.
    """
    pairs = pairs_at(data, [data.schema.instant(CUTOFF_SIMULATED)])
    tasks = [
        *(_targeting(data, pairs, ecosystem, service, seed) for service in _SERVICES),
        _next_genre(data, pairs),
        *_questionnaires(data, pairs, ecosystem),
    ]
    return [
        replace(
            _sample(task, scaled(PAPER_SIZES[task.name], scale), [seed, number]),
            hide=HIDDEN["simulated"],
        )
        for number, task in enumerate(tasks)
    ]


def complete_journey_questions(data: PreparedData) -> list[Labels]:
    """Returns the demo's five tasks with all their labels, and the same hidden fields in each."""
    return [
        replace(labels, hide=HIDDEN["complete-journey"]) for labels in complete_journey.labels(data)
    ]


def _targeting(
    data: PreparedData, pairs: Pairs, ecosystem: Path, service: str, seed: int
) -> Labels:
    """Labels responders to a service, and three non-responders per responder."""
    responders = pl.read_parquet(ecosystem / "responses" / f"{service}.parquet")["user_id"]
    labels = label_response(data, pairs, responders.to_list(), negatives=NEGATIVES, seed=seed)
    return replace(labels, name=service, question=_SERVICES[service])


def _next_genre(data: PreparedData, pairs: Pairs) -> Labels:
    """Labels users with the genre of their next purchase in the future that was simulated.

    Purchases of genres that are not in the vocabulary are skipped.
    """
    segment, attribute = "long_term", "genre"
    vocabulary = data.vocabularies.segments[segment][attribute]
    assert isinstance(vocabulary, Categories), "genre is categorical in the simulator's schema"
    days = Ecosystem().future_days
    end = pairs.cutoffs + days * DAY_US
    actions = actions_between(data, segment, pairs.rows, pairs.cutoffs, end)
    ids = actions.ids[list(data.vocabularies.segments[segment]).index(attribute)]
    known = np.flatnonzero(ids >= FIRST_VALUE)
    user_of_action = list_numbers(actions.offsets)
    users, first = np.unique(user_of_action[known], return_index=True)
    next_pairs = Pairs(pairs.rows[users], pairs.cutoffs[users])
    return Labels(
        "next_genre",
        "Of which genre is the user's next purchase?",
        "multiclass",
        _user_ids(data, next_pairs),
        next_pairs.cutoffs,
        ids[known[first]].astype(np.int64) - FIRST_VALUE,
        vocabulary.values,
        attribute=(segment, attribute),
        horizon=f"{days}d",
    )


def _questionnaires(data: PreparedData, pairs: Pairs, ecosystem: Path) -> list[Labels]:
    """Labels users with the true traits, in place of the paper's answers to questionnaires."""
    truth = pl.read_parquet(ecosystem / "truth" / "*.parquet", columns=["user_id", *_TRAITS])
    rows = data.rows_of(truth["user_id"].to_arrow())
    if not np.array_equal(np.sort(rows), np.arange(len(data))):
        raise InputError(
            f"{ecosystem} and {data.path} have different users. Pass the folder of logs that "
            "the data were prepared from."
        )
    truth_rows = np.argsort(rows)
    return [
        Labels(
            trait,
            question,
            "binary",
            _user_ids(data, pairs),
            pairs.cutoffs,
            truth[trait].to_numpy()[truth_rows[pairs.rows]].astype(np.int64),
        )
        for trait, question in _TRAITS.items()
    ]


def _user_ids(data: PreparedData, pairs: Pairs) -> tuple[str, ...]:
    """Returns the user id of each pair."""
    return tuple(data.user_ids.take(pa.array(pairs.rows)).to_pylist())


def _sample(labels: Labels, size: int, seed: list[int]) -> Labels:
    """Samples at most `size` labels; user targeting has `NEGATIVES` negatives per positive."""
    if len(labels) <= size:
        return labels
    generator = np.random.default_rng(seed)
    if labels.name not in _SERVICES:
        return labels.take(np.sort(generator.choice(len(labels), size, replace=False)))
    positives = round(size / (1 + NEGATIVES))
    chosen = [
        generator.choice(np.flatnonzero(labels.targets == target), number, replace=False)
        for target, number in ((1, positives), (0, size - positives))
    ]
    return labels.take(np.sort(np.concatenate(chosen)))
