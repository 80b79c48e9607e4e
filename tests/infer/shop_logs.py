"""A shop's log, and the schema that is proposed for it."""

import random
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from userbert.infer.inference import propose_schema

START = datetime(2024, 1, 1)


def shop_log(users: int = 60, days: int = 100) -> pl.DataFrame:
    """Returns purchases and views of users with several visits, and several events per visit."""
    draw = random.Random(5)
    visits = [
        (user, visit, START + timedelta(days=draw.randrange(days), hours=draw.randrange(8, 22)))
        for user in range(users)
        for visit in range(6)
    ]
    return pl.DataFrame(
        {
            "customer_id": f"c{user}",
            "created_at": start + timedelta(minutes=user + step),
            "event_type": draw.choice(["view", "view", "buy"]),
            "order_id": f"o{user}-{visit}",
            "product_id": 1000 + draw.randrange(30),
            "price": round(draw.uniform(-5, 50), 2),
            "quantity": draw.randrange(1, 40),
            "store": draw.choice(["north", "south", None]),
            "currency": "EUR",
        }
        for user, visit, start in visits
        for step in range(4)
    )


def propose(folder: Path, frame: pl.DataFrame, profiles: pl.DataFrame | None = None) -> str:
    """Writes a log (and profiles) as Parquet and returns the schema proposed in the same folder."""
    frame.write_parquet(folder / "log.parquet")
    if profiles is None:
        return propose_schema([folder / "log.parquet"], None, folder)
    profiles.write_parquet(folder / "people.parquet")
    return propose_schema([folder / "log.parquet"], folder / "people.parquet", folder)


def reason_for(text: str, column: str) -> str:
    """Returns the comment above a column's entry, or the reason why the column is left out."""
    lines = text.splitlines()
    left_out = [line for line in lines if line.strip().startswith(f"# - {column}:")]
    if left_out:
        return left_out[0]
    index = next(i for i, line in enumerate(lines) if f"{{column: {column}" in line)
    return lines[index - 1]
