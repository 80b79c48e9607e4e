"""Writes a folder of embeddings part by part, and checks that it is complete.

In: parts in any order, from any process. Out: `part-00000.parquet` and so on, and `summary.json`,
which is written last. `embed.py` writes the folder with these functions. Readers of embeddings call
`embedding_files`. Imports no torch.

```
.NAME.embedding/       work folder, until the output is complete
  run.json             settings: checksums of model and data, cut-offs, format, precision
  embeddings/          becomes NAME
  done/                number of vectors and checksum of each finished part
```
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from userbert.errors import InputError
from userbert.folders import checksum, describe_path, read_json, sync, write_json, write_summary
from userbert.progress import progress, warn
from userbert.workers import cores, map_threaded

FORMAT = 1
"""Version of the folder's layout, in `summary.json`."""
_PARTS, _FINISHED = "embeddings", "done"
"""Subfolders of the work folder: files of parts, and records of finished parts."""
_SUMMARY = "summary.json"
"""File of the output folder that lists checksums of all parts."""
_ENDING = ".embedding"
"""Ending of a work folder's name."""


@dataclass(frozen=True)
class FinishedPart:
    """Record of a part that is completely written."""

    vectors: int
    """Number of vectors."""
    checksum: str
    """SHA-256 of the file."""


def work_folder(output: Path) -> Path:
    """Returns the path of the work folder of the run that writes `output`."""
    return output.with_name(f".{output.name}{_ENDING}")


def part_name(number: int) -> str:
    """Returns the file name of a part."""
    return f"part-{number:05d}.parquet"


def add_part(work: Path, number: int, vectors: int, write: Callable[[Path], None]) -> FinishedPart:
    """Writes the file of a part, complete or not at all, and then the record of the part.

    `write` writes the file, with `vectors` vectors, to the path that it receives. Two processes may
    write the same part at once, as in Spark's speculative execution.
    """
    for folder in (_PARTS, _FINISHED):
        (work / folder).mkdir(exist_ok=True)
    temporary = work / uuid4().hex
    try:
        write(temporary)
        sync(temporary)
        finished = FinishedPart(vectors, checksum(temporary))
        temporary.replace(work / _PARTS / part_name(number))
        # The record comes last: a part without a record is computed again.
        write_json(temporary, asdict(finished))
        temporary.replace(_record_file(work, number))
    finally:
        temporary.unlink(missing_ok=True)
    return finished


def finished_parts(work: Path, numbers: Collection[int]) -> dict[int, FinishedPart]:
    """Returns records of those parts in `numbers` whose files match their checksums, by number.

    Warns of each damaged part.
    """
    recorded = [number for number in numbers if _record_file(work, number).is_file()]
    if not recorded:
        return {}
    finished: dict[int, FinishedPart] = {}

    def check(number: int) -> tuple[int, FinishedPart | None]:
        try:
            record = FinishedPart(**read_json(_record_file(work, number)))
            is_intact = checksum(work / _PARTS / part_name(number)) == record.checksum
        except (InputError, OSError, TypeError):
            is_intact = False
        return number, record if is_intact else None

    with progress("checking parts", len(recorded)) as advance:
        for number, record in map_threaded(check, recorded, cores()):
            if record is None:
                warn(f"{work / _PARTS / part_name(number)} is damaged; it is computed again")
            else:
                finished[number] = record
            advance(1, "")
    return finished


def count_finished(work: Path) -> int:
    """Returns the number of records of finished parts, without checking the files."""
    return sum(1 for _ in (work / _FINISHED).glob("*.json"))


def publish(
    work: Path, output: Path, finished: Mapping[int, FinishedPart], about: Mapping[str, Any]
) -> None:
    """Writes `summary.json`, moves the folder of parts to `output`, and removes `work`.

    `finished` holds the record of every part. `about` holds further entries of `summary.json`.
    """
    parts = work / _PARTS
    checksums = {part_name(number): part.checksum for number, part in finished.items()}
    (parts / _SUMMARY).unlink(missing_ok=True)  # left by a run that was killed while publishing
    vectors = sum(part.vectors for part in finished.values())
    write_summary(
        parts, "embeddings", checksums, format=FORMAT, vectors=vectors, parts=len(finished), **about
    )
    for path in (parts / _SUMMARY, parts):
        sync(path)
    parts.rename(output)
    shutil.rmtree(work)


def embedding_files(path: Path) -> list[Path]:
    """Returns the files that hold embeddings: `path` itself, or the parts of a folder in order.

    Raises `InputError` if `path` does not exist, or the folder is not complete, is damaged, has
    another format, or does not hold embeddings.
    """
    if path.is_file():
        return [path]
    refuse_unfinished(path)
    if not path.is_dir():
        raise InputError(
            f"{path}: expected a Parquet file or a folder of embeddings; "
            f"{describe_path(path)}. Write one with userbert embed."
        )
    remedy = "Copy the whole folder again, or remove it and embed again."
    if not (path / _SUMMARY).is_file():
        raise InputError(
            f"{path} is not complete: it has no {_SUMMARY}, which is written last. {remedy}"
        )
    summary = read_json(path / _SUMMARY)
    if not isinstance(summary, dict) or summary.get("kind") != "embeddings":
        raise InputError(f"{path / _SUMMARY} does not describe embeddings. {remedy}")
    if summary.get("format") != FORMAT:
        raise InputError(
            f"{path} has the format {summary.get('format')!r}, this version reads {FORMAT}. "
            f"Install the version of userbert that wrote it ({summary.get('version')})."
        )
    try:
        files = [path / part_name(number) for number in range(int(summary["parts"]))]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path / _SUMMARY} is damaged: expected the number of parts, "
            f"found {summary.get('parts')!r}. {remedy}"
        ) from error
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: {path} is not complete. {remedy}")
    return files


def refuse_unfinished(path: Path) -> None:
    """Raises `InputError` if `path` is the work folder of an unfinished run."""
    work = path.parent if path.name == _PARTS else path
    if not (work.name.endswith(_ENDING) and (work / "run.json").is_file()):
        return
    output = work.with_name(work.name[1:].removesuffix(_ENDING))
    raise InputError(
        f"{path} is not complete: an interrupted run has written {count_finished(work):,} parts. "
        f"Resume the run: userbert embed MODEL DATA -o {output} --resume"
    )


def _record_file(work: Path, number: int) -> Path:
    return work / _FINISHED / f"{number:05d}.json"
