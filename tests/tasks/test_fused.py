"""The fused model: its members are standardised, and their mean scores users."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from handmade import CUTOFF, instant, make_taste_data, taste_labels, tiny_model
from userbert.cli import app
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at
from userbert.errors import LabelError, ModelError
from userbert.tasks.finetune import FinetuneConfig
from userbert.tasks.fused import FusedModel, finetune_with_aggregates, load_task
from userbert.tasks.metrics import roc_auc
from userbert.tasks.task_model import TaskModel

QUICK = FinetuneConfig(learning_rate=2e-2, batch_size=16, epochs=8, validation=0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return make_taste_data(tmp_path_factory.mktemp("tastes") / "data")


@pytest.fixture(scope="module", params=[False, True], ids=["without timing", "with timing"])
def task(data: PreparedData, request: pytest.FixtureRequest) -> FusedModel:
    model = tiny_model(data, timing=request.param)
    return finetune_with_aggregates(model, data, taste_labels(data, "binary"), config=QUICK)


def test_a_fused_model_is_learned_saved_and_loaded(
    data: PreparedData, task: FusedModel, tmp_path: Path
) -> None:
    labels = taste_labels(data, "binary")
    scores = task.scores(data, data.rows_of(labels.user_ids), labels.cutoffs)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert roc_auc(labels.targets, scores) > 0.9
    timed = {"timed trees"} if task.pretrained.config.timing else set()
    assert task.record["qualities"].keys() == {"network", "regression", "trees"} | timed
    task.save(tmp_path / "task")
    assert (tmp_path / "task/timed-trees.txt").is_file() == bool(timed)
    loaded = load_task(tmp_path / "task")
    assert isinstance(loaded, FusedModel)
    assert loaded.record == task.record
    again = loaded.scores(data, data.rows_of(labels.user_ids), labels.cutoffs)
    np.testing.assert_array_equal(again, scores)
    frame = loaded.predict(data, CUTOFF + "Z")
    assert frame.columns == ["user_id", "cutoff", "score"]
    assert isinstance(load_task(tmp_path / "task/network"), TaskModel)


def test_a_score_does_not_depend_on_who_else_is_in_the_call(
    data: PreparedData, task: FusedModel
) -> None:
    pairs = pairs_at(data, [instant(CUTOFF)])
    together = task.scores(data, pairs.rows, pairs.cutoffs)
    alone = [task.scores(data, pairs.rows[[i]], pairs.cutoffs[[i]])[0] for i in range(5)]
    np.testing.assert_allclose(alone, together[:5], atol=1e-6)
    assert len(task.scores(data, pairs.rows[:0], pairs.cutoffs[:0])) == 0


def test_tasks_of_many_classes_are_refused(data: PreparedData) -> None:
    with pytest.raises(LabelError, match="Use finetune without aggregates"):
        finetune_with_aggregates(tiny_model(data), data, taste_labels(data, "multiclass"))


def test_one_user_with_an_answer_is_refused_and_two_are_enough(data: PreparedData) -> None:
    labels = taste_labels(data)
    rare = np.flatnonzero(labels.targets == 1)
    common = np.flatnonzero(labels.targets == 0)
    config = FinetuneConfig(epochs=1)
    one_rare = labels.take(np.append(common, rare[:1]))
    with pytest.raises(LabelError, match="too few users have the rarer answer"):
        finetune_with_aggregates(tiny_model(data), data, one_rare, config=config)
    two_rare = labels.take(np.append(common, rare[:2]))
    fused = finetune_with_aggregates(tiny_model(data), data, two_rare, config=config)
    assert np.isfinite([*fused.weights.values(), fused.record["quality"]]).all()


@pytest.mark.parametrize("name", ["fused.json", "regression.safetensors", "trees.txt"])
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_damage_is_refused(task: FusedModel, tmp_path: Path, name: str, damage: str) -> None:
    task.save(tmp_path / "task")
    file = tmp_path / "task" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    if damage == "flip":
        file.write_bytes(content)
    with pytest.raises(ModelError):
        FusedModel.load(tmp_path / "task")


def test_the_command_line_learns_applies_and_shows_a_fused_model(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(data).save_pretrained(tmp_path / "model")
    taste_labels(data, "binary").save(tmp_path / "labels.parquet")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    learn = ["finetune", "model", str(data.path), "--labels", "labels.parquet"]
    output = run(*learn, "--with-aggregates", "-o", "task")
    assert "network 0." in output.replace("\n", " ")
    assert "60 users" in run("predict", "task", str(data.path), "-o", "scores.parquet")
    assert "trees alone" in run("inspect", "task")
    refused = CliRunner().invoke(app, [*learn, "--with-aggregates", "--from-scratch", "-o", "new"])
    assert refused.exit_code != 0
    result = CliRunner().invoke(app, ["explain", "task", str(data.path), "--user", "u1"])
    assert "task/network" in str(result.exception)
