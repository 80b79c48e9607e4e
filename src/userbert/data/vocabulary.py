"""Vocabularies: ids of categorical values, and bins of numbers.

In: counts of values, which can be added over partitions and workers. Out: `Vocabularies`, with
which the words kernel encodes values, and from which models take the sizes of their tables. Ids
(design, decision 4): 0 = none, 1 = unknown; from 2 on, values by falling count, ties by value, so
every engine gives the same ids.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from userbert.data.ragged import Int32
from userbert.errors import InputError
from userbert.folders import checksum, describe_path, read_json

NONE = 0
"""Id of a missing attribute: embeds to zero, never a target."""
UNKNOWN = 1
"""Id of a rare or unseen value: a target like any other."""
FIRST_VALUE = 2
"""Id of the most frequent value, or of the lowest bin."""
_FEW_VALUES = 64
"""Number of values to encode below which a dict is faster than a call of Arrow."""
_DICT_RATIO = 16
"""Ratio of the vocabulary's size to the number of values to encode, above which a dict is also
faster: Arrow hashes the whole vocabulary at each call."""


@dataclass(frozen=True)
class Categories:
    """Values of a categorical attribute; the value at index i has the id i + 2."""

    values: tuple[str, ...]
    is_categorical: ClassVar[bool] = True

    @property
    def size(self) -> int:
        """Number of ids, none and unknown included."""
        return len(self.values) + FIRST_VALUE

    @property
    def names(self) -> list[str]:
        """Readable name of each id."""
        return ["(none)", "(unknown)", *self.values]

    @cached_property
    def _value_set(self) -> pa.Array:
        return pa.array(self.values, pa.large_string())

    @cached_property
    def _ids(self) -> dict[str | None, int]:
        return {None: NONE} | {value: i for i, value in enumerate(self.values, FIRST_VALUE)}

    def encode(self, values: pa.Array) -> Int32:
        """Returns the id of each value: `NONE` for null, `UNKNOWN` for a value without an id."""
        if len(values) < max(_FEW_VALUES, len(self.values) // _DICT_RATIO):
            ids = [self._ids.get(value, UNKNOWN) for value in values.to_pylist()]
            return np.array(ids, np.int32)
        places = pc.index_in(values.cast(pa.large_string()), self._value_set)
        ids = pc.fill_null(pc.add(places, FIRST_VALUE), UNKNOWN)
        ids = pc.if_else(pc.is_null(values), NONE, ids)
        encoded: Int32 = ids.to_numpy(zero_copy_only=False).astype(np.int32)
        return encoded

    @classmethod
    def fit(cls, counts: pl.DataFrame, max_values: int, min_users: int) -> "Categories":
        """Returns the values of at least `min_users` users: the `max_values` most frequent.

        `counts` has the columns `value`, `count` and `users`.
        """
        kept = counts.filter(pl.col("value").is_not_null() & (pl.col("users") >= min_users))
        kept = kept.sort(["count", "value"], descending=[True, False]).head(max_values)
        return cls(tuple(kept["value"].to_list()))


@dataclass(frozen=True)
class Bins:
    """Bins of a number; bin i has the id i + 2 and ends before `edges[i]`."""

    edges: tuple[float, ...]
    """Boundaries between bins, ascending. The last bin has no end."""
    is_categorical: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """Number of ids, none and unknown included."""
        return len(self.edges) + 1 + FIRST_VALUE

    @property
    def names(self) -> list[str]:
        """Readable name of each id."""
        edges = [f"{edge:g}" for edge in self.edges]
        if not edges:
            return ["(none)", "(unknown)", "any"]
        inner = [f"{low} to {high}" for low, high in pairwise(edges)]
        return ["(none)", "(unknown)", f"below {edges[0]}", *inner, f"{edges[-1]} or more"]

    @cached_property
    def _edge_array(self) -> NDArray[np.float32]:
        return np.array(self.edges, np.float32)

    def encode(self, values: pa.Array) -> NDArray[np.float32]:
        """Returns the values as float32, NaN for null. `ids` bins them when data are read."""
        numbers = values.cast(pa.float32()).to_numpy(zero_copy_only=False)
        # Equal numbers must be equal bytes, so -0 becomes 0, and all NaNs become one.
        return np.where(np.isnan(numbers), np.float32(np.nan), numbers + np.float32(0))

    def ids(self, numbers: NDArray[np.float32]) -> Int32:
        """Returns the id of each number's bin; none for NaN."""
        ids = self._edge_array.searchsorted(numbers, side="right")
        return np.where(np.isnan(numbers), NONE, ids + FIRST_VALUE).astype(np.int32)

    @classmethod
    def fit(cls, counts: pl.DataFrame, bins: int) -> "Bins":
        """Returns at most `bins` bins, whose edges are quantiles of the numbers.

        `counts` has the columns `value` and `count`.
        """
        counts = counts.filter(pl.col("value").is_not_nan()).sort("value")
        if counts.is_empty():
            return cls(())
        values = counts["value"].to_numpy()
        below = np.cumsum(counts["count"].to_numpy())
        ranks = below[-1] * np.arange(1, bins) / bins
        # An edge is the first value of the upper bin. A very frequent value leaves fewer bins.
        edges = np.unique(
            values[np.minimum(np.searchsorted(below, ranks, "right"), len(values) - 1)]
        )
        return cls(tuple(float(edge) for edge in edges if edge > values[0]))


Vocabulary = Categories | Bins


def countable(numbers: pl.Series) -> pl.Series:
    """Rounds float32 numbers down to 12 significant bits, which bounds the number of values.

    Negative numbers are rounded away from zero: so a number reaches an edge of 12 bits if and only
    if its rounded value does.
    """
    # Adding zero turns -0 into 0.
    bits = (numbers.to_numpy().astype(np.float32) + np.float32(0)).view(np.int32)
    bits = (bits + np.where(bits < 0, np.int32(0xFFF), np.int32(0))) & ~np.int32(0xFFF)
    return pl.Series(numbers.name, bits.view(np.float32))


@dataclass(frozen=True)
class Vocabularies:
    """All vocabularies of a schema. Both segments have equal vocabularies of a shared attribute."""

    segments: Mapping[str, Mapping[str, Vocabulary]]
    """Vocabulary of each attribute, by segment."""
    profile: Mapping[str, Vocabulary]
    """Vocabulary of each profile field."""

    def to_json(self) -> dict[str, Any]:
        """Returns the vocabularies as plain JSON."""
        return {
            "segments": {
                segment: {name: _to_json(vocabulary) for name, vocabulary in attributes.items()}
                for segment, attributes in self.segments.items()
            },
            "profile": {name: _to_json(vocabulary) for name, vocabulary in self.profile.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Vocabularies":
        """Returns the vocabularies that `to_json` has written."""
        return cls(
            {
                segment: {name: _from_json(vocabulary) for name, vocabulary in attributes.items()}
                for segment, attributes in content["segments"].items()
            },
            {name: _from_json(vocabulary) for name, vocabulary in content["profile"].items()},
        )

    @classmethod
    def load(cls, folder: Path) -> "Vocabularies":
        """Reads `vocabularies.json` in a folder of a model or of prepared data.

        Raises `InputError` if the file is missing or damaged, or has changed.
        """
        path = folder / "vocabularies.json"
        if not path.is_file():
            raise InputError(
                f"{folder} has no vocabularies.json ({describe_path(folder)}). Name a folder of "
                "prepared data or of a model; the model of a task is TASK/model."
            )
        listing = folder / "manifest.json"
        if not listing.is_file():
            listing = folder / "summary.json"
        try:
            if read_json(listing)["checksums"]["vocabularies.json"] == checksum(path):
                return cls.from_json(read_json(path))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{folder} is damaged: a file has the wrong content ({error}). Copy it again."
            ) from error
        raise InputError(f"{path} has changed since it was written. Copy the folder again.")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all values and edges, which is equal only if all ids have the same meaning."""
        content = json.dumps(self.to_json(), ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()


def _to_json(vocabulary: Vocabulary) -> dict[str, Any]:
    if isinstance(vocabulary, Categories):
        return {"values": list(vocabulary.values)}
    return {"edges": list(vocabulary.edges)}


def _from_json(content: Mapping[str, Any]) -> Vocabulary:
    if "values" in content:
        return Categories(tuple(content["values"]))
    return Bins(tuple(content["edges"]))
