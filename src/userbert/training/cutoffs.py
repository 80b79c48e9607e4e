"""Several training cut-offs per user, drawn at random before a bound.

In: (user, cut-off) pairs whose cut-offs bound what may be seen. Out: `TrainingPairs`: the input
pairs, and pairs with earlier cut-offs. `pretrain` learns from all of them. With one cut-off per
user, it would see each user once, and never the actions after a cut-off.
"""

from dataclasses import dataclass

import numpy as np

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, first_events
from userbert.data.use.sequences import times_within

_HORIZONS = 4
"""Minimum number of horizons in a log; in a short log, the horizon is shortened."""


@dataclass(frozen=True)
class TrainingPairs:
    """(User, cut-off) pairs, and the end of the known future of each."""

    pairs: Pairs
    until: Int64
    """End of the known future (P,): a horizon after the cut-off, or the cut-off itself where the
    horizon would pass the bound."""


def training_pairs(
    data: PreparedData, bounds: Pairs, count: int, horizon_days: float, seed: int
) -> TrainingPairs:
    """Draws `count` cut-offs per pair of `bounds`: its own, and earlier cut-offs at random.

    Half of the earlier cut-offs are times of the user's actions, so that active users are seen
    while active. The other half is uniform between the user's first event and the bound. If the log
    is shorter than four horizons, the horizon is a quarter of it: otherwise few or no cut-offs
    would have a known future.
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
    # Neighboring rows are in one shard, so a user's cut-offs stay adjacent.
    pairs = Pairs(np.repeat(bounds.rows, count), np.stack(cutoffs, axis=1).ravel())
    span = int(bounds.cutoffs.max(initial=data.first_event)) - data.first_event
    until = pairs.cutoffs + min(round(horizon_days * DAY_US), span // _HORIZONS)
    is_known = until <= np.repeat(bounds.cutoffs, count)
    return TrainingPairs(pairs, np.where(is_known, until, pairs.cutoffs))
