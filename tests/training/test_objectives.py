"""The objectives, against a plain computation."""
# mypy: disable-error-code="no-untyped-call"

from dataclasses import replace

import numpy as np
import torch

from synthetic import TINY, batch, model
from userbert.data.batches import Future, UserBatch, drop_actions
from userbert.model.userbert import UserBert
from userbert.training.masking import hide_actions, select_words
from userbert.training.objectives import masked_words, weighted_objectives

NAMES = ["long_term.genre", "long_term.shop", "short_term.genre"]


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


WEIGHTS = {"words": 0.5, "hidden": 1.0, "future": 2.0}


def whole_model() -> UserBert:
    """A model with every part that `weighted_objectives` trains."""
    more = dict.fromkeys(("summary", "word_sizes", "timing", "tells_hidden", "tells_future"), True)
    return model(config=TINY.model_copy(update=more))


def users_with_future(seed: int = 0) -> UserBatch:
    """Three users: one with three future actions, one with none, one with an unknown future."""
    users = batch([[5, 3], [4, 4], [0, 6]], seed=seed)
    ids = (np.array([[3, 4, 3], [0, 2, 5]], np.int32), np.zeros((1, 0), np.int32))
    offsets = (np.array([0, 3, 3, 3]), np.zeros(4, np.int64))
    return replace(users, future=Future(np.array([True, True, False]), ids, offsets))


def test_hidden_values_of_each_user_weigh_one() -> None:
    torch.manual_seed(0)
    network, users = whole_model().eval(), users_with_future()
    losses = weighted_objectives(
        network, users, np.random.default_rng(5), weights={"hidden": 2.0}, hide=(0.2, 0.7)
    )
    masks = hide_actions(users, np.random.default_rng(5), min_share=0.2, max_share=0.7)
    encoded = network(drop_actions(users, masks))
    cls = encoded.tokens[encoded.cls_index]
    expected = 0.0
    segment, mask = users.segments[1], masks[1]
    head = network.user_heads["hidden"].segments[1].attributes[0]
    for user in range(3):
        hidden_ids = segment.ids[0, mask & (segment.user_of_action == user)]
        log_p = head(cls[user]).log_softmax(0)
        values = sorted(set(hidden_ids.tolist()) - {0})
        expected -= sum(log_p[value - 1].item() for value in values) / max(1, len(values))
    assert np.isclose(losses["hidden short_term.genre"].item(), 2 * expected / 3, rtol=1e-5)
    assert list(losses) == [f"hidden {name}" for name in NAMES]


def test_future_loss_counts_users_with_a_known_future_only() -> None:
    torch.manual_seed(0)
    network, users = whole_model().eval(), users_with_future()
    losses = weighted_objectives(
        network, users, np.random.default_rng(5), weights={"future": 1.0}, hide=(0, 0)
    )
    encoded = network(users)
    heads, cls = network.user_heads["future"], encoded.tokens[encoded.cls_index]
    assert heads.activity is not None
    log_p = heads.segments[0].attributes[1](cls[0]).log_softmax(0)
    expected = -(log_p[2 - 1] + log_p[5 - 1]).item() / 2
    assert np.isclose(losses["future long_term.shop"].item(), expected / 3, rtol=1e-5)
    active = torch.nn.functional.binary_cross_entropy_with_logits(
        heads.activity(cls[:2])[:, 0], torch.tensor([1.0, 0.0]), reduction="sum"
    )
    assert np.isclose(losses["future long_term active"].item(), active.item() / 3, rtol=1e-5)
    assert losses["future short_term.genre"].item() == 0


def test_hidden_and_future_actions_do_not_change_the_input() -> None:
    torch.manual_seed(0)
    network, users = whole_model().eval(), users_with_future()
    masks = hide_actions(users, np.random.default_rng(5), min_share=0.2, max_share=0.7)
    assert any(mask.any() for mask in masks)
    changed_segments = [
        replace(segment, ids=np.where(mask, 1, segment.ids))
        for segment, mask in zip(users.segments, masks, strict=True)
    ]
    changed = replace(users, segments=tuple(changed_segments), future=None)
    tokens = [network(drop_actions(part, masks)).tokens for part in (users, changed)]
    assert torch.equal(*tokens)


def test_gradients_of_all_objectives_reach_every_weight() -> None:
    torch.manual_seed(0)
    network = whole_model()
    losses = weighted_objectives(
        network, users_with_future(), np.random.default_rng(0), weights=WEIGHTS, hide=(0.2, 0.7)
    )
    torch.stack(list(losses.values())).sum().backward()
    untouched = [name for name, p in network.named_parameters() if p.grad is None]
    assert untouched == []
