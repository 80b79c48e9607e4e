"""Tests of `userbert demo --serve`."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from userbert.cli import app
from userbert.experiments import demo


def test_serve_takes_a_model_a_task_and_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(demo, "run_demo", lambda folder, _: folder / "report.html")
    monkeypatch.setattr(demo, "served_of", lambda folder: (folder / "model", folder / "task"))
    monkeypatch.setattr(
        "userbert.cli.learning.serve_models",
        lambda models, **options: calls.append((models, options)),
    )
    without_serve = CliRunner().invoke(app, ["demo", "-o", str(tmp_path)])
    assert (without_serve.exit_code, calls) == (0, [])
    with_serve = CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--serve"])
    assert with_serve.exit_code == 0, with_serve.output
    ((models, options),) = calls
    assert models == [tmp_path / "model", tmp_path / "task"]
    assert options == {"data": tmp_path / "data", "runs": tmp_path, "port": 0}


def test_serve_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "fastapi" else object()
    )
    result = CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--serve"])
    assert "pip install 'userbert[serve]'" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_task_is_not_fine_tuned_again(tmp_path: Path) -> None:
    (tmp_path / "tasks" / demo.SERVED).mkdir(parents=True)
    model, task = demo.served_of(tmp_path)
    assert model == tmp_path / "models/default-0"
    assert task == tmp_path / "tasks" / demo.SERVED
