"""A service on a port of this machine.

In: an application, an address. Out: answers, until it is told to stop; then what has begun is
finished.
"""

import gc
import signal
import socket
from collections.abc import Callable, Sequence

import uvicorn
from fastapi import FastAPI

from userbert.errors import InputError
from userbert.serving.service.guard import LOOPBACK
from userbert.serving.service.telemetry import log_to_stderr

_FINISH_SECONDS = 30
_KEEP_ALIVE_SECONDS = 60
"""Between calls on one connection; load balancers close theirs within a minute."""
_BACKLOG = 2_048
"""Connections that wait to be taken; who calls as soon as the address is told does."""


def check_address(host: str, tokens: Sequence[bytes]) -> None:
    """Raise `InputError` for an address that others reach, unless they need a token."""
    if host not in LOOPBACK and not tokens:
        raise InputError(
            f"--host {host}: others could read who your users are. Give --tokens FILE with a token "
            "a line, or leave --host out. The service speaks HTTP: put it behind a proxy that "
            "speaks HTTPS."
        )


def run(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told the address before the first call.

    Raises `InputError` if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, or asyncio leaves Nagle's algorithm on: an answer's body would wait for the
    # caller to acknowledge its head, 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"{host}, port {port}: cannot serve there: {error}. Choose another by --port."
            ) from error
        log_to_stderr()
        # Models stay; to look for garbage among them takes a tenth of a second each time.
        gc.collect()
        gc.freeze()
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, lifespan="on",
            timeout_graceful_shutdown=_FINISH_SECONDS, timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )  # fmt: skip
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        ready(f"http://{shown}:{listener.getsockname()[1]}")
        for number in (signal.SIGINT, signal.SIGTERM):
            # It is raised again when all is finished; then it has been heeded.
            signal.signal(number, lambda *_: None)
        uvicorn.Server(config).run(sockets=[listener])
