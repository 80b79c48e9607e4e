"""Embedding prepared data: which users and cut-offs, which vectors, local and on a cluster."""

from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from small_logs import buys, cutoffs, prepare_events
from userbert.data.prepare.cluster import spark_session
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.embedding.embed import write_embeddings
from userbert.errors import InputError, ModelError
from userbert.inspection import inspect
from userbert.model.userbert import Pool, UserBert, UserBertConfig, embed_pairs


@pytest.fixture
def data(tmp_path: Path) -> PreparedData:
    events = [
        buys("ann", "2024-03-01T15:00", "2024-03-05T15:00", "2024-03-20T15:00"),
        buys("bob", "2024-03-18T15:00"),
        buys("cid", "2024-03-04T15:00", "2024-03-19T12:00", "2024-03-19T15:00"),
    ]
    return prepare_events(tmp_path, pl.concat(events))


@pytest.fixture
def model(data: PreparedData) -> UserBert:
    torch.manual_seed(0)
    config = UserBertConfig(layers=2, hidden=16, heads=2, feed_forward=32)
    return UserBert(config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies)


def test_frame_has_every_user_with_an_event_before_the_cutoff(
    model: UserBert, data: PreparedData
) -> None:
    frame = model.embed(data, cutoff="2024-03-10")
    assert frame.schema == {
        "user_id": pl.String,
        "cutoff": pl.Datetime("us", "UTC"),
        "embedding": pl.Array(pl.Float32, 16),
    }
    assert sorted(frame["user_id"]) == ["ann", "cid"]
    assert frame["cutoff"].dt.epoch("us").unique().to_list() == cutoffs("2024-03-10T00:00").tolist()
    assert sorted(model.embed(data)["user_id"]) == ["ann", "bob", "cid"]


def test_pairs_of_at_keep_their_order_even_without_events(
    model: UserBert, data: PreparedData
) -> None:
    at = pl.DataFrame(
        {"user_id": ["bob", "ann", "bob"], "cutoff": ["2024-03-10", "2024-03-20", "2024-03-20"]}
    )
    frame = model.embed(data, at=at)
    assert frame["user_id"].to_list() == ["bob", "ann", "bob"]
    single = model.embed(data, cutoff="2024-03-20").filter(user_id="bob")["embedding"].to_numpy()
    assert np.allclose(frame["embedding"].to_numpy()[2], single[0], atol=1e-5)
    with pytest.raises(InputError, match="leave `cutoff` out"):
        model.embed(data, cutoff="2024-03-10", at=at)


def test_vectors_do_not_depend_on_other_pairs_of_the_call(
    model: UserBert, data: PreparedData
) -> None:
    rows = np.array([0, 1, 2, 0, 1, 2])
    instants = cutoffs(*["2024-03-21T00:00"] * 3, *["2024-03-06T00:00"] * 3)
    together = embed_pairs(model, data, rows, instants)
    alone = [
        embed_pairs(model, data, rows[i : i + 1], instants[i : i + 1])[0] for i in range(len(rows))
    ]
    assert np.allclose(together, np.stack(alone), atol=1e-5)
    assert model.training


def test_bf16_is_close(model: UserBert, data: PreparedData) -> None:
    exact, rounded = (
        np.asarray(model.embed(data, precision=precision)["embedding"].to_numpy())
        for precision in ("float32", "bf16")
    )
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    assert ((exact * rounded).sum(axis=1) / lengths).min() > 0.999


def test_vectors_depend_on_the_pool(model: UserBert, data: PreparedData) -> None:
    mean, cls = (model.embed(data, pool=pool)["embedding"].to_numpy() for pool in ("mean", "cls"))
    assert not np.allclose(mean, cls)


@pytest.mark.parametrize("summary", [False, True])
def test_pool_all_concatenates_the_other_pools(
    data: PreparedData, tmp_path: Path, summary: bool
) -> None:
    config = UserBertConfig(
        layers=1, hidden=16, heads=2, feed_forward=16, pool="all", summary=summary
    )
    network = UserBert(
        config, data.input_shape(), schema=data.schema, vocabularies=data.vocabularies
    )
    vectors = network.embed(data)["embedding"].to_numpy()
    assert vectors.shape[1] == network.width() == (48 if summary else 32)
    pools: tuple[Pool, ...] = ("cls", "mean")
    for place, pool in enumerate(pools):
        alone = network.embed(data, pool=pool)["embedding"].to_numpy()
        assert np.array_equal(vectors[:, 16 * place : 16 * place + 16], alone)
    # Each pool has a similar weight in a cosine.
    lengths = np.linalg.norm(vectors.reshape(len(vectors), -1, 16), axis=2)
    assert lengths.min() > 0.5 * lengths.max()
    pairs = pairs_at(data, [data.default_cutoff])
    write_embeddings(network, data, pairs, tmp_path / "vectors.parquet", vectors_as="columns")
    assert pl.read_parquet(tmp_path / "vectors.parquet").width == 2 + network.width()


def test_data_with_other_segments_are_refused(
    model: UserBert, data: PreparedData, tmp_path: Path
) -> None:
    schema = data.schema.dump().replace("90d", "60d")
    other = prepare_events(tmp_path, buys("ann", "2024-03-01T15:00"), schema)
    model.vocabularies = other.vocabularies
    with pytest.raises(ModelError, match="segments"):
        model.embed(other)


@pytest.mark.slow
@pytest.mark.usefixtures("java")
def test_a_cluster_writes_the_same_vectors(
    model: UserBert, data: PreparedData, tmp_path: Path
) -> None:
    rows = data.rows_of(["cid", "bob", "ann", "bob", "cid"])
    pairs = Pairs(rows, np.repeat(cutoffs("2024-03-20T00:00"), 5))
    write_embeddings(model, data, pairs, tmp_path / "local.parquet", max_pairs_per_part=2)
    with spark_session("local[2]") as spark:
        write_embeddings(
            model, data, pairs, tmp_path / "cluster", spark=spark, max_pairs_per_part=2
        )
    assert sorted(path.name for path in (tmp_path / "cluster").iterdir()) == [
        "part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "summary.json",
    ]  # fmt: skip
    output = StringIO()
    Console(file=output, width=120).print(inspect(tmp_path / "cluster"))
    assert f"5 of {model.width()} numbers" in output.getvalue()
    local, cluster = (
        pl.read_parquet(tmp_path / name) for name in ("local.parquet", "cluster/*.parquet")
    )
    assert local["user_id"].to_list() == cluster["user_id"].to_list()
    assert local["cutoff"].to_list() == cluster["cutoff"].to_list()
    vectors = [frame["embedding"].to_numpy() for frame in (local, cluster)]
    assert np.allclose(vectors[0], vectors[1], atol=1e-5)
