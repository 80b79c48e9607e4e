"""Two processes learn what one process does, stay bit-identical, and end together."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import two_processes as two
from userbert.training.distributed import ALONE, Processes, exchange_gradients, join_processes
from userbert.training.loop import train
from userbert.training.objectives import masked_words

TESTS = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def launch(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a function of `two_processes.py` in two processes."""
    command = [*TORCHRUN, str(TESTS / "two_processes.py"), name, str(folder)]
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def results(name: str, folder: Path) -> list[Any]:
    """What the function returned in each process."""
    done = launch(name, folder)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_gradients_become_the_mean_over_the_users_of_both(tmp_path: Path) -> None:
    exchanged = results("exchange", tmp_path)
    before = [two.gradients(rank) for rank in range(2)]
    for number, shape in enumerate(two.SHAPES):
        first, second = (gradients[number] for gradients in exchanged)
        pairs = zip(before, two.USERS, strict=True)
        weighted = [(part[number], users / sum(two.USERS)) for part, users in pairs]
        if all(part is None for part, _ in weighted):
            assert first is second is None
            continue
        expected = torch.zeros(shape)
        for part, weight in weighted:
            expected += 0 if part is None else part.to_dense() * weight
        is_sparse = any(part is not None and part.is_sparse for part, _ in weighted)
        assert first.is_sparse == second.is_sparse == is_sparse
        torch.testing.assert_close(first.to_dense(), expected)
        assert torch.equal(first.to_dense(), second.to_dense())
        if is_sparse:
            # Each row that some process had, once, in order.
            touched = {int(row) for part, _ in weighted if part is not None for row in _rows(part)}
            assert _rows(first) == sorted(touched)


def _rows(gradient: torch.Tensor) -> list[int]:
    rows: list[int] = gradient.coalesce().indices()[0].tolist()
    return rows


def test_one_process_keeps_its_gradients_and_joins_nothing() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    gradient = weight.grad
    with join_processes({"RANK": "0", "WORLD_SIZE": "1"}) as processes:
        exchange_gradients([weight], 4, processes)
    assert (processes.rank, processes.world) == (0, 1)
    assert weight.grad is gradient
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("total", "world"), [(16, 3), (2, 5), (0, 2), (7, 1)])
def test_shares_are_contiguous_and_differ_by_one_at_most(total: int, world: int) -> None:
    shares = [Processes(rank, world).share(total) for rank in range(world)]
    assert [number for share in shares for number in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["training", "training_sampled"])
def test_two_processes_learn_what_one_does_on_the_same_batches(tmp_path: Path, name: str) -> None:
    network = two.new_model(sampled=name == "training_sampled")
    expected = train(network, masked_words, two.Shares(ALONE), two.CONFIG)
    (lines, users, weights), (other_lines, _, other_weights) = results(name, tmp_path)
    assert users == expected.users == 5 * two.CONFIG.steps
    for line, own, other in zip(expected.lines, lines, other_lines, strict=True):
        assert own["loss"] == other["loss"] == pytest.approx(line["loss"], rel=1e-4)
        assert own["losses"] == pytest.approx(line["losses"], rel=1e-4)
    for place, weight in network.state_dict().items():
        assert torch.equal(weights[place], other_weights[place]), place
        # The bias of attention keys has no effect, so Adam steps along noise in its gradient.
        if place.startswith("embedding."):
            torch.testing.assert_close(weights[place], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_fault_of_one_process_ends_all_and_is_reported_once(tmp_path: Path) -> None:
    done = launch("failing", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("InputError: a shard of the second process is damaged") == 1
    assert done.stderr.count("Traceback") == 2, done.stderr  # its own and torchrun's


@pytest.mark.slow
def test_process_that_is_killed_takes_the_others_with_it(tmp_path: Path) -> None:
    done = launch("dying", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("UserBertError: another process of this run has ended") <= 1
    assert "exitcode  : -9" in done.stderr
    assert not list(tmp_path.iterdir())
