"""Evaluates pretraining recipes on studies with several seeds, and writes tables.

In: the folder of real logs, the folder for results, and a work folder that can be removed. Out:
`RESULTS/STUDY/RECIPE-SEED.json` per run, and `RESULTS/table.md`. A run pretrains a recipe, or fits
the classical models, and evaluates them on the tasks of a study. Finished runs are not repeated.
Run it by `python -m research.quality.bench LOGS RESULTS WORK --study ta-feng --recipe paper`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from research.quality.recipes import RECIPES, recipe
from research.quality.studies import (
    CHOICE,
    CONFIRMATION,
    FOLDS,
    Study,
    Task,
    open_study,
)
from research.quality.table import CLASSICAL, PICKED, write_tables
from userbert.evaluation.fits import CLASSICAL as CLASSICAL_MODELS
from userbert.evaluation.fits import OURS, Fit, Material, Workshop
from userbert.evaluation.out_of_fold import METRICS_BY_KIND, Key, OutOfFold, best_of, collect
from userbert.folders import replacing_file, write_json
from userbert.model.userbert import UserBert, embed_pairs
from userbert.progress import progress
from userbert.provenance import provenance_record
from userbert.tasks.aggregates import aggregates, all_history_columns
from userbert.tasks.candidates import own_history
from userbert.tasks.finetune import FinetuneConfig
from userbert.tasks.metrics import estimate, resample_users
from userbert.training.pretrain import pretrain
from userbert.workers import cores, process_pool

RESAMPLES = 200
"""Number of resamples of users, for intervals."""
_RECIPE_MODELS = (
    "aggregates-gbm", "frozen-linear", "fused-linear", "fused-gbm", "fine-tuned", "fused",
)  # fmt: skip
"""Models that evaluate a recipe; `aggregates-gbm`, trees on counts, is needed for blending."""


@dataclass(frozen=True)
class RecipeRun:
    """A recipe on a study with one seed."""

    study: str
    recipe: str
    seed: int
    is_frozen: bool
    """Whether to skip fine-tuning, which takes most of the time."""

    @property
    def name(self) -> str:
        """Name of the file of results, without suffix."""
        return f"{self.recipe}-{self.seed}"


def run_recipe(
    recipe_run: RecipeRun, logs: Path, work: Path, command: Sequence[str]
) -> dict[str, Any]:
    """Pretrains and evaluates a recipe; returns results as plain JSON."""
    study = open_study(recipe_run.study, logs, work)
    provenance = provenance_record(command, [recipe_run.seed], study.data.checksum)
    # Studies with the same data and bound share their models.
    folder = work / "models" / f"{study.data.path.parent.name}-{recipe_run.name}"
    model = None if recipe_run.recipe == CLASSICAL else _pretrain(recipe_run, study, folder)
    record = {} if model is None else {key: model.record[key] for key in _RECORD_KEYS}
    return {
        "made": provenance,
        "study": recipe_run.study,
        "recipe": recipe_run.recipe,
        "seed": recipe_run.seed,
        "pretraining": record,
        "tasks": _evaluate(recipe_run, study, model, folder),
    }


_RECORD_KEYS = ("config", "validation", "users", "seconds")
"""Keys of a pretraining record that results keep."""


def _pretrain(recipe_run: RecipeRun, study: Study, folder: Path) -> UserBert:
    """Returns the pretrained model of a run, which `folder` keeps."""
    folder.parent.mkdir(exist_ok=True)
    return pretrain(
        study.data,
        folder,
        config=recipe(recipe_run.recipe),
        seed=recipe_run.seed,
        before=study.before,
        hide=study.hidden,
        resume=True,
    )


def _evaluate(
    recipe_run: RecipeRun, study: Study, model: UserBert | None, folder: Path
) -> list[dict[str, Any]]:
    """Fits each model in each fold; returns the results of each task."""
    materials = tuple(_material(study, task, model) for task in study.tasks)
    model_names = set(CLASSICAL_MODELS if model is None else _RECIPE_MODELS)
    if recipe_run.is_frozen:
        model_names.discard("fine-tuned")
    fits = [
        Fit(number, name, 0, 0, int(fold))
        for number, material in enumerate(materials)
        for name in material.fitted
        if name in model_names
        for fold in np.unique(material.folds[material.folds >= 0])
    ]
    workshop = Workshop(study.data.path, (folder,), materials, FinetuneConfig(), recipe_run.seed)
    results_by_key = collect(workshop, fits, FOLDS, workers=1)
    return [_results(material, number, results_by_key) for number, material in enumerate(materials)]


def _material(study: Study, task: Task, model: UserBert | None) -> Material:
    """Returns what models of a task are fitted on: labels, counts, vectors and history."""
    labels, data = task.labels, study.data
    rows = data.rows_of(labels.user_ids)
    counts, names = aggregates(data, rows, labels.cutoffs, study.hidden)
    return Material(
        labels,
        task.folds,
        counts,
        all_history_columns(names),
        () if model is None else (embed_pairs(model, data, rows, labels.cutoffs),),
        None
        if labels.attribute is None
        else own_history(data, labels.attribute, rows, labels.cutoffs),
        0 if model is None else model.timing_width(),
    )


def _results(
    material: Material, number: int, results_by_key: Mapping[Key, OutOfFold]
) -> dict[str, Any]:
    """Returns the metric of each model on task `number`, also on resamples of the users."""
    labels = material.labels
    tested = np.flatnonzero(material.folds >= 0)
    weights = resample_users([labels.user_ids[i] for i in tested], RESAMPLES)
    metric = METRICS_BY_KIND[labels.kind][0]
    by_model = {
        name: out_of_fold
        for (task, name, _), out_of_fold in results_by_key.items()
        if task == number
    }
    ours = [by_model[name] for name in OURS if name in by_model]
    # Classical runs have no models of ours; other runs have trees for blending only.
    by_model[PICKED] = best_of(
        material, ours or [by_model[name] for name in CLASSICAL_MODELS if name in by_model]
    )
    models = {}
    for name, out_of_fold in by_model.items():
        scores = [draw[tested] for draw in out_of_fold.scores]
        value = estimate(metric, labels.targets[tested], scores, material.folds[tested], weights)
        models[name] = {
            "value": round(value.value, 5),
            "resampled": " ".join(f"{draw:.5f}" for draw in value.resampled),
        }
    return {"task": labels.name, "metric": metric, "labels": len(labels), "models": models}


def run_all(recipe_runs: Sequence[RecipeRun], logs: Path, results: Path, work: Path) -> None:
    """Runs the recipes that have no result yet, as many at a time as there are cores."""
    # Local paths would mean nothing on other machines.
    placeholders = {str(logs): "LOGS", str(results): "RESULTS", str(work): "WORK"}
    arguments = [placeholders.get(argument, argument) for argument in sys.argv[1:]]
    command = ["python", "-m", "research.quality.bench", *arguments]
    for study in {recipe_run.study for recipe_run in recipe_runs}:
        open_study(study, logs, work)  # prepares the data before the worker processes read it
    waiting = [recipe_run for recipe_run in recipe_runs if not _file(results, recipe_run).exists()]
    with (
        process_pool(min(cores(), max(1, len(waiting))), _one_thread) as pool,
        progress("runs", len(waiting)) as advance,
    ):
        running = {
            pool.submit(run_recipe, recipe_run, logs, work, command): recipe_run
            for recipe_run in waiting
        }
        for future in as_completed(running):
            path = _file(results, running[future])
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as temporary:
                write_json(temporary, future.result())
            advance(1, running[future].name)


def _file(results: Path, recipe_run: RecipeRun) -> Path:
    """Returns the path of a run's results."""
    return results / recipe_run.study / f"{recipe_run.name}.json"


def _one_thread() -> None:
    """Limits a worker process to one thread."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def main() -> None:
    """Runs the requested recipes, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, help="the folder with ta-feng/ and ga4-merch-store/")
    parser.add_argument("results", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--study", nargs="*", default=[*CHOICE], choices=[*CHOICE, *CONFIRMATION])
    parser.add_argument("--recipe", nargs="*", default=[], choices=[CLASSICAL, *RECIPES])
    parser.add_argument("--seed", nargs="*", type=int, default=[0])
    parser.add_argument("--frozen", action="store_true", help="fine-tune nothing")
    options = parser.parse_args()
    recipe_runs = [
        RecipeRun(study, name, seed, options.frozen)
        for name in options.recipe
        for seed in (options.seed if name != CLASSICAL else [0])
        for study in options.study
    ]
    run_all(recipe_runs, options.logs, options.results, options.work)
    write_tables(options.results)


if __name__ == "__main__":
    main()
