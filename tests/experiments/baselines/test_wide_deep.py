"""Tests of Wide&Deep and its aggregates."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthetic import batch, shape
from userbert.data.batches import AttributeShape, InputShape, SegmentBatch, SegmentShape, UserBatch
from userbert.experiments.baselines.wide_deep import DIMENSIONS, Aggregates, WideDeep, share_columns


def _inputs(*sizes: int) -> InputShape:
    attributes = tuple(AttributeShape(f"a{i}", size, f"a{i}") for i, size in enumerate(sizes))
    return InputShape((SegmentShape("long_term", attributes, 10),), ())


def test_columns_go_to_small_vocabularies_and_the_rest_is_shared_evenly() -> None:
    assert share_columns([5, 100, 3, 200], 30) == [5, 11, 3, 11]
    assert share_columns([100, 5, 200], 30) == [12, 5, 13]
    assert share_columns([2, 3], 30) == [2, 3]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(8, 120))
def test_all_columns_are_used_and_shared_evenly(sizes: list[int], available: int) -> None:
    columns = share_columns(sizes, available)
    assert sum(columns) == min(available, sum(sizes))
    short = [count for count, size in zip(columns, sizes, strict=True) if count < size]
    assert all(1 <= count <= size for count, size in zip(columns, sizes, strict=True))
    if short:
        assert max(columns) - min(short) <= 1


def test_large_vocabularies_give_the_papers_dimensions_and_small_ones_fewer() -> None:
    assert Aggregates(_inputs(4, 742, 17, 85_124, 11_438, 24)).dimensions == DIMENSIONS == 1_130
    assert Aggregates(_inputs(4, 7)).dimensions == 3 + 6 + 3


def test_counts_equal_those_computed_by_hand() -> None:
    # 1,127 columns for ids: two for the second attribute, so ids 2 … 1,125 of the first have one.
    inputs = _inputs(5_000, 3)
    ids = [[2, 2, 3, 1, 4_999, 0, 1_123, 1_124], [2, 1, 0, 2, 2, 2, 0, 0]]
    users = UserBatch(
        np.arange(3),
        (
            SegmentBatch(
                "long_term",
                np.array(ids, np.int32),
                np.array([0, 3, 6, 8]),
                np.array([0, 2, 2, 3]),
                np.array([1, 4, 9], np.int32),
            ),
        ),
        np.zeros((3, 0), np.int32),
    )
    counts = np.expm1(Aggregates(inputs)(users)[:, :-1])
    expected = np.zeros((3, 1_129))
    first, second = expected[:, :1_125], expected[:, 1_125:1_127]
    first[0, [0, 1]] = 2, 1
    first[0, -1] = 2  # UNKNOWN, and 4,999
    second[0] = 4, 1
    first[2, [1_121, 1_122]] = 1
    expected[:, 1_127:] = [[2, 6], [0, 0], [1, 2]]
    np.testing.assert_allclose(counts, expected, atol=1e-5)
    np.testing.assert_allclose(Aggregates(inputs)(users)[:, -1], [0.5, 0.0, 1.0])


def test_rarer_ids_share_the_last_column() -> None:
    inputs = _inputs(5_000)  # 1,127 columns: ids 2 … 1,127, and all others
    ids = np.array([[1_127, 1_128, 1_129, 1]], np.int32)
    segment = SegmentBatch(
        "long_term", ids, np.array([0, 4]), np.array([0, 1]), np.zeros(1, np.int32)
    )
    users = UserBatch(np.arange(1), (segment,), np.zeros((1, 0), np.int32))
    counts = np.expm1(Aggregates(inputs)(users)[0, :1_127])
    assert counts[-2:] == pytest.approx([1, 3])
    assert counts[:-2].sum() == 0


def test_a_head_on_the_vector_is_a_wide_logit_plus_a_deep_logit() -> None:
    torch.manual_seed(0)
    network, head = WideDeep(shape()), torch.nn.Linear(128, 1, bias=False)
    users = batch([[3, 2], [1, 0]])
    deep = network.deep(torch.from_numpy(network.aggregates(users)))
    wide = network.wide(users)
    assert torch.allclose(head(network(users)), head(deep) + head(wide), atol=1e-6)
    sizes = [layer.out_features for layer in network.deep if isinstance(layer, torch.nn.Linear)]
    assert sizes == [512, 256, 256, 128]


def test_wide_part_is_linear_in_its_fields() -> None:
    torch.manual_seed(0)
    wide = WideDeep(shape()).wide
    users = batch([[0, 0]] * 4)
    users.profile_ids[:] = [[1, 2], [1, 0], [0, 2], [0, 0]]
    both, first, second, none = wide(users)
    assert torch.allclose(both - none, (first - none) + (second - none), atol=1e-6)
