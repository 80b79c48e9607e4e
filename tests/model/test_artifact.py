"""Model folders are complete, checked, and never unpickled."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from synthetic import batch, model
from userbert.errors import InputError, ModelError
from userbert.folders import checksums, write_json
from userbert.model.userbert import UserBert


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = model()
    network.record = {"preset": "paper", "before": 12}
    network.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_loaded_model_equals_the_saved_one(folder: Path) -> None:
    torch.manual_seed(0)
    saved, loaded = model().eval(), UserBert.from_pretrained(folder)
    users = batch([[3, 1], [0, 2]])
    assert torch.equal(saved(users).tokens, loaded(users).tokens)
    assert loaded.schema.dump() == saved.schema.dump()
    assert loaded.vocabularies.fingerprint == saved.vocabularies.fingerprint
    assert (loaded.config, loaded.shape, loaded.hidden) == (saved.config, saved.shape, ())
    assert loaded.record == {"preset": "paper", "before": 12}
    assert not loaded.training


def test_folder_is_json_yaml_and_safetensors(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "schema.yaml", "summary.json",
        "training.json", "vocabularies.json",
    ]  # fmt: skip


def test_existing_folder_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        model().save_pretrained(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "schema.yaml", "training.json", "vocabularies.json"],
)
def test_missing_or_changed_file_is_named(folder: Path, name: str) -> None:
    file = folder / name
    content = file.read_bytes()
    file.write_bytes(content[:-2])
    with pytest.raises(ModelError, match=f"{name} has changed"):
        UserBert.from_pretrained(folder)
    file.unlink()
    with pytest.raises(ModelError, match=f"{name}"):
        UserBert.from_pretrained(folder)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match="userbert pretrain DATA -o MODEL"):
            UserBert.from_pretrained(path)


def test_newer_format_is_refused(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", {**summary, "format": 2, "version": "9.0"})
    with pytest.raises(ModelError, match=r"format 2.*wrote it \(9.0\)"):
        UserBert.from_pretrained(folder)


def _edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / name
        file.write_text(change(file.read_text(errors="replace")))

    return edit


@pytest.mark.parametrize(
    "harm",
    [
        _edit("config.json", lambda text: text.replace('"hidden": 16', '"hidden": 32')),
        _edit("config.json", lambda text: text.replace('"layers"', '"floors"')),
        _edit("config.json", lambda text: "[]"),
        _edit("schema.yaml", lambda text: "user: 3"),
        _edit("vocabularies.json", lambda text: "{}"),
        _edit("model.safetensors", lambda text: "noise"),
    ],
    ids=["size", "key", "list", "schema", "vocabularies", "weights"],
)
def test_forged_folder_with_right_checksums_is_refused(
    folder: Path, harm: Callable[[Path], None]
) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    harm(folder)
    (folder / "summary.json").unlink()
    write_json(folder / "summary.json", {**summary, "checksums": checksums(folder)})
    with pytest.raises(ModelError):
        UserBert.from_pretrained(folder)


def test_checksum_of_a_file_outside_is_refused(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["checksums"]["../outside"] = "0"
    (folder.parent / "outside").write_text("")
    write_json(folder / "summary.json", summary)
    with pytest.raises(ModelError):
        UserBert.from_pretrained(folder)
