"""Two-dimensional map of users, by PCA or t-SNE, and their clusters.

In: user vectors (S, H), in random order. Out: a `UserMap`. PCA is ready at once. t-SNE takes some
seconds of one core, so it runs in a low-priority process; it needs scikit-learn (extra `train`).
Both are deterministic.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from userbert.data.ragged import Float32, Float64, Int64
from userbert.search.neighbours import unit_vectors

LANDMARKS = 3_000
"""Most users that t-SNE lays out, in about 10 s; 10,000 users took 90 s."""
_FEWEST_USERS = 50
"""Fewest users for t-SNE to be worth running."""
_NEAREST_LANDMARKS = 3
"""Number of nearest landmarks whose weighted mean is the position of another user."""
_CHUNK_USERS = 5_000
_NICENESS = 10
"""Niceness of the t-SNE process: it yields to the service."""
_COMPONENTS = 32
"""Number of principal components to cluster on; the others are mostly noise."""
_MOST_CLUSTERS = 8
_USERS_PER_CLUSTER = 5
"""Fewest users per cluster, on average."""
_ROUNDS = 50
"""Most iterations of k-means."""


def can_run_tsne(users: int) -> bool:
    """Whether there are enough users for t-SNE and scikit-learn is installed."""
    return users >= _FEWEST_USERS and find_spec("sklearn") is not None


def tsne_note(users: int) -> str:
    """Returns the page's explanation of a t-SNE map."""
    method = "t-SNE"
    if users > LANDMARKS:
        method += (
            f" of {LANDMARKS:,} users; every other user is placed between the three of them with "
            "the most similar vectors"
        )
    return (
        f"Similar users are close together ({method}). The distance between groups and the size "
        "of a group mean little."
    )


def tsne_points(leading: Float32, landmarks: int = LANDMARKS) -> Float32:
    """Lays out users (S, D), given in random order, by t-SNE: returns points (S, 2)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    chosen = leading[:landmarks]
    with threadpool_limits(1):
        tsne = TSNE(init="pca", random_state=0, perplexity=min(30, len(chosen) // 4), max_iter=500)
        points = tsne.fit_transform(chosen).astype(np.float32)
        return np.concatenate([points, _place_others(leading[landmarks:], chosen, points)])


def _place_others(others: Float32, landmarks: Float32, points: Float32) -> Float32:
    """Places users (B, D) at the mean point of their nearest landmarks (L, D): (B, 2).

    Weights are inverse squared distances.
    """
    placed = np.empty((len(others), 2), np.float32)
    squares = np.einsum("ld,ld->l", landmarks, landmarks)
    for first in range(0, len(others), _CHUNK_USERS):
        chunk = others[first : first + _CHUNK_USERS]
        squared_norms = np.einsum("bd,bd->b", chunk, chunk)[:, None]
        distances = squared_norms - 2 * chunk @ landmarks.T + squares  # (B, L), squared
        nearest = np.argpartition(distances, _NEAREST_LANDMARKS, axis=1)[:, :_NEAREST_LANDMARKS]
        weights = 1 / np.take_along_axis(distances, nearest, axis=1).clip(min=1e-6)
        weights /= weights.sum(axis=1, keepdims=True)
        placed[first : first + _CHUNK_USERS] = np.einsum("bn,bnd->bd", weights, points[nearest])
    return placed


class LayoutProcess:
    """Process that runs t-SNE once."""

    def __init__(self, leading: Float32) -> None:
        context = get_context("spawn")
        self._receiver, self._sender = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_send_points, args=(self._sender, leading), daemon=True
        )
        self._is_ended = False

    def points(self) -> Float32 | None:
        """Runs the process and returns its points (S, 2); `None` if `end` was called."""
        self._process.start()
        self._sender.close()
        if self._is_ended:  # `end` was called before the process started
            self._process.terminate()
        try:
            points: Float32 = self._receiver.recv()
        except EOFError:
            return None
        finally:
            self._process.join()
        return points

    def end(self) -> None:
        """Terminates the process, or prevents it from running."""
        self._is_ended = True
        if self._process.pid is not None:
            self._process.terminate()


def _send_points(sender: Connection, leading: Float32) -> None:
    os.nice(_NICENESS)
    sender.send(tsne_points(leading))


@dataclass(frozen=True, eq=False)
class UserMap:
    """Users in two dimensions."""

    points: Float32
    """Coordinates (S, 2)."""
    clusters: Int64
    """Cluster of each user; 0 is the largest (S,)."""
    method: str
    note: str
    """Explanation of the layout for the page."""
    leading: Float32
    """Leading principal components of the vectors (S, D)."""


def pca_map(vectors: Float32) -> UserMap:
    """Lays out and clusters users by the principal components of their vectors (S, H)."""
    components, shares = _principal(unit_vectors(vectors))
    explained = float(shares[:2].sum())
    clusters = cluster(components, min(_MOST_CLUSTERS, max(1, len(vectors) // _USERS_PER_CLUSTER)))
    return UserMap(
        components[:, :2].astype(np.float32),
        clusters,
        "pca",
        "Users with similar vectors are close together, as far as two dimensions can show: the "
        f"first two principal components (PCA), which hold {explained:.0%} of the variance.",
        components.astype(np.float32),
    )


def cluster(points: Float64, count: int, seed: int = 0) -> Int64:
    """Clusters points (S, D) by k-means; returns each point's cluster, 0 the largest (S,)."""
    if not len(points):
        return np.zeros(0, np.int64)
    centers = _initial_centers(points, count, np.random.default_rng(seed))
    assigned = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        nearest = _distances(points, centers).argmin(axis=1)
        if (nearest == assigned).all():
            break
        assigned = nearest
        sums = np.eye(count)[assigned].T @ points
        sizes = np.bincount(assigned, minlength=count)
        is_used = sizes > 0
        centers[is_used] = sums[is_used] / sizes[is_used, None]
    order = np.argsort(-np.bincount(assigned, minlength=count), kind="stable")
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    clusters: Int64 = rank[assigned]
    return clusters


def _principal(vectors: Float32) -> tuple[Float64, Float64]:
    """Returns the leading principal components (S, D), D ≥ 2, and each one's share of variance."""
    centered = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    values, directions = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    values, directions = values[::-1].clip(min=0), directions[:, ::-1][:, :_COMPONENTS]
    # The sign of a direction is arbitrary: make its largest coordinate positive.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    components = (centered @ directions.astype(np.float32)).astype(np.float64)
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    return components, values / max(float(values.sum()), 1e-12)


def _initial_centers(points: Float64, count: int, generator: np.random.Generator) -> Float64:
    """Chooses initial centers far from each other (k-means++, Arthur & Vassilvitskii 2007)."""
    centers = points[generator.integers(len(points), size=1)]
    while len(centers) < count:
        distances = _distances(points, centers).min(axis=1).clip(min=0)
        total = float(distances.sum())
        weights = distances / total if total > 0 else None
        centers = np.concatenate([centers, points[generator.choice(len(points), 1, p=weights)]])
    return centers


def _distances(points: Float64, centers: Float64) -> Float64:
    """Returns squared distances between points (S, D) and centers (C, D): (S, C)."""
    squared: Float64 = (
        (points**2).sum(axis=1)[:, None] - 2 * points @ centers.T + (centers**2).sum(axis=1)
    )
    return squared
