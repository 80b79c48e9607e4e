"""Experiment trackers: send the lines of `metrics.jsonl` to TensorBoard and MLflow.

In: a run's settings, and its lines of metrics as the loop logs them. Out: the same values in a
tracker, during the run. A resumed run continues the same run in the tracker. A tracker's package is
imported only when the tracker follows a run.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from userbert.errors import InputError
from userbert.folders import read_json, replacing_file, write_json
from userbert.progress import warn

Line = dict[str, Any]
"""A line of metrics: the step under `step`, and values by name or by group and name."""
LogLine = Callable[[Line], None]
"""Function that sends a line to a tracker."""

_MLFLOW_RUN = "mlflow.json"
"""File in the work folder that holds the id of the MLflow run."""
_INVALID_IN_NAME = re.compile(r"[^/\w.\- :]")
"""Characters that MLflow refuses in the name of a metric."""


class TrackerName(StrEnum):
    """Names of the trackers, which are also the names of their packages' extras."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


class Tracker(Protocol):
    """Receives the settings and metrics of a run."""

    def follow(
        self, settings: Mapping[str, Any], lines: Sequence[Line], folder: Path | None
    ) -> AbstractContextManager[LogLine]:
        """Opens a run, or continues the one that logged `lines`; yields a function for new lines.

        `folder` is the work folder, which a resumed run shares; None if the run cannot resume.
        """


@dataclass(frozen=True)
class Tracking:
    """The trackers of a run, and the run's settings, which the trackers get."""

    trackers: Sequence[Tracker] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def follow(self, lines: Sequence[Line], folder: Path | None) -> Iterator[LogLine]:
        """Opens the run in all trackers; yields a function that sends a line to each."""
        with ExitStack() as stack:
            loggers = [
                stack.enter_context(tracker.follow(self.settings, lines, folder))
                for tracker in self.trackers
            ]

            def log(line: Line) -> None:
                for log_to_tracker in loggers:
                    log_to_tracker(line)

            yield log


NO_TRACKING = Tracking()
"""No trackers."""


@dataclass(frozen=True)
class TensorBoard:
    """Writes event files to a folder; TensorBoard can show them during the run.

    Raises `InputError` if the package is not installed.
    """

    folder: str | Path

    def __post_init__(self) -> None:
        _require(TrackerName.TENSORBOARD)

    @contextmanager
    def follow(
        self,
        settings: Mapping[str, Any],
        lines: Sequence[Line],
        folder: Path | None,
    ) -> Iterator[LogLine]:
        """Appends to the event files; a resumed run replaces the steps that it repeats.

        A new folder also gets the settings and the earlier lines. Raises `InputError` if the
        folder cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        event_folder = Path(self.folder)
        is_new = not event_folder.exists()
        step = lines[-1]["step"] if lines else 0
        try:
            writer = SummaryWriter(event_folder, purge_step=step + 1)
        except OSError as error:
            raise InputError(
                f"cannot write {event_folder}: {error.strerror}. Choose another output."
            ) from error

        def log(line: Line) -> None:
            for name, value in flatten(_numbers(line), "/").items():
                writer.add_scalar(name, value, line["step"])
            writer.flush()

        with writer:
            if is_new:
                text = json.dumps(settings, indent=2, ensure_ascii=False, default=str)
                # Markdown shows indented text verbatim.
                writer.add_text("settings", "    " + text.replace("\n", "\n    "))
                for line in lines:
                    log(line)
            yield log


@dataclass(frozen=True)
class MLflow:
    """Logs to the MLflow server that MLFLOW_TRACKING_URI and MLflow's other variables name.

    Raises `InputError` if the package is not installed.
    """

    name: str | None = None
    """Name of the run. Default: MLflow chooses one."""

    def __post_init__(self) -> None:
        _require(TrackerName.MLFLOW)

    @contextmanager
    def follow(
        self, settings: Mapping[str, Any], lines: Sequence[Line], folder: Path | None
    ) -> Iterator[LogLine]:
        """Continues the run that a file in `folder` names, else starts a run.

        Sends only values that the MLflow run does not have yet. Raises `InputError` if the
        server cannot be reached at the start. Only warns if the server is lost later, so that a
        long training does not end.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        run_file = None if folder is None else folder / _MLFLOW_RUN
        earlier = read_json(run_file)["run"] if run_file is not None and run_file.exists() else None
        try:
            # Nested: the caller may have an open run that includes this run.
            run = mlflow.start_run(run_id=earlier, run_name=self.name, nested=True).info.run_id
            if earlier is None:
                mlflow.log_params(flatten(settings, "."))
        except MlflowException as error:
            raise InputError(
                f"MLflow at {mlflow.get_tracking_uri()} cannot log this run: "
                f"{_first_line(error)} Set MLFLOW_TRACKING_URI to a running server, or train "
                "without MLflow."
            ) from error
        if run_file is not None and earlier is None:
            with replacing_file(run_file) as temporary:
                write_json(temporary, {"run": run})
        client, last_steps, is_lost = mlflow.MlflowClient(), dict[str, int](), False

        def last_step(key: str) -> int:
            history = [] if earlier is None else client.get_metric_history(run, key)
            return max((metric.step for metric in history), default=0)

        def report_lost_server(error: Exception) -> None:
            nonlocal is_lost
            if not is_lost:
                warn(
                    f"lost MLflow at {mlflow.get_tracking_uri()}: {_first_line(error)} The run "
                    "continues without it; metrics.jsonl has every line."
                )
            is_lost = True

        def log(line: Line) -> None:
            if is_lost:
                return
            step, metrics = line["step"], {}
            try:
                for name, value in flatten(_numbers(line), "/").items():
                    key = _INVALID_IN_NAME.sub("_", name)
                    if key not in last_steps:
                        last_steps[key] = last_step(key)
                    if step > last_steps[key]:
                        metrics[key], last_steps[key] = value, step
                if metrics:
                    mlflow.log_metrics(metrics, step=step, run_id=run)
            except MlflowException as error:
                report_lost_server(error)

        status = "FAILED"
        try:
            for line in lines:
                log(line)
            yield log
            status = "FINISHED"
        finally:
            try:
                mlflow.end_run(status)
            except MlflowException as error:
                report_lost_server(error)


def trackers_of(
    names: Sequence[TrackerName], output: Path, *, is_resumed: bool = False
) -> list[Tracker]:
    """Creates trackers by name for a run that writes `output`.

    TensorBoard's folder is next to the output, because people read it before the output exists.
    Raises `InputError` if a tracker's package is not installed, or if TensorBoard's folder exists
    and the run is not resumed.
    """
    trackers: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name is TrackerName.MLFLOW:
            trackers.append(MLflow(output.name))
            continue
        folder = output.with_name(f"{output.name}-tensorboard")
        if folder.exists() and not is_resumed:
            raise InputError(
                f"{folder} holds the curve of an earlier run. Choose another output, or "
                "remove the folder."
            )
        trackers.append(TensorBoard(folder))
    return trackers


def flatten(nested: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """Returns the values of nested mappings by names joined by `separator`, such as `losses/x`."""
    values: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            inner = flatten(value, separator)
            values.update({f"{name}{separator}{key}": inner[key] for key in inner})
        else:
            values[name] = value
    return values


def _numbers(line: Line) -> Line:
    """Returns the values of a line, without its step."""
    return {name: value for name, value in line.items() if name != "step"}


def _require(name: TrackerName) -> None:
    """Raises `InputError` if the tracker's package is not installed."""
    if find_spec(name) is None:
        raise InputError(
            f"tracking by {name} needs the package {name}. Install it with: "
            f"pip install 'userbert[{name}]'"
        )


def _first_line(error: Exception) -> str:
    """Returns the first line of an error's text, ending in a full stop."""
    return str(error).strip().split("\n", 1)[0].rstrip(".") + "."
