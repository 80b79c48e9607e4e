"""Checkpoints: complete or absent, the last three kept, damaged ones skipped with a warning."""

from pathlib import Path

import pytest
import torch
from torch import nn

from userbert.errors import InputError, ModelError
from userbert.training.checkpoint import (
    RunState,
    checkpoints,
    load_checkpoint,
    newest_intact,
    save_checkpoint,
)
from userbert.training.optim import Adam


def _save(folder: Path, *steps: int) -> nn.Module:
    """Save checkpoints of a module whose bias is the step."""
    module = nn.Linear(2, 1)
    optimizer = Adam(module, 0.1)
    for step in steps:
        module(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        nn.init.constant_(module.bias, step)
        save_checkpoint(folder, module, optimizer, RunState(step, 10 * step, 0.5))
    return module


def _names(folder: Path) -> list[str]:
    """Names of the files in a folder, without checksums."""
    return sorted(path.name[:19] for path in folder.iterdir())


def _damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_loaded_state_equals_the_saved_state(tmp_path: Path) -> None:
    saved = _save(tmp_path, 1, 2)
    newest = newest_intact(tmp_path)
    assert newest is not None
    loaded = nn.Linear(2, 1)
    optimizer = Adam(loaded, 0.1)
    assert load_checkpoint(newest, loaded, optimizer) == RunState(2, 20, 0.5)
    for name, weight in saved.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name])


def test_only_the_last_three_checkpoints_are_kept(tmp_path: Path) -> None:
    _save(tmp_path, 100, 200, 99_999_999, 100_000_000)
    assert _names(tmp_path) == ["checkpoint-00000200", "checkpoint-10000000", "checkpoint-99999999"]
    newest = newest_intact(tmp_path)
    assert newest is not None
    assert "100000000" in newest.name


def test_a_folder_without_checkpoints_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.partial").write_bytes(b"killed while it was written")
    assert newest_intact(tmp_path) is None


@pytest.mark.parametrize("at", [0, 60, -1])
def test_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    _save(tmp_path, 10, 20, 30)
    newest, before, _ = checkpoints(tmp_path)
    _damage(newest, at)
    assert newest_intact(tmp_path) == before
    assert f"warning: {newest} is damaged" in capsys.readouterr().err


def test_resumed_run_replaces_damaged_checkpoints(tmp_path: Path) -> None:
    _save(tmp_path, 10, 20, 30)
    damaged, *_ = checkpoints(tmp_path)
    _damage(damaged, 0)
    _save(tmp_path, 25)
    assert _names(tmp_path) == [f"checkpoint-000000{step}" for step in (10, 20, 25)]


def test_all_checkpoints_damaged_is_an_error_with_advice(tmp_path: Path) -> None:
    _save(tmp_path, 10, 20)
    for path in checkpoints(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"none of the 2 checkpoints in .* or remove the folder"):
        newest_intact(tmp_path)


def test_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"its disk is full.*then resume the run"):
        _save(tmp_path, 1)
    assert checkpoints(tmp_path) == []
