"""One part of a reproduction: a model of one seed, pretrained once and fine-tuned for every task.

In: a data set, a part of its plan. Out: its results as plain JSON, from which `collect` makes rows:
of every task the course of fine-tuning, and the last epoch's metrics on resamples of the test
users, so that differences between models can be paired later without the models.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.experiments import complete_journey
from userbert.experiments.reproduction.finetuning import Epoch, Tuning, fine_tune, fold_of
from userbert.experiments.reproduction.plan import Part, Plan
from userbert.experiments.reproduction.pretraining import Budget, pretrained
from userbert.experiments.reproduction.questions import (
    CUTOFF_SIMULATED,
    HIDDEN,
    complete_journey_questions,
    simulated_questions,
)
from userbert.experiments.reproduction.recipes import RECIPES
from userbert.experiments.reproduction.references import REFERENCES, Question, refer
from userbert.experiments.simulate import simulate
from userbert.provenance import made
from userbert.schema import Schema
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import Estimate

TOO_FEW = 10
"""Test users of the rarer answer, or test users in all where many answers are possible."""
TARGETING = ("travel_booking", "golf_booking", "targeting_audience", "targeting_all")
RISE = "test_loss_rise"
"""How far the loss on the test users lies above its lowest at the end: overfitting (figure 5)."""
_DIGITS = 5
UNITS = 10**_DIGITS
"""Resampled metrics are whole numbers of these parts of one."""


@dataclass(frozen=True)
class DataSet:
    """What all parts of a plan read."""

    data: PreparedData
    logs: Path | None
    """Of the simulated ecosystem, with the truth."""
    tasks: Sequence[Labels]


def is_attribute(task: str) -> bool:
    """Whether a task is attribute prediction (figure 6)."""
    return task not in TARGETING and not task.startswith("next_")


def make_data(plan: Plan, work: Path) -> None:
    """Simulate and prepare what is not there yet."""
    prepared = work / "prepared"
    if prepared.exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    if plan.data == "simulated":
        logs = work / "logs"
        if not logs.exists():
            assert plan.users is not None, "a plan of simulated data says how many users"
            simulate(logs, plan.users, seed=0)
        prepare(Schema.load(logs / "schema.yaml"), prepared)
        return
    schema = work / "schema.yaml"
    schema.write_text(complete_journey.schema_text(), encoding="utf-8")
    prepare(Schema.load(schema), prepared)


def open_data(plan: Plan, work: Path) -> DataSet:
    """Open what `make_data` made, and ask the questions."""
    data = PreparedData.open(work / "prepared")
    if plan.data == "simulated":
        assert plan.scale is not None, "a plan of simulated data says how many labels"
        return DataSet(data, work / "logs", simulated_questions(data, work / "logs", plan.scale))
    return DataSet(data, None, complete_journey_questions(data))


def do(part: Part, plan: Plan, source: DataSet, work: Path, command: Sequence[str]) -> Any:
    """Do a part; `work` keeps the pretrained weights, in case it is interrupted."""
    started = time.process_time()  # beside other parts, the clock would count their work as well
    about: Mapping[str, Any] = {}
    if part.model in REFERENCES:
        referred = (_referred(part, plan, source, labels) for labels in source.tasks)
        tasks = [task for task in referred if task is not None]
    else:
        about, tasks = _learned(part, plan, source, work)
    return {
        "made": made(command, [part.seed], source.data.checksum),
        "model": part.model,
        "seed": part.seed,
        "rates": {"pretraining": part.pretraining, "finetuning": part.finetuning},
        "batches": part.batches,
        "label_share": part.label_share,
        "pretraining": about,
        "seconds": round(time.process_time() - started, 1),
        "tasks": tasks,
    }


def too_small(labels: Labels, seed: int) -> str | None:
    """Say why a task's figures would mean nothing, if that is so."""
    _, test = fold_of(labels, seed)
    targets = labels.targets[test]
    if labels.kind == "binary":
        rarer = int(min(np.count_nonzero(targets == 0), np.count_nonzero(targets == 1)))
        what = "of the rarer answer"
    else:
        rarer, what = len(test), "in all"
    if rarer >= TOO_FEW:
        return None
    return f"too few: {rarer} test users {what}, {TOO_FEW} are the least"


def _referred(part: Part, plan: Plan, source: DataSet, labels: Labels) -> dict[str, Any] | None:
    note = too_small(labels, part.seed)
    if note is not None:
        return _about(labels, part, note)
    question = Question(source.data, labels, source.logs, part.seed, part.label_share)
    found = refer(part.model, question, plan.resamples)
    if found is None:
        return None
    return _about(labels, part) | {
        "by": found.by,
        "epochs": [_values(found.estimates)],
        "resampled": _resampled(found.estimates),
    }


def _learned(
    part: Part, plan: Plan, source: DataSet, work: Path
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    recipe = RECIPES[part.model]
    assert part.finetuning is not None, "what learns has a rate"
    simulated = plan.data == "simulated"
    budget = Budget(
        data=plan.data,
        cutoff=CUTOFF_SIMULATED if simulated else complete_journey.CUTOFF,
        hidden=HIDDEN[plan.data],
        batches=part.batches or plan.batches,
        batch_size=plan.batch_size,
        learning_rate=part.pretraining,
        seed=part.seed,
        silent=silent_users(source.tasks, part.seed),
    )
    start = pretrained(recipe, source.data, budget, work / part.weights)
    tuning = Tuning(
        part.finetuning,
        epochs=plan.epochs,
        resamples=plan.resamples,
        label_share=part.label_share,
    )
    tasks = []
    for labels in source.tasks:
        if recipe.targeting_only and labels.name not in TARGETING:
            continue
        note = too_small(labels, part.seed)
        if note is not None:
            tasks.append(_about(labels, part, note))
            continue
        epochs = fine_tune(start.encoder, source.data, labels, tuning, part.seed)
        tasks.append(_about(labels, part) | _course(epochs))
    return start.record, tasks


def silent_users(tasks: Sequence[Labels], seed: int) -> tuple[str, ...]:
    """Users who are tested on an attribute, in any such task."""
    return tuple(
        labels.user_ids[number]
        for labels in tasks
        if is_attribute(labels.name)
        for number in fold_of(labels, seed)[1]
    )


def _about(labels: Labels, part: Part, note: str | None = None) -> dict[str, Any]:
    learning, test = fold_of(labels, part.seed, part.label_share)
    return {"task": labels.name, "learning": len(learning), "test": len(test), "note": note}


def _course(epochs: Sequence[Epoch]) -> dict[str, Any]:
    """The course of fine-tuning; resamples of its end."""
    last = epochs[-1].estimates
    lowest = min((epoch.estimates["test_loss"] for epoch in epochs), key=lambda loss: loss.value)
    end = {**last, RISE: last["test_loss"].minus(lowest)}
    seen = [*(epoch.estimates for epoch in epochs[:-1]), end]
    return {
        "epochs": [
            {"train_loss": round(epoch.train_loss, _DIGITS), **_values(estimates)}
            for epoch, estimates in zip(epochs, seen, strict=True)
        ],
        "resampled": _resampled(end),
    }


def _values(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    return {name: round(found.value, _DIGITS) for name, found in estimates.items()}


def _resampled(estimates: Mapping[str, Estimate]) -> dict[str, str]:
    """The metrics on each resample, in whole `UNITS` on one line: files stay small."""
    return {
        name: " ".join(map(_whole, found.resampled.tolist())) for name, found in estimates.items()
    }


def _whole(value: float) -> str:
    """A resample may lack the rarer answer."""
    return "nan" if math.isnan(value) else str(round(value * UNITS))
