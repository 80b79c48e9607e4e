"""A scikit-learn transformer from (user, cut-off) rows to user embeddings.

In: a model and prepared data, as folders or objects; X with rows of `user_id` and perhaps `cutoff`.
Out: float32 (n, width), in row order. Nothing is learned from X or y. All the model knows comes
from its pretraining, which must therefore end before the cut-offs in X.
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
_CACHE_SIZE = 4
"""Model folders, and data folders, that a process keeps open: enough for a few pipeline steps."""


class UserEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer that maps each (user, cut-off) row to its user embedding.

    `model` is a `UserBert` or a model folder, `data` a `PreparedData` or its folder. X is a frame
    (Polars, pandas, Arrow) with a column `user_id` and perhaps `cutoff`; other columns are ignored.
    X may also be an array of these two columns, or of ids alone. Rows without a cut-off get
    `cutoff`, by default the instant just after the last event of the data. `precision` is the
    number format of the encoder, `float32` or `bf16`.

    Clones share the model. A pickle, which `n_jobs` sends to other processes, stores folders by
    path, so they must exist there under the same path. It stores a `UserBert` object with its
    weights, and a `PreparedData` object by the path of its folder.

    After `fit`, `width_` is the number of output columns, and `n_features_in_` the number of
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

        Raises `ModelError` if the data have other ids than the model, `InputError` if X has no
        `user_id` or a parameter is not valid.
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

        Warns of cut-offs before the end of pretraining (future leakage), and of cut-offs more than
        a day after the last event. Raises `InputError` for users that are not in the data, and
        `ModelError` if the model folder has changed since `fit`.
        """
        check_is_fitted(self)
        rows = _id_columns(X)
        validate_data(self, rows, skip_check_array=True, reset=False)
        if self._fitted_checksum != self._model_checksum():
            raise ModelError(
                f"{self.model} holds another model than at `fit`. Vectors of two models cannot be "
                "compared. Fit again, with every step that reads the vectors."
            )
        model, data = self._model(), self._data()
        pairs = self._pairs(rows, data)
        _warn_of_cutoffs(model, data, pairs)
        stacked = np.stack([pairs.rows, pairs.cutoffs])
        unique, inverse = np.unique(stacked, axis=1, return_inverse=True)
        vectors = embed_pairs(model, data, unique[0], unique[1], precision=self.precision)
        return vectors[inverse.reshape(-1)]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Returns `e0`, `e1` …, the columns that `embed --format columns` writes."""
        check_is_fitted(self)
        return np.array([f"e{number}" for number in range(self.width_)], dtype=object)

    def __sklearn_clone__(self) -> Self:
        """Returns an unfitted copy that shares a model in memory, which nothing modifies."""
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
        """Checksum of a model folder's summary, which holds all other checksums; None in memory."""
        if isinstance(self.model, UserBert):
            return None
        return _checksum(_folder(self.model, "model", UserBert) / "summary.json")


def _id_columns(X: Any) -> pl.DataFrame:  # noqa: N803 - scikit-learn's name
    """Returns the columns `user_id` and, if there is one, `cutoff` of X.

    Raises `InputError` if X has no ids, or a column has values of several types.
    """
    if isinstance(X, pa.Table):
        X = pl.DataFrame(X)  # noqa: N806
    if hasattr(X, "columns"):
        names = [name for name in _COLUMNS if name in X.columns]
        if "user_id" not in names:
            raise InputError(
                "X: expected a column user_id and perhaps cutoff, found "
                f"{', '.join(map(str, X.columns)) or 'none'}. Rename the column of user ids."
            )
        return pl.DataFrame(X[names])
    cells = np.asarray(X, dtype=object)
    columns = cells[:, None] if cells.ndim == 1 else cells
    if columns.ndim != 2 or not 1 <= columns.shape[1] <= len(_COLUMNS):
        raise InputError(
            "X: expected ids, or two columns of ids and cut-offs, found an array of the shape "
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
    """Warns of cut-offs before the end of pretraining, and of those after the last event."""
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
                + ("" if at is None else ", or use the cut-offs of the file that --at named"),
                stacklevel=3,
            )
    if last > np.datetime64(data.last_event + DAY_US, "us"):
        warnings.warn(
            f"X has cut-offs more than a day after the last event of {data.path}, which is at "
            f"{_utc_text(np.datetime64(data.last_event, 'us'))}; the last is {_utc_text(last)}. "
            "The data have no events in between. Prepare the later logs, too.",
            stacklevel=3,
        )


def _utc_text(instant: np.datetime64) -> str:
    return f"{np.datetime_as_string(instant, unit='s')}Z"


def _folder(value: Any, name: str, kind: type) -> Path:
    """Returns the path of a folder; raises `InputError` if `value` is no path."""
    if isinstance(value, str | Path):
        return Path(value)
    raise InputError(
        f"{name}: expected a {kind.__name__} or the path of its folder, found "
        f"{type(value).__name__}."
    )


def _checksum(file: Path) -> str | None:
    """Checksum of a file; None if it is missing, which opening the folder reports."""
    return checksum(file) if file.is_file() else None


@lru_cache(maxsize=_CACHE_SIZE)
def _open_model(folder: Path, _: str | None) -> UserBert:
    return UserBert.from_pretrained(folder)


@lru_cache(maxsize=_CACHE_SIZE)
def _open_data(folder: Path, _: str | None) -> PreparedData:
    return PreparedData.open(folder)
