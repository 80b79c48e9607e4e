"""The head of a task: one linear layer, the loss that it learns by, what its outputs mean.

In: vectors of users, targets. Out: losses to learn from, or scores. `TaskModel` puts one on a
`UserBert` and `finetune` learns it; the experiments put the same on the paper's baselines.

Letters in shapes: B users, H width of their vectors, C classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from userbert.data.batches import UserBatch
from userbert.model.tables import INIT_DEVIATION
from userbert.tasks.labelled_batches import parts_of
from userbert.tasks.labels import Labels

_STEPS = 50
"""Of a quasi-Newton solver; from the weights of a stronger penalty, fewer are needed."""
_LEAST_DEVIATION = 0.1
"""Where users differ by less, in vectors of about unit deviation, there is not much to read."""


class TaskHead(nn.Linear):
    """Outputs (B, 1), or (B, C) where there are classes."""

    def __init__(self, width: int, labels: Labels) -> None:
        super().__init__(width, max(1, len(labels.classes)))
        self.kind = labels.kind
        # Regression learns (target - center) / spread; other kinds leave these as they are.
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.center: Tensor
        self.spread: Tensor

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (B, H) to outputs, in float32 also where the network runs in bf16.

        In bf16 the logits of thousands of classes would tie.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            return super().forward(vectors.float())

    @torch.no_grad()
    def start(self, targets: NDArray[Any]) -> None:
        """Draw the weights, and begin from what is frequent in the targets to learn from.

        What is the same for all need not be learned first, nor unlearned.
        """
        nn.init.normal_(self.weight, std=INIT_DEVIATION)
        targets = targets.astype(np.float64)
        if self.kind == "regression":
            self.center.fill_(targets.mean())
            self.spread.fill_(max(float(targets.std()), 1e-6))
        self.bias.copy_(torch.from_numpy(self._frequencies(targets)))

    @torch.no_grad()
    def probe(self, vectors: Tensor, targets: NDArray[Any], penalty: float) -> None:
        """Go on to the best weights for vectors (B, H) that stay as they are, as one regression.

        `penalty` is the share of the squared weights, of standardised vectors, in the loss.
        """
        mean = vectors.mean(dim=0)
        scale = vectors.std(dim=0, correction=0).clamp(min=_LEAST_DEVIATION)
        weight = (self.weight * scale).requires_grad_()
        bias = (self.bias + self.weight @ mean).requires_grad_()
        standard = (vectors - mean) / scale
        solver = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            outputs = functional.linear(standard, weight, bias)
            value = self.losses(outputs, targets).mean() + penalty / 2 * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            solver.step(loss)  # type: ignore[no-untyped-call]
        self.weight.copy_(weight.detach() / scale)
        self.bias.copy_(bias.detach() - self.weight @ mean)

    def _frequencies(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log odds of a yes, or the log of each class's share; of quantities zero, their center."""
        if self.kind == "regression":
            return np.zeros(1)
        if self.kind == "binary":
            share = (targets.sum() + 1) / (len(targets) + 2)
            return np.log([share / (1 - share)])
        if self.kind == "multiclass":
            counts = np.bincount(targets.astype(np.int64), minlength=self.out_features)
        else:
            counts = targets.sum(axis=0)
        shares: NDArray[np.float64] = np.log((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
        return shares

    def losses(self, outputs: Tensor, targets: NDArray[Any]) -> Tensor:
        """The loss of each user (B,)."""
        if self.kind == "multiclass":
            return functional.cross_entropy(outputs, torch.from_numpy(targets), reduction="none")
        wanted = torch.from_numpy(targets.astype(np.float32))
        if self.kind == "binary":
            return functional.binary_cross_entropy_with_logits(
                outputs[:, 0], wanted, reduction="none"
            )
        if self.kind == "regression":
            wanted = (wanted - self.center) / self.spread
            return functional.mse_loss(outputs[:, 0], wanted, reduction="none")
        # The same loss as of a word's set in pretraining, but a user counts once whatever its size.
        shares = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1)
        return functional.cross_entropy(outputs, shares, reduction="none")

    def scores(self, outputs: Tensor) -> Tensor:
        """What outputs mean, by kind.

        Binary: the probability of yes (B,); multiclass and multilabel: shares of the classes
        (B, C), 1 in all; regression: the quantity (B,).
        """
        if self.kind == "binary":
            return outputs[:, 0].sigmoid()
        if self.kind == "regression":
            return outputs[:, 0] * self.spread + self.center
        return outputs.softmax(dim=1)


def mean_loss(
    network: Callable[[UserBatch], Tensor], head: TaskHead, batch: UserBatch, targets: NDArray[Any]
) -> Tensor:
    """The loss averaged over the users of a batch, whose index points into the targets.

    `network` gives the head's outputs. Attention pads less in parts of similar lengths.
    """
    losses = [head.losses(network(part), targets[part.index]) for part in parts_of(batch)]
    return torch.cat(losses).mean()
