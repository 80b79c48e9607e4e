"""A proposed schema beside one pass over the same file, and the memory that each holds.

In: a folder for logs. Out: rows of seconds and of memory at its peak. The log is a shop's: events
of sessions with ids anew, products, prices, and a session's length that knows what comes later.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from userbert.benchmarks.contest import compete, gib, run
from userbert.progress import progress

FORMS = ("parquet", "csv")
_PRODUCTS, _BRANDS, _DAYS = 85_000, 2_000, 200


def write_log(file: Path, rows: int) -> None:
    """Write a log of about 33 events a user and 6 a session, as the file's ending says."""
    draw = np.random.default_rng(0)
    sessions = rows // 6
    user = draw.integers(0, rows // 33, sessions)
    start = draw.integers(0, _DAYS * 86_400, sessions)
    session = np.sort(draw.integers(0, sessions, rows))
    second = start[session] + draw.integers(0, 1500, rows)
    log = pl.DataFrame(
        {
            "user_id": user[session],
            "timestamp": (second * 1_000_000).astype("datetime64[us]"),
            "session_id": session,
            "event_type": draw.choice(["view", "cart", "buy"], rows, p=[0.8, 0.15, 0.05]),
            "product_id": (_PRODUCTS * draw.random(rows) ** 3).astype(np.int64),
            "brand": (_BRANDS * draw.random(rows) ** 2).astype(np.int64),
            "price": np.round(draw.gamma(2, 10, rows), 2),
            "quantity": draw.integers(1, 9, rows),
            "channel": draw.choice(["web", "app", "mail"], rows),
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
    """`userbert init`: every count of all rows."""
    from userbert.infer.inference import propose_schema

    output.write_text(propose_schema([log], None, log.parent), encoding="utf-8")


def distinct_values(log: Path, output: Path) -> None:
    """One pass of Polars that counts the values of each column: what a first look asks."""
    scan = pl.scan_csv if log.suffix == ".csv" else pl.scan_parquet
    counts = scan(log).select(pl.all().n_unique()).collect(engine="streaming")
    output.write_text(str(counts.row(0)), encoding="utf-8")


CONTESTANTS: Mapping[str, Callable[[Path, Path], None]] = {
    "init": ours, "polars-n-unique": distinct_values,
}  # fmt: skip


def bench_init(folder: Path, rows: int) -> list[dict[str, Any]]:
    """The rows of both forms of a log, which is written to `folder` and removed again."""
    found = []
    with progress("runs", len(FORMS) * len(CONTESTANTS)) as advance:
        for form in FORMS:
            log = folder / f"log.{form}"
            write_log(log, rows)
            runs = {}
            for name in CONTESTANTS:
                runs[name] = run(__spec__.name, name, log)
                advance(1, f"{form}: {name}")
            log.unlink()
            mine, theirs = runs["init"], runs["polars-n-unique"]
            found.append(
                {
                    "form": form,
                    "events": rows,
                    "seconds": round(mine.seconds, 1),
                    "peak_memory_gib": gib(mine.memory),
                    "reference": "polars-n-unique",
                    "reference_seconds": round(theirs.seconds, 1),
                    "reference_peak_memory_gib": gib(theirs.memory),
                }
            )
    return found


if __name__ == "__main__":
    compete(CONTESTANTS)
