"""Studies that compare pretraining recipes: data, training bound, tasks and test users.

In: the folder of real logs, and a work folder for prepared data. Out: `Study`s. Studies of `CHOICE`
serve to choose a recipe. Studies of `CONFIRMATION` have other users or later months, and are
evaluated once. Schemas of real logs are what `userbert init` proposes, except Complete Journey's,
which is the demo's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from userbert.data.prepare.prepare import prepare
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.vocabulary import Categories
from userbert.experiments import complete_journey
from userbert.experiments.reproduction.questions import (
    CUTOFF_SIMULATED,
    HIDDEN,
    simulated_questions,
)
from userbert.experiments.simulate import simulate
from userbert.schema import Schema
from userbert.tasks.labels import Labels
from userbert.tasks.splits import deal_users

FOLDS = 4
"""Number of folds of users in which labels are tested."""
_TRAINING_ONLY = -1
"""Fold of labels that serve only for training."""
_FIRST_EVENTS = 10
"""Number of events of a visitor before the cut-off."""
_SESSION = pl.duration(minutes=30)
"""Pause after which a visitor's next event begins a new session."""
_GA4_SPAN = datetime(2020, 12, 19), datetime(2021, 2, 1)
"""The longest period without missing days; the end is excluded."""
_GA4_BOUND = "2021-01-12"
"""Pretraining sees events before this day; tasks have cut-offs from this day on."""
_SIMULATED_USERS = 40_000
"""Number of simulated users."""
_SIMULATED_SCALE = 600.0
"""Scale of the numbers of labels: about 3,300 to 7,200 per task, if the data have as many."""


@dataclass(frozen=True)
class Task:
    """Labels, and the folds of their test users."""

    labels: Labels
    folds: Int64
    """Fold in which each label (B,) is tested; -1: only for training."""


@dataclass(frozen=True)
class Study:
    """Prepared data, the bound and hidden fields of pretraining, and the tasks."""

    data: PreparedData
    before: str
    """Pretraining sees events before this date."""
    hidden: tuple[str, ...]
    """Profile fields hidden from all models."""
    tasks: tuple[Task, ...]


def ta_feng(before: str, *names: str) -> Callable[..., Study]:
    """Returns a function that opens a study of Ta-Feng, with the tasks `names`.

    With `confirm`, models are tested on the users that the files mark as `test`; without it, these
    users are left out.
    Data and pretraining end at the cut-off of the tasks, as in real use.
    """

    def study(logs: Path, work: Path, *, confirm: bool) -> Study:
        folder = logs / "ta-feng"
        data = _prepared(
            work / f"ta-feng-{before}",
            folder / "events.parquet",
            folder / "profiles.parquet",
            before,
        )
        tasks = []
        for name in names:
            frame = pl.read_parquet(folder / f"{name}.parquet")
            if not confirm:
                frame = frame.filter(~pl.col("test"))
            labels, is_test = Labels.of(frame, data, name), frame["test"].to_numpy()
            if name == "next":
                labels, kept = _as_values(labels, data, ("long_term", "product_subclass"))
                is_test = is_test[kept]
            tasks.append(_task(labels, is_test if confirm else None))
        return Study(data, before, ("age_group",), tuple(tasks))

    return study


def ga4(logs: Path, work: Path, *, confirm: bool) -> Study:
    """Opens a study of shop visitors after ten events without a cart: will they use one, or return?

    Pretraining sees the weeks before `_GA4_BOUND`; the tasks have visitors whose ten events end
    later. No data remain to confirm a choice, so `confirm` has no effect.
    """
    folder = logs / "ga4-merch-store"
    events_path = work / "ga4" / "events.parquet"
    if not events_path.exists():
        events_path.parent.mkdir(parents=True, exist_ok=True)
        events = pl.read_parquet(folder / "events.parquet")
        events.filter(pl.col("timestamp").is_between(*_GA4_SPAN, closed="left")).write_parquet(
            events_path
        )
    data = _prepared(work / "ga4", events_path, folder / "profiles.parquet", _GA4_BOUND)
    frame = _visitors(pl.read_parquet(events_path, columns=["user_id", "timestamp", "event_type"]))
    frame = frame.filter(pl.col("cutoff") >= pl.lit(_GA4_BOUND).str.to_datetime())
    tasks = [
        _task(Labels.of(frame.select("user_id", "cutoff", label=name), data, name))
        for name in ("cart", "comes_back")
    ]
    return Study(data, _GA4_BOUND, (), tuple(tasks))


def _visitors(events: pl.DataFrame) -> pl.DataFrame:
    """Returns `user_id`, `cutoff`, `cart` and `comes_back` of visitors with ten cartless events."""
    events = events.sort("user_id", "timestamp").with_columns(
        number=pl.int_range(pl.len()).over("user_id"),
        is_cart=pl.col("event_type") == "add_to_cart",
        gap=pl.col("timestamp").diff().over("user_id"),
    )
    last = pl.col("timestamp").filter(pl.col("number") == _FIRST_EVENTS - 1).first()
    is_first = pl.col("timestamp") <= pl.col("last")
    return (
        events.with_columns(last=last.over("user_id"))
        .filter(pl.col("last").is_not_null())
        .group_by("user_id", maintain_order=True)
        .agg(
            cutoff=pl.col("last").first() + pl.duration(microseconds=1),
            had_cart=(is_first & pl.col("is_cart")).any(),
            cart=(~is_first & pl.col("is_cart")).any().cast(pl.Int8),
            comes_back=(~is_first & (pl.col("gap") > _SESSION)).any().cast(pl.Int8),
        )
        .filter(~pl.col("had_cart"))
    )


def simulated(logs: Path, work: Path, *, confirm: bool) -> Study:
    """Opens a study of the reproduction's five simulated tasks, with fewer users.

    Neither `logs` nor `confirm` has an effect.
    """
    folder = work / "simulated"
    if not (folder / "logs").exists():
        folder.mkdir(parents=True, exist_ok=True)
        simulate(folder / "logs", _SIMULATED_USERS)
    if not (folder / "data").exists():
        prepare(Schema.load(folder / "logs" / "schema.yaml"), folder / "data")
    data = PreparedData.open(folder / "data")
    questions = simulated_questions(data, folder / "logs", _SIMULATED_SCALE)
    return Study(data, CUTOFF_SIMULATED, HIDDEN["simulated"], tuple(map(_task, questions)))


def complete_journey_at(cutoff: str, until: str | None) -> Callable[..., Study]:
    """Returns a function that opens a study of Complete Journey's tasks at a cut-off.

    Only campaigns that start before `until` count.
    """

    def study(logs: Path, work: Path, *, confirm: bool) -> Study:
        folder = work / f"complete-journey-{cutoff}"
        if not (folder / "data").exists():
            folder.mkdir(parents=True, exist_ok=True)
            schema = folder / "schema.yaml"
            schema.write_text(complete_journey.schema_text(cutoff), encoding="utf-8")
            prepare(Schema.load(schema), folder / "data")
        data = PreparedData.open(folder / "data")
        tasks = tuple(map(_task, complete_journey.labels(data, cutoff, until)))
        return Study(data, cutoff, complete_journey.HIDDEN, tasks)

    return study


CHOICE: Mapping[str, Callable[..., Study]] = {
    "ta-feng": ta_feng("2001-02-01", "return", "next"),
    "ta-feng-age": ta_feng("2001-03-01", "age45"),
    "ga4": ga4,
    "simulated": simulated,
    "complete-journey-2017-06-01": complete_journey_at("2017-06-01", "2017-09-01"),
}
CONFIRMATION: Mapping[str, Callable[..., Study]] = {
    "ta-feng-test": ta_feng("2001-02-01", "return", "next"),
    "ta-feng-age-test": ta_feng("2001-03-01", "age45"),
    "complete-journey-2017-09-01": complete_journey_at("2017-09-01", None),
}


def open_study(name: str, logs: Path, work: Path) -> Study:
    """Opens a study by name, and prepares its data if needed."""
    studies = {**CHOICE, **CONFIRMATION}
    return studies[name](logs, work, confirm=name in CONFIRMATION)


def _prepared(work: Path, events: Path, profiles: Path, before: str) -> PreparedData:
    """Opens the data in `work`; prepares them first, by a proposed schema, if they are missing."""
    if not (work / "data").exists():
        work.mkdir(parents=True, exist_ok=True)
        schema = Schema.infer(events, profiles=profiles)
        text = schema.dump() + f"fit_before: {before}\n"
        prepare(Schema.parse(text), work / "data")
    return PreparedData.open(work / "data")


def _task(labels: Labels, is_test: NDArray[np.bool_] | None = None) -> Task:
    """Returns a task that is tested on the labels in a mask, or in `FOLDS` folds of users."""
    if is_test is not None:
        return Task(labels, np.where(is_test, 0, _TRAINING_ONLY))
    return Task(labels, deal_users(labels.user_ids, labels.targets, FOLDS, seed=0))


def _as_values(
    labels: Labels, data: PreparedData, attribute: tuple[str, str]
) -> tuple[Labels, Int64]:
    """Returns labels with an attribute's values as classes, and the indices of these labels.

    Labels whose class is not in the vocabulary are dropped. `attribute` is (segment, attribute).
    """
    segment, name = attribute
    vocabulary = data.vocabularies.segments[segment][name]
    assert isinstance(vocabulary, Categories)
    value_numbers = {value: number for number, value in enumerate(vocabulary.values)}
    class_values = np.array([value_numbers.get(value, -1) for value in labels.classes])
    targets = class_values[labels.targets]
    kept = np.flatnonzero(targets >= 0)
    labels = replace(labels, targets=targets, classes=vocabulary.values, attribute=attribute)
    return labels.take(kept), kept
