"""A model folder or a task folder, run by torch.

In: `MODEL/` or `TASK/`. Out: a `Backend`. `load_backend` makes it.
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
from userbert.data.use.loading import in_turn
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError, ModelError
from userbert.export.backend import BATCH, Answer, Expected, Place, RunsOn, gathered
from userbert.folders import checksum, found_at, read_json
from userbert.model.masked_prediction import expect
from userbert.model.model_card import is_pretrained
from userbert.model.userbert import UserBert
from userbert.schema.models import Schema
from userbert.tasks.explain import Explanation, explain
from userbert.tasks.fused import FUSED
from userbert.tasks.predictions import Asked
from userbert.tasks.task_model import TaskModel


class TorchBackend:
    """A `Backend`."""

    def __init__(
        self, name: str, network: UserBert | TaskModel, version: str, checksum: str
    ) -> None:
        self.name, self.version, self.checksum = name, version, checksum
        self._network = network
        self._model = network.user_bert if isinstance(network, TaskModel) else network

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None) -> Self:
        """Load a folder; raise `ModelError` if it is damaged, of another kind, or not there."""
        if threads is not None:
            torch.set_num_threads(threads)
        network = load_network(folder)
        made = read_json(folder / "summary.json")
        name = folder.resolve().name
        return cls(name, network, str(made.get("version")), checksum(folder / "summary.json"))

    @property
    def runs_on(self) -> RunsOn:
        """What computes."""
        return "torch"

    @property
    def record(self) -> Mapping[str, Any]:
        """How the network was trained."""
        return self._model.record

    @property
    def schema(self) -> Schema:
        """What logs mean."""
        return self._model.schema

    @property
    def vocabularies(self) -> Vocabularies:
        """What ids mean."""
        return self._model.vocabularies

    @property
    def hidden(self) -> tuple[str, ...]:
        """Profile fields that it does not see."""
        return self._model.hidden

    @property
    def width(self) -> int:
        """Of user vectors."""
        return self._model.width()

    @property
    def task(self) -> Asked | None:
        """What is asked."""
        return self._network.asked if isinstance(self._network, TaskModel) else None

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Answer for (user, cut-off) pairs, (B,) each; see `Backend`."""
        self._model.check_fits(data)
        batches = in_turn(data, rows, cutoffs, batch_size=BATCH, hidden=self.hidden)
        return gathered(self, partial(answer, self._network), batches, len(rows))

    def expect(self, data: PreparedData, place: Place, best: int) -> Expected:
        """Hide one word, and say what is likely in it; see `Backend`."""
        if not is_pretrained(self.record):
            raise InputError(
                f"model: {self.name} was never pretrained, so it expects nothing. Name another, or "
                "pretrain it: userbert pretrain DATA -o MODEL"
            )
        self._model.check_fits(data)
        return expect(self._model, data, place.row, place.cutoff, place.segment, place.number, best)

    def explain(self, data: PreparedData, user: str, cutoff: int, value: str | None) -> Explanation:
        """Say what moved a user's score; see `Backend`."""
        if not isinstance(self._network, TaskModel):
            raise InputError(
                f"model: {self.name} has no task, so there is no score to explain. Name a task."
            )
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=cutoff)
        return explain(self._network, data, user, moment, value=value)


def answer(network: UserBert | TaskModel, batch: UserBatch) -> Answer:
    """What a network that does not train says of a batch."""
    model = network.user_bert if isinstance(network, TaskModel) else network
    with torch.inference_mode():
        encoded = model(batch)
        vectors = model.user_vectors(encoded).numpy()
        if not isinstance(network, TaskModel):
            return Answer(vectors, None)
        outputs = network.head(model.user_vectors(encoded, network.pool))
        return Answer(vectors, network.head.scores(outputs).numpy())


def load_network(folder: Path) -> UserBert | TaskModel:
    """Load a model folder or a task folder that is a network alone.

    Raises `ModelError` if it is damaged or something else, `InputError` if it is a task with
    aggregates, whose counts are no network.
    """
    if (folder / FUSED).is_file():
        raise InputError(
            f"{folder} is a task with aggregates, whose counts and trees are taken from prepared "
            "data, where `userbert predict` scores it. Here a network is wanted: fine-tune without "
            f"--with-aggregates, or take the one in it, {folder / 'network'}."
        )
    if (folder / "task.json").is_file():
        return TaskModel.load(folder)
    if (folder / "config.json").is_file():
        return UserBert.from_pretrained(folder)
    raise ModelError(
        f"{folder} is neither a model nor a task ({found_at(folder)}). Make one with "
        "`userbert pretrain DATA -o MODEL` or `userbert finetune MODEL DATA --labels FILE -o TASK`."
    )
