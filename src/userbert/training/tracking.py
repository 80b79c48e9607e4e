"""Experiment trackers: TensorBoard and MLflow, told what `metrics.jsonl` is told.

In: a run's settings, and its lines of metrics as the loop logs them. Out: the same in a tracker,
while the run goes on. A run that was interrupted goes on in the same place. None of them is
imported before it follows a run.
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
"""One line of metrics: its step, and numbers by name, some of them in groups."""
Tell = Callable[[Line], None]

_MLFLOW_RUN = "mlflow.json"
_NOT_OF_A_KEY = re.compile(r"[^/\w.\- :]")
"""What MLflow refuses in the name of a metric."""


class TrackerName(StrEnum):
    """The trackers that the command line knows."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


class Tracker(Protocol):
    """Somebody who is told of a run."""

    def follow(
        self, settings: Mapping[str, Any], lines: Sequence[Line], folder: Path | None
    ) -> AbstractContextManager[Tell]:
        """Open a run, or go on with the one that `lines` are of; the function takes a new line.

        `folder` is the run's own, which it finds again when it goes on; None: it never does.
        """


@dataclass(frozen=True)
class Tracked:
    """Who is told of a run, and by which settings."""

    trackers: Sequence[Tracker] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def follow(self, lines: Sequence[Line], folder: Path | None) -> Iterator[Tell]:
        """Let all trackers follow."""
        with ExitStack() as stack:
            tells = [
                stack.enter_context(tracker.follow(self.settings, lines, folder))
                for tracker in self.trackers
            ]

            def tell(line: Line) -> None:
                for tell_one in tells:
                    tell_one(line)

            yield tell


UNTRACKED = Tracked()


@dataclass(frozen=True)
class TensorBoard:
    """TensorBoard's event files in a folder, which it may watch while the run goes on."""

    folder: str | Path

    def __post_init__(self) -> None:
        _require(TrackerName.TENSORBOARD)

    @contextmanager
    def follow(
        self,
        settings: Mapping[str, Any],
        lines: Sequence[Line],
        folder: Path | None,
    ) -> Iterator[Tell]:
        """Append to the event files that are there, from the first step that is done again."""
        from torch.utils.tensorboard import SummaryWriter

        curve = Path(self.folder)
        is_new = not curve.exists()
        step = lines[-1]["step"] if lines else 0
        try:
            writer = SummaryWriter(curve, purge_step=step + 1)
        except OSError as error:
            raise InputError(
                f"cannot write {curve}: {error.strerror}. Choose another -o."
            ) from error

        def tell(line: Line) -> None:
            for name, value in flat(_numbers(line), "/").items():
                writer.add_scalar(name, value, line["step"])
            writer.flush()

        with writer:
            if is_new:
                text = json.dumps(settings, indent=2, ensure_ascii=False, default=str)
                # Indented, Markdown shows it as it stands.
                writer.add_text("settings", "    " + text.replace("\n", "\n    "))
                for line in lines:
                    tell(line)
            yield tell


@dataclass(frozen=True)
class MLflow:
    """A run of MLflow, where its own variables say (MLFLOW_TRACKING_URI and others)."""

    name: str | None = None
    """Of the run. Default: MLflow makes one up."""

    def __post_init__(self) -> None:
        _require(TrackerName.MLFLOW)

    @contextmanager
    def follow(
        self, settings: Mapping[str, Any], lines: Sequence[Line], folder: Path | None
    ) -> Iterator[Tell]:
        """Go on with the run that the folder names; tell only what that has not heard yet.

        A tracker that cannot be reached at the start is an `InputError`; one that is lost later is
        a warning, as days of training must not end with it.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        kept = None if folder is None else folder / _MLFLOW_RUN
        begun = read_json(kept)["run"] if kept is not None and kept.exists() else None
        try:
            # Nested: whoever calls us may have a run open, of which this is a part.
            run = mlflow.start_run(run_id=begun, run_name=self.name, nested=True).info.run_id
            if begun is None:
                mlflow.log_params(flat(settings, "."))
        except MlflowException as error:
            raise InputError(
                f"MLflow at {mlflow.get_tracking_uri()} cannot be told of this run: "
                f"{_first_line(error)} Let MLFLOW_TRACKING_URI name a server that runs, or leave "
                "--track mlflow out."
            ) from error
        if kept is not None and begun is None:
            with replacing_file(kept) as temporary:
                write_json(temporary, {"run": run})
        client, heard, is_lost = mlflow.MlflowClient(), dict[str, int](), False

        def last_step(key: str) -> int:
            history = [] if begun is None else client.get_metric_history(run, key)
            return max((metric.step for metric in history), default=0)

        def lose(error: Exception) -> None:
            nonlocal is_lost
            if not is_lost:
                warn(
                    f"MLflow at {mlflow.get_tracking_uri()} was lost: {_first_line(error)} The run "
                    "goes on without it; metrics.jsonl has all."
                )
            is_lost = True

        def tell(line: Line) -> None:
            if is_lost:
                return
            step, fresh = line["step"], {}
            try:
                for name, value in flat(_numbers(line), "/").items():
                    key = _NOT_OF_A_KEY.sub("_", name)
                    if key not in heard:
                        heard[key] = last_step(key)
                    if step > heard[key]:
                        fresh[key], heard[key] = value, step
                if fresh:
                    mlflow.log_metrics(fresh, step=step, run_id=run)
            except MlflowException as error:
                lose(error)

        status = "FAILED"
        try:
            for line in lines:
                tell(line)
            yield tell
            status = "FINISHED"
        finally:
            try:
                mlflow.end_run(status)
            except MlflowException as error:
                lose(error)


def trackers_of(
    names: Sequence[TrackerName], output: Path, *, is_resumed: bool = False
) -> list[Tracker]:
    """Make the trackers that the command line asks for, of a run that makes `output`.

    TensorBoard's folder stands beside the output, whole or not: it is watched while the output is
    not there yet. Raises `InputError` if a tracker is not installed, or that folder is of a run
    that is not gone on with.
    """
    trackers: list[Tracker] = []
    for name in dict.fromkeys(names):
        if name is TrackerName.MLFLOW:
            trackers.append(MLflow(output.name))
            continue
        folder = output.with_name(f"{output.name}-tensorboard")
        if folder.exists() and not is_resumed:
            raise InputError(
                f"{folder} holds the curve of an earlier run. Choose another -o, or remove it."
            )
        trackers.append(TensorBoard(folder))
    return trackers


def flat(nested: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """What is inside of groups under names that begin with the group's."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            inner = flat(value, separator)
            found.update({f"{name}{separator}{key}": inner[key] for key in inner})
        else:
            found[name] = value
    return found


def _numbers(line: Line) -> Line:
    return {name: value for name, value in line.items() if name != "step"}


def _require(name: TrackerName) -> None:
    if find_spec(name) is None:
        raise InputError(
            f"tracking by {name} needs a package. Install it with: pip install 'userbert[{name}]'"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") + "."
