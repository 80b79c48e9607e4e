"""The service answers raw events with vectors and scores, and anything else with advice."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serving import client_of, make_service_folder
from starlette.testclient import TestClient

from small_logs import log
from userbert.data.store import PreparedData
from userbert.model.userbert import UserBert
from userbert.service.middleware import Limits
from userbert.tasks.task_model import TaskModel

CUTOFF = "2017-06-01"
EVENTS = log(
    ("a", "2017-05-01T10:00", "buy", "bread", 1.0),
    ("a", "2017-05-02T10:00", "buy", "milk", 2.5),
    ("a", "2017-05-31T10:00", "click", "milk", None),
    ("b", "2017-05-03T10:00", "buy", "wine", 9.0),
    ("c", "2017-04-03T10:00", "buy", None, 3.0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    make_service_folder(folder, EVENTS)
    return folder


def prepared_in(folder: Path) -> PreparedData:
    return PreparedData.open(next(folder.glob("*/manifest.json")).parent)


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with client_of(folder, "model", "returns", "genre") as client:
        yield client


def records(user: str) -> list[dict[str, Any]]:
    return EVENTS.filter(user=user).drop("user").to_dicts()


def body(*users: str, **more: Any) -> dict[str, Any]:
    user_bodies = [{"user_id": user, "events": {"log": records(user)}} for user in users]
    return {"model": "model", "cutoff": CUTOFF, "users": user_bodies, **more}


def test_vectors_equal_those_of_prepared_data(folder: Path, client: TestClient) -> None:
    users = body("b", "a", "c")
    for user in users["users"]:
        user["profile"] = [{"age": 20.0}]
    answer = client.post("/v1/embed", json=users)
    assert answer.status_code == 200, answer.text
    assert [user["user_id"] for user in answer.json()["users"]] == ["b", "a", "c"]
    data = prepared_in(folder)
    expected = UserBert.from_pretrained(folder / "model").embed(data, cutoff=CUTOFF)
    of_user = dict(zip(expected["user_id"], expected["embedding"], strict=True))
    for user in answer.json()["users"]:
        assert user["embedding"] == pytest.approx(list(of_user[user["user_id"]]), abs=1e-5)


def test_scores_equal_those_of_the_task(folder: Path, client: TestClient) -> None:
    data = prepared_in(folder)
    expected = TaskModel.load(folder / "returns").predict(data, cutoff=CUTOFF)
    of_user = dict(zip(expected["user_id"], expected["score"], strict=True))
    users = body("a", "b", model="returns")
    for user in users["users"]:
        user["profile"] = [{"age": 20.0}]
    answer = client.post("/v1/score", json=users).json()
    assert answer["task"] == "returns"
    for user in answer["users"]:
        assert user["score"] == pytest.approx(of_user[user["user_id"]], abs=1e-5)


def test_many_classes_are_answered_best_first(client: TestClient) -> None:
    (user,) = client.post("/v1/score", json=body("a", model="genre")).json()["users"]
    assert sorted(user["values"]) == ["bread", "milk", "wine"]
    assert user["scores"] == sorted(user["scores"], reverse=True)
    assert sum(user["scores"]) == pytest.approx(1, abs=1e-5)


def test_a_user_without_events_has_no_vector(client: TestClient) -> None:
    call = body("a")
    call["users"].append({"user_id": "new"})
    known, new = client.post("/v1/embed", json=call).json()["users"]
    assert known["embedding"] is not None
    assert new == {"user_id": "new", "embedding": None}
    call["model"] = "returns"
    assert client.post("/v1/score", json=call).json()["users"][1] == {
        "user_id": "new",
        "score": None,
    }


def test_the_default_cut_off_is_now(client: TestClient) -> None:
    call = body("a")
    del call["cutoff"]
    late = {"user_id": "b", "events": {"log": [{**records("b")[0], "time": "2199-01-01T00:00"}]}}
    assert client.post("/v1/embed", json=call).status_code == 200
    refused = client.post("/v1/embed", json={**call, "users": [late]})
    assert refused.status_code == 422
    assert "expected a time before the cut-off" in refused.json()["detail"]


def test_concurrent_calls_get_their_own_answers(client: TestClient) -> None:
    alone = {user: client.post("/v1/embed", json=body(user)).json() for user in "abc"}
    wrong = body("a")
    wrong["users"][0]["events"]["log"][0]["time"] = "yesterday"

    def call(number: int) -> None:
        user = "abc"[number % 3]
        if number % 5 == 4:
            answer = client.post("/v1/embed", json=wrong)
            assert answer.status_code == 422
            assert "user 'a', log, event 1" in answer.json()["detail"]
            return
        embedding = client.post("/v1/embed", json=body(user)).json()["users"][0]["embedding"]
        assert embedding == pytest.approx(alone[user]["users"][0]["embedding"], abs=1e-5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(60)))


def test_models_describe_their_input(client: TestClient) -> None:
    models = {model["name"]: model for model in client.get("/v1/models").json()["models"]}
    assert list(models) == ["model", "returns", "genre"]
    assert models["model"]["sources"] == {"log": ["time", "action", "genre", "price"]}
    assert models["model"]["profile"] == ["age"]
    assert models["model"]["task"] is None
    assert models["returns"]["task"]["kind"] == "binary"


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "the body: Field required"),
        (b"nonsense", 400, "expected JSON in UTF-8"),
        (b"\xff\xfe", 400, "expected JSON in UTF-8"),
        (b'{"users": [{"user_id": "a", "events": {"log": [{"price": NaN}]}}]}', 400, "JSON"),
        (b"[" * 100_000, 400, "expected JSON in UTF-8"),
        (b"[" * 200 + b"]" * 200, 422, "the body"),
        (b'{"users": []}', 422, "users: List should have at least 1 item"),
        (b'{"users": [{"user_id": 7}]}', 422, "users.0.user_id: Input should be a valid string"),
        (b'{"users": [{"user_id": "a", "event": {}}]}', 422, "users.0.event: Extra inputs"),
    ],
)
def test_malformed_bodies_are_refused_with_the_reason(
    client: TestClient, content: bytes, status: int, message: str
) -> None:
    answer = client.post("/v1/embed", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "../model"}, "there is no '../model'"),
        ({"model": None}, "expected one of model, returns, genre"),
        ({"cutoff": "today"}, "cutoff: expected a date or time"),
        ({"users": [{"user_id": "a", "events": {"logs": []}}]}, "did you mean 'log'"),
        ({"users": [{"user_id": "a", "events": {"log": [{"gener": "x"}]}}]}, "no column 'gener'"),
        ({"users": [{"user_id": "a", "events": {"log": [{"genre": ["x"]}]}}]}, "found a list"),
        ({"cutoff": "2017-04-01"}, "expected a time before the cut-off 2017-04-01"),
        ({"users": [{"user_id": "a", "cutoff": "x"}]}, "user 'a', cutoff: expected a date"),
        ({"users": [{"user_id": "a", "profile": [{"age": 1}, {"age": 2}]}]}, "one record, found 2"),
    ],
)  # fmt: skip
def test_unusable_values_are_refused_with_the_reason(
    client: TestClient, change: dict[str, Any], message: str
) -> None:
    answer = client.post("/v1/embed", json={**body("a"), **change})
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("DELETE", "/v1/models")])
def test_unknown_paths_and_methods_refer_to_the_description(
    client: TestClient, method: str, path: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code in {404, 405}
    assert "/openapi.json lists all calls" in answer.json()["detail"]


def test_a_model_without_a_task_has_no_scores(client: TestClient) -> None:
    answer = client.post("/v1/score", json=body("a"))
    assert answer.status_code == 422
    assert "no task" in answer.json()["detail"]


def test_huge_numbers_are_no_server_error(client: TestClient) -> None:
    for number in ("1" + "0" * 30, "1e308"):
        call = json.dumps(body("a")).replace('"price": 1.0', f'"price": {number}')
        answer = client.post(
            "/v1/embed", content=call, headers={"content-type": "application/json"}
        )
        assert answer.status_code in {200, 422}


def test_calls_over_a_limit_are_refused(folder: Path) -> None:
    limits = Limits(body=10_000, users=2, events=3)
    with client_of(folder, "model", limits=limits) as client:
        assert "at most 2" in client.post("/v1/embed", json=body("a", "b", "c")).json()["detail"]
        call = body("a")
        call["users"][0]["events"]["log"] *= 2
        assert (
            "at most 3 events and profile rows, found 6"
            in client.post("/v1/embed", json=call).json()["detail"]
        )
        call["users"][0]["events"]["log"] *= 100
        assert client.post("/v1/embed", json=call).status_code == 413
        chunks = (b" " * 4_000 for _ in range(5))
        headers = {"content-type": "application/json"}
        streamed = client.post("/v1/embed", content=chunks, headers=headers)
        assert streamed.status_code == 413
        assert "Send fewer" in streamed.json()["detail"]


def test_other_content_types_are_refused(client: TestClient) -> None:
    content = json.dumps(body("a")).encode()
    text = client.post("/v1/embed", content=content, headers={"content-type": "text/plain"})
    assert text.status_code == 415
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    assert client.post("/v1/embed", content=content, headers=packed).status_code == 415


def test_a_known_token_is_required(folder: Path) -> None:
    tokens = (b"0123456789abcdef", b"fedcba9876543210")
    with client_of(folder, "model", tokens=tokens) as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            refused = client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer 0123456789abcdeX", "Basic 0123456789abcdef", "Bearer", "Bearer ü"):
            refused = client.get("/v1/models", headers={b"authorization": wrong.encode()})
            assert refused.status_code == 401
        for token in tokens:
            right = {"authorization": f"Bearer {token.decode()}"}
            assert client.get("/v1/models", headers=right).status_code == 200


def test_other_host_names_are_refused(client: TestClient) -> None:
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/v1/models", headers={"host": "127.0.0.1:80"}).status_code == 200


def test_a_full_queue_answers_429(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(folder, "model", queue=1) as client:
        monkeypatch.setattr("userbert.service.batching.Batcher.is_full", property(lambda _: True))
        refused = client.post("/v1/embed", json=body("a"))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"


def test_metrics_and_logs_contain_no_user_data(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("userbert.service").propagate = True
    with caplog.at_level(logging.INFO, "userbert.service"):
        call = body("a")
        call["users"][0]["user_id"] = "very-secret"
        assert client.post("/v1/embed", json=call).status_code == 200
        call["users"][0]["events"]["log"][0]["time"] = "also-secret"
        assert client.post("/v1/embed", json=call).status_code == 422
        assert client.get("/v1/users/very-secret").status_code == 404
    metrics = client.get("/metrics").text
    assert 'userbert_requests_total{route="/v1/embed",status="422"} 1.0' in metrics
    assert 'userbert_users_total{model="model"} 1.0' in metrics
    output = metrics + caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "secret" not in output
    assert len(caplog.records) == 3


def test_a_model_that_changes_on_disk_is_noticed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    for file in (folder / "model").iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    with client_of(tmp_path, "copy") as client:
        before = client.post("/v1/embed", json=body("a", model="copy")).json()
        assert client.get("/v1/models").json()["models"][0]["changed_on_disk"] is False
        (tmp_path / "copy/model.safetensors").write_bytes(b"something else")
        assert client.get("/v1/models").json()["models"][0]["changed_on_disk"] is True
        assert client.post("/v1/embed", json=body("a", model="copy")).json() == before


def test_calls_in_progress_finish_at_shutdown(folder: Path) -> None:
    client = client_of(folder, "model")
    with client, ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(client.post, "/v1/embed", json=body("a")) for _ in range(20)]
        statuses = [call.result().status_code for call in calls]
    assert statuses == [200] * 20
