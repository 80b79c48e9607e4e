"""Reference implementation with Hugging Face's `BertModel` on padded segments.

In: a `UserBert`, whose weights it copies, and the same batches and selected words. Out: the same
loss and the same user vectors from standard parts: dense tables, segments padded to 128 words (or
to the batch's longest), dense heads with multi-hot targets. Benchmarks compare ours with it, and
tests check that both are equal.

Letters in shapes: B users, P places of a padded sequence, W words of a segment, M selected words,
V ids of an attribute without *none*, H hidden.
"""
# mypy: disable-error-code="no-untyped-call, union-attr, no-any-return, call-arg"

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from userbert.data.batches import SegmentBatch, UserBatch
from userbert.model.encoder import NORM_EPSILON, Encoder
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.training.masking import Selection

MAX_WORDS = 128
"""Number of words of a segment after padding (paper §4.4)."""


def bert_encoder(encoder: Encoder, config: UserBertConfig) -> nn.Module:
    """Returns Hugging Face's encoder with copies of our encoder's weights."""
    hidden = config.hidden
    bert = BertModel(
        BertConfig(
            vocab_size=2,
            hidden_size=hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.feed_forward,
            hidden_dropout_prob=config.dropout,
            # As in ours; dropout on attention weights would disable the fused kernel.
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=NORM_EPSILON,
            attn_implementation="sdpa",
        ),
        add_pooling_layer=False,
    )
    layers: Any = bert.encoder.layer
    for ours, theirs in zip(encoder.blocks, layers, strict=True):
        attention = theirs.attention
        parts = (attention.self.query, attention.self.key, attention.self.value)
        with torch.no_grad():
            for number, part in enumerate(parts):
                rows = slice(number * hidden, (number + 1) * hidden)
                part.weight.copy_(ours.query_key_value.weight[rows])
                part.bias.copy_(ours.query_key_value.bias[rows])
        attention.output.dense.load_state_dict(ours.attention_output.state_dict())
        attention.output.LayerNorm.load_state_dict(ours.attention_norm.state_dict())
        theirs.intermediate.dense.load_state_dict(ours.widen.state_dict())
        theirs.output.dense.load_state_dict(ours.narrow.state_dict())
        theirs.output.LayerNorm.load_state_dict(ours.output_norm.state_dict())
    return bert.encoder


class Reference(nn.Module):
    """The paper's network from standard parts, with copies of a `UserBert`'s weights."""

    def __init__(self, model: UserBert, *, trimmed: bool) -> None:
        super().__init__()
        self.trimmed = trimmed
        """Whether segments are padded to the batch's longest instead of 128 words."""
        embedding = model.embedding
        self.tables: Any = nn.ModuleList(
            nn.ModuleList(_bag(weight) for weight in weights)
            for weights in embedding.attribute_vectors()
        )
        self.projections = nn.ModuleList(_linear(part.project) for part in embedding.segments)
        self.positions = nn.ModuleList(
            nn.Embedding.from_pretrained(part.position.weight.detach().clone(), freeze=False)
            for part in embedding.segments
        )
        self.segment_vectors = nn.ParameterList(
            part.segment.detach().clone() for part in embedding.segments
        )
        self.profile: Any = nn.ModuleList(
            nn.Embedding.from_pretrained(
                embedding.profile.vectors(field).detach().clone(), freeze=False, padding_idx=0
            )
            for field in range(len(model.shape.profile))
        )
        self.profile_segment = nn.Parameter(embedding.profile_segment.detach().clone())
        self.cls = nn.Parameter(embedding.cls.detach().clone())
        self.norm = nn.LayerNorm(len(self.cls), NORM_EPSILON)
        self.norm.load_state_dict(embedding.norm.state_dict())
        self.dropout = nn.Dropout(model.config.dropout)
        self.encoder = bert_encoder(model.encoder, model.config)
        self.heads: Any = nn.ModuleList(
            nn.ModuleList(_linear(head.project) for head in heads.attributes)
            for heads in model.heads
        )

    def forward(self, batch: UserBatch, selection: Selection) -> Tensor:
        """Returns the pretraining loss: sum over selected words and attributes, mean over users."""
        encoded, words = self._encode(batch, selection.zeroed)
        loss = encoded.new_zeros(())
        start = 1
        for heads, segment, selected, is_word in zip(
            self.heads, batch.segments, selection.selected, words, strict=True
        ):
            is_selected = torch.zeros_like(is_word)
            is_selected[is_word] = torch.from_numpy(selected)
            users, position = is_selected.nonzero(as_tuple=True)
            selected_vectors = encoded[users, start + position]  # (M, H)
            start += is_word.shape[1]
            for attribute, head in enumerate(heads):
                targets = multi_hot(segment, selected, attribute, head.out_features)
                loss = loss - (targets * head(selected_vectors).float().log_softmax(dim=1)).sum()
        return loss / len(batch)

    def embed(self, batch: UserBatch) -> Tensor:
        """Returns the mean of the final vectors of each user's words (B, H).

        Users without words have the final vector of [CLS].
        """
        encoded, words = self._encode(batch)
        is_word = torch.cat(words, dim=1)[..., None]  # (B, P, 1)
        word_vectors = encoded[:, 1 : 1 + is_word.shape[1]]
        counts = is_word.sum(dim=1)
        mean = (word_vectors * is_word).sum(dim=1) / counts.clamp(min=1)
        return torch.where(counts > 0, mean, encoded[:, 0])

    def _encode(
        self, batch: UserBatch, zeroed: Sequence[NDArray[np.bool_]] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns final vectors (B, P, H), and a mask of the words of each segment (B, places).

        `zeroed` says for each segment which words (W,) have an input vector of zeros.
        """
        pieces = [self.cls.expand(len(batch), 1, -1)]
        valid = [torch.ones(len(batch), 1, dtype=torch.bool)]
        keep = [valid[0]]
        for number, segment in enumerate(batch.segments):
            counts = torch.from_numpy(segment.word_counts)
            padded = int(counts.max()) if self.trimmed else MAX_WORDS
            is_word = torch.arange(padded) < counts[:, None]  # (B, padded)
            words = self.words(number, segment)  # (W, H)
            padded_words = words.new_zeros(len(batch), padded, words.shape[1])
            padded_words[is_word] = words
            pieces.append(padded_words)
            valid.append(is_word)
            is_kept = is_word.clone()
            if zeroed is not None:
                is_kept[is_word] = torch.from_numpy(~zeroed[number])
            keep.append(is_kept)
        for field, table in enumerate(self.profile):
            ids = torch.from_numpy(np.ascontiguousarray(batch.profile_ids[:, field]))
            pieces.append((table(ids) + self.profile_segment)[:, None])
            valid.append((ids > 0)[:, None])
            keep.append(valid[-1])
        vectors = self.dropout(self.norm(torch.cat(pieces, dim=1)))  # (B, P, H)
        vectors = vectors * torch.cat(keep, dim=1)[..., None]
        mask = torch.cat(valid, dim=1)[:, None, None, :]  # (B, 1, 1, P)
        mask = mask.expand(-1, 1, mask.shape[-1], -1)
        encoded = self.encoder(vectors, attention_mask=mask).last_hidden_state
        return encoded, valid[1 : 1 + len(batch.segments)]

    def words(self, number: int, segment: SegmentBatch) -> Tensor:
        """Returns the words of segment `number` before layer normalization (W, H)."""
        offsets = torch.from_numpy(segment.action_offsets.astype(np.int32))
        sums = [
            bag(torch.from_numpy(ids), offsets)
            for bag, ids in zip(self.tables[number], segment.ids, strict=True)
        ]
        means = torch.cat(sums, dim=1) / offsets.diff()[:, None]
        positions = self.positions[number](torch.from_numpy(segment.positions))
        return self.projections[number](means) + positions + self.segment_vectors[number]


def multi_hot(
    segment: SegmentBatch, selected: NDArray[np.bool_], attribute: int, values: int
) -> Tensor:
    """Returns the binary vectors y of equation 1 (M, V): which ids each selected word holds.

    `selected` is a mask of the words (W,); column v is for id v + 1.
    """
    sizes = np.diff(segment.action_offsets)
    actions = np.flatnonzero(np.repeat(selected, sizes))
    words = np.repeat(np.arange(np.count_nonzero(selected)), sizes[selected])
    ids = segment.ids[attribute, actions]
    known = ids > 0
    targets = torch.zeros(int(selected.sum()), values)
    targets[words[known], ids[known] - 1] = 1
    return targets


def _bag(weight: Tensor) -> nn.EmbeddingBag:
    """Returns a trainable copy of a table that sums the rows of each bag."""
    return nn.EmbeddingBag.from_pretrained(
        weight.detach().clone(), freeze=False, mode="sum", padding_idx=0, include_last_offset=True
    )


def _linear(layer: nn.Linear) -> nn.Linear:
    """Returns a copy of a linear layer, as a plain `nn.Linear`."""
    copy = nn.Linear(layer.in_features, layer.out_features)
    copy.load_state_dict(layer.state_dict())
    return copy
