"""Splits keep all pairs of a user together and stratify by class."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from userbert.tasks.splits import (
    Split,
    deal_users,
    learning_parts,
    split_off_validation,
)

pairs = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 1)), min_size=10, max_size=60)


@given(pairs, st.integers(0, 5))
def test_all_pairs_of_a_user_are_in_one_part(drawn: list[tuple[int, int]], seed: int) -> None:
    users = [str(user) for user, _ in drawn]
    part = deal_users(users, np.array([target for _, target in drawn]), 3, seed)
    for user in set(users):
        assert len({int(p) for p, owner in zip(part, users, strict=True) if owner == user}) == 1


@given(st.lists(st.integers(0, 1), min_size=10, max_size=80), st.integers(0, 5))
def test_classes_are_dealt_evenly(targets: list[int], seed: int) -> None:
    users = [str(number) for number in range(len(targets))]
    part = deal_users(users, np.array(targets), 5, seed)
    for value in (0, 1):
        counts = np.bincount(part[np.array(targets) == value], minlength=5)
        assert counts.max() - counts.min() <= 2
    assert np.ptp(np.bincount(part, minlength=5)) <= 1


def test_validation_is_split_off_by_user_and_repeatably() -> None:
    users = [f"user{number // 2}" for number in range(100)]
    learning = np.arange(0, 80)
    train, validation = split_off_validation(users, np.arange(100) % 2, learning, seed=3)
    assert not {users[i] for i in train} & {users[i] for i in validation}
    assert 12 <= len(validation) <= 20
    again, _ = split_off_validation(users, np.arange(100) % 2, learning, seed=3)
    np.testing.assert_array_equal(train, again)


@given(pairs, st.integers(0, 5))
def test_learning_parts_hold_each_pair_once(drawn: list[tuple[int, int]], seed: int) -> None:
    users = [str(user) for user, _ in drawn]
    targets, learning = np.array([target for _, target in drawn]), np.arange(len(drawn))[::2]
    split = Split(learning_parts(users, targets, learning, seed), np.arange(1))
    np.testing.assert_array_equal(split.learning, learning)
    train, validation = split_off_validation(users, targets, learning, seed)
    np.testing.assert_array_equal(split.train, train)
    np.testing.assert_array_equal(split.validation, validation)
    of_user = [{users[i] for i in part} for part in split.parts]
    assert sum(map(len, of_user)) == len(set.union(*of_user))
