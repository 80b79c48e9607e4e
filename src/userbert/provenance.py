"""Provenance of published figures: code, data, date, machine and command.

Every JSON file of results has this record under the key `made`.
"""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from userbert.workers import cores


def provenance_record(
    command: Sequence[str], seeds: Sequence[int], data: str | None
) -> dict[str, object]:
    """Returns the provenance of results.

    `command` holds the words of the command line, `seeds` the random seeds. `data` is the checksum
    of the prepared data; None if the results come from several data sets or from none.
    """
    return {
        "commit": commit(),
        "version": package_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": list(seeds),
        "machine": machine(),
        "data": data,
        "command": " ".join(command),
    }


def commit() -> str | None:
    """Returns the source tree's commit, with `+changes` if modified; None outside a git tree."""
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def machine() -> str:
    """Describes the processor, the number of usable cores, the system and the Python version."""
    system = f"{platform.system()} {platform.machine()}"
    return f"{_processor()}, {cores()} cores, {system}, Python {platform.python_version()}"


def _processor() -> str:
    """Returns the name of the processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown processor")


def package_version() -> str:
    """Returns the installed version of userbert; "unknown" if it is not installed."""
    try:
        return version("userbert")
    except PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str | None:
    """Returns git's output in the source tree; None outside a git tree, or if git fails."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
