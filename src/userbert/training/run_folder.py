"""The folder beside an output in which a run lives until its model is whole.

In: the output, and what the run is. Out: a folder for its metrics and checkpoints, which becomes
the model's. Used by `pretrain` alone.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from userbert.errors import InputError
from userbert.folders import (
    cannot_write,
    read_json,
    replacing_file,
    telling_of_the_disk,
    write_json,
)
from userbert.progress import warn
from userbert.training.checkpoint import checkpoints
from userbert.training.loop import METRICS

_RUN = "run.json"


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
    _open(work, output, record, resume)
    try:
        with telling_of_the_disk(output, work):
            yield work
    except BaseException:
        if work.exists() and not checkpoints(work):
            shutil.rmtree(work, ignore_errors=True)
        elif work.exists():
            warn(f"{work} holds the run up to its last checkpoint; go on by --resume")
        raise


def _open(work: Path, output: Path, record: Mapping[str, Any], resume: bool) -> None:
    """Make the folder, or check that the one there is of the same settings."""
    run = work / _RUN
    if not run.exists():
        try:
            work.mkdir(parents=True, exist_ok=True)
            with replacing_file(run) as temporary:
                write_json(temporary, record)
        except OSError as error:
            shutil.rmtree(work, ignore_errors=True)
            raise cannot_write(output, error) from error
        return
    if not resume:
        raise InputError(
            f"{work} holds an interrupted run. Go on with it by --resume, or remove it."
        )
    changed = changed_settings(read_json(run), record)
    if changed:
        raise InputError(
            f"{work} holds a run with other settings ({changed} differ). "
            "Resume with the settings it was begun with, or remove it."
        )


def changed_settings(begun: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """What a run was begun with otherwise."""
    return ", ".join(key for key, value in record.items() if begun.get(key) != value)


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
