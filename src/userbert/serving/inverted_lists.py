"""An index of vectors that finds nearly all nearest ones, for those too many to look at each.

In: vectors of length 1 (M, H). Out: candidates, which `neighbours.py` ranks exactly. Vectors lie in
lists by the nearest of many centres, a byte a number; a search reads the lists whose centres are
nearest. How many of them is found by asking for neighbours that are known. Needs faiss.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np

from userbert.serving.embeddings import Vectors
from userbert.serving.neighbours import Numbers, Rows

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
    def candidates(self, query: Numbers, k: int) -> Rows:
        """Places that hold the k nearest."""


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """Vectors in lists; any number of threads may search them at once."""

    index: Any
    """faiss.IndexIVFScalarQuantizer"""
    probes: int
    """Lists that a search reads."""

    @classmethod
    def of(cls, units: Vectors, exact: _Exact) -> "InvertedLists":
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

    def candidates(self, query: Numbers, k: int) -> Rows:
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

    def _recall(self, asked: Vectors, known: list[Rows]) -> float:
        shares = [
            np.isin(rows, self.candidates(query, len(rows))).mean()
            for query, rows in zip(asked.astype(np.float64), known, strict=True)
        ]
        return float(np.mean(shares))


def _nearest(units: Vectors, exact: _Exact, query: Numbers) -> Rows:
    k = min(len(units), _WANTED)
    places = exact.candidates(query, k)
    cosines = units[places].astype(np.float64) @ query
    return places[np.argsort(-cosines, kind="stable")[:k]]
