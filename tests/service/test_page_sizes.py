"""The explorer's page on real logs, and on logs of many users."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from browsing import accessibility_violations, open_page, wait_until_idle
from playwright.sync_api import Browser, expect
from test_explorer import as_if_pretrained
from test_service_process import service

from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.experiments import complete_journey
from userbert.experiments.simulate import simulate
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.schema import Schema

pytestmark = pytest.mark.slow
MANY = 200_000
PROMISED, NOISE = 2.0, 2.0
"""Seconds to the first view, and the factor allowed on a machine with other work."""


@contextmanager
def serving(folder: Path, data: PreparedData) -> Iterator[str]:
    """Serves data with an untrained model, in a process of its own."""
    torch.manual_seed(0)
    config = UserBertConfig(layers=2, hidden=64, heads=2, feed_forward=128)
    model = UserBert(config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies)
    model.save_pretrained(folder / "model")
    as_if_pretrained(folder / "model")
    options = ("--data", str(data.path))
    with service(folder / "model", *options, stderr=subprocess.DEVNULL) as (_, address):
        yield address


def test_every_view_shows_real_shoppers(browser: Browser, tmp_path: Path) -> None:
    schema = tmp_path / "schema.yaml"
    schema.write_text(complete_journey.schema_text())
    data = prepare(Schema.load(schema), tmp_path / "data")
    with serving(tmp_path, data) as address, open_page(browser, address) as page:
        page.set_default_timeout(30_000)
        for view, seen in {
            "data": "2,469",
            "map": "2,469 users",
            "user/1": "Nearest users",
            "lookalike": "Seeds",
            "training": "model",
        }.items():
            page.goto(f"/#/{view}")
            expect(page.get_by_text(seen).first).to_be_visible()
            wait_until_idle(page)
            assert accessibility_violations(page) == [], view


def test_the_first_view_of_many_users_comes_at_once(browser: Browser, tmp_path: Path) -> None:
    simulate(tmp_path / "logs", MANY)
    data = prepare(Schema.load(tmp_path / "logs/schema.yaml"), tmp_path / "data")
    with serving(tmp_path, data) as address, open_page(browser, address) as page:
        # The service embeds all users at the same time.
        begin = time.perf_counter()
        page.goto(f"{address}/")
        expect(page.locator(".facts")).to_contain_text("200,000")
        expect(page.locator("canvas").first).to_be_visible()
        assert time.perf_counter() - begin < PROMISED * NOISE
