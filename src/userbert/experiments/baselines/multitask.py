"""Multi-task pretraining: several questions at once, answered from one vector (paper §4.3).

In: an encoder, labels of its users. Out: the loop's losses, "the summed cross-entropy loss of the
multiple training tasks", of which the loop forms the sum. Any module will do
that maps a `UserBatch` to vectors (B, width) and has a `width`.

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
"""In place of a class."""


class MultiTask(nn.Module):
    """An encoder with a linear head for each task."""

    def __init__(self, encoder: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = tuple(classes)
        """(K,): the number of classes of each task."""
        width: int = encoder.width  # type: ignore[assignment]
        # All heads are one product.
        self.heads = nn.Linear(width, sum(classes))

    def forward(self, batch: UserBatch) -> tuple[Tensor, ...]:
        """Answer every task: (B, its classes) each, before softmax."""
        vectors = self.encoder(batch)
        with autocast(vectors.device, "float32"):
            return self.heads(vectors.float()).split(self.classes, dim=1)  # type: ignore[no-any-return]


def multitask(
    names: Sequence[str], targets: Int64
) -> Callable[[MultiTask, UserBatch, np.random.Generator], dict[str, Tensor]]:
    """Make the loop's losses, named by task, from targets (P, K) to which `batch.index` points.

    Each is averaged over the users whose label is known, and zero if nobody's is.
    """

    def losses(
        module: MultiTask, batch: UserBatch, generator: np.random.Generator
    ) -> dict[str, Tensor]:
        outputs = module(batch)
        wanted = torch.from_numpy(targets[batch.index].T.copy()).to(outputs[0].device)  # (K, B)
        return {
            name: _over_known(output, labels)
            for name, output, labels in zip(names, outputs, wanted, strict=True)
        }

    return losses


def _over_known(output: Tensor, labels: Tensor) -> Tensor:
    total = cross_entropy(output, labels, ignore_index=NOT_KNOWN, reduction="sum")
    return total / (labels != NOT_KNOWN).sum().clamp(min=1)
