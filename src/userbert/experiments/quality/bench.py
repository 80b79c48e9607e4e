"""The research bench: studies by recipes by seeds, each part a JSON file; then the table.

In: the folder of real logs, one for results and one for work that may be removed. Out: for each
part `RESULTS/STUDY/RECIPE-SEED.json`, and `RESULTS/table.md`. A part pretrains a recipe, or fits
the classical models, and tries what came out on the study's tasks. Parts that are there are not
done again. Run it by
`python -m userbert.experiments.quality.bench LOGS RESULTS WORK --study ta-feng --recipe paper`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from userbert.experiments.quality.recipes import RECIPES, recipe
from userbert.experiments.quality.studies import CHOICE, CONFIRMATION, Study, Task, open_study
from userbert.experiments.quality.table import write_table
from userbert.folders import replacing_file, write_json
from userbert.model.userbert import UserBert, embed_pairs
from userbert.progress import progress
from userbert.provenance import made
from userbert.tasks import candidates, classical
from userbert.tasks.aggregates import aggregates
from userbert.tasks.candidates import OwnHistory, own_history
from userbert.tasks.classical import Scored
from userbert.tasks.finetune import FinetuneConfig, finetune
from userbert.tasks.metrics import MetricName, estimate, resample_users
from userbert.tasks.splits import Split, split_off_validation
from userbert.training.pretrain import pretrain
from userbert.workers import cores, processes

CLASSICAL = "classical"
"""The recipe that pretrains nothing."""
RESAMPLES = 200
_TUNING = FinetuneConfig(learning_rate=3e-4, batch_size=32, epochs=5, patience=2)


@dataclass(frozen=True)
class Part:
    """A recipe on a study, of one seed."""

    study: str
    recipe: str
    seed: int
    tunes: bool
    """Whether the network is fine-tuned, too; it takes longer than all else."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.recipe}-{self.seed}" + ("-fine-tuned" if self.tunes else "")


def do(part: Part, logs: Path, work: Path, command: Sequence[str]) -> dict[str, Any]:
    """Do a part and describe it as plain JSON."""
    study = open_study(part.study, logs, work)
    origin = made(command, [part.seed], study.data.checksum)
    model = None if part.recipe == CLASSICAL else _pretrained(part, study, work)
    tasks = [_tried(part, study, task, model) for task in study.tasks]
    about = {} if model is None else {key: model.record[key] for key in _TOLD}
    return {
        "made": origin,
        "study": part.study,
        "recipe": part.recipe,
        "seed": part.seed,
        "pretraining": about,
        "tasks": tasks,
    }


_TOLD = ("config", "validation", "users", "seconds")


def _pretrained(part: Part, study: Study, work: Path) -> UserBert:
    folder = work / "models" / f"{part.study}-{part.recipe}-{part.seed}"
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


Fits = dict[str, Callable[[Split], Scored]]


def _tried(part: Part, study: Study, task: Task, model: UserBert | None) -> dict[str, Any]:
    """Fit each model in each fold; its metric, and the metric on resamples of the users."""
    labels = task.labels
    tested = np.flatnonzero(task.folds >= 0)
    weights = resample_users([labels.user_ids[i] for i in tested], RESAMPLES)
    metric: MetricName = "roc_auc" if labels.kind == "binary" else "map_at_10"
    models = {}
    for name, fit in _fits(part, study, task, model).items():
        scores: NDArray[Any] | None = None
        for fold in np.unique(task.folds[tested]):
            found = fit(_split(task, fold)).scores
            if scores is None:
                scores = np.zeros((len(labels), *found.shape[1:]), np.float32)
            scores[task.folds == fold] = found
        assert scores is not None
        value = estimate(
            metric, labels.targets[tested], [scores[tested]], task.folds[tested], weights
        )
        models[name] = {
            "value": round(value.value, 5),
            "resampled": " ".join(f"{one:.5f}" for one in value.resampled),
        }
    return {"task": labels.name, "metric": metric, "labels": len(labels), "models": models}


def _split(task: Task, fold: int) -> Split:
    labels = task.labels
    learning = np.flatnonzero(task.folds != fold)
    train, validation = split_off_validation(
        labels.user_ids, labels.targets, learning, seed=int(fold)
    )
    return Split(train, validation, np.flatnonzero(task.folds == fold))


def _fits(part: Part, study: Study, task: Task, model: UserBert | None) -> Fits:
    labels, data = task.labels, study.data
    rows = data.rows_of(labels.user_ids)
    counts, _ = aggregates(data, rows, labels.cutoffs, study.hidden)
    history = None
    if labels.attribute is not None:
        history = own_history(data, labels.attribute, rows, labels.cutoffs)
    targets = labels.targets
    if labels.kind == "multiclass":
        targets = targets[:, None] == np.arange(len(labels.classes))
    if model is None:
        return _classical_fits(counts, history, targets)
    if part.tunes:
        return {"fine-tuned": lambda split: _fine_tuned(model, study, task, part.seed, split)}
    vectors = embed_pairs(model, data, rows, labels.cutoffs)
    return _frozen_fits(counts, history, targets, vectors)


def _classical_fits(
    counts: sparse.csr_matrix, history: OwnHistory | None, targets: NDArray[Any]
) -> Fits:
    if history is None:
        return {
            "aggregates-linear": lambda split: classical.linear(counts, None, targets, split),
            "aggregates-gbm": lambda split: classical.gbm([counts], targets, split),
        }
    return {
        "own-popularity": lambda split: candidates.own_popular(history, targets, split),
        "aggregates-linear": lambda split: candidates.ridge(counts, None, targets, split),
        "aggregates-gbm": lambda split: candidates.candidate_gbm(
            history, None, history.popularity, targets, split
        ),
    }


def _frozen_fits(
    counts: sparse.csr_matrix,
    history: OwnHistory | None,
    targets: NDArray[Any],
    vectors: NDArray[np.float32],
) -> Fits:
    if history is None:
        return {
            "frozen-linear": lambda split: classical.linear(None, vectors, targets, split),
            "fused-linear": lambda split: classical.linear(counts, vectors, targets, split),
        }

    def fused(split: Split) -> Scored:
        told = candidates.cross_fitted_ridge(vectors, targets, split, len(targets))
        return candidates.candidate_gbm(history, told, history.popularity, targets, split)

    return {
        "frozen-linear": lambda split: candidates.ridge(None, vectors, targets, split),
        "fused-gbm": fused,
    }


def _fine_tuned(model: UserBert, study: Study, task: Task, seed: int, split: Split) -> Scored:
    labels, data = task.labels, study.data
    tuned = finetune(
        model,
        data,
        labels,
        config=_TUNING.model_copy(update={"seed": seed}),
        train_on=split.train,
        validate_on=split.validation,
    )
    rows = data.rows_of([labels.user_ids[i] for i in split.test])
    scores = tuned.scores(data, rows, labels.cutoffs[split.test])
    return Scored(scores, tuned.record["quality"])


def run(parts: Sequence[Part], logs: Path, results: Path, work: Path) -> None:
    """Do the parts that are not there yet, one a core at a time."""
    command = ["python", "-m", "userbert.experiments.quality.bench", *sys.argv[1:]]
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
    """Run what is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, help="the folder with ta-feng/ and ga4-merch-store/")
    parser.add_argument("results", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--study", nargs="*", default=[*CHOICE], choices=[*CHOICE, *CONFIRMATION])
    parser.add_argument("--recipe", nargs="*", default=[], choices=[CLASSICAL, *RECIPES])
    parser.add_argument("--seed", nargs="*", type=int, default=[0])
    parser.add_argument("--fine-tune", action="store_true")
    asked = parser.parse_args()
    parts = [
        Part(study, name, seed, asked.fine_tune)
        for name in asked.recipe
        for seed in (asked.seed if name != CLASSICAL else [0])
        for study in asked.study
    ]
    run(parts, asked.logs, asked.results, asked.work)
    write_table(asked.results)


if __name__ == "__main__":
    main()
