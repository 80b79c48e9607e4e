"""Benchmark of `prepare`: ours compared with a Polars sort and a pandas loop over users.

In: folders of simulated logs. Out: rows of events per second, peak memory and peak disk.
Competitors run one after the other on the same files, each in its own process. The command line
writes the rows; docs/results shows them.
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
"""Number of users of each workload. A workload is named by its number of events, and has four
attributes and two segments; the last one has the paper's size (§4.1)."""
MEMORY = 1536 << 20
"""Memory limit of our local preparation, in bytes."""
_MAX_EVENTS: Mapping[str, int] = {
    "spark": 100_000_000, "polars-scan-sort": 100_000_000, "pandas-per-user": 40_000_000,
}  # fmt: skip
"""Maximum number of events that a competitor runs on; more take too long, or too much memory for a
laptop. The other competitors have no limit."""
_FEW_EVENTS, _TURNS = 10_000_000, 3
"""With fewer events than `_FEW_EVENTS`, time varies between runs, so the result is the run with the
median time of `_TURNS` runs."""

LOGS = ("long_term", "short_term", "future")
"""Folders of events that `userbert simulate` writes."""
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
    """Prepares logs with our local engine: checked rows, vocabularies, sorted words on disk."""
    from userbert.data.prepare.prepare import prepare
    from userbert.schema import Schema

    prepare(Schema.load(logs / "schema.yaml"), output, memory=MEMORY)


def on_spark(logs: Path, output: Path) -> None:
    """Prepares logs with our Spark engine, on a local executor with all cores."""
    from userbert.data.prepare.cluster import spark_session
    from userbert.data.prepare.prepare import prepare
    from userbert.schema import Schema

    with spark_session("local[*]") as session:
        prepare(Schema.load(logs / "schema.yaml"), output, spark=session)


def scan_and_sort(logs: Path, output: Path) -> None:
    """Reads all columns and sorts them by user and time with Polars in memory.

    It builds neither words nor vocabularies, so it does less work than ours.
    """
    tables = [pl.scan_parquet(logs / name / "*.parquet") for name in LOGS]
    everything = pl.concat(tables, how="diagonal_relaxed").sort("user_id", "time").collect()
    output.write_text(str(len(everything)), encoding="utf-8")


def pandas_per_user(logs: Path, output: Path) -> None:
    """Encodes values by frequency, then groups arrays by user, with pandas.

    Does the work of pytorch-lifestream's preprocessing, in our own code.
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
        {"user_id": user, **{name: column.to_numpy() for name, column in user_events.items()}}
        for user, user_events in events.groupby("user_id")
    ]
    output.write_text(str(len(users)), encoding="utf-8")


VARIANTS: Mapping[str, Callable[[Path, Path], None]] = {"local": local, "spark": on_spark}
REFERENCES: Mapping[str, Callable[[Path, Path], None]] = {
    "polars-scan-sort": scan_and_sort, "pandas-per-user": pandas_per_user,
}  # fmt: skip


def bench_prepare(workloads: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Returns rows of each workload that compare our engines with each reference that can run.

    `workloads` are folders by name, as `userbert simulate` writes them; their schema is replaced.
    If no reference can run, a row of our engine has None in the columns of the reference.
    """
    rows = []
    with progress("runs", len(workloads) * (len(VARIANTS) + len(REFERENCES))) as advance:
        for name, logs in workloads.items():
            events = sum(read_json(logs / "summary.json")["events"].values())
            (logs / "schema.yaml").write_text(_SCHEMA, encoding="utf-8")
            runs: dict[str, Run] = {}
            for competitor in (*VARIANTS, *REFERENCES):
                if events <= _MAX_EVENTS.get(competitor, events):
                    turns = _TURNS if events < _FEW_EVENTS else 1
                    runs[competitor] = sorted(
                        run(__spec__.name, competitor, logs) for _ in range(turns)
                    )[turns // 2]
                advance(1, f"{name}: {competitor}")
            references: list[str | None] = [
                reference for reference in REFERENCES if reference in runs
            ]
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
    """Returns the columns that compare an engine with a reference, or with None."""
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
