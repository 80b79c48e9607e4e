"""Fine-tuning learns every kind of task, and refuses labels that leak."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from handmade import CUTOFF, instant, make_taste_data, taste_labels, tiny_model
from userbert.data.store import PreparedData
from userbert.data.use.loading import sequence_lengths
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.data.use.sequences import cut
from userbert.errors import InputError, LabelError, ModelError
from userbert.tasks.finetune import FinetuneConfig, finetune, quality
from userbert.tasks.labelled_batches import split_by_length
from userbert.tasks.task_head import TaskHead, mean_loss
from userbert.tasks.task_model import TaskModel
from userbert.training.pretrain import fingerprint
from userbert.training.tracking import Line, LogLine

QUICK = FinetuneConfig(learning_rate=2e-2, batch_size=16, epochs=24, validation=0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return make_taste_data(tmp_path_factory.mktemp("tastes") / "data")


def scores_of(task: TaskModel, data: PreparedData) -> np.ndarray:
    pairs = pairs_at(data, [instant(CUTOFF)])
    return task.scores(data, pairs.rows, pairs.cutoffs)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_each_kind_of_task_is_learned_saved_and_loaded(
    data: PreparedData, tmp_path: Path, kind: str
) -> None:
    labels = taste_labels(data, kind)
    assert labels.kind == kind
    task = finetune(tiny_model(data), data, labels, config=QUICK)
    scores = scores_of(task, data)
    good = {"binary": 0.95, "regression": -1.0}.get(kind, 0.9)
    assert quality(labels, labels.targets, scores) > good
    if scores.ndim == 2:
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    task.save(tmp_path / "task")
    loaded = TaskModel.load(tmp_path / "task")
    np.testing.assert_array_equal(scores_of(loaded, data), scores)
    assert loaded.record == task.record
    assert (loaded.labels.classes, loaded.labels.question) == (labels.classes, labels.question)
    assert len(loaded.predict(data, CUTOFF + "Z")) == 60


def test_trackers_receive_every_epoch(data: PreparedData) -> None:
    received: list[Line] = []

    class Listener:
        @contextmanager
        def follow(
            self, settings: Mapping[str, Any], lines: Sequence[Line], folder: Path | None
        ) -> Iterator[LogLine]:
            assert (settings["epochs"], settings["data"]) == (2, data.checksum)
            assert (lines, folder) == ([], None)
            yield received.append

    config = QUICK.model_copy(update={"epochs": 2})
    task = finetune(
        tiny_model(data), data, taste_labels(data), config=config, trackers=[Listener()]
    )
    qualities = [line["validation"]["quality"] for line in received if "validation" in line]
    assert len(qualities) == 2
    assert task.record["quality"] >= max(qualities)


def test_equal_seeds_give_equal_weights_and_the_model_is_unchanged(
    data: PreparedData,
) -> None:
    model, labels = tiny_model(data), taste_labels(data)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    first, again = (finetune(model, data, labels, config=QUICK) for _ in range(2))
    np.testing.assert_array_equal(scores_of(first, data), scores_of(again, data))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_from_scratch_does_not_depend_on_the_pretrained_weights(data: PreparedData) -> None:
    labels = taste_labels(data)
    scores = [
        scores_of(
            finetune(tiny_model(data, seed), data, labels, config=QUICK, from_scratch=True), data
        )
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])


def test_from_scratch_keeps_the_statistics_of_timing(data: PreparedData) -> None:
    timed = tiny_model(data, timing=True)
    assert timed.embedding.timing is not None
    timed.embedding.timing.mean.fill_(2)
    task = finetune(timed, data, taste_labels(data), config=QUICK, from_scratch=True)
    assert task.user_bert.embedding.timing is not None
    assert (task.user_bert.embedding.timing.mean == 2).all()


def test_labels_outside_the_training_part_are_not_read(data: PreparedData) -> None:
    labels = taste_labels(data)
    swapped = replace(labels, targets=np.r_[labels.targets[:40], 1 - labels.targets[40:]])
    train, validation = np.arange(30), np.arange(30, 40)
    scores = [
        scores_of(
            finetune(
                tiny_model(data), data, task, config=QUICK, train_on=train, validate_on=validation
            ),
            data,
        )
        for task in (labels, swapped)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])


def test_a_batch_in_parts_has_the_loss_of_the_full_batch(data: PreparedData) -> None:
    labels = taste_labels(data)
    task = TaskModel(tiny_model(data), labels).eval()
    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    batch = cut(data, pairs.rows, pairs.cutoffs, task.hidden)
    parts = list(split_by_length(batch))
    np.testing.assert_array_equal(np.concatenate([part.index for part in parts]), batch.index)
    outputs = torch.cat([task(part) for part in parts])
    torch.testing.assert_close(outputs, task(batch))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        task(batch)[:, 0], torch.from_numpy(labels.targets.astype(np.float32))
    )
    torch.testing.assert_close(mean_loss(task, task.head, batch, labels.targets), expected)


def test_users_without_words_are_scored(data: PreparedData) -> None:
    task = TaskModel(tiny_model(data), taste_labels(data)).eval()
    scores = task.scores(data, np.arange(3), np.full(3, instant("2019-01-01")))
    assert np.isfinite(scores).all()


def test_labels_may_be_a_frame(data: PreparedData) -> None:
    labels = taste_labels(data)
    frame = pl.DataFrame({"user_id": labels.user_ids, "label": labels.targets})
    task = finetune(tiny_model(data), data, frame, config=QUICK)
    scores = task.predict(data, at=frame.head(3))
    assert scores.columns == ["user_id", "cutoff", "score"]
    assert scores["user_id"].to_list() == list(labels.user_ids[:3])


def test_predicted_classes_are_sorted_best_first(data: PreparedData) -> None:
    task = finetune(tiny_model(data), data, taste_labels(data, "multilabel"), config=QUICK)
    frame = task.predict(data, CUTOFF + "Z")
    for values, scores in zip(frame["values"], frame["scores"], strict=True):
        assert set(values) == {"apple", "bread", "cheese", "date"}
        assert list(scores) == sorted(scores, reverse=True)


def test_a_cutoff_before_the_end_of_pretraining_is_refused(data: PreparedData) -> None:
    model, labels = tiny_model(data), taste_labels(data)
    model.record["before"] += 1
    with pytest.raises(LabelError, match="pretrain DATA -o MODEL --before 2020-02-01T12:00:00Z"):
        finetune(model, data, labels, config=QUICK)
    finetune(model, data, labels, config=QUICK, from_scratch=True)
    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    model.record["at"] = fingerprint(data, pairs)
    finetune(model, data, labels, config=QUICK)


def test_a_model_that_reads_a_leaking_field_is_refused(data: PreparedData) -> None:
    with pytest.raises(LabelError, match=r"sees kids.*--hide age --hide kids"):
        finetune(tiny_model(data, hide=("age",)), data, taste_labels(data), config=QUICK)


def test_a_damaged_task_folder_is_refused(data: PreparedData, tmp_path: Path) -> None:
    TaskModel(tiny_model(data), taste_labels(data)).save(tmp_path / "task")
    with pytest.raises(InputError, match="exists already"):
        TaskModel(tiny_model(data), taste_labels(data)).save(tmp_path / "task")
    (tmp_path / "task" / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="changed since it was written"):
        TaskModel.load(tmp_path / "task")
    with pytest.raises(ModelError, match="not a task model"):
        TaskModel.load(tmp_path)


def test_a_head_computes_in_float32_under_bf16_autocast(data: PreparedData) -> None:
    task = TaskModel(tiny_model(data), taste_labels(data)).eval()
    vectors = torch.randn(3, task.head.in_features)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = task.head(vectors)
    assert torch.equal(outputs, task.head(vectors))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_a_probe_is_the_best_regression_on_fixed_vectors(data: PreparedData, kind: str) -> None:
    labels = taste_labels(data, kind)
    head = TaskHead(3, labels)
    head.start(labels.targets)
    random = np.random.default_rng(0)
    target = labels.targets if labels.targets.ndim == 1 else labels.targets[:, 1]
    vectors = torch.from_numpy(
        np.c_[target + random.normal(size=len(labels)), random.normal(size=(len(labels), 2)) * 30]
    ).float()
    head.probe(vectors, labels.targets.copy(), penalty=1e-3)
    weight, bias = (part.detach().clone().requires_grad_() for part in (head.weight, head.bias))
    scale = vectors.std(dim=0, correction=0)
    outputs = torch.nn.functional.linear(vectors, weight, bias)
    loss = head.losses(outputs, labels.targets.copy()).mean()
    (loss + 1e-3 / 2 * (weight * scale).square().sum()).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert bias.grad is not None
    assert (weight.grad / scale).abs().max() < 1e-3
    assert bias.grad.abs().max() < 1e-3
    head.probe(vectors, labels.targets.copy(), penalty=1e6)
    assert head.weight.abs().max() < 1e-3


def test_max_words_ends_training_early(data: PreparedData) -> None:
    labels = taste_labels(data)
    steps: list[int] = []

    class Listener:
        @contextmanager
        def follow(self, *_: object) -> Iterator[LogLine]:
            yield lambda line: steps.append(line["step"])

    pairs = Pairs(data.rows_of(labels.user_ids), labels.cutoffs)
    words = int(sequence_lengths(data, pairs.rows, pairs.cutoffs).sum())
    ends = []
    for epochs in (3, 1.5, 0):
        bound = QUICK.model_copy(update={"epochs": 2, "max_words": max(1, int(epochs * words))})
        finetune(
            tiny_model(data),
            data,
            labels,
            config=bound,
            train_on=np.arange(len(labels)),
            validate_on=np.arange(20),
            trackers=[Listener()],
        )
        ends.append(steps[-1])
    per_epoch = -(-len(labels) // QUICK.batch_size)
    assert ends == [2 * per_epoch, int(1.5 * per_epoch), 1]


def test_the_probe_on_unchanged_vectors_may_be_the_best_epoch(data: PreparedData) -> None:
    """Epochs at a negligible learning rate change nothing, so epoch 0, the probe, is kept."""
    model, labels = tiny_model(data), taste_labels(data)
    frozen = FinetuneConfig(learning_rate=1e-12, batch_size=16, epochs=2, validation=0.2)
    task = finetune(model, data, labels, config=frozen)
    assert task.record["best_epoch"] == 0
    for name, weight in task.user_bert.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_with_pool_all_the_head_reads_the_whole_embedding(data: PreparedData) -> None:
    model = tiny_model(data)
    assert TaskModel(model, taste_labels(data)).head.in_features == 16
    model.config = model.config.model_copy(update={"pool": "all"})
    assert TaskModel(model, taste_labels(data)).head.in_features == 3 * 16  # with the profile
