"""Pretraining objectives (pretext tasks): `(model, batch, generator) -> named losses`.

In: a model, a batch and the step's generator. Out: scalar losses by name; the loop minimises their
sum. An objective takes the model, not its output, because it may change the model's input
(docs/decisions/0002-objectives-take-the-model.md). `pretrain` passes one objective to the loop.

A new objective needs a function here, a weight in `settings.Objectives` and a case in
`pretrain._objective`; if it predicts from [CLS], also heads in `model/userbert.py` (`user_heads`).
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from userbert.data.batches import UserBatch, drop_actions
from userbert.data.ragged import Int32, Int64, list_numbers
from userbert.model.embedding import Encoded
from userbert.model.userbert import UserBert
from userbert.training.masking import Selection, hide_actions, select_words

Objective = Callable[[UserBert, UserBatch, np.random.Generator], dict[str, Tensor]]
"""Returns scalar losses by name."""

SELECTED = 0.15
"""Share of a user's words that are predicted (paper §3.2)."""
ZEROED = 0.8
"""Share of the selected words whose input is zeroed (paper §3.2)."""


def masked_words(
    model: UserBert,
    batch: UserBatch,
    generator: np.random.Generator,
    *,
    keep_position: bool = False,
) -> dict[str, Tensor]:
    """Returns the losses of predicting values in selected words, most of them hidden (paper §3.2).

    With `keep_position`, the model sees the positions of hidden words, as in BERT. The loss of each
    attribute, such as `long_term.genre`, is summed over a user's selected words and averaged over
    the users of the batch (equation 1).
    """
    selection = select_words(batch, generator, selected=SELECTED, zeroed=ZEROED)
    encoded = model(batch, selection.zeroed, keep_position=keep_position)
    return _word_losses(model, batch, selection, encoded)


def weighted_objectives(
    model: UserBert,
    batch: UserBatch,
    generator: np.random.Generator,
    *,
    weights: Mapping[str, float],
    hide: tuple[float, float],
    keep_position: bool = False,
) -> dict[str, Tensor]:
    """Returns the weighted losses of the objectives `words`, `hidden` and `future`.

    A share of each user's actions, drawn between the two numbers of `hide`, is removed from the
    sequence. `hidden` predicts the values of these actions from [CLS]; `future` predicts the values
    of actions after the cut-off. Each set of values has weight 1, whatever its size. `words` masks
    the remaining words like `masked_words`.
    """
    owners: list[Int64] = []
    ids: list[Int32] = []
    original = batch
    if weights.get("hidden"):
        masks = hide_actions(batch, generator, least=hide[0], most=hide[1])
        owners = [s.user_of_action[mask] for s, mask in zip(batch.segments, masks, strict=True)]
        ids = [s.ids[:, mask] for s, mask in zip(batch.segments, masks, strict=True)]
        batch = drop_actions(batch, masks)
    losses: dict[str, Tensor] = {}
    if weights.get("words"):
        selection = select_words(batch, generator, selected=SELECTED, zeroed=ZEROED)
        encoded = model(batch, selection.zeroed, keep_position=keep_position)
        for name, loss in _word_losses(model, batch, selection, encoded).items():
            losses[name] = loss * weights["words"]
    else:
        encoded = model(batch)
    users = encoded.tokens.index_select(0, encoded.cls_index)
    if weights.get("hidden"):
        for name, loss in model.user_heads["hidden"].losses(users, owners, ids).items():
            losses[f"hidden {name}"] = loss * (weights["hidden"] / len(batch))
    if weights.get("future"):
        future = original.future
        assert future is not None
        known = torch.from_numpy(np.flatnonzero(future.known)).to(users.device)
        rank = np.cumsum(future.known) - 1
        after = [rank[list_numbers(offsets)] for offsets in future.offsets]
        heads = model.user_heads["future"]
        for name, loss in heads.losses(users.index_select(0, known), after, future.ids).items():
            losses[f"future {name}"] = loss * (weights["future"] / len(batch))
    return losses


def _word_losses(
    model: UserBert, batch: UserBatch, selection: Selection, encoded: Encoded
) -> dict[str, Tensor]:
    """Returns the loss of each segment's attributes in the selected words, averaged over users."""
    losses = {}
    for heads, segment, selected, index in zip(
        model.heads, batch.segments, selection.selected, encoded.word_index, strict=True
    ):
        places = index[torch.from_numpy(np.flatnonzero(selected)).to(index.device)]
        vectors = encoded.tokens.index_select(0, places)  # (M, H)
        for name, loss in heads.losses(vectors, segment, selected).items():
            losses[f"{segment.name}.{name}"] = loss / len(batch)
    return losses
