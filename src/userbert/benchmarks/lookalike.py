"""A search for neighbours among many vectors, beside faiss looking at each.

In: how many users. Out: rows of milliseconds a query, recall, seconds to build, and memory at its
peak. Each contestant works in a process of its own on the same vectors, and is asked one query at a
time. The vectors are made: a mixture of two thousand Gaussians of unequal size, whose variances
fall by direction and whose mean is not zero. Their effective rank (14) and mean cosine (.45) lie
among those of vectors of four real logs (10 to 24, and .29 to .45).
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from userbert.benchmarks.contest import compete, gib, run
from userbert.data.ragged import Float32, Int64
from userbert.folders import read_json, write_json
from userbert.progress import progress
from userbert.search.neighbours import Neighbours

WIDTH, K, QUERIES = 128, 100, 200
_CLUSTERS, _WITHIN, _DECAY, _MEAN = 2000, 0.3, 1.1, 2.0
"""Of how many groups users are, the share of the variance within these, how fast it falls by
direction, and the length of the mean beside the largest deviation."""
_MADE = 65_536

Search = Callable[[Float32, int], Any]


def make_vectors(users: int, seed: int = 0) -> tuple[Float32, Float32]:
    """Float32 (N, H) and queries (Q, H) of the same groups, users who are not among them."""
    draw = np.random.default_rng(seed)
    deviations = np.arange(1, WIDTH + 1) ** (-_DECAY / 2)
    turn = np.linalg.qr(draw.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    middles = draw.standard_normal((_CLUSTERS, WIDTH)) * deviations * (1 - _WITHIN) ** 0.5
    middles[:, 0] += _MEAN * deviations[0]
    sizes = draw.dirichlet(np.ones(_CLUSTERS))
    made = np.empty((users + QUERIES, WIDTH), np.float32)
    for first in range(0, len(made), _MADE):
        some = made[first : first + _MADE]
        group = draw.choice(_CLUSTERS, len(some), p=sizes)
        noise = draw.standard_normal(some.shape) * deviations * _WITHIN**0.5
        some[:] = (middles[group] + noise).astype(np.float32) @ turn
    return made[:users], made[users:]


def exact(vectors: Float32) -> Search:
    """Ours, every nearest one."""
    return Neighbours.of(vectors, "exact").search


def index(vectors: Float32) -> Search:
    """Ours, by lists."""
    return Neighbours.of(vectors, "index").search


def faiss_flat(vectors: Float32) -> Search:
    """Products with all vectors, as faiss has them."""
    import faiss

    flat = faiss.IndexFlatIP(vectors.shape[1])
    faiss.normalize_L2(vectors)
    flat.add(vectors)
    del vectors

    def search(queries: Float32, k: int) -> tuple[Int64, Float32]:
        faiss.normalize_L2(queries)
        cosines, rows = flat.search(queries, k)
        return rows, cosines

    return search


VARIANTS: Mapping[str, Callable[[Float32], Search]] = {"exact": exact, "index": index}
REFERENCE = "faiss-flat"


def _ask(build: Callable[[Float32], Search]) -> Callable[[Path, Path], None]:
    """A contestant: builds, answers one query after the other, and says how long it took."""

    def work(file: Path, _: Path) -> None:
        queries = np.load(file.with_name("queries.npy"))
        vectors = np.load(file)
        started = time.perf_counter()
        search = build(vectors)
        del vectors
        built = time.perf_counter() - started
        search(queries[:1].copy(), K)
        found, took = [], []
        for query in queries:
            started = time.perf_counter()
            rows = search(query[None].copy(), K)[0]
            took.append(1000 * (time.perf_counter() - started))
            found.append(rows[0].tolist())
        name = next(one for one, made in CONTESTANTS.items() if made is work)
        write_json(_answers(file, name), {"built": built, "took": took, "found": found})

    return work


CONTESTANTS: Mapping[str, Callable[[Path, Path], None]] = {
    REFERENCE: _ask(faiss_flat),
    **{name: _ask(build) for name, build in VARIANTS.items()},
}


def bench_lookalike(folder: Path, users: int) -> list[dict[str, Any]]:
    """The rows of both ways to search, among so many vectors, which are written to `folder`."""
    file = folder / "vectors.npy"
    vectors, queries = make_vectors(users)
    np.save(file, vectors)
    np.save(folder / "queries.npy", queries)
    del vectors
    answers, memory = {}, {}
    with progress("runs", len(CONTESTANTS)) as advance:
        for name in CONTESTANTS:
            memory[name] = run(__spec__.name, name, file).memory
            answers[name] = read_json(_answers(file, name))
            advance(1, name)
    beside = answers[REFERENCE]
    usual = float(np.median(beside["took"]))
    rows = []
    for name in VARIANTS:
        ours = answers[name]
        pairs = zip(ours["found"], beside["found"], strict=True)
        took = float(np.median(ours["took"]))
        rows.append(
            {
                "users": users,
                "variant": name,
                "k": K,
                "ms_per_query": round(took, 2),
                "p99_ms": round(float(np.percentile(ours["took"], 99)), 2),
                "recall": round(float(np.mean([np.isin(b, a).mean() for a, b in pairs])), 4),
                "build_seconds": round(ours["built"], 1),
                "peak_memory_gib": gib(memory[name]),
                "reference": REFERENCE,
                "reference_ms": round(usual, 2),
                "ratio": round(usual / took, 1),
                "reference_peak_memory_gib": gib(memory[REFERENCE]),
            }
        )
    return rows


def _answers(file: Path, name: str) -> Path:
    return file.with_name(f"{name}.json")


if __name__ == "__main__":
    compete(CONTESTANTS)
