"""Checkpoints of a training run, and the work folder that holds them until the model is complete.

A checkpoint is one safetensors file with the weights and the optimizer's state. The file appears
complete or not at all. The file's name holds the step and the SHA-256 of the content, which reveals
damage. All random draws
of a step come from (seed, step), so no generator state is saved. The training loop writes and reads
checkpoints; `pretrain` opens the work folder and publishes the model from it.
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
from userbert.folders import checksum, sync, write_error_reason
from userbert.progress import warn
from userbert.resuming import resumable_run
from userbert.training.optim import Adam, optimizer_tensors, restore_optimizer

METRICS_FILE = "metrics.jsonl"
"""Name of the file of losses by step, in the work folder and in the model folder."""
_CHECKPOINTS_KEPT = 3
"""Number of checkpoints to keep: three, because a disk may damage more than the newest file."""
_FILE_NAME = re.compile(r"checkpoint-(?P<step>\d{8,})-(?P<checksum>[0-9a-f]{64})\.safetensors")
"""Name of a checkpoint's file: its step, and the SHA-256 of its content."""


@dataclass(frozen=True)
class RunState:
    """Progress of a run."""

    step: int = 0
    """Steps taken."""
    users: int = 0
    """User sequences processed."""
    seconds: float = 0.0
    """Duration in seconds, validations included, over all parts of an interrupted run."""


def save_checkpoint(folder: Path, module: nn.Module, optimizer: Adam, state: RunState) -> None:
    """Writes a checkpoint to a folder, and removes old and damaged checkpoints.

    The new checkpoint and the two before it stay. A crash keeps the earlier checkpoints. Raises
    `InputError` if the file cannot be written.
    """
    tensors = {f"module/{name}": tensor for name, tensor in module.state_dict().items()}
    state_tensors = optimizer_tensors(optimizer)
    tensors |= {f"optimizer/{name}": tensor for name, tensor in state_tensors.items()}
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
            f"cannot write a checkpoint to {folder}: {write_error_reason(temporary, error)}. Make "
            "room there, then resume the run."
        ) from error
    # Checkpoints of later steps are damaged: the run restarted from an earlier one.
    older = [path for path in checkpoints(folder) if _step(path) < state.step]
    for path in set(checkpoints(folder)) - {folder / name, *older[: _CHECKPOINTS_KEPT - 1]}:
        path.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """Returns all checkpoints in a folder, newest first, damaged ones included."""
    paths = [path for path in folder.iterdir() if _FILE_NAME.fullmatch(path.name)]
    return sorted(paths, key=_step, reverse=True)


def newest_intact(folder: Path) -> Path | None:
    """Returns the newest checkpoint whose checksum matches; None if there are no checkpoints.

    Warns of each newer, damaged checkpoint. Raises `ModelError` if every checkpoint is damaged.
    """
    paths = checkpoints(folder)
    for path in paths:
        try:
            is_intact = checksum(path) == _name_part(path, "checksum")
        except OSError:
            is_intact = False
        if is_intact:
            return path
        warn(f"{path} is damaged: its content has changed. Using the checkpoint before it.")
    if paths:
        raise ModelError(
            f"none of the {len(paths)} checkpoints in {folder} is intact. "
            "Copy them back from a backup, or remove the folder and start again."
        )
    return None


def load_checkpoint(path: Path, module: nn.Module, optimizer: Adam) -> RunState:
    """Restores a module and its optimizer from a checkpoint; returns the run's progress.

    Raises `ModelError` if the file does not match the module or the optimizer.
    """
    device = str(next(module.parameters()).device)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            state = RunState(**json.loads(file.metadata()["run"]))
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        module.load_state_dict(_with_prefix("module/", tensors))
        restore_optimizer(optimizer, _with_prefix("optimizer/", tensors))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} is not a checkpoint of this run: {error}. "
            f"Remove {path.parent} and start again."
        ) from error
    return state


def _step(path: Path) -> int:
    """Returns the step of a checkpoint, from its name."""
    return int(_name_part(path, "step"))


def _name_part(path: Path, name: str) -> str:
    """Returns the `step` or the `checksum` in a checkpoint's name."""
    match = _FILE_NAME.fullmatch(path.name)
    assert match is not None
    return match[name]


def _with_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors whose names have the prefix, under names without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def work_folder(output: Path) -> Path:
    """Returns the path of a run's work folder: a hidden folder next to `output`."""
    return output.with_name(f".{output.name}.training")


@contextmanager
def run_folder(
    output: Path | None, record: Mapping[str, Any], *, resume: bool, is_first: bool
) -> Iterator[Path | None]:
    """Opens the work folder of a run, which the first process creates; yields None without output.

    `record` holds the settings of the run. With `resume`, an interrupted run with an equal record
    continues. If the run ends early and the folder holds a checkpoint, the folder stays, and a
    warning says how to resume; else the folder is removed. Raises `InputError` if the folder holds
    an interrupted run that cannot continue, or the disk is full.
    """
    work = None if output is None else work_folder(output)
    if output is None or work is None or not is_first:
        yield work
        return

    def describe_progress() -> str | None:
        return "the run up to its last checkpoint" if checkpoints(work) else None

    with resumable_run(output, work, record, resume=resume, describe_progress=describe_progress):
        yield work


def publish(write: Callable[[Path], None], work: Path, output: Path) -> None:
    """Publishes the model folder that `write` fills at `output`, and removes the work folder.

    The model folder contains the metrics of the work folder. It appears complete or not at all.
    """
    model = work / "model"
    # A killed run may have left an incomplete model.
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir()
    shutil.copy(work / METRICS_FILE, model / METRICS_FILE)
    write(model)
    model.rename(output)
    shutil.rmtree(work)
