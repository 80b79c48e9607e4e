"""Atomic writes of files and folders, and checksums that detect later changes.

Every verb writes through `publishing_folder` or `publishing_file`: it fills a temporary path next
to the target, `.NAME.partial-HOST.PROCESS`, and one rename publishes it. The next run with the same
target removes the temporary path of a killed run.
"""

import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from userbert.errors import InputError, ModelError

_PARTIAL = ".partial-"
"""Middle of a temporary path's name, between the target's name and the host."""
_FULL_REASONS = {
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EFBIG: "the file is larger than the file system or your limits (ulimit -f) allow",
}
"""Reason for a failed write, by error number: the disk, a quota or a file size limit is full."""
CARD = "README.md"
"""File that describes a folder to people. People may edit the file, so it has no checksum."""
_ADVICE = " Copy the whole folder again, or train again."
"""Remedy for a damaged folder of a model or task."""
_KIND_BY_FILE = {
    "manifest.json": "prepared data",
    "task.json": "a task model",
    "fused.json": "a task model",
    "report.json": "an evaluation",
    "config.json": "a model",
}
"""Kind of a folder, by a file that only this kind has."""


@contextmanager
def publishing_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder next to `target`; renames it to `target` if the block succeeds.

    Raises `InputError` if `target` exists or cannot be written, such as on a full disk.
    """
    refuse_existing(target)
    temporary = _temporary_path(target)
    with _creating_parents(target):
        try:
            with explain_disk_errors(target, temporary):
                temporary.mkdir()
                yield temporary
                temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def publishing_file(target: Path) -> Iterator[Path]:
    """Yields a temporary path next to `target`; renames it to `target` if the block succeeds.

    Raises `InputError` if `target` exists or cannot be written, such as on a full disk.
    """
    refuse_existing(target)
    temporary = _temporary_path(target)
    with _creating_parents(target):
        try:
            with explain_disk_errors(target, temporary):
                yield temporary
                temporary.rename(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _creating_parents(target: Path) -> Iterator[None]:
    """Creates missing parents of `target`; removes them again if the block fails."""
    created = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield
    except BaseException:
        for folder in created:
            with suppress(OSError):  # another run may write there by now
                folder.rmdir()
        raise


@contextmanager
def explain_disk_errors(target: Path, temporary: Path) -> Iterator[None]:
    """Turns a failed write to `temporary`, or a full disk, into an `InputError` naming `target`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        is_write_error = isinstance(error, OSError) and str(temporary) in str(error)
        # Errors in reading other files are explained by the code that reads them.
        if is_write_error or _error_number(error) in _FULL_REASONS:
            raise cannot_write(target, error) from error
        raise


def cannot_write(target: Path, error: Exception) -> InputError:
    """Returns the `InputError` for an output that cannot be written: the reason and a remedy."""
    reason, remedy = write_error_reason(target, error), "Choose another output."
    if _error_number(error) in _FULL_REASONS:
        remedy = "Free some space, or choose another output."
    return InputError(f"cannot write {target}: {reason}. {remedy}")


def write_error_reason(target: Path, error: Exception) -> str:
    """Returns the reason why the system refused to write `target`, as part of a sentence."""
    number = _error_number(error)
    if number in _FULL_REASONS:
        return _FULL_REASONS[number]
    file = next((folder for folder in target.parents if _is_file(folder)), None)
    return f"{file} is a file, not a folder" if file else os.strerror(number or errno.EIO)


def _error_number(error: Exception) -> int | None:
    """Returns the system's error number; reads it from the message of a Rust library's error.

    Returns None if there is no number.
    """
    number = error.errno if isinstance(error, OSError) else None
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if number is None and match else number


def _is_file(path: Path) -> bool:
    with suppress(OSError):  # such as a name that is too long
        return path.is_file()
    return False


def refuse_existing(target: Path) -> None:
    """Raises `InputError` if an output exists. Call this before long work, not after the work."""
    try:
        exists = target.exists()
    except OSError as error:  # such as a name that is too long
        raise cannot_write(target, error) from error
    if exists:
        raise InputError(f"{target} exists already. Choose another output, or remove it first.")


def require_ending(target: Path, ending: str) -> None:
    """Raises `InputError` if an output's name does not end in `ending`, such as `.parquet`."""
    if target.suffix.lower() != ending:
        raise InputError(
            f"{target}: expected a name that ends in {ending}, the format of the file. "
            f"Choose {target.with_suffix(ending)}."
        )


def _temporary_path(target: Path) -> Path:
    """Returns this process's temporary path for `target`.

    Removes the temporary paths for `target` that ended processes of this machine left.
    """
    prefix = f".{target.name}{_PARTIAL}{platform.node()}."
    for path in target.parent.glob(glob.escape(prefix) + "*"):
        if not _is_running(path.suffix.removeprefix(".")):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    return target.with_name(f"{prefix}{os.getpid()}")


def _is_running(process: str) -> bool:
    """Returns whether a process of this machine exists; true if the system does not say.

    `process` is the text of a process number; other text counts as running.
    """
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True


def require_space(target: Path, temporary: Path, size: int, content: str, advice: str) -> None:
    """Raises `InputError` if the disk of `temporary` has less than `size` bytes free.

    The message says how much space `content`, a plural noun, needs in `target`. `advice` is a
    smaller choice, such as "fewer logs".
    """
    free = shutil.disk_usage(temporary).free
    if free < size:
        raise InputError(
            f"{target}: {content} take about {_format_size(size)}, and {_format_size(free)} are "
            f"free. Choose {advice}, or an output on a larger disk."
        )


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yields a temporary folder next to `target`; replaces `target` by it if the block succeeds.

    Raises `InputError` if `target` cannot be written, such as on a full disk.
    """
    temporary = _temporary_path(target)
    with explain_disk_errors(target, temporary):
        temporary.mkdir()
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        with explain_disk_errors(target, temporary):
            yield temporary
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Yields a temporary path next to `target`; replaces `target` by it if the block succeeds.

    Even after a crash of the machine, `target` is a complete file: the old one or the new one.
    """
    temporary = target.with_name(f".{target.name}{_PARTIAL}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _format_size(size: int) -> str:
    """Formats a number of bytes."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, in the order of its keys."""
    path.write_text(json_text(content), encoding="utf-8")


def json_text(content: Any) -> str:
    """Returns `content` as indented JSON, in the order of its keys."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Reads JSON. Raises `InputError` that names the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {path.parent} is not complete.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


def describe_path(path: Path) -> str:
    """Describes what is at a path, for a message that expected something else."""
    if not path.is_dir():
        return "it is a file" if path.exists() else "nothing is there"
    for name, kind in _KIND_BY_FILE.items():
        if (path / name).is_file():
            return f"it is {kind}"
    return "it is another kind of folder, or not complete"


def write_summary(
    folder: Path, kind: str, known: Mapping[str, str] | None = None, **content: Any
) -> None:
    """Writes `summary.json` to a folder: kind, version, `content`, and the files' checksums.

    Cards have no checksum, because people may edit them. `kind` names the kind of the folder, such
    as "task". `known` has checksums by relative path; files in it are not read again.
    """
    summary = {"kind": kind, "version": version("userbert"), **content}
    all_sums = checksums(folder, known).items()
    sums = {name: value for name, value in all_sums if PurePosixPath(name).name != CARD}
    write_json(folder / "summary.json", {**summary, "checksums": sums})


def check_summary(folder: Path, format_version: int, files: Collection[str]) -> None:
    """Checks a folder against its `summary.json`: format, checksums, and whether `files` exist.

    Raises `ModelError` that names the missing or damaged file, or the folder of another format.
    """
    root = _root_of_files(folder)
    try:
        summary = read_json(folder / "summary.json")
        written_version, expected = summary["format"], dict(summary["checksums"])
    except KeyError as error:
        message = f"{folder / 'summary.json'} is damaged: the key {error} is missing."
        raise ModelError(f"{message}{_ADVICE}") from error
    except (InputError, TypeError, ValueError) as error:
        reason = str(error).removesuffix(".")
        raise ModelError(f"{folder / 'summary.json'} is damaged: {reason}.{_ADVICE}") from error
    if written_version != format_version:
        raise ModelError(
            f"{folder} has the format {written_version!r}, this version reads {format_version}. "
            f"Install the version of userbert that wrote it ({summary.get('version')})."
        )
    for name in sorted({*files, *expected}):
        file = folder / name
        # userbert never writes a name that leads out of the folder.
        is_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        if not file.is_file() or not is_inside or not file.resolve().is_relative_to(root):
            raise ModelError(f"{file} is missing.{_ADVICE}")
        if checksum(file) != expected.get(name):
            raise ModelError(f"{file} has changed since it was written.{_ADVICE}")


def _root_of_files(folder: Path) -> Path:
    """Returns the folder that holds the files: `folder` itself, or the repository in a hub's cache.

    A cache holds `models--OWNER--NAME/snapshots/COMMIT/`, whose files are links into `blobs/`.
    """
    path = folder.resolve()
    repository = path.parent.parent
    is_cached = path.parent.name == "snapshots" and repository.name.startswith("models--")
    return repository if is_cached else path


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the SHA-256 of every file below `folder`, by relative path, in sorted order.

    `known` has checksums by relative path; files in it are not read.
    """
    known = known or {}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    return {name: known.get(name) or checksum(folder / name) for name in names}
