"""Who is near a vector, by cosine: exact, or by an index whose best are ranked exactly.

In: vectors of users (N, H). Out: for each query the rows of its nearest ones and their cosines,
best first, of equal ones the lower row first. The service keeps a `Neighbours`; `nearest_in` looks
through a file once, for who asks once.

A cosine is the product of vectors that were brought to length 1 in float32, summed in float64 and
rounded to float32. A vector that is zero, or holds NaN or infinity, has no direction and is
nobody's neighbour.

An index of vectors that finds nearly all nearest ones, for those too many to look at each.

In: vectors of length 1 (M, H). Out: candidates, which `neighbours.py` ranks exactly. Float32 lie in
lists by the nearest of many centres, a byte a number; a search reads the lists whose centres are
nearest. How many of them is found by asking for neighbours that are known. Needs faiss.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Float32, Float64, Int64
from userbert.embedding.embeddings import Embeddings
from userbert.errors import InputError
from userbert.progress import progress, warn

EXACT_UP_TO = 1_000_000
"""Float32 that are searched exactly unless something else is asked for."""
_BLOCK = 16_384
_ROUNDING = 2.0**-23
"""Of a float32 product of two vectors of length 1, at most, for each of its terms (twice what the
sum can be off by)."""
_SAMPLE = 20_000
"""Float32 that tell in which directions all lie."""
_ENOUGH, _LEAST, _STEP = 0.96, 0.9, 16
"""The share of the squared lengths that leading directions should hold, and must at least, and in
what steps these are added. With less, too many are looked at whole; with more, more is read of
all."""
_WORTH_SCREENING = 1 << 22
"""Float64 in all vectors; fewer are read at once."""
_MANY = 8
"""Where more than one in so many passes the screen, all are looked at whole."""


def units(vectors: Float32) -> Float32:
    """Float32 (B, H) at length 1; zeros where there is no direction."""
    made = np.zeros(vectors.shape, np.float32)
    for some in _blocks(len(vectors)):
        wide = vectors[some].astype(np.float64)
        with np.errstate(invalid="ignore"):
            lengths = np.sqrt(np.einsum("bh,bh->b", wide, wide))
            is_one = np.isfinite(lengths) & (lengths > 0)
        made[some][is_one] = wide[is_one] / lengths[is_one, None]
    return made


def best(rows: Int64, scores: Float32, k: int) -> tuple[Int64, Float32]:
    """The k largest scores and their rows, best first; of equal ones the lower row first."""
    if len(scores) > k:
        is_in = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        rows, scores = rows[is_in], scores[is_in]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def nearest_in(
    embeddings: Embeddings, vector: Float32, is_asked: NDArray[np.bool_], k: int
) -> tuple[Int64, Float32]:
    """Int64 and cosines of the k nearest to a vector (H,), of the rows (N,) that are asked for.

    Looks through a file once, in memory of one part.
    """
    wanted = units(vector[None])[0].astype(np.float64)
    rows, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
    with progress("looking for neighbours", len(embeddings)) as advance:
        for first, vectors in embeddings.blocks():
            own = units(vectors)
            mine = np.flatnonzero(is_asked[first : first + len(own)] & own.any(axis=1))
            found = (own[mine].astype(np.float64) @ wanted).astype(np.float32)
            rows, cosines = best(
                np.concatenate([rows, mine + first]), np.concatenate([cosines, found]), k
            )
            advance(len(own), "")
    return rows, cosines


class _Finder(Protocol):
    """Finds who may be among the nearest."""

    def candidates(self, query: Float64, k: int) -> Int64:
        """Places among units that hold the k nearest to a query (H,) of length 1."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Float32 among which one looks for neighbours; any number of threads may, at once."""

    _units: Float32
    """(M, H): those that have a direction, at length 1."""
    _rows: Int64
    """(M,): where they were among all."""
    _exact: _Finder
    _index: "_Finder | None"

    @classmethod
    def of(cls, vectors: Float32, how: Literal["auto", "exact", "index"] = "auto") -> "Neighbours":
        """Keep vectors (N, H), as float32 of length 1.

        `index` takes faiss, from the extra `lookalike`, and some nearest may be missed: about one
        in two hundred of the first 100, as measured when it is built. `auto` is exact for up to
        `EXACT_UP_TO` vectors, and beyond where faiss is not installed, which is said. Raises
        `InputError` if vectors have no direction at all, or `index` finds no faiss.
        """
        if vectors.ndim != 2:
            raise InputError(f"expected vectors (N, H), found an array of shape {vectors.shape}.")
        kept = units(vectors)
        has_direction = kept.any(axis=1)
        rows = np.flatnonzero(has_direction)
        if not len(rows):
            raise InputError(
                f"none of {len(vectors):,} vectors has a direction: all are zero, NaN or infinite. "
                "Embed again."
            )
        if len(rows) < len(kept):
            kept = kept[has_direction]
        is_indexed = how == "index" or (how == "auto" and len(rows) > EXACT_UP_TO)
        if is_indexed and find_spec("faiss") is None:
            install = "Install it with: pip install 'userbert[lookalike]'"
            if how == "index":
                raise InputError(f"an index needs faiss. {install}")
            warn(f"{len(rows):,} vectors are searched one by one; an index needs faiss. {install}")
            is_indexed = False
        if not is_indexed:
            return cls(kept, rows, _Screen.of(kept), None)
        from userbert.search.neighbours import InvertedLists

        # Few ask for more than the index is good at; for them nothing more is kept.
        exact = _Screen(kept, None)
        return cls(kept, rows, exact, InvertedLists.of(kept, exact))

    def __len__(self) -> int:
        """Count the vectors that have a direction."""
        return len(self._rows)

    @property
    def is_exact(self) -> bool:
        """Whether none that is among the nearest is ever missed."""
        return self._index is None

    def search(self, queries: Float32, k: int) -> tuple[Int64, Float32]:
        """Int64 (Q, K) of the nearest to queries (Q, H), best first, and cosines; K ≤ k.

        K is less than k if fewer vectors have a direction. Raises `InputError` for a query without
        one, or of another width.
        """
        if k < 1 or queries.ndim != 2 or queries.shape[1] != self._units.shape[1]:
            raise InputError(
                f"expected queries (Q, {self._units.shape[1]}) and k ≥ 1, found an array of shape "
                f"{queries.shape} and k = {k}."
            )
        wanted = units(queries).astype(np.float64)
        blind = np.flatnonzero(~wanted.any(axis=1))
        if len(blind):
            raise InputError(
                f"query {blind[0]} has no direction: it is zero, or holds NaN or infinity."
            )
        k = min(k, len(self))
        finder = self._exact if self._index is None or k > MOST_OF_INDEX else self._index
        found = [self._ranked(finder.candidates(query, k), query, k) for query in wanted]
        shape = (len(queries), k)
        return (
            np.array([rows for rows, _ in found], np.int64).reshape(shape),
            np.array([cosines for _, cosines in found], np.float32).reshape(shape),
        )

    def _ranked(self, places: Int64, query: Float64, k: int) -> tuple[Int64, Float32]:
        """The k best of some places, by their cosines as they are told."""
        rows, cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for some in _blocks(len(places)):
            # Each row is summed in the same order: equal vectors have equal cosines anywhere.
            found = (self._units[places[some]].astype(np.float64) * query).sum(axis=1)
            rows, cosines = best(
                np.concatenate([rows, self._rows[places[some]]]),
                np.concatenate([cosines, found.astype(np.float32)]),
                k,
            )
        return rows, cosines


MOST_OF_INDEX = 1000
"""Neighbours that an index is asked for; who wants more gets them exactly."""


@dataclass(frozen=True, eq=False)
class _Leading:
    """Float32 along the few directions in which most of them lies."""

    turn: Float64
    """(H, D): those directions."""
    lead: Float32
    """(M, D): the vectors along them."""
    tail: Float32
    """(M,): how long the rest of each is."""

    @classmethod
    def of(cls, kept: Float32) -> "_Leading | None":
        """Turn vectors; None if half of all directions do not hold enough."""
        count, width = kept.shape
        step = max(1, count // _SAMPLE)
        some = kept[::step].astype(np.float64)
        values, directions = np.linalg.eigh(some.T @ some)
        shares = np.cumsum(values[::-1]) / values.sum()
        enough = int(np.searchsorted(shares, _ENOUGH)) + 1
        leading = min(-(-enough // _STEP) * _STEP, width // 2)
        if kept.size < _WORTH_SCREENING or leading == 0 or shares[leading - 1] < _LEAST:
            return None
        turn = np.ascontiguousarray(directions[:, ::-1][:, :leading])
        lead = np.empty((count, leading), np.float32)
        tail = np.empty(count, np.float32)
        for block in _blocks(count):
            turned = kept[block].astype(np.float64) @ turn
            lead[block] = turned
            tail[block] = np.sqrt((1 - np.einsum("bd,bd->b", turned, turned)).clip(min=0))
        return cls(turn, lead, tail)


@dataclass(frozen=True, eq=False)
class _Screen:
    """Exact: leaves out only who cannot be among the nearest.

    A cosine is the product along the leading directions, give or take the product of the lengths of
    what remains of both (Cauchy and Schwarz). So who at best does not reach what k others reach at
    worst need not be looked at whole. Of vectors like ours that is nearly everybody, and reading
    is what a search takes its time for.
    """

    units: Float32
    leading: _Leading | None

    @classmethod
    def of(cls, kept: Float32) -> "_Screen":
        """Find the leading directions of vectors of length 1."""
        return cls(kept, _Leading.of(kept))

    def candidates(self, query: Float64, k: int) -> Int64:
        """See `_Finder`."""
        count, width = self.units.shape
        slack = np.float32((width + 16) * _ROUNDING)
        if self.leading is not None:
            along = query @ self.leading.turn
            rest = np.float32(np.sqrt(max(0.0, 1 - float(along @ along))))
            middle = self.leading.lead @ along.astype(np.float32)
            spread = self.leading.tail * rest + slack
            floor = _kth(middle - spread, k)
            passed = np.flatnonzero(middle + spread >= floor)
            if len(passed) <= count // _MANY:
                cosines = self.units[passed] @ query.astype(np.float32)
                near: Int64 = passed[cosines >= _kth(cosines, k) - 2 * slack]
                return near
        cosines = self.units @ query.astype(np.float32)
        return np.flatnonzero(cosines >= _kth(cosines, k) - 2 * slack)


def _kth(values: Float32, k: int) -> Any:
    """The k-th largest."""
    return np.partition(values, len(values) - k)[len(values) - k]


def _blocks(count: int) -> Iterator[slice]:
    return (slice(first, first + _BLOCK) for first in range(0, count, _BLOCK))


_SEED = 0
_LISTS, _PER_CENTRE, _ROUNDS = 2.0, 48, 6
"""Lists for each root of the number of vectors, and vectors that each centre is learned from, in so
many rounds of k-means."""
_ADDED = 65_536
_ASKED, _WANTED, _RECALL = 128, 100, 0.995
"""So many users' nearest ones are known, so many each, of which this share must be found."""
_SPARE = 64
"""Candidates beyond twice those wanted: bytes put the nearest in an order that is not quite
theirs."""


class _Exact(Protocol):
    def candidates(self, query: Float64, k: int) -> Int64:
        """Places that hold the k nearest."""


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """Float32 in lists; any number of threads may search them at once."""

    index: Any
    """faiss.IndexIVFScalarQuantizer"""
    probes: int
    """Lists that a search reads."""

    @classmethod
    def of(cls, units: Float32, exact: _Exact) -> "InvertedLists":
        """Put vectors of length 1 in lists, and find out how many must be read."""
        count, width = units.shape
        generator = np.random.default_rng(_SEED)
        lists = max(1, min(round(_LISTS * count**0.5), count // _PER_CENTRE))
        centres = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFScalarQuantizer(
            centres, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.seed, index.cp.niter, index.cp.spherical = _SEED + 1, _ROUNDS, True
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = _PER_CENTRE
        learned = min(count, lists * _PER_CENTRE)
        index.train(units[np.sort(generator.choice(count, learned, replace=False))])
        for first in range(0, count, _ADDED):
            index.add(units[first : first + _ADDED])
        asked = np.sort(generator.choice(count, min(count, _ASKED), replace=False))
        known = [_nearest(units, exact, units[place].astype(np.float64)) for place in asked]
        made = cls(index, min(8, lists))
        while made.probes < lists and made._recall(units[asked], known) < _RECALL:
            made = cls(index, min(lists, made.probes * 2))
        return made

    def candidates(self, query: Float64, k: int) -> Int64:
        """Places (C,) that hold nearly all of the k nearest to a query (H,) of length 1."""
        probes = self.probes
        wanted = min(self.index.ntotal, 2 * k + _SPARE)
        while True:
            reading = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
            found = self.index.search(query.astype(np.float32)[None], wanted, params=reading)[1][0]
            found = found[found >= 0]
            if len(found) >= k or probes == self.index.nlist:
                return np.asarray(found, np.int64)
            probes = min(self.index.nlist, probes * 4)

    def _recall(self, asked: Float32, known: list[Int64]) -> float:
        shares = [
            np.isin(rows, self.candidates(query, len(rows))).mean()
            for query, rows in zip(asked.astype(np.float64), known, strict=True)
        ]
        return float(np.mean(shares))


def _nearest(units: Float32, exact: _Exact, query: Float64) -> Int64:
    k = min(len(units), _WANTED)
    places = exact.candidates(query, k)
    cosines = units[places].astype(np.float64) @ query
    return places[np.argsort(-cosines, kind="stable")[:k]]
