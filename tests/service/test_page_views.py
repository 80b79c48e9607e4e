"""Views of the explorer's page on a small service: mouse, keyboard, dark and narrow."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from browsing import (
    MARKUP,
    ODD,
    USERS,
    VIEWS,
    accessibility_violations,
    fits_screen,
    make_folder,
    open_page,
    respond,
    wait_until_idle,
)
from playwright.sync_api import Browser, Page, expect
from test_service_process import service

CSV_ODD = '"' + ODD.replace('"', '""') + '"'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("page"), USERS)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    others = (str(folder / "returns"), str(folder / "genre"), "--data", str(folder / "data"))
    # The log would fill a pipe that is never read.
    with service(folder / "model", *others, stderr=subprocess.DEVNULL) as (_, address):
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with open_page(browser, address) as page:
        page.set_default_timeout(15_000)
        yield page


def mock_training(page: Page) -> None:
    """Answers calls about runs and reports as a service with training runs and a report."""
    points = [
        {"step": step, "loss": 9 - step / 100, "by": {"genre": 5 - step / 200, "hour": 4.0}}
        for step in range(0, 500, 50)
    ]
    run = {"kind": "model", "preset": "default", "steps": 500, "seconds": 90.0}
    run |= {"learned": points, "held_out": points[::3], "facts": [["seed", "0"], ["steps", "500"]]}
    runs = [{"name": "first", **run}, {"name": "second", **run, "kind": "running"}]
    rows = [
        {"task": "return", "model": model, "metric": "roc_auc", "mean": mean, "low": mean - 0.02,
         "high": mean + 0.02}
        for model, mean in (("fused", 0.8), ("aggregates-gbm", 0.78), ("popularity", 0.5))
    ]  # fmt: skip
    report = {"name": "verdict", "sentences": [f"They add {MARKUP}."], "rows": rows}
    report |= {"warnings": ["few labels"], "page": "/v1/reports/verdict/page"}
    page.route("**/v1/runs", lambda route: respond(route, {"runs": runs, "warnings": []}))
    page.route("**/v1/reports", lambda route: respond(route, {"reports": [report], "warnings": []}))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_every_view_is_accessible_and_fits_the_screen(
    browser: Browser, address: str, scheme: str, width: int
) -> None:
    screen = {"width": width, "height": 800}
    with open_page(browser, address, color_scheme=scheme, viewport=screen) as page:
        mock_training(page)
        for view in VIEWS:
            page.goto(f"/#/{view}")
            expect(page.locator("main h1")).to_be_visible()
            wait_until_idle(page)
            assert accessibility_violations(page) == [], view
            assert fits_screen(page), view


def test_the_data_view_shows_facts_charts_and_values(page: Page) -> None:
    page.goto("/")
    expect(page.locator(".facts")).to_contain_text("Users42")
    expect(page.locator("canvas")).to_have_count(3)
    expect(page.locator(".top-values")).to_contain_text(MARKUP)
    page.get_by_role("button", name="hour").first.click()
    expect(page.locator(".top-values h3")).to_contain_text("hour")


def test_values_of_the_data_are_never_markup(page: Page) -> None:
    for view in ("data", "map", f"user/{quote(MARKUP, safe='')}", "training"):
        page.goto(f"/#/{view}")
        wait_until_idle(page)
        assert page.locator("main img, main script").count() == 0
        assert page.title() != "bad"


@pytest.mark.parametrize("user", [ODD, MARKUP])
def test_users_with_any_id_are_found_and_shown(page: Page, user: str) -> None:
    page.goto("/#/data")
    wait_until_idle(page)
    page.keyboard.press("/")
    page.keyboard.type(user[:4])
    expect(page.get_by_role("option", name=user)).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("main h1")).to_have_text(user)
    expect(page.locator(".word").first).to_be_visible()
    address = page.evaluate("location.hash")
    assert address == "#/user/" + quote(user, safe="!'()*~")


def test_escape_closes_the_search(page: Page) -> None:
    page.goto("/#/data")
    page.get_by_role("combobox", name="Find a user").fill("u1")
    expect(page.get_by_role("option", name="u1", exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_be_hidden()


def test_an_open_word_shows_expected_values(page: Page) -> None:
    page.goto("/#/user/u3?model=model")
    head = page.locator(".word-head").first
    head.press("Enter")
    expect(page.locator(".expected h4").first).to_have_text("genre")
    expect(page.locator(".expected .is-there").first).to_be_visible()
    head.press("Escape")
    expect(page.locator(".expected")).to_have_count(0)


def test_a_score_is_explained(page: Page) -> None:
    page.goto("/#/user/u3?model=returns")
    expect(page.locator(".effects li").first).to_be_visible()
    page.locator(".effects a").first.click()
    expect(page.locator(".word.open")).to_be_visible()
    page.goto("/#/user/u3?model=genre")
    page.get_by_role("button", name="milk").click()
    expect(page.get_by_text("What moved “milk”")).to_be_visible()


def test_nearest_users_are_shown_with_shared_values(page: Page) -> None:
    page.goto("/#/user/u3?model=model")
    page.get_by_role("button", name="Why").first.click()
    expect(page.locator(".why").first).to_contain_text("Both have")


def test_users_chosen_on_the_map_become_seeds(page: Page) -> None:
    page.goto("/#/map?model=model")
    canvas = page.locator(".map-inner canvas")
    expect(canvas).to_be_visible()
    page.get_by_role("button", name="Box").click()
    box = page.locator(".map-inner").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] - 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 2, steps=5)
    page.mouse.up()
    expect(page.get_by_role("heading", name="42 users chosen")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export CSV").click()
    lines = saved.value.path().read_bytes().decode().split("\r\n")
    assert lines[0] == "user_id"
    assert set(lines[1:-1]) == {*USERS[:40], CSV_ODD, MARKUP}
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Choose the users of").first.click()
    page.get_by_role("button", name="Use as seeds").click()
    expect(page.locator(".ids-field").first).to_contain_text("from the map")
    expect(page.get_by_role("heading", name="The list")).to_be_visible()


def test_the_map_shows_the_chosen_colour(page: Page) -> None:
    page.goto("/#/map?model=model")
    expect(page.locator(".legend li").first).to_contain_text("cluster")
    page.get_by_label("Colour", exact=True).select_option("words")
    expect(page.locator(".legend li")).not_to_contain_text(["cluster"])
    assert "colour=words" in page.evaluate("location.hash")
    page.reload()
    assert page.get_by_label("Colour", exact=True).input_value() == "words"


def test_a_list_is_made_from_pasted_ids(page: Page) -> None:
    page.goto("/#/lookalike")
    page.get_by_label("Seeds").fill("\n".join([*USERS[:12], "nobody"]))
    page.get_by_label("Leave out").fill("\n".join(USERS[11:14]))
    page.get_by_role("spinbutton", name="Users").fill("5")
    page.get_by_role("button", name="Make the list").click()
    quality = page.locator(".results .card").first
    expect(quality).to_contain_text("as many as by chance")
    expect(quality).to_contain_text("1 seed has no vector")
    expect(quality).to_contain_text("3 left out, including 1 seed")
    expect(page.locator(".list tbody tr")).to_have_count(5)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download CSV").click()
    assert saved.value.path().read_text().splitlines()[0] == "user_id,score,rank"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"user_id,spent\n{CSV_ODD},3\nu1,4\n", "2 users"),
        ("u1\nu2\nu2\n", "2 users"),
        ("customer,spent\nu1,3\n", "no column user_id"),
        ("u1\0", "is not text"),
        ("u1\n" * (7 * 2**20), "at most 16 can be used"),
    ],
)
def test_files_of_seeds_are_read_or_refused(
    page: Page, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "seeds.csv").write_text(text)
    page.goto("/#/lookalike")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "seeds.csv")
    expect(page.locator(".ids-field").first).to_contain_text(message)


def test_curves_and_verdicts_are_shown(page: Page) -> None:
    mock_training(page)
    page.goto("/#/training")
    expect(page.locator(".pill")).to_contain_text(["first", "secondrunning"])
    expect(page.locator(".verdict")).to_contain_text(MARKUP)
    expect(page.locator(".intervals .best")).to_contain_text("fused")
    page.get_by_label("Loss of").select_option("genre")
    page.get_by_role("checkbox", name="first").uncheck()
    expect(page.get_by_role("columnheader", name="first")).to_have_count(0)


def test_the_chosen_theme_is_kept(page: Page) -> None:
    page.goto("/")
    button = page.get_by_role("button", name="Dark colours")
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    page.reload()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert json.loads(page.evaluate("JSON.stringify({...document.documentElement.dataset})")) == {
        "theme": "dark"
    }
