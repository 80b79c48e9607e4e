"""Vectors inside scikit-learn: rows of (user, cut-off) → user embeddings.

In: a model and prepared data, as folders or objects; X, rows of `user_id` and perhaps `cutoff`.
Out: float32 (n, width), in the order of the rows. Nothing is learned from X or y; what the model
knows, it knows from its pretraining, so that must end before the cut-offs that are asked for.
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
from userbert.data.use.pairs import Pairs, instant_of, pairs_of
from userbert.errors import InputError, ModelError
from userbert.folders import checksum
from userbert.model.userbert import Precision, UserBert, embed_pairs
from userbert.training.pretrain import fingerprint

_COLUMNS = ("user_id", "cutoff")
_OPENED = 4
"""Folders of each kind that a process keeps open: those of a few steps side by side."""


class UserEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer that gives each row (user, cut-off) its user embedding.

    `model` is a `UserBert` or a model's folder, `data` a `PreparedData` or its folder. X is a frame
    (Polars, pandas, Arrow) with a column `user_id` and perhaps `cutoff`, whose other columns are
    not read; or an array of these two columns; or ids alone. Rows without a cut-off have `cutoff`,
    by default the instant just after the last event of the data. `precision` is what the encoder
    computes in, `float32` or `bf16`.

    Clones share the model. A pickle, which is what `n_jobs` sends to other processes, holds folders
    by name: they must be there under the same name. Of objects it holds a model with its weights,
    and data by the name of their folder.

    Once fitted, `width_` is the number of columns that come out, and `n_features_in_` of those that
    are read.
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
        """Open the model and the data; learn nothing.

        Raises `ModelError` if the data have other ids than the model, `InputError` if X has no
        `user_id` or a parameter cannot be used.
        """
        if self.precision not in get_args(Precision):
            raise InputError(
                f"precision: expected {' or '.join(get_args(Precision))}, found {self.precision!r}."
            )
        validate_data(self, _rows(X), skip_check_array=True)
        model, data = self._model(), self._data()
        model.check_fits(data)
        self.width_ = model.width()
        self._sealed = self._seal()
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:  # noqa: N803 - scikit-learn's name
        """User embeddings (n, width), in the order of the rows; a row may stand several times.

        Warns of cut-offs before the end of what the model was pretrained on, whose vectors may tell
        what came after them, and of those more than a day after the last event. Raises `InputError`
        for users that the data do not know, and `ModelError` if another model lies in the folder
        than when this was fitted.
        """
        check_is_fitted(self)
        rows = _rows(X)
        validate_data(self, rows, skip_check_array=True, reset=False)
        if self._sealed != self._seal():
            raise ModelError(
                f"{self.model} holds another model than the one that this was fitted with, and "
                "vectors of two models have nothing in common. Fit again all that reads them."
            )
        model, data = self._model(), self._data()
        pairs = self._pairs(rows, data)
        _warn_of_cutoffs(model, data, pairs)
        once, places = np.unique(np.stack([pairs.rows, pairs.cutoffs]), axis=1, return_inverse=True)
        vectors = embed_pairs(model, data, once[0], once[1], precision=self.precision)
        return vectors[places.reshape(-1)]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """`e0`, `e1` … as `embed --format columns` has them."""
        check_is_fitted(self)
        return np.array([f"e{number}" for number in range(self.width_)], dtype=object)

    def __sklearn_clone__(self) -> Self:
        """The same without what was fitted; a model in memory is shared, as nothing changes it."""
        clone = type(self)(**self.get_params(deep=False))
        if hasattr(self, "_sklearn_output_config"):  # what `set_output` said
            clone._sklearn_output_config = {**self._sklearn_output_config}
        return clone

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.categorical = True
        tags.transformer_tags.preserves_dtype = []  # float32 whatever comes in
        return tags

    def _pairs(self, rows: pl.DataFrame, data: PreparedData) -> Pairs:
        if "cutoff" not in rows.columns and self.cutoff is not None:
            instant = pl.lit(instant_of(self.cutoff, data, "cutoff"))
            rows = rows.with_columns(cutoff=instant.cast(pl.Datetime("us", "UTC")))
        return pairs_of(rows, data, "X", may_repeat=True)

    def _model(self) -> UserBert:
        if isinstance(self.model, UserBert):
            return self.model
        return _opened_model(_folder(self.model, "model", UserBert).absolute(), self._seal())

    def _data(self) -> PreparedData:
        if isinstance(self.data, PreparedData):
            return self.data
        folder = _folder(self.data, "data", PreparedData).absolute()
        return _opened_data(folder, _checksum(folder / "manifest.json"))

    def _seal(self) -> str | None:
        """What tells a folder's model from any other: its summary holds all checksums."""
        if isinstance(self.model, UserBert):
            return None
        return _checksum(_folder(self.model, "model", UserBert) / "summary.json")


def _rows(X: Any) -> pl.DataFrame:  # noqa: N803 - scikit-learn's name
    """What is read of X, as a frame `user_id` and perhaps `cutoff`."""
    if isinstance(X, pa.Table):
        X = pl.DataFrame(X)  # noqa: N806
    if hasattr(X, "columns"):
        names = [name for name in _COLUMNS if name in X.columns]
        if "user_id" not in names:
            raise InputError(
                "X: expected a column user_id and perhaps cutoff, found "
                f"{', '.join(map(str, X.columns)) or 'none'}. Rename the column that is meant."
            )
        return pl.DataFrame(X[names])
    cells = np.asarray(X, dtype=object)
    columns = cells[:, None] if cells.ndim == 1 else cells
    if columns.ndim != 2 or not 1 <= columns.shape[1] <= len(_COLUMNS):
        raise InputError(
            "X: expected ids, or two columns of ids and cut-offs, found an array of the shape "
            f"{cells.shape}. Select these columns, or give a frame with user_id and cutoff."
        )
    try:
        return pl.DataFrame(
            {name: column.tolist() for name, column in zip(_COLUMNS, columns.T, strict=False)}
        )
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise InputError(
            "X: expected ids as text or whole numbers and cut-offs as text, dates or datetimes, "
            f"all of a column alike, found others ({str(error).splitlines()[0]}). Convert them."
        ) from error


def _warn_of_cutoffs(model: UserBert, data: PreparedData, pairs: Pairs) -> None:
    """Warn of cut-offs at which vectors know too much, or too little."""
    first, last = (np.datetime64(int(one(pairs.cutoffs)), "us") for one in (np.min, np.max))
    bound = model.record.get("before")
    if bound is not None and first < np.datetime64(bound, "us"):
        at = model.record.get("at")
        if at is None or at != fingerprint(data, pairs):
            warnings.warn(
                f"X has cut-offs before {_told(np.datetime64(bound, 'us'))}, the end of what the "
                f"model was pretrained on; the first is {_told(first)}. Their vectors may tell "
                "what came after them, and so lift scores that will not last. Pretrain a model "
                f"that has not seen it: userbert pretrain DATA -o MODEL --before {_told(first)}"
                + ("" if at is None else ", or ask for the cut-offs that it was given by --at"),
                stacklevel=3,
            )
    if last > np.datetime64(data.last_event + DAY_US, "us"):
        warnings.warn(
            f"X has cut-offs more than a day after the last event of {data.path}, which is at "
            f"{_told(np.datetime64(data.last_event, 'us'))}; the last is {_told(last)}. Of the "
            "time between nothing is known. Prepare the later logs, too.",
            stacklevel=3,
        )


def _told(instant: np.datetime64) -> str:
    return f"{np.datetime_as_string(instant, unit='s')}Z"


def _folder(given: Any, name: str, kind: type) -> Path:
    if isinstance(given, str | Path):
        return Path(given)
    raise InputError(
        f"{name}: expected a {kind.__name__} or the name of its folder, found "
        f"{type(given).__name__}."
    )


def _checksum(file: Path) -> str | None:
    """None if it is missing, which is told when the folder is opened."""
    return checksum(file) if file.is_file() else None


@lru_cache(maxsize=_OPENED)
def _opened_model(folder: Path, _: str | None) -> UserBert:
    return UserBert.from_pretrained(folder)


@lru_cache(maxsize=_OPENED)
def _opened_data(folder: Path, _: str | None) -> PreparedData:
    return PreparedData.open(folder)
