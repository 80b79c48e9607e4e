"""The explorer's page says what is wrong, and continues when the fault is over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import (
    USERS,
    accessibility_violations,
    make_folder,
    open_page,
    respond,
    serving_at,
    wait_until_idle,
)
from playwright.sync_api import Browser, Page, Route, expect
from test_service_process import TOKEN, service

pytestmark = pytest.mark.slow
MANY, SHOWN = 200_000, 50_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("faults"), USERS)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving_at(folder, "model") as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with open_page(browser, address) as page:
        page.set_default_timeout(15_000)
        yield page


def test_the_page_asks_for_a_token_until_it_is_right(browser: Browser, folder: Path) -> None:
    with (
        serving_at(folder, "model", tokens=(TOKEN.encode(),)) as address,
        open_page(browser, address) as page,
    ):
        page.goto("/#/data")
        field = page.get_by_label("Token", exact=True)
        field.fill("not the token at all")
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("alert").filter(has_text="no spaces")).to_be_visible()
        field.fill("0" * 16)
        field.press("Enter")
        expect(page.get_by_text("does not know this token")).to_be_visible()
        assert accessibility_violations(page) == []
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator(".facts")).to_be_visible()
        page.reload()
        expect(page.locator(".facts")).to_be_visible()


def test_a_slow_answer_shows_a_hint(page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/v1/data", hold)
    page.goto("/#/data")
    expect(page.locator(".skeleton").first).to_be_visible()
    expect(page.get_by_text("Still working …").first).to_be_visible()
    held[0].continue_()
    expect(page.locator(".facts")).to_be_visible()


def test_leaving_a_view_aborts_its_calls(page: Page) -> None:
    page.add_init_script(
        """const originalFetch = fetch;
        window.requests = [];
        window.fetch = (path, options) => {
          requests.push([path, options.signal]);
          return originalFetch(path, options);
        };"""
    )
    page.route("**/v1/map?*", lambda _: None)
    with page.expect_request("**/v1/map?*"):
        page.goto("/#/map")
    aborted = (
        "requests.filter(([path, signal]) => path.startsWith('/v1/map') && signal.aborted).length"
    )
    assert page.evaluate(aborted) == 0
    page.get_by_role("link", name="Data", exact=True).click()
    expect(page.locator(".facts")).to_be_visible()
    assert page.evaluate(aborted) == 1


def test_the_map_waits_until_vectors_are_ready(page: Page) -> None:
    calls = 0

    def refuse_once(route: Route) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            route.continue_()
            return
        answer = {"detail": "wait", "done": 20, "of": 42}
        respond(route, answer, status=503, **{"Retry-After": "1"})

    page.route("**/v1/map?*", refuse_once)
    page.goto("/#/map")
    expect(page.get_by_text("20 of 42 users")).to_be_visible()
    expect(page.locator(".map-inner canvas")).to_be_visible()


def test_the_page_reconnects_to_a_restarted_service(browser: Browser, folder: Path) -> None:
    data = ("--data", str(folder / "data"))
    with (
        service(folder / "model", *data) as (process, address),
        open_page(browser, address) as page,
    ):
        page.goto("/#/data")
        wait_until_idle(page)
        process.kill()
        process.wait()
        page.get_by_role("link", name="Map", exact=True).click()
        expect(page.locator("#banner")).to_contain_text("does not answer")
        page.get_by_role("button", name="Try now").click()
        expect(page.locator("#banner")).to_be_visible()
        port = address.rsplit(":", 1)[1]
        with service(folder / "model", *data, "--port", port):
            expect(page.locator(".map-inner canvas")).to_be_visible(timeout=20_000)
            expect(page.locator("#banner")).to_be_hidden()


@pytest.mark.parametrize("view", ["data", "map", "user", "user/u1"])
def test_without_data_views_say_how_to_serve_some(
    browser: Browser, folder: Path, tmp_path: Path, view: str
) -> None:
    (tmp_path / "model").symlink_to(folder / "model")
    with serving_at(tmp_path, "model") as address, open_page(browser, address) as page:
        page.goto(f"/#/{view}")
        expect(page.locator("main")).to_contain_text("--data")


def test_one_user_is_enough(browser: Browser, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ["u1"])
    with serving_at(folder, "model") as address, open_page(browser, address) as page:
        for view in ("data", "map", "user/u1", "lookalike"):
            page.goto(f"/#/{view}")
            expect(page.locator("main h1")).to_be_visible()
            wait_until_idle(page)
        page.get_by_label("Seeds").fill("u1")
        page.get_by_role("button", name="Make the list").click()
        expect(page.get_by_text("No list could be made")).to_be_visible()


def test_data_without_users_show_what_was_left_out(page: Page) -> None:
    empty = {"place": "long_term", "attribute": "genre", "kind": "category", "known": 0}
    empty |= {"missing": 0, "unknown": 0, "rows": 0, "top": []}
    answer = {
        "name": "none", "users": 0, "first_event": 0, "last_event": 0, "cutoff": 0,
        "timezone": "UTC", "fit_before": None, "version": "1", "segments": [],
        "days": {"unit": "day", "days": [], "actions": {}, "is_sampled": False},
        "values": [empty], "outside": [["view", 9]], "warnings": ["nobody is left"],
        "rows": [{"file": "a.csv", "read": 9, "used": 0, "outside_segments": 9, "duplicates": 0,
                  "quarantined": 0}],
        "rejected": {"rows": 1, "first": [{"file": "a.csv", "row": 1, "reason": "no time"}]},
    }  # fmt: skip
    page.route("**/v1/data", lambda route: respond(route, answer))
    page.goto("/#/data")
    expect(page.get_by_text("No users here")).to_be_visible()
    expect(page.locator("main")).to_contain_text("no time")
    expect(page.locator("main")).to_contain_text("nobody is left")


def test_unknown_views_and_users_offer_a_way_on(page: Page) -> None:
    page.goto("/#/nothing")
    page.get_by_role("link", name="See the data").click()
    expect(page.locator(".facts")).to_be_visible()
    page.goto("/#/user/nobody")
    expect(page.get_by_text("No user with this id")).to_be_visible()


def test_a_better_layout_is_offered_when_it_is_ready(page: Page) -> None:
    answer: dict[str, Any] = {
        "model": "model", "method": "pca", "note": "Rough.", "is_final": False,
        "users": 3, "shown": 3,
        "user_ids": ["a", "b", "c"], "x": [0, 1, 2], "y": [0, 1, 0],
        "colours": [{"name": "cluster", "title": "cluster", "kind": "category"}],
    }  # fmt: skip
    colour = {**answer["colours"][0], "values": ["c1"], "codes": [0, 0, 0]}
    page.clock.install()
    page.route("**/v1/map?*", lambda route: respond(route, answer))
    page.route("**/v1/map/colour?*", lambda route: respond(route, colour))
    page.goto("/#/map")
    expect(page.get_by_text("Rough.")).to_be_visible()
    answer |= {"method": "t-sne", "note": "Better.", "is_final": True}
    page.clock.fast_forward(20_000)
    page.get_by_role("button", name="Show it").click()
    expect(page.get_by_text("Better.")).to_be_visible()
    page.clock.fast_forward(20_000)
    expect(page.get_by_role("button", name="Show it")).to_have_count(0)


def test_many_users_move_without_stutter(page: Page) -> None:
    places = range(SHOWN)
    answer = {
        "model": "model", "method": "pca", "note": "", "is_final": True,
        "users": MANY, "shown": SHOWN,
        "user_ids": [f"user-{place}" for place in places],
        "x": [(place * 7919 % 9973) / 9973 + place % 12 for place in places],
        "y": [(place * 104_729 % 9967) / 9967 + place % 5 for place in places],
        "colours": [{"name": "cluster", "title": "cluster", "kind": "category"}],
    }  # fmt: skip
    colour = {
        "name": "cluster", "title": "cluster", "kind": "category",
        "values": [f"c{i}" for i in range(12)], "codes": [place % 12 for place in places],
    }  # fmt: skip
    page.route("**/v1/map?*", lambda route: respond(route, answer))
    page.route("**/v1/map/colour?*", lambda route: respond(route, colour))
    page.goto("/#/map")
    expect(page.get_by_text("50,000 of 200,000 users")).to_be_visible()
    expect(page.locator(".map-inner canvas")).to_be_visible()
    box = page.locator(".map-inner").bounding_box()
    assert box is not None
    page.evaluate(
        """() => {
          window.frames = [];
          let last = performance.now();
          const tick = (now) => {
            frames.push(now - last);
            last = now;
            requestAnimationFrame(tick);
          };
          requestAnimationFrame(tick);
        }"""
    )
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    for _ in range(5):
        page.mouse.wheel(0, -120)
    page.mouse.down()
    for step in range(40):
        page.mouse.move(x + step * 4, y + step * 2)
    page.mouse.up()
    frames = sorted(page.evaluate("frames.slice(1)"))
    # People see a stutter from about 0.1 s.
    assert frames[len(frames) // 2] < 100, frames
