"""Trackers hold the values of metrics.jsonl, also after an interruption."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from small_logs import log, prepare_events
from synthetic import batch, model
from userbert.data.batches import UserBatch
from userbert.errors import InputError
from userbert.report.report import read_metrics
from userbert.training import tracking
from userbert.training.checkpoint import METRICS_FILE
from userbert.training.loop import LoopConfig, train
from userbert.training.objectives import masked_words
from userbert.training.pretrain import pretrain
from userbert.training.settings import configure
from userbert.training.tracking import (
    Line,
    LogLine,
    MLflow,
    TensorBoard,
    Tracker,
    TrackerName,
    Tracking,
    flatten,
    trackers_of,
)

CONFIG = LoopConfig(steps=20, log_every=4, checkpoint_every=10)
MOST_PARAMETERS = 100
"""Maximum number of parameters that MLflow takes in one call."""
SETTINGS = {"preset": "paper", "config": {"batch_size": 16, "losses": [1, 2]}}
Curves = dict[str, list[tuple[int, float]]]


class Batches:
    """Batches by step; raises at the step at which the machine dies."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at

    def __getitem__(self, step: int) -> UserBatch:
        if step == self.dies_at:
            raise KeyboardInterrupt
        return batch([[6, 3], [2, 0], [1, 4]], seed=step % 2, actions=2)


class Listener:
    """A custom tracker."""

    def __init__(self) -> None:
        self.settings: Mapping[str, Any] = {}
        self.lines: list[Line] = []

    @contextmanager
    def follow(
        self, settings: Mapping[str, Any], lines: Sequence[Line], folder: Path | None
    ) -> Iterator[LogLine]:
        self.settings = settings
        self.lines += lines
        yield self.lines.append


def run(folder: Path, *trackers: Tracker, dies_at: int | None = None) -> Curves:
    """Train, and return the curves in metrics.jsonl."""
    torch.manual_seed(0)
    network = model()
    work = folder / "work"
    work.mkdir(exist_ok=True)
    train(
        network,
        masked_words,
        Batches(dies_at),
        CONFIG,
        folder=work,
        validate=lambda: {"loss": 1.5},
        tracking=Tracking(trackers, SETTINGS),
    )
    curves: Curves = {}
    for text in (work / METRICS_FILE).read_text().splitlines():
        line = json.loads(text)
        step = line.pop("step")
        for name, value in flatten(line, "/").items():
            curves.setdefault(name, []).append((step, value))
    return curves


def shown(folder: Path) -> EventAccumulator:
    """TensorBoard's view of a folder."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(folder: Path) -> Curves:
    events = shown(folder)
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def assert_same(found: Curves, expected: Curves) -> None:
    """Equal within float32 precision, except for speeds, which repeated steps measure again."""
    assert found.keys() == expected.keys()
    for name, curve in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in curve]
        if name != "users_per_s":
            values = [value for _, value in found[name]]
            assert values == pytest.approx([value for _, value in curve])


def test_tensorboard_shows_the_lines_of_metrics_and_the_settings(tmp_path: Path) -> None:
    expected = run(tmp_path, TensorBoard(tmp_path / "curve"))
    assert {"loss", "learning_rate", "users_per_s", "validation/loss"} < expected.keys()
    assert any(name.startswith("losses/") for name in expected)
    assert_same(scalars(tmp_path / "curve"), expected)
    (text,) = shown(tmp_path / "curve").Tensors("settings/text_summary")
    assert json.loads(text.tensor_proto.string_val[0]) == SETTINGS


def test_resumed_run_continues_the_same_curve_of_tensorboard(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, TensorBoard(tmp_path / "curve"), dies_at=17)
    assert [step for step, _ in scalars(tmp_path / "curve")["loss"]] == [4, 8, 10, 12, 16]
    expected = run(tmp_path, TensorBoard(tmp_path / "curve"))
    assert_same(scalars(tmp_path / "curve"), expected)


def test_tensorboard_gets_the_lines_logged_before_it_was_added(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, dies_at=13)
    expected = run(tmp_path, TensorBoard(tmp_path / "curve"))
    assert_same(scalars(tmp_path / "curve"), expected)


def test_custom_trackers_get_settings_and_lines(tmp_path: Path) -> None:
    listener = Listener()
    run(tmp_path, listener)
    assert listener.settings == SETTINGS
    lines = (tmp_path / "work" / METRICS_FILE).read_text().splitlines()
    assert listener.lines == [json.loads(line) for line in lines]


def test_pretraining_sends_its_settings_and_lines(tmp_path: Path) -> None:
    days = (f"2024-01-{day:02}T12:00" for day in range(1, 9))
    own = log(*((f"u{user}", day, "buy", "a", 1.0) for day in days for user in range(8)))
    data, listener = prepare_events(tmp_path, own), Listener()
    config = configure("paper", ["model.layers=1", "steps=2"])
    trained = pretrain(data, tmp_path / "model", config=config, trackers=[listener])
    assert listener.lines == read_metrics(tmp_path / "model")
    assert listener.settings.items() < trained.record.items()
    assert listener.settings["config"]["steps"] == 2
    assert len(flatten(listener.settings, ".")) < MOST_PARAMETERS


@pytest.mark.parametrize("name", list(TrackerName))
def test_missing_tracker_names_its_extra(
    name: TrackerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"pip install 'userbert\[{name}\]'"):
        trackers_of([name], tmp_path / "model")


def test_curve_of_an_earlier_run_is_refused_unless_resumed(tmp_path: Path) -> None:
    (tmp_path / "model-tensorboard").mkdir()
    with pytest.raises(InputError, match="model-tensorboard holds the curve of an earlier run"):
        trackers_of([TrackerName.TENSORBOARD], tmp_path / "model")
    names = [TrackerName.TENSORBOARD, TrackerName.TENSORBOARD]
    trackers = trackers_of(names, tmp_path / "model", is_resumed=True)
    assert trackers == [TensorBoard(tmp_path / "model-tensorboard")]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an MLflow store on disk."""
    uri = f"file:{tmp_path / 'mlruns'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return uri


def only_run(uri: str) -> tuple[Any, Curves]:
    """The only run in MLflow, and its curves."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (only,) = client.search_runs(["0"])
    curves: Curves = {}
    for key in only.data.metrics:
        history = client.get_metric_history(only.info.run_id, key)
        curves[key] = [(metric.step, metric.value) for metric in history]
    return only, curves


def test_mlflow_holds_the_lines_of_metrics_and_the_settings(tmp_path: Path, runs: str) -> None:
    expected = run(tmp_path, MLflow("model"))
    found, curves = only_run(runs)
    assert_same(curves, expected)
    assert (found.info.run_name, found.info.status) == ("model", "FINISHED")
    assert found.data.params == {
        "preset": "paper", "config.batch_size": "16", "config.losses": "[1, 2]",
    }  # fmt: skip


def test_resumed_run_continues_the_same_run_of_mlflow(tmp_path: Path, runs: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, MLflow("model"), dies_at=17)
    found, _ = only_run(runs)
    assert found.info.status == "FAILED"
    expected = run(tmp_path, MLflow("model"))
    found, curves = only_run(runs)
    assert_same(curves, expected)
    assert found.info.status == "FINISHED"


def test_unreachable_mlflow_is_the_users_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"MLflow at http://127[.]0[.]0[.]1:9 cannot log this run"):
        run(tmp_path, MLflow("model"))


@pytest.mark.usefixtures("runs")
def test_losing_mlflow_is_a_warning_and_training_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    calls = []

    def log_metrics(*_: Any, **given: Any) -> None:
        calls.append(given["step"])
        raise MlflowException("the server is gone")

    end = mlflow.end_run

    def end_run(status: str) -> None:
        end(status)
        raise MlflowException("the server is gone")

    monkeypatch.setattr(mlflow, "log_metrics", log_metrics)
    monkeypatch.setattr(mlflow, "end_run", end_run)
    curves = run(tmp_path, MLflow("model"))
    assert curves["loss"][-1][0] == CONFIG.steps
    assert calls == [4]
    error = " ".join(capsys.readouterr().err.split())
    assert error.count("lost MLflow at") == 1
    assert error.count(": the server is gone. The run continues without it") == 1
