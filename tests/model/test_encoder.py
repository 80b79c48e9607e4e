"""The encoder equals BERT's and does not depend on padding or the order of users."""
# mypy: disable-error-code="no-untyped-call, call-arg, union-attr, operator, index, arg-type"

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from userbert.model.encoder import Encoder

LENGTHS = torch.tensor([5, 1, 9, 3])


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(layers=3, hidden=32, heads=4, feed_forward=64, dropout=0.1).eval()


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(int(LENGTHS.sum()), 32)


def test_outputs_and_gradients_equal_those_of_hugging_face(
    encoder: Encoder, tokens: Tensor
) -> None:
    from transformers import BertConfig, BertModel

    peer = BertModel(
        BertConfig(
            vocab_size=2, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=64, hidden_act="gelu", attn_implementation="sdpa",
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    pairs = []
    for ours, theirs in zip(encoder.blocks, peer.encoder.layer, strict=True):
        parts = theirs.attention.self
        query, key, value = (
            (layer.weight, layer.bias) for layer in (parts.query, parts.key, parts.value)
        )
        with torch.no_grad():
            ours.query_key_value.weight.copy_(torch.cat([query[0], key[0], value[0]]))
            ours.query_key_value.bias.copy_(torch.cat([query[1], key[1], value[1]]))
        pairs += [
            (ours.attention_output, theirs.attention.output.dense),
            (ours.attention_norm, theirs.attention.output.LayerNorm),
            (ours.widen, theirs.intermediate.dense),
            (ours.narrow, theirs.output.dense),
            (ours.output_norm, theirs.output.LayerNorm),
        ]
    for our_layer, their_layer in pairs:
        torch.nn.init.normal_(their_layer.bias)
        our_layer.load_state_dict(their_layer.state_dict())
        if hasattr(our_layer, "eps"):
            assert our_layer.eps == their_layer.eps

    our_input = tokens.clone().requires_grad_()
    our_output = encoder(our_input, LENGTHS)
    their_input = tokens.clone().requires_grad_()
    padded = pad_sequence(their_input.split(LENGTHS.tolist()), batch_first=True)
    valid = torch.arange(padded.shape[1]) < LENGTHS[:, None]
    mask = valid[:, None, None, :].expand(-1, 1, padded.shape[1], -1)
    their_output = peer.encoder(padded, attention_mask=mask).last_hidden_state[valid]
    assert torch.allclose(our_output, their_output, atol=1e-5)

    weights = torch.randn_like(our_output)
    (our_output * weights).sum().backward()
    (their_output * weights).sum().backward()
    assert our_input.grad is not None
    assert their_input.grad is not None
    assert torch.allclose(our_input.grad, their_input.grad, atol=1e-5)
    for our_layer, their_layer in pairs:
        assert torch.allclose(our_layer.weight.grad, their_layer.weight.grad, atol=1e-4, rtol=1e-5)
        assert torch.allclose(our_layer.bias.grad, their_layer.bias.grad, atol=1e-4, rtol=1e-5)
    first, their_first = encoder.blocks[0], peer.encoder.layer[0].attention.self
    assert torch.allclose(
        first.query_key_value.weight.grad[:32], their_first.query.weight.grad, atol=1e-4, rtol=1e-5
    )


def test_vectors_of_a_user_alone_equal_those_in_a_batch(encoder: Encoder, tokens: Tensor) -> None:
    together = encoder(tokens, LENGTHS)
    alone = [encoder(part, torch.tensor([len(part)])) for part in tokens.split(LENGTHS.tolist())]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_order_of_users_changes_nothing(encoder: Encoder, tokens: Tensor) -> None:
    order = torch.tensor([2, 0, 3, 1])
    parts = tokens.split(LENGTHS.tolist())
    shuffled = encoder(torch.cat([parts[i] for i in order]), LENGTHS[order])
    expected = encoder(tokens, LENGTHS).split(LENGTHS.tolist())
    assert torch.allclose(shuffled, torch.cat([expected[i] for i in order]), atol=1e-5)
