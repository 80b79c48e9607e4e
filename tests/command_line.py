"""Runs the command line in this process: captures its output and the files it leaves."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from userbert import cli


@dataclass(frozen=True)
class Outcome:
    """Exit code, output and new files of a command."""

    code: int
    out: str
    error: str
    appeared: list[str]
    """New files in the current folder, hidden ones included."""

    @property
    def refusal(self) -> str:
        """The only message of a command that refused its input and wrote nothing."""
        assert self.code == 2, self.error
        assert self.error.startswith("error: ")
        assert "Traceback" not in self.error
        assert self.error.count("\n") == 1, self.error
        assert self.error.endswith((".\n", "?\n"))
        assert self.appeared == []
        return self.error.removeprefix("error: ").strip()


Userbert = Callable[..., Outcome]


def command_line_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Userbert:
    """Returns a function that runs commands in a folder."""
    monkeypatch.chdir(folder)

    def run(*arguments: object) -> Outcome:
        before = {path.name for path in folder.iterdir()}
        monkeypatch.setattr(sys, "argv", ["userbert", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        output = capsys.readouterr()
        appeared = sorted({path.name for path in folder.iterdir()} - before)
        return Outcome(code, output.out, output.err, appeared)

    return run
