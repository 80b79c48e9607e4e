"""What colours a map of users: their cluster, what tasks say of them, what is known of them.

In: prepared data, rows of users (S,), what models say. Out: the `Colour`s there are, and the
`Coloured` values of one. A colour's name says where it comes from: `score:TASK`, `profile:FIELD`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import last_events
from userbert.data.use.sequences import cut, profile_ids, profile_numbers
from userbert.data.vocabulary import FIRST_VALUE
from userbert.errors import InputError
from userbert.schema.files import listed
from userbert.tasks.predictions import Asked, Scores

CLUSTER, WORDS, ACTIONS, RECENCY = "cluster", "words", "actions", "recency"
_SCORE, _FIELD = "score:", "profile:"
_NAMED = 12
"""Of more values the most frequent have colours of their own."""
_OTHERS = "(others)"
_AT_ONCE = 5_000

Kind = Literal["category", "number"]


@dataclass(frozen=True)
class Colour:
    """Something by which users can be coloured."""

    name: str
    title: str
    kind: Kind


@dataclass(frozen=True, eq=False)
class Coloured:
    """What colours each user: numbers (S,), NaN unknown; or codes (S,) of values, -1 unknown."""

    values: list[str] | None
    codes: Int64 | None
    numbers: NDArray[np.float64] | None


def colours_of(data: PreparedData, tasks: Mapping[str, Asked]) -> list[Colour]:
    """What users of some data can be coloured by, beside tasks by the names of their models."""
    scores = [
        Colour(
            f"{_SCORE}{name}",
            f"likeliest {task.name}" if task.score_shape else f"score of {name}",
            "category" if task.score_shape else "number",
        )
        for name, task in tasks.items()
    ]
    fields: list[Colour] = [
        Colour(
            f"{_FIELD}{name}",
            name.replace("_", " "),
            "category" if vocabulary.is_categorical else "number",
        )
        for name, vocabulary in data.vocabularies.profile.items()
    ]
    return [
        Colour(CLUSTER, "cluster", "category"),
        *scores,
        *fields,
        Colour(WORDS, "words", "number"),
        Colour(ACTIONS, "actions", "number"),
        Colour(RECENCY, "days since the last action", "number"),
    ]


def chosen_colour(colours: list[Colour], name: str) -> Colour:
    """The colour of a name; raise `InputError` if there is none."""
    for colour in colours:
        if colour.name == name:
            return colour
    names = listed([colour.name for colour in colours])
    raise InputError(f"name: there is no colour {name!r}. There is: {names}.")


def task_of(colour: Colour) -> str | None:
    """The model whose scores a colour shows; none: it shows something else."""
    return colour.name.removeprefix(_SCORE) if colour.name.startswith(_SCORE) else None


def by_cluster(clusters: Int64) -> Coloured:
    """Users by their cluster (S,)."""
    count = int(clusters.max(initial=-1)) + 1
    return Coloured([f"cluster {number + 1}" for number in range(count)], clusters, None)


def by_score(asked: Asked, scores: Scores) -> Coloured:
    """Users by their score (S,), or by the likeliest class of (S, C)."""
    if scores.ndim == 1:
        return Coloured(None, None, scores.astype(np.float64))
    return _frequent([*asked.classes], scores.argmax(axis=1))


def by_data(data: PreparedData, rows: Int64, cutoff: int, name: str) -> Coloured:
    """Users in some rows by what is known of them before a cut-off."""
    cutoffs = np.full(len(rows), cutoff)
    if name == RECENCY:
        return Coloured(None, None, (cutoff - last_events(data, rows)) / DAY_US)
    if name in (WORDS, ACTIONS):
        return Coloured(None, None, _sizes(data, rows, cutoff, name).astype(np.float64))
    field = name.removeprefix(_FIELD)
    vocabulary = data.vocabularies.profile[field]
    if not vocabulary.is_categorical:
        return Coloured(None, None, profile_numbers(data, rows, cutoffs, field).astype(np.float64))
    others = [other for other in data.vocabularies.profile if other != field]
    ids = profile_ids(data, rows, cutoffs, others)[:, 0].astype(np.int64)
    return _frequent(vocabulary.names[FIRST_VALUE:], np.maximum(ids - FIRST_VALUE, -1))


def as_json(colour: Colour, coloured: Coloured) -> dict[str, Any]:
    """A colour and its values as plain JSON and arrays."""
    told: dict[str, Any] = {"name": colour.name, "title": colour.title, "kind": colour.kind}
    if coloured.numbers is not None:
        return told | {"numbers": np.round(coloured.numbers, 6)}
    return told | {"values": coloured.values, "codes": coloured.codes}


def _sizes(data: PreparedData, rows: Int64, cutoff: int, name: str) -> Int64:
    """(S,): how many words, or actions, are visible of each user."""
    found = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        batch = cut(data, rows[some], np.full(len(rows[some]), cutoff))
        for segment in batch.segments:
            if name == WORDS:
                found[some] += segment.word_counts
            else:
                found[some] += np.diff(segment.action_offsets[segment.word_offsets])
    return found


def _frequent(names: list[str], codes: Int64) -> Coloured:
    """The most frequent values by name, all others as one; -1 stays unknown."""
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    shown = order[: _NAMED if len(order) > _NAMED else len(order)]
    shown = shown[counts[shown] > 0]
    place = np.full(len(names) + 1, len(shown))
    place[shown] = np.arange(len(shown))
    place[-1] = -1  # where -1 points
    told = place[codes]
    values = [names[number] for number in shown]
    return Coloured(values + ([_OTHERS] if (told == len(shown)).any() else []), told, None)
