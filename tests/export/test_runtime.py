"""What was exported is run without torch, from prepared data and from raw events."""

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
from small_logs import SCHEMA, buys, cutoffs, log, prepared
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at
from userbert.errors import InputError, ModelError
from userbert.export.export import write_onnx
from userbert.export.load import load_backend
from userbert.export.onnx_file import sealed
from userbert.export.runtime import Runtime
from userbert.model.userbert import UserBert, UserBertConfig, embed_pairs
from userbert.service.app import create_app
from userbert.service.loaded_models import load_all
from userbert.tasks.labels import Labels
from userbert.tasks.task_model import TaskModel

PROFILE = "profile: {path: p.csv, fields: {age: {column: age}, kids: {column: kids}}}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Users of both segments, of one, and one whose words are older than any window."""
    events = [buys(f"u{n}", f"2017-03-{n + 1:02}", "2017-03-20", genre="milk") for n in range(9)]
    events.append(log(("clicks", "2017-03-19T12:00", "click", "rare", 1.0)))
    events.append(buys("old", "2016-03-01"))
    events.append(buys("often", *[f"2017-03-01T{hour:02}:15" for hour in range(5, 23)] * 4))
    people = pl.DataFrame({"user": ["u0", "u1"], "age": ["old", "young"], "kids": ["0", "1"]})
    folder = tmp_path_factory.mktemp("runtime")
    return prepared(folder, pl.concat(events), SCHEMA + PROFILE, profile=people)


@pytest.fixture(scope="module")
def task(data: PreparedData) -> TaskModel:
    """A task of two classes that does not see `kids`, on a network with all there is."""
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


def test_of_nobody_there_is_nothing(data: PreparedData, file: Path) -> None:
    none = np.zeros(0, np.int64)
    runtime = Runtime.load(file)
    found = runtime.run(data, none, none)
    assert found.vectors.shape == (0, runtime.width)
    assert found.scores is not None
    assert found.scores.shape == (0, 2)


def test_what_takes_the_network_itself_is_refused_with_the_way_out(
    data: PreparedData, file: Path
) -> None:
    app = create_app(load_all([file], "onnx"), None, data)
    with TestClient(app, base_url="http://localhost") as client:
        while (shown := client.get("/v1/map")).status_code == 503:
            time.sleep(0.02)
        assert "score:next" in {one["name"] for one in shown.json()["colours"]}
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
    ours = runtime.embed(histories, rows, until)
    theirs = runtime.embed(data, data.rows_of(["u4", "u0"]), until)
    assert np.abs(ours - theirs).max() <= 1e-5
    with pytest.raises(InputError, match="'u4', log, event 1"):
        runtime.histories([ub.UserEvents("u4", {"log": [{"time": "yesterday", **event}]})])


def test_both_backends_say_the_same_of_themselves(
    task: TaskModel, file: Path, tmp_path: Path
) -> None:
    task.save(tmp_path / "next")
    there, here = load_backend(tmp_path / "next"), load_backend(file, "onnx", threads=1)
    for name in ("name", "version", "hidden", "width", "record", "task"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.schema.dump() == here.schema.dump()
    assert there.vocabularies.fingerprint == here.vocabularies.fingerprint
    assert (there.runs_on, here.runs_on) == ("torch", "onnx")
    assert here.task is not None
    assert (here.task.question, here.task.classes) == ("What is next?", ("milk", "bread"))
    task.user_bert.save_pretrained(tmp_path / "model")
    assert load_backend(tmp_path / "model").task is None
    assert load_backend(tmp_path / "model").checksum != there.checksum != here.checksum


def test_it_runs_without_torch(data: PreparedData, file: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = sys.modules["safetensors"] = sys.modules["onnx"] = None
import numpy as np, userbert as ub
from userbert.export.load import load_backend
data, runtime = ub.PreparedData.open(__import__("pathlib").Path({str(data.path)!r})), None
runtime = ub.Runtime.load({str(file)!r})
rows = np.arange(3)
found = load_backend({str(file)!r}, "onnx").run(data, rows, np.repeat(data.default_cutoff, 3))
assert found.vectors.shape == (3, runtime.width)
try:
    load_backend({str(file.parent)!r})
except ub.InputError as error:
    assert "pip install 'userbert[train]'" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_onnxruntime_it_says_what_to_install(file: Path) -> None:
    code = f"""
import sys
sys.modules["onnxruntime"] = None
import userbert as ub
from userbert.export.load import load_backend
told = []
for load in (lambda: ub.Runtime, lambda: load_backend({str(file)!r}, "onnx")):
    try:
        load()
    except ub.InputError as error:
        told.append(str(error))
assert len(told) == 2 and all("pip install 'userbert[serve]'" in one for one in told), told
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def newer(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    for entry in model.metadata_props:
        if entry.key == "userbert.format":
            entry.value = "2"
    del model.metadata_props[-1]
    return sealed(model.SerializeToString())


def without_schema(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    kept = [entry for entry in model.metadata_props if not entry.key.endswith(("yaml", "checksum"))]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return sealed(model.SerializeToString())


def of_another_program(_: bytes) -> bytes:
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Abs", ["x"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [one], [other]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda content: content[: len(content) // 2], "is not a file that userbert exported"),
        (lambda content: content[:-1], "is not complete. Copy the file again"),
        (lambda content: content[:5000] + b"?" + content[5001:], "has changed since it was"),
        (lambda _: b"", "is not a file that userbert exported"),
        (lambda _: b"user_id,score\n1,2\n", "is not a file that userbert exported"),
        (of_another_program, "is not a file that userbert exported"),
        (newer, "has the format '2', this version reads 1. Install the version"),
        (without_schema, "cannot be read: 'schema.yaml'"),
        (lambda content: sealed(content[:5000]), "onnxruntime .* cannot read it"),
    ],
)
def test_files_that_cannot_be_read_are_told(
    file: Path, tmp_path: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    (tmp_path / "bad.onnx").write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=told) as caught:
        Runtime.load(tmp_path / "bad.onnx")
    assert str(tmp_path / "bad.onnx") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_backend_does_not_read_is_told(task: TaskModel, file: Path, tmp_path: Path) -> None:
    task.save(tmp_path / "task")
    with pytest.raises(InputError, match=r"it is a task model\). Write one: userbert export"):
        load_backend(tmp_path / "task", "onnx")
    with pytest.raises(InputError, match="and this is a file"):
        load_backend(file)
    with pytest.raises(ModelError, match="nothing is there"):
        load_backend(tmp_path / "nowhere", "onnx")
    with pytest.raises(ModelError, match="nothing is there"):
        load_backend(tmp_path / "nowhere")


def test_other_data_and_models_without_a_task_are_told(
    task: TaskModel, file: Path, tmp_path: Path
) -> None:
    other = prepared(tmp_path, buys("a", "2017-03-01", genre="wine"))
    rows, instants = np.zeros(1, np.int64), cutoffs("2017-03-05")
    with pytest.raises(ModelError, match="mean other values than the model's"):
        Runtime.load(file).embed(other, rows, instants)
    with pytest.raises(ModelError, match="mean other values than the model's"):
        Runtime.load(file).run(other, rows, instants)


@pytest.mark.slow
def test_a_model_without_a_task_has_no_scores(
    data: PreparedData, task: TaskModel, tmp_path: Path
) -> None:
    write_onnx(task.user_bert, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="Scores are those of a task"):
        Runtime.load(tmp_path / "model.onnx").scores(
            data, np.zeros(1, np.int64), cutoffs("2017-03-05")
        )
