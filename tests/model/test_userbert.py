"""User embeddings of the whole model, and their invariances."""

import pytest
import torch
from torch import nn

from synthetic import batch, model, take
from userbert.model.userbert import UserBert, UserBertConfig

WORDS = [[3, 2], [0, 0], [1, 0], [0, 4]]


@pytest.fixture
def network() -> UserBert:
    torch.manual_seed(0)
    return model().eval()


def test_defaults_equal_the_papers_sizes() -> None:
    config = UserBertConfig()
    assert (config.layers, config.hidden, config.heads) == (4, 128, 4)


def test_user_embedding_is_the_mean_of_the_words(network: UserBert) -> None:
    encoded = network(batch(WORDS))
    vectors = network.user_vectors(encoded)
    words = encoded.tokens[encoded.word_index[0][:3].tolist() + encoded.word_index[1][:2].tolist()]
    assert torch.allclose(vectors[0], words.mean(0), atol=1e-6)


def test_embedding_of_a_user_without_words_is_its_cls_vector(network: UserBert) -> None:
    encoded = network(batch(WORDS))
    assert torch.equal(
        network.user_vectors(encoded, "mean")[1], network.user_vectors(encoded, "cls")[1]
    )


def test_vectors_do_not_depend_on_the_other_users_of_the_batch(network: UserBert) -> None:
    users = batch(WORDS)
    together = network.user_vectors(network(users))
    order = [3, 1, 0]
    others = network.user_vectors(network(take(users, order)))
    assert torch.allclose(others, together[order], atol=1e-5)


def test_weights_are_initialised_as_in_bert() -> None:
    torch.manual_seed(0)
    network = model(config=UserBertConfig())
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.3)
            assert not layer.bias.any()
    assert not network.embedding.tables.weight[0].any()
