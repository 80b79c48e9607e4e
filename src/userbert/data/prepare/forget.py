"""Removes users from prepared data.

In: prepared data and user ids. Out: the folder rewritten without these users' actions, profile rows
and ids, with an account of the removal. Models keep what they learned from these users.
Vocabularies keep values that only these users have, unless `min_users` excluded the values.
"""

import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from userbert.data.prepare.appending import stored_users
from userbert.data.read.reading import REJECTED
from userbert.data.shards import Shard, ShardSize, ShardTables, shard_name, total_size, write_shard
from userbert.data.store import PreparedData, write_manifest
from userbert.errors import InputError
from userbert.folders import read_json, replacing_folder, write_json
from userbert.progress import progress


def forget(path: Path, user_ids: Collection[str]) -> int:
    """Removes users from a folder of prepared data; returns the number of removed users.

    Ignores ids that the data do not hold. Replaces the folder once the new folder is complete. The
    manifest keeps its times of the first and last event. Raises `InputError` if the data hold none
    of the users or only these users, and `DataError` if the folder is not prepared data or damaged.
    """
    data = PreparedData.open(path)
    # The new folder gets new checksums, which would hide damage to the old folder.
    data.verify()
    rows = data.rows_of(sorted(set(user_ids)))
    rows = rows[rows >= 0]
    if len(rows) == 0:
        raise InputError(
            f"{path}: the data hold none of the {len(set(user_ids)):,} users. Write "
            "ids as the logs do."
        )
    if len(rows) == len(data):
        raise InputError(f"{path}: the data hold no other users. Delete the folder instead.")
    is_removed = np.zeros(len(data), np.bool_)
    is_removed[rows] = True
    with replacing_folder(path) as folder, progress("writing shards", len(data.shards)) as advance:
        sizes = []
        for number, shard in enumerate(data.shards):
            removed = is_removed[shard.first_row : shard.first_row + shard.users]
            sizes.append(write_shard(folder / shard_name(number), _without(shard, removed)))
            advance(1, "")
        for name in ("schema.yaml", "vocabularies.json"):
            shutil.copyfile(path / name, folder / name)
        _write_rejected(path, folder, user_ids)
        summary = _account(read_json(path / "summary.json"), total_size(sizes))
        write_json(folder / "summary.json", summary)
        unchanged = {key: data.manifest[key] for key in ("shards", "first_event", "last_event")}
        write_manifest(folder, {"users": summary["users"], **unchanged})
    return len(rows)


def _account(before: dict[str, Any], remaining: ShardSize) -> dict[str, Any]:
    """Returns the new summary: counts of what remains and of all that was forgotten so far."""
    earlier = before.get("forgotten", {"users": 0, "actions": dict.fromkeys(remaining.actions, 0)})
    forgotten = {
        "users": earlier["users"] + before["users"] - remaining.users,
        "actions": {
            name: earlier["actions"][name] + before["actions"][name] - count
            for name, count in remaining.actions.items()
        },
    }
    return {**before, **asdict(remaining), "forgotten": forgotten}


def _without(shard: Shard, removed: NDArray[np.bool_]) -> Iterator[ShardTables]:
    """Yields the tables of a shard without the `removed` users, a mask (U,)."""
    rows = stored_users(shard, np.flatnonzero(~removed))
    segments = {name: actions.to_arrow() for name, actions in rows.segments.items()}
    yield ShardTables(rows.users, segments, rows.profile.to_arrow())


def _write_rejected(path: Path, folder: Path, user_ids: Collection[str]) -> None:
    """Copies the rejected rows, except those whose reason names one of the users."""
    if (path / REJECTED).exists():
        rejected = pl.read_parquet(path / REJECTED)
        named = pl.col("reason").str.contains_any([f'"{user}"' for user in user_ids])
        rejected.filter(~named).write_parquet(folder / REJECTED)
