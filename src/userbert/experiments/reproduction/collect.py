"""From the parts of a reproduction to the rows of results.json.

In: what `parts.do` gave of each part that is done. Out: rows by experiment, with intervals and
paired differences. Works on any number of parts, so that a reproduction that goes on can be looked
at; seeds of which a model lacks a part are left out for it.

An interval says what other test users would have given, by resamples that all models share; where
seeds differ by more than their test users explain, it is as much wider. Of one seed that cannot be
known.

Letters in shapes: S seeds, R resamples of the test users.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from userbert.data.ragged import Float64
from userbert.experiments.reproduction.parts import RISE, TARGETING, UNITS
from userbert.experiments.reproduction.plan import Plan
from userbert.experiments.reproduction.recipes import RECIPES
from userbert.experiments.reproduction.references import REFERENCES
from userbert.experiments.reproduction.rows import MINUS

Rows = list[dict[str, Any]]

PAPER_TABLE_2 = {
    "userbert": 0.0897,
    "wide-deep-mtl": 0.0765,
    "transformer-mtl": 0.0710,
    "lstm-mtl": 0.0690,
    "popularity": 0.0422,
}
"""mAP@10 (paper §4.5, table 2 and text); the paper's figures have no numbers in print."""
FROM_SCRATCH = {
    "userbert": "userbert-from-scratch",
    **{f"{tower}-mtl": f"{tower}-from-scratch" for tower in ("wide-deep", "lstm", "transformer")},
}
"""The same model without pretraining."""
_FIGURE_4 = ("transformer-mtl", "transformer-mtl-30", "transformer-from-scratch")
_FIGURE_5 = ("userbert", "userbert-from-scratch")
PAIRS = (
    *(("userbert", model) for model in (*RECIPES, *REFERENCES) if model != "userbert"),
    *((model, scratch) for model, scratch in FROM_SCRATCH.items() if model != "userbert"),
    *((f"{tower}-mtl", "lstm-mtl") for tower in ("wide-deep", "transformer")),
    *((f"{tower}-mtl", "popularity") for tower in ("wide-deep", "lstm", "transformer")),
    ("transformer-mtl", "transformer-mtl-30"),
    ("transformer-mtl-30", "transformer-from-scratch"),
)
"""Models of which the paper, or a reader, asks which is ahead."""


def rows_of(data: str, parts: Sequence[Mapping[str, Any]]) -> Rows:
    """The rows of one data set."""
    rows: Rows = []
    for rates in _trials(parts):
        seeds = {part["seed"] for part in parts if part["rates"] == rates}
        # What is not pretrained, or learns nothing, belongs to every trial of its other rate; but
        # each seed has test users of its own, and a table must not mix them.
        of_trial = [part for part in parts if part["seed"] in seeds and _is_of(part, rates)]
        about = {
            "data": data,
            "learning_rate": rates["pretraining"],
            "finetuning_rate": rates["finetuning"],
        }
        for task in dict.fromkeys(task["task"] for part in of_trial for task in part["tasks"]):
            runs = _runs(of_trial, task)
            for experiment, models, metrics in _experiments(task):
                mine = {name: run for name, run in runs.items() if models is None or name in models}
                if experiment == "figure_6" and "oracle" in mine:
                    mine["profile-oracle"] = mine.pop("oracle")
                papers = PAPER_TABLE_2 if experiment == "table_2" else {}
                rows += [
                    {"experiment": experiment, "task": task}
                    | about
                    | row
                    | {"paper": papers.get(row["model"])}
                    for row in _rows(mine, metrics)
                ]
    return rows


def varied_rows(
    plan: Plan,
    parts: Sequence[Mapping[str, Any]],
    varied: Sequence[Mapping[str, Any]],
) -> Rows:
    """The rows of a plan's parts in which one thing was changed, beside those of its usual `parts`.

    A row has the `value` of what was changed. Paired differences are of a model against itself at
    the usual value, and of UserBERT against the others at the same value. A model pretrained by no
    batch is the one that is fine-tuned from scratch. Means are over the seeds that all values of a
    model have.
    """
    trial = plan.trials[0]
    rates = {"pretraining": trial.pretraining, "finetuning": trial.finetuning}
    about = {
        "data": plan.data,
        "learning_rate": rates["pretraining"],
        "finetuning_rate": rates["finetuning"],
        "paper": None,
    }
    usual = [part for part in parts if _is_of(part, rates)]
    changed = [part for part in varied if _is_of(part, rates)]
    rows: Rows = []
    for experiment, key, usually in (
        ("pretraining_length", "batches", plan.batches),
        ("label_share", "label_share", 1.0),
    ):
        of_key = [part for part in changed if (part["label_share"] < 1) == (key == "label_share")]
        for model in dict.fromkeys(part["model"] for part in of_key):
            of_value = {usually: [part for part in usual if part["model"] == model]}
            for part in of_key:
                if part["model"] == model:
                    of_value.setdefault(part[key], []).append(part)
            if key == "batches":
                scratch = FROM_SCRATCH.get(model)
                of_value[0] = [part for part in usual if part["model"] == scratch]
            known = _of_common_seeds(of_value)
            found = [*_by_value(model, known, usually)]
            if key == "batches":
                found += _held_out(known)
            rows += [{"experiment": experiment, **about, **row} for row in found]
        rows += [{"experiment": experiment, **about, **row} for row in _between(of_key, key)]
    return rows


OfValue = Mapping[float, Sequence[Mapping[str, Any]]]
"""A model's parts by what was changed."""


def _of_common_seeds(of_value: OfValue) -> OfValue:
    """Values that have parts, in order, and of these parts the seeds that no value lacks."""
    known = {value: parts for value, parts in sorted(of_value.items()) if parts}
    seeds = set.intersection(*({part["seed"] for part in parts} for parts in known.values()))
    return {
        value: [part for part in parts if part["seed"] in seeds] for value, parts in known.items()
    }


def _by_value(model: str, of_value: OfValue, usually: float) -> Iterator[dict[str, Any]]:
    """The last epoch of a model's tasks at each value, and how it differs from the usual value."""
    named = [{**part, "model": str(value)} for value, parts in of_value.items() for part in parts]
    for task in dict.fromkeys(task["task"] for part in named for task in part["tasks"]):
        metric, runs = _first_metric(task), _runs(named, task)
        for value in (value for value in of_value if str(value) in runs):
            *_, last = _curve(model, runs[str(value)], metric)
            yield {**last, "task": task, "value": value}
            if value != usually and str(usually) in runs:
                for row in _difference(str(value), str(usually), runs, metric):
                    yield {**row, "model": f"{model}{MINUS}{model}", "task": task, "value": value}


def _between(changed: Sequence[Mapping[str, Any]], key: str) -> Iterator[dict[str, Any]]:
    """The differences of UserBERT from the other models that were changed alike."""
    for value in sorted({part[key] for part in changed}):
        mine = [part for part in changed if part[key] == value]
        for task in dict.fromkeys(task["task"] for part in mine for task in part["tasks"]):
            runs = _runs(mine, task)
            others = [model for model in runs if "userbert" in runs and model != "userbert"]
            for other in others:
                for row in _difference("userbert", other, runs, _first_metric(task)):
                    yield {**row, "task": task, "value": value}


def _first_metric(task: str) -> str:
    _, _, (metric, *_) = next(_experiments(task))
    return metric


def _held_out(of_value: OfValue) -> Iterator[dict[str, Any]]:
    """The mean loss of masked words on users whom pretraining left out, where that is known."""
    for value, parts in of_value.items():
        records = [part["pretraining"] for part in parts]
        losses = [record["validation"]["loss"] for record in records if "validation" in record]
        if losses:
            row = _row(parts[0]["model"], None, "held_out_loss", len(losses))
            yield {**row, "mean": _mean(losses), "task": "pretraining", "value": value}


def _is_of(part: Mapping[str, Any], rates: Mapping[str, float]) -> bool:
    """Whether a part belongs to a trial."""
    return all(part["rates"][stage] in (rate, None) for stage, rate in rates.items())


def _trials(parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
    """The rates of pretraining and fine-tuning that were tried, the fastest first."""
    pairs = {tuple(part["rates"].values()) for part in parts if part["rates"]["pretraining"]}
    return [
        {"pretraining": first, "finetuning": second}
        for first, second in sorted(pairs, reverse=True)
    ]


Runs = Mapping[int, Mapping[str, Any]]
"""What a model did on a task, by seed."""


def _runs(parts: Sequence[Mapping[str, Any]], task: str) -> Mapping[str, Runs]:
    runs: dict[str, Any] = {}
    for part in parts:
        for found in part["tasks"]:
            if found["task"] == task:
                runs.setdefault(part["model"], {})[part["seed"]] = found
    return runs


def _experiments(task: str) -> Iterator[tuple[str, tuple[str, ...] | None, tuple[str, ...]]]:
    """The experiments that a task belongs to, their models (none: all), their metrics."""
    if task in TARGETING:
        yield "figure_3", None, ("roc_auc", "accuracy")
        yield "figure_4", _FIGURE_4, ("roc_auc",)
        yield "figure_5", _FIGURE_5, ("roc_auc", "train_loss", "test_loss", RISE)
    elif task.startswith("next_"):
        yield "table_2", None, ("map_at_10",)
    else:
        yield "figure_6", None, ("roc_auc",)


def _rows(runs: Mapping[str, Runs], metrics: Iterable[str]) -> Iterator[dict[str, Any]]:
    for metric in metrics:
        for model, of_seed in runs.items():
            yield from _curve(model, of_seed, metric)
        for first, second in PAIRS:
            if first in runs and second in runs:
                yield from _difference(first, second, runs, metric)


def _curve(model: str, of_seed: Runs, metric: str) -> Iterator[dict[str, Any]]:
    """A row an epoch; the last has an interval, as its resamples are kept."""
    done = [run for run in of_seed.values() if run["note"] is None]
    if not done:
        note = next(run["note"] for run in of_seed.values())
        yield _row(model, None, metric, len(of_seed)) | {"note": note}
        return
    last = len(done[0]["epochs"])
    for epoch in range(1, last + 1):
        found = [run["epochs"][epoch - 1].get(metric) for run in done]
        if None not in found:
            row = _row(model, epoch if last > 1 else None, metric, len(done))
            is_kept = epoch == last and all(metric in run["resampled"] for run in done)
            ends = _ends(_resampled(done, metric)) if is_kept else {}
            yield row | {"mean": _mean(found)} | ends


def _difference(
    first: str, second: str, runs: Mapping[str, Runs], metric: str
) -> Iterator[dict[str, Any]]:
    """A paired difference at the last epoch, over the seeds that both have."""
    both = [
        (runs[first][seed], runs[second][seed])
        for seed in runs[first]
        if seed in runs[second]
        and all(metric in runs[model][seed].get("resampled", {}) for model in (first, second))
    ]
    if not both:
        return
    ones, others = zip(*both, strict=True)
    means = [_mean([run["epochs"][-1][metric] for run in side]) for side in (ones, others)]
    resampled = _resampled(ones, metric) - _resampled(others, metric)
    epochs = len(ones[0]["epochs"])
    row = _row(f"{first}{MINUS}{second}", epochs if epochs > 1 else None, metric, len(both))
    yield row | {"mean": means[0] - means[1], **_ends(resampled)}


def _row(model: str, epoch: int | None, metric: str, seeds: int) -> dict[str, Any]:
    return {
        "model": model, "epoch": epoch, "metric": metric,
        "mean": None, "low": None, "high": None, "seeds": seeds,
    }  # fmt: skip


def _resampled(runs: Sequence[Mapping[str, Any]], metric: str) -> Float64:
    """(S, R): a metric of each seed, on each resample of its test users."""
    values: Float64 = np.array([run["resampled"][metric].split() for run in runs], np.float64)
    values /= UNITS
    return values


def _ends(resampled: Float64) -> dict[str, float]:
    """The ends of the 95 % interval of the mean over seeds, from (S, R)."""
    draws = np.nanmean(resampled, axis=0)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    middle = np.nanmean(draws)
    # Seeds have other test users each, so they differ by that much without being unlike.
    users = float(np.nanvar(resampled, axis=1).mean())
    seeds = float(np.nanmean(resampled, axis=1).var(ddof=1)) if len(resampled) > 1 else 0.0
    wider = np.sqrt(max(1.0, seeds / users)) if users else 1.0
    return {
        "low": float(middle + (low - middle) * wider),
        "high": float(middle + (high - middle) * wider),
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
