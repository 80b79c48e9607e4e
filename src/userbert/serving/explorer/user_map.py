"""All users, or a sample, on a map: in two directions, and in clusters.

In: vectors of users (S, H). Out: a `UserMap`. Users whose vectors point the same way lie together;
the order of the users and the seed are all that it depends on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import Int64
from userbert.serving.embeddings import Vectors
from userbert.serving.neighbours import units

_LEADING = 32
"""Directions in which clusters are sought: the others hold little but noise."""
_CLUSTERS = 8
_EACH = 5
"""Users a cluster should have, at least on average."""
_ROUNDS = 50

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UserMap:
    """Users in two dimensions."""

    points: Vectors
    """(S, 2)"""
    clusters: Int64
    """(S,): 0 is the largest."""
    method: str
    note: str
    """What the way they are laid out means."""
    leading: Vectors
    """(S, D): the vectors along their leading directions."""


def map_of(vectors: Vectors) -> UserMap:
    """Lay out users by their vectors (S, H)."""
    turned, shares = _principal(units(vectors))
    held = float(shares[:2].sum())
    clusters = cluster(turned, min(_CLUSTERS, max(1, len(vectors) // _EACH)))
    return UserMap(
        turned[:, :2].astype(np.float32),
        clusters,
        "pca",
        "Near each other are users whose vectors point the same way, as far as two directions "
        f"tell: the two in which users differ most (PCA), which hold {held:.0%} of how they do.",
        turned.astype(np.float32),
    )


def cluster(points: Floats, count: int, seed: int = 0) -> Int64:
    """(S,): the cluster of each point (S, D) by k-means, the largest first."""
    if not len(points):
        return np.zeros(0, np.int64)
    centers = _spread_out(points, count, np.random.default_rng(seed))
    own = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        nearest = _distances(points, centers).argmin(axis=1)
        if (nearest == own).all():
            break
        own = nearest
        sums = np.eye(count)[own].T @ points
        sizes = np.bincount(own, minlength=count)
        some = sizes > 0
        centers[some] = sums[some] / sizes[some, None]
    order = np.argsort(-np.bincount(own, minlength=count), kind="stable")
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    told: Int64 = place[own]
    return told


def _principal(vectors: Vectors) -> tuple[Floats, Floats]:
    """Vectors along their leading directions (S, D), D ≥ 2, and the share of each in the spread."""
    centered = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    values, directions = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    values, directions = values[::-1].clip(min=0), directions[:, ::-1][:, :_LEADING]
    # A direction has no sign of its own: the largest part of it is positive.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    turned = (centered @ directions.astype(np.float32)).astype(np.float64)
    if turned.shape[1] < 2:
        turned = np.pad(turned, ((0, 0), (0, 2 - turned.shape[1])))
    return turned, values / max(float(values.sum()), 1e-12)


def _spread_out(points: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Centers to begin with, far from each other (k-means++, Arthur & Vassilvitskii 2007)."""
    centers = points[generator.integers(len(points), size=1)]
    while len(centers) < count:
        far = _distances(points, centers).min(axis=1).clip(min=0)
        total = float(far.sum())
        chances = far / total if total > 0 else None
        centers = np.concatenate([centers, points[generator.choice(len(points), 1, p=chances)]])
    return centers


def _distances(points: Floats, centers: Floats) -> Floats:
    """(S, C): squared."""
    found: Floats = (
        (points**2).sum(axis=1)[:, None] - 2 * points @ centers.T + (centers**2).sum(axis=1)
    )
    return found
