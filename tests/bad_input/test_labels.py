"""Invalid labels: each file is rejected with one message, before training starts."""

import json
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from bad_input.conftest import CUTOFF, Shop, userbert

USERS = [f"u{number}" for number in range(60)]
ANSWERS = [number % 2 for number in range(60)]
AT = datetime.fromisoformat(CUTOFF)

Columns = dict[str, Any]


def columns(**changed: Any) -> Columns:
    """Returns valid labels with changed columns; short lists are completed with valid values."""
    valid: Columns = {"user_id": USERS, "label": ANSWERS, "cutoff": [AT] * 60}
    for name, values in changed.items():
        if isinstance(values, list):
            changed[name] = values + valid[name][len(values) :]
    return {**valid, **changed}


INVALID: dict[str, tuple[Columns, str]] = {
    "unknown": (columns(user_id=["x", "y"]), "2 of 60 users are not in data, the first in row 1"),
    "all unknown": (columns(user_id=[f"0{u}" for u in USERS]), "Write ids as the logs do"),
    "lists of users": (columns(user_id=[[u] for u in USERS]), "column user_id: expected one id"),
    "dates as users": (columns(user_id=[AT] * 60), "column user_id: expected one id"),
    "bytes as users": (columns(user_id=[b"\xff"] * 60), "column user_id: expected one id"),
    "users of floats": (columns(user_id=[0.5] * 60), "such as u"),
    "twice": (columns(user_id=["u0", "u0", "u1", "u1"]), "u0 .* in the rows 1, 2 .2 more"),
    "NaN": (columns(label=[0.0, math.nan]), "row 2, .* label: expected a finite number, found nan"),
    "infinite": (columns(label=[1.5, 2.5, math.inf]), "row 3, column label: .* found inf"),
    "huge": (columns(label=[1e300, 0.5]), "row 1, column label: expected an absolute value below"),
    "one quantity": (columns(label=[0.25] * 60), "all 60 labels are 0.25"),
    "one class": (columns(label=["a"] * 60), "all 60 labels are a"),
    "dates": (columns(label=[date(2024, 1, 1)] * 60), "expected numbers, text, .* found Date"),
    "records": (columns(label=[{"a": 1}] * 60), "expected numbers, text, .* found Struct"),
    "bytes": (columns(label=[b"\xff"] * 60), "expected numbers, text, .* found Binary"),
    "nested": (columns(label=[[["a"]]] * 60), "expected numbers, text, .* found List"),
    "gaps": (columns(label=[["a"], [None]] + [["a"]] * 58), "row 2, .* a list without nulls"),
    "empty lists": (
        columns(label=pl.Series([[]] * 60, dtype=pl.List(pl.String))), "all lists are empty",
    ),
    "durations": (columns(cutoff=[timedelta(1)] * 60), "expected dates or times .* Duration"),
    "times of day": (columns(cutoff=[time(4)] * 60), "expected dates or times .* Time"),
    "numbers as times": (columns(cutoff=[1] * 60), "expected dates or times .* Int64"),
    "no time": (columns(cutoff=[AT, None]), "row 2, column cutoff: expected a value"),
    "before all": (columns(cutoff=[datetime(2020, 1, 1)]), "row 1: .* not after the first event"),
    "after all": (columns(cutoff=[AT, datetime(2031, 1, 1)]), "row 2: .* after the last event"),
    "year 9999": (columns(cutoff=["9999-12-31"] * 60), "days after the last event"),
    "beyond 9999": (columns(cutoff=["9999-12-31T23:59-12:00"] * 60), "days after the last event"),
    "before the bound": (columns(cutoff=[datetime(2024, 2, 1)] * 60), "may have seen the answers"),
    "no columns": ({}, "expected a column user_id, found none"),
    "no rows": ({"user_id": [], "label": []}, "found no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_labels_are_rejected(shop: Shop, tmp_path: Path, name: str) -> None:
    content, expected = INVALID[name]
    file = tmp_path / "mine.parquet"
    pl.DataFrame(content, strict=False).write_parquet(file)
    message = shop.refuses("finetune", "model", "data", "--labels", file, "-o", "new")
    assert matches(expected, message), message


def matches(pattern: str, message: str) -> bool:
    return re.search(pattern, message) is not None


TEXTS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.csv", b"", "expected a table, found an empty file"),
    "empty parquet": ("a.parquet", b"", "expected a table, found an empty file"),
    "header alone": ("a.csv", b"user_id,label\n", "found no rows"),
    "bytes": ("a.csv", bytes(range(256)), "expected UTF-8 text, found zero bytes"),
    "no parquet": ("a.parquet", b"user_id,label\n", "expected a complete Parquet file"),
    "workbook": ("a.xlsx", b"PK", "a file whose name ends in .csv"),
    "no ending": ("a", b"user_id,label\n", "a file whose name ends in .csv"),
    "NaN as text": ("a.csv", b"user_id,label\nu1,nan\nu2,1\n", "row 1, column label: .* found nan"),
    "no label": ("a.csv", b"user_id,label\nu1,\nu2,1\n", "row 1, column label: expected a value"),
    "other dates": (
        "a.csv", b"user_id,label,cutoff\nu1,0,15/03/2024\nu2,1,2024-03-15\n",
        "column cutoff: expected a date or time such as .* found '15/03/2024'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_invalid_label_files_are_rejected(shop: Shop, tmp_path: Path, name: str) -> None:
    file, content, expected = TEXTS[name]
    (tmp_path / file).write_bytes(content)
    message = shop.refuses("finetune", "model", "data", "--labels", tmp_path / file, "-o", "new")
    assert matches(expected, message), message


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("absent.parquet", "absent.parquet cannot be read"),
        ("data", "found a folder .it is prepared data"),
        ("model", "found a folder .it is a model"),
        ("embeddings.parquet", "expected a column label, found user_id, cutoff, embedding"),
    ],
)
def test_files_of_another_kind_are_rejected(shop: Shop, labels: str, expected: str) -> None:
    message = shop.refuses("finetune", "model", "data", "--labels", labels, "-o", "new")
    assert matches(expected, message), message


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites labels with changed metadata."""
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"userbert"])
    change(about)
    pq.write_table(table.replace_schema_metadata({"userbert": json.dumps(about)}), file)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.update(hide=["kids"]),
        lambda about: about.update(kind="regression"),
        lambda about: about.update(kind="quantity"),
        lambda about: about.update(classes=["a"]),
        lambda about: about.update(more=1),
        lambda about: about.pop("question"),
    ],
    ids=["hide", "kind", "no kind", "classes", "more", "less"],
)
def test_labels_with_changed_metadata_are_rejected(
    shop: Shop, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    file = tmp_path / "return.parquet"
    file.write_bytes((shop.folder / "return.parquet").read_bytes())
    rewrite(file, change)
    message = shop.refuses("finetune", "model", "data", "--labels", file, "-o", "new")
    assert "has changed since it was written" in message


def test_labels_with_removed_rows_are_rejected(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "return.parquet"
    table = pq.read_table(shop.folder / "return.parquet")
    pq.write_table(table.slice(1), file)
    message = shop.refuses("finetune", "model", "data", "--labels", file, "-o", "new")
    assert "save it without its metadata" in message
    pq.write_table(table.slice(1).replace_schema_metadata(), file)
    done = userbert(shop.folder, "finetune", "model", "data", "--labels", file, "-o",
                    tmp_path / "task", "--epochs", "1")  # fmt: skip
    assert done.code == 0, done.stderr


def test_column_name_that_is_not_utf8_is_rejected(shop: Shop, tmp_path: Path) -> None:
    content = (shop.folder / "return.parquet").read_bytes()
    file = tmp_path / "return.parquet"
    for name in (b"user_id", b"cutoff", b"label"):
        file.write_bytes(content.replace(name, b"\xff" + name[1:]))
        for command in (["finetune", "model", "data", "-o", "new", "--labels"], ["inspect"]):
            message = shop.refuses(*command, file)
            assert re.search("found a damaged one|has changed since it was written", message)
    file.write_bytes(content.replace(b"label", b"lebal"))
    assert "has changed since it was written" in shop.refuses("inspect", file)


def test_labels_without_a_checksum_are_accepted(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "return.parquet"
    file.write_bytes((shop.folder / "return.parquet").read_bytes())
    rewrite(file, lambda about: about.pop("checksum"))
    done = userbert(shop.folder, "finetune", "model", "data", "--labels", file, "-o",
                    tmp_path / "task", "--epochs", "1")  # fmt: skip
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["return", "--horizon", "7d", "--cutoff", "yesterday"], "--cutoff: .* found 'yesterday'"),
        (["return", "--horizon", "7d", "--cutoff", "2020-01-01"], "--cutoff, .* first event"),
        (["return", "--horizon", "7d", "--cutoff", "2031-01-01"], "--cutoff, .* last event"),
        (["return", "--horizon", "7d"], "answer is not known yet"),
        (["return", "--horizon", "soon"], "horizon: expected a duration such as 90d"),
        (["return", "--horizon", "0d"], "horizon: expected a duration such as 90d"),
        (["next", "--attribute", "categry"], "Did you mean 'category'"),
        (["next", "--attribute", "price"], "Choose one of: action, category, hour"),
        (["attribute", "--field", "kid", "--positive", "yes"], "Did you mean 'kids'"),
        (["attribute", "--field", "kids", "--positive", "maybe"], "Choose one of: no, yes"),
        (["attribute", "--field", "kids", "--positive", "yes", "--hide", "x"], "no field 'x'"),
        (["response", "--users", "absent.csv"], "absent.csv cannot be read"),
        (["response", "--users", "data"], "found a folder"),
        (["response", "--users", "profiles.parquet"], "all 60 labels are 1"),
        (["return", "--horizon", "7d", "--at", "absent.csv"], "absent.csv cannot be read"),
    ],
)
def test_invalid_label_options_are_rejected(
    shop: Shop, arguments: list[str], expected: str
) -> None:
    verb, *rest = arguments
    message = shop.refuses("label", verb, "data", *rest, "-o", "new.parquet")
    assert matches(expected, message), message
