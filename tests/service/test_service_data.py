"""Calls about the users of prepared data: words, vectors, scores, look-alikes."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from serving import client_of, make_service_folder
from starlette.testclient import TestClient

from small_logs import log
from userbert.data.store import PreparedData
from userbert.data.use.timeline import timeline
from userbert.model.userbert import UserBert

ODD = "a/b?c=<script>\"'ü"
USERS = [f"u{number}" for number in range(40)] + [ODD]
EVENTS = log(
    *(
        (user, f"2017-05-{1 + number % 28:02}T10:00", "buy", ("bread", "milk")[number % 2], 1.0)
        for number, user in enumerate(USERS)
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_service_folder(folder, EVENTS).rename(folder / "data")
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with client_of(folder, "model", "returns", data=folder / "data") as client:
        wait(client)
        yield client


def wait(client: TestClient) -> None:
    """Waits until all users are embedded."""
    for _ in range(200):
        answer = client.get("/v1/users/u0").json()
        if all(model["neighbours"] is not None for model in answer["models"].values()):
            return
        time.sleep(0.05)
    raise AssertionError("not all users were embedded")


@pytest.mark.parametrize("user", ["u3", ODD])
def test_a_user_is_described(client: TestClient, folder: Path, user: str) -> None:
    answer = client.get(f"/v1/users/{quote(user, safe='')}", params={"k": 3}).json()
    data = PreparedData.open(folder / "data")
    assert answer["user_id"] == user
    assert answer["profile"] == {"age": "any"}
    (word,) = timeline(data, int(data.rows_of([user])[0]), data.default_cutoff)
    assert [shown["segment"] for shown in answer["words"]] == [word.segment]
    assert answer["words"][0]["begins"] == word.begins.isoformat()
    assert answer["words"][0]["values"]["genre"] == [list(word.values["genre"][0])]
    vectors = UserBert.from_pretrained(folder / "model").embed(data)
    expected = dict(zip(vectors["user_id"], vectors["embedding"], strict=True))
    assert answer["models"]["model"]["embedding"] == pytest.approx(list(expected[user]), abs=1e-5)
    assert 0 < answer["models"]["returns"]["score"] < 1
    neighbours = answer["models"]["model"]["neighbours"]
    assert len(neighbours) == 3
    assert user not in {neighbour["user_id"] for neighbour in neighbours}
    assert neighbours == sorted(neighbours, key=lambda neighbour: -neighbour["cosine"])


def test_an_earlier_cut_off_hides_later_words(client: TestClient) -> None:
    answer = client.get("/v1/users/u3", params={"cutoff": "2017-05-01", "model": "model"}).json()
    assert answer["words"] == []
    assert list(answer["models"]) == ["model"]


def test_look_alikes_are_other_users_best_first(client: TestClient) -> None:
    seeds, excluded = USERS[:12], USERS[12:14]
    call = {"model": "model", "seeds": [*seeds, "nobody"], "exclude": excluded, "k": 5}
    answer = client.post("/v1/lookalike", json=call).json()
    assert answer["unknown"] == ["nobody"]
    assert (answer["seeds"], answer["others"]) == (12, len(USERS) - 14)
    assert [user["rank"] for user in answer["users"]] == [1, 2, 3, 4, 5]
    assert not {user["user_id"] for user in answer["users"]} & {*seeds, *excluded}
    assert answer["held_out"][0]["seeds"] == 12


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/users/nobody", 404, "the data have no user 'nobody'"),
        ("/v1/users/..%2F..%2Fetc%2Fpasswd", 404, "the data have no user"),
        ("/v1/users/u1?model=x", 422, "there is no 'x'"),
        ("/v1/users/u1?cutoff=x", 422, "expected a date or time"),
        ("/v1/users/u1?k=-1", 422, "k: Input should be greater"),
    ],
)
def test_unknown_names_and_bad_parameters_are_refused(
    client: TestClient, path: str, status: int, message: str
) -> None:
    answer = client.get(path)
    assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text


def test_a_list_of_unknown_seeds_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/lookalike", json={"model": "model", "seeds": ["x", "y"]})
    assert answer.status_code == 422
    assert "x" in answer.json()["detail"]


def test_without_data_calls_about_users_answer_404(folder: Path) -> None:
    with client_of(folder, "model") as client:
        for answer in (
            client.get("/v1/users/u1"),
            client.post("/v1/lookalike", json={"seeds": ["u1"]}),
        ):
            assert answer.status_code == 404
            assert "--data DATA" in answer.json()["detail"]


def test_data_that_changed_on_disk_are_not_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    with client_of(folder, "model", data=tmp_path / "data") as client:
        wait(client)
        (tmp_path / "data/summary.json").write_text("{}")
        for answer in (
            client.get("/v1/users/u1"),
            client.post("/v1/lookalike", json={"seeds": ["u1"]}),
        ):
            assert answer.status_code == 503
            assert "has changed since the service started" in answer.json()["detail"]


def test_lists_wait_until_all_are_embedded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userbert.service.population.Population._embed", lambda _: None)
    with client_of(folder, "model", data=folder / "data") as client:
        assert client.get("/v1/users/u1").json()["models"]["model"]["neighbours"] is None
        refused = client.post("/v1/lookalike", json={"seeds": ["u1"]})
        assert refused.status_code == 503
        assert "0 of 41 users are embedded" in refused.json()["detail"]
