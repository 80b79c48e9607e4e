"""Benchmark of the service on loopback, called from a second process.

In: a folder of simulated logs, with the users of the sparse workload. Out: rows of latencies and
rates. The model has the paper's size and is untrained, which takes the same time. The command line
writes the rows; docs/results shows them.

The client sends calls when they are due, whether or not earlier calls were answered (open loop).
Latency counts from the time a call was due, so a server that falls behind cannot hide it.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from userbert.benchmarks.contest import resident
from userbert.benchmarks.prepare import LOGS
from userbert.data.prepare.prepare import prepare
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.progress import progress
from userbert.schema import Schema


@dataclass(frozen=True)
class Outcome:
    """Statuses and latencies of N calls, and how long they took."""

    status: NDArray[np.int64]
    """HTTP status (N,); 0: no answer."""
    latency: NDArray[np.float64]
    """Seconds (N,) from the time a call was due to the last byte of its answer."""
    seconds: float
    """Seconds from the time the first call was due to the last answer."""

    @property
    def answered(self) -> int:
        """Number of calls with status 200."""
        return int((self.status == 200).sum())

    @property
    def rejected(self) -> int:
        """Number of calls that the server rejected with status 429."""
        return int((self.status == 429).sum())

    @property
    def errors(self) -> int:
        """Number of calls with another status, or without an answer."""
        return len(self.status) - self.answered - self.rejected

    def quantile_ms(self, share: float) -> float:
        """Returns a quantile of the latency of answered calls in milliseconds, nan if none was."""
        answered = self.latency[self.status == 200]
        return float(np.quantile(answered, share)) * 1000 if len(answered) else float("nan")


def post(path: str, body: bytes) -> bytes:
    """Returns the bytes of an HTTP request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def poisson(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """Draws the times of `rate` * `seconds` independent calls, in seconds from the start.

    There are `rate` calls per second on average.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    return np.cumsum(gaps)


def call(port: int, requests: Sequence[bytes], due: NDArray[np.float64]) -> Outcome:
    """Sends N calls at the times `due` (N,), in seconds from the start; repeats the requests."""
    return asyncio.run(_Client(port, requests).open_loop(due))


def call_again(port: int, requests: Sequence[bytes], calls: int, callers: int) -> Outcome:
    """Sends `calls` calls from `callers` callers, each of which waits for its previous answer."""
    return asyncio.run(_Client(port, requests).closed_loop(calls, callers))


class _Client:
    """Client that keeps connections open, one per concurrent call."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port, self._requests = port, requests
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def open_loop(self, due: NDArray[np.float64]) -> Outcome:
        # The first calls are due a little later, so that none is late from the start.
        began = time.perf_counter() + 0.1
        status, ended = np.zeros(len(due), np.int64), np.zeros(len(due))

        async def send(number: int) -> None:
            status[number] = await self._call(number)
            ended[number] = time.perf_counter() - began

        async with asyncio.TaskGroup() as group:
            for number, due_time in enumerate(due):
                await asyncio.sleep(max(0.0, began + due_time - time.perf_counter()))
                group.create_task(send(number))
        return Outcome(status, ended - due, float(ended.max() - due[0]))

    async def closed_loop(self, calls: int, callers: int) -> Outcome:
        status, latency = np.zeros(calls, np.int64), np.zeros(calls)
        began = time.perf_counter()

        async def caller(first: int) -> None:
            for number in range(first, calls, callers):
                due = time.perf_counter()
                status[number] = await self._call(number)
                latency[number] = time.perf_counter() - due

        async with asyncio.TaskGroup() as group:
            for first in range(callers):
                group.create_task(caller(first))
        return Outcome(status, latency, time.perf_counter() - began)

    async def _call(self, number: int) -> int:
        try:
            # The server closes connections that are idle for long.
            while self._idle and self._idle[-1][0].at_eof():
                self._idle.pop()[1].close()
            if self._idle:
                reader, writer = self._idle.pop()
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(self._requests[number % len(self._requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
        except (OSError, asyncio.IncompleteReadError):
            return 0
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head.split(b" ", 2)[1])


_CUTOFF = "2024-07-01T00:00:00+09:00"
"""Cut-off of all calls: the end of the simulated long-term log."""
_USERS, _BATCH_SIZE = 6_400, 64
"""Number of users in the requests, and users per request of the workload `batch64`."""
_SINGLE_RATE = 100.0
"""Calls per second of the workload `single`, and the lowest rate that is tested for `limit`."""
_RATE_FACTOR = 1.15
"""Factor between one tested rate and the next."""
_TRY_SECONDS = 10.0
"""Maximum duration in seconds of the test of a rate; see `Durations.short`."""


@dataclass(frozen=True)
class Durations:
    """Duration of the workloads in seconds."""

    short: float = 30.0
    """Duration of `single` and `overload`. `batch64` has 20 calls per second of it, and the test of
    a rate for `limit` is no longer."""
    sustained: float = 600.0
    """Duration of `sustained`, the workload at 80 % of the highest rate."""


def bench_serve(logs: Path, durations: Durations, backend: str = "torch") -> list[dict[str, Any]]:
    """Returns a row per workload.

    - `single`: calls with one user at a low rate.
    - `batch64`: calls with 64 users from two callers.
    - `limit`: calls with one user at the highest rate at which all calls are answered.
    - `sustained`: calls with one user at 80 % of the rate of `limit`.
    - `overload`: calls with one user at twice the rate of `limit`.
    """
    with TemporaryDirectory() as folder:
        model = new_model(logs, Path(folder))
        singles, batches = requests_of(logs)
        with served(model, backend) as (process, port), progress("workloads", 5) as advance:
            call_again(port, singles, 200, 1)  # warm-up
            rows = [_row("single", call(port, singles, poisson(_SINGLE_RATE, durations.short)), 1)]
            advance(1, "batches")
            # With two callers, the server reads one call while it computes another.
            calls = max(2, int(durations.short * 20))
            rows.append(_row("batch64", call_again(port, batches, calls, 2), _BATCH_SIZE))
            advance(1, "limit")
            rate, outcome = _highest_rate(port, singles, durations)
            rows.append(_row("limit", outcome, 1))
            advance(1, f"80 % of {rate:.0f}/s")
            memory_before = resident(process)
            outcome = call(port, singles, poisson(0.8 * rate, durations.sustained))
            memory = {
                "memory_mib": memory_before >> 20,
                "memory_after_mib": resident(process) >> 20,
            }
            rows.append(_row("sustained", outcome, 1) | memory)
            advance(1, f"twice {rate:.0f}/s")
            rows.append(
                _row("overload", call(port, singles, poisson(2 * rate, durations.short)), 1)
            )
            advance(1, "")
    return [{**row, "backend": backend} for row in rows]


def new_model(logs: Path, folder: Path) -> Path:
    """Prepares a folder of logs, and writes an untrained model of the paper's size for them.

    Returns the path of the model in `folder`.
    """
    data = prepare(Schema.load(logs / "schema.yaml"), folder / "data")
    model = UserBert(
        UserBertConfig(), data.input_shape(), schema=data.schema, vocabularies=data.vocabularies
    )
    model.save_pretrained(folder / "model")
    return folder / "model"


def requests_of(logs: Path) -> tuple[list[bytes], list[bytes]]:
    """Returns requests with one user each, and with 64 users each.

    Users have raw events, with times as text.
    """
    users = _raw_events(logs)
    groups = [users[first : first + _BATCH_SIZE] for first in range(0, len(users), _BATCH_SIZE)]
    singles, batches = (
        [
            post("/v1/embed", orjson.dumps({"cutoff": _CUTOFF, "users": group}))
            for group in batch_list
        ]
        for batch_list in ([[user] for user in users], groups)
    )
    return singles, batches


def _raw_events(logs: Path) -> list[dict[str, Any]]:
    """Returns the first `_USERS` users by id with events, each as an object of a request."""
    schema = Schema.load(logs / "schema.yaml")
    cutoff = pl.lit(_CUTOFF).str.to_datetime("%+", time_zone="UTC")
    events_by_user: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, folders in {"long_term": [LOGS[0], LOGS[2]], "short_term": [LOGS[1]]}.items():
        source = schema.sources[name]
        assert not isinstance(source.action, str)
        columns = ["time", source.action.column, "price", "shop", "genre"]
        frame = pl.concat(
            [pl.scan_parquet(logs / folder / "*.parquet") for folder in folders]
        ).filter(pl.col("time") < cutoff)
        sampled_users = frame.select("user_id").unique().sort("user_id").head(_USERS)
        rows = frame.join(sampled_users, on="user_id", how="semi").collect(engine="streaming")
        rows = rows.with_columns(pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        for (user,), events in rows.group_by("user_id", maintain_order=True):
            columns_of_source = events.select(
                column for column in columns if column in events.columns
            )
            events_by_user.setdefault(str(user), {})[name] = columns_of_source.to_dicts()
    return [{"user_id": user, "events": events} for user, events in sorted(events_by_user.items())][
        :_USERS
    ]


@contextmanager
def served(model: Path, backend: str) -> Iterator[tuple[int, int]]:
    """Starts a service in its own process; yields its process id and port."""
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


def _highest_rate(
    port: int, requests: Sequence[bytes], durations: Durations
) -> tuple[float, Outcome]:
    """Returns the highest tested rate at which all calls are answered, and its outcome.

    It is at least `_SINGLE_RATE`, even if calls at this rate fail.
    """
    rate, seconds = _SINGLE_RATE, min(_TRY_SECONDS, durations.short)
    outcome = call(port, requests, poisson(rate, seconds))
    while True:
        faster = call(port, requests, poisson(rate * _RATE_FACTOR, seconds))
        if faster.answered < len(faster.status):
            return rate, outcome
        rate, outcome = rate * _RATE_FACTOR, faster


def _row(workload: str, outcome: Outcome, users: int) -> dict[str, Any]:
    """Returns a row; `users` is the number of users per call."""
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
