"""A network as ONNX has operations for it: the same weights and modules, other sums.

In: the tensors of `feeds.py`. Out: vectors, and of a task scores. Linear maps, norms and blocks are
the network's own. Sums over ragged groups and the places of tokens are gathers here. `export.py`
traces it.

Letters in shapes: B users, L tokens of the longest user, T tokens, H hidden, E width of a table.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from userbert.data.batches import InputShape
from userbert.export.onnx_inputs import FIELD, WORD
from userbert.model.embedding import InputEmbedding, SegmentEmbedding
from userbert.model.encoder import Encoder, Padding
from userbert.model.userbert import Pool, UserBert, side_by_side
from userbert.tasks.task_head import TaskHead
from userbert.tasks.task_model import TaskModel


class Exportable(nn.Module):
    """A `UserBert`, or a `TaskModel`, that reads feeds."""

    def __init__(self, network: UserBert | TaskModel) -> None:
        super().__init__()
        model = network.user_bert if isinstance(network, TaskModel) else network
        # Not the model as a whole: what it pretrains with is not exported.
        self.embedding: InputEmbedding = model.embedding
        self.encoder: Encoder = model.encoder
        self.shape: InputShape = model.shape
        self.pool: Pool = model.config.pool
        self.head: TaskHead | None = None
        self.head_pool: Pool | None = None
        if isinstance(network, TaskModel):
            self.head, self.head_pool = network.head, network.pool

    def forward(self, feeds: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Vectors (B, width), and of a task scores (B,) or (B, C)."""
        summary = self._summary(feeds)
        tokens = self._tokens(feeds, summary)
        places = Places(feeds["tokens.slots"], feeds["tokens.packed"], feeds["tokens.kinds"])
        for block in self.encoder.blocks:
            tokens = block(tokens, cast(Padding, places), None)
        padded = places.pad(tokens)  # (B, L, H)
        cls = padded[:, 0]
        words = _mean(padded, feeds["tokens.kinds"] == WORD, cls)
        fields = None
        if self.shape.profile:
            fields = _mean(padded, feeds["tokens.kinds"] == FIELD, cls)
        timing = None
        if self.embedding.timing is not None:
            timing = self.embedding.timing.standardised(feeds["timing"])
        everything = side_by_side(cls, words, fields, summary, timing)
        pools = {"cls": cls, "mean": words, "all": everything}
        if self.head is None or self.head_pool is None:
            return (pools[self.pool],)
        outputs = nn.Linear.forward(self.head, pools[self.head_pool])
        return pools[self.pool], self.head.scores(outputs)

    def _summary(self, feeds: Mapping[str, Tensor]) -> Tensor | None:
        summary = self.embedding.summary
        if summary is None:
            return None
        values = _sums(summary.tables.weight, feeds, "summary")
        return values + summary.totals(feeds["summary.totals"])  # type: ignore[no-any-return]

    def _tokens(self, feeds: Mapping[str, Tensor], summary: Tensor | None) -> Tensor:
        """What enters the encoder: (T, H)."""
        embedding = self.embedding
        pieces = [embedding.cls.expand(feeds["tokens.slots"].shape[0], -1)]
        for shape, segment in zip(self.shape.segments, embedding.segments, strict=True):
            pieces.append(self._words(segment, feeds, shape.name))
        if self.shape.profile:
            fields = functional.embedding(feeds["profile.rows"], embedding.profile.weight)
            pieces.append(fields + embedding.profile_segment)
        if summary is not None:
            pieces.append(summary)
        packed = torch.cat(pieces).index_select(0, feeds["tokens.order"])
        return embedding.norm(packed)  # type: ignore[no-any-return]

    def _words(self, segment: SegmentEmbedding, feeds: Mapping[str, Tensor], name: str) -> Tensor:
        sums = _sums(self.embedding.tables.weight, feeds, name)  # (W, A, E)
        return segment.of_sums(sums, feeds[f"{name}.sizes"], feeds[f"{name}.positions"])

    @property
    def dynamic(self) -> dict[str, dict[int, Dim]]:
        """Of each input the dimensions that depend on the batch, those of one name alike."""
        names = {
            "tokens.order": ("tokens",),
            "tokens.packed": ("tokens",),
            "tokens.slots": ("users", "longest"),
            "tokens.kinds": ("users", "longest"),
        }
        for shape in self.shape.segments:
            names |= _dynamic_sums(shape.name)
            for part in ("groups", "sizes", "positions"):
                names[f"{shape.name}.{part}"] = (f"{shape.name}.words",)
        if self.shape.profile:
            names["profile.rows"] = ("fields",)
        if self.embedding.summary is not None:
            names |= _dynamic_sums("summary")
            for part in ("groups", "totals"):
                names[f"summary.{part}"] = ("users",)
            names["summary.weights"] = ("summary.leaves",)
        if self.embedding.timing is not None:
            names["timing"] = ("users",)
        every = sorted({name for each in names.values() for name in each})
        dims = {
            name: Dim(name if name.isidentifier() else f"d{number}")
            for number, name in enumerate(every)
        }
        return {
            name: {place: dims[each] for place, each in enumerate(found)}
            for name, found in names.items()
        }


class Places:
    """What `Padding` is to the encoder, by gathers alone."""

    def __init__(self, slots: Tensor, packed: Tensor, kinds: Tensor) -> None:
        self.slots, self.packed = slots, packed
        self.mask = (kinds > 0)[:, None, None, :]  # (B, 1, 1, L)

    def pad(self, tokens: Tensor) -> Tensor:
        """Spread packed vectors (T, D) to (B, L, D), those of any token where none is."""
        return functional.embedding(self.slots, tokens)

    def pack(self, padded: Tensor) -> Tensor:
        """Collect (B, L, D), or (B, L, K, D / K), to the packed vectors (T, D)."""
        return padded.flatten(2).flatten(0, 1).index_select(0, self.packed)


def _dynamic_sums(name: str) -> dict[str, tuple[str, ...]]:
    return {
        f"{name}.leaves": (f"{name}.leaves",),
        f"{name}.inner": (f"{name}.inner",),
        f"{name}.outer": (f"{name}.outer", f"{name}.outer_width"),
    }


def _sums(table: Tensor, feeds: Mapping[str, Tensor], name: str) -> Tensor:
    """The sum of a table's rows of each group: (*groups, E); see `feeds.py`."""
    rows = functional.embedding(feeds[f"{name}.leaves"], table)
    if f"{name}.weights" in feeds:
        rows = rows * feeds[f"{name}.weights"][..., None]
    sums = torch.cat([table.new_zeros(1, table.shape[1]), rows.sum(dim=1)])
    for level in ("inner", "outer"):
        above = functional.embedding(feeds[f"{name}.{level}"], sums).sum(dim=1)
        sums = torch.cat([sums, above])
    return functional.embedding(feeds[f"{name}.groups"], sums)


def _mean(padded: Tensor, is_one: Tensor, cls: Tensor) -> Tensor:
    """The mean of those of the tokens (B, L, H) that are `is_one` (B, L); of none, its [CLS]."""
    weights = is_one.to(padded.dtype)
    counts = weights.sum(dim=1, keepdim=True)
    sums = torch.matmul(weights[:, None], padded)[:, 0]
    return torch.where(counts > 0, sums / counts.clamp(min=1), cls)
