"""Multi-task pretraining: several labels predicted from one user vector (paper §4.3).

In: an encoder and labels of its users. Out: losses for the training loop, which adds them up: "the
summed cross-entropy loss of the multiple training tasks". The encoder is any module that maps a
`UserBatch` to vectors (B, width) and has an attribute `width`.

Letters in shapes: B users, P pairs, K tasks.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from userbert.data.batches import UserBatch
from userbert.data.ragged import Int64
from userbert.model.userbert import autocast

NOT_KNOWN = -1
"""Target of a user without a known label; the loss ignores the user."""


class MultiTask(nn.Module):
    """An encoder with a linear head for each task.

    `classes` are the numbers of classes of the tasks (K,).
    """

    def __init__(self, encoder: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = tuple(classes)
        """Number of classes of each task (K,)."""
        width: int = encoder.width  # type: ignore[assignment]
        # One matrix product for all heads.
        self.heads = nn.Linear(width, sum(classes))

    def forward(self, batch: UserBatch) -> tuple[Tensor, ...]:
        """Returns the logits of each task (B, classes of the task)."""
        vectors = self.encoder(batch)
        with autocast(vectors.device, "float32"):
            return self.heads(vectors.float()).split(self.classes, dim=1)  # type: ignore[no-any-return]


def multitask(
    names: Sequence[str], targets: Int64
) -> Callable[[MultiTask, UserBatch, np.random.Generator], dict[str, Tensor]]:
    """Returns a function for the training loop that returns the loss of each task in `names` (K,).

    Row `batch.index[i]` of `targets` (P, K) has the class indices of user i, or `NOT_KNOWN`. A loss
    is the mean over the users with a known label, and 0 if there are none.
    """

    def losses(
        module: MultiTask, batch: UserBatch, generator: np.random.Generator
    ) -> dict[str, Tensor]:
        outputs = module(batch)
        labels_by_task = torch.from_numpy(targets[batch.index].T.copy()).to(
            outputs[0].device
        )  # (K, B)
        return {
            name: _mean_over_known(output, labels)
            for name, output, labels in zip(names, outputs, labels_by_task, strict=True)
        }

    return losses


def _mean_over_known(output: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy of outputs (B, classes) over known labels (B,)."""
    total = cross_entropy(output, labels, ignore_index=NOT_KNOWN, reduction="sum")
    return total / (labels != NOT_KNOWN).sum().clamp(min=1)
