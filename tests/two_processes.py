"""Functions that tests run in two processes started by torchrun.

`torchrun … two_processes.py NAME FOLDER` runs a function of this file and saves its result to
`FOLDER/RANK.pt`.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from synthetic import batch, model, take
from userbert.data.batches import UserBatch
from userbert.errors import InputError
from userbert.model.userbert import UserBert
from userbert.training.distributed import (
    Processes,
    all_gather,
    exchange_gradients,
    join_processes,
    run_on_first,
)
from userbert.training.loop import LoopConfig, train
from userbert.training.objectives import masked_words

CONFIG = LoopConfig(steps=12, learning_rate=1e-2, log_every=1, checkpoint_every=6)
SHAPES = [(2, 3), (4,), (6, 2), (6,), (5, 2), (3,)]
"""Shapes of gradients: dense, dense in one process, sparse, sparse vectors, sparse in one process,
absent."""
USERS = (3, 1)
"""Number of users of each process in `exchange`."""


class Shares:
    """A process's share of each batch of five users with different numbers of words."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def __getitem__(self, step: int) -> UserBatch:
        users = batch([[6, 3], [2, 0], [1, 4], [0, 5], [9, 1]], seed=step % 3, actions=2)
        return take(users, self.processes.share(len(users)))


def new_model(*, sampled: bool = False) -> UserBert:
    """Returns the untrained model of all processes."""
    torch.manual_seed(0)
    network = model()
    network.sample_softmax(3 if sampled else None)
    return network


def gradients(rank: int) -> list[Tensor | None]:
    """Returns the gradients of a process before the exchange."""
    generator = torch.Generator().manual_seed(rank)

    def dense(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def sparse(rows: list[int], *shape: int) -> Tensor:
        values = dense(len(rows), *shape[1:])
        return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=True)

    return [
        dense(2, 3),
        None if rank else dense(4),
        # A row may occur twice until a gradient is coalesced.
        sparse([5, 0, 2, 5] if rank else [2, 3], 6, 2),
        sparse([] if rank else [1, 4, 2], 6),
        sparse([3], 5, 2) if rank else None,
        None,
    ]


def exchange(processes: Processes) -> list[Tensor | None]:
    """Returns the gradients of a process after the exchange."""
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for parameter, gradient in zip(parameters, gradients(processes.rank), strict=True):
        parameter.grad = gradient
    exchange_gradients(parameters, USERS[processes.rank], processes)
    assert all_gather(processes.rank, processes) == [0, 1]
    assert run_on_first(lambda: processes.rank, processes) == 0
    return [parameter.grad for parameter in parameters]


def training_sampled(processes: Processes) -> Any:
    """Trains as `training` does, with a sampled softmax."""
    return training(processes, sampled=True)


def training(processes: Processes, *, sampled: bool = False) -> Any:
    """Returns the log lines, the number of users and the weights of a training run."""
    network = new_model(sampled=sampled)
    trained = train(network, masked_words, Shares(processes), CONFIG, processes=processes)
    return trained.lines, trained.users, network.state_dict()


def failing(processes: Processes) -> None:
    """The second process raises an error while the first waits for it."""

    class Damaged(Shares):
        def __getitem__(self, step: int) -> UserBatch:
            if step == 5 and processes.rank == 1:
                raise InputError("a shard of the second process is damaged")
            return super().__getitem__(step)

    train(new_model(), masked_words, Damaged(processes), CONFIG, processes=processes)


def dying(processes: Processes) -> None:
    """The second process is killed while the first waits for it."""

    class Killed(Shares):
        def __getitem__(self, step: int) -> UserBatch:
            if step == 5 and processes.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(step)

    train(new_model(), masked_words, Killed(processes), CONFIG, processes=processes)


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    with join_processes(os.environ) as processes:
        result = globals()[name](processes)
    torch.save(result, Path(folder) / f"{processes.rank}.pt")
