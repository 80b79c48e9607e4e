"""User sequences as flat arrays (`UserBatch`), and the sizes that a model needs (`InputShape`).

`UserBatch` is a frozen record of numpy arrays and offsets. `data/use/sequences.py` makes batches,
and models read batches. Only the encoder pads.

`input_shape` derives an `InputShape` from a schema and vocabularies. A model reads only data whose
shape equals the shape of its training data.

Letters in shapes: B users of the batch; W words, N actions and A attributes of a segment; F profile
fields.
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
    """Attribute of a segment, or profile field, as a model sees it."""

    name: str
    size: int
    """Number of ids: 0 is none, 1 is unknown, values follow."""
    table: str
    """Name of the embedding table. If an attribute is shared, both segments name the same table."""


@dataclass(frozen=True)
class SegmentShape:
    """Segment as a model sees it."""

    name: str
    attributes: tuple[AttributeShape, ...]
    """Attributes, in the order of the rows of `SegmentBatch.ids`."""
    positions: int
    """Number of positions of words; positions start at 0."""


@dataclass(frozen=True)
class InputShape:
    """Segments and profile fields of the data, with their sizes."""

    segments: tuple[SegmentShape, ...]
    """Segments, in the order of `UserBatch.segments`."""
    profile: tuple[AttributeShape, ...]
    """Profile fields, in the order of the columns of `UserBatch.profile_ids`."""


INPUT_SHAPE = TypeAdapter(InputShape)
"""Converts an `InputShape` to JSON and back."""


@dataclass(frozen=True)
class SegmentBatch:
    """Words of one segment for a batch of users. Words are ranges of actions, users of words."""

    name: str
    ids: Int32
    """(A, N): id of each attribute of each action; 0 is none, 1 unknown."""
    action_offsets: Int64
    """(W + 1,): the actions of word w are `action_offsets[w]:action_offsets[w + 1]`."""
    word_offsets: Int64
    """(B + 1,): the words of user b are `word_offsets[b]:word_offsets[b + 1]`, oldest first."""
    positions: Int32
    """(W,): days (day words) or hours (gap words) from the window's start, at least 0."""
    words_cut: int = 0
    """Number of words dropped because their user had more than `max_words`."""
    actions_cut: int = 0
    """Number of actions dropped because their word had more than `max_actions`."""

    @property
    def word_counts(self) -> Int64:
        """(B,): number of words of each user."""
        return np.diff(self.word_offsets)

    @property
    def user_of_action(self) -> Int64:
        """(N,): index of the user of each action in the batch."""
        return list_numbers(self.action_offsets[self.word_offsets])


@dataclass(frozen=True)
class Future:
    """What users did after their cut-offs, up to an end that may differ by user."""

    known: NDArray[np.bool_]
    """(B,): whether the user's future is known; if not, the user has no actions in `ids`."""
    ids: tuple[Int32, ...]
    """Per segment (A, N): id of each attribute of each action after the cut-off."""
    offsets: tuple[Int64, ...]
    """Per segment (B + 1,): the actions of user b are `offsets[b]:offsets[b + 1]`."""


@dataclass(frozen=True)
class UserBatch:
    """Batch of user sequences."""

    index: Int64
    """(B,): index of each sequence's pair among the (user, cut-off) pairs that the caller gave."""
    segments: tuple[SegmentBatch, ...]
    """Segments, in the order of `InputShape.segments`."""
    profile_ids: Int32
    """(B, F): profile fields in the order of `InputShape.profile`; 0 is none."""
    future: Future | None = None
    """Actions after the cut-offs: a target of pretraining, never an input."""

    def __len__(self) -> int:
        """Returns the number of users."""
        return len(self.index)


def slice_users(batch: UserBatch, first: int, last: int) -> UserBatch:
    """Returns the users `first:last` of a batch, as views; `words_cut` and `actions_cut` are 0."""
    return UserBatch(
        batch.index[first:last],
        tuple(_slice_segment(segment, first, last) for segment in batch.segments),
        batch.profile_ids[first:last],
        None if batch.future is None else _slice_future(batch.future, first, last),
    )


def take_users(batch: UserBatch, users: Int64) -> UserBatch:
    """Returns the users at the indices `users` of a batch, in this order, without their future.

    `words_cut` and `actions_cut` still count all users of `batch`.
    """
    segments = tuple(_take_users_of_segment(segment, users) for segment in batch.segments)
    return UserBatch(batch.index[users], segments, batch.profile_ids[users])


def _take_users_of_segment(segment: SegmentBatch, users: Int64) -> SegmentBatch:
    words, word_offsets = take_lists(segment.word_offsets, users)
    actions, action_offsets = take_lists(segment.action_offsets, words)
    return replace(
        segment,
        ids=segment.ids[:, actions],
        action_offsets=action_offsets,
        word_offsets=word_offsets,
        positions=segment.positions[words],
    )


def drop_actions(batch: UserBatch, dropped: Sequence[NDArray[np.bool_]]) -> UserBatch:
    """Returns a batch without some actions and without words that have no other actions.

    `dropped` holds a mask (N,) per segment. Futures, `words_cut` and `actions_cut` do not change.
    """
    segments = [
        _drop_actions_of_segment(segment, mask)
        for segment, mask in zip(batch.segments, dropped, strict=True)
    ]
    return replace(batch, segments=tuple(segments))


def _drop_actions_of_segment(segment: SegmentBatch, dropped: NDArray[np.bool_]) -> SegmentBatch:
    action_ends = offsets_of(~dropped)[segment.action_offsets]
    is_kept = np.diff(action_ends) > 0
    word_ends = offsets_of(is_kept)
    return SegmentBatch(
        segment.name,
        segment.ids[:, ~dropped],
        np.concatenate([np.zeros(1, np.int64), action_ends[1:][is_kept]]),
        word_ends[segment.word_offsets],
        segment.positions[is_kept],
        segment.words_cut,
        segment.actions_cut,
    )


def _slice_future(future: Future, first: int, last: int) -> Future:
    ends = [offsets[first : last + 1] for offsets in future.offsets]
    ids = [ids[:, end[0] : end[-1]] for ids, end in zip(future.ids, ends, strict=True)]
    return Future(future.known[first:last], tuple(ids), tuple(end - end[0] for end in ends))


def _slice_segment(segment: SegmentBatch, first: int, last: int) -> SegmentBatch:
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
    """Returns the shape of data with this schema, without the `hidden` profile fields."""
    segments = tuple(
        SegmentShape(
            name,
            tuple(
                AttributeShape(
                    attribute,
                    vocabulary.size,
                    attribute if schema.attributes[attribute].share else f"{name}/{attribute}",
                )
                # A batch has its ids in the order of the vocabularies, which may come from a model.
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
    """Returns the number of positions of a segment: days or hours that its window can touch.

    The window may begin and end inside a day or hour, so they are two more than its length.
    """
    unit_hours = 24 if isinstance(segment.words, DayWords) else 1
    return ceil(segment.window.from_.total_seconds() / 3600 / unit_hours) + 2
