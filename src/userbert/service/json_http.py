"""JSON as it goes over the wire: strict when it comes, fast when it goes, one form for refusals.

In: requests and answers. Out: the same as JSON. Routes are made with `JsonRoute`.
"""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from userbert.errors import InputError


class Problem(BaseModel):
    """Why a call was not answered, and what to mend."""

    detail: str


class JsonRequest(Request):
    """A request whose body is JSON by the letter: no NaN, no infinity, UTF-8 alone."""

    async def json(self) -> Any:
        """Read the body."""
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """Reads bodies as `JsonRequest` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Handle requests as FastAPI does, but for their bodies."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return strict


PROBLEMS: dict[int | str, dict[str, Any]] = {
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


def json_answer(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with plain values, records and arrays; NaN is null."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def tell_problems(app: FastAPI) -> None:
    """Answer every refusal in one form, which says what to mend."""

    def problem(status: int, told: str, headers: Any = None) -> Response:
        return Response(
            orjson.dumps({"detail": told}), status, headers, media_type="application/json"
        )

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        told = str(error.detail)
        if told == HTTPStatus(error.status_code).phrase:  # the router's own, which says no more
            told = f"{told.lower()}. /openapi.json lists all calls."
        return problem(error.status_code, told, error.headers)

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
