"""A browser, for the tests of the explorer's page."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium. Of a module: while it is open, others could not run an event loop."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no Chromium, and continuous integration must test the page")
        pytest.skip("there is no Chromium")
    # As root, which containers run as, there is no sandbox.
    has_sandbox = os.geteuid() != 0
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, chromium_sandbox=has_sandbox) as found,
    ):
        yield found
