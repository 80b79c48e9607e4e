"""One fit of an evaluation: a task, a model, a fold; and the processes that do many of them.

In: `Material` (features and labels, made once a task) and `Fit`s. Out: `Scored`, fit by fit. Used
by `evaluate`. A fit depends on its own name alone, so the order and the number of processes change
no score.
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
from userbert.tasks.splits import Split, parts_to_learn_from
from userbert.workers import processes

CLASSICAL = (
    "popularity", "own-popularity", "aggregates-linear", "aggregates-gbm", "aggregates-both",
)  # fmt: skip
OURS = ("frozen-linear", "frozen-gbm", "fused-gbm", "fine-tuned", "fused-linear", "fused")
"""Of either side, the model that reads the most stands last; see `out_of_fold.best_of`."""
BLENDS: Mapping[str, tuple[str, ...]] = {
    "aggregates-both": ("aggregates-linear", "aggregates-gbm"),
    "fused": ("fused-linear", "aggregates-gbm", "fused-gbm", "fine-tuned"),
}
"""Models of yes-or-no tasks that are the mean of others: trees find what depends on what, a
regression what many weak signs say together, a network what came after what. (Trees use vectors
badly, but when and how often users acted they split well.)"""
BLENDS_OF_VALUES: Mapping[str, tuple[str, ...]] = {
    "fused": ("fused-linear", "aggregates-gbm", "fused-gbm"),
}
"""Of next values: the first, or the mean of the others; see `out_of_fold`."""
NETWORKS = ("fine-tuned", "from-scratch")
"""Models that train a network; all others learn on features."""


@dataclass(frozen=True)
class Material:
    """A task with all that its models read."""

    labels: Labels
    folds: NDArray[np.int64]
    """(B,): the fold whose test part each pair is in."""
    counts: sparse.csr_matrix
    """(B, D): aggregates."""
    lasting: Int64
    """The columns of `counts` that look at all of the history; regressions do better on them."""
    vectors: tuple[NDArray[np.float32], ...]
    """(B, H): user embeddings, one array a pretraining seed."""
    history: OwnHistory | None
    """Of tasks whose classes are an attribute's values."""
    timing: int = 0
    """How many of the last columns of the vectors are timing; see `UserBert.timing_width`."""

    @cached_property
    def targets(self) -> NDArray[Any]:
        """0 or 1 (B,), or sets (B, C); a class (B,) is a set of one."""
        if self.labels.kind != "multiclass":
            return self.labels.targets
        one_hot: NDArray[np.bool_] = self.labels.targets[:, None] == np.arange(
            len(self.labels.classes)
        )
        return one_hot

    @property
    def models(self) -> tuple[str, ...]:
        """The models that can do the task."""
        if self.labels.kind == "binary":
            left_out = {"own-popularity"} | self._untold
        else:
            left_out = {"aggregates-both"}
            if self.history is None:
                left_out |= {"own-popularity", "aggregates-gbm", "frozen-gbm", "fused-gbm"}
                left_out.add("fused-linear")  # `fused` itself
        return tuple(name for name in (*CLASSICAL, *OURS, "from-scratch") if name not in left_out)

    @property
    def blends(self) -> Mapping[str, tuple[str, ...]]:
        """Of these, the models that are made of others."""
        if self.labels.kind != "binary":
            return {} if self.history is None else BLENDS_OF_VALUES
        return {
            name: tuple(part for part in parts if part not in self._untold)
            for name, parts in BLENDS.items()
        }

    @property
    def _untold(self) -> set[str]:
        """Without timing, trees that read it are those on counts once more."""
        return set() if self.timing else {"fused-gbm"}

    @property
    def fitted(self) -> tuple[str, ...]:
        """The others, which are fitted."""
        return tuple(name for name in self.models if name not in self.blends)

    @cached_property
    def long_counts(self) -> sparse.csr_matrix:
        """(B, L): the counts that look at all of the history."""
        return self.counts[:, self.lasting]


@dataclass(frozen=True)
class Fit:
    """Which fit it is."""

    task: int
    model: str
    run: int
    """Which of the model's runs: of pretraining seeds, where they matter."""
    seed: int
    """Which pretrained model's vectors or weights."""
    fold: int
    size: int | None = None
    """At most so many labels to learn from; none: all."""


@dataclass(frozen=True)
class Workshop:
    """All that fits need; each process has its own."""

    data_path: Path
    model_folders: tuple[Path, ...]
    materials: tuple[Material, ...]
    finetune: FinetuneConfig
    seed: int

    @cached_property
    def data(self) -> PreparedData:
        """The prepared data, memory-mapped."""
        return PreparedData.open(self.data_path)

    @cached_property
    def networks(self) -> dict[int, UserBert]:
        """Pretrained models that have been loaded, by seed."""
        return {}

    def split(self, fit: Fit) -> Split:
        """Who is learned from, chosen on and asked."""
        material = self.materials[fit.task]
        labels, is_test = material.labels, material.folds == fit.fold
        learning = np.flatnonzero(~is_test)
        if fit.size is not None:
            learning = _first(learning, labels, fit.size, self.seed + 100 * fit.run + fit.fold)
        parts = parts_to_learn_from(labels.user_ids, labels.targets, learning, self.seed + fit.fold)
        return Split(parts, np.flatnonzero(is_test))

    def do(self, fit: Fit) -> Scored:
        """Fit a model and score the test pairs of its fold."""
        material, split = self.materials[fit.task], self.split(fit)
        if fit.model in NETWORKS:
            return self._network(fit, material, split)
        # Curves take the mean over many draws of labels anyway.
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
    """Do fits in so many processes of one thread each; yield each when it is done."""
    if workers == 1:
        for fit in fits:
            with threadpool_limits(1):
                scored = workshop.do(fit)
            yield fit, scored
        return
    with processes(workers, _open, workshop) as pool:
        futures = {pool.submit(_do, fit): fit for fit in fits}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_mine: list[Workshop] = []
"""The workshop of this process, if it is one of the pool's."""


def _open(workshop: Workshop) -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)
    _mine.append(workshop)


def _do(fit: Fit) -> Scored:
    return _mine[0].do(fit)


def fit_features(model: str, material: Material, seed: int, split: Split, forests: int) -> Scored:
    """Fit a model on counts, on a pretrained model's vectors, or on both; score the test pairs.

    Of yes-or-no tasks trees are the mean of so many `forests`, if labels are few.
    """
    if material.labels.kind == "binary":
        return _binary(model, material, seed, split, forests)
    return _values(model, material, seed, split)


def _binary(model: str, material: Material, seed: int, split: Split, forests: int) -> Scored:
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
    """What trees read."""
    match model:
        case "aggregates-gbm":
            return material.counts
        case "frozen-gbm":
            return sparse.csr_matrix(material.vectors[seed])
    return trees.with_timing(material.counts, material.vectors[seed], material.timing)


def _values(model: str, material: Material, seed: int, split: Split) -> Scored:
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
    told = None
    if model != "aggregates-gbm":
        told = candidates.cross_fitted_ridge(material.vectors[seed], targets, split, len(targets))
    own = None if model == "frozen-gbm" else history
    return candidates.candidate_gbm(own, told, history.popularity, targets, split)


def _first(learning: Int64, labels: Labels, size: int, seed: int) -> Int64:
    """Choose so many pairs at random, classes in proportion; fewer are always among more."""
    place = np.random.default_rng(seed).permutation(len(learning)).astype(np.float64)
    if labels.targets.ndim == 1:
        for value in np.unique(labels.targets[learning]):
            mine = np.flatnonzero(labels.targets[learning] == value)
            place[mine[np.argsort(place[mine])]] = (np.arange(len(mine)) + 0.5) / len(mine)
    return np.sort(learning[np.argsort(place, kind="stable")[:size]])
