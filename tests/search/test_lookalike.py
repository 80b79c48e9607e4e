"""Lists of look-alikes: their users, their order, and the facts reported about them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import userbert as ub
from command_line import Userbert
from userbert.benchmarks.lookalike import make_vectors
from userbert.embedding.embeddings import Embeddings
from userbert.errors import InputError
from userbert.folders import write_summary
from userbert.search.lookalike import Limits, find_lookalikes
from userbert.search.neighbours import unit_vectors
from userbert.search.seed_scoring import SCORING_NAMES, ScoringName, SeedSample, fit_seed_scorer

CUTOFF = pl.lit("2024-03-15").str.to_datetime(time_unit="us", time_zone="UTC").alias("cutoff")


def embedded(vectors: np.ndarray, users: list[str] | None = None) -> pl.DataFrame:
    """Return a frame as `embed` writes it, with users u0, u1 and so on."""
    names = users or [f"u{number}" for number in range(len(vectors))]
    values = pl.Series("embedding", vectors.astype(np.float32),
                       dtype=pl.Array(pl.Float32, vectors.shape[1]))  # fmt: skip
    return pl.DataFrame({"user_id": names}).with_columns(CUTOFF, values)


def two_kinds(users: int = 600, kind: int = 100, width: int = 8) -> pl.DataFrame:
    """Return users of whom the last `kind` differ: one number of their vectors is larger."""
    vectors = np.random.default_rng(0).standard_normal((users, width))
    vectors[:, 0] += 4  # the mean is far from zero, as in embeddings
    vectors[-kind:, 1] += 3
    return embedded(vectors)


KIND = [f"u{number}" for number in range(500, 600)]
SEEDS = KIND[:40]


@pytest.mark.parametrize("by", SCORING_NAMES)
def test_users_of_the_seeds_kind_are_listed_first(by: ScoringName) -> None:
    users = ub.lookalike(two_kinds(), SEEDS, 50, by=by)
    assert users.columns == ["user_id", "score", "rank"]
    assert users["rank"].to_list() == list(range(1, 51))
    assert users["score"].is_sorted(descending=True)
    assert not set(users["user_id"]) & set(SEEDS)
    assert users["user_id"].is_in(KIND).mean() > 0.4  # type: ignore[operator]


def test_centroid_and_nearest_are_cosines() -> None:
    frame = two_kinds(50)
    wide = unit_vectors(frame["embedding"].to_numpy()).astype(np.float64)
    mean = wide[:3].mean(axis=0)
    cosines = {
        "centroid": wide @ mean / np.linalg.norm(mean),
        "nearest": (wide @ wide[:3].T).max(axis=1),
    }
    for name, expected in cosines.items():
        users = ub.lookalike(frame, ["u0", "u1", "u2"], 1000, by=name)  # type: ignore[arg-type]
        order = 3 + np.argsort(-expected[3:])
        assert users["user_id"].to_list() == [f"u{row}" for row in order]
        np.testing.assert_allclose(users["score"], expected[order], atol=1e-6)


@pytest.mark.parametrize(("seeds", "others"), [(1, 200), (30, 200), (200, 30)])
def test_linear_is_scikit_learns_logistic_regression(seeds: int, others: int) -> None:
    vectors = unit_vectors(make_vectors(seeds + others)[0]).astype(np.float64)
    sample = SeedSample(vectors[:seeds], np.full(seeds, -1), vectors[seeds:], 1.0)
    scores = fit_seed_scorer("linear", sample)(vectors)[:, 0]
    scaled = (vectors - vectors.mean(axis=0)) / np.sqrt(vectors.var(axis=0).sum())
    labels = np.arange(len(vectors)) < seeds
    peer = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(scaled, labels)
    np.testing.assert_allclose(scores, peer.decision_function(scaled), atol=1e-4)


@pytest.mark.parametrize("name", SCORING_NAMES)
def test_scores_without_a_fold_depend_on_the_other_seeds_alone(name: ScoringName) -> None:
    vectors = unit_vectors(make_vectors(60)[0]).astype(np.float64)
    folds = np.arange(20) % 5
    seeds, others = vectors[:20], vectors[20:]
    together = fit_seed_scorer(name, SeedSample(seeds, folds, others, 0.0))(others)
    alone = fit_seed_scorer(name, SeedSample(seeds[folds != 3], np.full(16, -1), others, 0.0))(
        others
    )
    if name == "linear":  # scaled by all seeds, so that scores of folds can be compared
        assert np.corrcoef(together[:, 4], alone[:, 0])[0, 1] > 0.999
    else:
        np.testing.assert_allclose(together[:, 4], alone[:, 0], atol=1e-12)


def test_recall_of_held_out_seeds_is_that_of_lists_without_them() -> None:
    frame, k = two_kinds(), 30
    result = find_lookalikes(Embeddings.of(frame), SEEDS, k, by="centroid", exclude=["u599"])
    assert [recall.way for recall in result.compared] == ["centroid", "linear", "nearest"]
    # Make a list without each fold.
    generator = np.random.default_rng(0)
    generator.permutation(600 - 40)
    folds = generator.permutation(np.arange(40) % 5)
    hits = 0
    for fold in range(5):
        known = [seed for seed, seed_fold in zip(SEEDS, folds, strict=True) if seed_fold != fold]
        listed = ub.lookalike(frame, known, k, by="centroid", exclude=["u599"])
        hits += int(listed["user_id"].is_in(SEEDS).sum())
    assert result.compared[0].found == hits
    assert result.compared[0].by_chance == pytest.approx(40 * k / (600 - 40 - 1 + 8))
    assert result.compared[0].lift > 3


def test_identical_vectors_find_as_many_seeds_as_chance() -> None:
    result = find_lookalikes(Embeddings.of(embedded(np.ones((600, 4)))), SEEDS, 20, by="nearest")
    for recall in result.compared:
        assert recall.lift == pytest.approx(1)
    assert result.users["user_id"].to_list() == [f"u{number}" for number in range(20)]
    assert "do not separate seeds from other users" in result.report_lines(Path("list.csv"))[-1]


def test_the_latest_vector_of_each_user_counts() -> None:
    now = embedded(np.array([[1.0, 0], [0, 1], [1, 0.1]]), ["a", "b", "c"])
    before = embedded(np.array([[0, 1.0], [1, 0], [1, 0.2]]), ["a", "b", "d"]).with_columns(
        pl.col("cutoff").dt.offset_by("-7d")
    )
    for frame in (pl.concat([before, now]), pl.concat([now, before])):
        result = find_lookalikes(Embeddings.of(frame), ["a"], 5, by="centroid")
        assert result.users["user_id"].to_list() == ["c", "d", "b"]
        assert result.cutoffs == 2
        assert "there are 2 cut-offs: the latest row of each user counts" in result.report_lines(
            Path("l.csv")
        )


@pytest.mark.parametrize("form", ["file", "folder", "columns", "lists", "frame", "arrow"])
def test_embeddings_of_every_form_give_the_same_list(form: str, tmp_path: Path) -> None:
    frame = two_kinds()
    expected = ub.lookalike(frame, SEEDS, 20)
    source: Any = tmp_path / "v.parquet"
    if form == "file":
        frame.write_parquet(source, row_group_size=170)
    elif form == "folder":
        source = tmp_path / "parts"
        source.mkdir()
        frame[:100].write_parquet(source / "part-00000.parquet")
        frame[100:].write_parquet(source / "part-00001.parquet")
        write_summary(source, "embeddings", format=1, vectors=len(frame), parts=2)
    elif form == "columns":
        values = frame["embedding"].to_numpy()
        named = [pl.Series(f"e{number}", values[:, number]) for number in range(8)]
        frame.drop("embedding").with_columns(named).write_parquet(source)
    elif form == "lists":
        frame.cast({"embedding": pl.List(pl.Float64)}).write_parquet(source)
    else:
        source = frame if form == "frame" else frame.to_arrow()
    assert ub.lookalike(source, SEEDS, 20).equals(expected)


def test_a_large_row_group_is_scored_in_blocks(tmp_path: Path) -> None:
    two_kinds().write_parquet(tmp_path / "v.parquet")
    expected = ub.lookalike(tmp_path / "v.parquet", SEEDS, 20)
    opened = replace(Embeddings.open(tmp_path / "v.parquet"), rows_per_block=64)
    assert max(len(vectors) for _, vectors in opened.blocks()) == 64
    listed = find_lookalikes(opened, SEEDS, 20, by="linear", is_compared=False).users
    assert listed["user_id"].equals(expected["user_id"])


def test_ids_may_be_frames_files_or_sequences(tmp_path: Path) -> None:
    frame = two_kinds()
    seeds = pl.DataFrame({"user_id": [*SEEDS, SEEDS[0], None]})
    seeds.write_csv(tmp_path / "seeds.csv")
    expected = ub.lookalike(frame, SEEDS, 20)
    file = tmp_path / "seeds.csv"
    for source in (seeds, file, str(file), set(SEEDS), seeds["user_id"]):
        assert ub.lookalike(frame, source, 20).equals(expected)
    numbers = frame.with_columns(pl.col("user_id").str.strip_prefix("u").cast(pl.Int64))
    users = ub.lookalike(numbers, range(500, 540), 20)
    assert [f"u{user}" for user in users["user_id"]] == expected["user_id"].to_list()


def test_zero_vectors_are_never_listed_and_k_may_exceed_the_users() -> None:
    frame = embedded(np.array([[1.0, 0], [0, 0], [1, 1], [0, 0]]))
    result = find_lookalikes(Embeddings.of(frame), ["u0", "u1", "who"], 99, by="centroid")
    assert result.users["user_id"].to_list() == ["u2"]
    assert result.unknown == ("u1", "who")
    assert "2 seeds have no vector, or a zero vector: u1, who" in result.report_lines(
        Path("list.csv")
    )


def test_many_seeds_are_sampled_and_none_is_listed() -> None:
    result = find_lookalikes(
        Embeddings.of(two_kinds()), SEEDS, 100, by="linear", limits=Limits(seeds=15, others=50)
    )
    assert result.learned_from == 15
    assert not set(result.users["user_id"]) & set(SEEDS)
    assert any(
        "learned from 15 of the seeds, chosen at random" in line
        for line in result.report_lines(Path("list.csv"))
    )


def test_a_slow_scoring_is_compared_only_if_it_is_used() -> None:
    limits = Limits(comparison_products=1)
    opened = Embeddings.of(two_kinds())
    for by in SCORING_NAMES:
        compared = find_lookalikes(opened, SEEDS, 9, by=by, limits=limits).compared
        assert {recall.way for recall in compared} == {"linear", "centroid", by}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_command_writes_a_list_and_reports_its_recall(
    userbert: Userbert, tmp_path: Path, ending: str
) -> None:
    two_kinds().write_parquet(tmp_path / "embeddings.parquet")
    pl.DataFrame({"user_id": SEEDS}).write_csv(tmp_path / "seeds.csv")
    pl.DataFrame({"user_id": ["u577"]}).write_csv(tmp_path / "excluded.csv")
    output = f"list.{ending}"
    done = userbert(
        "lookalike", "embeddings.parquet", "--seeds", "seeds.csv", "-k", 60, "-o", output,
        "--exclude", "excluded.csv",
    )  # fmt: skip
    assert done.code == 0, done.error
    assert f"{output}: the 60 of 559 users most like 40 seeds" in done.out
    assert "times as many as by chance (used)" in done.out
    assert "next: userbert inspect DATA --user u" in done.out
    read = pl.read_csv if ending == "csv" else pl.read_parquet
    users = read(tmp_path / output)
    assert users.columns == ["user_id", "score", "rank"]
    assert len(users) == 60
    assert "u577" not in users["user_id"].to_list()


def test_a_list_needs_neither_torch_nor_faiss_nor_scikit_learn(tmp_path: Path) -> None:
    two_kinds().write_parquet(tmp_path / "v.parquet")
    code = f"""
import sys
for name in ("torch", "faiss", "sklearn", "scipy"):
    sys.modules[name] = None
import userbert as ub
assert len(ub.lookalike({str(tmp_path / "v.parquet")!r}, {SEEDS!r}, 5)) == 5
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_broken_vector_is_reported_with_its_user() -> None:
    frame = embedded(np.array([[1.0, 0], [0, 1], [np.nan, 1]]))
    with pytest.raises(InputError, match=r"embeddings: the vector of user u2 holds NaN"):
        ub.lookalike(frame, ["u0"], 1)
