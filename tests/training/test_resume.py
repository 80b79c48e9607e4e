"""A run killed at any moment and resumed gives the same metrics and weights."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from example_logs import write_example_logs
from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.model.userbert import UserBertConfig
from userbert.schema.models import Schema
from userbert.training.checkpoint import METRICS_FILE, checkpoints
from userbert.training.pretrain import pretrain
from userbert.training.settings import PretrainConfig

PYTHON = [sys.executable, "-m"]
TORCHRUN = [*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
STEPS = 60
SETTINGS = [
    "checkpoint_every=2", "batch_size=7", "held_out=0.2", "model.layers=1", "model.hidden=16",
    "model.heads=2", "model.feed_forward=32",
]  # fmt: skip
TINY = PretrainConfig(
    model=UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32),
    steps=6,
    batch_size=8,
    learning_rate=1e-2,
    held_out=0.2,
    checkpoint_every=3,
)
SCHEMA = """
user: user_id
sources: {events: {path: events.parquet, time: timestamp, action: {column: event_type}}}
attributes: {category: {column: category}, price: {column: price, bins: 5}}
segments:
  long_term:
    words: {by: day}
    window: {from: 90d, to: 7d}
    actions: [purchase, view]
    attributes: [category, price]
  short_term: {words: {by: gap}, window: 7d, actions: [purchase], attributes: [category]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("resume")
    write_example_logs(folder, users=60)
    (folder / "schema.yaml").write_text(SCHEMA)
    return prepare(Schema.load(folder / "schema.yaml"), folder / "data")


class KilledError(BaseException):
    """Stands for the end of the process: no code of ours catches it."""


def killing(monkeypatch: pytest.MonkeyPatch, countdown: int) -> Callable[[], int]:
    """Raise at the n-th operation on the disk, before it happens; return a counter of them."""
    done = 0

    def dying(target: Any, name: str) -> None:
        original = getattr(target, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done >= countdown:  # a dead process does nothing more
                raise KilledError
            return original(*arguments, **options)

        monkeypatch.setattr(target, name, wrapped)

    dying(os, "fsync")
    dying(Path, "rename")
    dying(Path, "replace")
    dying(Path, "mkdir")
    dying(Path, "unlink")
    dying(shutil, "copy")
    dying(shutil, "rmtree")
    return lambda: done


def result(model: Path) -> tuple[list[Any], dict[str, Any]]:
    """Metrics of a model folder, without speeds, and its weights."""
    lines = [json.loads(line) for line in (model / METRICS_FILE).read_text().splitlines()]
    for line in lines:
        line.pop("users_per_s", None)
    return lines, load_file(model / "model.safetensors")


def assert_same(resumed: Path, expected: Path) -> None:
    lines, weights = result(resumed)
    expected_lines, expected_weights = result(expected)
    assert lines == expected_lines
    assert weights.keys() == expected_weights.keys()
    for name, weight in expected_weights.items():
        assert weights[name].equal(weight), name


def test_run_killed_at_each_disk_operation_resumes_to_the_same(
    data: PreparedData, tmp_path: Path
) -> None:
    expected, resumed = tmp_path / "expected", tmp_path / "resumed"
    pretrain(data, expected, config=TINY)
    for countdown in range(1, 1000):
        with pytest.MonkeyPatch.context() as patch:
            operations = killing(patch, countdown)
            with suppress(KilledError):
                pretrain(data, resumed, config=TINY)
        if operations() < countdown:
            assert countdown > 20
            return
        pretrain(data, resumed, config=TINY, resume=True)
        assert_same(resumed, expected)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "resumed"]
        shutil.rmtree(resumed)


def _start(launcher: list[str], data: Path, output: Path) -> subprocess.Popen[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    return subprocess.Popen(
        [*launcher, "userbert", "pretrain", str(data), "-o", str(output), "--resume",
         "--steps", str(STEPS), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def _kill_at_random_moments(
    launcher: list[str], data: Path, output: Path, kills: int, kill: Callable[[int], None]
) -> int:
    """Start a run and kill it repeatedly until one completes; return the number of kills."""
    chance, counted = random.Random(0), 0
    work = output.with_name(f".{output.name}.training")
    for _ in range(50):
        run = _start(launcher, data, output)
        had = {path.name for path in checkpoints(work)} if work.exists() else set()
        if counted < kills:
            # Kill after its first new checkpoint: starting takes far longer than learning.
            while run.poll() is None and not (
                work.exists() and {path.name for path in checkpoints(work)} - had
            ):
                time.sleep(0.01)
            time.sleep(chance.random() * 0.1)
        if counted < kills and run.poll() is None:
            kill(run.pid)
            counted += 1
        output_text, _ = run.communicate(timeout=120)
        if run.returncode == 0:
            return counted
        assert run.returncode == -signal.SIGKILL, output_text
    pytest.fail("the run never completed")


def _kill_session(leader: int) -> None:
    os.killpg(leader, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [PYTHON, TORCHRUN], ids=["alone", "torchrun"])
def test_run_killed_at_random_moments_resumes_to_the_same(
    data: PreparedData, tmp_path: Path, launcher: list[str]
) -> None:
    whole = _start(launcher, data.path, tmp_path / "whole")
    output_text, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, output_text
    killed = _kill_at_random_moments(launcher, data.path, tmp_path / "model", 4, _kill_session)
    assert killed >= 2
    assert_same(tmp_path / "model", tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "whole"]
