"""The multi-label loss and its gradients equal those of a dense loss."""
# mypy: disable-error-code="no-untyped-call"

import numpy as np
import torch

from synthetic import batch, shape
from userbert.data.batches import SegmentBatch
from userbert.model.heads import SegmentHeads, word_sets


def test_loss_and_gradients_equal_the_dense_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    heads = SegmentHeads(shape().segments[0], hidden=16)
    segment = batch([[4, 0], [3, 0]]).segments[0]
    selected = np.array([True, False, True, True, False, False, True])
    vectors = torch.randn(4, 16, requires_grad=True)
    losses = heads.losses(vectors, segment, selected)
    assert list(losses) == ["genre", "shop"]
    torch.stack(list(losses.values())).sum().backward()
    gradients = [vectors.grad, *(parameter.grad for parameter in heads.parameters())]

    dense_vectors = vectors.detach().clone().requires_grad_()
    total = torch.zeros(())
    for attribute, head in enumerate(heads.attributes):
        log_p = head(dense_vectors).log_softmax(-1)
        y = torch.zeros_like(log_p)
        for row, word in enumerate(np.flatnonzero(selected)):
            low, high = segment.action_offsets[word : word + 2]
            for value in set(segment.ids[attribute, low:high].tolist()) - {0}:
                y[row, value - 1] = 1
        dense = -(y * log_p).sum()
        assert torch.allclose(losses[heads.names[attribute]], dense, rtol=1e-5)
        total = total + dense
    heads.zero_grad()
    total.backward()
    expected = [dense_vectors.grad, *(parameter.grad for parameter in heads.parameters())]
    for actual, dense_gradient in zip(gradients, expected, strict=True):
        assert actual is not None
        assert dense_gradient is not None
        assert torch.allclose(actual, dense_gradient, atol=1e-5)


def test_sets_contain_each_value_once_and_never_none() -> None:
    ids = np.array([[3, 3, 0, 1, 5], [0, 0, 0, 2, 2]], np.int32)
    segment = SegmentBatch(
        "long_term", ids, np.array([0, 3, 4, 5]), np.array([0, 3]), np.zeros(3, np.int32)
    )
    genre, shop = word_sets(segment, np.array([True, False, True]), size=10)
    assert (genre.words.tolist(), genre.ids.tolist()) == ([0, 1], [3, 5])
    assert (shop.words.tolist(), shop.ids.tolist()) == ([1], [2])


def test_loss_without_selected_words_is_zero() -> None:
    heads = SegmentHeads(shape().segments[0], hidden=16)
    segment = batch([[2, 0]]).segments[0]
    losses = heads.losses(torch.zeros(0, 16), segment, np.zeros(2, np.bool_))
    assert [loss.item() for loss in losses.values()] == [0, 0]
