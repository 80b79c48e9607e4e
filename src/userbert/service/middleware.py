"""Who may call, and how large a call may be, before any of it is read.

In: requests. Out: those that may pass; the others are answered here, in the form of all answers.
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

OPEN = ("/healthz", "/readyz", "/")
"""Whoever starts and watches the service has no token, and learns nothing from these."""
_PAGE = "/page/"
"""Its files hold no data either."""
_SHORTEST_TOKEN = 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")


_Refusal = tuple[int, str, dict[str, str]]
"""The status, what to mend, headers."""


@dataclass(frozen=True)
class Limits:
    """What a call may ask for."""

    body: int = 16 * 2**20
    """Bytes."""
    users: int = 1_024
    """Of a call."""
    events: int = 20_000
    """Of a user, profile records among them."""
    seconds: float = 10.0
    """For a body to arrive, and for an answer to be made."""


def read_tokens(file: Path) -> tuple[bytes, ...]:
    """The tokens of a file, one a line; empty lines and those that begin with # are passed over.

    Raises `InputError` if there is none, or if one is so short that it can be guessed.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: expected a file of tokens, one a line: {error}.") from error
    tokens = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if len(line) < _SHORTEST_TOKEN or not line.isascii() or " " in line:
            raise InputError(
                f"{file}, line {number}: expected a token of at least {_SHORTEST_TOKEN} letters "
                "and digits. `openssl rand -hex 32` makes one."
            )
        tokens.append(line.encode())
    if not tokens:
        raise InputError(f"{file}: expected a token a line, found none.")
    return tuple(tokens)


class Guard:
    """Checks the address, the token, the room in the queue and the size of each request."""

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
        """Let a request pass, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await self._app(scope, self._limited(receive), send)

    def _refusal(self, scope: Scope, headers: Headers) -> _Refusal | None:
        # A page of elsewhere whose name leads here could read what needs no token.
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        if self._hosts and host not in self._hosts:
            return 400, f"host: expected {' or '.join(self._hosts)}. Call by that name.", {}
        is_open = scope["path"] in OPEN or scope["path"].startswith(_PAGE)
        if self._tokens and not is_open and not self._may(headers):
            told = "expected a header Authorization: Bearer TOKEN with a token that is known."
            return 401, told, {"WWW-Authenticate": "Bearer"}
        return self._refusal_of_body(headers) if scope["method"] == "POST" else None

    def _refusal_of_body(self, headers: Headers) -> _Refusal | None:
        if self._is_full():
            return 429, "too many users wait already. Try again in a second.", {"Retry-After": "1"}
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._limits.body:
            return 413, self._told_size(), {}
        if headers.get("content-encoding", "identity") != "identity":
            return 415, "content-encoding: expected none. Send the JSON as it is.", {}
        return None

    def _may(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        found = [hmac.compare_digest(given.strip().encode(), known) for known in self._tokens]
        return scheme.lower() == "bearer" and any(found)

    def _limited(self, receive: Receive) -> Receive:
        """A body that is not longer, nor comes slower, than it may."""
        size, until, is_complete = 0, time.monotonic() + self._limits.seconds, False

        async def limited() -> Message:
            nonlocal size, is_complete
            if is_complete:  # what comes then is that the caller has gone
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                told = f"the body took longer than {self._limits.seconds:g} s. Send it at once."
                raise HTTPException(408, told) from None
            size += len(message.get("body", b""))
            if size > self._limits.body:
                raise HTTPException(413, self._told_size())
            is_complete = not message.get("more_body", False)
            return message

        return limited

    def _told_size(self) -> str:
        most = self._limits.body // 2**20
        return f"the body is larger than {most} MiB. Send fewer users, or fewer events, at a time."


async def _refuse(send: Send, status: int, told: str, headers: dict[str, str]) -> None:
    body = json.dumps({"detail": told}).encode()
    named = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
