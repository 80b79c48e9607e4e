"""Adam with row updates moves weights as dense Adam does."""
# mypy: disable-error-code="no-untyped-call"

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synthetic import batch, model, shape
from userbert import kernels
from userbert.model.tables import AttributeTables
from userbert.model.userbert import UserBertConfig
from userbert.training.objectives import masked_words
from userbert.training.optim import Adam


def tables(seed: int = 0, scale: float = 1.0) -> AttributeTables:
    torch.manual_seed(seed)
    result = AttributeTables([40, 20], 8)
    torch.nn.init.normal_(result.weight, std=scale)
    return result


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 400), st.sampled_from([1e-4, 1e-3, 1.0]), st.booleans()
)
def test_row_updates_equal_those_of_dense_adam(
    seed: int, steps: int, scale: float, native: bool
) -> None:
    rng = np.random.default_rng(seed)
    ours, plain = tables(), tables()
    adam = Adam(torch.nn.ModuleList([ours, torch.nn.Linear(1, 1)]), 1e-2)
    adam.rows["0"].native &= native
    dense = torch.optim.Adam([plain.weight], lr=1e-2)
    for step in range(steps):
        rate = 1e-2 if step < steps // 2 else 4e-3
        adam.set_learning_rate(rate)
        dense.param_groups[0]["lr"] = rate
        # Few rows a step, some of them rarely.
        rows = np.unique((58 * rng.random(rng.integers(0, 6)) ** 3).astype(np.int64) + 1)
        # For gradients near epsilon, the catch-up is exact to a few percent only.
        size = rng.uniform(0.3, 3, (len(rows), 8)) * rng.choice([-1, 1], (len(rows), 8))
        target = torch.from_numpy(scale * size).float()
        adam.zero_grad()
        read = ours.sum_groups(rows, np.arange(len(rows) + 1))
        (read * target).sum().backward()
        expected = plain.weight.index_select(0, torch.from_numpy(rows))
        # Training reads the weights that dense Adam would have.
        assert torch.allclose(read, expected, atol=2e-5)
        dense.zero_grad(set_to_none=False)
        plain.weight.grad = torch.zeros_like(plain.weight)
        (plain.weight.index_select(0, torch.from_numpy(rows)) * target).sum().backward()
        adam.step()
        dense.step()
    adam.flush()
    assert torch.allclose(ours.weight, plain.weight, atol=2e-5)


def test_row_without_missed_steps_stays_finite_among_rows_with_some() -> None:
    ours = tables()
    adam = Adam(torch.nn.ModuleList([ours, torch.nn.Linear(1, 1)]), 1e-2)
    for rows in ([1], [2], [1, 3]):
        adam.zero_grad()
        # Row 3 has been brought up to date, and has no momentum.
        adam.rows["0"].catch_up(torch.tensor([3]))
        (ours.sum_groups(np.array(rows), np.arange(len(rows) + 1)) * 0).sum().backward()
        adam.step()
    assert torch.isfinite(ours.weight).all()


@pytest.mark.skipif(not kernels.available(), reason="no kernels on this machine")
def test_deferred_head_step_equals_the_step_from_the_gradient() -> None:
    config = UserBertConfig(layers=1, hidden=64, heads=2, feed_forward=64, dropout=0.0)
    torch.manual_seed(0)
    first = model(shape(genres=300), config)
    second = deepcopy(first)
    for network, single_process in ((first, True), (second, False)):
        adam = Adam(network, 1e-3, single_process=single_process)
        users = batch([[5, 2], [9, 4]], inputs=shape(genres=300))
        with torch.autocast("cpu", torch.bfloat16):
            losses = masked_words(network, users, np.random.default_rng(0))
        adam.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        assert (network.heads[0].attributes[0].project.weight.grad is None) == single_process
        adam.step()
        adam.close()
    for name, weight in first.state_dict().items():
        assert torch.allclose(weight, second.state_dict()[name], atol=1e-6), name


@pytest.mark.skipif(not kernels.available(), reason="no kernels on this machine")
def test_frozen_heads_do_not_change() -> None:
    config = UserBertConfig(layers=1, hidden=64, heads=2, feed_forward=64, dropout=0.0)
    network = model(config=config)
    network.heads.requires_grad_(False)  # type: ignore[attr-defined]
    before = deepcopy(network.state_dict())
    adam = Adam(network, 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        losses = masked_words(network, batch([[5, 2], [9, 4]]), np.random.default_rng(0))
    torch.stack(list(losses.values())).sum().backward()
    adam.step()
    adam.close()
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, before[name]) == name.startswith("heads."), name
