"""The folder beside an output in which a run lives until its model is whole.

In: the output, and what the run is. Out: a folder for its metrics and checkpoints, which becomes
the model's. Used by `pretrain` alone.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from userbert.resuming import resumable
from userbert.training.checkpoint import checkpoints
from userbert.training.loop import METRICS


def work_folder(output: Path) -> Path:
    """Where the run lives that will write `output`."""
    return output.with_name(f".{output.name}.training")


@contextmanager
def run_folder(
    output: Path | None, record: Mapping[str, Any], *, resume: bool, is_first: bool
) -> Iterator[Path | None]:
    """Open the run's folder, made by the first process; none if there is no output.

    A run that ends early leaves it if it can go on from it, and says how. Raises `InputError` if
    another run is in the way, or the disk is full.
    """
    work = None if output is None else work_folder(output)
    if output is None or work is None or not is_first:
        yield work
        return

    def done() -> str | None:
        return "the run up to its last checkpoint" if checkpoints(work) else None

    with resumable(output, work, record, resume=resume, done=done):
        yield work


def publish(write: Callable[[Path], None], work: Path, output: Path) -> None:
    """Let `write` fill the model's folder, whole or not at all, and remove the run's."""
    made = work / "model"
    # A kill may have left a part of it.
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    shutil.copy(work / METRICS, made / METRICS)
    write(made)
    made.rename(output)
    shutil.rmtree(work)
