"""Tests that pages of reference and explanation match the code."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import userbert
from example_logs import write_example_logs
from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at
from userbert.embedding.embed import write_embeddings
from userbert.evaluation.evaluate import Report
from userbert.folders import read_json
from userbert.schema import Schema
from userbert.search.lookalike import write_list
from userbert.tasks.finetune import FinetuneConfig, finetune
from userbert.tasks.fused import finetune_with_aggregates
from userbert.tasks.labels import label_next, label_return
from userbert.training.pretrain import pretrain
from userbert.training.settings import PRESETS, configure

ROOT = Path(__file__).parents[1]
SETTINGS, PYTHON, FORMATS, LEAKAGE = (
    (ROOT / "docs" / page).read_text(encoding="utf-8")
    for page in (
        "reference/settings.md",
        "reference/python.md",
        "reference/formats.md",
        "explanation/leakage.md",
    )
)


def rows(text: str) -> Iterator[list[str]]:
    """Yields the cells of all table rows, without headers."""
    for table in re.findall(r"^\|---.*\n((?:\|.*\n)+)", text, re.M):
        for row in table.splitlines():
            yield [cell.strip() for cell in row[1:-1].split("|")]


def section(heading: str) -> str:
    """Returns the text of the formats page below a heading, up to the next heading."""
    return re.split(r"^##+ ", FORMATS.split(f"# {heading}\n", 1)[1], flags=re.M)[0]


def documented_table(heading: str) -> dict[str, str]:
    """Returns the second cell by the first, of the table below a heading."""
    return {cells[0].strip("`"): cells[1].strip("`") for cells in rows(section(heading))}


def test_all_pretraining_settings_are_documented_with_their_defaults() -> None:
    def leaves(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for name, value in content.items():
            if isinstance(value, dict):
                yield from ((f"{name}.{key}", inner) for key, inner in leaves(value))
            else:
                yield name, value

    default, paper = (dict(leaves(PRESETS[name].model_dump())) for name in ("default", "paper"))
    documented = {cells[0].strip("`"): cells[-2:] for cells in rows(SETTINGS)}
    assert documented == {
        key: [re.sub(r"\.0$|\"", "", json.dumps(preset[key])) for preset in (default, paper)]
        for key in default
    }


def test_every_public_name_is_on_the_python_page() -> None:
    for name in userbert.__all__:
        assert f"`{name}`" in PYTHON, name
        assert re.search(rf"^\.\. auto\w+:: userbert\.{name}(\(|$)", PYTHON, re.M), name


def test_code_and_tests_against_leakage_are_where_the_page_says() -> None:
    leaks = re.findall(r"^  Code: (.*?)\. Tests:\n((?:  .*\n)+)", LEAKAGE, re.M)
    assert len(leaks) == LEAKAGE.count("Code:") > 10
    for places in leaks:
        for place, folder in zip(places, ("src/userbert", "tests"), strict=True):
            text = ""
            for file, name in re.findall(r"`(?:([\w/]+\.py))?(?:: )?(\w*)`", place):
                if file:
                    text = (ROOT / folder / file).read_text(encoding="utf-8")
                assert not name or re.search(rf"^(def|class) {name}\b", text, re.M), name


@dataclass(frozen=True)
class WrittenFiles:
    """Folders and files made from a small shop's logs."""

    folder: Path
    data: PreparedData


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> WrittenFiles:
    folder = tmp_path_factory.mktemp("formats")
    write_example_logs(folder, users=40)
    events = pl.read_parquet(folder / "events.parquet")
    broken = events.head(1).with_columns(pl.lit(-1.0).alias("price"))
    pl.concat([events, broken]).write_parquet(folder / "events.parquet")
    schema = Schema.infer(folder / "events.parquet", profiles=folder / "profiles.parquet")
    price = schema.attributes["price"].model_copy(update={"min": 0})
    schema = schema.model_copy(update={"attributes": {**schema.attributes, "price": price}})
    data = prepare(schema, folder / "data", on_invalid="quarantine")
    pairs = pairs_at(data, [schema.instant("2024-03-15")])
    returns = label_return(data, pairs, "14d")
    returns.save(folder / "return.parquet")
    label_next(data, "category", pairs).save(folder / "next.parquet")
    model = pretrain(
        data, folder / "model", config=configure("default", ["steps=2"]), before="2024-03-15"
    )
    for form in ("list", "columns"):
        write_embeddings(model, data, pairs, folder / f"{form}.parquet", vectors_as=form)
    task = finetune(model, data, returns, config=FinetuneConfig(epochs=1))
    task.save(folder / "task")
    finetune_with_aggregates(model, data, returns, config=FinetuneConfig(epochs=1)).save(
        folder / "fused"
    )
    task.predict(data).write_parquet(folder / "scores.parquet")
    neighbours = userbert.lookalike(folder / "list.parquet", data.user_ids.to_pylist()[:3], 5)
    write_list(neighbours, folder / "likest.parquet")
    return WrittenFiles(folder, data)


def columns(path: Path) -> dict[str, str]:
    """Returns the names and types of a file's columns."""
    if path.suffix == ".parquet":
        schema = pq.read_schema(path)
    else:
        with pa.memory_map(str(path)) as source:
            schema = pa.ipc.open_file(source).schema
    return {field.name: re.sub(r"\[\d+\]$", "", str(field.type)) for field in schema}


def files(folder: Path) -> set[str]:
    """Returns the files of a folder; shards, segments and files of a model share a name each."""
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    kinds = [(r"shards/\d+", "shards/*"), ("short_term", "long_term"), ("model/.*", "model/")]
    names = set()
    for name in paths:
        for pattern, kind in kinds:
            name = re.sub(pattern, kind, name)  # noqa: PLW2901 - patterns apply in turn
        names.add(name)
    return names


def test_folders_hold_the_documented_files(written: WrittenFiles) -> None:
    assert files(written.folder / "data") == documented_table("Prepared data").keys()
    assert files(written.folder / "model") == documented_table("Model").keys()
    assert files(written.folder / "task") == documented_table("Task").keys()
    fused = {
        re.sub("(network|pretrained)/.*", r"\1/", name) for name in files(written.folder / "fused")
    }
    assert fused == documented_table("Fused task").keys()


def test_files_of_prepared_data_are_as_documented(written: WrittenFiles) -> None:
    data = written.folder / "data"
    assert read_json(data / "manifest.json").keys() == documented_table("`manifest.json`").keys()
    assert read_json(data / "summary.json").keys() == documented_table("`summary.json`").keys() - {
        "forgotten"
    }
    assert columns(data / "rejected.parquet") == documented_table("`rejected.parquet`")
    shard = data / "shards/00000"
    user_columns = columns(shard / "users.arrow")
    assert user_columns.pop("short_term_end") == user_columns["long_term_end"]
    assert user_columns == documented_table("`users.arrow`")
    documented = documented_table("`long_term.arrow`")
    attribute_columns = {
        "price": documented["*a number*"],
        **dict.fromkeys(
            ("action", "category", "hour"), documented["*a category or derived attribute*"]
        ),
    }
    fixed = {name: kind for name, kind in documented.items() if not name.startswith("*")}
    assert columns(shard / "long_term.arrow") == fixed | attribute_columns
    assert columns(shard / "profile.arrow").items() >= fixed.items()


def test_labels_vectors_and_scores_are_as_documented(written: WrittenFiles) -> None:
    folder = written.folder
    user, cutoff, of_return, of_next = (cells[1].strip("`") for cells in rows(section("Labels")))
    fixed = {"user_id": user, "cutoff": cutoff}
    assert columns(folder / "return.parquet") == {**fixed, "label": of_return}
    assert columns(folder / "next.parquet") == {**fixed, "label": of_next}
    metadata = (pq.read_schema(folder / "next.parquet").metadata or {})[b"userbert"]
    assert set(json.loads(metadata)) <= set(re.findall(r"`(\w+)`", section("Labels")))
    vectors = documented_table("Embeddings")
    assert columns(folder / "list.parquet") == {**fixed, "embedding": vectors["embedding"]}
    as_columns = columns(folder / "columns.parquet")
    assert set(as_columns.values()) - set(fixed.values()) == {vectors["e0`, `e1` …"]}
    scores = documented_table("Scores")
    assert columns(folder / "scores.parquet") == {**fixed, "score": scores["score"]}
    assert columns(folder / "likest.parquet") == documented_table("Look-alikes")


def test_training_records_are_as_documented(written: WrittenFiles) -> None:
    model, task = written.folder / "model", written.folder / "task"
    assert read_json(model / "training.json").keys() == documented_table("`training.json`").keys()
    lines = (model / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    keys = {key for line in lines for key in json.loads(line)}
    assert keys == set(re.findall(r"`(\w+)`", section("`metrics.jsonl`")))
    record = read_json(task / "task.json")
    assert set(record) <= set(re.findall(r"`(\w+)`", section("Task")))


def test_a_report_is_as_documented() -> None:
    assert {field.name for field in fields(Report)} == documented_table("`report.json`").keys()


@pytest.mark.slow
def test_an_evaluation_is_as_documented(written: WrittenFiles) -> None:
    verdict, labels = written.folder / "verdict", written.folder / "odd.csv"
    users = written.data.user_ids.to_pylist()
    labels_column = [number % 2 for number in range(len(users))]
    pl.DataFrame({"user_id": users, "label": labels_column}).write_csv(labels)
    command: list[str | Path] = [
        *(sys.executable, "-m", "userbert", "evaluate", written.folder / "model"),
        *(written.data.path, "--labels", labels, "-o", verdict),
    ]
    subprocess.run(command, check=True)
    assert files(verdict) == documented_table("Evaluation").keys()
    report = read_json(verdict / "report.json")
    assert report.keys() == documented_table("`report.json`").keys()
    assert set(report["rows"][0]) <= set(re.findall(r"`(\w+)`", section("`report.json`")))
