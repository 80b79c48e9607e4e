"""Fine-tuning with metrics on the test users after each epoch (§4.4).

In: an encoder, a task and its test users. Out: the metrics of each epoch. All models train end to
end with the product's loop, batches and head, for the same number of epochs; nothing is chosen on
the test users.

Letters in shapes: B labels of test users, C classes, R resamples.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from userbert.data.batches import UserBatch
from userbert.data.ragged import Floats, Int64
from userbert.data.store import PreparedData
from userbert.data.use.loading import batches_by_length
from userbert.data.use.pairs import Pairs
from userbert.experiments.reproduction.recipes import UserEncoder, fastest_precision
from userbert.model.userbert import autocast
from userbert.tasks.labelled_batches import LabelledBatches
from userbert.tasks.labels import Labels
from userbert.tasks.metrics import (
    Estimate,
    MetricName,
    average_precision_at_k,
    estimate,
    resample_users,
)
from userbert.tasks.splits import deal_users
from userbert.tasks.task_head import TaskHead, mean_loss
from userbert.training.loop import LoopConfig, train

FOLDS = 5
"""Number of folds of users. One fold is the test set, the others are the training set: 80-20
(paper §4.2)."""
K = 10
"""The k of mAP@k (paper §4.5)."""
_EVALUATION_BATCH = 256
"""Users per batch on test users; it does not change the metrics."""


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of fine-tuning; the defaults are the paper's (§4.4)."""

    learning_rate: float = 1e-4
    batch_size: int = 128
    epochs: int = 10
    resamples: int = 200
    """Number of resamples of the test users, for intervals."""
    label_share: float = 1.0
    """Share of the training labels."""


@dataclass(frozen=True)
class Epoch:
    """Training loss of an epoch, and metrics after it."""

    train_loss: float
    """Mean training loss of the epoch, with dropout."""
    estimates: Mapping[str, Estimate]
    """Metrics and mean `test_loss` of the test users."""


class Network(nn.Module):
    """An encoder with a task head on its vectors."""

    def __init__(self, encoder: UserEncoder, labels: Labels) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = TaskHead(encoder.width, labels)

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the outputs of the head, (B, 1) or (B, C)."""
        return self.head(self.encoder(batch))  # type: ignore[no-any-return]


def fold_of(labels: Labels, seed: int, label_share: float = 1.0) -> tuple[Int64, Int64]:
    """Returns the indices of training labels and of test labels, which have a fifth of the users.

    Folds depend on the labels, and the seed chooses the test fold, so all models of a seed have the
    same test users. Only a share of the training labels is returned; a smaller share is a subset of
    a larger one.
    """
    folds = deal_users(labels.user_ids, labels.targets, FOLDS, seed=0)
    is_test = folds == seed % FOLDS
    return draw_share(np.flatnonzero(~is_test), label_share, seed), np.flatnonzero(is_test)


def draw_share(numbers: Int64, share: float, seed: int) -> Int64:
    """Draws a share of `numbers`, at least one; a smaller share is a subset of a larger one."""
    order = np.random.default_rng(seed).permutation(len(numbers))
    return np.sort(numbers[order[: max(1, round(share * len(numbers)))]])


def metrics_of(labels: Labels) -> tuple[MetricName, ...]:
    """Returns the metrics that the paper reports for a kind of task (§4.5)."""
    return ("roc_auc", "accuracy") if labels.kind == "binary" else ("map_at_10",)


def fine_tune(
    encoder: UserEncoder,
    data: PreparedData,
    labels: Labels,
    settings: FinetuneSettings,
    seed: int,
) -> list[Epoch]:
    """Fine-tunes an encoder end to end, and evaluates it on the test users after each epoch.

    The seed also chooses the fold of test users.
    """
    learning, test = fold_of(labels, seed, settings.label_share)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(deepcopy(encoder), labels)
        network.head.start(labels.targets[learning])
    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    batches = LabelledBatches(
        data, pairs, learning, batch_size=settings.batch_size, seed=seed, hidden=labels.hide
    )
    evaluator = _TestUsers(data, pairs, labels, test, settings.resamples)
    evaluations: list[Mapping[str, Estimate]] = []

    def evaluate_now() -> dict[str, float]:
        evaluations.append(evaluator.evaluate(network))
        return {name: result.value for name, result in evaluations[-1].items()}

    trained = train(
        network,
        lambda module, batch, _: {"task": mean_loss(module, module.head, batch, labels.targets)},
        batches,
        LoopConfig(
            steps=settings.epochs * batches.per_epoch,
            learning_rate=settings.learning_rate,
            seed=seed,
            precision=fastest_precision(encoder),
            log_every=batches.per_epoch,
            checkpoint_every=batches.per_epoch,
        ),
        validate=evaluate_now,
        description=f"fine-tuning {labels.name}",
    )
    losses = [line["loss"] for line in trained.lines if "loss" in line]
    return [Epoch(loss, estimates) for loss, estimates in zip(losses, evaluations, strict=True)]


class _TestUsers:
    """The test users of a task, and the resamples of them that all models share."""

    def __init__(
        self, data: PreparedData, pairs: Pairs, labels: Labels, test: Int64, resamples: int
    ) -> None:
        self.data, self.labels, self.test = data, labels, test
        self.rows, self.cutoffs = pairs.rows[test], pairs.cutoffs[test]
        self.targets = labels.targets[test]
        self.weights = resample_users([labels.user_ids[i] for i in test], resamples)

    def evaluate(self, network: Network) -> Mapping[str, Estimate]:
        """Returns the metrics and the loss on the test users."""
        losses = np.empty(len(self.test))
        scores = np.empty(len(self.test))
        network.eval()
        device = next(network.parameters()).device
        with torch.inference_mode(), autocast(device, fastest_precision(network.encoder)):
            for batch in batches_by_length(
                self.data,
                self.rows,
                self.cutoffs,
                batch_size=_EVALUATION_BATCH,
                hidden=self.labels.hide,
            ):
                outputs, targets = network(batch), self.targets[batch.index]
                losses[batch.index] = network.head.losses(outputs, targets).numpy()
                scores[batch.index] = user_scores(outputs, targets, network.head)
        metrics = estimates(self.labels, self.targets, scores, self.weights)
        return {**metrics, "test_loss": _mean(losses, self.weights)}


def user_scores(outputs: Tensor, targets: NDArray[Any], head: TaskHead) -> Floats:
    """Returns scores (B,) from which metrics are computed, given outputs and targets (B, …).

    They are the probability of a yes for binary tasks, and the average precision at `K` for others.
    """
    if head.kind == "binary":
        return head.scores(outputs).numpy()
    if head.kind == "multilabel":
        return average_precision_at_k(outputs.numpy(), targets, K)
    classes = torch.from_numpy(targets)[:, None]
    # With one right class, the average precision is 1 / rank. Ties rank in the order of classes.
    target_output = outputs.gather(1, classes)
    comes_first = torch.arange(outputs.shape[1]) < classes
    ranks = ((outputs > target_output) | ((outputs == target_output) & comes_first)).sum(dim=1) + 1
    return torch.where(ranks <= K, 1 / ranks, 0.0).numpy()


def estimates(
    labels: Labels, targets: NDArray[Any], scores: Floats, weights: NDArray[np.float32]
) -> Mapping[str, Estimate]:
    """Returns the metrics of test users, also on each resample.

    `scores` (B,) are those of `user_scores`; `weights` (R, B) are the counts of labels in
    each resample.
    """
    if labels.kind != "binary":
        return {"map_at_10": _mean(scores, weights)}
    one_fold = np.zeros(len(targets), np.int64)
    return {
        name: estimate(name, targets, [scores], one_fold, weights) for name in metrics_of(labels)
    }


def _mean(values: Floats, weights: NDArray[np.float32]) -> Estimate:
    """Returns the mean of values (B,), also on each resample, by weights (R, B)."""
    return Estimate(float(values.mean()), weights @ values / weights.sum(axis=1))
