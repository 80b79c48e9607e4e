"""Tests of `userbert bench init`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from userbert.cli import app


@pytest.mark.slow
def test_bench_init_writes_a_row_per_format(tmp_path: Path) -> None:
    output = tmp_path / "init.json"
    result = CliRunner().invoke(app, ["bench", "init", "--events", "20000", "-o", str(output)])
    assert result.exit_code == 0, result.output
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [row["form"] for row in rows] == ["parquet", "csv"]
    for row in rows:
        assert row["events"] == 20_000
        assert row["seconds"] > 0
        assert row["peak_memory_gib"] > 0.05
