"""The explorer's calls: data at a glance, a map of users, what sets some apart, how models learned.

In: loaded models, the population, a folder of runs. Out: routes; without data, they say so.

The explorer's page: files that hold no data, under headers that let them do little.

In: the files of `explorer/page`. Out: routes for `/`, its start, and for what lies under /page/.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from userbert.data.use.pairs import refuse_blind
from userbert.explorer.overview import Overview
from userbert.explorer.reports import Reports, all_reports, page_of
from userbert.explorer.runs import Runs, all_runs
from userbert.service.data_routes import Answering
from userbert.service.explorer import Explorer
from userbert.service.json_http import PROBLEMS, JsonRoute, json_answer
from userbert.service.loaded_models import Served, chosen
from userbert.service.middleware import Limits
from userbert.service.population import Found, NotReadyError, Population
from userbert.service.schemas import (
    ColourAnswer,
    ExpectedAnswer,
    ExplanationAnswer,
    MapAnswer,
    NotYet,
    SharedAnswer,
    TraitsAnswer,
    TraitsBody,
    UserId,
)

PAGE = Path(__file__).parents[1] / "explorer/page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Files of one version fit each other alone: ask each time, and send what has changed.
    "Cache-Control": "no-cache",
}
_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}


@dataclass(frozen=True)
class File:
    """A file of the page, as it is sent."""

    content: bytes
    kind: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> "File":
        """Read it from the package."""
        content = path.read_bytes()
        return cls(content, _KINDS[path.suffix], f'"{sha256(content).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """Send it, unless the caller has it."""
        headers = {**HEADERS, "ETag": self.tag}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.kind, headers=headers)


def page_routes() -> APIRouter:
    """The page's files, kept in memory: they come at once while all cores embed users."""
    router = APIRouter(include_in_schema=False)
    files = {
        str(path.relative_to(PAGE)): File.read(path)
        for path in sorted(PAGE.rglob("*"))
        if path.suffix in _KINDS
    }

    @router.get("/")
    async def start(request: Request) -> Response:
        return files["index.html"].answer(request)

    @router.get("/page/{name:path}")
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name!r}. Begin at /.")
        return files[name].answer(request)

    return router


Cutoff = Annotated[str | None, Query(max_length=40)]
Text = Annotated[str, Query(min_length=1, max_length=512)]
_PAGE_POLICY = {
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""A report holds what logs held: it may show it, and do nothing."""


def explorer_routes(
    served: dict[str, Served],
    explorer: Explorer | None,
    population: Population | None,
    runs: Path | None,
    limits: Limits,
) -> APIRouter:
    """Routes of the explorer."""
    router = APIRouter(tags=["explorer"], route_class=JsonRoute, responses=PROBLEMS)
    answering = Answering(population, limits)

    def there() -> Explorer:
        answering.there()
        assert explorer is not None
        return explorer

    async def answered(work: Callable[[], Any]) -> Response:
        return json_answer(await answering.known(work))

    def instant(text: str | None) -> int:
        known = answering.there()
        if text is None:
            return known.cutoff
        moment = known.data.schema.instant(text)
        refuse_blind(known.data, moment, "cutoff")
        return moment

    @router.get("/v1/data", summary="The data at a glance", response_model=Overview)
    async def data() -> Response:
        return await answered(lambda: there().overview())

    @router.get("/v1/find", summary="Users by a part of their id", response_model=Found)
    async def find(text: Text, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        return await answered(lambda: there().find(text, limit))

    @router.get(
        "/v1/map", summary="Users in two directions", response_model=MapAnswer,
        responses={503: {"model": NotYet, "description": "Not all shown are embedded yet."}},
    )  # fmt: skip
    async def user_map(model: str | None = None) -> Response:
        there()
        name = chosen(served, model).name
        try:
            return await answered(lambda: there().map(name))
        except HTTPException as error:
            if isinstance(error.__cause__, NotReadyError):
                done, of = answering.there().done(name)
                told = {"detail": str(error.detail), "done": done, "of": of}
                return json_answer(told, 503, error.headers)
            raise

    @router.get("/v1/map/colour", summary="What colours the map", response_model=ColourAnswer)
    async def colour(name: Text, model: str | None = None) -> Response:
        there()
        return await answered(lambda: there().colour(chosen(served, model).name, name))

    @router.post("/v1/traits", summary="What users have in common", response_model=TraitsAnswer)
    async def traits(body: TraitsBody) -> Response:
        there()
        if body.model is not None:
            chosen(served, body.model)
        return await answered(lambda: there().traits(body.users))

    @router.get("/v1/shared", summary="What two users have in common", response_model=SharedAnswer)
    async def shared(user_id: UserId, other: UserId, cutoff: Cutoff = None) -> Response:
        return await answered(lambda: there().shared(user_id, other, instant(cutoff)))

    @router.get(
        "/v1/expected", summary="What a model expects in a word", response_model=ExpectedAnswer
    )
    async def expected(
        user_id: UserId, segment: Text, number: Annotated[int, Query(ge=0, le=1_000_000)],
        model: str | None = None, cutoff: Cutoff = None,
    ) -> Response:  # fmt: skip
        there()
        asked = chosen(served, model)
        return await answered(
            lambda: there().expected(asked, user_id, segment, number, instant(cutoff))
        )

    @router.get("/v1/explanation", summary="What moved a score", response_model=ExplanationAnswer)
    async def explanation(
        user_id: UserId, model: str | None = None, value: str | None = None, cutoff: Cutoff = None
    ) -> Response:
        there()
        asked = chosen(served, model)
        return await answered(lambda: there().explanation(asked, user_id, value, instant(cutoff)))

    @router.get("/v1/runs", summary="How models learned", response_model=Runs)
    async def learned() -> Response:
        paths = {name: one.files.path for name, one in served.items()}
        return json_answer(await asyncio.to_thread(all_runs, paths, runs))

    @router.get("/v1/reports", summary="What evaluations found", response_model=Reports)
    async def reports() -> Response:
        return json_answer(await asyncio.to_thread(all_reports, runs))

    @router.get("/v1/reports/{name:path}/page", summary="A report for people")
    async def page(name: str) -> Response:
        found = await asyncio.to_thread(page_of, runs, name)
        if found is None:
            raise HTTPException(404, "there is no such report. /v1/reports lists all.")
        return Response(found, media_type="text/html; charset=utf-8", headers=_PAGE_POLICY)

    return router
