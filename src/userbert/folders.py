"""Outputs that appear whole or not at all, and the checksums that tell whether they still are.

Every verb that writes goes through `publishing_folder` or `publishing_file`: the work happens
beside the target under a temporary name, `.NAME.partial-HOST.PROCESS`, and one rename publishes it.
What a run that was killed left there is removed by the next one that wants the same target.
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
_FULL = {
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "your quota of its disk is used up",
    errno.EFBIG: "files may not be that large there, or by your limits (ulimit -f)",
}
CARD = "README.md"
"""What a folder says to people, who may edit it: no checksum holds it."""
_AGAIN = " Copy the whole folder again, or train anew."
_KINDS = {
    "manifest.json": "prepared data",
    "task.json": "a task model",
    "fused.json": "a task model",
    "report.json": "an evaluation",
    "config.json": "a model",
}
"""What a folder is, by a file that it alone has."""


@contextmanager
def publishing_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; rename it to `target` if the block succeeds.

    Raises `InputError` if `target` exists or cannot be created, or if the disk is full.
    """
    refuse_existing(target)
    temporary = _temporary_beside(target)
    with _parents_of(target):
        try:
            with telling_of_the_disk(target, temporary):
                temporary.mkdir()
                yield temporary
                temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def publishing_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` if the block succeeds.

    Raises `InputError` if `target` exists, its folder cannot be created, or the disk is full.
    """
    refuse_existing(target)
    temporary = _temporary_beside(target)
    with _parents_of(target):
        try:
            with telling_of_the_disk(target, temporary):
                yield temporary
                temporary.rename(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _parents_of(target: Path) -> Iterator[None]:
    """Make the folders above `target`; if the block fails, remove those that were not there."""
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # another run may write there now
                folder.rmdir()
        raise


@contextmanager
def telling_of_the_disk(target: Path, temporary: Path) -> Iterator[None]:
    """Say that `target` cannot be written if that is what failed in the block."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        is_ours = isinstance(error, OSError) and str(temporary) in str(error)
        # What cannot be read, as it is not ours, is told where it is read.
        if is_ours or _number_of(error) in _FULL:
            raise cannot_write(target, error) from error
        raise


def cannot_write(target: Path, error: Exception) -> InputError:
    """The error of an output that could not be written, and the way out."""
    reason, remedy = why_not_written(target, error), "Choose another -o."
    if _number_of(error) in _FULL:
        remedy = "Free some of it, or choose another -o."
    return InputError(f"cannot write {target}: {reason}. {remedy}")


def why_not_written(target: Path, error: Exception) -> str:
    """What the system said, in words."""
    number = _number_of(error)
    if number in _FULL:
        return _FULL[number]
    file = next((folder for folder in target.parents if _is_file(folder)), None)
    return f"{file} is a file, not a folder" if file else os.strerror(number or errno.EIO)


def _number_of(error: Exception) -> int | None:
    """What the system called an error; libraries in Rust say it in their message alone."""
    number = error.errno if isinstance(error, OSError) else None
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if number is None and told else number


def _is_file(path: Path) -> bool:
    with suppress(OSError):  # such as a name that is too long
        return path.is_file()
    return False


def refuse_existing(target: Path) -> None:
    """Raise `InputError` if an output is there already: before an hour's work, not after it."""
    try:
        exists = target.exists()
    except OSError as error:  # such as a name that is too long
        raise cannot_write(target, error) from error
    if exists:
        raise InputError(f"{target} exists already. Choose another -o, or remove it first.")


def require_ending(target: Path, ending: str) -> None:
    """Raise `InputError` if an output's name does not tell its format, by which it is read."""
    if target.suffix.lower() != ending:
        raise InputError(
            f"{target}: expected a name that ends in {ending}, which is what is written. "
            f"Choose -o {target.with_suffix(ending)}."
        )


def _temporary_beside(target: Path) -> Path:
    """A name for this process's work, after what dead ones left was removed."""
    mine = f".{target.name}{_PARTIAL}{platform.node()}."
    for left in target.parent.glob(glob.escape(mine) + "*"):
        if not _lives(left.suffix.removeprefix(".")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    return target.with_name(f"{mine}{os.getpid()}")


def _lives(process: str) -> bool:
    """Whether a process of this machine is there; what is no number is not ours to judge."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True


def require_space(target: Path, temporary: Path, size: int, what: str, less: str) -> None:
    """Raise `InputError` if there is not room for so many bytes where `temporary` lies.

    `what` will be in `target`; with `less` it would take less.
    """
    free = shutil.disk_usage(temporary).free
    if free < size:
        raise InputError(
            f"{target}: {what} take about {_told(size)}, and {_told(free)} are free. "
            f"Choose {less}, or an -o on a larger disk."
        )


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; put it in the target's place if the block succeeds.

    Raises `InputError` if the disk is full.
    """
    temporary = _temporary_beside(target)
    with telling_of_the_disk(target, temporary):
        temporary.mkdir()
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        with telling_of_the_disk(target, temporary):
            yield temporary
        target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; put it in the target's place if the block succeeds.

    Whatever happens, also to the machine, what is found there is whole: the old file or the new.
    """
    temporary = target.with_name(f".{target.name}{_PARTIAL}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _told(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, keys in the order given."""
    path.write_text(json_text(content), encoding="utf-8")


def json_text(content: Any) -> str:
    """Indented JSON, keys in the order given."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read JSON; raise `InputError` that names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {path.parent} is not complete.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


def found_at(path: Path) -> str:
    """What is at a path where a folder of another kind was wanted."""
    if not path.is_dir():
        return "it is a file" if path.exists() else "nothing is there"
    for name, kind in _KINDS.items():
        if (path / name).is_file():
            return f"it is {kind}"
    return "it is a folder of something else, or not complete"


def write_summary(
    folder: Path, kind: str, known: Mapping[str, str] | None = None, **content: Any
) -> None:
    """Close a folder with `summary.json`: what it is, its version, checksums of all files in it.

    Cards, which may be edited, have none. Files whose checksum is `known` are not read.
    """
    made = {"kind": kind, "version": version("userbert"), **content}
    found = checksums(folder, known).items()
    kept = {name: told for name, told in found if PurePosixPath(name).name != CARD}
    write_json(folder / "summary.json", {**made, "checksums": kept})


def check_summary(folder: Path, form: int, files: Collection[str]) -> None:
    """Compare a folder with its summary: its format, its checksums, and that `files` are there.

    Raises `ModelError` that names what is missing, damaged, or of another format.
    """
    home = _home(folder)
    try:
        summary = read_json(folder / "summary.json")
        found, expected = summary["format"], dict(summary["checksums"])
    except KeyError as error:
        told = f"{folder / 'summary.json'} is damaged: it lacks {error}."
        raise ModelError(f"{told}{_AGAIN}") from error
    except (InputError, TypeError, ValueError) as error:
        told = str(error).removesuffix(".")
        raise ModelError(f"{folder / 'summary.json'} is damaged: {told}.{_AGAIN}") from error
    if found != form:
        raise ModelError(
            f"{folder} has the format {found!r}, this version reads {form}. "
            f"Install the version of userbert that wrote it ({summary.get('version')})."
        )
    for name in sorted({*files, *expected}):
        file = folder / name
        # A name that leads out of the folder is not one that we wrote.
        is_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        if not file.is_file() or not is_inside or not file.resolve().is_relative_to(home):
            raise ModelError(f"{file} is missing.{_AGAIN}")
        if checksum(file) != expected.get(name):
            raise ModelError(f"{file} has changed since it was written.{_AGAIN}")


def _home(folder: Path) -> Path:
    """Where a folder's files lie: in it, or beside it where hubs keep what they downloaded.

    Their caches hold `models--OWNER--NAME/snapshots/COMMIT/`, whose files are links into `blobs/`.
    """
    path = folder.resolve()
    repository = path.parent.parent
    is_cached = path.parent.name == "snapshots" and repository.name.startswith("models--")
    return repository if is_cached else path


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by relative path, in sorted order.

    Files whose checksum is `known` are not read.
    """
    found = dict(known or {})
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    return {name: found.get(name) or checksum(folder / name) for name in names}
