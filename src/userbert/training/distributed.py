"""Processes that train one model together, each on its share of the users.

In: what torchrun says of the processes, and the gradients of each. Out: the gradient of the mean
over the users of all, the same in every process to the last bit. One process is `Processes()`, and
nothing of torch.distributed is started for it. The command line joins, the loop exchanges.

Our gradients hold the rows that were read and no others, so they are exchanged here and not by
`DistributedDataParallel`: a message that says which, and one sum of all.
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

from userbert.errors import UserBertError

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
        if not _is_first_to_fail(store):
            raise SystemExit(1) from error
        raise
    dist.destroy_process_group()


def _is_first_to_fail(store: Any) -> bool:
    try:
        return bool(store.add("failed", 1) == 1)
    except dist.DistError:
        # torchrun, which keeps the count, has ended.
        return True


def _end_with(parent: int) -> None:
    """End when torchrun was killed, so that no half of a run goes on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def _together() -> Iterator[None]:
    """Say what it means if a message to the other processes fails."""
    try:
        yield
    except RuntimeError as error:
        raise UserBertError(
            f"another process of this run has ended, or cannot be reached ({error}). Its own "
            "message says more; go on by --resume."
        ) from error


def gathered(value: _T, processes: Processes) -> list[_T]:
    """The values of all processes, by rank."""
    if processes.world == 1:
        return [value]
    values: list[Any] = [None] * processes.world
    with _together():
        dist.all_gather_object(values, value)
    return values


def from_first(work: Callable[[], _T], processes: Processes) -> _T:
    """Let the first process work, and tell all what came out."""
    found: list[Any] = [work() if processes.is_first else None]
    if processes.world > 1:
        with _together():
            dist.broadcast_object_list(found)
    result: _T = found[0]
    return result


def exchange_gradients(
    parameters: Sequence[nn.Parameter], users: int, processes: Processes
) -> None:
    """Make each gradient the mean over the users of all processes.

    Before, it is the mean over the `users` of this one. Gradients are dense, or sparse by row; of
    the latter all rows that any process has are summed.
    """
    if processes.world == 1:
        return
    for part in parameters:
        if part.grad is not None and part.grad.is_sparse:
            part.grad = part.grad.coalesce()
    header = torch.tensor([users, *map(_kind, parameters)], device=processes.device)
    headers = torch.stack(_from_all(header, processes.world)).cpu()  # (processes, 1 + parameters)
    counts = headers[:, 1:]
    highest = counts.amax(dim=0).tolist()
    sparse = [number for number, kind in enumerate(highest) if kind > _DENSE]
    rows = _rows_of_all(
        [parameters[number] for number in sparse], counts[:, sparse].clamp(min=0).tolist()
    )
    rows_of = dict(zip(sparse, rows, strict=True))
    learned = [number for number, kind in enumerate(highest) if kind != _NONE]
    gradients = [_spread(parameters[number], rows_of.get(number)) for number in learned]
    # One message: the size of many small ones is less than what they cost.
    flat = torch.cat([gradient.view(-1) for gradient in gradients])
    flat *= users / int(headers[:, 0].sum())
    with _together():
        dist.all_reduce(flat)
    sums = torch.split(flat, [gradient.numel() for gradient in gradients])
    for number, gradient, summed in zip(learned, gradients, sums, strict=True):
        part, own_rows = parameters[number], rows_of.get(number)
        mean = summed.view_as(gradient)
        part.grad = mean if own_rows is None else _by_row(part, own_rows, mean)


def _kind(parameter: nn.Parameter) -> int:
    """The number of rows of a sparse gradient, or what else the gradient is."""
    if parameter.grad is None:
        return _NONE
    return parameter.grad.values().shape[0] if parameter.grad.is_sparse else _DENSE


def _rows_of_all(parameters: Sequence[nn.Parameter], counts: list[list[int]]) -> list[Tensor]:
    """For each parameter, the rows in order that any process has a gradient of.

    `counts` says of each process how many it has of each parameter.
    """
    if not parameters:
        return []
    # Messages must be of one size.
    own = torch.zeros(max(map(sum, counts)), dtype=torch.int64, device=parameters[0].device)
    place = 0
    for part in parameters:
        if part.grad is not None:
            rows = part.grad.indices()[0]
            own[place : place + len(rows)] = rows
            place += len(rows)
    received = [
        torch.split(message[: sum(sizes)], sizes)
        for message, sizes in zip(_from_all(own, len(counts)), counts, strict=True)
    ]
    return [torch.unique(torch.cat(pieces)) for pieces in zip(*received, strict=True)]


def _spread(parameter: nn.Parameter, rows: Tensor | None) -> Tensor:
    """The gradient of all weights, or that of some rows: zero where it has none."""
    gradient = parameter.grad
    if rows is None:
        return torch.zeros_like(parameter) if gradient is None else gradient.contiguous()
    values = parameter.new_zeros(len(rows), *parameter.shape[1:])
    if gradient is not None:
        places = torch.searchsorted(rows, gradient.indices()[0])
        values.index_copy_(0, places, gradient.values())
    return values


def _by_row(parameter: nn.Parameter, rows: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        rows[None], values, parameter.shape, is_coalesced=True, check_invariants=False
    )


def _from_all(message: Tensor, world: int) -> list[Tensor]:
    """The messages, of one size, of all processes by rank."""
    messages = [torch.empty_like(message) for _ in range(world)]
    with _together():
        dist.all_gather(messages, message)
    return messages
