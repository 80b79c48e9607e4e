"""Calls generated from the service's description never cause a server error."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from small_logs import buys, prepare_events
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.service.app import create_app
from userbert.service.loaded_models import load_models

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["2017-05-01T10:00", "2017-05-01", "buy", "click", "bread", "1", "NaN", ""]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
RECORDS = st.dictionaries(
    st.sampled_from(["time", "action", "genre", "price", "user", "other"]), VALUES, max_size=6
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("fuzz")
    data = prepare_events(folder, buys("a", "2017-05-01T10:00"))
    config = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32, attribute_width=8)
    model = UserBert(config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies)
    model.save_pretrained(folder / "model")
    app = create_app(load_models([folder / "model"], "torch"), None, data, folder)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        while client.get("/v1/map").status_code == 503:  # until there are vectors
            time.sleep(0.02)
        yield client


@pytest.fixture(scope="module")
def cases(client: TestClient) -> st.SearchStrategy[Any]:
    """Strategy of calls that follow the description."""
    description: Any = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations = [operation.ok() for operation in description.get_all_operations()]
    return st.one_of([operation.as_strategy() for operation in operations if operation is not None])


@pytest.mark.slow
@given(st.data())
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_calls_that_follow_the_description_cause_no_server_error(
    client: TestClient, cases: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    case = data.draw(cases)
    content = {"json": case.body} if case.method == "POST" else {}
    answer = client.request(case.method, case.formatted_path, params=case.query, **content)
    assert answer.status_code < 500, answer.text


@given(st.lists(RECORDS, max_size=4))
@settings(max_examples=150)
def test_events_with_any_values_are_answered_or_refused(
    client: TestClient, records: list[dict[str, Any]]
) -> None:
    user = {"user_id": "someone", "events": {"log": records}}
    answer = client.post("/v1/embed", json={"cutoff": "2017-06-01", "users": [user]})
    assert answer.status_code in {200, 422}, answer.text
    if answer.status_code == 422:
        assert "someone" in answer.json()["detail"]
