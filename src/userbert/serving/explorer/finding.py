"""Users by a part of their id.

In: prepared data and a text. Out: `Found`. An id that is the text is found by its hash, whatever
the number of users; the others are looked for shard by shard, among so many users at most.
"""

from dataclasses import dataclass

import pyarrow.compute as pc

from userbert.data.store import PreparedData

_MOST = 5_000_000
"""Users who are looked at: a third of a second."""
_KEPT = 1_000
"""Of a shard's, from which the first by name are told; at least as many as a call may ask for."""


@dataclass(frozen=True)
class Found:
    """Users whose ids hold a text."""

    users: list[str]
    more: bool
    """Whether there are, or may be, others."""


def find_users(data: PreparedData, text: str, limit: int) -> Found:
    """Find users: the one of that id, then whose id begins with it, then whose id holds it."""
    exact = [text] if int(data.rows_of([text])[0]) >= 0 else []
    begin: list[str] = []
    hold: list[str] = []
    looked_at = 0
    for shard in data.shards:
        if len(begin) > limit or looked_at > _MOST:
            break
        looked_at += shard.users
        ids = shard.user_ids
        holding = ids.filter(pc.match_substring(ids, text))
        is_begin = pc.starts_with(holding, text)
        begin += holding.filter(is_begin).slice(0, _KEPT + 2).to_pylist()
        if len(hold) <= limit:
            hold += holding.filter(pc.invert(is_begin)).slice(0, _KEPT + 2).to_pylist()
    others = [*sorted(begin), *sorted(hold)]
    users = [*exact, *(user for user in others if user != text)]
    return Found(users[:limit], len(users) > limit or looked_at < len(data))
