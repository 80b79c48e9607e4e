"""The summary token: values counted by hand, masked words, gradients."""
# mypy: disable-error-code="no-untyped-call"

import numpy as np
import pytest
import torch

from synthetic import TINY, batch, model, shape, take
from userbert.data.batches import SegmentBatch, UserBatch
from userbert.model.summary import HistorySummary


@pytest.fixture
def summary() -> HistorySummary:
    torch.manual_seed(0)
    layer = HistorySummary(shape(), hidden=8)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        layer.tables.weight[0] = 0
    return layer


def one_user(*genres: int) -> UserBatch:
    """Return a user with one long-term word per action, of these genres and without shops."""
    ids = np.array([genres, [0] * len(genres)], np.int32)
    ends = np.arange(len(genres) + 1)
    none = np.zeros(1, np.int64)
    return UserBatch(
        np.array([0]),
        (
            SegmentBatch(
                "long_term", ids, ends, np.array([0, len(genres)]), ends[:-1].astype(np.int32)
            ),
            SegmentBatch(
                "short_term", np.zeros((1, 0), np.int32), none, np.array([0, 0]),
                np.zeros(0, np.int32),
            ),
        ),
        np.array([[0, 0]], np.int32),
    )  # fmt: skip


def test_values_are_weighted_by_the_logarithm_of_their_counts(summary: HistorySummary) -> None:
    genre = summary.tables.vectors(0)
    weights = np.log1p([3, 1])
    expected = (genre[5] * weights[0] + genre[2] * weights[1]) / np.linalg.norm(weights)
    totals = torch.tensor([np.log1p(5), np.log1p(5), 0, 0], dtype=torch.float32)
    actual = summary(one_user(5, 2, 5, 0, 5))[0]
    assert torch.allclose(actual, expected.float() + summary.totals(totals), atol=1e-5)


def test_summary_of_a_user_without_actions_is_the_bias(summary: HistorySummary) -> None:
    assert torch.allclose(summary(one_user())[0], summary.totals.bias)


def test_order_of_users_and_actions_does_not_matter(summary: HistorySummary) -> None:
    users = batch([[3, 2], [0, 4], [7, 0]])
    order = [2, 0, 1]
    assert torch.allclose(summary(take(users, order)), summary(users)[order], atol=1e-6)
    assert torch.allclose(summary(one_user(3, 4, 4)), summary(one_user(4, 3, 4)), atol=1e-6)


def test_gradients_equal_those_of_a_dense_sum(summary: HistorySummary) -> None:
    users = batch([[3, 2], [0, 4], [7, 0]])
    output_gradient = torch.randn(3, 8)
    (summary(users) * output_gradient).sum().backward()
    actual = summary.tables.weight.grad
    assert actual is not None
    summed = summary.summary_rows(users)
    owners = np.repeat(np.arange(3), np.diff(summed.offsets))
    dense = torch.zeros_like(summary.tables.weight)
    weights = torch.from_numpy(summed.weights)[:, None]
    dense.index_add_(0, torch.from_numpy(summed.rows), output_gradient[owners] * weights)
    assert torch.allclose(actual.to_dense(), dense, atol=1e-5)


def test_summary_does_not_reveal_a_masked_word() -> None:
    torch.manual_seed(0)
    network = model(config=TINY.model_copy(update={"summary": True, "word_sizes": True})).eval()
    first, second = one_user(5, 2, 7), one_user(5, 9, 7)
    zeroed = (np.array([False, True, False]), np.zeros(0, bool))
    assert torch.equal(network(first, zeroed).tokens, network(second, zeroed).tokens)
    assert not torch.equal(network(first).tokens, network(second).tokens)
