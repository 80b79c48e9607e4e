"""Results carry their provenance."""

from pathlib import Path

import pytest

import userbert.provenance
from userbert.provenance import provenance_record


def test_record_names_code_data_seeds_machine_and_command() -> None:
    origin = provenance_record(["userbert", "evaluate", "model"], seeds=[0, 1], data="abc")
    assert origin["seeds"] == [0, 1]
    assert origin["data"] == "abc"
    assert origin["command"] == "userbert evaluate model"
    assert "cores" in str(origin["machine"])
    assert str(origin["date"]).endswith("+00:00")


def test_outside_a_git_tree_the_commit_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(userbert.provenance, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert userbert.provenance.commit() is None
