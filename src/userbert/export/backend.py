"""The `Backend` protocol: computes vectors and scores of users, with torch or onnxruntime.

In: histories of users, prepared or live. Out: an `Answer` with vectors and scores. `load.py` makes
a backend from a model folder, a task folder or an exported file. The service uses models only
through it. Free of torch.
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
from userbert.tasks.predictions import TaskSpec

if TYPE_CHECKING:
    from userbert.tasks.explain import Explanation

ValueProbabilities = Mapping[str, list[tuple[str, float]]]
"""Likely values of each attribute with their probabilities, most likely first."""
BATCH_SIZE = 256
"""Users computed at once; more take memory and save no time."""
RunsOn = Literal["torch", "onnx"]


@dataclass(frozen=True)
class Answer:
    """Vectors and scores of B users."""

    vectors: NDArray[np.float32]
    """User vectors (B, width); for a task, those of its network."""
    scores: NDArray[np.float32] | None
    """Binary: probability of yes (B,); multiclass and multilabel: class shares (B, C) that sum to
    1; regression: predicted quantity (B,). None for a model without a task."""


class Backend(Protocol):
    """A loaded model or task. `run` is safe to call from any thread, but only one at a time."""

    @property
    def name(self) -> str:
        """Name of the folder, or of the file without its ending."""

    @property
    def runs_on(self) -> RunsOn:
        """Library that runs the network."""

    @property
    def version(self) -> str:
        """Version of userbert that wrote the model."""

    @property
    def checksum(self) -> str:
        """SHA-256 that identifies the model."""

    @property
    def record(self) -> Mapping[str, Any]:
        """How the network was trained: preset, seed, steps, `before` and more."""

    @property
    def schema(self) -> Schema:
        """Schema of the logs that the network was trained on."""

    @property
    def vocabularies(self) -> Vocabularies:
        """Values of the ids."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that the network does not read."""

    @property
    def width(self) -> int:
        """Width of user vectors."""

    @property
    def task(self) -> TaskSpec | None:
        """What the task predicts; None for a model without a task."""

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Returns the answer for (user, cut-off) pairs; rows and cut-offs (µs since 1970) are (B,).

        Raises `ModelError` if the data have other ids or words than the model.
        """

    def expect(self, data: PreparedData, location: "WordLocation", best: int) -> ValueProbabilities:
        """Hides one word, and returns the `best` most likely values of each of its attributes.

        Raises `InputError` if there is no such word, or the backend cannot compute it.
        """

    def explain(
        self, data: PreparedData, user: str, cutoff: int, value: str | None
    ) -> "Explanation":
        """Explains a user's score before a cut-off (µs), or the score of the class `value`.

        Raises `InputError` if the model has no task, the task has no such class, or the backend
        cannot explain scores.
        """


@dataclass(frozen=True)
class WordLocation:
    """Identifies one word of one user."""

    row: int
    """Row of the user."""
    cutoff: int
    """Microseconds since 1970."""
    segment: str
    """Name of the segment."""
    number: int
    """Number among the user's words of the segment, from 0, oldest first."""


def collect_answers(
    backend: Backend,
    answer: Callable[[UserBatch], Answer],
    batches: Iterable[UserBatch],
    count: int,
) -> Answer:
    """Answers each batch; returns one answer for all `count` pairs, ordered by `batch.index`."""
    vectors = np.empty((count, backend.width), np.float32)
    task = backend.task
    scores = None if task is None else np.empty((count, *task.score_shape), np.float32)
    for batch in batches:
        batch_answer = answer(batch)
        vectors[batch.index] = batch_answer.vectors
        if scores is not None:
            scores[batch.index] = batch_answer.scores
    return Answer(vectors, scores)
