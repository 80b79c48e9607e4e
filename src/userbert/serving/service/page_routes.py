"""The explorer's page: files that hold no data, under headers that let them do little.

In: the files of `serving/page`. Out: routes for `/`, its start, and for what lies under /page/.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

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
