"""Prepared data on disk: shards of sorted actions, read as memory-mapped numpy views.

In: the kernel's tables, shard by shard. Out: `PreparedData`. Storage is by action, not by word
(design, decision 2): cutting a history at any instant is a slice.

```
DATA/
  manifest.json        format, version, shards, span, checksums of every other file and its own
  schema.yaml          what the logs meant
  vocabularies.json    what the ids mean
  summary.json         the row account, for people
  shards/00000/        users.arrow, profile.arrow, long_term.arrow, short_term.arrow
```
Users stand in the order of (hash of the id, id) over all shards; a user's number in it is its row.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from math import ceil, log2
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from userbert.data.batches import InputShape
from userbert.data.shape import input_shape
from userbert.data.vocabulary import Vocabularies
from userbert.data.words import user_hash
from userbert.errors import DataError, InputError
from userbert.folders import checksum, checksums, found_at, json_text, read_json
from userbert.progress import progress
from userbert.schema.models import Schema
from userbert.workers import cores, threaded

FORMAT = 1
TIMELESS = np.iinfo(np.int64).min
"""The time of a profile row that carries none: it is before every cut-off."""

Int64 = NDArray[np.int64]

_AGAIN = "Copy the folder again, or prepare the logs again."
_DESCRIPTIONS = ("schema.yaml", "vocabularies.json")
_KEYS = ("users", "shards", "first_event", "last_event", "checksums")


@dataclass(frozen=True)
class Columns:
    """Rows of many users, sorted by user and time: a segment's actions, or profile rows."""

    offsets: Int64
    """(U + 1,): the rows of the shard's user u are `offsets[u]:offsets[u + 1]`."""
    times: Int64
    """(N,): microseconds since 1970."""
    word_start: NDArray[np.uint8]
    """(N,): 1 where a word starts (of profile rows: always 1)."""
    values: Mapping[str, NDArray[Any]]
    """(N,) each: ids (int32) or raw numbers (float32)."""


@dataclass(frozen=True)
class Shard:
    """The users whose hashes fall into one range."""

    first_row: int
    users: int
    user_hashes: NDArray[np.uint64]
    user_ids: pa.Array
    segments: Mapping[str, Columns]
    profile: Columns


class Histories(Protocol):
    """What users did, on disk or in memory: all that `cut` reads."""

    @property
    def schema(self) -> Schema:
        """What the logs mean."""

    @property
    def vocabularies(self) -> Vocabularies:
        """What the ids mean."""

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards, in the order of their users' hashes."""

    @property
    def first_rows(self) -> Int64:
        """(S,): the row of each shard's first user."""


class PreparedData:
    """Prepared data, opened: nothing is read until it is looked at.

    Raises `DataError` when the folder is missing, incomplete, damaged or of a newer format; of the
    large files, which it does not read, `verify` tells.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "manifest.json").is_file():
            raise DataError(
                f"{path} is not prepared data (it has no manifest.json; {found_at(path)}). "
                "Make it with `userbert prepare schema.yaml -o DATA`."
            )
        with _told_of(path):
            self.manifest: dict[str, Any] = {**read_json(path / "manifest.json")}
            written = self.manifest["format"]
        if written != FORMAT:
            raise DataError(
                f"{path} has the format {written!r}, this version reads {FORMAT}. "
                "Prepare the logs again, or use the version that wrote it."
            )
        with _told_of(path):
            for key in _KEYS:
                self.manifest[key]
            _check_manifest(path / "manifest.json", self.manifest)
            for name in _DESCRIPTIONS:
                self._check(name)
            self.vocabularies = Vocabularies.from_json(read_json(path / "vocabularies.json"))
            self.schema = Schema.load(path / "schema.yaml")

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a folder that `userbert prepare` wrote."""
        return cls(Path(path))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by name: opened again where it is read, and no rows are copied."""
        return type(self), (self.path,)

    def verify(self) -> None:
        """Compare every file with its checksum; raise `DataError` that names what changed."""
        names = list(self.manifest["checksums"])
        with progress("checking files", len(names)) as advance:
            for _ in threaded(self._check, names, cores()):
                advance(1, "")

    def _check(self, name: str) -> None:
        file = self.path / name
        if not file.is_file():
            raise DataError(f"{file} is missing. {_AGAIN}")
        if checksum(file) != self.manifest["checksums"].get(name):
            raise DataError(f"{file} has changed since it was written. {_AGAIN}")

    def __len__(self) -> int:
        """Count the users."""
        return int(self.manifest["users"])

    @property
    def first_event(self) -> int:
        """Microseconds since 1970 of the first action."""
        return int(self.manifest["first_event"])

    @property
    def last_event(self) -> int:
        """Microseconds since 1970 of the last action."""
        return int(self.manifest["last_event"])

    @property
    def default_cutoff(self) -> int:
        """Just after the last action."""
        return self.last_event + 1

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the manifest, which holds all other checksums: names the data in results."""
        return checksum(self.path / "manifest.json")

    @cached_property
    def shards(self) -> list[Shard]:
        """All shards, memory-mapped."""
        opened: list[Shard] = []
        first_row = 0
        for number in range(self.manifest["shards"]):
            opened.append(self.open_shard(number, first_row))
            first_row += opened[-1].users
        return opened

    def open_shard(self, number: int, first_row: int = 0) -> Shard:
        """One shard, whose pages count as our memory until it is forgotten again."""
        folder = self.path / shard_name(number)
        users = _read(folder / "users.arrow")
        return Shard(
            first_row,
            users.num_rows,
            _view(users, "user_hash"),
            users["user_id"].combine_chunks(),
            {
                name: self._columns(folder / f"{name}.arrow", users, name)
                for name in self.schema.segments
            },
            self._columns(folder / "profile.arrow", users, "profile"),
        )

    @staticmethod
    def _columns(file: Path, users: pa.Table, name: str) -> Columns:
        rows = _read(file)
        ends = _view(users, f"{name}_end")
        values = {column: _view(rows, column) for column in rows.column_names[2:]}
        return Columns(
            np.concatenate([[0], ends]), _view(rows, "time"), _view(rows, "word_start"), values
        )

    @cached_property
    def first_rows(self) -> Int64:
        """(S,): the row of each shard's first user."""
        return np.array([shard.first_row for shard in self.shards], dtype=np.int64)

    def users_by_shard(self) -> Int64:
        """(S,): how many users each shard has; nothing else of them is read."""
        files = [self.path / shard_name(n) / "users.arrow" for n in range(self.manifest["shards"])]
        return np.array([_read(file).num_rows for file in files], dtype=np.int64)

    @cached_property
    def user_ids(self) -> pa.ChunkedArray:
        """The id of each row's user."""
        return pa.chunked_array([shard.user_ids for shard in self.shards], pa.large_string())

    def rows_of(self, user_ids: Sequence[str] | pa.Array) -> Int64:
        """(B,): the row of each user, -1 where the data do not know the user."""
        wanted = pa.array(user_ids, pa.large_string())
        hashes = user_hash(wanted)
        owners = shard_of(hashes, len(self.shards))
        rows = np.full(len(wanted), -1, dtype=np.int64)
        for number, shard in enumerate(self.shards):
            asked = np.flatnonzero(owners == number)
            position = np.searchsorted(shard.user_hashes, hashes[asked])
            # Two ids of one hash stand side by side.
            while len(asked):
                here = position < shard.users
                asked, position = asked[here], position[here]
                here = shard.user_hashes[position] == hashes[asked]
                asked, position = asked[here], position[here]
                ids = shard.user_ids.take(pa.array(position))
                equal = pc.equal(ids, wanted.take(pa.array(asked))).to_numpy(zero_copy_only=False)
                rows[asked[equal]] = position[equal] + shard.first_row
                asked, position = asked[~equal], position[~equal] + 1
        return rows

    def input_shape(self, hidden: Collection[str] = ()) -> InputShape:
        """What a model must know of the data, without the `hidden` profile fields."""
        return input_shape(self.schema, self.vocabularies, hidden)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Say that a folder is damaged when a description in it cannot be read."""
    try:
        yield
    except KeyError as error:
        raise DataError(f"{path} is damaged: it lacks {error}. {_AGAIN}") from error
    except DataError:
        raise
    except (InputError, TypeError, ValueError, AttributeError) as error:
        told = str(error).removesuffix(".")
        raise DataError(f"{path} is damaged: {told}. {_AGAIN}") from error


def _check_manifest(file: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `DataError` if not every byte is as written: in it stand all other checksums."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    # The first data that were written have no such line.
    text = json_text(content) if content == manifest else _manifest_text(content)
    is_ours = content.keys() == {"format", "version", *_KEYS}
    if not is_ours or file.read_bytes() != text.encode():
        raise DataError(f"{file} has changed since it was written. {_AGAIN}")


def _manifest_text(content: Mapping[str, Any]) -> str:
    own = hashlib.sha256(json_text(content).encode()).hexdigest()
    return json_text({**content, "checksum": own})


def _read(file: Path) -> pa.Table:
    try:
        with pa.memory_map(str(file)) as source:
            return pa.ipc.open_file(source).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file} cannot be read: {error}. {_AGAIN}") from error


def _view(table: pa.Table, name: str) -> NDArray[Any]:
    """A column as numpy without a copy; a shard is written as one batch."""
    column = table[name]
    if column.num_chunks == 0:
        return np.zeros(0, column.type.to_pandas_dtype())
    return column.chunk(0).to_numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ShardTables:
    """A shard, or a range of its users."""

    users: pa.Array
    """(U,): ids in the order of (hash, id)."""
    segments: Mapping[str, pa.Table]
    """Of each, the kernel's table: `user` is a number among `users`."""
    profile: pa.Table
    """Such a table, too, of the profile fields."""


@dataclass(frozen=True)
class ShardSize:
    """What a shard holds."""

    users: int
    actions: Mapping[str, int]
    words: Mapping[str, int]


def total(sizes: Sequence[ShardSize]) -> ShardSize:
    """What several shards hold together."""
    return ShardSize(
        sum(size.users for size in sizes),
        {name: sum(size.actions[name] for size in sizes) for name in sizes[0].actions},
        {name: sum(size.words[name] for size in sizes) for name in sizes[0].words},
    )


def shard_in_memory(tables: ShardTables) -> Shard:
    """The only shard of a few users, as it would be read from the disk."""
    named = {**tables.segments, "profile": tables.profile}
    columns = {
        name: Columns(
            np.append(0, _row_ends(table, len(tables.users))),
            _view(table, "time"),
            _view(table, "word_start"),
            {column: _view(table, column) for column in table.column_names[3:]},
        )
        for name, table in named.items()
    }
    profile = columns.pop("profile")
    return Shard(0, len(tables.users), user_hash(tables.users), tables.users, columns, profile)


def _row_ends(table: pa.Table, users: int) -> Int64:
    """(U,): where each user's rows end in one of the tables of a shard."""
    return np.cumsum(np.bincount(table["user"].to_numpy(), minlength=users))


def write_shard(folder: Path, parts: Iterable[ShardTables]) -> ShardSize:
    """Write one shard from ranges of its users, in order."""
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


def write_manifest(
    folder: Path, content: Mapping[str, Any], known: Mapping[str, str] | None = None
) -> None:
    """Close a folder: the manifest names every other file with its checksum, some `known`."""
    made = {"format": FORMAT, "version": version("userbert")}
    sums = {"checksums": checksums(folder, known)}
    text = _manifest_text({**made, **content, **sums})
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def shard_name(number: int) -> str:
    """The folder of a shard within that of prepared data."""
    return f"shards/{number:05d}"


def power_of_two(at_least: float) -> int:
    """The smallest that is not less: hashes are split into so many ranges."""
    return 1 << max(0, ceil(log2(max(at_least, 1))))


def shard_of(hashes: NDArray[np.uint64], shards: int) -> NDArray[np.int64]:
    """The shard (of a power of two) of each hash: its highest bits."""
    bits = int(shards).bit_length() - 1
    if bits == 0:
        return np.zeros(len(hashes), dtype=np.int64)
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)
