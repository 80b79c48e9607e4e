"""Benchmark of `init`: ours compared with one pass of Polars over the same file.

In: a folder for logs. Out: rows of seconds and peak memory. The log is a shop's: sessions
with unique ids, products and prices. Each row has its session's number of events, which leaks the
future.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from userbert.benchmarks.contest import compete, gib, run
from userbert.progress import progress

FORMS = ("parquet", "csv")
"""File formats of the log."""
_PRODUCTS, _BRANDS, _DAYS = 85_000, 2_000, 200
"""Number of products, of brands, and of days in the log."""


def write_log(file: Path, rows: int) -> None:
    """Writes a log of `rows` events: about 33 per user and 6 per session.

    It is CSV if the suffix of `file` is `.csv`, else Parquet.
    """
    generator = np.random.default_rng(0)
    sessions = rows // 6
    user = generator.integers(0, rows // 33, sessions)
    start = generator.integers(0, _DAYS * 86_400, sessions)
    session = np.sort(generator.integers(0, sessions, rows))
    second = start[session] + generator.integers(0, 1500, rows)
    log = pl.DataFrame(
        {
            "user_id": user[session],
            "timestamp": (second * 1_000_000).astype("datetime64[us]"),
            "session_id": session,
            "event_type": generator.choice(["view", "cart", "buy"], rows, p=[0.8, 0.15, 0.05]),
            "product_id": (_PRODUCTS * generator.random(rows) ** 3).astype(np.int64),
            "brand": (_BRANDS * generator.random(rows) ** 2).astype(np.int64),
            "price": np.round(generator.gamma(2, 10, rows), 2),
            "quantity": generator.integers(1, 9, rows),
            "channel": generator.choice(["web", "app", "mail"], rows),
        }
    ).with_columns(
        pl.format("u{}", "user_id").alias("user_id"),
        pl.format("session-{}", "session_id").alias("session_id"),
        pl.format("b{}", "brand").alias("brand"),
        session_pages=pl.len().over("session_id"),
    )
    if file.suffix == ".csv":
        log.write_csv(file, datetime_format="%Y-%m-%d %H:%M:%S")
    else:
        log.write_parquet(file)


def ours(log: Path, output: Path) -> None:
    """Proposes a schema as `userbert init` does, which counts over all rows."""
    from userbert.infer.inference import propose_schema

    output.write_text(propose_schema([log], None, log.parent), encoding="utf-8")


def distinct_values(log: Path, output: Path) -> None:
    """Counts the distinct values of each column in one pass of Polars."""
    scan = pl.scan_csv if log.suffix == ".csv" else pl.scan_parquet
    counts = scan(log).select(pl.all().n_unique()).collect(engine="streaming")
    output.write_text(str(counts.row(0)), encoding="utf-8")


COMPETITORS: Mapping[str, Callable[[Path, Path], None]] = {
    "init": ours, "polars-n-unique": distinct_values,
}  # fmt: skip


def bench_init(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Returns a row each for a Parquet and a CSV log of `rows` events.

    The logs are written to `folder`, and removed after their runs.
    """
    results = []
    with progress("runs", len(FORMS) * len(COMPETITORS)) as advance:
        for form in FORMS:
            log = folder / f"log.{form}"
            write_log(log, rows)
            runs = {}
            for name in COMPETITORS:
                runs[name] = run(__spec__.name, name, log)
                advance(1, f"{form}: {name}")
            log.unlink()
            our_run, reference_run = runs["init"], runs["polars-n-unique"]
            results.append(
                {
                    "form": form,
                    "events": rows,
                    "seconds": round(our_run.seconds, 1),
                    "peak_memory_gib": gib(our_run.memory),
                    "reference": "polars-n-unique",
                    "reference_seconds": round(reference_run.seconds, 1),
                    "reference_peak_memory_gib": gib(reference_run.memory),
                }
            )
    return results


if __name__ == "__main__":
    compete(COMPETITORS)
