"""Prepared data on disk: a folder of shards with a manifest.

In: a folder. Out: `PreparedData`, whose shards are memory-mapped. `write_manifest` completes a
folder of shards. Letters in shapes: S shards, U users of the data, B users of a query.

```
DATA/
  manifest.json        format, version, users, shards, span, checksums of all files and its own
  schema.yaml          meaning of the logs
  vocabularies.json    meaning of the ids
  summary.json         account of all rows, for people
  rejected.parquet     rejected rows with reasons, if there are any
  shards/00000/        users.arrow, profile.arrow, long_term.arrow, short_term.arrow
```
Users are sorted by (hash of the id, id) over all shards; a user's row is the index in that order.
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
    RESTORE_ADVICE,
    Shard,
    count_users,
    read_shard,
    shard_name,
    shard_of,
    user_hash,
)
from userbert.data.vocabulary import Vocabularies
from userbert.errors import DataError, InputError
from userbert.folders import checksum, checksums, describe_path, json_text, read_json
from userbert.progress import progress
from userbert.schema.models import Schema
from userbert.workers import cores, map_threaded

FORMAT = 1
"""Version of the folder's format, as the manifest states it."""
_DESCRIPTIONS = ("schema.yaml", "vocabularies.json")
"""Small files that are checked when the folder is opened."""
_KEYS = ("users", "shards", "first_event", "last_event", "checksums")
"""Keys of the manifest, apart from `format`, `version` and `checksum` (of the manifest)."""


class Histories(Protocol):
    """Histories of users, on disk or in memory, as `cut` reads them."""

    @property
    def schema(self) -> Schema:
        """Schema of the logs."""

    @property
    def vocabularies(self) -> Vocabularies:
        """Vocabularies of the ids in the shards."""

    @property
    def shards(self) -> Sequence[Shard]:
        """All shards, by rising hashes of their users."""

    @property
    def first_rows(self) -> Int64:
        """(S,): row of the first user of each shard."""


class PreparedData:
    """Folder of prepared data. Large files are read on first use.

    Raises `DataError` if the folder is missing, incomplete, damaged or of another format. Only
    `verify` checks the large files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "manifest.json").is_file():
            raise DataError(
                f"{path} is not prepared data (it has no manifest.json; {describe_path(path)}). "
                "Make it with `userbert prepare schema.yaml -o DATA`."
            )
        with _report_damage(path):
            self.manifest: dict[str, Any] = {**read_json(path / "manifest.json")}
            written = self.manifest["format"]
        if written != FORMAT:
            raise DataError(
                f"{path} has the format {written!r}, this version reads {FORMAT}. "
                "Prepare the logs again, or use the version that wrote it."
            )
        with _report_damage(path):
            for key in _KEYS:
                self.manifest[key]
            _check_manifest(path / "manifest.json", self.manifest)
            for name in _DESCRIPTIONS:
                self._check(name)
            self.vocabularies = Vocabularies.from_json(read_json(path / "vocabularies.json"))
            self.schema = Schema.load(path / "schema.yaml")

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Opens a folder that `userbert prepare` wrote."""
        return cls(Path(path))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles only the path; the process that unpickles it opens the folder again."""
        return type(self), (self.path,)

    def verify(self) -> None:
        """Compares every file with its checksum. Raises `DataError` for the first that differs."""
        names = list(self.manifest["checksums"])
        with progress("checking files", len(names)) as advance:
            for _ in map_threaded(self._check, names, cores()):
                advance(1, "")

    def _check(self, name: str) -> None:
        """Raises `DataError` if a file is missing or does not have its checksum."""
        file = self.path / name
        if not file.is_file():
            raise DataError(f"{file} is missing. {RESTORE_ADVICE}")
        if checksum(file) != self.manifest["checksums"].get(name):
            raise DataError(f"{file} has changed since it was written. {RESTORE_ADVICE}")

    def __len__(self) -> int:
        """Returns the number of users."""
        return int(self.manifest["users"])

    @property
    def first_event(self) -> int:
        """Time of the first action, in microseconds since 1970."""
        return int(self.manifest["first_event"])

    @property
    def last_event(self) -> int:
        """Time of the last action, in microseconds since 1970."""
        return int(self.manifest["last_event"])

    @property
    def default_cutoff(self) -> int:
        """Instant just after the last action, in microseconds since 1970."""
        return self.last_event + 1

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the manifest, which holds all other checksums. Results name the data by it."""
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
        """Opens one shard, whose first user has the row `first_row` in the result.

        Pages that are read count as memory of this process until the shard is deleted.
        """
        return read_shard(self.path / shard_name(number), [*self.schema.segments], first_row)

    @cached_property
    def first_rows(self) -> Int64:
        """(S,): row of each shard's first user."""
        return np.array([shard.first_row for shard in self.shards], dtype=np.int64)

    def users_by_shard(self) -> Int64:
        """Returns the number of users of each shard (S,) without reading their actions."""
        folders = [self.path / shard_name(number) for number in range(self.manifest["shards"])]
        return np.array([count_users(folder) for folder in folders], dtype=np.int64)

    @cached_property
    def user_ids(self) -> pa.ChunkedArray:
        """(U,): user id of each row."""
        return pa.chunked_array([shard.user_ids for shard in self.shards], pa.large_string())

    def rows_of(self, user_ids: Sequence[str] | pa.Array) -> Int64:
        """Returns the row of each user id (B,); -1 if the user is not in the data."""
        ids = pa.array(user_ids, pa.large_string())
        hashes = user_hash(ids)
        shards = shard_of(hashes, len(self.shards))
        rows = np.full(len(ids), -1, dtype=np.int64)
        for number, shard in enumerate(self.shards):
            places = np.flatnonzero(shards == number)  # indices into `ids`
            positions = np.searchsorted(shard.user_hashes, hashes[places])  # indices into the shard
            # Ids with equal hashes are neighbours: move on until the ids are equal.
            while len(places):
                is_candidate = positions < shard.users
                places, positions = places[is_candidate], positions[is_candidate]
                is_candidate = shard.user_hashes[positions] == hashes[places]
                places, positions = places[is_candidate], positions[is_candidate]
                stored = shard.user_ids.take(pa.array(positions))
                equal = pc.equal(stored, ids.take(pa.array(places))).to_numpy(zero_copy_only=False)
                rows[places[equal]] = positions[equal] + shard.first_row
                places, positions = places[~equal], positions[~equal] + 1
        return rows

    def input_shape(self, hidden: Collection[str] = ()) -> InputShape:
        """Returns the sizes that a model needs, without the `hidden` profile fields."""
        return input_shape(self.schema, self.vocabularies, hidden)


def read_summary(data: PreparedData) -> dict[str, Any]:
    """Returns the `summary.json` of prepared data."""
    summary: dict[str, Any] = read_json(data.path / "summary.json")
    return summary


@contextmanager
def _report_damage(path: Path) -> Iterator[None]:
    """Turns errors about unreadable descriptions into a `DataError` about a damaged folder."""
    try:
        yield
    except KeyError as error:
        raise DataError(
            f"{path} is damaged: the key {error} is missing. {RESTORE_ADVICE}"
        ) from error
    except DataError:
        raise
    except (InputError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).removesuffix(".")
        raise DataError(f"{path} is damaged: {reason}. {RESTORE_ADVICE}") from error


def _check_manifest(file: Path, manifest: Mapping[str, Any]) -> None:
    """Raises `DataError` if the manifest is not byte for byte as it was written."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    # The first versions of userbert wrote no checksum of the manifest.
    text = json_text(content) if content == manifest else _manifest_text(content)
    has_all_keys = content.keys() == {"format", "version", *_KEYS}
    if not has_all_keys or file.read_bytes() != text.encode():
        raise DataError(f"{file} has changed since it was written. {RESTORE_ADVICE}")


def _manifest_text(content: Mapping[str, Any]) -> str:
    """Returns the manifest's text, with a checksum of its content."""
    content_checksum = hashlib.sha256(json_text(content).encode()).hexdigest()
    return json_text({**content, "checksum": content_checksum})


def write_manifest(
    folder: Path, content: Mapping[str, Any], known: Mapping[str, str] | None = None
) -> None:
    """Writes the manifest: `content`, and the checksum of every file.

    `known` holds checksums by file name that need not be computed again.
    """
    origin = {"format": FORMAT, "version": version("userbert")}
    text = _manifest_text({**origin, **content, "checksums": checksums(folder, known)})
    (folder / "manifest.json").write_text(text, encoding="utf-8")
