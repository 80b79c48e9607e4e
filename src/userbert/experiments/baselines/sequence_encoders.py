"""The LSTM and Transformer baselines: a tower per segment and a profile tower (paper §4.3).

In: a `UserBatch`. Out: a vector per user. Both baselines read UserBERT's words: "The same
discretization and input generation is applied to long-term and short-term user behavior". The
Transformer has "two different" encoders, each with UserBERT's architecture. An encoder reads its
own first token and the words of one segment, so no word attends to the other segment.

Letters in shapes: B users, T tokens, W words of a segment, H hidden.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from userbert.data.batches import InputShape, UserBatch
from userbert.experiments.baselines.towers import (
    DROPOUT,
    WIDTH,
    CombiningLayer,
    last_states,
    segment_embedding,
    select_segment,
)
from userbert.model.embedding import InputEmbedding, init_as_bert
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
        self.combined = CombiningLayer(shape)

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the vectors of users (B, WIDTH)."""
        # The matrix products of one step are small, so casting to bf16 takes longer than it saves.
        with autocast(self.combined.linear.weight.device, "float32"):
            tower_vectors = [
                tower(select_segment(batch, number)) for number, tower in enumerate(self.towers)
            ]
            return self.combined(batch, tower_vectors)  # type: ignore[no-any-return]


class LstmTower(nn.Module):
    """LSTM over a segment's words: its last hidden state, or zeros for users without words."""

    def __init__(self, embedding: InputEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        self.network = nn.LSTM(WIDTH, WIDTH)

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the vectors (B, H) of a batch with a single segment."""
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
        self.combined = CombiningLayer(shape)

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the vectors of users (B, WIDTH)."""
        tower_vectors = [
            tower(select_segment(batch, number)) for number, tower in enumerate(self.towers)
        ]
        with autocast(self.combined.linear.weight.device, "float32"):
            return self.combined(batch, [vectors.float() for vectors in tower_vectors])  # type: ignore[no-any-return]


class TransformerTower(nn.Module):
    """Encoder over a segment's words: its output for the first token."""

    def __init__(self, embedding: InputEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        # UserBERT's size (§4.4): "the architecture is the same", and the paper gives no other size.
        self.encoder = Encoder(4, WIDTH, 4, 4 * WIDTH, DROPOUT).apply(init_as_bert)

    def forward(self, batch: UserBatch) -> Tensor:
        """Returns the vectors (B, H) of a batch with a single segment."""
        with autocast(self.embedding.cls.device, "float32"):
            encoded = self.embedding(batch)
        tokens = self.encoder(encoded.tokens, encoded.lengths, encoded.keys)  # (T, H)
        return tokens.index_select(0, encoded.cls_index)  # type: ignore[no-any-return]
