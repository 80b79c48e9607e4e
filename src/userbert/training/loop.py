"""The training loop of pretraining, fine-tuning and baselines.

In: a module, a function that returns its named losses on a batch, and batches by step. Out: the
trained module, lines of metrics, and checkpoints from which a run resumes bit for bit: all random
draws of a step come from (seed, step). With several processes, each runs the loop on its part of
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
from userbert.data.use.loading import Batches, read_ahead
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
    all_gather,
    exchange_gradients,
    run_on_first,
)
from userbert.training.optim import Adam
from userbert.training.tracking import NO_TRACKING, Line, Tracking

_STAGES = 20
"""Number of learning rates during the decay; small, because each change flushes all lazy rows."""

_Module = TypeVar("_Module", bound=nn.Module)
Losses = Callable[[_Module, UserBatch, np.random.Generator], Mapping[str, Tensor]]
"""Returns one or more scalar losses by name; the loop minimises their sum."""


class LoopConfig(Strict):
    """Length, learning rate and logging of a training run."""

    steps: int = Field(ge=1)
    """Number of batches."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam's learning rate (paper §4.4)."""
    decay: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, at the end, over which the learning rate falls in stages, to 1/21."""
    seed: int = Field(default=0, ge=0)
    """Seed of all random draws."""
    precision: Precision = "float32"
    """Precision of matrix products."""
    log_every: int = Field(default=50, ge=1)
    """Steps between lines of metrics."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints, and between validations."""

    def learning_rate_at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 1: constant, then falling in stages."""
        decay_steps = self.decay * self.steps
        steps_left = self.steps + 1 - step
        if steps_left > decay_steps:
            return self.learning_rate
        return self.learning_rate * ceil(steps_left / decay_steps * _STAGES) / (_STAGES + 1)


@dataclass(frozen=True)
class TrainingResult:
    """Metrics of a run, over all its interrupted parts."""

    lines: list[Line]
    """Lines of metrics, in the order of steps."""
    users: int
    """User sequences processed."""
    seconds: float
    """Duration in seconds, validations included."""


def train(
    module: _Module,
    losses: Losses[_Module],
    batches: Batches,
    config: LoopConfig,
    *,
    folder: Path | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
    processes: Processes = ALONE,
    tracking: Tracking = NO_TRACKING,
    description: str = "training",
) -> TrainingResult:
    """Trains a module in place.

    `losses` returns the losses on a batch, and `batches` yields the batches of this process. With a
    `folder`, the loop writes `metrics.jsonl` and checkpoints to it, and resumes from its newest
    intact checkpoint. `validate` returns losses by name; it runs every `checkpoint_every` steps and
    at the end. The trackers of `tracking` get all lines. `description` labels the progress bar.

    Raises `InputError` if the loss is not finite in a line of metrics, or a checkpoint cannot be
    written, and `ModelError` if all checkpoints are damaged or belong to another run.
    """
    optimizer = Adam(module, config.learning_rate, single_process=processes.world == 1)
    start = RunState()
    if folder is not None:
        newest = run_on_first(lambda: newest_intact(folder), processes)
        start = start if newest is None else load_checkpoint(newest, module, optimizer)
    parameters = list(module.parameters())
    device = parameters[0].device
    users, note, recent = start.users, "", _RecentLosses(device)
    started = time.perf_counter()
    module.train()
    with (
        # Also on interruption: the module must not keep a reference to an unused optimizer.
        closing(optimizer),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        _metrics_log(folder if processes.is_first else None, start.step) as (lines, write),
        tracking.follow(lines, folder) as track,
        closing(read_ahead(batches, start.step, config.steps)) as upcoming,
        progress(description, config.steps, is_shown=processes.is_first) as advance,
    ):

        def log(line: Line) -> None:
            write(line)
            track(line)

        advance(start.step, note)
        for step, batch in enumerate(upcoming, start.step + 1):
            generator = np.random.default_rng([config.seed, step - 1])
            # Dropout draws from torch's global generator.
            torch.manual_seed(int(generator.integers(2**63)))
            with autocast(device, config.precision):
                named = losses(module, batch, generator)
            values = torch.stack(list(named.values()))
            optimizer.set_learning_rate(config.learning_rate_at(step))
            optimizer.zero_grad()
            values.sum().backward()  # type: ignore[no-untyped-call]
            exchange_gradients(parameters, len(batch), processes)
            optimizer.step()
            recent.add(values.detach(), len(batch))

            is_checkpoint_due = step % config.checkpoint_every == 0 or step == config.steps
            if step % config.log_every == 0 or is_checkpoint_due:
                means, new_users, speed = recent.take(processes)
                users += new_users
                log(
                    {
                        "step": step,
                        "loss": _check_finite(sum(means), step),
                        "losses": dict(zip(named, means, strict=True)),
                        "learning_rate": optimizer.learning_rate,
                        "users_per_s": round(speed, 1),
                    }
                )
                note = f"loss {sum(means):.3f}, {speed:,.0f} users/s"
            if is_checkpoint_due:
                optimizer.flush()
                if validate is not None:
                    log({"step": step, "validation": dict(validate())})
                    module.train()
                if folder is not None and processes.is_first:
                    # After a power cut, the disk must hold the lines up to its newest checkpoint.
                    sync(folder / METRICS_FILE)
                    seconds = start.seconds + time.perf_counter() - started
                    save_checkpoint(folder, module, optimizer, RunState(step, users, seconds))
                recent.restart_clock()
            advance(1, note)
    return TrainingResult(lines, users, start.seconds + time.perf_counter() - started)


class _RecentLosses:
    """Losses, users and time since the last line of metrics."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros((), device=device)
        self._users = 0
        self._since = time.perf_counter()

    def add(self, losses: Tensor, users: int) -> None:
        """Adds the losses of a batch, (number of losses,), which are means over its users."""
        self._sums = self._sums + losses * users
        self._users += users

    def take(self, processes: Processes) -> tuple[list[float], int, float]:
        """Returns mean losses, users and users per second of all processes, and starts anew."""
        parts = all_gather((self._sums.tolist(), self._users), processes)
        users = sum(count for _, count in parts)
        means = [sum(sums) / users for sums in zip(*(sums for sums, _ in parts), strict=True)]
        speed = users / (time.perf_counter() - self._since)
        self._sums, self._users = torch.zeros_like(self._sums), 0
        self.restart_clock()
        return means, users, speed

    def restart_clock(self) -> None:
        """Excludes the time until now, such as a validation, from the speed."""
        self._since = time.perf_counter()


def _check_finite(loss: float, step: int) -> float:
    """Returns `loss`. Raises `InputError` if it is not finite."""
    if not math.isfinite(loss):
        raise InputError(
            f"the loss is {loss} after {step} steps: training diverged. Lower learning_rate."
        )
    return loss


@contextmanager
def _metrics_log(
    folder: Path | None, step: int
) -> Iterator[tuple[list[Line], Callable[[Line], None]]]:
    """Yields the lines of metrics up to a step, and a function that adds a line to them.

    With a folder, the lines are also in its `metrics.jsonl`.
    """
    if folder is None:
        lines: list[Line] = []
        yield lines, lines.append
        return
    path = folder / METRICS_FILE
    lines = _lines_up_to(path, step) if step else []
    with replacing_file(path) as temporary:
        temporary.write_text("".join(map(_json_line, lines)), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:

        def add(line: Line) -> None:
            lines.append(line)
            file.write(_json_line(line))
            file.flush()

        yield lines, add


def _lines_up_to(path: Path, step: int) -> list[Line]:
    """Returns the lines up to the checkpoint's step; the resumed run repeats later steps.

    Raises `ModelError` if the file cannot be read.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # The last line may be incomplete.
        lines: list[Line] = [json.loads(text) for text in texts if text.endswith("\n")]
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}. Copy it back from a backup, or remove {path.parent} "
            "and start again."
        ) from error
    return [line for line in lines if line["step"] <= step]


def _json_line(line: Line) -> str:
    return json.dumps(line) + "\n"
