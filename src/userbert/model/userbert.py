"""UserBERT: user sequences → vectors of words and of users (paper §3.2, §4.4).

In: a `UserBatch`. Out: `Encoded`, and from them user embeddings. A `UserBert`
carries all it needs to read data: schema, vocabularies, and which profile fields it never saw.
Training moves its weights, tasks put a head on it, serving embeds with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch
from userbert.data.vocabulary import Vocabularies
from userbert.model.embedding import (
    INIT_DEVIATION,
    AttributeTable,
    Encoded,
    InputEmbedding,
    SegmentEmbedding,
)
from userbert.model.encoder import Encoder
from userbert.model.heads import SegmentHeads
from userbert.schema.models import Schema, Strict

Pool = Literal["mean", "cls"]


class UserBertConfig(Strict):
    """The size of the network."""

    layers: int = Field(default=4, ge=1)
    """Paper §4.4: L = 4."""
    hidden: int = Field(default=128, ge=1)
    """Paper §4.4: H = 128."""
    heads: int = Field(default=4, ge=1)
    """Paper §4.4: A = 4."""
    feed_forward: int = Field(default=512, ge=1)
    """Four times `hidden`, as in BERT."""
    attribute_width: int = Field(default=32, ge=1)
    """Of one attribute's vector; the paper does not say."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of token vectors, as in BERT; attention weights have none."""
    pool: Pool = "mean"
    """What a user embedding is, unless asked otherwise."""


class UserBert(nn.Module):
    """The network, and all it needs to read data.

    Its heads belong to pretraining; they stay with it, as they say what it expects at a word.
    """

    def __init__(
        self,
        config: UserBertConfig,
        shape: InputShape,
        *,
        schema: Schema,
        vocabularies: Vocabularies,
        hidden: Sequence[str] = (),
        record: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.schema = schema
        self.vocabularies = vocabularies
        self.hidden = tuple(hidden)
        """Profile fields that it never saw."""
        self.record = dict(record or {})
        """How it was trained: preset, seed, steps, `before` (µs since 1970) …"""
        self.embedding = InputEmbedding(
            shape, config.hidden, config.attribute_width, config.dropout
        )
        self.encoder = Encoder(
            config.layers, config.hidden, config.heads, config.feed_forward, config.dropout
        )
        self.heads: Sequence[SegmentHeads] = nn.ModuleList(  # type: ignore[assignment]
            SegmentHeads(segment, config.hidden) for segment in shape.segments
        )
        self.apply(_initialise)

    def forward(
        self, batch: UserBatch, zeroed: Sequence[NDArray[np.bool_]] | None = None
    ) -> Encoded:
        """Encode a batch; `zeroed`, (W,) of each segment, says which words' inputs are zero."""
        encoded: Encoded = self.embedding(batch, zeroed)
        return replace(encoded, tokens=self.encoder(encoded.tokens, encoded.lengths))

    def user_vectors(self, encoded: Encoded, pool: Pool | None = None) -> Tensor:
        """User embeddings (B, H): the mean of the words' final vectors, or those of [CLS].

        The paper has no loss on [CLS] before fine-tuning, so the mean is what pretraining shapes.
        A user without words has [CLS] instead, which has seen the profile: zeros would put all
        such users at one point, at which no cosine is defined.
        """
        cls = encoded.tokens.index_select(0, encoded.cls_index)
        if (pool or self.config.pool) == "cls":
            return cls
        words = encoded.tokens.index_select(0, torch.cat(encoded.word_index))
        users = torch.cat(encoded.user_of_word)
        counts = torch.bincount(users, minlength=len(cls))[:, None]
        sums = torch.zeros_like(cls).index_add(0, users, words)
        return torch.where(counts > 0, sums / counts.clamp(min=1), cls)


def _initialise(module: nn.Module) -> None:
    """Draw the weights as BERT does."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, AttributeTable | SegmentEmbedding | InputEmbedding):
        module.reset_parameters()
