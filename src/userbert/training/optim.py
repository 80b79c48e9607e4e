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
    """Adam for all trainable weights of a module.

    Tables, and heads with sampled softmax, are updated by row; a change of the learning rate
    updates all their rows, so keep changes rare. With `single_process`, other heads are updated
    while their gradient is computed, where a kernel supports it. All other weights use PyTorch's
    fused kernel. With several processes, set `single_process` to false.
    """

    def __init__(
        self, module: nn.Module, learning_rate: float, *, single_process: bool = True
    ) -> None:
        self.learning_rate = learning_rate
        self.rows = {
            name: RowAdam(submodule, learning_rate)
            for name, submodule in module.named_modules()
            if isinstance(submodule, RowSparse) and submodule.row_parameters()
        }
        row_weights = {id(weight) for rows in self.rows.values() for weight in rows.weights}
        self.dense = {
            name: DenseState(weight)
            for name, weight in module.named_parameters()
            if id(weight) not in row_weights and weight.requires_grad
        }
        # Several processes average their gradients, which must be in memory for that.
        self.heads = {
            name: submodule
            for name, submodule in module.named_modules()
            if isinstance(submodule, AttributeHead) and submodule.samples is None and single_process
            if all(weight.requires_grad for weight in submodule.parameters())
        }
        self.deferred: dict[str, list[LayerGradient]] = {name: [] for name in self.heads}
        for name, head in self.heads.items():
            head.deferred = self.deferred[name]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Sets the learning rate of the next steps. A change first calls `flush`.

        Thus the steps that rows missed are applied at the old learning rate.
        """
        if learning_rate == self.learning_rate:
            return
        self.flush()
        self.learning_rate = learning_rate
        for rows in self.rows.values():
            rows.learning_rate = learning_rate

    def zero_grad(self) -> None:
        """Discards the gradients."""
        for state in self.dense.values():
            state.weight.grad = None
        for rows in self.rows.values():
            for weight in rows.weights:
                weight.grad = None
        for deferred in self.deferred.values():
            # A forward pass may already hold this list: empty it, do not replace it.
            deferred.clear()

    @torch.no_grad()
    def step(self) -> None:
        """Takes one step of Adam with the current gradients."""
        for name, deferred in self.deferred.items():
            self._step_head(name, deferred)
            # Frees large tensors before the next forward pass.
            deferred.clear()
        states = [state for state in self.dense.values() if state.weight.grad is not None]
        if states:
            fused_adam(
                [state.weight for state in states],
                [state.weight.grad for state in states],  # type: ignore[misc]
                [state.mean for state in states],
                [state.square for state in states],
                [],
                [state.step for state in states],
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
        """Updates a head from its only deferred gradient, without storing the full gradient.

        If the head has several deferred gradients, or its weight also has an ordinary gradient,
        adds the deferred gradients to the ordinary gradients, and `step` updates the head.
        """
        weight, bias = (self.dense[f"{name}.project.{key}"] for key in ("weight", "bias"))
        if len(deferred) == 1 and weight.weight.grad is None:
            for state in (weight, bias):
                state.step += 1
            steps = int(weight.step.item())
            settings = AdamSettings(self.learning_rate, MEAN_DECAY, SQUARE_DECAY, EPSILON)
            deferred[0].take_step(
                AdamState(weight.mean, weight.square, bias.mean, bias.square, settings.step(steps))
            )
            return
        for factors in deferred:
            for state, gradient in zip((weight, bias), factors.dense(), strict=True):
                earlier = state.weight.grad
                state.weight.grad = gradient if earlier is None else earlier + gradient

    def flush(self) -> None:
        """Applies the steps that rows missed. Call it before reading weights outside training."""
        for rows in self.rows.values():
            rows.flush()

    def close(self) -> None:
        """Applies the steps that rows missed, and detaches the optimizer from the module."""
        self.flush()
        for rows in self.rows.values():
            rows.module.before_read = None
        for head in self.heads.values():
            head.deferred = None


class DenseState:
    """Adam's state of one dense weight: its number of steps, and running means.

    `mean` is the running mean of the gradient, `square` of the squared gradient.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self.step = torch.zeros((), device=weight.device)
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)


def optimizer_tensors(optimizer: Adam) -> dict[str, Tensor]:
    """Returns Adam's state as named tensors, such as `WEIGHT/exp_avg`."""
    tensors = {
        f"{name}/{key}": tensor
        for name, state in optimizer.dense.items()
        for key, tensor in zip(_STATE_NAMES, (state.step, state.mean, state.square), strict=True)
    }
    for name, rows in optimizer.rows.items():
        tensors[f"{name}/steps"] = torch.tensor(rows.steps)
        tensors[f"{name}/current"] = rows.current
        for number, (mean, square) in enumerate(zip(rows.means, rows.squares, strict=True)):
            tensors[f"{name}/{number}/exp_avg"] = mean
            tensors[f"{name}/{number}/exp_avg_sq"] = square
    return tensors


def restore_optimizer(optimizer: Adam, tensors: Mapping[str, Tensor]) -> None:
    """Restores the state from `optimizer_tensors`. Raises `KeyError` if a tensor is missing."""
    for name, state in optimizer.dense.items():
        state.step, state.mean, state.square = (
            tensors[f"{name}/{key}"].clone() for key in _STATE_NAMES
        )
    for name, rows in optimizer.rows.items():
        rows.steps = int(tensors[f"{name}/steps"])
        rows.current = tensors[f"{name}/current"].clone()
        for number in range(len(rows.weights)):
            rows.means[number] = tensors[f"{name}/{number}/exp_avg"].clone()
            rows.squares[number] = tensors[f"{name}/{number}/exp_avg_sq"].clone()
