"""Resumable runs: a work folder next to the output keeps progress until the output is complete.

In: the output, and a record of the run's settings. Out: a work folder, from which a later run with
the same settings continues. Pretraining and embedding use it.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from userbert.errors import InputError
from userbert.folders import (
    cannot_write,
    explain_disk_errors,
    read_json,
    replacing_file,
    write_json,
)
from userbert.progress import warn

_RUN = "run.json"
"""File in the work folder with the run's settings."""


@contextmanager
def resumable_run(
    output: Path,
    work: Path,
    record: Mapping[str, Any],
    *,
    resume: bool,
    describe_progress: Callable[[], str | None],
) -> Iterator[None]:
    """Runs the block with the work folder `work`, new or from a run with the same `record`.

    If the block fails, the folder stays if `describe_progress` returns a text, and is removed if it
    returns None. Raises `InputError` if another run's folder is there, or the disk is full.
    """
    _open(work, output, record, resume)
    try:
        with explain_disk_errors(output, work):
            yield
    except BaseException:
        progress = describe_progress() if work.exists() else None
        if progress is None:
            shutil.rmtree(work, ignore_errors=True)
        else:
            warn(f"{work} holds {progress}. Continue with --resume.")
        raise


def _open(work: Path, output: Path, record: Mapping[str, Any], resume: bool) -> None:
    """Creates the work folder, or checks that the existing one has the same settings."""
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
        raise InputError(f"{work} holds an interrupted run. Resume it, or remove it.")
    changed = changed_settings(read_json(run), record)
    if changed:
        raise InputError(
            f"{work} holds a run with other settings ({changed} differ). "
            "Resume it with its original settings, or remove it."
        )


def changed_settings(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Lists the keys in which a record differs from an earlier run's."""
    return ", ".join(key for key, value in record.items() if earlier.get(key) != value)


def refuse_other_settings(
    output: Path, earlier: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Raises `InputError` if a complete output was made with other settings."""
    changed = changed_settings(earlier, record)
    if changed:
        raise InputError(
            f"{output} exists already, made with other settings ({changed} differ). "
            "Choose another output, or remove it first."
        )
