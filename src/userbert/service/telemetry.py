"""Metrics for Prometheus, and a JSON log line per request.

Metrics and log contain no ids, events or scores of users. A route is named by its template, as in
/openapi.json, so ids in URLs do not appear.
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

_DURATION_BUCKETS = (0.002, 0.004, 0.008, 0.016, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
"""Upper bounds of histogram buckets, in seconds; the time limit of a call is 10."""
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of histogram buckets, in users; a call has at most 1,024."""

log = logging.getLogger("userbert.service")


class Metrics:
    """Metrics of one service; `waiting` returns the number of users in the queue."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "userbert_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "userbert_request_seconds", "Seconds from a request's headers to the answer's end.",
            ["route"], buckets=_DURATION_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.users = Counter(
            "userbert_users", "Users embedded or scored.", ["model"], registry=self.registry
        )
        self.batch = Histogram(
            "userbert_batch_users",
            "Users in a batch.",
            buckets=_BATCH_BUCKETS,
            registry=self.registry,
        )
        self.changed = Gauge(
            "userbert_changed_on_disk", "1 if a model's files changed since they were loaded.",
            ["name"], registry=self.registry,
        )  # fmt: skip
        Gauge("userbert_waiting_users", "Users in the queue.", registry=self.registry).set_function(
            waiting
        )

    def text(self) -> bytes:
        """Returns the metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class TelemetryMiddleware:
    """Counts, times and logs each request."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, adds an `x-request-id` to the answer, and records the outcome."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, request_id = time.perf_counter(), 500, uuid4().hex[:12]

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("a bug in the service; please report it", extra={"request": request_id})
            raise
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            fields = {"route": route, "status": status, "ms": round(seconds * 1000, 1)}
            log.info("request", extra={"request": request_id, "fields": fields})


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns a record's message, extra fields, and exception type and location as JSON."""
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if hasattr(record, "request"):
            content["request"] = record.request
        content |= getattr(record, "fields", {})
        if record.exc_info:
            # Logs type and location only: an exception's message may contain user data.
            error_type, _, trace = record.exc_info
            content["fault"] = getattr(error_type, "__name__", "")
            while trace is not None:
                content["at"] = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
                trace = trace.tb_next
        return json.dumps(content, ensure_ascii=False)


def log_to_stderr() -> None:
    """Sends the service's log to standard error, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
