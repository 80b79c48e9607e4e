"""Runs a model folder or a task folder with torch.

In: a model folder or a task folder. Out: a `Backend`, which `load_backend` returns.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from userbert.data.batches import UserBatch
from userbert.data.ragged import Int64
from userbert.data.store import Histories, PreparedData
from userbert.data.use.loading import batches_in_order
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError, ModelError
from userbert.export.backend import (
    BATCH_SIZE,
    Answer,
    RunsOn,
    ValueProbabilities,
    WordLocation,
    collect_answers,
)
from userbert.folders import checksum, describe_path, read_json
from userbert.model.masked_prediction import predict_masked_word
from userbert.model.model_card import is_pretrained
from userbert.model.userbert import UserBert
from userbert.schema.models import Schema
from userbert.tasks.explain import Explanation, explain
from userbert.tasks.fused import FUSED
from userbert.tasks.predictions import TaskSpec
from userbert.tasks.task_model import TaskModel


class TorchBackend:
    """A `Backend` that runs a network with torch."""

    def __init__(
        self, name: str, network: UserBert | TaskModel, version: str, checksum: str
    ) -> None:
        self.name, self.version, self.checksum = name, version, checksum
        self._network = network
        self._model = network.user_bert if isinstance(network, TaskModel) else network

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> Self:
        """Loads a folder. `threads`, if given, sets torch's threads in the whole process.

        Raises `ModelError` if the folder is missing, damaged or of another kind, and `InputError`
        if it is a task with aggregates.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        network = load_network(folder)
        summary = read_json(folder / "summary.json")
        name = folder.resolve().name
        return cls(name, network, str(summary.get("version")), checksum(folder / "summary.json"))

    @property
    def runs_on(self) -> RunsOn:
        """Library that runs the network."""
        return "torch"

    @property
    def record(self) -> Mapping[str, Any]:
        """How the network was trained."""
        return self._model.record

    @property
    def schema(self) -> Schema:
        """Schema of the logs that the network was trained on."""
        return self._model.schema

    @property
    def vocabularies(self) -> Vocabularies:
        """Vocabularies that map values to the ids that the network reads."""
        return self._model.vocabularies

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that the network does not read."""
        return self._model.hidden

    @property
    def width(self) -> int:
        """Width of user vectors."""
        return self._model.width()

    @property
    def task(self) -> TaskSpec | None:
        """Specification of the task; None for a model without a task."""
        return self._network.spec if isinstance(self._network, TaskModel) else None

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Returns the answer for (user, cut-off) pairs; see `Backend`."""
        self._model.check_fits(data)
        batches = batches_in_order(data, rows, cutoffs, batch_size=BATCH_SIZE, hidden=self.hidden)
        return collect_answers(self, partial(answer_batch, self._network), batches, len(rows))

    def expect(self, data: PreparedData, location: WordLocation, best: int) -> ValueProbabilities:
        """Predicts a hidden word; see `Backend`."""
        if not is_pretrained(self.record):
            raise InputError(
                f"model: {self.name} was never pretrained, so it cannot predict hidden words. Name "
                "another model, or pretrain one: userbert pretrain DATA -o MODEL"
            )
        self._model.check_fits(data)
        return predict_masked_word(
            self._model,
            data,
            location.row,
            location.cutoff,
            location.segment,
            location.number,
            best,
        )

    def explain(self, data: PreparedData, user: str, cutoff: int, value: str | None) -> Explanation:
        """Explains a user's score at a cut-off; see `Backend`."""
        if not isinstance(self._network, TaskModel):
            raise InputError(
                f"model: {self.name} has no task, so there is no score to explain. Name a task."
            )
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=cutoff)
        return explain(self._network, data, user, moment, value=value)


def answer_batch(network: UserBert | TaskModel, batch: UserBatch) -> Answer:
    """Returns the answer for a batch. `network` must be in eval mode."""
    model = network.user_bert if isinstance(network, TaskModel) else network
    with torch.inference_mode():
        encoded = model(batch)
        vectors = model.user_vectors(encoded).numpy()
        if not isinstance(network, TaskModel):
            return Answer(vectors, None)
        outputs = network.head(model.user_vectors(encoded, network.pool))
        return Answer(vectors, network.head.scores(outputs).numpy())


def load_network(folder: Path) -> UserBert | TaskModel:
    """Loads the network of a model folder or a task folder.

    Raises `ModelError` if the folder is missing, damaged or of another kind, and `InputError` if it
    is a task with aggregates, whose scores need more than a network.
    """
    if (folder / FUSED).is_file():
        raise InputError(
            f"{folder} is a task with aggregates: its counts and trees read prepared data, so only "
            "`userbert predict` can score it. Name a network instead: fine-tune "
            f"without --with-aggregates, or use the network inside, {folder / 'network'}."
        )
    if (folder / "task.json").is_file():
        return TaskModel.load(folder)
    if (folder / "config.json").is_file():
        return UserBert.from_pretrained(folder)
    raise ModelError(
        f"{folder} is neither a model nor a task ({describe_path(folder)}). Make one with "
        "`userbert pretrain DATA -o MODEL` or `userbert finetune MODEL DATA --labels FILE -o TASK`."
    )
