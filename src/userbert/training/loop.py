"""The training loop: the only one, for pretraining, fine-tuning and baselines.

In: a module, a function that gives its named losses on a batch, batches by step. Out: the trained
module, a line of metrics every so often, and checkpoints from which a run goes on bit for bit: all
that is drawn in a step comes from (seed, step). Several processes run it alike, each on its part of
every batch.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from userbert.data.batches import UserBatch
from userbert.data.use.loading import Batches, ahead
from userbert.errors import InputError, ModelError
from userbert.folders import replacing_file, sync
from userbert.model.userbert import Precision, autocast
from userbert.progress import progress
from userbert.schema.strict import Strict
from userbert.training.checkpoint import (
    METRICS_FILE,
    RunState,
    load_checkpoint,
    newest_intact,
    save_checkpoint,
)
from userbert.training.distributed import (
    ALONE,
    Processes,
    exchange_gradients,
    from_first,
    gathered,
)
from userbert.training.optim import Adam
from userbert.training.tracking import UNTRACKED, Line, Tracked

_STAGES = 20
"""Of a learning rate that falls: where it changes, rows that lag behind must catch up first."""

_Module = TypeVar("_Module", bound=nn.Module)
Losses = Callable[[_Module, UserBatch, np.random.Generator], Mapping[str, Tensor]]
"""Scalar losses by name, of which the loop minimises the sum; at least one."""


class LoopConfig(Strict):
    """How long and how fast to learn."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of Adam (paper §4.4)."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """The share of the steps, at the end, over which the learning rate falls to nothing."""
    seed: int = Field(default=0, ge=0)
    precision: Precision = "float32"
    log_every: int = Field(default=50, ge=1)
    """Steps between two lines of metrics."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between two checkpoints, and between two validations."""

    def rate_of(self, step: int) -> float:
        """The learning rate of a step, counted from 1: constant, then falling by even stages."""
        falling = self.decay * self.steps
        left = self.steps + 1 - step
        if left > falling:
            return self.learning_rate
        return self.learning_rate * ceil(left / falling * _STAGES) / (_STAGES + 1)


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
    processes: Processes = ALONE,
    tracked: Tracked = UNTRACKED,
    description: str = "training",
) -> Trained:
    """Train a module in place.

    With a `folder`, the lines also go to `metrics.jsonl` in it, checkpoints are kept there, and a
    run that finds one goes on from it. Whoever is `tracked` is told them too. Raises `InputError`
    if the loss stops being a number.
    """
    optimizer = Adam(module, config.learning_rate, alone=processes.world == 1)
    done = RunState()
    if folder is not None:
        newest = from_first(lambda: newest_intact(folder), processes)
        done = done if newest is None else load_checkpoint(newest, module, optimizer)
    parameters = list(module.parameters())
    device = parameters[0].device
    users, note, recent = done.users, "", _Recent(device)
    started = time.perf_counter()
    module.train()
    with (
        # Also when the run is interrupted: a module must not be tied to what no longer learns.
        closing(optimizer),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        _metrics(folder if processes.is_first else None, done.step) as (lines, write),
        tracked.follow(lines, folder) as tell,
        closing(ahead(batches, done.step, config.steps)) as coming,
        progress(description, config.steps, is_shown=processes.is_first) as advance,
    ):

        def log(line: Line) -> None:
            write(line)
            tell(line)

        advance(done.step, note)
        for taken, batch in enumerate(coming, done.step + 1):
            generator = np.random.default_rng([config.seed, taken - 1])
            # Dropout draws from torch's own generator.
            torch.manual_seed(int(generator.integers(2**63)))
            with autocast(device, config.precision):
                named = losses(module, batch, generator)
            values = torch.stack(list(named.values()))
            optimizer.go_on_at(config.rate_of(taken))
            optimizer.zero_grad()
            values.sum().backward()  # type: ignore[no-untyped-call]
            exchange_gradients(parameters, len(batch), processes)
            optimizer.step()
            recent.add(values.detach(), len(batch))

            is_pause = taken % config.checkpoint_every == 0 or taken == config.steps
            if taken % config.log_every == 0 or is_pause:
                means, seen, speed = recent.take(processes)
                users += seen
                log(
                    {
                        "step": taken,
                        "loss": _finite(sum(means), taken),
                        "losses": dict(zip(named, means, strict=True)),
                        "learning_rate": optimizer.learning_rate,
                        "users_per_s": round(speed, 1),
                    }
                )
                note = f"loss {sum(means):.3f}, {speed:,.0f} users/s"
            if is_pause:
                optimizer.flush()
                if validate is not None:
                    log({"step": taken, "validation": dict(validate())})
                    module.train()
                if folder is not None and processes.is_first:
                    # A checkpoint that outlives a power cut must find the lines before it.
                    sync(folder / METRICS_FILE)
                    seconds = done.seconds + time.perf_counter() - started
                    save_checkpoint(folder, module, optimizer, RunState(taken, users, seconds))
                recent.restart_clock()
            advance(1, note)
    return Trained(lines, users, done.seconds + time.perf_counter() - started)


class _Recent:
    """What was learned from since the last line of metrics."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros((), device=device)
        self._users = 0
        self._since = time.perf_counter()

    def add(self, losses: Tensor, users: int) -> None:
        """Note the losses (L,) of a batch, means over its users."""
        self._sums = self._sums + losses * users
        self._users += users

    def take(self, processes: Processes) -> tuple[list[float], int, float]:
        """The mean losses of all processes, their users, and users a second; begin anew."""
        parts = gathered((self._sums.tolist(), self._users), processes)
        users = sum(count for _, count in parts)
        means = [sum(sums) / users for sums in zip(*(sums for sums, _ in parts), strict=True)]
        speed = users / (time.perf_counter() - self._since)
        self._sums, self._users = torch.zeros_like(self._sums), 0
        self.restart_clock()
        return means, users, speed

    def restart_clock(self) -> None:
        """Leave out of the speed what was not learning."""
        self._since = time.perf_counter()


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
    path = folder / METRICS_FILE
    lines = _lines_until(path, step) if step else []
    with replacing_file(path) as temporary:
        temporary.write_text("".join(map(_text, lines)), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:

        def add(line: Line) -> None:
            lines.append(line)
            file.write(_text(line))
            file.flush()

        yield lines, add


def _lines_until(path: Path, step: int) -> list[Line]:
    """The lines up to a step; what was logged after the checkpoint is done again."""
    try:
        texts = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # The last line may have been cut off in the middle.
        lines: list[Line] = [json.loads(text) for text in texts if text.endswith("\n")]
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}. Copy it back from a backup, or remove {path.parent} "
            "and start again."
        ) from error
    return [line for line in lines if line["step"] <= step]


def _text(line: Line) -> str:
    return json.dumps(line) + "\n"
