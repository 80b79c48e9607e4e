"""Validation: held-out users, and a model's mean losses on them.

In: pairs, a model and an objective. Out: which pairs are held out, and the mean losses over
these pairs, which `pretrain` logs next to the training loss. Each process validates on held-out
users of its share of the data, because it reads the shards of these users anyway.

Letters in shapes: P pairs.
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
from userbert.training.distributed import ALONE, Processes, all_gather
from userbert.training.objectives import Objective

_PAIRS = 2_048
"""Maximum number of validation pairs of all processes: enough to see a loss rise, and fast."""
_BATCH = 64
"""Pairs in a validation batch."""


def is_held_out(data: PreparedData, rows: Int64, share: float) -> NDArray[np.bool_]:
    """Returns whether the user of each row (P,) is held out for validation.

    `share` is the share of users that are held out, rounded to 1/10,000. The split depends only on
    the user ids, so all seeds and cut-offs have the same split.
    """
    hashes = np.concatenate([shard.user_hashes for shard in data.shards])[rows]
    # The high bits choose the shard; the low bits are as good as random within a shard.
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
    """Returns the validation batches of this process: its first held-out pairs, without `hidden`.

    `held_out` are the held-out pairs of this process. `numbers` (P,) identify the pairs in
    `UserBatch.index`. `hidden` names profile fields. `until` (P,) is the end of each pair's known
    future; None: without futures. See `cut`.
    """
    count = min(len(held_out), len(processes.share(_PAIRS)))
    parts = [slice(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]

    def batch_of(part: slice) -> UserBatch:
        future = None if until is None else until[part]
        return cut(data, held_out.rows[part], held_out.cutoffs[part], hidden, future)

    return [replace(batch_of(part), index=numbers[part]) for part in parts]


def mean_losses(
    model: UserBert,
    objective: Objective,
    batches: Sequence[UserBatch],
    precision: Precision = "float32",
    processes: Processes = ALONE,
) -> dict[str, float]:
    """Returns the mean losses per pair over all processes, without dropout; `loss` is their sum.

    The random draws are the same in every call, so that only the model changes the losses. Leaves
    the model in eval mode.
    """
    model.eval()
    process_sums: dict[str, float] = {}
    device = next(model.parameters()).device
    with torch.inference_mode(), autocast(device, precision):
        for batch in batches:
            for name, loss in objective(model, batch, np.random.default_rng(0)).items():
                process_sums[name] = process_sums.get(name, 0.0) + loss.item() * len(batch)
    parts = all_gather((process_sums, sum(map(len, batches))), processes)
    users = sum(count for _, count in parts)
    # A process without held-out users has no losses.
    names = max((sums for sums, _ in parts), key=len)
    means = {name: sum(sums.get(name, 0.0) for sums, _ in parts) / users for name in names}
    return {"loss": sum(means.values()), **means}
