"""Adam, by row where gradients are by row, and its memory as named tensors.

In: a module. Out: its optimizer; what the optimizer remembers, by the name of each weight, so that
a checkpoint is tensors and nothing else. The loop and checkpoints use it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as fused_adam

from userbert.kernels.rows import AdamSettings
from userbert.kernels.softmax import LayerGradient, Memory
from userbert.model.heads import AttributeHead
from userbert.model.tables import RowSparse
from userbert.training.row_adam import EPSILON, MEAN_DECAY, SQUARE_DECAY, RowAdam

_MEMORY = ("step", "exp_avg", "exp_avg_sq")


class Adam:
    """Adam over the weights of a module, with a learning rate that seldom changes.

    Weights of `RowSparse` modules are updated by row; those of heads as their gradient is formed,
    if one process trains `alone` and a kernel can; all others by PyTorch's fused kernel.
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
            name: DenseMemory(weight)
            for name, weight in module.named_parameters()
            if id(weight) not in by_row and weight.requires_grad
        }
        # Many processes must exchange gradients, which are then written out.
        self.heads = {
            name: part
            for name, part in module.named_modules()
            if isinstance(part, AttributeHead) and part.samples is None and alone
            if all(weight.requires_grad for weight in part.parameters())
        }
        self.deferred: dict[str, list[LayerGradient]] = {name: [] for name in self.heads}
        for name, head in self.heads.items():
            head.deferred = self.deferred[name]

    def go_on_at(self, learning_rate: float) -> None:
        """Take the next steps at this learning rate; where it is another, at the cost of a flush.

        Rows make up for the steps that they missed at the rate that these had.
        """
        if learning_rate == self.learning_rate:
            return
        self.flush()
        self.learning_rate = learning_rate
        for part in self.rows.values():
            part.learning_rate = learning_rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for memory in self.dense.values():
            memory.weight.grad = None
        for part in self.rows.values():
            for weight in part.weights:
                weight.grad = None
        for deferred in self.deferred.values():
            # A forward pass may hold the list already.
            deferred.clear()

    @torch.no_grad()
    def step(self) -> None:
        """Take a step along the gradients."""
        for name, deferred in self.deferred.items():
            self._learn(name, deferred)
            # What it holds is large, and the next forward pass can use its memory.
            deferred.clear()
        learned = [part for part in self.dense.values() if part.weight.grad is not None]
        if learned:
            fused_adam(
                [part.weight for part in learned],
                [part.weight.grad for part in learned],  # type: ignore[misc]
                [part.mean for part in learned],
                [part.square for part in learned],
                [],
                [part.step for part in learned],
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

    def _learn(self, name: str, deferred: Sequence[LayerGradient]) -> None:
        """Take the step of a head whose gradient was deferred; its weights then have none."""
        weight, bias = (self.dense[f"{name}.project.{part}"] for part in ("weight", "bias"))
        if len(deferred) == 1 and weight.weight.grad is None:
            for part in (weight, bias):
                part.step += 1
            steps = int(weight.step.item())
            settings = AdamSettings(self.learning_rate, MEAN_DECAY, SQUARE_DECAY, EPSILON)
            memory = Memory(
                weight.mean, weight.square, bias.mean, bias.square, settings.step(steps)
            )
            deferred[0].take_step(memory)
            return
        # Several losses read the head.
        for factors in deferred:
            for part, gradient in zip((weight, bias), factors.dense(), strict=True):
                own = part.weight.grad
                part.weight.grad = gradient if own is None else own + gradient

    def flush(self) -> None:
        """Bring every row up to date, as must be before weights are read but for training."""
        for part in self.rows.values():
            part.flush()

    def close(self) -> None:
        """Bring every row up to date, and let go of the module."""
        self.flush()
        for part in self.rows.values():
            part.module.before_read = None
        for head in self.heads.values():
            head.deferred = None


class DenseMemory:
    """What Adam remembers of a weight."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self.step = torch.zeros((), device=weight.device)
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)


def optimizer_tensors(optimizer: Adam) -> dict[str, Tensor]:
    """What Adam remembers of each weight: `weight's name/exp_avg` and the like."""
    tensors = {
        f"{name}/{memory}": tensor
        for name, part in optimizer.dense.items()
        for memory, tensor in zip(_MEMORY, (part.step, part.mean, part.square), strict=True)
    }
    for name, part in optimizer.rows.items():
        tensors[f"{name}/steps"] = torch.tensor(part.steps)
        tensors[f"{name}/current"] = part.current
        for number, (mean, square) in enumerate(zip(part.means, part.squares, strict=True)):
            tensors[f"{name}/{number}/exp_avg"] = mean
            tensors[f"{name}/{number}/exp_avg_sq"] = square
    return tensors


def restore_optimizer(optimizer: Adam, tensors: Mapping[str, Tensor]) -> None:
    """Make Adam remember what `optimizer_tensors` gave; raise `KeyError` if some is missing."""
    for name, memory in optimizer.dense.items():
        memory.step, memory.mean, memory.square = (
            tensors[f"{name}/{part}"].clone() for part in _MEMORY
        )
    for name, part in optimizer.rows.items():
        part.steps = int(tensors[f"{name}/steps"])
        part.current = tensors[f"{name}/current"].clone()
        for number in range(len(part.weights)):
            part.means[number] = tensors[f"{name}/{number}/exp_avg"].clone()
            part.squares[number] = tensors[f"{name}/{number}/exp_avg_sq"].clone()
