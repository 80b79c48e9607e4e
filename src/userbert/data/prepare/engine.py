"""Interface of the engines that run the passes of a preparation.

In: a `Preparation`. Out: vocabularies and shards. The engines are in `local.py` and `spark.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from userbert.data.read.reading import Reading
from userbert.data.read.sources import LogFile
from userbert.data.shards import ShardSize
from userbert.data.store import PreparedData
from userbert.data.vocabulary import Vocabularies
from userbert.schema.models import Schema


@dataclass(frozen=True)
class Preparation:
    """Input of an engine: schema, opened files and where the output goes."""

    schema: Schema
    logs: list[LogFile]
    """Files of events, or frames in their place."""
    profile: list[LogFile]
    """Files of profile rows, or a frame in their place."""
    reading: Reading
    """Reader that accounts for every row."""
    append: PreparedData | None
    """Prepared data whose users and rows also go into the shards."""
    rows: int
    """Number of rows of `logs` and of rows once read for `append`: at least that of events."""
    shards: int
    """Number of shards, a power of two."""
    output: Path
    """Output folder, as error messages name it."""
    folder: Path
    """Folder to write into; may also hold temporary files."""

    @property
    def files(self) -> list[str]:
        """Names of all files of events and profile rows, in the order of their numbers."""
        return list(self.reading.accounts)


class Engine(Protocol):
    """Runs the passes of a preparation, in this order."""

    def read(self) -> None:
        """Checks and accounts for every row, and groups usable rows by ranges of user hashes."""

    def fit(self) -> Vocabularies:
        """Counts values, and returns vocabularies that give them ids."""

    def build(self, vocabularies: Vocabularies) -> tuple[ShardSize, dict[str, str]]:
        """Writes all shards, and removes temporary files.

        Returns the total size of the shards, and the checksums of files that it computed, by name.
        """
