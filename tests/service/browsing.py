"""The explorer's page in a browser, for tests: services, and pages that tell of faults."""

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
from serving import make
from test_explorer import as_if_pretrained

from small_logs import log
from userbert.data.store import PreparedData
from userbert.service.app import Settings, create_app
from userbert.service.loaded_models import load_all

ODD = "a/b?c=<script>\"'ü"
MARKUP = "<img src=x onerror=document.title='bad'>"
USERS = [f"u{number}" for number in range(40)] + [ODD, MARKUP]
GENRES = ("bread", "milk", MARKUP)
VIEWS = ("data", "map", "user", "user/u3", "lookalike", "training")


def made(folder: Path, users: list[str]) -> Path:
    """Data of some users, `data`, beside the models `model`, `returns` and `genre`."""
    events = log(
        *(
            (user, f"2017-05-{1 + (number + day) % 28:02}T10:00", "buy", GENRES[number % 3], 1.0)
            for number, user in enumerate(users)
            for day in range(0, 28, 7)
        )
    )
    make(folder, events).rename(folder / "data")
    as_if_pretrained(folder / "model")
    return folder


@contextmanager
def serving_at(folder: Path, *names: str, **settings: Any) -> Iterator[str]:
    """Serve what is in a folder from this process; its address."""
    served = load_all([folder / name for name in names], "torch")
    data = folder / "data"
    app = create_app(
        served, Settings(**settings), PreparedData.open(data) if data.is_dir() else None
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
def opened(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """A page that must not have told of a fault, nor of a policy that was not kept, by its end."""
    with browser.new_context(base_url=address, **context) as made:
        page = made.new_page()
        faults: list[str] = []

        def hear(message: ConsoleMessage) -> None:
            # Refusals by status are answers; the page shows them.
            if message.type == "error" and "Failed to load resource" not in message.text:
                faults.append(message.text)

        page.on("console", hear)
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        assert not faults


def settled(page: Page) -> None:
    """Wait until nothing is asked any more."""
    expect(page.locator("main [aria-busy]")).to_have_count(0)
    page.wait_for_load_state("networkidle")


def told(route: Route, answer: Any, status: int = 200, **headers: str) -> None:
    """Answer in place of the service."""
    route.fulfill(
        status=status, body=json.dumps(answer), headers=headers, content_type="application/json"
    )


def barriers(page: Page) -> list[str]:
    """What keeps people who use a keyboard, a screen reader or little contrast from a view."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def fits(page: Page) -> bool:
    """Whether nothing is wider than the screen."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
