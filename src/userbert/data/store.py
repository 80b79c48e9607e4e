"""Prepared data on disk: a folder of shards, which a manifest closes.

In: a folder. Out: `PreparedData`, whose shards are memory-mapped; `write_manifest` makes a folder
of shards and descriptions one.

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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.batches import InputShape, input_shape
from userbert.data.ragged import Int64
from userbert.data.shards import (
    AGAIN,
    Shard,
    count_users,
    read_shard,
    shard_name,
    shard_of,
    user_hash,
)
from userbert.data.vocabulary import Vocabularies
from userbert.errors import DataError, InputError
from userbert.folders import checksum, checksums, found_at, json_text, read_json
from userbert.progress import progress
from userbert.schema.models import Schema
from userbert.workers import cores, threaded

FORMAT = 1
_DESCRIPTIONS = ("schema.yaml", "vocabularies.json")
_KEYS = ("users", "shards", "first_event", "last_event", "checksums")


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
            raise DataError(f"{file} is missing. {AGAIN}")
        if checksum(file) != self.manifest["checksums"].get(name):
            raise DataError(f"{file} has changed since it was written. {AGAIN}")

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
        return read_shard(self.path / shard_name(number), [*self.schema.segments], first_row)

    @cached_property
    def first_rows(self) -> Int64:
        """(S,): the row of each shard's first user."""
        return np.array([shard.first_row for shard in self.shards], dtype=np.int64)

    def users_by_shard(self) -> Int64:
        """(S,): how many users each shard has; nothing else of them is read."""
        folders = [self.path / shard_name(number) for number in range(self.manifest["shards"])]
        return np.array([count_users(folder) for folder in folders], dtype=np.int64)

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
        raise DataError(f"{path} is damaged: it lacks {error}. {AGAIN}") from error
    except DataError:
        raise
    except (InputError, TypeError, ValueError, AttributeError) as error:
        told = str(error).removesuffix(".")
        raise DataError(f"{path} is damaged: {told}. {AGAIN}") from error


def _check_manifest(file: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `DataError` if not every byte is as written: in it stand all other checksums."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    # The first data that were written have no such line.
    text = json_text(content) if content == manifest else _manifest_text(content)
    is_ours = content.keys() == {"format", "version", *_KEYS}
    if not is_ours or file.read_bytes() != text.encode():
        raise DataError(f"{file} has changed since it was written. {AGAIN}")


def _manifest_text(content: Mapping[str, Any]) -> str:
    own = hashlib.sha256(json_text(content).encode()).hexdigest()
    return json_text({**content, "checksum": own})


def write_manifest(
    folder: Path, content: Mapping[str, Any], known: Mapping[str, str] | None = None
) -> None:
    """Close a folder: the manifest names every other file with its checksum, some `known`."""
    made = {"format": FORMAT, "version": version("userbert")}
    sums = {"checksums": checksums(folder, known)}
    text = _manifest_text({**made, **content, **sums})
    (folder / "manifest.json").write_text(text, encoding="utf-8")
