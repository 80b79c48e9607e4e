"""Resumable runs: a work folder next to the output keeps progress until the output is complete.

In: the output's path, and a record of the run's settings. Out: a work folder, from which a later
run with the same settings continues. Pretraining and embedding use it.
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
    """Opens the work folder `work` of the run that writes `output`, while the block runs.

    `record` holds the settings of the run. With `resume`, an interrupted run with an equal record
    continues; without an interrupted run, a new run starts. If the block fails, the folder stays
    if `describe_progress` returns a text, and is removed if it returns None. Raises
    `InputError` if `work` holds an interrupted run and `resume` is false or the settings differ,
    or if a file cannot be written.
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
    """Creates the work folder; raises `InputError` if it holds a run that cannot continue."""
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
        raise InputError(f"{work} holds an interrupted run. Resume the run, or remove the folder.")
    changed = changed_settings(read_json(run), record)
    if changed:
        raise InputError(
            f"{work} holds a run with other settings ({changed} differ). "
            "Resume the run with its original settings, or remove the folder."
        )


def changed_settings(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Returns the keys of `record` whose values differ from `earlier`, joined by commas."""
    return ", ".join(key for key, value in record.items() if earlier.get(key) != value)


def refuse_other_settings(
    output: Path, earlier: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Raises `InputError` if the complete `output` was made with settings other than `record`.

    `earlier` holds the settings that the output was made with.
    """
    changed = changed_settings(earlier, record)
    if changed:
        raise InputError(
            f"{output} exists already, made with other settings ({changed} differ). "
            "Choose another output, or remove it first."
        )
