"""Helpers for browser tests of the explorer's page."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect
from serving import make_service_folder
from test_explorer import as_if_pretrained

from small_logs import log
from userbert.data.store import PreparedData
from userbert.service.app import Settings, create_app
from userbert.service.loaded_models import load_models

ODD = "a/b?c=<script>\"'ü"
MARKUP = "<img src=x onerror=document.title='bad'>"
USERS = [f"u{number}" for number in range(40)] + [ODD, MARKUP]
GENRES = ("bread", "milk", MARKUP)
VIEWS = ("data", "map", "user", "user/u3", "lookalike", "training")


def make_folder(folder: Path, users: list[str]) -> Path:
    """Writes prepared `data` of some users, and the models `model`, `returns` and `genre`."""
    events = log(
        *(
            (user, f"2017-05-{1 + (number + day) % 28:02}T10:00", "buy", GENRES[number % 3], 1.0)
            for number, user in enumerate(users)
            for day in range(0, 28, 7)
        )
    )
    make_service_folder(folder, events).rename(folder / "data")
    as_if_pretrained(folder / "model")
    return folder


@contextmanager
def serving_at(folder: Path, *names: str, **settings: Any) -> Iterator[str]:
    """Serves the models and data of a folder from this process; yields the address."""
    models = load_models([folder / name for name in names], "torch")
    data = folder / "data"
    app = create_app(
        models, Settings(**settings), PreparedData.open(data) if data.is_dir() else None
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def open_page(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """Yields a page; at its end, asserts that it logged no error and no policy violation."""
    with browser.new_context(base_url=address, **context) as browser_context:
        page = browser_context.new_page()
        errors: list[str] = []

        def collect(message: ConsoleMessage) -> None:
            # An error status is an answer, which the page shows.
            if message.type == "error" and "Failed to load resource" not in message.text:
                errors.append(message.text)

        page.on("console", collect)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        assert not errors


def wait_until_idle(page: Page) -> None:
    """Waits until all calls of the page are answered."""
    expect(page.locator("main [aria-busy]")).to_have_count(0)
    page.wait_for_load_state("networkidle")


def respond(route: Route, answer: Any, status: int = 200, **headers: str) -> None:
    """Answers a call in place of the service."""
    route.fulfill(
        status=status, body=json.dumps(answer), headers=headers, content_type="application/json"
    )


def accessibility_violations(page: Page) -> list[str]:
    """Lists the serious accessibility violations of a view, as found by axe."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def fits_screen(page: Page) -> bool:
    """Whether nothing is wider than the screen."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
