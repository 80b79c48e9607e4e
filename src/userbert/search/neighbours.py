"""Finds the nearest vectors by cosine, exactly or with an index.

In: vectors of users (N, H). Out: for each query the row numbers and cosines of its nearest vectors,
best first; equal cosines are ordered by row number. The service keeps a `Neighbours` in memory;
`nearest_by_scan` reads embeddings once, for a single query.

Vectors are scaled to length 1 and stored in float32; a cosine is the product of two vectors,
computed in float64 and rounded to float32. A vector that is zero, or holds NaN or infinity, has no
direction and is never a neighbour.

The index (faiss) finds nearly all nearest vectors without reading all vectors. It stores a vector
with one byte per number, in the list of the k-means centre nearest to the vector. A search reads
only the lists whose centres are nearest to the query, and ranks the candidates in these lists by
exact cosines.

Letters in shapes: N all vectors, M vectors with a direction, Q queries, K neighbours of a query, B
vectors of a block, H numbers of a vector, D leading directions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Float32, Float64, Int64
from userbert.embedding.embeddings import Embeddings
from userbert.errors import InputError
from userbert.progress import progress, warn

MAX_EXACT_VECTORS = 1_000_000
"""Number of vectors up to which `Neighbours` searches exactly by default."""
MAX_INDEX_K = 1000
"""Largest k that an index answers; a search for more neighbours is exact."""
_BLOCK = 16_384
"""Number of vectors converted to float64 at a time, to limit memory."""
_ROUNDING = 2.0**-23
"""Rounding error per term of a float32 product of vectors of length 1; twice the true bound."""
_DIRECTIONS_SAMPLE = 20_000
"""Approximate number of vectors from which the leading directions are computed."""
_TARGET_VARIANCE, _MIN_VARIANCE = 0.96, 0.9
"""Share of the vectors' squared lengths that the leading directions aim for, and share below which
vectors are not screened. With fewer directions the screen passes too many vectors, with more the
screen itself reads too much."""
_DIRECTIONS_STEP = 16
"""The number of directions is a multiple of this step, but at most half the width of vectors."""
_MIN_SCREENED_NUMBERS = 1 << 22
"""Minimum M · H for which screening saves time."""
_SCREEN_PASS_LIMIT = 8
"""If more than 1 / 8 of the vectors pass the screen, a search reads all vectors instead."""
_SEED = 0
"""Seed of samples and of k-means, so that equal vectors give equal indexes."""
_LISTS_PER_ROOT, _VECTORS_PER_CENTRE, _KMEANS_ROUNDS = 2.0, 48, 6
"""Number of lists divided by the square root of M, training vectors per centre, and rounds of
k-means."""
_MIN_PROBES = 8
"""Number of lists that a search reads before recall is measured; doubled until recall suffices."""
_VECTORS_PER_ADD = 65_536
"""Number of vectors added to the index at a time, to limit memory."""
_RECALL_QUERIES, _RECALL_K, _MIN_RECALL = 128, 100, 0.995
"""Queries that measure recall, neighbours per query, and the minimum recall of candidates."""
_EXTRA_CANDIDATES = 64
"""Number of candidates in addition to 2 k: cosines of one-byte numbers are only approximate."""


def unit_vectors(vectors: Float32) -> Float32:
    """Scales vectors (B, H) to length 1; a vector without a direction becomes zero."""
    scaled = np.zeros(vectors.shape, np.float32)
    for block in _blocks(len(vectors)):
        wide = vectors[block].astype(np.float64)
        with np.errstate(invalid="ignore"):
            lengths = np.sqrt(np.einsum("bh,bh->b", wide, wide))
            has_direction = np.isfinite(lengths) & (lengths > 0)
        scaled[block][has_direction] = wide[has_direction] / lengths[has_direction, None]
    return scaled


def top_k(rows: Int64, scores: Float32, k: int) -> tuple[Int64, Float32]:
    """Returns row numbers and scores of the k largest scores (B,), equal scores by row number."""
    if len(scores) > k:
        is_top = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        rows, scores = rows[is_top], scores[is_top]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def nearest_by_scan(
    embeddings: Embeddings, vector: Float32, is_candidate: NDArray[np.bool_], k: int
) -> tuple[Int64, Float32]:
    """Returns row numbers and cosines of the k candidates nearest to `vector` (H,), best first.

    `is_candidate` (N,) marks the candidates. Reads the embeddings once, one row group at a time.
    """
    query = unit_vectors(vector[None])[0].astype(np.float64)
    rows, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    with progress("looking for neighbours", len(embeddings)) as advance:
        for first_row, vectors in embeddings.blocks():
            scaled = unit_vectors(vectors)
            is_usable = is_candidate[first_row : first_row + len(scaled)] & scaled.any(axis=1)
            usable = np.flatnonzero(is_usable)
            block_cosines = (scaled[usable].astype(np.float64) @ query).astype(np.float32)
            rows, cosines = top_k(
                np.concatenate([rows, usable + first_row]),
                np.concatenate([cosines, block_cosines]),
                k,
            )
            advance(len(scaled), "")
    return rows, cosines


class _CandidateSearch(Protocol):
    """Finds vectors that may be among the nearest."""

    def candidates(self, query: Float64, k: int) -> Int64:
        """Returns indices that include (an index: nearly all of) the k nearest to a query (H,)."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Searches vectors in memory for the nearest to a query; safe to use from several threads."""

    _units: Float32
    """Vectors that have a direction (M, H), at length 1."""
    _rows: Int64
    """Row number in the input of each vector (M,)."""
    _exact: _CandidateSearch
    """Search that misses no neighbour."""
    _index: _CandidateSearch | None
    """Index; None if every search is exact."""

    @classmethod
    def of(
        cls,
        vectors: Float32,
        how: Literal["auto", "exact", "index"] = "auto",
        *,
        max_exact: int = MAX_EXACT_VECTORS,
        min_screened: int = _MIN_SCREENED_NUMBERS,
    ) -> "Neighbours":
        """Keeps vectors (N, H), as float32 of length 1; `how` chooses the kind of search.

        `exact` misses no neighbour. `index` needs faiss, from the extra `lookalike`. An index may
        miss some neighbours: building it chooses the number of probed lists so that a sample of
        queries misses at most 1 in 200 of the 100 nearest. `auto` is exact for up to `max_exact`
        vectors. Above, it builds an index, or warns and is exact if faiss is not installed.

        Without an index, an exact search reads a few leading directions first, and then only
        vectors that can be near (screening), if M · H is at least `min_screened` and the directions
        hold enough of the vectors' lengths. Raises `InputError` if `vectors` has another number of
        dimensions, no vector has a direction, or `index` is chosen and faiss is not installed.
        """
        if vectors.ndim != 2:
            raise InputError(f"expected vectors (N, H), found an array of shape {vectors.shape}.")
        scaled = unit_vectors(vectors)
        has_direction = scaled.any(axis=1)
        rows = np.flatnonzero(has_direction)
        if not len(rows):
            raise InputError(
                f"none of {len(vectors):,} vectors has a direction: all are zero, NaN or infinite. "
                "Embed again."
            )
        if len(rows) < len(scaled):
            scaled = scaled[has_direction]
        is_indexed = how == "index" or (how == "auto" and len(rows) > max_exact)
        if is_indexed and find_spec("faiss") is None:
            install = "Install it with: pip install 'userbert[lookalike]'"
            if how == "index":
                raise InputError(f"an index needs faiss. {install}")
            warn(
                f"without faiss there is no index, so each search reads all {len(rows):,} vectors. "
                f"{install}"
            )
            is_indexed = False
        if not is_indexed:
            return cls(scaled, rows, _ExactSearch.of(scaled, min_screened), None)
        # No screening: with an index, exact searches are rare, and projections take memory.
        exact = _ExactSearch(scaled, None)
        return cls(scaled, rows, exact, InvertedLists.of(scaled, exact))

    def __len__(self) -> int:
        """Returns the number of vectors that have a direction."""
        return len(self._rows)

    @property
    def is_exact(self) -> bool:
        """Whether a search never misses a neighbour."""
        return self._index is None

    def search(
        self, queries: Float32, k: int, *, max_index_k: int = MAX_INDEX_K
    ) -> tuple[Int64, Float32]:
        """Returns row numbers and cosines (Q, K) of the vectors nearest to queries (Q, H).

        Each query's neighbours are ordered best first. K is the smaller of k and M. If k exceeds
        `max_index_k`, the search is exact. Raises `InputError` if k is less than 1, or a query has
        no direction or another width than the vectors.
        """
        if k < 1 or queries.ndim != 2 or queries.shape[1] != self._units.shape[1]:
            raise InputError(
                f"expected queries (Q, {self._units.shape[1]}) and k ≥ 1, found an array of shape "
                f"{queries.shape} and k = {k}."
            )
        scaled = unit_vectors(queries).astype(np.float64)
        without_direction = np.flatnonzero(~scaled.any(axis=1))
        if len(without_direction):
            raise InputError(
                f"query {without_direction[0]} has no direction: it is zero, or holds NaN or "
                "infinity."
            )
        k = min(k, len(self))
        searcher = self._exact if self._index is None or k > max_index_k else self._index
        results = [self._rank(searcher.candidates(query, k), query, k) for query in scaled]
        shape = (len(queries), k)
        return (
            np.array([rows for rows, _ in results], np.int64).reshape(shape),
            np.array([cosines for _, cosines in results], np.float32).reshape(shape),
        )

    def _rank(self, indices: Int64, query: Float64, k: int) -> tuple[Int64, Float32]:
        """Returns row numbers and exact cosines of the k nearest vectors among `indices`."""
        rows, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for block in _blocks(len(indices)):
            # No matrix product: sums row by row give equal vectors equal cosines in every call.
            block_cosines = (self._units[indices[block]].astype(np.float64) * query).sum(axis=1)
            rows, cosines = top_k(
                np.concatenate([rows, self._rows[indices[block]]]),
                np.concatenate([cosines, block_cosines.astype(np.float32)]),
                k,
            )
        return rows, cosines


# ---- exact search


@dataclass(frozen=True, eq=False)
class _LeadingDirections:
    """Projections of vectors on the few directions that hold most of the vectors' lengths."""

    basis: Float64
    """The directions (H, D)."""
    projections: Float32
    """Projection of each vector on the directions (M, D)."""
    remainders: Float32
    """Length of each vector minus its projection (M,)."""

    @classmethod
    def of(cls, units: Float32, min_screened: int) -> "_LeadingDirections | None":
        """Projects vectors (M, H) of length 1; returns None if screening would not save time.

        It would not if M · H < `min_screened`, or the directions hold less than `_MIN_VARIANCE`.
        """
        count, width = units.shape
        step = max(1, count // _DIRECTIONS_SAMPLE)
        sample = units[::step].astype(np.float64)
        values, directions = np.linalg.eigh(sample.T @ sample)
        shares = np.cumsum(values[::-1]) / values.sum()
        target = int(np.searchsorted(shares, _TARGET_VARIANCE)) + 1
        leading = min(-(-target // _DIRECTIONS_STEP) * _DIRECTIONS_STEP, width // 2)
        if units.size < min_screened or leading == 0 or shares[leading - 1] < _MIN_VARIANCE:
            return None
        basis = np.ascontiguousarray(directions[:, ::-1][:, :leading])
        projections = np.empty((count, leading), np.float32)
        remainders = np.empty(count, np.float32)
        for block in _blocks(count):
            projected = units[block].astype(np.float64) @ basis
            projections[block] = projected
            squares = np.einsum("bd,bd->b", projected, projected)
            remainders[block] = np.sqrt((1 - squares).clip(min=0))
        return cls(basis, projections, remainders)


@dataclass(frozen=True, eq=False)
class _ExactSearch:
    """Returns every vector that can be among the nearest, and few others.

    A cosine differs from the product of the projections on the leading directions by at most the
    product of the lengths of the two remainders (Cauchy-Schwarz). A search does not read a vector
    whose upper bound is below the lower bounds of k other vectors. This rules out nearly all user
    vectors, and reading vectors takes most of the time of a search.
    """

    units: Float32
    """Vectors of length 1 (M, H)."""
    leading: _LeadingDirections | None
    """Projections that screen vectors; None without screening."""

    @classmethod
    def of(cls, units: Float32, min_screened: int = _MIN_SCREENED_NUMBERS) -> "_ExactSearch":
        """Prepares vectors (M, H) of length 1, with leading directions if screening saves time."""
        return cls(units, _LeadingDirections.of(units, min_screened))

    def candidates(self, query: Float64, k: int) -> Int64:
        """See `_CandidateSearch`."""
        count, width = self.units.shape
        slack = np.float32((width + 16) * _ROUNDING)
        if self.leading is not None:
            projection = query @ self.leading.basis
            remainder = np.float32(np.sqrt(max(0.0, 1 - float(projection @ projection))))
            estimates = self.leading.projections @ projection.astype(np.float32)
            margins = self.leading.remainders * remainder + slack
            lower_bound = _kth_largest(estimates - margins, k)
            passed = np.flatnonzero(estimates + margins >= lower_bound)
            if len(passed) <= count // _SCREEN_PASS_LIMIT:
                cosines = self.units[passed] @ query.astype(np.float32)
                near: Int64 = passed[cosines >= _kth_largest(cosines, k) - 2 * slack]
                return near
        cosines = self.units @ query.astype(np.float32)
        return np.flatnonzero(cosines >= _kth_largest(cosines, k) - 2 * slack)


def _kth_largest(values: Float32, k: int) -> Any:
    """Returns the k-th largest of at least k values."""
    return np.partition(values, len(values) - k)[len(values) - k]


def _blocks(count: int) -> Iterator[slice]:
    """Yields slices of at most `_BLOCK` rows that cover `count` rows."""
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


# ---- index


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """An index that stores vectors in lists (IVF); safe to use from several threads."""

    index: Any
    """`faiss.IndexIVFScalarQuantizer` of all vectors."""
    probes: int
    """Number of lists that a search reads."""

    @classmethod
    def of(cls, units: Float32, exact: _CandidateSearch) -> "InvertedLists":
        """Indexes vectors (M, H) of length 1.

        Doubles the number of probes until recall is at least `_MIN_RECALL`, or a search reads all
        lists. Recall is measured against the results of `exact`.
        """
        import faiss

        count, width = units.shape
        generator = np.random.default_rng(_SEED)
        lists = max(1, min(round(_LISTS_PER_ROOT * count**0.5), count // _VECTORS_PER_CENTRE))
        centres = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFScalarQuantizer(
            centres, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.seed, index.cp.niter, index.cp.spherical = _SEED + 1, _KMEANS_ROUNDS, True
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = _VECTORS_PER_CENTRE
        training_size = min(count, lists * _VECTORS_PER_CENTRE)
        index.train(units[np.sort(generator.choice(count, training_size, replace=False))])
        for first in range(0, count, _VECTORS_PER_ADD):
            index.add(units[first : first + _VECTORS_PER_ADD])
        chosen = generator.choice(count, min(count, _RECALL_QUERIES), replace=False)
        queries = units[np.sort(chosen)]
        neighbours = [_nearest(units, exact, query.astype(np.float64)) for query in queries]
        inverted = cls(index, min(_MIN_PROBES, lists))
        while inverted.probes < lists and inverted._recall(queries, neighbours) < _MIN_RECALL:
            inverted = cls(index, min(lists, inverted.probes * 2))
        return inverted

    def candidates(self, query: Float64, k: int) -> Int64:
        """See `_CandidateSearch`. Reads more lists if they hold fewer than k vectors."""
        import faiss

        probes = self.probes
        candidate_count = min(self.index.ntotal, 2 * k + _EXTRA_CANDIDATES)
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
            queries = query.astype(np.float32)[None]
            indices = self.index.search(queries, candidate_count, params=parameters)[1][0]
            indices = indices[indices >= 0]  # faiss pads with -1
            if len(indices) >= k or probes == self.index.nlist:
                return np.asarray(indices, np.int64)
            probes = min(self.index.nlist, probes * 4)

    def _recall(self, queries: Float32, neighbours: list[Int64]) -> float:
        """Returns the mean share of each query's true `neighbours` among its candidates."""
        shares = [
            np.isin(indices, self.candidates(query, len(indices))).mean()
            for query, indices in zip(queries.astype(np.float64), neighbours, strict=True)
        ]
        return float(np.mean(shares))


def _nearest(units: Float32, exact: _CandidateSearch, query: Float64) -> Int64:
    """Returns the indices of the `_RECALL_K` vectors nearest to a query (H,), best first."""
    k = min(len(units), _RECALL_K)
    indices = exact.candidates(query, k)
    cosines = units[indices].astype(np.float64) @ query
    return indices[np.argsort(-cosines, kind="stable")[:k]]
