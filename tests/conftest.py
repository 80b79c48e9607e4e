"""Fixtures of all tests: real logs, the command line, Java, a browser; hypothesis settings."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Set before torch is loaded: tests run in parallel, and its threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, sync_playwright

from command_line import Userbert, command_line_in

# No deadline: examples that use the disk take as long as the machine needs.
settings.register_profile(
    "userbert", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("userbert")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real logs that `USERBERT_DATA` names, with ga4-merch-store/ and ta-feng/."""
    folder = os.environ.get("USERBERT_DATA")
    if folder is None:
        if os.environ.get("CI") == "true":
            pytest.fail("USERBERT_DATA is not set, but continuous integration must test real logs")
        pytest.skip("USERBERT_DATA is not set")
    return Path(folder)


@pytest.fixture
def userbert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Userbert:
    """Function that runs a command in `tmp_path`."""
    return command_line_in(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="session")
def java() -> None:
    """Requires Java, for Spark."""
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no Java, but continuous integration must test Spark")
        pytest.skip("there is no Java, which Spark needs")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, per module: while it is open, no other event loop can run."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no Chromium, but continuous integration must test the page")
        pytest.skip("there is no Chromium")
    # Containers run as root, where the sandbox does not work.
    has_sandbox = os.geteuid() != 0
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, chromium_sandbox=has_sandbox) as chromium,
    ):
        yield chromium
