"""The service: raw events in, vectors and scores out, over HTTP.

In: loaded models and limits. Out: an ASGI application. Its description is at /openapi.json.

A service on a port of this machine.

In: an application, an address. Out: answers, until it is told to stop; then what has begun is
finished.
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
from userbert.service.json_http import PROBLEMS, tell_problems
from userbert.service.live_routes import live_routes
from userbert.service.loaded_models import Answers, Call, Served
from userbert.service.middleware import LOOPBACK, Guard, Limits
from userbert.service.population import Population
from userbert.service.telemetry import Metrics, Telemetry, log, log_to_stderr

_LOOKS_EVERY = 5.0
"""Seconds between looks at the files of models."""


@dataclass(frozen=True)
class Settings:
    """How a service is run."""

    tokens: Sequence[bytes] = ()
    hosts: Sequence[str] = LOOPBACK
    """Names by which it may be called; none: any."""
    limits: Limits = field(default_factory=Limits)
    queue: int = 128
    """So many users may wait."""
    batch: int = 64
    """So many users are answered together."""
    patience: float = 0.05
    """Seconds that a call may wait before its batch begins."""


def create_app(
    served: dict[str, Served],
    settings: Settings | None = None,
    data: PreparedData | None = None,
    runs: Path | None = None,
) -> FastAPI:
    """Make the application that serves some models, and the users of prepared data.

    Under `runs` lie models and evaluations that are told of, too. Raises `ModelError` if data and
    models know values by other ids.
    """
    settings = settings or Settings()
    batcher: Batcher[Call, Answers] = Batcher(
        lambda calls: _work(calls, metrics),
        queue=settings.queue,
        batch=settings.batch,
        patience=settings.patience,
    )
    population = None if data is None else Population(data, served)
    explorer = None if population is None else Explorer(population, served)
    metrics = Metrics(lambda: batcher.waiting)
    app = FastAPI(
        title="userbert",
        version=package_version(),
        summary="Vectors of who users are, and scores, from what they did.",
        docs_url=None,  # its page would be loaded from elsewhere
        redoc_url=None,
        lifespan=_lifespan(served, population, explorer, batcher, metrics),
        middleware=[
            Middleware(Telemetry, metrics=metrics),
            Middleware(
                Guard, tokens=settings.tokens, hosts=settings.hosts, limits=settings.limits,
                is_full=lambda: batcher.is_full,
            ),
        ],
    )  # fmt: skip
    tell_problems(app)
    app.include_router(_about(served, batcher, metrics))
    app.include_router(live_routes(served, batcher, settings.limits))
    app.include_router(explorer_routes(served, explorer, population, runs, settings.limits))
    app.include_router(data_routes(served, population, settings.limits))
    app.include_router(page_routes())
    return app


def _work(calls: Sequence[Call], metrics: Metrics) -> list[Answers]:
    """Answer calls to one model."""
    served, users = calls[0].served, sum(map(len, calls))
    answers = served.answers(calls)
    metrics.batch.observe(users)
    metrics.users.labels(served.name).inc(users)
    return answers


def _lifespan(
    served: dict[str, Served],
    population: Population | None,
    explorer: Explorer | None,
    batcher: Batcher[Call, Answers],
    metrics: Metrics,
) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_watch(served, metrics))
        if population is not None and explorer is not None:
            population.start(before=explorer.overview, on_sample=explorer.begin_layout)
        yield
        watch.cancel()
        if population is not None and explorer is not None:
            await asyncio.to_thread(population.stop)
            await asyncio.to_thread(explorer.close)
        await asyncio.to_thread(batcher.close)

    return lifespan


async def _watch(served: dict[str, Served], metrics: Metrics) -> None:
    """Tell once of each model whose files have changed."""
    told: set[str] = set()
    while True:
        for name, one in served.items():
            has_changed = await asyncio.to_thread(one.files.has_changed)
            metrics.changed.labels(name).set(has_changed)
            if has_changed and name not in told:
                told.add(name)
                log.warning("%s changed on disk; start again to serve what is there now", name)
        await asyncio.sleep(_LOOKS_EVERY)


def _about(
    served: dict[str, Served], batcher: Batcher[Call, Answers], metrics: Metrics
) -> APIRouter:
    router = APIRouter(tags=["about"])

    @router.get("/healthz", summary="Whether the service runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Whether it answers calls", responses={503: PROBLEMS[503]})
    async def readyz() -> dict[str, str]:
        if not batcher.is_alive:
            raise HTTPException(503, "the thread that answers has ended. Start the service again.")
        return {"status": "ready"}

    @router.get("/metrics", summary="Metrics for Prometheus", responses={401: PROBLEMS[401]})
    async def tell_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/v1/models", summary="What is served", responses={401: PROBLEMS[401]})
    async def models() -> dict[str, list[dict[str, Any]]]:
        return {"models": [one.facts() for one in served.values()]}

    return router


_FINISH_SECONDS = 30
_KEEP_ALIVE_SECONDS = 60
"""Between calls on one connection; load balancers close theirs within a minute."""
_BACKLOG = 2_048
"""Connections that wait to be taken; who calls as soon as the address is told does."""


def check_address(host: str, tokens: Sequence[bytes]) -> None:
    """Raise `InputError` for an address that others reach, unless they need a token."""
    if host not in LOOPBACK and not tokens:
        raise InputError(
            f"--host {host}: others could read who your users are. Give --tokens FILE with a token "
            "a line, or leave --host out. The service speaks HTTP: put it behind a proxy that "
            "speaks HTTPS."
        )


def run(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told the address before the first call.

    Raises `InputError` if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on: an answer's body would wait for the
    # caller to acknowledge its head, 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"{host}, port {port}: cannot serve there: {error}. Choose another by --port."
            ) from error
        log_to_stderr()
        # Models stay; to look for garbage among them takes a tenth of a second each time.
        gc.collect()
        gc.freeze()
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="on",
            timeout_graceful_shutdown=_FINISH_SECONDS, timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )  # fmt: skip
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        ready(f"http://{shown}:{listener.getsockname()[1]}")
        for number in (signal.SIGINT, signal.SIGTERM):
            # It is raised again when all is finished; then it has been heeded.
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[listener])
