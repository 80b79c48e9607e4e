"""Outputs appear whole or not at all, and what killed runs left is removed."""

import os
import platform
from pathlib import Path

import pytest

from userbert.errors import InputError
from userbert.folders import publishing_file, publishing_folder

NOBODY = 2**22 + 1
"""No process: Linux numbers them up to 2**22."""


def left_by(target: Path, process: int | str, node: str | None = None) -> Path:
    """What a run of a process left beside a target."""
    left = target.with_name(f".{target.name}.partial-{node or platform.node()}.{process}")
    left.mkdir()
    (left / "half").write_text("written")
    return left


def test_what_a_killed_run_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    target = tmp_path / "data[1]"
    dead = left_by(target, NOBODY)
    kept = [
        left_by(target, os.getppid()),
        left_by(target, NOBODY, "another-machine"),
        left_by(target, "other"),
        left_by(tmp_path / "data", NOBODY),
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
def test_a_full_disk_is_told_and_leaves_nothing(publishing: object, tmp_path: Path) -> None:
    assert callable(publishing)
    with (
        pytest.raises(InputError, match="disk is full"),
        publishing(tmp_path / "out"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert list(tmp_path.iterdir()) == []
