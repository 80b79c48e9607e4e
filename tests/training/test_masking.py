"""Masking: exact counts, uniform, 80 % zeroed, only words, independent of the batch split."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from synthetic import batch, take
from userbert.data.batches import UserBatch
from userbert.training.masking import hide_actions, select_words

WORDS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=8)


@given(words=WORDS, seed=st.integers(0, 2**32 - 1))
def test_each_user_has_exactly_the_selected_share_of_words(
    words: list[tuple[int, int]], seed: int
) -> None:
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


def test_words_are_selected_uniformly_and_four_fifths_are_zeroed() -> None:
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


@given(words=WORDS, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_split_of_a_batch_selects_the_same_words(
    words: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    users = batch(words, actions=1)
    order = data.draw(st.permutations(range(len(words))))
    cut = data.draw(st.integers(0, len(words)))
    whole = _by_user(users, seed)
    for part in (order[:cut], order[cut:]):
        if part:
            selected = _by_user(take(users, part), seed)
            assert selected == {user: whole[user] for user in part}


def _by_user(users: UserBatch, seed: int) -> dict[int, list[list[list[bool]]]]:
    """Selected and zeroed words, by segment, by number of the pair."""
    generator, untouched = np.random.default_rng(seed), np.random.default_rng(seed)
    chosen = select_words(users, generator, selected=0.15, zeroed=0.8)
    untouched.integers(2**64, dtype=np.uint64)
    # Objectives draw again afterwards, and must draw the same numbers in all processes.
    assert generator.bit_generator.state == untouched.bit_generator.state
    return {
        int(number): [
            [mask[first:last].tolist() for mask in masks]
            for segment, *masks in zip(users.segments, chosen.selected, chosen.zeroed, strict=True)
            for first, last in [segment.word_offsets[place : place + 2]]
        ]
        for place, number in enumerate(users.index)
    }


def test_every_pair_of_words_is_equally_likely_for_every_user() -> None:
    number_of_users, words = 2_000, 20
    users = batch([(12, 8)] * number_of_users, actions=1)
    together = np.zeros((words, words))
    draws = 20
    for step in range(draws):
        chosen = select_words(users, np.random.default_rng([0, step]), selected=0.15, zeroed=0.8)
        parts = [mask.reshape(number_of_users, -1) for mask in chosen.selected]
        selected = np.concatenate(parts, axis=1).astype(np.float64)
        together += selected.T @ selected
    share = together[~np.eye(words, dtype=bool)] / (number_of_users * draws)
    expected = 3 / 20 * 2 / 19
    assert np.abs(share - expected).max() < 5 * np.sqrt(expected / (number_of_users * draws))


def test_same_generator_state_gives_the_same_draw() -> None:
    users = batch([(5, 5)])
    first, second = (
        select_words(users, np.random.default_rng([7, 3]), selected=0.15, zeroed=0.8)
        for _ in range(2)
    )
    assert np.array_equal(np.concatenate(first.zeroed), np.concatenate(second.zeroed))


def test_hidden_shares_lie_between_the_configured_bounds() -> None:
    users = batch([(30, 20)] * 300)
    masks = hide_actions(users, np.random.default_rng(0), min_share=0.2, max_share=0.7)
    owners = np.concatenate([segment.user_of_action for segment in users.segments])
    shares = np.bincount(owners, np.concatenate(masks)) / np.bincount(owners)
    # Hidden words and hidden single actions overlap: a share s hides s - s² / 4.
    assert np.isclose(
        shares.mean(), np.mean([s - s * s / 4 for s in np.linspace(0.2, 0.7)]), atol=0.02
    )
    assert np.quantile(shares, 0.01) > 0.05
    assert np.quantile(shares, 0.99) < 0.75
    assert shares.std() > 0.1


def test_whole_words_are_hidden_more_often_than_by_chance() -> None:
    users = batch([(30, 20)] * 300, actions=8)
    masks = hide_actions(users, np.random.default_rng(0), min_share=0.4, max_share=0.4)
    sizes = np.diff(users.segments[0].action_offsets)
    hidden = np.add.reduceat(masks[0], users.segments[0].action_offsets[:-1])
    assert np.isclose((hidden == sizes)[sizes == 8].mean(), 0.2, atol=0.03)


@given(words=WORDS, seed=st.integers(0, 2**32 - 1))
def test_any_split_of_a_batch_hides_the_same_actions(
    words: list[tuple[int, int]], seed: int
) -> None:
    users = batch(words)

    def hidden(part: UserBatch) -> list[list[list[bool]]]:
        masks = hide_actions(part, np.random.default_rng(seed), min_share=0.2, max_share=0.7)
        return [
            [mask[segment.user_of_action == user].tolist() for user in range(len(part))]
            for mask, segment in zip(masks, part.segments, strict=True)
        ]

    order = np.random.default_rng(seed).permutation(len(words)).tolist()
    whole = hidden(users)
    for number, segment in enumerate(hidden(take(users, order))):
        assert segment == [whole[number][user] for user in order]
