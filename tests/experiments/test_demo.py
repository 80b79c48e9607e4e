"""The demo's users, served once the report is there."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from userbert.cli import app
from userbert.experiments import demo


def test_serve_takes_a_model_a_task_and_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(demo, "run_demo", lambda folder, _: folder / "report.html")
    monkeypatch.setattr(demo, "served_of", lambda folder: (folder / "model", folder / "task"))
    monkeypatch.setattr(
        "userbert.cli.learning.serve_models", lambda models, **how: asked.append((models, how))
    )
    plain = CliRunner().invoke(app, ["demo", "-o", str(tmp_path)])
    assert (plain.exit_code, asked) == (0, [])
    done = CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--serve"])
    assert done.exit_code == 0, done.output
    ((models, how),) = asked
    assert models == [tmp_path / "model", tmp_path / "task"]
    assert how == {"data": tmp_path / "data", "runs": tmp_path, "port": 0}


def test_serve_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "fastapi" else object()
    )
    done = CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--serve"])
    assert "pip install 'userbert[serve]'" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_is_there_is_not_learned_again(tmp_path: Path) -> None:
    (tmp_path / "tasks" / demo.SERVED).mkdir(parents=True)
    model, task = demo.served_of(tmp_path)
    assert model == tmp_path / "models/default-0"
    assert task == tmp_path / "tasks" / demo.SERVED
