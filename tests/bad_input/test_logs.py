"""Invalid logs, given to `init` and `prepare` on the command line: one table per kind."""

import gzip
import json
import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest

from command_line import Userbert

HEADER = "user,time,action,genre,price"
ROWS = [
    f"u{row % 7},2024-01-{row % 28 + 1:02}T{row % 24:02}:10:00,{'buy' if row % 3 else 'view'},"
    f"g{row % 5},{row % 9}.5"
    for row in range(60)
]
TEXT = "\n".join([HEADER, *ROWS]) + "\n"
CSV = TEXT.encode()
TABLE = pl.read_csv(CSV)
JSON = "".join(json.dumps(row) + "\n" for row in TABLE.rows(named=True)).encode()
SCHEMA = """
user: user
sources:
  log: {path: logs, time: {column: time}, action: {column: action}}
attributes:
  genre: {column: genre}
  price: {column: price, bins: 4, min: 0}
segments:
  long_term: {words: {by: day}, window: 90d, actions: [view, buy], attributes: [genre, price]}
"""
NOISE = random.Random(1).randbytes(3000)


def parquet(table: pl.DataFrame) -> bytes:
    file = BytesIO()
    table.write_parquet(file)
    return file.getvalue()


def edited(row: int, text: str) -> bytes:
    """Returns the log with `text` in place of a row; rows count from 1."""
    return "\n".join([HEADER, *ROWS[: row - 1], text, *ROWS[row:]]).encode() + b"\n"


def write(folder: Path, **files: bytes) -> None:
    (folder / "logs").mkdir()
    for name, content in files.items():
        (folder / "logs" / name).write_bytes(content)
    (folder / "mine.yaml").write_text(SCHEMA)


EMPTY = "expected a log, found an empty file. Remove it from the logs."
NO_TEXT = "expected a header and rows, found no text. Remove the file from the logs."
CUT = "expected complete gzip data, found data that is cut off or damaged. Copy the file again"
DAMAGED = "expected a complete Parquet file, found a damaged one. Write or copy it again."
NO_UTF8 = ", line 1: expected UTF-8 text, found the byte 0x"

UNREADABLE: dict[str, tuple[str, bytes, str]] = {
    "empty csv": ("log.csv", b"", f": {EMPTY}"),
    "empty tsv": ("log.tsv", b"", f": {EMPTY}"),
    "empty json": ("log.jsonl", b"", f": {EMPTY}"),
    "empty ndjson": ("log.ndjson", b"", f": {EMPTY}"),
    "empty parquet": ("log.parquet", b"", f": {EMPTY}"),
    "empty gzip": ("log.csv.gz", b"", f": {EMPTY}"),
    "gzip of nothing": ("log.csv.gz", gzip.compress(b""), f": {NO_TEXT}"),
    "blank lines csv": ("log.csv", b"\n\n\n", f": {NO_TEXT}"),
    "blank lines json": ("log.jsonl", b"\n\n", ": expected one JSON object per line, found none."),
    "header csv": ("log.csv", HEADER.encode(), ": expected rows, found none."),
    "header gzip": ("log.csv.gz", gzip.compress(HEADER.encode()), ": expected rows, found none."),
    "header parquet": ("log.parquet", parquet(TABLE.clear()), ": expected rows, found none."),
    "noise csv": ("log.csv", NOISE, NO_UTF8),
    "noise tsv": ("log.tsv", NOISE, NO_UTF8),
    "noise json": ("log.jsonl", NOISE, NO_UTF8),
    "noise ndjson": ("log.ndjson", NOISE, NO_UTF8),
    "noise parquet": ("log.parquet", NOISE, f": {DAMAGED}"),
    "noise csv gzip": ("log.csv.gz", NOISE, f": {CUT}"),
    "noise json gzip": ("log.jsonl.gz", NOISE, f": {CUT}"),
    "noise csv zstd": ("log.csv.zst", NOISE, ": expected complete zstd data"),
    "noise json zstd": ("log.jsonl.zst", NOISE, ": expected complete zstd data"),
    "zeros": ("log.csv", bytes(3000), ", line 1: expected UTF-8 text, found zero bytes."),
    "another ending": ("log.xlsx", NOISE, ": expected a name that ends in .csv"),
    "no ending": ("log", CSV, ": expected a name that ends in .csv"),
    "truncated parquet": ("log.parquet", parquet(TABLE)[:-40], f": {DAMAGED}"),
    "truncated gzip": ("log.csv.gz", gzip.compress(CSV)[:-40], f": {CUT}"),
    "truncated json gzip": ("log.jsonl.gz", gzip.compress(JSON)[:200], f": {CUT}"),
    "truncated csv": (
        "log.csv", CSV[:-15],
        ", last line: expected 5 fields and a line break, found 2 and no line break: the file is "
        "cut off. Copy it again",
    ),
    "truncated in quotes": ("log.csv", CSV + b'u1,"2024', ", line 62: expected quotes in pairs"),
    "truncated json": (
        "log.jsonl", JSON[:-9],
        ", line 60: expected one JSON object per line (.jsonl), found ",
    ),
    "broken quote": ("log.csv", edited(18, 'u1,2024,buy,"g1,1'), ", line 19: expected quotes"),
    "stray quote": ("log.csv", edited(18, 'u1,2024,buy,g"1,1'), ", line 19: expected quotes"),
    "quote inside": ("log.csv", edited(18, 'u1,2024,buy,"g"1",1'), ", line 19: expected quotes"),
    "extra field": (
        "log.csv", edited(18, "u1,2024-01-01,buy,g1,1,5"),
        ", line 19: expected 5 fields as in the header, found 6. Put quotes around a field",
    ),
    "latin-1": (
        "log.csv", edited(18, "u1,2024-01-01,buy,k\xe4se,1").decode().encode("latin1"),
        ", line 19: expected UTF-8 text, found the byte 0xe4. If it is text in another encoding, "
        "convert it: iconv -f LATIN1",
    ),
    "latin-1 gzip": (
        "log.csv.gz", gzip.compress(TEXT.replace("genre", "g\xe4nre").encode("latin1")),
        ", line 1: expected UTF-8 text, found the byte 0xe4.",
    ),
    "latin-1 json": (
        "log.jsonl", JSON.replace(b"g3", b"g\xe4", 1),
        ", line 4: expected UTF-8 text, found the byte 0xe4.",
    ),
    "utf-16": (
        "log.csv", TEXT.encode("utf-16"),
        ", line 1: expected UTF-8 text, found UTF-16. Convert it: iconv -f UTF-16 -t UTF-8",
    ),
    "utf-16 json": ("log.jsonl", JSON.decode().encode("utf-16"), "found UTF-16. Convert it"),
    "utf-16 without a mark": (
        "log.csv", TEXT.encode("utf-16-le"),
        ", line 1: expected UTF-8 text, found zero bytes.",
    ),
    "mark json": (
        "log.jsonl", b"\xef\xbb\xbf" + JSON,
        ", line 1: expected a JSON object, found a byte order mark. Remove it: sed",
    ),
    "returns": (
        "log.csv", CSV.replace(b"\n", b"\r"),
        ", line 1: expected lines that end in \\n or \\r\\n, found a lone \\r. Convert it: tr",
    ),
    "column twice": (
        "log.csv", CSV.replace(b"genre", b"action", 1),
        ", line 1: the column 'action' appears twice. Rename one of them.",
    ),
    "parquet as csv": ("log.csv", parquet(TABLE), ", line 1: expected UTF-8 text, found "),
    "csv as parquet": ("log.parquet", CSV, f": {DAMAGED}"),
    "csv as json": (
        "log.jsonl", CSV,
        ", line 1: expected one JSON object per line (.jsonl), found "
        "'user,time,action,genre,price'.",
    ),
    "json array": (
        "log.jsonl", b"[" + JSON, ", line 1: expected one JSON object per line (.jsonl)",
    ),
    "json broken": (
        "log.jsonl", JSON.replace(b'"g3"', b'"g3', 1),
        ", line 4: expected one JSON object per line (.jsonl), found ",
    ),
    "json nan": (
        "log.jsonl", JSON.replace(b"3.5}", b"NaN}", 1),
        ", line 4: expected JSON, which has no NaN. Write null, or a number.",
    ),
    "json kinds": (
        "log.jsonl", JSON.replace(b"3.5}", b"true}", 1),
        ', line 4: column "price": expected a number as in line 1, found true or false. Write all '
        "values of the column as strings.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_file_is_rejected(userbert: Userbert, tmp_path: Path, case: str) -> None:
    name, content, expected = UNREADABLE[case]
    write(tmp_path, **{name: content})
    for refused in (userbert("init", "logs"), userbert("prepare", "mine.yaml", "-o", "data")):
        assert refused.refusal.startswith(f"logs/{name}")
        assert expected in refused.refusal


A_TIME = 'column "time": expected a time between 1900 and 2200 such as 2017-09-01T04:00:00'
A_PRICE = 'column "price": expected a number ≥ 0'
UNUSABLE = {
    "no user": (",2024-01-01,buy,g1,1", 'column "user": expected a user id, found nothing'),
    "no time": ("u1,,buy,g1,1", f"{A_TIME}, found nothing"),
    "no action": ("u1,2024-01-01,,g1,1", 'column "action": expected an action type, found nothing'),
    "a blank line": ("", 'column "user": expected a user id, found nothing'),
    "a short row": ("u1,2024-01-01", 'column "action": expected an action type, found nothing'),
    "a word as time": ("u1,yesterday,buy,g1,1", f'{A_TIME}, found "yesterday"'),
    "no such day": ("u1,2024-02-30,buy,g1,1", f'{A_TIME}, found "2024-02-30"'),
    "an ambiguous day": ("u1,02/03/2024,buy,g1,1", f'{A_TIME}, found "02/03/2024"'),
    "year 1": ("u1,0001-01-01T00:00:00,buy,g1,1", f'{A_TIME}, found "0001-01-01T00:00:00"'),
    "year 9999": ("u1,9999-12-31,buy,g1,1", f'{A_TIME}, found "9999-12-31"'),
    "year 12345": ("u1,12345-12-31,buy,g1,1", f'{A_TIME}, found "12345-12-31"'),
    "below the least": ("u1,2024-01-01,buy,g1,-1", f'{A_PRICE}, found "-1"'),
    "infinite": ("u1,2024-01-01,buy,g1,inf", f'{A_PRICE}, found "inf"'),
    "beyond all": ("u1,2024-01-01,buy,g1,1e400", f'{A_PRICE}, found "1e400"'),
    "a word as number": ("u1,2024-01-01,buy,g1,free", f'{A_PRICE}, found "free"'),
    "a decimal comma": ('u1,2024-01-01,buy,g1,"1,5"', f'{A_PRICE}, found "1,5"'),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_invalid_row_is_reported(userbert: Userbert, tmp_path: Path, case: str) -> None:
    row, reason = UNUSABLE[case]
    write(tmp_path, **{"log.csv": edited(18, row)})
    assert userbert("prepare", "mine.yaml", "-o", "data").refusal == (
        f"logs/log.csv, row 18, {reason}. Fix the row, or run with --on-invalid quarantine."
    )
    done = userbert("prepare", "mine.yaml", "-o", "data", "--on-invalid", "quarantine")
    assert done.code == 0, done.error
    assert "data/rejected.parquet holds them with the reasons" in done.error
    assert pl.read_parquet("data/rejected.parquet").rows() == [("logs/log.csv", 18, reason)]
    assert accounts() == {"logs/log.csv": {"read": 60, "used": 59, "quarantined": 1}}


def accounts() -> dict[str, dict[str, int]]:
    """Returns the counts of rows by outcome for each file, without zero counts."""
    rows = json.loads(Path("data/summary.json").read_text())["rows"]
    for account in rows.values():
        del account["outside_by_action"]
        assert account["read"] == sum(account.values()) - account["read"]
    return {
        file: {kind: count for kind, count in account.items() if count}
        for file, account in rows.items()
    }


def test_garbage_in_a_tenth_of_the_rows_is_reported_or_quarantined(
    userbert: Userbert, tmp_path: Path
) -> None:
    letters = random.Random(3)
    rows = list(ROWS)
    for row in range(4, 60, 10):
        rows[row] = "".join(letters.choices("abcdefg012 -:.;", k=30))
    write(tmp_path, **{"log.csv": "\n".join([HEADER, *rows]).encode() + b"\n"})
    for schema in ("mine.yaml", "schema.yaml"):
        if schema == "schema.yaml":
            assert userbert("init", "logs").code == 0
        assert "row 5, column" in userbert("prepare", schema, "-o", "data").refusal
        done = userbert("prepare", schema, "-o", "data", "--on-invalid", "quarantine")
        assert done.code == 0, done.error
        rejected = pl.read_parquet("data/rejected.parquet")
        assert rejected["row"].to_list() == [5, 15, 25, 35, 45, 55]
        assert accounts() == {"logs/log.csv": {"read": 60, "used": 54, "quarantined": 6}}
        Path("data").rename(f"data of {schema}")


Change = Callable[[pl.DataFrame], pl.DataFrame]
OTHER_COLUMNS: dict[str, tuple[Change, str]] = {
    "missing user": (
        lambda log: log.rename({"user": "usr"}),
        ": the column \"user\" is missing (schema: user); did you mean 'usr'? It has: usr, time,",
    ),
    "missing time": (
        lambda log: log.drop("time"),
        ': the column "time" is missing (schema: sources.log.time.column). It has: user, action,',
    ),
    "missing attribute": (
        lambda log: log.drop("genre"),
        ': the column "genre" is missing (schema: attributes.genre.column). It has: user, time,',
    ),
    "a list": (
        lambda log: log.with_columns(pl.concat_list("genre")),
        ', column "genre": expected one text or number per row, found the type List(String).',
    ),
    "times without a value": (
        lambda log: log.with_columns(time=pl.lit(None)),
        ', column "time": expected times, found no values. Use another column (schema: ',
    ),
    "true and false as times": (
        lambda log: log.with_columns(time=pl.lit(value=True)),
        ', column "time": expected times, found the type Boolean. Use another column (schema: ',
    ),
    "no column": (lambda log: log.select(), ': the column "user" is missing (schema: user). It'),
    "many columns": (
        lambda log: log.drop("user").with_columns(pl.lit(1).alias(f"c{i}") for i in range(3000)),
        "c25 and 2,974 more. Correct the schema or the file.",
    ),
}


@pytest.mark.parametrize("case", OTHER_COLUMNS)
def test_columns_that_do_not_match_the_schema_are_rejected(
    userbert: Userbert, tmp_path: Path, case: str
) -> None:
    change, expected = OTHER_COLUMNS[case]
    write(tmp_path, **{"log.parquet": parquet(change(TABLE))})
    refusal = userbert("prepare", "mine.yaml", "-o", "data").refusal
    assert refusal.startswith("logs/log.parquet")
    assert expected in refusal


CHANGES: dict[str, tuple[Change, str | None]] = {
    "users": (lambda log: log.with_columns(user=pl.col("user").str.slice(1).cast(pl.Int64)), None),
    "times": (lambda log: log.with_columns(pl.col("time").str.to_datetime()), None),
    "times in seconds": (
        lambda log: log.with_columns(pl.col("time").str.to_datetime().dt.epoch("s")), None,
    ),
    "numbers as text": (lambda log: log.with_columns(pl.col("price").cast(pl.String)), None),
    "a column without a value": (lambda log: log.with_columns(genre=None), None),
    "a column that is missing": (lambda log: log.drop("genre"), None),
    "words": (
        lambda log: log.with_columns(price=pl.lit("free")),
        f'logs/b.parquet, row 1, {A_PRICE}, found "free". Fix the row, or run with',
    ),
    "records": (
        lambda log: log.with_columns(pl.struct("genre")),
        'logs/b.parquet, column "genre": expected one text or number per row, found the type St',
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_types_that_change_between_files_are_accepted_or_rejected(
    userbert: Userbert, tmp_path: Path, case: str
) -> None:
    change, expected = CHANGES[case]
    write(tmp_path, **{"a.parquet": parquet(TABLE), "b.parquet": parquet(change(TABLE))})
    done = userbert("prepare", "mine.yaml", "-o", "data")
    if expected is None:
        assert done.code == 0, done.error
        assert [account["used"] for account in accounts().values()] == [60, 60]
    else:
        assert expected in done.refusal


def test_log_without_a_valid_row_is_rejected(userbert: Userbert, tmp_path: Path) -> None:
    write(tmp_path, **{"log.csv": CSV.replace(b".5\n", b".5 EUR\n")})
    done = userbert("prepare", "mine.yaml", "-o", "data", "--on-invalid", "quarantine")
    assert done.refusal == (
        f"logs/log.csv: none of the 60 rows can be used; the first is logs/log.csv, row 1, "
        f'{A_PRICE}, found "0.5 EUR". Correct the schema or the logs.'
    )


FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "without logs": ({".log.csv": CSV}, "logs: expected a folder with logs (.csv, .tsv, "),
    "with another file": ({"a.csv": CSV, "read.me": b"!"}, "logs/read.me: expected a name that"),
    "with one damaged": (
        {"a.csv": CSV, "b.csv": CSV + b"u1,2024-01-01,buy,g1,1,1\n", "c.csv": CSV},
        "logs/b.csv, line 62: expected 5 fields",
    ),
    "with one empty": ({"a.csv": CSV, "b.csv": b""}, f"logs/b.csv: {EMPTY}"),
    "with one that was cut off": (
        {"a.csv.gz": gzip.compress(CSV), "b.csv.gz": gzip.compress(CSV)[:-1]},
        f"logs/b.csv.gz: {CUT}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_folder_of_unusable_logs_is_rejected(userbert: Userbert, tmp_path: Path, case: str) -> None:
    files, expected = FOLDERS[case]
    write(tmp_path, **files)
    for refused in (userbert("init", "logs"), userbert("prepare", "mine.yaml", "-o", "data")):
        assert refused.refusal.startswith(expected)


def test_missing_log_is_reported(userbert: Userbert, tmp_path: Path) -> None:
    write(tmp_path, **{"log.csv": CSV})
    (tmp_path / "logs").rename(tmp_path / "log")
    for refused in (userbert("init", "logs"), userbert("prepare", "mine.yaml", "-o", "data")):
        assert refused.refusal == (
            "logs does not exist, and as a pattern it matches no file; did you mean 'log'? Check "
            f"the path; relative paths start at {tmp_path}."
        )
    name = "x" * 5000 + ".csv"
    assert "cannot be read: File name too long. Check the path." in userbert("init", name).refusal


SMALL = {
    "one row": ROWS[:1],
    "one user": [f"u1,{row.split(',', 1)[1]}" for row in ROWS],
    "one event of all": [f"u{row},2024-01-01T10:00:00,view,g1,1.5" for row in range(60)],
    "one event each": [f"u{i},{row.split(',', 1)[1]}" for i, row in enumerate(ROWS)],
    "dates alone": [row.replace(row[row.index("T") : row.index("T") + 9], "") for row in ROWS],
}


@pytest.mark.parametrize("case", SMALL)
def test_small_log_is_accepted(userbert: Userbert, tmp_path: Path, case: str) -> None:
    write(tmp_path, **{"log.csv": "\n".join([HEADER, *SMALL[case]]).encode()})
    assert userbert("init", "logs").code == 0
    for schema in ("mine.yaml", "schema.yaml"):
        done = userbert("prepare", schema, "-o", "data")
        assert done.code == 0, done.error
        assert accounts() == {"logs/log.csv": dict.fromkeys(["read", "used"], len(SMALL[case]))}
        Path("data").rename(f"data of {schema}")


def test_time_in_the_future_gives_a_warning(userbert: Userbert, tmp_path: Path) -> None:
    write(tmp_path, **{"log.csv": edited(18, "u1,2150-01-01T10:00:00,buy,g1,1")})
    done = userbert("prepare", "mine.yaml", "-o", "data")
    assert done.code == 0
    assert "warning: the last event is in the future, at 2150-01-01 10:00" in done.error
