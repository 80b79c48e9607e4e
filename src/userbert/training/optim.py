"""Adam, by row where gradients are by row, and its memory as named tensors.

In: a module. Out: its optimizer; what the optimizer remembers, by the name of each weight, so that
a checkpoint is tensors and nothing else. The loop and checkpoints use it.

A batch reads a thousand rows of a hundred thousand. Dense Adam moves the others too, by what is
left of their momentum; SparseAdam leaves them where they are, which is another method. Here a row
makes up for the steps that it missed just before it is read, in closed form: training is dense
Adam's, at the cost of the rows that are read (docs/decisions/0007-the-fast-training-step.md).

Letters in shapes: R rows of a weight, U rows of a batch, E width.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from userbert.kernels.softmax import LayerGradient, Memory
from userbert.model.heads import AttributeHead
from userbert.model.tables import RowSparse

_MEAN_DECAY, _SQUARE_DECAY, _EPSILON = 0.9, 0.999, 1e-8
"""PyTorch's defaults; paper §4.4 names no others."""
_DENSE = ("step", "exp_avg", "exp_avg_sq")
_FLUSHED = 65_536
"""Rows brought up to date at once."""


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
            betas=(_MEAN_DECAY, _SQUARE_DECAY),
            eps=_EPSILON,
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
                step_size=self.dense.param_groups[0]["lr"] / (1 - _MEAN_DECAY**steps),
                root=(1 - _SQUARE_DECAY**steps) ** 0.5,
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


class RowAdam:
    """Dense Adam on the weights of one `RowSparse` module, at the cost of the rows it reads."""

    def __init__(self, module: RowSparse, learning_rate: float) -> None:
        self.module, self.learning_rate = module, learning_rate
        self.weights = tuple(module.row_parameters())
        self.means = [torch.zeros_like(weight) for weight in self.weights]
        self.squares = [torch.zeros_like(weight) for weight in self.weights]
        self.steps = 0
        """Taken so far."""
        rows = len(self.weights[0])
        self.current = torch.zeros(rows, dtype=torch.int32, device=self.weights[0].device)
        """(R,): the step that each row is up to date with."""
        module.before_read = self.catch_up

    @torch.no_grad()
    def catch_up(self, rows: Tensor) -> None:
        """Take the steps that the rows (U,) missed, in which their gradients were zero.

        Step i of Adam then moves a row by -lr · m_i / (1 - b1^i) / (√(v_i / (1 - b2^i)) + ε), with
        m and v decaying by b1 and b2 a step: a sum over i that depends on the row by m / √v alone,
        but for ε, of which the mean over the steps is taken.
        """
        since = self.current.index_select(0, rows)
        behind = since < self.steps
        rows, since = rows[behind], since[behind]
        if not len(rows):
            return
        missed = (self.steps - since).double()
        travel, epsilon = _TAILS.until(since, self.steps)
        mean_decay, square_decay = (_MEAN_DECAY**missed).float(), (_SQUARE_DECAY**missed).float()
        for weight, means, squares in zip(self.weights, self.means, self.squares, strict=True):
            columns = (-1, *[1] * (weight.dim() - 1))
            mean, square = means.index_select(0, rows), squares.index_select(0, rows)
            moved = mean / square.sqrt().add_(epsilon.view(columns)) * travel.view(columns)
            weight.index_add_(0, rows, moved, alpha=-self.learning_rate)
            means.index_copy_(0, rows, mean.mul_(mean_decay.view(columns)))
            squares.index_copy_(0, rows, square.mul_(square_decay.view(columns)))
        self.current.index_fill_(0, rows, self.steps)

    @torch.no_grad()
    def step(self) -> None:
        """Take a step with the rows of the gradients, which all the weights share."""
        gradients = [weight.grad for weight in self.weights]
        present = [gradient.coalesce() for gradient in gradients if gradient is not None]
        if present:
            # Another process may have read what this one did not.
            self.catch_up(present[0].indices()[0])
        self.steps += 1
        if not present:
            return
        rows = present[0].indices()[0]
        scale = self.learning_rate / (1 - _MEAN_DECAY**self.steps)
        root = (1 - _SQUARE_DECAY**self.steps) ** 0.5
        for weight, means, squares, gradient in zip(
            self.weights, self.means, self.squares, present, strict=True
        ):
            values = gradient.values()
            mean = means.index_select(0, rows).lerp_(values, 1 - _MEAN_DECAY)
            square = squares.index_select(0, rows).mul_(_SQUARE_DECAY)
            square.addcmul_(values, values, value=1 - _SQUARE_DECAY)
            means.index_copy_(0, rows, mean)
            squares.index_copy_(0, rows, square)
            weight.index_add_(0, rows, mean / square.sqrt().div_(root).add_(_EPSILON), alpha=-scale)
        self.current.index_fill_(0, rows, self.steps)

    def flush(self) -> None:
        """Bring every row up to date."""
        behind = (self.current < self.steps).nonzero()[:, 0]
        for rows in behind.split(_FLUSHED):  # type: ignore[no-untyped-call]
            self.catch_up(rows)


class _Tails:
    """How far momentum carries a row whose gradients are zero, for m / √v = 1.

    From step s until t it is T_s - r^(t - s) T_t, with r = b1 / √b2 and T_s the sum over k ≥ 1 of
    r^k · √(1 - b2^(s + k)) / (1 - b1^(s + k)). The ε of each term is scaled by
    √(1 - b2^(s + k)) / √b2^k, so another such sum gives their mean.
    """

    _RATIOS = np.array([_MEAN_DECAY / _SQUARE_DECAY**0.5, _MEAN_DECAY / _SQUARE_DECAY])
    _TERMS = 400
    """0.9^400 is 1e-18."""
    _BLOCK = 16_384

    def __init__(self) -> None:
        self._sums = np.zeros((2, 0))

    def until(self, since: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """(U,) each: how far rows go from the steps (U,) on until a step, and their ε."""
        while self._sums.shape[1] <= step:
            self._extend()
        starts = since.cpu().numpy()
        decay = self._RATIOS[:, None] ** (step - starts)
        travel, epsilon = self._sums[:, starts] - decay * self._sums[:, step, None]
        # A row that missed nothing has none to go, and may have nothing but ε to divide by.
        is_behind = travel > 0
        epsilon = np.where(is_behind, epsilon / np.where(is_behind, travel, 1), 1) * _EPSILON
        both = torch.from_numpy(np.stack([travel, epsilon]).astype(np.float32)).to(since.device)
        return both[0], both[1]

    def _extend(self) -> None:
        first = self._sums.shape[1]
        steps = np.arange(first + 1, first + self._BLOCK + self._TERMS, dtype=np.float64)
        roots = np.sqrt(1 - _SQUARE_DECAY**steps)
        terms = roots / (1 - _MEAN_DECAY**steps)
        weights = self._RATIOS[:, None] ** np.arange(self._TERMS, 0, -1)
        block = [
            np.convolve(values, weight, mode="valid")
            for values, weight in zip((terms, terms * roots), weights, strict=True)
        ]
        self._sums = np.concatenate([self._sums, np.stack(block)], axis=1)


_TAILS = _Tails()


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
