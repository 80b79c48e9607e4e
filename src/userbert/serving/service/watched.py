"""Whether files are still those that were read.

In: a file or folder. Out: `Watched`, which knows their sizes and times. A model is read whole when
the service begins, and prepared data lie in memory by their files; what is written over them later
must not be mistaken for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_Stamps = dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Watched:
    """A file or folder as it was."""

    path: Path
    _stamps: _Stamps

    @classmethod
    def at(cls, path: Path) -> Self:
        """As it is now."""
        return cls(path, dict(_stamps_of(path)))

    def has_changed(self) -> bool:
        """Whether any file is another, or gone, or new."""
        return dict(_stamps_of(self.path)) != self._stamps


def _stamps_of(path: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        try:
            found = file.stat()
        except OSError:  # gone meanwhile
            continue
        if not file.is_dir():
            yield str(file), (found.st_ino, found.st_size, found.st_mtime_ns)
