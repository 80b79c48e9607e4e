"""The models that an evaluation compares (`CLASSICAL`, `OURS`), their fits, and the processes.

In: `Material` (features and labels, made once per task) and `Fit`s (one task, model and fold each).
Out: a `Scored` per fit. Used by `evaluate`. A fit's result depends only on its `Fit` and material,
so the order and number of processes change no score.

Letters in shapes: B (user, cut-off) pairs, C classes, D columns of aggregates, H numbers of a
vector, L columns of aggregates over all history.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.model.userbert import UserBert
from userbert.tasks import candidates, trees
from userbert.tasks.blending import Scored
from userbert.tasks.candidates import OwnHistory
from userbert.tasks.finetune import FinetuneConfig, finetune
from userbert.tasks.labels import Labels
from userbert.tasks.popularity import base_rate
from userbert.tasks.regression import linear
from userbert.tasks.splits import Split, learning_parts
from userbert.workers import process_pool

CLASSICAL = (
    "popularity", "own-popularity", "aggregates-linear", "aggregates-gbm", "aggregates-both",
)  # fmt: skip
"""Models that read features alone, ordered by inputs; see `OURS`."""
OURS = ("frozen-linear", "frozen-gbm", "fused-gbm", "fine-tuned", "fused-linear", "fused")
"""Models that read user vectors or events, ordered by inputs, most inputs last:
`out_of_fold.best_of` breaks ties in favour of the last."""
BLENDS: Mapping[str, tuple[str, ...]] = {
    "aggregates-both": ("aggregates-linear", "aggregates-gbm"),
    "fused": ("fused-linear", "aggregates-gbm", "fused-gbm", "fine-tuned"),
}
"""Models of binary tasks that average others: trees find interactions, a regression sums many weak
signals, a network sees the order of events. Trees use vectors badly, but split well on timing."""
BLENDS_OF_VALUES: Mapping[str, tuple[str, ...]] = {
    "fused": ("fused-linear", "aggregates-gbm", "fused-gbm"),
}
"""Blends of next-value tasks: the first member, or the mean of the other two; see `out_of_fold`."""
NETWORKS = ("fine-tuned", "from-scratch")
"""Models that train a network; all others are fitted on features."""


@dataclass(frozen=True)
class Material:
    """A task with the features that its models read; none of it depends on the fold."""

    labels: Labels
    folds: NDArray[np.int64]
    """Index of the fold whose test part holds each pair (B,)."""
    counts: sparse.csr_matrix
    """Aggregates (B, D)."""
    lasting: Int64
    """Indices of the columns of `counts` over all history (L,). Regressions of binary tasks read
    only these columns, because they then score better."""
    vectors: tuple[NDArray[np.float32], ...]
    """User embeddings (B, H), one array per pretraining seed."""
    history: OwnHistory | None
    """Users' own values, for tasks whose classes are an attribute's values; else `None`."""
    timing: int = 0
    """Number of timing columns at the end of the vectors; see `UserBert.timing_width`."""

    @cached_property
    def targets(self) -> NDArray[Any]:
        """Targets 0 or 1 (B,), or sets of classes (B, C); a single class becomes a set of one."""
        if self.labels.kind != "multiclass":
            return self.labels.targets
        one_hot: NDArray[np.bool_] = self.labels.targets[:, None] == np.arange(
            len(self.labels.classes)
        )
        return one_hot

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that can do the task."""
        if self.labels.kind == "binary":
            excluded = {"own-popularity"} | self._redundant
        else:
            excluded = {"aggregates-both"}
            if self.history is None:
                excluded |= {"own-popularity", "aggregates-gbm", "frozen-gbm", "fused-gbm"}
                excluded.add("fused-linear")  # would equal `fused`
        return tuple(name for name in (*CLASSICAL, *OURS, "from-scratch") if name not in excluded)

    @property
    def blends(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the models that average other models, each with its members."""
        if self.labels.kind != "binary":
            return {} if self.history is None else BLENDS_OF_VALUES
        return {
            name: tuple(part for part in parts if part not in self._redundant)
            for name, parts in BLENDS.items()
        }

    @property
    def _redundant(self) -> set[str]:
        """Models that equal another model: without timing, `fused-gbm` is `aggregates-gbm`."""
        return set() if self.timing else {"fused-gbm"}

    @property
    def fitted(self) -> tuple[str, ...]:
        """Names of the models that are fitted; the others are `blends`."""
        return tuple(name for name in self.models if name not in self.blends)

    @cached_property
    def long_counts(self) -> sparse.csr_matrix:
        """Counts over all history (B, L)."""
        return self.counts[:, self.lasting]


@dataclass(frozen=True)
class Fit:
    """One fit: a model on one fold of a task."""

    task: int
    """Index of the task's `Material` in the workshop."""
    model: str
    run: int
    """Index of the run: one run per pretraining seed, or per draw of labels in a learning curve."""
    seed: int
    """Index of the pretrained model whose vectors or weights are used."""
    fold: int
    """Index of the fold whose pairs are scored."""
    size: int | None = None
    """Maximum number of labels to train and validate on; `None`: all."""


@dataclass(frozen=True)
class Workshop:
    """Data, models and settings that fits need; each process has a copy."""

    data_path: Path
    model_folders: tuple[Path, ...]
    materials: tuple[Material, ...]
    finetune: FinetuneConfig
    """Settings of the networks; each fit sets its own `seed`."""
    seed: int
    """Base of the random seeds of draws, splits and networks."""

    @cached_property
    def data(self) -> PreparedData:
        """Prepared data, memory-mapped."""
        return PreparedData.open(self.data_path)

    @cached_property
    def networks(self) -> dict[int, UserBert]:
        """Loaded pretrained models, by index."""
        return {}

    def split(self, fit: Fit) -> Split:
        """Returns the training, validation and test pairs of a fit."""
        material = self.materials[fit.task]
        labels, is_test = material.labels, material.folds == fit.fold
        learning = np.flatnonzero(~is_test)
        if fit.size is not None:
            learning = _first(learning, labels, fit.size, self.seed + 100 * fit.run + fit.fold)
        parts = learning_parts(labels.user_ids, labels.targets, learning, self.seed + fit.fold)
        return Split(parts, np.flatnonzero(is_test))

    def do(self, fit: Fit) -> Scored:
        """Fits a model and scores the test pairs of its fold."""
        material, split = self.materials[fit.task], self.split(fit)
        if fit.model in NETWORKS:
            return self._network(fit, material, split)
        # Learning curves average over many draws of labels anyway.
        forests = trees.FORESTS if fit.size is None else 1
        return fit_features(fit.model, material, fit.seed, split, forests)

    def _network(self, fit: Fit, material: Material, split: Split) -> Scored:
        if fit.seed not in self.networks:
            self.networks[fit.seed] = UserBert.from_pretrained(self.model_folders[fit.seed])
        labels = material.labels
        task = finetune(
            self.networks[fit.seed],
            self.data,
            labels,
            config=self.finetune.model_copy(update={"seed": self.seed + 100 * fit.run + fit.fold}),
            from_scratch=fit.model == "from-scratch",
            train_on=split.train,
            validate_on=split.validation,
        )
        rows = self.data.rows_of(labels.user_ids)
        test, held = (
            task.scores(self.data, rows[on], labels.cutoffs[on])
            for on in (split.test, split.validation)
        )
        return Scored(test, task.record["quality"], held)


def do_all(workshop: Workshop, fits: Sequence[Fit], workers: int) -> Iterator[tuple[Fit, Scored]]:
    """Runs fits in `workers` processes of one thread each; yields each result when it is ready.

    With one worker, the fits run in this process.
    """
    if workers == 1:
        for fit in fits:
            with threadpool_limits(1):
                scored = workshop.do(fit)
            yield fit, scored
        return
    with process_pool(workers, _open, workshop) as pool:
        futures = {pool.submit(_do, fit): fit for fit in fits}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_process_workshop: list[Workshop] = []
"""Holds the workshop of this process, if the process belongs to the pool."""


def _open(workshop: Workshop) -> None:
    """Gives a process of the pool its workshop, and limits it to one thread."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    _process_workshop.append(workshop)


def _do(fit: Fit) -> Scored:
    return _process_workshop[0].do(fit)


def fit_features(model: str, material: Material, seed: int, split: Split, forests: int) -> Scored:
    """Fits a model on counts, on a pretrained model's vectors, or on both; scores the test pairs.

    `seed` is the index of the pretrained model. With few labels of a binary task, trees are the
    mean of `forests` models.
    """
    if material.labels.kind == "binary":
        return _binary(model, material, seed, split, forests)
    return _values(model, material, seed, split)


def _binary(model: str, material: Material, seed: int, split: Split, forests: int) -> Scored:
    """Fits a model of a binary task."""
    targets = material.targets
    match model:
        case "popularity":
            return base_rate(targets, split)
        case "aggregates-linear":
            return linear(material.long_counts, None, targets, split)
        case "aggregates-gbm" | "frozen-gbm" | "fused-gbm":
            return trees.gbm(_columns(model, material, seed), targets, split, forests)
    counts = None if model == "frozen-linear" else material.long_counts
    return linear(counts, material.vectors[seed], targets, split, material.timing)


def _columns(model: str, material: Material, seed: int) -> sparse.csr_matrix:
    """Returns the columns that a model of trees reads."""
    match model:
        case "aggregates-gbm":
            return material.counts
        case "frozen-gbm":
            return sparse.csr_matrix(material.vectors[seed])
    return trees.with_timing(material.counts, material.vectors[seed], material.timing)


def _values(model: str, material: Material, seed: int, split: Split) -> Scored:
    """Fits a model of a task with classes."""
    targets, counts, history = material.targets, material.counts, material.history
    match model:
        case "popularity":
            return candidates.popular(targets, split)
        case "aggregates-linear":
            return candidates.ridge(counts, None, targets, split)
        case "frozen-linear":
            return candidates.ridge(None, material.vectors[seed], targets, split)
        case "fused" | "fused-linear":
            return candidates.ridge(counts, material.vectors[seed], targets, split)
    assert history is not None
    if model == "own-popularity":
        return candidates.own_popular(history, targets, split)
    scores = None
    if model != "aggregates-gbm":
        scores = candidates.cross_fitted_ridge(material.vectors[seed], targets, split, len(targets))
    own = None if model == "frozen-gbm" else history
    return candidates.candidate_gbm(own, scores, history.popularity, targets, split)


def _first(learning: Int64, labels: Labels, size: int, seed: int) -> Int64:
    """Draws `size` pairs at random, stratified by class.

    With the same seed, a smaller draw is a subset of a larger draw.
    """
    ranks = np.random.default_rng(seed).permutation(len(learning)).astype(np.float64)
    if labels.targets.ndim == 1:
        for value in np.unique(labels.targets[learning]):
            members = np.flatnonzero(labels.targets[learning] == value)
            ranked = members[np.argsort(ranks[members])]
            ranks[ranked] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(learning[np.argsort(ranks, kind="stable")[:size]])
