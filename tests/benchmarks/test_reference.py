"""Tests that our training step and the reference have the same loss and gradients."""
# mypy: disable-error-code="no-untyped-call, index, union-attr"

import numpy as np
import pytest
import torch

from synthetic import batch, model
from userbert.benchmarks.reference import Reference
from userbert.model.userbert import UserBertConfig
from userbert.training.masking import select_words
from userbert.training.objectives import masked_words

CONFIG = UserBertConfig(layers=2, hidden=32, heads=2, feed_forward=64, dropout=0.0)


@pytest.mark.parametrize("trimmed", [False, True])
def test_loss_and_gradients_equal_those_of_the_reference(trimmed: bool) -> None:
    torch.manual_seed(0)
    ours = model(config=CONFIG)
    reference = Reference(ours, trimmed=trimmed)
    users = batch([[6, 2], [0, 5], [0, 0], [9, 0]], seed=3)
    loss = torch.stack(list(masked_words(ours, users, np.random.default_rng(1)).values())).sum()
    selection = select_words(users, np.random.default_rng(1), selected=0.15, zeroed=0.8)
    expected = reference(users, selection)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    expected.backward()
    embedding = ours.embedding
    assert embedding.tables.weight.grad is not None
    dense = embedding.tables.weight.grad.to_dense()
    first, last = embedding.tables.row_offsets[:2] + 1
    pairs = [
        (dense[first:last], reference.tables[1][0].weight.grad[1:]),
        (embedding.cls.grad, reference.cls.grad),
        (embedding.norm.weight.grad, reference.norm.weight.grad),
        (ours.heads[0].attributes[1].project.weight.grad, reference.heads[0][1].weight.grad),
        (
            ours.encoder.blocks[0].widen.weight.grad,
            reference.encoder.layer[0].intermediate.dense.weight.grad,
        ),
    ]
    # Our segments share the table of genres, so both gradients of the reference add up.
    pairs[0] = (pairs[0][0], pairs[0][1] + reference.tables[0][0].weight.grad[1:])
    for our_gradient, reference_gradient in pairs:
        assert our_gradient is not None
        assert reference_gradient is not None
        assert torch.allclose(our_gradient, reference_gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("trimmed", [False, True])
def test_vectors_equal_those_of_the_reference(trimmed: bool) -> None:
    torch.manual_seed(0)
    ours = model(config=CONFIG).eval()
    users = batch([[6, 2], [0, 5], [0, 0], [9, 0]], seed=3)
    with torch.inference_mode():
        vectors = ours.user_vectors(ours(users), "mean")
        expected = Reference(ours, trimmed=trimmed).eval().embed(users)
    assert torch.allclose(vectors, expected, atol=1e-5)
