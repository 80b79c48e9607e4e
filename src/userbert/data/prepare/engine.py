"""Interface of the engines that run the passes of a preparation.

In: a `Preparation`. Out: its shards. The engines are `local.py` and `spark.py`.
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
    profile: list[LogFile]
    reading: Reading
    """Account of every row."""
    append: PreparedData | None
    """Prepared data whose users and actions go into the shards, too."""
    rows: int
    """Number of all events, including those of `append`."""
    shards: int
    """Number of shards, a power of two."""
    output: Path
    """Output folder, as error messages name it."""
    folder: Path
    """Folder to write into; may also hold temporary files."""

    @property
    def files(self) -> list[str]:
        """Names of all files, in the order of their numbers."""
        return list(self.reading.accounts)


class Engine(Protocol):
    """Runs the passes of a preparation, in this order."""

    def read(self) -> None:
        """Checks every row, accounts for it, and groups rows by user."""

    def fit(self) -> Vocabularies:
        """Counts values and gives them ids."""

    def build(self, vocabularies: Vocabularies) -> tuple[ShardSize, dict[str, str]]:
        """Writes all shards; returns their total size, and the checksums that it computed.

        Removes temporary files.
        """
