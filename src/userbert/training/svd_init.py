"""Initializes a new model from its training data: a truncated SVD of counts, and timing.

In: a new model, and the pairs from which it will learn. Out: rows for the tables of the summary,
which project counts onto the directions in which users vary most; and timing columns, from which
the model computes means and standard deviations. A network takes long to learn from scratch which
of tens of thousands of values occur together; a truncated SVD finds the linear part in seconds.
`pretrain` uses this module.

Letters in shapes: P pairs, R rows of the tables, H hidden, K columns of timing.
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
"""Maximum number of pairs to sample; more pairs change the leading directions little."""
_CHUNK = 4_096
"""Number of pairs whose sequences are cut at a time, to bound memory."""
_LEAST_DEVIATION = 0.02
"""Lower bound of a weight's standard deviation over pairs, so that rare values do not dominate."""
_MIN_RELATIVE_SPREAD = 1e-3
"""Directions whose standard deviation is smaller than this share of the largest are noise."""
SPREAD = 0.3
"""Initial standard deviation over pairs of each column of the summary, from its tables; large
compared with the columns of its layer `totals`."""


def leading_directions(
    summary: HistorySummary, data: PreparedData, pairs: Pairs, seed: int
) -> NDArray[np.float32]:
    """Returns rows (R, H) for the summary's tables, which project counts onto leading directions.

    Every direction has the same standard deviation, `SPREAD`, over at most `MOST_PAIRS` pairs.
    Columns without a direction are zero: if there are fewer pairs or values than H, or the
    standard deviation is almost zero. `seed` determines the sample and the SVD.
    """
    counts = _counts(summary, _batches(data, pairs, seed))
    mean = np.asarray(counts.mean(axis=0)).ravel()
    square = np.asarray(counts.multiply(counts).mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    scale = 1 / np.maximum(deviation, _LEAST_DEVIATION)
    hidden = summary.tables.weight.shape[1]
    rank = min(hidden, *counts.shape)
    _, _, directions = randomized_svd(counts @ sparse.diags_array(scale), rank, random_state=seed)
    rows = directions.T * scale[:, None]  # (R, directions)
    spread = np.asarray(counts @ rows).std(axis=0)
    is_used = spread > spread.max() * _MIN_RELATIVE_SPREAD
    table = np.zeros((len(scale), hidden), np.float32)
    table[:, np.flatnonzero(is_used)] = rows[:, is_used] / spread[is_used] * SPREAD
    return table


def initialize_summary(summary: HistorySummary, rows: NDArray[np.float32]) -> None:
    """Copies the rows (R, H) into the summary's tables; row 0, *none*, stays zero."""
    with torch.no_grad():
        summary.tables.weight[1:] = torch.from_numpy(rows[1:])


def timings(data: PreparedData, pairs: Pairs, seed: int) -> NDArray[np.float32]:
    """Returns the timing (P, K) of at most `MOST_PAIRS` pairs, drawn at random by `seed`."""
    shape = data.input_shape()
    return np.concatenate([timing(batch, shape) for batch in _batches(data, pairs, seed)])


def _batches(data: PreparedData, pairs: Pairs, seed: int) -> Iterator[UserBatch]:
    """Yields the user sequences of at most `MOST_PAIRS` pairs, drawn at random by `seed`."""
    numbers = np.arange(len(pairs))
    if len(pairs) > MOST_PAIRS:
        sample = np.random.default_rng(seed).choice(len(pairs), MOST_PAIRS, replace=False)
        numbers = np.sort(sample)
    for start in range(0, len(numbers), _CHUNK):
        part = numbers[start : start + _CHUNK]
        yield cut(data, pairs.rows[part], pairs.cutoffs[part])


def _counts(summary: HistorySummary, batches: Iterator[UserBatch]) -> sparse.csr_matrix:
    """Returns the weights (P, R) of the summary's rows in each pair's summary."""
    rows, weights, lengths = [], [], []
    for batch in batches:
        users = summary.summary_rows(batch)
        rows.append(users.rows)
        weights.append(users.weights)
        lengths.append(np.diff(users.offsets))
    ends = offsets_of(np.concatenate(lengths))
    shape = (len(ends) - 1, len(summary.tables.weight))
    return sparse.csr_matrix((np.concatenate(weights), np.concatenate(rows), ends), shape=shape)
