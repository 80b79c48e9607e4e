"""User sequences as flat arrays: what every model reads, and the order in which it reads them.

In: prepared data and (user, cut-off) pairs. Out: `UserBatch`, a frozen record of flat numpy arrays
and offsets. Nothing is padded here; the encoder alone knows padding.

Letters in shapes: B users, W words of a segment, N actions of a segment, A attributes of a segment,
F profile fields.

What a model must know of data, read off what they mean.

In: a schema and vocabularies. Out: `InputShape`. Prepared data and histories of a request have one;
a model has another, and reads what has the same.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from userbert.data.ragged import Int32, Int64, list_numbers, offsets_of, take_lists
from userbert.data.vocabulary import Vocabularies
from userbert.schema.models import DayWords, Schema, Segment


@dataclass(frozen=True)
class AttributeShape:
    """One attribute of a segment, or one profile field, as a model sees it."""

    name: str
    size: int
    """The number of ids: 0 is none, 1 is unknown, values follow."""
    table: str
    """The embedding table; attributes that are shared between segments name the same."""


@dataclass(frozen=True)
class SegmentShape:
    """One segment as a model sees it."""

    name: str
    attributes: tuple[AttributeShape, ...]
    positions: int
    """Positions run from 0 to this number - 1."""


@dataclass(frozen=True)
class InputShape:
    """What a model must know of the data: its segments and profile fields, in order."""

    segments: tuple[SegmentShape, ...]
    profile: tuple[AttributeShape, ...]


INPUT_SHAPE = TypeAdapter(InputShape)
"""A shape to JSON and back."""


@dataclass(frozen=True)
class SegmentBatch:
    """The words of one segment of a batch of users: actions → words → users."""

    name: str
    ids: Int32
    """(A, N): the id of each attribute of each action; 0 is none, 1 unknown."""
    action_offsets: Int64
    """(W + 1,): the actions of word w are `action_offsets[w]:action_offsets[w + 1]`."""
    word_offsets: Int64
    """(B + 1,): the words of user b are `word_offsets[b]:word_offsets[b + 1]`, oldest first."""
    positions: Int32
    """(W,): days (day words) or hours (gap words) from the window's start."""
    words_cut: int = 0
    """Words left out because their user had more than `max_words`."""
    actions_cut: int = 0
    """Actions left out because their word had more than `max_actions`."""

    @property
    def word_counts(self) -> Int64:
        """(B,): the number of words of each user."""
        return np.diff(self.word_offsets)

    @property
    def user_of_action(self) -> Int64:
        """(N,): whose action each is."""
        return list_numbers(self.action_offsets[self.word_offsets])


@dataclass(frozen=True)
class Future:
    """What users did after their cut-offs, each until an instant of their own."""

    known: NDArray[np.bool_]
    """(B,): whose future is known; of the others nothing is here."""
    ids: tuple[Int32, ...]
    """(A, N) of each segment: the id of each attribute of each action."""
    offsets: tuple[Int64, ...]
    """(B + 1,) of each segment: the actions of user b are `offsets[b]:offsets[b + 1]`."""


@dataclass(frozen=True)
class UserBatch:
    """A batch of user sequences."""

    index: Int64
    """(B,): which of the (user, cut-off) pairs asked for each sequence is."""
    segments: tuple[SegmentBatch, ...]
    """In the order of `InputShape.segments`."""
    profile_ids: Int32
    """(B, F): profile fields in the order of `InputShape.profile`; 0 is none."""
    future: Future | None = None
    """What came after the cut-offs, for pretraining; no network sees it."""

    def __len__(self) -> int:
        """Count the users."""
        return len(self.index)


def users_of(batch: UserBatch, first: int, last: int) -> UserBatch:
    """The users `first:last` of a batch, without copying; what was cut of them is not counted."""
    return UserBatch(
        batch.index[first:last],
        tuple(_users_of_segment(segment, first, last) for segment in batch.segments),
        batch.profile_ids[first:last],
        None if batch.future is None else _future_of(batch.future, first, last),
    )


def in_order(batch: UserBatch, users: Int64) -> UserBatch:
    """The users of a batch, by number (B,), in another order; without a future."""
    segments = tuple(_in_order(segment, users) for segment in batch.segments)
    return UserBatch(batch.index[users], segments, batch.profile_ids[users])


def _in_order(segment: SegmentBatch, users: Int64) -> SegmentBatch:
    words, word_offsets = take_lists(segment.word_offsets, users)
    actions, action_offsets = take_lists(segment.action_offsets, words)
    return replace(
        segment,
        ids=segment.ids[:, actions],
        action_offsets=action_offsets,
        word_offsets=word_offsets,
        positions=segment.positions[words],
    )


def without_actions(batch: UserBatch, left_out: Sequence[NDArray[np.bool_]]) -> UserBatch:
    """A batch without some actions, (N,) of each segment; a word that loses all is not there."""
    segments = [
        _without(segment, mask) for segment, mask in zip(batch.segments, left_out, strict=True)
    ]
    return replace(batch, segments=tuple(segments))


def _without(segment: SegmentBatch, left_out: NDArray[np.bool_]) -> SegmentBatch:
    kept = offsets_of(~left_out)
    ends = kept[segment.action_offsets]
    is_there = np.diff(ends) > 0
    words = offsets_of(is_there)
    return SegmentBatch(
        segment.name,
        segment.ids[:, ~left_out],
        np.concatenate([np.zeros(1, np.int64), ends[1:][is_there]]),
        words[segment.word_offsets],
        segment.positions[is_there],
        segment.words_cut,
        segment.actions_cut,
    )


def _future_of(future: Future, first: int, last: int) -> Future:
    ends = [offsets[first : last + 1] for offsets in future.offsets]
    ids = [part[:, end[0] : end[-1]] for part, end in zip(future.ids, ends, strict=True)]
    return Future(future.known[first:last], tuple(ids), tuple(end - end[0] for end in ends))


def _users_of_segment(segment: SegmentBatch, first: int, last: int) -> SegmentBatch:
    words = segment.word_offsets[first : last + 1]
    actions = segment.action_offsets[words[0] : words[-1] + 1]
    return SegmentBatch(
        segment.name,
        segment.ids[:, actions[0] : actions[-1]],
        actions - actions[0],
        words - words[0],
        segment.positions[words[0] : words[-1]],
    )


def input_shape(
    schema: Schema, vocabularies: Vocabularies, hidden: Collection[str] = ()
) -> InputShape:
    """What a model must know of such data, without the `hidden` profile fields."""
    segments = tuple(
        SegmentShape(
            name,
            tuple(
                AttributeShape(
                    attribute,
                    vocabulary.size,
                    attribute if schema.attributes[attribute].share else f"{name}/{attribute}",
                )
                # Their order, which may be a model's, is that of the ids in a batch.
                for attribute, vocabulary in vocabularies.segments[name].items()
            ),
            _positions(segment),
        )
        for name, segment in schema.segments.items()
    )
    profile = tuple(
        AttributeShape(name, vocabulary.size, f"profile/{name}")
        for name, vocabulary in vocabularies.profile.items()
        if name not in hidden
    )
    return InputShape(segments, profile)


def _positions(segment: Segment) -> int:
    """How many positions a segment's words can have, partial first and last units included."""
    unit_hours = 24 if isinstance(segment.words, DayWords) else 1
    return ceil(segment.window.from_.total_seconds() / 3600 / unit_hours) + 2
