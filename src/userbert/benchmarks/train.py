"""A training step of ours beside a straightforward one, on the same batches in one run.

In: workloads and how long to look. Out: rows of milliseconds a batch, their ratio, and what the
machine could do at best. Contestants take turns on the same batches, so that whatever else the
machine does, it does to all of them. The command line writes the rows; docs/results shows them.
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
from userbert.workers import processes

LEARNING_RATE = 1e-4
_STEPS = 400_000
"""Batches of the paper's pretraining (§4.4)."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Look:
    """How long to look."""

    batches: int = 16
    """In a turn."""
    rounds: int = 5
    """Turns of each contestant."""


@dataclass(frozen=True)
class Contestant:
    """One that learns."""

    step: Callable[[UserBatch, int], float]
    """Learn from a batch, the n-th; the loss."""
    encoder_weights: Callable[[], Tensor]
    """All weights of the encoder as one vector, in the order of Hugging Face's."""


def ours(
    samples: int | None, config: UserBertConfig | None = None, precision: Precision | None = None
) -> Contestant:
    """Our step, as `pretrain` takes it: exact, or with so many `samples` for large vocabularies."""
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

    return Contestant(step, lambda: _flat(bert_encoder(model.encoder, model.config)))


def reference(trimmed: bool, bf16: bool, config: UserBertConfig | None = None) -> Contestant:
    """The straightforward step, from the same weights, with the same words selected."""
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

    return Contestant(step, lambda: _flat(network.encoder))


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


OURS: Mapping[str, Callable[[], Contestant]] = {
    "exact": lambda: ours(None),
    "sampled": lambda: ours(SAMPLES),
}
REFERENCES: Mapping[str, Callable[[], Contestant]] = {
    "hf-padded": lambda: reference(trimmed=False, bf16=False),
    # A better peer: no more padding than the batch needs, bf16, the fused optimizer.
    "hf-trimmed-bf16": lambda: reference(trimmed=True, bf16=True),
}
CONTESTANTS = {**OURS, **REFERENCES}


def bench_train(names: Sequence[str], look: Look) -> list[dict[str, Any]]:
    """The rows of some workloads: each way of ours beside each reference."""
    machine = {"gemm_gflops": round(gemm_gflops()), "bandwidth_gbs": round(bandwidth_gbs(), 1)}
    rows = []
    steps = len(names) * (look.rounds + 1) * look.batches * len(CONTESTANTS)
    with progress("training steps", steps) as advance:
        for name in names:
            batches = draw_batches(WORKLOADS[name])[: look.batches]
            turns = _take_turns(batches, look.rounds, advance)
            middle = {contestant: median(seconds) for contestant, seconds in turns.items()}
            for variant in OURS:
                memory = peak_memory_gib(name, variant)
                for peer in REFERENCES:
                    ratios = [
                        theirs / mine
                        for theirs, mine in zip(turns[peer], turns[variant], strict=True)
                    ]
                    gflops = useful_gflop(batches, variant) / len(batches) / middle[variant]
                    rows.append(
                        {
                            "workload": name,
                            "variant": variant,
                            "reference": peer,
                            "ours_ms": round(middle[variant] * 1e3, 2),
                            "reference_ms": round(middle[peer] * 1e3, 2),
                            "spread_ms": round(_spread(turns[variant]) * 1e3, 2),
                            "ratio": round(median(ratios), 2),
                            "users_per_s": round(len(batches[0]) / middle[variant], 1),
                            "gflops": round(gflops, 1),
                            **machine,
                            "hours_400k": round(middle[variant] * _STEPS / 3600, 2),
                            "peak_memory_gib": round(memory, 3),
                        }
                    )
    return rows


def _take_turns(
    batches: Sequence[UserBatch], rounds: int, advance: Callable[[int, str], None]
) -> dict[str, list[float]]:
    """Seconds a batch of each contestant, by round; a round to warm up is not counted."""
    learners = {name: make() for name, make in CONTESTANTS.items()}
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
    """Between the first and the third quartile."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4)
    return high - low


def useful_gflop(batches: Sequence[UserBatch], variant: str) -> float:
    """10⁹ operations that the batches need, forward and backward, without any padding.

    Products alone: words from their attributes, the blocks, the heads at the selected words.
    """
    model = new_model()
    model.sample_softmax(SAMPLES if variant == "sampled" else None)
    return 3 * sum(sum(_products(model, batch)) for batch in batches) / 1e9


def _products(model: UserBert, batch: UserBatch) -> Iterator[float]:
    """Operations of the forward pass; the backward pass has twice as many."""
    config = model.config
    lengths = 1 + sum(segment.word_counts for segment in batch.segments)
    lengths = lengths + (batch.profile_ids > 0).sum(axis=1)
    maps = 4 * config.hidden**2 + 2 * config.hidden * config.feed_forward
    yield config.layers * 2.0 * float(lengths.sum()) * maps
    yield config.layers * 4.0 * float((lengths**2).sum()) * config.hidden
    selection = select_words(batch, np.random.default_rng(0), selected=SELECTED, zeroed=ZEROED)
    for part, heads, segment, selected in zip(
        model.embedding.segments, model.heads, batch.segments, selection.selected, strict=True
    ):
        yield 2.0 * len(segment.positions) * part.project.weight.numel()
        for head in heads.attributes:
            outputs = head.project.out_features if head.samples is None else head.samples
            yield 2.0 * int(selected.sum()) * outputs * config.hidden


def gemm_gflops() -> float:
    """10⁹ operations a second in products of large bf16 matrices, at best."""
    left, right = (torch.randn(2048, 2048, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 2048**3 / _best(lambda: left @ right) / 1e9


def bandwidth_gbs() -> float:
    """10⁹ bytes a second, read and written, in copies of large arrays, at best."""
    source = torch.randn(50_000_000)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source)) / 1e9


def _best(work: Callable[[], object], times: int = 10) -> float:
    """The shortest of several runs, in seconds."""
    seconds = []
    for _ in range(times + 1):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def peak_memory_gib(workload: str, contestant: str) -> float:
    """The most memory that a process of its own held while it learned, all libraries included."""
    with processes(1) as pool:
        return pool.submit(_peak_memory, WORKLOADS[workload], contestant).result()


def _peak_memory(workload: Workload, contestant: str) -> float:
    learner = CONTESTANTS[contestant]()
    for number, batch in enumerate(draw_batches(workload)[:12]):
        learner.step(batch, number)
    # Not by getrusage: a process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 2**20
