"""Dynamic batching: waiting calls of one kind run as one batch, oldest first.

In: jobs of one or more users each. Out: a result for each job. One thread does the work: it takes
the waiting jobs as soon as it is idle, and never waits for a batch to fill. A job that would wait
too long is refused at once.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from userbert.errors import InputError, UserBertError


class Job(Protocol):
    """Work of one call."""

    def __len__(self) -> int:
        """Returns the number of users."""
        ...

    @property
    def kind(self) -> Any:
        """Key that is equal for jobs that can share a batch."""
        ...


J = TypeVar("J", bound=Job)
R = TypeVar("R")

_PACE_DECAY = 0.9
"""Weight of the old value when a batch updates the moving average of seconds per user.

The average follows a change of pace within about ten batches.
"""


class BusyError(UserBertError):
    """Raised if the queue is full."""


class Batcher(Generic[J, R]):
    """Bounded queue with one worker thread.

    At most `queue` users wait, and no more than the thread finishes in `patience` seconds at its
    recent pace. Half a batch may always wait, and a job of any size may wait in an empty queue. A
    batch has at most `batch` users, or is one larger job; its jobs are of one kind. `work` runs a
    batch. If `work` raises `InputError`, each job of the batch runs again by itself, so that only
    the faulty job gets the error.
    """

    def __init__(
        self, work: Callable[[Sequence[J]], Sequence[R]], *, queue: int, batch: int, patience: float
    ) -> None:
        self._work = work
        self._queue, self._batch = queue, batch
        self._patience, self._seconds_per_user = patience, patience / queue
        self._waiting: deque[tuple[J, Future[R]]] = deque()
        self._waiting_users = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether the queue refuses every job."""
        return self._waiting_users >= self._limit

    @property
    def _limit(self) -> int:
        """Maximum number of users that may wait at the recent pace."""
        finished_in_time = int(self._patience / max(self._seconds_per_user, 1e-9))
        return min(self._queue, max(self._batch // 2, finished_in_time))

    @property
    def is_alive(self) -> bool:
        """Whether the worker thread runs."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Number of waiting users."""
        return self._waiting_users

    async def submit(self, job: J) -> R:
        """Runs a job and returns its result; raises `BusyError` if the queue is full."""
        future: Future[R] = Future()
        with self._changed:
            # A job larger than the queue is accepted when the queue is empty.
            if self._waiting_users and self._waiting_users + len(job) > self._limit:
                raise BusyError(
                    f"the queue is full: {self._waiting_users} users are waiting, and at most "
                    f"{self._limit} may wait now. Try again in a second, or send fewer users."
                )
            self._waiting.append((job, future))
            self._waiting_users += len(job)
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finishes the waiting jobs and stops the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            jobs, start = [job for job, _ in batch], time.perf_counter()
            try:
                results: Sequence[R | Exception] = self._work(jobs)
            except InputError:
                results = [self._run_single(job) for job in jobs]
            except Exception as error:
                results = [error] * len(jobs)
            pace = (time.perf_counter() - start) / max(1, sum(map(len, jobs)))
            self._seconds_per_user += (1 - _PACE_DECAY) * (pace - self._seconds_per_user)
            for (_, future), result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next_batch(self) -> list[tuple[J, Future[R]]]:
        """Waits for jobs and returns a batch, which is empty only after `close`."""
        with self._changed:
            batch: list[tuple[J, Future[R]]] = []
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    break
                batch = self._take_batch()
            return batch

    def _take_batch(self) -> list[tuple[J, Future[R]]]:
        """Takes the oldest job, and the later jobs of its kind that fit into its batch."""
        batch: list[tuple[J, Future[R]]] = []
        rest: deque[tuple[J, Future[R]]] = deque()
        room = self._batch
        for job, future in self._waiting:
            if batch and (len(job) > room or job.kind != batch[0][0].kind):
                rest.append((job, future))
                continue
            self._waiting_users -= len(job)
            # Jobs whose caller has disconnected are skipped.
            if future.set_running_or_notify_cancel():
                batch.append((job, future))
                room -= len(job)
        self._waiting = rest
        return batch

    def _run_single(self, job: J) -> R | Exception:
        try:
            return self._work([job])[0]
        except Exception as error:
            return error
