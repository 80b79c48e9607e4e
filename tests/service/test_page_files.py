"""The page's files as they are served: whole, under their policy, sent once."""

from hashlib import sha256
from pathlib import Path

import pytest
from serving import client_of, make
from starlette.testclient import TestClient

from small_logs import buys
from userbert.service.explorer_routes import PAGE

ECHARTS = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"
"""dist/echarts.min.js of echarts 6.1.0, as npm has it."""
TOKEN = b"0123456789abcdef"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    folder = tmp_path_factory.mktemp("files")
    make(folder, buys("a", "2017-05-01T10:00"))
    return client_of(folder, "model", tokens=(TOKEN,))


def test_echarts_is_what_was_published() -> None:
    assert sha256((PAGE / "echarts.min.js").read_bytes()).hexdigest() == ECHARTS
    assert (PAGE / "echarts-LICENSE.txt").is_file()
    assert (PAGE / "echarts-NOTICE.txt").is_file()


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/views/map.js", "/page/style.css"])
def test_files_need_no_token_and_may_do_little(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_whoever_has_a_file_is_not_sent_it_again(client: TestClient) -> None:
    first = client.get("/page/echarts.min.js")
    again = client.get("/page/echarts.min.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/nothing.js", "/page/..%2Fservice/app.py", "/page/%2e%2e/service/guard.py"],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "detail" in answer.json()


def test_answers_still_need_a_token(client: TestClient) -> None:
    for path in ("/v1/models", "/page", "/page/../v1/models"):
        assert client.get(path, follow_redirects=False).status_code in {401, 404}


def test_no_file_asks_for_what_is_elsewhere() -> None:
    ours = [path for path in PAGE.rglob("*") if path.is_file() and "echarts" not in path.name]
    assert len(ours) > 15
    for path in ours:
        told = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in told
        assert "https://" not in told
        assert "innerHTML" not in told
        assert _has_header(path), path


def _has_header(path: Path) -> bool:
    """Whether a module says first what comes in and goes out."""
    return path.suffix != ".js" or path.read_text().startswith("// ")
