"""Shards of prepared data: the sorted actions of some users, as memory-mapped numpy views.

In: the kernel's tables. Out: the files of a shard, and a `Shard` read from these files. Storage is
by action, not by word (design, decision 2), so cutting a history at any instant is a slice. The
hash of a user id determines the user's shard. Letters in shapes: U users of a shard, N rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from userbert.data.ragged import Int64, offsets_of
from userbert.errors import DataError

TIMELESS = np.iinfo(np.int64).min
"""Time of a profile row without a time: it is before every cut-off."""

RESTORE_ADVICE = "Copy the folder again, or prepare the logs again."
"""Advice in errors about damaged files."""


@dataclass(frozen=True)
class Columns:
    """Actions of a segment, or profile rows, of all users of a shard; sorted by user and time."""

    offsets: Int64
    """(U + 1,): the rows of user u are `offsets[u]:offsets[u + 1]`."""
    times: Int64
    """(N,): microseconds since 1970."""
    word_start: NDArray[np.uint8]
    """(N,): 1 where a word starts; always 1 for profile rows."""
    values: Mapping[str, NDArray[Any]]
    """(N,) by attribute or profile field: ids (int32), or raw numbers (float32; NaN is none)."""


@dataclass(frozen=True)
class Shard:
    """Histories of the users whose hashes fall into one range."""

    first_row: int
    """Row of the shard's first user in the data."""
    users: int
    """Number of users."""
    user_hashes: NDArray[np.uint64]
    """(U,): `user_hash` of each id, ascending."""
    user_ids: pa.Array
    """(U,): ids, sorted by (hash, id)."""
    segments: Mapping[str, Columns]
    """Actions, by segment."""
    profile: Columns
    """Profile rows; a user may have none or several."""


def read_shard(folder: Path, segments: Sequence[str], first_row: int) -> Shard:
    """Memory-maps the files of a shard, whose first user has the row `first_row` in the data."""
    users = _read(folder / "users.arrow")
    return Shard(
        first_row,
        users.num_rows,
        _view(users, "user_hash"),
        users["user_id"].combine_chunks(),
        {name: _columns(folder / f"{name}.arrow", users, name) for name in segments},
        _columns(folder / "profile.arrow", users, "profile"),
    )


def count_users(folder: Path) -> int:
    """Returns the number of users of a shard without reading its actions."""
    return int(_read(folder / "users.arrow").num_rows)


def _columns(file: Path, users: pa.Table, name: str) -> Columns:
    rows = _read(file)
    ends = _view(users, f"{name}_end")
    values = {column: _view(rows, column) for column in rows.column_names[2:]}
    return Columns(
        np.concatenate([[0], ends]), _view(rows, "time"), _view(rows, "word_start"), values
    )


def _read(file: Path) -> pa.Table:
    try:
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file} cannot be read: {error}. {RESTORE_ADVICE}") from error


def _view(table: pa.Table, name: str) -> NDArray[Any]:
    """Returns a column as numpy without a copy, as a shard is written as one batch."""
    column = table[name]
    if column.num_chunks == 0:
        return np.zeros(0, column.type.to_pandas_dtype())
    return column.chunk(0).to_numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ShardTables:
    """Tables of a shard, or of a range of its users."""

    users: pa.Array
    """(U,): ids, sorted by (hash, id)."""
    segments: Mapping[str, pa.Table]
    """The kernel's table of each segment; its column `user` is an index into `users`."""
    profile: pa.Table
    """Profile rows, as a table with the same first columns."""


@dataclass(frozen=True)
class ShardSize:
    """Counts of users, actions and words of a shard."""

    users: int
    actions: Mapping[str, int]
    """Number of actions, by segment."""
    words: Mapping[str, int]
    """Number of words, by segment."""


def total_size(sizes: Sequence[ShardSize]) -> ShardSize:
    """Returns the sum of the sizes of one or more shards."""
    return ShardSize(
        sum(size.users for size in sizes),
        {name: sum(size.actions[name] for size in sizes) for name in sizes[0].actions},
        {name: sum(size.words[name] for size in sizes) for name in sizes[0].words},
    )


def shard_in_memory(tables: ShardTables) -> Shard:
    """Returns the tables as a `Shard`, which equals the shard that is written and read again."""
    tables_by_name = {**tables.segments, "profile": tables.profile}
    columns = {
        name: Columns(
            offsets_of(np.bincount(table["user"].to_numpy(), minlength=len(tables.users))),
            _view(table, "time"),
            _view(table, "word_start"),
            {column: _view(table, column) for column in table.column_names[3:]},
        )
        for name, table in tables_by_name.items()
    }
    profile = columns.pop("profile")
    return Shard(0, len(tables.users), user_hash(tables.users), tables.users, columns, profile)


def write_shard(folder: Path, parts: Iterable[ShardTables]) -> ShardSize:
    """Writes one shard, and returns its size. `parts` are ranges of its users, by rising hash."""
    folder.mkdir(parents=True)
    users: list[pa.Array] = []
    counts: dict[str, list[Int64]] = {}
    tables: dict[str, list[pa.Table]] = {}
    for part in parts:
        users.append(part.users)
        for name, table in {**part.segments, "profile": part.profile}.items():
            rows = np.bincount(table["user"].to_numpy(), minlength=len(part.users))
            counts.setdefault(name, []).append(rows)
            tables.setdefault(name, []).append(table.drop_columns(["user"]))
    ids = pa.concat_arrays(users)
    ends = {f"{name}_end": np.cumsum(np.concatenate(rows)) for name, rows in counts.items()}
    index = {"user_hash": user_hash(ids), "user_id": ids, **ends}
    _write(folder / "users.arrow", pa.table(index))
    actions, words = {}, {}
    for name in list(tables):
        table = pa.concat_tables(tables.pop(name))
        actions[name] = table.num_rows
        words[name] = int(pc.sum(table["word_start"]).as_py() or 0)
        _write(folder / f"{name}.arrow", table)
    del actions["profile"], words["profile"]
    return ShardSize(len(ids), actions, words)


def _write(file: Path, table: pa.Table) -> None:
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=max(1, table.num_rows))


def shard_name(number: int) -> str:
    """Returns the path of a shard within the folder of prepared data."""
    return f"shards/{number:05d}"


def power_of_two(at_least: float) -> int:
    """Returns the smallest power of two ≥ `at_least` and ≥ 1, such as a number of shards."""
    return 1 << max(0, ceil(log2(max(at_least, 1))))


def shard_of(hashes: NDArray[np.uint64], shards: int) -> NDArray[np.int64]:
    """Returns the index of each hash's shard: its highest bits. `shards` is a power of two."""
    bits = int(shards).bit_length() - 1
    if bits == 0:
        return np.zeros(len(hashes), dtype=np.int64)
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def user_hash(user_ids: pa.Array) -> NDArray[np.uint64]:
    """Returns a stable 64-bit hash (FNV-1a, then murmur's finalizer) of each id's UTF-8 bytes."""
    encoded = pc.dictionary_encode(user_ids.cast(pa.large_string()))
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    dictionary = encoded.dictionary
    if len(dictionary) == 0:
        return np.zeros(0, dtype=np.uint64)
    _, offset_buffer, byte_buffer = dictionary.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[: len(dictionary) + 1]
    content = np.frombuffer(byte_buffer or b"", np.uint8)
    lengths = np.diff(offsets)
    # The constants below are those of FNV-1a and of murmur's 64-bit finalizer.
    hashes = np.full(len(dictionary), 0xCBF29CE484222325, dtype=np.uint64)
    for position in range(int(lengths.max())):
        is_longer = lengths > position
        bytes_here = content[offsets[:-1][is_longer] + position].astype(np.uint64)
        hashes[is_longer] = (hashes[is_longer] ^ bytes_here) * np.uint64(0x100000001B3)
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    hashes ^= hashes >> np.uint64(33)
    by_row: NDArray[np.uint64] = hashes[encoded.indices.to_numpy(zero_copy_only=False)]
    return by_row
