"""Generates three awkward logs: a learning platform's, an app's and a bank's.

Out: files in a folder. Topics and amounts depend on a hidden group of the user, so that there is
something to learn. The logs are awkward because of their file formats.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

_START = datetime(2023, 9, 1)
"""Time of the first possible event."""
_DAYS = 200
"""Number of days of a log."""


@dataclass(frozen=True)
class RawLog:
    """Paths of a log's files, as arguments of `userbert init`."""

    events: tuple[Path, ...]
    profiles: Path | None = None


def _behavior(users: int, topics: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Returns events, one row per action, and users with the group that their tastes follow.

    There are `users` users, and events about `topics` topics; `seed` draws them.
    """
    generator = np.random.default_rng(seed)
    group = generator.integers(0, 4, users)
    tastes = generator.dirichlet(np.full(topics, 0.1), 4)
    visits = generator.poisson(generator.gamma(1.2, 8, users)) + 1
    # Each user has a last day, so that some do not return.
    last_second = generator.beta(2, 1, users) * _DAYS * 86_400
    visitor = np.repeat(np.arange(users), visits)
    visit = np.repeat(np.arange(len(visitor)), generator.integers(1, 9, len(visitor)))
    user = visitor[visit]
    start = (generator.uniform(0, 1, len(visitor)) * last_second[visitor]).astype(np.int64)
    topic_index = (tastes[group[user]].cumsum(axis=1) < generator.random((len(user), 1))).sum(
        axis=1
    )
    events = pl.DataFrame(
        {
            "user": user,
            "visit": visit,
            "second": start[visit] + generator.integers(0, 1200, len(user)),
            "kind": generator.choice(4, len(user), p=[0.6, 0.25, 0.1, 0.05]),
            "topic": np.minimum(topic_index, topics - 1),
            "amount": np.round(generator.gamma(2, 10 + 5 * group[user]), 2),
        }
    ).sort("second")
    people = pl.DataFrame({"user": np.arange(users), "group": group})
    return events.with_columns(
        time=pl.lit(_START) + pl.duration(seconds="second"),
        steps=pl.len().over("visit"),
    ), people  # fmt: skip


def learning_platform(folder: Path, seed: int = 0) -> RawLog:
    """Writes a CSV file per month with `;`, dates with dots, decimal commas and umlauts.

    The profiles hold an outcome, and totals at the time of the dump.
    """
    events, people = _behavior(3000, 150, seed)
    kinds = pl.Series(["Seite", "Übung", "Forum", "Prüfung"])
    months = events.with_columns(month=pl.col("time").dt.strftime("%Y-%m"))
    for (month,), rows in months.group_by("month"):
        table = rows.sort("time").select(
            pl.format("s{}", pl.col("user").cast(pl.String).str.zfill(6)).alias("Student ID"),
            pl.col("time").dt.strftime("%d.%m.%Y %H:%M").alias("Datum"),
            kinds.gather(rows.sort("time")["kind"]).alias("Aktivität"),
            pl.format("Kurs {}", "topic").alias("Kurs"),
            pl.col("amount").cast(pl.String).str.replace(".", ",", literal=True).alias("Punkte"),
            pl.when(pl.col("kind") == 2).then(pl.format("Frage zu {} von {}", "topic", "second"))
            .alias("Beitrag"),
        )  # fmt: skip
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        table.write_csv(folder / "logs" / f"moodle {month}.csv", separator=";")
    generator = np.random.default_rng(seed + 1)
    done = events.group_by("user").agg(clicks=pl.len(), last=pl.col("time").max())
    people.join(done, on="user", how="left", maintain_order="left").select(
        pl.format("s{}", pl.col("user").cast(pl.String).str.zfill(6)).alias("Student ID"),
        pl.format("Fach {}", "group").alias("Studienfach"),
        pl.col("clicks").alias("sum_click"),
        pl.col("last").dt.strftime("%Y-%m-%d").alias("last_login"),
        pl.Series("final_result", generator.choice(["Pass", "Fail", "Withdrawn"], len(people))),
    ).write_csv(folder / "students.csv", separator=";")
    return RawLog((folder / "logs",), folder / "students.csv")


def app_telemetry(folder: Path, seed: int = 0) -> RawLog:
    """Writes compressed JSON Lines by week, with a nested record and milliseconds as text.

    The length of a session is in all its rows (future leakage), each row has a unique id, one field
    is always null, and another appears only later.
    """
    events, _ = _behavior(3000, 60, seed)
    generator = np.random.default_rng(seed + 1)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    names = ["screen_view", "tap", "share", "purchase"]
    weeks: dict[int, list[str]] = {}
    for row in events.iter_rows(named=True):
        week = row["second"] // (7 * 86_400)
        line = {
            "eventId": generator.bytes(8).hex(),
            "distinctId": f"device-{row['user']:05}",
            "ts": str(1_693_526_400_000 + row["second"] * 1000),
            "name": names[row["kind"]],
            "screen": f"/app/screen/{row['topic']}",
            "device": {"os": "ios" if row["user"] % 3 else "android", "screen": [1080, 1920]},
            "session_length": row["steps"],
            "is_wifi": bool(row["user"] % 2),
            "experiment": None,
        }
        if week >= 8:
            line["darkMode"] = bool(row["user"] % 5 == 0)
        weeks.setdefault(week, []).append(json.dumps(line) + "\n")
    for week, lines in weeks.items():
        with gzip.open(folder / "logs" / f"week-{week:02}.jsonl.gz", "wt", compresslevel=1) as file:
            file.writelines(lines)
    return RawLog((folder / "logs",))


def bank(folder: Path, seed: int = 0) -> RawLog:
    """Writes a table with tabs, a BOM and CRLF; date and time are separate, text has quotes.

    Missing values are NA, and one row in ten is garbage.
    """
    events, people = _behavior(3000, 40, seed)
    generator = np.random.default_rng(seed + 1)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ["CARD", "TRANSFER", "CASH", "FEE"]
    lines = [
        "account_no\tbooking date\tbooking time\ttype\tamount\tbalance\tmerchant category\ttext"
    ]
    for row in events.iter_rows(named=True):
        if generator.random() < 0.1:
            junk = generator.choice(
                ["\t".join(["?"] * 8), "\t\t\t\t\t\t\t", "x\t31.02.20\t\t\t#REF!\t\t\t"]
            )
            lines.append(str(junk))
            continue
        balance = generator.uniform(-500, 5000)
        amount = "NA" if row["kind"] == 3 else f"-{row['amount']:.2f}"
        lines.append(
            f"{row['user'] + 40_000_000:010}\t{row['time']:%d.%m.%Y}\t{row['time']:%H:%M}\t"
            f"{kinds[row['kind']]}\t{amount}\t{balance:.2f}\tMCC{row['topic']:04}\t"
            f'"paid to ""shop {generator.integers(10**6)}"", thanks"'
        )
    text = "\ufeff" + "\r\n".join(lines) + "\r\n"
    (folder / "bookings.tsv").write_bytes(text.encode())
    people.select(
        account_no=pl.format("00{}", pl.col("user") + 40_000_000), branch="group"
    ).write_csv(folder / "accounts.csv")
    return RawLog((folder / "bookings.tsv",), folder / "accounts.csv")


ODD: Mapping[str, Callable[[Path], RawLog]] = {
    "learning platform": learning_platform,
    "app telemetry": app_telemetry,
    "bank": bank,
}
