"""A small shop with everything that userbert makes of its logs, and its command line."""

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
class Done:
    """What a command said."""

    code: int
    told: str
    shown: str

    def refused(self) -> str:
        """The one message of a command that refused its input."""
        assert self.code == 2, self.told
        assert self.told.startswith("error: ")
        assert "Traceback" not in self.told
        assert self.told.count("error: ") == 1
        return self.told.removeprefix("error: ").strip()


def userbert(folder: Path, *arguments: object) -> Done:
    """Run the command line in this process, in a folder."""
    told, shown, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stderr(told),
        contextlib.redirect_stdout(shown),
    ):
        patch.setattr(sys, "argv", ["userbert", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, told.getvalue(), shown.getvalue())


Run = Callable[..., Done]


def make_shop(folder: Path) -> None:
    """Make everything, and labels of one's own."""
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
        assert done.code == 0, done.told
    rows = [f"u{number},{CUTOFF},{number % 2}" for number in range(60)]
    (folder / "seeds.csv").write_text("user_id\nu1\nu2\nu3\n")
    (folder / "mine.csv").write_text("\n".join(["user_id,cutoff,label", *rows, ""]))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs, data, a model, labels, vectors, a task and scores; nobody changes them."""
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder)
    return folder


@pytest.fixture
def shop(made: Path) -> "Shop":
    """The shop, and what a command left in it."""
    return Shop(made)


class Shop:
    """Runs commands that must leave the shop as it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def refuses(self, *arguments: object) -> str:
        """The message of a command that is refused, and leaves nothing behind."""
        before = sorted(self.folder.rglob("*"))
        message = userbert(self.folder, *arguments).refused()
        assert sorted(self.folder.rglob("*")) == before
        return message
