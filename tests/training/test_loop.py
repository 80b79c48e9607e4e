"""The training loop: resumes bit for bit, logs metrics, stops when it diverges."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from synthetic import batch, model
from userbert.data.batches import UserBatch
from userbert.errors import InputError, ModelError
from userbert.model.userbert import UserBert
from userbert.training.checkpoint import METRICS_FILE
from userbert.training.loop import LoopConfig, train
from userbert.training.objectives import masked_words

CONFIG = LoopConfig(steps=20, learning_rate=1e-2, log_every=4, checkpoint_every=10)
LONG = LoopConfig(steps=200, learning_rate=1e-2, log_every=50, checkpoint_every=160)


class Batches:
    """Batches by step; raises at the step at which the machine dies."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at

    def __getitem__(self, step: int) -> UserBatch:
        if step == self.dies_at:
            raise KeyboardInterrupt
        return batch([[6, 3], [2, 0], [1, 4]], seed=step % 2, actions=2)


def _model() -> UserBert:
    torch.manual_seed(0)
    return model()


def _timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: line[key] for key in line if key != "users_per_s"} for line in lines]


def test_interrupted_run_detaches_from_the_module() -> None:
    network = _model()
    with pytest.raises(KeyboardInterrupt):
        train(network, masked_words, Batches(dies_at=3), CONFIG)
    assert network.embedding.tables.before_read is None
    assert all(head.deferred is None for part in network.heads for head in part.attributes)


@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, decay: float) -> None:
    config = CONFIG.model_copy(update={"decay": decay})
    uninterrupted, interrupted = _model(), _model()
    expected = train(uninterrupted, masked_words, Batches(), config)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted, masked_words, Batches(dies_at=13), config, folder=tmp_path)
    resumed_model = model()
    torch.manual_seed(99)
    resumed = train(resumed_model, masked_words, Batches(), config, folder=tmp_path)
    for name, weight in uninterrupted.state_dict().items():
        assert torch.equal(weight, resumed_model.state_dict()[name]), name
    assert _timeless(resumed.lines) == _timeless(expected.lines)
    assert resumed.users == expected.users == 60
    written = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert written == resumed.lines


def test_learning_rate_is_constant_and_then_falls_to_almost_zero() -> None:
    assert {CONFIG.learning_rate_at(step) for step in range(1, 21)} == {1e-2}
    falling = LoopConfig(steps=1000, learning_rate=1e-2, decay=0.4)
    rates = [falling.learning_rate_at(step) for step in range(1, 1001)]
    assert set(rates[:600]) == {1e-2}
    assert all(first >= second > 0 for first, second in pairwise(rates))
    assert len(set(rates)) == 21
    assert np.isclose(np.mean(rates[600:]), 5e-3, rtol=0.01)
    assert np.isclose(rates[-1], 1e-2 / 21)
    lines = train(_model(), masked_words, Batches(), CONFIG.model_copy(update={"decay": 0.5})).lines
    logged = [line["learning_rate"] for line in lines if "loss" in line]
    assert logged[0] == 1e-2
    assert logged[-1] < 2e-3


def test_training_lowers_the_loss_and_leaves_global_randomness_alone() -> None:
    torch.manual_seed(5)
    network = model()
    state = torch.get_rng_state()
    lines = train(network, masked_words, Batches(), LONG).lines
    assert torch.equal(torch.get_rng_state(), state)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [line["step"] for line in lines] == [50, 100, 150, 160, 200]
    assert sum(lines[0]["losses"].values()) == pytest.approx(lines[0]["loss"])


def test_validation_is_logged_at_every_pause_and_training_continues() -> None:
    network = _model()

    def validate() -> dict[str, float]:
        network.eval()
        return {"loss": 1.0}

    lines = train(network, masked_words, Batches(), CONFIG, validate=validate).lines
    assert [line["step"] for line in lines if "validation" in line] == [10, 20]
    assert network.training


def test_bf16_learns_and_keeps_weights_in_float32() -> None:
    network = _model()
    config = LONG.model_copy(update={"precision": "bf16"})
    lines = train(network, masked_words, Batches(), config).lines
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_divergence_stops_with_advice() -> None:
    def diverging(
        network: UserBert, users: UserBatch, generator: np.random.Generator
    ) -> Mapping[str, Tensor]:
        return {"loss": masked_words(network, users, generator)["long_term.shop"] * torch.nan}

    with pytest.raises(InputError, match="Lower learning_rate"):
        train(_model(), diverging, Batches(), CONFIG)


@pytest.mark.parametrize("content", [None, "{not a line}\n"])
def test_missing_or_damaged_metrics_are_named(tmp_path: Path, content: str | None) -> None:
    batches = {step: batch([[2, 1], [1, 0]]) for step in range(2)}
    train(model(), masked_words, batches, LoopConfig(steps=1), folder=tmp_path)
    if content is None:
        (tmp_path / METRICS_FILE).unlink()
    else:
        (tmp_path / METRICS_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"metrics\.jsonl cannot be read.*start again"):
        train(model(), masked_words, batches, LoopConfig(steps=2), folder=tmp_path)


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    train(_model(), masked_words, Batches(), CONFIG, folder=tmp_path)
    with pytest.raises(ModelError, match="not a checkpoint of this run"):
        train(torch.nn.Linear(2, 2), _never, Batches(), CONFIG, folder=tmp_path)


def _never(
    network: torch.nn.Linear, users: UserBatch, generator: np.random.Generator
) -> Mapping[str, Tensor]:
    raise AssertionError
