"""What a model must know of data, read off what they mean.

In: a schema and vocabularies. Out: `InputShape`. Prepared data and histories of a request have one;
a model has another, and reads what has the same.
"""

from collections.abc import Collection
from math import ceil

from userbert.data.batches import AttributeShape, InputShape, SegmentShape
from userbert.data.vocabulary import Vocabularies
from userbert.schema.models import DayWords, Schema, Segment


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
