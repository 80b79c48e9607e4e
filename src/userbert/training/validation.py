"""How well a model does on users that it does not learn from.

In: pairs, a model, an objective. Out: which pairs are held out, and mean losses over them.
`pretrain` logs these beside the training loss. Each process validates on its own users: it has read
their shards anyway, and none waits for another.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from userbert.data.batches import UserBatch
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs
from userbert.data.use.sequences import cut
from userbert.model.userbert import Precision, UserBert, autocast
from userbert.training.distributed import ALONE, Processes, gathered
from userbert.training.objectives import Objective

_PAIRS = 2_048
"""At most so many pairs are validated on: enough to see a loss rise, quick enough to do often."""
_BATCH = 64


def is_held_out(data: PreparedData, rows: Int64, share: float) -> NDArray[np.bool_]:
    """(P,): whether users, by row, are validated on; the others are learned from.

    A user's side follows from the id alone, so runs of other seeds and months validate alike.
    """
    hashes = np.concatenate([shard.user_hashes for shard in data.shards])[rows]
    # The high bits choose the shard; the low ones are as good as random within it.
    return (hashes % np.uint64(10_000)) < np.uint64(round(share * 10_000))


def validation_batches(
    data: PreparedData,
    held_out: Pairs,
    numbers: Int64,
    hidden: Collection[str],
    processes: Processes = ALONE,
    *,
    until: Int64 | None = None,
) -> list[UserBatch]:
    """The batches to validate on, kept in memory: the first pairs of those held out.

    `numbers` (P,) are what `UserBatch.index` calls the pairs, `until` (P,) is how far the future of
    each goes, see `cut`. Each process takes its part.
    """
    count = min(len(held_out), len(processes.share(_PAIRS)))
    parts = [slice(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]

    def users(part: slice) -> UserBatch:
        future = None if until is None else until[part]
        return cut(data, held_out.rows[part], held_out.cutoffs[part], hidden, future)

    return [replace(users(part), index=numbers[part]) for part in parts]


def mean_losses(
    model: UserBert,
    objective: Objective,
    batches: Sequence[UserBatch],
    precision: Precision = "float32",
    processes: Processes = ALONE,
) -> dict[str, float]:
    """The losses per user over the batches of all processes, without dropout; `loss` is their sum.

    The draws are the same each time, so that two values differ by the model alone.
    """
    model.eval()
    own: dict[str, float] = {}
    device = next(model.parameters()).device
    with torch.inference_mode(), autocast(device, precision):
        for batch in batches:
            for name, loss in objective(model, batch, np.random.default_rng(0)).items():
                own[name] = own.get(name, 0.0) + loss.item() * len(batch)
    parts = gathered((own, sum(map(len, batches))), processes)
    users = sum(count for _, count in parts)
    # A process without held-out users has no names.
    names = max((sums for sums, _ in parts), key=len)
    means = {name: sum(sums.get(name, 0.0) for sums, _ in parts) / users for name in names}
    return {"loss": sum(means.values()), **means}
