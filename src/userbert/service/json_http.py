"""JSON requests and responses: strict parsing, fast writing, one format for errors.

Routes that take a JSON body use `JsonRoute`; they answer with `json_response`.
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


class ErrorBody(BaseModel):
    """Error of a call: `detail` says what is wrong and how to correct it."""

    detail: str


class StrictJsonRequest(Request):
    """Request whose body must be strict JSON in UTF-8: NaN and infinity are errors."""

    async def json(self) -> Any:
        """Parses the body; raises `JSONDecodeError` if the body is not strict JSON."""
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """Route that parses bodies with `StrictJsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's handler, which gets each request as a `StrictJsonRequest`."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return strict


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The body is not JSON, or the Host header is not accepted.",
        401: "The token is missing or unknown.",
        408: "The body arrived too slowly.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        422: "A value cannot be used; the detail says which, and how to correct it.",
        429: "The queue is full.",
        503: "There was no answer in time, or the vectors are not ready yet.",
    }.items()
}
"""Error responses by status, for /openapi.json."""


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Returns a JSON response of plain values, dataclasses and arrays; NaN becomes null."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Registers handlers so that the application answers every error with an `ErrorBody`."""

    def respond(status: int, detail: str, headers: Any = None) -> Response:
        return Response(
            orjson.dumps({"detail": detail}), status, headers, media_type="application/json"
        )

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if detail == HTTPStatus(error.status_code).phrase:  # raised by the router, without advice
            detail = f"{detail.lower()}. /openapi.json lists all calls."
        return respond(error.status_code, detail, error.headers)

    @app.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> Response:
        return respond(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        if fault["type"] == "json_invalid":
            detail = f"expected JSON in UTF-8, found an error at character {fault['loc'][-1]}: "
            return respond(400, detail + f"{fault['ctx']['error']}. Correct the body.")
        media_type = request.headers.get("content-type", "").split(";")[0].strip()
        if request.method == "POST" and media_type != "application/json":
            return respond(415, "content-type: expected application/json. Set this header.")
        location = ".".join(map(str, fault["loc"][1:])) or "the body"
        return respond(422, f"{location}: {fault['msg']}. /openapi.json describes the request.")

    @app.exception_handler(Exception)
    async def internal_error(_: Request, __: Exception) -> Response:
        return respond(500, "a bug in the service; its log says where. Please report it.")
