"""The service: raw events in, vectors and scores out, over HTTP.

In: loaded models and limits. Out: an ASGI application. Its description is at /openapi.json.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from userbert.data.live import UserEvents
from userbert.errors import InputError
from userbert.provenance import package_version
from userbert.serving.service.batching import Batcher, BusyError
from userbert.serving.service.bodies import (
    Embeddings,
    JsonRequest,
    Problem,
    Scores,
    User,
    UsersBody,
)
from userbert.serving.service.guard import LOOPBACK, Guard, Limits
from userbert.serving.service.served import Answers, Call, Served, chosen
from userbert.serving.service.telemetry import Metrics, Telemetry, log
from userbert.tasks.answers import best_values

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


def create_app(served: dict[str, Served], settings: Settings | None = None) -> FastAPI:
    """Make the application that serves some models."""
    settings = settings or Settings()
    batcher: Batcher[Call, Answers] = Batcher(
        lambda calls: _work(calls, metrics), queue=settings.queue, batch=settings.batch
    )
    metrics = Metrics(lambda: batcher.waiting)
    app = FastAPI(
        title="userbert",
        version=package_version(),
        summary="Vectors of who users are, and scores, from what they did.",
        docs_url=None,  # its page would be loaded from elsewhere
        redoc_url=None,
        lifespan=_lifespan(served, batcher, metrics),
        middleware=[
            Middleware(Telemetry, metrics=metrics),
            Middleware(
                Guard, tokens=settings.tokens, hosts=settings.hosts, limits=settings.limits,
                is_full=lambda: batcher.is_full,
            ),
        ],
    )  # fmt: skip
    _tell_problems(app)
    app.include_router(_about(served, batcher, metrics))
    app.include_router(_vectors(served, batcher, settings.limits))
    return app


def _work(calls: Sequence[Call], metrics: Metrics) -> list[Answers]:
    """Answer calls to one model."""
    served, users = calls[0].served, sum(map(len, calls))
    answers = served.answers(calls)
    metrics.batch.observe(users)
    metrics.users.labels(served.name).inc(users)
    return answers


def _lifespan(
    served: dict[str, Served], batcher: Batcher[Call, Answers], metrics: Metrics
) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch = asyncio.create_task(_watch(served, metrics))
        yield
        watch.cancel()
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


class _Route(APIRoute):
    """Reads bodies as `JsonRequest` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return strict


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": told}
    for status, told in {
        400: "Not JSON, or not for this host.",
        401: "No token that is known.",
        408: "The body came too slowly.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        422: "Something in it cannot be used; the answer says what, and what to mend.",
        429: "Too many users wait.",
        503: "No answer in time.",
    }.items()
}


def _about(
    served: dict[str, Served], batcher: Batcher[Call, Answers], metrics: Metrics
) -> APIRouter:
    router = APIRouter(tags=["about"])

    @router.get("/healthz", summary="Whether the service runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Whether it answers calls", responses={503: _PROBLEMS[503]})
    async def readyz() -> dict[str, str]:
        if not batcher.is_alive:
            raise HTTPException(503, "the thread that answers has ended. Start the service again.")
        return {"status": "ready"}

    @router.get("/metrics", summary="Metrics for Prometheus", responses={401: _PROBLEMS[401]})
    async def tell_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/v1/models", summary="What is served", responses={401: _PROBLEMS[401]})
    async def models() -> dict[str, list[dict[str, Any]]]:
        return {"models": [one.facts() for one in served.values()]}

    return router


def _vectors(
    served: dict[str, Served], batcher: Batcher[Call, Answers], limits: Limits
) -> APIRouter:
    router = APIRouter(tags=["users"], route_class=_Route, responses=_PROBLEMS)

    async def answered(body: UsersBody) -> tuple[Served, Answers]:
        call = _call(served, body, limits)
        try:
            async with asyncio.timeout(limits.seconds):
                return call.served, await batcher.do(call)
        except BusyError as error:
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from error
        except TimeoutError:
            told = f"no answer within {limits.seconds:g} s. Send fewer users at a time."
            raise HTTPException(503, told, {"Retry-After": "1"}) from None

    @router.post("/v1/embed", summary="Vectors of users", response_model=Embeddings)
    async def embed(body: UsersBody) -> Response:
        model, answers = await answered(body)
        vectors = iter(answers.answer.vectors)
        users = [
            {"user_id": user.user_id, "embedding": next(vectors) if is_known else None}
            for user, is_known in zip(body.users, answers.is_known, strict=True)
        ]
        return _json({"model": model.name, "users": users})

    @router.post(
        "/v1/score", summary="Scores of users", response_model=Scores,
        response_model_exclude_unset=True,
    )  # fmt: skip
    async def score(body: UsersBody) -> Response:
        task = chosen(served, body.model).backend.task
        if task is None:
            raise InputError("model: it has no task, so it has no scores. Name a task, or embed.")
        model, answers = await answered(body)
        scores = iter(_scores(answers, task.classes))
        users = [
            {"user_id": user.user_id, **(next(scores) if is_known else {"score": None})}
            for user, is_known in zip(body.users, answers.is_known, strict=True)
        ]
        return _json({"model": model.name, "task": task.name, "users": users})

    return router


def _call(served: dict[str, Served], body: UsersBody, limits: Limits) -> Call:
    """What a body asks for; raise `InputError` if it is more than a call may, or not to be read."""
    model = chosen(served, body.model)
    if len(body.users) > limits.users:
        raise InputError(
            f"users: expected at most {limits.users:,}, found {len(body.users):,}. Send several "
            "calls, or embed prepared data."
        )
    schema = model.backend.schema
    now = time.time_ns() // 1_000

    def instant(text: str | None, place: str, default: int) -> int:
        if text is None:
            return default
        try:
            return schema.instant(text)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error

    cutoff = instant(body.cutoff, "cutoff", now)
    cutoffs = [
        instant(user.cutoff, f"user {user.user_id!r}, cutoff", cutoff) for user in body.users
    ]
    users = [_events_of(user, limits) for user in body.users]
    return Call(model, users, np.array(cutoffs, np.int64))


def _events_of(user: User, limits: Limits) -> UserEvents:
    count = len(user.profile) + sum(map(len, user.events.values()))
    if count > limits.events:
        raise InputError(
            f"user {user.user_id!r}: expected at most {limits.events:,} events, found {count:,}. "
            "Send the newest: those before the windows change nothing but what is counted of all "
            "history."
        )
    return UserEvents(user.user_id, user.events, user.profile)


def _scores(answers: Answers, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    scores = answers.answer.scores
    assert scores is not None
    if scores.ndim == 1:
        return [{"score": score} for score in scores]
    return [
        {"values": values, "scores": best}
        for values, best in zip(*best_values(scores, classes), strict=True)
    ]


def _json(content: dict[str, Any]) -> Response:
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
    )


def _tell_problems(app: FastAPI) -> None:
    """Answer every refusal in one form, which says what to mend."""

    def problem(status: int, told: str, headers: Any = None) -> Response:
        return Response(
            orjson.dumps({"detail": told}), status, headers, media_type="application/json"
        )

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return problem(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(InputError)
    async def unusable(_: Request, error: InputError) -> Response:
        return problem(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            told = f"expected JSON in UTF-8, found a fault at character {first['loc'][-1]}: "
            return problem(400, told + f"{first['ctx']['error']}. Mend it.")
        kind = request.headers.get("content-type", "").split(";")[0].strip()
        if request.method == "POST" and kind != "application/json":
            return problem(415, "content-type: expected application/json. Say so in the header.")
        place = ".".join(map(str, first["loc"][1:])) or "the body"
        return problem(422, f"{place}: {first['msg']}. See /openapi.json for what is expected.")

    @app.exception_handler(Exception)
    async def fault(_: Request, __: Exception) -> Response:
        return problem(500, "a fault of the service; its log says where. Please report it.")
