"""Routes about the users of prepared data: their words, vectors, scores and look-alikes.

In: loaded models and the population. Out: routes, which answer 404 if the service has no data.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Query, Response
from starlette.exceptions import HTTPException

from userbert.data.use.timeline import WordView, profile_values, timeline
from userbert.errors import InputError
from userbert.search.lookalike import find_lookalikes
from userbert.service.json_http import ERROR_RESPONSES, JsonRoute, json_response
from userbert.service.loaded_models import LoadedModel, choose_model, scores_as_json
from userbert.service.middleware import Limits
from userbert.service.population import NotReadyError, Population, UnknownUserError
from userbert.service.schemas import KnownUser, LookalikeBody, Lookalikes

T = TypeVar("T")
_DEFAULT_NEIGHBOURS = 10
"""Default number of nearest users in an answer."""
_PARALLEL_LISTS = 1
"""Number of look-alike lists computed at a time: one list already uses all cores."""


class DataCalls:
    """Runs calls that need prepared data in threads, and turns their errors into HTTP answers."""

    def __init__(self, population: Population | None, limits: Limits) -> None:
        self._population, self._limits = population, limits

    def population(self) -> Population:
        """Returns the population; answers 404 if the service has no data."""
        if self._population is None:
            raise HTTPException(404, "the service has no data. Start it with --data DATA.")
        return self._population

    async def run(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread and returns its result.

        Raises `HTTPException` if the user is unknown (404), or if the vectors are not ready or the
        time limit has passed (503). An `InputError` is raised again without paths of this machine.
        """
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(seconds):
                await asyncio.to_thread(self.population().check_files)
                return await asyncio.to_thread(work)
        except UnknownUserError as error:
            raise HTTPException(404, str(error)) from error
        except NotReadyError as error:
            raise HTTPException(503, str(error), {"Retry-After": "5"}) from error
        except InputError as error:
            # Clients must not learn paths of this machine.
            raise InputError(_without_folder(str(error), self.population().data.path)) from error
        except TimeoutError:
            message = f"no answer within {seconds:g} s. Try again with a smaller request."
            raise HTTPException(503, message, {"Retry-After": "5"}) from None


def data_routes(
    models: dict[str, LoadedModel], population: Population | None, limits: Limits
) -> APIRouter:
    """Creates the routes about the users of prepared data; `population` is `None` without data."""
    router = APIRouter(tags=["data"], route_class=JsonRoute, responses=ERROR_RESPONSES)
    list_slots = asyncio.Semaphore(_PARALLEL_LISTS)
    calls = DataCalls(population, limits)

    @router.get(
        "/v1/users/{user_id:path}", summary="Words, vectors and scores of a user",
        response_model=KnownUser,
    )  # fmt: skip
    async def user(
        user_id: str,
        model: str | None = None,
        cutoff: Annotated[str | None, Query(max_length=40)] = None,
        k: Annotated[int, Query(ge=0, le=1000)] = _DEFAULT_NEIGHBOURS,
    ) -> Response:
        names = [model] if model is not None else list(models)
        return json_response(
            await calls.run(
                lambda: _describe_user(
                    calls.population(),
                    [choose_model(models, name) for name in names],
                    user_id,
                    cutoff,
                    k,
                )
            )
        )

    @router.post("/v1/lookalike", summary="Users most like some seeds", response_model=Lookalikes)
    async def lookalike(body: LookalikeBody) -> Response:
        model = choose_model(models, body.model)
        async with list_slots:
            return json_response(
                await calls.run(lambda: _list_lookalikes(calls.population(), model.name, body))
            )

    return router


def _without_folder(message: str, path: Path) -> str:
    """Returns a message with each mention of a path replaced by its last part."""
    return message.replace(str(path), path.name) if len(path.parts) > 1 else message


def _describe_user(
    population: Population, models: list[LoadedModel], user_id: str, cutoff: str | None, k: int
) -> dict[str, Any]:
    data, row = population.data, population.row_of(user_id)
    instant = population.cutoff if cutoff is None else data.schema.instant(cutoff)
    answers: dict[str, Any] = {}
    for model in models:
        answer = model.run(data, np.array([row]), np.array([instant]))
        content: dict[str, Any] = {"embedding": answer.vectors[0], "neighbours": None}
        if answer.scores is not None and model.backend.task is not None:
            content |= scores_as_json(answer.scores, model.backend.task.classes)[0]
        neighbours = population.nearest(model.name, row, answer.vectors[0], k)
        if neighbours is not None:
            content["neighbours"] = [asdict(neighbour) for neighbour in neighbours]
        answers[model.name] = content
    return {
        "user_id": user_id,
        "cutoff": instant,
        "profile": profile_values(data, row, instant),
        "words": [_word_as_json(word) for word in timeline(data, row, instant)],
        "models": answers,
    }


def _word_as_json(word: WordView) -> dict[str, Any]:
    return {
        "segment": word.segment,
        "number": word.number,
        "begins": word.begins.isoformat(),
        "actions": word.actions,
        "values": word.values,
    }


def _list_lookalikes(population: Population, model: str, body: LookalikeBody) -> dict[str, Any]:
    embeddings = population.vector_index(model).embeddings
    lookalikes = find_lookalikes(embeddings, body.seeds, body.k, by=body.by, exclude=body.exclude)
    return {
        "model": model,
        "by": lookalikes.by,
        "seeds": lookalikes.seeds,
        "unknown": lookalikes.unknown,
        "others": lookalikes.others,
        "held_out": [asdict(comparison) for comparison in lookalikes.compared],
        "users": lookalikes.users.to_dicts(),
    }
