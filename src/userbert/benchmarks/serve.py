"""The service on loopback, called by a second process.

In: a folder of simulated logs, whose users are those of the sparse workload. Out: rows of latencies
and rates. The model is of the paper's size and has learned nothing: what it computes takes as long.
The command line writes the rows; docs/results shows them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import polars as pl

from userbert.benchmarks.contest import resident
from userbert.benchmarks.open_loop import Outcome, call, call_again, poisson, post
from userbert.benchmarks.prepare import LOGS
from userbert.data.prepare import prepare
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.progress import progress
from userbert.schema import Schema

_CUTOFF = "2024-07-01T00:00:00+09:00"
_USERS, _TOGETHER = 6_400, 64
_SINGLE_RATE = 100.0
_STEP = 1.15
"""From one rate that is tried to the next."""
_TRY_SECONDS = 10.0


@dataclass(frozen=True)
class Look:
    """How long each workload runs, in seconds."""

    short: float = 30.0
    sustained: float = 600.0


def bench_serve(logs: Path, look: Look, backend: str = "torch") -> list[dict[str, Any]]:
    """Rows of one call a user, calls of 64, 80 % of the highest rate, and twice that rate."""
    with TemporaryDirectory() as folder:
        model = new_model(logs, Path(folder))
        singles, batches = requests_of(logs)
        with served(model, backend) as (process, port), progress("workloads", 5) as advance:
            call_again(port, singles, 200, 1)
            rows = [_row("single", call(port, singles, poisson(_SINGLE_RATE, look.short)), 1)]
            advance(1, "batches")
            # Two callers: one call is read while another is computed.
            turns = max(2, int(look.short * 20))
            rows.append(_row("batch64", call_again(port, batches, turns, 2), _TOGETHER))
            advance(1, "limit")
            rate, outcome = _limit(port, singles, look)
            rows.append(_row("limit", outcome, 1))
            advance(1, f"80 % of {rate:.0f}/s")
            before = resident(process)
            outcome = call(port, singles, poisson(0.8 * rate, look.sustained))
            grown = {"memory_mib": before >> 20, "memory_after_mib": resident(process) >> 20}
            rows.append(_row("sustained", outcome, 1) | grown)
            advance(1, f"twice {rate:.0f}/s")
            rows.append(_row("overload", call(port, singles, poisson(2 * rate, look.short)), 1))
            advance(1, "")
    return [{**row, "backend": backend} for row in rows]


def new_model(logs: Path, folder: Path) -> Path:
    """A model of the paper's size for a folder of logs."""
    data = prepare(Schema.load(logs / "schema.yaml"), folder / "data")
    model = UserBert(
        UserBertConfig(), data.input_shape(), schema=data.schema, vocabularies=data.vocabularies
    )
    model.save_pretrained(folder / "model")
    return folder / "model"


def requests_of(logs: Path) -> tuple[list[bytes], list[bytes]]:
    """Calls of one user each, and of 64: raw events before a cut-off, times as text."""
    users = _raw_events(logs)
    together = [users[first : first + _TOGETHER] for first in range(0, len(users), _TOGETHER)]
    singles, batches = (
        [post("/v1/embed", orjson.dumps({"cutoff": _CUTOFF, "users": some})) for some in each]
        for each in ([[user] for user in users], together)
    )
    return singles, batches


def _raw_events(logs: Path) -> list[dict[str, Any]]:
    schema = Schema.load(logs / "schema.yaml")
    cutoff = pl.lit(_CUTOFF).str.to_datetime("%+", time_zone="UTC")
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, folders in {"long_term": [LOGS[0], LOGS[2]], "short_term": [LOGS[1]]}.items():
        source = schema.sources[name]
        assert not isinstance(source.action, str)
        columns = ["time", source.action.column, "price", "shop", "genre"]
        frame = pl.concat(
            [pl.scan_parquet(logs / folder / "*.parquet") for folder in folders]
        ).filter(pl.col("time") < cutoff)
        some = frame.select("user_id").unique().sort("user_id").head(_USERS)
        rows = frame.join(some, on="user_id", how="semi").collect(engine="streaming")
        rows = rows.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        for (user,), events in rows.group_by("user_id", maintain_order=True):
            kept = events.select(column for column in columns if column in events.columns)
            found.setdefault(str(user), {})[name] = kept.to_dicts()
    return [{"user_id": user, "events": events} for user, events in sorted(found.items())][:_USERS]


@contextmanager
def served(model: Path, backend: str) -> Iterator[tuple[int, int]]:
    """A service in a process of its own: its process and its port."""
    command = [sys.executable, "-m", "userbert", "serve", str(model), "--port", "0"]
    with subprocess.Popen(
        [*command, "--backend", backend], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            address = process.stdout.readline().split(" ")[0]
            yield process.pid, int(address.rsplit(":", 1)[1])
        finally:
            process.terminate()


def _limit(port: int, requests: Sequence[bytes], look: Look) -> tuple[float, Outcome]:
    """The highest rate at which all calls are answered, and how they were."""
    rate, seconds = _SINGLE_RATE, min(_TRY_SECONDS, look.short)
    outcome = call(port, requests, poisson(rate, seconds))
    while True:
        faster = call(port, requests, poisson(rate * _STEP, seconds))
        if faster.answered < len(faster.status):
            return rate, outcome
        rate, outcome = rate * _STEP, faster


def _row(workload: str, outcome: Outcome, users: int) -> dict[str, Any]:
    sent = len(outcome.status)
    return {
        "workload": workload,
        "requests_per_s": round(sent / outcome.seconds, 1),
        "users_per_s": round(outcome.answered * users / outcome.seconds),
        "p50_ms": round(outcome.quantile_ms(0.5), 1),
        "p99_ms": round(outcome.quantile_ms(0.99), 1),
        "requests": sent,
        "errors": outcome.errors,
        "rejected": outcome.rejected,
    }
