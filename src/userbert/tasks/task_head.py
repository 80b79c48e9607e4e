"""The head of a task: one linear layer, its losses and its scores.

In: vectors of users, targets. Out: losses, or scores. `TaskModel` puts it on a `UserBert` and
`finetune` trains it; the experiments also put it on the paper's baselines.

Letters in shapes: B users, H width of the vectors, C classes.
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
from userbert.tasks.labelled_batches import split_by_length
from userbert.tasks.labels import Labels

_MAX_STEPS = 50
"""Maximum number of steps of L-BFGS; a start at the weights of a stronger penalty needs fewer."""
_MIN_DEVIATION = 0.1
"""Lower bound of the deviations by which the probe divides the vectors' columns, so that
near-constant columns are not blown up. Most deviations are about 1."""


class TaskHead(nn.Linear):
    """Linear layer from vectors (B, H) to outputs (B, 1), or (B, C) with classes."""

    def __init__(self, width: int, labels: Labels) -> None:
        super().__init__(width, max(1, len(labels.classes)))
        self.kind = labels.kind
        # A regression predicts (target - center) / spread; other kinds use neither.
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.center: Tensor
        self.spread: Tensor

    def forward(self, vectors: Tensor) -> Tensor:
        """Maps vectors (B, H) to outputs, always in float32.

        In bf16 the logits of thousands of classes would tie.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            return super().forward(vectors.float())

    @torch.no_grad()
    def start(self, targets: NDArray[Any]) -> None:
        """Draws random weights and sets the bias to the base rates of the training targets.

        Training then starts from the base rates and learns only the differences between users.
        """
        nn.init.normal_(self.weight, std=INIT_DEVIATION)
        targets = targets.astype(np.float64)
        if self.kind == "regression":
            self.center.fill_(targets.mean())
            self.spread.fill_(max(float(targets.std()), 1e-6))
        self.bias.copy_(torch.from_numpy(self._base_rate_outputs(targets)))

    @torch.no_grad()
    def probe(self, vectors: Tensor, targets: NDArray[Any], penalty: float) -> None:
        """Fits the head to fixed vectors (B, H), from its current weights (a linear probe).

        `penalty` is the strength of the L2 penalty on the weights of the standardised vectors.
        """
        mean = vectors.mean(dim=0)
        scale = vectors.std(dim=0, correction=0).clamp(min=_MIN_DEVIATION)
        weight = (self.weight * scale).requires_grad_()
        bias = (self.bias + self.weight @ mean).requires_grad_()
        standard = (vectors - mean) / scale
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=_MAX_STEPS, line_search_fn="strong_wolfe"
        )

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

    def _base_rate_outputs(self, targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the base rates as outputs: log-odds of yes (1,), or log share of each class (C,).

        Regressions have the output 0 (1,), which stands for the mean target.
        """
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
        """Returns the loss of each user (B,)."""
        if self.kind == "multiclass":
            return functional.cross_entropy(outputs, torch.from_numpy(targets), reduction="none")
        expected = torch.from_numpy(targets.astype(np.float32))
        if self.kind == "binary":
            return functional.binary_cross_entropy_with_logits(
                outputs[:, 0], expected, reduction="none"
            )
        if self.kind == "regression":
            expected = (expected - self.center) / self.spread
            return functional.mse_loss(outputs[:, 0], expected, reduction="none")
        # Like pretraining's loss of a set of values, but divided by the set's size, so that users
        # with large sets do not weigh more.
        shares = expected / expected.sum(dim=1, keepdim=True).clamp(min=1)
        return functional.cross_entropy(outputs, shares, reduction="none")

    def scores(self, outputs: Tensor) -> Tensor:
        """Converts outputs to scores, by kind.

        Binary: probability of yes (B,). Multiclass and multilabel: class shares (B, C) that sum to
        1. Regression: predicted quantity (B,).
        """
        if self.kind == "binary":
            return outputs[:, 0].sigmoid()
        if self.kind == "regression":
            return outputs[:, 0] * self.spread + self.center
        return outputs.softmax(dim=1)


def mean_loss(
    network: Callable[[UserBatch], Tensor], head: TaskHead, batch: UserBatch, targets: NDArray[Any]
) -> Tensor:
    """Returns the mean loss over the users of a batch, whose `index` points into the targets.

    `network` returns the head's outputs. The batch is split by length so that attention pads less.
    """
    losses = [head.losses(network(part), targets[part.index]) for part in split_by_length(batch)]
    return torch.cat(losses).mean()
