"""Values as numbers in the order in which they came, until vocabularies say what their ids are.

In: columns of text, batch by batch. Out: their codes, which take a tenth of the room and are
counted, moved and sorted as integers; in the end, all values, and what turns codes into ids. Used
by preparation between its two passes.
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

KEYS = {"user_id": pl.String(), "time": pl.Int64(), "row": pl.Int64()}
"""The columns that all rows have."""


class Codes:
    """The values of an attribute that were seen, numbered from 0 as they came."""

    def __init__(self) -> None:
        self._type = pl.Categorical(pl.Categories.random())
        # Polars forgets categories of which there is no column.
        self._held = pl.Series(dtype=self._type)
        self._size = 0

    def encode(self, values: pl.Series) -> pl.Series:
        """The code (uint32) of each value, null where there is none; new values get the next."""
        codes = values.cast(self._type).to_physical()
        if codes.null_count() < len(codes):
            self._size = max(self._size, int(codes.max()) + 1)  # type: ignore[arg-type]
        return codes

    @property
    def values(self) -> pl.Series:
        """All values, in the order of their codes."""
        numbers = pl.Series(np.arange(self._size, dtype=np.uint32))
        return numbers.cat.to(self._type).cast(pl.String)

    def encoder(self, vocabulary: Categories) -> "CodeEncoder":
        """What gives the ids of a vocabulary to codes."""
        return CodeEncoder(np.append(vocabulary.encode(self.values.to_arrow()), np.int32(NONE)))


@dataclass(frozen=True)
class CodeEncoder:
    """The ids of values by their codes."""

    ids: Int32
    """(C + 1,): of each code, and last of none."""

    def encode(self, codes: pa.Array) -> Int32:
        """The id of each code."""
        found: Int32 = self.ids[pc.fill_null(codes, len(self.ids) - 1).to_numpy()]
        return found


class CodedRows:
    """The columns of events, or of profile rows: those of text as codes, the others as they are."""

    def __init__(
        self, attributes: Mapping[str, Attribute], *text: str, is_coded: bool = True
    ) -> None:
        numbers = [name for name, one in attributes.items() if isinstance(one, Number)]
        texts = [*text, *(name for name in attributes if name not in numbers)]
        self.codes = {name: Codes() for name in texts if is_coded}
        self.types: dict[str, pl.DataType] = {
            **KEYS,
            **dict.fromkeys(texts, pl.String()),
            **dict.fromkeys(numbers, pl.Float32()),
        }
        """Of the columns before they are encoded."""

    def encode(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with codes in place of text."""
        return pl.DataFrame(
            [
                self.codes[name].encode(rows[name]).alias(name)
                if name in self.codes
                else rows[name]
                for name in self.types
                if name in rows.columns
            ]
        )

    @property
    def no_rows(self) -> pl.DataFrame:
        """What `encode` makes of none."""
        return self.encode(
            pl.DataFrame([pl.Series(name, (), kind) for name, kind in self.types.items()])
        )

    def encoders(self, vocabularies: Mapping[str, Vocabulary]) -> dict[str, Encoder]:
        """What gives ids to codes, and bins' numbers to numbers."""
        return {
            name: self.codes[name].encoder(one)
            if name in self.codes and isinstance(one, Categories)
            else one
            for name, one in vocabularies.items()
        }

    def have(self, events: pl.DataFrame, actions: Collection[str]) -> pl.Series:
        """Whether each event has one of some action types; all have one."""
        found = events["action_type"]
        if "action_type" not in self.codes:
            return pl.Series([action in actions for action in found.to_list()], dtype=pl.Boolean)
        known = self.codes["action_type"].values.is_in(actions).arg_true()
        return pl.Series(np.isin(found.to_numpy(), known.to_numpy()))


@dataclass(frozen=True)
class CodedLogs:
    """How events and profile rows of a schema are coded."""

    events: CodedRows
    profile: CodedRows

    @classmethod
    def of(cls, schema: Schema) -> "CodedLogs":
        """Without any value yet."""
        fields = {} if schema.profile is None else schema.profile.fields
        return cls(CodedRows(schema.attributes, "action_type"), CodedRows(fields))

    @classmethod
    def uncoded(cls, schema: Schema) -> "CodedLogs":
        """Whose values stay as they are: of a few rows, codes cost more than they save."""
        fields = {} if schema.profile is None else schema.profile.fields
        return cls(
            CodedRows(schema.attributes, "action_type", is_coded=False),
            CodedRows(fields, is_coded=False),
        )
