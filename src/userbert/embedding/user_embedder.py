"""A scikit-learn transformer from (user, cut-off) rows to user embeddings.

In: a model and prepared data, as folders or objects; X with the column `user_id` and optionally
`cutoff`. Out: vectors (n, width), float32, in row order, where n is the number of rows. `fit`
learns nothing from X or y: the model is pretrained. To avoid future leakage, pretraining must end
before the cut-offs in X.
"""

import warnings
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from userbert.data.prepare.words import DAY_US
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, instant_of, pairs_in
from userbert.errors import InputError, ModelError
from userbert.folders import checksum
from userbert.model.userbert import Precision, UserBert, embed_pairs
from userbert.training.pretrain import fingerprint

_COLUMNS = ("user_id", "cutoff")
"""Columns that are read from X."""
_CACHE_SIZE = 4
"""Number of model folders, and of data folders, that a process keeps open; a pipeline uses few."""


class UserEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer that maps each (user, cut-off) row to its user embedding.

    `model` is a `UserBert` or a model folder, `data` a `PreparedData` or its folder. X is a frame
    (Polars, pandas, Arrow) with a column `user_id` and optionally `cutoff`; other columns are
    ignored. X may also be an array of ids, or an array with a column of ids and one of cut-offs.
    If X has no cut-offs, all rows get the parameter `cutoff`, by default the instant just after the
    last event of the data. `precision` is the number format of the encoder, `float32` or `bf16`.

    Clones share the model. With `n_jobs`, scikit-learn sends a pickle to other processes. A pickle
    holds the paths of folders, which must exist under the same path in these processes. It holds
    the weights of a `UserBert` object, and the folder's path of a `PreparedData` object.

    After `fit`, `width_` is the number of output columns, and `n_features_in_` is the number of
    columns read from X.
    """

    def __init__(
        self,
        model: UserBert | str | Path,
        data: PreparedData | str | Path,
        *,
        cutoff: str | date | datetime | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.model = model
        self.data = data
        self.cutoff = cutoff
        self.precision = precision

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Opens the model and the data, without learning from X.

        Raises `ModelError` if the model is damaged, or ids or segments of the data differ from the
        model's; `DataError` if the data are damaged; `InputError` if X has no `user_id` or a
        parameter is not valid.
        """
        if self.precision not in get_args(Precision):
            raise InputError(
                f"precision: expected {' or '.join(get_args(Precision))}, found {self.precision!r}."
            )
        validate_data(self, _id_columns(X), skip_check_array=True)
        model, data = self._model(), self._data()
        model.check_fits(data)
        self.width_ = model.width()
        self._fitted_checksum = self._model_checksum()
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803 - scikit-learn's name
        """Returns user embeddings (n, width), in row order; rows may repeat.

        Warns of cut-offs before the end of pretraining (future leakage), unless the pairs are
        exactly those of pretraining, and of cut-offs more than a day after the last event. Raises
        `InputError` for users that are not in the data and for missing values, and `ModelError` if
        the model folder has changed since `fit`.
        """
        check_is_fitted(self)
        rows = _id_columns(X)
        validate_data(self, rows, skip_check_array=True, reset=False)
        if self._fitted_checksum != self._model_checksum():
            raise ModelError(
                f"{self.model} holds another model than at `fit`. Vectors of two models cannot be "
                "compared. Fit again, with all pipeline steps that read the vectors."
            )
        model, data = self._model(), self._data()
        pairs = self._pairs(rows, data)
        _warn_of_cutoffs(model, data, pairs)
        stacked = np.stack([pairs.rows, pairs.cutoffs])
        unique, inverse = np.unique(stacked, axis=1, return_inverse=True)
        vectors = embed_pairs(model, data, unique[0], unique[1], precision=self.precision)
        return vectors[inverse.reshape(-1)]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Returns the names `e0`, `e1` …, which `userbert embed --format columns` also writes."""
        check_is_fitted(self)
        return np.array([f"e{number}" for number in range(self.width_)], dtype=object)

    def __sklearn_clone__(self) -> Self:
        """Returns an unfitted copy. It shares a model in memory, which is never modified."""
        clone = type(self)(**self.get_params(deep=False))
        if hasattr(self, "_sklearn_output_config"):  # set by `set_output`
            clone._sklearn_output_config = {**self._sklearn_output_config}
        return clone

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags

    def _pairs(self, rows: pl.DataFrame, data: PreparedData) -> Pairs:
        if "cutoff" not in rows.columns and self.cutoff is not None:
            instant = pl.lit(instant_of(self.cutoff, data, "cutoff"))
            rows = rows.with_columns(cutoff=instant.cast(pl.Datetime("us", "UTC")))
        return pairs_in(rows, data, "X", may_repeat=True)

    def _model(self) -> UserBert:
        if isinstance(self.model, UserBert):
            return self.model
        return _open_model(
            _folder(self.model, "model", UserBert).absolute(), self._model_checksum()
        )

    def _data(self) -> PreparedData:
        if isinstance(self.data, PreparedData):
            return self.data
        folder = _folder(self.data, "data", PreparedData).absolute()
        return _open_data(folder, _checksum(folder / "manifest.json"))

    def _model_checksum(self) -> str | None:
        """Checksum of a model folder's `summary.json`, which holds the checksums of all files.

        None for a `UserBert` object.
        """
        if isinstance(self.model, UserBert):
            return None
        return _checksum(_folder(self.model, "model", UserBert) / "summary.json")


def _id_columns(X: Any) -> pl.DataFrame:  # noqa: N803 - scikit-learn's name
    """Returns the column `user_id` of X and, if X has it, the column `cutoff`.

    Raises `InputError` if X has no ids, or a column mixes values of several types.
    """
    if isinstance(X, pa.Table):
        X = pl.DataFrame(X)  # noqa: N806
    if hasattr(X, "columns"):
        names = [name for name in _COLUMNS if name in X.columns]
        if "user_id" not in names:
            raise InputError(
                "X: expected a column user_id and optionally cutoff, found "
                f"{', '.join(map(str, X.columns)) or 'none'}. Rename the column of user ids."
            )
        return pl.DataFrame(X[names])
    cells = np.asarray(X, dtype=object)
    columns = cells[:, None] if cells.ndim == 1 else cells
    if columns.ndim != 2 or not 1 <= columns.shape[1] <= len(_COLUMNS):
        raise InputError(
            "X: expected a column of ids and optionally one of cut-offs, found an array of shape "
            f"{cells.shape}. Select these columns, or pass a frame with user_id and cutoff."
        )
    try:
        return pl.DataFrame(
            {name: column.tolist() for name, column in zip(_COLUMNS, columns.T, strict=False)}
        )
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise InputError(
            "X: expected ids as text or whole numbers and cut-offs as text, dates or datetimes, "
            f"one type per column ({str(error).splitlines()[0]}). Convert the values."
        ) from error


def _warn_of_cutoffs(model: UserBert, data: PreparedData, pairs: Pairs) -> None:
    """Warns of cut-offs before the end of pretraining, and more than a day after the last event.

    The pairs of pretraining itself (`at`) leak nothing, so they give no warning.
    """
    first, last = (np.datetime64(int(pick(pairs.cutoffs)), "us") for pick in (np.min, np.max))
    bound = model.record.get("before")
    if bound is not None and first < np.datetime64(bound, "us"):
        at = model.record.get("at")
        if at is None or at != fingerprint(data, pairs):
            warnings.warn(
                f"X has cut-offs before {_utc_text(np.datetime64(bound, 'us'))}, the end of the "
                f"model's pretraining data; the first is {_utc_text(first)}. Their vectors may "
                "leak later events, so scores will look better than they are. Pretrain a model "
                f"without these events: userbert pretrain DATA -o MODEL --before {_utc_text(first)}"
                + ("" if at is None else ", or use the users and cut-offs of its --at file"),
                stacklevel=3,
            )
    if last > np.datetime64(data.last_event + DAY_US, "us"):
        warnings.warn(
            f"X has cut-offs more than a day after the last event of {data.path}, which is at "
            f"{_utc_text(np.datetime64(data.last_event, 'us'))}; the last is {_utc_text(last)}. "
            "The data have no events in between. Add the later logs and prepare again.",
            stacklevel=3,
        )


def _utc_text(instant: np.datetime64) -> str:
    return f"{np.datetime_as_string(instant, unit='s')}Z"


def _folder(value: Any, name: str, kind: type) -> Path:
    """Returns `value` as a path.

    Raises `InputError`, which names the parameter `name` and the class `kind`, for other types.
    """
    if isinstance(value, str | Path):
        return Path(value)
    raise InputError(
        f"{name}: expected a {kind.__name__} or the path of its folder, found "
        f"{type(value).__name__}."
    )


def _checksum(file: Path) -> str | None:
    """Returns the checksum of a file; None if it is missing: opening the folder raises for it."""
    return checksum(file) if file.is_file() else None


@lru_cache(maxsize=_CACHE_SIZE)
def _open_model(folder: Path, _: str | None) -> UserBert:
    return UserBert.from_pretrained(folder)


@lru_cache(maxsize=_CACHE_SIZE)
def _open_data(folder: Path, _: str | None) -> PreparedData:
    return PreparedData.open(folder)
