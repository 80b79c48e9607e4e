"""The Transformer baseline: the LSTM's towers with encoders in place of LSTMs (paper §4.3).

In: a `UserBatch`. Out: a vector of each user. Its encoders are UserBERT's, "two different" ones,
each over a first token of its own and one segment's words: no word sees the other segment's.

Letters in shapes: B users, T tokens, H hidden.

The LSTM baseline: three towers, of which two read words in order (paper §4.3).

In: a `UserBatch`. Out: a vector of each user. "The same discretization and input generation is
applied to long-term and short-term user behavior for this model", so its words are UserBERT's.

Letters in shapes: B users, T tokens, W words of a segment, H hidden.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch
from userbert.experiments.baselines.towers import (
    DROPOUT,
    WIDTH,
    Combined,
    last_states,
    of_segment,
    segment_embedding,
)
from userbert.model.embedding import InputEmbedding, draw_as_bert
from userbert.model.encoder import Encoder
from userbert.model.userbert import autocast


class LstmTowers(nn.Module):
    """An LSTM over the words of each segment, and the profile tower."""

    width = WIDTH

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.towers: Sequence[LstmTower] = nn.ModuleList(  # type: ignore[assignment]
            LstmTower(segment_embedding(segment)) for segment in shape.segments
        )
        self.combined = Combined(shape)

    def forward(self, batch: UserBatch) -> Tensor:
        """Represent users: (B, WIDTH)."""
        # The products of a step are small: to round what goes into them takes longer.
        with autocast(self.combined.linear.weight.device, "float32"):
            towers = [tower(of_segment(batch, number)) for number, tower in enumerate(self.towers)]
            return self.combined(batch, towers)  # type: ignore[no-any-return]


class LstmTower(nn.Module):
    """The last hidden state over a segment's words; zeros for users without any."""

    def __init__(self, embedding: InputEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.network = nn.LSTM(WIDTH, WIDTH)

    def forward(self, batch: UserBatch) -> Tensor:
        """Represent the segment of a batch that has one: (B, H)."""
        encoded = self.embedding(batch)
        words = encoded.tokens.index_select(0, encoded.word_index[0])  # (W, H)
        return last_states(self.network, words, batch.segments[0].word_counts)


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
