"""Array types, and lists of unequal lengths as flat values with offsets.

B lists with N values in all are one flat array `values` (N,) and `offsets` (B + 1,): list i is
`values[offsets[i]:offsets[i + 1]]`. A place is an index into `values`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
UInt64 = NDArray[np.uint64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
"""Array of float32 or float64."""
Bools = NDArray[np.bool_]


def offsets_of(lengths: NDArray[Any] | Sequence[int]) -> Int64:
    """Returns the offsets (B + 1,) of lists with the given `lengths` (B,); the first offset is 0.

    If `lengths` is a mask, item i of the result is the number of true values before place i.
    """
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def list_numbers(offsets: NDArray[np.integer[Any]]) -> Int64:
    """Returns the index of the list that holds each value (N,), from offsets (B + 1,)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def ranges(first: Int64 | int, lengths: Int64) -> Int64:
    """Returns `first[i], …, first[i] + lengths[i] - 1` for each i, one range after the other (N,).

    `lengths` is (B,); `first` is (B,), or one number at which all ranges start.
    """
    offsets = offsets_of(lengths)
    return np.repeat(first - offsets[:-1], lengths) + np.arange(offsets[-1])


def take_lists(offsets: Int64, numbers: Int64) -> tuple[Int64, Int64]:
    """Returns the places of the values in some lists, list after list, and offsets (K + 1,).

    `numbers` (K,) holds the indices of the lists. A list may occur twice. The offsets split the
    returned places into the K lists.
    """
    first = offsets[numbers]
    lengths = offsets[numbers + 1] - first
    return ranges(first, lengths), offsets_of(lengths)


def by_shard(first_rows: Int64, rows: Int64) -> Iterator[tuple[int, Int64]]:
    """Yields the index of each shard that holds some of `rows` (B,), and indices into `rows`.

    The indices into `rows` select the rows in that shard. `first_rows` (S,) holds the first row of
    each of S shards. Without rows, yields shard 0 and no indices.
    """
    if len(first_rows) == 1 or len(rows) == 0:
        yield 0, np.arange(len(rows))
        return
    shards = np.searchsorted(first_rows, rows, side="right") - 1
    for number in np.unique(shards).tolist():
        yield number, np.flatnonzero(shards == number)
