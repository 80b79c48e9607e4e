"""Vectors inside scikit-learn: what `embed` gives, wherever a transformer may stand."""

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

from small_logs import buys, instant, prepared
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
    return prepared(tmp_path_factory.mktemp("shop"), pl.concat(events))


@pytest.fixture(scope="module")
def model(data: PreparedData) -> UserBert:
    return drawn(data, seed=0)


@pytest.fixture(scope="module")
def folder(model: UserBert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "model"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def embedder(folder: Path, data: PreparedData) -> UserEmbedder:
    """By folders, as a pipeline that is sent elsewhere has it."""
    return UserEmbedder(folder, data.path)


def drawn(data: PreparedData, seed: int, before: str | None = None) -> UserBert:
    torch.manual_seed(seed)
    return UserBert(
        UserBertConfig(layers=1, hidden=16, heads=2, feed_forward=16),
        data.input_shape(),
        schema=data.schema,
        vocabularies=data.vocabularies,
        record={} if before is None else {"before": instant(before), "at": None},
    )


def asked(users: list[str] = USERS) -> pl.DataFrame:
    """Each user at two cut-offs."""
    return pl.DataFrame(
        {"user_id": users * 2, "cutoff": [EARLY] * len(users) + [LATE] * len(users)}
    )


def embedded(model: UserBert, data: PreparedData, rows: pl.DataFrame) -> NDArray[np.float32]:
    found: NDArray[np.float32] = model.embed(data, at=rows)["embedding"].to_numpy()
    return found


def test_vectors_are_those_of_embed_in_the_order_of_the_rows(
    embedder: UserEmbedder, model: UserBert, data: PreparedData
) -> None:
    rows = asked().sample(fraction=1, shuffle=True, seed=1)
    found = clone(embedder).fit_transform(rows)
    assert found.dtype == np.float32
    assert found.shape == (24, 16)
    assert np.allclose(found, embedded(model, data, rows), atol=1e-6)


def test_a_row_may_stand_several_times_as_in_a_bootstrap(embedder: UserEmbedder) -> None:
    rows = asked()
    drawn_again = [3, 3, 0, 17, 3]
    whole = clone(embedder).fit_transform(rows)
    found = clone(embedder).fit_transform(rows[drawn_again])
    assert np.allclose(found, whole[drawn_again], atol=1e-6)


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
    rows = asked()
    found = clone(embedder).fit(rows).transform(form(rows))
    assert np.allclose(found, clone(embedder).fit_transform(rows), atol=1e-6)


@pytest.mark.parametrize(
    "ids",
    [USERS, np.array(USERS), pl.Series(USERS), pd.Series(USERS), np.array(USERS)[:, None]],
    ids=["list", "array", "polars", "pandas", "column"],
)
def test_ids_alone_have_the_default_cutoff(
    embedder: UserEmbedder, model: UserBert, data: PreparedData, ids: Any
) -> None:
    of_end = embedded(model, data, pl.DataFrame({"user_id": USERS}))
    assert np.allclose(clone(embedder).fit_transform(ids), of_end, atol=1e-6)
    rows = pl.DataFrame({"user_id": USERS, "cutoff": EARLY})
    for cutoff in (EARLY, date(2024, 3, 10)):
        found = clone(embedder).set_params(cutoff=cutoff).fit_transform(ids)
        assert np.allclose(found, embedded(model, data, rows), atol=1e-6)


def test_a_column_of_cutoffs_goes_before_the_default(embedder: UserEmbedder) -> None:
    other = clone(embedder).set_params(cutoff="2024-03-05")
    assert np.array_equal(other.fit_transform(asked()), clone(embedder).fit_transform(asked()))


def test_whole_numbers_are_ids_too(data: PreparedData, tmp_path: Path) -> None:
    numbered = prepared(tmp_path, pl.concat([buys("7", "2024-03-01"), buys("11", "2024-03-02")]))
    embedder = UserEmbedder(drawn(numbered, 0), numbered)
    found = embedder.fit_transform([11, 7])
    assert np.array_equal(found, embedder.transform(pd.DataFrame({"user_id": ["11", "7"]})))


def test_bf16_is_close(embedder: UserEmbedder) -> None:
    exact = clone(embedder).fit_transform(asked())
    rough = clone(embedder).set_params(precision="bf16").fit_transform(asked())
    assert not np.array_equal(exact, rough)
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_output_may_be_a_frame(embedder: UserEmbedder, library: str) -> None:
    rows: Any = asked() if library == "polars" else asked().to_pandas().set_index([[*range(5, 29)]])
    frame = clone(embedder).set_output(transform=library).fit_transform(rows)
    assert [*frame.columns] == [f"e{number}" for number in range(16)]
    assert np.array_equal(frame.to_numpy(), clone(embedder).fit_transform(rows))
    if library == "pandas":
        assert frame.index.equals(rows.index)


def test_a_clone_says_the_same_and_shares_the_model(model: UserBert, data: PreparedData) -> None:
    embedder = UserEmbedder(model, data, cutoff=EARLY).set_output(transform="polars")
    copied = clone(embedder.fit(USERS))
    assert copied.get_params() == embedder.get_params()
    assert copied.model is model
    assert isinstance(copied.fit_transform(USERS), pl.DataFrame)
    copied.set_output(transform="pandas")
    assert isinstance(embedder.transform(USERS), pl.DataFrame)
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(embedder))


def test_a_pickle_holds_folders_by_name(
    embedder: UserEmbedder, model: UserBert, data: PreparedData
) -> None:
    fitted = clone(embedder).fit(asked())
    fitted.transform(asked())
    pickled = pickle.dumps(fitted)
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).transform(asked()), fitted.transform(asked()))
    in_memory = UserEmbedder(model, data).fit(asked())
    again = pickle.loads(pickle.dumps(in_memory))
    assert again.data.path == data.path
    assert np.array_equal(again.transform(asked()), in_memory.transform(asked()))


def test_before_fit_it_says_that_it_is_not_fitted(embedder: UserEmbedder) -> None:
    with pytest.raises(NotFittedError):
        clone(embedder).transform(asked())
    with pytest.raises(NotFittedError):
        clone(embedder).get_feature_names_out()


def test_what_it_was_fitted_with_must_be_there_later(embedder: UserEmbedder) -> None:
    with pytest.raises(ValueError, match="cutoff"):  # or vectors would be of another time
        clone(embedder).fit(asked()).transform(USERS)


def test_another_model_in_the_folder_is_refused_until_fitted_again(
    data: PreparedData, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    drawn(data, seed=1).save_pretrained(folder)
    embedder = UserEmbedder(str(folder), str(data.path))
    first = embedder.fit_transform(USERS)
    shutil.rmtree(folder)
    drawn(data, seed=2).save_pretrained(folder)
    with pytest.raises(ModelError, match="Fit again"):
        embedder.transform(USERS)
    assert not np.allclose(embedder.fit_transform(USERS), first)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["u1", "tom", "tim"], r"X: 2 of 3 users are not in .* first in row 2: tom, tim"),
        (["u1", None], r"X, row 2, column user_id: expected a value"),
        (pl.DataFrame({"client": ["u1"]}), r"user_id and perhaps cutoff, found client"),
        ([["u1", "2024-03-10", "x"]], r"array of the shape \(1, 3\)"),
        ([["u1", "someday"]], r"column cutoff"),
        ([["u1", 3]], r"column cutoff: expected dates or times"),
        (["u1", 2], r"X: expected ids as text or whole numbers .* value of type"),
        ([["u1", np.datetime64(LATE)]], r"cut-offs as text, dates or datetimes"),
        ([], r"X: expected one row a user, found no rows"),
        ([["u1", "2019-01-01"]], r"X, row 1: the cut-off, .* not after the first event"),
    ],
    ids=[
        "users",
        "missing",
        "column",
        "shape",
        "text",
        "number",
        "types",
        "numpy",
        "empty",
        "blind",
    ],
)
def test_rows_that_cannot_be_used_are_told(embedder: UserEmbedder, rows: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        clone(embedder).fit_transform(rows)


@pytest.mark.parametrize(
    ("parameter", "value", "told"),
    [
        ("model", None, "model: expected a UserBert or the name of its folder, found NoneType"),
        ("model", "nowhere", "nothing is there"),
        ("data", 3, "data: expected a PreparedData or the name of its folder, found int"),
        ("data", "nowhere", "nothing is there"),
        ("precision", "bfloat16", "float32 or bf16, found 'bfloat16'"),
        ("cutoff", "someday", "cutoff: "),
    ],
)
def test_parameters_that_cannot_be_used_are_told_when_fitted(
    embedder: UserEmbedder, parameter: str, value: Any, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        clone(embedder).set_params(**{parameter: value}).fit_transform(USERS)


def test_data_of_other_ids_are_refused(model: UserBert, tmp_path: Path) -> None:
    other = prepared(tmp_path, buys("u1", "2024-03-01", genre="wine"))
    with pytest.raises(ModelError, match="--vocabulary MODEL"):
        UserEmbedder(model, other).fit(["u1"])


def test_cutoffs_that_the_model_has_seen_past_are_warned_of(data: PreparedData) -> None:
    embedder = UserEmbedder(drawn(data, 0, before="2024-03-15T00:00"), data).fit(asked())
    with pytest.warns(UserWarning, match=r"pretrained on; the first is 2024-03-10.*--before 2024"):
        embedder.transform(asked())
    embedder.transform(asked().filter(cutoff=LATE))


def test_cutoffs_after_the_logs_end_are_warned_of(embedder: UserEmbedder) -> None:
    fitted = clone(embedder).fit(asked())
    fitted.transform([["u1", LATE]])
    with pytest.warns(UserWarning, match="more than a day after the last event"):
        fitted.transform([["u1", "2024-03-24"]])


def labels(rows: pl.DataFrame) -> NDArray[np.int64]:
    """Who buys milk, which vectors tell."""
    return np.array([int(user[1:]) % 2 for user in rows["user_id"]])


@pytest.mark.parametrize("library", ["polars", "pandas"])
def test_a_pipeline_is_scored_by_users(embedder: UserEmbedder, library: str) -> None:
    rows: Any = asked() if library == "polars" else asked().to_pandas()
    pipeline = make_pipeline(clone(embedder), LogisticRegression(C=100, max_iter=1000))
    scores = cross_val_score(
        pipeline, rows, labels(asked()), groups=rows["user_id"], cv=GroupKFold(3),
        error_score="raise",
    )  # fmt: skip
    assert scores.shape == (3,)


@pytest.mark.slow
def test_processes_side_by_side_score_the_same(
    embedder: UserEmbedder, model: UserBert, data: PreparedData
) -> None:
    rows, scores = asked(), []
    for one, jobs in ((embedder, 1), (embedder, 2), (UserEmbedder(model, data), 2)):
        pipeline = make_pipeline(clone(one), LogisticRegression(C=100, max_iter=1000))
        scores.append(
            cross_val_score(
                pipeline, rows, labels(rows), groups=rows["user_id"], cv=GroupKFold(3),
                n_jobs=jobs, scoring="neg_log_loss", error_score="raise",
            )
        )  # fmt: skip
    assert np.allclose(scores[0], scores[1], atol=1e-4)
    assert np.allclose(scores[0], scores[2], atol=1e-4)


def test_vectors_stand_beside_other_columns(embedder: UserEmbedder) -> None:
    rows = asked().with_columns(visits=pl.int_range(24).cast(pl.Float64))
    beside = ColumnTransformer(
        [
            ("vectors", clone(embedder), ["user_id", "cutoff"]),
            ("own", "passthrough", ["visits"]),
        ]
    )
    found = beside.fit_transform(rows)
    assert np.allclose(found[:, :16], clone(embedder).fit_transform(rows), atol=1e-6)
    assert np.array_equal(found[:, 16], np.arange(24))
    assert [*beside.get_feature_names_out()[-2:]] == ["vectors__e15", "own__visits"]
    own = ColumnTransformer([("own", "passthrough", ["visits"])])
    union = FeatureUnion([("vectors", clone(embedder)), ("own", own)])
    assert np.array_equal(union.fit_transform(rows), found)


def test_a_column_of_ids_may_be_picked_by_name(embedder: UserEmbedder) -> None:
    pipeline = Pipeline([("pick", ColumnTransformer([("v", clone(embedder), "user_id")]))])
    found = pipeline.fit_transform(asked().head(12))
    assert np.array_equal(found, clone(embedder).fit_transform(USERS))


def test_arrow_tables_are_read_without_their_other_columns(embedder: UserEmbedder) -> None:
    table = pa.table({"user_id": USERS, "nested": [{"a": 1}] * 12})
    found = clone(embedder).fit_transform(table)
    assert np.array_equal(found, clone(embedder).fit_transform(USERS))


NOT_OF_NUMBERS = {
    **dict.fromkeys(
        ("check_n_features_in", "check_n_features_in_after_fitting", "check_transformer_general"),
        "one or two columns are read of X, however many it has",
    ),
    **dict.fromkeys(
        (
            "check_complex_data",
            "check_estimators_nan_inf",
            "check_estimator_sparse_tag",
            "check_estimator_sparse_array",
            "check_estimator_sparse_matrix",
        ),
        "X holds ids: numbers of a kind that is refused do not arise",
    ),
    **dict.fromkeys(("check_fit1d", "check_fit2d_predict1d"), "ids may be given as one dimension"),
    "check_estimators_empty_data_messages": "no rows are an InputError, in transform",
}
"""Checks of scikit-learn's that are about X as numbers."""


def users_for_numbers(x: Any) -> pl.DataFrame:
    """Rows of numbers, as those checks draw them, each standing for some user."""
    numbers = np.asarray(x, float)
    totals = np.abs(numbers).reshape(len(numbers), -1).sum(axis=1)
    return pl.DataFrame({"user_id": [USERS[int(1000 * total) % 12] for total in totals]})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_the_checks_that_scikit_learn_has_for_estimators_hold(
    embedder: UserEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_embedder, "_rows", users_for_numbers)
    told = check_estimator(clone(embedder), expected_failed_checks=NOT_OF_NUMBERS, on_skip=None)
    assert sum(one["status"] == "passed" for one in told) >= 30
    assert {one["check_name"] for one in told if one["status"] == "xfail"} == {*NOT_OF_NUMBERS}
