"""The service as a process: its address, tokens, start and shutdown."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from command_line import Userbert
from small_logs import buys, prepare_events
from userbert.model.userbert import UserBert, UserBertConfig

TOKEN = "0123456789abcdef"
CALL = json.dumps({"cutoff": "2017-06-01", "users": [{"user_id": "a"}]}).encode()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained model."""
    folder = tmp_path_factory.mktemp("process")
    data = prepare_events(folder, buys("a", "2017-05-01T10:00"))
    config = UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=32, attribute_width=8)
    model = UserBert(config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies)
    model.save_pretrained(folder / "model")
    return folder / "model"


@contextmanager
def service(
    model: Path, *options: str, stderr: int = subprocess.PIPE
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "userbert", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split(" ")[0]
        finally:
            process.kill()


def post(address: str) -> int:
    headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    try:
        with urlopen(Request(f"{address}/v1/embed", CALL, headers)) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


@pytest.mark.slow
def test_the_service_answers_and_stops_on_sigterm(model: Path) -> None:
    with service(model) as (process, address):
        assert post(address) == 200
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(post, address) for _ in range(100)]
            calls[0].result()
            process.send_signal(signal.SIGTERM)
            # Accepted calls are answered; later ones cannot connect.
            results = [call.exception() or call.result() for call in calls]
        assert {result for result in results if isinstance(result, int)} <= {200, 503}
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["status"] for line in lines} <= {200, 503}


@pytest.mark.slow
def test_with_tokens_the_service_answers_other_machines(model: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# the shop's\n{TOKEN}\n")
    with service(model, "--host", "0.0.0.0", "--tokens", str(tokens)) as (_, address):
        assert post(address.replace("0.0.0.0", "127.0.0.1")) == 200
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"{address}/v1/models")


@pytest.mark.slow
def test_a_body_that_never_arrives_answers_408(model: Path) -> None:
    with service(model) as (_, address), socket.socket() as caller:
        caller.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
        head = "POST /v1/embed HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        caller.sendall(f"{head}content-length: 100\r\n\r\n".encode() + b"{")
        start = time.monotonic()
        assert b" 408 " in caller.recv(1000)
        assert 5 < time.monotonic() - start < 20


def test_a_public_address_needs_tokens(model: Path, userbert: Userbert) -> None:
    message = userbert("serve", str(model), "--host", "0.0.0.0").refusal
    assert "--tokens FILE" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected one token per line, found none"),
        ("# nothing", "expected one token per line, found none"),
        ("short", "line 1: expected a token of at least 16"),
        (f"{TOKEN}\nwith spaces in the middle", "line 2: expected a token"),
    ],
)
def test_missing_and_weak_tokens_are_refused(
    model: Path, userbert: Userbert, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "tokens").write_text(content)
    assert message in userbert("serve", str(model), "--tokens", "tokens").refusal
    missing = userbert("serve", str(model), "--tokens", "missing")
    assert "expected a file with one token per line" in missing.refusal


def test_a_port_in_use_is_refused(model: Path, userbert: Userbert) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        message = userbert("serve", str(model), "--port", port).refusal
    assert f"127.0.0.1, port {port}: cannot listen" in message


def test_two_models_with_one_name_are_refused(model: Path, userbert: Userbert) -> None:
    assert "two models are called 'model'" in userbert("serve", str(model), str(model)).refusal


def test_a_folder_without_a_model_is_refused(userbert: Userbert, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is neither a model nor a task" in userbert("serve", "empty").refusal


def test_runs_must_be_a_folder(model: Path, userbert: Userbert) -> None:
    message = userbert("serve", str(model), "--runs", "nowhere").refusal
    assert "--runs nowhere: expected a folder" in message
