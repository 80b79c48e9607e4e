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

NORM_EPSILON = 1e-12
"""Of every LayerNorm, as in BERT."""


class Encoder(nn.Module):
    """Post-norm transformer blocks. Dropout is on block outputs, never on attention weights."""

    def __init__(
        self, layers: int, hidden: int, heads: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(hidden, heads, feed_forward, dropout) for _ in range(layers)
        )

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Map token vectors (T, H), users one after the other, to (T, H).

        `lengths` (B,) counts the tokens of each user; every user has at least one.
        """
        padding = Padding(lengths)
        for block in self.blocks:
            tokens = block(tokens, padding)
        return tokens


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

    def __init__(self, hidden: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, NORM_EPSILON)
        self.widen = nn.Linear(hidden, feed_forward)
        self.narrow = nn.Linear(feed_forward, hidden)
        self.output_norm = nn.LayerNorm(hidden, NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, padding: Padding) -> Tensor:
        """Map (T, H) to (T, H)."""
        attended = self.dropout(self.attention_output(self._attend(tokens, padding)))
        tokens = self.attention_norm(tokens + attended)
        changed = self.dropout(self.narrow(gelu(self.widen(tokens))))
        return self.output_norm(tokens + changed)  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor, padding: Padding) -> Tensor:
        padded = padding.pad(self.query_key_value(tokens))  # (B, L, 3H)
        split = padded.view(*padded.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)  # (B, K, L, H / K) each
        seen = scaled_dot_product_attention(query, key, value, attn_mask=padding.mask)
        return padding.pack(seen.transpose(1, 2))  # (T, H)
