"""Several training cut-offs per user, drawn at random before a bound.

In: (user, cut-off) pairs, whose cut-offs bound the events that training may read. Out:
`TrainingPairs`: the input pairs, and pairs with earlier cut-offs. `pretrain` learns from all pairs.
With one cut-off per user, training would see one sequence per user, and never the actions after a
cut-off.

Letters in shapes: P pairs of the output.
"""

from dataclasses import dataclass

import numpy as np

from userbert.data.prepare.words import DAY_US
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, first_events
from userbert.data.use.sequences import times_within

_HORIZONS = 4
"""Minimum number of horizons in a log; a longer horizon is shortened to a quarter of the log."""


@dataclass(frozen=True)
class TrainingPairs:
    """(User, cut-off) pairs, and the end of each pair's known future."""

    pairs: Pairs
    until: Int64
    """(P,): end of the known future in µs since 1970: a horizon after the cut-off, or the cut-off
    itself where the horizon would pass the bound."""


def training_pairs(
    data: PreparedData, bounds: Pairs, count: int, horizon_days: float, seed: int
) -> TrainingPairs:
    """Returns `count` cut-offs per pair of `bounds`: the bound, and random earlier cut-offs.

    The first, third, … of the earlier cut-offs are times of the user's actions, so that the model
    sees active users while they are active. The other cut-offs are uniform between the user's first
    event and the bound. If the log, from its first event to the latest bound, is shorter than four
    horizons of `horizon_days`, the horizon is a quarter of the log: otherwise few or no cut-offs
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
