"""Routes that embed or score users from raw events in the request.

In: loaded models and the batcher. Out: routes.
"""

import asyncio
import time

import numpy as np
from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from userbert.data.use.live import UserEvents
from userbert.errors import InputError
from userbert.service.batching import Batcher, BusyError
from userbert.service.json_http import ERROR_RESPONSES, JsonRoute, json_response
from userbert.service.loaded_models import (
    Call,
    CallAnswer,
    LoadedModel,
    choose_model,
    scores_as_json,
)
from userbert.service.middleware import Limits
from userbert.service.schemas import (
    Embeddings,
    Scores,
    User,
    UsersBody,
)


def live_routes(
    models: dict[str, LoadedModel], batcher: Batcher[Call, CallAnswer], limits: Limits
) -> APIRouter:
    """Creates the routes that take raw events."""
    router = APIRouter(tags=["live"], route_class=JsonRoute, responses=ERROR_RESPONSES)

    async def run(body: UsersBody) -> tuple[LoadedModel, CallAnswer]:
        call = _read_call(models, body, limits)
        try:
            async with asyncio.timeout(limits.seconds):
                return call.model, await batcher.submit(call)
        except BusyError as error:
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from error
        except TimeoutError:
            message = f"no answer within {limits.seconds:g} s. Send fewer users per call."
            raise HTTPException(503, message, {"Retry-After": "1"}) from None

    @router.post("/v1/embed", summary="Vectors of users", response_model=Embeddings)
    async def embed(body: UsersBody) -> Response:
        model, result = await run(body)
        vectors = iter(result.answer.vectors)
        users = [
            {"user_id": user.user_id, "embedding": next(vectors) if is_known else None}
            for user, is_known in zip(body.users, result.is_known, strict=True)
        ]
        return json_response({"model": model.name, "users": users})

    @router.post(
        "/v1/score", summary="Scores of users", response_model=Scores,
        response_model_exclude_unset=True,
    )  # fmt: skip
    async def score(body: UsersBody) -> Response:
        task = choose_model(models, body.model).backend.task
        if task is None:
            raise InputError(
                "model: this model has no task, so it gives no scores. Name a task, or call "
                "/v1/embed."
            )
        model, result = await run(body)
        assert result.answer.scores is not None
        scores = iter(scores_as_json(result.answer.scores, task.classes))
        users = [
            {"user_id": user.user_id, **(next(scores) if is_known else {"score": None})}
            for user, is_known in zip(body.users, result.is_known, strict=True)
        ]
        return json_response({"model": model.name, "task": task.name, "users": users})

    return router


def _read_call(models: dict[str, LoadedModel], body: UsersBody, limits: Limits) -> Call:
    """Reads a request body; raises `InputError` if it exceeds a limit or has an invalid cut-off."""
    model = choose_model(models, body.model)
    if len(body.users) > limits.users:
        raise InputError(
            f"users: expected at most {limits.users:,}, found {len(body.users):,}. Split the call, "
            "or embed prepared data with `userbert embed`."
        )
    schema = model.backend.schema
    now = time.time_ns() // 1_000

    def instant(text: str | None, location: str, default: int) -> int:
        if text is None:
            return default
        try:
            return schema.instant(text)
        except InputError as error:
            raise InputError(f"{location}: {error}") from error

    cutoff = instant(body.cutoff, "cutoff", now)
    cutoffs = [
        instant(user.cutoff, f"user {user.user_id!r}, cutoff", cutoff) for user in body.users
    ]
    users = [_events_of(user, limits) for user in body.users]
    return Call(model, users, np.array(cutoffs, np.int64))


def _events_of(user: User, limits: Limits) -> UserEvents:
    event_count = len(user.profile) + sum(map(len, user.events.values()))
    if event_count > limits.events:
        raise InputError(
            f"user {user.user_id!r}: expected at most {limits.events:,} events and profile rows, "
            f"found {event_count:,}. Send the newest events: events before the windows change only "
            "the counts over all history."
        )
    return UserEvents(user.user_id, user.events, user.profile)
