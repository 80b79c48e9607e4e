"""Dictionary encoding: text as codes, numbered in order of appearance, until values have ids.

In: columns of text, batch by batch. Out: codes, which take a tenth of the text's space and are
counted, moved and sorted as integers; after the last batch, all values, and the lookup from codes
to ids. Used by preparation from its first pass to its second. Live histories use the classes
without encoding.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.prepare.words import Encoder
from userbert.data.ragged import Int32
from userbert.data.vocabulary import NONE, Categories, Vocabulary
from userbert.schema.attributes import Attribute, Number
from userbert.schema.models import Schema

_KEYS = {"user_id": pl.String(), "time": pl.Int64(), "row": pl.Int64()}
"""Columns of all rows, with their types."""


class Dictionary:
    """Distinct values of a column, numbered from 0 in order of appearance: their codes."""

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random())
        # Polars drops the categories when their last column is gone.
        self._anchor = pl.Series(dtype=self._type)
        self._size = 0

    def encode(self, values: pl.Series) -> pl.Series:
        """Returns the code (uint32) of each value, null for null. New values get the next codes."""
        codes = values.cast(self._type).to_physical()
        if codes.null_count() < len(codes):
            self._size = max(self._size, int(codes.max()) + 1)  # type: ignore[arg-type]
        return codes

    @property
    def values(self) -> pl.Series:
        """All values, sorted by code."""
        numbers = pl.Series(np.arange(self._size, dtype=np.uint32))
        return numbers.cat.to(self._type).cast(pl.String)

    def encoder(self, vocabulary: Categories) -> "IdLookup":
        """Returns an encoder from codes to the ids of a vocabulary."""
        return IdLookup(np.append(vocabulary.encode(self.values.to_arrow()), np.int32(NONE)))


@dataclass(frozen=True)
class IdLookup:
    """Encoder from the codes of a `Dictionary` with C values to the ids of a vocabulary."""

    ids: Int32
    """(C + 1,): id of each code; the last id is for null."""

    def encode(self, codes: pa.Array) -> Int32:
        """Returns the id of each code; null has the last id in `ids`."""
        ids: Int32 = self.ids[pc.fill_null(codes, len(self.ids) - 1).to_numpy()]
        return ids


class RowDictionaries:
    """Dictionaries of the text columns of events or of profile rows; other columns do not change.

    `attributes` are attributes or profile fields, by name. `text` names further text columns. If
    `is_encoded` is false, text columns do not change either.
    """

    def __init__(
        self, attributes: Mapping[str, Attribute], *text: str, is_encoded: bool = True
    ) -> None:
        numbers = [name for name, attribute in attributes.items() if isinstance(attribute, Number)]
        texts = [*text, *(name for name in attributes if name not in numbers)]
        self.dictionaries = {name: Dictionary() for name in texts if is_encoded}
        self.types: dict[str, pl.DataType] = {
            **_KEYS,
            **dict.fromkeys(texts, pl.String()),
            **dict.fromkeys(numbers, pl.Float32()),
        }
        """Type of each column before it is encoded."""

    def encode(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Returns rows with codes in place of text."""
        return pl.DataFrame(
            [
                self.dictionaries[name].encode(rows[name]).alias(name)
                if name in self.dictionaries
                else rows[name]
                for name in self.types
                if name in rows.columns
            ]
        )

    @property
    def no_rows(self) -> pl.DataFrame:
        """Encoded frame without rows."""
        return self.encode(
            pl.DataFrame([pl.Series(name, (), dtype) for name, dtype in self.types.items()])
        )

    def encoders(self, vocabularies: Mapping[str, Vocabulary]) -> dict[str, Encoder]:
        """Returns the encoder of each column of encoded rows.

        Columns with codes get a lookup from codes to ids; other columns get their vocabulary.
        """
        return {
            name: self.dictionaries[name].encoder(vocabulary)
            if name in self.dictionaries and isinstance(vocabulary, Categories)
            else vocabulary
            for name, vocabulary in vocabularies.items()
        }

    def has_action(self, events: pl.DataFrame, actions: Collection[str]) -> pl.Series:
        """Returns whether the action type of each event is one of `actions`."""
        types = events["action_type"]
        if "action_type" not in self.dictionaries:
            return pl.Series([action in actions for action in types.to_list()], dtype=pl.Boolean)
        codes = self.dictionaries["action_type"].values.is_in(actions).arg_true()
        return pl.Series(np.isin(types.to_numpy(), codes.to_numpy()))


@dataclass(frozen=True)
class LogDictionaries:
    """Dictionaries of the events and of the profile rows of a schema."""

    events: RowDictionaries
    profile: RowDictionaries

    @classmethod
    def of(cls, schema: Schema) -> "LogDictionaries":
        """Returns empty dictionaries for a schema."""
        fields = {} if schema.profile is None else schema.profile.fields
        return cls(RowDictionaries(schema.attributes, "action_type"), RowDictionaries(fields))

    @classmethod
    def without_encoding(cls, schema: Schema) -> "LogDictionaries":
        """Returns dictionaries that do not encode text, which is faster for few rows."""
        fields = {} if schema.profile is None else schema.profile.fields
        return cls(
            RowDictionaries(schema.attributes, "action_type", is_encoded=False),
            RowDictionaries(fields, is_encoded=False),
        )
