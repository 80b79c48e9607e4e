"""Runs that can be gone on with: the folder beside an output in which one lives until it is whole.

In: the output, and what the run is. Out: a folder for what is done so far, which a later run of the
same goes on from. Used by pretraining and embedding.
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

_RUN = "run.json"


@contextmanager
def resumable(
    output: Path,
    work: Path,
    record: Mapping[str, Any],
    *,
    resume: bool,
    done: Callable[[], str | None],
) -> Iterator[None]:
    """Let a run work in `work`, which is made, or is that of the same `record`.

    If it ends early, the folder is left if `done` tells what it holds, and removed if not. Raises
    `InputError` if another run is in the way, or the disk is full.
    """
    _open(work, output, record, resume)
    try:
        with telling_of_the_disk(output, work):
            yield
    except BaseException:
        told = done() if work.exists() else None
        if told is None:
            shutil.rmtree(work, ignore_errors=True)
        else:
            warn(f"{work} holds {told}; go on by --resume")
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


def refuse_other(output: Path, made: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Raise `InputError` if an output that is whole was made with other settings."""
    changed = changed_settings(made, record)
    if changed:
        raise InputError(
            f"{output} exists already, made with other settings ({changed} differ). "
            "Choose another -o, or remove it first."
        )
