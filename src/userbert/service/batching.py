"""Calls that wait become one batch: a network reads many users in little more time than one.

In: jobs of some users each. Out: what the work makes of each. One thread works, on all that has
come while it was busy, oldest first; nothing waits for others to come. Who would have to wait too
long is refused at once: the queue is as long as what was worked off lately in the time that a call
may wait.
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
    """A call's work."""

    def __len__(self) -> int:
        """Count its users."""
        ...

    @property
    def kind(self) -> Any:
        """Jobs of one kind can be done together."""
        ...


J = TypeVar("J", bound=Job)
R = TypeVar("R")


_REMEMBERED = 0.9
"""How much of what is known of the pace stays when a batch is done."""


class BusyError(UserBertError):
    """The queue is full."""


class Batcher(Generic[J, R]):
    """A bounded queue, and the thread that works it off.

    At most `queue` users wait, and no more than are worked off in `patience` seconds, though half a
    batch always may. `work` does jobs of one kind together. If it raises `InputError`, one of them
    is to blame: each is done again alone, so that it is told to the one whose it is.
    """

    def __init__(
        self, work: Callable[[Sequence[J]], Sequence[R]], *, queue: int, batch: int, patience: float
    ) -> None:
        self._work = work
        self._longest, self._batch = queue, batch
        self._patience, self._seconds_each = patience, patience / queue
        self._waiting: deque[tuple[J, Future[R]]] = deque()
        self._users = 0
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether any call would be refused."""
        return self._users >= self._limit

    @property
    def _limit(self) -> int:
        """Users who may wait."""
        in_time = int(self._patience / max(self._seconds_each, 1e-9))
        return min(self._longest, max(self._batch // 2, in_time))

    @property
    def is_alive(self) -> bool:
        """Whether its thread works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Users whose calls wait."""
        return self._users

    async def do(self, job: J) -> R:
        """Have a job done; raise `BusyError` if too many users wait already."""
        future: Future[R] = Future()
        with self._changed:
            # A call that is larger than the queue is done when nobody else waits.
            if self._users and self._users + len(job) > self._limit:
                raise BusyError(
                    f"{self._users} users wait already, of at most {self._limit} now. "
                    "Try again in a second, and send fewer at a time."
                )
            self._waiting.append((job, future))
            self._users += len(job)
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what waits, and stop."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            jobs, began = [job for job, _ in batch], time.perf_counter()
            try:
                done: Sequence[R | Exception] = self._work(jobs)
            except InputError:
                done = [self._alone(job) for job in jobs]
            except Exception as error:
                done = [error] * len(jobs)
            each = (time.perf_counter() - began) / max(1, sum(map(len, jobs)))
            self._seconds_each += (1 - _REMEMBERED) * (each - self._seconds_each)
            for (_, future), result in zip(batch, done, strict=True):
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _take(self) -> list[tuple[J, Future[R]]]:
        """The oldest job, and those of its kind that fit beside it; none: the end."""
        with self._changed:
            batch: list[tuple[J, Future[R]]] = []
            while not batch:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    break
                batch = self._picked()
            return batch

    def _picked(self) -> list[tuple[J, Future[R]]]:
        batch: list[tuple[J, Future[R]]] = []
        rest: deque[tuple[J, Future[R]]] = deque()
        room = self._batch
        for job, future in self._waiting:
            if batch and (len(job) > room or job.kind != batch[0][0].kind):
                rest.append((job, future))
                continue
            self._users -= len(job)
            # Who has gone away is not worked for.
            if future.set_running_or_notify_cancel():
                batch.append((job, future))
                room -= len(job)
        self._waiting = rest
        return batch

    def _alone(self, job: J) -> R | Exception:
        try:
            return self._work([job])[0]
        except Exception as error:
            return error
