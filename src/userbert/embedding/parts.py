"""Splits the (user, cut-off) pairs to embed into parts that fit into memory.

In: prepared data, and cut-offs or pairs. Out: parts of consecutive pairs. For all users, a part
opens only its own shard and releases it afterwards, so memory does not grow with the number of
users.

Letters in shapes: B pairs.
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
from userbert.data.use.pairs import Pairs, first_events_in, require_visible_events, user_ids_of
from userbert.data.vocabulary import Vocabularies
from userbert.schema.models import Schema

MAX_PAIRS_PER_PART = 65_536
"""Maximum number of pairs of a part: some seconds of work, which an interrupted run loses."""


@dataclass(frozen=True)
class AllUsers:
    """The pairs of each cut-off with all users who have an event before it, cut-off by cut-off."""

    cutoffs: tuple[int, ...]
    """Cut-offs in microseconds since 1970, in the order of the output."""


Selection = AllUsers | Pairs
"""The pairs to embed: all users at some cut-offs, or a list of pairs."""


@dataclass(frozen=True)
class Part:
    """A range of consecutive users of one shard at one cut-off, or of pairs in a list."""

    number: int
    """Number of the part, from 0, in the order of the output."""
    first: int
    """Index of the first user in the shard, or of the first pair in the list."""
    last: int
    """Index after the last user or pair."""
    shard: int | None = None
    """Number of the shard; None if the pairs come from a list."""
    first_row: int = 0
    """Row number of the shard's first user in the prepared data."""
    cutoff: int = 0
    """Cut-off in microseconds since 1970; unused if the pairs come from a list."""

    def __len__(self) -> int:
        """Returns the number of users or pairs; users without an event give no pair."""
        return self.last - self.first


@dataclass(frozen=True)
class ShardHistories:
    """Histories of one shard's users, addressed by their row numbers in the prepared data."""

    schema: Schema
    vocabularies: Vocabularies
    shards: Sequence[Shard]
    """The shard, as a sequence of one."""

    @property
    def first_rows(self) -> Int64:
        """Row number of the shard's first user (1,)."""
        return np.array([self.shards[0].first_row], np.int64)


@dataclass(frozen=True)
class OpenPart:
    """The pairs of a part, and the histories of their users."""

    number: int
    """Number of the part."""
    data: Histories
    """The part's shard, or the prepared data if the pairs come from a list."""
    pairs: Pairs

    def user_ids(self) -> pa.Array:
        """User id of each pair (B,)."""
        return user_ids_of(self.data, self.pairs.rows)


def users_before(data: PreparedData, cutoffs: Sequence[int], name: str = "the cut-off") -> AllUsers:
    """Selects all users with an event before each cut-off.

    Repeated cut-offs count once. Messages call the cut-off `name`. Raises `InputError` if no event
    can be visible at a cut-off: it is not after the first event, or so late that all windows are
    empty.
    """
    cutoffs = tuple(dict.fromkeys(cutoffs))
    for cutoff in cutoffs:
        require_visible_events(data, cutoff, name)
    return AllUsers(cutoffs)


def split_selection(
    data: PreparedData, selection: Selection, max_pairs: int = MAX_PAIRS_PER_PART
) -> list[Part]:
    """Splits a selection into parts of at most `max_pairs` pairs, in order."""
    if isinstance(selection, Pairs):
        return [
            Part(number, first, min(first + max_pairs, len(selection)))
            for number, first in enumerate(range(0, len(selection), max_pairs))
        ]
    ends = np.cumsum(data.users_by_shard()).tolist()
    parts: list[Part] = []
    for cutoff in selection.cutoffs:
        for shard, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            for first, last in _even_ranges(end - start, max_pairs):
                parts.append(Part(len(parts), first, last, shard, start, cutoff))
    return parts


def _even_ranges(users: int, max_users: int) -> Iterator[tuple[int, int]]:
    """Splits users 0 to `users` - 1 into the fewest ranges of at most `max_users`, of similar size.

    Yields the first index and the end of each range.
    """
    count = -(-users // max_users)
    bounds = [users * number // count for number in range(count + 1)] if count else []
    yield from pairwise(bounds)


def open_part(data: PreparedData, selection: Selection, part: Part) -> OpenPart:
    """Returns the pairs and histories of a part; for all users, opens only the part's shard."""
    if isinstance(selection, Pairs):
        span = slice(part.first, part.last)
        return OpenPart(part.number, data, Pairs(selection.rows[span], selection.cutoffs[span]))
    assert part.shard is not None, "a part of AllUsers has a shard"
    shard = data.open_shard(part.shard, part.first_row)
    is_visible = first_events_in(shard)[part.first : part.last] < part.cutoff
    rows = part.first_row + part.first + np.flatnonzero(is_visible)
    pairs = Pairs(rows, np.full(len(rows), part.cutoff, np.int64))
    return OpenPart(part.number, ShardHistories(data.schema, data.vocabularies, [shard]), pairs)


def selection_record(selection: Selection) -> dict[str, object]:
    """Returns the cut-offs, or a SHA-256 of the pairs; a resumed run compares them."""
    if isinstance(selection, AllUsers):
        return {"cutoffs": list(selection.cutoffs), "at": None}
    digest = hashlib.sha256(np.ascontiguousarray(selection.rows).tobytes())
    digest.update(np.ascontiguousarray(selection.cutoffs).tobytes())
    return {"cutoffs": None, "at": digest.hexdigest()}
