"""Lists of unequal lengths as flat values with offsets."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from userbert.data.ragged import by_shard, list_numbers, offsets_of, ranges, take_lists

LISTS = [[10, 11, 12], [], [20], [30, 31]]
LENGTHS = np.array([3, 0, 1, 2])
OFFSETS = np.array([0, 3, 3, 4, 6])
VALUES = np.array([10, 11, 12, 20, 30, 31])


def test_offsets_start_at_0_and_end_at_the_number_of_values() -> None:
    assert_array_equal(offsets_of(LENGTHS), OFFSETS)
    assert [VALUES[i:j].tolist() for i, j in pairwise(OFFSETS)] == LISTS


def test_offsets_of_a_mask_count_true_values_before_each_place() -> None:
    assert_array_equal(offsets_of(np.array([True, False, True])), [0, 1, 1, 2])


def test_offsets_of_no_lists_are_one_zero() -> None:
    assert_array_equal(offsets_of([]), [0])


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.int64])
def test_offsets_are_int64_and_do_not_overflow(dtype: type[np.generic]) -> None:
    offsets = offsets_of(np.ones(300, dtype))
    assert offsets.dtype == np.int64
    assert offsets[-1] == 300


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_list_numbers_name_the_list_of_each_value(dtype: type[np.generic]) -> None:
    numbers = list_numbers(OFFSETS.astype(dtype))
    assert_array_equal(numbers, [0, 0, 0, 2, 3, 3])
    assert numbers.dtype == np.int64


def test_ranges_follow_one_another() -> None:
    assert_array_equal(ranges(np.array([7, 3, 5]), np.array([2, 0, 3])), [7, 8, 5, 6, 7])


def test_ranges_with_one_start_count_the_values_of_each_list() -> None:
    assert_array_equal(ranges(0, LENGTHS), [0, 1, 2, 0, 0, 1])


def test_no_ranges_are_no_numbers() -> None:
    none = np.zeros(0, np.int64)
    assert ranges(none, none).dtype == np.int64
    assert len(ranges(none, none)) == 0


def test_lists_are_taken_in_any_order_and_more_than_once() -> None:
    numbers = np.array([3, 0, 1, 3])
    places, offsets = take_lists(OFFSETS, numbers)
    assert_array_equal(VALUES[places], [v for number in numbers for v in LISTS[number]])
    assert_array_equal(offsets, offsets_of(LENGTHS[numbers]))


def test_all_lists_in_order_are_the_values_themselves() -> None:
    places, offsets = take_lists(OFFSETS, np.arange(len(LISTS)))
    assert_array_equal(places, np.arange(len(VALUES)))
    assert_array_equal(offsets, OFFSETS)


def test_rows_are_grouped_by_shard_in_their_order() -> None:
    first_rows = np.array([0, 4, 4, 9])  # the second shard is empty
    rows = np.array([9, 3, 4, 0, 8, 12])
    groups = {number: rows[places].tolist() for number, places in by_shard(first_rows, rows)}
    assert groups == {0: [3, 0], 2: [4, 8], 3: [9, 12]}


@pytest.mark.parametrize("rows", [[], [0, 2, 1]])
def test_one_shard_holds_all_rows(rows: list[int]) -> None:
    [(number, places)] = by_shard(np.zeros(1, np.int64), np.array(rows, np.int64))
    assert number == 0
    assert_array_equal(places, np.arange(len(rows)))


def test_without_rows_the_first_shard_comes_with_no_places() -> None:
    [(number, places)] = by_shard(np.array([0, 4]), np.zeros(0, np.int64))
    assert number == 0
    assert len(places) == 0
