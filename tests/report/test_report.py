"""The report's page: complete, self-contained, and true to its numbers."""

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from small_logs import SCHEMA, Event, log, prepare_events
from userbert.data.store import PreparedData
from userbert.errors import InputError
from userbert.evaluation.evaluate import Report
from userbert.evaluation.target_leakage import LeakingColumn
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.report import figures, portraits
from userbert.report.portraits import coverage, map_users, portrait, sample_users
from userbert.report.report import Background, read_metrics, write_report
from userbert.tasks.labels import Labels

NASTY = "<script>alert('$x$ & y')</script>"
PROFILE = "profile: {path: p.csv, fields: {age: {column: age}, city: {column: city}}}\n"
BEST = "best-ours \N{MINUS SIGN} best-classical"
USERS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Twelve users with ten days of purchases each; half of them have a profile."""
    events: list[Event] = [
        (f"user{user}", f"2024-03-{day + 1:02}T{9 + user}:00", "buy", genre, 0.35 * day)
        for user in range(USERS)
        for day in range(10)
        for genre in ("bread", NASTY, None)[: 1 + (user + day) % 3]
    ]
    ages = ["Under 20", "20-39", "40+"]
    people = pl.DataFrame(
        [(f"user{user}", ages[user % 3], "Rome") for user in range(0, USERS, 2)],
        schema=["user", "age", "city"],
        orient="row",
    )
    folder = tmp_path_factory.mktemp("report")
    return prepare_events(folder, log(*events), SCHEMA + PROFILE, profile=people)


@pytest.fixture(scope="module")
def model(data: PreparedData) -> UserBert:
    torch.manual_seed(0)
    config = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32)
    shape = data.input_shape(["age"])
    return UserBert(
        config, shape, schema=data.schema, vocabularies=data.vocabularies, hidden=["age"]
    ).eval()


@pytest.fixture(scope="module")
def labels(data: PreparedData) -> Labels:
    ids = tuple(f"user{user}" for user in range(USERS))
    targets = np.arange(USERS) % 2
    cutoffs = np.full(USERS, data.default_cutoff)
    return Labels("kids", "Does the user have children?", "binary", ids, cutoffs, targets)


def _row(model: str, mean: float, metric: str = "roc_auc", labels: int = USERS) -> dict[str, Any]:
    about = {"data": "small", "task": "kids", "model": model, "metric": metric, "splits": 5}
    return {**about, "mean": mean, "low": mean - 0.02, "high": mean + 0.02, "labels": labels}


ROWS = [
    _row("popularity", 0.5),
    _row("aggregates-gbm", 0.7),
    _row("aggregates-gbm", 0.4, "pr_auc"),
    _row("fused", 0.71),
    _row(BEST, 0.01),
]
CURVES = [_row(name, 0.6 + size / 1000, labels=size) for size in (50, 100, 200)
          for name in ("aggregates-gbm", "fine-tuned", "from-scratch")]  # fmt: skip
CALIBRATION = [
    {"data": "small", "task": "kids", "model": name, "error": error, "bins": [
        {"predicted": score, "observed": score + error, "low": score, "high": score + 0.2,
         "users": 6} for score in (0.3, 0.6)]}
    for name, error in (("popularity", 0.0), ("aggregates-gbm", 0.05), ("fused", 0.04))
]  # fmt: skip
MADE: dict[str, object] = {
    "commit": "abc", "version": "0.1.0", "date": "2024-05-01T10:00:00", "seeds": [0],
    "machine": "a machine", "data": "def", "command": "userbert evaluate <x>",
}  # fmt: skip
METRICS: list[dict[str, Any]] = [
    *({"step": step, "loss": 9 - step / 10, "losses": {"long_term.genre": 5 - step / 10}}
      for step in (10, 20, 30)),
    *({"step": step, "validation": {"loss": 8 - step / 10, "long_term.genre": 4.0}}
      for step in (15, 30)),
]  # fmt: skip


class _Page(HTMLParser):
    """Tags, ids, references and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.unnamed_figures = 0
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        links = ("href", "src", "xlink:href")
        self.ids += [values["id"] or ""] if "id" in values else []
        self.targets += [values[key] or "" for key in links if key in values]
        self.unnamed_figures += tag == "svg" and not values.get("aria-label")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _write(
    folder: Path, data: PreparedData, model: UserBert, labels: Labels, **other: Any
) -> tuple[str, _Page]:
    leak = LeakingColumn("visits of /thanks", 0.998).warning("kids")
    report = other.pop("report", Report(MADE, ROWS, CURVES, CALIBRATION, giveaways=[leak]))
    background = Background(metrics=[METRICS], source_note="From a test.", **other)
    path = write_report(folder, report, data, [model], [labels], data.default_cutoff, background)
    text = path.read_text(encoding="utf-8")
    return text, _Page(text)


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, data: PreparedData, model: UserBert, labels: Labels
) -> tuple[str, _Page]:
    return _write(tmp_path_factory.mktemp("page"), data, model, labels)


def test_page_is_one_file_without_scripts(page: tuple[str, _Page]) -> None:
    text, parsed = page
    assert parsed.tags["script"] == parsed.tags["link"] == parsed.tags["iframe"] == 0
    assert all(target.startswith(("#", "data:image/png")) for target in parsed.targets)
    assert "url(http" not in text
    assert "@import" not in text


def test_ids_are_unique_and_references_resolve(page: tuple[str, _Page]) -> None:
    _, parsed = page
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {target[1:] for target in parsed.targets if target.startswith("#")} <= set(parsed.ids)


def test_figures_have_names_and_tables_have_headers(page: tuple[str, _Page]) -> None:
    _, parsed = page
    assert parsed.tags["svg"] > 8
    assert parsed.unnamed_figures == 0
    assert parsed.tags["th"] > parsed.tags["table"]


def test_page_suits_light_and_dark(page: tuple[str, _Page]) -> None:
    text, _ = page
    assert "prefers-color-scheme: dark" in text
    assert "var(--ours)" in text
    for ink in figures._INKS:
        assert ink not in text


def test_values_of_the_logs_are_text_not_markup(page: tuple[str, _Page]) -> None:
    text, parsed = page
    assert NASTY not in text
    assert NASTY in parsed.text


def test_page_states_the_answer_and_its_limits(page: tuple[str, _Page]) -> None:
    _, parsed = page
    for text in (
        "What do these vectors add to the features you already have?",
        "it is a tie.",
        "+0.010 ROC-AUC",
        "The model was pretrained once.",
        "kids has only 6 labels with the rarer answer",
        "12 labels, 6 of them yes (50%).",
        "No model, classical or ours, reads the profile field age,",
        "Profiles have no time",
        "With fewer labels",
        "(mean distance between score and share of yes): fused 0.040, aggregates-gbm 0.050.",
        "the column 'visits of /thanks' alone predicts the answer (ROC-AUC 0.998",
        "On validation users the loss went from 6.50 (step 15) to 5.00 (step 30)",
        "No row was left out.",
        "From a test.",
        "userbert evaluate <x>",
    ):
        assert text in parsed.text


def test_page_leaves_out_sections_without_content(
    tmp_path: Path, data: PreparedData, model: UserBert, labels: Labels
) -> None:
    report = Report(MADE, [_row("aggregates-gbm", 0.7)])
    path = write_report(tmp_path, report, data, [model], [labels], data.default_cutoff)
    text = _Page(path.read_text(encoding="utf-8")).text
    assert "With fewer labels" not in text
    assert "probabilities?" not in text
    assert "Loss per user" not in text
    assert "has no record of its training" in text
    assert "gives no answer yet" in text


def test_same_inputs_give_the_same_bytes(
    page: tuple[str, _Page], tmp_path: Path, data: PreparedData, model: UserBert, labels: Labels
) -> None:
    assert _write(tmp_path, data, model, labels)[0] == page[0]


def test_page_is_never_overwritten(
    tmp_path: Path, data: PreparedData, model: UserBert, labels: Labels
) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        _write(tmp_path, data, model, labels)


def test_coverage_shares_of_an_attribute_add_up(data: PreparedData) -> None:
    for row in coverage(data, sample_users(data, data.default_cutoff).batch):
        assert row.known + row.unknown + row.none == pytest.approx(1)
    genre = coverage(data, sample_users(data, data.default_cutoff).batch)[0]
    # A third of the days have one action, a third two, a third three; the third has no genre.
    assert genre.attribute == "genre"
    assert genre.none == pytest.approx(1 / 6, abs=0.03)


def test_the_sample_of_users_is_reproducible(data: PreparedData) -> None:
    drawn = sample_users(data, data.default_cutoff, most=5)
    assert drawn.is_drawn
    assert drawn.rows.tolist() == sample_users(data, data.default_cutoff, most=5).rows.tolist()
    assert len(drawn.batch) == 5
    assert len(sample_users(data, data.first_event).rows) == 0


def test_map_orders_amounts_and_notes_what_the_model_saw(
    data: PreparedData, model: UserBert, labels: Labels
) -> None:
    method, (age, city, kids) = map_users(model, data, data.default_cutoff, ["age", "city", labels])
    assert "PCA" in method
    values = [(value, count) for _, value, count in age.legend]
    assert values == [("Under 20", 2), ("20-39", 2), ("40+", 2), ("not known", 6)]
    assert "never saw" in age.note
    assert "reads this field" in city.note
    assert [value for _, value, _ in kids.legend] == ["no", "yes"]


def test_the_projection_of_vectors_is_reproducible() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    points, method = portraits._flatten(vectors)
    assert points.shape == (60, 2)
    assert "t-SNE" in method
    assert np.array_equal(points, portraits._flatten(vectors)[0])


def test_map_refuses_a_field_that_is_not_there(data: PreparedData, model: UserBert) -> None:
    with pytest.raises(InputError, match="The profile has: age, city"):
        map_users(model, data, data.default_cutoff, ["height"])


def test_portrait_shows_one_user_and_hides_one_word(data: PreparedData, model: UserBert) -> None:
    users = sample_users(data, data.default_cutoff)
    shown = portrait(model, data, users)
    assert shown is not None
    assert set(shown.profile) == {"age", "city"}
    assert len(shown.words) in range(8, 21)
    assert shown.hidden is not None
    assert shown.hidden.word in shown.words
    genre = shown.hidden.attributes[0]
    assert {value.value for value in genre.expected if value.is_there} == set(genre.there)
    assert portrait(model, data, sample_users(data, data.first_event)) is None


def test_portrait_hides_no_word_from_a_model_that_expects_nothing(data: PreparedData) -> None:
    future = UserBert(
        UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32, tells_future=True),
        data.input_shape(), schema=data.schema, vocabularies=data.vocabularies,
        record={"config": {"objectives": {"words": 0.0, "hidden": 0.0, "future": 1.0}}},
    )  # fmt: skip
    shown = portrait(future, data, sample_users(data, data.default_cutoff))
    assert shown is not None
    assert shown.hidden is None


def test_metrics_of_a_model_folder_are_read_line_by_line(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2}]


def test_names_with_dollars_are_not_formulas() -> None:
    rows = [figures.Interval("$a$ <b>", 0.5, 0.4, 0.6, "ours")]
    drawn = figures.intervals(rows, title="a & b", axis="x")
    assert "$a$ &lt;b&gt;" in drawn
    assert 'aria-label="a &amp; b"' in drawn
