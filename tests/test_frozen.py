"""Files of an earlier build still open and still give the same results.

Everything goes through public names and the command line, so that a test cannot move with a fault.
"""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import userbert as ub

FROZEN = Path(__file__).parent / "frozen/0.1.zip"
CUTOFF = "2024-03-15"
NETWORKS = ("fine-tuned", "from-scratch")
"""Contestants that are networks: their scores differ most between processors."""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the frozen files."""
    folder = tmp_path_factory.mktemp("frozen")
    with zipfile.ZipFile(FROZEN) as archive:
        archive.extractall(folder)
    return folder


def run(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "userbert", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def vectors(frame: pl.DataFrame) -> np.ndarray[Any, Any]:
    return np.array(frame.sort("user_id")["embedding"].to_list())


def test_fixture_is_small_and_as_it_was_written(frozen: Path) -> None:
    assert FROZEN.stat().st_size < 200_000
    lines = (frozen / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
    assert {name: checksum(frozen / name) for name in expected} == expected


def test_logs_are_prepared_to_the_same_bytes(frozen: Path, tmp_path: Path) -> None:
    run(frozen, "prepare", "schema.yaml", "-o", str(tmp_path / "data"))
    files = sorted(path.relative_to(frozen) for path in (frozen / "data").rglob("*.*"))
    assert len(files) > 5
    for file in files:
        if file.name != "manifest.json":  # it names the version
            assert checksum(tmp_path / file) == checksum(frozen / file), file


def test_proposed_schema_is_the_same(frozen: Path, tmp_path: Path) -> None:
    proposed = tmp_path / "schema.yaml"
    arguments = ("--profiles", "profiles.parquet", "-o", str(proposed))
    run(frozen, "init", "events.parquet", *arguments)
    expected = ub.Schema.load(frozen / "schema.yaml")
    # Paths are relative to the schema's own folder.
    text = proposed.read_text(encoding="utf-8").replace(f"{frozen}/", "")
    assert ub.Schema.parse(text).dump() == expected.dump().replace(f"{frozen}/", "")


def test_labels_are_the_same(frozen: Path, tmp_path: Path) -> None:
    output = tmp_path / "return.parquet"
    arguments = ("--horizon", "14d", "--cutoff", CUTOFF, "-o", str(output))
    run(frozen, "label", "return", "data", *arguments)
    assert pl.read_parquet(output).equals(pl.read_parquet(frozen / "return.parquet"))


def test_model_gives_the_same_vectors(frozen: Path) -> None:
    data = ub.PreparedData.open(frozen / "data")
    model = ub.UserBert.from_pretrained(frozen / "model")
    expected = vectors(pl.read_parquet(frozen / "embeddings.parquet"))
    np.testing.assert_allclose(vectors(model.embed(data, CUTOFF)), expected, rtol=0, atol=1e-5)


def test_task_gives_the_same_scores(frozen: Path) -> None:
    data = ub.PreparedData.open(frozen / "data")
    task = ub.TaskModel.load(frozen / "task")
    scores = task.predict(data, CUTOFF).sort("user_id")
    expected = pl.read_parquet(frozen / "scores.parquet").sort("user_id")
    assert scores["user_id"].equals(expected["user_id"])
    np.testing.assert_allclose(scores["score"], expected["score"], rtol=0, atol=1e-5)


def test_exported_network_gives_the_same_scores(frozen: Path) -> None:
    data = ub.PreparedData.open(frozen / "data")
    expected = pl.read_parquet(frozen / "scores.parquet")
    rows = {user: row for row, user in enumerate(data.user_ids.to_pylist())}
    known = np.array([rows[user] for user in expected["user_id"]])
    cutoffs = np.full(len(known), data.schema.instant(CUTOFF))
    scores = ub.Runtime.load(frozen / "task.onnx").scores(data, known, cutoffs)
    np.testing.assert_allclose(scores, expected["score"], rtol=0, atol=1e-5)


def test_training_repeats_the_recorded_run(frozen: Path, tmp_path: Path) -> None:
    made = json.loads((frozen / "model/training.json").read_text(encoding="utf-8"))
    settings = [
        "--set=model.layers=1", "--set=model.hidden=8", "--set=model.heads=2",
        "--set=model.attribute_width=4", "--set=precision=float32", "--set=model.feed_forward=16",
    ]  # fmt: skip
    output = tmp_path / "model"
    arguments = ("--before", CUTOFF, "--steps", "20", *settings)
    run(frozen, "pretrain", "data", "-o", str(output), *arguments)
    again = json.loads((output / "training.json").read_text(encoding="utf-8"))
    assert again.keys() == made.keys()
    assert again["config"] == made["config"]
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (frozen / "model", output)
    ]
    losses = [[line["loss"] for line in run if "loss" in line] for run in lines]
    assert len(losses[0]) >= 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.slow
def test_evaluation_gives_the_same_results(frozen: Path, tmp_path: Path) -> None:
    output = tmp_path / "verdict"
    run(frozen, "evaluate", "model", "data", "--labels", "return.parquet", "-o", str(output))
    expected, report = (
        json.loads((folder / "report.json").read_text(encoding="utf-8"))
        for folder in (frozen / "verdict", output)
    )
    assert report.keys() == expected.keys()
    assert len(report["rows"]) == len(expected["rows"]) > 10
    for now, before in zip(report["rows"], expected["rows"], strict=True):
        assert now.keys() == before.keys()
        assert [now["model"], now["labels"]] == [before["model"], before["labels"]]
        tolerance = 0.1 if any(name in now["model"] for name in NETWORKS) else 0.03
        assert now["mean"] == pytest.approx(before["mean"], abs=tolerance), now
    assert (output / "report.html").stat().st_size > 100_000


def options(text: str) -> dict[str, set[str]]:
    """By verb, its arguments and options with their types and defaults, as help shows them."""
    found: dict[str, set[str]] = {}
    for section in re.split(r"^#+ (?=`userbert)", text, flags=re.M)[1:]:
        verb = section.split("`")[1]
        # A description may be reworded; a name, a type, a default or a need may not.
        found[verb] = {
            " ".join([name, *re.findall(r"\[(?:required|default: [^\]]*)\]", line)])
            for line in re.findall(r"^\* `-.*|^\* `[A-Z].*", section, re.M)
            for name in re.findall(r"^\* `([^`]+)`", line)
        }
    return found


def test_every_verb_keeps_its_options(frozen: Path) -> None:
    command = [sys.executable, "-m", "typer", "userbert.cli", "utils", "docs", "--name", "userbert"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before = options((frozen / "help.md").read_text(encoding="utf-8"))
    now = options(done.stdout)
    assert sum(map(len, before.values())) > 100
    for verb, names in before.items():
        assert names <= now[verb], verb
