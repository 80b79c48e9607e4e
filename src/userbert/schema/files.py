"""Opens raw logs as lazy frames: CSV, TSV, JSON Lines and Parquet, plain or compressed.

In: paths from a schema. Out: files in a fixed order, and a `LazyFrame` for each. `infer/` and
`data/read/` use it. A file that cannot be read raises one `SourceError`, which names the file and
says what was expected, what was found and what to do.
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
from userbert.schema.faults import (
    carriage_return_message,
    describe_fault,
    duplicate_column_message,
    guess_separator,
)
from userbert.schema.yaml_text import did_you_mean

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Endings of the file names of logs. All but `.parquet` may have `.gz` or `.zst` after them."""
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""Compressions by ending, as pyarrow names them."""
_COMPRESSED_STARTS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
"""First bytes of gzip, zstd and zlib data, which polars decompresses under any file name."""
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Separator that each ending implies."""
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Value of a Hive partition folder that means null."""
NULL_TEXTS = ("", "nan", "na", "n/a", "null", "none", "-", "?")
"""Texts that mean null in a column of numbers, in lower case."""
_READ_ERRORS = (PolarsError, OSError, PanicException)
"""Errors that polars raises for damaged files."""
_MAX_NAMES = 30
"""Maximum number of names in a list in an error message."""
_TAIL_BYTES = 65_536
"""Number of bytes at the end of a file that are searched for its last line."""


def expand(path: str | Sequence[str], folder: Path) -> list[Path]:
    """Lists the files of a path, folder, glob pattern or list of these, without duplicates.

    Relative paths start at `folder`. A folder includes its subfolders, but not files or folders
    whose names start with `.` or `_`. Raises `SourceError` if there is no file.
    """
    patterns = [path] if isinstance(path, str) else path
    files = [file for pattern in patterns for file in _expand_pattern(pattern, folder)]
    return list(dict.fromkeys(files))


def _expand_pattern(pattern: str, folder: Path) -> list[Path]:
    target = folder / pattern
    try:
        entries = [target] if target.exists() else _sorted_matches(target)
    except OSError as error:  # such as a name that is too long
        raise SourceError(f"{target} cannot be read: {error.strerror}. Check the path.") from error
    if not entries:
        raise SourceError(
            f"{target} does not exist, and as a pattern it matches no file"
            f"{_suggest_sibling(target) or '.'} Check the path; relative paths start at "
            f"{folder.absolute()}."
        )
    files = [
        file for entry in entries for file in (_files_below(entry) if entry.is_dir() else [entry])
    ]
    if not files:
        raise SourceError(
            f"{target}: expected a folder with logs ({', '.join(ENDINGS)}), found no file in it. "
            "Check the path."
        )
    return files


def _suggest_sibling(target: Path) -> str:
    """Suggests a file in the same folder with a similar name; empty if there is none.

    The names without endings must be similar too, because equal endings make all names similar.
    """
    siblings = [entry.name for entry in islice(target.parent.glob("*"), 1000)]
    stem = target.name.split(".")[0]
    return did_you_mean(
        target.name, [name for name in siblings if did_you_mean(stem, [name.split(".")[0]])]
    )


def _sorted_matches(pattern: Path) -> list[Path]:
    names = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - the pattern may be absolute
    return [Path(name) for name in sorted(names)]


def _files_below(folder: Path) -> list[Path]:
    # Spark and editors leave files such as `_SUCCESS` and `.part-0.crc` next to the data.
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part[0] in "._" for part in file.relative_to(folder).parts)
    )


def scan(file: Path) -> pl.LazyFrame:
    """Opens a log in the format that its ending names.

    All columns of CSV and TSV are strings, and an empty field is null. If the separator of the
    ending finds a single column, the header is searched for another: a comma, semicolon, tab or |.
    A CSV file with only a header is a table without rows. Types of JSON Lines are inferred from the
    whole file: a column of numbers and strings becomes strings. Folders named `COLUMN=VALUE` add
    string columns, unless the file has them; only an unbroken chain of these folders directly above
    the file counts. Raises `SourceError` for a file that cannot be opened. Some damage shows only
    when rows are read, so read them within `locating_faults`.
    """
    ending, _ = _file_format(file)
    if file.is_dir():
        raise SourceError(f"{file}: expected a file, found a folder. Check the path.")
    try:
        with file.open("rb") as stream:
            is_empty = not stream.read(1)
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}. Check the path.") from error
    if is_empty:
        raise SourceError(f"{file}: expected a log, found an empty file. Remove it from the logs.")
    with _explaining_faults(file):
        frame = _open(file, ending)
        columns = frame.collect_schema().names()
    added = {name: value for name, value in _partition_columns(file).items() if name not in columns}
    frame = frame.with_columns(
        pl.lit(value, pl.String).alias(name) for name, value in added.items()
    )
    return rename_patterns(frame, [*columns, *added])


def _partition_columns(file: Path) -> dict[str, str | None]:
    """Returns the columns that Hive and Spark keep in folder names: `dt=2024-01-01/country=DE/`.

    Reads the unbroken chain of these folders directly above the file.
    """
    values: dict[str, str | None] = {}
    for folder in file.absolute().parents:
        name, equals, value = folder.name.partition("=")
        if not (name and equals):
            break
        values[unquote(name)] = None if value == _HIVE_NULL else unquote(value)
    return values


def rename_patterns(frame: pl.LazyFrame, columns: Sequence[str]) -> pl.LazyFrame:
    """Puts a space before column names that polars would read as patterns: `*` and `^…$`."""
    patterns = [name for name in columns if name == "*" or re.fullmatch(r"\^.*\$", name, re.S)]
    return frame.rename({name: f" {name}" for name in patterns}) if patterns else frame


def _file_format(file: Path) -> tuple[str, str | None]:
    """Returns the ending that names the format, and the compression (None: uncompressed)."""
    endings = [suffix.lower() for suffix in file.suffixes[-2:]]
    compression = _COMPRESSED.get(endings[-1]) if endings else None
    if compression is not None:
        endings.pop()
    ending = endings[-1] if endings else ""
    if ending == ".parquet" and compression is not None:
        raise SourceError(
            f"{file}: expected a Parquet file, found one inside {compression} data. Decompress it: "
            "Parquet has its own compression."
        )
    if ending not in ENDINGS:
        raise SourceError(
            f"{file}: expected a name that ends in {', '.join(ENDINGS)} (all but .parquet may "
            "have .gz or .zst after it). Rename or convert the file, or exclude it with a pattern "
            "such as logs/*.csv."
        )
    return ending, compression


def _open(file: Path, ending: str) -> pl.LazyFrame:
    if ending == ".parquet":
        frame = pl.scan_parquet(file, glob=False)
        kinds = frame.collect_schema().dtypes()
        # Extension types, such as a UUID, are read as the type in which they are stored.
        is_plain = not any(isinstance(kind, pl.BaseExtension) for kind in kinds)
        return frame if is_plain else frame.with_columns(pl.all().ext.storage())
    if ending in _SEPARATORS:
        return _open_csv(file, ending)
    path = glob.escape(str(file))
    schema = pl.scan_ndjson(path, infer_schema_length=None).collect_schema()
    types = {name: pl.String() if kind == pl.Null else kind for name, kind in schema.items()}
    return pl.scan_ndjson(path, schema=types)


def _open_csv(file: Path, ending: str) -> pl.LazyFrame:
    separator = _SEPARATORS[ending]
    frame = _scan_csv(file, separator)
    other_separator = guess_separator(frame.collect_schema().names())
    if other_separator is not None:
        separator, frame = other_separator, _scan_csv(file, other_separator)
    columns = frame.collect_schema().names()
    _check_header(file, columns)
    _check_end(file, separator, len(columns))
    return frame if separator != ";" else frame.with_columns(_with_decimal_points(pl.all()))


def _scan_csv(file: Path, separator: str) -> pl.LazyFrame:
    return pl.scan_csv(file, separator=separator, infer_schema=False, glob=False)


def _with_decimal_points(text: pl.Expr) -> pl.Expr:
    """Rewrites 1,5 and 1.000,5 as 1.5 and 1000.5, their meaning in files with semicolons."""
    thousands = r"^\s*([+-]?\d{1,3})\.(\d{3})(?:\.(\d{3}))?(,\d+)\s*$"
    text = text.str.replace(thousands, "${1}${2}${3}${4}")
    return text.str.replace(r"^\s*([+-]?\d+),(\d+)\s*$", "${1}.${2}")


def _check_header(file: Path, columns: list[str]) -> None:
    """Raises `SourceError` if the header is not UTF-8, or has bare carriage returns or duplicates.

    polars does not raise an error about any of these.
    """
    # polars decodes other encodings into zero bytes (UTF-16) and replacement characters.
    if any(character in name for name in columns for character in "\0\ufffd"):
        raise SourceError(f"{file}{_fault_message(file)}")
    if any("\r" in name for name in columns):
        raise SourceError(f"{file}, line 1: {carriage_return_message()}")
    # polars renames the second `a` to a_duplicated_0.
    originals = {name: re.sub(r"_duplicated_\d+$", "", name) for name in columns}
    message = duplicate_column_message(
        [original if original in columns else name for name, original in originals.items()]
    )
    if message is not None:
        raise SourceError(f"{file}{message}")


def _check_end(file: Path, separator: str, width: int) -> None:
    """Raises `SourceError` if the file is cut off: its last line has few fields and no line break.

    polars fills missing fields with nulls, so it does not notice.
    """
    with file.open("rb") as stream:
        if stream.read(4).startswith(_COMPRESSED_STARTS):
            return
        stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        lines = stream.read().split(b"\n")
    mark = separator.encode()
    before, last = lines[-2:] if len(lines) > 1 else (b"", b"")
    # Separators and line breaks in quotes are data. If the line before has fewer fields, too, rows
    # may be short on purpose.
    if last and b'"' not in last and last.count(mark) < width - 1 == before.count(mark):
        raise SourceError(
            f"{file}, last line: expected {width} fields and a line break, found "
            f"{last.count(mark) + 1} and no line break: the file is cut off. Copy it again; if it "
            "is complete, end it with a line break."
        )


@contextmanager
def locating_faults(*files: Path | str) -> Iterator[None]:
    """If polars fails in the block, raises `SourceError` with the damaged file and, if known, line.

    Reads each of `files` again by itself to find the damaged file. If no file is damaged, raises
    the original error. Skips names that are not files, such as the name of a frame in memory.
    """
    try:
        yield
    except _READ_ERRORS as error:
        existing = [file for file in map(Path, files) if file.is_file()]
        for file in existing:
            with _explaining_faults(file):
                scan(file).select(pl.all().null_count()).collect(engine="streaming")
        for file in existing:
            # polars may read all of a damaged file without an error, but fail at some columns.
            message = _fault_message(file)
            if message.startswith(", line "):
                raise SourceError(f"{file}{message}") from error
        raise


def columns_of(frame: pl.LazyFrame, file: Path | str) -> dict[str, pl.DataType]:
    """Returns the type of each column of a file's frame."""
    with locating_faults(file):
        return dict(frame.collect_schema())


@contextmanager
def _explaining_faults(file: Path) -> Iterator[None]:
    """Turns polars' errors into a `SourceError` that locates the damage in `file`."""
    try:
        yield
    except _READ_ERRORS as error:
        raise SourceError(f"{file}{_fault_message(file)}") from error


def _fault_message(file: Path) -> str:
    """Returns the end of a message, after the file's name, about a file that polars cannot read."""
    ending, compression = _file_format(file)
    separator = None
    if ending in _SEPARATORS:
        separator = _SEPARATORS[ending]
        with suppress(*_READ_ERRORS):
            columns = _scan_csv(file, separator).collect_schema().names()
            separator = guess_separator(columns) or separator
    return describe_fault(str(file), ending, compression, separator)


def join_names(names: Iterable[str]) -> str:
    """Joins names for a message: the first 30, then the number of the others."""
    shown = [name or '""' for name in names]
    rest = f" and {len(shown) - _MAX_NAMES:,} more" if len(shown) > _MAX_NAMES else ""
    return ", ".join(shown[:_MAX_NAMES]) + rest if shown else "none"
