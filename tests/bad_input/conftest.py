"""A small shop with every output of userbert, and a runner of its command line."""

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from example_logs import write_example_logs
from userbert.cli import main

CUTOFF = "2024-03-15"
TINY = [
    part
    for setting in ("layers=1", "hidden=16", "heads=2", "feed_forward=32", "attribute_width=8")
    for part in ("--set", f"model.{setting}")
]


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    stderr: str
    stdout: str

    def refusal(self) -> str:
        """Returns the only message of a command that rejected its input."""
        assert self.code == 2, self.stderr
        assert self.stderr.startswith("error: ")
        assert "Traceback" not in self.stderr
        assert self.stderr.count("error: ") == 1
        return self.stderr.removeprefix("error: ").strip()


def userbert(folder: Path, *arguments: object) -> CommandResult:
    """Runs the command line in this process, with `folder` as the current one."""
    stderr, stdout, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stderr(stderr),
        contextlib.redirect_stdout(stdout),
    ):
        patch.setattr(sys, "argv", ["userbert", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return CommandResult(code, stderr.getvalue(), stdout.getvalue())


Run = Callable[..., CommandResult]


def make_shop(folder: Path) -> None:
    """Writes logs, runs every verb on them, and writes labels and seeds of a user."""
    write_example_logs(folder, users=60)
    for command in (
        ["init", "events.parquet", "--profiles", "profiles.parquet"],
        ["prepare", "schema.yaml", "-o", "data"],
        ["label", "return", "data", "--horizon", "14d", "--cutoff", CUTOFF, "-o", "return.parquet"],
        ["label", "next", "data", "--attribute", "category", "--cutoff", CUTOFF,
         "-o", "next.parquet"],
        ["pretrain", "data", "-o", "model", "--before", CUTOFF, "--steps", "4",
         "--set", "batch_size=8", *TINY],
        ["embed", "model", "data", "--cutoff", CUTOFF, "-o", "embeddings.parquet"],
        ["finetune", "model", "data", "--labels", "return.parquet", "-o", "task", "--epochs", "1"],
        ["predict", "task", "data", "-o", "scores.parquet"],
    ):  # fmt: skip
        done = userbert(folder, *command)
        assert done.code == 0, done.stderr
    rows = [f"u{number},{CUTOFF},{number % 2}" for number in range(60)]
    (folder / "seeds.csv").write_text("user_id\nu1\nu2\nu3\n")
    (folder / "mine.csv").write_text("\n".join(["user_id,cutoff,label", *rows, ""]))


@pytest.fixture(scope="session")
def finished_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs, data, a model, labels, vectors, a task and scores. Tests must not change them."""
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder)
    return folder


@pytest.fixture
def shop(finished_shop: Path) -> "Shop":
    """A shop whose commands must leave no files."""
    return Shop(finished_shop)


class Shop:
    """Runs commands that must not change the files of the shop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def refuses(self, *arguments: object) -> str:
        """Returns the message of a command that is rejected and leaves no new files."""
        before = sorted(self.folder.rglob("*"))
        message = userbert(self.folder, *arguments).refusal()
        assert sorted(self.folder.rglob("*")) == before
        return message
