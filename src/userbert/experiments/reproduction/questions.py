"""The questions of the reproduction: the paper's three kinds of task (§4.2) on two data sets.

In: prepared data, and of the simulated ecosystem the folder of its logs. Out: `Labels`, drawn down
to sizes in proportion to each other, with the profile fields that no compared model may see. Used
by the experiments' plan.
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
"""Behavior before it is seen; responses and purchases from it on are predicted."""

HIDDEN: Mapping[str, tuple[str, ...]] = {
    "simulated": ("occupation",),
    "complete-journey": (*complete_journey.HIDDEN, "marital_status", "home_ownership"),
}
"""By data: profile fields that no model sees. They are answers, or labels of the multi-task
pretraining; a model that reads a label as its input learns nothing from it."""

PAPER_SIZES: Mapping[str, int] = {
    "travel_booking": 30_204,
    "golf_booking": 31_106,
    "next_genre": 5 * 586_130,
    "car_owner": 448_501,
    "parent": 400_268,
}
"""The paper's labels of the tasks that ours stand for (§4.5): two services, next genre (of which
586,130 users are the test fifth), has_car and is_parent."""

SCALE = 1_300.0
NEGATIVES = 3
"""A positive, of user targeting (paper §4.2)."""

_TRAITS = {
    "car_owner": "Does the user own a car?",
    "parent": "Is the user a parent?",
}
_SERVICES = {
    "travel_booking": "Does the user respond to the travel booking service?",
    "golf_booking": "Does the user respond to the golf booking service?",
}


def scaled(count: int, scale: float = SCALE) -> int:
    """How many labels stand for so many of the paper's: their sixth root times `scale`.

    The paper's sizes span a factor of 97, and there is about a hundredth of its users. In
    proportion the smallest tasks would have 300 labels, of which nothing can be learned. By the
    sixth root the span is 2.1 and the order stays: the smallest task can be told from noise, and
    the largest is learned in the time there is.
    """
    return round(scale * math.pow(count, 1 / 6))


def simulated_questions(
    data: PreparedData, ecosystem: Path, scale: float = SCALE, seed: int = 0
) -> list[Labels]:
    """Ask five questions of the simulated ecosystem: two targetings, next genre, two attributes.

    `ecosystem` is the folder that `simulate` wrote and `data` were prepared from. A task has
    `scaled` users, or all there are if these are fewer. Raises `InputError` if the folder's users
    are not those of the data.
    """
    pairs = pairs_at(data, [data.schema.instant(CUTOFF_SIMULATED)])
    questions = [
        *(_targeting(data, pairs, ecosystem, service, seed) for service in _SERVICES),
        _next_genre(data, pairs),
        *_questionnaires(data, pairs, ecosystem),
    ]
    return [
        replace(
            _drawn(question, scaled(PAPER_SIZES[question.name], scale), [seed, number]),
            hide=HIDDEN["simulated"],
        )
        for number, question in enumerate(questions)
    ]


def complete_journey_questions(data: PreparedData) -> list[Labels]:
    """Ask the demo's five questions, of all households, with the same fields hidden in each."""
    return [
        replace(labels, hide=HIDDEN["complete-journey"]) for labels in complete_journey.labels(data)
    ]


def _targeting(
    data: PreparedData, pairs: Pairs, ecosystem: Path, service: str, seed: int
) -> Labels:
    """Who responds to a service, and three a responder who do not."""
    responders = pl.read_parquet(ecosystem / "responses" / f"{service}.parquet")["user_id"]
    labels = label_response(data, pairs, responders.to_list(), negatives=NEGATIVES, seed=seed)
    return replace(labels, name=service, question=_SERVICES[service])


def _next_genre(data: PreparedData, pairs: Pairs) -> Labels:
    """Of which genre is the first later purchase, among those that the vocabulary knows."""
    segment, attribute = "long_term", "genre"
    vocabulary = data.vocabularies.segments[segment][attribute]
    assert isinstance(vocabulary, Categories), "the simulator's own schema says so"
    days = Ecosystem().future_days
    end = pairs.cutoffs + days * DAY_US
    actions = actions_between(data, segment, pairs.rows, pairs.cutoffs, end)
    ids = actions.ids[list(data.vocabularies.segments[segment]).index(attribute)]
    known = np.flatnonzero(ids >= FIRST_VALUE)
    user_of_action = list_numbers(actions.offsets)
    users, first = np.unique(user_of_action[known], return_index=True)
    some = Pairs(pairs.rows[users], pairs.cutoffs[users])
    return Labels(
        "next_genre",
        "Of which genre is the user's next purchase?",
        "multiclass",
        _user_ids(data, some),
        some.cutoffs,
        ids[known[first]].astype(np.int64) - FIRST_VALUE,
        vocabulary.values,
        attribute=(segment, attribute),
        horizon=f"{days}d",
    )


def _questionnaires(data: PreparedData, pairs: Pairs, ecosystem: Path) -> list[Labels]:
    """What users say of themselves when asked; in the simulation, the truth."""
    truth = pl.read_parquet(ecosystem / "truth" / "*.parquet", columns=["user_id", *_TRAITS])
    rows = data.rows_of(truth["user_id"].to_arrow())
    if not np.array_equal(np.sort(rows), np.arange(len(data))):
        raise InputError(
            f"{ecosystem}: its users are not those of {data.path}. Name the folder of logs that "
            "the data were prepared from."
        )
    of_row = np.argsort(rows)
    return [
        Labels(
            trait,
            question,
            "binary",
            _user_ids(data, pairs),
            pairs.cutoffs,
            truth[trait].to_numpy()[of_row[pairs.rows]].astype(np.int64),
        )
        for trait, question in _TRAITS.items()
    ]


def _user_ids(data: PreparedData, pairs: Pairs) -> tuple[str, ...]:
    return tuple(data.user_ids.take(pa.array(pairs.rows)).to_pylist())


def _drawn(labels: Labels, size: int, seed: list[int]) -> Labels:
    """At most `size` labels; of targeting, so many of each class as keep their proportion."""
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
