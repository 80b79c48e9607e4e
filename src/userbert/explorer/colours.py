"""Colours of the user map: cluster, task scores, profile fields, counts.

In: prepared data, rows of S users (S,), scores. Out: the available `Colour`s, and the
`ColourValues` of a chosen colour. The names of some colours have a prefix: `score:MODEL`,
`profile:FIELD`.
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
from userbert.schema.files import join_names
from userbert.tasks.predictions import Scores, TaskSpec

CLUSTER, WORDS, ACTIONS, RECENCY = "cluster", "words", "actions", "recency"
"""Names of the colours of every data set."""
_SCORE, _FIELD = "score:", "profile:"
"""Prefixes of the names of colours by score and by profile field."""
_MAX_VALUES = 12
"""Maximum number of values with a separate colour, one per hue of the page."""
_OTHERS = "(others)"
"""Name of the group of all less frequent values."""
_CHUNK_USERS = 5_000
"""Number of users whose sequences are cut at a time, to bound memory."""

Kind = Literal["category", "number"]


@dataclass(frozen=True)
class Colour:
    """A property that users can be coloured by."""

    name: str
    """Name in calls of the service."""
    title: str
    """Name on the page."""
    kind: Kind


@dataclass(frozen=True, eq=False)
class ColourValues:
    """A colour's value for each of S users: `numbers`, or `codes` of named `values`."""

    values: list[str] | None
    """Name of each value; `codes` are indices into it."""
    codes: Int64 | None
    """Index of each user's value; -1 if unknown (S,)."""
    numbers: NDArray[np.float64] | None
    """Number of each user; NaN if unknown (S,)."""


def available_colours(data: PreparedData, tasks: Mapping[str, TaskSpec]) -> list[Colour]:
    """Lists the colours for prepared data and for tasks by model name."""
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


def find_colour(colours: list[Colour], name: str) -> Colour:
    """Returns the colour with a name; raises `InputError` if there is none."""
    for colour in colours:
        if colour.name == name:
            return colour
    names = join_names([colour.name for colour in colours])
    raise InputError(f"name: there is no colour {name!r}. Choose one of {names}.")


def scored_model(colour: Colour) -> str | None:
    """Returns the name of the model whose scores a colour shows; `None` for other colours."""
    return colour.name.removeprefix(_SCORE) if colour.name.startswith(_SCORE) else None


def by_cluster(clusters: Int64) -> ColourValues:
    """Colours users by their cluster (S,)."""
    count = int(clusters.max(initial=-1)) + 1
    return ColourValues([f"cluster {number + 1}" for number in range(count)], clusters, None)


def by_score(task: TaskSpec, scores: Scores) -> ColourValues:
    """Colours users by their score (S,), or by their most likely class of scores (S, classes)."""
    if scores.ndim == 1:
        return ColourValues(None, None, scores.astype(np.float64))
    return _merge_rare([*task.classes], scores.argmax(axis=1))


def by_data(data: PreparedData, rows: Int64, cutoff: int, name: str) -> ColourValues:
    """Colours users by recency, counts or a profile field, before a cut-off (µs)."""
    cutoffs = np.full(len(rows), cutoff)
    if name == RECENCY:
        return ColourValues(None, None, (cutoff - last_events(data, rows)) / DAY_US)
    if name in (WORDS, ACTIONS):
        return ColourValues(
            None, None, _visible_counts(data, rows, cutoff, name).astype(np.float64)
        )
    field = name.removeprefix(_FIELD)
    vocabulary = data.vocabularies.profile[field]
    if not vocabulary.is_categorical:
        return ColourValues(
            None, None, profile_numbers(data, rows, cutoffs, field).astype(np.float64)
        )
    other_fields = [other for other in data.vocabularies.profile if other != field]
    ids = profile_ids(data, rows, cutoffs, other_fields)[:, 0].astype(np.int64)
    return _merge_rare(vocabulary.names[FIRST_VALUE:], np.maximum(ids - FIRST_VALUE, -1))


def as_json(colour: Colour, values: ColourValues) -> dict[str, Any]:
    """Returns a colour and its values as plain JSON and arrays."""
    content: dict[str, Any] = {"name": colour.name, "title": colour.title, "kind": colour.kind}
    if values.numbers is not None:
        return content | {"numbers": np.round(values.numbers, 6)}
    return content | {"values": values.values, "codes": values.codes}


def _visible_counts(data: PreparedData, rows: Int64, cutoff: int, name: str) -> Int64:
    """Returns the number of words, or of actions, that a model reads of each user (S,)."""
    counts = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), _CHUNK_USERS):
        chunk = slice(start, start + _CHUNK_USERS)
        batch = cut(data, rows[chunk], np.full(len(rows[chunk]), cutoff))
        for segment in batch.segments:
            if name == WORDS:
                counts[chunk] += segment.word_counts
            else:
                counts[chunk] += np.diff(segment.action_offsets[segment.word_offsets])
    return counts


def _merge_rare(names: list[str], codes: Int64) -> ColourValues:
    """Keeps the most frequent values and merges all others into `_OTHERS`; keeps -1 as -1."""
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    shown = order[:_MAX_VALUES]
    shown = shown[counts[shown] > 0]
    new_code = np.full(len(names) + 1, len(shown))
    new_code[shown] = np.arange(len(shown))
    new_code[-1] = -1  # read by code -1
    new_codes = new_code[codes]
    values = [names[code] for code in shown]
    has_others = (new_codes == len(shown)).any()
    return ColourValues(values + ([_OTHERS] if has_others else []), new_codes, None)
