"""Preparation beside what else is done with such files, and the memory that each holds.

In: folders of simulated logs. Out: rows of events a second, and of memory and disk at their peaks.
Contestants run one after the other on the same files, each in a process of its own. The command
line writes the rows; docs/results shows them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from userbert.benchmarks.contest import Run, compete, gib, run
from userbert.folders import read_json
from userbert.progress import progress

USERS: Mapping[str, int] = {
    "3M": 114_500, "30M": 1_145_000, "90M": 3_435_000, "600M": 22_500_000,
}  # fmt: skip
"""Of workloads of about so many events, four attributes and two segments; the last is the paper's
(§4.1)."""
MEMORY = 1536 << 20
"""What ours is told to keep to, in bytes."""
_MOST_EVENTS: Mapping[str, int] = {
    "spark": 100_000_000, "polars-scan-sort": 100_000_000, "pandas-per-user": 40_000_000,
}  # fmt: skip
"""Of each that would otherwise take too long, or more memory than a laptop has."""
_SHORT, _TURNS = 10_000_000, 3
"""Of fewer events, what a run does once shows: the run between the others' seconds is taken."""

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
    from userbert.data.prepare.prepare import prepare
    from userbert.schema import Schema

    prepare(Schema.load(logs / "schema.yaml"), output, memory=MEMORY)


def on_spark(logs: Path, output: Path) -> None:
    """Ours on Spark, with an executor of all cores in its own process: what a cluster adds."""
    from userbert.data.prepare.cluster import spark_session
    from userbert.data.prepare.prepare import prepare
    from userbert.schema import Schema

    with spark_session("local[*]") as session:
        prepare(Schema.load(logs / "schema.yaml"), output, spark=session)


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


VARIANTS: Mapping[str, Callable[[Path, Path], None]] = {"local": local, "spark": on_spark}
REFERENCES: Mapping[str, Callable[[Path, Path], None]] = {
    "polars-scan-sort": scan_and_sort, "pandas-per-user": pandas_per_user,
}  # fmt: skip


def bench_prepare(workloads: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The rows of some workloads, given their logs: ours beside each reference that can.

    Logs are folders that `userbert simulate` wrote; their schema is replaced. Where no reference
    can, its columns are None.
    """
    rows = []
    with progress("runs", len(workloads) * (len(VARIANTS) + len(REFERENCES))) as advance:
        for name, logs in workloads.items():
            events = sum(read_json(logs / "summary.json")["events"].values())
            (logs / "schema.yaml").write_text(_SCHEMA, encoding="utf-8")
            runs: dict[str, Run] = {}
            for contestant in (*VARIANTS, *REFERENCES):
                if events <= _MOST_EVENTS.get(contestant, events):
                    turns = _TURNS if events < _SHORT else 1
                    runs[contestant] = sorted(
                        run(__spec__.name, contestant, logs) for _ in range(turns)
                    )[turns // 2]
                advance(1, f"{name}: {contestant}")
            references: list[str | None] = [one for one in REFERENCES if one in runs]
            rows += [
                {"workload": name, **_row(events, variant, reference, runs)}
                for variant in VARIANTS
                if variant in runs
                for reference in references or [None]
            ]
    return rows


def _row(
    events: int, variant: str, reference: str | None, runs: Mapping[str, Run]
) -> dict[str, Any]:
    ours, theirs = runs[variant], None if reference is None else runs[reference]
    return {
        "variant": variant,
        "reference": reference,
        "events": events,
        "events_per_s": round(events / ours.seconds),
        "reference_events_per_s": theirs and round(events / theirs.seconds),
        "ratio": theirs and round(theirs.seconds / ours.seconds, 2),
        "peak_memory_gib": gib(ours.memory),
        "reference_peak_memory_gib": theirs and gib(theirs.memory),
        "peak_disk_gib": gib(ours.disk),
        "output_gib": gib(ours.output),
    }


if __name__ == "__main__":
    compete({**VARIANTS, **REFERENCES})
