"""Adam, and its state as named tensors.

In: a module. Out: its optimizer; what the optimizer remembers, by the name of each weight, so that
a checkpoint is tensors and nothing else. The loop and checkpoints use it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_MEMORY = ("step", "exp_avg", "exp_avg_sq")


def adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam with PyTorch's defaults (paper §4.4 names no others), as one kernel for all weights."""
    return torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """What Adam remembers of each weight: `weight's name/exp_avg` and the like."""
    return {
        f"{name}/{memory}": optimizer.state[weight][memory]
        for name, weight in module.named_parameters()
        if weight in optimizer.state
        for memory in _MEMORY
    }


def restore_optimizer(
    module: nn.Module, optimizer: torch.optim.Adam, tensors: Mapping[str, Tensor]
) -> None:
    """Make Adam remember what `optimizer_tensors` gave."""
    for name, weight in module.named_parameters():
        if f"{name}/step" in tensors:
            optimizer.state[weight] = {
                memory: tensors[f"{name}/{memory}"].clone() for memory in _MEMORY
            }
