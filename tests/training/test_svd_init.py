"""Initialization from counts and times: leading directions, their spread, timing statistics."""

import numpy as np
import polars as pl
import pytest
import torch

from small_logs import buys, prepare_events
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.data.use.sequences import cut
from userbert.errors import InputError
from userbert.model.summary import HistorySummary
from userbert.training.cutoffs import training_pairs
from userbert.training.pretrain import pretrain
from userbert.training.settings import configure
from userbert.training.svd_init import SPREAD, initialize_summary, leading_directions, timings
from userbert.training.validation import is_held_out

GENRES = [f"genre{number}" for number in range(12)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    rng = np.random.default_rng(0)
    frames = []
    for user in range(80):
        # Two tastes: odd users buy from the first six genres, even users from the others.
        genres = GENRES[:6] if user % 2 else GENRES[6:]
        frames += [
            buys(f"u{user}", f"2017-03-{day + 1:02d} 10:00", genre=str(rng.choice(genres)))
            for day in range(8)
        ]
    return prepare_events(tmp_path_factory.mktemp("svd_init"), pl.concat(frames))


def initialized(data: PreparedData, hidden: int = 8) -> tuple[HistorySummary, Pairs]:
    summary = HistorySummary(data.input_shape(), hidden)
    summary.tables.reset_parameters()
    torch.nn.init.zeros_(summary.totals.weight)
    torch.nn.init.zeros_(summary.totals.bias)
    pairs = pairs_at(data, [data.default_cutoff])
    initialize_summary(summary, leading_directions(summary, data, pairs, seed=0))
    return summary, pairs


def vectors(summary: HistorySummary, data: PreparedData, pairs: Pairs) -> np.ndarray:
    sums: np.ndarray = summary(cut(data, pairs.rows, pairs.cutoffs)).detach().numpy()
    return sums


def test_sums_have_equal_spread_and_separate_the_two_tastes(data: PreparedData) -> None:
    summary, pairs = initialized(data)
    sums = vectors(summary, data, pairs)
    assert np.allclose(sums.std(axis=0), SPREAD, rtol=1e-3)
    assert not summary.tables.weight[0].any()
    # Taste is the largest difference between users: one direction separates it.
    odd = np.array([int(name[1:]) % 2 for name in data.user_ids.to_pylist()])[pairs.rows]
    correlations = [abs(np.corrcoef(odd, column)[0, 1]) for column in sums.T]
    assert max(correlations) > 0.9


def test_surplus_directions_stay_zero(data: PreparedData) -> None:
    summary, pairs = initialized(data, hidden=64)
    spread = vectors(summary, data, pairs).std(axis=0)
    assert 10 < np.count_nonzero(spread > SPREAD / 2) < 40
    assert (spread[spread < SPREAD / 2] < 1e-6).all()


def test_pretraining_initializes_the_summary_and_requires_it(data: PreparedData) -> None:
    settings = ["steps=1", "learning_rate=1e-9", "model.hidden=32", "model.feed_forward=32",
                "objectives.hidden=1", "start_from_counts=true"]  # fmt: skip
    config = configure("paper", [*settings, "model.summary=true"])
    model = pretrain(data, config=config)
    again = pretrain(data, config=config)
    assert model.embedding.summary is not None
    spread = vectors(model.embedding.summary, data, pairs_at(data, [data.default_cutoff]))
    assert spread.std(axis=0).max() > SPREAD / 2
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    with pytest.raises(InputError, match=r"set model\.summary=true"):
        configure("paper", settings)


def test_timing_is_normalized_by_the_training_pairs(data: PreparedData) -> None:
    settings = ["steps=1", "model.hidden=32", "model.timing=true", "model.pool=all", "cutoffs=3"]
    model = pretrain(data, config=configure("paper", [*settings, "held_out=0.5"]), seed=2)
    layer = model.embedding.timing
    assert layer is not None
    pairs = training_pairs(data, pairs_at(data, [data.default_cutoff]), 3, 28, 2).pairs
    learned = ~is_held_out(data, pairs.rows, 0.5)
    assert 0 < np.count_nonzero(learned) < len(pairs)
    numbers = timings(data, Pairs(pairs.rows[learned], pairs.cutoffs[learned]), 0)
    assert np.allclose(layer.mean, numbers.mean(axis=0), atol=1e-5)
    varied = numbers.std(axis=0) > 1e-3
    assert varied.any()
    assert np.allclose(layer.deviation[varied], numbers.std(axis=0)[varied], rtol=1e-4)
