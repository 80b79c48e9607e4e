"""A client that calls when calls are due, whether or not earlier ones were answered.

In: requests as bytes, and when each is due. Out: what became of each. Latency counts from when a
call was due, so a server that falls behind cannot hide it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outcome:
    """What became of calls."""

    status: NDArray[np.int64]
    """(N,): of HTTP; 0: no answer."""
    latency: NDArray[np.float64]
    """(N,): seconds from when the call was due to the answer's last byte."""
    seconds: float
    """From the first call that was due to the last answer."""

    @property
    def answered(self) -> int:
        """How many were done."""
        return int((self.status == 200).sum())

    @property
    def rejected(self) -> int:
        """How many the server had no room for."""
        return int((self.status == 429).sum())

    @property
    def errors(self) -> int:
        """How many ended in any other way."""
        return len(self.status) - self.answered - self.rejected

    def quantile_ms(self, share: float) -> float:
        """The latency that a share of the calls that were done stays below."""
        done = self.latency[self.status == 200]
        return float(np.quantile(done, share)) * 1000 if len(done) else float("nan")


def post(path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def poisson(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """When calls of strangers are due: so many a second on average, at random."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    return np.cumsum(gaps)


def call(port: int, requests: Sequence[bytes], due: NDArray[np.float64]) -> Outcome:
    """Call at the times `due` (N,), in seconds from now; requests are taken in turn."""
    return asyncio.run(_Client(port, requests).open_loop(due))


def call_again(port: int, requests: Sequence[bytes], calls: int, callers: int) -> Outcome:
    """Make so many calls by callers who each wait for their last answer."""
    return asyncio.run(_Client(port, requests).closed_loop(calls, callers))


class _Client:
    """Connections that are kept, as many as there are calls under way."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port, self._requests = port, requests
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def open_loop(self, due: NDArray[np.float64]) -> Outcome:
        began = time.perf_counter() + 0.1
        status, ended = np.zeros(len(due), np.int64), np.zeros(len(due))

        async def one(number: int) -> None:
            status[number] = await self._call(number)
            ended[number] = time.perf_counter() - began

        async with asyncio.TaskGroup() as group:
            for number, when in enumerate(due):
                await asyncio.sleep(max(0.0, began + when - time.perf_counter()))
                group.create_task(one(number))
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
            # The server has closed those that nobody used for long.
            while self._free and self._free[-1][0].at_eof():
                self._free.pop()[1].close()
            if self._free:
                reader, writer = self._free.pop()
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
            self._free.append((reader, writer))
        return int(head.split(b" ", 2)[1])
