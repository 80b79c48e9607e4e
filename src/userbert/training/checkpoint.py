"""Checkpoints: all that a training run needs to go on as if it had never stopped.

In: a module and its optimizer. Out: one safetensors file a checkpoint, whose name says the step and
its SHA-256: it is there whole or not at all, and tells when it is damaged. Every draw of a step
comes from (seed, step), so no generator has to be saved. The loop uses it.

The folder beside an output in which a run lives until its model is whole.

In: the output, and what the run is. Out: a folder for its metrics and checkpoints, which becomes
the model's. Used by `pretrain` alone.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from userbert.errors import InputError, ModelError
from userbert.folders import checksum, sync, why_not_written
from userbert.progress import warn
from userbert.resuming import resumable
from userbert.training.optim import Adam, optimizer_tensors, restore_optimizer

METRICS_FILE = "metrics.jsonl"
"""Losses by step, in the folder of a run and of its model."""
_KEPT = 3
"""So many are kept: a disk that damages one may damage another."""
_NAME = re.compile(r"checkpoint-(?P<step>\d{8,})-(?P<checksum>[0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class RunState:
    """How far a run has come."""

    step: int = 0
    """Steps taken."""
    users: int = 0
    """User sequences seen."""
    seconds: float = 0.0
    """Time that the steps took, over all parts of the run."""


def save_checkpoint(folder: Path, module: nn.Module, optimizer: Adam, state: RunState) -> None:
    """Add a checkpoint to those in a folder, and remove the oldest beyond those that are kept.

    A crash in between leaves those that were there. Raises `InputError` if it cannot be written.
    """
    tensors = {f"module/{name}": tensor for name, tensor in module.state_dict().items()}
    memory = optimizer_tensors(optimizer)
    tensors |= {f"optimizer/{name}": tensor for name, tensor in memory.items()}
    temporary = folder / "checkpoint.partial"
    try:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={"run": json.dumps(asdict(state))},
        )
        sync(temporary)
        name = f"checkpoint-{state.step:08d}-{checksum(temporary)}.safetensors"
        temporary.rename(folder / name)
        sync(folder)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot write a checkpoint to {folder}: {why_not_written(temporary, error)}. Make "
            "room there, then go on by --resume."
        ) from error
    # Those of later steps were damaged: the run went back behind them.
    older = [path for path in checkpoints(folder) if _step(path) < state.step]
    for path in set(checkpoints(folder)) - {folder / name, *older[: _KEPT - 1]}:
        path.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a folder, damaged or not, the newest first."""
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step, reverse=True)


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint whose content is what was written, or none if none was written.

    Warns of each that is newer and damaged. Raises `ModelError` if all are.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            is_intact = checksum(path) == _part(path, "checksum")
        except OSError:
            is_intact = False
        if is_intact:
            return path
        warn(f"{path} is damaged: its content has changed. Going back to the one before it.")
    if found:
        raise ModelError(
            f"none of the {len(found)} checkpoints in {folder} is intact. "
            "Copy them back from a backup, or remove the folder and start again."
        )
    return None


def load_checkpoint(path: Path, module: nn.Module, optimizer: Adam) -> RunState:
    """Restore a module and its optimizer; raise `ModelError` if the file is not theirs."""
    device = str(next(module.parameters()).device)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            state = RunState(**json.loads(file.metadata()["run"]))
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        module.load_state_dict(_below("module/", tensors))
        restore_optimizer(optimizer, _below("optimizer/", tensors))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} is not a checkpoint of this run: {error}. "
            f"Remove {path.parent} and start again."
        ) from error
    return state


def _step(path: Path) -> int:
    return int(_part(path, "step"))


def _part(path: Path, name: str) -> str:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return match[name]


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def work_folder(output: Path) -> Path:
    """Where the run lives that will write `output`."""
    return output.with_name(f".{output.name}.training")


@contextmanager
def run_folder(
    output: Path | None, record: Mapping[str, Any], *, resume: bool, is_first: bool
) -> Iterator[Path | None]:
    """Open the run's folder, made by the first process; none if there is no output.

    A run that ends early leaves it if it can go on from it, and says how. Raises `InputError` if
    another run is in the way, or the disk is full.
    """
    work = None if output is None else work_folder(output)
    if output is None or work is None or not is_first:
        yield work
        return

    def done() -> str | None:
        return "the run up to its last checkpoint" if checkpoints(work) else None

    with resumable(output, work, record, resume=resume, done=done):
        yield work


def publish(write: Callable[[Path], None], work: Path, output: Path) -> None:
    """Let `write` fill the model's folder, whole or not at all, and remove the run's."""
    made = work / "model"
    # A kill may have left a part of it.
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    shutil.copy(work / METRICS_FILE, made / METRICS_FILE)
    write(made)
    made.rename(output)
    shutil.rmtree(work)
