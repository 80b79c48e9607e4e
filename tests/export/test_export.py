"""An exported network computes what torch does, of any batch; a bad export leaves nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CONFIGS, DEFAULT, KINDS, PAPER, network, task

import synthetic
from command_line import Userbert
from userbert.data.batches import UserBatch
from userbert.errors import InputError, ModelError
from userbert.export import export
from userbert.export.export import random_users, write_onnx
from userbert.export.onnx_inputs import Feeding
from userbert.export.onnx_network import Exportable
from userbert.export.runtime import Runtime
from userbert.export.torch_backend import answer
from userbert.model.userbert import UserBert, UserBertConfig
from userbert.tasks.label_files import Kind
from userbert.tasks.task_model import TaskModel

Exported = Callable[[str], tuple[UserBert | TaskModel, Path]]
TASK = "multiclass on default"
NETWORKS: dict[str, Callable[[], UserBert | TaskModel]] = {
    "paper": lambda: network(PAPER),
    "default": lambda: network(DEFAULT),
    TASK: lambda: task("multiclass", DEFAULT),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Networks by name, and the files they were written to, each once."""
    folder = tmp_path_factory.mktemp("exported")
    made: dict[str, tuple[UserBert | TaskModel, Path]] = {}

    def make(name: str) -> tuple[UserBert | TaskModel, Path]:
        if name not in made:
            file = folder / f"{name}.onnx"
            made[name] = (NETWORKS[name](), file)
            write_onnx(*made[name])
        return made[name]

    return make


def assert_same_answers(original: UserBert | TaskModel, runtime: Runtime, users: UserBatch) -> None:
    expected, found = answer(original, users), runtime.answer(users)
    assert found.vectors.dtype == np.float32
    assert found.vectors.shape == expected.vectors.shape
    assert np.abs(found.vectors - expected.vectors).max() <= 1e-5
    assert (found.scores is None) == (expected.scores is None)
    if expected.scores is not None and found.scores is not None:
        assert found.scores.dtype == np.float32
        assert np.allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("paper", marks=pytest.mark.slow),
        pytest.param("default", marks=pytest.mark.slow),
        TASK,
    ],
)
@settings(max_examples=25)
@given(
    words=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12),
    actions=st.sampled_from([1, 4, 5, 40, 300]),
    seed=st.integers(0, 99),
)
def test_any_batch_is_answered_as_by_torch(
    exported: Exported, name: str, words: list[tuple[int, int]], actions: int, seed: int
) -> None:
    original, file = exported(name)
    runtime = _opened(file)
    assert_same_answers(original, runtime, synthetic.batch(words, seed, actions=actions))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@given(
    words=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12),
    actions=st.sampled_from([1, 4, 5, 40, 300]),
    seed=st.integers(0, 99),
)
def test_the_graph_computes_what_the_network_does(
    config: UserBertConfig, words: list[tuple[int, int]], actions: int, seed: int
) -> None:
    original = network(config)
    users = synthetic.batch(words, seed, actions=actions)
    feeds = Feeding(original.shape, summary=config.summary, timing=config.timing)(users)
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        (found,) = Exportable(original)(tensors)
    assert np.abs(found.numpy() - answer(original, users).vectors).max() <= 1e-5


_sessions: dict[Path, Runtime] = {}


def _opened(file: Path) -> Runtime:
    if file not in _sessions:
        _sessions[file] = Runtime.load(file, threads=2)
    return _sessions[file]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_kind_of_task_on_every_kind_of_network(
    tmp_path: Path, kind: Kind, config: UserBertConfig
) -> None:
    original = task(kind, config)
    file = tmp_path / "task.onnx"
    assert write_onnx(original, file).difference <= 1e-5
    runtime = Runtime.load(file)
    assert runtime.task == original.asked
    users = random_users(original.user_bert.shape, np.random.default_rng(3), 40)
    assert_same_answers(original, runtime, users)


def test_a_file_is_onnx_that_says_what_it_is(exported: Exported) -> None:
    original, file = exported(TASK)
    assert isinstance(original, TaskModel)
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert model.producer_name == "userbert"
    assert [output.name for output in model.graph.output] == ["vectors", "scores"]
    told = {entry.key for entry in model.metadata_props}
    names = ["config.json", "schema.yaml", "vocabularies.json", "training.json", "task.json"]
    assert told == {f"userbert.{name}" for name in ["format", "version", "checksum", *names]}
    runtime = Runtime.load(file)
    network = original.user_bert
    assert runtime.schema == network.schema
    assert runtime.vocabularies.fingerprint == network.vocabularies.fingerprint
    assert (runtime.hidden, runtime.record) == (network.hidden, network.record)
    assert (runtime.width, runtime.name) == (network.width(), TASK)


def test_sums_do_not_depend_on_threads(exported: Exported) -> None:
    # onnxruntime's threads lose summands of ScatterND, by which torch exports sums over groups.
    _, file = exported(TASK)
    operations = {node.op_type for node in onnx.load(file).graph.node}
    assert not {name for name in operations if name.startswith("Scatter")}
    users = synthetic.batch([(60, 60)] * 20, actions=100)
    one, two = (Runtime.load(file, threads=threads).answer(users) for threads in (1, 2))
    again = Runtime.load(file, threads=2).answer(users)
    assert np.abs(one.vectors - two.vectors).max() <= 1e-5
    assert np.array_equal(two.vectors, again.vectors)


def test_no_trace_of_the_machine_is_left(exported: Exported) -> None:
    content = exported(TASK)[1].read_bytes()
    assert not re.search(rb"site-packages|stack_trace|\.py\b", content)


@pytest.mark.slow
def test_the_same_network_is_the_same_file(exported: Exported, tmp_path: Path) -> None:
    original, file = exported("paper")
    write_onnx(original, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == file.read_bytes()


@pytest.fixture
def same_file_always(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is exported, the file is that of the task."""
    content = exported(TASK)[1].read_bytes()
    monkeypatch.setattr(export, "onnx_content", lambda *_: content)


@pytest.mark.usefixtures("same_file_always")
def test_a_file_that_computes_something_else_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vectors differ from torch's by"):
        write_onnx(task("multiclass", DEFAULT, seed=1), tmp_path / "deep" / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_larger_than_a_file_may_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LARGEST_FILE", 1000)
    with pytest.raises(ModelError, match="an ONNX file holds 2"):
        write_onnx(network(PAPER), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("same_file_always")
def test_a_network_that_trains_goes_on_training(tmp_path: Path) -> None:
    training = task("multiclass", DEFAULT).train()
    with pytest.raises(InputError, match=r"expected a name that ends in \.onnx"):
        write_onnx(training, tmp_path / "model.bin")
    write_onnx(training, tmp_path / "model.onnx")
    assert training.training
    assert all(weight.requires_grad for weight in training.parameters())


def test_the_command_writes_a_file_once(userbert: Userbert, tmp_path: Path) -> None:
    network(PAPER).save_pretrained(tmp_path / "model")
    done = userbert("export", "model", "-o", "model.onnx")
    assert "vectors differ from torch's by" in done.out
    assert done.appeared == ["model.onnx"]
    assert Runtime.load(tmp_path / "model.onnx").task is None
    told = userbert("export", "model", "-o", "model.onnx").refusal
    assert "model.onnx exists already" in told


def test_what_is_no_network_is_told(userbert: Userbert, tmp_path: Path) -> None:
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused" / "fused.json").write_text("{}")
    told = userbert("export", "fused", "-o", "fused.onnx").refusal
    assert "a task with aggregates" in told
    assert "userbert predict" in told
    told = userbert("export", "nowhere", "-o", "x.onnx").refusal
    assert "neither a model nor a task (nothing is there)" in told
