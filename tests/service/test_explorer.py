"""The explorer's calls: data summary, search, map, traits, explanations, runs and reports."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import client_of, make_service_folder
from starlette.testclient import TestClient

from small_logs import log
from userbert.data.store import PreparedData
from userbert.folders import checksum, read_json, write_json

USERS = [f"u{number}" for number in range(40)] + ["a/b?c=<script>\"'ü"]
BAKERS = [f"u{number}" for number in range(0, 40, 2)]
EVENTS = log(
    *(
        (user, f"2017-05-{1 + number % 28:02}T10:00", "buy", ("bread", "milk")[number % 2], 1.0)
        for number, user in enumerate(USERS)
    ),
    ("u39", "2017-05-28T12:00", "click", "wine", None),
)
PRETRAINED = {
    "preset": "paper", "seed": 0, "before": 1495929600000000,
    "config": {"steps": 20, "batch_size": 4, "objectives": {"words": 1.0}},
}  # fmt: skip
LINES = [
    {"step": 10, "loss": 3.0, "losses": {"long_term.genre": 2.0, "long_term.price": 1.0}},
    {"step": 10, "validation": {"loss": 3.5, "long_term.genre": 2.5, "long_term.price": 1.0}},
    {"step": 20, "loss": 2.0, "losses": {"long_term.genre": 1.5, "long_term.price": 0.5}},
]
ROW = {"data": "data", "task": "returns", "metric": "roc_auc", "labels": 200, "splits": 5}
REPORT = {
    "rows": [
        {**ROW, "model": "aggregates-gbm", "mean": 0.7, "low": 0.65, "high": 0.75},
        {**ROW, "model": "best-ours \N{MINUS SIGN} best-classical", "mean": 0.1, "low": 0.05,
         "high": 0.15},
        {**ROW, "model": "fused", "mean": 0.8, "low": 0.75, "high": 0.85},
    ],
    "warnings": ["few labels"], "giveaways": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explorer")
    make_service_folder(folder, EVENTS).rename(folder / "data")
    as_if_pretrained(folder / "model")
    runs = folder / "runs"
    shutil.copytree(folder / "model", runs / "deep/other")
    (runs / ".going.training").mkdir()
    write_json(runs / ".going.training/run.json", {"preset": "paper", "config": {"steps": 99}})
    _write_lines(runs / ".going.training")
    with (runs / ".going.training/metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss": 1.')
    verdict = runs / "verdict ü"
    verdict.mkdir()
    write_json(verdict / "report.json", REPORT)
    (verdict / "report.html").write_text("<!doctype html><script>alert(1)</script>")
    return folder


def as_if_pretrained(model: Path) -> None:
    """Adds the records of a pretraining run to a model folder."""
    write_json(model / "training.json", PRETRAINED)
    _write_lines(model)
    files = [
        file.name for file in model.iterdir() if file.name not in ("summary.json", "README.md")
    ]
    sums = {name: checksum(model / name) for name in sorted(files)}
    summary = read_json(model / "summary.json")
    write_json(model / "summary.json", {**summary, "checksums": sums})


def _write_lines(folder: Path) -> None:
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (folder / "metrics.jsonl").write_text(text)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    names = ("model", "returns", "genre")
    with client_of(folder, *names, data=folder / "data", runs=folder / "runs") as client:
        for name in names:
            _wait(client, name)
        yield client


def _wait(client: TestClient, model: str) -> None:
    for _ in range(200):
        answer = client.get("/v1/map", params={"model": model})
        if answer.status_code == 200 and answer.json()["is_final"]:
            return
        time.sleep(0.02)
    raise AssertionError("the map did not become final")


def _get(client: TestClient, path: str, **params: Any) -> Any:
    answer = client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_data_are_summarized(client: TestClient, folder: Path) -> None:
    summary = _get(client, "/v1/data")
    data = PreparedData.open(folder / "data")
    assert (summary["name"], summary["users"], summary["cutoff"]) == (
        "data", 41, data.default_cutoff,
    )  # fmt: skip
    assert [(segment["name"], segment["by"]) for segment in summary["segments"]] == [
        ("long_term", "day"), ("short_term", "gap"),
    ]  # fmt: skip
    long_term, short_term = summary["segments"]
    assert (long_term["actions"], long_term["words"], long_term["users"]) == (41, 41, 41)
    assert sum(long_term["words_per_user"]["counts"]) == 41
    assert short_term["words_per_user"]["max"] == 2
    assert summary["days"]["unit"] == "day"
    assert summary["days"]["days"][0] == "2017-05-01"
    assert sum(summary["days"]["actions"]["buy"]) == 41
    (genre,) = (
        column
        for column in summary["values"]
        if (column["place"], column["attribute"]) == ("long_term", "genre")
    )
    assert genre["top"] == [["bread", 21 / 41], ["milk", 20 / 41]]
    profile = [column for column in summary["values"] if column["place"] == "profile"]
    assert [column["kind"] for column in profile] == ["number"]
    assert {row["file"] for row in summary["rows"]} == {"frame 'log'", "frame 'profile'"}


def test_no_answer_contains_the_folder_of_the_files(client: TestClient, folder: Path) -> None:
    calls = (
        "/v1/data", "/v1/runs", "/v1/reports", "/v1/users/u1?cutoff=1990-01-01",
        "/v1/expected?user_id=u1&segment=long_term&number=7&model=model",
        "/v1/expected?user_id=u1&segment=long_term&number=0&model=model&cutoff=1990-01-01",
        "/v1/explanation?user_id=u1&model=returns&cutoff=2090-01-01",
    )  # fmt: skip
    for call in calls:
        answer = client.get(call)
        assert str(folder) not in answer.text, answer.text


def test_users_are_found_by_parts_of_their_ids(client: TestClient) -> None:
    assert _get(client, "/v1/find", text="u3", limit=3) == {
        "users": ["u3", "u30", "u31"], "more": True,
    }  # fmt: skip
    assert _get(client, "/v1/find", text="<script>") == {"users": [USERS[-1]], "more": False}
    assert _get(client, "/v1/find", text="9")["users"] == ["u19", "u29", "u39", "u9"]
    assert _get(client, "/v1/find", text="nobody") == {"users": [], "more": False}


def test_a_map_shows_all_of_a_few_users(client: TestClient) -> None:
    user_map = _get(client, "/v1/map", model="model")
    assert (user_map["users"], user_map["shown"]) == (41, 41)
    assert sorted(user_map["user_ids"]) == sorted(USERS)
    assert np.isfinite([user_map["x"], user_map["y"]]).all()
    assert len(user_map["x"]) == len(user_map["y"]) == 41
    names = [colour["name"] for colour in user_map["colours"]]
    assert names == [
        "cluster", "score:returns", "score:genre", "profile:age", "words", "actions", "recency",
    ]  # fmt: skip
    assert _get(client, "/v1/map", model="model") == user_map


def test_each_colour_has_a_value_for_each_user(client: TestClient) -> None:
    user_map = _get(client, "/v1/map", model="model")
    for colour in user_map["colours"]:
        answer = _get(client, "/v1/map/colour", model="model", name=colour["name"])
        assert (answer["name"], answer["kind"]) == (colour["name"], colour["kind"])
        if colour["kind"] == "number":
            assert len(answer["numbers"]) == 41
        else:
            assert len(answer["codes"]) == 41
            assert -1 <= min(answer["codes"]) <= max(answer["codes"]) < len(answer["values"])
    numbers = {
        name: dict(
            zip(
                user_map["user_ids"],
                _get(client, "/v1/map/colour", model="model", name=name)["numbers"],
                strict=True,
            )
        )
        for name in ("recency", "profile:age", "score:returns")
    }
    assert numbers["recency"]["u39"] == pytest.approx(0, abs=1e-5)
    assert numbers["profile:age"]["u1"] == 20.0
    score = client.get("/v1/users/u5", params={"model": "returns"}).json()["models"]["returns"]
    assert numbers["score:returns"]["u5"] == pytest.approx(score["score"], abs=1e-5)


def test_traits_are_less_frequent_among_the_others(client: TestClient) -> None:
    call = {"users": [*BAKERS, "nobody", "u0"]}
    answer = client.post("/v1/traits", json=call).json()
    assert (answer["users"], answer["unknown"], answer["others"]) == (20, 1, 21)
    first = answer["traits"][0]
    assert (first["attribute"], first["value"]) == ("genre", "bread")
    assert (first["share"] > first["share_of_others"], first["lift"] > 1) == (True, True)
    assert all(trait["share"] > trait["share_of_others"] for trait in answer["traits"])


def test_all_users_and_unknown_users_have_no_traits(client: TestClient) -> None:
    everybody = client.post("/v1/traits", json={"users": USERS}).json()
    assert (everybody["users"], everybody["others"], everybody["traits"]) == (41, 0, [])
    nobody = client.post("/v1/traits", json={"users": ["x"]}).json()
    assert (nobody["users"], nobody["unknown"], nobody["traits"]) == (0, 1, [])


def test_shared_values_are_those_that_both_users_have(client: TestClient) -> None:
    shared = _get(client, "/v1/shared", user_id="u0", other="u2")["traits"]
    shares = [value["share_of_all"] for value in shared]
    assert shares == sorted(shares)
    assert ("genre", "bread") in {(value["attribute"], value["value"]) for value in shared}
    genres = {
        value["value"]
        for value in _get(client, "/v1/shared", user_id="u0", other="u1")["traits"]
        if value["attribute"] == "genre"
    }
    assert genres == set()


def test_expected_values_are_compared_with_actual_values(client: TestClient) -> None:
    answer = _get(
        client, "/v1/expected", model="model", user_id="u0", segment="long_term", number=0
    )
    genre = next(column for column in answer["attributes"] if column["attribute"] == "genre")
    assert genre["there"] == [["bread", 1]]
    is_there = {value["value"]: value["is_there"] for value in genre["expected"]}
    assert (is_there["bread"], is_there["milk"]) == (True, False)
    assert all(0 <= value["probability"] <= 1 for value in genre["expected"])


def test_an_explanation_names_words_and_fields(client: TestClient) -> None:
    answer = _get(client, "/v1/explanation", model="returns", user_id="u0")
    assert (answer["task"], answer["unit"], answer["value"]) == ("returns", "log odds", None)
    assert [(word["segment"], word["number"]) for word in answer["words"]] == [("long_term", 0)]
    assert set(answer["words"][0]["attributes"]) == {"genre", "price", "hour"}
    assert [field["name"] for field in answer["fields"]] == ["age"]
    of_class = _get(client, "/v1/explanation", model="genre", user_id="u0", value="milk")
    assert of_class["value"] == "milk"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/map", 422, "model: expected one of"),
        ("/v1/map?model=x", 422, "there is no 'x'"),
        ("/v1/map/colour?model=model&name=x", 422, "there is no colour 'x'"),
        ("/v1/find", 422, "text"),
        ("/v1/shared?user_id=u1&other=nobody", 404, "the data have no user 'nobody'"),
        ("/v1/expected?user_id=u1&segment=week&number=0&model=model", 422, "segment: expected"),
        ("/v1/expected?user_id=u1&segment=long_term&number=5&model=model", 422, "no word 5"),
        ("/v1/expected?user_id=u1&segment=long_term&number=0&model=returns", 422, "pretrained"),
        ("/v1/explanation?user_id=u1&model=model", 422, "no task"),
        ("/v1/explanation?user_id=u1&model=genre&value=x", 422, "no class 'x'"),
        ("/v1/explanation?user_id=nobody&model=returns", 404, "the data have no user"),
        ("/v1/explanation?user_id=u1&model=returns&cutoff=9999-12-31", 422, "windows"),
        ("/v1/reports/..%2F..%2Fetc/page", 404, "no report '../../etc'"),
        ("/v1/reports/runs/page", 404, "no report 'runs'"),
    ],
)
def test_calls_that_cannot_be_answered_say_why(
    client: TestClient, path: str, status: int, message: str
) -> None:
    answer = client.get(path)
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text


def test_runs_have_their_curves(client: TestClient) -> None:
    answer = _get(client, "/v1/runs")
    runs = {run["name"]: run for run in answer["runs"]}
    assert set(runs) == {"model", "returns", "genre", "runs/deep/other", "runs/going"}
    learned = [(point["step"], point["loss"]) for point in runs["model"]["learned"]]
    assert learned == [(10, 3.0), (20, 2.0)]
    assert runs["model"]["held_out"] == [
        {"step": 10, "loss": 3.5, "by": {"long_term.genre": 2.5, "long_term.price": 1.0}}
    ]
    going = runs["runs/going"]
    assert (going["kind"], going["steps"], len(going["learned"])) == ("running", 99, 2)
    assert answer["warnings"] == []


def test_a_running_run_is_read_again_by_each_call(client: TestClient, folder: Path) -> None:
    file = folder / "runs/.going.training/metrics.jsonl"
    before = file.read_text()
    file.write_text(before + "0}\n".replace("0}", '0, "losses": {"a": 1.0}}'))
    learned = [run for run in _get(client, "/v1/runs")["runs"] if run["kind"] == "running"]
    assert [point["step"] for point in learned[0]["learned"]] == [10, 20, 30]
    file.write_text(before)


def test_reports_are_listed_and_their_pages_run_no_script(client: TestClient) -> None:
    (report,) = _get(client, "/v1/reports")["reports"]
    assert report["name"] == "runs/verdict ü"
    assert "They improve" in report["sentences"][0]
    assert [row["model"] for row in report["rows"]][:2] == ["fused", "aggregates-gbm"]
    page = client.get(report["page"])
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: (model / "config.json").unlink(),
        lambda model: (model / "config.json").write_text("{"),
        lambda model: (model / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n'),
        lambda model: (model / "metrics.jsonl").write_bytes(b"\xff\xfe\n"),
        lambda model: (model / "metrics.jsonl").write_text('{"losses": 3}\n'),
        lambda model: (model / "training.json").write_text("[1]"),
        lambda model: (model / "model.safetensors").write_bytes(b"12"),
        lambda model: (model / "schema.yaml").write_text("a: ["),
    ],
)
def test_damaged_runs_are_left_out_and_named(folder: Path, tmp_path: Path, damage: Any) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs")
    damage(tmp_path / "runs/deep/other")
    (tmp_path / "runs/verdict ü/report.json").write_text('{"rows": [1]}')
    with client_of(folder, "model", runs=tmp_path / "runs") as client:
        runs, reports = _get(client, "/v1/runs"), _get(client, "/v1/reports")
    assert {run["name"] for run in runs["runs"]} == {"model", "runs/going"}
    assert "runs/deep/other cannot be read" in runs["warnings"][0]
    assert reports["reports"] == []
    assert "runs/verdict ü cannot be read" in reports["warnings"][0]


def test_without_data_calls_about_data_answer_404(folder: Path) -> None:
    with client_of(folder, "model") as client:
        for path in (
            "/v1/data", "/v1/find?text=u", "/v1/map", "/v1/map/colour?name=cluster",
            "/v1/expected?user_id=u1&segment=long_term&number=0", "/v1/explanation?user_id=u1",
            "/v1/shared?user_id=u1&other=u2",
        ):  # fmt: skip
            answer = client.get(path)
            assert answer.status_code == 404, path
            assert "--data DATA" in answer.json()["detail"]
        assert client.post("/v1/traits", json={"users": ["u1"]}).status_code == 404
        assert [run["name"] for run in _get(client, "/v1/runs")["runs"]] == ["model"]
        assert _get(client, "/v1/reports") == {"reports": [], "warnings": []}


def test_a_map_without_vectors_answers_503_with_the_progress(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("userbert.service.population.Population._embed", lambda _: None)
    with client_of(folder, "model", data=folder / "data") as client:
        answer = client.get("/v1/map")
        assert answer.status_code == 503
        assert (answer.json()["done"], answer.json()["of"]) == (0, 41)
        assert answer.headers["retry-after"] == "5"
        # Calls that need no vectors are answered.
        assert _get(client, "/v1/data")["users"] == 41
        assert client.post("/v1/traits", json={"users": BAKERS}).json()["users"] == 20


def test_every_call_needs_the_token(folder: Path) -> None:
    with client_of(folder, "model", data=folder / "data", tokens=[b"0123456789abcdef"]) as client:
        for path in ("/v1/data", "/v1/map", "/v1/runs", "/v1/reports", "/v1/reports/x/page"):
            assert client.get(path).status_code == 401
