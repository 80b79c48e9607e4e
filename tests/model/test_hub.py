"""Downloads from a hub and uploads to it; the hub is a small local server."""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from huggingface_hub import constants

from synthetic import batch, model
from userbert.errors import InputError, ModelError
from userbert.folders import read_json, write_json
from userbert.inspection import inspect
from userbert.model.hub import folder_of
from userbert.model.userbert import UserBert


@dataclass
class Hub:
    """The hub's models, and its answers to requests."""

    address: str = ""
    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Files by name of the model and commit."""
    branches: dict[str, str] = field(default_factory=dict)
    """Commit of `main` by name of the model."""
    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Status and error code by name of the model."""
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Store files as the newest commit of a model."""
        content = b"".join(path.encode() + data for path, data in sorted(files.items()))
        commit = hashlib.sha1(content).hexdigest()
        self.files.setdefault(name, {})[commit] = files
        self.branches[name] = commit
        return commit

    def commit_folder(self, name: str, folder: Path) -> str:
        """Store a folder's files as the newest commit of a model."""
        return self.commit(name, {file.name: file.read_bytes() for file in folder.iterdir()})


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: Any = b"", **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(path)
            parts = path.removeprefix("api/models/").split("/")
            name, verb = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision"
            if name in hub.refuses or name not in hub.files:
                status, code = hub.refuses.get(name, (404, "RepoNotFound"))
                self.answer(status, {"error": code}, X_Error_Code=code)
                return
            commit = hub.branches[name] if parts[3:4] in ([], ["main"]) else parts[3]
            if commit not in hub.files[name]:
                self.answer(404, {}, X_Error_Code="RevisionNotFound")
                return
            files = hub.files[name][commit]
            if verb == "revision":
                siblings = [{"rfilename": file} for file in files]
                self.answer(200, {"id": name, "sha": commit, "siblings": siblings})
            elif verb == "tree":
                entries = [
                    {"type": "file", "path": file, "size": len(data), "oid": _oid(data)}
                    for file, data in files.items()
                ]
                self.answer(200, entries)
            else:
                data = files["/".join(parts[4:])]
                self.answer(200, data, ETag=f'"{_oid(data)}"', X_Repo_Commit=commit)

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != "Bearer hf_writer":
                self.answer(401, {"error": "Invalid username or password."})
            elif path == "api/repos/create":
                request = json.loads(body)
                name = f"{request['organization']}/{request['name']}"
                if name in hub.files:
                    self.answer(409, {"url": f"{hub.address}/{name}"})
                    return
                hub.private[name] = request["visibility"] == "private"
                hub.commit(name, {})
                self.answer(200, {"url": f"{hub.address}/{name}"})
            elif "/preupload/" in path:
                paths = [file["path"] for file in json.loads(body)["files"]]
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                self.answer(200, {"files": [{"path": path, **plain} for path in paths]})
            elif path == "api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            else:
                self.take(path, [json.loads(line) for line in body.splitlines()])

        def take(self, path: str, lines: list[dict[str, Any]]) -> None:
            name = "/".join(path.removeprefix("api/models/").split("/")[:2])
            files = dict(hub.files[name][hub.branches[name]])
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            commit = hub.commit(name, files)
            self.answer(
                200, {"commitUrl": f"{hub.address}/{name}/commit/{commit}", "commitOid": commit}
            )

    return Handler


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    form = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", form)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.chdir(tmp_path)
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def tokens(network: UserBert) -> torch.Tensor:
    vectors: torch.Tensor = network.eval()(batch([[3, 1], [0, 2]])).tokens
    return vectors


def test_model_is_downloaded_once_and_then_read_without_the_hub(hub: Hub, folder: Path) -> None:
    hub.commit_folder("acme/buyers", folder)
    expected = tokens(UserBert.from_pretrained(folder))
    assert torch.equal(tokens(UserBert.from_pretrained("acme/buyers")), expected)
    hub.requests.clear()
    again = UserBert.from_pretrained("acme/buyers", local_files_only=True)
    assert torch.equal(tokens(again), expected)
    assert not hub.requests


def test_download_is_an_ordinary_model_folder(hub: Hub, folder: Path) -> None:
    hub.commit_folder("acme/buyers", folder)
    cached = folder_of("acme/buyers", cache_dir=folder.parent / "elsewhere")
    assert cached.is_relative_to(folder.parent / "elsewhere")
    assert (cached / "schema.yaml").is_symlink()
    assert torch.equal(
        tokens(UserBert.from_pretrained(cached)), tokens(UserBert.from_pretrained(folder))
    )
    inspect(cached)


def test_requested_revision_is_downloaded(hub: Hub, folder: Path, tmp_path: Path) -> None:
    first = hub.commit_folder("acme/buyers", folder)
    torch.manual_seed(1)
    model().save_pretrained(tmp_path / "later")
    hub.commit_folder("acme/buyers", tmp_path / "later")
    newest = tokens(UserBert.from_pretrained("acme/buyers"))
    assert torch.equal(newest, tokens(UserBert.from_pretrained(tmp_path / "later")))
    older = tokens(UserBert.from_pretrained("acme/buyers", revision=first))
    assert torch.equal(older, tokens(UserBert.from_pretrained(folder)))


def test_local_folder_takes_precedence_over_the_hub(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    folder.rename(tmp_path / "acme/buyers")
    UserBert.from_pretrained("acme/buyers")
    with pytest.raises(InputError, match="revision: acme/buyers is a local folder"):
        UserBert.from_pretrained("acme/buyers", revision="main")
    assert not hub.requests


@pytest.mark.parametrize("name", [Path("acme/buyers"), "buyers", "../acme/buyers", "a/b/c", "/a/b"])
def test_other_names_are_never_sent_to_the_hub(hub: Hub, name: str | Path) -> None:
    with pytest.raises(ModelError, match="nothing is there"):
        UserBert.from_pretrained(name)
    assert not hub.requests


@pytest.mark.parametrize("harm", ["changed", "missing", "forged link"])
def test_download_is_checked_like_any_folder(hub: Hub, folder: Path, harm: str) -> None:
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    if harm == "changed":
        files["training.json"] += b" "
    elif harm == "missing":
        del files["vocabularies.json"]
    else:
        summary = json.loads(files["summary.json"])
        summary["checksums"]["../../refs/main"] = "0"
        files["summary.json"] = json.dumps(summary).encode()
    hub.commit("acme/buyers", files)
    with pytest.raises(ModelError, match=r"has changed since|is missing"):
        UserBert.from_pretrained("acme/buyers")


def test_links_that_lead_out_of_a_download_are_refused(hub: Hub, folder: Path) -> None:
    hub.commit_folder("acme/buyers", folder)
    cached = folder_of("acme/buyers")
    (cached / "schema.yaml").unlink()
    (cached / "schema.yaml").symlink_to(folder / "schema.yaml")
    with pytest.raises(ModelError, match=r"schema.yaml is missing"):
        UserBert.from_pretrained("acme/buyers", local_files_only=True)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "neither a local folder nor a model on http.*private model, log in"),
        (401, "RepoNotFound", "neither a local folder nor a model on http.*private model, log in"),
        (403, "GatedRepo", "is gated. Ask for access on its page"),
        (500, "Broken", "cannot be reached or local_files_only is set"),
    ],
)
def test_refusals_of_the_hub_are_explained(hub: Hub, status: int, code: str, message: str) -> None:
    hub.refuses["acme/buyers"] = (status, code)
    with pytest.raises(ModelError, match=f"^acme/buyers .*{message}") as raised:
        UserBert.from_pretrained("acme/buyers")
    assert "\n" not in str(raised.value)


def test_other_failed_downloads_are_explained(hub: Hub, folder: Path) -> None:
    hub.commit_folder("acme/buyers", folder)
    with pytest.raises(ModelError, match=r"has no revision 'v9'\. Name a branch"):
        UserBert.from_pretrained("acme/buyers", revision="v9")
    with pytest.raises(ModelError, match="nor a downloaded model"):
        UserBert.from_pretrained("acme/others", local_files_only=True)
    with pytest.raises(ModelError, match=r"^acme/a--b: .* says: "):
        UserBert.from_pretrained("acme/a--b")


def test_unreachable_hub_is_explained(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9 cannot be reached"):
        UserBert.from_pretrained("acme/buyers")


def test_pushed_model_equals_the_downloaded_one(hub: Hub, folder: Path) -> None:
    pushed = UserBert.from_pretrained(folder)
    assert pushed.push_to_hub("acme/buyers", token="hf_writer") == f"{hub.address}/acme/buyers"
    assert hub.private == {"acme/buyers": True}
    assert torch.equal(tokens(UserBert.from_pretrained("acme/buyers")), tokens(pushed))
    files = hub.files["acme/buyers"][hub.branches["acme/buyers"]]
    assert files.keys() == {file.name for file in folder.iterdir()}
    assert b"library_name: userbert" in files["README.md"]


def test_push_removes_the_metrics_of_the_previous_model(hub: Hub, folder: Path) -> None:
    before = {"metrics.jsonl": b"{}", "picture.png": b"", "README.md": b"old"}
    hub.commit("acme/buyers", before)
    UserBert.from_pretrained(folder).push_to_hub("acme/buyers", token="hf_writer", private=False)
    files = hub.files["acme/buyers"][hub.branches["acme/buyers"]]
    assert files.keys() == {file.name for file in folder.iterdir()} | {"picture.png"}
    assert not hub.private


def test_refused_push_is_explained(hub: Hub, folder: Path) -> None:
    network = UserBert.from_pretrained(folder)
    with pytest.raises(InputError, match=r"acme/buyers: .*401.* log in with `hf auth login`"):
        network.push_to_hub("acme/buyers", token="hf_reader")
    with pytest.raises(InputError, match="expected OWNER/MODEL"):
        network.push_to_hub("buyers", token="hf_writer")
    assert not hub.files


def test_local_folders_load_without_the_hubs_library(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    network = UserBert.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"no such local folder.*pip install 'userbert\[hub\]'"):
        UserBert.from_pretrained("acme/buyers")
    with pytest.raises(InputError, match=r"pip install 'userbert\[hub\]'"):
        network.push_to_hub("acme/buyers")


def test_only_the_hubs_cache_may_contain_links(folder: Path, tmp_path: Path) -> None:
    summary = read_json(folder / "summary.json")
    (folder / "schema.yaml").rename(tmp_path / "outside.yaml")
    (folder / "schema.yaml").symlink_to(tmp_path / "outside.yaml")
    with pytest.raises(ModelError, match=r"schema.yaml is missing"):
        UserBert.from_pretrained(folder)
    (folder / "summary.json").unlink()
    summary["checksums"][str(tmp_path / "outside.yaml")] = "0"
    write_json(folder / "summary.json", summary)
    with pytest.raises(ModelError, match=r"is missing"):
        UserBert.from_pretrained(folder)
