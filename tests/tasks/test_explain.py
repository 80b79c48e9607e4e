"""Explanations find planted causes, and effects equal differences of the output."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from small_logs import buys, prepare_events
from userbert.data.batches import drop_actions
from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.data.use.sequences import cut
from userbert.errors import InputError
from userbert.experiments.catalogue import build_catalogue
from userbert.experiments.ecosystem import Ecosystem, Service, Trait
from userbert.experiments.simulate import simulate
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.schema import Schema
from userbert.tasks.explain import WordEffect, explain
from userbert.tasks.finetune import FinetuneConfig, finetune
from userbert.tasks.labels import Labels
from userbert.tasks.task_model import TaskModel
from userbert.training.pretrain import pretrain
from userbert.training.settings import configure

SCHEMA = """
user: user
timezone: America/New_York
sources:
  log: {path: log.csv, time: {column: time, zone: local}, action: {column: action}}
attributes:
  genre: {column: genre}
  hour: {of: hour}
segments:
  long_term:
    words: {by: day}
    window: 90d
    actions: [buy]
    attributes: [genre, hour]
"""
GENRES = ("bread", "milk", "wine", "salt", "rice", "beer")
USERS = 240


def events() -> pl.DataFrame:
    """Half of the users buy golf balls once in ten days of other purchases."""
    rng = np.random.default_rng(0)
    frames = []
    for user in range(USERS):
        golf = int(rng.integers(10)) if user % 2 else None
        for day in range(10):
            genre = "golf" if day == golf else str(rng.choice(GENRES))
            time = f"2017-03-{day + 1:02d} {rng.integers(8, 20):02d}:00"
            frames.append(buys(f"u{user:03d}", time, genre=genre))
    return pl.concat(frames)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare_events(tmp_path_factory.mktemp("golf"), events(), SCHEMA)


@pytest.fixture(scope="module")
def golfers(data: PreparedData) -> TaskModel:
    users = [f"u{user:03d}" for user in range(USERS)]
    frame = pl.DataFrame({"user_id": users, "label": [user % 2 for user in range(USERS)]})
    config = UserBertConfig(layers=1, hidden=32, heads=2, feed_forward=32, attribute_width=8)
    torch.manual_seed(0)
    model = UserBert(
        config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies
    ).eval()
    quick = FinetuneConfig(learning_rate=1e-2, batch_size=16, epochs=8, validation=0.2)
    task = finetune(model, data, Labels.of(frame, data), config=quick)
    assert task.record["quality"] > 0.95
    return task


def test_the_planted_cause_has_the_largest_effect(data: PreparedData, golfers: TaskModel) -> None:
    for user in range(1, 60, 2):
        explanation = explain(golfers, data, f"u{user:03d}")
        first, second = explanation.words[:2]
        assert first.word.values["genre"] == [("golf", 1)]
        assert first.effect > 2 * abs(second.effect)
        assert first.attributes["genre"] > 2 * abs(first.attributes["hour"])
        assert explanation.score > 0.5


def test_effects_are_differences_of_the_output(data: PreparedData, golfers: TaskModel) -> None:
    explanation = explain(golfers, data, "u001", most=2)
    assert explanation.unit == "log odds"
    assert [len(word.attributes) for word in explanation.words] == [2, 2, *[0] * 8]
    batch = cut(data, data.rows_of(["u001"]), np.array([data.default_cutoff]))
    with torch.inference_mode():
        full = golfers(batch).item()
        for word in explanation.words:
            # Each word has one action.
            without = drop_actions(batch, [np.arange(10) == word.word.number])
            assert np.isclose(word.effect, full - golfers(without).item(), atol=1e-5)
    assert np.isclose(explanation.score, 1 / (1 + np.exp(-full)), atol=1e-5)


def test_scores_that_cannot_be_explained_are_refused(
    data: PreparedData, golfers: TaskModel
) -> None:
    with pytest.raises(InputError, match="has no user 'nobody'"):
        explain(golfers, data, "nobody")
    with pytest.raises(InputError, match=r"^cutoff, 2017-02-01 .* is not after the first event"):
        explain(golfers, data, "u001", "2017-02-01")
    too_late = datetime.fromtimestamp(data.last_event / 1e6, UTC) + timedelta(days=91, hours=-1)
    with pytest.raises(InputError, match="no word and no profile"):
        explain(golfers, data, "u001", too_late)
    with pytest.raises(InputError, match="no classes to choose from"):
        explain(golfers, data, "u001", value="golf")


def test_a_class_is_explained_by_its_share(data: PreparedData) -> None:
    config = UserBertConfig(layers=1, hidden=32, heads=2, feed_forward=32, attribute_width=8)
    torch.manual_seed(0)
    model = UserBert(config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies)
    users = [f"u{user:03d}" for user in range(USERS)]
    frame = pl.DataFrame(
        {"user_id": users, "label": ["golfer" if i % 2 else "other" for i in range(USERS)]}
    )
    task = TaskModel(model, Labels.of(frame, data)).eval()
    torch.nn.init.normal_(task.head.weight)
    both = [explain(task, data, "u001", value=value) for value in ("golfer", "other")]
    assert np.isclose(sum(explanation.score for explanation in both), 1, atol=1e-5)
    likeliest = max(both, key=lambda explanation: explanation.score)
    assert explain(task, data, "u001").value == likeliest.value
    assert both[0].unit == "log share"
    with pytest.raises(InputError, match="no class 'x'; it has golfer, other"):
        explain(task, data, "u001", value="x")


@pytest.mark.slow
def test_words_that_show_a_trait_of_the_simulated_ecosystem_move_its_score(tmp_path: Path) -> None:
    golfer = Trait("golfer", base=0, peak_age=50, at_peak=0)  # half of all users at any age
    service = Service("golf_booking", -2, (("golfer", 2),))
    world = replace(
        Ecosystem(), traits=(golfer,), services=(service,), trait_intensity=0.3, shops=12_000
    )
    simulate(tmp_path / "logs", 2_000, seed=1, ecosystem=world, workers=1)
    data = prepare(Schema.load(tmp_path / "logs/schema.yaml"), tmp_path / "data")
    truth = pl.read_parquet(tmp_path / "logs/truth/*.parquet")
    model = pretrain(data, config=configure("default", ["steps=100", "batch_size=64"]))
    labels = truth.select("user_id", label=pl.col("golfer").cast(pl.Int8))
    task = finetune(model, data, Labels.of(labels, data, "golfer"))
    assert task.record["quality"] > 0.8

    catalogue = build_catalogue(world, 1)
    planted = {f"genre-{number:05d}" for number in catalogue.trait_genres[0]}
    planted |= {f"channel-{number:03d}" for number in catalogue.trait_channels[0]}

    def is_planted(word: WordEffect) -> bool:
        values = [*word.word.values.get("genre", []), *word.word.values.get("channel", [])]
        return any(value in planted for value, _ in values)

    first: list[bool] = []
    others: list[bool] = []
    for user in truth.filter("golfer")["user_id"].head(60):
        words = [word for word in explain(task, data, user).words if word.effect != 0]
        if any(map(is_planted, words)):
            first.append(is_planted(max(words, key=lambda word: word.effect)))
            others += map(is_planted, words)
    assert np.mean(first) > 0.8
    assert np.mean(others) < 0.4
