"""Selection: exact counts, uniform, 80 % zeroed, only words."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from synthetic import batch
from userbert.training.masking import select_words

WORDS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=8)


@given(words=WORDS, seed=st.integers(0, 2**32 - 1))
def test_every_user_gets_exactly_its_share(words: list[tuple[int, int]], seed: int) -> None:
    users = batch(words, actions=1)
    chosen = select_words(users, np.random.default_rng(seed), selected=0.15, zeroed=0.8)
    per_user = np.zeros(len(words), np.int64)
    for segment, selected, zeroed in zip(
        users.segments, chosen.selected, chosen.zeroed, strict=True
    ):
        assert not (zeroed & ~selected).any()
        owner = np.repeat(np.arange(len(words)), segment.word_counts)
        per_user += np.bincount(owner[selected], minlength=len(words))
    expected = [max(1, round(0.15 * sum(n))) if sum(n) else 0 for n in words]
    assert per_user.tolist() == expected


def test_words_are_selected_alike_and_four_fifths_are_zeroed() -> None:
    users = batch([(3, 4), (12, 8)], actions=1)
    rng = np.random.default_rng(0)
    draws = 4000
    selected, zeroed = np.zeros(27), np.zeros(27)
    for _ in range(draws):
        chosen = select_words(users, rng, selected=0.15, zeroed=0.8)
        selected += np.concatenate(chosen.selected)
        zeroed += np.concatenate(chosen.zeroed)
    # Long-term words first: 3 + 12, then 4 + 8; one of 7 and three of 20 words are selected.
    share = np.concatenate(
        [np.repeat([1 / 7, 3 / 20], [3, 12]), np.repeat([1 / 7, 3 / 20], [4, 8])]
    )
    assert np.abs(selected / draws - share).max() < 5 * np.sqrt(0.13 / draws)
    assert abs(zeroed.sum() / selected.sum() - 0.8) < 0.015


def test_same_generator_state_gives_the_same_draw() -> None:
    users = batch([(5, 5)])
    first, second = (
        select_words(users, np.random.default_rng([7, 3]), selected=0.15, zeroed=0.8)
        for _ in range(2)
    )
    assert np.array_equal(np.concatenate(first.zeroed), np.concatenate(second.zeroed))
