"""Contestants in processes of their own: their seconds, and their memory and disk at their peaks.

In: a module of contestants, which calls `compete` when it is run as a program, and what they work
on. Out: a `Run` each. Used by the benchmarks of whole verbs.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_SAMPLE_SECONDS, _SAMPLES_OF_DISK = 0.02, 50
"""Between looks at the memory, and how many of these there are between looks at the disk."""


@dataclass(frozen=True, order=True)
class Run:
    """What a contestant's work took; ordered by its seconds."""

    seconds: float
    memory: int
    """The most bytes that all its processes held together."""
    disk: int
    """The most bytes that it had on the disk."""
    output: int
    """Bytes that it left there."""


def compete(contestants: Mapping[str, Callable[[Path, Path], None]]) -> None:
    """Be the contestant that the command line names, on the logs and to the output it names."""
    work = contestants[sys.argv[1]]
    started = time.perf_counter()
    work(Path(sys.argv[2]), Path(sys.argv[3]))
    print(time.perf_counter() - started)


def run(module: str, contestant: str, logs: Path) -> Run:
    """Measure a contestant's work on logs; it is started by `python -m MODULE CONTESTANT …`."""
    with TemporaryDirectory(dir=logs.parent) as name:
        folder = Path(name)
        command = [sys.executable, "-m", module, contestant]
        # Spark's shuffles count as disk, too.
        place = {**os.environ, "SPARK_LOCAL_DIRS": str(folder)}
        process = subprocess.Popen(
            [*command, str(logs), str(folder / "out")],
            env=place, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        memory = disk = looks = 0
        while process.poll() is None:
            memory = max(memory, resident(process.pid))
            if looks % _SAMPLES_OF_DISK == 0:
                disk = max(disk, _stored(folder))
            looks += 1
            time.sleep(_SAMPLE_SECONDS)
        told = process.communicate()[0]
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
        left = _stored(folder / "out")
    return Run(float(told), memory, max(disk, left), left)


def _stored(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what is removed meanwhile is not counted."""
    try:
        if not path.is_dir():
            return path.lstat().st_size
        return sum(_stored(each) for each in path.iterdir())
    except OSError:
        return 0


def resident(process: int) -> int:
    """Bytes in memory of a process and all it started; 0 of one that is gone."""
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
    """Bytes as GiB."""
    return round(size / 2**30, 2)
