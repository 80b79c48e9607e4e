"""Reference scores that networks are compared with: popularity, aggregates, the oracle.

In: a task and its test users. Out: estimates on the same test users and resamples as for the
networks. The jobs of the reproduction run them.

Letters in shapes: B labels, C classes, T test labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Floats, Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs
from userbert.experiments.reproduction.finetuning import K, estimates, fold_of
from userbert.experiments.reproduction.oracle import oracle_scores
from userbert.tasks import candidates
from userbert.tasks.aggregates import aggregates
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import Estimate, average_precision_at_k, resample_users, roc_auc
from userbert.tasks.splits import Split, learning_parts
from userbert.tasks.trees import gbm

_MIN_NONZERO_SHARE = 0.05
"""Minimum share of training labels with a nonzero value in the column that `one-aggregate` uses."""
_WITHOUT_ACCURACY = ("oracle", "one-aggregate")
"""References whose accuracy is not reported: their scores are not probabilities of the task's
labels, among which negatives are sampled."""


@dataclass(frozen=True)
class ReferenceScores:
    """Scores of a reference on the test users."""

    scores: Floats
    """Scores per user (T,), as `user_scores` computes them from a network's outputs."""
    column: str | None = None
    """Name of the column that `one-aggregate` chose; None for other references."""


@dataclass(frozen=True)
class ReferenceResult:
    """Estimates of a reference's metrics."""

    estimates: Mapping[str, Estimate]
    column: str | None
    """See `ReferenceScores`."""


class ReferenceTask:
    """A task, its split into training and test labels, and the data that references read.

    `logs` is the folder of the simulated logs with the truth, or None for other data.
    """

    def __init__(
        self,
        data: PreparedData,
        labels: Labels,
        logs: Path | None,
        seed: int,
        label_share: float = 1.0,
    ) -> None:
        self.data, self.labels, self.logs = data, labels, logs
        self.pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
        learning, self.test = fold_of(labels, seed, label_share)
        parts = learning_parts(labels.user_ids, labels.targets, learning, seed, share=0.1)
        self.split = Split(parts, self.test)

    @property
    def multi_hot(self) -> NDArray[np.bool_]:
        """Classes of each label as a multi-hot matrix (B, C)."""
        targets = self.labels.targets
        if targets.ndim == 2:
            return targets.astype(bool)
        is_answer: NDArray[np.bool_] = targets[:, None] == np.arange(len(self.labels.classes))
        return is_answer

    @property
    def attribute(self) -> tuple[str, str]:
        """Segment and attribute whose values are the classes of a next-value task."""
        assert self.labels.attribute is not None, "only next-value tasks have rankings"
        return self.labels.attribute


def evaluate_reference(name: str, task: ReferenceTask, resamples: int) -> ReferenceResult | None:
    """Evaluates a reference on `resamples` resamples; None if it does not apply to the task."""
    labels, test = task.labels, task.test
    if labels.kind == "binary" and name in ("popularity", "own-popularity"):
        return None
    if labels.kind != "binary" and name == "one-aggregate":
        return None
    if name == "oracle" and task.logs is None:
        return None
    reference = REFERENCES[name](task)
    weights = resample_users([labels.user_ids[i] for i in test], resamples)
    values = estimates(labels, labels.targets[test], reference.scores, weights)
    if name in _WITHOUT_ACCURACY:
        values = {metric: value for metric, value in values.items() if metric != "accuracy"}
    return ReferenceResult(values, reference.column)


def _popularity(task: ReferenceTask) -> ReferenceScores:
    """Ranks values for every user by how often they are the next value in training (paper §4.5)."""
    return _precisions(task, candidates.popular(task.multi_hot, task.split).scores)


def _own_popularity(task: ReferenceTask) -> ReferenceScores:
    """Ranks values by the user's own history and by popularity; see `own_popular`."""
    history = candidates.own_history(task.data, task.attribute, *_pairs(task))
    return _precisions(task, candidates.own_popular(history, task.multi_hot, task.split).scores)


def _aggregates_gbm(task: ReferenceTask) -> ReferenceScores:
    """Scores by gradient-boosted trees on counts of the whole history."""
    split = task.split
    if task.labels.kind == "binary":
        counts, _ = aggregates(task.data, *_pairs(task), task.labels.hide)
        return ReferenceScores(gbm(counts, task.labels.targets, split).scores)
    history = candidates.own_history(task.data, task.attribute, *_pairs(task))
    scored = candidates.candidate_gbm(history, None, history.popularity, task.multi_hot, split)
    return _precisions(task, scored.scores)


def _one_aggregate(task: ReferenceTask) -> ReferenceScores:
    """Scores by the aggregate with the best ROC-AUC on the training labels, in either direction."""
    split, targets = task.split, task.labels.targets
    columns, names = aggregates(task.data, *_pairs(task), task.labels.hide)
    training = columns[split.learning].tocsc()
    common_columns = np.flatnonzero(
        np.diff(training.indptr) >= _MIN_NONZERO_SHARE * training.shape[0]
    )
    gains = [
        roc_auc(targets[split.learning], training[:, [column]].toarray()[:, 0]) - 0.5
        for column in common_columns
    ]
    best = int(np.abs(gains).argmax())
    values = columns[split.test][:, [common_columns[best]]].toarray()[:, 0]
    return ReferenceScores(np.sign(gains[best]) * values, column=names[common_columns[best]])


def _oracle(task: ReferenceTask) -> ReferenceScores:
    """Scores by the hidden truth; see `oracle_scores`."""
    labels, test = task.labels, task.test
    assert task.logs is not None, "the oracle exists for simulated data only"
    oracle_output = oracle_scores(labels.take(test), task.logs, task.data)
    if labels.kind == "binary":
        shares: Floats = 1 / (1 + np.exp(-oracle_output))
        return ReferenceScores(shares)
    hits = oracle_output == labels.targets[test][:, None]  # (T, K)
    precisions: Floats = (hits / np.arange(1, K + 1)).sum(axis=1)
    return ReferenceScores(precisions)


def _pairs(task: ReferenceTask) -> tuple[Int64, Int64]:
    """Returns the data rows and cut-offs of the labels (B,)."""
    return task.pairs.rows, task.pairs.cutoffs


def _precisions(task: ReferenceTask, scores: Floats) -> ReferenceScores:
    """Returns the average precision of each test label, from scores of classes (T, C)."""
    return ReferenceScores(average_precision_at_k(scores, task.multi_hot[task.test], K))


REFERENCES: Mapping[str, Callable[[ReferenceTask], ReferenceScores]] = {
    "popularity": _popularity,
    "own-popularity": _own_popularity,
    "aggregates-gbm": _aggregates_gbm,
    "one-aggregate": _one_aggregate,
    "oracle": _oracle,
}
