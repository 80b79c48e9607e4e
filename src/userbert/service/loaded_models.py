"""Models loaded by the service, and snapshots of the files they were loaded from.

In: folders of models and tasks, or exported files. Out: `LoadedModel`s by name; each can answer
several calls in one batch. Models are read once, at startup; a `FileSnapshot` detects later changes
of their files, or of the files of prepared data.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from userbert.data.ragged import Int64
from userbert.data.read.sources import columns_of_profile, columns_of_source
from userbert.data.store import Histories, PreparedData
from userbert.data.use.live import UserEvents, live_histories
from userbert.errors import InputError
from userbert.export.backend import Answer, Backend, RunsOn, ValueProbabilities, WordLocation
from userbert.export.load import load_backend
from userbert.schema.files import join_names
from userbert.schema.yaml_text import did_you_mean
from userbert.tasks.predictions import Scores, best_values

if TYPE_CHECKING:
    from userbert.tasks.explain import Explanation

_Stamps = dict[str, tuple[int, int, int]]
"""Inode, size and modification time (ns) by path."""


@dataclass(frozen=True)
class FileSnapshot:
    """State of a file, or of all files in a folder, for detecting changes."""

    path: Path
    """The file or folder."""
    _stamps: _Stamps

    @classmethod
    def take(cls, path: Path) -> Self:
        """Takes a snapshot of the files at a path as they are now."""
        return cls(path, dict(_stamps_of(path)))

    def has_changed(self) -> bool:
        """Whether any file was changed, replaced, removed or added since the snapshot."""
        return dict(_stamps_of(self.path)) != self._stamps


def _stamps_of(path: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        try:
            status = file.stat()
        except OSError:  # removed after it was listed
            continue
        if not file.is_dir():
            yield str(file), (status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model or task; its methods may be called from several threads."""

    backend: Backend
    """Computes vectors and scores; used by one thread at a time."""
    files: FileSnapshot
    """State of the model's files just before they were loaded."""
    _lock: Lock = field(default_factory=Lock)

    @property
    def name(self) -> str:
        """Name of the model's folder or file."""
        return self.backend.name

    def answer_calls(self, calls: Sequence["Call"]) -> list["CallAnswer"]:
        """Answers several calls to this model as one batch.

        Raises `InputError` if an event is invalid or not before its cut-off.
        """
        users = [user for call in calls for user in call.users]
        cutoffs = np.concatenate([call.cutoffs for call in calls])
        schema, vocabularies = self.backend.schema, self.backend.vocabularies
        histories, rows = live_histories(schema, vocabularies, users, cutoffs)
        is_known = rows >= 0
        answer = self.run(histories, rows[is_known], cutoffs[is_known])
        ends = np.cumsum([len(call) for call in calls])
        answer_rows = np.cumsum(is_known) - 1  # of the known users
        return [
            CallAnswer(
                is_known[start:end], _select(answer, answer_rows[start:end][is_known[start:end]])
            )
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Embeds and scores B (user, cut-off) pairs, given as rows (B,) and cut-offs in µs (B,)."""
        with self._lock:
            return self.backend.run(data, rows, cutoffs)

    def expect(self, data: PreparedData, location: WordLocation, count: int) -> ValueProbabilities:
        """Hides a word, and returns the `count` most likely values of each of its attributes.

        Raises `InputError` if there is no such word, or the backend cannot compute it.
        """
        with self._lock:
            return self.backend.expect(data, location, count)

    def explain(
        self, data: PreparedData, user: str, cutoff: int, value: str | None
    ) -> "Explanation":
        """Explains a user's score before a cut-off (µs), or the score of the class `value`.

        Raises `InputError` if the model has no task, the task has no such class, or the backend
        cannot explain scores.
        """
        with self._lock:
            return self.backend.explain(data, user, cutoff, value)

    def warm_up(self) -> None:
        """Answers a call with an invented user, so that the first real call is not slow."""
        schema = self.backend.schema
        name, source = next(iter(schema.sources.items()))
        event = {source.time.column: "2000-01-01T00:00:00"}
        if not isinstance(source.action, str):
            event[source.action.column] = min(schema.actions)
        users = [UserEvents("nobody", {name: [event]})]
        self.answer_calls([Call(self, users, np.array([time.time_ns() // 1_000]))])

    def describe(self) -> dict[str, Any]:
        """Returns the model's entry in /v1/models, such as its version, task and input columns."""
        schema = self.backend.schema
        profile, task = schema.profile, self.backend.task
        return {
            "name": self.name,
            "width": self.backend.width,
            "runs_on": self.backend.runs_on,
            "version": self.backend.version,
            "checksum": self.backend.checksum,
            "task": None if task is None else task.to_json(),
            "before": self.backend.record.get("before"),
            "timezone": schema.timezone,
            "sources": {
                name: _without_user(columns_of_source(schema, source), schema.user)
                for name, source in schema.sources.items()
            },
            "profile": []
            if profile is None
            else _without_user(columns_of_profile(schema, profile), schema.user),
            "changed_on_disk": self.files.has_changed(),
        }


@dataclass(frozen=True)
class Call:
    """Users whose events one HTTP call sends to one model."""

    model: LoadedModel
    users: Sequence[UserEvents]
    """Events and profiles of B users."""
    cutoffs: Int64
    """Cut-off of each user in microseconds since 1970 (B,)."""

    def __len__(self) -> int:
        """Returns the number of users."""
        return len(self.users)

    @property
    def kind(self) -> str:
        """Name of the model: calls to one model can share a batch."""
        return self.model.name


@dataclass(frozen=True)
class CallAnswer:
    """A model's answer to a call."""

    is_known: NDArray[np.bool_]
    """Whether each of the B users has an event in a segment of the model (B,)."""
    answer: Answer
    """Vectors and scores of the known users, in the order of the call's users."""


def load_models(paths: Sequence[Path], runs_on: RunsOn) -> dict[str, LoadedModel]:
    """Loads models and tasks, keyed by name, and warms them up.

    Raises `InputError` if two have the same name, and the errors of `load_backend`.
    """
    models: dict[str, LoadedModel] = {}
    for path in paths:
        # The snapshot comes before loading, so that it detects changes during loading.
        files = FileSnapshot.take(path)
        model = LoadedModel(load_backend(path, runs_on), files)
        if model.name in models:
            raise InputError(
                f"two models are called {model.name!r}: {models[model.name].files.path} and "
                f"{path}. Rename one of them."
            )
        model.warm_up()
        models[model.name] = model
    return models


def choose_model(models: dict[str, LoadedModel], name: str | None) -> LoadedModel:
    """Returns the model called `name`, or the only model if `name` is `None`.

    Raises `InputError` if no model has the name, or if `name` is `None` and there are several.
    """
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name is None:
        raise InputError(
            f"model: expected one of {join_names(models)}, found none. Give the name of a model."
        )
    if name not in models:
        raise InputError(
            f"model: there is no {name!r}{did_you_mean(name, models) or '.'} "
            f"Choose one of {join_names(models)}."
        )
    return models[name]


def scores_as_json(scores: Scores, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns the score of each user; for multi-class tasks, the best classes and their scores.

    `scores` is (B,), or (B, classes) for multi-class tasks.
    """
    if scores.ndim == 1:
        return [{"score": score} for score in scores]
    return [
        {"values": values, "scores": value_scores}
        for values, value_scores in zip(*best_values(scores, classes), strict=True)
    ]


def _select(answer: Answer, rows: Int64) -> Answer:
    scores = None if answer.scores is None else answer.scores[rows]
    return Answer(answer.vectors[rows], scores)


def _without_user(columns: Sequence[str], user: str) -> list[str]:
    return [column for column in columns if column != user]
