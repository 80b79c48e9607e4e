"""Embedding tables with sparse gradients, for batches that read few of their rows.

In: ids of actions and of profile fields, as numpy arrays. Out: sums of the ids' vectors, such as
over the actions of a word. Gradients are coalesced sparse tensors of the rows that the batch read,
about a thousand of a hundred thousand. The input embedding uses the tables; the optimizer updates
`RowSparse` modules by row.

Letters in shapes: N rows read, G groups whose rows are summed, U distinct rows, E width.
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
from userbert.model.indices import TableLayout

INIT_DEVIATION = 0.02
"""Standard deviation of the initial weights, as in BERT."""


class RowSparse(nn.Module):
    """A module whose gradients have only the rows of the parameters that a batch reads."""

    before_read: Callable[[Tensor], None] | None = None
    """Function that is called with rows (U,) before training reads them. The optimizer sets it to
    apply the steps that the rows missed, as Adam's momentum also moves rows without gradients."""

    def row_parameters(self) -> Sequence[nn.Parameter]:
        """Returns the parameters with sparse gradients; a batch reads the same rows of each."""
        raise NotImplementedError

    def notify_before_read(self, rows: Tensor) -> None:
        """Calls `before_read` with the rows (U,) if gradients are enabled."""
        if self.before_read is not None and torch.is_grad_enabled():
            self.before_read(rows)


def gather_rows(weight: Tensor, rows: Tensor) -> Tensor:
    """Returns the distinct `rows` (U,) of a weight; the weight's gradient has only these rows."""
    return _GatherRows.apply(weight, rows)  # type: ignore[no-any-return, no-untyped-call]


class _GatherRows(torch.autograd.Function):
    """Gathers rows; the gradient is sparse."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.rows, ctx.shape = rows, weight.shape
        return weight.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _by_rows(ctx.rows, gradient, ctx.shape), None


class AttributeTables(RowSparse):
    """Vectors of several attributes' ids, one table after the other in one matrix.

    Row 0 is *none* for all tables. It is zero and never trained.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.layout = TableLayout.of(sizes)
        self.weight = nn.Parameter(torch.empty(int(self.row_offsets[-1]) + 1, width))

    def reset_parameters(self) -> None:
        """Initialises the vectors as in BERT."""
        nn.init.normal_(self.weight, std=INIT_DEVIATION)
        with torch.no_grad():
            self.weight[0] = 0

    def row_parameters(self) -> Sequence[nn.Parameter]:
        """Returns the matrix of all tables."""
        return (self.weight,)

    @property
    def row_offsets(self) -> Int64:
        """(tables + 1,): row before each table's first row; at the end, the matrix's last row."""
        return self.layout.row_offsets

    def vectors(self, number: int) -> Tensor:
        """Returns the vectors (ids, E) of the ids 0 (*none*), 1, 2, … of table `number`."""
        first, last = self.row_offsets[number : number + 2] + 1
        return torch.cat([self.weight[:1], self.weight[first:last]])

    def rows(self, ids: NDArray[np.integer[Any]], tables: Int64) -> Int64:
        """Returns the rows of `ids`. `tables` are the tables' indices, broadcast against `ids`."""
        return self.layout.rows(ids, tables)

    def sum_groups(
        self, rows: Int64, offsets: Int64, weights: NDArray[np.float32] | None = None
    ) -> Tensor:
        """Returns the sums (G, E) of each group's rows, with optional weights (N,).

        Group g has the rows (N,) from `offsets[g]` to `offsets[g + 1]`. With weights, no group may
        contain a row twice.
        """
        if not torch.is_grad_enabled():
            return _sum(self.weight, rows, offsets, weights, none_row=0)
        plan = (
            _by_row(rows, offsets) if weights is None else _by_row_weighted(rows, offsets, weights)
        )
        self.notify_before_read(as_tensor(plan.rows, self.weight.device))
        return _SumGroups.apply(self.weight, rows, offsets, weights, plan)  # type: ignore[no-any-return, no-untyped-call]


@dataclass(frozen=True)
class _GroupsOfRows:
    """Groups by distinct row, without row 0; a row's gradient is summed over its groups."""

    rows: Int64
    """(U,): the distinct rows, ascending."""
    groups: Int64
    """Indices of the groups that contain each row, row after row."""
    offsets: Int64
    """(U + 1,): the groups of row u are `offsets[u]:offsets[u + 1]`."""
    weights: NDArray[np.float32] | None = None
    """Weight of the row in each entry of `groups`; None: all are 1."""


def _by_row(rows: Int64, offsets: Int64) -> _GroupsOfRows:
    """Returns the groups of each row; group g has the rows `offsets[g]:offsets[g + 1]`."""
    groups = list_numbers(offsets)
    known = rows > 0
    # Sorting numbers that hold row and group is much faster than sorting indices by row.
    keys = np.sort((rows[known] << 32) | groups[known])
    rows, groups = keys >> 32, keys & 0xFFFFFFFF
    starts = np.flatnonzero(np.diff(rows, prepend=0))
    return _GroupsOfRows(rows[starts], groups, np.append(starts, len(rows)))


def _by_row_weighted(rows: Int64, offsets: Int64, weights: NDArray[np.float32]) -> _GroupsOfRows:
    """Returns the groups of each row as `_by_row` does, with the weights (N,) of the rows."""
    groups = list_numbers(offsets)
    order = np.argsort(rows, kind="stable")
    order = order[np.count_nonzero(rows == 0) :]
    rows = rows[order]
    starts = np.flatnonzero(np.diff(rows, prepend=0))
    return _GroupsOfRows(rows[starts], groups[order], np.append(starts, len(rows)), weights[order])


class _SumGroups(torch.autograd.Function):
    """Sums rows by group; a row's gradient is the sum over the groups that contain it."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        weight: Tensor,
        rows: Int64,
        offsets: Int64,
        weights: NDArray[np.float32] | None,
        plan: _GroupsOfRows,
    ) -> Tensor:
        ctx.plan, ctx.shape = plan, weight.shape
        return _sum(weight.detach(), rows, offsets, weights, none_row=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        plan: _GroupsOfRows = ctx.plan
        values = _sum(gradient.contiguous(), plan.groups, plan.offsets, plan.weights)
        to_weight = _by_rows(as_tensor(plan.rows, gradient.device), values, ctx.shape)
        return to_weight, None, None, None, None


def _sum(
    table: Tensor,
    rows: Int64,
    offsets: Int64,
    weights: NDArray[np.float32] | None = None,
    none_row: int | None = None,
) -> Tensor:
    """Returns the sums of rows of `table` by group; `none_row` is left out of the sums."""
    indices, bounds = (as_tensor(part, table.device) for part in (rows, offsets))
    return functional.embedding_bag(
        indices,
        table,
        bounds,
        mode="sum",
        per_sample_weights=None if weights is None else as_tensor(weights, table.device),
        include_last_offset=True,
        padding_idx=none_row,
    )


def _by_rows(rows: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """Returns a sparse gradient with the values (U, …) at the distinct, ascending rows (U,)."""
    return torch.sparse_coo_tensor(
        rows[None], values, shape, is_coalesced=True, check_invariants=False
    )


def sorted_set(numbers: Int64) -> Int64:
    """Returns the distinct numbers, ascending; for short arrays much faster than `np.unique`."""
    ordered = np.sort(numbers)
    is_first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


def as_tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    """Returns the array as a tensor on a device.

    On the CPU, the tensor shares the array's memory, unless the array is read-only or not
    contiguous.
    """
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if device.type == "cuda":
        # The copy runs while the GPU computes.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
