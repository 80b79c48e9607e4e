"""The encoder: BERT's blocks over packed tokens (paper §4.4; Devlin et al., 2019).

In: token vectors of many users, one user after the other, and the number of tokens per user. Out:
token vectors in which each token has attended to all tokens of its user. Linear maps and norms run
on the packed tokens; only attention pads. Without dropout the encoder equals Hugging Face's
`BertModel` encoder with the same weights. `UserBert` uses the encoder.

Letters in shapes: B users, T tokens of all users, L tokens of the longest user, H hidden, K heads,
D any width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from userbert import kernels
from userbert.kernels.encoder import BlockShape, encode, encode_float32, fits
from userbert.model.dropout import Dropout, random_keys

NORM_EPSILON = 1e-12
"""Epsilon of every LayerNorm, as in BERT."""


class Encoder(nn.Module):
    """Post-norm transformer blocks.

    Dropout applies to the outputs of attention and feed-forward maps, not to attention weights.
    """

    def __init__(
        self, layers: int, hidden: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(number, hidden, heads, feed_forward, dropout) for number in range(layers)
        )
        # Cached, because walking all modules takes longer than running a block on one user.
        self._weights = [weight for block in self.blocks for weight in block.parameters()]
        self.dropout = Dropout(dropout)
        self.heads = heads
        self.fused = fits(hidden, heads, feed_forward) and kernels.available()
        """Whether the C kernels support this size and processor.

        They run on the CPU, under bf16 autocast or in float32 without gradients.
        """

    def forward(self, tokens: Tensor, lengths: Tensor, keys: Tensor | None = None) -> Tensor:
        """Maps token vectors (T, H), users one after the other, to (T, H).

        `lengths` (B,) is the number of tokens of each user, at least 1. `keys` (T,), int32, decide
        dropout; None: random keys.
        """
        if not len(lengths):
            return tokens
        if keys is None and self.dropout.threshold:
            keys = random_keys(len(tokens), tokens.device)
        is_float32 = self.blocks[0].widen.weight.dtype == torch.float32
        if self.fused and is_float32 and casts_to_bf16(tokens):
            return self._run_kernel(tokens, lengths, keys)
        if self.fused and is_float32 and keys is None and _is_float32_inference(tokens):
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
    """Returns whether tokens are on the CPU and autocast requests bf16, as bf16 kernels need."""
    return (
        tokens.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _is_float32_inference(tokens: Tensor) -> bool:
    """Returns whether tokens are float32 on the CPU, without autocast and without gradients."""
    return (
        tokens.device.type == "cpu"
        and tokens.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


class Padding:
    """Indices of packed tokens in a padded array, computed once per batch for all blocks."""

    def __init__(self, lengths: Tensor) -> None:
        self.users = len(lengths)
        self.longest = int(lengths.max()) if self.users else 0
        valid = torch.arange(self.longest, device=lengths.device) < lengths[:, None]  # (B, L)
        self.places = valid.flatten().nonzero().squeeze(1)  # (T,)
        # If all users have the same length, no mask is needed, and attention is faster.
        full = len(self.places) == valid.numel()
        self.mask = None if full else valid[:, None, None, :]  # (B, 1, 1, L)

    def pad(self, tokens: Tensor) -> Tensor:
        """Returns packed vectors (T, D) as (B, L, D), padded with zeros."""
        padded = tokens
        if self.mask is not None:
            padded = tokens.new_zeros(self.users * self.longest, tokens.shape[1])
            padded = padded.index_copy(0, self.places, tokens)
        return padded.view(self.users, self.longest, -1)

    def pack(self, padded: Tensor) -> Tensor:
        """Returns the vectors (T, D) of a padded array (B, L, D)."""
        flat = padded.reshape(self.users * self.longest, -1)
        return flat if self.mask is None else flat.index_select(0, self.places)


class Block(nn.Module):
    """Self-attention and a feed-forward map, each added to its input and then normalized."""

    def __init__(
        self, number: int, hidden: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.sites = (2 * number + 1, 2 * number + 2)
        """Dropout sites of the attention and of the feed-forward map."""
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, NORM_EPSILON)
        self.widen = nn.Linear(hidden, feed_forward)
        self.narrow = nn.Linear(feed_forward, hidden)
        self.output_norm = nn.LayerNorm(hidden, NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, padding: Padding, keys: Tensor | None) -> Tensor:
        """Maps token vectors (T, H) to (T, H); `keys` (T,) decide dropout."""
        attended = self.attention_output(self._attend(tokens, padding))
        tokens = self.attention_norm(tokens + self.dropout(attended, keys, self.sites[0]))
        updates = self.narrow(gelu(self.widen(tokens)))
        return self.output_norm(tokens + self.dropout(updates, keys, self.sites[1]))  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor, padding: Padding) -> Tensor:
        """Returns the self-attention (T, H) of each user's tokens (T, H), before the output map."""
        padded = padding.pad(self.query_key_value(tokens))  # (B, L, 3H)
        split = padded.view(*padded.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # (B, K, L, H / K) each
        context = scaled_dot_product_attention(query, key, value, attn_mask=padding.mask)
        return padding.pack(context.transpose(1, 2))  # (T, H)
