"""Processes that train one model together, each on its share of the users.

In: what torchrun says of the processes, and the gradients of each. Out: the gradient of the mean
over the users of all, the same in every process to the last bit. One process is `Processes()`, and
nothing of torch.distributed is started for it. The command line joins, the loop exchanges.

Our gradients hold the rows that were read and no others, so they are exchanged here and not by
`DistributedDataParallel`: rows in one message, all else in another.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

_T = TypeVar("_T")

_NONE, _DENSE = -2, -1
"""What a header says of a parameter without a gradient, and of one whose gradient is dense."""


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is, and what it computes on."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """The first one alone writes files and messages."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """Those of so many things that are this process's; sizes differ by 1 at most."""
        return range(total * self.rank // self.world, total * (self.rank + 1) // self.world)


ALONE = Processes()
"""The only process, on the CPU."""


def best_device(number: int = 0) -> torch.device:
    """A GPU, by its number on this machine, if there is one."""
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def joined(environment: Mapping[str, str]) -> Iterator[Processes]:
    """Join the processes that torchrun has started; without it, be the only one.

    Where one fails, the others fail too, alike or because they wait for it: the first to fail says
    why, the others leave without a word.
    """
    device = best_device(int(environment.get("LOCAL_RANK", 0)))
    if int(environment.get("WORLD_SIZE", 1)) == 1:
        yield Processes(device=device)
        return
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    store, rank, world = next(rendezvous("env://"))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    try:
        yield Processes(rank, world, device)
    except BaseException as error:
        if store.add("failed", 1) > 1:
            raise SystemExit(1) from error
        raise
    dist.destroy_process_group()


def _end_with(parent: int) -> None:
    """End when torchrun was killed, so that no half of a run goes on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def gathered(value: _T, processes: Processes) -> list[_T]:
    """The values of all processes, by rank."""
    if processes.world == 1:
        return [value]
    values: list[Any] = [None] * processes.world
    dist.all_gather_object(values, value)
    return values


def from_first(work: Callable[[], _T], processes: Processes) -> _T:
    """Let the first process work, and tell all what came out."""
    found: list[Any] = [work() if processes.is_first else None]
    if processes.world > 1:
        dist.broadcast_object_list(found)
    result: _T = found[0]
    return result


def exchange_gradients(
    parameters: Sequence[nn.Parameter], users: int, processes: Processes
) -> None:
    """Make each gradient the mean over the users of all processes.

    Before, it is the mean over the `users` of this one. Gradients are dense, or sparse by row.
    """
    if processes.world == 1:
        return
    for part in parameters:
        if part.grad is not None and part.grad.is_sparse:
            part.grad = part.grad.coalesce()
    own = torch.tensor([users, *map(_kind, parameters)], device=processes.device)
    headers = [torch.empty_like(own) for _ in range(processes.world)]
    dist.all_gather(headers, own)
    table = torch.stack(headers).cpu()  # (processes, 1 + parameters)
    weight = users / int(table[:, 0].sum())
    kinds = table[:, 1:]
    highest = kinds.amax(dim=0).tolist()
    dense = [part for part, kind in zip(parameters, highest, strict=True) if kind == _DENSE]
    sparse = [number for number, kind in enumerate(highest) if kind > _DENSE]
    if dense:
        _exchange_dense(dense, weight)
    if sparse:
        rows = kinds[:, sparse].clamp(min=0).tolist()
        _exchange_rows([parameters[number] for number in sparse], rows, weight)


def _kind(parameter: nn.Parameter) -> int:
    """The number of rows of a sparse gradient, or what else the gradient is."""
    if parameter.grad is None:
        return _NONE
    return parameter.grad.values().shape[0] if parameter.grad.is_sparse else _DENSE


def _exchange_dense(parameters: Sequence[nn.Parameter], weight: float) -> None:
    """Sum gradients, times each process's weight, as one vector."""
    gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).mul_(weight)
    dist.all_reduce(flat)
    sizes = [part.numel() for part in parameters]
    for part, summed in zip(parameters, torch.split(flat, sizes), strict=True):
        part.grad = summed.view_as(part)


def _exchange_rows(
    parameters: Sequence[nn.Parameter], rows: Sequence[Sequence[int]], weight: float
) -> None:
    """Sum gradients that are sparse by row, times each process's weight, in one message.

    `rows` says how many of each parameter each process has. Processes send as much as the one that
    has most.
    """
    widths = [part[0].numel() for part in parameters]
    sizes = [
        [size for number, width in zip(numbers, widths, strict=True)
         for size in (number, number * width)]
        for numbers in rows
    ]  # fmt: skip
    own = torch.zeros(max(map(sum, sizes)), dtype=torch.int32, device=parameters[0].device)
    pieces = [piece for part in parameters for piece in _as_integers(part, weight)]
    if pieces:
        message = torch.cat(pieces)
        own[: len(message)] = message
    messages = [torch.empty_like(own) for _ in rows]
    dist.all_gather(messages, own)
    received = [
        torch.split(message[: sum(lengths)], lengths)
        for message, lengths in zip(messages, sizes, strict=True)
    ]
    for number, part in enumerate(parameters):
        index = torch.cat([pieces[2 * number] for pieces in received]).long()
        values = torch.cat([pieces[2 * number + 1] for pieces in received]).view(part.dtype)
        part.grad = torch.sparse_coo_tensor(
            index[None], values.view(-1, *part.shape[1:]), part.shape, check_invariants=False
        ).coalesce()


def _as_integers(parameter: nn.Parameter, weight: float) -> tuple[Tensor, ...]:
    """The rows of a gradient, and the bits of its values."""
    if parameter.grad is None:
        return ()
    values = parameter.grad.values() * weight
    return parameter.grad.indices()[0].int(), values.reshape(-1).view(torch.int32)
