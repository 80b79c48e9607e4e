"""Adam, by row where gradients are by row, and its memory as named tensors.

In: a module. Out: its optimizer; what the optimizer remembers, by the name of each weight, so that
a checkpoint is tensors and nothing else. The loop and checkpoints use it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from userbert.kernels.softmax import LayerGradient, Memory
from userbert.model.heads import AttributeHead
from userbert.model.tables import RowSparse
from userbert.training.row_adam import EPSILON, MEAN_DECAY, SQUARE_DECAY, RowAdam

_DENSE = ("step", "exp_avg", "exp_avg_sq")


class Adam:
    """Adam over the weights of a module, with a constant learning rate.

    Weights of `RowSparse` modules are updated by row; those of heads as their gradient is formed,
    if one process trains `alone` and a kernel can; all others by PyTorch's fused kernel.
    """

    def __init__(self, module: nn.Module, learning_rate: float, *, alone: bool = True) -> None:
        self.rows = {
            name: RowAdam(part, learning_rate)
            for name, part in module.named_modules()
            if isinstance(part, RowSparse) and part.row_parameters()
        }
        by_row = {id(weight) for part in self.rows.values() for weight in part.weights}
        self.dense = torch.optim.Adam(
            [weight for weight in module.parameters() if id(weight) not in by_row],
            lr=learning_rate,
            betas=(MEAN_DECAY, SQUARE_DECAY),
            eps=EPSILON,
            fused=True,
        )

        # Many processes must exchange gradients, which are then written out.
        self.heads = [
            part for part in module.modules()
            if isinstance(part, AttributeHead) and part.samples is None and alone
        ]  # fmt: skip
        self.deferred: list[list[LayerGradient]] = []
        for head in self.heads:
            head.deferred = []
            self.deferred.append(head.deferred)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.dense.zero_grad()
        for deferred in self.deferred:
            # A forward pass may hold the list already.
            deferred.clear()
        for part in self.rows.values():
            for weight in part.weights:
                weight.grad = None

    def step(self) -> None:
        """Take a step along the gradients."""
        for head, deferred in zip(self.heads, self.deferred, strict=True):
            self._learn(head.project, deferred)
        self.dense.step()
        for part in self.rows.values():
            part.step()

    @torch.no_grad()
    def _learn(self, layer: nn.Linear, deferred: Sequence[LayerGradient]) -> None:
        """Take the step of a layer whose gradient was deferred; its weights then have none."""
        if len(deferred) == 1 and layer.weight.grad is None:
            weight, bias = (self._state(part) for part in (layer.weight, layer.bias))
            for state in (weight, bias):
                state["step"] += 1
            steps = weight["step"].item()
            memory = Memory(
                weight["exp_avg"],
                weight["exp_avg_sq"],
                bias["exp_avg"],
                bias["exp_avg_sq"],
                step_size=self.dense.param_groups[0]["lr"] / (1 - MEAN_DECAY**steps),
                root=(1 - SQUARE_DECAY**steps) ** 0.5,
            )
            deferred[0].take_step(memory)
            return
        # Several losses read the head.
        for part in deferred:
            for own, gradient in zip((layer.weight, layer.bias), part.dense(), strict=True):
                own.grad = gradient if own.grad is None else own.grad + gradient

    def _state(self, weight: Tensor) -> dict[str, Tensor]:
        """What dense Adam remembers of a weight, as it would begin."""
        state: dict[str, Tensor] = self.dense.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(weight) for _ in range(2))
        return state

    def flush(self) -> None:
        """Bring every row up to date, as must be before weights are read but for training."""
        for part in self.rows.values():
            part.flush()

    def close(self) -> None:
        """Bring every row up to date, and let go of the module."""
        self.flush()
        for part in self.rows.values():
            part.module.before_read = None
        for head in self.heads:
            head.deferred = None


def adam(module: nn.Module, learning_rate: float, *, alone: bool = True) -> Adam:
    """The optimizer of a module."""
    return Adam(module, learning_rate, alone=alone)


def optimizer_tensors(module: nn.Module, optimizer: Adam) -> dict[str, Tensor]:
    """What Adam remembers of each weight: `weight's name/exp_avg` and the like."""
    state = optimizer.dense.state
    tensors = {
        f"{name}/{memory}": state[weight][memory]
        for name, weight in module.named_parameters()
        if weight in state
        for memory in _DENSE
    }
    for name, part in optimizer.rows.items():
        tensors[f"{name}/steps"] = torch.tensor(part.steps)
        tensors[f"{name}/current"] = part.current
        for number, (mean, square) in enumerate(zip(part.means, part.squares, strict=True)):
            tensors[f"{name}/{number}/exp_avg"] = mean
            tensors[f"{name}/{number}/exp_avg_sq"] = square
    return tensors


def restore_optimizer(module: nn.Module, optimizer: Adam, tensors: Mapping[str, Tensor]) -> None:
    """Make Adam remember what `optimizer_tensors` gave; raise `KeyError` if some is missing."""
    for name, weight in module.named_parameters():
        if f"{name}/step" in tensors:
            optimizer.dense.state[weight] = {
                memory: tensors[f"{name}/{memory}"].clone() for memory in _DENSE
            }
    for name, part in optimizer.rows.items():
        part.steps = int(tensors[f"{name}/steps"])
        part.current = tensors[f"{name}/current"].clone()
        for number in range(len(part.weights)):
            part.means[number] = tensors[f"{name}/{number}/exp_avg"].clone()
            part.squares[number] = tensors[f"{name}/{number}/exp_avg_sq"].clone()
