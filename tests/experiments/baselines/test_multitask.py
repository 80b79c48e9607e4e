"""Tests of the multi-task losses: which labels count."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synthetic import batch, take
from userbert.data.batches import UserBatch
from userbert.experiments.baselines.multitask import MultiTask, multitask

TARGETS = np.array([[0, -1], [1, -1], [-1, 2]])
GENERATOR = np.random.default_rng(0)


class Fixed(nn.Module):
    """Encoder that returns the same vector for every user."""

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(2))

    def forward(self, users: UserBatch) -> Tensor:
        return self.vector.expand(len(users), -1)


def _model() -> MultiTask:
    module = MultiTask(Fixed(), (2, 3))
    nn.init.zeros_(module.heads.bias)
    return module


def test_loss_is_the_mean_over_users_whose_label_is_known() -> None:
    module = _model()
    with torch.no_grad():
        module.heads.bias[:] = torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0])
    losses = multitask(("first", "second"), TARGETS)(module, batch([[1, 1]] * 3), GENERATOR)
    first = [np.log(1 + np.e), np.log(1 + np.e) - 1]
    assert list(losses) == ["first", "second"]
    assert losses["first"].item() == pytest.approx(np.mean(first), rel=1e-5)
    assert losses["second"].item() == pytest.approx(np.log(2 + np.exp(2)) - 2, rel=1e-5)


def test_the_index_of_the_batch_selects_the_labels() -> None:
    module, losses = _model(), multitask(("first", "second"), TARGETS)
    with torch.no_grad():
        module.heads.bias[1] = 1.0
    users = batch([[1, 1]] * 3)
    alone = losses(module, take(users, [1]), GENERATOR)["first"]
    assert alone.item() == pytest.approx(np.log(1 + np.e) - 1, rel=1e-5)


def test_a_task_without_known_labels_adds_nothing() -> None:
    module = _model()
    losses = multitask(("first", "second"), TARGETS)(module, batch([[1, 1]] * 2), GENERATOR)
    assert losses["second"].item() == 0
    losses["second"].backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and not weight.grad.any() for weight in module.parameters())


def test_each_task_has_a_head() -> None:
    outputs = MultiTask(Fixed(), (2, 3))(batch([[1, 1]] * 4))
    assert [output.shape for output in outputs] == [(4, 2), (4, 3)]
