"""The Transformer baseline: the LSTM's towers with encoders in place of LSTMs (paper §4.3).

In: a `UserBatch`. Out: a vector of each user. Its encoders are UserBERT's, "two different" ones,
each over a first token of its own and one segment's words: no word sees the other segment's.

Letters in shapes: B users, T tokens, H hidden.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch
from userbert.experiments.baselines.profile import WIDTH
from userbert.experiments.baselines.towers import (
    DROPOUT,
    Combined,
    of_segment,
    segment_embedding,
)
from userbert.model.embedding import InputEmbedding, draw_as_bert
from userbert.model.encoder import Encoder
from userbert.model.userbert import autocast


class TransformerTowers(nn.Module):
    """An encoder over the words of each segment, and the profile tower."""

    width = WIDTH

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.towers: Sequence[TransformerTower] = nn.ModuleList(  # type: ignore[assignment]
            TransformerTower(segment_embedding(segment)) for segment in shape.segments
        )
        self.combined = Combined(shape)

    def forward(self, batch: UserBatch) -> Tensor:
        """Represent users: (B, WIDTH)."""
        towers = [tower(of_segment(batch, number)) for number, tower in enumerate(self.towers)]
        with autocast(self.combined.linear.weight.device, "float32"):
            return self.combined(batch, [tower.float() for tower in towers])  # type: ignore[no-any-return]


class TransformerTower(nn.Module):
    """The first token's final vector over a segment's words."""

    def __init__(self, embedding: InputEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        # UserBERT's size (§4.4): "the architecture is the same", and the paper names no other.
        self.encoder = Encoder(4, WIDTH, 4, 4 * WIDTH, DROPOUT).apply(draw_as_bert)

    def forward(self, batch: UserBatch) -> Tensor:
        """Represent the segment of a batch that has one: (B, H)."""
        with autocast(self.embedding.cls.device, "float32"):
            encoded = self.embedding(batch)
        tokens = self.encoder(encoded.tokens, encoded.lengths, encoded.keys)  # (T, H)
        return tokens.index_select(0, encoded.cls_index)  # type: ignore[no-any-return]
