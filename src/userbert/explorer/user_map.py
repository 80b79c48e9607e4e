"""Two-dimensional map of users, by PCA or t-SNE, and their clusters.

In: vectors of S users (S, H), in random order. Out: a `UserMap`. PCA is ready at once. t-SNE takes
about 10 s of one core, so it runs in a low-priority process; it needs scikit-learn (extra `train`).
Both methods are deterministic.
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
"""Maximum number of users that t-SNE lays out: 3,000 take about 10 s, 10,000 take 90 s."""
_MIN_USERS = 50
"""Minimum number of users for t-SNE to be worth running."""
_NEAREST_LANDMARKS = 3
"""Number of nearest landmarks; their weighted mean is the position of a user without t-SNE."""
_CHUNK_USERS = 5_000
"""Number of users to place at a time, to bound the memory of distances to all landmarks."""
_NICENESS = 10
"""Niceness of the t-SNE process, so that the service gets the processor first."""
_COMPONENTS = 32
"""Maximum number of principal components to cluster on; later components are mostly noise."""
_MAX_CLUSTERS = 8
"""Maximum number of clusters; the page has 12 hues."""
_USERS_PER_CLUSTER = 5
"""Minimum mean number of users per cluster."""
_MAX_ITERATIONS = 50
"""Maximum number of k-means iterations."""


def can_run_tsne(users: int) -> bool:
    """Whether there are enough users for t-SNE and scikit-learn is installed."""
    return users >= _MIN_USERS and find_spec("sklearn") is not None


def tsne_note(users: int) -> str:
    """Returns the explanation of a t-SNE map of `users` users, for the page."""
    method = "t-SNE"
    if users > LANDMARKS:
        method += (
            f" of {LANDMARKS:,} users; every other user is placed between the three of these users "
            "with the most similar vectors"
        )
    return (
        f"Similar users are close together ({method}). The distance between groups and the size "
        "of a group mean little."
    )


def tsne_points(leading: Float32, landmarks: int = LANDMARKS) -> Float32:
    """Lays out S users by t-SNE and returns points (S, 2).

    `leading` holds the D leading principal components of each user (S, D), in random order. t-SNE
    lays out the first `landmarks` users; the others are placed near their nearest landmarks.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    landmark_components = leading[:landmarks]
    with threadpool_limits(1):
        perplexity = min(30, len(landmark_components) // 4)
        tsne = TSNE(init="pca", random_state=0, perplexity=perplexity, max_iter=500)
        points = tsne.fit_transform(landmark_components).astype(np.float32)
        other_points = _place_others(leading[landmarks:], landmark_components, points)
        return np.concatenate([points, other_points])


def _place_others(others: Float32, landmarks: Float32, points: Float32) -> Float32:
    """Places B users (B, D) at the mean of the points (L, 2) of their nearest landmarks (L, D).

    Returns points (B, 2). The mean is weighted by inverse squared distances.
    """
    positions = np.empty((len(others), 2), np.float32)
    landmark_squares = np.einsum("ld,ld->l", landmarks, landmarks)
    for start in range(0, len(others), _CHUNK_USERS):
        chunk = others[start : start + _CHUNK_USERS]
        squared_norms = np.einsum("bd,bd->b", chunk, chunk)[:, None]
        distances = squared_norms - 2 * chunk @ landmarks.T + landmark_squares  # (B, L), squared
        nearest = np.argpartition(distances, _NEAREST_LANDMARKS, axis=1)[:, :_NEAREST_LANDMARKS]
        weights = 1 / np.take_along_axis(distances, nearest, axis=1).clip(min=1e-6)
        weights /= weights.sum(axis=1, keepdims=True)
        positions[start : start + _CHUNK_USERS] = np.einsum("bn,bnd->bd", weights, points[nearest])
    return positions


class LayoutProcess:
    """Process that runs t-SNE once on leading principal components (S, D)."""

    def __init__(self, leading: Float32) -> None:
        context = get_context("spawn")
        self._receiver, self._sender = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_send_points, args=(self._sender, leading), daemon=True
        )
        self._is_ended = False

    def points(self) -> Float32 | None:
        """Runs the process and returns points (S, 2).

        Returns `None` if the process ends without a result, as after `end`.
        """
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
    """Two-dimensional layout of S users, and their clusters."""

    points: Float32
    """Coordinates (S, 2)."""
    clusters: Int64
    """Cluster of each user, numbered from 0 by decreasing size (S,)."""
    method: str
    """`pca` or `t-sne`."""
    note: str
    """Explanation of the layout for the page."""
    leading: Float32
    """D leading principal components of the vectors (S, D)."""


def pca_map(vectors: Float32) -> UserMap:
    """Lays out and clusters users by the principal components of their vectors (S, H)."""
    components, shares = _principal(unit_vectors(vectors))
    explained = float(shares[:2].sum())
    clusters = cluster(components, min(_MAX_CLUSTERS, max(1, len(vectors) // _USERS_PER_CLUSTER)))
    return UserMap(
        components[:, :2].astype(np.float32),
        clusters,
        "pca",
        "Users with similar vectors are close together, as far as two dimensions can show: the "
        f"first two principal components (PCA), which hold {explained:.0%} of the variance.",
        components.astype(np.float32),
    )


def cluster(points: Float64, count: int, seed: int = 0) -> Int64:
    """Clusters points (S, D) into at most `count` clusters by k-means.

    Returns the cluster of each point, numbered from 0 by decreasing size (S,).
    """
    if not len(points):
        return np.zeros(0, np.int64)
    centers = _initial_centers(points, count, np.random.default_rng(seed))
    assigned = np.full(len(points), -1)
    for _ in range(_MAX_ITERATIONS):
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
    """Returns the leading components (S, D), D ≥ 2, and all components' shares of variance (H,)."""
    centered = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    variances, directions = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    variances, directions = variances[::-1].clip(min=0), directions[:, ::-1][:, :_COMPONENTS]
    # The sign of a direction is arbitrary: the largest coordinate is made positive.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    components = (centered @ directions.astype(np.float32)).astype(np.float64)
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 2 - components.shape[1])))
    return components, variances / max(float(variances.sum()), 1e-12)


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
