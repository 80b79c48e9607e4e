"""Tests of the slices and the loss of CoLES."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import normalize

from synthetic import batch
from userbert.data.batches import UserBatch
from userbert.experiments.baselines.coles import coles, contrastive_loss, slices


def _words(users: UserBatch) -> list[list[tuple[int, int, tuple[int, ...]]]]:
    """Returns each user's words as (segment, position, ids), in order."""
    words_by_user = []
    for user in range(len(users)):
        words = []
        for number, segment in enumerate(users.segments):
            for word in range(*segment.word_offsets[user : user + 2]):
                actions = slice(*segment.action_offsets[word : word + 2])
                ids = tuple(segment.ids[:, actions].ravel().tolist())
                words.append((number, int(segment.positions[word]), ids))
        words_by_user.append(words)
    return words_by_user


WORDS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=5)


@given(words=WORDS, seed=st.integers(0, 99), per_user=st.integers(1, 4))
def test_slices_are_runs_of_their_users_words(
    words: list[tuple[int, int]], seed: int, per_user: int
) -> None:
    users = batch(words, seed=seed)
    cut = slices(users, np.random.default_rng(seed), per_user)
    own = _words(users)
    with_words = [user for user in range(len(words)) if own[user]]
    assert cut.users.tolist() == np.repeat(with_words, per_user).tolist()
    for user, sliced_words in zip(cut.users, _words(cut.batch), strict=True):
        ends = range(len(sliced_words), len(own[user]) + 1)
        assert min(3, len(own[user])) <= len(sliced_words)
        assert sliced_words in [own[user][end - len(sliced_words) : end] for end in ends]
    assert len(set(cut.batch.index.tolist())) == len(cut.batch)
    assert cut.batch.profile_ids.shape == (len(cut.batch), 2)
    assert not cut.batch.profile_ids.any()


def test_lengths_and_starts_are_uniform() -> None:
    cut = slices(batch([[4, 2]]), np.random.default_rng(0), 6_000)
    long_term, short_term = (segment.word_counts for segment in cut.batch.segments)
    lengths = np.bincount(long_term + short_term)
    assert lengths[:3].sum() == 0
    assert lengths[3:] == pytest.approx([1_500] * 4, rel=0.1)
    # A slice of three words with the last start has both short-term words.
    threes = short_term[long_term + short_term == 3]
    assert np.bincount(threes) == pytest.approx([750, 375, 375], rel=0.15)


def test_another_generator_gives_other_slices() -> None:
    users = batch([[30, 9]] * 3)
    first, second = (slices(users, np.random.default_rng(seed)).batch for seed in (0, 1))
    assert _words(first) != _words(second)


def test_loss_equals_one_computed_by_hand() -> None:
    # Two users in a plane: slices at 0° and 90°, and a slice at 0° with another length.
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    loss = contrastive_loss(vectors, torch.tensor([0, 0, 1]))
    # One pair of the same user, d² = 2; other users: 0-2, 2-0 at d = 0 and 1-2, 2-1 at d = √2.
    assert loss.item() == pytest.approx((2 + 0.25 + 0.25) / 5, rel=1e-4)


def test_each_slice_counts_its_five_nearest_of_other_users() -> None:
    torch.manual_seed(0)
    vectors, users = torch.randn(20, 3), torch.arange(20) // 4
    unit = normalize(vectors, dim=1)
    distances = (unit[:, None] - unit).norm(dim=2)
    terms = []
    for anchor in range(20):
        terms += [
            distances[anchor, other] ** 2
            for other in range(anchor + 1, 20)
            if other // 4 == anchor // 4
        ]
        negatives = sorted(
            distances[anchor, other] for other in range(20) if other // 4 != anchor // 4
        )
        terms += [max(0, 0.5 - distance) ** 2 for distance in negatives[:5]]
    expected = sum(terms) / (5 * 6 + 20 * 5)
    assert contrastive_loss(vectors, users).item() == pytest.approx(float(expected), rel=1e-3)


def test_equal_vectors_have_a_gradient() -> None:
    vectors = torch.ones(4, 3, requires_grad=True)
    contrastive_loss(vectors, torch.tensor([0, 0, 1, 1])).backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


class Counts(nn.Module):
    """Encoder of the number of words per segment."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 4)

    def forward(self, users: UserBatch) -> torch.Tensor:
        counts = np.stack([segment.word_counts for segment in users.segments], axis=1)
        return self.linear(torch.from_numpy(counts).float())  # type: ignore[no-any-return]


@pytest.mark.parametrize("words", [[[0, 0], [0, 0]], [[0, 0], [3, 2]]])
def test_a_batch_without_pairs_of_users_has_a_finite_loss(words: list[list[int]]) -> None:
    loss = coles(Counts(), batch(words), np.random.default_rng(0))["coles"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    if not any(map(any, words)):
        assert loss.item() == 0
