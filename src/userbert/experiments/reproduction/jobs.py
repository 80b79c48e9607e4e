"""Runs one job of a reproduction: a model with one seed, pretrained and fine-tuned for all tasks.

In: a data set, a job of its plan. Out: its results as plain JSON, from which `collect` makes rows.
Each task has the metrics of every epoch, and the metrics of the last epoch on resamples of the test
users, for paired differences between models.
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
from userbert.experiments.reproduction.finetuning import Epoch, FinetuneSettings, fine_tune, fold_of
from userbert.experiments.reproduction.plan import Job, Plan
from userbert.experiments.reproduction.pretraining import Budget, pretrained
from userbert.experiments.reproduction.questions import (
    CUTOFF_SIMULATED,
    HIDDEN,
    complete_journey_questions,
    simulated_questions,
)
from userbert.experiments.reproduction.recipes import RECIPES
from userbert.experiments.reproduction.references import (
    REFERENCES,
    ReferenceTask,
    evaluate_reference,
)
from userbert.experiments.simulate import simulate
from userbert.provenance import provenance_record
from userbert.schema import Schema
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import Estimate

MIN_TEST_USERS = 10
"""Minimum number of test users of the rarer class, or of all classes if there are more than two."""
TARGETING = ("travel_booking", "golf_booking", "targeting_audience", "targeting_all")
"""Tasks of user targeting (figures 3 to 5)."""
RISE = "test_loss_rise"
"""Metric: last test loss minus the lowest, which shows overfitting (figure 5)."""
_DIGITS = 5
"""Decimals of stored metrics."""
UNITS = 10**_DIGITS
"""Resampled metrics are stored as integers, in units of 1 / `UNITS`."""


@dataclass(frozen=True)
class JobData:
    """Data that all jobs of a plan read."""

    data: PreparedData
    logs: Path | None
    """Folder of the simulated logs, with the truth; None for other data."""
    tasks: Sequence[Labels]
    """Tasks that models are fine-tuned for."""


def is_attribute(task: str) -> bool:
    """Returns whether a task is attribute prediction (figure 6)."""
    return task not in TARGETING and not task.startswith("next_")


def make_data(plan: Plan, work: Path) -> None:
    """Simulates logs and prepares data in the folder `work`, unless they are there already."""
    prepared = work / "prepared"
    if prepared.exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    if plan.data == "simulated":
        logs = work / "logs"
        if not logs.exists():
            assert plan.users is not None, "a plan for simulated data has users"
            simulate(logs, plan.users, seed=0)
        prepare(Schema.load(logs / "schema.yaml"), prepared)
        return
    schema = work / "schema.yaml"
    schema.write_text(complete_journey.schema_text(), encoding="utf-8")
    prepare(Schema.load(schema), prepared)


def open_data(plan: Plan, work: Path) -> JobData:
    """Opens the data that `make_data` wrote to `work`, and makes the tasks."""
    data = PreparedData.open(work / "prepared")
    if plan.data == "simulated":
        assert plan.scale is not None, "a plan for simulated data has a scale"
        return JobData(data, work / "logs", simulated_questions(data, work / "logs", plan.scale))
    return JobData(data, None, complete_journey_questions(data))


def run_job(job: Job, plan: Plan, source: JobData, work: Path, command: Sequence[str]) -> Any:
    """Runs a job and returns its results as plain JSON.

    The folder `work` keeps the pretrained weights for a restart and for jobs that share them.
    """
    started = time.process_time()  # wall time would count the jobs that run in parallel
    record: Mapping[str, Any] = {}
    if job.model in REFERENCES:
        results = (_run_reference(job, plan, source, labels) for labels in source.tasks)
        tasks = [task for task in results if task is not None]
    else:
        record, tasks = _run_model(job, plan, source, work)
    return {
        "made": provenance_record(command, [job.seed], source.data.checksum),
        "model": job.model,
        "seed": job.seed,
        "rates": {"pretraining": job.pretraining, "finetuning": job.finetuning},
        "batches": job.batches,
        "label_share": job.label_share,
        "pretraining": record,
        "seconds": round(time.process_time() - started, 1),
        "tasks": tasks,
    }


def note_if_too_small(labels: Labels, seed: int) -> str | None:
    """Returns a note that a task has fewer test users than `MIN_TEST_USERS`, or None."""
    _, test = fold_of(labels, seed)
    targets = labels.targets[test]
    if labels.kind == "binary":
        count = int(min(np.count_nonzero(targets == 0), np.count_nonzero(targets == 1)))
        class_text = "of the rarer class"
    else:
        count, class_text = len(test), "in all"
    if count >= MIN_TEST_USERS:
        return None
    return f"too few: {count} test users {class_text}, at least {MIN_TEST_USERS} are needed"


def _run_reference(job: Job, plan: Plan, source: JobData, labels: Labels) -> dict[str, Any] | None:
    """Returns the results of a reference on a task; None if it does not apply to the task."""
    note = note_if_too_small(labels, job.seed)
    if note is not None:
        return _task_record(labels, job, note)
    task = ReferenceTask(source.data, labels, source.logs, job.seed, job.label_share)
    result = evaluate_reference(job.model, task, plan.resamples)
    if result is None:
        return None
    return _task_record(labels, job) | {
        "by": result.column,
        "epochs": [_values(result.estimates)],
        "resampled": _resampled(result.estimates),
    }


def _run_model(
    job: Job, plan: Plan, source: JobData, work: Path
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """Pretrains a model and fine-tunes it for each task; returns both records."""
    recipe = RECIPES[job.model]
    assert job.finetuning is not None, "a model has a fine-tuning rate"
    simulated = plan.data == "simulated"
    budget = Budget(
        data=plan.data,
        cutoff=CUTOFF_SIMULATED if simulated else complete_journey.CUTOFF,
        hidden=HIDDEN[plan.data],
        batches=job.batches or plan.batches,
        batch_size=plan.batch_size,
        learning_rate=job.pretraining,
        seed=job.seed,
        silent=silent_users(source.tasks, job.seed),
    )
    model = pretrained(recipe, source.data, budget, work / job.weights)
    settings = FinetuneSettings(
        job.finetuning,
        epochs=plan.epochs,
        resamples=plan.resamples,
        label_share=job.label_share,
    )
    tasks = []
    for labels in source.tasks:
        if recipe.targeting_only and labels.name not in TARGETING:
            continue
        note = note_if_too_small(labels, job.seed)
        if note is not None:
            tasks.append(_task_record(labels, job, note))
            continue
        epochs = fine_tune(model.encoder, source.data, labels, settings, job.seed)
        tasks.append(_task_record(labels, job) | _fine_tuning(epochs))
    return model.record, tasks


def silent_users(tasks: Sequence[Labels], seed: int) -> tuple[str, ...]:
    """Returns the test users of all attribute tasks, whose profile fields give no labels."""
    return tuple(
        labels.user_ids[number]
        for labels in tasks
        if is_attribute(labels.name)
        for number in fold_of(labels, seed)[1]
    )


def _task_record(labels: Labels, job: Job, note: str | None = None) -> dict[str, Any]:
    """Returns the name of a task and its numbers of labels; `note` says why it has no metrics."""
    learning, test = fold_of(labels, job.seed, job.label_share)
    return {"task": labels.name, "learning": len(learning), "test": len(test), "note": note}


def _fine_tuning(epochs: Sequence[Epoch]) -> dict[str, Any]:
    """Returns the metrics of each epoch, and the resampled metrics of the last epoch."""
    last = epochs[-1].estimates
    lowest = min((epoch.estimates["test_loss"] for epoch in epochs), key=lambda loss: loss.value)
    last_with_rise = {**last, RISE: last["test_loss"].minus(lowest)}
    by_epoch = [*(epoch.estimates for epoch in epochs[:-1]), last_with_rise]
    return {
        "epochs": [
            {"train_loss": round(epoch.train_loss, _DIGITS), **_values(estimates)}
            for epoch, estimates in zip(epochs, by_epoch, strict=True)
        ],
        "resampled": _resampled(last_with_rise),
    }


def _values(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Returns metrics by name, rounded."""
    return {name: round(estimate.value, _DIGITS) for name, estimate in estimates.items()}


def _resampled(estimates: Mapping[str, Estimate]) -> dict[str, str]:
    """Returns each metric on all resamples, as text in `UNITS` that keeps files small."""
    return {
        name: " ".join(map(_in_units, estimate.resampled.tolist()))
        for name, estimate in estimates.items()
    }


def _in_units(value: float) -> str:
    """Formats a resampled metric in `UNITS`; "nan" if the resample has only one class."""
    return "nan" if math.isnan(value) else str(round(value * UNITS))
