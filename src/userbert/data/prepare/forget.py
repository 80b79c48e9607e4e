"""Users who are to be forgotten: prepared data without them.

In: prepared data and user ids. Out: the same folder, written anew without these users' actions,
profile rows and ids, and an account of it. What was learned from them before stays in models, and
what only they did in vocabularies, unless `min_users` kept it out.
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
from userbert.data.shards import Shard, ShardSize, ShardTables, shard_name, total, write_shard
from userbert.data.store import PreparedData, write_manifest
from userbert.errors import InputError
from userbert.folders import read_json, replacing_folder, write_json
from userbert.progress import progress


def forget(path: Path, user_ids: Collection[str]) -> int:
    """Remove users from a folder of prepared data; return how many it held.

    The folder is replaced when its successor is complete. Raises `InputError` if it holds none of
    the users, or no others, and `DataError` if it is not prepared data.
    """
    data = PreparedData.open(path)
    # What is written anew gets new checksums, which must not vouch for damage.
    data.verify()
    rows = data.rows_of(sorted(set(user_ids)))
    rows = rows[rows >= 0]
    if len(rows) == 0:
        raise InputError(f"{path}: it holds none of the {len(set(user_ids)):,} users given.")
    if len(rows) == len(data):
        raise InputError(f"{path}: it holds no other users. Remove the folder instead.")
    is_gone = np.zeros(len(data), np.bool_)
    is_gone[rows] = True
    with replacing_folder(path) as folder, progress("writing shards", len(data.shards)) as advance:
        sizes = []
        for number, shard in enumerate(data.shards):
            gone = is_gone[shard.first_row : shard.first_row + shard.users]
            sizes.append(write_shard(folder / shard_name(number), _without(shard, gone)))
            advance(1, "")
        for name in ("schema.yaml", "vocabularies.json"):
            shutil.copyfile(path / name, folder / name)
        _write_rejected(path, folder, user_ids)
        summary = _account(read_json(path / "summary.json"), total(sizes))
        write_json(folder / "summary.json", summary)
        told = {key: data.manifest[key] for key in ("shards", "first_event", "last_event")}
        write_manifest(folder, {"users": summary["users"], **told})
    return len(rows)


def _account(before: dict[str, Any], left: ShardSize) -> dict[str, Any]:
    """The summary of what is left, and how much was forgotten now and earlier."""
    earlier = before.get("forgotten", {"users": 0, "actions": dict.fromkeys(left.actions, 0)})
    forgotten = {
        "users": earlier["users"] + before["users"] - left.users,
        "actions": {
            name: earlier["actions"][name] + before["actions"][name] - count
            for name, count in left.actions.items()
        },
    }
    return {**before, **asdict(left), "forgotten": forgotten}


def _without(shard: Shard, gone: NDArray[np.bool_]) -> Iterator[ShardTables]:
    """The users of a shard but for those who are gone (U,)."""
    left = stored_users(shard, np.flatnonzero(~gone))
    segments = {name: actions.to_arrow() for name, actions in left.segments.items()}
    yield ShardTables(left.users, segments, left.profile.to_arrow())


def _write_rejected(path: Path, folder: Path, user_ids: Collection[str]) -> None:
    """The rows that were set aside, but for those whose reason names one of the users."""
    if (path / REJECTED).exists():
        rejected = pl.read_parquet(path / REJECTED)
        named = pl.col("reason").str.contains_any([f'"{user}"' for user in user_ids])
        rejected.filter(~named).write_parquet(folder / REJECTED)
