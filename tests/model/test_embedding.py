"""The input embedding: words computed by hand, order of tokens, zeroed words."""
# mypy: disable-error-code="no-untyped-call"

import numpy as np
import pytest
import torch
from torch import Tensor

from synthetic import batch, model, shape, take
from userbert.data.batches import SegmentBatch, UserBatch
from userbert.model.embedding import InputEmbedding
from userbert.model.userbert import UserBertConfig


@pytest.fixture
def embedding() -> InputEmbedding:
    torch.manual_seed(0)
    layer = InputEmbedding(shape(), hidden=16, width=8, dropout=0.0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def hand_batch() -> UserBatch:
    """Return a user with one word of three actions: (genre 3, shop 2), (none, 2), (3, none)."""
    ids = np.array([[3, 0, 3], [2, 2, 0]], np.int32)
    ends = np.array([0, 1], np.int64)
    return UserBatch(
        np.array([0]),
        (
            SegmentBatch("long_term", ids, np.array([0, 3]), ends, np.array([5], np.int32)),
            SegmentBatch(
                "short_term", np.zeros((1, 0), np.int32), np.array([0]), np.array([0, 0]),
                np.zeros(0, np.int32),
            ),
        ),
        np.array([[0, 2]], np.int32),
    )  # fmt: skip


def test_word_is_the_mean_of_its_actions_plus_position_and_segment(
    embedding: InputEmbedding,
) -> None:
    encoded = embedding(hand_batch())
    [genre, shop], _ = embedding.attribute_vectors()
    long_term = embedding.segments[0]
    # Two of three actions have each attribute; the third counts as zero.
    word = torch.cat([genre[3] * 2 / 3, shop[2] * 2 / 3])
    raw = long_term.project(word) + long_term.position.weight[5] + long_term.segment
    city = embedding.profile.vectors(1)[2] + embedding.profile_segment
    expected = embedding.norm(torch.stack([embedding.cls, raw, city]))
    assert encoded.lengths.tolist() == [3]
    assert torch.allclose(encoded.tokens, expected, atol=1e-6)


def test_tokens_of_a_user_are_cls_then_words_then_profile(embedding: InputEmbedding) -> None:
    users = batch([[2, 1], [0, 3], [0, 0]])
    users.profile_ids[:] = [[1, 2], [0, 3], [0, 0]]
    encoded = embedding(users)
    assert encoded.lengths.tolist() == [6, 5, 1]
    assert encoded.cls_index.tolist() == [0, 6, 11]
    assert [index.tolist() for index in encoded.word_index] == [[1, 2], [3, 7, 8, 9]]
    assert [user.tolist() for user in encoded.user_of_word] == [[0, 0], [0, 1, 1, 1]]
    assert encoded.field_index.tolist() == [4, 5, 10]
    assert encoded.user_of_field.tolist() == [0, 0, 1]
    cls = embedding.norm(embedding.cls)
    assert torch.equal(encoded.tokens[encoded.cls_index], cls.expand(3, -1))


def test_pool_all_contains_the_mean_of_the_profile() -> None:
    network = model().eval()
    users = batch([[2, 1], [0, 3], [0, 0]])
    users.profile_ids[:] = [[1, 2], [0, 3], [0, 0]]
    encoded = network(users)
    part = network.user_vectors(encoded, "all").split(network.config.hidden, dim=1)[2]
    tokens = encoded.tokens
    expected = torch.stack(
        [tokens[4:6].mean(0), tokens[10], tokens[11]]
    )  # the last user has only [CLS]
    torch.testing.assert_close(part, expected)


def test_none_is_zero_and_never_trained() -> None:
    embedding = model().embedding
    users = batch([[9, 9], [1, 0]])
    users.profile_ids[:] = [[1, 2], [0, 0]]
    # LayerNorm fixes sums and sums of squares, so weight the outputs.
    tokens = embedding(users).tokens
    (tokens * torch.randn_like(tokens)).sum().backward()
    for tables in (embedding.tables, embedding.profile):
        assert not tables.weight[0].any()
        assert tables.weight.grad is not None
        gradient = tables.weight.grad.to_dense()
        assert not gradient[0].any()
        assert gradient[1:].any()


def test_shared_attribute_has_one_table() -> None:
    [genre, _], [also_genre] = model().embedding.attribute_vectors()
    assert torch.equal(genre, also_genre)
    assert len(model().embedding.tables.weight) == 1 + (12 - 1) + (7 - 1)


def test_zeroed_word_is_all_zero_and_nothing_else_changes() -> None:
    layer = model(config=UserBertConfig(dropout=0.5)).embedding
    users = batch([[2, 1], [1, 2]])
    zeroed = (np.array([False, True, False]), np.array([True, False, False]))
    torch.manual_seed(3)
    plain = layer(users)
    torch.manual_seed(3)
    masked = layer(users, zeroed).tokens
    zeroed_tokens = torch.stack([plain.word_index[0][1], plain.word_index[1][0]])
    assert not masked[zeroed_tokens].any()
    unchanged = torch.ones(len(masked), dtype=torch.bool)
    unchanged[zeroed_tokens] = False
    assert torch.equal(masked[unchanged], plain.tokens[unchanged])


def test_zeroed_word_that_keeps_its_position_has_no_actions() -> None:
    layer = model(config=UserBertConfig(dropout=0.0)).embedding
    users = batch([[2, 1], [1, 2]])
    zeroed = (np.array([False, True, False]), np.array([True, False, False]))
    plain, masked = layer(users), layer(users, zeroed, keep_position=True)
    unchanged = torch.ones(len(plain.tokens), dtype=torch.bool)
    for number, word in ((0, 1), (1, 0)):
        embed, token = layer.segments[number], plain.word_index[number][word]
        position = int(users.segments[number].positions[word])
        without_actions = embed.position.weight[position] + embed.segment
        torch.testing.assert_close(masked.tokens[token], layer.norm(without_actions))
        unchanged[token] = False
    assert torch.equal(masked.tokens[unchanged], plain.tokens[unchanged])


def test_order_of_users_and_of_actions_changes_no_token(embedding: InputEmbedding) -> None:
    users = batch([[2, 1], [0, 0], [3, 2]])
    order = [2, 0, 1]
    parts: list[Tensor] = list(embedding(users).tokens.split(embedding(users).lengths.tolist()))
    shuffled = embedding(take(users, order)).tokens
    assert torch.allclose(shuffled, torch.cat([parts[i] for i in order]), atol=1e-6)


def test_batch_without_words_has_cls_and_profile(embedding: InputEmbedding) -> None:
    users = batch([[0, 0], [0, 0]])
    users.profile_ids[:] = [[1, 1], [0, 0]]
    encoded = embedding(users, (np.zeros(0, np.bool_), np.zeros(0, np.bool_)))
    assert encoded.lengths.tolist() == [3, 1]
    encoded.tokens.sum().backward()


def test_read_only_arrays_are_accepted(embedding: InputEmbedding) -> None:
    users = batch([[2, 1]])
    expected = embedding(users)
    for segment in users.segments:
        segment.ids.flags.writeable = False
        segment.positions.flags.writeable = False
    assert torch.equal(embedding(users).tokens, expected.tokens)
