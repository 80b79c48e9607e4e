"""Benchmark of look-alike search: ours compared with a flat scan by faiss.

In: a number of users. Out: rows of milliseconds per query, recall, seconds to build, and peak
memory. Each competitor runs in its own process on the same vectors, one query at a time. Vectors
are drawn from a mixture of two thousand Gaussians of unequal size, with variances that fall by
direction and a nonzero mean. Their effective rank (14) and mean cosine (.45) are in the range of
vectors of four real logs (10 to 24, and .29 to .45).

Letters in shapes: N users, Q queries, H width, K neighbours.
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
"""Width of a vector, number of neighbours per query, and number of queries."""
_CLUSTERS, _WITHIN_SHARE, _DECAY, _MEAN = 2000, 0.3, 1.1, 2.0
"""Number of clusters, share of the variance within them, exponent of the variance's decay by
direction, and length of the mean relative to the largest standard deviation."""
_CHUNK = 65_536
"""Vectors that are drawn at a time, to limit memory."""

Search = Callable[[Float32, int], Any]
"""Returns rows and cosines (Q, K) of the nearest vectors to queries (Q, H), given K."""


def make_vectors(users: int, seed: int = 0) -> tuple[Float32, Float32]:
    """Draws vectors (N, H), and queries (Q, H) of other users, from the same clusters."""
    generator = np.random.default_rng(seed)
    deviations = np.arange(1, WIDTH + 1) ** (-_DECAY / 2)
    rotation = np.linalg.qr(generator.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    centres = (
        generator.standard_normal((_CLUSTERS, WIDTH)) * deviations * (1 - _WITHIN_SHARE) ** 0.5
    )
    centres[:, 0] += _MEAN * deviations[0]
    sizes = generator.dirichlet(np.ones(_CLUSTERS))
    all_vectors = np.empty((users + QUERIES, WIDTH), np.float32)
    for first in range(0, len(all_vectors), _CHUNK):
        chunk = all_vectors[first : first + _CHUNK]
        cluster = generator.choice(_CLUSTERS, len(chunk), p=sizes)
        noise = generator.standard_normal(chunk.shape) * deviations * _WITHIN_SHARE**0.5
        chunk[:] = (centres[cluster] + noise).astype(np.float32) @ rotation
    return all_vectors[:users], all_vectors[users:]


def exact(vectors: Float32) -> Search:
    """Builds our exact search over vectors (N, H)."""
    return Neighbours.of(vectors, "exact").search


def index(vectors: Float32) -> Search:
    """Builds our approximate search, by inverted lists, over vectors (N, H)."""
    return Neighbours.of(vectors, "index").search


def faiss_flat(vectors: Float32) -> Search:
    """Builds faiss's flat index of inner products over vectors (N, H), which it normalizes."""
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


def _competitor(build: Callable[[Float32], Search]) -> Callable[[Path, Path], None]:
    """Returns a competitor that builds a search, runs queries one by one, and writes results.

    A first query, to warm up, is not timed.
    """

    def work(file: Path, _: Path) -> None:
        queries = np.load(file.with_name("queries.npy"))
        vectors = np.load(file)
        started = time.perf_counter()
        search = build(vectors)
        del vectors
        build_seconds = time.perf_counter() - started
        search(queries[:1].copy(), K)
        neighbours, milliseconds = [], []
        for query in queries:
            started = time.perf_counter()
            rows = search(query[None].copy(), K)[0]
            milliseconds.append(1000 * (time.perf_counter() - started))
            neighbours.append(rows[0].tolist())
        name = next(competitor for competitor, function in COMPETITORS.items() if function is work)
        write_json(
            _answers(file, name),
            {
                "build_seconds": build_seconds,
                "milliseconds": milliseconds,
                "neighbours": neighbours,
            },
        )

    return work


COMPETITORS: Mapping[str, Callable[[Path, Path], None]] = {
    REFERENCE: _competitor(faiss_flat),
    **{name: _competitor(build) for name, build in VARIANTS.items()},
}


def bench_lookalike(folder: Path, users: int) -> list[dict[str, Any]]:
    """Returns a row for each of our searches among `users` vectors; writes files to `folder`."""
    file = folder / "vectors.npy"
    vectors, queries = make_vectors(users)
    np.save(file, vectors)
    np.save(folder / "queries.npy", queries)
    del vectors
    answers, memory = {}, {}
    with progress("runs", len(COMPETITORS)) as advance:
        for name in COMPETITORS:
            memory[name] = run(__spec__.name, name, file).memory
            answers[name] = read_json(_answers(file, name))
            advance(1, name)
    reference = answers[REFERENCE]
    reference_ms = float(np.median(reference["milliseconds"]))
    rows = []
    for name in VARIANTS:
        ours = answers[name]
        pairs = zip(ours["neighbours"], reference["neighbours"], strict=True)
        ours_ms = float(np.median(ours["milliseconds"]))
        rows.append(
            {
                "users": users,
                "variant": name,
                "k": K,
                "ms_per_query": round(ours_ms, 2),
                "p99_ms": round(float(np.percentile(ours["milliseconds"], 99)), 2),
                "recall": round(float(np.mean([np.isin(b, a).mean() for a, b in pairs])), 4),
                "build_seconds": round(ours["build_seconds"], 1),
                "peak_memory_gib": gib(memory[name]),
                "reference": REFERENCE,
                "reference_ms": round(reference_ms, 2),
                "ratio": round(reference_ms / ours_ms, 1),
                "reference_peak_memory_gib": gib(memory[REFERENCE]),
            }
        )
    return rows


def _answers(file: Path, name: str) -> Path:
    """Returns the path of a competitor's results, next to the vectors."""
    return file.with_name(f"{name}.json")


if __name__ == "__main__":
    compete(COMPETITORS)
