"""Users who are to be forgotten: prepared data without them.

In: prepared data and user ids. Out: the same folder, written anew without these users' actions,
profile rows and ids, and an account of it. What was learned from them before stays in models, and
what only they did in vocabularies, unless `min_users` kept it out.
"""

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from userbert.data.batches import Int64
from userbert.data.store import (
    Columns,
    PreparedData,
    Shard,
    ShardTables,
    write_manifest,
    write_shard,
)
from userbert.errors import InputError
from userbert.folders import read_json, replacing_folder, write_json
from userbert.progress import progress


def forget(path: Path, user_ids: Collection[str]) -> int:
    """Remove users from a folder of prepared data; return how many it held.

    The folder is replaced when its successor is complete. Raises `InputError` if it holds none of
    the users, or no others, and `DataError` if it is not prepared data.
    """
    data = PreparedData.open(path)
    rows = data.rows_of(sorted(set(user_ids)))
    rows = rows[rows >= 0]
    if len(rows) == 0:
        raise InputError(f"{path}: it holds none of the {len(set(user_ids)):,} users given.")
    if len(rows) == len(data):
        raise InputError(f"{path}: it holds no other users. Remove the folder instead.")
    is_kept = np.ones(len(data), np.bool_)
    is_kept[rows] = False
    with replacing_folder(path) as folder, progress("writing shards", len(data.shards)) as advance:
        sizes = []
        for number, shard in enumerate(data.shards):
            kept = is_kept[shard.first_row : shard.first_row + shard.users]
            sizes.append(write_shard(folder / "shards" / f"{number:05d}", _without(shard, kept)))
            advance(1, "")
        for name in ("schema.yaml", "vocabularies.json"):
            shutil.copyfile(path / name, folder / name)
        _write_rejected(path, folder, user_ids)
        summary = read_json(path / "summary.json")
        users = sum(size.users for size in sizes)
        actions = {name: sum(size.actions[name] for size in sizes) for name in sizes[0].actions}
        words = {name: sum(size.words[name] for size in sizes) for name in sizes[0].words}
        before = summary.get("forgotten", {})
        gone = {name: summary["actions"][name] - count for name, count in actions.items()}
        summary["forgotten"] = {
            "users": before.get("users", 0) + len(rows),
            "actions": {
                name: before.get("actions", {}).get(name, 0) + count for name, count in gone.items()
            },
        }
        summary |= {"users": users, "actions": actions, "words": words}
        write_json(folder / "summary.json", summary)
        told = {key: data.manifest[key] for key in ("shards", "first_event", "last_event")}
        write_manifest(folder, {"users": users, **told})
    return len(rows)


def _without(shard: Shard, kept: NDArray[np.bool_]) -> Iterator[ShardTables]:
    """The users of a shard who are kept (U,)."""
    segments = {name: _table(columns, kept) for name, columns in shard.segments.items()}
    yield ShardTables(shard.user_ids.filter(pa.array(kept)), segments, _table(shard.profile, kept))


def _table(columns: Columns, kept: NDArray[np.bool_]) -> pa.Table:
    users = np.repeat(np.arange(len(kept)), np.diff(columns.offsets))
    chosen = kept[users]
    number: Int64 = np.cumsum(kept) - 1
    stored: dict[str, NDArray[Any]] = {
        "time": columns.times,
        "word_start": columns.word_start,
        **columns.values,
    }
    return pa.table(
        {
            "user": number[users[chosen]].astype(np.int32),
            **{name: values[chosen] for name, values in stored.items()},
        }
    )


def _write_rejected(path: Path, folder: Path, user_ids: Collection[str]) -> None:
    """The rows that were set aside, but for those whose reason names one of the users."""
    if (path / "rejected.parquet").exists():
        rejected = pl.read_parquet(path / "rejected.parquet")
        named = pl.col("reason").str.contains_any([f'"{user}"' for user in user_ids])
        rejected.filter(~named).write_parquet(folder / "rejected.parquet")
