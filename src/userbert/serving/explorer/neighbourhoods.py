"""A map that keeps neighbourhoods: t-SNE of some users, the others beside those most like them.

In: users along their leading directions (S, D). Out: points (S, 2). It takes some seconds of one
core, so it is made in a process of its own that gives way to whatever else runs; scikit-learn,
which the extra `train` brings, makes it.
"""

import os
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from userbert.serving.embeddings import Vectors

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


def lay_out(leading: Vectors, landmarks: int = LANDMARKS) -> Vectors:
    """Lay out users in a random order (S, D): (S, 2)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    some = leading[:landmarks]
    with threadpool_limits(1):
        layout = TSNE(init="pca", random_state=0, perplexity=min(30, len(some) // 4), max_iter=500)
        points = layout.fit_transform(some).astype(np.float32)
        return np.concatenate([points, _beside(leading[landmarks:], some, points)])


def _beside(others: Vectors, some: Vectors, points: Vectors) -> Vectors:
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

    def __init__(self, leading: Vectors) -> None:
        context = get_context("spawn")
        self._receiver, self._sender = context.Pipe(duplex=False)
        self._process: BaseProcess = context.Process(
            target=_work, args=(self._sender, leading), daemon=True
        )
        self._is_ended = False

    def points(self) -> Vectors | None:
        """Wait for the points; none if it was ended before."""
        self._process.start()
        self._sender.close()
        if self._is_ended:  # before it had begun
            self._process.terminate()
        try:
            found: Vectors = self._receiver.recv()
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


def _work(sender: Connection, leading: Vectors) -> None:
    os.nice(_NICE)
    sender.send(lay_out(leading))
