"""Calls that wait become one batch, and no more wait than are answered in time."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from userbert.errors import InputError
from userbert.service.batching import Batcher, BusyError


@dataclass(frozen=True)
class Asked:
    """Users of a kind, who are answered by their number."""

    kind: str
    users: int
    is_wrong: bool = False

    def __len__(self) -> int:
        return self.users


def test_what_waits_is_done_together_by_kind() -> None:
    go, done = threading.Event(), []

    def work(jobs: Sequence[Asked]) -> list[int]:
        go.wait(10)
        done.append([(job.kind, job.users) for job in jobs])
        return [job.users for job in jobs]

    async def ask(batcher: Batcher[Asked, int]) -> list[int]:
        first = asyncio.create_task(batcher.do(Asked("a", 1)))
        await asyncio.sleep(0.05)
        jobs = [Asked("a", 2), Asked("b", 3), Asked("a", 4), Asked("a", 60)]
        rest = [asyncio.create_task(batcher.do(job)) for job in jobs]
        await asyncio.sleep(0.05)
        go.set()
        return await asyncio.gather(first, *rest)

    batcher: Batcher[Asked, int] = Batcher(work, queue=200, batch=64, patience=10)
    assert asyncio.run(ask(batcher)) == [1, 2, 3, 4, 60]
    batcher.close()
    assert done == [[("a", 1)], [("a", 2), ("a", 4)], [("b", 3)], [("a", 60)]]


def test_who_is_to_blame_is_told_alone() -> None:
    def work(jobs: Sequence[Asked]) -> list[int]:
        if any(job.is_wrong for job in jobs):
            raise InputError("wrong")
        return [job.users for job in jobs]

    async def ask(batcher: Batcher[Asked, int]) -> list[int | BaseException]:
        jobs = [Asked("a", 1), Asked("a", 2, is_wrong=True), Asked("a", 3)]
        return await asyncio.gather(*map(batcher.do, jobs), return_exceptions=True)

    batcher: Batcher[Asked, int] = Batcher(work, queue=100, batch=64, patience=10)
    first, wrong, last = asyncio.run(ask(batcher))
    batcher.close()
    assert (first, str(wrong), last) == (1, "wrong", 3)


def test_the_slower_the_work_the_fewer_may_wait() -> None:
    def work(jobs: Sequence[Asked]) -> list[int]:
        time.sleep(0.01 * sum(map(len, jobs)))
        return [1] * len(jobs)

    async def ask(batcher: Batcher[Asked, int]) -> None:
        for _ in range(40):
            await batcher.do(Asked("a", 1))
        asked = [asyncio.create_task(batcher.do(Asked("a", 1))) for _ in range(30)]
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert 5 <= ends.count(1) < 20
        refused = next(end for end in ends if isinstance(end, BusyError))
        assert "users wait already, of at most 5 now" in str(refused)

    batcher: Batcher[Asked, int] = Batcher(work, queue=100, batch=10, patience=0.05)
    assert batcher.is_full is False
    asyncio.run(ask(batcher))
    batcher.close()
