"""Users of the data that are served: what they did, their vectors, their like.

In: loaded models and the population. Out: routes; without data, they say so.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Response
from starlette.exceptions import HTTPException

from userbert.errors import InputError
from userbert.search.lookalike import find_lookalikes
from userbert.service.json_http import PROBLEMS, JsonRoute, json_answer
from userbert.service.loaded_models import Served, chosen, told_scores
from userbert.service.middleware import Limits
from userbert.service.population import (
    NotReadyError,
    Population,
    UnknownUserError,
    as_json,
)
from userbert.service.schemas import KnownUser, LookalikeBody, Lookalikes

T = TypeVar("T")
_NEAREST = 10
_ONE_AT_A_TIME = 1
"""A list looks at all vectors, with all cores."""


class Answering:
    """How calls that need data are answered: in threads, in time, or with what is wrong."""

    def __init__(self, population: Population | None, limits: Limits) -> None:
        self._population, self._limits = population, limits

    def there(self) -> Population:
        """The population; 404 without one."""
        if self._population is None:
            raise HTTPException(404, "no data are served. Start the service with --data DATA.")
        return self._population

    async def known(self, work: Callable[[], T]) -> T:
        """Do what takes a while."""
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(seconds):
                await asyncio.to_thread(self.there().check)
                return await asyncio.to_thread(work)
        except UnknownUserError as error:
            raise HTTPException(404, str(error)) from error
        except NotReadyError as error:
            raise HTTPException(503, str(error), {"Retry-After": "5"}) from error
        except InputError as error:
            # Where the data lie is nobody's business but this machine's.
            raise InputError(_without_place(str(error), self.there().data.path)) from error
        except TimeoutError:
            told = f"no answer within {seconds:g} s. Ask for less."
            raise HTTPException(503, told, {"Retry-After": "5"}) from None


def data_routes(
    served: dict[str, Served], population: Population | None, limits: Limits
) -> APIRouter:
    """Routes of users that are known."""
    router = APIRouter(tags=["data"], route_class=JsonRoute, responses=PROBLEMS)
    lists = asyncio.Semaphore(_ONE_AT_A_TIME)
    answering = Answering(population, limits)
    there, known = answering.there, answering.known

    @router.get(
        "/v1/users/{user_id:path}", summary="What is known of a user", response_model=KnownUser
    )
    async def user(
        user_id: str,
        model: str | None = None,
        cutoff: Annotated[str | None, Query(max_length=40)] = None,
        k: Annotated[int, Query(ge=0, le=1000)] = _NEAREST,
    ) -> Response:
        names = [model] if model is not None else list(served)
        return json_answer(
            await known(lambda: _user(there(), [chosen(served, name) for name in names],
                                      user_id, cutoff, k))
        )  # fmt: skip

    @router.post("/v1/lookalike", summary="Users like others", response_model=Lookalikes)
    async def lookalike(body: LookalikeBody) -> Response:
        model = chosen(served, body.model)
        async with lists:
            return json_answer(await known(lambda: _list(there(), model.name, body)))

    return router


def _without_place(told: str, path: Path) -> str:
    return told.replace(str(path), path.name) if len(path.parts) > 1 else told


def _user(
    population: Population, models: list[Served], user_id: str, cutoff: str | None, k: int
) -> dict[str, Any]:
    row = population.row_of(user_id)
    instant = population.cutoff if cutoff is None else population.data.schema.instant(cutoff)
    said: dict[str, Any] = {}
    for served in models:
        answer = population.answer(served, row, instant)
        told: dict[str, Any] = {"embedding": answer.vectors[0], "neighbours": None}
        if answer.scores is not None and served.backend.task is not None:
            told |= told_scores(answer.scores, served.backend.task.classes)[0]
        near = population.near(served.name, row, answer.vectors[0], k)
        if near is not None:
            told["neighbours"] = [asdict(one) for one in near]
        said[served.name] = told
    return {
        "user_id": user_id,
        "cutoff": instant,
        "profile": population.profile(row, instant),
        "words": [as_json(word) for word in population.words(row, instant)],
        "models": said,
    }


def _list(population: Population, model: str, body: LookalikeBody) -> dict[str, Any]:
    embeddings = population.everybody(model).embeddings
    found = find_lookalikes(embeddings, body.seeds, body.k, by=body.by, exclude=body.exclude)
    return {
        "model": model,
        "by": found.way,
        "seeds": found.seeds,
        "unknown": found.unknown,
        "others": found.others,
        "held_out": [asdict(one) for one in found.compared],
        "users": found.users.to_dicts(),
    }
