"""Studies that compare pretraining recipes: data, training bound, tasks and test users.

In: the folder of real logs, and one to prepare them in. Out: `Study`s. Those of `CHOICE` choose a
recipe; those of `CONFIRMATION` have other users or later months, and are evaluated once. Schemas
are those that `userbert init` proposes, without tuning per data set.
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
_TRAINING_ONLY = -1
"""Fold of labels that are never tested."""
_FIRST_EVENTS = 10
"""Events of a visitor before the cut-off."""
_SESSION = pl.duration(minutes=30)
_GA4_SPAN = datetime(2020, 12, 19), datetime(2021, 2, 1)
"""The longest period without missing days."""
_GA4_BOUND = "2021-01-12"
_SIMULATED_USERS = 40_000
_SIMULATED_SCALE = 600.0
"""Scale of the number of labels: about 3,400 to 5,500 per task."""


@dataclass(frozen=True)
class Task:
    """Labels, and the folds of their test users."""

    labels: Labels
    folds: Int64
    """Fold in which each label is tested (B,); -1: training only."""


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

    With `confirm`, test users are those that the files mark as `test`; without, these are left out.
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

    Pretraining sees earlier weeks; the tasks have visitors who reach ten events later. There are no
    data for a confirmation.
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
    """Opens a study of the reproduction's five simulated tasks, with fewer users."""
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
    if not (work / "data").exists():
        work.mkdir(parents=True, exist_ok=True)
        schema = Schema.infer(events, profiles=profiles)
        text = schema.dump() + f"fit_before: {before}\n"
        prepare(Schema.parse(text), work / "data")
    return PreparedData.open(work / "data")


def _task(labels: Labels, is_test: NDArray[np.bool_] | None = None) -> Task:
    if is_test is not None:
        return Task(labels, np.where(is_test, 0, _TRAINING_ONLY))
    return Task(labels, deal_users(labels.user_ids, labels.targets, FOLDS, seed=0))


def _as_values(
    labels: Labels, data: PreparedData, attribute: tuple[str, str]
) -> tuple[Labels, Int64]:
    """Returns labels with an attribute's values as classes, and the indices of the kept labels."""
    segment, name = attribute
    vocabulary = data.vocabularies.segments[segment][name]
    assert isinstance(vocabulary, Categories)
    value_numbers = {value: number for number, value in enumerate(vocabulary.values)}
    class_values = np.array([value_numbers.get(value, -1) for value in labels.classes])
    targets = class_values[labels.targets]
    kept = np.flatnonzero(targets >= 0)
    labels = replace(labels, targets=targets, classes=vocabulary.values, attribute=attribute)
    return labels.take(kept), kept
