"""Folders that are damaged, incomplete, of another kind or of other data: each gives an error."""

import json
import random
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bad_input.conftest import CUTOFF, Shop, userbert
from damaged import REFUSED, Target, damage, damaged, outcome, targets
from userbert.folders import CARD

DATA = [
    "manifest.json", "schema.yaml", "summary.json", "vocabularies.json",
    *(f"shards/00000/{name}.arrow" for name in ("users", "profile", "long_term", "short_term")),
]  # fmt: skip
MODEL = [
    "config.json", "metrics.jsonl", "model.safetensors", "schema.yaml", "summary.json",
    "training.json", "vocabularies.json",
]  # fmt: skip
TASK = [
    "head.safetensors", "summary.json", "task.json",
    *(f"model/{name}" for name in MODEL if name != "metrics.jsonl"),
]  # fmt: skip
FILES = [(kind, name) for kind, names in {"data": DATA, "model": MODEL, "task": TASK}.items()
         for name in names]  # fmt: skip


@pytest.fixture(scope="module")
def copies(finished_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies that tests may damage and must restore."""
    folder = tmp_path_factory.mktemp("copies")
    for kind in ("data", "model", "task"):
        shutil.copytree(finished_shop / kind, folder / kind)
    shutil.copy(finished_shop / "return.parquet", folder)
    return folder


def test_every_file_is_in_the_lists(finished_shop: Path) -> None:
    for kind, names in {"data": DATA, "model": MODEL, "task": TASK}.items():
        files = [path for path in (finished_shop / kind).rglob("*") if path.is_file()]
        actual = [path.relative_to(finished_shop / kind).as_posix() for path in files]
        assert sorted(actual) == sorted([*names, *([] if kind == "data" else [CARD])])


COMMANDS: dict[str, list[list[object]]] = {
    "data": [
        ["label", "return", "data", "--horizon", "7d", "--cutoff", CUTOFF, "-o", "new.parquet"],
        ["pretrain", "data", "-o", "new"],
        ["forget", "data", "--users", "return.parquet"],
        ["inspect", "data"],
    ],
    "model": [["embed", "model", "data", "-o", "new.parquet"]],
    "task": [["predict", "task", "data", "-o", "new.parquet"]],
}


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_missing_file_is_reported(copies: Path, kind: str, name: str) -> None:
    file = copies / kind / name
    content = file.read_bytes()
    file.unlink()
    try:
        for command in COMMANDS[kind]:
            message = userbert(copies, *command).refusal()
            assert Path(name).name in message or "it is another kind of folder" in message
            assert re.search("again|Make it with|Make one with|expected prepared data", message)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_flipped_byte_is_reported(copies: Path, kind: str, name: str) -> None:
    file = copies / kind / name
    content = file.read_bytes()
    try:
        for place in {0, len(content) // 4, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[place] ^= 1
            file.write_bytes(changed)
            results = [userbert(copies, *command) for command in COMMANDS[kind]]
            rejected = [done for done in results if done.code]
            # Apart from the checksums, summary.json holds only text for people.
            if kind == "data" or not name.endswith("summary.json"):
                assert len(rejected) == len(COMMANDS[kind])
            for done in rejected:
                assert re.search("has changed|is damaged", done.refusal())
            (copies / "new.parquet").unlink(missing_ok=True)
    finally:
        file.write_bytes(content)


def test_damaged_data_is_not_copied_into_new_data(copies: Path) -> None:
    for name in ("vocabularies.json", "shards/00000/long_term.arrow"):
        file = copies / "data" / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        shutil.copy(copies / "data/schema.yaml", copies / "again.yaml")
        commands = [["--append", "data"]]
        if name == "vocabularies.json":
            commands.append(["--vocabulary", "data"])
        for options in commands:
            done = userbert(copies, "prepare", "again.yaml", "-o", "new", *options)
            assert "has changed since it was written" in done.refusal()
        file.write_bytes(content)


@pytest.mark.parametrize(("kind", "name"), [("data", "manifest.json"), ("model", "summary.json"),
                                            ("task", "summary.json")])  # fmt: skip
def test_newer_format_is_reported(copies: Path, kind: str, name: str) -> None:
    file = copies / kind / name
    content = file.read_text()
    file.write_text(json.dumps({**json.loads(content), "format": 2, "version": "9.1"}))
    try:
        for command in COMMANDS[kind]:
            assert "has the format 2, this version reads 1" in userbert(copies, *command).refusal()
    finally:
        file.write_text(content)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("label return {} --horizon 7d -o new.parquet", "is not prepared data"),
        ("pretrain {} -o new", "is not prepared data"),
        ("forget {} --users return.parquet", "is not prepared data"),
        ("prepare schema.yaml --append {} -o new", "is not prepared data"),
        ("prepare schema.yaml --vocabulary {} -o new", "has no vocabularies.json"),
        ("embed {} data -o new.parquet", "is not a model folder"),
        ("embed model {} -o new.parquet", "is not prepared data"),
        ("pretrain data --from {} -o new", "is not a model folder"),
        ("extend {} data -o new", "is not a model folder"),
        ("finetune {} data --labels return.parquet -o new", "is not a model folder"),
        ("predict {} data -o new.parquet", "is not a task model"),
        ("explain {} data --user u7", "is not a task model"),
        ("evaluate {} data --labels return.parquet -o new", "is not a model folder"),
        ("evaluate model data --labels return.parquet --also {} -o new", "is not a model folder"),
    ],
)
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("absent", "nothing is there"),
        ("events.parquet", "it is a file"),
        ("data", "it is prepared data"),
        ("model", "it is a model"),
        ("task", "it is a task model"),
        (".", "it is another kind of folder, or not complete"),
    ],
)
def test_folder_of_another_kind_is_reported(
    shop: Shop, command: str, expected: str, path: str, kind: str
) -> None:
    valid_paths = {"prepared data": "data", "a model folder": "model", "a task model": "task"}
    if valid_paths.get(expected.removeprefix("is not ")) == path:
        return
    if "vocabularies" in expected and path in ("data", "model"):
        return
    message = shop.refuses(*command.format(path).split())
    assert expected in message
    assert kind in message


@pytest.fixture(scope="module")
def other_data(finished_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of the same users, but with other ids for the values."""
    folder = tmp_path_factory.mktemp("other")
    events = pl.read_parquet(finished_shop / "events.parquet")
    events.with_columns(pl.col("category").str.to_uppercase()).write_parquet(
        folder / "events.parquet"
    )
    shutil.copy(finished_shop / "profiles.parquet", folder)
    shutil.copy(finished_shop / "schema.yaml", folder)
    assert userbert(folder, "prepare", "schema.yaml", "-o", "data").code == 0
    return folder / "data"


@pytest.mark.parametrize(
    "command",
    [
        "embed model {} -o new.parquet",
        "pretrain {} --from model -o new",
        "finetune model {} --labels return.parquet -o new",
        "predict task {} -o new.parquet",
        "explain task {} --user u7",
        "evaluate model {} --labels return.parquet -o new",
        "extend model {} -o new",
    ],
)
def test_data_with_other_ids_are_rejected(shop: Shop, other_data: Path, command: str) -> None:
    message = shop.refuses(*command.format(other_data).split())
    assert str(other_data) in message
    assert "--vocabulary MODEL" in message


def test_labels_with_classes_of_other_data_are_rejected(shop: Shop, other_data: Path) -> None:
    message = shop.refuses("finetune", "model", other_data, "--labels", "next.parquet", "-o", "new")
    assert "its classes are not the values of category" in message


@pytest.fixture(scope="module")
def damageable_files(
    finished_shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Target, str]]:
    """Files to damage, each with the answer of the intact file."""
    folder = tmp_path_factory.mktemp("fragile") / "shop"
    shutil.copytree(finished_shop, folder)
    return [(target, target.answer()) for target in targets(folder)]


@settings(max_examples=150)
@given(st.data(), st.randoms(use_true_random=False))
def test_damaged_file_is_rejected_or_read_like_the_intact_one(
    damageable_files: list[tuple[Target, str]], draw: st.DataObject, chance: random.Random
) -> None:
    target, intact = draw.draw(st.sampled_from(damageable_files))
    with damaged(target.file, damage(target.file.read_bytes(), chance)):
        answer = outcome(target)
    assert answer in (REFUSED, intact, target.without_metadata) or not target.is_checked
