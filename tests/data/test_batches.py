"""Slices of batches and dropped actions, compared with plain lists."""

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from synthetic import batch
from userbert.data.batches import Future, SegmentBatch, UserBatch, drop_actions, slice_users

WORDS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6)


def as_lists(segment: SegmentBatch) -> list[list[tuple[int, list[Any]]]]:
    """Returns each user's words as (position, actions)."""
    words = [
        (int(position), segment.ids[:, first:last].T.tolist())
        for position, first, last in zip(
            segment.positions, segment.action_offsets[:-1], segment.action_offsets[1:], strict=True
        )
    ]
    ends = segment.word_offsets.tolist()
    return [words[first:last] for first, last in pairwise(ends)]


@given(words=WORDS, seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_drop_actions_equals_plain_loops(
    words: list[tuple[int, int]], seed: int, share: float
) -> None:
    users = batch(words, seed=seed)
    rng = np.random.default_rng(seed)
    dropped: list[NDArray[np.bool_]] = [
        np.less(rng.random(segment.ids.shape[1]), share) for segment in users.segments
    ]
    result = drop_actions(users, dropped)
    for before, after, mask in zip(users.segments, result.segments, dropped, strict=True):
        numbers = iter(mask.tolist())
        expected = [
            [
                (position, kept)
                for position, actions in user
                if (kept := [action for action in actions if not next(numbers)])
            ]
            for user in as_lists(before)
        ]
        assert as_lists(after) == expected
        assert len(after.user_of_action) == after.ids.shape[1]


def with_future(users: UserBatch) -> UserBatch:
    """Gives each user of an even number n a future of n actions."""
    counts = np.where(np.arange(len(users)) % 2, 0, np.arange(len(users)))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    owners = np.repeat(np.arange(len(users)), counts).astype(np.int32)
    future = Future(counts > 0, (np.stack([owners, owners]), owners[None]), (offsets, offsets))
    return UserBatch(users.index, users.segments, users.profile_ids, future)


def test_sliced_users_keep_their_future() -> None:
    users = with_future(batch([(1, 1)] * 6))
    part = slice_users(users, 2, 5).future
    assert part is not None
    assert part.known.tolist() == [True, False, True]
    assert [ids.tolist() for ids in part.ids] == [[[2, 2, 4, 4, 4, 4]] * 2, [[2, 2, 4, 4, 4, 4]]]
    assert [offsets.tolist() for offsets in part.offsets] == [[0, 2, 2, 6]] * 2
