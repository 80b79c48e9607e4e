"""Random changes to logs and schemas: userbert's own error, or every row accounted for."""

import tempfile
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from polars.testing.parametric import series

from mutated_logs import EVENTS, SEEDS, WORDS, check


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """Draws the file with some pieces replaced by others."""
    content = seed
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.sampled_from([0, 0, 1, 1, 2, 8, 60, len(content)])) + start
        word = draw(st.one_of(st.sampled_from(WORDS).map(str.encode), st.binary(max_size=4)))
        content = content[:start] + word + content[end:]
    return content


@pytest.mark.parametrize("name", SEEDS)
@given(data=st.data())
@settings(max_examples=12)
def test_every_row_is_accounted_for_or_the_file_is_rejected(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), name, data.draw(mutated(SEEDS[name])))


@pytest.mark.parametrize("column", ["user", "time", "action", "code", "product", "price"])
@given(values=series(min_size=len(EVENTS), max_size=len(EVENTS), excluded_dtypes=[pl.Object]))
@example(values=pl.Series([None] + [3] * (len(EVENTS) - 1), dtype=pl.UInt128))
@settings(max_examples=12)
def test_column_of_any_type_is_used_or_rejected(column: str, values: pl.Series) -> None:
    file = BytesIO()
    try:
        EVENTS.with_columns(values.alias(column)).write_parquet(file)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        assume(condition=False)
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), "log.parquet", file.getvalue())
