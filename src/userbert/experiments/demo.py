"""The main job on real data: raw logs of Complete Journey → `report.html`.

What vectors add to the features one has already, on five tasks, with three pretraining seeds, and
those of the paper's own pretraining beside. Each part (data, labels, a model a seed) is published
whole, so a demo that was interrupted goes on where it was. `userbert demo` and `make demo` run it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.evaluation.evaluate import evaluate
from userbert.experiments import complete_journey
from userbert.model.userbert import UserBert
from userbert.progress import progress
from userbert.report.report import Background, read_metrics, write_report
from userbert.schema import Schema
from userbert.tasks.finetune import finetune
from userbert.tasks.labels import Labels
from userbert.training.settings import DEFAULT
from userbert.workers import processes

SEEDS = (0, 1, 2)
RECIPES: Mapping[str, Sequence[str]] = {
    "default": (),
    "paper": ("steps=2000", "checkpoint_every=250"),
}
"""Presets, and what is changed of them: the first is judged, the others are shown beside. The
paper's 400,000 batches are for 22.5 million users, these are 2,430."""
SERVED = "targeting_audience"
"""The task whose scores the service of a demo tells."""
_WORKERS = 3


def run_demo(folder: Path, command: Sequence[str]) -> Path:
    """Run what is left of the demo in `folder`; return the path of the report."""
    report = folder / "report.html"
    if report.exists():
        return report
    data = _prepare(folder)
    tasks = _labels(folder / "labels", data)
    recipes = _pretrain(folder / "models", data)
    models = recipes.pop(DEFAULT)
    comparison = evaluate(models, data, tasks, command=command, beside=recipes)
    (folder / "report.json").unlink(missing_ok=True)
    comparison.save(folder / "report.json")
    background = Background(
        metrics=[read_metrics(_model(folder / "models", DEFAULT, seed)) for seed in SEEDS],
        source_note=complete_journey.SOURCE_NOTE,
    )
    cutoff = data.schema.instant(complete_journey.CUTOFF)
    return write_report(folder, comparison, data, models, tasks, cutoff, background)


def served_of(folder: Path) -> tuple[Path, Path]:
    """A model of a demo that has run, and a task that is fine-tuned from it now if it is not there.

    The task takes a minute or two, and is published whole.
    """
    model, task = _model(folder / "models", DEFAULT, SEEDS[0]), folder / "tasks" / SERVED
    if not task.exists():
        data = PreparedData.open(folder / "data")
        (labels,) = (one for one in complete_journey.labels(data) if one.name == SERVED)
        finetune(UserBert.from_pretrained(model), data, labels).save(task)
    return model, task


def _prepare(folder: Path) -> PreparedData:
    path = folder / "schema.yaml"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(complete_journey.schema_text(), encoding="utf-8")
    if (folder / "data").exists():
        return PreparedData.open(folder / "data")
    return prepare(Schema.load(path), folder / "data")


def _labels(folder: Path, data: PreparedData) -> list[Labels]:
    tasks = complete_journey.labels(data)
    for task in tasks:
        path = folder / f"{task.name}.parquet"
        if not path.exists():
            task.save(path)
    return tasks


def _model(folder: Path, recipe: str, seed: int) -> Path:
    return folder / f"{recipe}-{seed}"


def _pretrain(folder: Path, data: PreparedData) -> dict[str, list[UserBert]]:
    """Models by recipe, one a seed, some side by side: small batches keep one core busy each."""
    wanted = [
        (recipe, seed)
        for recipe in RECIPES
        for seed in SEEDS
        if not _model(folder, recipe, seed).exists()
    ]
    with (
        processes(_WORKERS) as pool,
        progress("pretraining (models)", len(wanted)) as advance,
    ):
        runs = [
            pool.submit(_pretrain_one, data.path, _model(folder, recipe, seed), recipe, seed)
            for recipe, seed in wanted
        ]
        for run in runs:
            run.result()
            advance(1, "")
    return {
        recipe: [UserBert.from_pretrained(_model(folder, recipe, seed)) for seed in SEEDS]
        for recipe in RECIPES
    }


def _pretrain_one(data: Path, path: Path, recipe: str, seed: int) -> None:
    import torch

    from userbert.training.pretrain import pretrain
    from userbert.training.settings import configure

    torch.set_num_threads(1)
    pretrain(
        PreparedData.open(data),
        path,
        preset=recipe,
        config=configure(recipe, RECIPES[recipe]),
        seed=seed,
        before=complete_journey.CUTOFF,
        hide=complete_journey.HIDDEN,
        resume=True,
    )
