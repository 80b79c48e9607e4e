"""An exported network computes the same as torch for any batch; a failed export leaves no file."""

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
from userbert.export.export import random_batch, write_onnx
from userbert.export.onnx_inputs import InputEncoder
from userbert.export.onnx_network import OnnxNetwork
from userbert.export.runtime import Runtime
from userbert.export.torch_backend import answer_batch
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
    """Return a function from a name to a network and its exported file, each written once."""
    folder = tmp_path_factory.mktemp("exported")
    cache: dict[str, tuple[UserBert | TaskModel, Path]] = {}

    def export_once(name: str) -> tuple[UserBert | TaskModel, Path]:
        if name not in cache:
            file = folder / f"{name}.onnx"
            cache[name] = (NETWORKS[name](), file)
            write_onnx(*cache[name])
        return cache[name]

    return export_once


def assert_same_answers(original: UserBert | TaskModel, runtime: Runtime, users: UserBatch) -> None:
    expected, actual = answer_batch(original, users), runtime.answer(users)
    assert actual.vectors.dtype == np.float32
    assert actual.vectors.shape == expected.vectors.shape
    assert np.abs(actual.vectors - expected.vectors).max() <= 1e-5
    assert (actual.scores is None) == (expected.scores is None)
    if expected.scores is not None and actual.scores is not None:
        assert actual.scores.dtype == np.float32
        assert np.allclose(actual.scores, expected.scores, rtol=1e-5, atol=1e-5)


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
def test_answers_equal_those_of_torch_for_any_batch(
    exported: Exported, name: str, words: list[tuple[int, int]], actions: int, seed: int
) -> None:
    original, file = exported(name)
    runtime = _load_once(file)
    assert_same_answers(original, runtime, synthetic.batch(words, seed, actions=actions))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@given(
    words=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12),
    actions=st.sampled_from([1, 4, 5, 40, 300]),
    seed=st.integers(0, 99),
)
def test_the_graph_computes_the_same_as_the_network(
    config: UserBertConfig, words: list[tuple[int, int]], actions: int, seed: int
) -> None:
    original = network(config)
    users = synthetic.batch(words, seed, actions=actions)
    inputs = InputEncoder(original.shape, summary=config.summary, timing=config.timing)(users)
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        (vectors,) = OnnxNetwork(original)(tensors)
    assert np.abs(vectors.numpy() - answer_batch(original, users).vectors).max() <= 1e-5


_runtimes: dict[Path, Runtime] = {}


def _load_once(file: Path) -> Runtime:
    if file not in _runtimes:
        _runtimes[file] = Runtime.load(file, threads=2)
    return _runtimes[file]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_kind_of_task_is_exported_with_every_kind_of_network(
    tmp_path: Path, kind: Kind, config: UserBertConfig
) -> None:
    original = task(kind, config)
    file = tmp_path / "task.onnx"
    assert write_onnx(original, file).difference <= 1e-5
    runtime = Runtime.load(file)
    assert runtime.task == original.spec
    users = random_batch(original.user_bert.shape, np.random.default_rng(3), 40)
    assert_same_answers(original, runtime, users)


def test_a_file_is_valid_onnx_with_metadata(exported: Exported) -> None:
    original, file = exported(TASK)
    assert isinstance(original, TaskModel)
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert model.producer_name == "userbert"
    assert [output.name for output in model.graph.output] == ["vectors", "scores"]
    keys = {entry.key for entry in model.metadata_props}
    names = ["config.json", "schema.yaml", "vocabularies.json", "training.json", "task.json"]
    assert keys == {f"userbert.{name}" for name in ["format", "version", "checksum", *names]}
    runtime = Runtime.load(file)
    network = original.user_bert
    assert runtime.schema == network.schema
    assert runtime.vocabularies.fingerprint == network.vocabularies.fingerprint
    assert (runtime.hidden, runtime.record) == (network.hidden, network.record)
    assert (runtime.width, runtime.name) == (network.width(), TASK)


def test_sums_do_not_depend_on_threads(exported: Exported) -> None:
    # With ScatterND, which torch exports for sums over groups, onnxruntime's threads lose summands.
    _, file = exported(TASK)
    operations = {node.op_type for node in onnx.load(file).graph.node}
    assert not {name for name in operations if name.startswith("Scatter")}
    users = synthetic.batch([(60, 60)] * 20, actions=100)
    one_thread, two_threads = (
        Runtime.load(file, threads=threads).answer(users) for threads in (1, 2)
    )
    repeated = Runtime.load(file, threads=2).answer(users)
    assert np.abs(one_thread.vectors - two_threads.vectors).max() <= 1e-5
    assert np.array_equal(two_threads.vectors, repeated.vectors)


def test_a_file_holds_no_paths_of_the_machine(exported: Exported) -> None:
    content = exported(TASK)[1].read_bytes()
    assert not re.search(rb"site-packages|stack_trace|\.py\b", content)


@pytest.mark.slow
def test_exporting_a_network_twice_writes_the_same_bytes(
    exported: Exported, tmp_path: Path
) -> None:
    original, file = exported("paper")
    write_onnx(original, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == file.read_bytes()


@pytest.fixture
def same_file_always(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the content of every export by that of the task."""
    content = exported(TASK)[1].read_bytes()
    monkeypatch.setattr(export, "onnx_content", lambda *_: content)


@pytest.mark.usefixtures("same_file_always")
def test_a_file_with_other_answers_than_torch_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="outputs differ from torch's by"):
        write_onnx(task("multiclass", DEFAULT, seed=1), tmp_path / "deep" / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_above_the_file_size_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="an ONNX file holds at most 2"):
        write_onnx(network(PAPER), tmp_path / "model.onnx", max_size=1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("same_file_always")
def test_export_leaves_a_network_in_training_mode(tmp_path: Path) -> None:
    training = task("multiclass", DEFAULT).train()
    with pytest.raises(InputError, match=r"expected a name that ends in \.onnx"):
        write_onnx(training, tmp_path / "model.bin")
    write_onnx(training, tmp_path / "model.onnx")
    assert training.training
    assert all(weight.requires_grad for weight in training.parameters())


def test_the_command_writes_a_file_and_refuses_to_overwrite_it(
    userbert: Userbert, tmp_path: Path
) -> None:
    network(PAPER).save_pretrained(tmp_path / "model")
    done = userbert("export", "model", "-o", "model.onnx")
    assert "vectors differ from torch's by" in done.out
    assert done.appeared == ["model.onnx"]
    assert Runtime.load(tmp_path / "model.onnx").task is None
    refusal = userbert("export", "model", "-o", "model.onnx").refusal
    assert "model.onnx exists already" in refusal


def test_folders_without_a_network_are_refused(userbert: Userbert, tmp_path: Path) -> None:
    (tmp_path / "fused").mkdir()
    (tmp_path / "fused" / "fused.json").write_text("{}")
    refusal = userbert("export", "fused", "-o", "fused.onnx").refusal
    assert "a task with aggregates" in refusal
    assert "userbert predict" in refusal
    refusal = userbert("export", "nowhere", "-o", "x.onnx").refusal
    assert "neither a model nor a task (nothing is there)" in refusal
