"""Where a new model starts: what is known of its users' counts and times without learning.

In: a new model, and the pairs it is to learn from. Out: the rows of its summary, at the directions
in which users' counts vary most, and the numbers that its timing is measured against. A network
that must find from nothing what goes with what in tens of thousands of values takes long; a
truncated SVD of the users' counts knows the linear part of it within seconds. `pretrain` calls it.

Letters in shapes: P pairs, R rows of the tables, H hidden, K numbers of timing.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from userbert.data.batches import UserBatch
from userbert.data.ragged import offsets_of
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs
from userbert.data.use.sequences import cut
from userbert.model.indices import timing
from userbert.model.summary import HistorySummary

MOST_PAIRS = 50_000
"""More would change the leading directions little."""
_CHUNK = 4_096
_LEAST_DEVIATION = 0.02
"""Of a value's weight over users: rarer values do not weigh more than those of this."""
SPREAD = 0.3
"""The deviation of what the summary gives at the start: beside it, the totals count little."""


def leading_directions(
    summary: HistorySummary, data: PreparedData, pairs: Pairs, seed: int
) -> NDArray[np.float32]:
    """Rows (R, H) of the summary's tables for which its sums are the leading directions.

    Each direction has the same deviation over users. With fewer users or values than H, the rest
    is zero.
    """
    counts = _counts(summary, _batches(data, pairs, seed))
    mean = np.asarray(counts.mean(axis=0)).ravel()
    square = np.asarray(counts.multiply(counts).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    scale = 1 / np.maximum(deviation, _LEAST_DEVIATION)
    hidden = summary.tables.weight.shape[1]
    number = min(hidden, *counts.shape)
    _, _, directions = randomized_svd(counts @ sparse.diags_array(scale), number, random_state=seed)
    rows = directions.T * scale[:, None]  # (R, directions)
    spread = np.asarray(counts @ rows).std(axis=0)
    known = spread > spread.max() * 1e-3
    found = np.zeros((len(scale), hidden), np.float32)
    found[:, np.flatnonzero(known)] = rows[:, known] / spread[known] * SPREAD
    return found


def start_at(summary: HistorySummary, rows: NDArray[np.float32]) -> None:
    """Put the rows (R, H) into the summary's tables; that of *none* stays zero."""
    with torch.no_grad():
        summary.tables.weight[1:] = torch.from_numpy(rows[1:])


def timings(data: PreparedData, pairs: Pairs, seed: int) -> NDArray[np.float32]:
    """The timing (P, K) of at most `MOST_PAIRS` pairs, drawn at random."""
    shape = data.input_shape()
    return np.concatenate([timing(batch, shape) for batch in _batches(data, pairs, seed)])


def _batches(data: PreparedData, pairs: Pairs, seed: int) -> Iterator[UserBatch]:
    """The user sequences of at most `MOST_PAIRS` pairs, drawn at random."""
    chosen = np.arange(len(pairs))
    if len(pairs) > MOST_PAIRS:
        drawn = np.random.default_rng(seed).choice(len(pairs), MOST_PAIRS, replace=False)
        chosen = np.sort(drawn)
    for start in range(0, len(chosen), _CHUNK):
        part = chosen[start : start + _CHUNK]
        yield cut(data, pairs.rows[part], pairs.cutoffs[part])


def _counts(summary: HistorySummary, batches: Iterator[UserBatch]) -> sparse.csr_matrix:
    """(P, R): the weights of values that the summary sums with."""
    rows, weights, lengths = [], [], []
    for batch in batches:
        counted = summary.counted(batch)
        rows.append(counted.rows)
        weights.append(counted.weights)
        lengths.append(np.diff(counted.offsets))
    ends = offsets_of(np.concatenate(lengths))
    shape = (len(ends) - 1, len(summary.tables.weight))
    return sparse.csr_matrix((np.concatenate(weights), np.concatenate(rows), ends), shape=shape)
