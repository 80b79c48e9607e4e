"""Of whom vectors are wanted, in parts that each fit into memory.

In: prepared data, and cut-offs or pairs. Out: parts of neighbouring pairs. Pairs of all users are
formed shard by shard, and a shard is forgotten after its part, so memory does not grow with users.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from userbert.data.ragged import Int64
from userbert.data.shards import Shard
from userbert.data.store import Histories, PreparedData
from userbert.data.use.pairs import Pairs, first_events_of, refuse_blind, user_ids_of
from userbert.data.vocabulary import Vocabularies
from userbert.schema.models import Schema

PAIRS_EACH = 65_536
"""Of a part, at most: some seconds' work, which is what a run loses that is killed."""


@dataclass(frozen=True)
class AllUsers:
    """Every user who has an event before a cut-off, one cut-off after the other."""

    cutoffs: tuple[int, ...]
    """Microseconds since 1970."""


Asked = AllUsers | Pairs


@dataclass(frozen=True)
class Part:
    """Neighbouring pairs; its number is its place among all."""

    number: int
    first: int
    """Of the shard's users, or of the pairs."""
    last: int
    shard: int | None = None
    """None: the pairs are named one by one."""
    first_row: int = 0
    """Of the shard."""
    cutoff: int = 0

    def __len__(self) -> int:
        """The most pairs that it can have."""
        return self.last - self.first


@dataclass(frozen=True)
class OneShard:
    """The histories of one shard's users, under the rows that they have in the whole data."""

    schema: Schema
    vocabularies: Vocabularies
    shards: Sequence[Shard]

    @property
    def first_rows(self) -> Int64:
        """(1,): the row of the first user."""
        return np.array([self.shards[0].first_row], np.int64)


@dataclass(frozen=True)
class OpenPart:
    """A part's pairs, and where they are read."""

    number: int
    data: Histories
    pairs: Pairs

    def user_ids(self) -> pa.Array:
        """(B,): whose the pairs are."""
        return user_ids_of(self.data, self.pairs.rows)


def users_before(data: PreparedData, cutoffs: Sequence[int], name: str = "the cut-off") -> AllUsers:
    """Every user who has an event before a cut-off, called `name` in messages.

    Raises `InputError` for one at which nothing of anybody is visible.
    """
    cutoffs = tuple(dict.fromkeys(cutoffs))
    for cutoff in cutoffs:
        refuse_blind(data, cutoff, name)
    return AllUsers(cutoffs)


def parts_of(data: PreparedData, asked: Asked) -> list[Part]:
    """All parts in order: their vectors, one part after the other, are those asked for."""
    if isinstance(asked, Pairs):
        return [
            Part(number, first, min(first + PAIRS_EACH, len(asked)))
            for number, first in enumerate(range(0, len(asked), PAIRS_EACH))
        ]
    ends = np.cumsum(data.users_by_shard()).tolist()
    parts: list[Part] = []
    for cutoff in asked.cutoffs:
        for shard, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            for first, last in _even(end - start):
                parts.append(Part(len(parts), first, last, shard, start, cutoff))
    return parts


def _even(users: int) -> Iterator[tuple[int, int]]:
    """The fewest ranges of at most PAIRS_EACH, all of about the same size."""
    number = -(-users // PAIRS_EACH)
    bounds = [users * part // number for part in range(number + 1)] if number else []
    yield from pairwise(bounds)


def open_part(data: PreparedData, asked: Asked, part: Part) -> OpenPart:
    """The pairs of a part; those of one shard are read from a view of its own."""
    if isinstance(asked, Pairs):
        own = slice(part.first, part.last)
        return OpenPart(part.number, data, Pairs(asked.rows[own], asked.cutoffs[own]))
    assert part.shard is not None, "parts of all users lie in a shard"
    shard = data.open_shard(part.shard, part.first_row)
    early = first_events_of(shard)[part.first : part.last] < part.cutoff
    rows = part.first_row + part.first + np.flatnonzero(early)
    pairs = Pairs(rows, np.full(len(rows), part.cutoff, np.int64))
    return OpenPart(part.number, OneShard(data.schema, data.vocabularies, [shard]), pairs)


def about(asked: Asked) -> dict[str, object]:
    """What is asked for, in a few words: to compare one run with another."""
    if isinstance(asked, AllUsers):
        return {"cutoffs": list(asked.cutoffs), "at": None}
    digest = hashlib.sha256(np.ascontiguousarray(asked.rows).tobytes())
    digest.update(np.ascontiguousarray(asked.cutoffs).tobytes())
    return {"cutoffs": None, "at": digest.hexdigest()}
