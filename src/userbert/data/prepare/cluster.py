"""A Spark cluster: its session, and work on it that is watched and whose failures are told.

In: a master's address. Out: a session; what actions on its data frames return. Used by whatever
runs on Spark: preparation and embedding.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from userbert.errors import ClusterError, InputError
from userbert.progress import progress

if TYPE_CHECKING:
    from pyspark import StatusTracker
    from pyspark.sql import DataFrame, SparkSession

_LOOKS_A_SECOND = 2


@contextmanager
def spark_session(master: str | None) -> Iterator["SparkSession"]:
    """Start a session, and stop it in the end; without a `master` where `spark-submit` says.

    Raises `InputError` if Spark or Java is not there.
    """
    if find_spec("pyspark") is None or find_spec("pandas") is None:
        raise InputError("this needs Spark. Install it with: pip install 'userbert[spark]'")
    from pyspark.sql import SparkSession

    # Executors on this machine take this Python, not the first that is found.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("userbert")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    if master is not None:
        builder = builder.master(master)
    try:
        session = builder.getOrCreate()
    except Exception as error:  # Spark's own, and Java's by way of its gateway
        raise InputError(
            f"Spark does not start ({_reason(error)}). It needs Java 17 or newer (JAVA_HOME), and "
            "a master such as local[2], spark://HOST:7077, yarn or k8s://HOST:PORT."
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Spark's handler of Ctrl-C lets it look as if the cluster had failed.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield session
    finally:
        # Where Java has died, there is nothing to stop, and why is told already.
        with suppress(Exception):
            session.stop()


def collected(session: "SparkSession", frame: "DataFrame", description: str, tasks: int) -> Any:
    """All rows of a data frame as an Arrow table, while a bar shows how many tasks are done.

    Raises `ClusterError` if the cluster gives up.
    """
    context, group = session.sparkContext, uuid4().hex

    def work() -> Any:
        context.setJobGroup(group, description, interruptOnCancel=True)
        return frame.toArrow()

    # In a thread of its own, so that Ctrl-C finds this one waiting, and not amid a call of Java.
    with ThreadPoolExecutor(1) as pool, progress(description, tasks) as advance:
        running, shown = pool.submit(work), 0
        try:
            while wait([running], 1 / _LOOKS_A_SECOND).not_done:
                now = min(_done(context.statusTracker(), group), tasks)
                advance(max(0, now - shown), "")
                shown = max(now, shown)
            return running.result()
        except KeyboardInterrupt:
            context.cancelJobGroup(group)
            raise
        except Exception as error:  # Spark's own, and Java's by way of its gateway
            raise ClusterError(
                f"{description}: the cluster gave up ({_reason(error)}). Its executors' logs say "
                "more; after what they say was mended, run the same again."
            ) from error


def _done(tracker: "StatusTracker", group: str) -> int:
    """How many tasks of a group of jobs are done."""
    jobs = map(tracker.getJobInfo, tracker.getJobIdsForGroup(group))
    stages = {stage for job in jobs if job is not None for stage in job.stageIds}
    found = map(tracker.getStageInfo, stages)
    return sum(stage.numCompletedTasks for stage in found if stage is not None)


def _reason(error: Exception) -> str:
    """The line that says what happened: Java's first, or the last, which is Python's."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("at ", "...", "File "))]
    of_java = (line.removeprefix(": ") for line in told if line.startswith(": "))
    return next(of_java, told[-1] if told else type(error).__name__).rstrip(".")
