"""Pretraining objectives (pretext tasks): `(model, batch, generator) -> named losses`.

In: a model, a batch and the step's generator. Out: scalar losses by name; the loop minimises their
sum. An objective takes the model, not the model's output, because it may change the model's input
(docs/decisions/0002-objectives-take-the-model.md). `pretrain` passes an objective to the loop.

A new objective needs a function here, a weight in `settings.Objectives` and a case in
`pretrain._objective`; if it predicts from [CLS], also heads in `model/userbert.py` (`user_heads`).

Letters in shapes: M selected words, H hidden.
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
"""Function that returns scalar losses by name."""

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
    """Returns the losses of predicting the values of selected words, most of which are zeroed.

    With `keep_position`, the model sees the position and segment of zeroed words. The loss of each
    attribute, such as `long_term.genre`, is summed over a user's selected words and averaged over
    the users of the batch (paper §3.2, equation 1).
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

    `weights` holds each objective's weight. If `hidden` has a weight, `hide_actions` first removes
    actions of each user, with the bounds `hide` of the share; `hidden` predicts the values of these
    actions from [CLS]. `future` predicts from [CLS] the values of the actions between the cut-off
    and the end of the known future, whether there are actions, and log(1 + their number). Each set
    of values has weight 1, whatever its size. `words` masks the remaining words like
    `masked_words`. Every loss is divided by the number of users in the batch.
    """
    owners: list[Int64] = []
    ids: list[Int32] = []
    original = batch
    if weights.get("hidden"):
        masks = hide_actions(batch, generator, min_share=hide[0], max_share=hide[1])
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
    """Returns the loss of each attribute, summed over selected words and averaged over users."""
    losses = {}
    for heads, segment, selected, index in zip(
        model.heads, batch.segments, selection.selected, encoded.word_index, strict=True
    ):
        selected_index = index[torch.from_numpy(np.flatnonzero(selected)).to(index.device)]
        vectors = encoded.tokens.index_select(0, selected_index)  # (M, H)
        for name, loss in heads.losses(vectors, segment, selected).items():
            losses[f"{segment.name}.{name}"] = loss / len(batch)
    return losses
