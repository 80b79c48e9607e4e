"""What every encoder of the experiments keeps to, UserBERT included."""

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
from userbert.data.batches import InputShape, UserBatch, users_of
from userbert.experiments.baselines.coles import ColesGru, coles
from userbert.experiments.baselines.multitask import MultiTask, multitask
from userbert.experiments.baselines.sequence_encoders import LstmTowers, TransformerTowers
from userbert.experiments.baselines.wide_deep import WideDeep
from userbert.model.userbert import Precision, UserBert, UserBertConfig
from userbert.training.loop import LoopConfig, train
from userbert.training.tracking import Line

WORDS = [[3, 2], [0, 0], [1, 0], [0, 4], [7, 1]]


class UserBertCls(nn.Module):
    """UserBERT as an encoder: the first token's final vector."""

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
"""Parts of UserBERT's input that a tower of one segment does not use."""
IDLE: dict[str, tuple[str, ...]] = {
    # Heads belong to pretraining.
    "userbert": ("network.heads.",),
    "wide_deep": (),
    "lstm": (*_TOWER, "embedding.cls"),
    "transformer": _TOWER,
    "coles_gru": (),
}
every = pytest.mark.parametrize("name", MAKERS)


def new(name: str, inputs: InputShape | None = None) -> nn.Module:
    torch.manual_seed(0)
    return MAKERS[name](inputs or shape())


@cache
def still(name: str) -> nn.Module:
    """An encoder that does not learn."""
    return new(name).eval()


def vectors(encoder: nn.Module, users: UserBatch) -> Tensor:
    with torch.inference_mode():
        return encoder(users)  # type: ignore[no-any-return]


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5)


def learn(
    name: str, precision: Precision = "float32", steps: int = 30
) -> tuple[nn.Module, list[Line]]:
    """Pretrain on two questions: does a user browse, and of which age is the user?"""
    module = MultiTask(new(name), (2, 5))
    batches = [batch([[number % 4 + 1, number % 2] for number in range(12)], seed=0)] * steps
    targets = np.stack([np.arange(12) % 2, batches[0].profile_ids[:, 0]], axis=1)
    config = LoopConfig(steps=steps, learning_rate=2e-3, log_every=10, precision=precision)
    lines = train(module, multitask(("browses", "age"), targets), batches, config).lines
    return module, lines


@every
def test_vector_is_finite_and_of_the_width(name: str) -> None:
    found = vectors(still(name), batch(WORDS))
    assert still(name).width == 128
    assert found.shape == (5, 128)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()


@every
@given(
    words=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=6),
    seed=st.integers(0, 99),
)
@settings(max_examples=6)
def test_vector_depends_on_its_user_alone(
    name: str, words: Sequence[Sequence[int]], seed: int
) -> None:
    users = batch(words, seed=seed)
    expected = vectors(still(name), users)
    order = np.random.default_rng(seed).permutation(len(users)).tolist()
    assert same(vectors(still(name), take(users, order)), expected[order])
    parts = [users_of(users, first, first + 1) for first in range(len(users))]
    assert same(torch.cat([vectors(still(name), part) for part in parts]), expected)


@every
def test_dropout_depends_on_its_user_alone(name: str) -> None:
    encoder, users, order = new(name), batch(WORDS), [3, 1, 4]
    torch.manual_seed(1)
    expected = encoder(users)
    torch.manual_seed(1)
    assert same(encoder(take(users, order)), expected[order])


@every
@pytest.mark.parametrize("words", [[[2, 0], [3, 0]], [[0, 2], [0, 3]], [[0, 0], [0, 0]], []])
def test_a_segment_without_words_is_no_matter(name: str, words: list[list[int]]) -> None:
    found = vectors(still(name), batch(words))
    assert found.shape == (len(words), 128)
    assert torch.isfinite(found).all()


@every
def test_each_segment_and_the_profile_move_the_vector(name: str) -> None:
    users = batch([[3, 2]])
    expected = vectors(still(name), users)
    one, other = users.segments
    for changed in (
        replace(users, segments=(replace(one, ids=one.ids % 5 + 1), other)),
        replace(users, segments=(one, replace(other, ids=other.ids % 5 + 1))),
        replace(users, profile_ids=users.profile_ids % 3 + 1),
    ):
        assert (vectors(still(name), changed) - expected).abs().max() > 1e-4


@every
def test_data_without_profiles_will_do(name: str) -> None:
    inputs = replace(shape(), profile=())
    encoder = new(name, inputs)
    encoder(batch(WORDS, inputs=inputs)).sum().backward()
    found = vectors(encoder.eval(), batch(WORDS, inputs=inputs))
    assert found.shape == (5, 128)
    assert torch.isfinite(found).all()


@every
def test_unknown_profile_is_as_an_empty_one(name: str) -> None:
    users = batch(WORDS)
    users = replace(users, profile_ids=np.zeros_like(users.profile_ids))
    assert torch.isfinite(vectors(still(name), users)).all()


@every
def test_gradients_reach_what_an_encoder_uses(name: str) -> None:
    encoder = new(name)
    found = encoder(batch(WORDS))
    (found * torch.randn_like(found)).sum().backward()
    idle = {
        weight
        for weight, values in encoder.named_parameters()
        if values.grad is None or not values.grad.to_dense().any()
    }
    expected = {
        weight
        for weight, _ in encoder.named_parameters()
        if any(part in weight for part in IDLE[name])
    }
    assert idle == expected


@every
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_multi_task_pretraining_lowers_the_loss(name: str, precision: Precision) -> None:
    _, lines = learn(name, precision)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert sum(lines[-1]["losses"].values()) == pytest.approx(lines[-1]["loss"])


@every
def test_pretraining_is_the_same_again_under_a_seed(name: str) -> None:
    (one, lines), (other, again) = learn(name, steps=8), learn(name, steps=8)
    assert [line["loss"] for line in lines] == [line["loss"] for line in again]
    weights: Mapping[str, Tensor] = other.state_dict()
    assert all(torch.equal(values, weights[key]) for key, values in one.state_dict().items())


@every
def test_state_makes_an_equal_encoder(name: str) -> None:
    torch.manual_seed(1)
    other = MAKERS[name](shape()).eval()
    users = batch(WORDS)
    assert not same(vectors(other, users), vectors(still(name), users))
    other.load_state_dict(still(name).state_dict())
    assert torch.equal(vectors(other, users), vectors(still(name), users))


@pytest.mark.parametrize("name", ["userbert", "coles_gru"])
def test_contrastive_pretraining_tells_users_apart(name: str) -> None:
    encoder = new(name)
    users = batch([[9, 3]] * 8, seed=1, actions=1)
    # Each user has a favourite genre.
    segments = []
    for segment in users.segments:
        ids = segment.ids.copy()
        ids[0] = 2 + np.repeat(np.arange(8), segment.word_counts)
        segments.append(replace(segment, ids=ids))
    users = replace(users, segments=tuple(segments))
    config = LoopConfig(steps=30, learning_rate=1e-3, log_every=10)
    lines = train(encoder, coles, [users] * 30, config).lines
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
