"""The demo on real data: from raw logs of Complete Journey to `report.html`.

Measures what vectors add to existing features, on five tasks with three pretraining seeds, next to
vectors of the paper's pretraining. Each step (data, labels, a model per seed) is published
atomically, so an interrupted demo resumes. `userbert demo` and `make demo` run it.
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
from userbert.workers import process_pool

SEEDS = (0, 1, 2)
"""Pretraining seeds; each gives a model."""
RECIPES: Mapping[str, Sequence[str]] = {
    "default": (),
    "paper": ("steps=2000", "checkpoint_every=250"),
}
"""Presets and their changed settings. The report judges `default` and shows the others next to it.
The paper trains 400,000 batches on 22.5 million users; the demo pretrains on 2,430 users."""
SERVED = "targeting_audience"
"""Task whose scores the demo's service returns."""
_WORKERS = 3
"""Models that are pretrained at the same time; each uses one core, since batches are small."""


def run_demo(folder: Path, command: Sequence[str]) -> Path:
    """Runs the remaining steps of the demo in `folder`; returns the path of the report."""
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
    """Returns the paths of a finished demo's first model and of its task `SERVED`.

    Fine-tunes the task if it is missing, in a minute or two, and publishes it atomically.
    """
    model, path = _model(folder / "models", DEFAULT, SEEDS[0]), folder / "tasks" / SERVED
    if not path.exists():
        data = PreparedData.open(folder / "data")
        (labels,) = (task for task in complete_journey.labels(data) if task.name == SERVED)
        finetune(UserBert.from_pretrained(model), data, labels).save(path)
    return model, path


def _prepare(folder: Path) -> PreparedData:
    """Opens the demo's data, after preparing them if needed."""
    path = folder / "schema.yaml"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(complete_journey.schema_text(), encoding="utf-8")
    if (folder / "data").exists():
        return PreparedData.open(folder / "data")
    return prepare(Schema.load(path), folder / "data")


def _labels(folder: Path, data: PreparedData) -> list[Labels]:
    """Returns the demo's tasks, after writing missing label files to `folder`."""
    tasks = complete_journey.labels(data)
    for task in tasks:
        path = folder / f"{task.name}.parquet"
        if not path.exists():
            task.save(path)
    return tasks


def _model(folder: Path, recipe: str, seed: int) -> Path:
    """Returns the path of a pretrained model."""
    return folder / f"{recipe}-{seed}"


def _pretrain(folder: Path, data: PreparedData) -> dict[str, list[UserBert]]:
    """Pretrains the missing models in parallel; returns all models by recipe, in order of seeds."""
    missing = [
        (recipe, seed)
        for recipe in RECIPES
        for seed in SEEDS
        if not _model(folder, recipe, seed).exists()
    ]
    with (
        process_pool(_WORKERS) as pool,
        progress("pretraining (models)", len(missing)) as advance,
    ):
        runs = [
            pool.submit(_pretrain_one, data.path, _model(folder, recipe, seed), recipe, seed)
            for recipe, seed in missing
        ]
        for run in runs:
            run.result()
            advance(1, "")
    return {
        recipe: [UserBert.from_pretrained(_model(folder, recipe, seed)) for seed in SEEDS]
        for recipe in RECIPES
    }


def _pretrain_one(data: Path, path: Path, recipe: str, seed: int) -> None:
    """Pretrains a model, or resumes its pretraining; runs in a worker process."""
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
