"""The paper's objective, against a plain computation."""
# mypy: disable-error-code="no-untyped-call"

import numpy as np
import torch

from synthetic import batch, model
from userbert.training.masking import select_words
from userbert.training.objectives import masked_words


def test_loss_is_summed_over_words_and_averaged_over_users() -> None:
    torch.manual_seed(0)
    network = model().eval()
    users = batch([[5, 3], [0, 2], [0, 0]])
    losses = masked_words(network, users, np.random.default_rng(5))
    assert list(losses) == ["long_term.genre", "long_term.shop", "short_term.genre"]

    chosen = select_words(users, np.random.default_rng(5), selected=0.15, zeroed=0.8)
    encoded = network(users, chosen.zeroed)
    segment, selected = users.segments[1], chosen.selected[1]
    expected = 0.0
    for word in np.flatnonzero(selected):
        ids = segment.ids[0, segment.action_offsets[word] : segment.action_offsets[word + 1]]
        vector = encoded.tokens[encoded.word_index[1][word]]
        log_p = network.heads[1].attributes[0](vector).log_softmax(0)
        expected -= sum(log_p[value - 1].item() for value in set(ids.tolist()) - {0})
    assert np.isclose(losses["short_term.genre"].item(), expected / 3, rtol=1e-5)


def test_gradients_reach_every_weight_that_the_batch_uses() -> None:
    torch.manual_seed(0)
    network = model()
    users = batch([[30, 30]] * 4)
    torch.stack(
        list(masked_words(network, users, np.random.default_rng(0)).values())
    ).sum().backward()
    untouched = [name for name, p in network.named_parameters() if p.grad is None]
    assert untouched == []


def test_batch_without_words_has_zero_loss() -> None:
    losses = masked_words(model(), batch([[0, 0], [0, 0]]), np.random.default_rng(0))
    assert [loss.item() for loss in losses.values()] == [0, 0, 0]
