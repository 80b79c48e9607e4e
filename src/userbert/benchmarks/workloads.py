"""Batches of the paper's size: how many words and actions users have, and of which vocabularies.

In: a workload's name and a seed. Out: `UserBatch`es in memory, and a new `UserBert` of the paper's
size to learn from them. Both sides of a benchmark get the same batches. Ids are drawn by a power
law, as shops and genres are; nothing can be learned from them beyond how often each occurs.
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
"""Users are sorted by length within so many batches, as pretraining does."""

_LONG_TERM = {
    "usage": 4, "channel": 742, "expense": 17, "shop": 85_124, "genre": 11_438, "hour": 24,
}  # fmt: skip
_SHORT_TERM = {"event": 3, "shop": 40_804, "genre": 10_386, "device": 2}
_PROFILE = {"gender": 3, "age": 12, "region": 47, "occupation": 15}
"""The paper names some fields, and no sizes."""
_POSITIONS = {"long_term": 130, "short_term": 170}


@dataclass(frozen=True)
class Amount:
    """How much of a segment users have."""

    words: float
    """The mean number of a user's words."""
    actions: float
    """The mean number of a word's actions."""
    most: int
    """At most so many words."""
    spread: float = 1.0
    """Deviation of the logarithm of a user's number of words; 0: all users have as many."""


@dataclass(frozen=True)
class Workload:
    """How much behavior users have."""

    name: str
    long_term: Amount
    short_term: Amount


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        # Of 22.5M users, 5M long-term actions a day for 90 days and 50M short-term ones (§4.1).
        Workload("sparse", Amount(12, 20 / 12, 91), Amount(2, 1.1, 128)),
        # The same with 50M short-term actions on each of seven days.
        Workload("daily", Amount(12, 20 / 12, 91), Amount(5, 15.6 / 5, 128)),
        # As many words as §4.4 lets in.
        Workload("full", Amount(128, 20 / 12, 128, 0), Amount(128, 20 / 12, 128, 0)),
    )
}


def input_shape() -> InputShape:
    """The vocabularies of table 1; ids of *none* and *unknown* come on top."""
    return InputShape(
        tuple(
            SegmentShape(name, _attributes(name, sizes), _POSITIONS[name])
            for name, sizes in (("long_term", _LONG_TERM), ("short_term", _SHORT_TERM))
        ),
        _attributes("profile", _PROFILE),
    )


def new_model(seed: int = 0, config: UserBertConfig | None = None) -> UserBert:
    """A model of the paper's size that has learned nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UserBert(
            config or UserBertConfig(),
            input_shape(),
            schema=_SCHEMA,
            vocabularies=Vocabularies({}, {}),
        )


def draw_batches(workload: Workload, seed: int = 0) -> list[UserBatch]:
    """Draw `BUCKET_BATCHES` batches of similar length each, in random order."""
    generator = np.random.default_rng(seed)
    shape = input_shape()
    users = BUCKET_BATCHES * BATCH_SIZE
    amounts = (workload.long_term, workload.short_term)
    # Who is active in one way is active in the other.
    activity = generator.standard_normal(users)
    counts = np.stack([_word_counts(amount, activity, generator) for amount in amounts])
    counts[0] = np.maximum(counts[0], 1)
    order = np.argsort(counts.sum(axis=0), kind="stable").reshape(-1, BATCH_SIZE)
    batches = []
    for chosen in order[generator.permutation(len(order))]:
        segments = tuple(
            _segment(segment, amount, words, generator)
            for segment, amount, words in zip(
                shape.segments, amounts, counts[:, chosen], strict=True
            )
        )
        profile = [_ids(field.size, BATCH_SIZE, generator) for field in shape.profile]
        batches.append(UserBatch(chosen, segments, np.stack(profile, axis=1)))
    return batches


def _attributes(segment: str, sizes: Mapping[str, int]) -> tuple[AttributeShape, ...]:
    return tuple(
        AttributeShape(name, size + 2, f"{segment}/{name}") for name, size in sizes.items()
    )


def _word_counts(
    amount: Amount, activity: NDArray[np.float64], generator: np.random.Generator
) -> Int64:
    own = 0.7 * activity + 0.7 * generator.standard_normal(len(activity))
    mean = np.exp(amount.spread * own)
    for _ in range(3):
        # The limit takes words from the tail; so few users miss the mean by chance, too.
        mean *= amount.words / np.minimum(mean, amount.most).mean()
    count = np.floor(mean + generator.random(len(mean))).astype(np.int64)
    return np.minimum(count, amount.most)


def _segment(
    shape: SegmentShape, amount: Amount, words: Int64, generator: np.random.Generator
) -> SegmentBatch:
    sizes = generator.geometric(1 / amount.actions, words.sum())
    ids = [_ids(attribute.size, int(sizes.sum()), generator) for attribute in shape.attributes]
    # Words are at different times, oldest first.
    positions = [np.sort(generator.integers(0, shape.positions, count)) for count in words]
    return SegmentBatch(
        shape.name,
        np.stack(ids),
        offsets_of(sizes),
        offsets_of(words),
        np.concatenate(positions).astype(np.int32),
    )


def _ids(size: int, count: int, generator: np.random.Generator) -> Int32:
    """Ids from 1 on, the r-th as often as 1 / r."""
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
"""A model carries one; what it says of words is true, of attributes the shape says more."""
