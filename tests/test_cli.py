"""The command line in a new process: verbs in sequence, exit codes, one message per fault."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from example_logs import write_example_logs

CUTOFF = "2024-03-15"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "userbert", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with logs, their schema and prepared data."""
    folder = tmp_path_factory.mktemp("shop")
    write_example_logs(folder, users=60)
    for arguments in (
        ("init", "events.parquet", "--profiles", "profiles.parquet"),
        ("prepare", "schema.yaml", "-o", "data"),
    ):
        done = run(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that refused its input."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr.strip()
    assert message.startswith("error: ")
    return message


def test_every_verb_has_help_with_an_example(tmp_path: Path) -> None:
    verbs = ["init", "prepare", "inspect", "pretrain", "embed", "finetune", "predict", "evaluate"]
    verbs += ["simulate"]
    nested = [["label", kind] for kind in ("next", "return", "attribute", "response")]
    for verb in [[verb] for verb in verbs] + nested:
        done = run(*verb, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert f"userbert {' '.join(verb)} " in " ".join(done.stdout.split())


def test_labels_respect_their_cutoff(shop: Path, tmp_path: Path) -> None:
    output = tmp_path / "return.parquet"
    done = run(
        "label", "return", "data", "--horizon", "14d", "--cutoff", CUTOFF, "-o", output, cwd=shop
    )
    assert done.returncode == 0, done.stderr
    events = pl.read_parquet(shop / "events.parquet")
    cutoff = pl.lit(CUTOFF).str.to_datetime()
    expected = set(
        events.filter(pl.col("timestamp").is_between(cutoff, cutoff.dt.offset_by("14d"), "left"))[
            "user_id"
        ]
    ) & set(events.filter(pl.col("timestamp") < cutoff)["user_id"])
    labels = pl.read_parquet(output)
    assert set(labels.filter(pl.col("label") == 1)["user_id"]) == expected


def test_inspect_shows_a_users_words(shop: Path) -> None:
    done = run("inspect", "data", "--user", "u7", cwd=shop)
    assert done.returncode == 0
    assert "long_term 0" in done.stdout


def test_vocabulary_of_other_data_gives_the_same_ids(shop: Path, tmp_path: Path) -> None:
    done = run("prepare", "schema.yaml", "--vocabulary", "data", "-o", tmp_path / "again", cwd=shop)
    assert done.returncode == 0, done.stderr
    again, first = tmp_path / "again/vocabularies.json", shop / "data/vocabularies.json"
    assert json.loads(again.read_text()) == json.loads(first.read_text())


def test_missing_column_is_named_with_the_existing_ones(shop: Path, tmp_path: Path) -> None:
    schema = (shop / "schema.yaml").read_text().replace("column: category", "column: categry")
    schema = schema.replace("path: ", f"path: {shop}/")
    (tmp_path / "schema.yaml").write_text(schema)
    message = refused(run("prepare", "schema.yaml", "-o", "data", cwd=tmp_path))
    assert '"categry" is missing' in message
    assert "category" in message
    assert not (tmp_path / "data").exists()


def test_init_shows_its_evidence(tmp_path: Path) -> None:
    rows = [
        f"{row % 30},2024-03-{row % 28 + 1:02}T10:00,{row // 30 % 3},{row}.5,always"
        for row in range(300)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,time,page,price,kind", *rows]))
    done = run("init", "log.csv", "--explain", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    evidence = {row[0]: row[1:] for row in cells if row and row[0]}
    assert evidence["user"][:3] == ["user", "300", "30"]
    assert evidence["time"][0] == "time"
    assert evidence["page"][:4] == ["category", "300", "3", "30"]
    assert evidence["price"][:3] == ["number", "300", "300"]
    assert evidence["price"][5].startswith("0.5 to")
    assert evidence["kind"][:3] == ["left out", "300", "1"]


def test_time_that_does_not_parse_is_named_by_row(shop: Path, tmp_path: Path) -> None:
    rows = ["user_id,timestamp,event_type,category,price"]
    rows += [f"u{i % 5},2024-01-{1 + i % 28:02}T10:00:00,view,tea,1" for i in range(60)]
    rows[18] = "u1,yesterday,view,tea,1"
    (tmp_path / "events.csv").write_text("\n".join(rows) + "\n")
    done = run("init", "events.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    message = refused(run("prepare", "schema.yaml", "-o", "data", cwd=tmp_path))
    assert 'events.csv, row 18, column "timestamp"' in message
    assert '"yesterday"' in message
    assert "--on-invalid quarantine" in message
    done = run("prepare", "schema.yaml", "-o", "data", "--on-invalid", "quarantine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "data/rejected.parquet")["row"].to_list() == [18]


def test_empty_file_is_named(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "events.parquet").touch()
    message = refused(run("init", "events.parquet", cwd=tmp_path))
    assert "events.parquet" in message
    assert "empty" in message
    schema = (shop / "schema.yaml").read_text()
    (tmp_path / "schema.yaml").write_text(schema)
    message = refused(run("prepare", "schema.yaml", "-o", "data", cwd=tmp_path))
    assert "empty" in message


def test_output_that_exists_is_refused(shop: Path) -> None:
    message = refused(run("prepare", "schema.yaml", "-o", "data", cwd=shop))
    assert "data exists already" in message


@pytest.mark.parametrize("size", ["2 apples", "1KiB"])
def test_memory_must_be_a_size(shop: Path, size: str) -> None:
    assert "64MiB" in refused(run("prepare", "schema.yaml", "-o", "x", "--memory", size, cwd=shop))


def test_folder_that_is_not_data_is_refused(shop: Path, tmp_path: Path) -> None:
    message = refused(run("label", "return", ".", "--horizon", "7d", "-o", "x.parquet", cwd=shop))
    assert "is not prepared data" in message


def test_message_keeps_its_brackets(tmp_path: Path) -> None:
    (tmp_path / "[red]log.csv").touch()
    assert "[red]log.csv" in refused(run("init", "[red]log.csv", cwd=tmp_path))
