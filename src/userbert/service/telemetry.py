"""What the service tells of itself: metrics for Prometheus, and a line of JSON a request.

Neither holds anything of a user: no id, no event, no score. A route is named as it is written in
the description, so ids in addresses do not appear.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.002, 0.004, 0.008, 0.016, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

log = logging.getLogger("userbert.service")


class Metrics:
    """The metrics of one service."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "userbert_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "userbert_request_seconds", "From a request's first byte to its answer's last.",
            ["route"], buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.users = Counter(
            "userbert_users", "Users embedded or scored.", ["model"], registry=self.registry
        )
        self.batch = Histogram(
            "userbert_batch_users", "Users in a batch.", buckets=_USERS, registry=self.registry
        )
        self.changed = Gauge(
            "userbert_changed_on_disk", "1: files are others than those that were read.",
            ["name"], registry=self.registry,
        )  # fmt: skip
        Gauge(
            "userbert_waiting_users", "Users whose calls wait.", registry=self.registry
        ).set_function(waiting)

    def text(self) -> bytes:
        """As Prometheus reads them."""
        return generate_latest(self.registry)


class Telemetry:
    """Counts and logs each request."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and see what becomes of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, request = time.perf_counter(), 500, uuid4().hex[:12]

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request.encode())]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        except Exception:
            log.exception("a fault of the service; please report it", extra={"request": request})
            raise
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            told = {"route": route, "status": status, "ms": round(seconds * 1000, 1)}
            log.info("request", extra={"request": request, "told": told})


class JsonLines(logging.Formatter):
    """A line of JSON a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record, with what was told beside its message."""
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if hasattr(record, "request"):
            content["request"] = record.request
        content |= getattr(record, "told", {})
        if record.exc_info:
            # The place alone: an exception's own words may hold a value of a user.
            kind, _, trace = record.exc_info
            content["fault"] = getattr(kind, "__name__", "")
            while trace is not None:
                content["at"] = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
                trace = trace.tb_next
        return json.dumps(content, ensure_ascii=False)


def log_to_stderr() -> None:
    """Write the service's log as lines of JSON to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
