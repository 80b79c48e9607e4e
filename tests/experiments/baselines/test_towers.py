"""Tests of what recurrent networks and encoders read from a segment."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from synthetic import batch, shape, take
from userbert.experiments.baselines.coles import MAX_ACTIONS, ColesGru
from userbert.experiments.baselines.sequence_encoders import LstmTowers, TransformerTowers
from userbert.experiments.baselines.towers import last_states, select_segment


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_last_states_depend_on_each_user_alone(kind: type[nn.LSTM] | type[nn.GRU]) -> None:
    torch.manual_seed(0)
    network = kind(6, 4)
    vectors, counts = torch.randn(9, 6), np.array([2, 0, 6, 1])
    states = last_states(network, vectors, counts)
    for user, alone in enumerate(torch.split(vectors, counts.tolist())):
        expected = network(alone[:, None])[0][-1, 0] if len(alone) else torch.zeros(4)
        assert torch.allclose(states[user], expected, atol=1e-6)


def test_padding_has_no_gradient() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(6, 4)
    together, alone = (torch.ones(7, 6, requires_grad=True) for _ in range(2))
    last_states(network, together, np.array([2, 5])).sum().backward()  # type: ignore[no-untyped-call]
    for vectors, counts in ((alone[:2], [2]), (alone[2:], [5])):
        last_states(network, vectors, np.array(counts)).sum().backward()  # type: ignore[no-untyped-call]
    assert together.grad is not None
    assert alone.grad is not None
    assert torch.allclose(together.grad, alone.grad, atol=1e-6)


def test_without_words_the_lstm_is_zero_and_the_transformer_has_its_first_token() -> None:
    users = batch([[2, 0], [0, 3]])
    for number, empty in ((0, 1), (1, 0)):
        segment = select_segment(users, number)
        assert not LstmTowers(shape()).towers[number](segment)[empty].any()
        assert TransformerTowers(shape()).towers[number](segment)[empty].any()


def test_lstm_reads_words_in_order() -> None:
    network = LstmTowers(shape()).eval()
    users = batch([[2, 0]], actions=1)
    (segment, other) = users.segments
    reversed_segment = replace(
        segment, ids=segment.ids[:, ::-1], positions=segment.positions[::-1].copy()
    )
    assert not torch.allclose(
        network(users), network(replace(users, segments=(reversed_segment, other)))
    )


def test_gru_reads_only_the_newest_actions() -> None:
    network = ColesGru(shape()).eval()
    users = batch([[MAX_ACTIONS + 90, 10], [MAX_ACTIONS - 10, 10]], actions=1)
    long_term = users.segments[0]
    first, last = MAX_ACTIONS + 90, 2 * MAX_ACTIONS + 80
    # The second user has the newest actions of the first.
    long_term.ids[:, first:last] = long_term.ids[:, 100:first]
    long_term.positions[first:last] = long_term.positions[100:first]
    short_term = users.segments[1]
    short_term.ids[:, 10:] = short_term.ids[:, :10]
    short_term.positions[10:] = short_term.positions[:10]
    users.profile_ids[:] = 1
    first_vector, second_vector = network(users)
    assert torch.allclose(first_vector, second_vector, atol=1e-6)
    older = take(users, [0])
    older.segments[0].ids[:, 99] = 3 - older.segments[0].ids[:, 99].clip(1, 2)
    assert torch.equal(network(older)[0], network(take(users, [0]))[0])
    older.segments[0].ids[:, 101] = 3 - older.segments[0].ids[:, 101].clip(1, 2)
    assert not torch.equal(network(older)[0], network(take(users, [0]))[0])
