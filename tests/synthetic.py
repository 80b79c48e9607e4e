"""Random user sequences and models of their shape, without prepared data."""

from collections.abc import Sequence

import numpy as np
import torch

from userbert.data.batches import AttributeShape as Attribute
from userbert.data.batches import InputShape, SegmentBatch, UserBatch
from userbert.data.batches import SegmentShape as Segment
from userbert.data.ragged import offsets_of, take_lists
from userbert.data.vocabulary import Categories, Vocabularies
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.schema.models import Schema

# Tiny models are fastest on one thread, above all when tests run in parallel.
torch.set_num_threads(1)

TINY = UserBertConfig(layers=2, hidden=16, heads=2, feed_forward=32)

SCHEMA = """
user: user
sources: {log: {path: log.csv, time: time, action: buy}}
attributes: {genre: {column: genre, share: true}, shop: {column: shop}}
segments:
  long_term:
    {words: {by: day}, window: {from: 28d, to: 7d}, actions: [buy], attributes: [genre, shop]}
  short_term: {words: {by: gap}, window: 7d, actions: [buy], attributes: [genre]}
profile: {path: profile.csv, fields: {age: {column: age}, city: {column: city}}}
"""


def shape(genres: int = 12, shops: int = 7) -> InputShape:
    """Returns the shape of `SCHEMA` with these numbers of ids."""
    genre = Attribute("genre", genres, "genre")
    return InputShape(
        (
            Segment("long_term", (genre, Attribute("shop", shops, "long_term/shop")), 30),
            Segment("short_term", (genre,), 170),
        ),
        (Attribute("age", 5, "profile/age"), Attribute("city", 4, "profile/city")),
    )


def vocabularies(inputs: InputShape) -> Vocabularies:
    """Returns vocabularies with the sizes of `inputs`."""

    def categories(attribute: Attribute) -> Categories:
        return Categories(tuple(f"{attribute.name}{i}" for i in range(attribute.size - 2)))

    return Vocabularies(
        {
            segment.name: {a.name: categories(a) for a in segment.attributes}
            for segment in inputs.segments
        },
        {field.name: categories(field) for field in inputs.profile},
    )


def model(inputs: InputShape | None = None, config: UserBertConfig | None = None) -> UserBert:
    """Returns a new model of `SCHEMA`, by default a tiny one."""
    inputs = inputs or shape()
    config = config or TINY
    return UserBert(config, inputs, schema=Schema.parse(SCHEMA), vocabularies=vocabularies(inputs))


def batch(
    words: Sequence[Sequence[int]],
    seed: int = 0,
    inputs: InputShape | None = None,
    actions: int = 4,
) -> UserBatch:
    """Returns users with `words[b][s]` words in segment s, of 1 to `actions` random actions."""
    rng = np.random.default_rng(seed)
    inputs = inputs or shape()
    counts = np.array(words, np.int64).reshape(len(words), len(inputs.segments))
    segments = []
    for number, segment in enumerate(inputs.segments):
        sizes = rng.integers(1, actions + 1, counts[:, number].sum())
        ids = [rng.integers(0, a.size, sizes.sum()) for a in segment.attributes]
        segments.append(
            SegmentBatch(
                segment.name,
                np.array(ids, np.int32),
                offsets_of(sizes),
                offsets_of(counts[:, number]),
                rng.integers(0, segment.positions, len(sizes)).astype(np.int32),
            )
        )
    profile = [rng.integers(0, field.size, len(words)) for field in inputs.profile]
    return UserBatch(
        np.arange(len(words), dtype=np.int64),
        tuple(segments),
        np.array(profile, np.int32).reshape(len(inputs.profile), len(words)).T,
    )


def take(users: UserBatch, order: Sequence[int]) -> UserBatch:
    """Returns some users of a batch, in this order."""
    segments = []
    numbers = np.array(order, np.int64)
    for segment in users.segments:
        words, word_offsets = take_lists(segment.word_offsets, numbers)
        actions, action_offsets = take_lists(segment.action_offsets, words)
        segments.append(
            SegmentBatch(
                segment.name,
                segment.ids[:, actions],
                action_offsets,
                word_offsets,
                segment.positions[words],
            )
        )
    return UserBatch(users.index[numbers], tuple(segments), users.profile_ids[numbers])
