"""Values as numbers in the order in which they came, until vocabularies say what their ids are.

In: columns of text, batch by batch. Out: their codes, which take a tenth of the room and are
counted, moved and sorted as integers; in the end, all values, and what turns codes into ids. Used
by preparation between its two passes.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.vocabulary import NONE, Categories, Int32


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
