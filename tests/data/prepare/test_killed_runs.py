"""Preparation leaves no partial output if it is killed or the disk is full."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from userbert.data.prepare.local import LocalEngine
from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.data.vocabulary import Vocabularies
from userbert.errors import InputError
from userbert.experiments.simulate import simulate
from userbert.folders import read_json
from userbert.schema.models import Schema

pytestmark = pytest.mark.slow

KILLS = 20


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log of about half a million events."""
    folder = tmp_path_factory.mktemp("logs") / "ecosystem"
    simulate(folder, 20_000)
    return folder


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def command(logs: Path, output: Path) -> list[str]:
    schema = str(logs / "schema.yaml")
    return [sys.executable, "-m", "userbert", "prepare", schema, "-o", str(output)]


def test_output_is_absent_or_complete_after_a_kill(logs: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    subprocess.run(command(logs, tmp_path / "complete"), check=True, capture_output=True)
    lasts = time.monotonic() - started
    expected = read_json(tmp_path / "complete" / "manifest.json")
    output, chance, killed = tmp_path / "data", random.Random(0), 0
    for _ in range(KILLS):
        run = subprocess.Popen(
            command(logs, output), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(chance.random() * lasts)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        killed += run.returncode == -signal.SIGKILL
        if output.exists():
            PreparedData.open(output).verify()
            assert read_json(output / "manifest.json") == expected
            shutil.rmtree(output)
    assert killed > KILLS / 2
    subprocess.run(command(logs, output), check=True, capture_output=True)
    assert read_json(output / "manifest.json") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["complete", "data"]


def test_an_interrupt_is_reported_and_leaves_nothing(logs: Path, tmp_path: Path) -> None:
    run = subprocess.Popen(
        command(logs, tmp_path / "data"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.iterdir()):
        assert run.poll() is None
        time.sleep(0.001)
    run.send_signal(signal.SIGINT)
    message = run.communicate()[1]
    assert run.returncode == 130
    assert message == "error: interrupted before the output was complete\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Folder for a disk of any size."""
    place = tmp_path / "disk"
    place.mkdir()
    yield place
    subprocess.run(["umount", str(place)], check=False, capture_output=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts disks")
@pytest.mark.parametrize("full_in", ["first", "second"])
def test_a_full_disk_is_an_error_and_nothing_is_published(
    logs: Path, tmp_path: Path, small_disk: Path, full_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema, spread = Schema.load(logs / "schema.yaml"), 0
    fit = LocalEngine.fit

    def measured(engine: LocalEngine) -> Vocabularies:
        nonlocal spread
        spread = size_of(engine.preparation.folder)
        return fit(engine)

    monkeypatch.setattr(LocalEngine, "fit", measured)
    prepare(schema, tmp_path / "complete")
    size = spread // 2 if full_in == "first" else spread + size_of(tmp_path / "complete") // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small_disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("disks cannot be mounted here")
    with pytest.raises(InputError, match=r"rows take about .* MB, and .* MB are free"):
        prepare(schema, small_disk / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    with pytest.raises(InputError, match="its disk is full"):
        prepare(schema, small_disk / "data")
    assert list(small_disk.iterdir()) == []
