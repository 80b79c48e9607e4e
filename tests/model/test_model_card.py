"""Model cards: their facts, and that people may edit them."""

import re
from pathlib import Path

import polars as pl
import pytest
from huggingface_hub import ModelCard

from small_logs import SCHEMA, buys, prepare_events
from synthetic import model, shape
from userbert.data.store import PreparedData
from userbert.errors import ModelError
from userbert.folders import CARD, read_json
from userbert.inspection import inspect
from userbert.model.model_card import inputs, markdown_table, model_card
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.schema.models import Schema
from userbert.tasks.finetune import FinetuneConfig, finetune
from userbert.tasks.fused import finetune_with_aggregates, load_task
from userbert.tasks.labels import Labels
from userbert.tasks.task_model import TaskModel
from userbert.training.pretrain import pretrain
from userbert.training.settings import PretrainConfig

USERS = [f"person{number}" for number in range(24)]
PROFILE = (
    "profile: {path: p.csv, fields: {age: {column: age, min_users: 1}, kids: {column: kids}}}\n"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    events = [
        buys(user, *(f"2017-03-0{day}" for day in range(1, 2 + number % 6)), genre="secret")
        for number, user in enumerate(USERS)
    ]
    people = pl.DataFrame({"user": USERS, "age": ["confidential"] * 24, "kids": ["none"] * 24})
    folder = tmp_path_factory.mktemp("shop")
    return prepare_events(folder, pl.concat(events), SCHEMA + PROFILE, profile=people)


@pytest.fixture(scope="module")
def folder(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "model"
    tiny = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=16)
    config = PretrainConfig(model=tiny, steps=4, batch_size=4, held_out=0.3)
    pretrain(data, path, preset="paper", config=config, before="2017-03-05", hide=["kids"])
    return path


def cells(card: str, name: str) -> list[str]:
    """Return the cells after `name` in a row of the card's tables."""
    match = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", card, re.M)
    assert match, f"{name} is not in the card"
    return match[1].split(" | ")


def test_card_of_a_pretrained_model_has_its_training(folder: Path) -> None:
    card = (folder / CARD).read_text(encoding="utf-8")
    record = read_json(folder / "training.json")
    assert "trained on events before **2017-03-05 00:00:00-05:00**" in card
    assert cells(card, "trained on events before") == ["2017-03-05 00:00:00-05:00"]
    assert cells(card, "first event") == ["2017-03-01 00:00:00-05:00"]
    assert cells(card, "preset") == ["paper"]
    assert cells(card, "users") == ["24"]
    assert cells(card, "steps") == ["4 batches of 4, 16 user sequences"]
    assert re.match(r"userbert \S+, torch \S+, python 3", cells(card, "software")[0])
    assert cells(card, "hidden fields") == ["kids"]
    assert cells(card, "long_term") == ["genre", "3"]
    assert cells(card, "profile") == ["age", "3"]
    assert cells(card, "total") == [
        f"{record['loss']:.3f}", f"{record['validation']['loss']:.3f}"
    ]  # fmt: skip


def test_a_card_names_no_user_and_no_value(folder: Path) -> None:
    card = (folder / CARD).read_text(encoding="utf-8")
    assert not re.search(r"person\d|secret|confidential", card)


def test_hugging_face_reads_the_header_of_the_card(folder: Path) -> None:
    card = ModelCard.load(folder / CARD)
    assert card.data.library_name == "userbert"
    assert card.data.tags == [
        "userbert", "event-sequences", "user-embeddings", "self-supervised"
    ]  # fmt: skip


def test_model_loads_with_an_edited_or_missing_card(folder: Path, data: PreparedData) -> None:
    vectors = UserBert.from_pretrained(folder).embed(data)
    card = folder / CARD
    text = card.read_text(encoding="utf-8")
    card.write_text("# Ours\n", encoding="utf-8")
    assert UserBert.from_pretrained(folder).embed(data).equals(vectors)
    card.unlink()
    assert UserBert.from_pretrained(folder).embed(data).equals(vectors)
    card.write_text(text, encoding="utf-8")
    assert CARD not in read_json(folder / "summary.json")["checksums"]


def test_card_of_an_untrained_model_says_so(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / CARD).read_text(encoding="utf-8")
    assert "has not been pretrained" in card
    assert "Earliest cut-off" not in card


def test_records_of_earlier_versions_make_a_card() -> None:
    config = {
        "model": UserBertConfig().model_dump(),
        "input": {"segments": [], "profile": []},
        "hidden": [],
    }
    record = {"config": {"steps": 7}, "from": {"seed": 3}, "extended_by": 2}
    card = model_card(config, record, Schema.parse(SCHEMA), 10)
    assert cells(card, "steps") == ["7 batches of None"]
    assert cells(card, "started from") == ["a model of seed 3, 0 steps"]
    assert cells(card, "values added by extend") == ["2"]


def test_names_do_not_break_tables() -> None:
    assert markdown_table(["a"], [["x|y\nz"]]).splitlines()[-1] == r"| x\|y z |"
    assert markdown_table(["a"], []) == ""


def test_inputs_are_those_of_the_shape() -> None:
    segments = shape().segments
    expected = [(part.name, a.name, str(a.size)) for part in segments for a in part.attributes]
    config = [
        {"name": part.name, "attributes": [vars(a) for a in part.attributes]} for part in segments
    ]
    rows = inputs({"input": {"segments": config, "profile": []}})
    assert [row[:3] for row in rows] == expected


def labels() -> pl.DataFrame:
    return pl.DataFrame({"user_id": USERS, "label": [number % 2 for number in range(24)]})


def test_card_of_a_task_has_its_question(folder: Path, data: PreparedData, tmp_path: Path) -> None:
    task = finetune(
        UserBert.from_pretrained(folder), data, labels(), config=FinetuneConfig(epochs=1)
    )
    task.save(tmp_path / "task")
    file = tmp_path / "task" / CARD
    card = file.read_text(encoding="utf-8")
    assert f"predicts: *{task.labels.question}*" in card
    assert cells(card, "kind") == ["binary"]
    assert cells(card, "validation quality") == [f"{task.record['quality']:.3f}"]
    assert "--vocabulary TASK/model" in card
    assert not (tmp_path / "task/model" / CARD).exists()
    file.write_text("ours", encoding="utf-8")
    assert TaskModel.load(tmp_path / "task").record == task.record
    (tmp_path / "task/task.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="has changed"):
        TaskModel.load(tmp_path / "task")


def test_card_of_an_untrained_task_says_so(
    folder: Path, data: PreparedData, tmp_path: Path
) -> None:
    TaskModel(UserBert.from_pretrained(folder), Labels.of(labels(), data)).save(tmp_path / "task")
    card = (tmp_path / "task" / CARD).read_text(encoding="utf-8")
    assert cells(card, "training") == ["none: its head has random weights"]
    inspect(tmp_path / "task")


def test_cards_inside_a_task_may_be_edited(
    folder: Path, data: PreparedData, tmp_path: Path
) -> None:
    network = UserBert.from_pretrained(folder)
    task = finetune_with_aggregates(network, data, labels(), config=FinetuneConfig(epochs=1))
    task.save(tmp_path / "task")
    cards = sorted((tmp_path / "task").rglob(CARD))
    assert [str(card.parent.relative_to(tmp_path)) for card in cards] == [
        "task", "task/network", "task/pretrained"
    ]  # fmt: skip
    assert cells(cards[0].read_text(encoding="utf-8"), "trees alone")
    for card in cards:
        card.write_text("ours", encoding="utf-8")
    assert load_task(tmp_path / "task").predict(data).equals(task.predict(data))
