"""The page's files: their content, security headers and caching."""

from hashlib import sha256
from pathlib import Path

import pytest
from serving import client_of, make_service_folder
from starlette.testclient import TestClient

from small_logs import buys
from userbert.service.explorer_routes import PAGE_FOLDER

ECHARTS = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"
"""SHA-256 of dist/echarts.min.js in the npm package echarts 6.1.0."""
TOKEN = b"0123456789abcdef"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    folder = tmp_path_factory.mktemp("files")
    make_service_folder(folder, buys("a", "2017-05-01T10:00"))
    return client_of(folder, "model", tokens=(TOKEN,))


def test_echarts_is_what_was_published() -> None:
    assert sha256((PAGE_FOLDER / "echarts.min.js").read_bytes()).hexdigest() == ECHARTS
    assert (PAGE_FOLDER / "echarts-LICENSE.txt").is_file()
    assert (PAGE_FOLDER / "echarts-NOTICE.txt").is_file()


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/views/map.js", "/page/style.css"])
def test_files_need_no_token_and_have_strict_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/page/echarts.min.js")
    again = client.get("/page/echarts.min.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/nothing.js",
        "/page/..%2Fservice/app.py",
        "/page/%2e%2e/service/middleware.py",
    ],
)  # fmt: skip
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "detail" in answer.json()


def test_answers_still_need_a_token(client: TestClient) -> None:
    for path in ("/v1/models", "/page", "/page/../v1/models"):
        assert client.get(path, follow_redirects=False).status_code in {401, 404}


def test_no_file_loads_from_another_site() -> None:
    own = [path for path in PAGE_FOLDER.rglob("*") if path.is_file() and "echarts" not in path.name]
    assert len(own) > 15
    for path in own:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text
        assert _has_header(path), path


def _has_header(path: Path) -> bool:
    """Whether a script starts with a comment that describes it."""
    return path.suffix != ".js" or path.read_text().startswith("// ")
