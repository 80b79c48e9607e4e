"""Access checks before a request is read: host, token, free queue space, body size and time.

In: requests. Out: requests that pass. The middleware answers the other requests, with the error
body of all routes.
"""

import asyncio
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from userbert.errors import InputError

OPEN_PATHS = ("/healthz", "/readyz", "/")
"""Paths that need no token: health checks, and the page without data."""
_PAGE = "/page/"
"""Prefix of the paths of the page's files, which need no token because they contain no data."""
_MIN_TOKEN_LENGTH = 16
"""Minimum number of characters of a token, so that nobody can guess one."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Host names that only clients on this machine can reach."""


_Refusal = tuple[int, str, dict[str, str]]
"""Status, detail and headers of an error response."""


@dataclass(frozen=True)
class Limits:
    """Limits of a call."""

    body: int = 16 * 2**20
    """Maximum number of bytes of a request body."""
    users: int = 1_024
    """Maximum number of users per call, which `live_routes.py` checks."""
    events: int = 20_000
    """Maximum number of events and profile rows per user, which `live_routes.py` checks."""
    seconds: float = 10.0
    """Time limit in seconds for receiving a body, and separately for computing the answer."""


def read_tokens(file: Path) -> tuple[bytes, ...]:
    """Reads a file with one token per line; skips empty lines and lines that start with #.

    Raises `InputError` if the file cannot be read or has no token, or if a token is too short or
    contains a space or a non-ASCII character.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: expected a file with one token per line: {error}.") from error
    tokens = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if len(line) < _MIN_TOKEN_LENGTH or not line.isascii() or " " in line:
            raise InputError(
                f"{file}, line {number}: expected a token of at least {_MIN_TOKEN_LENGTH} ASCII "
                "characters without spaces. Create a token with `openssl rand -hex 32`."
            )
        tokens.append(line.encode())
    if not tokens:
        raise InputError(
            f"{file}: expected one token per line, found none. Create a token with "
            "`openssl rand -hex 32`."
        )
    return tuple(tokens)


class AccessMiddleware:
    """Checks host, token, free queue space, size and duration of each request.

    With empty `tokens`, no token is needed; with empty `hosts`, any host is accepted. `is_full`
    returns whether the queue refuses every call.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Sequence[bytes],
        hosts: Sequence[str],
        limits: Limits,
        is_full: Callable[[], bool],
    ) -> None:
        self._app = app
        self._tokens, self._hosts, self._limits = tokens, hosts, limits
        self._is_full = is_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await self._app(scope, self._limited(receive), send)

    def _refusal(self, scope: Scope, headers: Headers) -> _Refusal | None:
        # Prevents DNS rebinding: a foreign web page whose host name resolves to this machine could
        # otherwise read all answers that need no token.
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        if self._hosts and host not in self._hosts:
            return (
                400,
                f"host: expected {' or '.join(self._hosts)}. Use one of these hosts in the URL.",
                {},
            )
        is_open = scope["path"] in OPEN_PATHS or scope["path"].startswith(_PAGE)
        if self._tokens and not is_open and not self._has_token(headers):
            detail = "expected a header Authorization: Bearer TOKEN with a known token."
            return 401, detail, {"WWW-Authenticate": "Bearer"}
        return self._refusal_of_body(headers) if scope["method"] == "POST" else None

    def _refusal_of_body(self, headers: Headers) -> _Refusal | None:
        if self._is_full():
            return 429, "the queue is full. Try again in a second.", {"Retry-After": "1"}
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._limits.body:
            return 413, self._too_large(), {}
        if headers.get("content-encoding", "identity") != "identity":
            return 415, "content-encoding: expected none. Send the JSON uncompressed.", {}
        return None

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        matches = [hmac.compare_digest(token.strip().encode(), known) for known in self._tokens]
        return scheme.lower() == "bearer" and any(matches)

    def _limited(self, receive: Receive) -> Receive:
        """Wraps `receive`: raises `HTTPException` if the body is too large or too slow."""
        size, deadline, is_complete = 0, time.monotonic() + self._limits.seconds, False

        async def limited() -> Message:
            nonlocal size, is_complete
            if is_complete:  # only a disconnect can follow, at any time
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                detail = (
                    f"the body took longer than {self._limits.seconds:g} s. Send a smaller body."
                )
                raise HTTPException(408, detail) from None
            size += len(message.get("body", b""))
            if size > self._limits.body:
                raise HTTPException(413, self._too_large())
            is_complete = not message.get("more_body", False)
            return message

        return limited

    def _too_large(self) -> str:
        max_mib = self._limits.body // 2**20
        return f"the body is larger than {max_mib} MiB. Send fewer users or events per call."


async def _refuse(send: Send, status: int, detail: str, headers: dict[str, str]) -> None:
    body = json.dumps({"detail": detail}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
