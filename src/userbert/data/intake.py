"""All rows of some users, as vocabularies and the kernel take them.

In: coded events and profile rows of the same users. Out: the same without duplicates, if the schema
wants none, and with one profile row a user, if it has no time; and what was left out, for the row
account. Every engine of preparation passes through this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from userbert.data.shards import TIMELESS
from userbert.data.words import user_hash
from userbert.schema.models import Schema

FILE = 1 << 40
"""`row` holds the number of its file, too: so many rows a file."""


@dataclass(frozen=True)
class LeftOut:
    """Rows of some users that are not used."""

    duplicates: list[int]
    """By file."""
    second_rows: pl.DataFrame
    """`file`, `row` and `reason` of profile rows of users who have one, in the order of users."""


@dataclass(frozen=True)
class UserLogs:
    """All rows of some users that are used, coded."""

    events: pl.DataFrame
    """`user_id`, `time`, `action_type` and one an attribute."""
    profile: pl.DataFrame
    """`user_id`, `time` and one a field; `time` is TIMELESS where the profile has none."""
    left_out: LeftOut


def user_logs(
    schema: Schema, files: Sequence[str], events: pl.DataFrame, profile: pl.DataFrame
) -> UserLogs:
    """Settle the rows of some users, which stand in the order of `row`.

    `files` are the names of all, by number. Events need their `row` where duplicates are dropped.
    """
    duplicates = [0] * len(files)
    if schema.duplicates == "drop":
        said = [name for name in events.columns if name != "row"]
        kept = events.unique(said, keep="first", maintain_order=True)
        before, after = (
            np.bincount(rows["row"].to_numpy() // FILE, minlength=len(files))
            for rows in (events, kept)
        )
        events, duplicates = kept, (before - after).tolist()
    second = profile.clear()
    if schema.profile is not None and schema.profile.time is None:
        is_first = profile["user_id"].is_first_distinct()
        second = profile.filter(~is_first)
        profile = profile.filter(is_first).with_columns(pl.col("time").fill_null(TIMELESS))
    return UserLogs(
        _without_row(events),
        _without_row(profile),
        LeftOut(duplicates, _rejected(second, files)),
    )


def _without_row(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([column for column in rows if column.name != "row"])


def _rejected(second: pl.DataFrame, files: Sequence[str]) -> pl.DataFrame:
    """Why a user's second profile row cannot be used."""
    if second.is_empty():
        return pl.DataFrame(schema={"file": pl.String, "row": pl.Int64, "reason": pl.String})
    # In the order of users, so that it is the same whatever their ranges are.
    order = pl.Series("order", user_hash(second["user_id"].to_arrow()))
    second = second.with_columns(order).sort("order", "user_id", "row")
    names = pl.Series(files, dtype=pl.String).gather(second["row"] // FILE)
    reason = (
        'a second row of the user "' + second["user_id"] + '": expected one (or a `time:` in the '
        "schema's profile, to say which counts when)"
    )
    return second.select(names.alias("file"), pl.col("row") % FILE, reason.alias("reason"))
