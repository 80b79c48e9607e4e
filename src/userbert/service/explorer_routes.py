"""Routes of the explorer: its page, and the calls that the page makes.

In: the files of `explorer/page`, loaded models, the population, a folder of runs. Out: routes. The
page's files hold no data and are sent with strict security headers. Calls that need prepared data
answer 404 if the service was started without `--data`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from userbert.data.use.pairs import require_visible_events
from userbert.explorer.overview import Overview
from userbert.explorer.reports import Reports, read_page, read_reports
from userbert.explorer.runs import Runs, read_runs
from userbert.service.data_routes import DataCalls
from userbert.service.explorer import Explorer
from userbert.service.json_http import ERROR_RESPONSES, JsonRoute, json_response
from userbert.service.loaded_models import LoadedModel, choose_model
from userbert.service.middleware import Limits
from userbert.service.population import NotReadyError, Population, UserMatches
from userbert.service.schemas import (
    ColourAnswer,
    EmbeddingProgress,
    ExpectedAnswer,
    ExplanationAnswer,
    MapAnswer,
    SharedAnswer,
    TraitsAnswer,
    TraitsBody,
    UserId,
)

PAGE_FOLDER = Path(__file__).parents[1] / "explorer/page"
"""Folder of the page's files."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Files of different versions do not fit together: browsers must revalidate each time.
    "Cache-Control": "no-cache",
}
"""Headers of the page's files: the page loads scripts and data from this service only."""
_MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
"""Media types of the page's files by ending; files with other endings are not served."""
Cutoff = Annotated[str | None, Query(max_length=40)]
Text = Annotated[str, Query(min_length=1, max_length=512)]
_REPORT_HEADERS = {
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of reports. A report may contain text from logs, so it can run no script and load no
file; only inline styles and images in `data:` URLs are allowed."""


@dataclass(frozen=True)
class PageFile:
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str
    """Quoted checksum of the content, which changes with each version of the file."""

    @classmethod
    def read(cls, path: Path) -> "PageFile":
        """Reads the file from the package."""
        content = path.read_bytes()
        return cls(content, _MEDIA_TYPES[path.suffix], f'"{sha256(content).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """Returns the file, or 304 if the client has this version."""
        headers = {**PAGE_HEADERS, "ETag": self.etag}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def page_routes() -> APIRouter:
    """Creates the routes of the page's files.

    Keeps the files in memory: a request needs no disk or thread while all cores embed users.
    """
    router = APIRouter(include_in_schema=False)
    files = {
        str(path.relative_to(PAGE_FOLDER)): PageFile.read(path)
        for path in sorted(PAGE_FOLDER.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }

    @router.get("/")
    async def start(request: Request) -> Response:
        return files["index.html"].answer(request)

    @router.get("/page/{name:path}")
    async def file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name!r}. Open / instead.")
        return files[name].answer(request)

    return router


def explorer_routes(
    models: dict[str, LoadedModel],
    explorer: Explorer | None,
    population: Population | None,
    runs: Path | None,
    limits: Limits,
) -> APIRouter:
    """Creates the routes of the explorer's calls."""
    router = APIRouter(tags=["explorer"], route_class=JsonRoute, responses=ERROR_RESPONSES)
    calls = DataCalls(population, limits)

    def require_explorer() -> Explorer:
        calls.population()  # answers 404 without data
        assert explorer is not None
        return explorer

    async def respond(work: Callable[[], Any]) -> Response:
        return json_response(await calls.run(work))

    def read_cutoff(text: str | None) -> int:
        population = calls.population()
        if text is None:
            return population.cutoff
        instant = population.data.schema.instant(text)
        require_visible_events(population.data, instant, "cutoff")
        return instant

    @router.get("/v1/data", summary="Summary of the prepared data", response_model=Overview)
    async def data() -> Response:
        return await respond(lambda: require_explorer().overview())

    @router.get("/v1/find", summary="Users by a part of their id", response_model=UserMatches)
    async def find(text: Text, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        return await respond(lambda: require_explorer().find(text, limit))

    @router.get(
        "/v1/map", summary="Two-dimensional map of users", response_model=MapAnswer,
        responses={
            503: {
                "model": EmbeddingProgress,
                "description": "The users on the map are not embedded yet.",
            }
        },
    )  # fmt: skip
    async def user_map(model: str | None = None) -> Response:
        require_explorer()
        name = choose_model(models, model).name
        try:
            return await respond(lambda: require_explorer().map(name))
        except HTTPException as error:
            if isinstance(error.__cause__, NotReadyError):
                done, total = calls.population().sample_progress(name)
                content = {"detail": str(error.detail), "done": done, "of": total}
                return json_response(content, 503, error.headers)
            raise

    @router.get("/v1/map/colour", summary="Values that colour the map", response_model=ColourAnswer)
    async def colour(name: Text, model: str | None = None) -> Response:
        require_explorer()
        return await respond(
            lambda: require_explorer().colour(choose_model(models, model).name, name)
        )

    @router.post("/v1/traits", summary="Values that set users apart", response_model=TraitsAnswer)
    async def traits(body: TraitsBody) -> Response:
        return await respond(lambda: require_explorer().traits(body.users))

    @router.get(
        "/v1/shared", summary="Values that two users have in common", response_model=SharedAnswer
    )
    async def shared(user_id: UserId, other: UserId, cutoff: Cutoff = None) -> Response:
        return await respond(lambda: require_explorer().shared(user_id, other, read_cutoff(cutoff)))

    @router.get(
        "/v1/expected", summary="Values a model expects in a word", response_model=ExpectedAnswer
    )
    async def expected(
        user_id: UserId, segment: Text, number: Annotated[int, Query(ge=0, le=1_000_000)],
        model: str | None = None, cutoff: Cutoff = None,
    ) -> Response:  # fmt: skip
        require_explorer()
        loaded_model = choose_model(models, model)
        return await respond(
            lambda: require_explorer().expected(
                loaded_model, user_id, segment, number, read_cutoff(cutoff)
            )
        )

    @router.get(
        "/v1/explanation", summary="Explanation of a score", response_model=ExplanationAnswer
    )
    async def explanation(
        user_id: UserId, model: str | None = None, value: str | None = None, cutoff: Cutoff = None
    ) -> Response:
        require_explorer()
        loaded_model = choose_model(models, model)
        return await respond(
            lambda: require_explorer().explanation(
                loaded_model, user_id, value, read_cutoff(cutoff)
            )
        )

    @router.get("/v1/runs", summary="Training runs", response_model=Runs)
    async def training_runs() -> Response:
        paths = {name: model.files.path for name, model in models.items()}
        return json_response(await asyncio.to_thread(read_runs, paths, runs))

    @router.get("/v1/reports", summary="Evaluation reports", response_model=Reports)
    async def reports() -> Response:
        return json_response(await asyncio.to_thread(read_reports, runs))

    @router.get("/v1/reports/{name:path}/page", summary="A report as an HTML page")
    async def report_page(name: str) -> Response:
        content = await asyncio.to_thread(read_page, runs, name)
        if content is None:
            raise HTTPException(404, f"there is no report {name!r}. /v1/reports lists all reports.")
        return Response(content, media_type="text/html; charset=utf-8", headers=_REPORT_HEADERS)

    return router
