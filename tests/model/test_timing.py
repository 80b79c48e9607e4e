"""Timing of users' actions: columns computed by hand, independence of users, scaling."""
# mypy: disable-error-code="no-untyped-call"

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthetic import TINY, batch, model, shape, take
from userbert.data.batches import AttributeShape, InputShape, SegmentBatch, SegmentShape, UserBatch
from userbert.model.indices import timing, timing_width
from userbert.model.timing import HistoryTiming

DAYS = InputShape((SegmentShape("long_term", (AttributeShape("a", 3, "a"),), 5),), ())
"""Five positions, so half-lives of 1 and 2 days."""


def one_user(*days: int, sizes: tuple[int, ...] = ()) -> UserBatch:
    """Return a user with a word at each of these positions, of `sizes` actions (default: one)."""
    ends = np.cumsum([0, *(sizes or [1] * len(days))])
    words = SegmentBatch(
        "long_term", np.ones((1, ends[-1]), np.int32), ends, np.array([0, len(days)]),
        np.array(days, np.int32),
    )  # fmt: skip
    return UserBatch(np.array([0]), (words,), np.zeros((1, 0), np.int32))


def test_columns_equal_those_computed_by_hand() -> None:
    columns = timing(one_user(0, 3, sizes=(2, 5)), DAYS)[0]
    logs = np.log1p([1, 4, 3])  # one day ago, four days ago, three between
    assert np.allclose(columns[:3], logs)
    assert np.isclose(columns[3], logs[0] - logs[2])
    assert np.allclose(columns[4:6], [0.5, 0.5**0.5])
    assert np.allclose(columns[6:9], np.log1p([0.5 + 0.5**4, 0.5**0.5 + 0.25, 2]))
    assert np.allclose(columns[9:], np.log1p([2.5 + 2 * 0.5**4, 5 * 0.5**0.5 + 0.5, 7]))
    assert len(columns) == timing_width(DAYS)


def test_times_of_a_user_without_words_are_the_windows_length() -> None:
    columns = timing(one_user(), DAYS)[0]
    assert np.allclose(columns[:2], np.log1p(5))
    assert np.allclose(columns[[2, *range(4, 12)]], 0)


def test_one_word_has_no_gap() -> None:
    assert timing(one_user(2), DAYS)[0, 2] == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6))
def test_columns_do_not_depend_on_other_users(counts: list[tuple[int, int]]) -> None:
    users = batch([list(count) for count in counts])
    together = timing(users, shape())
    assert together.shape == (len(counts), timing_width(shape()))
    assert np.isfinite(together).all()
    for number in range(len(counts)):
        assert np.allclose(timing(take(users, [number]), shape())[0], together[number], rtol=1e-5)


def test_columns_do_not_depend_on_the_values_of_actions() -> None:
    users, others = (batch([[5, 3], [4, 4]], seed=seed) for seed in (0, 0))
    for segment in others.segments:
        segment.ids[:] = 1
    assert np.array_equal(timing(users, shape()), timing(others, shape()))


def test_columns_are_standardised_over_users() -> None:
    users = batch([[1, 0], [20, 3], [7, 9], [2, 2]])
    layer = HistoryTiming(shape())
    numbers = timing(users, shape())
    layer.measure_by(numbers)
    columns = layer(users).numpy()
    differs = numbers.std(axis=0) > 1e-3
    assert np.allclose(columns.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(columns[:, differs].std(axis=0), 1, atol=1e-4)
    assert np.abs(columns[:, ~differs]).max(initial=0) < 1e-3
    assert layer.standardised(torch.full((1, layer.width), 1e6)).max() == 5


def test_user_embeddings_of_pool_all_end_with_timing() -> None:
    config = TINY.model_copy(update={"timing": True, "pool": "all"})
    torch.manual_seed(0)
    network = model(config=config).eval()
    plain = model(config=config.model_copy(update={"timing": False})).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    users = batch([[5, 3], [0, 2]])
    vectors = network.user_vectors(network(users))
    assert vectors.shape == (2, network.width())
    assert network.width() == plain.width() + timing_width(shape())
    assert torch.equal(vectors[:, : plain.width()], plain.user_vectors(plain(users)))
    assert torch.equal(vectors[:, plain.width() :], torch.from_numpy(timing(users, shape())))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_user_embeddings_of_other_pools_have_the_networks_width(pool: str) -> None:
    network = model(config=TINY.model_copy(update={"timing": True, "pool": pool})).eval()
    assert network.user_vectors(network(batch([[5, 3]]))).shape == (1, TINY.hidden)
