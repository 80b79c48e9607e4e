"""What preparation asks of whatever runs its passes: this machine, or a cluster.

In: a `Preparation`. Out: its shards. `local.py` and `spark.py` are such engines.
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
    """What is to be prepared."""

    schema: Schema
    logs: list[LogFile]
    profile: list[LogFile]
    reading: Reading
    """Accounts for every row, whoever reads it."""
    append: PreparedData | None
    """That the shards will hold, too."""
    rows: int
    """Of all events, those of `append` included."""
    shards: int
    """A power of two."""
    output: Path
    """As its errors call it."""
    folder: Path
    """Where it is written; what is temporary may lie in it, too."""

    @property
    def files(self) -> list[str]:
        """The names of all files, in the order of their rows."""
        return list(self.reading.accounts)


class Engine(Protocol):
    """Runs the passes of a preparation, one after the other."""

    def read(self) -> None:
        """Check every row, account for it, and bring the rows of each user together."""

    def fit(self) -> Vocabularies:
        """Count values, and give them ids."""

    def build(self, vocabularies: Vocabularies) -> tuple[ShardSize, dict[str, str]]:
        """Write all shards; return what they hold, and the checksums that are known.

        Afterwards nothing temporary is left.
        """
