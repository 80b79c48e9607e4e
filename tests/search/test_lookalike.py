"""Lists of look-alikes: who is in them, in what order, and what is said of them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import userbert as ub
from command_line import Userbert
from userbert.benchmarks.lookalike import make_vectors
from userbert.embedding import embeddings
from userbert.embedding.embeddings import Embeddings
from userbert.errors import InputError
from userbert.folders import write_summary
from userbert.search import lookalike as lists
from userbert.search.lookalike import find_lookalikes
from userbert.search.neighbours import units
from userbert.search.seed_scoring import WAYS, Sample, Way, likeness

CUTOFF = pl.lit("2024-03-15").str.to_datetime(time_unit="us", time_zone="UTC").alias("cutoff")


def embedded(vectors: np.ndarray, users: list[str] | None = None) -> pl.DataFrame:
    """A frame as `embed` writes it, of users u0, u1 and so on."""
    names = users or [f"u{number}" for number in range(len(vectors))]
    values = pl.Series("embedding", vectors.astype(np.float32),
                       dtype=pl.Array(pl.Float32, vectors.shape[1]))  # fmt: skip
    return pl.DataFrame({"user_id": names}).with_columns(CUTOFF, values)


def two_kinds(users: int = 600, kind: int = 100, width: int = 8) -> pl.DataFrame:
    """Users of whom the last ones are of a kind: a number of theirs is larger."""
    vectors = np.random.default_rng(0).standard_normal((users, width))
    vectors[:, 0] += 4  # the mean is far from zero, as in embeddings
    vectors[-kind:, 1] += 3
    return embedded(vectors)


KIND = [f"u{number}" for number in range(500, 600)]
SEEDS = KIND[:40]


@pytest.mark.parametrize("by", WAYS)
def test_those_of_the_seeds_kind_are_listed_first(by: Way) -> None:
    found = ub.lookalike(two_kinds(), SEEDS, 50, by=by)
    assert found.columns == ["user_id", "score", "rank"]
    assert found["rank"].to_list() == list(range(1, 51))
    assert found["score"].is_sorted(descending=True)
    assert not set(found["user_id"]) & set(SEEDS)
    assert found["user_id"].is_in(KIND).mean() > 0.4  # type: ignore[operator]


def test_centroid_and_nearest_are_cosines() -> None:
    frame = two_kinds(50)
    wide = units(frame["embedding"].to_numpy()).astype(np.float64)
    middle = wide[:3].mean(axis=0)
    cosines = {
        "centroid": wide @ middle / np.linalg.norm(middle),
        "nearest": (wide @ wide[:3].T).max(axis=1),
    }
    for way, expected in cosines.items():
        found = ub.lookalike(frame, ["u0", "u1", "u2"], 1000, by=way)  # type: ignore[arg-type]
        order = 3 + np.argsort(-expected[3:])
        assert found["user_id"].to_list() == [f"u{row}" for row in order]
        np.testing.assert_allclose(found["score"], expected[order], atol=1e-6)


@pytest.mark.parametrize(("seeds", "others"), [(1, 200), (30, 200), (200, 30)])
def test_linear_is_scikit_learns_logistic_regression(seeds: int, others: int) -> None:
    vectors = units(make_vectors(seeds + others)[0]).astype(np.float64)
    sample = Sample(vectors[:seeds], np.full(seeds, -1), vectors[seeds:], 1.0)
    scores = likeness("linear", sample)(vectors)[:, 0]
    scaled = (vectors - vectors.mean(axis=0)) / np.sqrt(vectors.var(axis=0).sum())
    answers = np.arange(len(vectors)) < seeds
    peer = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(scaled, answers)
    np.testing.assert_allclose(scores, peer.decision_function(scaled), atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_scores_without_a_fold_are_those_of_the_other_seeds_alone(way: Way) -> None:
    vectors = units(make_vectors(60)[0]).astype(np.float64)
    folds = np.arange(20) % 5
    seeds, rest = vectors[:20], vectors[20:]
    together = likeness(way, Sample(seeds, folds, rest, 0.0))(rest)
    alone = likeness(way, Sample(seeds[folds != 3], np.full(16, -1), rest, 0.0))(rest)
    if way == "linear":  # its scale is that of all, so that scores of folds can be compared
        assert np.corrcoef(together[:, 4], alone[:, 0])[0, 1] > 0.999
    else:
        np.testing.assert_allclose(together[:, 4], alone[:, 0], atol=1e-12)


def test_seeds_that_were_held_out_are_counted_as_if_lists_were_made() -> None:
    frame, k = two_kinds(), 30
    found = find_lookalikes(Embeddings.of(frame), SEEDS, k, by="centroid", exclude=["u599"])
    assert [one.way for one in found.compared] == ["centroid", "linear", "nearest"]
    # The same, fold by fold, with lists.
    draw = np.random.default_rng(0)
    draw.permutation(600 - 40)
    folds = draw.permutation(np.arange(40) % 5)
    hits = 0
    for fold in range(5):
        known = [seed for seed, of in zip(SEEDS, folds, strict=True) if of != fold]
        listed = ub.lookalike(frame, known, k, by="centroid", exclude=["u599"])
        hits += int(listed["user_id"].is_in(SEEDS).sum())
    assert found.compared[0].found == hits
    assert found.compared[0].by_chance == pytest.approx(40 * k / (600 - 40 - 1 + 8))
    assert found.compared[0].lift > 3


def test_vectors_that_are_all_the_same_find_no_more_than_chance() -> None:
    found = find_lookalikes(Embeddings.of(embedded(np.ones((600, 4)))), SEEDS, 20, by="nearest")
    for one in found.compared:
        assert one.lift == pytest.approx(1)
    assert found.users["user_id"].to_list() == [f"u{number}" for number in range(20)]
    assert "do not tell the seeds apart" in found.told(Path("list.csv"))[-1]


def test_of_several_cutoffs_each_users_latest_counts() -> None:
    now = embedded(np.array([[1.0, 0], [0, 1], [1, 0.1]]), ["a", "b", "c"])
    before = embedded(np.array([[0, 1.0], [1, 0], [1, 0.2]]), ["a", "b", "d"]).with_columns(
        pl.col("cutoff").dt.offset_by("-7d")
    )
    for frame in (pl.concat([before, now]), pl.concat([now, before])):
        found = find_lookalikes(Embeddings.of(frame), ["a"], 5, by="centroid")
        assert found.users["user_id"].to_list() == ["c", "d", "b"]
        assert found.cutoffs == 2
        assert "there are 2 cut-offs: of each user the latest counts" in found.told(Path("l.csv"))


@pytest.mark.parametrize("form", ["file", "folder", "columns", "lists", "frame", "arrow"])
def test_embeddings_of_every_form_give_one_list(form: str, tmp_path: Path) -> None:
    frame = two_kinds()
    expected = ub.lookalike(frame, SEEDS, 20)
    given: Any = tmp_path / "v.parquet"
    if form == "file":
        frame.write_parquet(given, row_group_size=170)
    elif form == "folder":
        given = tmp_path / "parts"
        given.mkdir()
        frame[:100].write_parquet(given / "part-00000.parquet")
        frame[100:].write_parquet(given / "part-00001.parquet")
        write_summary(given, "embeddings", format=1, vectors=len(frame), parts=2)
    elif form == "columns":
        values = frame["embedding"].to_numpy()
        named = [pl.Series(f"e{number}", values[:, number]) for number in range(8)]
        frame.drop("embedding").with_columns(named).write_parquet(given)
    elif form == "lists":
        frame.cast({"embedding": pl.List(pl.Float64)}).write_parquet(given)
    else:
        given = frame if form == "frame" else frame.to_arrow()
    assert ub.lookalike(given, SEEDS, 20).equals(expected)


def test_a_large_part_is_scored_some_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_kinds().write_parquet(tmp_path / "v.parquet")
    expected = ub.lookalike(tmp_path / "v.parquet", SEEDS, 20)
    monkeypatch.setattr(embeddings, "_ROWS_AT_A_TIME", 64)
    opened = Embeddings.open(tmp_path / "v.parquet")
    assert max(len(vectors) for _, vectors in opened.blocks()) == 64
    assert ub.lookalike(tmp_path / "v.parquet", SEEDS, 20)["user_id"].equals(expected["user_id"])


def test_ids_are_taken_as_frames_files_and_sequences(tmp_path: Path) -> None:
    frame = two_kinds()
    seeds = pl.DataFrame({"user_id": [*SEEDS, SEEDS[0], None]})
    seeds.write_csv(tmp_path / "seeds.csv")
    expected = ub.lookalike(frame, SEEDS, 20)
    file = tmp_path / "seeds.csv"
    for given in (seeds, file, str(file), set(SEEDS), seeds["user_id"]):
        assert ub.lookalike(frame, given, 20).equals(expected)
    numbers = frame.with_columns(pl.col("user_id").str.strip_prefix("u").cast(pl.Int64))
    found = ub.lookalike(numbers, range(500, 540), 20)
    assert [f"u{user}" for user in found["user_id"]] == expected["user_id"].to_list()


def test_who_has_no_direction_is_never_listed_and_k_may_be_more_than_there_are() -> None:
    frame = embedded(np.array([[1.0, 0], [0, 0], [1, 1], [0, 0]]))
    found = find_lookalikes(Embeddings.of(frame), ["u0", "u1", "who"], 99, by="centroid")
    assert found.users["user_id"].to_list() == ["u2"]
    assert found.unknown == ("u1", "who")
    assert "2 seeds have no vector, or a zero one: u1, who" in found.told(Path("list.csv"))


def test_of_very_many_seeds_some_are_learned_from_and_all_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lists, "_MOST_SEEDS", 15)
    monkeypatch.setattr(lists, "_REST", 50)
    found = find_lookalikes(Embeddings.of(two_kinds()), SEEDS, 100, by="linear")
    assert found.learned_from == 15
    assert not set(found.users["user_id"]) & set(SEEDS)
    assert any("15 of the seeds, at random" in line for line in found.told(Path("list.csv")))


def test_a_way_that_takes_long_is_not_tried_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lists, "_CHEAP", 1)
    opened = Embeddings.of(two_kinds())
    for by in WAYS:
        tried = {one.way for one in find_lookalikes(opened, SEEDS, 9, by=by).compared}
        assert tried == {"linear", "centroid", by}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_verb_writes_a_list_and_says_what_it_is_worth(
    userbert: Userbert, tmp_path: Path, ending: str
) -> None:
    two_kinds().write_parquet(tmp_path / "embeddings.parquet")
    pl.DataFrame({"user_id": SEEDS}).write_csv(tmp_path / "seeds.csv")
    pl.DataFrame({"user_id": ["u577"]}).write_csv(tmp_path / "left.csv")
    output = f"list.{ending}"
    done = userbert(
        "lookalike", "embeddings.parquet", "--seeds", "seeds.csv", "-k", 60, "-o", output,
        "--exclude", "left.csv",
    )  # fmt: skip
    assert done.code == 0, done.error
    assert f"{output}: the 60 of 559 users most like 40 seeds" in done.out
    assert "times as many as by chance (taken)" in done.out
    assert "next: userbert inspect DATA --user u" in done.out
    read = pl.read_csv if ending == "csv" else pl.read_parquet
    found = read(tmp_path / output)
    assert found.columns == ["user_id", "score", "rank"]
    assert len(found) == 60
    assert "u577" not in found["user_id"].to_list()


def test_a_list_needs_neither_torch_nor_faiss_nor_scikit_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("torch", "faiss", "sklearn", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(ub.lookalike(two_kinds(), SEEDS, 5)) == 5


def test_a_broken_vector_of_somebody_is_told_by_name() -> None:
    frame = embedded(np.array([[1.0, 0], [0, 1], [np.nan, 1]]))
    with pytest.raises(InputError, match=r"embeddings: the vector of user u2 holds NaN"):
        ub.lookalike(frame, ["u0"], 1)
