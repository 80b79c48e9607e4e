"""Spark sessions, and `collect`, which shows progress and reports failures of a cluster.

In: a master's address, or a data frame. Out: a session, or the frame's rows. Used by preparation
and embedding.
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

_UPDATES_PER_SECOND = 2
"""Number of updates of the progress bar per second; each update asks Spark for its jobs."""


@contextmanager
def spark_session(master: str | None) -> Iterator["SparkSession"]:
    """Starts a Spark session for a `with` block. If `master` is None, Spark's settings name it.

    Raises `InputError` if Spark or Java is missing, or if the session does not start.
    """
    if find_spec("pyspark") is None or find_spec("pandas") is None:
        raise InputError("this needs Spark. Install it with: pip install 'userbert[spark]'")
    from pyspark.sql import SparkSession

    # Executors on this machine use this Python, not the first on the path.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("userbert")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    if master is not None:
        builder = builder.master(master)
    try:
        session = builder.getOrCreate()
    except Exception as error:  # of Spark, or of Java through its gateway
        raise InputError(
            f"Spark does not start ({_reason(error)}). It needs Java 17 or newer (JAVA_HOME), and "
            "a master such as local[2], spark://HOST:7077, yarn or k8s://HOST:PORT."
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Spark's handler of Ctrl-C makes an interrupt look like a failure of the cluster.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield session
    finally:
        # If Java has died, there is nothing to stop, and its error is reported already.
        with suppress(Exception):
            session.stop()


def collect(session: "SparkSession", frame: "DataFrame", description: str, tasks: int) -> Any:
    """Returns all rows of a data frame as an Arrow table.

    A progress bar, labelled `description`, shows how many of about `tasks` tasks are finished.
    Raises `ClusterError` if the job fails.
    """
    context, group = session.sparkContext, uuid4().hex

    def work() -> Any:
        context.setJobGroup(group, description, interruptOnCancel=True)
        return frame.toArrow()

    # In a thread, so that Ctrl-C interrupts this wait and not a call of Java.
    with ThreadPoolExecutor(1) as pool, progress(description, tasks) as advance:
        future, shown = pool.submit(work), 0
        try:
            while wait([future], 1 / _UPDATES_PER_SECOND).not_done:
                done = min(_finished_tasks(context.statusTracker(), group), tasks)
                advance(max(0, done - shown), "")
                shown = max(done, shown)
            return future.result()
        except KeyboardInterrupt:
            context.cancelJobGroup(group)
            raise
        except Exception as error:  # of Spark, or of Java through its gateway
            raise ClusterError(
                f"{description}: the Spark job failed ({_reason(error)}). See the executors' logs, "
                "correct the cause and run the command again."
            ) from error


def _finished_tasks(tracker: "StatusTracker", group: str) -> int:
    """Returns the number of finished tasks of a group of jobs."""
    jobs = map(tracker.getJobInfo, tracker.getJobIdsForGroup(group))
    stages = {stage for job in jobs if job is not None for stage in job.stageIds}
    infos = map(tracker.getStageInfo, stages)
    return sum(info.numCompletedTasks for info in infos if info is not None)


def _reason(error: Exception) -> str:
    """Returns the line of an error that gives its cause: Java's first line or Python's last."""
    lines = [line.strip() for line in str(error).splitlines()]
    messages = [line for line in lines if line and not line.startswith(("at ", "...", "File "))]
    java = (line.removeprefix(": ") for line in messages if line.startswith(": "))
    return next(java, messages[-1] if messages else type(error).__name__).rstrip(".")
