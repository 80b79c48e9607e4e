"""Whatever makes vectors and scores of histories, behind one protocol.

In: a model or a task as torch reads it (a folder), or as onnxruntime does (a file of `export`).
Out: a `Backend`, which answers for users. The live service knows nothing else of models. Free of
torch: what a backend needs is imported when one is loaded.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from userbert.data.batches import UserBatch
from userbert.data.ragged import Int64
from userbert.data.store import Histories, PreparedData
from userbert.data.vocabulary import Vocabularies
from userbert.schema.models import Schema
from userbert.tasks.predictions import Asked

if TYPE_CHECKING:
    from userbert.tasks.explain import Explanation

Expected = Mapping[str, list[tuple[str, float]]]
"""By attribute: likely values and their probabilities, likeliest first."""
RunsOn = Literal["torch", "onnx"]


@dataclass(frozen=True)
class Answer:
    """What a model says of B users."""

    vectors: NDArray[np.float32]
    """(B, width): user vectors; a task's are those of its network."""
    scores: NDArray[np.float32] | None
    """Binary: the probability of yes (B,); multiclass and multilabel: shares of the classes
    (B, C), 1 in all; regression: the quantity (B,). None: a model without a task."""


class Backend(Protocol):
    """A model or a task that answers. Its `run` may be called from any one thread at a time."""

    @property
    def name(self) -> str:
        """That of its folder, or of its file without the ending."""

    @property
    def runs_on(self) -> RunsOn:
        """What computes."""

    @property
    def version(self) -> str:
        """Of the userbert that wrote it."""

    @property
    def checksum(self) -> str:
        """SHA-256 that is equal exactly for what was written once; tells models apart."""

    @property
    def record(self) -> Mapping[str, Any]:
        """How the network was trained: its preset, seed, steps, `before` and more."""

    @property
    def schema(self) -> Schema:
        """What logs mean."""

    @property
    def vocabularies(self) -> Vocabularies:
        """What ids mean."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that it does not see."""

    @property
    def width(self) -> int:
        """Of user vectors."""

    @property
    def task(self) -> Asked | None:
        """What is asked; none: it makes vectors alone."""

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Answer for (user, cut-off) pairs: rows and cut-offs (µs since 1970) are (B,) each.

        Raises `ModelError` if the ids or the words of the data are not those that it knows.
        """

    def expect(self, data: PreparedData, place: "Place", best: int) -> Expected:
        """Hide one word, and say which values are likely in it.

        Raises `InputError` if there is no such word, or the network cannot tell.
        """

    def explain(
        self, data: PreparedData, user: str, cutoff: int, value: str | None
    ) -> "Explanation":
        """Say what moved a user's score before a cut-off, or that of a class.

        Raises `InputError` if it has no task, there is no such class, or the network cannot tell.
        """


@dataclass(frozen=True)
class Place:
    """Where a word stands."""

    row: int
    """Of the user."""
    cutoff: int
    """Microseconds since 1970."""
    segment: str
    number: int
    """Among the user's words of the segment, oldest first, from 0."""


def gathered(
    backend: Backend,
    answer: Callable[[UserBatch], Answer],
    batches: Iterable[UserBatch],
    count: int,
) -> Answer:
    """The answers of a backend to batches, whose index points into so many pairs, as one."""
    vectors = np.empty((count, backend.width), np.float32)
    asked = backend.task
    scores = None if asked is None else np.empty((count, *asked.score_shape), np.float32)
    for batch in batches:
        found = answer(batch)
        vectors[batch.index] = found.vectors
        if scores is not None:
            scores[batch.index] = found.scores
    return Answer(vectors, scores)


BATCH = 256
"""Users that are answered for at once: more only take more memory."""
