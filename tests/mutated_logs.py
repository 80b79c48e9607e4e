"""Checks `init` and `prepare` on logs and schemas with arbitrary bytes.

`SEEDS` are valid files; fuzzers change their bytes and pass them to `check`. A file may be rejected
by one of userbert's own errors. Any other error fails, and so does prepared data in which a row is
not accounted for.
"""

import gzip
import json
import re
import shutil
from collections import Counter
from io import BytesIO
from pathlib import Path

import polars as pl

from userbert.data.prepare.prepare import prepare
from userbert.errors import UserBertError
from userbert.infer.inference import propose_schema
from userbert.schema import Schema

_ROWS = [
    (f"u{row % 3}", f"2024-01-{row % 9 + 1:02}T{row:02}:10:00", ("view", "buy")[row % 2], row % 4)
    for row in range(16)
]
EVENTS = pl.DataFrame(
    [(*row, f"p{row[3]}", row[3] + 0.5) for row in _ROWS],
    schema=["user", "time", "action", "code", "product", "price"],
    orient="row",
)
_SCHEMA = """user: user
timezone: Europe/Berlin
sources:
  log:
    path: LOG
    time: {column: time, zone: local, unit: auto, resolution: instant}
    action: {column: action}
    lookup: [{path: products.csv, on: product}]
attributes:
  code: {column: code, max_values: 20, min_users: 1, share: true}
  genre: {column: genre}
  price: {column: price, bins: 4, min: 0}
  hour: {of: hour}
segments:
  long_term:
    words: {by: day, starts_at: "04:00"}
    window: {from: 90d, to: 7d}
    actions: [view, buy]
    attributes: [code, genre, price, hour]
    max_words: 128
  short_term: {words: {by: gap, minutes: 30}, window: 7d, actions: [buy], attributes: [code]}
profile:
  path: people.csv
  fields: {age: {column: age, bins: 3}, city: {column: city}}
duplicates: drop
fit_before: 2024-03-01
"""


def _parquet() -> bytes:
    file = BytesIO()
    EVENTS.with_columns(pl.col("time").str.to_datetime()).write_parquet(file)
    return file.getvalue()


_CSV = EVENTS.write_csv().encode()
SEEDS = {
    "log.csv": _CSV,
    "log.tsv": _CSV.replace(b",", b"\t"),
    "log.jsonl": "".join(json.dumps(row) + "\n" for row in EVENTS.rows(named=True)).encode(),
    "log.parquet": _parquet(),
    "log.csv.gz": gzip.compress(_CSV, mtime=0),
    "schema.yaml": _SCHEMA.replace("LOG", "log.csv").encode(),
    "people.csv": b"user,age,city\nu0,30,Ulm\nu1,40,\nu2,,Bonn\n",
    "products.csv": b"product,genre\np0,tea\np1,milk\np2,tea\n",
}

WORDS = (
    "", '"', '""', ",", ";", "\t", "|", "\r", "\r\n", "\n", "\n\n", "\x00", "\ufeff", "\ufffd",
    "é", "💥", "null", "NaN", "-inf", "1e999", "1,5", "0x1f", "-0", "99999999999999999999",
    "true", "{}", "[]", "[1]", '{"a": 1}', "0001-01-01", "9999-12-31T23:59:59", "2024-02-30",
    "2024-03-31T02:30:00", "24:00", "+14:00", "01.02.2024", "1704067200", "1704067200000",
    "1e18", "user", "time", "u0", "&a", "*a", "!!binary ", "<<: ", "? ", "- ", "# ", "~",
    "min: .nan", "of: action", "by: gap", "zone: UTC", "unit: ms", "resolution: day", "keep",
    "products.csv", "**", "..", "/dev/null",
)  # fmt: skip
"""Texts that often break readers; fuzzers insert them anywhere."""


def check(folder: Path, name: str, content: bytes) -> Counter[str]:
    """Runs `init` and `prepare` with `content` as the file `name`, in an empty folder.

    Returns how often they rejected and accepted it. Raises any error that is not userbert's own,
    and `AssertionError` for rows that are not accounted for.
    """
    log = name if name.startswith("log") else "log.csv"
    for file in {log, "people.csv", "products.csv"}:
        (folder / file).write_bytes(SEEDS[file])
    (folder / name).write_bytes(content)
    text = _SCHEMA.replace("LOG", log)
    outcomes: Counter[str] = Counter()
    try:
        schema = Schema.load(folder / name) if name == "schema.yaml" else Schema.parse(text, folder)
        outcomes[_prepare(schema, folder, "fail")] += 1
        outcomes[_prepare(schema, folder, "quarantine")] += 1
    except UserBertError as error:
        _check_message(error)
        outcomes["schema refused"] += 1
    if name != "schema.yaml":
        outcomes[_propose_and_prepare(folder, log)] += 1
    return outcomes


def _propose_and_prepare(folder: Path, log: str) -> str:
    try:
        text = propose_schema([folder / log], folder / "people.csv", folder)
    except UserBertError as error:
        _check_message(error)
        return "init refused"
    end = _prepare(Schema.parse(text, folder), folder, "quarantine")
    return f"init, then {end}"


def _prepare(schema: Schema, folder: Path, on_invalid: str) -> str:
    data = folder / "data"
    try:
        prepare(schema, data, on_invalid=on_invalid)  # type: ignore[arg-type]
    except UserBertError as error:
        _check_message(error)
        assert not data.exists(), "a rejected log left prepared data behind"
        return f"prepare {on_invalid} refused"
    else:
        _check_row_counts(data)
        return f"prepare {on_invalid} accepted"
    finally:
        shutil.rmtree(data, ignore_errors=True)
        hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert not hidden, f"partial output: {hidden}"


def _check_message(error: UserBertError) -> None:
    message = str(error)
    assert message.rstrip().endswith((".", "?")), f"an incomplete message: {message!r}"
    assert "polars" not in message, f"a message with internals: {message!r}"


def _check_row_counts(data: Path) -> None:
    accounts = json.loads((data / "summary.json").read_text())["rows"]
    rejected_rows = Counter[str]()
    if (data / "rejected.parquet").exists():
        rejected_rows.update(pl.read_parquet(data / "rejected.parquet")["file"].to_list())
    for file, account in accounts.items():
        outcomes = ("used", "outside_segments", "quarantined", "duplicates_dropped")
        assert account["read"] == sum(account[outcome] for outcome in outcomes), account
        assert account["quarantined"] == rejected_rows[file], account
        rows = _rows_of(Path(file))
        assert rows is None or account["read"] == rows, (account, rows)


def _rows_of(file: Path) -> int | None:
    """Counts the rows of a text file; None: counting lines does not give them."""
    content = file.read_bytes()
    if file.suffix == ".jsonl":
        return sum(bool(line.strip()) for line in content.split(b"\n"))
    if file.suffix not in {".csv", ".tsv"} or content.startswith(b"\n"):
        return None
    unquoted = re.sub(rb'(?<![^,\t\n])"(?:[^"]|"")*"(?![^,\t\r\n])', b"", content)
    if b'"' in unquoted or unquoted.startswith(b"\n"):
        return None
    return len(unquoted.removesuffix(b"\n").split(b"\n")) - 1
