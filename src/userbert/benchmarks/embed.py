"""Benchmark of `embed`: ours compared with Hugging Face's BertModel and a GRU; also its memory.

In: prepared data of simulated users. Out: rows of users per second, their ratio, and peak memory.
We time our whole verb, from prepared data to a folder of Parquet. Of a reference, we time only the
network, on batches that are in memory, so the ratio is a lower bound. Competitors take turns on the
same users. The command line writes the rows; docs/results shows them.

Letters in shapes: B users, S segments, P places of a padded sequence, H hidden.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from userbert.benchmarks.contest import compete, gib, run
from userbert.benchmarks.reference import MAX_WORDS, Reference
from userbert.data.batches import UserBatch
from userbert.data.ragged import list_numbers
from userbert.data.store import PreparedData
from userbert.data.use.loading import batches_by_length
from userbert.data.use.pairs import pairs_at
from userbert.embedding.embed import write_embeddings
from userbert.embedding.parts import AllUsers
from userbert.model.userbert import Precision, UserBert, UserBertConfig
from userbert.progress import progress

PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")
"""Precisions of our verb; the references use float32."""
_BATCH_SIZE = 64
"""Users per batch of the references, the default of pytorch-lifestream's inference. Larger batches
are not faster here."""


class Gru(nn.Module):
    """A GRU over a user's words whose last state is the vector, as in pytorch-lifestream.

    It reads the words that `Reference` computes, segment after segment. Sequences are padded to 128
    words per segment, or to the longest user of the batch if `trimmed`.
    """

    def __init__(self, model: UserBert, *, trimmed: bool) -> None:
        super().__init__()
        self.trimmed = trimmed
        self.reference = Reference(model, trimmed=trimmed)
        hidden = model.config.hidden
        self.gru = nn.GRU(hidden, hidden, batch_first=True)

    def embed(self, batch: UserBatch) -> Tensor:
        """Returns the state after each user's last word (B, H).

        Users without words have the state after one place of padding.
        """
        words = [
            self.reference.words(*numbered_segment)
            for numbered_segment in enumerate(batch.segments)
        ]
        counts = np.stack([segment.word_counts for segment in batch.segments])  # (S, B)
        owners = np.concatenate([list_numbers(segment.word_offsets) for segment in batch.segments])
        order = torch.from_numpy(np.argsort(owners, kind="stable"))
        lengths = torch.from_numpy(counts.sum(axis=0))
        width = int(lengths.max()) if self.trimmed else len(counts) * MAX_WORDS
        is_word = torch.arange(max(width, 1)) < lengths[:, None]  # (B, P)
        padded = words[0].new_zeros(*is_word.shape, words[0].shape[1])
        padded[is_word] = torch.cat(words)[order]
        states, _ = self.gru(padded)  # (B, P, H)
        last_states: Tensor = states[torch.arange(len(batch)), (lengths - 1).clamp(min=0)]
        return last_states


REFERENCES: Mapping[str, Callable[[UserBert], Reference | Gru]] = {
    "hf-padded": lambda model: Reference(model, trimmed=False),
    "gru-padded": lambda model: Gru(model, trimmed=False),
    "gru-trimmed": lambda model: Gru(model, trimmed=True),
}


def paper_model(data: PreparedData) -> UserBert:
    """Returns an untrained model of the paper's size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = UserBertConfig()
        return UserBert(
            config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies
        ).eval()


def embed_all(data: PreparedData, output: Path, precision: Precision) -> None:
    """Embeds all users into a folder of Parquet, with our verb."""
    write_embeddings(paper_model(data), data, _all_users(data), output, precision=precision)


def _all_users(data: PreparedData) -> AllUsers:
    """Returns all users at `fit_before`, or at the default cut-off if the schema has none."""
    return AllUsers((data.schema.fit_before_us or data.default_cutoff,))


def _by_verb(precision: Precision) -> Callable[[Path, Path], None]:
    """Returns a competitor that runs our verb."""
    return lambda data, output: embed_all(PreparedData.open(data), output, precision)


COMPETITORS: Mapping[str, Callable[[Path, Path], None]] = {
    precision: _by_verb(precision) for precision in PRECISIONS
}


def bench_embed(path: Path, rounds: int) -> list[dict[str, Any]]:
    """Returns rows that compare our verb with each reference, from `rounds` turns on all users."""
    data = PreparedData.open(path)
    batches, users = _batches(data)
    seconds = _take_turns(data, batches, rounds)
    rows = []
    for precision in PRECISIONS:
        memory = gib(run(__spec__.name, precision, path).memory)
        for reference in REFERENCES:
            pairs = zip(seconds[reference], seconds[precision], strict=True)
            rows.append(
                {
                    **_row("verb", precision, users, median(seconds[precision]), memory),
                    "reference": reference,
                    "reference_users_per_s": round(users / median(seconds[reference])),
                    "ratio": round(median(theirs / ours for theirs, ours in pairs), 2),
                }
            )
    return rows


def memory_row(path: Path) -> dict[str, Any]:
    """Returns a row of our speed and peak memory in a process of its own, libraries included."""
    data = PreparedData.open(path)
    result = run(__spec__.name, "float32", path)
    no_reference = {"reference": None, "reference_users_per_s": None, "ratio": None}
    users = len(pairs_at(data, _all_users(data).cutoffs))
    return {**_row("memory", "float32", users, result.seconds, gib(result.memory)), **no_reference}


def _row(variant: str, precision: str, users: int, seconds: float, memory: float) -> dict[str, Any]:
    """Returns the columns of our verb; `memory` is in GiB."""
    return {
        "workload": "sparse",
        "variant": variant,
        "precision": precision,
        "users": users,
        "users_per_s": round(users / seconds),
        "peak_memory_gib": memory,
    }


def _batches(data: PreparedData) -> tuple[list[UserBatch], int]:
    """Returns all users in batches by length, as in our verb, and the number of users."""
    pairs = pairs_at(data, _all_users(data).cutoffs)
    batches = batches_by_length(data, pairs.rows, pairs.cutoffs, batch_size=_BATCH_SIZE)
    return list(batches), len(pairs)


def _take_turns(
    data: PreparedData, batches: Sequence[UserBatch], rounds: int
) -> dict[str, list[float]]:
    """Returns the seconds of each competitor's turns.

    The first turn, in which references embed only a few batches, is a warm-up and is not counted.
    """
    model = paper_model(data)
    peers = {name: make(model).eval() for name, make in REFERENCES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in (*PRECISIONS, *peers)}
    with (
        TemporaryDirectory(dir=data.path.parent) as folder,
        progress("turns", (rounds + 1) * len(seconds)) as advance,
    ):
        for turn in range(rounds + 1):
            for precision in PRECISIONS:
                started = time.perf_counter()
                output = Path(folder) / f"{precision}-{turn}"
                write_embeddings(model, data, _all_users(data), output, precision=precision)
                if turn:
                    seconds[precision].append(time.perf_counter() - started)
                advance(1, precision)
            for name, peer in peers.items():
                started = time.perf_counter()
                with torch.inference_mode():
                    for batch in batches if turn else batches[:: len(batches) // 4 + 1]:
                        peer.embed(batch)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
                advance(1, name)
    return seconds


if __name__ == "__main__":
    compete(COMPETITORS)
