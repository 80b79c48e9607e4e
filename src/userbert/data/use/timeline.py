"""User sequences as text: words and profile fields with names in place of ids.

In: prepared data, a user's row and a cut-off. Out: `WordView`s and profile values. Used by
`userbert inspect`, explanations, the report and the service.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from userbert.data.batches import SegmentBatch
from userbert.data.prepare.words import grid_of
from userbert.data.store import PreparedData
from userbert.data.use.sequences import cut
from userbert.data.vocabulary import NONE

_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class WordView:
    """Behavioral word with the values of its actions."""

    segment: str
    """Name of the segment."""
    number: int
    """Index among the user's words of the segment."""
    begins: datetime
    """Local time, without a zone: the day of a day word, or the hour in which a gap word begins;
    the first hour of the window for a gap word that begins before it."""
    actions: int
    """Number of actions."""
    values: dict[str, list[tuple[str, int]]]
    """By attribute: each value with its number of actions, the most frequent value first."""


def timeline(data: PreparedData, row: int, cutoff: int) -> list[WordView]:
    """Returns the words of a user before a cut-off (µs since 1970), by segment, oldest first."""
    batch = cut(data, np.array([row]), np.array([cutoff]))
    return [
        _view(data, segment, number, cutoff)
        for segment in batch.segments
        for number in range(len(segment.positions))
    ]


def profile_values(data: PreparedData, row: int, cutoff: int) -> dict[str, str]:
    """Returns the values or bins of a user's profile fields that are known at a cut-off."""
    ids = cut(data, np.array([row]), np.array([cutoff])).profile_ids[0]
    fields = data.vocabularies.profile.items()
    return {name: field.names[i] for i, (name, field) in zip(ids, fields, strict=True) if i != NONE}


def _view(data: PreparedData, segment: SegmentBatch, number: int, cutoff: int) -> WordView:
    low, high = segment.action_offsets[number : number + 2]
    values = {}
    for ids, (name, vocabulary) in zip(
        segment.ids, data.vocabularies.segments[segment.name].items(), strict=True
    ):
        names = vocabulary.names
        counts = Counter(names[i] for i in ids[low:high] if i != NONE)
        values[name] = counts.most_common()
    begins = _begins(data, segment.name, int(segment.positions[number]), cutoff)
    return WordView(segment.name, number, begins, int(high - low), values)


def _begins(data: PreparedData, segment_name: str, position: int, cutoff: int) -> datetime:
    segment = data.schema.segments[segment_name]
    grid = grid_of(segment.words, data.schema.zone)
    start = cutoff - segment.window.from_ // timedelta(microseconds=1)
    unit = int(grid.index(np.array([start]))[0]) + position
    if segment.words.by == "day":
        return _EPOCH + timedelta(days=unit)
    local = (_EPOCH + timedelta(hours=unit)).replace(tzinfo=UTC).astimezone(data.schema.zone)
    return local.replace(tzinfo=None)
