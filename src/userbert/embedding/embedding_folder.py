"""A folder of embeddings: the parts that are done, and what says that all are there.

In: parts as they are made, in any order, by any process. Out: `part-00000.parquet` and so on, and
`summary.json`, which is written last. `embed.py` writes it; whoever reads embeddings asks here for
the files. Nothing here needs torch.

```
.NAME.embedding/       until it is whole
  run.json             what is embedded: model, data, cut-offs, format, precision
  embeddings/          becomes NAME
  done/                of each part that is whole: how many vectors, and its checksum
```
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from userbert.errors import InputError
from userbert.folders import checksum, found_at, read_json, sync, write_json, write_summary
from userbert.progress import progress, warn
from userbert.workers import cores, threaded

FORMAT = 1
_MADE, _DONE, _SUMMARY = "embeddings", "done", "summary.json"
_ENDING = ".embedding"


@dataclass(frozen=True)
class Done:
    """A part that is whole."""

    vectors: int
    checksum: str


def work_folder(output: Path) -> Path:
    """Where the run lives that will write `output`."""
    return output.with_name(f".{output.name}{_ENDING}")


def part_name(number: int) -> str:
    """The file of a part."""
    return f"part-{number:05d}.parquet"


def add_part(work: Path, number: int, vectors: int, write: Callable[[Path], None]) -> Done:
    """Let `write` fill a part of so many vectors, which appears whole or not at all.

    Two processes may do so at once, as a cluster does that does not trust one of them.
    """
    for folder in (_MADE, _DONE):
        (work / folder).mkdir(exist_ok=True)
    mine = work / uuid4().hex
    try:
        write(mine)
        sync(mine)
        done = Done(vectors, checksum(mine))
        mine.replace(work / _MADE / part_name(number))
        # Last: a part that nobody has noted is made again.
        write_json(mine, asdict(done))
        mine.replace(_note(work, number))
    finally:
        mine.unlink(missing_ok=True)
    return done


def parts_done(work: Path, numbers: Collection[int]) -> dict[int, Done]:
    """Those of the parts that are there as they were written; a warning names what is damaged."""
    noted = [number for number in numbers if _note(work, number).is_file()]
    if not noted:
        return {}
    found: dict[int, Done] = {}

    def look(number: int) -> tuple[int, Done | None]:
        try:
            done = Done(**read_json(_note(work, number)))
            is_whole = checksum(work / _MADE / part_name(number)) == done.checksum
        except (InputError, OSError, TypeError):
            is_whole = False
        return number, done if is_whole else None

    with progress("checking parts", len(noted)) as advance:
        for number, done in threaded(look, noted, cores()):
            if done is None:
                warn(f"{work / _MADE / part_name(number)} is damaged, and is made again")
            else:
                found[number] = done
            advance(1, "")
    return found


def count_done(work: Path) -> int:
    """How many parts are noted."""
    return sum(1 for _ in (work / _DONE).glob("*.json"))


def publish(work: Path, output: Path, done: Mapping[int, Done], about: Mapping[str, Any]) -> None:
    """Close the folder, give it its name, and remove the run's."""
    made = work / _MADE
    known = {part_name(number): part.checksum for number, part in done.items()}
    (made / _SUMMARY).unlink(missing_ok=True)  # of a publication that was killed
    vectors = sum(part.vectors for part in done.values())
    write_summary(
        made, "embeddings", known, format=FORMAT, vectors=vectors, parts=len(done), **about
    )
    for path in (made / _SUMMARY, made):
        sync(path)
    made.rename(output)
    shutil.rmtree(work)


def complete_files(path: Path) -> list[Path]:
    """The file of embeddings, or the parts of a folder in their order.

    Raises `InputError` if the folder is not complete.
    """
    if path.is_file():
        return [path]
    refuse_unfinished(path)
    if not path.is_dir():
        raise InputError(
            f"{path}: expected a Parquet file of embeddings, or a folder of them; "
            f"{found_at(path)}. Make one by userbert embed."
        )
    again = "Copy the whole folder again, or remove it and embed again."
    if not (path / _SUMMARY).is_file():
        raise InputError(
            f"{path} is not complete: it has no {_SUMMARY}, which is written last. {again}"
        )
    summary = read_json(path / _SUMMARY)
    if not isinstance(summary, dict) or summary.get("kind") != "embeddings":
        raise InputError(f"{path / _SUMMARY} is not of embeddings. {again}")
    if summary.get("format") != FORMAT:
        raise InputError(
            f"{path} has the format {summary.get('format')!r}, this version reads {FORMAT}. "
            f"Install the version of userbert that wrote it ({summary.get('version')})."
        )
    try:
        files = [path / part_name(number) for number in range(int(summary["parts"]))]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / _SUMMARY} is damaged: it lacks {error}. {again}") from error
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: {path} is not complete. {again}")
    return files


def refuse_unfinished(path: Path) -> None:
    """Raise `InputError` if a folder is that of a run that has not come to its end."""
    work = path.parent if path.name == _MADE else path
    if not (work.name.endswith(_ENDING) and (work / "run.json").is_file()):
        return
    output = work.with_name(work.name[1:].removesuffix(_ENDING))
    raise InputError(
        f"{path} is not complete: it holds the {count_done(work):,} parts that a run made before "
        f"it was interrupted. Go on with it: userbert embed MODEL DATA -o {output} --resume"
    )


def _note(work: Path, number: int) -> Path:
    return work / _DONE / f"{number:05d}.json"
