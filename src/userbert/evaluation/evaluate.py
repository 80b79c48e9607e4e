"""The honest comparison: what do the vectors add to the features one has already?

In: pretrained models of one recipe and several seeds, prepared data, labels. Out: `Report`, whose
rows are report.json's. `userbert evaluate`, `demo` and the experiments use it; `report.py` makes a
page of it. All models see the same folds, and learn and choose inside the training part alone.
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
from userbert.evaluation.findings import BESIDE
from userbert.evaluation.fits import CLASSICAL, NETWORKS, OURS, Fit, Material, Workshop
from userbert.evaluation.out_of_fold import (
    BEST,
    METRICS,
    OutOfFold,
    best_of,
    collect,
    estimated,
    row_of,
)
from userbert.evaluation.target_leakage import giveaway
from userbert.folders import publishing_file, write_json
from userbert.model.userbert import UserBert, embed_pairs
from userbert.provenance import made
from userbert.schema.strict import Strict
from userbert.tasks.aggregates import aggregates, of_all_history
from userbert.tasks.candidates import own_history
from userbert.tasks.finetune import FinetuneConfig, refuse_hidden, refuse_leaks
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import calibration, calibration_error, resample_users
from userbert.tasks.splits import parts_of_users

PRETRAINING = "fine-tuned − from-scratch"  # noqa: RUF001 - the minus sign, as in `BEST`
"""A paired difference, as `BEST` is."""
FEW_POSITIVES = 10
SHOWN_BESIDE = ("frozen-linear", "fused-linear")
"""What other recipes of pretraining are tried by."""
SLOW = (*NETWORKS, "fused", "fused-linear", "fused-gbm")


class EvaluateConfig(Strict):
    """How thoroughly models are compared."""

    folds: int = Field(default=5, ge=2)
    max_labels: int = Field(default=20_000, ge=1)
    """Of a task of more, so many are drawn at random: fits take minutes, not hours."""
    resamples: int = Field(default=1000, ge=1)
    """Of users, for the intervals."""
    seed: int = Field(default=0, ge=0)
    """Of folds, resamples and fits."""
    finetune: FinetuneConfig = FinetuneConfig(max_words=1_000_000)
    """Its bound on words is for the same: networks would take most of the time."""
    every_seed: bool = False
    """Fit every pretrained model in every fold; else models that take long (`SLOW`) take one
    pretrained model a fold, in turn."""
    draws: int = Field(default=20, ge=0)
    """Of labels at each point of a learning curve; none: no curves."""
    least_a_class: int = Field(default=10, ge=1)
    """Labels of each class at a curve's first point."""
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
    calibration: list[dict[str, Any]] = field(default_factory=list)
    """Of each model of a yes-or-no task: `data`, `task`, `model`, `error`, and `bins` of users of
    similar scores: `predicted`, `observed`, `low`, `high`, `users`."""
    warnings: list[str] = field(default_factory=list)
    """About the numbers of labels and of seeds."""
    giveaways: list[str] = field(default_factory=list)
    """Warnings of features that tell an answer by themselves."""
    leads: list[dict[str, Any]] = field(default_factory=list)
    """Of each `share` of the labels, on average over `tasks` tasks: the `lead` of `fused` over
    trees on features, that `with_all_labels`, and its `growth`, each as `mean`, `low`, `high`."""

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
    beside: Mapping[str, Sequence[UserBert]] | None = None,
) -> Report:
    """Compare models on features, on frozen vectors, on both, and fine-tuned networks.

    `models` are pretrained alike, one a seed; at least three make the intervals honest. `labels`
    are one task or several, or a frame of `user_id`, `label` and perhaps `cutoff`. `command` is
    what the report says it was made by. `beside` are models of other recipes, by name: what a
    regression reads from their vectors is shown, but never picked. A script that calls this needs
    `if __name__ == "__main__":`, as fits run in processes of their own.

    Raises `LabelError` if labels leak, a field that gives them away is visible, or there are too
    few; `ModelError` if the models are not alike or the data have other ids.
    """
    config = config or EvaluateConfig()
    networks = [models] if isinstance(models, UserBert) else list(models)
    if isinstance(labels, Labels) or not isinstance(labels, list | tuple):
        labels = [labels]
    tasks = [one if isinstance(one, Labels) else Labels.of(one, data) for one in labels]
    groups = [networks, *((beside or {}).values())]
    for group in groups:
        _refuse(group, data, tasks, config)
        if group[0].hidden != networks[0].hidden:
            raise ModelError(
                "the models beside saw other fields: "
                f"{', '.join(group[0].hidden) or 'none'} were hidden from them, "
                f"{', '.join(networks[0].hidden) or 'none'} from the first. Pretrain both alike."
            )
    asked = tasks
    tasks = [draw(one, config) for one in asked]
    materials, telling = _materials(groups, data, tasks, config)
    own, others = materials[: len(tasks)], materials[len(tasks) :]
    fits = _plan(own, len(networks), config)
    fits += [
        Fit(number, model, seed, seed, fold)
        for number, material in enumerate(others, len(own))
        for model in SHOWN_BESIDE
        if model in material.fitted
        for seed in range(len(material.vectors))
        for fold in range(config.folds)
    ]
    with TemporaryDirectory(prefix="userbert-") as folder:
        folders = tuple(Path(folder) / str(number) for number in range(len(networks)))
        for network, target in zip(networks, folders, strict=True):
            network.save_pretrained(target)
        workshop = Workshop(data.path, folders, materials, config.finetune, config.seed)
        results = collect(workshop, fits, config.folds, config.workers)
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    calibrated: list[dict[str, Any]] = []
    curved: list[learning_curve.Points] = []
    users, everyone = _resampled(tasks, config)
    for number, material in enumerate(own):
        weights = everyone[:, np.searchsorted(users, np.asarray(material.labels.user_ids))]
        about = {"data": data.path.name, "task": material.labels.name}
        found = [results[number, model, None] for model in material.models]
        found += [
            replace(results[place, model, None], model=f"{recipe}{BESIDE}{model}")
            for place, recipe in zip(
                range(number + len(own), len(materials), len(own)), beside or {}, strict=True
            )
            for model in SHOWN_BESIDE
            if model in material.fitted
        ]
        rows += [about | row for row in _rows(material, found, weights, config)]
        if material.labels.kind == "binary":
            calibrated += [about | _calibrated(material, one) for one in found]
        if config.draws:
            curved.append(learning_curve.points_of(number, material, results, weights))
            points = learning_curve.rows_of(curved[-1], material, config.folds)
            curves += [about | row for row in points]
    seeds = [int(network.record.get("seed", 0)) for network in networks]
    origin = made(list(command) or [Path(sys.argv[0]).name, *sys.argv[1:]], seeds, data.checksum)
    warnings = [*_warnings(asked, tasks, len(networks)), *_late_vocabularies(data, tasks)]
    leads = learning_curve.leads_of(curved)
    return Report(origin, rows, curves, calibrated, warnings, telling, leads)


def _resampled(
    tasks: Sequence[Labels], config: EvaluateConfig
) -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    """All users (U,) in order, and how often each counts in each resample (R, U).

    Tasks share them, so that their means have intervals, too.
    """
    users = np.unique(np.concatenate([np.asarray(labels.user_ids) for labels in tasks]))
    return users, resample_users(users.tolist(), config.resamples, config.seed)


def draw(labels: Labels, config: EvaluateConfig | None = None) -> Labels:
    """Draw the labels that `evaluate` compares models on, where there are more than it takes."""
    config = config or EvaluateConfig()
    if len(labels) <= config.max_labels:
        return labels
    generator = np.random.default_rng(config.seed)
    return labels.take(np.sort(generator.permutation(len(labels))[: config.max_labels]))


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


def _late_vocabularies(data: PreparedData, tasks: Sequence[Labels]) -> list[str]:
    """Say so if which values are known, and where numbers are cut, was learned after a cut-off."""
    first = min(int(task.cutoffs.min()) for task in tasks)
    bound = data.schema.fit_before_us
    if first > data.last_event or (bound is not None and bound <= first):
        return []
    day = datetime.fromtimestamp(first // 1_000_000, data.schema.zone)
    return [
        "vocabularies and bins were made of events after the first cut-off, too: vectors and "
        "aggregates know which values came later, though not whose. For a strict verdict set "
        f"fit_before: {day:%Y-%m-%d} in schema.yaml, and prepare again."
    ]


def _materials(
    groups: Sequence[Sequence[UserBert]],
    data: PreparedData,
    tasks: Sequence[Labels],
    config: EvaluateConfig,
) -> tuple[tuple[Material, ...], list[str]]:
    """Make the features of all tasks, group of networks by group; return warnings, too.

    Pairs that tasks share are encoded once. Warnings tell of features that give an answer away.
    """
    rows = [data.rows_of(labels.user_ids) for labels in tasks]
    asked = np.concatenate(
        [np.stack([row, labels.cutoffs], axis=1) for row, labels in zip(rows, tasks, strict=True)]
    )
    pairs, place = np.unique(asked, axis=0, return_inverse=True)
    places = np.split(place.ravel(), np.cumsum([len(labels) for labels in tasks])[:-1])
    # A label's hidden fields are hidden from the networks, hence from aggregates.
    counts, names = aggregates(data, pairs[:, 0], pairs[:, 1], groups[0][0].hidden)
    lasting = of_all_history(names)
    first, *others = (
        [embed_pairs(network, data, pairs[:, 0], pairs[:, 1]) for network in group]
        for group in groups
    )
    telling = [
        found.warning(labels.name)
        for labels, mine in zip(tasks, places, strict=True)
        if labels.kind == "binary"
        and (found := giveaway(counts[mine], names, labels.targets)) is not None
    ]
    materials = [
        Material(
            labels,
            parts_of_users(labels.user_ids, labels.targets, config.folds, config.seed),
            counts[mine],
            lasting,
            tuple(each[mine] for each in first),
            None
            if labels.attribute is None
            else own_history(data, labels.attribute, row, labels.cutoffs),
            groups[0][0].timing_width(),
        )
        for labels, row, mine in zip(tasks, rows, places, strict=True)
    ]
    beside = [
        replace(
            material, vectors=tuple(each[mine] for each in vectors), timing=group[0].timing_width()
        )
        for group, vectors in zip(groups[1:], others, strict=True)
        for material, mine in zip(materials, places, strict=True)
    ]
    return (*materials, *beside), telling


def _plan(materials: Sequence[Material], seeds: int, config: EvaluateConfig) -> list[Fit]:
    """All fits, those that take longest first, so that no process is left with one at the end."""
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


def _calibrated(material: Material, found: OutOfFold) -> dict[str, Any]:
    """How far a model's scores are probabilities; runs are averaged first."""
    bins = calibration(material.labels.targets, np.mean(found.scores, axis=0))
    return {
        "model": found.model,
        "error": round(calibration_error(bins), 6),
        "bins": [{key: round(value, 6) for key, value in asdict(one).items()} for one in bins],
    }


def _rows(
    material: Material,
    found: Sequence[OutOfFold],
    weights: NDArray[np.float32],
    config: EvaluateConfig,
) -> list[dict[str, Any]]:
    by_name = {one.model: one for one in found}
    ours = best_of(material, [by_name[name] for name in OURS if name in by_name])
    theirs = best_of(material, [by_name[name] for name in CLASSICAL if name in by_name])
    rows = []
    for metric in METRICS[material.labels.kind]:
        values = {one.model: estimated(material, one, metric, weights) for one in found}
        values[BEST] = estimated(material, ours, metric, weights).minus(
            estimated(material, theirs, metric, weights)
        )
        values[PRETRAINING] = values["fine-tuned"].minus(values["from-scratch"])
        rows += [
            row_of(model, metric, value, len(material.labels), config.folds)
            for model, value in values.items()
        ]
    return rows
