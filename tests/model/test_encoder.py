"""The encoder: BERT's, and blind to padding and to the order of users."""
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
    for mine, other in pairs:
        torch.nn.init.normal_(other.bias)
        mine.load_state_dict(other.state_dict())
        if hasattr(mine, "eps"):
            assert mine.eps == other.eps

    mine_in = tokens.clone().requires_grad_()
    ours_out = encoder(mine_in, LENGTHS)
    their_in = tokens.clone().requires_grad_()
    padded = pad_sequence(their_in.split(LENGTHS.tolist()), batch_first=True)
    valid = torch.arange(padded.shape[1]) < LENGTHS[:, None]
    mask = valid[:, None, None, :].expand(-1, 1, padded.shape[1], -1)
    their_out = peer.encoder(padded, attention_mask=mask).last_hidden_state[valid]
    assert torch.allclose(ours_out, their_out, atol=1e-5)

    weights = torch.randn_like(ours_out)
    (ours_out * weights).sum().backward()
    (their_out * weights).sum().backward()
    assert mine_in.grad is not None
    assert their_in.grad is not None
    assert torch.allclose(mine_in.grad, their_in.grad, atol=1e-5)
    for mine, other in pairs:
        assert torch.allclose(mine.weight.grad, other.weight.grad, atol=1e-4, rtol=1e-5)
        assert torch.allclose(mine.bias.grad, other.bias.grad, atol=1e-4, rtol=1e-5)
    first, their_first = encoder.blocks[0], peer.encoder.layer[0].attention.self
    assert torch.allclose(
        first.query_key_value.weight.grad[:32], their_first.query.weight.grad, atol=1e-4, rtol=1e-5
    )


def test_each_user_alone_gives_the_same_as_the_batch(encoder: Encoder, tokens: Tensor) -> None:
    together = encoder(tokens, LENGTHS)
    alone = [encoder(part, torch.tensor([len(part)])) for part in tokens.split(LENGTHS.tolist())]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_order_of_users_changes_nothing(encoder: Encoder, tokens: Tensor) -> None:
    order = torch.tensor([2, 0, 3, 1])
    parts = tokens.split(LENGTHS.tolist())
    shuffled = encoder(torch.cat([parts[i] for i in order]), LENGTHS[order])
    expected = encoder(tokens, LENGTHS).split(LENGTHS.tolist())
    assert torch.allclose(shuffled, torch.cat([expected[i] for i in order]), atol=1e-5)
