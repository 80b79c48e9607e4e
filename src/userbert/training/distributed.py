"""Data-parallel training: several processes train one model, each on its share of the users.

In: torchrun's environment and the gradients of each process. Out: the mean gradient over the users
of all processes, bit-identical in each. A single process is `Processes()` and does not use
torch.distributed. The command line joins the processes; the training loop exchanges gradients.

Gradients are sparse by row, which `DistributedDataParallel` does not support. This module exchanges
the indices of the rows in one message, and sums all values in one all-reduce.
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
"""Header codes of parameters without a gradient, and of parameters with a dense gradient."""


@dataclass(frozen=True)
class Processes:
    """Rank of this process, number of processes, and the device to compute on."""

    rank: int = 0
    """Index of this process, from 0."""
    world: int = 1
    """Number of processes."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process is the first: only the first writes files and messages."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """Returns this process's range of `total` items; sizes of ranges differ by at most 1."""
        return range(total * self.rank // self.world, total * (self.rank + 1) // self.world)


ALONE = Processes()
"""A single process on the CPU."""


def best_device(number: int = 0) -> torch.device:
    """Returns GPU `number` if the machine has GPUs, else the CPU."""
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")


@contextmanager
def join_processes(environment: Mapping[str, str]) -> Iterator[Processes]:
    """Joins the processes that torchrun started; without torchrun, yields a single process.

    If a process fails, all others fail, for the same reason or because they wait for the failed
    process. The first process that fails raises its error; the others exit silently.
    """
    device = best_device(int(environment.get("LOCAL_RANK", 0)))
    if int(environment.get("WORLD_SIZE", 1)) == 1:
        yield Processes(device=device)
        return
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
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
    """Returns whether no other process has failed before, by a counter that torchrun keeps."""
    try:
        return bool(store.add("failed", 1) == 1)
    except dist.DistError:
        # torchrun, which holds the counter, has ended: no other process can report first.
        return True


def _exit_with_parent(parent: int) -> None:
    """Ends this process when torchrun is killed, so that no part of a run continues alone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def _explain_lost_process() -> Iterator[None]:
    """Turns a failed exchange with other processes into a `UserBertError` with advice."""
    try:
        yield
    except RuntimeError as error:
        raise UserBertError(
            f"another process of this run has ended, or cannot be reached ({error}). Read "
            "the message of that process, mend its cause, then resume the run."
        ) from error


def all_gather(value: _T, processes: Processes) -> list[_T]:
    """Returns the values of all processes, by rank."""
    if processes.world == 1:
        return [value]
    values: list[Any] = [None] * processes.world
    with _explain_lost_process():
        dist.all_gather_object(values, value)
    return values


def run_on_first(work: Callable[[], _T], processes: Processes) -> _T:
    """Runs `work` in the first process only; returns the result in all processes."""
    message: list[Any] = [work() if processes.is_first else None]
    if processes.world > 1:
        with _explain_lost_process():
            dist.broadcast_object_list(message)
    result: _T = message[0]
    return result


def exchange_gradients(
    parameters: Sequence[nn.Parameter], users: int, processes: Processes
) -> None:
    """Replaces each gradient by the mean over the users of all processes.

    Before the call, each gradient is the mean over the `users` of this process. Gradients are
    dense, or sparse by row; after the call, a sparse gradient has the rows of all processes.
    """
    if processes.world == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    header = torch.tensor([users, *map(_header_code, parameters)], device=processes.device)
    headers = torch.stack(_all_gather_tensor(header, processes.world)).cpu()  # (world, 1 + params)
    codes = headers[:, 1:]
    highest = codes.amax(dim=0).tolist()
    sparse = [number for number, code in enumerate(highest) if code > _DENSE]
    rows = _rows_of_any_process(
        [parameters[number] for number in sparse], codes[:, sparse].clamp(min=0).tolist()
    )
    rows_of = dict(zip(sparse, rows, strict=True))
    trained = [number for number, code in enumerate(highest) if code != _NONE]
    gradients = [_packed_gradient(parameters[number], rows_of.get(number)) for number in trained]
    # One message, because many small messages would wait more often for the network.
    flat = torch.cat([gradient.view(-1) for gradient in gradients])
    flat *= users / int(headers[:, 0].sum())
    with _explain_lost_process():
        dist.all_reduce(flat)
    sums = torch.split(flat, [gradient.numel() for gradient in gradients])
    for number, gradient, summed in zip(trained, gradients, sums, strict=True):
        parameter, gradient_rows = parameters[number], rows_of.get(number)
        mean = summed.view_as(gradient)
        parameter.grad = (
            mean if gradient_rows is None else _sparse_by_row(parameter, gradient_rows, mean)
        )


def _header_code(parameter: nn.Parameter) -> int:
    """Returns the number of rows of a sparse gradient, `_NONE`, or `_DENSE`."""
    if parameter.grad is None:
        return _NONE
    return parameter.grad.values().shape[0] if parameter.grad.is_sparse else _DENSE


def _rows_of_any_process(
    parameters: Sequence[nn.Parameter], counts: list[list[int]]
) -> list[Tensor]:
    """Returns, for each parameter, the sorted rows for which any process has a gradient.

    `counts` holds, for each process, the number of rows of each parameter.
    """
    if not parameters:
        return []
    # All processes must send messages of the same size.
    message = torch.zeros(max(map(sum, counts)), dtype=torch.int64, device=parameters[0].device)
    end = 0
    for parameter in parameters:
        if parameter.grad is not None:
            rows = parameter.grad.indices()[0]
            message[end : end + len(rows)] = rows
            end += len(rows)
    received = [
        torch.split(gathered[: sum(sizes)], sizes)
        for gathered, sizes in zip(_all_gather_tensor(message, len(counts)), counts, strict=True)
    ]
    return [torch.unique(torch.cat(pieces)) for pieces in zip(*received, strict=True)]


def _packed_gradient(parameter: nn.Parameter, rows: Tensor | None) -> Tensor:
    """Returns the dense gradient, or its values at `rows` (R,); zero where it has no value."""
    gradient = parameter.grad
    if rows is None:
        return torch.zeros_like(parameter) if gradient is None else gradient.contiguous()
    values = parameter.new_zeros(len(rows), *parameter.shape[1:])
    if gradient is not None:
        places = torch.searchsorted(rows, gradient.indices()[0])
        values.index_copy_(0, places, gradient.values())
    return values


def _sparse_by_row(parameter: nn.Parameter, rows: Tensor, values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        rows[None], values, parameter.shape, is_coalesced=True, check_invariants=False
    )


def _all_gather_tensor(message: Tensor, world: int) -> list[Tensor]:
    """Returns the equally sized messages of all processes, by rank."""
    messages = [torch.empty_like(message) for _ in range(world)]
    with _explain_lost_process():
        dist.all_gather(messages, message)
    return messages
