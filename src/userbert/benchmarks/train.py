"""Benchmark of the training step: ours compared with Hugging Face's on the same batches.

In: names of workloads, and numbers of batches and turns. Out: rows of milliseconds per batch, their
ratio, and the peak speed of the machine. Competitors take turns on the same batches, so that other
load on the machine affects all of them. The command line writes the rows; docs/results shows them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from userbert.benchmarks.reference import Reference, bert_encoder
from userbert.benchmarks.workloads import WORKLOADS, Workload, draw_batches, new_model
from userbert.data.batches import UserBatch
from userbert.model.userbert import Precision, UserBert, UserBertConfig, autocast
from userbert.progress import progress
from userbert.training.masking import select_words
from userbert.training.objectives import SELECTED, ZEROED, masked_words
from userbert.training.optim import Adam
from userbert.training.settings import SAMPLES
from userbert.workers import process_pool

LEARNING_RATE = 1e-4
"""Learning rate of Adam (paper §4.4)."""
_STEPS = 400_000
"""Number of batches of the paper's pretraining (§4.4), for the column `hours_400k`."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Repeats:
    """Number of batches and of turns to measure."""

    batches: int = 16
    """Number of batches per turn; at most `BUCKET_BATCHES`."""
    rounds: int = 5
    """Number of timed turns of each competitor."""


@dataclass(frozen=True)
class Learner:
    """Training step of a competitor, and access to its weights."""

    step: Callable[[UserBatch, int], float]
    """Trains on a batch, with a number that seeds the selection of words; returns the loss."""
    encoder_weights: Callable[[], Tensor]
    """Returns all weights of the encoder as one vector, in the order of Hugging Face's encoder."""


def ours(
    samples: int | None, config: UserBertConfig | None = None, precision: Precision | None = None
) -> Learner:
    """Returns our step as in `pretrain`.

    The softmax is exact if `samples` is None, else sampled for large vocabularies. The network has
    the paper's size unless `config` says otherwise; `precision` is by default the fastest.
    """
    model = new_model(config=config).train()
    model.sample_softmax(samples)
    optimizer = Adam(model, LEARNING_RATE)
    precision = precision or model.fastest_precision(_CPU)

    def step(batch: UserBatch, number: int) -> float:
        with autocast(_CPU, precision):
            losses = masked_words(model, batch, np.random.default_rng(number))
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return Learner(step, lambda: _flat(bert_encoder(model.encoder, model.config)))


def reference(trimmed: bool, bf16: bool, config: UserBertConfig | None = None) -> Learner:
    """Returns the reference step, with the same initial weights and selected words as ours.

    `trimmed` pads segments to the batch's longest instead of 128 words. `bf16` also uses PyTorch's
    fused Adam. The network has the paper's size unless `config` says otherwise.
    """
    network = Reference(new_model(config=config), trimmed=trimmed).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=bf16 or None)

    def step(batch: UserBatch, number: int) -> float:
        generator = np.random.default_rng(number)
        selection = select_words(batch, generator, selected=SELECTED, zeroed=ZEROED)
        with autocast(_CPU, "bf16" if bf16 else "float32"):
            loss = network(batch, selection)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return Learner(step, lambda: _flat(network.encoder))


def _flat(module: nn.Module) -> Tensor:
    """Returns all weights of a module as one vector."""
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


OURS: Mapping[str, Callable[[], Learner]] = {
    "exact": lambda: ours(None),
    "sampled": lambda: ours(SAMPLES),
}
REFERENCES: Mapping[str, Callable[[], Learner]] = {
    "hf-padded": lambda: reference(trimmed=False, bf16=False),
    # A stronger peer: minimal padding, bf16, the fused optimizer.
    "hf-trimmed-bf16": lambda: reference(trimmed=True, bf16=True),
}
COMPETITORS = {**OURS, **REFERENCES}


def bench_train(names: Sequence[str], repeats: Repeats) -> list[dict[str, Any]]:
    """Returns rows of the named workloads that compare each of our variants with each reference."""
    machine = {"gemm_gflops": round(gemm_gflops()), "bandwidth_gbs": round(bandwidth_gbs(), 1)}
    rows = []
    steps = len(names) * (repeats.rounds + 1) * repeats.batches * len(COMPETITORS)
    with progress("training steps", steps) as advance:
        for name in names:
            batches = draw_batches(WORKLOADS[name])[: repeats.batches]
            turns = _take_turns(batches, repeats.rounds, advance)
            medians = {competitor: median(seconds) for competitor, seconds in turns.items()}
            for variant in OURS:
                memory = peak_memory_gib(name, variant)
                for peer in REFERENCES:
                    ratios = [
                        peer_seconds / our_seconds
                        for peer_seconds, our_seconds in zip(
                            turns[peer], turns[variant], strict=True
                        )
                    ]
                    gflops = useful_gflop(batches, variant) / len(batches) / medians[variant]
                    rows.append(
                        {
                            "workload": name,
                            "variant": variant,
                            "reference": peer,
                            "ours_ms": round(medians[variant] * 1e3, 2),
                            "reference_ms": round(medians[peer] * 1e3, 2),
                            "spread_ms": round(_spread(turns[variant]) * 1e3, 2),
                            "ratio": round(median(ratios), 2),
                            "users_per_s": round(len(batches[0]) / medians[variant], 1),
                            "gflops": round(gflops, 1),
                            **machine,
                            "hours_400k": round(medians[variant] * _STEPS / 3600, 2),
                            "peak_memory_gib": round(memory, 3),
                        }
                    )
    return rows


def _take_turns(
    batches: Sequence[UserBatch], rounds: int, advance: Callable[[int, str], None]
) -> dict[str, list[float]]:
    """Returns each competitor's mean seconds per batch in each round, without a warm-up round.

    `advance` is called after each turn with its number of batches and the competitor.
    """
    learners = {name: make() for name, make in COMPETITORS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for turn in range(rounds + 1):
        for name, learner in learners.items():
            started = time.perf_counter()
            for number, batch in enumerate(batches):
                learner.step(batch, number)
            if turn:
                seconds[name].append((time.perf_counter() - started) / len(batches))
            advance(len(batches), name)
    return seconds


def _spread(values: Sequence[float]) -> float:
    """Returns the interquartile range; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4)
    return high - low


def useful_gflop(batches: Sequence[UserBatch], variant: str) -> float:
    """Returns the operations in 10⁹ that the batches need, forward and backward, without padding.

    Counts only matrix products: words from attributes, blocks, and heads at the selected words.
    """
    model = new_model()
    model.sample_softmax(SAMPLES if variant == "sampled" else None)
    return 3 * sum(sum(_products(model, batch)) for batch in batches) / 1e9


def _products(model: UserBert, batch: UserBatch) -> Iterator[float]:
    """Yields the operations of the forward pass; the backward pass has twice as many."""
    config = model.config
    lengths = 1 + sum(segment.word_counts for segment in batch.segments)
    lengths = lengths + (batch.profile_ids > 0).sum(axis=1)
    maps = 4 * config.hidden**2 + 2 * config.hidden * config.feed_forward
    yield config.layers * 2.0 * float(lengths.sum()) * maps
    yield config.layers * 4.0 * float((lengths**2).sum()) * config.hidden
    selection = select_words(batch, np.random.default_rng(0), selected=SELECTED, zeroed=ZEROED)
    for segment_input, heads, segment, selected in zip(
        model.embedding.segments, model.heads, batch.segments, selection.selected, strict=True
    ):
        yield 2.0 * len(segment.positions) * segment_input.project.weight.numel()
        for head in heads.attributes:
            outputs = head.project.out_features if head.samples is None else head.samples
            yield 2.0 * int(selected.sum()) * outputs * config.hidden


def gemm_gflops() -> float:
    """Returns the best speed of products of large bf16 matrices, in 10⁹ operations per second."""
    left, right = (torch.randn(2048, 2048, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 2048**3 / _fastest_seconds(lambda: left @ right) / 1e9


def bandwidth_gbs() -> float:
    """Returns the best speed of copies of large arrays, in 10⁹ bytes read or written per second."""
    source = torch.randn(50_000_000)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest_seconds(lambda: target.copy_(source)) / 1e9


def _fastest_seconds(work: Callable[[], object], times: int = 10) -> float:
    """Returns the seconds of the fastest of several runs, after a warm-up run."""
    seconds = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def peak_memory_gib(workload: str, competitor: str) -> float:
    """Returns the peak memory in GiB of a separate process that trains, libraries included."""
    with process_pool(1) as pool:
        return pool.submit(_peak_memory, WORKLOADS[workload], competitor).result()


def _peak_memory(workload: Workload, competitor: str) -> float:
    """Trains on 12 batches; returns the peak memory of this process in GiB."""
    learner = COMPETITORS[competitor]()
    for number, batch in enumerate(draw_batches(workload)[:12]):
        learner.step(batch, number)
    # Not getrusage: its peak starts at the peak of the parent process.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 2**20
