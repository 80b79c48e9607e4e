"""Models as the service has them: what they are called, and what they make of raw events.

In: folders of models and tasks, or files of exported ones. Out: `Served` by name; each answers
several calls at once.

Whether files are still those that were read.

In: a file or folder. Out: `Watched`, which knows their sizes and times. A model is read whole when
the service begins, and prepared data lie in memory by their files; what is written over them later
must not be mistaken for them.
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
from userbert.export.backend import Answer, Backend, Expected, Place, RunsOn
from userbert.export.load import load_backend
from userbert.schema.files import join_names
from userbert.schema.yaml_text import did_you_mean
from userbert.tasks.predictions import Scores, best_values

_Stamps = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Watched:
    """A file or folder as it was."""

    path: Path
    _stamps: _Stamps

    @classmethod
    def at(cls, path: Path) -> Self:
        """As it is now."""
        return cls(path, dict(_stamps_of(path)))

    def has_changed(self) -> bool:
        """Whether any file is another, or gone, or new."""
        return dict(_stamps_of(self.path)) != self._stamps


def _stamps_of(path: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        try:
            found = file.stat()
        except OSError:  # gone meanwhile
            continue
        if not file.is_dir():
            yield str(file), (found.st_ino, found.st_size, found.st_mtime_ns)


if TYPE_CHECKING:
    from userbert.tasks.explain import Explanation


@dataclass(frozen=True)
class Served:
    """A model that answers."""

    backend: Backend
    files: Watched
    _is_running: Lock = field(default_factory=Lock)

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.backend.name

    def answers(self, calls: Sequence["Call"]) -> list["Answers"]:
        """Answer several calls as one batch; raise `InputError` for events that are not usable."""
        users = [user for call in calls for user in call.users]
        cutoffs = np.concatenate([call.cutoffs for call in calls])
        schema, vocabularies = self.backend.schema, self.backend.vocabularies
        histories, rows = live_histories(schema, vocabularies, users, cutoffs)
        is_known = rows >= 0
        answer = self.run(histories, rows[is_known], cutoffs[is_known])
        ends = np.cumsum([len(call) for call in calls])
        places = np.cumsum(is_known) - 1
        return [
            Answers(is_known[first:last], _part(answer, places[first:last][is_known[first:last]]))
            for first, last in zip([0, *ends[:-1]], ends, strict=True)
        ]

    def run(self, data: Histories, rows: Int64, cutoffs: Int64) -> Answer:
        """Answer for (user, cut-off) pairs, (B,) each, one thread at a time."""
        with self._is_running:
            return self.backend.run(data, rows, cutoffs)

    def expect(self, data: PreparedData, place: Place, best: int) -> Expected:
        """Say what is likely in a word, one thread at a time."""
        with self._is_running:
            return self.backend.expect(data, place, best)

    def explain(
        self, data: PreparedData, user: str, cutoff: int, value: str | None
    ) -> "Explanation":
        """Say what moved a score, one thread at a time."""
        with self._is_running:
            return self.backend.explain(data, user, cutoff, value)

    def warm(self) -> None:
        """Answer for one made up, so that the first caller does not wait for what is made once."""
        schema = self.backend.schema
        name, source = next(iter(schema.sources.items()))
        event = {source.time.column: "2000-01-01T00:00:00"}
        if not isinstance(source.action, str):
            event[source.action.column] = min(schema.actions)
        users = [UserEvents("nobody", {name: [event]})]
        self.answers([Call(self, users, np.array([time.time_ns() // 1_000]))])

    def facts(self) -> dict[str, Any]:
        """What a client must know, as JSON."""
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
                name: _without(columns_of_source(schema, source), schema.user)
                for name, source in schema.sources.items()
            },
            "profile": []
            if profile is None
            else _without(columns_of_profile(schema, profile), schema.user),
            "changed_on_disk": self.files.has_changed(),
        }


@dataclass(frozen=True)
class Call:
    """Users of one call to one model."""

    served: Served
    users: Sequence[UserEvents]
    cutoffs: Int64
    """(B,): microseconds since 1970."""

    def __len__(self) -> int:
        """Count the users."""
        return len(self.users)

    @property
    def kind(self) -> str:
        """Calls to one model are answered together."""
        return self.served.name


@dataclass(frozen=True)
class Answers:
    """What a model made of a call."""

    is_known: NDArray[np.bool_]
    """(B,): who has an event that the model knows of."""
    answer: Answer
    """Of these alone, in order."""


def load_all(paths: Sequence[Path], runs_on: RunsOn) -> dict[str, Served]:
    """Load models by the names of their folders; two of one name are an `InputError`."""
    served: dict[str, Served] = {}
    for path in paths:
        # Looked at before it is read: what changes meanwhile is noticed.
        files = Watched.at(path)
        one = Served(load_backend(path, runs_on), files)
        if one.name in served:
            raise InputError(
                f"two models are called {one.name!r}: {served[one.name].files.path} and {path}. "
                "Rename one of them."
            )
        one.warm()
        served[one.name] = one
    return served


def chosen(served: dict[str, Served], name: str | None) -> Served:
    """The model of a name, or the only one; raise `InputError` if there is none."""
    if name is None and len(served) == 1:
        return next(iter(served.values()))
    if name is None:
        raise InputError(f"model: expected one of {join_names(served)}, found none. Name one.")
    if name not in served:
        raise InputError(
            f"model: there is no {name!r}{did_you_mean(name, served) or '.'} "
            f"There is: {join_names(served)}."
        )
    return served[name]


def told_scores(scores: Scores, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Each user's score, or of many classes the best values and their scores."""
    if scores.ndim == 1:
        return [{"score": score} for score in scores]
    return [
        {"values": values, "scores": best}
        for values, best in zip(*best_values(scores, classes), strict=True)
    ]


def _part(answer: Answer, places: Int64) -> Answer:
    scores = None if answer.scores is None else answer.scores[places]
    return Answer(answer.vectors[places], scores)


def _without(columns: Sequence[str], user: str) -> list[str]:
    return [column for column in columns if column != user]
