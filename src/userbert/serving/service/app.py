"""The service: raw events in, vectors and scores out, over HTTP.

In: loaded models and limits. Out: an ASGI application. Its description is at /openapi.json.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from userbert.data.store import PreparedData
from userbert.provenance import package_version
from userbert.serving.service.batching import Batcher
from userbert.serving.service.data_routes import data_routes
from userbert.serving.service.explored import Explorer
from userbert.serving.service.explorer_routes import explorer_routes
from userbert.serving.service.guard import LOOPBACK, Guard, Limits
from userbert.serving.service.live_routes import live_routes
from userbert.serving.service.page_routes import page_routes
from userbert.serving.service.population import Population
from userbert.serving.service.served import Answers, Call, Served
from userbert.serving.service.telemetry import Metrics, Telemetry, log
from userbert.serving.service.wire import PROBLEMS, tell_problems

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
