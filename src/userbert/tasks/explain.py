"""Explains a user's score: how it changes when one part of the user sequence is removed.

In: a task model, prepared data, a user and a cut-off. Out: an `Explanation`: for each word, its
attributes and each profile field, how far it moves the model's output. `userbert explain` prints
it. A removed word has no token; a removed attribute or profile field has the value *none*. Effects
describe this model, not the world, and need not add up: if two words carry the same information,
removing one of them changes little.

Letters in shapes: C classes (1 for a task without classes), K removed parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import numpy as np
import torch

from userbert.data.batches import UserBatch, drop_actions
from userbert.data.ragged import Floats
from userbert.data.store import PreparedData
from userbert.data.use.pairs import instant_of, require_visible_events
from userbert.data.use.sequences import cut
from userbert.data.use.timeline import WordView, profile_values, timeline
from userbert.errors import InputError
from userbert.progress import progress
from userbert.tasks.task_model import TaskModel

_BATCH_SIZE = 64
"""Maximum number of copies of the user, each without one part, that are encoded at once."""


@dataclass(frozen=True)
class WordEffect:
    """A word and its effect on the output."""

    word: WordView
    effect: float
    """Output with the word minus output without it."""
    attributes: dict[str, float]
    """Effect of removing each attribute by itself; empty except for words with large effects."""


@dataclass(frozen=True)
class FieldEffect:
    """A profile field and its effect on the output."""

    name: str
    value: str
    effect: float
    """Output with the field minus output without it."""


@dataclass(frozen=True)
class Explanation:
    """A user's score and the effects of the parts of the user sequence."""

    user_id: str
    cutoff: int
    """Microseconds since 1970."""
    value: str | None
    """The explained class; `None` where the task has no classes."""
    score: float
    """The score that `predict` gives."""
    unit: str
    """Unit of the effects: `log odds` (binary), `log share` of the explained class, or
    `the quantity` (regression), in the unit of the labels."""
    words: list[WordEffect]
    """Words by absolute effect, largest first."""
    fields: list[FieldEffect]
    """Profile fields by absolute effect, largest first."""


def explain(
    task: TaskModel,
    data: PreparedData,
    user: str,
    cutoff: str | date | datetime | None = None,
    *,
    value: str | None = None,
    most: int = 10,
) -> Explanation:
    """Explains a user's score by word and profile field.

    The `most` words with the largest effects are also explained by attribute. Effects are in the
    explanation's `unit` and need not add up. A naive `cutoff` is in the schema's `timezone`; the
    default is just after the last event. `value` names the class to explain; the default is the
    likeliest. Raises `InputError` if the user or the class is unknown or the user has no word or
    profile before the cut-off, `ModelError` if the data's vocabularies or words differ from the
    model's.
    """
    task.user_bert.check_fits(data)
    instant = data.default_cutoff
    if cutoff is not None:
        instant = instant_of(cutoff, data, "cutoff")
        require_visible_events(data, instant, "cutoff")
    row = int(data.rows_of([user])[0])
    if row < 0:
        raise InputError(f"{data.path} has no user {user!r}. Write the id exactly as in the logs.")
    words = timeline(data, row, instant)
    fields = {
        name: field_value
        for name, field_value in profile_values(data, row, instant).items()
        if name not in task.hidden
    }
    if not words and not fields:
        raise InputError(
            f"user {user} has no word and no profile in the model's windows before the cut-off, so "
            "there is nothing to explain. Choose a later cut-off."
        )
    scorer = _UserScorer(task, data, row, instant)
    class_index = scorer.find_class(value)
    word_parts = [_Part(word.segment, word.number) for word in words]
    field_parts = [_Part(field=name) for name in fields]
    effects = scorer.effects([*word_parts, *field_parts], class_index)
    word_effects, field_effects = effects[: len(words)], effects[len(words) :]
    order = sorted(range(len(words)), key=lambda number: -abs(word_effects[number]))
    word_attributes = [
        (number, name)
        for number in order[:most]
        for name, values in words[number].values.items()
        if values
    ]
    parts = [replace(word_parts[number], attribute=name) for number, name in word_attributes]
    by_attribute: dict[int, dict[str, float]] = {number: {} for number in order}
    attribute_effects = scorer.effects(parts, class_index)
    for (number, name), effect in zip(word_attributes, attribute_effects, strict=True):
        by_attribute[number][name] = effect
    return Explanation(
        user,
        instant,
        None if class_index is None else task.labels.classes[class_index],
        scorer.score(class_index),
        {"binary": "log odds", "regression": "the quantity"}.get(task.kind, "log share"),
        [WordEffect(words[number], word_effects[number], by_attribute[number]) for number in order],
        sorted(
            (
                FieldEffect(name, field_value, effect)
                for (name, field_value), effect in zip(fields.items(), field_effects, strict=True)
            ),
            key=lambda field: -abs(field.effect),
        ),
    )


@dataclass(frozen=True)
class _Part:
    """A part to remove: a word, one attribute of a word, or a profile field."""

    segment: str | None = None
    """Segment of the word; None for a profile field."""
    word: int = 0
    """Index of the word among the user's words of the segment."""
    attribute: str | None = None
    """Attribute to remove; None to remove the whole word."""
    field: str | None = None
    """Profile field to remove; None for a word."""


class _UserScorer:
    """Scores one user at a cut-off by a task model, with and without parts of the sequence."""

    def __init__(self, task: TaskModel, data: PreparedData, row: int, cutoff: int) -> None:
        self._task, self._data, self._row, self._cutoff = task, data, row, cutoff
        self._segments = list(data.schema.segments)
        self._fields = [name for name in data.vocabularies.profile if name not in task.hidden]
        self._full_outputs = self._outputs(self._copies(1))[0]

    def find_class(self, value: str | None) -> int | None:
        """Returns the index of the class `value`, by default the likeliest; None without classes.

        Raises `InputError` if the task has no class `value`.
        """
        classes = self._task.labels.classes
        if not classes:
            if value is not None:
                raise InputError(
                    f"value: the task has no classes to choose from, found {value!r}. Omit it."
                )
            return None
        if value is None:
            return int(self._full_outputs.argmax())
        if value not in classes:
            raise InputError(f"the task has no class {value!r}; it has {', '.join(classes[:20])}.")
        return classes.index(value)

    def score(self, class_index: int | None) -> float:
        """Returns the score that `predict` gives."""
        scores = self._task.head.scores(torch.from_numpy(self._full_outputs[None]))
        return float(scores[0] if class_index is None else scores[0, class_index])

    def effects(self, parts: Sequence[_Part], class_index: int | None) -> list[float]:
        """Returns how far the output falls when each part is removed: (K,)."""
        effects: list[float] = []
        full_value = self._value(self._full_outputs, class_index)
        with progress("explaining (removing parts)", len(parts)) as advance:
            for first in range(0, len(parts), _BATCH_SIZE):
                chunk = parts[first : first + _BATCH_SIZE]
                outputs = self._outputs(self._without(chunk))
                effects += (full_value - self._value(outputs, class_index)).tolist()
                advance(len(chunk), "")
        return effects

    def _value(self, outputs: Floats, class_index: int | None) -> Floats:
        """Converts model outputs (…, C) to explained values (…), in the explanation's `unit`.

        A value is the log share of the class `class_index`. Without classes, it is the log odds
        (binary) or the quantity minus its mean (regression).
        """
        tensor = torch.from_numpy(outputs)
        if class_index is not None:
            return tensor.log_softmax(-1)[..., class_index].numpy()
        spread = float(self._task.head.spread) if self._task.kind == "regression" else 1.0
        return tensor[..., 0].numpy() * spread

    def _copies(self, count: int) -> UserBatch:
        rows, cutoffs = np.full(count, self._row), np.full(count, self._cutoff)
        return cut(self._data, rows, cutoffs, self._task.hidden)

    def _without(self, parts: Sequence[_Part]) -> UserBatch:
        """Returns copies of the user, one per part, each without its part."""
        copies = self._copies(len(parts))
        ids = [segment.ids.copy() for segment in copies.segments]
        is_removed = [np.zeros(segment.ids.shape[1], bool) for segment in copies.segments]
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
                is_removed[number][actions] = True
            else:
                names = list(self._data.vocabularies.segments[part.segment])
                ids[number][names.index(part.attribute), actions] = 0
        segments = tuple(
            replace(segment, ids=segment_ids)
            for segment, segment_ids in zip(copies.segments, ids, strict=True)
        )
        return drop_actions(replace(copies, segments=segments, profile_ids=profile), is_removed)

    def _outputs(self, batch: UserBatch) -> Floats:
        with torch.inference_mode():
            outputs: Floats = self._task(batch).float().numpy()
        return outputs
