"""Recipes of the compared models: the encoder and how it is pretrained (paper §4.3).

In: the name of a model, and prepared data. Out: the recipe, and the encoder with new weights. Used
by the pretraining and fine-tuning of the reproduction.

Letters in shapes: B users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from userbert.data.batches import UserBatch
from userbert.data.store import PreparedData
from userbert.experiments.baselines.coles import ColesGru
from userbert.experiments.baselines.sequence_encoders import LstmTowers, TransformerTowers
from userbert.experiments.baselines.wide_deep import WideDeep
from userbert.model.encoder import Encoder
from userbert.model.userbert import Precision, UserBert, UserBertConfig

Pretext = Literal["masked-words", "multi-task", "coles"]
"""Task of pretraining."""


@dataclass(frozen=True)
class Recipe:
    """How a model is built and pretrained."""

    encoder: Literal["userbert", "wide-deep", "lstm", "transformer", "gru"]
    pretext: Pretext | None
    """Pretext task of pretraining; None: fine-tuning starts from random weights."""
    keep_position: bool = False
    """Whether masked words keep their position; see `masked_words`."""
    label_share: float = 1.0
    """Share of users that multi-task pretraining trains on (figure 4)."""
    targeting_only: bool = False
    """Whether the model runs only on the tasks of user targeting, as in the paper."""


RECIPES: Mapping[str, Recipe] = {
    "userbert": Recipe("userbert", "masked-words"),
    "wide-deep-mtl": Recipe("wide-deep", "multi-task"),
    "lstm-mtl": Recipe("lstm", "multi-task"),
    "transformer-mtl": Recipe("transformer", "multi-task"),
    "userbert-from-scratch": Recipe("userbert", None),
    "transformer-mtl-30": Recipe("transformer", "multi-task", label_share=0.3, targeting_only=True),
    "wide-deep-from-scratch": Recipe("wide-deep", None, targeting_only=True),
    "lstm-from-scratch": Recipe("lstm", None, targeting_only=True),
    "transformer-from-scratch": Recipe("transformer", None, targeting_only=True),
    "userbert-keep-position": Recipe("userbert", "masked-words", keep_position=True),
    "coles": Recipe("userbert", "coles"),
    "coles-gru": Recipe("gru", "coles"),
}
"""Recipes by name, in the order in which they run. The models of the paper's main comparison are
first."""


class FirstToken(nn.Module):
    """UserBERT with the interface of the other encoders: a user's vector is [CLS] (paper §4.4)."""

    def __init__(self, user_bert: UserBert) -> None:
        super().__init__()
        self.user_bert = user_bert
        self.width = user_bert.config.hidden

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the vectors of users (B, width)."""
        encoded = self.user_bert(batch)
        return encoded.tokens.index_select(0, encoded.cls_index)  # type: ignore[no-any-return]


UserEncoder = FirstToken | WideDeep | LstmTowers | TransformerTowers | ColesGru
"""Maps a `UserBatch` to vectors (B, width), and has the attribute `width`."""


def new_encoder(
    recipe: Recipe, data: PreparedData, hidden: Sequence[str], seed: int
) -> UserEncoder:
    """Returns an encoder with weights drawn from `seed`, without the profile fields `hidden`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = data.input_shape(hidden)
        match recipe.encoder:
            case "wide-deep":
                return WideDeep(shape)
            case "lstm":
                return LstmTowers(shape)
            case "transformer":
                return TransformerTowers(shape)
            case "gru":
                return ColesGru(shape)
        network = UserBert(
            UserBertConfig(),
            shape,
            schema=data.schema,
            vocabularies=data.vocabularies,
            hidden=hidden,
        )
        return FirstToken(network)


def fastest_precision(module: nn.Module) -> Precision:
    """Returns the fastest precision: bf16 only if the module has an encoder with our kernel."""
    has_kernel = any(
        isinstance(submodule, Encoder) and submodule.fused for submodule in module.modules()
    )
    return "bf16" if has_kernel else "float32"
