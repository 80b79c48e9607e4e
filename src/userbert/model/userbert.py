"""UserBERT, which turns user sequences into vectors of words and users (paper §3.2, §4.4).

In: a `UserBatch`. Out: `Encoded`, and from it user embeddings, whose columns `join_columns` puts in
order. A `UserBert` includes all that reading data needs: schema, vocabularies and hidden profile
fields. Training updates the weights, tasks add a head, and the service embeds users.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from userbert.data.batches import InputShape, UserBatch
from userbert.data.ragged import Int64
from userbert.data.store import Histories, PreparedData
from userbert.data.use.loading import check_fits, chunk_by_length
from userbert.data.use.pairs import pairs_from, user_ids_of
from userbert.data.vocabulary import Vocabularies
from userbert.errors import ModelError
from userbert.folders import publishing_folder
from userbert.model.artifact import Artifact, read_artifact, write_artifact
from userbert.model.embedding import Encoded, InputEmbedding, init_as_bert
from userbert.model.encoder import Encoder
from userbert.model.heads import SegmentHeads, UserHeads
from userbert.model.hub import folder_of, upload
from userbert.progress import progress
from userbert.schema.models import Schema
from userbert.schema.strict import Strict
from userbert.workers import map_threaded

Pool = Literal["mean", "cls", "all"]
"""Choice of user embedding, see `UserBert.user_vectors`."""
Precision = Literal["float32", "bf16"]
"""Precision of matrix products; weights are float32."""

_BATCH = 256
"""Users per forward pass."""
CHUNK = 1024
"""(User, cut-off) pairs per chunk: several batches, so that users of like length share a batch."""
_PENDING_CHUNKS = 4
"""Maximum number of pending chunks per worker thread; more keep workers busy in slow moments."""


class UserBertConfig(Strict):
    """Size and optional parts of the network."""

    layers: int = Field(default=4, ge=1)
    """Number of transformer blocks; paper §4.4: L = 4."""
    hidden: int = Field(default=128, ge=1)
    """Width of token vectors; paper §4.4: H = 128."""
    heads: int = Field(default=4, ge=1)
    """Number of attention heads; paper §4.4: A = 4."""
    feed_forward: int = Field(default=512, ge=1)
    """Width of the feed-forward maps; by default four times the default `hidden`, as in BERT."""
    attribute_width: int = Field(default=32, ge=1)
    """Width of one attribute's vector; the paper does not give it."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout probability of token vectors, as in BERT; attention weights have no dropout."""
    pool: Pool = "mean"
    """Default user embedding: mean of the words' vectors, [CLS], or all parts (`join_columns`)."""
    word_sizes: bool = False
    """Whether word vectors include the word's number of actions; in the paper they do not."""
    summary: bool = False
    """Whether an extra token summarises the counts of values; see `model/summary.py`."""
    timing: bool = False
    """Whether user embeddings of `pool=all` end with timing columns; see `model/timing.py`."""
    tells_hidden: bool = False
    """Whether the model has heads that predict hidden actions from [CLS] in pretraining."""
    tells_future: bool = False
    """Whether the model has heads that predict actions after the cut-off from [CLS]."""


class UserBert(nn.Module):
    """The network (paper §3.2, §4.4), and all that it needs to read data.

    `pretrain` makes a model, `from_pretrained` loads a model. The model keeps the heads of
    pretraining, because `predict_masked_word` and further pretraining use them.
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
        """Profile fields that the model never reads."""
        self.record = dict(record or {})
        """Record of the training: preset, seed, steps, `before` (µs since 1970) …"""
        self.embedding = InputEmbedding(
            shape,
            config.hidden,
            config.attribute_width,
            config.dropout,
            word_sizes=config.word_sizes,
            summary=config.summary,
            timing=config.timing,
        )
        self.encoder = Encoder(
            config.layers, config.hidden, config.heads, config.feed_forward, config.dropout
        )
        self.heads: Sequence[SegmentHeads] = nn.ModuleList(  # type: ignore[assignment]
            SegmentHeads(segment, config.hidden) for segment in shape.segments
        )
        has_heads = {"hidden": config.tells_hidden, "future": config.tells_future}
        self.user_heads: Mapping[str, UserHeads] = nn.ModuleDict(  # type: ignore[assignment]
            {
                name: UserHeads(shape, config.hidden, activity=name == "future")
                for name, has_head in has_heads.items()
                if has_head
            }
        )
        self.apply(init_as_bert)

    def forward(
        self,
        batch: UserBatch,
        zeroed: Sequence[NDArray[np.bool_]] | None = None,
        *,
        keep_position: bool = False,
    ) -> Encoded:
        """Encodes a batch. `zeroed`, (W,) per segment, marks words whose input vector is zeroed.

        With `keep_position`, the position and segment of these words stay.
        """
        # The embedding's matrix products are small: casting to bf16 takes longer than it saves.
        with torch.autocast(self.embedding.cls.device.type, enabled=False):
            encoded: Encoded = self.embedding(batch, zeroed, keep_position=keep_position)
        return replace(encoded, tokens=self.encoder(encoded.tokens, encoded.lengths, encoded.keys))

    def sample_softmax(self, samples: int | None) -> None:
        """Sets the sample size of heads with more than 2 `samples` ids; None: exact softmax."""
        user_heads = (part for heads in self.user_heads.values() for part in heads.segments)
        for heads in (*self.heads, *user_heads):
            for head in heads.attributes:
                # Sampling half of the ids would take as long as the exact softmax.
                is_large = samples is not None and head.project.out_features > 2 * samples
                head.samples = samples if is_large else None

    def fastest_precision(self, device: torch.device) -> Precision:
        """Returns the precision in which a device trains fastest."""
        # On CPUs, PyTorch's bf16 is slower than float32 at the paper's batch size, but the
        # kernels' bf16 is faster.
        return "bf16" if device.type == "cuda" or self.encoder.fused else "float32"

    def width(self, pool: Pool | None = None) -> int:
        """Returns the number of columns of user embeddings. `pool` replaces the model's default."""
        if (pool or self.config.pool) != "all":
            return self.config.hidden
        parts = 2 + bool(self.shape.profile) + self.config.summary
        return parts * self.config.hidden + self.timing_width(pool)

    def timing_width(self, pool: Pool | None = None) -> int:
        """Returns the number of timing columns at the end of user embeddings."""
        timing = self.embedding.timing
        return timing.width if timing is not None and (pool or self.config.pool) == "all" else 0

    def user_vectors(self, encoded: Encoded, pool: Pool | None = None) -> Tensor:
        """Returns user embeddings (B, width): mean of words' final vectors, [CLS], or all parts.

        `pool` replaces the model's default. The paper's pretraining has no loss on [CLS], so it
        trains the mean. For users without words, [CLS], which has attended to the profile, replaces
        the mean: with zeros, these users would be equal and have no cosine similarity. `all`
        concatenates [CLS], the mean, the mean of the profile fields and, if the model has them, the
        summary and the timing; all columns have about the same scale.
        """
        pool = pool or self.config.pool
        cls = encoded.tokens.index_select(0, encoded.cls_index)
        if pool == "cls":
            return cls
        words, owners = torch.cat(encoded.word_index), torch.cat(encoded.user_of_word)
        mean = _mean(encoded.tokens, words, owners, cls)
        if pool == "mean":
            return mean
        fields = None
        if self.shape.profile:
            fields = _mean(encoded.tokens, encoded.field_index, encoded.user_of_field, cls)
        return join_columns(cls, mean, fields, encoded.summary, encoded.timing)

    def embed(
        self,
        data: PreparedData,
        cutoff: str | date | datetime | None = None,
        at: Any | None = None,
        *,
        pool: Pool | None = None,
        precision: Precision = "float32",
    ) -> pl.DataFrame:
        """Returns user embeddings as a frame `user_id`, `cutoff`, `embedding`, in the pairs' order.

        An embedding has `width(pool)` float32 values without a unit. Embeds every user who has an
        event before `cutoff` (default: just after the last event), or the pairs of `at`, a frame or
        Arrow table with columns `user_id` and optionally `cutoff`. A naive cut-off is in the
        schema's `timezone`. `pool` replaces the model's default. Raises `ModelError` if
        the data have other ids than the model, `InputError` if `cutoff` or `at` is not valid.
        """
        pairs = pairs_from(data, cutoff, at)
        vectors = embed_pairs(self, data, pairs.rows, pairs.cutoffs, pool=pool, precision=precision)
        return pl.DataFrame(
            {
                "user_id": pl.Series(user_ids_of(data, pairs.rows), dtype=pl.String),
                "cutoff": pl.Series(pairs.cutoffs).cast(pl.Datetime("us", "UTC")),
                "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])),
            }
        )

    def check_fits(self, data: Histories) -> None:
        """Raises `ModelError` if the data's ids or words differ from the model's."""
        check_fits(data, self.vocabularies, self.shape, self.hidden)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a complete model folder or nothing. Raises `InputError` if the folder exists."""
        with publishing_folder(Path(folder)) as temporary:
            self.write(temporary)

    def write(self, folder: Path, *, with_card: bool = True) -> None:
        """Writes the model's files into an existing folder, with a model card if `with_card`."""
        artifact = Artifact(
            self.config.model_dump(mode="json"), self.shape, self.hidden, self.schema,
            self.vocabularies, self.record, self.state_dict(),
        )  # fmt: skip
        write_artifact(folder, artifact, with_card=with_card)

    def push_to_hub(
        self, name: str, *, private: bool = True, token: str | bool | None = None
    ) -> str:
        """Uploads the model to a hub as `name`, such as `acme/buyers`; returns its address.

        A new repository is private unless `private` is false, because a model contains values of
        the logs. Needs the extra `hub`. Raises `InputError` if `name` is not valid, or the hub
        refuses the upload.
        """
        return upload(self.write, name, private=private, token=token)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Loads a model folder, or a hub's model by its name, in eval mode.

        A name such as `acme/buyers` that is not a local folder is downloaded, at `revision` (a
        branch, tag or commit) if given, into `cache_dir` or the hub's own cache. With
        `local_files_only`, the model must be in the cache. Downloading needs the extra `hub`. A
        `Path` is always a local folder. Raises `ModelError` if the folder is damaged or the hub
        does not have the model, and `InputError` if a local folder is given with `revision`.
        """
        folder = folder_of(
            folder,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        artifact = read_artifact(folder)
        try:
            model = cls(
                UserBertConfig.model_validate(artifact.config),
                artifact.shape,
                schema=artifact.schema,
                vocabularies=artifact.vocabularies,
                hidden=artifact.hidden,
                record=artifact.record,
            )
            model.load_state_dict(artifact.weights)
        except (ValidationError, RuntimeError) as error:
            raise ModelError(
                f"{folder}: model.safetensors does not match config.json: {error}."
            ) from error
        return model.eval()


def join_columns(
    cls: Tensor,
    words: Tensor,
    fields: Tensor | None,
    summary: Tensor | None,
    timing: Tensor | None,
) -> Tensor:
    """Returns user embeddings (B, width) of pool `all`: parts (B, H) each, then timing (B, K)."""
    parts = [cls, words]
    if fields is not None:
        parts.append(fields)
    if summary is not None:
        # Gives the summary's columns the scale of the other columns.
        parts.append(layer_norm(summary, summary.shape[1:]).to(cls.dtype))
    if timing is not None:
        parts.append(timing.to(cls.dtype))
    return torch.cat(parts, dim=1)


def _mean(tokens: Tensor, index: Tensor, users: Tensor, cls: Tensor) -> Tensor:
    """Returns the mean (B, H) by user of the tokens at `index`; [CLS] for users without tokens."""
    counts = torch.bincount(users, minlength=len(cls))[:, None]
    sums = torch.zeros_like(cls).index_add(0, users, tokens.index_select(0, index))
    return torch.where(counts > 0, sums / counts.clamp(min=1), cls)


def embed_pairs(
    model: UserBert,
    data: PreparedData,
    rows: Int64,
    cutoffs: Int64,
    *,
    pool: Pool | None = None,
    precision: Precision = "float32",
) -> NDArray[np.float32]:
    """Returns user embeddings (B, width) of users in `rows` (B,) at `cutoffs` (B,), µs since 1970.

    Raises `ModelError` if the data have other ids than the model.
    """
    model.check_fits(data)
    chunks = (
        Chunk(data, rows[first : first + CHUNK], cutoffs[first : first + CHUNK])
        for first in range(0, len(rows), CHUNK)
    )
    vectors = np.empty((len(rows), model.width(pool)), np.float32)
    done = 0
    with progress("embedding", len(rows)) as advance:
        for _, part in embed_chunks(model, chunks, pool=pool, precision=precision):
            vectors[done : done + len(part)] = part
            done += len(part)
            advance(len(part), "")
    return vectors


@dataclass(frozen=True)
class Chunk:
    """(User, cut-off) pairs whose sequences are cut together."""

    data: Histories
    rows: Int64
    """(B,): rows of the users in `data`."""
    cutoffs: Int64
    """(B,): cut-offs in µs since 1970."""
    part: int = 0
    """Number that identifies the chunk for the caller."""


def embed_chunks(
    model: UserBert,
    chunks: Iterable[Chunk],
    *,
    pool: Pool | None = None,
    precision: Precision = "float32",
) -> Iterator[tuple[Chunk, NDArray[np.float32]]]:
    """Yields each chunk with its user embeddings (B, width), in order.

    On the CPU, each of PyTorch's threads processes a different chunk, so that work outside the
    network, such as cutting, also runs in parallel. On a GPU, one thread processes all chunks.
    """
    device = model.embedding.cls.device
    threads = torch.get_num_threads()
    was_training = model.training

    def work(chunk: Chunk) -> tuple[Chunk, NDArray[np.float32]]:
        torch.set_num_threads(1)
        vectors = np.empty((len(chunk.rows), model.width(pool)), np.float32)
        batches = chunk_by_length(chunk.data, chunk.rows, chunk.cutoffs, _BATCH, model.hidden)
        with torch.inference_mode(), autocast(device, precision):
            for batch in batches:
                embedded = model.user_vectors(model(batch), pool)
                vectors[batch.index] = embedded.float().cpu().numpy()
        return chunk, vectors

    model.eval()
    try:
        workers = threads if device.type == "cpu" else 1
        yield from map_threaded(work, chunks, workers, max_pending=_PENDING_CHUNKS * workers)
    finally:
        torch.set_num_threads(threads)
        model.train(was_training)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Returns a context that runs matrix products in `precision`; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
