"""Many cut-offs a user: histories as they stood at other moments, and what came next.

In: (user, cut-off) pairs, whose cut-offs bound what may be seen. Out: `Moments`, the same pairs and
earlier ones. `pretrain` learns from them: one cut-off for all shows each user once, and never what
follows.
"""

from dataclasses import dataclass

import numpy as np

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, first_events
from userbert.data.use.sequences import times_within

_HORIZONS = 4
"""So many at least fit into a log."""


@dataclass(frozen=True)
class Moments:
    """Pairs, and how far the future of each is known."""

    pairs: Pairs
    until: Int64
    """(P,): a horizon after the cut-off; the cut-off itself, where the bound is nearer."""


def moments(
    data: PreparedData, bounds: Pairs, count: int, horizon_days: float, seed: int
) -> Moments:
    """So many cut-offs of each pair: its own, and earlier ones drawn at random.

    Half of these are moments of one of the user's actions, so that the busy are seen when they are
    busy, and half any moments since the first. A log that is shorter than four horizons has one of
    a quarter of its length: else few cut-offs would have a future, or none.
    """
    generator = np.random.default_rng([seed, 1])
    first = first_events(data)[bounds.rows]
    cutoffs = [bounds.cutoffs]
    for number in range(1, count):
        share = generator.random(len(bounds))
        if number % 2:
            cutoffs.append(times_within(data, bounds.rows, bounds.cutoffs, share))
        else:
            since = np.minimum(first, bounds.cutoffs)
            cutoffs.append(since + (share * (bounds.cutoffs - since)).astype(np.int64))
    # Neighbors lie in one shard, so cut-offs of a user stand together.
    pairs = Pairs(np.repeat(bounds.rows, count), np.stack(cutoffs, axis=1).ravel())
    span = int(bounds.cutoffs.max(initial=data.first_event)) - data.first_event
    until = pairs.cutoffs + min(round(horizon_days * DAY_US), span // _HORIZONS)
    is_known = until <= np.repeat(bounds.cutoffs, count)
    return Moments(pairs, np.where(is_known, until, pairs.cutoffs))
