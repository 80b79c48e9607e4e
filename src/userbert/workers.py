"""Thread and process pools whose workers end with their parent.

By default, a pool's processes survive a killed parent: they wait for work on a pipe, and hold both
of its ends.
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


def process_pool(
    number: int, prepare: Callable[..., object] | None = None, *arguments: Any
) -> ProcessPoolExecutor:
    """Opens a pool of `number` processes that draw no bars.

    Each process first calls `prepare(*arguments)`, if `prepare` is given.
    """
    # Forked processes hang in thread pools that torch and LightGBM opened.
    return ProcessPoolExecutor(number, get_context("spawn"), _start_worker, (prepare, arguments))


def map_threaded(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    threads: int,
    max_pending: int | None = None,
) -> Iterator[_Result]:
    """Yields `work(item)` in the order of the items, computed in `threads` threads.

    The calling thread iterates over the items. At most `max_pending` items (default: `threads`)
    are in work or wait to be yielded; a larger number helps if the consumer is sometimes slow.
    """
    running: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            if len(running) == (max_pending or threads):
                yield running.popleft().result()
            running.append(pool.submit(work, item))
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _start_worker(prepare: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    """Prepares a worker process: silences standard error, and ends the process with its parent."""
    # The parent draws the one progress bar.
    sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for good
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """Ends this process when its parent ends."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
