"""Raw logs as lazy frames: CSV, TSV, JSON Lines and Parquet, plain or compressed.

In: paths as a schema names them. Out: files in a fixed order, and a `LazyFrame` for each. The
inference and `data/read/` use it. A file that cannot be read is one `SourceError` that says
which, what was expected, what was found, and the way out.
"""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from polars.exceptions import PanicException, PolarsError

from userbert.errors import SourceError
from userbert.schema.faults import fault, lone_returns, other_separator, twice
from userbert.schema.yaml_text import did_you_mean

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_COMPRESSED_STARTS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
"""Of gzip, zstd and zlib: polars reads them whatever the file is called."""
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""In the name of a folder."""
NULL_TEXTS = ("", "nan", "na", "n/a", "null", "none", "-", "?")
"""What stands for nothing in a column of numbers, in small letters."""
_UNREADABLE = (PolarsError, OSError, PanicException)
_LISTED = 30
_END = 65_536
"""Bytes in which the last line is looked for."""


def expand(path: str | Sequence[str], folder: Path) -> list[Path]:
    """List the files that a file, folder, glob pattern or list of these names, each once.

    Relative paths start at `folder`. A folder is read with all that is below it, but names that
    start with `.` or `_`. Raises `SourceError` if nothing is there.
    """
    patterns = [path] if isinstance(path, str) else path
    files = [file for pattern in patterns for file in _expand_one(pattern, folder)]
    return list(dict.fromkeys(files))


def _expand_one(pattern: str, folder: Path) -> list[Path]:
    target = folder / pattern
    try:
        found = [target] if target.exists() else _matching(target)
    except OSError as error:  # such as a name that is too long
        raise SourceError(f"{target} cannot be read: {error.strerror}. Check the path.") from error
    if not found:
        raise SourceError(
            f"{target} does not exist, and as a pattern it matches no file"
            f"{_nearest_beside(target) or '.'} Check the path; a relative one starts at "
            f"{folder.absolute()}."
        )
    files = [file for entry in found for file in (_below(entry) if entry.is_dir() else [entry])]
    if not files:
        raise SourceError(
            f"{target}: expected a folder with logs ({', '.join(ENDINGS)}), found no file in it. "
            "Check the path."
        )
    return files


def _nearest_beside(target: Path) -> str:
    """Suggest what lies there of a similar name; endings make all names similar."""
    beside = [entry.name for entry in islice(target.parent.glob("*"), 1000)]
    stem = target.name.split(".")[0]
    return did_you_mean(
        target.name, [name for name in beside if did_you_mean(stem, [name.split(".")[0]])]
    )


def _matching(pattern: Path) -> list[Path]:
    names = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - the pattern may be absolute
    return [Path(name) for name in sorted(names)]


def _below(folder: Path) -> list[Path]:
    # Spark and editors leave `_SUCCESS`, `.part-0.crc` and the like beside the data.
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part[0] in "._" for part in file.relative_to(folder).parts)
    )


def scan(file: Path) -> pl.LazyFrame:
    """Open a log by its ending; columns of CSV and TSV are all strings, an empty field is null.

    What separates the columns of CSV and TSV is seen in the header: commas, semicolons, tabs or |.
    Types of JSON Lines are those of the whole file: a column of numbers and strings is one of
    strings. A CSV file with a header alone is a table without rows. Folders right above the file
    that are called `COLUMN=VALUE` add columns of text, unless the file has them. Raises
    `SourceError`; what shows only when rows are read is told by `reading`.
    """
    form, _ = _form(file)
    if file.is_dir():
        raise SourceError(f"{file}: expected a file, found a folder. Check the path.")
    try:
        with file.open("rb") as stream:
            is_empty = not stream.read(1)
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}. Check the path.") from error
    if is_empty:
        raise SourceError(f"{file}: expected a log, found an empty file. Remove it from the logs.")
    with _told_of(file):
        frame = _open(file, form)
        columns = frame.collect_schema().names()
    added = {name: one for name, one in _partition(file).items() if name not in columns}
    frame = frame.with_columns(pl.lit(one, pl.String).alias(name) for name, one in added.items())
    return without_patterns(frame, [*columns, *added])


def _partition(file: Path) -> dict[str, str | None]:
    """What Hive, Spark and others say by folders: `dt=2024-01-01/country=DE/part.parquet`."""
    values: dict[str, str | None] = {}
    for folder in file.absolute().parents:
        name, equals, value = folder.name.partition("=")
        if not (name and equals):
            break
        values[unquote(name)] = None if value == _NO_VALUE else unquote(value)
    return values


def without_patterns(frame: pl.LazyFrame, columns: Sequence[str]) -> pl.LazyFrame:
    """A space before names that polars takes for patterns of other columns: `*`, `^…$`."""
    patterns = [name for name in columns if name == "*" or re.fullmatch(r"\^.*\$", name, re.S)]
    return frame.rename({name: f" {name}" for name in patterns}) if patterns else frame


def _form(file: Path) -> tuple[str, str | None]:
    """Tell the ending that names the format, and the compression."""
    endings = [ending.lower() for ending in file.suffixes[-2:]]
    compression = _COMPRESSED.get(endings[-1]) if endings else None
    if compression is not None:
        endings.pop()
    form = endings[-1] if endings else ""
    if form == ".parquet" and compression is not None:
        raise SourceError(
            f"{file}: Parquet is compressed inside, and cannot be read from a {compression} file. "
            "Decompress it first."
        )
    if form not in ENDINGS:
        raise SourceError(
            f"{file}: expected a name that ends in {', '.join(ENDINGS)} (text also with .gz or "
            ".zst after it). Rename or convert the file, or leave it out by a pattern such as "
            "logs/*.csv."
        )
    return form, compression


def _open(file: Path, form: str) -> pl.LazyFrame:
    if form == ".parquet":
        frame = pl.scan_parquet(file, glob=False)
        kinds = frame.collect_schema().dtypes()
        # Of types that others added, such as a UUID, only what they are stored as is known here.
        is_plain = not any(isinstance(kind, pl.BaseExtension) for kind in kinds)
        return frame if is_plain else frame.with_columns(pl.all().ext.storage())
    if form in _SEPARATORS:
        return _open_csv(file, form)
    path = glob.escape(str(file))
    schema = pl.scan_ndjson(path, infer_schema_length=None).collect_schema()
    known = {name: pl.String() if kind == pl.Null else kind for name, kind in schema.items()}
    return pl.scan_ndjson(path, schema=known)


def _open_csv(file: Path, form: str) -> pl.LazyFrame:
    separator = _SEPARATORS[form]
    frame = _scan_csv(file, separator)
    other = other_separator(frame.collect_schema().names())
    if other is not None:
        separator, frame = other, _scan_csv(file, other)
    columns = frame.collect_schema().names()
    _check_header(file, columns)
    _check_end(file, separator, len(columns))
    return frame if separator != ";" else frame.with_columns(_with_points(pl.all()))


def _scan_csv(file: Path, separator: str) -> pl.LazyFrame:
    return pl.scan_csv(file, separator=separator, infer_schema=False, glob=False)


def _with_points(text: pl.Expr) -> pl.Expr:
    """Write 1,5 and 1.000,5 as 1.5 and 1000.5: so they are meant where semicolons separate."""
    thousands = r"^\s*([+-]?\d{1,3})\.(\d{3})(?:\.(\d{3}))?(,\d+)\s*$"
    text = text.str.replace(thousands, "${1}${2}${3}${4}")
    return text.str.replace(r"^\s*([+-]?\d+),(\d+)\s*$", "${1}.${2}")


def _check_header(file: Path, columns: list[str]) -> None:
    if any(character in name for name in columns for character in "\0\ufffd"):
        raise SourceError(f"{file}{_fault(file)}")
    if any("\r" in name for name in columns):
        raise SourceError(f"{file}, line 1: {lone_returns()}")
    # polars calls the second `a` a_duplicated_0.
    originals = {name: re.sub(r"_duplicated_\d+$", "", name) for name in columns}
    told = twice([one if one in columns else name for name, one in originals.items()])
    if told is not None:
        raise SourceError(f"{file}{told}")


def _check_end(file: Path, separator: str, width: int) -> None:
    """A last line that is short, of a file without a last line break, was cut off."""
    with file.open("rb") as stream:
        if stream.read(4).startswith(_COMPRESSED_STARTS):
            return
        stream.seek(max(0, file.stat().st_size - _END))
        lines = stream.read().split(b"\n")
    mark = separator.encode()
    before, last = lines[-2:] if len(lines) > 1 else (b"", b"")
    if last and b'"' not in last and last.count(mark) < width - 1 == before.count(mark):
        raise SourceError(
            f"{file}, last line: expected {width} fields and a line break, found "
            f"{last.count(mark) + 1} and none: the file is cut off. Copy it again; if it is whole, "
            "end it with a line break."
        )


@contextmanager
def reading(*files: Path | str) -> Iterator[None]:
    """Tell what is wrong with the files when polars fails to read one of them.

    Each file is read alone to find the damaged one; if none is, the error was not theirs and
    goes on as it is. A name that is no file's, as that of a frame in memory, is passed over.
    """
    try:
        yield
    except _UNREADABLE as error:
        there = [file for file in map(Path, files) if file.is_file()]
        for file in there:
            with _told_of(file):
                scan(file).select(pl.all().null_count()).collect(engine="streaming")
        for file in there:
            # Some damage shows in some columns alone, or not when a file is read as a whole.
            told = _fault(file)
            if told.startswith(", line "):
                raise SourceError(f"{file}{told}") from error
        raise


def columns_of(frame: pl.LazyFrame, file: Path | str) -> dict[str, pl.DataType]:
    """Tell the columns of a file's frame and their types."""
    with reading(file):
        return dict(frame.collect_schema())


def count_rows(frame: pl.LazyFrame, file: Path | str) -> int:
    """Count the rows of a file's frame."""
    with reading(file):
        return int(frame.select(pl.len()).collect(engine="streaming").item())


@contextmanager
def _told_of(file: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise SourceError(f"{file}{_fault(file)}") from error


def _fault(file: Path) -> str:
    """Say where a file is bad, and the way out; only called when polars gave up."""
    form, compression = _form(file)
    separator = None
    if form in _SEPARATORS:
        separator = _SEPARATORS[form]
        with suppress(*_UNREADABLE):
            columns = _scan_csv(file, separator).collect_schema().names()
            separator = other_separator(columns) or separator
    return fault(str(file), form, compression, separator)


def join_names(names: Iterable[str]) -> str:
    """Names as a message lists them: the first ones, if there are many."""
    every = [name or '""' for name in names]
    rest = f" and {len(every) - _LISTED:,} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + rest if every else "none"
