"""Runs competitors of a benchmark, each in its own process; measures time, memory and disk.

In: a module of competitors, which calls `compete` when run as a program, and their input. Out: a
`Run` per competitor. Used by the benchmarks of whole verbs.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_SAMPLE_SECONDS, _DISK_SAMPLE_EVERY = 0.02, 50
"""Seconds between samples of memory, and number of memory samples per sample of disk, which is
slower."""


@dataclass(frozen=True, order=True)
class Run:
    """Cost of a competitor's work; ordered by seconds."""

    seconds: float
    """Wall time of the work, without the start of the process."""
    memory: int
    """Peak sum of the bytes in memory of all its processes."""
    disk: int
    """Peak bytes on disk, of temporary files and the output."""
    output: int
    """Bytes of the output on disk."""


def compete(competitors: Mapping[str, Callable[[Path, Path], None]]) -> None:
    """Runs the competitor named `sys.argv[1]`, and prints the seconds that it takes.

    The arguments after the name are the paths of its input and output.
    """
    work = competitors[sys.argv[1]]
    started = time.perf_counter()
    work(Path(sys.argv[2]), Path(sys.argv[3]))
    print(time.perf_counter() - started)


def run(module: str, competitor: str, logs: Path) -> Run:
    """Measures a competitor's work on `logs` in the process `python -m MODULE COMPETITOR …`.

    Raises `CalledProcessError` if the process fails.
    """
    with TemporaryDirectory(dir=logs.parent) as name:
        folder = Path(name)
        command = [sys.executable, "-m", module, competitor]
        # Spark's shuffle files also count as disk.
        environment = {**os.environ, "SPARK_LOCAL_DIRS": str(folder)}
        process = subprocess.Popen(
            [*command, str(logs), str(folder / "out")],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        memory = disk = samples = 0
        while process.poll() is None:
            memory = max(memory, resident(process.pid))
            if samples % _DISK_SAMPLE_EVERY == 0:
                disk = max(disk, _disk_usage(folder))
            samples += 1
            time.sleep(_SAMPLE_SECONDS)
        seconds = process.communicate()[0]
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
        output_size = _disk_usage(folder / "out")
    return Run(float(seconds), memory, max(disk, output_size), output_size)


def _disk_usage(path: Path) -> int:
    """Returns the bytes of a file or folder; files removed during the count are ignored."""
    try:
        if not path.is_dir():
            return path.lstat().st_size
        return sum(_disk_usage(file) for file in path.iterdir())
    except OSError:
        return 0


def resident(process: int) -> int:
    """Returns the bytes in memory of a process and its descendants; 0 if it has ended."""
    total, folder = 0, Path("/proc") / str(process)
    try:
        pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
        total += pages * os.sysconf("SC_PAGE_SIZE")
        for thread in (folder / "task").iterdir():
            children = (thread / "children").read_text(encoding="ascii").split()
            total += sum(resident(int(child)) for child in children)
    except OSError:
        return total
    return total


def gib(size: int) -> float:
    """Returns bytes as GiB, rounded to two digits."""
    return round(size / 2**30, 2)
