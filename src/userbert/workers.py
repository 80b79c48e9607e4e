"""Thread and process pools whose workers end with their parent.

Without help, a pool's processes survive a killed parent: they wait for work on a pipe of which they
hold both ends.
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
    """Opens a process pool; each process first calls `prepare(*arguments)` and draws no bars."""
    # Forked processes hang in thread pools that torch and LightGBM opened.
    return ProcessPoolExecutor(number, get_context("spawn"), _begin, (prepare, arguments))


def map_threaded(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    threads: int,
    waiting: int | None = None,
) -> Iterator[_Result]:
    """Yields `work(item)` in the order of the items, computed in `threads` threads.

    The calling thread draws the items. At most `waiting` items and results are pending, by default
    `threads`; choose more where the consumer is slow now and then.
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
    """Returns the number of usable cores."""
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
