"""Random batches for benchmarks, with the paper's numbers of words, actions and values.

In: a workload and a seed. Out: `UserBatch`es in memory, and an untrained `UserBert` of the paper's
size. All competitors get the same batches. Ids follow a power law, like shops and genres, and have
no structure other than their frequencies.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from userbert.data.batches import AttributeShape, InputShape, SegmentBatch, SegmentShape, UserBatch
from userbert.data.ragged import Int32, Int64, offsets_of
from userbert.data.vocabulary import Vocabularies
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.schema.models import Schema

BATCH_SIZE = 16
"""Users in a batch (paper §4.4)."""
BUCKET_BATCHES = 32
"""Number of batches within which users are sorted by length, as in pretraining."""

_LONG_TERM = {
    "usage": 4, "channel": 742, "expense": 17, "shop": 85_124, "genre": 11_438, "hour": 24,
}  # fmt: skip
_SHORT_TERM = {"event": 3, "shop": 40_804, "genre": 10_386, "device": 2}
"""Vocabulary sizes of the attributes of each segment (paper, table 1)."""
_PROFILE = {"gender": 3, "age": 12, "region": 47, "occupation": 15}
"""Vocabulary sizes of the profile fields; the paper names some fields but no sizes."""
_POSITIONS = {"long_term": 130, "short_term": 170}
"""Number of positions of each segment: days, and hours."""


@dataclass(frozen=True)
class SegmentSize:
    """Distribution of words and actions of a segment over users."""

    words: float
    """Mean number of words per user."""
    actions: float
    """Mean number of actions per word."""
    max_words: int
    """Maximum number of words of a user."""
    spread: float = 1.0
    """Standard deviation of the logarithm of a user's expected number of words; 0: all users have
    the same."""


@dataclass(frozen=True)
class Workload:
    """Amount of behavior per user."""

    name: str
    long_term: SegmentSize
    short_term: SegmentSize


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        # 22.5M users with 5M long-term actions a day for 90 days and 50M short-term actions (§4.1).
        Workload("sparse", SegmentSize(12, 20 / 12, 91), SegmentSize(2, 1.1, 128)),
        # As sparse, with 50M short-term actions on each of seven days.
        Workload("daily", SegmentSize(12, 20 / 12, 91), SegmentSize(5, 15.6 / 5, 128)),
        # As many words as §4.4 allows.
        Workload("full", SegmentSize(128, 20 / 12, 128, 0), SegmentSize(128, 20 / 12, 128, 0)),
    )
}


def input_shape() -> InputShape:
    """Returns a shape with the vocabulary sizes of table 1, plus the ids NONE and UNKNOWN."""
    return InputShape(
        tuple(
            SegmentShape(name, _attributes(name, sizes), _POSITIONS[name])
            for name, sizes in (("long_term", _LONG_TERM), ("short_term", _SHORT_TERM))
        ),
        _attributes("profile", _PROFILE),
    )


def new_model(seed: int = 0, config: UserBertConfig | None = None) -> UserBert:
    """Returns an untrained model with weights drawn from `seed`, by default of the paper's size."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UserBert(
            config or UserBertConfig(),
            input_shape(),
            schema=_SCHEMA,
            vocabularies=Vocabularies({}, {}),
        )


def draw_batches(workload: Workload, seed: int = 0) -> list[UserBatch]:
    """Draws `BUCKET_BATCHES` batches in random order; the users of a batch have similar lengths."""
    generator = np.random.default_rng(seed)
    shape = input_shape()
    users = BUCKET_BATCHES * BATCH_SIZE
    sizes = (workload.long_term, workload.short_term)
    # Activity is correlated between the segments.
    activity = generator.standard_normal(users)
    counts = np.stack([_word_counts(segment_size, activity, generator) for segment_size in sizes])
    counts[0] = np.maximum(counts[0], 1)
    order = np.argsort(counts.sum(axis=0), kind="stable").reshape(-1, BATCH_SIZE)
    batches = []
    for batch_users in order[generator.permutation(len(order))]:
        segments = tuple(
            _segment(segment, segment_size, words, generator)
            for segment, segment_size, words in zip(
                shape.segments, sizes, counts[:, batch_users], strict=True
            )
        )
        profile = [_ids(field.size, BATCH_SIZE, generator) for field in shape.profile]
        batches.append(UserBatch(batch_users, segments, np.stack(profile, axis=1)))
    return batches


def _attributes(segment: str, sizes: Mapping[str, int]) -> tuple[AttributeShape, ...]:
    """Returns attributes with a table each; two more ids than values, for NONE and UNKNOWN."""
    return tuple(
        AttributeShape(name, size + 2, f"{segment}/{name}") for name, size in sizes.items()
    )


def _word_counts(
    segment_size: SegmentSize, activity: NDArray[np.float64], generator: np.random.Generator
) -> Int64:
    """Draws each user's number of words in a segment, which rises with `activity` (users,)."""
    log_activity = 0.7 * activity + 0.7 * generator.standard_normal(len(activity))
    mean = np.exp(segment_size.spread * log_activity)
    for _ in range(3):
        # Restores the mean, which the cap and the small sample shift.
        mean *= segment_size.words / np.minimum(mean, segment_size.max_words).mean()
    count = np.floor(mean + generator.random(len(mean))).astype(np.int64)
    return np.minimum(count, segment_size.max_words)


def _segment(
    shape: SegmentShape, segment_size: SegmentSize, words: Int64, generator: np.random.Generator
) -> SegmentBatch:
    """Draws a segment of a batch; `words` is the number of words of each user."""
    sizes = generator.geometric(1 / segment_size.actions, words.sum())
    ids = [_ids(attribute.size, int(sizes.sum()), generator) for attribute in shape.attributes]
    # Words are in order of time, oldest first.
    positions = [np.sort(generator.integers(0, shape.positions, count)) for count in words]
    return SegmentBatch(
        shape.name,
        np.stack(ids),
        offsets_of(sizes),
        offsets_of(words),
        np.concatenate(positions).astype(np.int32),
    )


def _ids(size: int, count: int, generator: np.random.Generator) -> Int32:
    """Draws `count` ids from 1 to `size` - 1, with frequencies roughly proportional to 1 / id."""
    drawn: Int32 = np.exp(generator.random(count) * np.log(size - 1)).astype(np.int32)
    return np.minimum(drawn, np.int32(size - 1))


_SCHEMA = Schema.parse("""
user: user
sources: {log: {path: log.parquet, time: time, action: buy}}
attributes: {shop: {column: shop}}
segments:
  long_term: {words: {by: day}, window: {from: 90d, to: 7d}, actions: [buy], attributes: [shop]}
  short_term: {words: {by: gap}, window: 7d, actions: [buy], attributes: [shop]}
""")
"""Schema of the model. Its words are those of the workloads, but it has fewer attributes than the
shape, from which the network is built."""
