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

_RUN_FILE = "run.json"
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
    """Opens the work folder while the block runs: a new one, or that of an interrupted run.

    `record` holds the settings of the run. With `resume`, an interrupted run with an equal record
    continues. If the block fails, the folder stays if `describe_progress` returns a text, and is
    removed if it returns None. Raises `InputError` if `work` holds an interrupted run that cannot
    continue, or the disk is full.
    """
    _open_work_folder(work, output, record, resume)
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


def _open_work_folder(work: Path, output: Path, record: Mapping[str, Any], resume: bool) -> None:
    """Creates the work folder, or checks that the existing one has the same settings."""
    run = work / _RUN_FILE
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
    """Lists the keys whose values in `record` differ from the earlier run's."""
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
