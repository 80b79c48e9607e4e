"""Vectors and scores of users whose raw events are in the call.

In: loaded models, the queue. Out: routes.
"""

import asyncio
import time

import numpy as np
from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from userbert.data.use.live import UserEvents
from userbert.errors import InputError
from userbert.service.batching import Batcher, BusyError
from userbert.service.json_http import PROBLEMS, JsonRoute, json_answer
from userbert.service.loaded_models import Answers, Call, Served, chosen, told_scores
from userbert.service.middleware import Limits
from userbert.service.schemas import (
    Embeddings,
    Scores,
    User,
    UsersBody,
)


def live_routes(
    served: dict[str, Served], batcher: Batcher[Call, Answers], limits: Limits
) -> APIRouter:
    """Routes of raw events."""
    router = APIRouter(tags=["live"], route_class=JsonRoute, responses=PROBLEMS)

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
        return json_answer({"model": model.name, "users": users})

    @router.post(
        "/v1/score", summary="Scores of users", response_model=Scores,
        response_model_exclude_unset=True,
    )  # fmt: skip
    async def score(body: UsersBody) -> Response:
        task = chosen(served, body.model).backend.task
        if task is None:
            raise InputError("model: it has no task, so it has no scores. Name a task, or embed.")
        model, answers = await answered(body)
        assert answers.answer.scores is not None
        scores = iter(told_scores(answers.answer.scores, task.classes))
        users = [
            {"user_id": user.user_id, **(next(scores) if is_known else {"score": None})}
            for user, is_known in zip(body.users, answers.is_known, strict=True)
        ]
        return json_answer({"model": model.name, "task": task.name, "users": users})

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
