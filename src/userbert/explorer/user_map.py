"""All users, or a sample, on a map: in two directions, and in clusters.

In: vectors of users (S, H). Out: a `UserMap`. Users whose vectors point the same way lie together;
the order of the users and the seed are all that it depends on.

A map that keeps neighbourhoods: t-SNE of some users, the others beside those most like them.

In: users along their leading directions (S, D). Out: points (S, 2). It takes some seconds of one
core, so it is made in a process of its own that gives way to whatever else runs; scikit-learn,
which the extra `train` brings, makes it.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from userbert.data.ragged import Float32, Float64, Int64
from userbert.search.neighbours import units

LANDMARKS = 3_000
"""Users that t-SNE lays out, in some ten seconds; of 10,000 it took a minute and a half."""
_FEWEST = 50
"""Fewer users have no neighbourhoods to keep."""
_BESIDE = 3
_AT_ONCE = 5_000
_NICE = 10


def can_lay_out(users: int) -> bool:
    """Whether there is anything to keep, and what makes it is installed."""
    return users >= _FEWEST and find_spec("sklearn") is not None


def note(users: int) -> str:
    """What such a map of so many users means."""
    how = "t-SNE"
    if users > LANDMARKS:
        how += (
            f" of {LANDMARKS:,} users; the others stand among the three of these who are most like "
            "them"
        )
    return (
        f"Users who are alike lie together ({how}). How far groups lie apart, and how large they "
        "are, means little."
    )


def lay_out(leading: Float32, landmarks: int = LANDMARKS) -> Float32:
    """Lay out users in a random order (S, D): (S, 2)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    some = leading[:landmarks]
    with threadpool_limits(1):
        layout = TSNE(init="pca", random_state=0, perplexity=min(30, len(some) // 4), max_iter=500)
        points = layout.fit_transform(some).astype(np.float32)
        return np.concatenate([points, _beside(leading[landmarks:], some, points)])


def _beside(others: Float32, some: Float32, points: Float32) -> Float32:
    """(B, 2): means of the points of the users (L, D) nearest to others (B, D), by nearness."""
    found = np.empty((len(others), 2), np.float32)
    squares = np.einsum("ld,ld->l", some, some)
    for first in range(0, len(others), _AT_ONCE):
        own = others[first : first + _AT_ONCE]
        far = np.einsum("bd,bd->b", own, own)[:, None] - 2 * own @ some.T + squares  # (B, L)
        nearest = np.argpartition(far, _BESIDE, axis=1)[:, :_BESIDE]
        weights = 1 / np.take_along_axis(far, nearest, axis=1).clip(min=1e-6)
        weights /= weights.sum(axis=1, keepdims=True)
        found[first : first + _AT_ONCE] = np.einsum("bn,bnd->bd", weights, points[nearest])
    return found


class Aside:
    """One layout in a process of its own."""

    def __init__(self, leading: Float32) -> None:
        context = get_context("spawn")
        self._receiver, self._sender = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_work, args=(self._sender, leading), daemon=True
        )
        self._is_ended = False

    def points(self) -> Float32 | None:
        """Wait for the points; none if it was ended before."""
        self._process.start()
        self._sender.close()
        if self._is_ended:  # before it had begun
            self._process.terminate()
        try:
            found: Float32 = self._receiver.recv()
        except EOFError:
            return None
        finally:
            self._process.join()
        return found

    def end(self) -> None:
        """End it, whether or not it is done."""
        self._is_ended = True
        if self._process.pid is not None:
            self._process.terminate()


def _work(sender: Connection, leading: Float32) -> None:
    os.nice(_NICE)
    sender.send(lay_out(leading))


_LEADING = 32
"""Directions in which clusters are sought: the others hold little but noise."""
_CLUSTERS = 8
_EACH = 5
"""Users a cluster should have, at least on average."""
_ROUNDS = 50


@dataclass(frozen=True, eq=False)
class UserMap:
    """Users in two dimensions."""

    points: Float32
    """(S, 2)"""
    clusters: Int64
    """(S,): 0 is the largest."""
    method: str
    note: str
    """What the way they are laid out means."""
    leading: Float32
    """(S, D): the vectors along their leading directions."""


def map_of(vectors: Float32) -> UserMap:
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


def cluster(points: Float64, count: int, seed: int = 0) -> Int64:
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


def _principal(vectors: Float32) -> tuple[Float64, Float64]:
    """Float32 along their leading directions (S, D), D ≥ 2, and the share of each in the spread."""
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


def _spread_out(points: Float64, count: int, generator: np.random.Generator) -> Float64:
    """Centers to begin with, far from each other (k-means++, Arthur & Vassilvitskii 2007)."""
    centers = points[generator.integers(len(points), size=1)]
    while len(centers) < count:
        far = _distances(points, centers).min(axis=1).clip(min=0)
        total = float(far.sum())
        chances = far / total if total > 0 else None
        centers = np.concatenate([centers, points[generator.choice(len(points), 1, p=chances)]])
    return centers


def _distances(points: Float64, centers: Float64) -> Float64:
    """(S, C): squared."""
    found: Float64 = (
        (points**2).sum(axis=1)[:, None] - 2 * points @ centers.T + (centers**2).sum(axis=1)
    )
    return found
