"""Adam with row-sparse updates, and its state as named tensors.

In: a module. Out: its optimizer, and the optimizer's state as tensors named by weight, so that a
checkpoint holds tensors only. The training loop and checkpoints use it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as fused_adam

from userbert.kernels.rows import AdamSettings
from userbert.kernels.softmax import AdamState, LayerGradient
from userbert.model.heads import AttributeHead
from userbert.model.tables import RowSparse
from userbert.training.row_adam import EPSILON, MEAN_DECAY, SQUARE_DECAY, RowAdam

_STATE_NAMES = ("step", "exp_avg", "exp_avg_sq")
"""Names of the tensors of a `DenseState` in checkpoints, as in PyTorch."""


class Adam:
    """Adam for all weights of a module, if the learning rate rarely changes.

    Weights of `RowSparse` modules are updated by row. Weights of heads are updated while their
    gradient is computed, if one process trains `alone` and a kernel supports it. All other weights
    use PyTorch's fused kernel.
    """

    def __init__(self, module: nn.Module, learning_rate: float, *, alone: bool = True) -> None:
        self.learning_rate = learning_rate
        self.rows = {
            name: RowAdam(part, learning_rate)
            for name, part in module.named_modules()
            if isinstance(part, RowSparse) and part.row_parameters()
        }
        by_row = {id(weight) for part in self.rows.values() for weight in part.weights}
        self.dense = {
            name: DenseState(weight)
            for name, weight in module.named_parameters()
            if id(weight) not in by_row and weight.requires_grad
        }
        # Several processes exchange gradients, which needs them materialized.
        self.heads = {
            name: part
            for name, part in module.named_modules()
            if isinstance(part, AttributeHead) and part.samples is None and alone
            if all(weight.requires_grad for weight in part.parameters())
        }
        self.deferred: dict[str, list[LayerGradient]] = {name: [] for name in self.heads}
        for name, head in self.heads.items():
            head.deferred = self.deferred[name]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the learning rate of the next steps. A change flushes all rows first.

        The flush applies the steps that rows missed, at the old learning rate.
        """
        if learning_rate == self.learning_rate:
            return
        self.flush()
        self.learning_rate = learning_rate
        for part in self.rows.values():
            part.learning_rate = learning_rate

    def zero_grad(self) -> None:
        """Discards the gradients."""
        for state in self.dense.values():
            state.weight.grad = None
        for part in self.rows.values():
            for weight in part.weights:
                weight.grad = None
        for deferred in self.deferred.values():
            # A forward pass may already hold this list: empty it, do not replace it.
            deferred.clear()

    @torch.no_grad()
    def step(self) -> None:
        """Updates all weights by one step along their gradients."""
        for name, deferred in self.deferred.items():
            self._step_head(name, deferred)
            # Frees large tensors before the next forward pass.
            deferred.clear()
        states = [part for part in self.dense.values() if part.weight.grad is not None]
        if states:
            fused_adam(
                [part.weight for part in states],
                [part.weight.grad for part in states],  # type: ignore[misc]
                [part.mean for part in states],
                [part.square for part in states],
                [],
                [part.step for part in states],
                fused=True,
                amsgrad=False,
                beta1=MEAN_DECAY,
                beta2=SQUARE_DECAY,
                lr=self.learning_rate,
                weight_decay=0,
                eps=EPSILON,
                maximize=False,
            )
        for rows in self.rows.values():
            rows.step()

    def _step_head(self, name: str, deferred: Sequence[LayerGradient]) -> None:
        """Takes the step of a head with one deferred gradient, without materializing it.

        With several deferred gradients, adds them to the weights' gradients instead.
        """
        weight, bias = (self.dense[f"{name}.project.{part}"] for part in ("weight", "bias"))
        if len(deferred) == 1 and weight.weight.grad is None:
            for part in (weight, bias):
                part.step += 1
            steps = int(weight.step.item())
            settings = AdamSettings(self.learning_rate, MEAN_DECAY, SQUARE_DECAY, EPSILON)
            state = AdamState(
                weight.mean, weight.square, bias.mean, bias.square, settings.step(steps)
            )
            deferred[0].take_step(state)
            return
        # Several losses used the head.
        for factors in deferred:
            for part, gradient in zip((weight, bias), factors.dense(), strict=True):
                earlier = part.weight.grad
                part.weight.grad = gradient if earlier is None else earlier + gradient

    def flush(self) -> None:
        """Applies the steps that rows missed. Call it before reading weights outside training."""
        for part in self.rows.values():
            part.flush()

    def close(self) -> None:
        """Applies the steps that rows missed, and detaches the optimizer from the module."""
        self.flush()
        for part in self.rows.values():
            part.module.before_read = None
        for head in self.heads.values():
            head.deferred = None


class DenseState:
    """Adam's state of one dense weight: its step and its mean gradient and squared gradient."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self.step = torch.zeros((), device=weight.device)
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)


def optimizer_tensors(optimizer: Adam) -> dict[str, Tensor]:
    """Returns Adam's state as named tensors, such as `WEIGHT/exp_avg`."""
    tensors = {
        f"{name}/{key}": tensor
        for name, part in optimizer.dense.items()
        for key, tensor in zip(_STATE_NAMES, (part.step, part.mean, part.square), strict=True)
    }
    for name, part in optimizer.rows.items():
        tensors[f"{name}/steps"] = torch.tensor(part.steps)
        tensors[f"{name}/current"] = part.current
        for number, (mean, square) in enumerate(zip(part.means, part.squares, strict=True)):
            tensors[f"{name}/{number}/exp_avg"] = mean
            tensors[f"{name}/{number}/exp_avg_sq"] = square
    return tensors


def restore_optimizer(optimizer: Adam, tensors: Mapping[str, Tensor]) -> None:
    """Restores the state from `optimizer_tensors`. Raises `KeyError` if a tensor is missing."""
    for name, state in optimizer.dense.items():
        state.step, state.mean, state.square = (
            tensors[f"{name}/{part}"].clone() for part in _STATE_NAMES
        )
    for name, part in optimizer.rows.items():
        part.steps = int(tensors[f"{name}/steps"])
        part.current = tensors[f"{name}/current"].clone()
        for number in range(len(part.weights)):
            part.means[number] = tensors[f"{name}/{number}/exp_avg"].clone()
            part.squares[number] = tensors[f"{name}/{number}/exp_avg_sq"].clone()
