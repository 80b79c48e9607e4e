"""The training loop: the only one, for pretraining, fine-tuning and baselines.

In: a module, a function that gives its named losses on a batch, batches by step. Out: the trained
module, a line of metrics every so often, and checkpoints from which a run goes on bit for bit: all
that is drawn in a step comes from (seed, step).
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from userbert.data.batches import UserBatch
from userbert.errors import InputError
from userbert.model.userbert import Precision, autocast
from userbert.progress import progress
from userbert.schema.models import Strict
from userbert.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from userbert.training.optim import adam

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"

_Module = TypeVar("_Module", bound=nn.Module)
Losses = Callable[[_Module, UserBatch, np.random.Generator], Mapping[str, Tensor]]
"""Scalar losses by name, of which the loop minimises the sum; at least one."""
Line = dict[str, Any]
"""One line of metrics."""


class Batches(Protocol):
    """Training batches by step, counted from 0."""

    def __getitem__(self, step: int, /) -> UserBatch:
        """The batch of a step."""
        ...


class LoopConfig(Strict):
    """How long and how fast to learn."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of Adam (paper §4.4)."""
    seed: int = Field(default=0, ge=0)
    precision: Precision = "float32"
    log_every: int = Field(default=50, ge=1)
    """Steps between two lines of metrics."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between two checkpoints, and between two validations."""


@dataclass(frozen=True)
class Trained:
    """What a run did, all parts of it together."""

    lines: list[Line]
    users: int
    """User sequences seen."""
    seconds: float


def train(
    module: _Module,
    losses: Losses[_Module],
    batches: Batches,
    config: LoopConfig,
    *,
    folder: Path | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
    description: str = "training",
) -> Trained:
    """Train a module in place.

    With a `folder`, the lines also go to `metrics.jsonl` in it, checkpoints are kept there, and a
    run that finds one goes on from it. Raises `InputError` if the loss stops being a number.
    """
    optimizer = adam(module, config.learning_rate)
    checkpoint = None if folder is None else folder / CHECKPOINT
    done = RunState()
    if checkpoint is not None and checkpoint.exists():
        done = load_checkpoint(checkpoint, module, optimizer)
    device = next(module.parameters()).device
    users, note, sums = done.users, "", torch.zeros((), device=device)
    started = logged = time.perf_counter()
    logged_step, logged_users = done.step, done.users
    module.train()
    with (
        torch.random.fork_rng(),
        _metrics(folder, done.step) as (lines, write),
        progress(description, config.steps) as advance,
    ):
        advance(done.step, note)
        for step in range(done.step, config.steps):
            batch = batches[step]
            generator = np.random.default_rng([config.seed, step])
            # Dropout draws from torch's own generator.
            torch.manual_seed(int(generator.integers(2**63)))
            with autocast(device, config.precision):
                named = losses(module, batch, generator)
            values = torch.stack(list(named.values()))
            optimizer.zero_grad()
            values.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

            users += len(batch)
            sums = sums + values.detach()
            taken, now = step + 1, time.perf_counter()
            is_pause = taken % config.checkpoint_every == 0 or taken == config.steps
            if taken % config.log_every == 0 or is_pause:
                means = (sums / (taken - logged_step)).tolist()
                speed = (users - logged_users) / (now - logged)
                write(
                    {
                        "step": taken,
                        "loss": _finite(sum(means), taken),
                        "losses": dict(zip(named, means, strict=True)),
                        "learning_rate": config.learning_rate,
                        "users_per_s": round(speed, 1),
                    }
                )
                note = f"loss {sum(means):.3f}, {speed:,.0f} users/s"
                logged, logged_step, logged_users, sums = now, taken, users, torch.zeros_like(sums)
            if is_pause and validate is not None:
                write({"step": taken, "validation": dict(validate())})
                module.train()
            if is_pause and checkpoint is not None:
                state = RunState(taken, users, done.seconds + time.perf_counter() - started)
                save_checkpoint(checkpoint, module, optimizer, state)
            if is_pause:
                logged = time.perf_counter()
            advance(1, note)
    return Trained(lines, users, done.seconds + time.perf_counter() - started)


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise InputError(
            f"the loss is {loss} after {step} steps: training diverged. Lower learning_rate."
        )
    return loss


@contextmanager
def _metrics(folder: Path | None, step: int) -> Iterator[tuple[list[Line], Callable[[Line], None]]]:
    """The lines of metrics up to a step, and the function that adds one."""
    if folder is None:
        lines: list[Line] = []
        yield lines, lines.append
        return
    path = folder / METRICS
    text = path.read_text(encoding="utf-8") if step else ""
    # What was logged after the checkpoint is done again.
    lines = [line for line in map(json.loads, text.splitlines()) if line["step"] <= step]
    with path.open("w", encoding="utf-8") as file:

        def write(line: Line) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        for line in lines:
            write(line)

        def add(line: Line) -> None:
            lines.append(line)
            write(line)

        yield lines, add
