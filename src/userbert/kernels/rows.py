"""Adam on the rows of a table that a batch read, in C (`rows.c`).

In: a table's weights, what Adam remembers of them, and the rows that were read. Out: the same,
moved in place. `training/row_adam.py` uses it where it can, in place of its own operations.

Letters in shapes: R rows of a table, U rows of a batch, E width.

What a step of Adam is in C (`adam.h`): the same for rows and for heads.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from userbert.kernels import fork, run


class AdamStep(ctypes.Structure):
    """`AdamStep` in adam.h."""

    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in ("rate", "root", "mean_less", "square_less", "square_keep", "tiny")
    )


@dataclass(frozen=True)
class AdamSettings:
    """Of Adam."""

    learning_rate: float
    mean_decay: float
    square_decay: float
    epsilon: float

    def step(self, number: int) -> AdamStep:
        """The factors of a step, counted from 1."""
        return AdamStep(
            rate=self.learning_rate / (1 - self.mean_decay**number),
            root=(1 - self.square_decay**number) ** -0.5,
            mean_less=1 - self.mean_decay,
            square_less=1 - self.square_decay,
            square_keep=self.square_decay,
            tiny=self.epsilon,
        )


_WEIGHTS = 2
"""Of a table, at most."""
_KNOWN = 4_096
"""Powers that are tabulated."""


@dataclass(frozen=True)
class Table:
    """A table's weights, and what Adam remembers of them."""

    weights: Sequence[Tensor]
    means: Sequence[Tensor]
    squares: Sequence[Tensor]
    """(R, E) or (R,) each, of at most two weights."""
    current: Tensor
    """(R,), int32: the step that each row is up to date with."""


@dataclass(frozen=True)
class Tail:
    """How momentum carries rows on."""

    ratios: tuple[float, float]
    """By which the sums shrink a step."""
    adam: AdamSettings

    @cached_property
    def powers(self) -> NDArray[np.float64]:
        """(4, known): of ratios and decays, from 0 on. Most rows missed fewer steps."""
        bases = np.array([*self.ratios, self.adam.mean_decay, self.adam.square_decay])
        return bases[:, None] ** np.arange(_KNOWN)


class _Call(ctypes.Structure):
    """`Call` in rows.c."""

    _fields_ = (
        ("fork", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("threads", "rows", "weights", "steps")),
        ("widths", ctypes.c_int64 * _WEIGHTS),
        *((name, ctypes.c_void_p * _WEIGHTS) for name in ("weight", "mean", "square", "gradient")),
        *((name, ctypes.c_void_p) for name in ("current", "row", "travel", "epsilon", "powers")),
        ("known", ctypes.c_int64),
        *((name, ctypes.c_double) for name in
          ("travel_ratio", "epsilon_ratio", "mean_decay", "square_decay", "tiny",
           "learning_rate")),
        ("next", AdamStep),
    )  # fmt: skip


def update_rows(  # noqa: PLR0917 - all of it is Adam's
    table: Table,
    rows: Tensor,
    gradients: Sequence[Tensor],
    steps: int,
    sums: NDArray[np.float64],
    tail: Tail,
) -> None:
    """Bring rows (U,) up to date with the steps taken, and move them along their gradients, if any.

    `gradients` (U, E) are of each weight, or empty; `sums` (2, at least steps + 1) say how far
    momentum carries.
    """
    given = [gradient.contiguous() for gradient in gradients]
    rows = rows.to(torch.int64).contiguous()
    call = _Call(
        fork=fork(),
        threads=torch.get_num_threads(),
        rows=len(rows),
        weights=len(table.weights),
        steps=steps,
        widths=_each(ctypes.c_int64, [weight[0].numel() for weight in table.weights]),
        weight=_addresses(table.weights),
        mean=_addresses(table.means),
        square=_addresses(table.squares),
        gradient=_addresses(given),
        current=table.current.data_ptr(),
        row=rows.data_ptr(),
        travel=sums[0].ctypes.data,
        epsilon=sums[1].ctypes.data,
        powers=tail.powers.ctypes.data,
        known=tail.powers.shape[1],
        travel_ratio=tail.ratios[0],
        epsilon_ratio=tail.ratios[1],
        mean_decay=tail.adam.mean_decay,
        square_decay=tail.adam.square_decay,
        tiny=tail.adam.epsilon,
        learning_rate=tail.adam.learning_rate,
        next=tail.adam.step(steps + 1),
    )
    run("userbert_rows_update", call)


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * _WEIGHTS)(*(tensor.data_ptr() for tensor in tensors))


def _each(kind: type[ctypes.c_int64], values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (kind * _WEIGHTS)(*values)
