"""Tests of `userbert bench prepare`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from userbert.benchmarks import prepare
from userbert.benchmarks.contest import resident
from userbert.cli import app

ROW = {
    "workload", "variant", "reference", "events", "events_per_s", "reference_events_per_s",
    "ratio", "peak_memory_gib", "reference_peak_memory_gib", "peak_disk_gib", "output_gib",
}  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_that_of_all_processes_together() -> None:
    alone = resident(os.getpid())
    assert alone > 10 << 20
    program = "import sys; x = bytearray(200 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert resident(os.getpid()) - alone > 200 << 20
        assert child.stdin is not None
        child.stdin.close()
    assert resident(child.pid) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("java")
def test_bench_prepare_writes_the_rows_of_the_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "USERS", {"3M": 1_000})
    output, work = tmp_path / "prepare.json", tmp_path / "work"
    arguments = ["bench", "prepare", "--workload", "3M", "--work", str(work), "-o", str(output)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [(row["variant"], row["reference"]) for row in rows] == [
        (variant, reference)
        for variant in ("local", "spark")
        for reference in ("polars-scan-sort", "pandas-per-user")
    ]
    for row in rows:
        assert row.keys() == ROW
        assert row["events"] == pytest.approx(26_200, rel=0.2)
        assert row["events_per_s"] > 0
        assert row["peak_memory_gib"] > 0.05
    assert [path.name for path in work.iterdir()] == ["logs-3M"]
