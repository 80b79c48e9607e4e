"""Events have one vector: prepared, on Spark, live, and with onnxruntime."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from example_logs import write_example_logs
from userbert.data.prepare.cluster import spark_session
from userbert.data.prepare.prepare import prepare
from userbert.data.ragged import Int64
from userbert.data.store import PreparedData
from userbert.data.use.live import UserEvents, live_histories
from userbert.data.use.pairs import Pairs, instant_of, pairs_at
from userbert.embedding.embed import write_embeddings
from userbert.export.backend import Backend
from userbert.export.export import write_onnx
from userbert.export.load import load_backend
from userbert.model.userbert import UserBert, embed_pairs
from userbert.schema.models import Schema
from userbert.training.pretrain import pretrain
from userbert.training.settings import configure

LARGEST_DIFFERENCE = 1e-5
_USERS_PER_REQUEST = 200
"""Users in one request."""


@dataclass(frozen=True)
class Store:
    """Logs of a store, their prepared data, a model, and the vectors that `embed` computes."""

    folder: Path
    """Holds events.parquet, profiles.parquet, data/, model/."""
    events: pl.DataFrame
    data: PreparedData
    model: UserBert
    pairs: Pairs
    """All users at a cut-off before the last event."""
    vectors: NDArray[np.float32]


def build_store(folder: Path, cutoff: str, *settings: str) -> Store:
    """Prepare the logs, and pretrain a few steps with the preset `default`."""
    files = folder / "events.parquet", folder / "profiles.parquet"
    schema = Schema.infer(files[0], profiles=files[1])
    data = prepare(schema, folder / "data")
    config = configure("default", settings)
    model = pretrain(data, folder / "model", config=config, before=cutoff)
    pairs = pairs_at(data, [instant_of(cutoff, data, "cutoff")])
    vectors = embed_pairs(model, data, pairs.rows, pairs.cutoffs)
    return Store(folder, pl.read_parquet(files[0]), data, model, pairs, vectors)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("simulated")
    write_example_logs(folder, users=80)
    small = ("model.layers=1", "model.hidden=16", "model.heads=2", "model.feed_forward=16")
    return build_store(folder, "2024-03-15T13:07", *small, "steps=4", "batch_size=16")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Store:
    """One in 40 visitors of a real store; 4,029 of them have events before the cut-off."""
    folder = tmp_path_factory.mktemp("real")
    for name in ("events", "profiles"):
        rows = pl.scan_parquet(real_data / "ga4-merch-store" / f"{name}.parquet")
        digits = pl.col("user_id").str.replace_all(r"\D", "").str.tail(6).cast(pl.Int64)
        rows.filter(digits % 40 == 0).collect().write_parquet(folder / f"{name}.parquet")
    return build_store(folder, "2021-01-20T09:30", "steps=30", "checkpoint_every=30")


def requests(store: Store) -> Iterator[tuple[list[UserEvents], Int64]]:
    """Yield raw events before the cut-off, request by request, with the numbers of the pairs."""
    data, pairs = store.data, store.pairs
    (name,) = data.schema.sources
    time = data.schema.sources[name].time.column
    before = pl.lit(int(pairs.cutoffs[0])).cast(pl.Datetime("us"))
    events = store.events.filter(pl.col(time).cast(pl.Datetime("us")) < before)
    fields = [field.column for field in data.schema.profile.fields.values()]  # type: ignore[union-attr]
    columns = {time, *_columns(data.schema, events.columns)}
    texts = events.with_columns(pl.col(time).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f"))
    histories = {
        user: rows.select(sorted(columns)).to_dicts() for (user,), rows in texts.group_by("user_id")
    }
    profiles = pl.read_parquet(store.folder / "profiles.parquet").select("user_id", *fields)
    people = {row.pop("user_id"): row for row in profiles.to_dicts()}
    users = data.user_ids.to_pylist()
    for first in range(0, len(pairs), _USERS_PER_REQUEST):
        numbers = np.arange(first, min(first + _USERS_PER_REQUEST, len(pairs)))
        ids = [users[row] for row in pairs.rows[numbers]]
        yield (
            [
                UserEvents(user, {name: histories[user]}, [people[user]] if user in people else [])
                for user in ids
            ],
            numbers,
        )


def _columns(schema: Schema, names: list[str]) -> set[str]:
    used = {getattr(attribute, "column", None) for attribute in schema.attributes.values()}
    used |= {getattr(source.action, "column", None) for source in schema.sources.values()}
    return used & set(names)  # type: ignore[return-value]


def live(store: Store, backend: Backend) -> NDArray[np.float32]:
    """Return the vectors computed from raw events."""
    vectors = np.full_like(store.vectors, np.nan)
    for users, numbers in requests(store):
        until = store.pairs.cutoffs[numbers]
        histories, rows = live_histories(backend.schema, backend.vocabularies, users, until)
        assert (rows >= 0).all()
        vectors[numbers] = backend.run(histories, rows, until).vectors
    return vectors


def assert_no_skew(store: Store, vectors: NDArray[np.float32]) -> None:
    assert vectors.dtype == np.float32
    assert np.abs(vectors - store.vectors).max() <= LARGEST_DIFFERENCE


def test_raw_events_have_the_vectors_of_prepared_data(simulated: Store) -> None:
    assert len(simulated.pairs) > 60
    assert_no_skew(simulated, live(simulated, load_backend(simulated.folder / "model")))


@pytest.mark.slow
def test_raw_events_of_real_visitors_have_the_vectors_of_prepared_data(real: Store) -> None:
    assert len(real.pairs) == 4_029
    assert_no_skew(real, live(real, load_backend(real.folder / "model")))


@pytest.mark.slow
def test_an_exported_network_has_the_same_vectors_of_real_visitors(real: Store) -> None:
    write_onnx(real.model, real.folder / "model.onnx")
    backend = load_backend(real.folder / "model.onnx", "onnx")
    answer = backend.run(real.data, real.pairs.rows, real.pairs.cutoffs)
    assert_no_skew(real, answer.vectors)
    assert_no_skew(real, live(real, backend))


@pytest.mark.slow
@pytest.mark.usefixtures("java")
def test_a_cluster_has_the_same_vectors_of_real_visitors(real: Store, tmp_path: Path) -> None:
    with spark_session("local[2]") as spark:
        data = prepare(real.data.schema, tmp_path / "data", spark=spark)
        write_embeddings(real.model, data, real.pairs, tmp_path / "vectors", spark=spark)
    frame = pl.read_parquet(tmp_path / "vectors" / "*.parquet")
    users = real.data.user_ids.to_pylist()
    assert frame["user_id"].to_list() == [users[row] for row in real.pairs.rows]
    assert_no_skew(real, frame["embedding"].to_numpy())


@pytest.mark.slow
def test_bf16_has_nearly_the_same_vectors_of_real_visitors(real: Store) -> None:
    rounded = embed_pairs(
        real.model, real.data, real.pairs.rows, real.pairs.cutoffs, precision="bf16"
    )
    cosine = (rounded * real.vectors).sum(axis=1)
    cosine /= np.linalg.norm(rounded, axis=1) * np.linalg.norm(real.vectors, axis=1)
    assert cosine.min() >= 0.999
