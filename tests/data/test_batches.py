"""Parts of batches: some users, or all but some actions, against plain lists."""

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from synthetic import batch
from userbert.data.batches import Future, SegmentBatch, UserBatch, users_of, without_actions

WORDS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6)


def as_lists(segment: SegmentBatch) -> list[list[tuple[int, list[Any]]]]:
    """Each user's words as (position, actions)."""
    words = [
        (int(position), segment.ids[:, first:last].T.tolist())
        for position, first, last in zip(
            segment.positions, segment.action_offsets[:-1], segment.action_offsets[1:], strict=True
        )
    ]
    ends = segment.word_offsets.tolist()
    return [words[first:last] for first, last in pairwise(ends)]


@given(words=WORDS, seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_without_actions_is_what_plain_loops_give(
    words: list[tuple[int, int]], seed: int, share: float
) -> None:
    users = batch(words, seed=seed)
    rng = np.random.default_rng(seed)
    left_out: list[NDArray[np.bool_]] = [
        np.less(rng.random(segment.ids.shape[1]), share) for segment in users.segments
    ]
    found = without_actions(users, left_out)
    for before, after, mask in zip(users.segments, found.segments, left_out, strict=True):
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
    """A batch whose users of even numbers have so many future actions as their number."""
    counts = np.where(np.arange(len(users)) % 2, 0, np.arange(len(users)))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    owners = np.repeat(np.arange(len(users)), counts).astype(np.int32)
    future = Future(counts > 0, (np.stack([owners, owners]), owners[None]), (offsets, offsets))
    return UserBatch(users.index, users.segments, users.profile_ids, future)


def test_users_of_a_batch_take_their_future_along() -> None:
    users = with_future(batch([(1, 1)] * 6))
    part = users_of(users, 2, 5).future
    assert part is not None
    assert part.known.tolist() == [True, False, True]
    assert [ids.tolist() for ids in part.ids] == [[[2, 2, 4, 4, 4, 4]] * 2, [[2, 2, 4, 4, 4, 4]]]
    assert [offsets.tolist() for offsets in part.offsets] == [[0, 2, 2, 6]] * 2
