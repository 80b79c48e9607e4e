"""A model folder or a task folder, run by torch.

In: `MODEL/` or `TASK/`. Out: a `Backend`. `load_backend` makes it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from userbert.data.batches import Int64
from userbert.data.loading import in_turn
from userbert.data.store import Histories
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError, ModelError
from userbert.folders import checksum, found_at, read_json
from userbert.model.userbert import UserBert
from userbert.schema.models import Schema
from userbert.serving.backend import Answer, RunsOn
from userbert.tasks.answers import Asked
from userbert.tasks.fused import FUSED
from userbert.tasks.task_model import TaskModel

_BATCH = 256


class TorchBackend:
    """A `Backend`."""

    def __init__(
        self, name: str, network: UserBert | TaskModel, version: str, checksum: str
    ) -> None:
        self.name, self.version, self.checksum = name, version, checksum
        self._task = network if isinstance(network, TaskModel) else None
        self._model = network.user_bert if isinstance(network, TaskModel) else network

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a folder; raise `ModelError` if it is damaged, of another kind, or not there."""
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
        return None if self._task is None else self._task.asked

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Answer for (user, cut-off) pairs, (B,) each; see `Backend`."""
        model, task = self._model, self._task
        model.check_fits(data)
        vectors = np.empty((len(rows), self.width), np.float32)
        scores: list[torch.Tensor] = []
        with torch.inference_mode():
            for batch in in_turn(data, rows, cutoffs, batch_size=_BATCH, hidden=self.hidden):
                encoded = model(batch)
                vectors[batch.index] = model.user_vectors(encoded).numpy()
                if task is not None:
                    outputs = task.head(model.user_vectors(encoded, task.pool))
                    scores.append(task.head.scores(outputs))
            if task is None:
                return Answer(vectors, None)
            # Of nobody there are scores too, of the right shape.
            scores.append(task.head.scores(torch.zeros(0, task.head.out_features)))
            return Answer(vectors, torch.cat(scores).numpy())


def load_network(folder: Path) -> UserBert | TaskModel:
    """Load a model folder or a task folder that is a network alone.

    Raises `ModelError` if it is damaged or something else, `InputError` if it is a task with
    aggregates, whose counts are no network.
    """
    if (folder / FUSED).is_file():
        raise InputError(
            f"{folder} is a task with aggregates, whose counts and trees are taken from prepared "
            "data, where `userbert predict` scores it. Here a network is wanted: fine-tune without "
            f"--with-aggregates, or take the network in it: {folder / 'network'}"
        )
    if (folder / "task.json").is_file():
        return TaskModel.load(folder)
    if (folder / "config.json").is_file():
        return UserBert.from_pretrained(folder)
    raise ModelError(
        f"{folder} is neither a model nor a task ({found_at(folder)}). Make one with "
        "`userbert pretrain DATA -o MODEL` or `userbert finetune MODEL DATA --labels FILE -o TASK`."
    )
