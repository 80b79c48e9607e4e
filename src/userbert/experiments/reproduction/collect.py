"""Turns the results of a reproduction's jobs into the rows of `results.json`.

In: the result of `run_job` for each finished job. Out: rows by experiment, with intervals and
paired differences. Jobs may be missing, so an unfinished reproduction can be inspected: a model is
averaged over the seeds that have finished.

An interval covers other test users: it comes from resamples that all models share. If the standard
deviation between seeds is larger than their test users explain, the interval is wider by the ratio
of the two; with one seed the ratio is unknown.

Letters in shapes: S seeds, R resamples of the test users.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from userbert.data.ragged import Float64
from userbert.experiments.reproduction.jobs import RISE, TARGETING, UNITS
from userbert.experiments.reproduction.plan import Plan
from userbert.experiments.reproduction.recipes import RECIPES
from userbert.experiments.reproduction.references import REFERENCES
from userbert.experiments.reproduction.rows import MINUS

Rows = list[dict[str, Any]]
"""Rows of `results.json`; see `rows`."""

PAPER_TABLE_2 = {
    "userbert": 0.0897,
    "wide-deep-mtl": 0.0765,
    "transformer-mtl": 0.0710,
    "lstm-mtl": 0.0690,
    "popularity": 0.0422,
}
"""mAP@10 by model (paper §4.5, table 2 and text); the paper prints no numbers of its figures."""
FROM_SCRATCH = {
    "userbert": "userbert-from-scratch",
    **{f"{tower}-mtl": f"{tower}-from-scratch" for tower in ("wide-deep", "lstm", "transformer")},
}
"""Variant of each model that is not pretrained."""
_FIGURE_4 = ("transformer-mtl", "transformer-mtl-30", "transformer-from-scratch")
"""Models of figure 4."""
_FIGURE_5 = ("userbert", "userbert-from-scratch")
"""Models of figure 5."""
PAIRS = (
    *(("userbert", model) for model in (*RECIPES, *REFERENCES) if model != "userbert"),
    *((model, scratch) for model, scratch in FROM_SCRATCH.items() if model != "userbert"),
    *((f"{tower}-mtl", "lstm-mtl") for tower in ("wide-deep", "transformer")),
    *((f"{tower}-mtl", "popularity") for tower in ("wide-deep", "lstm", "transformer")),
    ("transformer-mtl", "transformer-mtl-30"),
    ("transformer-mtl-30", "transformer-from-scratch"),
)
"""Pairs of models whose differences, the first minus the second, are reported."""


def rows_of(data: str, jobs: Sequence[Mapping[str, Any]]) -> Rows:
    """Returns the rows of one data set, from the results of its jobs without variations."""
    rows: Rows = []
    for rates in _trials(jobs):
        seeds = {job["seed"] for job in jobs if job["rates"] == rates}
        # Jobs without a rate belong to every trial with their other rate. Only the seeds of this
        # trial count: each seed has its own test users, and a table must not mix them.
        trial_jobs = [job for job in jobs if job["seed"] in seeds and _belongs_to(job, rates)]
        rate_keys = {
            "data": data,
            "learning_rate": rates["pretraining"],
            "finetuning_rate": rates["finetuning"],
        }
        for task in dict.fromkeys(task["task"] for job in trial_jobs for task in job["tasks"]):
            runs = _runs(trial_jobs, task)
            for experiment, models, metrics in _experiments(task):
                by_model = {
                    name: run for name, run in runs.items() if models is None or name in models
                }
                if experiment == "figure_6" and "oracle" in by_model:
                    by_model["profile-oracle"] = by_model.pop("oracle")
                paper_values = PAPER_TABLE_2 if experiment == "table_2" else {}
                rows += [
                    {"experiment": experiment, "task": task}
                    | rate_keys
                    | row
                    | {"paper": paper_values.get(row["model"])}
                    for row in _rows(by_model, metrics)
                ]
    return rows


def varied_rows(
    plan: Plan,
    jobs: Sequence[Mapping[str, Any]],
    variations: Sequence[Mapping[str, Any]],
) -> Rows:
    """Returns the rows of a plan's variations, and of its usual `jobs` for comparison.

    A row has the `value` of the varied setting. Paired differences compare a model with itself at
    the usual value, and UserBERT with other models at the same value. Zero batches mean the
    variant that is not pretrained. Means of a model are over the seeds that all its values have.
    """
    trial = plan.trials[0]
    rates = {"pretraining": trial.pretraining, "finetuning": trial.finetuning}
    rate_keys = {
        "data": plan.data,
        "learning_rate": rates["pretraining"],
        "finetuning_rate": rates["finetuning"],
        "paper": None,
    }
    usual_jobs = [job for job in jobs if _belongs_to(job, rates)]
    varied_jobs = [job for job in variations if _belongs_to(job, rates)]
    rows: Rows = []
    for experiment, key, usual_value in (
        ("pretraining_length", "batches", plan.batches),
        ("label_share", "label_share", 1.0),
    ):
        key_jobs = [
            job for job in varied_jobs if (job["label_share"] < 1) == (key == "label_share")
        ]
        for model in dict.fromkeys(job["model"] for job in key_jobs):
            by_value = {usual_value: [job for job in usual_jobs if job["model"] == model]}
            for job in key_jobs:
                if job["model"] == model:
                    by_value.setdefault(job[key], []).append(job)
            if key == "batches":
                scratch = FROM_SCRATCH.get(model)
                by_value[0] = [job for job in usual_jobs if job["model"] == scratch]
            shared = _with_shared_seeds(by_value)
            model_rows = [*_by_value(model, shared, usual_value)]
            if key == "batches":
                model_rows += _held_out(shared)
            rows += [{"experiment": experiment, **rate_keys, **row} for row in model_rows]
        rows += [
            {"experiment": experiment, **rate_keys, **row} for row in _between_models(key_jobs, key)
        ]
    return rows


JobsByValue = Mapping[float, Sequence[Mapping[str, Any]]]
"""Results of a model's jobs by the value of the varied setting."""


def _with_shared_seeds(by_value: JobsByValue) -> JobsByValue:
    """Returns results by rising value, of the seeds that all values with results have."""
    finished = {value: jobs for value, jobs in sorted(by_value.items()) if jobs}
    seeds = set.intersection(*({job["seed"] for job in jobs} for jobs in finished.values()))
    return {
        value: [job for job in jobs if job["seed"] in seeds] for value, jobs in finished.items()
    }


def _by_value(model: str, by_value: JobsByValue, usual_value: float) -> Iterator[dict[str, Any]]:
    """Yields the last epoch of each task at each value, and the difference from the usual value."""
    labelled = [{**job, "model": str(value)} for value, jobs in by_value.items() for job in jobs]
    for task in dict.fromkeys(task["task"] for job in labelled for task in job["tasks"]):
        metric, runs = _first_metric(task), _runs(labelled, task)
        for value in (value for value in by_value if str(value) in runs):
            *_, last = _curve(model, runs[str(value)], metric)
            yield {**last, "task": task, "value": value}
            if value != usual_value and str(usual_value) in runs:
                for row in _difference(str(value), str(usual_value), runs, metric):
                    yield {**row, "model": f"{model}{MINUS}{model}", "task": task, "value": value}


def _between_models(jobs: Sequence[Mapping[str, Any]], key: str) -> Iterator[dict[str, Any]]:
    """Yields the differences between UserBERT and other models at each value of setting `key`."""
    for value in sorted({job[key] for job in jobs}):
        value_jobs = [job for job in jobs if job[key] == value]
        for task in dict.fromkeys(task["task"] for job in value_jobs for task in job["tasks"]):
            runs = _runs(value_jobs, task)
            other_models = [model for model in runs if "userbert" in runs and model != "userbert"]
            for other_model in other_models:
                for row in _difference("userbert", other_model, runs, _first_metric(task)):
                    yield {**row, "task": task, "value": value}


def _first_metric(task: str) -> str:
    """Returns the main metric of a task."""
    _, _, (metric, *_) = next(_experiments(task))
    return metric


def _held_out(by_value: JobsByValue) -> Iterator[dict[str, Any]]:
    """Yields the mean pretraining loss on held-out users at each value, if recorded."""
    for value, jobs in by_value.items():
        records = [job["pretraining"] for job in jobs]
        losses = [record["validation"]["loss"] for record in records if "validation" in record]
        if losses:
            row = _row(jobs[0]["model"], None, "held_out_loss", len(losses))
            yield {**row, "mean": _mean(losses), "task": "pretraining", "value": value}


def _belongs_to(job: Mapping[str, Any], rates: Mapping[str, float]) -> bool:
    """Returns whether a job belongs to the trial with these rates; a missing rate matches any."""
    return all(job["rates"][stage] in (rate, None) for stage, rate in rates.items())


def _trials(jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
    """Returns the pretraining and fine-tuning rates of each trial, the highest first."""
    pairs = {tuple(job["rates"].values()) for job in jobs if job["rates"]["pretraining"]}
    return [
        {"pretraining": first, "finetuning": second}
        for first, second in sorted(pairs, reverse=True)
    ]


Runs = Mapping[int, Mapping[str, Any]]
"""Results of a model on a task, by seed."""


def _runs(jobs: Sequence[Mapping[str, Any]], task: str) -> Mapping[str, Runs]:
    """Returns the results of each model on a task."""
    runs: dict[str, Any] = {}
    for job in jobs:
        for result in job["tasks"]:
            if result["task"] == task:
                runs.setdefault(job["model"], {})[job["seed"]] = result
    return runs


def _experiments(task: str) -> Iterator[tuple[str, tuple[str, ...] | None, tuple[str, ...]]]:
    """Yields the experiments of a task, with their models (None: all) and metrics."""
    if task in TARGETING:
        yield "figure_3", None, ("roc_auc", "accuracy")
        yield "figure_4", _FIGURE_4, ("roc_auc",)
        yield "figure_5", _FIGURE_5, ("roc_auc", "train_loss", "test_loss", RISE)
    elif task.startswith("next_"):
        yield "table_2", None, ("map_at_10",)
    else:
        yield "figure_6", None, ("roc_auc",)


def _rows(runs: Mapping[str, Runs], metrics: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields the curves of all models, and the differences of `PAIRS`, for each metric."""
    for metric in metrics:
        for model, by_seed in runs.items():
            yield from _curve(model, by_seed, metric)
        for first, second in PAIRS:
            if first in runs and second in runs:
                yield from _difference(first, second, runs, metric)


def _curve(model: str, by_seed: Runs, metric: str) -> Iterator[dict[str, Any]]:
    """Yields a row per epoch; only the last has an interval, since only it has resamples."""
    usable = [run for run in by_seed.values() if run["note"] is None]
    if not usable:
        note = next(run["note"] for run in by_seed.values())
        yield _row(model, None, metric, len(by_seed)) | {"note": note}
        return
    last = len(usable[0]["epochs"])
    for epoch in range(1, last + 1):
        epoch_values = [run["epochs"][epoch - 1].get(metric) for run in usable]
        if None not in epoch_values:
            row = _row(model, epoch if last > 1 else None, metric, len(usable))
            has_interval = epoch == last and all(metric in run["resampled"] for run in usable)
            interval = _interval(_resampled(usable, metric)) if has_interval else {}
            yield row | {"mean": _mean(epoch_values)} | interval


def _difference(
    first: str, second: str, runs: Mapping[str, Runs], metric: str
) -> Iterator[dict[str, Any]]:
    """Yields the difference of two models at the last epoch, over the seeds that both have.

    Yields nothing if they share no seed with resampled metrics.
    """
    shared_runs = [
        (runs[first][seed], runs[second][seed])
        for seed in runs[first]
        if seed in runs[second]
        and all(metric in runs[model][seed].get("resampled", {}) for model in (first, second))
    ]
    if not shared_runs:
        return
    first_runs, second_runs = zip(*shared_runs, strict=True)
    means = [
        _mean([run["epochs"][-1][metric] for run in side]) for side in (first_runs, second_runs)
    ]
    resampled = _resampled(first_runs, metric) - _resampled(second_runs, metric)
    epochs = len(first_runs[0]["epochs"])
    row = _row(f"{first}{MINUS}{second}", epochs if epochs > 1 else None, metric, len(shared_runs))
    yield row | {"mean": means[0] - means[1], **_interval(resampled)}


def _row(model: str, epoch: int | None, metric: str, seeds: int) -> dict[str, Any]:
    """Returns a row without a mean; `seeds` is the number of seeds."""
    return {
        "model": model, "epoch": epoch, "metric": metric,
        "mean": None, "low": None, "high": None, "seeds": seeds,
    }  # fmt: skip


def _resampled(runs: Sequence[Mapping[str, Any]], metric: str) -> Float64:
    """Returns a metric (S, R) of each seed's run on each resample of its test users."""
    values: Float64 = np.array([run["resampled"][metric].split() for run in runs], np.float64)
    values /= UNITS
    return values


def _interval(resampled: Float64) -> dict[str, float]:
    """Returns the 95 % interval of the mean over seeds, from resampled metrics (S, R)."""
    draws = np.nanmean(resampled, axis=0)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    centre = np.nanmean(draws)
    # Each seed has its own test users, so seeds differ by at least this variance.
    user_variance = float(np.nanvar(resampled, axis=1).mean())
    seed_variance = float(np.nanmean(resampled, axis=1).var(ddof=1)) if len(resampled) > 1 else 0.0
    widening = np.sqrt(max(1.0, seed_variance / user_variance)) if user_variance else 1.0
    return {
        "low": float(centre + (low - centre) * widening),
        "high": float(centre + (high - centre) * widening),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
