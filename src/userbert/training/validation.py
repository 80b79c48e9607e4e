"""How well a model does on users that it does not learn from.

In: pairs, a model, an objective. Out: the pairs held out, and mean losses over them. `pretrain`
logs these beside the training loss.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from userbert.data.batches import UserBatch
from userbert.data.pairs import Pairs
from userbert.data.sequences import cut
from userbert.data.store import PreparedData
from userbert.model.userbert import UserBert
from userbert.training.objectives import Objective

_PAIRS = 2_048
"""At most so many pairs are validated on: enough to see a loss rise, quick enough to do often."""
_BATCH = 64


def hold_out(data: PreparedData, pairs: Pairs, share: float) -> tuple[Pairs, Pairs]:
    """Part the pairs into those of users to learn from and those of users to validate on.

    A user's side follows from the id alone, so runs of other seeds and months validate alike.
    """
    hashes = np.concatenate([shard.user_hashes for shard in data.shards])[pairs.rows]
    # The high bits choose the shard; the low ones are as good as random within it.
    is_out = (hashes % np.uint64(10_000)) < np.uint64(round(share * 10_000))
    return (
        Pairs(pairs.rows[~is_out], pairs.cutoffs[~is_out]),
        Pairs(pairs.rows[is_out], pairs.cutoffs[is_out]),
    )


def validation_batches(
    data: PreparedData, held_out: Pairs, hidden: Collection[str]
) -> list[UserBatch]:
    """The batches to validate on, kept in memory: the first pairs of those held out."""
    count = min(len(held_out), _PAIRS)
    parts = [slice(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]
    return [cut(data, held_out.rows[part], held_out.cutoffs[part], hidden) for part in parts]


def mean_losses(
    model: UserBert, objective: Objective, batches: Sequence[UserBatch]
) -> dict[str, float]:
    """The losses per user over some batches, without dropout; `loss` is their sum.

    The draws are the same each time, so that two values differ by the model alone.
    """
    model.eval()
    sums: dict[str, float] = {}
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            for name, loss in objective(model, batch, np.random.default_rng(number)).items():
                sums[name] = sums.get(name, 0.0) + loss.item() * len(batch)
    users = sum(map(len, batches))
    means = {name: total / users for name, total in sums.items()}
    return {"loss": sum(means.values()), **means}
