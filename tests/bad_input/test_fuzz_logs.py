"""Whatever the bytes of logs and schemas: an error of our own, or every row accounted for."""

import tempfile
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing.parametric import column, dataframes

from mutated_logs import SEEDS, WORDS, check


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """A file with some pieces of it taken out, and others put in their place."""
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
def test_every_row_is_accounted_for_or_the_file_is_refused(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), name, data.draw(mutated(SEEDS[name])))


_COLUMNS = ["user", "time", "action", "code", "product", "price"]


@given(
    dataframes(
        [column(name) for name in _COLUMNS],
        min_size=1,
        max_size=6,
        excluded_dtypes=[pl.Object, pl.Unknown],
    )
)
def test_columns_of_any_type_are_used_or_refused(log: pl.DataFrame) -> None:
    file = BytesIO()
    with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
        log.write_parquet(file)
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), "log.parquet", file.getvalue())
