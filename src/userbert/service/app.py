"""The service's ASGI application, and the server that runs it on a port.

In: loaded models, settings and, optionally, prepared data. Out: an application, described at
/openapi.json. `run` serves the application until a signal stops it, and finishes the calls in
progress.
"""

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from userbert.data.store import PreparedData
from userbert.errors import InputError
from userbert.provenance import package_version
from userbert.service.batching import Batcher
from userbert.service.data_routes import data_routes
from userbert.service.explorer import Explorer
from userbert.service.explorer_routes import explorer_routes, page_routes
from userbert.service.json_http import ERROR_RESPONSES, add_error_handlers
from userbert.service.live_routes import live_routes
from userbert.service.loaded_models import Call, CallAnswer, LoadedModel
from userbert.service.middleware import LOOPBACK, AccessMiddleware, Limits
from userbert.service.population import Population
from userbert.service.telemetry import Metrics, TelemetryMiddleware, log, log_to_stderr

_FILE_CHECK_SECONDS = 5.0
"""Seconds between checks for changed model files; a check reads only file sizes and times."""
_SHUTDOWN_SECONDS = 30
"""Seconds for calls in progress to finish at shutdown: more than the two 10 s limits of a call."""
_KEEP_ALIVE_SECONDS = 60
"""Seconds until the service closes an idle connection.

Load balancers usually close idle connections within a minute, so the service is not the first to.
"""
_BACKLOG = 2_048
"""Maximum number of connections that wait to be accepted, such as those made during startup."""


@dataclass(frozen=True)
class Settings:
    """Settings of the service."""

    tokens: Sequence[bytes] = ()
    """Accepted bearer tokens; with none, no token is needed."""
    hosts: Sequence[str] = LOOPBACK
    """Host names, without port, that a Host header may contain; if empty, any."""
    limits: Limits = field(default_factory=Limits)
    """Limits of a call."""
    queue: int = 128
    """Maximum number of users that wait in the queue."""
    batch: int = 64
    """Maximum number of users per batch; a call with more users is a batch by itself."""
    patience: float = 0.05
    """Maximum expected waiting time of a call in seconds: a call that would wait longer gets 429.

    Half a batch of users may always wait.
    """


def create_app(
    models: dict[str, LoadedModel],
    settings: Settings | None = None,
    data: PreparedData | None = None,
    runs: Path | None = None,
) -> FastAPI:
    """Creates the application for models by name and, optionally, the users of prepared data.

    `settings` defaults to `Settings()`. `runs` is a folder: the explorer shows the training runs
    and evaluation reports in it, next to those of `models`. Raises `ModelError` if the data and a
    model have different vocabularies.
    """
    settings = settings or Settings()
    batcher: Batcher[Call, CallAnswer] = Batcher(
        lambda calls: _answer_calls(calls, metrics),
        queue=settings.queue,
        batch=settings.batch,
        patience=settings.patience,
    )
    population = None if data is None else Population(data, models)
    explorer = None if population is None else Explorer(population, models)
    metrics = Metrics(lambda: batcher.waiting)
    app = FastAPI(
        title="userbert",
        version=package_version(),
        summary="User vectors and scores from raw events.",
        docs_url=None,  # these pages would load scripts from other sites
        redoc_url=None,
        lifespan=_lifespan(models, population, explorer, batcher, metrics),
        middleware=[
            Middleware(TelemetryMiddleware, metrics=metrics),
            Middleware(
                AccessMiddleware, tokens=settings.tokens, hosts=settings.hosts,
                limits=settings.limits, is_full=lambda: batcher.is_full,
            ),
        ],
    )  # fmt: skip
    add_error_handlers(app)
    app.include_router(_status_routes(models, batcher, metrics))
    app.include_router(live_routes(models, batcher, settings.limits))
    app.include_router(explorer_routes(models, explorer, population, runs, settings.limits))
    app.include_router(data_routes(models, population, settings.limits))
    app.include_router(page_routes())
    return app


def _answer_calls(calls: Sequence[Call], metrics: Metrics) -> list[CallAnswer]:
    """Answers calls to one model, and adds their users to the metrics."""
    model, users = calls[0].model, sum(map(len, calls))
    answers = model.answer_calls(calls)
    metrics.batch.observe(users)
    metrics.users.labels(model.name).inc(users)
    return answers


def _lifespan(
    models: dict[str, LoadedModel],
    population: Population | None,
    explorer: Explorer | None,
    batcher: Batcher[Call, CallAnswer],
    metrics: Metrics,
) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_watch_files(models, metrics))
        if population is not None and explorer is not None:
            population.start(warm_up=explorer.overview, on_sample=explorer.begin_layout)
        yield
        watch.cancel()
        if population is not None and explorer is not None:
            await asyncio.to_thread(population.stop)
            await asyncio.to_thread(explorer.close)
        await asyncio.to_thread(batcher.close)

    return lifespan


async def _watch_files(models: dict[str, LoadedModel], metrics: Metrics) -> None:
    """Sets a metric to whether a model's files have changed, and logs one warning per model."""
    warned: set[str] = set()
    while True:
        for name, model in models.items():
            has_changed = await asyncio.to_thread(model.files.has_changed)
            metrics.changed.labels(name).set(has_changed)
            if has_changed and name not in warned:
                warned.add(name)
                log.warning("%s changed on disk; restart the service to load it again", name)
        await asyncio.sleep(_FILE_CHECK_SECONDS)


def _status_routes(
    models: dict[str, LoadedModel], batcher: Batcher[Call, CallAnswer], metrics: Metrics
) -> APIRouter:
    router = APIRouter(tags=["about"])

    @router.get("/healthz", summary="Whether the service runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get(
        "/readyz",
        summary="Whether the service answers calls",
        responses={503: ERROR_RESPONSES[503]},
    )
    async def readyz() -> dict[str, str]:
        if not batcher.is_alive:
            raise HTTPException(503, "the worker thread has stopped. Restart the service.")
        return {"status": "ready"}

    @router.get("/metrics", summary="Metrics for Prometheus", responses={401: ERROR_RESPONSES[401]})
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get(
        "/v1/models",
        summary="Models of the service",
        responses={401: ERROR_RESPONSES[401]},
    )
    async def list_models() -> dict[str, list[dict[str, Any]]]:
        return {"models": [model.describe() for model in models.values()]}

    return router


def run(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves the application until SIGINT or SIGTERM.

    Calls `ready` with the service's URL once clients can connect. Port 0 chooses a free port.
    Raises `InputError` if the service cannot listen at the host and port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With IPPROTO_TCP asyncio turns Nagle's algorithm off. Otherwise a response's body would wait
    # 40 ms for the client to acknowledge its headers.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"{host}, port {port}: cannot listen: {error}. Choose another port."
            ) from error
        log_to_stderr()
        # Exempts the models from garbage collection: each scan of them takes 0.1 s.
        gc.collect()
        gc.freeze()
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="on",
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS, timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )  # fmt: skip
        url_host = f"[{host}]" if family == socket.AF_INET6 else host
        ready(f"http://{url_host}:{listener.getsockname()[1]}")
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises the signal again after its shutdown; this handler ignores it.
            signal.signal(signal_number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[listener])
