"""A network for export: the same weights and modules, with gathers for sums and padding.

In: the tensors of `onnx_inputs.py`. Out: vectors, and scores for a task. Linear maps, norms and
encoder blocks are modules of the network. Sums over ragged groups, and padding, are gathers here.
`export.py` traces an `OnnxNetwork`.

Letters in shapes: B users, C classes of a task, L tokens of the longest user, T tokens of all
users, H hidden, K heads, D any width, E width of an embedding table, W words of a segment, A
attributes of a segment.
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
from userbert.model.userbert import Pool, UserBert, join_columns
from userbert.tasks.task_head import TaskHead
from userbert.tasks.task_model import TaskModel


class OnnxNetwork(nn.Module):
    """A `UserBert` or `TaskModel` that reads the inputs of `onnx_inputs.py`."""

    def __init__(self, network: UserBert | TaskModel) -> None:
        super().__init__()
        model = network.user_bert if isinstance(network, TaskModel) else network
        # Not the whole model: its pretraining heads are not exported.
        self.embedding: InputEmbedding = model.embedding
        self.encoder: Encoder = model.encoder
        self.shape: InputShape = model.shape
        self.pool: Pool = model.config.pool
        self.head: TaskHead | None = None
        self.head_pool: Pool | None = None
        if isinstance(network, TaskModel):
            self.head, self.head_pool = network.head, network.pool

    def forward(self, feeds: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Returns vectors (B, width), and for a task scores (B,) or (B, C)."""
        # torch orders the nodes of the file by the name of the parameter, so a new name in place of
        # `feeds` would change the checksum of every export.
        inputs = feeds
        summary = self._summary(inputs)
        tokens = self._tokens(inputs, summary)
        padding = GatherPadding(
            inputs["tokens.slots"], inputs["tokens.packed"], inputs["tokens.kinds"]
        )
        for block in self.encoder.blocks:
            tokens = block(tokens, cast(Padding, padding), None)
        padded = padding.pad(tokens)  # (B, L, H)
        cls = padded[:, 0]
        words = _mean(padded, inputs["tokens.kinds"] == WORD, cls)
        fields = None
        if self.shape.profile:
            fields = _mean(padded, inputs["tokens.kinds"] == FIELD, cls)
        timing = None
        if self.embedding.timing is not None:
            timing = self.embedding.timing.standardised(inputs["timing"])
        all_pools = join_columns(cls, words, fields, summary, timing)
        pools = {"cls": cls, "mean": words, "all": all_pools}
        if self.head is None or self.head_pool is None:
            return (pools[self.pool],)
        outputs = nn.Linear.forward(self.head, pools[self.head_pool])
        return pools[self.pool], self.head.scores(outputs)

    def _summary(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Returns the summary token of each user (B, H); None if the network has no summary."""
        summary = self.embedding.summary
        if summary is None:
            return None
        values = _group_sums(summary.tables.weight, inputs, "summary")
        return values + summary.totals(inputs["summary.totals"])  # type: ignore[no-any-return]

    def _tokens(self, inputs: Mapping[str, Tensor], summary: Tensor | None) -> Tensor:
        """Returns the encoder's input (T, H)."""
        embedding = self.embedding
        pieces = [embedding.cls.expand(inputs["tokens.slots"].shape[0], -1)]
        for shape, segment in zip(self.shape.segments, embedding.segments, strict=True):
            pieces.append(self._words(segment, inputs, shape.name))
        if self.shape.profile:
            fields = functional.embedding(inputs["profile.rows"], embedding.profile.weight)
            pieces.append(fields + embedding.profile_segment)
        if summary is not None:
            pieces.append(summary)
        packed = torch.cat(pieces).index_select(0, inputs["tokens.order"])
        return embedding.norm(packed)  # type: ignore[no-any-return]

    def _words(self, segment: SegmentEmbedding, inputs: Mapping[str, Tensor], name: str) -> Tensor:
        """Returns the vectors (W, H) of the words of the segment `name`."""
        sums = _group_sums(self.embedding.tables.weight, inputs, name)  # (W, A, E)
        return segment.from_sums(sums, inputs[f"{name}.sizes"], inputs[f"{name}.positions"])

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Dim]]:
        """Dynamic dimensions of each input, by axis; equal names mean equal sizes."""
        names = {
            "tokens.order": ("tokens",),
            "tokens.packed": ("tokens",),
            "tokens.slots": ("users", "longest"),
            "tokens.kinds": ("users", "longest"),
        }
        for shape in self.shape.segments:
            names |= _dynamic_sum_shapes(shape.name)
            for tensor in ("groups", "sizes", "positions"):
                names[f"{shape.name}.{tensor}"] = (f"{shape.name}.words",)
        if self.shape.profile:
            names["profile.rows"] = ("fields",)
        if self.embedding.summary is not None:
            names |= _dynamic_sum_shapes("summary")
            for tensor in ("groups", "totals"):
                names[f"summary.{tensor}"] = ("users",)
            names["summary.weights"] = ("summary.leaves",)
        if self.embedding.timing is not None:
            names["timing"] = ("users",)
        unique = sorted({name for dimensions in names.values() for name in dimensions})
        dims = {
            name: Dim(name if name.isidentifier() else f"d{number}")
            for number, name in enumerate(unique)
        }
        return {
            name: {axis: dims[dimension] for axis, dimension in enumerate(dimensions)}
            for name, dimensions in names.items()
        }


class GatherPadding:
    """Pads and packs tokens like the encoder's `Padding`, but only with gathers."""

    def __init__(self, slots: Tensor, packed: Tensor, kinds: Tensor) -> None:
        self.slots, self.packed = slots, packed
        self.mask = (kinds > 0)[:, None, None, :]  # (B, 1, 1, L)

    def pad(self, tokens: Tensor) -> Tensor:
        """Pads packed vectors (T, D) to (B, L, D); padding holds copies of some token's vector."""
        return functional.embedding(self.slots, tokens)

    def pack(self, padded: Tensor) -> Tensor:
        """Packs vectors (B, L, D), or heads (B, L, K, D / K), to (T, D)."""
        return padded.flatten(2).flatten(0, 1).index_select(0, self.packed)


def _dynamic_sum_shapes(name: str) -> dict[str, tuple[str, ...]]:
    """Returns names of the dynamic dimensions of the inputs of `_group_sums`."""
    return {
        f"{name}.leaves": (f"{name}.leaves",),
        f"{name}.inner": (f"{name}.inner",),
        f"{name}.outer": (f"{name}.outer", f"{name}.outer_width"),
    }


def _group_sums(table: Tensor, inputs: Mapping[str, Tensor], name: str) -> Tensor:
    """Returns the sum of the table rows (V, E) of each group, by the inputs that start with `name`.

    The shape is that of the input `groups`, and E.
    """
    rows = functional.embedding(inputs[f"{name}.leaves"], table)
    if f"{name}.weights" in inputs:
        rows = rows * inputs[f"{name}.weights"][..., None]
    sums = torch.cat([table.new_zeros(1, table.shape[1]), rows.sum(dim=1)])
    for level in ("inner", "outer"):
        level_sums = functional.embedding(inputs[f"{name}.{level}"], sums).sum(dim=1)
        sums = torch.cat([sums, level_sums])
    return functional.embedding(inputs[f"{name}.groups"], sums)


def _mean(padded: Tensor, is_included: Tensor, cls: Tensor) -> Tensor:
    """Returns the mean (B, H) of the tokens (B, L, H) that `is_included` (B, L) marks.

    Users without a marked token get `cls` (B, H).
    """
    weights = is_included.to(padded.dtype)
    counts = weights.sum(dim=1, keepdim=True)
    sums = torch.matmul(weights[:, None], padded)[:, 0]
    return torch.where(counts > 0, sums / counts.clamp(min=1), cls)
