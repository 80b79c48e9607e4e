"""Waiting calls run as one batch, and the queue is as long as the pace allows."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from userbert.errors import InputError
from userbert.service.batching import Batcher, BusyError


@dataclass(frozen=True)
class Users:
    """Job whose result is its number of users."""

    kind: str
    users: int
    is_wrong: bool = False

    def __len__(self) -> int:
        return self.users


def test_waiting_jobs_of_one_kind_run_together() -> None:
    go, batches = threading.Event(), []

    def work(jobs: Sequence[Users]) -> list[int]:
        go.wait(10)
        batches.append([(job.kind, job.users) for job in jobs])
        return [job.users for job in jobs]

    async def submit(batcher: Batcher[Users, int]) -> list[int]:
        first = asyncio.create_task(batcher.submit(Users("a", 1)))
        await asyncio.sleep(0.05)
        jobs = [Users("a", 2), Users("b", 3), Users("a", 4), Users("a", 60)]
        rest = [asyncio.create_task(batcher.submit(job)) for job in jobs]
        await asyncio.sleep(0.05)
        go.set()
        return await asyncio.gather(first, *rest)

    batcher: Batcher[Users, int] = Batcher(work, queue=200, batch=64, patience=10)
    assert asyncio.run(submit(batcher)) == [1, 2, 3, 4, 60]
    batcher.close()
    assert batches == [[("a", 1)], [("a", 2), ("a", 4)], [("b", 3)], [("a", 60)]]


def test_only_the_faulty_job_gets_the_error() -> None:
    def work(jobs: Sequence[Users]) -> list[int]:
        if any(job.is_wrong for job in jobs):
            raise InputError("wrong")
        return [job.users for job in jobs]

    async def submit(batcher: Batcher[Users, int]) -> list[int | BaseException]:
        jobs = [Users("a", 1), Users("a", 2, is_wrong=True), Users("a", 3)]
        return await asyncio.gather(*map(batcher.submit, jobs), return_exceptions=True)

    batcher: Batcher[Users, int] = Batcher(work, queue=100, batch=64, patience=10)
    first, wrong, last = asyncio.run(submit(batcher))
    batcher.close()
    assert (first, str(wrong), last) == (1, "wrong", 3)


def test_the_queue_shrinks_when_work_is_slow() -> None:
    def work(jobs: Sequence[Users]) -> list[int]:
        time.sleep(0.01 * sum(map(len, jobs)))
        return [1] * len(jobs)

    async def submit(batcher: Batcher[Users, int]) -> None:
        for _ in range(40):
            await batcher.submit(Users("a", 1))
        tasks = [asyncio.create_task(batcher.submit(Users("a", 1))) for _ in range(30)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert 5 <= results.count(1) < 20
        refusal = next(result for result in results if isinstance(result, BusyError))
        assert "users are waiting, and at most 5 may wait now" in str(refusal)

    batcher: Batcher[Users, int] = Batcher(work, queue=100, batch=10, patience=0.05)
    assert batcher.is_full is False
    asyncio.run(submit(batcher))
    batcher.close()
