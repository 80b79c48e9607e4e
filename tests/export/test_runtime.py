"""Running an exported network without torch, on prepared data and on raw events."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import TensorProto, helper
from starlette.testclient import TestClient

import userbert as ub
from small_logs import SCHEMA, buys, cutoffs, log, prepare_events
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at
from userbert.errors import InputError, ModelError
from userbert.export.export import write_onnx
from userbert.export.load import load_backend
from userbert.export.onnx_file import add_checksum
from userbert.export.runtime import Runtime
from userbert.model.userbert import UserBert, UserBertConfig, embed_pairs
from userbert.service.app import create_app
from userbert.service.loaded_models import load_models
from userbert.tasks.labels import Labels
from userbert.tasks.task_model import TaskModel

PROFILE = "profile: {path: p.csv, fields: {age: {column: age}, kids: {column: kids}}}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Users with words in both segments, in one segment, and older than any window."""
    events = [buys(f"u{n}", f"2017-03-{n + 1:02}", "2017-03-20", genre="milk") for n in range(9)]
    events.append(log(("clicks", "2017-03-19T12:00", "click", "rare", 1.0)))
    events.append(buys("old", "2016-03-01"))
    events.append(buys("often", *[f"2017-03-01T{hour:02}:15" for hour in range(5, 23)] * 4))
    people = pl.DataFrame({"user": ["u0", "u1"], "age": ["old", "young"], "kids": ["0", "1"]})
    folder = tmp_path_factory.mktemp("runtime")
    return prepare_events(folder, pl.concat(events), SCHEMA + PROFILE, profile=people)


@pytest.fixture(scope="module")
def task(data: PreparedData) -> TaskModel:
    """A task of two classes on a network with all options, from which `kids` is hidden."""
    config = UserBertConfig(
        layers=1, hidden=16, heads=2, feed_forward=16, attribute_width=8, pool="all",
        word_sizes=True, summary=True, timing=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UserBert(
            config, data.input_shape(["kids"]), schema=data.schema,
            vocabularies=data.vocabularies, hidden=["kids"], record={"before": 1},
        )  # fmt: skip
        none = np.zeros(0, np.int64)
        labels = Labels("next", "What is next?", "multiclass", (), none, none, ("milk", "bread"))
        return TaskModel(network, labels).eval()


@pytest.fixture(scope="module")
def file(task: TaskModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "next.onnx"
    write_onnx(task, path)
    return path


def test_vectors_and_scores_are_those_of_torch(
    data: PreparedData, task: TaskModel, file: Path
) -> None:
    runtime = ub.Runtime.load(file)
    pairs = pairs_at(data, [data.default_cutoff, *cutoffs("2017-03-05").tolist()])
    order = np.random.default_rng(0).permutation(len(pairs))
    rows, instants = pairs.rows[order], pairs.cutoffs[order]
    expected = embed_pairs(task.user_bert, data, rows, instants)
    assert np.abs(runtime.embed(data, rows, instants) - expected).max() <= 1e-5
    scores = task.scores(data, rows, instants)
    assert np.abs(runtime.scores(data, rows, instants) - scores).max() <= 1e-5
    assert np.abs(runtime.run(data, rows, instants).vectors - expected).max() <= 1e-5
    assert np.array_equal(runtime.embed(data, rows, instants), runtime.embed(data, rows, instants))


def test_no_pairs_give_empty_arrays(data: PreparedData, file: Path) -> None:
    none = np.zeros(0, np.int64)
    runtime = Runtime.load(file)
    answer = runtime.run(data, none, none)
    assert answer.vectors.shape == (0, runtime.width)
    assert answer.scores is not None
    assert answer.scores.shape == (0, 2)


def test_calls_that_need_torch_are_refused_with_advice(data: PreparedData, file: Path) -> None:
    app = create_app(load_models([file], "onnx"), None, data)
    with TestClient(app, base_url="http://localhost") as client:
        while (response := client.get("/v1/map")).status_code == 503:
            time.sleep(0.02)
        assert "score:next" in {colour["name"] for colour in response.json()["colours"]}
        assert client.get("/v1/runs").json() == {"runs": [], "warnings": []}
        for call in ("expected?segment=long_term&number=0&user_id=u1", "explanation?user_id=u1"):
            answer = client.get(f"/v1/{call}")
            assert answer.status_code == 422
            assert "--backend torch" in answer.json()["detail"]


def test_raw_events_have_the_vectors_of_prepared_data(data: PreparedData, file: Path) -> None:
    runtime = Runtime.load(file)
    event = {"action": "buy", "genre": "milk", "price": 1.0}
    users = [
        ub.UserEvents(
            f"u{n}",
            {"log": [{"time": f"2017-03-{n + 1:02}", **event}, {"time": "2017-03-20", **event}]},
            [{"age": "old", "kids": "0"}] if n == 0 else [],
        )
        for n in (4, 0)
    ]
    until = np.repeat(cutoffs("2017-03-21"), 2)
    histories, rows = runtime.histories(users, until)
    live = runtime.embed(histories, rows, until)
    stored = runtime.embed(data, data.rows_of(["u4", "u0"]), until)
    assert np.abs(live - stored).max() <= 1e-5
    with pytest.raises(InputError, match="'u4', log, event 1"):
        runtime.histories([ub.UserEvents("u4", {"log": [{"time": "yesterday", **event}]})])


def test_both_backends_have_the_same_properties(
    task: TaskModel, file: Path, tmp_path: Path
) -> None:
    task.save(tmp_path / "next")
    by_torch, by_onnx = load_backend(tmp_path / "next"), load_backend(file, "onnx", threads=1)
    for name in ("name", "version", "hidden", "width", "record", "task"):
        assert getattr(by_torch, name) == getattr(by_onnx, name), name
    assert by_torch.schema.dump() == by_onnx.schema.dump()
    assert by_torch.vocabularies.fingerprint == by_onnx.vocabularies.fingerprint
    assert (by_torch.runs_on, by_onnx.runs_on) == ("torch", "onnx")
    assert by_onnx.task is not None
    assert (by_onnx.task.question, by_onnx.task.classes) == ("What is next?", ("milk", "bread"))
    task.user_bert.save_pretrained(tmp_path / "model")
    assert load_backend(tmp_path / "model").task is None
    assert load_backend(tmp_path / "model").checksum != by_torch.checksum != by_onnx.checksum


def test_an_exported_network_runs_without_torch(data: PreparedData, file: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = sys.modules["safetensors"] = sys.modules["onnx"] = None
import numpy as np, userbert as ub
from userbert.export.load import load_backend
data, runtime = ub.PreparedData.open(__import__("pathlib").Path({str(data.path)!r})), None
runtime = ub.Runtime.load({str(file)!r})
rows = np.arange(3)
answer = load_backend({str(file)!r}, "onnx").run(data, rows, np.repeat(data.default_cutoff, 3))
assert answer.vectors.shape == (3, runtime.width)
try:
    load_backend({str(file.parent)!r})
except ub.InputError as error:
    assert "pip install 'userbert[train]'" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_onnxruntime_is_reported_with_what_to_install(file: Path) -> None:
    code = f"""
import sys
sys.modules["onnxruntime"] = None
import userbert as ub
from userbert.export.load import load_backend
messages = []
for load in (lambda: ub.Runtime, lambda: load_backend({str(file)!r}, "onnx")):
    try:
        load()
    except ub.InputError as error:
        messages.append(str(error))
assert len(messages) == 2, messages
assert all("pip install 'userbert[serve]'" in message for message in messages), messages
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def newer(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    for entry in model.metadata_props:
        if entry.key == "userbert.format":
            entry.value = "2"
    del model.metadata_props[-1]
    return add_checksum(model.SerializeToString())


def without_schema(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    entries = [
        entry for entry in model.metadata_props if not entry.key.endswith(("yaml", "checksum"))
    ]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    return add_checksum(model.SerializeToString())


def of_another_program(_: bytes) -> bytes:
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Abs", ["x"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [source], [target]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "is not a file that userbert exported"),
        (lambda content: content[:-1], "is not complete. Copy the file again"),
        (lambda content: content[:5000] + b"?" + content[5001:], "has changed since it was"),
        (lambda _: b"", "is not a file that userbert exported"),
        (lambda _: b"user_id,score\n1,2\n", "is not a file that userbert exported"),
        (of_another_program, "is not a file that userbert exported"),
        (newer, "has the format '2', this version reads 1. Install the version"),
        (without_schema, "cannot be read: 'schema.yaml'"),
        (lambda content: add_checksum(content[:5000]), "onnxruntime .* cannot read it"),
    ],
)
def test_damaged_files_are_refused(
    file: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    (tmp_path / "bad.onnx").write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=message) as error:
        Runtime.load(tmp_path / "bad.onnx")
    assert str(tmp_path / "bad.onnx") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_backend_refuses_files_and_folders_of_other_kinds(
    task: TaskModel, file: Path, tmp_path: Path
) -> None:
    task.save(tmp_path / "task")
    with pytest.raises(InputError, match=r"it is a task model\). Write one: userbert export"):
        load_backend(tmp_path / "task", "onnx")
    with pytest.raises(InputError, match="and this is a file"):
        load_backend(file)
    with pytest.raises(ModelError, match="nothing is there"):
        load_backend(tmp_path / "nowhere", "onnx")
    with pytest.raises(ModelError, match="nothing is there"):
        load_backend(tmp_path / "nowhere")


def test_data_with_other_ids_are_refused(task: TaskModel, file: Path, tmp_path: Path) -> None:
    other = prepare_events(tmp_path, buys("a", "2017-03-01", genre="wine"))
    rows, instants = np.zeros(1, np.int64), cutoffs("2017-03-05")
    with pytest.raises(ModelError, match="stand for different values than in the model"):
        Runtime.load(file).embed(other, rows, instants)
    with pytest.raises(ModelError, match="stand for different values than in the model"):
        Runtime.load(file).run(other, rows, instants)


@pytest.mark.slow
def test_a_model_without_a_task_refuses_to_score(
    data: PreparedData, task: TaskModel, tmp_path: Path
) -> None:
    write_onnx(task.user_bert, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="is a model without a task, so it has no scores"):
        Runtime.load(tmp_path / "model.onnx").scores(
            data, np.zeros(1, np.int64), cutoffs("2017-03-05")
        )
