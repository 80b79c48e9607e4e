"""Adam in C on the rows of a table that a batch reads (`rows.c`), and the factors of its steps.

In: a table's weights with Adam's moments, and the rows that the batch reads. Out: weights and
moments, updated in place. `training/row_adam.py` uses this module instead of PyTorch's operations
if the kernels are available and the table is on the CPU. `kernels/softmax.py` also uses `AdamStep`,
for the heads.

Letters in shapes: R rows of a table, U rows of a batch, E width.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from userbert.kernels import openmp_parallel, run


class AdamStep(ctypes.Structure):
    """Structure `AdamStep` of adam.h, which documents the fields."""

    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in ("rate", "root", "mean_weight", "square_weight", "square_decay", "epsilon")
    )


@dataclass(frozen=True)
class AdamSettings:
    """Hyperparameters of Adam."""

    learning_rate: float
    mean_decay: float
    """Decay of the mean gradient per step, b1."""
    square_decay: float
    """Decay of the mean squared gradient per step, b2."""
    epsilon: float
    """Number added to the root of the squared gradient, ε."""

    def step(self, number: int) -> AdamStep:
        """Returns the factors of step `number`, counted from 1."""
        return AdamStep(
            rate=self.learning_rate / (1 - self.mean_decay**number),
            root=(1 - self.square_decay**number) ** -0.5,
            mean_weight=1 - self.mean_decay,
            square_weight=1 - self.square_decay,
            square_decay=self.square_decay,
            epsilon=self.epsilon,
        )


_WEIGHTS = 2
"""Maximum number of weights of a table, as WEIGHTS in rows.c: a matrix and a bias."""
_POWERS = 4_096
"""Number of tabulated powers; few rows miss more than 4,095 steps, and C computes their powers."""


@dataclass(frozen=True)
class Table:
    """One or two weights with the same rows, and Adam's moments of each weight."""

    weights: Sequence[Tensor]
    """(R, E) or (R,) each, float32."""
    means: Sequence[Tensor]
    """Mean gradient of each weight, in its shape."""
    squares: Sequence[Tensor]
    """Mean squared gradient of each weight, in its shape."""
    current: Tensor
    """(R,), int32: the last step applied to each row."""


@dataclass(frozen=True)
class Tail:
    """Decay of a row's momentum over steps without a gradient."""

    ratios: tuple[float, float]
    """Ratios of the two sums, `training.row_adam.Tails.RATIOS`."""
    adam: AdamSettings

    @cached_property
    def powers(self) -> NDArray[np.float64]:
        """(4, _POWERS): powers of both ratios and both decays, from exponent 0."""
        bases = np.array([*self.ratios, self.adam.mean_decay, self.adam.square_decay])
        return bases[:, None] ** np.arange(_POWERS)


class _Call(ctypes.Structure):
    """Structure `Call` of rows.c."""

    _fields_ = (
        ("parallel", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("threads", "rows", "weights", "steps")),
        ("widths", ctypes.c_int64 * _WEIGHTS),
        *((name, ctypes.c_void_p * _WEIGHTS) for name in ("weight", "mean", "square", "gradient")),
        *((name, ctypes.c_void_p) for name in ("current", "row", "travel", "epsilon", "powers")),
        ("power_count", ctypes.c_int64),
        *((name, ctypes.c_double) for name in
          ("travel_ratio", "epsilon_ratio", "mean_decay", "square_decay", "adam_epsilon",
           "learning_rate")),
        ("next", AdamStep),
    )  # fmt: skip


def update_rows(  # noqa: PLR0917 - Adam needs all of them
    table: Table,
    rows: Tensor,
    gradients: Sequence[Tensor],
    steps: int,
    sums: NDArray[np.float64],
    tail: Tail,
) -> None:
    """Applies the missed steps to rows (U,), then a step along their gradients if there are any.

    The rows are distinct. `gradients` holds a gradient (U, E) or (U,) per weight, or is empty.
    `steps` is the number of steps before this call. `sums` (2, at least steps + 1) is the result
    of `training.row_adam.Tails.sums_to`.
    """
    gradients = [gradient.contiguous() for gradient in gradients]
    rows = rows.to(torch.int64).contiguous()
    call = _Call(
        parallel=openmp_parallel(),
        threads=torch.get_num_threads(),
        rows=len(rows),
        weights=len(table.weights),
        steps=steps,
        widths=_int64_array([weight[0].numel() for weight in table.weights]),
        weight=_addresses(table.weights),
        mean=_addresses(table.means),
        square=_addresses(table.squares),
        gradient=_addresses(gradients),
        current=table.current.data_ptr(),
        row=rows.data_ptr(),
        travel=sums[0].ctypes.data,
        epsilon=sums[1].ctypes.data,
        powers=tail.powers.ctypes.data,
        power_count=tail.powers.shape[1],
        travel_ratio=tail.ratios[0],
        epsilon_ratio=tail.ratios[1],
        mean_decay=tail.adam.mean_decay,
        square_decay=tail.adam.square_decay,
        adam_epsilon=tail.adam.epsilon,
        learning_rate=tail.adam.learning_rate,
        next=tail.adam.step(steps + 1),
    )
    run("userbert_rows_update", call)


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * _WEIGHTS)(*(tensor.data_ptr() for tensor in tensors))


def _int64_array(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * _WEIGHTS)(*values)
