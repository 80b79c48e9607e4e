"""The `Backend` protocol: computes vectors and scores of users, with torch or onnxruntime.

In: histories of users, from prepared data or live events. Out: an `Answer` with vectors and scores.
`load_backend` makes a backend from a model folder, a task folder or an exported file. The service
uses models only through backends. Imports no torch.

Letters in shapes: B users, C classes of a task.
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
"""Likely values by attribute, each value with its probability, most likely first."""
BATCH_SIZE = 256
"""Maximum number of users of a batch; larger batches take more memory and save no time."""
RunsOn = Literal["torch", "onnx"]
"""Library that runs a network: torch or onnxruntime."""


@dataclass(frozen=True)
class Answer:
    """Vectors and scores of B users."""

    vectors: NDArray[np.float32]
    """User vectors (B, width); for a task, vectors of the fine-tuned network."""
    scores: NDArray[np.float32] | None
    """Scores by kind of task; None for a model without a task. Binary: probability of yes (B,).
    Multiclass and multilabel: shares of the classes (B, C), which sum to 1. Regression: predicted
    quantity (B,)."""


class Backend(Protocol):
    """A loaded model or task. `run` may be called from any thread, but not by two at a time."""

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
        """SHA-256 that identifies the model: of `summary.json`, or of the exported file."""

    @property
    def record(self) -> Mapping[str, Any]:
        """How the network was trained: preset, seed, steps, `before` and more."""

    @property
    def schema(self) -> Schema:
        """Schema of the logs that the network was trained on."""

    @property
    def vocabularies(self) -> Vocabularies:
        """Vocabularies that map values to the ids that the network reads."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that the network does not read."""

    @property
    def width(self) -> int:
        """Width of user vectors."""

    @property
    def task(self) -> TaskSpec | None:
        """Specification of the task; None for a model without a task."""

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Returns the answer for (user, cut-off) pairs, in order.

        `rows` (B,) are row numbers in `data`, `cutoffs` (B,) are in microseconds since 1970. Raises
        `ModelError` if ids or segments of the data differ from the model's.
        """

    def expect(self, data: PreparedData, location: "WordLocation", best: int) -> ValueProbabilities:
        """Predicts a hidden word: returns the `best` most likely values of each of its attributes.

        Raises `InputError` if the user has no word at `location`, the model is not pretrained, or
        the backend cannot predict words.
        """

    def explain(
        self, data: PreparedData, user: str, cutoff: int, value: str | None
    ) -> "Explanation":
        """Explains the score of a user id at a cut-off, in microseconds since 1970.

        `value` chooses the class of a task with classes. Raises `InputError` if the model has no
        task, the task has no class `value`, or the backend cannot explain scores.
        """


@dataclass(frozen=True)
class WordLocation:
    """Identifies one word of one user."""

    row: int
    """Row number of the user in the data."""
    cutoff: int
    """Cut-off in microseconds since 1970."""
    segment: str
    """Name of the segment."""
    number: int
    """Number of the word in the user's sequence of the segment, from 0, oldest first."""


def collect_answers(
    backend: Backend,
    answer: Callable[[UserBatch], Answer],
    batches: Iterable[UserBatch],
    count: int,
) -> Answer:
    """Runs `answer` on each batch, and joins the answers for all `count` pairs.

    `batch.index` holds the positions of a batch's users in the result.
    """
    vectors = np.empty((count, backend.width), np.float32)
    task = backend.task
    scores = None if task is None else np.empty((count, *task.score_shape), np.float32)
    for batch in batches:
        batch_answer = answer(batch)
        vectors[batch.index] = batch_answer.vectors
        if scores is not None:
            scores[batch.index] = batch_answer.scores
    return Answer(vectors, scores)
