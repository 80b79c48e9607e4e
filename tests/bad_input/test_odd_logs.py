"""Unusual but valid logs: the proposed schema works unchanged, and no row is lost."""

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from command_line import Userbert

COLUMNS = ["user_id", "timestamp", "event_type", "category", "price"]
Row = tuple[int, datetime, str, str, float]
Files = dict[str, bytes]


def _rows() -> list[Row]:
    chance = random.Random(7)
    return [
        (
            chance.randrange(20),
            datetime(2024, 1, 1) + timedelta(minutes=chance.randrange(60 * 24 * 60)),
            chance.choice(["view", "buy", "cart"]),
            chance.choice(["tea", "coffee", "cocoa"]),
            chance.randrange(1, 500) / 4,
        )
        for _ in range(300)
    ]


ROWS = _rows()


def text(
    row: Callable[..., tuple[Any, ...]], columns: list[str] = COLUMNS, separator: str = ","
) -> bytes:
    """Returns a CSV file with `row(...)` for each row."""
    lines = [columns, *(map(str, row(*values)) for values in ROWS)]
    return "".join(separator.join(line) + "\n" for line in lines).encode()


def lines(row: Callable[..., dict[str, Any]]) -> bytes:
    """Returns a JSON Lines file with `row(...)` for each row."""
    return "".join(json.dumps(row(*values)) + "\n" for values in ROWS).encode()


def table(row: Callable[..., tuple[Any, ...]], columns: list[str]) -> bytes:
    """Returns a Parquet file with `row(...)` for each row."""
    file = BytesIO()
    rows = [row(*values) for values in ROWS]
    pl.DataFrame(rows, columns, orient="row", infer_schema_length=None).write_parquet(file)
    return file.getvalue()


def seconds(time: datetime) -> int:
    return int((time - datetime(1970, 1, 1)).total_seconds())


def a_file_a_day() -> Files:
    """Returns one file per day; one of them has an extra column."""
    days: dict[str, list[Row]] = {}
    for row in sorted(ROWS, key=lambda row: row[1]):
        days.setdefault(f"logs/{row[1]:%Y-%m-%d}.csv", []).append(row)
    files = {}
    for number, (name, rows) in enumerate(days.items()):
        extra = ["coupon"] if number == 3 else []
        records = [[*map(str, row), *("c1" for _ in extra)] for row in rows]
        files[name] = "\n".join(map(",".join, [COLUMNS + extra, *records])).encode()
    return files


NAMES = [
    "user id", "Zeit: größe", "'q'", "c.d", "#g", "h: i", "time stamp", "- j", "?", "{k}", "*",
    "^x$", "null", "true", "1", "  pad ", '"a ""b"""', "%", "@at", "!t", "&a", "[b]",
]  # fmt: skip


def named(user: int, time: datetime, action: str, genre: str, price: float) -> tuple[Any, ...]:
    columns = [f"{genre}{(user + number) % 5}" for number, _ in enumerate(NAMES)]
    columns[0], columns[6], columns[14] = f"u{user}", str(time), str(price)
    return tuple(columns)


ODD: dict[str, Callable[[], Files]] = {
    "semicolons, decimal commas and German dates": lambda: {
        "log.csv": text(
            lambda u, t, a, g, p: (u, f"{t:%d.%m.%Y %H:%M}", a, g, str(p).replace(".", ",")),
            separator=";",
        )
    },
    "a bar between columns": lambda: {"log.csv": text(lambda *row: row, separator="|")},
    "tabs and a byte order mark": lambda: {
        "log.tsv": b"\xef\xbb\xbf" + text(lambda *row: row, separator="\t")
    },
    "CRLF": lambda: {"log.csv": text(lambda *row: row).replace(b"\n", b"\r\n")},
    "lines inside quotes": lambda: {
        "log.csv": text(lambda u, t, a, g, p: (u, t, a, f'"{g},\n""{g}"""', p))
    },
    "nested objects and lists": lambda: {
        "log.jsonl": lines(
            lambda u, t, a, g, p: {
                "user": {"id": u}, "user_id": f"u{u}", "ts": t.isoformat(), "event": a,
                "items": [{"sku": g, "price": p}], "tags": [a, g], "category": g,
            }
        )
    },
    "milliseconds as text": lambda: {
        "log.jsonl": lines(
            lambda u, t, a, g, p: {"uid": u, "ts": str(seconds(t) * 1000), "action": a, "cat": g}
        )
    },
    "seconds with a fraction": lambda: {
        "log.csv": text(lambda u, t, a, g, p: (u, f"{seconds(t) + 0.25:.6f}", a, g, p))
    },
    "ids with leading zeros": lambda: {
        "log.csv": text(lambda u, t, a, g, p: (f"{u:06}", t, a, f"{len(g):04}", p))
    },
    "names of all kinds": lambda: {"log.csv": text(named, NAMES)},
    "a file a day": a_file_a_day,
    "sixty columns": lambda: {
        "log.csv": text(
            lambda u, t, a, g, p: (u, t, *(int(p * 4 + i) % (3 + i) for i in range(60))),
            ["user_id", "timestamp", *(f"f{i}" for i in range(60))],
        )
    },
    "true and false": lambda: {
        "log.parquet": table(
            lambda u, t, a, g, p: (u, t, a == "buy", None if p < 50 else p < 80),
            ["user_id", "timestamp", "is_buy", "maybe"],
        )
    },
    "a column without a value": lambda: {
        "log.csv": text(lambda u, t, a, g, p: (u, t, a, g, "")),
    },
    "a column of the type null": lambda: {
        "log.parquet": table(lambda u, t, a, g, p: (u, t, a, g, None), COLUMNS),
    },
    "the clock in a column of its own": lambda: {
        "log.csv": text(
            lambda u, t, a, g, p: (u, t.date(), t.time(), a, g),
            ["user_id", "date", "time", "event_type", "category"],
        )
    },
    "midnights": lambda: {
        "log.csv": text(lambda u, t, a, g, p: (u, f"{t.date()} 00:00:00", a, g, p))
    },
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_unusual_log_is_prepared_as_proposed(userbert: Userbert, tmp_path: Path, case: str) -> None:
    files = ODD[case]()
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    done = userbert("init", "logs" if "logs" in next(iter(files)) else next(iter(files)))
    assert done.code == 0, done.error
    done = userbert("prepare", "schema.yaml", "-o", "data")
    assert done.code == 0, done.error
    rows = json.loads(Path("data/summary.json").read_text())["rows"]
    assert set(rows) == set(files)
    assert sum(account["read"] for account in rows.values()) == len(ROWS)
    assert sum(account["used"] for account in rows.values()) == len(ROWS)
    users = json.loads(Path("data/summary.json").read_text())["users"]
    assert users == len({row[0] for row in ROWS})
