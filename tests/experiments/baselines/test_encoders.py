"""Tests that every encoder of the experiments passes, including UserBERT."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from synthetic import batch, model, shape, take
from userbert.data.batches import InputShape, UserBatch, slice_users
from userbert.experiments.baselines.coles import ColesGru, coles
from userbert.experiments.baselines.multitask import MultiTask, multitask
from userbert.experiments.baselines.sequence_encoders import LstmTowers, TransformerTowers
from userbert.experiments.baselines.wide_deep import WideDeep
from userbert.model.userbert import Precision, UserBert, UserBertConfig
from userbert.training.loop import LoopConfig, train
from userbert.training.tracking import Line

WORDS = [[3, 2], [0, 0], [1, 0], [0, 4], [7, 1]]


class UserBertCls(nn.Module):
    """UserBERT as an encoder that returns the final vector of the first token."""

    width = 128

    def __init__(self, inputs: InputShape) -> None:
        super().__init__()
        self.network: UserBert = model(inputs, UserBertConfig())

    def forward(self, users: UserBatch) -> Tensor:
        encoded = self.network(users)
        return encoded.tokens.index_select(0, encoded.cls_index)  # type: ignore[no-any-return]


Maker = Callable[[InputShape], nn.Module]
MAKERS: dict[str, Maker] = {
    "userbert": UserBertCls,
    "wide_deep": WideDeep,
    "lstm": LstmTowers,
    "transformer": TransformerTowers,
    "coles_gru": ColesGru,
}
_TOWER = ("profile_segment", "embedding.profile.weight")
"""Weights of UserBERT's input that a tower with one segment does not use."""
IDLE: dict[str, tuple[str, ...]] = {
    # Heads are for pretraining only.
    "userbert": ("network.heads.",),
    "wide_deep": (),
    "lstm": (*_TOWER, "embedding.cls"),
    "transformer": _TOWER,
    "coles_gru": (),
}
for_every_encoder = pytest.mark.parametrize("name", MAKERS)


def new(name: str, inputs: InputShape | None = None) -> nn.Module:
    torch.manual_seed(0)
    return MAKERS[name](inputs or shape())


@cache
def in_eval_mode(name: str) -> nn.Module:
    """Returns an encoder in evaluation mode."""
    return new(name).eval()


def vectors(encoder: nn.Module, users: UserBatch) -> Tensor:
    with torch.inference_mode():
        return encoder(users)  # type: ignore[no-any-return]


def are_close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-5, atol=1e-5)


def pretrain(
    name: str, precision: Precision = "float32", steps: int = 30
) -> tuple[nn.Module, list[Line]]:
    """Pretrains on two tasks: whether a user browses, and the age of the user."""
    module = MultiTask(new(name), (2, 5))
    batches = [batch([[number % 4 + 1, number % 2] for number in range(12)], seed=0)] * steps
    targets = np.stack([np.arange(12) % 2, batches[0].profile_ids[:, 0]], axis=1)
    config = LoopConfig(steps=steps, learning_rate=2e-3, log_every=10, precision=precision)
    lines = train(module, multitask(("browses", "age"), targets), batches, config).lines
    return module, lines


@for_every_encoder
def test_vector_is_finite_and_has_the_encoders_width(name: str) -> None:
    output = vectors(in_eval_mode(name), batch(WORDS))
    assert in_eval_mode(name).width == 128
    assert output.shape == (5, 128)
    assert output.dtype == torch.float32
    assert torch.isfinite(output).all()


@for_every_encoder
@given(
    words=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=6),
    seed=st.integers(0, 99),
)
@settings(max_examples=6)
def test_vector_depends_on_its_user_alone(
    name: str, words: Sequence[Sequence[int]], seed: int
) -> None:
    users = batch(words, seed=seed)
    expected = vectors(in_eval_mode(name), users)
    order = np.random.default_rng(seed).permutation(len(users)).tolist()
    assert are_close(vectors(in_eval_mode(name), take(users, order)), expected[order])
    single_users = [slice_users(users, first, first + 1) for first in range(len(users))]
    assert are_close(
        torch.cat([vectors(in_eval_mode(name), single_user) for single_user in single_users]),
        expected,
    )


@for_every_encoder
def test_dropout_depends_on_its_user_alone(name: str) -> None:
    encoder, users, order = new(name), batch(WORDS), [3, 1, 4]
    torch.manual_seed(1)
    expected = encoder(users)
    torch.manual_seed(1)
    assert are_close(encoder(take(users, order)), expected[order])


@for_every_encoder
@pytest.mark.parametrize("words", [[[2, 0], [3, 0]], [[0, 2], [0, 3]], [[0, 0], [0, 0]], []])
def test_a_segment_without_words_gives_finite_vectors(name: str, words: list[list[int]]) -> None:
    output = vectors(in_eval_mode(name), batch(words))
    assert output.shape == (len(words), 128)
    assert torch.isfinite(output).all()


@for_every_encoder
def test_each_segment_and_the_profile_change_the_vector(name: str) -> None:
    users = batch([[3, 2]])
    expected = vectors(in_eval_mode(name), users)
    long_term, short_term = users.segments
    for changed in (
        replace(users, segments=(replace(long_term, ids=long_term.ids % 5 + 1), short_term)),
        replace(users, segments=(long_term, replace(short_term, ids=short_term.ids % 5 + 1))),
        replace(users, profile_ids=users.profile_ids % 3 + 1),
    ):
        assert (vectors(in_eval_mode(name), changed) - expected).abs().max() > 1e-4


@for_every_encoder
def test_encoders_accept_data_without_profiles(name: str) -> None:
    inputs = replace(shape(), profile=())
    encoder = new(name, inputs)
    encoder(batch(WORDS, inputs=inputs)).sum().backward()
    output = vectors(encoder.eval(), batch(WORDS, inputs=inputs))
    assert output.shape == (5, 128)
    assert torch.isfinite(output).all()


@for_every_encoder
def test_an_unknown_profile_gives_finite_vectors(name: str) -> None:
    users = batch(WORDS)
    users = replace(users, profile_ids=np.zeros_like(users.profile_ids))
    assert torch.isfinite(vectors(in_eval_mode(name), users)).all()


@for_every_encoder
def test_gradients_reach_what_an_encoder_uses(name: str) -> None:
    encoder = new(name)
    output = encoder(batch(WORDS))
    (output * torch.randn_like(output)).sum().backward()
    idle = {
        weight
        for weight, values in encoder.named_parameters()
        if values.grad is None or not values.grad.to_dense().any()
    }
    expected = {
        weight
        for weight, _ in encoder.named_parameters()
        if any(pattern in weight for pattern in IDLE[name])
    }
    assert idle == expected


@for_every_encoder
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_multi_task_pretraining_lowers_the_loss(name: str, precision: Precision) -> None:
    _, lines = pretrain(name, precision)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert sum(lines[-1]["losses"].values()) == pytest.approx(lines[-1]["loss"])


@for_every_encoder
def test_the_same_seed_gives_the_same_pretraining(name: str) -> None:
    (first, lines), (second, lines_again) = pretrain(name, steps=8), pretrain(name, steps=8)
    assert [line["loss"] for line in lines] == [line["loss"] for line in lines_again]
    weights: Mapping[str, Tensor] = second.state_dict()
    assert all(torch.equal(values, weights[key]) for key, values in first.state_dict().items())


@for_every_encoder
def test_a_state_dict_restores_an_equal_encoder(name: str) -> None:
    torch.manual_seed(1)
    restored = MAKERS[name](shape()).eval()
    users = batch(WORDS)
    assert not are_close(vectors(restored, users), vectors(in_eval_mode(name), users))
    restored.load_state_dict(in_eval_mode(name).state_dict())
    assert torch.equal(vectors(restored, users), vectors(in_eval_mode(name), users))


@pytest.mark.parametrize("name", ["userbert", "coles_gru"])
def test_contrastive_pretraining_lowers_the_loss(name: str) -> None:
    encoder = new(name)
    users = batch([[9, 3]] * 8, seed=1, actions=1)
    # All words of a user have one genre, another for each user.
    segments = []
    for segment in users.segments:
        ids = segment.ids.copy()
        ids[0] = 2 + np.repeat(np.arange(8), segment.word_counts)
        segments.append(replace(segment, ids=ids))
    users = replace(users, segments=tuple(segments))
    config = LoopConfig(steps=30, learning_rate=1e-3, log_every=10)
    lines = train(encoder, coles, [users] * 30, config).lines
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
