"""What the networks are held against: popularity, aggregates, the truth.

In: a task, who is tested. Out: estimates on the same test users and resamples as the networks'.
The reproduction's parts run them.

Letters in shapes: B labels, C classes, T test users.
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
from userbert.tasks.splits import Split, parts_to_learn_from
from userbert.tasks.trees import gbm

_COMMON = 0.05
"""The least share of users who have an aggregate, for it to be the one that tells the most."""
_RANKS = ("oracle", "one-aggregate")
"""Those whose scores are ranks, but no probabilities of these users."""


@dataclass(frozen=True)
class Told:
    """What a reference says of the test users."""

    scores: Floats
    """(T,): as `told_of` makes them of a network's outputs."""
    by: str | None = None
    """What alone it looked at, if that was chosen."""


@dataclass(frozen=True)
class Referred:
    """How right a reference was."""

    estimates: Mapping[str, Estimate]
    by: str | None
    """See `Told`."""


class Question:
    """A task, and what references read of it."""

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
        parts = parts_to_learn_from(labels.user_ids, labels.targets, learning, seed, share=0.1)
        self.split = Split(parts, self.test)

    @property
    def sets(self) -> NDArray[np.bool_]:
        """The classes as sets (B, C)."""
        targets = self.labels.targets
        if targets.ndim == 2:
            return targets.astype(bool)
        is_answer: NDArray[np.bool_] = targets[:, None] == np.arange(len(self.labels.classes))
        return is_answer

    @property
    def attribute(self) -> tuple[str, str]:
        """(segment, attribute) whose values are the classes."""
        assert self.labels.attribute is not None, "only next-value tasks have rankings"
        return self.labels.attribute


def refer(name: str, question: Question, resamples: int) -> Referred | None:
    """How right a reference is; None where it has nothing to say of such a task."""
    labels, test = question.labels, question.test
    if labels.kind == "binary" and name in ("popularity", "own-popularity"):
        return None
    if labels.kind != "binary" and name == "one-aggregate":
        return None
    if name == "oracle" and question.logs is None:
        return None
    told = REFERENCES[name](question)
    weights = resample_users([labels.user_ids[i] for i in test], resamples)
    found = estimates(labels, labels.targets[test], told.scores, weights)
    if name in _RANKS:
        found = {metric: value for metric, value in found.items() if metric != "accuracy"}
    return Referred(found, told.by)


def _popularity(question: Question) -> Told:
    """Everybody's next value is what most next values are (paper §4.5)."""
    return _precisions(question, candidates.popular(question.sets, question.split).scores)


def _own_popularity(question: Question) -> Told:
    history = candidates.own_history(question.data, question.attribute, *_who(question))
    return _precisions(
        question, candidates.own_popular(history, question.sets, question.split).scores
    )


def _aggregates_gbm(question: Question) -> Told:
    split = question.split
    if question.labels.kind == "binary":
        counts, _ = aggregates(question.data, *_who(question), question.labels.hide)
        return Told(gbm(counts, question.labels.targets, split).scores)
    history = candidates.own_history(question.data, question.attribute, *_who(question))
    scored = candidates.candidate_gbm(history, None, history.popularity, question.sets, split)
    return _precisions(question, scored.scores)


def _one_aggregate(question: Question) -> Told:
    """What one number alone would tell: that which tells the most of the users to learn from."""
    split, targets = question.split, question.labels.targets
    columns, names = aggregates(question.data, *_who(question), question.labels.hide)
    known = columns[split.learning].tocsc()
    common = np.flatnonzero(np.diff(known.indptr) >= _COMMON * known.shape[0])
    leads = [
        roc_auc(targets[split.learning], known[:, [column]].toarray()[:, 0]) - 0.5
        for column in common
    ]
    best = int(np.abs(leads).argmax())
    values = columns[split.test][:, [common[best]]].toarray()[:, 0]
    return Told(np.sign(leads[best]) * values, by=names[common[best]])


def _oracle(question: Question) -> Told:
    labels, test = question.labels, question.test
    assert question.logs is not None, "asked of simulated data alone"
    told = oracle_scores(labels.take(test), question.logs, question.data)
    if labels.kind == "binary":
        shares: Floats = 1 / (1 + np.exp(-told))
        return Told(shares)
    hits = told == labels.targets[test][:, None]  # (T, K)
    precisions: Floats = (hits / np.arange(1, K + 1)).sum(axis=1)
    return Told(precisions)


def _who(question: Question) -> tuple[Int64, Int64]:
    return question.pairs.rows, question.pairs.cutoffs


def _precisions(question: Question, scores: Floats) -> Told:
    return Told(average_precision_at_k(scores, question.sets[question.test], K))


REFERENCES: Mapping[str, Callable[[Question], Told]] = {
    "popularity": _popularity,
    "own-popularity": _own_popularity,
    "aggregates-gbm": _aggregates_gbm,
    "one-aggregate": _one_aggregate,
    "oracle": _oracle,
}
