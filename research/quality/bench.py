"""The research bench: studies by recipes by seeds, each part a JSON file; then the tables.

In: the folder of real logs, one for results and one for work that may be removed. Out: for each
part `RESULTS/STUDY/RECIPE-SEED.json`, and `RESULTS/table.md`. A part pretrains a recipe, or fits
the classical models, and tries what came out on the study's tasks. Parts that are there are not
done again. Run it by
`python -m research.quality.bench LOGS RESULTS WORK --study ta-feng --recipe paper`.
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
from userbert.evaluation.out_of_fold import METRICS, Key, OutOfFold, best_of, collect
from userbert.folders import replacing_file, write_json
from userbert.model.userbert import UserBert, embed_pairs
from userbert.progress import progress
from userbert.provenance import made
from userbert.tasks.aggregates import aggregates, of_all_history
from userbert.tasks.candidates import own_history
from userbert.tasks.finetune import FinetuneConfig
from userbert.tasks.metrics import estimate, resample_users
from userbert.training.pretrain import pretrain
from userbert.workers import cores, processes

RESAMPLES = 200
_ON_VECTORS = (
    "aggregates-gbm", "frozen-linear", "fused-linear", "fused-gbm", "fine-tuned", "fused",
)  # fmt: skip
"""The models a recipe is judged by; trees on counts are there to be blended."""


@dataclass(frozen=True)
class Part:
    """A recipe on a study, of one seed."""

    study: str
    recipe: str
    seed: int
    is_frozen: bool
    """Whether the network is not fine-tuned, which takes longer than all else."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.recipe}-{self.seed}"


def do(part: Part, logs: Path, work: Path, command: Sequence[str]) -> dict[str, Any]:
    """Do a part and describe it as plain JSON."""
    study = open_study(part.study, logs, work)
    origin = made(command, [part.seed], study.data.checksum)
    # Studies of the same data, up to the same bound, share their models.
    folder = work / "models" / f"{study.data.path.parent.name}-{part.name}"
    model = None if part.recipe == CLASSICAL else _pretrained(part, study, folder)
    about = {} if model is None else {key: model.record[key] for key in _TOLD}
    return {
        "made": origin,
        "study": part.study,
        "recipe": part.recipe,
        "seed": part.seed,
        "pretraining": about,
        "tasks": _tried(part, study, model, folder),
    }


_TOLD = ("config", "validation", "users", "seconds")


def _pretrained(part: Part, study: Study, folder: Path) -> UserBert:
    folder.parent.mkdir(exist_ok=True)
    return pretrain(
        study.data,
        folder,
        config=recipe(part.recipe),
        seed=part.seed,
        before=study.before,
        hide=study.hidden,
        resume=True,
    )


def _tried(part: Part, study: Study, model: UserBert | None, folder: Path) -> list[dict[str, Any]]:
    """Fit each model in each fold; its metric, and the metric on resamples of the users."""
    materials = tuple(_material(study, task, model) for task in study.tasks)
    wanted = set(CLASSICAL_MODELS if model is None else _ON_VECTORS)
    if part.is_frozen:
        wanted.discard("fine-tuned")
    fits = [
        Fit(number, name, 0, 0, int(fold))
        for number, material in enumerate(materials)
        for name in material.fitted
        if name in wanted
        for fold in np.unique(material.folds[material.folds >= 0])
    ]
    workshop = Workshop(study.data.path, (folder,), materials, FinetuneConfig(), part.seed)
    found = collect(workshop, fits, FOLDS, workers=1)
    return [_told(material, number, found) for number, material in enumerate(materials)]


def _material(study: Study, task: Task, model: UserBert | None) -> Material:
    labels, data = task.labels, study.data
    rows = data.rows_of(labels.user_ids)
    counts, names = aggregates(data, rows, labels.cutoffs, study.hidden)
    return Material(
        labels,
        task.folds,
        counts,
        of_all_history(names),
        () if model is None else (embed_pairs(model, data, rows, labels.cutoffs),),
        None
        if labels.attribute is None
        else own_history(data, labels.attribute, rows, labels.cutoffs),
        0 if model is None else model.timing_width(),
    )


def _told(material: Material, number: int, found: Mapping[Key, OutOfFold]) -> dict[str, Any]:
    labels = material.labels
    tested = np.flatnonzero(material.folds >= 0)
    weights = resample_users([labels.user_ids[i] for i in tested], RESAMPLES)
    metric = METRICS[labels.kind][0]
    mine = {name: one for (task, name, _), one in found.items() if task == number}
    ours = [mine[name] for name in OURS if name in mine]
    # A part of classical models has none of ours; one of a recipe has trees to be blended.
    mine[PICKED] = best_of(
        material, ours or [mine[name] for name in CLASSICAL_MODELS if name in mine]
    )
    models = {}
    for name, one in mine.items():
        scores = [each[tested] for each in one.scores]
        value = estimate(metric, labels.targets[tested], scores, material.folds[tested], weights)
        models[name] = {
            "value": round(value.value, 5),
            "resampled": " ".join(f"{each:.5f}" for each in value.resampled),
        }
    return {"task": labels.name, "metric": metric, "labels": len(labels), "models": models}


def run(parts: Sequence[Part], logs: Path, results: Path, work: Path) -> None:
    """Do the parts that are not there yet, one a core at a time."""
    # Where folders lie is of no interest elsewhere.
    names = {str(logs): "LOGS", str(results): "RESULTS", str(work): "WORK"}
    typed = [names.get(argument, argument) for argument in sys.argv[1:]]
    command = ["python", "-m", "research.quality.bench", *typed]
    for study in {part.study for part in parts}:
        open_study(study, logs, work)  # prepared before the processes start, which all read it
    waiting = [part for part in parts if not _file(results, part).exists()]
    with (
        processes(min(cores(), max(1, len(waiting))), _one_thread) as pool,
        progress("parts", len(waiting)) as advance,
    ):
        running = {pool.submit(do, part, logs, work, command): part for part in waiting}
        for future in as_completed(running):
            path = _file(results, running[future])
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(path) as temporary:
                write_json(temporary, future.result())
            advance(1, running[future].name)


def _file(results: Path, part: Part) -> Path:
    return results / part.study / f"{part.name}.json"


def _one_thread() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)


def main() -> None:
    """Run what is asked for, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, help="the folder with ta-feng/ and ga4-merch-store/")
    parser.add_argument("results", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--study", nargs="*", default=[*CHOICE], choices=[*CHOICE, *CONFIRMATION])
    parser.add_argument("--recipe", nargs="*", default=[], choices=[CLASSICAL, *RECIPES])
    parser.add_argument("--seed", nargs="*", type=int, default=[0])
    parser.add_argument("--frozen", action="store_true", help="fine-tune nothing")
    asked = parser.parse_args()
    parts = [
        Part(study, name, seed, asked.frozen)
        for name in asked.recipe
        for seed in (asked.seed if name != CLASSICAL else [0])
        for study in asked.study
    ]
    run(parts, asked.logs, asked.results, asked.work)
    write_tables(asked.results)


if __name__ == "__main__":
    main()
