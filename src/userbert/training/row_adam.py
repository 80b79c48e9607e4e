"""Adam with lazy row updates, for tables of which a batch reads few rows.

In: a `RowSparse` module, whose gradients have only the rows that the batch read. Out: the module's
weights, updated as by dense Adam, apart from an approximation of ε. A batch reads about a thousand
of a hundred thousand rows. Dense Adam also moves the other rows, by their remaining momentum.
PyTorch's SparseAdam does not, so it is a different method. Here, the steps that a row missed are
applied in closed form just before the row is read (docs/decisions/0008-the-fast-training-step.md).
The optimizer uses this module.

Letters in shapes: R rows of a weight, U rows of a batch, E width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from userbert import kernels
from userbert.kernels.rows import AdamSettings, Table, Tail, update_rows
from userbert.model.tables import RowSparse

MEAN_DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Decay per step of mean and squared gradient (b1, b2), and ε: PyTorch's defaults, as paper §4.4
names no values."""
_FLUSH_CHUNK = 65_536
"""Number of rows that a flush updates at a time, to bound its memory."""


class RowAdam:
    """Adam on the weights of a `RowSparse` module; the cost of a step depends on the rows read."""

    def __init__(self, module: RowSparse, learning_rate: float) -> None:
        self.module = module
        self.weights = tuple(module.row_parameters())
        """One or two weights, (R, E) or (R,) each."""
        self.means = [torch.zeros_like(weight) for weight in self.weights]
        self.squares = [torch.zeros_like(weight) for weight in self.weights]
        self.steps = 0
        """Number of steps taken."""
        rows = len(self.weights[0])
        self.current = torch.zeros(rows, dtype=torch.int32, device=self.weights[0].device)
        """(R,): the last step applied to each row."""
        self.tails = Tails()
        self.learning_rate = learning_rate
        self.native = kernels.available() and self.current.device.type == "cpu"
        """Whether the C kernels update the rows."""
        module.before_read = self.catch_up

    @property
    def learning_rate(self) -> float:
        """Learning rate of all steps since the last flush."""
        return self._tail.adam.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        adam = AdamSettings(rate, MEAN_DECAY, SQUARE_DECAY, EPSILON)
        self._tail = Tail((float(Tails.RATIOS[0]), float(Tails.RATIOS[1])), adam)

    @torch.no_grad()
    def catch_up(self, rows: Tensor) -> None:
        """Applies the steps that the rows (U,) missed, in which their gradients were zero.

        Step i of Adam moves such a row by -lr · m_i / (1 - b1^i) / (√(v_i / (1 - b2^i)) + ε), where
        m and v decay by b1 and b2 per step. The sum over i depends on the row only through m / √v,
        except for ε, which is replaced by its mean over the steps.
        """
        if self.native:
            self._update(rows, ())
            return
        since = self.current.index_select(0, rows)
        behind = since < self.steps
        rows, since = rows[behind], since[behind]
        if not len(rows):
            return
        missed = (self.steps - since).double()
        travel, epsilon = self.tails.distance(since, self.steps)
        mean_decay, square_decay = (MEAN_DECAY**missed).float(), (SQUARE_DECAY**missed).float()
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
        """Takes a step on the rows of the gradients; all weights' gradients have the same rows."""
        sparse = [_rows_of(weight.grad) for weight in self.weights if weight.grad is not None]
        if not sparse:
            self.steps += 1
            return
        rows, gradients = sparse[0][0], [values for _, values in sparse]
        if self.native:
            self._update(rows, gradients)
            self.steps += 1
            return
        # Another process may have read rows that this process did not.
        self.catch_up(rows)
        self.steps += 1
        scale = self.learning_rate / (1 - MEAN_DECAY**self.steps)
        root = (1 - SQUARE_DECAY**self.steps) ** 0.5
        for weight, means, squares, values in zip(
            self.weights, self.means, self.squares, gradients, strict=True
        ):
            mean = means.index_select(0, rows).lerp_(values, 1 - MEAN_DECAY)
            square = squares.index_select(0, rows).mul_(SQUARE_DECAY)
            square.addcmul_(values, values, value=1 - SQUARE_DECAY)
            means.index_copy_(0, rows, mean)
            squares.index_copy_(0, rows, square)
            weight.index_add_(0, rows, mean / square.sqrt().div_(root).add_(EPSILON), alpha=-scale)
        self.current.index_fill_(0, rows, self.steps)

    def _update(self, rows: Tensor, gradients: Sequence[Tensor]) -> None:
        """Applies missed steps to rows (U,), then a step along the gradients, by the C kernel."""
        table = Table(self.weights, self.means, self.squares, self.current)
        update_rows(table, rows, gradients, self.steps, self.tails.sums_to(self.steps), self._tail)

    def flush(self) -> None:
        """Applies the steps that rows missed, to all rows."""
        behind = (self.current < self.steps).nonzero()[:, 0]
        for rows in behind.split(_FLUSH_CHUNK):  # type: ignore[no-untyped-call]
            self.catch_up(rows)


def _rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distinct rows (U,) of a sparse gradient, ascending, and their values (U, E)."""
    rows = gradient._indices()[0]
    # Autograd drops the flag of a coalesced gradient, and coalescing it again is slow.
    if not (rows[1:] > rows[:-1]).all():
        gradient = gradient.coalesce()
    return gradient._indices()[0], gradient._values()


class Tails:
    """Distance that momentum moves a row whose gradients are zero, for m / √v = 1.

    From step s to step t the distance is T_s - r^(t - s) T_t, where r = b1 / √b2 and T_s is the sum
    over k ≥ 1 of r^k · √(1 - b2^(s + k)) / (1 - b1^(s + k)). The ε of each term is scaled by
    √(1 - b2^(s + k)) / √b2^k, so a second sum, with ratio b1 / b2, gives the mean of the scaled ε.
    """

    RATIOS = np.array([MEAN_DECAY / SQUARE_DECAY**0.5, MEAN_DECAY / SQUARE_DECAY])
    """Ratios b1 / √b2 and b1 / b2 of the two sums."""
    _TERMS = 400
    """Number of terms of each sum; the powers of both ratios are below 1e-18 after 400 terms."""
    _BLOCK = 16_384
    """Number of steps for which the sums are computed at a time."""

    def __init__(self) -> None:
        self._sums = np.zeros((2, 0))

    def sums_to(self, step: int) -> NDArray[np.float64]:
        """Returns both sums by step, from 0 to at least `step`: (2, at least step + 1)."""
        while self._sums.shape[1] <= step:
            self._extend()
        return self._sums

    def distance(self, since: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Returns the distances (U,) from the steps `since` (U,) to `step`, and the mean ε (U,)."""
        sums = self.sums_to(step)
        starts = since.cpu().numpy()
        decay = self.RATIOS[:, None] ** (step - starts)
        travel, epsilon = sums[:, starts] - decay * sums[:, step, None]
        distances = np.stack([travel, epsilon / travel * EPSILON]).astype(np.float32)
        tensors = torch.from_numpy(distances).to(since.device)
        return tensors[0], tensors[1]

    def _extend(self) -> None:
        """Computes the sums of the next steps."""
        first = self._sums.shape[1]
        steps = np.arange(first + 1, first + self._BLOCK + self._TERMS, dtype=np.float64)
        roots = np.sqrt(1 - SQUARE_DECAY**steps)
        terms = roots / (1 - MEAN_DECAY**steps)
        weights = self.RATIOS[:, None] ** np.arange(self._TERMS, 0, -1)
        block = [
            np.convolve(values, weight, mode="valid")
            for values, weight in zip((terms, terms * roots), weights, strict=True)
        ]
        self._sums = np.concatenate([self._sums, np.stack(block)], axis=1)
