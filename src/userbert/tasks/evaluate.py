"""The honest comparison: what do the vectors add to the features one has already?

In: pretrained models of one recipe and several seeds, prepared data, labels. Out: `Report`, whose
rows are report.json's. `userbert evaluate`, `demo` and the experiments use it; `report.py` makes a
page of it. All models see the same folds, and learn and choose inside the training part alone.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from userbert.data.store import PreparedData
from userbert.errors import LabelError, ModelError
from userbert.folders import publishing_file, write_json
from userbert.model.userbert import UserBert, embed_pairs
from userbert.progress import progress
from userbert.provenance import made
from userbert.schema.models import Strict
from userbert.tasks.aggregates import aggregates
from userbert.tasks.candidates import own_history
from userbert.tasks.finetune import FinetuneConfig, refuse_hidden, refuse_leaks
from userbert.tasks.fits import (
    CLASSICAL,
    NETWORKS,
    OURS,
    Fit,
    Material,
    Workshop,
    do_all,
)
from userbert.tasks.giveaways import giveaway
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import Estimate, Floats, MetricName, estimate, resample_users
from userbert.tasks.splits import parts_of_users
from userbert.workers import cores

METRICS: Mapping[str, tuple[MetricName, ...]] = {
    "binary": ("roc_auc", "pr_auc", "accuracy"),
    "multiclass": ("map_at_10", "accuracy"),
    "multilabel": ("map_at_10",),
}
"""By the kind of the task; models are chosen by the first."""
BEST = "best-ours − best-classical"  # noqa: RUF001 - the design's name of the row
PRETRAINING = "fine-tuned − from-scratch"  # noqa: RUF001 - as above
"""Paired differences."""
FEW_POSITIVES = 10
SLOW = (*NETWORKS, "fused")
CURVE_MODELS = ("aggregates-gbm", "fine-tuned", "from-scratch")


class EvaluateConfig(Strict):
    """How thoroughly models are compared."""

    folds: int = Field(default=5, ge=2)
    max_labels: int = Field(default=20_000, ge=1)
    """Of a task of more, so many are drawn at random: fits take minutes, not hours."""
    resamples: int = Field(default=1000, ge=1)
    """Of users, for the intervals."""
    seed: int = Field(default=0, ge=0)
    """Of folds, resamples and fits."""
    finetune: FinetuneConfig = FinetuneConfig(
        learning_rate=3e-4, batch_size=32, epochs=3, patience=2
    )
    """Hundreds of labels make five of the paper's batches an epoch; so batches are smaller, and
    epochs fewer to save time, which costs the networks something (docs/decisions/0005)."""
    every_seed: bool = False
    """Fit every pretrained model in every fold; else models that take long (`SLOW`) take one
    pretrained model a fold, in turn."""
    curve: tuple[int, ...] = (100, 300)
    """Numbers of labels of the learning curves."""
    workers: int | None = Field(default=None, ge=1)
    """Processes; none: one a core."""


@dataclass(frozen=True)
class Report:
    """What an evaluation found; flat rows, as in every file of results."""

    made: dict[str, object]
    rows: list[dict[str, Any]]
    """`data`, `task`, `model`, `metric`, `mean`, `low`, `high`, `labels`, `splits`."""
    learning_curves: list[dict[str, Any]] = field(default_factory=list)
    """Rows in which `labels` is the number that was learned from."""
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Write as plain JSON."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write report.json; raise `InputError` if it exists."""
        with publishing_file(Path(path)) as temporary:
            write_json(temporary, self.to_json())


def evaluate(
    models: UserBert | Sequence[UserBert],
    data: PreparedData,
    labels: Labels | Any | Sequence[Labels],
    *,
    config: EvaluateConfig | None = None,
    command: Sequence[str] = (),
) -> Report:
    """Compare models on features, on frozen vectors, on both, and fine-tuned networks.

    `models` are pretrained alike, one a seed; at least three make the intervals honest. `labels`
    are one task or several, or a frame of `user_id`, `label` and perhaps `cutoff`. `command` is
    what the report says it was made by. A script that calls this needs `if __name__ ==
    "__main__":`, as fits run in processes of their own.

    Raises `LabelError` if labels leak, a field that gives them away is visible, or there are too
    few; `ModelError` if the models are not alike or the data have other ids.
    """
    config = config or EvaluateConfig()
    networks = [models] if isinstance(models, UserBert) else list(models)
    if isinstance(labels, Labels) or not isinstance(labels, list | tuple):
        labels = [labels]
    tasks = [one if isinstance(one, Labels) else Labels.of(one, data) for one in labels]
    _refuse(networks, data, tasks, config)
    asked = tasks
    tasks = [draw(one, config) for one in asked]
    materials, telling = _materials(networks, data, tasks, config)
    fits = _plan(materials, len(networks), config)
    with TemporaryDirectory(prefix="userbert-") as folder:
        folders = tuple(Path(folder) / str(number) for number in range(len(networks)))
        for network, target in zip(networks, folders, strict=True):
            network.save_pretrained(target)
        workshop = Workshop(data.path, folders, materials, config.finetune, config.seed)
        results = _results(workshop, fits, config)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for number, material in enumerate(materials):
        weights = resample_users(material.labels.user_ids, config.resamples, config.seed)
        about = {"data": data.path.name, "task": material.labels.name}
        found = [results[number, model, None] for model in material.models]
        rows += [about | row for row in _rows(material, found, weights, config)]
        for size in (*_sizes(material, config), None):
            for model in CURVE_MODELS:
                if (number, model, size) in results:
                    oof = results[number, model, size]
                    curves += [about | row for row in _curve(material, oof, weights, size, config)]
    seeds = [int(network.record.get("seed", 0)) for network in networks]
    origin = made(list(command) or [Path(sys.argv[0]).name, *sys.argv[1:]], seeds, data.checksum)
    return Report(origin, rows, curves, [*_warnings(asked, tasks, len(networks)), *telling])


def draw(labels: Labels, config: EvaluateConfig | None = None) -> Labels:
    """Draw the labels that `evaluate` compares models on, where there are more than it takes."""
    config = config or EvaluateConfig()
    if len(labels) <= config.max_labels:
        return labels
    generator = np.random.default_rng(config.seed)
    return labels.take(np.sort(generator.permutation(len(labels))[: config.max_labels]))


@dataclass
class _OutOfFold:
    """A model's scores of all pairs, each from the fold in which it was not learned from."""

    model: str
    scores: list[Floats]
    """(B,) or (B, C), one array a run."""
    validation: Floats
    """(runs, folds)."""


def _refuse(
    networks: Sequence[UserBert],
    data: PreparedData,
    tasks: Sequence[Labels],
    config: EvaluateConfig,
) -> None:
    first = networks[0]
    for network in networks:
        network.check_fits(data)
        if (network.config, network.hidden) != (first.config, first.hidden):
            raise ModelError(
                "the models are not alike: they differ in size or in the fields they never saw. "
                "Give models of one configuration that differ in --seed alone."
            )
    names = [labels.name for labels in tasks]
    if len(set(names)) < len(names):
        raise LabelError(f"two tasks have the same name among {', '.join(names)}. Rename a file.")
    for labels in tasks:
        if labels.kind == "regression":
            raise LabelError(
                f"{labels.name} asks for a quantity; evaluate compares answers of yes and no and "
                "of classes. Cut it at a value of interest, or use `userbert finetune`."
            )
        refuse_hidden(first, labels)
        for network in networks:
            refuse_leaks(network, data, labels)
        rare, common = _sides(labels)
        if min(rare, common, len(set(labels.user_ids))) < 2 * config.folds:
            raise LabelError(
                f"{labels.name}: {len(labels)} labels with {min(rare, common)} on the rarer side "
                f"are too few for {config.folds} folds. Give at least {2 * config.folds} of each."
            )


def _sides(labels: Labels) -> tuple[int, int]:
    """How many say yes and no; of classes and sets, how many pairs there are."""
    if labels.kind != "binary":
        return len(labels), len(labels)
    positives = int(labels.targets.sum())
    return positives, len(labels) - positives


def _warnings(asked: Sequence[Labels], tasks: Sequence[Labels], seeds: int) -> list[str]:
    found = [
        f"{drawn.name}: {len(drawn):,} of {len(labels):,} labels were drawn at random."
        for labels, drawn in zip(asked, tasks, strict=True)
        if len(drawn) < len(labels)
    ]
    found += [
        f"{labels.name}: {min(_sides(labels))} users on the rarer side are too few to say anything."
        for labels in tasks
        if min(_sides(labels)) < FEW_POSITIVES
    ]
    if seeds < 3:
        found.append(
            f"{seeds} pretraining seed(s): the intervals leave out how much pretraining itself "
            "varies. Give at least three models."
        )
    return found


def _materials(
    networks: Sequence[UserBert],
    data: PreparedData,
    tasks: Sequence[Labels],
    config: EvaluateConfig,
) -> tuple[tuple[Material, ...], list[str]]:
    """Make the features of all tasks; pairs that tasks share are encoded once.

    Warnings tell of features that give an answer away.
    """
    rows = [data.rows_of(labels.user_ids) for labels in tasks]
    asked = np.concatenate(
        [np.stack([row, labels.cutoffs], axis=1) for row, labels in zip(rows, tasks, strict=True)]
    )
    pairs, place = np.unique(asked, axis=0, return_inverse=True)
    places = np.split(place.ravel(), np.cumsum([len(labels) for labels in tasks])[:-1])
    # A label's hidden fields are hidden from the networks, hence from aggregates.
    counts, names = aggregates(data, pairs[:, 0], pairs[:, 1], networks[0].hidden)
    vectors = [embed_pairs(network, data, pairs[:, 0], pairs[:, 1]) for network in networks]
    telling = [
        f"{labels.name}: the one column {found.column!r} tells the answer (ROC-AUC "
        f"{found.roc_auc:.3f} by itself). Does it hold the answer, or is the cut-off after the "
        "label's own event? Hide the field, or choose an earlier cut-off."
        for labels, mine in zip(tasks, places, strict=True)
        if labels.kind == "binary"
        and (found := giveaway(counts[mine], names, labels.targets)) is not None
    ]
    return tuple(
        Material(
            labels,
            parts_of_users(labels.user_ids, labels.targets, config.folds, config.seed),
            counts[mine],
            tuple(each[mine] for each in vectors),
            None
            if labels.attribute is None
            else own_history(data, labels.attribute, row, labels.cutoffs),
        )
        for labels, row, mine in zip(tasks, rows, places, strict=True)
    ), telling


def _plan(materials: Sequence[Material], seeds: int, config: EvaluateConfig) -> list[Fit]:
    """All fits, those that take longest first, so that no process is left with one at the end."""
    fits = []
    for number, material in enumerate(materials):
        for fold in range(config.folds):
            for model in material.models:
                if model in SLOW and not config.every_seed:
                    fits.append(Fit(number, model, 0, fold % seeds, fold))
                else:
                    runs = 1 if model in CLASSICAL else seeds
                    fits += [Fit(number, model, run, run, fold) for run in range(runs)]
            fits += [
                Fit(number, model, 0, fold % seeds, fold, size)
                for size in _sizes(material, config)
                for model in CURVE_MODELS
                if model in material.models
            ]

    def cost(fit: Fit) -> tuple[bool, int]:
        return fit.model in NETWORKS, fit.size or len(materials[fit.task].labels)

    return sorted(fits, key=cost, reverse=True)


def _sizes(material: Material, config: EvaluateConfig) -> list[int]:
    """Numbers of labels of a learning curve that leave something to add."""
    learned = len(material.labels) * (config.folds - 1) // config.folds
    return [size for size in config.curve if size < 0.8 * learned]


def _results(
    workshop: Workshop, fits: Sequence[Fit], config: EvaluateConfig
) -> dict[tuple[int, str, int | None], _OutOfFold]:
    """Do all fits and put the folds together, by task, model and size."""
    gathered: dict[tuple[int, str, int | None], _OutOfFold] = {}
    runs: dict[tuple[int, str, int | None], int] = defaultdict(int)
    for fit in fits:
        key = fit.task, fit.model, fit.size
        runs[key] = max(runs[key], fit.run + 1)
    workers = min(config.workers or cores(), len(fits))
    with progress("evaluating", len(fits)) as advance:
        for fit, scored in do_all(workshop, fits, workers):
            key = fit.task, fit.model, fit.size
            material = workshop.materials[fit.task]
            if key not in gathered:
                shape = (len(material.labels), *scored.scores.shape[1:])
                gathered[key] = _OutOfFold(
                    fit.model,
                    [np.zeros(shape, np.float32) for _ in range(runs[key])],
                    np.zeros((runs[key], config.folds)),
                )
            # Trees of a multiclass task are far apart from probabilities; only ranks are used.
            gathered[key].scores[fit.run][material.folds == fit.fold] = scored.scores
            gathered[key].validation[fit.run, fit.fold] = scored.validation
            advance(1, f"{material.labels.name}: {fit.model}")
    return gathered


def _rows(
    material: Material,
    found: Sequence[_OutOfFold],
    weights: NDArray[np.float32],
    config: EvaluateConfig,
) -> list[dict[str, Any]]:
    by_name = {one.model: one for one in found}
    ours = _best(material, [by_name[name] for name in OURS if name in by_name])
    theirs = _best(material, [by_name[name] for name in CLASSICAL if name in by_name])
    rows = []
    for metric in METRICS[material.labels.kind]:
        values = {one.model: _estimate(material, one, metric, weights) for one in found}
        values[BEST] = _estimate(material, ours, metric, weights).minus(
            _estimate(material, theirs, metric, weights)
        )
        values[PRETRAINING] = values["fine-tuned"].minus(values["from-scratch"])
        rows += [
            _row(model, metric, value, len(material.labels), config)
            for model, value in values.items()
        ]
    return rows


def _curve(
    material: Material,
    found: _OutOfFold,
    weights: NDArray[np.float32],
    size: int | None,
    config: EvaluateConfig,
) -> list[dict[str, Any]]:
    learned = size or len(material.labels) * (config.folds - 1) // config.folds
    metric = METRICS[material.labels.kind][0]
    value = _estimate(material, found, metric, weights)
    return [_row(found.model, metric, value, learned, config)]


def _best(material: Material, models: Sequence[_OutOfFold]) -> _OutOfFold:
    """In each fold, take the model that was best inside the training part, over all its runs."""
    chosen = np.argmax([one.validation.mean(axis=0) for one in models], axis=0)  # (folds,)
    runs = max(len(one.scores) for one in models)
    scores = [np.zeros_like(models[0].scores[0]) for _ in range(runs)]
    for fold, number in enumerate(chosen):
        test = material.folds == fold
        for run in range(runs):
            own = models[number].scores
            scores[run][test] = own[run % len(own)][test]
    return _OutOfFold("best", scores, np.zeros((runs, len(chosen))))


def _estimate(
    material: Material, found: _OutOfFold, metric: MetricName, weights: NDArray[np.float32]
) -> Estimate:
    targets = material.labels.targets
    return estimate(metric, targets, found.scores, material.folds, weights)


def _row(
    model: str, metric: str, value: Estimate, labels: int, config: EvaluateConfig
) -> dict[str, Any]:
    return {
        "model": model,
        "metric": metric,
        "mean": round(value.value, 6),
        "low": round(value.low, 6),
        "high": round(value.high, 6),
        "labels": labels,
        "splits": config.folds,
    }
