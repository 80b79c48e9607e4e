"""Raw logs as lazy frames: CSV, TSV, JSON Lines and Parquet, plain or compressed.

In: paths as a schema names them. Out: files in a fixed order, and a `LazyFrame` for each. The
inference and `data/sources.py` use it. A file that cannot be read is one `SourceError` that says
which, what was expected, what was found, and the way out.
"""

import csv
import glob
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from polars.exceptions import ComputeError, NoDataError, PanicException, SchemaError

from userbert.errors import SourceError

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""In the name of a folder."""
_UNREADABLE = (ComputeError, NoDataError, SchemaError, OSError, PanicException)


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
    if target.exists():
        found = [target]
    else:
        names = glob.glob(str(target), recursive=True)  # noqa: PTH207 - the pattern may be absolute
        found = [Path(name) for name in sorted(names)]
    if not found:
        raise SourceError(
            f"{target} does not exist, and as a pattern it matches no file. Check the path; a "
            f"relative one starts at {folder.absolute()}."
        )
    files = [file for entry in found for file in (_below(entry) if entry.is_dir() else [entry])]
    if not files:
        raise SourceError(
            f"{target}: expected a folder with logs ({', '.join(ENDINGS)}), found no file in it. "
            "Check the path."
        )
    return files


def _below(folder: Path) -> list[Path]:
    # Spark and editors leave `_SUCCESS`, `.part-0.crc` and the like beside the data.
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part[0] in "._" for part in file.relative_to(folder).parts)
    )


def scan(file: Path) -> pl.LazyFrame:
    """Open a log by its ending; columns of CSV and TSV are all strings, an empty field is null.

    Types of JSON Lines are those of the whole file: a column of numbers and strings is one of
    strings. A CSV file with a header alone is a table without rows. Folders right above the file
    that are called `COLUMN=VALUE` add columns of text, unless the file has them. Raises
    `SourceError`; what shows only when rows are read is told by `reading`.
    """
    form, _ = _form(file)
    try:
        size = file.stat().st_size
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}. Check the path.") from error
    if file.is_dir():
        raise SourceError(f"{file}: expected a file, found a folder.")
    if size == 0:
        raise SourceError(f"{file}: expected a log, found an empty file. Remove it from the logs.")
    with _told_of(file):
        frame = _open(file, form)
        columns = frame.collect_schema().names()
    if form in _SEPARATORS:
        _check_header(file, columns, form)
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
        return pl.scan_parquet(file, glob=False)
    if form in _SEPARATORS:
        return pl.scan_csv(file, separator=_SEPARATORS[form], infer_schema=False, glob=False)
    path = glob.escape(str(file))
    schema = pl.scan_ndjson(path, infer_schema_length=None).collect_schema()
    known = {name: pl.String() if kind == pl.Null else kind for name, kind in schema.items()}
    return pl.scan_ndjson(path, schema=known)


def _check_header(file: Path, columns: list[str], form: str) -> None:
    header = columns[0]
    if any(character in name for name in columns for character in "\0\ufffd"):
        raise SourceError(
            f"{file}, line 1: expected a header in UTF-8, found other bytes. {_RECODE}"
        )
    other = next((character for character in ";\t|," if character in header), None)
    if len(columns) == 1 and other is not None:
        raise SourceError(
            f"{file}, line 1: expected columns separated by {_SEPARATORS[form]!r}, found {other!r} "
            "in the only column's name. Convert the file to commas, or to tabs and .tsv."
        )
    for name in columns:
        original, mark, number = name.rpartition("_duplicated_")
        if mark and number.isdigit() and original in columns:
            raise SourceError(
                f"{file}, line 1: the column {original!r} stands twice. Rename one of them."
            )


@contextmanager
def reading(*files: Path | str) -> Iterator[None]:
    """Tell what is wrong with the files when polars fails to read one of them.

    Each file is read alone to find the damaged one; if none is, the error was not theirs and
    goes on as it is. A name that is no file's, as that of a frame in memory, is passed over.
    """
    try:
        yield
    except _UNREADABLE:
        for file in map(Path, files):
            if file.is_file():
                with _told_of(file):
                    scan(file).select(pl.all().null_count()).collect(engine="streaming")
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


_RECODE = (
    "If it is text in another encoding, convert it: iconv -f LATIN1 -t UTF-8; otherwise it is "
    "not a text file."
)


def _fault(file: Path) -> str:
    """Say where a file is bad, and the way out; only called when polars gave up."""
    form, compression = _form(file)
    if form == ".parquet":
        return ": expected a complete Parquet file, found a damaged one. Write or copy it again."
    try:
        with pa.input_stream(str(file), compression=compression) as stream:
            lines = _text_lines(io.BufferedReader(stream))
            return (_csv_fault if form in _SEPARATORS else _json_fault)(lines, form)
    except OSError:
        tool = "gzip" if compression == "gzip" else "zstd"
        return (
            f": expected complete {compression} data, found data that is cut off or damaged. Copy "
            f"the file again; {tool} -t FILE checks it."
        )
    except _LineError as error:
        return str(error)


class _LineError(ValueError):
    """A line that cannot be read."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f", line {line}: {message}")


def _text_lines(stream: io.BufferedReader) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            byte = line[error.start]
            message = f"expected UTF-8 text, found the byte {byte:#04x}. {_RECODE}"
            raise _LineError(number, message) from None


def _csv_fault(lines: Iterator[str], form: str) -> str:
    rows = csv.reader(lines, delimiter=_SEPARATORS[form], strict=True)
    width, last = None, 0
    try:
        for row in rows:
            if width is None:
                width = len(row)
            elif len(row) > width:
                raise _LineError(
                    rows.line_num,
                    f"expected {width} fields as in the header, found {len(row)}. Put quotes "
                    "around a field with a separator in it.",
                )
            last = rows.line_num
    except csv.Error:
        raise _LineError(
            last + 1,
            "expected quotes in pairs around whole fields, found another '\"'. Write "
            'a quote inside a field as "" and put quotes around the field.',
        ) from None
    if width is None:
        return ": expected a header and rows, found no text. Remove the file from the logs."
    return ": expected a CSV file, found one that cannot be taken apart. Write it again."


def _json_fault(lines: Iterator[str], form: str) -> str:
    found = False
    for number, line in zip(count(1), lines):
        if line.startswith("\ufeff"):
            raise _LineError(number, "found a byte order mark. Save the file without it.")
        if not line.strip():
            continue
        found = True
        try:
            is_object = isinstance(json.loads(line, parse_constant=_refuse), dict)
        except ValueError:
            is_object = False
        if not is_object:
            start = line.strip()[:40]
            message = f"expected one JSON object a line ({form}), found {start!r}. Mend the line."
            raise _LineError(number, message)
    if not found:
        return ": expected one JSON object a line, found none. Remove the file from the logs."
    return (
        ": a column's values are of kinds that do not go together, such as true and 1, or a list "
        "and a number. Write all of them as strings."
    )


def _refuse(constant: str) -> float:
    raise ValueError(constant)
