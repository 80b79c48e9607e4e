"""Preparation beside what else is done with such files, and the memory that each holds.

In: folders of simulated logs. Out: rows of events a second and memory at its peak. Contestants run
one after the other on the same files, each in a process of its own, which this module starts again
by `python -m userbert.benchmarks.prepare CONTESTANT LOGS OUT`. The command line writes the rows;
docs/results shows them.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from userbert.folders import read_json
from userbert.progress import progress

USERS: Mapping[str, int] = {"3M": 114_500, "30M": 1_145_000, "90M": 3_435_000}
"""Of workloads of about so many events, four attributes and two segments."""
MEMORY = 1536 << 20
"""What ours is told to keep to, in bytes."""
MOST_IN_PANDAS = 3_000_000
"""Events; more do not fit into the memory of a laptop."""
_SAMPLE_SECONDS = 0.02

LOGS = ("long_term", "short_term", "future")
_SCHEMA = """\
user: user_id
timezone: Asia/Tokyo
sources:
  long_term: {path: [long_term, future], time: {column: time}, action: {column: action_type}}
  short_term: {path: short_term, time: {column: time}, action: {column: event_type}}
attributes:
  expense: {column: price, bins: 17, min: 0}
  shop: {column: shop, max_values: 85124, share: true}
  genre: {column: genre, max_values: 11438, share: true}
  hour: {of: hour}
segments:
  long_term:
    words: {by: day, starts_at: "04:00"}
    window: 90d
    actions: [purchase, point_usage]
    attributes: [expense, shop, genre, hour]
  short_term:
    words: {by: gap, minutes: 30}
    window: 7d
    actions: [click, search, page_view]
    attributes: [shop, genre, hour]
fit_before: 2024-07-01
"""


def local(logs: Path, output: Path) -> None:
    """Ours: every row checked, vocabularies, sorted words on disk."""
    from userbert.data.prepare import prepare
    from userbert.schema import Schema

    prepare(Schema.load(logs / "schema.yaml"), output, memory=MEMORY)


def scan_and_sort(logs: Path, output: Path) -> None:
    """All columns read and sorted by user and time, by Polars in memory: no words, no ids."""
    tables = [pl.scan_parquet(logs / name / "*.parquet") for name in LOGS]
    everything = pl.concat(tables, how="diagonal_relaxed").sort("user_id", "time").collect()
    output.write_text(str(len(everything)), encoding="utf-8")


def pandas_per_user(logs: Path, output: Path) -> None:
    """The usual way in Python: values to codes by frequency, then a group and its arrays a user.

    It is what pytorch-lifestream's preprocessing does, written anew.
    """
    import pandas as pd

    tables = [pd.read_parquet(logs / name) for name in LOGS]
    events = pd.concat(tables, ignore_index=True)
    for name in ("shop", "genre"):
        codes = {value: code for code, value in enumerate(events[name].value_counts().index, 1)}
        events[name] = events[name].map(codes).fillna(0).astype("int64")
    events["time"] = events["time"].astype("int64")
    events = events.sort_values(["user_id", "time"])[["user_id", "time", "shop", "genre", "price"]]
    users = [
        {"user_id": user, **{name: column.to_numpy() for name, column in own.items()}}
        for user, own in events.groupby("user_id")
    ]
    output.write_text(str(len(users)), encoding="utf-8")


CONTESTANTS: Mapping[str, Callable[[Path, Path], None]] = {
    "local": local,
    "polars-scan-sort": scan_and_sort,
    "pandas-per-user": pandas_per_user,
}


def bench_prepare(workloads: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The rows of some workloads, given their logs: ours beside each reference that can.

    Logs are folders that `userbert simulate` wrote; their schema is replaced.
    """
    rows = []
    with progress("runs", len(workloads) * len(CONTESTANTS)) as advance:
        for name, logs in workloads.items():
            events = sum(read_json(logs / "summary.json")["events"].values())
            (logs / "schema.yaml").write_text(_SCHEMA, encoding="utf-8")
            found = {}
            for contestant in CONTESTANTS:
                if contestant != "pandas-per-user" or events <= 1.1 * MOST_IN_PANDAS:
                    found[contestant] = run(contestant, logs)
                advance(1, f"{name}: {contestant}")
            seconds, memory = found.pop("local")
            rows += [
                {
                    "workload": name,
                    "variant": "local",
                    "reference": reference,
                    "events": events,
                    "events_per_s": round(events / seconds),
                    "reference_events_per_s": round(events / theirs),
                    "ratio": round(theirs / seconds, 2),
                    "peak_memory_gib": round(memory / 2**30, 2),
                    "reference_peak_memory_gib": round(their_memory / 2**30, 2),
                }
                for reference, (theirs, their_memory) in found.items()
            ]
    return rows


def run(contestant: str, logs: Path) -> tuple[float, int]:
    """The seconds that a contestant's work takes, and the most bytes its processes held."""
    with TemporaryDirectory(dir=logs.parent) as folder:
        output = Path(folder) / "out"
        command = [sys.executable, "-m", "userbert.benchmarks.prepare", contestant]
        process = subprocess.Popen(
            [*command, str(logs), str(output)], stdout=subprocess.PIPE, text=True
        )
        most = 0
        while process.poll() is None:
            most = max(most, resident(process.pid))
            time.sleep(_SAMPLE_SECONDS)
        told = process.communicate()[0]
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
    return float(told), most


def resident(process: int) -> int:
    """Bytes in memory of a process and all it started; 0 of one that is gone."""
    total, folder = 0, Path("/proc") / str(process)
    try:
        pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
        total += pages * os.sysconf("SC_PAGE_SIZE")
        for thread in (folder / "task").iterdir():
            children = (thread / "children").read_text(encoding="ascii").split()
            total += sum(resident(int(child)) for child in children)
    except OSError:
        return total
    return total


if __name__ == "__main__":
    work = CONTESTANTS[sys.argv[1]]
    started = time.perf_counter()
    work(Path(sys.argv[2]), Path(sys.argv[3]))
    print(time.perf_counter() - started)
