"""The explorer's page: files that hold no data, under headers that let them do no more than they do.

In: the files of `serving/page`. Out: an application for what lies under /page/, and `/`, its start.
"""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE = Path(__file__).parents[1] / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Files of one version fit each other alone: ask each time, and send what has changed.
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """Files with an ETag; whoever has them is not sent them again."""

    def __init__(self) -> None:
        super().__init__(directory=PAGE)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with a file."""
        answer = await super().get_response(path, scope)
        answer.headers.update(HEADERS)
        return answer


def page_routes(files: PageFiles) -> APIRouter:
    """The page's start."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def start(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return router
