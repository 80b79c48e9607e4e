"""`UserEmbedder` in scikit-learn: its vectors are those of `embed`, in pipelines and processes."""

import pickle
import shutil
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from small_logs import buys, instant, prepare_events
from userbert import UserEmbedder
from userbert.data.store import PreparedData
from userbert.embedding import user_embedder
from userbert.errors import InputError, ModelError
from userbert.model.userbert import UserBert, UserBertConfig

USERS = [f"u{number}" for number in range(12)]
EARLY, LATE = "2024-03-10", "2024-03-20"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Users who buy bread or milk on a few days of March."""
    events = [
        buys(
            user,
            *(f"2024-03-{day:02d}T15:00" for day in range(1 + number % 3, 20, 2 + number % 5)),
            genre=("bread", "milk")[number % 2],
        )
        for number, user in enumerate(USERS)
    ]
    return prepare_events(tmp_path_factory.mktemp("shop"), pl.concat(events))


@pytest.fixture(scope="module")
def model(data: PreparedData) -> UserBert:
    return random_model(data, seed=0)


@pytest.fixture(scope="module")
def folder(model: UserBert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "model"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def embedder(folder: Path, data: PreparedData) -> UserEmbedder:
    """Opened from folders, as in a pipeline that is sent to another process."""
    return UserEmbedder(folder, data.path)


def random_model(data: PreparedData, seed: int, before: str | None = None) -> UserBert:
    torch.manual_seed(seed)
    return UserBert(
        UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=16),
        data.input_shape(),
        schema=data.schema,
        vocabularies=data.vocabularies,
        record={} if before is None else {"before": instant(before), "at": None},
    )


def pairs(users: list[str] = USERS) -> pl.DataFrame:
    """Rows of each user at two cut-offs."""
    return pl.DataFrame(
        {"user_id": users * 2, "cutoff": [EARLY] * len(users) + [LATE] * len(users)}
    )


def embedded(model: UserBert, data: PreparedData, rows: pl.DataFrame) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = model.embed(data, at=rows)["embedding"].to_numpy()
    return vectors


def test_vectors_are_those_of_embed_in_row_order(
    embedder: UserEmbedder, model: UserBert, data: PreparedData
) -> None:
    rows = pairs().sample(fraction=1, shuffle=True, seed=1)
    vectors = clone(embedder).fit_transform(rows)
    assert vectors.dtype == np.float32
    assert vectors.shape == (24, 16)
    assert np.allclose(vectors, embedded(model, data, rows), atol=1e-6)


def test_rows_may_repeat_as_in_a_bootstrap(embedder: UserEmbedder) -> None:
    rows = pairs()
    repeated = [3, 3, 0, 17, 3]
    all_vectors = clone(embedder).fit_transform(rows)
    vectors = clone(embedder).fit_transform(rows[repeated])
    assert np.allclose(vectors, all_vectors[repeated], atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [
        lambda rows: rows.to_pandas(),
        lambda rows: rows.to_pandas().astype("category").astype({"cutoff": str}),
        lambda rows: rows.to_arrow(),
        lambda rows: rows.to_numpy().astype(object),
        lambda rows: rows.to_numpy().astype(str).tolist(),
        lambda rows: rows.with_columns(pl.lit(1.5).alias("visits"))["visits", "cutoff", "user_id"],
        lambda rows: rows.with_columns(pl.col("cutoff").str.to_date()),
        lambda rows: [[user, datetime.fromisoformat(cutoff)] for user, cutoff in rows.iter_rows()],
        lambda rows: pd.DataFrame(
            {"user_id": rows["user_id"], "cutoff": pd.to_datetime(rows["cutoff"])}
        ),
    ],
    ids=[
        "pandas", "categories", "arrow", "objects", "list", "wide", "dates", "datetimes",
        "timestamps",
    ],
)  # fmt: skip
def test_rows_may_be_any_frame_or_array(
    embedder: UserEmbedder, form: Callable[[pl.DataFrame], Any]
) -> None:
    rows = pairs()
    vectors = clone(embedder).fit(rows).transform(form(rows))
    assert np.allclose(vectors, clone(embedder).fit_transform(rows), atol=1e-6)


@pytest.mark.parametrize(
    "ids",
    [USERS, np.array(USERS), pl.Series(USERS), pd.Series(USERS), np.array(USERS)[:, None]],
    ids=["list", "array", "polars", "pandas", "column"],
)
def test_ids_alone_have_the_default_cutoff(
    embedder: UserEmbedder, model: UserBert, data: PreparedData, ids: Any
) -> None:
    expected = embedded(model, data, pl.DataFrame({"user_id": USERS}))
    assert np.allclose(clone(embedder).fit_transform(ids), expected, atol=1e-6)
    rows = pl.DataFrame({"user_id": USERS, "cutoff": EARLY})
    for cutoff in (EARLY, date(2024, 3, 10)):
        vectors = clone(embedder).set_params(cutoff=cutoff).fit_transform(ids)
        assert np.allclose(vectors, embedded(model, data, rows), atol=1e-6)


def test_a_cutoff_column_takes_precedence_over_the_parameter(embedder: UserEmbedder) -> None:
    other = clone(embedder).set_params(cutoff="2024-03-05")
    assert np.array_equal(other.fit_transform(pairs()), clone(embedder).fit_transform(pairs()))


def test_ids_may_be_whole_numbers(data: PreparedData, tmp_path: Path) -> None:
    numbered = prepare_events(
        tmp_path, pl.concat([buys("7", "2024-03-01"), buys("11", "2024-03-02")])
    )
    embedder = UserEmbedder(random_model(numbered, 0), numbered)
    vectors = embedder.fit_transform([11, 7])
    assert np.array_equal(vectors, embedder.transform(pd.DataFrame({"user_id": ["11", "7"]})))


def test_bf16_is_close(embedder: UserEmbedder) -> None:
    exact = clone(embedder).fit_transform(pairs())
    rounded = clone(embedder).set_params(precision="bf16").fit_transform(pairs())
    assert not np.array_equal(exact, rounded)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    assert ((exact * rounded).sum(axis=1) / lengths).min() > 0.999


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_output_may_be_a_frame(embedder: UserEmbedder, library: str) -> None:
    rows: Any = pairs() if library == "polars" else pairs().to_pandas().set_index([[*range(5, 29)]])
    frame = clone(embedder).set_output(transform=library).fit_transform(rows)
    assert [*frame.columns] == [f"e{number}" for number in range(16)]
    assert np.array_equal(frame.to_numpy(), clone(embedder).fit_transform(rows))
    if library == "pandas":
        assert frame.index.equals(rows.index)


def test_a_clone_has_the_same_parameters_and_shares_the_model(
    model: UserBert, data: PreparedData
) -> None:
    embedder = UserEmbedder(model, data, cutoff=EARLY).set_output(transform="polars")
    copy = clone(embedder.fit(USERS))
    assert copy.get_params() == embedder.get_params()
    assert copy.model is model
    assert isinstance(copy.fit_transform(USERS), pl.DataFrame)
    copy.set_output(transform="pandas")
    assert isinstance(embedder.transform(USERS), pl.DataFrame)
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(embedder))


def test_a_pickle_stores_folders_by_path(
    embedder: UserEmbedder, model: UserBert, data: PreparedData
) -> None:
    fitted = clone(embedder).fit(pairs())
    fitted.transform(pairs())
    pickled = pickle.dumps(fitted)
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).transform(pairs()), fitted.transform(pairs()))
    in_memory = UserEmbedder(model, data).fit(pairs())
    restored = pickle.loads(pickle.dumps(in_memory))
    assert restored.data.path == data.path
    assert np.array_equal(restored.transform(pairs()), in_memory.transform(pairs()))


def test_an_unfitted_embedder_raises(embedder: UserEmbedder) -> None:
    with pytest.raises(NotFittedError):
        clone(embedder).transform(pairs())
    with pytest.raises(NotFittedError):
        clone(embedder).get_feature_names_out()


def test_columns_seen_in_fit_are_required_in_transform(embedder: UserEmbedder) -> None:
    with pytest.raises(ValueError, match="cutoff"):  # else vectors would be of another time
        clone(embedder).fit(pairs()).transform(USERS)


def test_a_changed_model_folder_is_refused_until_fit_again(
    data: PreparedData, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    random_model(data, seed=1).save_pretrained(folder)
    embedder = UserEmbedder(str(folder), str(data.path))
    first = embedder.fit_transform(USERS)
    shutil.rmtree(folder)
    random_model(data, seed=2).save_pretrained(folder)
    with pytest.raises(ModelError, match="Fit again"):
        embedder.transform(USERS)
    assert not np.allclose(embedder.fit_transform(USERS), first)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["u1", "tom", "tim"], r"X: 2 of 3 users are not in .* first in row 2: tom, tim"),
        (["u1", None], r"X, row 2, column user_id: expected a value"),
        (pl.DataFrame({"client": ["u1"]}), r"user_id and optionally cutoff, found client"),
        ([["u1", "2024-03-10", "x"]], r"array of shape \(1, 3\)"),
        ([["u1", "someday"]], r"column cutoff"),
        ([["u1", 3]], r"column cutoff: expected dates or times"),
        (["u1", 2], r"X: expected ids as text or whole numbers .* value of type"),
        ([["u1", np.datetime64(LATE)]], r"cut-offs as text, dates or datetimes"),
        ([], r"X: expected one row per user, found no rows"),
        ([["u1", "2019-01-01"]], r"X, row 1: the cut-off, .* not after the first event"),
    ],
    ids=[
        "users", "missing", "column", "shape", "text", "number", "types", "numpy", "empty",
        "before all events",
    ],
)  # fmt: skip
def test_invalid_rows_are_refused(embedder: UserEmbedder, rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clone(embedder).fit_transform(rows)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("model", None, "model: expected a UserBert or the path of its folder, found NoneType"),
        ("model", "nowhere", "nothing is there"),
        ("data", 3, "data: expected a PreparedData or the path of its folder, found int"),
        ("data", "nowhere", "nothing is there"),
        ("precision", "bfloat16", "float32 or bf16, found 'bfloat16'"),
        ("cutoff", "someday", "cutoff: "),
    ],
)
def test_invalid_parameters_are_refused_in_fit(
    embedder: UserEmbedder, parameter: str, value: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        clone(embedder).set_params(**{parameter: value}).fit_transform(USERS)


def test_data_with_other_ids_are_refused(model: UserBert, tmp_path: Path) -> None:
    other = prepare_events(tmp_path, buys("u1", "2024-03-01", genre="wine"))
    with pytest.raises(ModelError, match="--vocabulary MODEL"):
        UserEmbedder(model, other).fit(["u1"])


def test_cutoffs_before_the_end_of_pretraining_are_warned_of(data: PreparedData) -> None:
    embedder = UserEmbedder(random_model(data, 0, before="2024-03-15T00:00"), data).fit(pairs())
    with pytest.warns(
        UserWarning, match=r"pretraining data; the first is 2024-03-10.*--before 2024"
    ):
        embedder.transform(pairs())
    embedder.transform(pairs().filter(cutoff=LATE))


def test_cutoffs_after_the_last_event_are_warned_of(embedder: UserEmbedder) -> None:
    fitted = clone(embedder).fit(pairs())
    fitted.transform([["u1", LATE]])
    with pytest.warns(UserWarning, match="more than a day after the last event"):
        fitted.transform([["u1", "2024-03-24"]])


def labels(rows: pl.DataFrame) -> NDArray[np.int64]:
    """Return 1 for users who buy milk, 0 for others; vectors can tell them apart."""
    return np.array([int(user[1:]) % 2 for user in rows["user_id"]])


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_pipeline_is_cross_validated_by_user(embedder: UserEmbedder, library: str) -> None:
    rows: Any = pairs() if library == "polars" else pairs().to_pandas()
    pipeline = make_pipeline(clone(embedder), LogisticRegression(C=100, max_iter=1000))
    scores = cross_val_score(
        pipeline, rows, labels(pairs()), groups=rows["user_id"], cv=GroupKFold(3),
        error_score="raise",
    )  # fmt: skip
    assert scores.shape == (3,)


@pytest.mark.slow
def test_scores_do_not_depend_on_the_number_of_processes(
    embedder: UserEmbedder, model: UserBert, data: PreparedData
) -> None:
    rows, scores = pairs(), []
    for transformer, jobs in ((embedder, 1), (embedder, 2), (UserEmbedder(model, data), 2)):
        pipeline = make_pipeline(clone(transformer), LogisticRegression(C=100, max_iter=1000))
        scores.append(
            cross_val_score(
                pipeline, rows, labels(rows), groups=rows["user_id"], cv=GroupKFold(3),
                n_jobs=jobs, scoring="neg_log_loss", error_score="raise",
            )
        )  # fmt: skip
    assert np.allclose(scores[0], scores[1], atol=1e-4)
    assert np.allclose(scores[0], scores[2], atol=1e-4)


def test_vectors_are_combined_with_other_columns(embedder: UserEmbedder) -> None:
    rows = pairs().with_columns(visits=pl.int_range(24).cast(pl.Float64))
    combined = ColumnTransformer(
        [
            ("vectors", clone(embedder), ["user_id", "cutoff"]),
            ("own", "passthrough", ["visits"]),
        ]
    )
    vectors = combined.fit_transform(rows)
    assert np.allclose(vectors[:, :16], clone(embedder).fit_transform(rows), atol=1e-6)
    assert np.array_equal(vectors[:, 16], np.arange(24))
    assert [*combined.get_feature_names_out()[-2:]] == ["vectors__e15", "own__visits"]
    own = ColumnTransformer([("own", "passthrough", ["visits"])])
    union = FeatureUnion([("vectors", clone(embedder)), ("own", own)])
    assert np.array_equal(union.fit_transform(rows), vectors)


def test_a_column_transformer_selects_the_id_column(embedder: UserEmbedder) -> None:
    pipeline = Pipeline([("pick", ColumnTransformer([("v", clone(embedder), "user_id")]))])
    vectors = pipeline.fit_transform(pairs().head(12))
    assert np.array_equal(vectors, clone(embedder).fit_transform(USERS))


def test_other_columns_of_arrow_tables_are_not_read(embedder: UserEmbedder) -> None:
    table = pa.table({"user_id": USERS, "nested": [{"a": 1}] * 12})
    vectors = clone(embedder).fit_transform(table)
    assert np.array_equal(vectors, clone(embedder).fit_transform(USERS))


NUMERIC_CHECKS = {
    **dict.fromkeys(
        ("check_n_features_in", "check_n_features_in_after_fitting", "check_transformer_general"),
        "one or two columns of X are read, however many it has",
    ),
    **dict.fromkeys(
        (
            "check_complex_data", "check_estimators_nan_inf", "check_estimator_sparse_tag",
            "check_estimator_sparse_array", "check_estimator_sparse_matrix",
        ),
        "X holds ids: the numbers that these checks expect to be refused are valid ids",
    ),
    **dict.fromkeys(("check_fit1d", "check_fit2d_predict1d"), "ids may have one dimension"),
    "check_estimators_empty_data_messages": "no rows raise an InputError in transform",
}  # fmt: skip
"""Checks of scikit-learn that expect X to hold numbers, each with the reason why it fails."""


def users_for_numbers(x: Any) -> pl.DataFrame:
    """Map each row of numbers that a check draws to some user."""
    numbers = np.asarray(x, float)
    totals = np.abs(numbers).reshape(len(numbers), -1).sum(axis=1)
    return pl.DataFrame({"user_id": [USERS[int(1000 * total) % 12] for total in totals]})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_estimator_checks_pass(
    embedder: UserEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_embedder, "_id_columns", users_for_numbers)
    results = check_estimator(clone(embedder), expected_failed_checks=NUMERIC_CHECKS, on_skip=None)
    assert sum(check["status"] == "passed" for check in results) >= 30
    failed = {check["check_name"] for check in results if check["status"] == "xfail"}
    assert failed == {*NUMERIC_CHECKS}
