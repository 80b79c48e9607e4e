"""Outputs appear complete or not at all, and leftovers of killed runs are removed."""

import os
import platform
from pathlib import Path

import pytest

from userbert.errors import InputError
from userbert.folders import publishing_file, publishing_folder

NO_PROCESS = 2**22 + 1
"""A number that no process has: Linux numbers processes up to 2**22."""


def leftover(target: Path, process: int | str, node: str | None = None) -> Path:
    """A temporary folder of a process's run, next to its target."""
    folder = target.with_name(f".{target.name}.partial-{node or platform.node()}.{process}")
    folder.mkdir()
    (folder / "half").write_text("written")
    return folder


def test_leftovers_of_killed_runs_are_removed_and_other_runs_kept(tmp_path: Path) -> None:
    target = tmp_path / "data[1]"
    dead = leftover(target, NO_PROCESS)
    kept = [
        leftover(target, os.getppid()),
        leftover(target, NO_PROCESS, "another-machine"),
        leftover(target, "other"),
        leftover(tmp_path / "data", NO_PROCESS),
    ]
    with publishing_folder(target) as folder:
        assert not dead.exists()
        (folder / "file").write_text("whole")
    assert all(path.exists() for path in kept)
    assert (target / "file").read_text() == "whole"
    with publishing_file(tmp_path / "data") as file:
        assert not kept[-1].exists()
        file.write_text("whole")


@pytest.mark.parametrize("publishing", [publishing_folder, publishing_file])
def test_full_disk_is_reported_and_leaves_nothing(publishing: object, tmp_path: Path) -> None:
    assert callable(publishing)
    with (
        pytest.raises(InputError, match="disk is full"),
        publishing(tmp_path / "out"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert list(tmp_path.iterdir()) == []
