"""The encoder: BERT's blocks over packed tokens (paper §4.4; Devlin et al., 2019).

In: token vectors of many users, one after the other, and how many tokens each user has. Out: as
many vectors, in which every token has seen its user's others. Linear maps and norms run on the
packed tokens; attention alone pads. Without dropout it equals Hugging Face's `BertModel` encoder
of the same weights. `UserBert` uses it.

Letters in shapes: B users, T tokens of all users, L tokens of the longest user, H hidden, K heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from userbert import kernels
from userbert.kernels.encoder import BlockShape, encode, encode_float32, fits
from userbert.model.dropout import Dropout, random_keys

NORM_EPSILON = 1e-12
"""Of every LayerNorm, as in BERT."""


class Encoder(nn.Module):
    """Post-norm transformer blocks. Dropout is on block outputs, never on attention weights."""

    def __init__(
        self, layers: int, hidden: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(number, hidden, heads, feed_forward, dropout) for number in range(layers)
        )
        # Kept, as to walk through all modules takes longer than to encode a user's first block.
        self._weights = [weight for block in self.blocks for weight in block.parameters()]
        self.dropout = Dropout(dropout)
        self.heads = heads
        self.fused = fits(hidden, heads, feed_forward) and kernels.available()
        """Whether bf16 autocast, and float32 without a gradient, may run the kernels in C."""

    def forward(self, tokens: Tensor, lengths: Tensor, keys: Tensor | None = None) -> Tensor:
        """Map token vectors (T, H), users one after the other, to (T, H).

        `lengths` (B,) counts the tokens of each user; every user has at least one. Dropout is by
        the tokens' `keys` (T,), int32; without them they are drawn.
        """
        if not len(lengths):
            return tokens
        if keys is None and self.dropout.threshold:
            keys = random_keys(len(tokens), tokens.device)
        is_float32 = self.blocks[0].widen.weight.dtype == torch.float32
        if self.fused and is_float32 and casts_to_bf16(tokens):
            return self._run_kernel(tokens, lengths, keys)
        if self.fused and is_float32 and keys is None and _wants_vectors_alone(tokens):
            return encode_float32(tokens, lengths, self._shape(), self._weights)
        padding = Padding(lengths)
        for block in self.blocks:
            tokens = block(tokens, padding, keys)
        return tokens

    def _run_kernel(self, tokens: Tensor, lengths: Tensor, keys: Tensor | None) -> Tensor:
        return encode(tokens.float(), lengths, keys, self._shape(), self._weights)

    def _shape(self) -> BlockShape:
        dropout = self.dropout
        return BlockShape(len(self.blocks), self.heads, dropout.threshold, dropout.scale)


def casts_to_bf16(tokens: Tensor) -> bool:
    """Whether products on the CPU are to be in bf16, which is what the kernels compute."""
    return (
        tokens.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _wants_vectors_alone(tokens: Tensor) -> bool:
    """Whether float32 tokens on the CPU are to be encoded in float32, without a gradient."""
    return (
        tokens.device.type == "cpu"
        and tokens.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


class Padding:
    """Where packed tokens stand in a padded array; computed once for all blocks."""

    def __init__(self, lengths: Tensor) -> None:
        self.users = len(lengths)
        self.longest = int(lengths.max()) if self.users else 0
        valid = torch.arange(self.longest, device=lengths.device) < lengths[:, None]  # (B, L)
        self.places = valid.flatten().nonzero().squeeze(1)  # (T,)
        # Users of one length need no mask, and attention is faster without.
        full = len(self.places) == valid.numel()
        self.mask = None if full else valid[:, None, None, :]  # (B, 1, 1, L)

    def pad(self, tokens: Tensor) -> Tensor:
        """Spread packed vectors (T, D) to (B, L, D), zeros where no token is."""
        padded = tokens
        if self.mask is not None:
            padded = tokens.new_zeros(self.users * self.longest, tokens.shape[1])
            padded = padded.index_copy(0, self.places, tokens)
        return padded.view(self.users, self.longest, -1)

    def pack(self, padded: Tensor) -> Tensor:
        """Collect (B, L, D) to the packed vectors (T, D)."""
        flat = padded.reshape(self.users * self.longest, -1)
        return flat if self.mask is None else flat.index_select(0, self.places)


class Block(nn.Module):
    """Self-attention and a feed-forward map, each added to its input and normed after."""

    def __init__(
        self, number: int, hidden: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.sites = (2 * number + 1, 2 * number + 2)
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, NORM_EPSILON)
        self.widen = nn.Linear(hidden, feed_forward)
        self.narrow = nn.Linear(feed_forward, hidden)
        self.output_norm = nn.LayerNorm(hidden, NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, padding: Padding, keys: Tensor | None) -> Tensor:
        """Map (T, H) to (T, H)."""
        attended = self.attention_output(self._attend(tokens, padding))
        tokens = self.attention_norm(tokens + self.dropout(attended, keys, self.sites[0]))
        changed = self.narrow(gelu(self.widen(tokens)))
        return self.output_norm(tokens + self.dropout(changed, keys, self.sites[1]))  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor, padding: Padding) -> Tensor:
        padded = padding.pad(self.query_key_value(tokens))  # (B, L, 3H)
        split = padded.view(*padded.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # (B, K, L, H / K) each
        seen = scaled_dot_product_attention(query, key, value, attn_mask=padding.mask)
        return padding.pack(seen.transpose(1, 2))  # (T, H)
