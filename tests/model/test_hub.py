"""Models of a hub, which is a small server on this machine."""

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
    """What a hub holds, and how it answers."""

    address: str = ""
    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """By name of the model and commit."""
    branches: dict[str, str] = field(default_factory=dict)
    """By name of the model: the commit of `main`."""
    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By name of the model: status and code of the error."""
    private: dict[str, bool] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Hold files as the newest of a model."""
        content = b"".join(path.encode() + data for path, data in sorted(files.items()))
        commit = hashlib.sha1(content).hexdigest()
        self.files.setdefault(name, {})[commit] = files
        self.branches[name] = commit
        return commit

    def commit_folder(self, name: str, folder: Path) -> str:
        """Hold a folder's files."""
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
            hub.asked.append(path)
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
                told = [
                    {"type": "file", "path": file, "size": len(data), "oid": _oid(data)}
                    for file, data in files.items()
                ]
                self.answer(200, told)
            else:
                data = files["/".join(parts[4:])]
                self.answer(200, data, ETag=f'"{_oid(data)}"', X_Repo_Commit=commit)

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Authorization") != "Bearer hf_writer":
                self.answer(401, {"error": "Invalid username or password."})
            elif path == "api/repos/create":
                told = json.loads(body)
                name = f"{told['organization']}/{told['name']}"
                if name in hub.files:
                    self.answer(409, {"url": f"{hub.address}/{name}"})
                    return
                hub.private[name] = told["visibility"] == "private"
                hub.commit(name, {})
                self.answer(200, {"url": f"{hub.address}/{name}"})
            elif "/preupload/" in path:
                asked = [one["path"] for one in json.loads(body)["files"]]
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                self.answer(200, {"files": [{"path": one, **plain} for one in asked]})
            elif path == "api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            else:
                self.take(path, [json.loads(line) for line in body.splitlines()])

        def take(self, path: str, lines: list[dict[str, Any]]) -> None:
            name = "/".join(path.removeprefix("api/models/").split("/")[:2])
            files = dict(hub.files[name][hub.branches[name]])
            for line in lines:
                told = line["value"]
                if line["key"] == "file":
                    files[told["path"]] = base64.b64decode(told["content"])
                elif line["key"] == "deletedFile":
                    del files[told["path"]]
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
    model().save_pretrained(tmp_path / "made")
    return tmp_path / "made"


def tokens(network: UserBert) -> torch.Tensor:
    found: torch.Tensor = network.eval()(batch([[3, 1], [0, 2]])).tokens
    return found


def test_a_name_is_downloaded_once_and_read_from_then_on_without_the_hub(
    hub: Hub, folder: Path
) -> None:
    hub.commit_folder("acme/buyers", folder)
    expected = tokens(UserBert.from_pretrained(folder))
    assert torch.equal(tokens(UserBert.from_pretrained("acme/buyers")), expected)
    hub.asked.clear()
    again = UserBert.from_pretrained("acme/buyers", local_files_only=True)
    assert torch.equal(tokens(again), expected)
    assert not hub.asked


def test_what_was_downloaded_is_a_model_folder_as_any(hub: Hub, folder: Path) -> None:
    hub.commit_folder("acme/buyers", folder)
    cached = folder_of("acme/buyers", cache_dir=folder.parent / "elsewhere")
    assert cached.is_relative_to(folder.parent / "elsewhere")
    assert (cached / "schema.yaml").is_symlink()
    assert torch.equal(
        tokens(UserBert.from_pretrained(cached)), tokens(UserBert.from_pretrained(folder))
    )
    inspect(cached)


def test_a_revision_is_the_one_that_is_asked_for(hub: Hub, folder: Path, tmp_path: Path) -> None:
    first = hub.commit_folder("acme/buyers", folder)
    torch.manual_seed(1)
    model().save_pretrained(tmp_path / "later")
    hub.commit_folder("acme/buyers", tmp_path / "later")
    newest = tokens(UserBert.from_pretrained("acme/buyers"))
    assert torch.equal(newest, tokens(UserBert.from_pretrained(tmp_path / "later")))
    older = tokens(UserBert.from_pretrained("acme/buyers", revision=first))
    assert torch.equal(older, tokens(UserBert.from_pretrained(folder)))


def test_a_folder_of_that_name_goes_before_the_hub(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    folder.rename(tmp_path / "acme/buyers")
    UserBert.from_pretrained("acme/buyers")
    with pytest.raises(InputError, match="revision: acme/buyers is a folder here"):
        UserBert.from_pretrained("acme/buyers", revision="main")
    assert not hub.asked


@pytest.mark.parametrize("name", [Path("acme/buyers"), "buyers", "../acme/buyers", "a/b/c", "/a/b"])
def test_what_is_no_name_of_a_hub_is_never_sent_to_it(hub: Hub, name: str | Path) -> None:
    with pytest.raises(ModelError, match="nothing is there"):
        UserBert.from_pretrained(name)
    assert not hub.asked


@pytest.mark.parametrize("harm", ["changed", "missing", "forged link"])
def test_a_download_is_checked_as_any_folder(hub: Hub, folder: Path, harm: str) -> None:
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
    ("status", "code", "told"),
    [
        (404, "RepoNotFound", "neither a folder here nor a model on http.*for a private one log"),
        (401, "RepoNotFound", "neither a folder here nor a model on http.*for a private one log"),
        (403, "GatedRepo", "is gated. Ask for access on its page"),
        (500, "Broken", "was not asked or cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_told(hub: Hub, status: int, code: str, told: str) -> None:
    hub.refuses["acme/buyers"] = (status, code)
    with pytest.raises(ModelError, match=f"^acme/buyers .*{told}") as raised:
        UserBert.from_pretrained("acme/buyers")
    assert "\n" not in str(raised.value)


def test_other_names_that_cannot_be_had_are_told(hub: Hub, folder: Path) -> None:
    hub.commit_folder("acme/buyers", folder)
    with pytest.raises(ModelError, match=r"has no revision 'v9'\. Name a branch"):
        UserBert.from_pretrained("acme/buyers", revision="v9")
    with pytest.raises(ModelError, match="nor among the models that were downloaded"):
        UserBert.from_pretrained("acme/others", local_files_only=True)
    with pytest.raises(ModelError, match=r"^acme/a--b: .* says: "):
        UserBert.from_pretrained("acme/a--b")


def test_a_hub_that_is_away_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9 was not asked or cannot be reached"):
        UserBert.from_pretrained("acme/buyers")


def test_a_model_is_pushed_and_comes_back_the_same(hub: Hub, folder: Path) -> None:
    pushed = UserBert.from_pretrained(folder)
    assert pushed.push_to_hub("acme/buyers", token="hf_writer") == f"{hub.address}/acme/buyers"
    assert hub.private == {"acme/buyers": True}
    assert torch.equal(tokens(UserBert.from_pretrained("acme/buyers")), tokens(pushed))
    files = hub.files["acme/buyers"][hub.branches["acme/buyers"]]
    assert files.keys() == {file.name for file in folder.iterdir()}
    assert b"library_name: userbert" in files["README.md"]


def test_a_push_leaves_nothing_that_told_of_the_model_before(hub: Hub, folder: Path) -> None:
    before = {"metrics.jsonl": b"{}", "picture.png": b"", "README.md": b"old"}
    hub.commit("acme/buyers", before)
    UserBert.from_pretrained(folder).push_to_hub("acme/buyers", token="hf_writer", private=False)
    files = hub.files["acme/buyers"][hub.branches["acme/buyers"]]
    assert files.keys() == {file.name for file in folder.iterdir()} | {"picture.png"}
    assert not hub.private


def test_a_push_that_is_refused_is_told(hub: Hub, folder: Path) -> None:
    network = UserBert.from_pretrained(folder)
    with pytest.raises(InputError, match=r"acme/buyers: .*401.* log in by `hf auth login`"):
        network.push_to_hub("acme/buyers", token="hf_reader")
    with pytest.raises(InputError, match="expected the owner's and the model's name"):
        network.push_to_hub("buyers", token="hf_writer")
    assert not hub.files


def test_without_the_hubs_library_folders_are_read_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    network = UserBert.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"no such folder here.*pip install 'userbert\[hub\]'"):
        UserBert.from_pretrained("acme/buyers")
    with pytest.raises(InputError, match=r"pip install 'userbert\[hub\]'"):
        network.push_to_hub("acme/buyers")


def test_only_the_cache_of_a_hub_may_hold_links(folder: Path, tmp_path: Path) -> None:
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
