"""Fine-tuning, watched: how well a model does on the test users after each epoch (§4.4).

In: an encoder, a task, who is tested. Out: its epochs. All models learn by the product's loop, its
batches and its head, end to end, for as many epochs; nothing is chosen on the test users.

Letters in shapes: B test users, C classes, R resamples.
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
from userbert.data.use.loading import in_length_order
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
from userbert.tasks.splits import parts_of_users
from userbert.tasks.task_head import TaskHead, mean_loss
from userbert.training.loop import LoopConfig, train

FOLDS = 5
"""Of users: a fold is tested, the others are learned from, so 80-20 (paper §4.2)."""
K = 10
"""Of mAP@10 (paper §4.5)."""
_BATCH = 256


@dataclass(frozen=True)
class Tuning:
    """How a task is learned; the defaults are the paper's (§4.4)."""

    learning_rate: float = 1e-4
    batch_size: int = 128
    epochs: int = 10
    resamples: int = 200
    """Of test users, for the intervals."""
    label_share: float = 1.0
    """Of the labels that may be learned from."""


@dataclass(frozen=True)
class Epoch:
    """What a model is after an epoch."""

    train_loss: float
    """The mean over the epoch, with dropout."""
    estimates: Mapping[str, Estimate]
    """Of the test users: the metrics, and the mean `test_loss`."""


class Network(nn.Module):
    """An encoder and a task's head on its vectors."""

    def __init__(self, encoder: UserEncoder, labels: Labels) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = TaskHead(encoder.width, labels)

    def forward(self, batch: UserBatch) -> Tensor:
        """Outputs of the head (B, 1) or (B, C)."""
        return self.head(self.encoder(batch))  # type: ignore[no-any-return]


def fold_of(labels: Labels, seed: int, label_share: float = 1.0) -> tuple[Int64, Int64]:
    """Indices of the labels to learn from, and of the fifth of the users to test.

    Folds follow from the labels alone, so all models of a seed are tested on the same users, and
    of a larger share the users to learn from are among more.
    """
    folds = parts_of_users(labels.user_ids, labels.targets, FOLDS, seed=0)
    is_test = folds == seed % FOLDS
    return some_of(np.flatnonzero(~is_test), label_share, seed), np.flatnonzero(is_test)


def some_of(numbers: Int64, share: float, seed: int) -> Int64:
    """Draw a share of some numbers; those of a larger share are among more."""
    order = np.random.default_rng(seed).permutation(len(numbers))
    return np.sort(numbers[order[: max(1, round(share * len(numbers)))]])


def metrics_of(labels: Labels) -> tuple[MetricName, ...]:
    """What the paper measures a task by (§4.5)."""
    return ("roc_auc", "accuracy") if labels.kind == "binary" else ("map_at_10",)


def fine_tune(
    encoder: UserEncoder,
    data: PreparedData,
    labels: Labels,
    tuning: Tuning,
    seed: int,
) -> list[Epoch]:
    """Learn a task end to end, and look at the test users after each epoch.

    Another seed tests another fold of the users.
    """
    learning, test = fold_of(labels, seed, tuning.label_share)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(deepcopy(encoder), labels)
        network.head.start(labels.targets[learning])
    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    batches = LabelledBatches(
        data, pairs, learning, batch_size=tuning.batch_size, seed=seed, hidden=labels.hide
    )
    judge = _Judge(data, pairs, labels, test, tuning.resamples)
    looks: list[Mapping[str, Estimate]] = []

    def look() -> dict[str, float]:
        looks.append(judge.look(network))
        return {name: found.value for name, found in looks[-1].items()}

    trained = train(
        network,
        lambda module, batch, _: {"task": mean_loss(module, module.head, batch, labels.targets)},
        batches,
        LoopConfig(
            steps=tuning.epochs * batches.per_epoch,
            learning_rate=tuning.learning_rate,
            seed=seed,
            precision=fastest_precision(encoder),
            log_every=batches.per_epoch,
            checkpoint_every=batches.per_epoch,
        ),
        validate=look,
        description=f"fine-tuning {labels.name}",
    )
    losses = [line["loss"] for line in trained.lines if "loss" in line]
    return [Epoch(loss, found) for loss, found in zip(losses, looks, strict=True)]


class _Judge:
    """The test users of a task, and the resamples of them that all models share."""

    def __init__(
        self, data: PreparedData, pairs: Pairs, labels: Labels, test: Int64, resamples: int
    ) -> None:
        self.data, self.labels, self.test = data, labels, test
        self.rows, self.cutoffs = pairs.rows[test], pairs.cutoffs[test]
        self.targets = labels.targets[test]
        self.weights = resample_users([labels.user_ids[i] for i in test], resamples)

    def look(self, network: Network) -> Mapping[str, Estimate]:
        """The metrics, and the loss."""
        losses = np.empty(len(self.test))
        told = np.empty(len(self.test))
        network.eval()
        device = next(network.parameters()).device
        with torch.inference_mode(), autocast(device, fastest_precision(network.encoder)):
            for batch in in_length_order(
                self.data, self.rows, self.cutoffs, batch_size=_BATCH, hidden=self.labels.hide
            ):
                outputs, targets = network(batch), self.targets[batch.index]
                losses[batch.index] = network.head.losses(outputs, targets).numpy()
                told[batch.index] = told_of(outputs, targets, network.head)
        metrics = estimates(self.labels, self.targets, told, self.weights)
        return {**metrics, "test_loss": _mean(losses, self.weights)}


def told_of(outputs: Tensor, targets: NDArray[Any], head: TaskHead) -> Floats:
    """What the metrics need of users: the probability of a yes, or the precision at 10 (B,)."""
    if head.kind == "binary":
        return head.scores(outputs).numpy()
    if head.kind == "multilabel":
        return average_precision_at_k(outputs.numpy(), targets, K)
    wanted = torch.from_numpy(targets)[:, None]
    # Of one right answer, the average precision is one over its rank; of equals, the class that
    # comes first is ranked first.
    own = outputs.gather(1, wanted)
    comes_first = torch.arange(outputs.shape[1]) < wanted
    ranks = ((outputs > own) | ((outputs == own) & comes_first)).sum(dim=1) + 1
    return torch.where(ranks <= K, 1 / ranks, 0.0).numpy()


def estimates(
    labels: Labels, targets: NDArray[Any], told: Floats, weights: NDArray[np.float32]
) -> Mapping[str, Estimate]:
    """The metrics of test users (B,), with their resamples; `told` as `told_of` gives it."""
    if labels.kind != "binary":
        return {"map_at_10": _mean(told, weights)}
    one_fold = np.zeros(len(targets), np.int64)
    return {name: estimate(name, targets, [told], one_fold, weights) for name in metrics_of(labels)}


def _mean(values: Floats, weights: NDArray[np.float32]) -> Estimate:
    """The mean over users (B,), on each resample of them."""
    return Estimate(float(values.mean()), weights @ values / weights.sum(axis=1))
