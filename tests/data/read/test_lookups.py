"""Lookups add columns of dimension tables to a log."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from raw_logs import LOG, SCHEMA, message_of, rows_of
from userbert.data.read.sources import open_sources
from userbert.schema.models import Schema


def with_lookup(path: str) -> str:
    return SCHEMA.replace(
        "action: {column: action}}", f"action: {{column: action}}, lookup: [{path}]}}"
    ).replace("genre: {column: genre}", "genre: {column: group}")


PRODUCTS = with_lookup("{path: products.csv, on: product}")
SALES = LOG.with_columns(product=pl.Series([7, 8, None]))


def test_a_lookup_adds_the_columns_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product,group,price\n9,tea,5\n7,bread,5\n,none,5\n")
    rows = rows_of(Schema.parse(PRODUCTS, tmp_path), log=SALES)
    assert [row[4] for row in rows] == ["bread", None, None]
    assert [row[5] for row in rows] == [1.5, None, 0.0], "the log's own columns stay"


@pytest.mark.parametrize("keys", [[7, 8, None], [7.0, 8.0, None], ["7", "8", None]])
def test_keys_of_a_lookup_match_however_they_are_stored(tmp_path: Path, keys: list[Any]) -> None:
    pl.DataFrame({"product": [7, 8], "group": ["a", "b"]}).write_parquet(tmp_path / "p.parquet")
    text = PRODUCTS.replace("products.csv", "p.parquet")
    log = LOG.with_columns(product=pl.Series(keys))
    assert [row[4] for row in rows_of(Schema.parse(text, tmp_path), log=log)] == ["a", "b", None]


def test_a_lookup_may_have_several_files(tmp_path: Path) -> None:
    folder = tmp_path / "products"
    folder.mkdir()
    (folder / "a.csv").write_text("product,group\n7,bread\n")
    (folder / "b.csv").write_text("product,group\n8,milk\n")
    text = PRODUCTS.replace("products.csv", "products")
    rows = rows_of(Schema.parse(text, tmp_path), log=SALES)
    assert [row[4] for row in rows] == ["bread", "milk", None]
    (folder / "c.csv").write_text("product,group\n7,wine\n")
    message = message_of(lambda: open_sources(Schema.parse(text, tmp_path), {"log": SALES}))
    assert "\"product\": expected unique values, found '7' in more than one row" in message


def test_a_lookup_may_use_a_column_of_another(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product,brand\n7,x\n8,y\n")
    (tmp_path / "brands.csv").write_text("brand,group\ny,cheap\nx,dear\n")
    text = with_lookup("{path: products.csv, on: product}, {path: brands.csv, on: brand}")
    rows = rows_of(Schema.parse(text, tmp_path), log=SALES)
    assert [row[4] for row in rows] == ["dear", "cheap", None]


def test_a_repeated_key_in_a_lookup_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("product,group\n7,bread\n7,milk\n")
    message = message_of(lambda: open_sources(Schema.parse(PRODUCTS, tmp_path), {"log": SALES}))
    assert message == (
        f"{tmp_path}/products.csv, column \"product\": expected unique values, found '7' in more "
        "than one row. Keep one row per value."
    )


def test_a_missing_key_column_of_a_lookup_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_text("id,group\n7,bread\n")
    message = message_of(lambda: open_sources(Schema.parse(PRODUCTS, tmp_path), {"log": SALES}))
    assert message == (
        f'{tmp_path}/products.csv: the column "product" is missing (schema: lookup.on). '
        "It has: id, group. Correct the schema or the file."
    )
    (tmp_path / "products.csv").write_text("product,group\n7,bread\n")
    message = message_of(lambda: open_sources(Schema.parse(PRODUCTS, tmp_path), {"log": LOG}))
    assert message.startswith("frame 'log': the column \"product\" is missing (schema: lookup.on).")
