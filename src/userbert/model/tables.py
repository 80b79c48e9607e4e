"""Tables of which a batch reads few rows: looked up at once, and learned where they were read.

In: ids of actions and of profile fields, as numpy arrays. Out: sums of their vectors, over the
actions of words, say. Gradients hold the rows that were read and no others, as coalesced sparse
tensors: a batch touches a thousand of a hundred thousand rows. The input embedding uses it; the
optimizer updates by row what is `RowSparse`.

Letters in shapes: N looked-up rows, G groups whose rows are summed, U distinct rows, E width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from userbert.data.ragged import Int64, list_numbers
from userbert.model.indices import Tables

INIT_DEVIATION = 0.02
"""Of every weight at the start, as in BERT."""


class RowSparse(nn.Module):
    """Parameters whose gradients hold only the rows that a batch read."""

    before_read: Callable[[Tensor], None] | None = None
    """Told the rows (U,) that are about to be read in training. Adam moves rows by their momentum
    even when they have no gradient; the optimizer makes up for that here."""

    def row_parameters(self) -> Sequence[nn.Parameter]:
        """The parameters, which are read and learned by the same rows."""
        raise NotImplementedError

    def announce(self, rows: Tensor) -> None:
        """Say that the rows (U,) are about to be read."""
        if self.before_read is not None and torch.is_grad_enabled():
            self.before_read(rows)


def gather_rows(weight: Tensor, rows: Tensor) -> Tensor:
    """The distinct rows (U,) of a weight, whose gradient holds these alone."""
    return _GatherRows.apply(weight, rows)  # type: ignore[no-any-return, no-untyped-call]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.rows, ctx.shape = rows, weight.shape
        return weight.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _by_rows(ctx.rows, gradient, ctx.shape), None


class AttributeTables(RowSparse):
    """The vectors of several attributes' ids, one table after the other in one matrix.

    Row 0 is *none* of them all: it is zero, and is never learned.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.places = Tables.of(sizes)
        self.weight = nn.Parameter(torch.empty(int(self.before_first[-1]) + 1, width))

    def reset_parameters(self) -> None:
        """Draw the vectors as BERT does."""
        nn.init.normal_(self.weight, std=INIT_DEVIATION)
        with torch.no_grad():
            self.weight[0] = 0

    def row_parameters(self) -> Sequence[nn.Parameter]:
        """The one matrix."""
        return (self.weight,)

    @property
    def before_first(self) -> Int64:
        """The row before each table's first, and last the row that ends all."""
        return self.places.before_first

    def vectors(self, number: int) -> Tensor:
        """The vectors of a table's ids 1, 2, …, and of none before them: (size, E)."""
        first, last = self.before_first[number : number + 2] + 1
        return torch.cat([self.weight[:1], self.weight[first:last]])

    def rows(self, ids: NDArray[np.integer[Any]], tables: Int64) -> Int64:
        """The rows of ids; the tables' numbers broadcast against them."""
        return self.places.rows(ids, tables)

    def sum_groups(
        self, rows: Int64, offsets: Int64, weights: NDArray[np.float32] | None = None
    ) -> Tensor:
        """Sum the vectors of the rows (N,) of each group, perhaps with weights (N,): (G, E).

        The rows of group g are `offsets[g]:offsets[g + 1]`. A weighted one has no row twice.
        """
        if not torch.is_grad_enabled():
            return _sum(self.weight, rows, offsets, weights, none=0)
        plan = (
            _by_row(rows, offsets) if weights is None else _by_row_weighed(rows, offsets, weights)
        )
        self.announce(as_tensor(plan.rows, self.weight.device))
        return _SumGroups.apply(self.weight, rows, offsets, weights, plan)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class _Plan:
    """How gradients come back to the rows."""

    rows: Int64
    """(U,): the distinct rows, ascending."""
    groups: Int64
    """The groups that they were read for, row after row."""
    offsets: Int64
    """(U + 1,): the groups of row u are `offsets[u]:offsets[u + 1]`."""
    weights: NDArray[np.float32] | None = None
    """Of each reading."""


def _by_row(rows: Int64, offsets: Int64) -> _Plan:
    groups = list_numbers(offsets)
    known = rows > 0
    # Sorting one number that holds both is much faster than sorting places by row.
    both = np.sort((rows[known] << 32) | groups[known])
    rows, groups = both >> 32, both & 0xFFFFFFFF
    starts = np.flatnonzero(np.diff(rows, prepend=0))
    return _Plan(rows[starts], groups, np.append(starts, len(rows)))


def _by_row_weighed(rows: Int64, offsets: Int64, weights: NDArray[np.float32]) -> _Plan:
    groups = list_numbers(offsets)
    order = np.argsort(rows, kind="stable")
    order = order[np.count_nonzero(rows == 0) :]
    rows = rows[order]
    starts = np.flatnonzero(np.diff(rows, prepend=0))
    return _Plan(rows[starts], groups[order], np.append(starts, len(rows)), weights[order])


class _SumGroups(torch.autograd.Function):
    """Sums of rows; the gradient of a row is the sum over the groups that it was read for."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        weight: Tensor,
        rows: Int64,
        offsets: Int64,
        weights: NDArray[np.float32] | None,
        plan: _Plan,
    ) -> Tensor:
        ctx.plan, ctx.shape = plan, weight.shape
        return _sum(weight.detach(), rows, offsets, weights, none=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        values = _sum(gradient.contiguous(), plan.groups, plan.offsets, plan.weights)
        to_weight = _by_rows(as_tensor(plan.rows, gradient.device), values, ctx.shape)
        return to_weight, None, None, None, None


def _sum(
    table: Tensor,
    rows: Int64,
    offsets: Int64,
    weights: NDArray[np.float32] | None = None,
    none: int | None = None,
) -> Tensor:
    place, bounds = (as_tensor(part, table.device) for part in (rows, offsets))
    return functional.embedding_bag(
        place,
        table,
        bounds,
        mode="sum",
        per_sample_weights=None if weights is None else as_tensor(weights, table.device),
        include_last_offset=True,
        padding_idx=none,
    )


def _by_rows(rows: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """A gradient that holds distinct ascending rows (U,) alone."""
    return torch.sparse_coo_tensor(
        rows[None], values, shape, is_coalesced=True, check_invariants=False
    )


def sorted_set(numbers: Int64) -> Int64:
    """The distinct numbers in order. For few of them, numpy's own takes much longer."""
    ordered = np.sort(numbers)
    is_first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


def as_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Share a numpy array with torch; a read-only view of a file is copied."""
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if device.type == "cuda":
        # The copy runs beside what the GPU computes.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
