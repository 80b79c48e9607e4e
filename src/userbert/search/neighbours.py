"""Finds the nearest vectors by cosine, exactly or with an index.

In: vectors of users (N, H). Out: for each query the rows and cosines of its nearest vectors, best
first; ties go to the lower row. The service keeps a `Neighbours` in memory; `nearest_by_scan` reads
embeddings once, for a single query.

A cosine is the product of two vectors scaled to length 1 in float32, summed in float64 and rounded
to float32. A vector that is zero, or holds NaN or infinity, has no direction and is never a
neighbour.

The index (faiss) finds nearly all nearest vectors without reading every one. It stores each vector
with one byte per number, in the list of its nearest centre, and a search reads only the lists with
the nearest centres. Its candidates are ranked by their exact cosines.
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
"""Vectors converted to float64 at a time."""
_ROUNDING = 2.0**-23
"""Largest rounding error per term of a float32 product of two vectors of length 1 (twice the true
bound)."""
_DIRECTIONS_SAMPLE = 20_000
"""Vectors from which the leading directions are computed."""
_ENOUGH_VARIANCE, _MIN_VARIANCE, _DIRECTIONS_STEP = 0.96, 0.9, 16
"""Shares of the squared lengths that the leading directions aim for, and must reach; their number
is a multiple of the step. With fewer directions the screen passes too many vectors,
with more the screen itself reads too much."""
_MIN_SCREENED_NUMBERS = 1 << 22
"""Smallest number of values in all vectors for which screening is worth its time."""
_SCREEN_PASS_LIMIT = 8
"""If more than 1 in this many vectors passes the screen, all vectors are read instead."""
_SEED = 0
_LISTS_PER_ROOT, _VECTORS_PER_CENTRE, _KMEANS_ROUNDS = 2.0, 48, 6
"""Lists per square root of the number of vectors, training vectors per centre, and rounds of
k-means."""
_VECTORS_PER_ADD = 65_536
_RECALL_QUERIES, _RECALL_K, _MIN_RECALL = 128, 100, 0.995
"""Queries with known neighbours, neighbours of each, and the share of them that an index must
find."""
_EXTRA_CANDIDATES = 64
"""Candidates in addition to 2 k: with one byte per number the order is only nearly right."""


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
    """Returns rows and scores of the k largest scores, best first; ties go to the lower row."""
    if len(scores) > k:
        is_top = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        rows, scores = rows[is_top], scores[is_top]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def nearest_by_scan(
    embeddings: Embeddings, vector: Float32, is_candidate: NDArray[np.bool_], k: int
) -> tuple[Int64, Float32]:
    """Returns rows and cosines of the k candidates (N,) nearest to a vector (H,), best first.

    Reads the embeddings once, with one row group in memory.
    """
    query = unit_vectors(vector[None])[0].astype(np.float64)
    rows, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    with progress("looking for neighbours", len(embeddings)) as advance:
        for first, vectors in embeddings.blocks():
            scaled = unit_vectors(vectors)
            is_usable = is_candidate[first : first + len(scaled)] & scaled.any(axis=1)
            places = np.flatnonzero(is_usable)
            block_cosines = (scaled[places].astype(np.float64) @ query).astype(np.float32)
            rows, cosines = top_k(
                np.concatenate([rows, places + first]), np.concatenate([cosines, block_cosines]), k
            )
            advance(len(scaled), "")
    return rows, cosines


class _CandidateSearch(Protocol):
    """Finds vectors that may be among the nearest."""

    def candidates(self, query: Float64, k: int) -> Int64:
        """Returns indices of vectors, among them the k nearest to a query (H,) of length 1."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Vectors in memory that can be searched for the nearest; safe to use from several threads."""

    _units: Float32
    """Vectors that have a direction (M, H), at length 1."""
    _rows: Int64
    """Row of each among all vectors (M,)."""
    _exact: _CandidateSearch
    _index: _CandidateSearch | None

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

        `index` needs faiss, from the extra `lookalike`. It may miss some neighbours: about 1 in 200
        of the first 100, as measured when it is built. `auto` is exact for up to
        `max_exact` vectors; beyond that it builds an index, or, without faiss, warns and stays
        exact. An exact search is screened if all vectors hold at least `min_screened` numbers.
        Raises `InputError` if no vector has a direction, or `index` finds no faiss.
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
            warn(f"each search reads all {len(rows):,} vectors, as an index needs faiss. {install}")
            is_indexed = False
        if not is_indexed:
            return cls(scaled, rows, _ExactSearch.of(scaled, min_screened), None)
        # No screen: with an index, exact searches are rare, and a screen takes memory.
        exact = _ExactSearch(scaled, None)
        return cls(scaled, rows, exact, InvertedLists.of(scaled, exact))

    def __len__(self) -> int:
        """Counts the vectors that have a direction."""
        return len(self._rows)

    @property
    def is_exact(self) -> bool:
        """Whether a search never misses a neighbour."""
        return self._index is None

    def search(
        self, queries: Float32, k: int, *, max_index_k: int = MAX_INDEX_K
    ) -> tuple[Int64, Float32]:
        """Returns rows and cosines (Q, K) of the vectors nearest to queries (Q, H), best first.

        K is k, or the number of vectors with a direction if that is less. If k exceeds
        `max_index_k`, the search is exact. Raises `InputError` for a query without a direction, or
        of another width.
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

    def _rank(self, places: Int64, query: Float64, k: int) -> tuple[Int64, Float32]:
        """Returns rows and exact cosines of the k nearest of the vectors at `places`."""
        rows, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for block in _blocks(len(places)):
            # Not a matrix product: summed row by row, equal vectors have equal cosines in any call.
            block_cosines = (self._units[places[block]].astype(np.float64) * query).sum(axis=1)
            rows, cosines = top_k(
                np.concatenate([rows, self._rows[places[block]]]),
                np.concatenate([cosines, block_cosines.astype(np.float32)]),
                k,
            )
        return rows, cosines


# ---- exact search


@dataclass(frozen=True, eq=False)
class _LeadingDirections:
    """Vectors projected on the few directions that hold most of their length."""

    basis: Float64
    """The directions (H, D)."""
    projections: Float32
    """Vectors along the directions (M, D)."""
    remainders: Float32
    """Length of each vector without its part along the directions (M,)."""

    @classmethod
    def of(cls, units: Float32, min_screened: int) -> "_LeadingDirections | None":
        """Projects vectors of length 1; None if screening by directions would not pay.

        It does not pay if they hold fewer than `min_screened` numbers in all.
        """
        count, width = units.shape
        step = max(1, count // _DIRECTIONS_SAMPLE)
        sample = units[::step].astype(np.float64)
        values, directions = np.linalg.eigh(sample.T @ sample)
        shares = np.cumsum(values[::-1]) / values.sum()
        enough = int(np.searchsorted(shares, _ENOUGH_VARIANCE)) + 1
        leading = min(-(-enough // _DIRECTIONS_STEP) * _DIRECTIONS_STEP, width // 2)
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

    A cosine is the product of two projections on the leading directions, plus or minus the product
    of the lengths of the two remainders (Cauchy-Schwarz). A vector whose upper bound is below the
    lower bounds of k others need not be read. With user vectors that rules out nearly all, and
    reading vectors is what takes the time of a search.
    """

    units: Float32
    leading: _LeadingDirections | None

    @classmethod
    def of(cls, units: Float32, min_screened: int = _MIN_SCREENED_NUMBERS) -> "_ExactSearch":
        """Prepares vectors of length 1, with their leading directions if screening pays."""
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
    return np.partition(values, len(values) - k)[len(values) - k]


def _blocks(count: int) -> Iterator[slice]:
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


# ---- index


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """An index of vectors in lists (IVF); safe to use from several threads."""

    index: Any
    """`faiss.IndexIVFScalarQuantizer`."""
    probes: int
    """Number of lists that a search reads."""

    @classmethod
    def of(cls, units: Float32, exact: _CandidateSearch) -> "InvertedLists":
        """Indexes vectors (M, H) of length 1, with as many probes as _MIN_RECALL takes."""
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
        places = np.sort(generator.choice(count, min(count, _RECALL_QUERIES), replace=False))
        known = [_nearest(units, exact, units[place].astype(np.float64)) for place in places]
        inverted = cls(index, min(8, lists))
        while inverted.probes < lists and inverted._recall(units[places], known) < _MIN_RECALL:
            inverted = cls(index, min(lists, inverted.probes * 2))
        return inverted

    def candidates(self, query: Float64, k: int) -> Int64:
        """Returns indices of vectors, among them nearly all of the k nearest to a query (H,)."""
        import faiss

        probes = self.probes
        candidate_count = min(self.index.ntotal, 2 * k + _EXTRA_CANDIDATES)
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
            queries = query.astype(np.float32)[None]
            places = self.index.search(queries, candidate_count, params=parameters)[1][0]
            places = places[places >= 0]
            if len(places) >= k or probes == self.index.nlist:
                return np.asarray(places, np.int64)
            probes = min(self.index.nlist, probes * 4)

    def _recall(self, queries: Float32, known: list[Int64]) -> float:
        """Returns the share of known neighbours that are among the candidates."""
        shares = [
            np.isin(rows, self.candidates(query, len(rows))).mean()
            for query, rows in zip(queries.astype(np.float64), known, strict=True)
        ]
        return float(np.mean(shares))


def _nearest(units: Float32, exact: _CandidateSearch, query: Float64) -> Int64:
    """Returns the indices of the _RECALL_K nearest vectors, best first."""
    k = min(len(units), _RECALL_K)
    places = exact.candidates(query, k)
    cosines = units[places].astype(np.float64) @ query
    return places[np.argsort(-cosines, kind="stable")[:k]]
