"""A checkpoint: all that a training run needs to go on as if it had never stopped.

In: a module and its optimizer. Out: one safetensors file, replaced as a whole. Every draw of a
step comes from (seed, step), so no generator has to be saved. The loop uses it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from userbert.errors import ModelError
from userbert.training.optim import optimizer_tensors, restore_optimizer


@dataclass(frozen=True)
class RunState:
    """How far a run has come."""

    step: int = 0
    """Steps taken."""
    users: int = 0
    """User sequences seen."""
    seconds: float = 0.0
    """Time that the steps took, over all parts of the run."""


def save_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Adam, state: RunState
) -> None:
    """Write a checkpoint; a crash in between leaves the one before."""
    tensors = {f"module/{name}": tensor for name, tensor in module.state_dict().items()}
    memory = optimizer_tensors(module, optimizer)
    tensors |= {f"optimizer/{name}": tensor for name, tensor in memory.items()}
    temporary = path.with_name(path.name + ".partial")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        temporary,
        metadata={"run": json.dumps(asdict(state))},
    )
    temporary.replace(path)


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Adam) -> RunState:
    """Restore a module and its optimizer; raise `ModelError` if the file is not theirs."""
    device = str(next(module.parameters()).device)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            state = RunState(**json.loads(file.metadata()["run"]))
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        module.load_state_dict(_below("module/", tensors))
        restore_optimizer(module, optimizer, _below("optimizer/", tensors))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} is not a checkpoint of this run: {error}. "
            f"Remove {path.parent} and start again."
        ) from error
    return state


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
