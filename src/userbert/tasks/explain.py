"""Why a user got a score: what changes when one thing of the sequence is left out.

In: a task model, prepared data, a user and a cut-off. Out: an `Explanation`: each word, its
attributes, each profile field, and how far it moved the model's output. `userbert explain` prints
it. Left out means gone: a word's token is not there, an attribute's values are *none*, a field is
not known. Effects are of this model, not of the world, and need not add up: where two words tell
the same, leaving out either changes little.

Letters in shapes: B users, W words of a segment, N actions of a segment, K parts left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import numpy as np
import torch

from userbert.data.batches import UserBatch, without_actions
from userbert.data.ragged import Floats
from userbert.data.store import PreparedData
from userbert.data.use.pairs import instant_of, refuse_blind
from userbert.data.use.sequences import cut
from userbert.data.use.timeline import WordView, profile_values, timeline
from userbert.errors import InputError
from userbert.progress import progress
from userbert.tasks.task_model import TaskModel

_COPIES = 64
"""So many copies of the user, each without a part, are encoded at once."""


@dataclass(frozen=True)
class MovedWord:
    """A word, and what it did to the output."""

    word: WordView
    effect: float
    """The output with it less the output without it."""
    attributes: dict[str, float]
    """The same of each attribute of the word alone; of the words that moved most."""


@dataclass(frozen=True)
class MovedField:
    """A profile field, and what it did to the output."""

    name: str
    value: str
    effect: float


@dataclass(frozen=True)
class Explanation:
    """What moved a user's score."""

    user_id: str
    cutoff: int
    """Microseconds since 1970."""
    value: str | None
    """Of a task of classes, the class that is explained."""
    score: float
    """As `predict` gives it."""
    unit: str
    """What effects are measured in: log odds, the log of a share, or the quantity itself."""
    words: list[MovedWord]
    """Those that moved it most first, whichever way."""
    fields: list[MovedField]


def explain(
    task: TaskModel,
    data: PreparedData,
    user: str,
    cutoff: str | date | datetime | None = None,
    *,
    value: str | None = None,
    most: int = 10,
) -> Explanation:
    """Say what moved a user's score; of the `most` moving words also by attribute.

    Effects are in the explanation's `unit`, and need not add up. A naive `cutoff` is in the
    schema's `timezone`; none: just after the last event. `value` names the class that is explained,
    by default the likeliest. Raises `InputError` if the user or the class is not known or nothing
    of the user is visible, `ModelError` if the data have other ids than the model.
    """
    task.user_bert.check_fits(data)
    instant = data.default_cutoff
    if cutoff is not None:
        instant = instant_of(cutoff, data, "--cutoff")
        refuse_blind(data, instant, "--cutoff")
    row = int(data.rows_of([user])[0])
    if row < 0:
        raise InputError(f"{data.path} does not know the user {user!r}.")
    words = timeline(data, row, instant)
    fields = {
        name: held
        for name, held in profile_values(data, row, instant).items()
        if name not in task.hidden
    }
    if not words and not fields:
        raise InputError(
            f"user {user} has neither a word nor a profile before the cut-off: the score is that "
            "of an empty sequence. Choose a later --cutoff."
        )
    asked = _Asked(task, data, row, instant)
    place = asked.choose(value)
    whole = [_Part(word.segment, word.number) for word in words]
    told = asked.effects([*whole, *(_Part(field=name) for name in fields)], place)
    effects, of_fields = told[: len(words)], told[len(words) :]
    order = sorted(range(len(words)), key=lambda number: -abs(effects[number]))
    single = [
        (number, name)
        for number in order[:most]
        for name, held in words[number].values.items()
        if held
    ]
    parts = [replace(whole[number], attribute=name) for number, name in single]
    by_attribute: dict[int, dict[str, float]] = {number: {} for number in order}
    for (number, name), effect in zip(single, asked.effects(parts, place), strict=True):
        by_attribute[number][name] = effect
    return Explanation(
        user,
        instant,
        None if place is None else task.labels.classes[place],
        asked.score(place),
        {"binary": "log odds", "regression": "the quantity"}.get(task.kind, "log share"),
        [MovedWord(words[number], effects[number], by_attribute[number]) for number in order],
        sorted(
            (
                MovedField(name, held, effect)
                for (name, held), effect in zip(fields.items(), of_fields, strict=True)
            ),
            key=lambda field: -abs(field.effect),
        ),
    )


@dataclass(frozen=True)
class _Part:
    """What is left out: a word, one attribute of it, or a profile field."""

    segment: str | None = None
    word: int = 0
    attribute: str | None = None
    field: str | None = None


class _Asked:
    """A user at a cut-off, and what a task model says of them."""

    def __init__(self, task: TaskModel, data: PreparedData, row: int, cutoff: int) -> None:
        self._task, self._data, self._row, self._cutoff = task, data, row, cutoff
        self._segments = list(data.schema.segments)
        self._fields = [name for name in data.vocabularies.profile if name not in task.hidden]
        self._whole = self._outputs(self._copies(1))[0]

    def choose(self, value: str | None) -> int | None:
        """The number of the class that is explained; none where there are no classes."""
        classes = self._task.labels.classes
        if not classes:
            if value is not None:
                raise InputError("the task has no classes to choose from; leave --value out.")
            return None
        if value is None:
            return int(self._whole.argmax())
        if value not in classes:
            raise InputError(f"the task has no class {value!r}; it has {', '.join(classes[:20])}.")
        return classes.index(value)

    def score(self, place: int | None) -> float:
        """What `predict` says."""
        scores = self._task.head.scores(torch.from_numpy(self._whole[None]))
        return float(scores[0] if place is None else scores[0, place])

    def effects(self, parts: Sequence[_Part], place: int | None) -> list[float]:
        """How far the output falls when each part is left out: (K,)."""
        found: list[float] = []
        with progress("explaining (parts left out)", len(parts)) as advance:
            for first in range(0, len(parts), _COPIES):
                some = parts[first : first + _COPIES]
                outputs = self._outputs(self._without(some))
                found += (self._told(self._whole, place) - self._told(outputs, place)).tolist()
                advance(len(some), "")
        return found

    def _told(self, outputs: Floats, place: int | None) -> Floats:
        """The outputs (…, C) of one class: its log share; log odds or the quantity of none."""
        tensor = torch.from_numpy(outputs)
        if place is not None:
            return tensor.log_softmax(-1)[..., place].numpy()
        spread = float(self._task.head.spread) if self._task.kind == "regression" else 1.0
        return tensor[..., 0].numpy() * spread

    def _copies(self, count: int) -> UserBatch:
        rows, cutoffs = np.full(count, self._row), np.full(count, self._cutoff)
        return cut(self._data, rows, cutoffs, self._task.hidden)

    def _without(self, parts: Sequence[_Part]) -> UserBatch:
        """A copy of the user for each part, which it lacks."""
        copies = self._copies(len(parts))
        ids = [segment.ids.copy() for segment in copies.segments]
        left_out = [np.zeros(segment.ids.shape[1], bool) for segment in copies.segments]
        profile = copies.profile_ids.copy()
        for user, part in enumerate(parts):
            if part.segment is None:
                profile[user, self._fields.index(part.field or "")] = 0
                continue
            number = self._segments.index(part.segment)
            segment = copies.segments[number]
            word = segment.word_offsets[user] + part.word
            actions = slice(*segment.action_offsets[word : word + 2])
            if part.attribute is None:
                left_out[number][actions] = True
            else:
                names = list(self._data.vocabularies.segments[part.segment])
                ids[number][names.index(part.attribute), actions] = 0
        segments = tuple(
            replace(segment, ids=changed)
            for segment, changed in zip(copies.segments, ids, strict=True)
        )
        return without_actions(replace(copies, segments=segments, profile_ids=profile), left_out)

    def _outputs(self, batch: UserBatch) -> Floats:
        with torch.inference_mode():
            outputs: Floats = self._task(batch).float().numpy()
        return outputs
