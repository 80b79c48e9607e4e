"""Compares contestants by cross-validation: what do vectors add to the usual features?

In: models pretrained alike with several seeds, prepared data, labels. Out: a `Report`, the content
of report.json. `userbert evaluate`, `demo` and the experiments use it; `report/` renders it. All
contestants use the same folds, and are fitted and chosen only on each fold's training part.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from userbert.data.store import PreparedData
from userbert.errors import LabelError, ModelError
from userbert.evaluation import learning_curve
from userbert.evaluation.findings import RECIPE_SEPARATOR
from userbert.evaluation.fits import CLASSICAL, NETWORKS, OURS, Fit, Material, Workshop
from userbert.evaluation.out_of_fold import (
    BEST,
    METRICS_BY_KIND,
    OutOfFold,
    best_of,
    collect,
    estimated,
    row_of,
)
from userbert.evaluation.target_leakage import find_leaking_column
from userbert.folders import publishing_file, write_json
from userbert.model.userbert import UserBert, embed_pairs
from userbert.provenance import provenance_record
from userbert.schema.strict import Strict
from userbert.tasks.aggregates import aggregates, all_history_columns
from userbert.tasks.candidates import own_history
from userbert.tasks.finetune import FinetuneConfig, refuse_hidden, refuse_leaks
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import calibration, calibration_error, resample_users
from userbert.tasks.splits import deal_users

PRETRAINING = "fine-tuned − from-scratch"  # noqa: RUF001 - the minus sign, as in `BEST`
"""Row name of the paired difference that shows what pretraining adds; compare `BEST`."""
MIN_FOR_VERDICT = 10
"""Labels (binary: of the rarer answer) below which a task's figures say nothing."""
RECIPE_MODELS = ("frozen-linear", "fused-linear")
"""Contestants that are also fitted to the vectors of other pretraining recipes."""
SLOW = (*NETWORKS, "fused", "fused-linear", "fused-gbm")
"""Slow contestants: they use one pretrained model per fold unless `EvaluateConfig.every_seed`."""


class EvaluateConfig(Strict):
    """Settings of `evaluate`."""

    folds: int = Field(default=5, ge=2)
    max_labels: int = Field(default=20_000, ge=1)
    """Maximum number of labels per task; larger tasks are sampled, so that fits take minutes."""
    resamples: int = Field(default=1000, ge=1)
    """Number of bootstrap resamples of the users, for the intervals."""
    seed: int = Field(default=0, ge=0)
    """Seed of folds, resamples and fits."""
    finetune: FinetuneConfig = FinetuneConfig(max_words=1_000_000)
    """Settings of fine-tuning. Without the limit on words, networks would take most of the time."""
    every_seed: bool = False
    """Whether slow contestants (`SLOW`) use all pretrained models per fold, not one in turn."""
    draws: int = Field(default=20, ge=0)
    """Number of random draws of labels per point of a learning curve; 0: no curves."""
    least_a_class: int = Field(default=10, ge=1)
    """Minimum number of labels of each class at the first point of a learning curve."""
    workers: int | None = Field(default=None, ge=1)
    """Number of processes; `None`: one per core."""


@dataclass(frozen=True)
class Report:
    """Results of an evaluation: the content of report.json."""

    made: dict[str, object]
    """Origin of the report: versions, command, seeds and checksum of the data."""
    rows: list[dict[str, Any]]
    """One row per metric of a contestant (`model`) or of a difference: `data`, `task`, `model`,
    `metric`, `mean`, its interval (`low`, `high`), numbers of `labels` and of folds (`splits`)."""
    learning_curves: list[dict[str, Any]] = field(default_factory=list)
    """Rows like `rows`; `labels` is the number of training labels."""
    calibration: list[dict[str, Any]] = field(default_factory=list)
    """One row per contestant of a binary task: `data`, `task`, `model`, calibration `error`, `bins`
    of similar scores: mean `predicted`, share of positives `observed` (`low`, `high`), `users`."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about labels, seeds and vocabularies."""
    giveaways: list[str] = field(default_factory=list)
    """Warnings of target leakage: single features that predict an answer."""
    leads: list[dict[str, Any]] = field(default_factory=list)
    """One row per `share` of the labels, averaged over `tasks` tasks: `lead` of `fused` over trees
    on features, lead `with_all_labels`, their difference `growth`; each `mean`, `low`, `high`."""

    def to_json(self) -> dict[str, Any]:
        """Returns the report as plain JSON."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Writes report.json; raises `InputError` if it exists."""
        with publishing_file(Path(path)) as temporary:
            write_json(temporary, self.to_json())


def evaluate(
    models: UserBert | Sequence[UserBert],
    data: PreparedData,
    labels: Labels | Any | Sequence[Labels],
    *,
    config: EvaluateConfig | None = None,
    command: Sequence[str] = (),
    beside: Mapping[str, Sequence[UserBert]] | None = None,
) -> Report:
    """Compares contestants on features, on frozen vectors and on both, and fine-tuned networks.

    `models` are pretrained alike with different seeds; give at least three, or the intervals ignore
    the variance of pretraining. `labels` are one task or several, or a frame of `user_id`, `label`
    and optionally `cutoff`. `command` is recorded in the report. `beside` are models of other
    pretraining recipes, by recipe name: regressions on their vectors are reported, but are never
    chosen as best. Fits run in separate processes, so scripts need `if __name__ == "__main__":`.

    Raises `LabelError` if labels leak, the models read a leaking field, or labels are too few;
    `ModelError` if the models are not alike or the data do not fit them.
    """
    config = config or EvaluateConfig()
    networks = [models] if isinstance(models, UserBert) else list(models)
    if isinstance(labels, Labels) or not isinstance(labels, list | tuple):
        labels = [labels]
    tasks = [task if isinstance(task, Labels) else Labels.of(task, data) for task in labels]
    groups = [networks, *((beside or {}).values())]
    for group in groups:
        _check_inputs(group, data, tasks, config)
        if group[0].hidden != networks[0].hidden:
            raise ModelError(
                "beside: expected models with the same hidden profile fields as `models` "
                f"({', '.join(networks[0].hidden) or 'none'}), found "
                f"{', '.join(group[0].hidden) or 'none'}. Pretrain both with the same `hide`."
            )
    full_tasks = tasks
    tasks = [sample_labels(task, config) for task in full_tasks]
    materials, leak_warnings = _materials(groups, data, tasks, config)
    own, others = materials[: len(tasks)], materials[len(tasks) :]
    fits = _plan(own, len(networks), config)
    fits += [
        Fit(number, model, seed, seed, fold)
        for number, material in enumerate(others, len(own))
        for model in RECIPE_MODELS
        if model in material.fitted
        for seed in range(len(material.vectors))
        for fold in range(config.folds)
    ]
    with TemporaryDirectory(prefix="userbert-") as folder:
        folders = tuple(Path(folder) / str(number) for number in range(len(networks)))
        for network, model_folder in zip(networks, folders, strict=True):
            network.save_pretrained(model_folder)
        workshop = Workshop(data.path, folders, materials, config.finetune, config.seed)
        results = collect(workshop, fits, config.folds, config.workers)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    calibrations: list[dict[str, Any]] = []
    curve_points: list[learning_curve.Points] = []
    users, user_weights = _resample(tasks, config)
    for number, material in enumerate(own):
        weights = user_weights[:, np.searchsorted(users, np.asarray(material.labels.user_ids))]
        about = {"data": data.path.name, "task": material.labels.name}
        out_of_fold = [results[number, model, None] for model in material.models]
        out_of_fold += [
            replace(results[other, model, None], model=f"{recipe}{RECIPE_SEPARATOR}{model}")
            for other, recipe in zip(
                range(number + len(own), len(materials), len(own)), beside or {}, strict=True
            )
            for model in RECIPE_MODELS
            if model in material.fitted
        ]
        rows += [about | row for row in _metric_rows(material, out_of_fold, weights, config)]
        if material.labels.kind == "binary":
            calibrations += [about | _calibration_row(material, scores) for scores in out_of_fold]
        if config.draws:
            points = learning_curve.points_of(number, material, results, weights)
            curve_points.append(points)
            curve_rows = learning_curve.rows_of(points, material, config.folds)
            curves += [about | row for row in curve_rows]
    seeds = [int(network.record.get("seed", 0)) for network in networks]
    origin = provenance_record(
        list(command) or [Path(sys.argv[0]).name, *sys.argv[1:]], seeds, data.checksum
    )
    warnings = [*_warnings(full_tasks, tasks, len(networks)), *_late_vocabularies(data, tasks)]
    leads = learning_curve.leads_of(curve_points)
    return Report(origin, rows, curves, calibrations, warnings, leak_warnings, leads)


def _resample(
    tasks: Sequence[Labels], config: EvaluateConfig
) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """Returns all users (U,), sorted, and how often each user is in each resample (R, U).

    Tasks share the resamples, so that means over tasks have intervals, too.
    """
    users = np.unique(np.concatenate([np.asarray(labels.user_ids) for labels in tasks]))
    return users, resample_users(users.tolist(), config.resamples, config.seed)


def sample_labels(labels: Labels, config: EvaluateConfig | None = None) -> Labels:
    """Returns the labels that `evaluate` uses: a sample of `max_labels` if there are more."""
    config = config or EvaluateConfig()
    if len(labels) <= config.max_labels:
        return labels
    generator = np.random.default_rng(config.seed)
    return labels.take(np.sort(generator.permutation(len(labels))[: config.max_labels]))


def _check_inputs(
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
                "the models are not alike: they differ in configuration or in hidden fields. Give "
                "models that differ only in the seed of pretraining."
            )
    names = [labels.name for labels in tasks]
    if len(set(names)) < len(names):
        raise LabelError(f"two tasks have the same name among {', '.join(names)}. Rename a file.")
    for labels in tasks:
        if labels.kind == "regression":
            raise LabelError(
                f"{labels.name} is a quantity (a regression), but evaluate compares only binary "
                "labels and classes. Make binary labels by a threshold, or use `userbert finetune`."
            )
        refuse_hidden(first, labels)
        for network in networks:
            refuse_leaks(network, data, labels)
        users, least = len(set(labels.user_ids)), 2 * config.folds
        count, count_text = _rarer_side(labels)
        if min(count, users) < least:
            raise LabelError(
                f"{labels.name}: {count_text} of {users} users are too few for "
                f"{config.folds} folds. Give at least {least}, and as many users."
            )


def _rarer_side(labels: Labels) -> tuple[int, str]:
    """Returns the number of labels of the rarer answer (if not binary: of all), also as text."""
    if labels.kind != "binary":
        return len(labels), f"{len(labels)} labels"
    count = int(np.bincount(labels.targets, minlength=2).min())
    return count, f"{count} labels on the rarer side"


def _warnings(full_tasks: Sequence[Labels], tasks: Sequence[Labels], seeds: int) -> list[str]:
    warnings = [
        f"{sample.name}: {len(sample):,} of {len(labels):,} labels were drawn at random."
        for labels, sample in zip(full_tasks, tasks, strict=True)
        if len(sample) < len(labels)
    ]
    warnings += [
        f"{labels.name}: {count_text} are too few for any conclusion."
        for labels in tasks
        for count, count_text in [_rarer_side(labels)]
        if count < MIN_FOR_VERDICT
    ]
    if seeds < 3:
        warnings.append(
            f"{seeds} pretraining seed(s): the intervals do not include the variance of "
            "pretraining. Give at least three models."
        )
    return warnings


def _late_vocabularies(data: PreparedData, tasks: Sequence[Labels]) -> list[str]:
    """Returns a warning if vocabularies and bins were also fitted to later events."""
    first = min(int(task.cutoffs.min()) for task in tasks)
    bound = data.schema.fit_before_us
    if first > data.last_event or (bound is not None and bound <= first):
        return []
    day = datetime.fromtimestamp(first // 1_000_000, data.schema.zone)
    return [
        "vocabularies and bins were also fitted to events after the first cut-off, so vectors and "
        "aggregates depend on which values occur later, but not on who has them. For a strict "
        f"comparison set fit_before: {day:%Y-%m-%d} in schema.yaml, and prepare again."
    ]


def _materials(
    groups: Sequence[Sequence[UserBert]],
    data: PreparedData,
    tasks: Sequence[Labels],
    config: EvaluateConfig,
) -> tuple[tuple[Material, ...], list[str]]:
    """Returns the `Material`s of each recipe's tasks, group after group, and leakage warnings.

    Pairs that tasks share are embedded once.
    """
    rows = [data.rows_of(labels.user_ids) for labels in tasks]
    all_pairs = np.concatenate(
        [np.stack([row, labels.cutoffs], axis=1) for row, labels in zip(rows, tasks, strict=True)]
    )
    pairs, index = np.unique(all_pairs, axis=0, return_inverse=True)
    task_indices = np.split(index.ravel(), np.cumsum([len(labels) for labels in tasks])[:-1])
    # Fields that are hidden from the networks leak labels, so aggregates leave them out as well.
    counts, names = aggregates(data, pairs[:, 0], pairs[:, 1], groups[0][0].hidden)
    history_columns = all_history_columns(names)
    own_vectors, *other_vectors = (
        [embed_pairs(network, data, pairs[:, 0], pairs[:, 1]) for network in group]
        for group in groups
    )
    leak_warnings = [
        column.warning(labels.name)
        for labels, task_index in zip(tasks, task_indices, strict=True)
        if labels.kind == "binary"
        and (column := find_leaking_column(counts[task_index], names, labels.targets)) is not None
    ]
    materials = [
        Material(
            labels,
            deal_users(labels.user_ids, labels.targets, config.folds, config.seed),
            counts[task_index],
            history_columns,
            tuple(vectors[task_index] for vectors in own_vectors),
            None
            if labels.attribute is None
            else own_history(data, labels.attribute, row, labels.cutoffs),
            groups[0][0].timing_width(),
        )
        for labels, row, task_index in zip(tasks, rows, task_indices, strict=True)
    ]
    other_materials = [
        replace(
            material,
            vectors=tuple(vectors[task_index] for vectors in group_vectors),
            timing=group[0].timing_width(),
        )
        for group, group_vectors in zip(groups[1:], other_vectors, strict=True)
        for material, task_index in zip(materials, task_indices, strict=True)
    ]
    return (*materials, *other_materials), leak_warnings


def _plan(materials: Sequence[Material], seeds: int, config: EvaluateConfig) -> list[Fit]:
    """Returns all fits, the slowest first, so that all processes finish at about the same time."""
    fits = []
    for number, material in enumerate(materials):
        for fold in range(config.folds):
            for model in material.fitted:
                if model in SLOW and not config.every_seed:
                    fits.append(Fit(number, model, 0, fold % seeds, fold))
                else:
                    runs = 1 if model in CLASSICAL else seeds
                    fits += [Fit(number, model, run, run, fold) for run in range(runs)]
        fits += learning_curve.fits_of(
            number, material, seeds, config.folds, config.least_a_class, config.draws
        )

    def cost(fit: Fit) -> tuple[bool, int]:
        return fit.model in NETWORKS, fit.size or len(materials[fit.task].labels)

    return sorted(fits, key=cost, reverse=True)


def _calibration_row(material: Material, model: OutOfFold) -> dict[str, Any]:
    """Returns a contestant's row of `Report.calibration`, from its mean scores over the runs."""
    bins = calibration(material.labels.targets, np.mean(model.scores, axis=0))
    return {
        "model": model.model,
        "error": round(calibration_error(bins), 6),
        "bins": [{key: round(value, 6) for key, value in asdict(bin_).items()} for bin_ in bins],
    }


def _metric_rows(
    material: Material,
    models: Sequence[OutOfFold],
    weights: NDArray[np.float32],
    config: EvaluateConfig,
) -> list[dict[str, Any]]:
    by_name = {model.model: model for model in models}
    ours = best_of(material, [by_name[name] for name in OURS if name in by_name])
    classical = best_of(material, [by_name[name] for name in CLASSICAL if name in by_name])
    rows = []
    for metric in METRICS_BY_KIND[material.labels.kind]:
        values = {model.model: estimated(material, model, metric, weights) for model in models}
        values[BEST] = estimated(material, ours, metric, weights).minus(
            estimated(material, classical, metric, weights)
        )
        values[PRETRAINING] = values["fine-tuned"].minus(values["from-scratch"])
        rows += [
            row_of(model, metric, value, len(material.labels), config.folds)
            for model, value in values.items()
        ]
    return rows
