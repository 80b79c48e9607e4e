"""Threads and processes that work side by side, and end when we do.

A pool's processes wait for work on a pipe of which each of them holds both ends, so they would
never learn that their parent was killed.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def processes(
    number: int, prepare: Callable[..., object] | None = None, *arguments: Any
) -> ProcessPoolExecutor:
    """Open a pool; each process first calls `prepare(*arguments)`, and draws no progress bar."""
    # Forked processes hang in the thread pools that torch and LightGBM have opened.
    return ProcessPoolExecutor(number, get_context("spawn"), _begin, (prepare, arguments))


def threaded(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    threads: int,
    waiting: int | None = None,
) -> Iterator[_Result]:
    """Yield `work(item)` in the order of the items, which are worked on in so many threads.

    Items are drawn here meanwhile, and at most `waiting` items and results wait, `threads` by
    default: more, where what is done with results takes longer now and then.
    """
    running: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            if len(running) == (waiting or threads):
                yield running.popleft().result()
            running.append(pool.submit(work, item))
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Count the cores that we may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _begin(prepare: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    # The parent draws the one progress bar.
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for good
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
