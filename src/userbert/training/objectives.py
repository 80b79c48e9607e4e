"""What training minimises: functions `(model, batch, generator) -> named losses`.

In: a model, a batch, a generator of this step. Out: scalar losses by name; the loop minimises
their sum. An objective takes the model, not its output, as it may change what the model sees
(docs/decisions/0002-objectives-take-the-model.md). `pretrain` hands one to the loop.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from userbert.data.batches import UserBatch
from userbert.model.userbert import UserBert
from userbert.training.masking import select_words

Objective = Callable[[UserBert, UserBatch, np.random.Generator], dict[str, Tensor]]

SELECTED = 0.15
"""The share of a user's words that are predicted (paper §3.2)."""
ZEROED = 0.8
"""The share of the selected words whose input is zero (paper §3.2)."""


def masked_words(
    model: UserBert,
    batch: UserBatch,
    generator: np.random.Generator,
    *,
    keep_position: bool = False,
) -> dict[str, Tensor]:
    """Predict the values in selected words, most of which the model can't see (paper §3.2).

    With `keep_position` it sees where these words stand, as in BERT.

    The loss of each attribute, such as `long_term.genre`, is summed over the selected words of a
    user, and averaged over the users of the batch (equation 1).
    """
    selection = select_words(batch, generator, selected=SELECTED, zeroed=ZEROED)
    encoded = model(batch, selection.zeroed, keep_position=keep_position)
    losses = {}
    for heads, segment, selected, index in zip(
        model.heads, batch.segments, selection.selected, encoded.word_index, strict=True
    ):
        places = index[torch.from_numpy(np.flatnonzero(selected)).to(index.device)]
        vectors = encoded.tokens.index_select(0, places)  # (M, H)
        for name, loss in heads.losses(vectors, segment, selected).items():
            losses[f"{segment.name}.{name}"] = loss / len(batch)
    return losses
