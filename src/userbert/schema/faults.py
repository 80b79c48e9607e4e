"""Describes where a damaged raw log is wrong, and how to fix it.

In: a file that polars cannot read. Out: the end of a message that starts with the file's name: the
line, what was expected, what was found and what to do. `schema/files.py` uses this module only
after a failure, because the file is read again, line by line.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

_CONVERT = "If it is text in another encoding, convert it: iconv -f {} -t UTF-8 FILE > NEW"
"""Advice on a file in another encoding, whose name fills the braces."""
_FROM_LATIN1 = f"{_CONVERT.format('LATIN1')}; otherwise it is not a text file."
"""Advice on a file that is not UTF-8; Latin-1 is the most common other encoding of logs."""
_MAX_EXCERPT = 40
"""Maximum number of characters of a line that a message quotes, so that it stays one line."""


def describe_fault(file: str, ending: str, compression: str | None, separator: str | None) -> str:
    """Returns the end of a message about the first fault of a file.

    `ending` is the file's format, such as `.csv`. `compression` is `gzip`, `zstd` or None.
    `separator` is the character between the fields of a CSV or TSV file, None for other formats.
    """
    if ending == ".parquet":
        return ": expected a complete Parquet file, found a damaged one. Write or copy it again."
    try:
        with pa.input_stream(file, compression=compression) as stream:
            lines = _text_lines(io.BufferedReader(stream))
            return _json_fault(lines, ending) if separator is None else _csv_fault(lines, separator)
    except OSError:
        if compression is None:
            return ": the file cannot be read. Copy it again."
        tool = "gzip" if compression == "gzip" else "zstd"
        return (
            f": expected complete {compression} data, found data that is cut off or damaged. Copy "
            f"the file again; {tool} -t FILE checks it."
        )
    except _LineError as error:
        return str(error)


def duplicate_column_message(columns: Sequence[str]) -> str | None:
    """Returns the end of a message about a duplicate column of a header; None if there is none."""
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            return f", line 1: the column {name!r} appears twice. Rename one of them."
        seen.add(name)
    return None


def guess_separator(columns: Sequence[str]) -> str | None:
    """Returns the likely separator of a header that was read as a single column, if any."""
    if len(columns) != 1:
        return None
    return next((mark for mark in ";\t|," if mark in columns[0]), None)


class _LineError(ValueError):
    """A fault in one line; its text is the end of a message."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f", line {line}: {message}")


def _text_lines(stream: io.BufferedReader) -> Iterator[str]:
    """Yields lines decoded as UTF-8. Raises `_LineError` for other encodings and zero bytes."""
    for number, line in enumerate(stream, start=1):
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            advice = "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."
            raise _LineError(1, f"expected UTF-8 text, found UTF-16. {advice}")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            message = (
                f"expected UTF-8 text, found the byte {line[error.start]:#04x}. {_FROM_LATIN1}"
            )
            raise _LineError(number, message) from None
        if "\0" in text:
            advice = f"{_CONVERT.format('UTF-16LE')}; otherwise it is not a text file."
            raise _LineError(number, f"expected UTF-8 text, found zero bytes. {advice}")
        yield text


def _csv_fault(lines: Iterator[str], separator: str) -> str:
    """Returns the end of a message about the file; raises `_LineError` for a fault in a line."""
    row_lines: list[str] = []  # a row has several lines if its quoted fields hold line breaks

    def recorded_lines() -> Iterator[str]:
        for line in lines:
            row_lines.append(line)
            yield line

    rows = csv.reader(recorded_lines(), delimiter=separator, strict=True)
    header, last_line = None, 0
    try:
        for row in rows:
            quotes = sum(line.count('"') for line in row_lines)
            row_lines.clear()
            if header is None and row:
                header = row
                message = duplicate_column_message(header)
                if message is not None:
                    return message
            elif header is not None and len(row) > len(header):
                raise _LineError(
                    rows.line_num,
                    f"expected {len(header)} fields as in the header, found {len(row)}. Put quotes "
                    "around a field with a separator in it.",
                )
            if quotes % 2 or quotes < sum(
                2 + 2 * field.count('"') for field in row if '"' in field
            ):
                raise _unpaired_quote(last_line + 1)
            last_line = rows.line_num
    except csv.Error as error:
        if "new-line" in str(error):
            raise _LineError(last_line + 1, carriage_return_message()) from None
        raise _unpaired_quote(last_line + 1) from None
    if header is None:
        return ": expected a header and rows, found no text. Remove the file from the logs."
    return ": expected a CSV file, found one that cannot be parsed. Write it again."


def carriage_return_message() -> str:
    """Returns the message about lines that end in a lone carriage return, as on old Macs."""
    return (
        "expected lines that end in \\n or \\r\\n, found a lone \\r. Convert it: tr '\\r' '\\n' < "
        "FILE > NEW."
    )


def _unpaired_quote(line: int) -> _LineError:
    """Returns the error about a quote that does not pair with another in its row."""
    return _LineError(
        line,
        "expected quotes in pairs around whole fields, found a stray '\"'. Write a quote inside a "
        'field as "" and put quotes around the field.',
    )


def _json_fault(lines: Iterator[str], ending: str) -> str:
    """Returns the end of a message about the file; raises `_LineError` for a fault in a line."""
    kinds = _ColumnKinds()
    is_empty = True
    for number, line in enumerate(lines, start=1):
        if line.startswith("\ufeff"):
            advice = "Remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE."
            raise _LineError(number, f"expected a JSON object, found a byte order mark. {advice}")
        if not line.strip():
            continue
        is_empty = False
        try:
            value = json.loads(line, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise _LineError(number, _not_an_object(line, error.pos, ending)) from None
        except ValueError as error:
            message = f"expected JSON, which has no {error}. Write null, or a number."
            raise _LineError(number, message) from None
        except RecursionError:
            raise _LineError(number, "the JSON is nested too deeply. Flatten it.") from None
        if not isinstance(value, dict):
            raise _LineError(number, _not_an_object(line, 0, ending))
        kinds.add(value, number, "")
    if is_empty:
        return ": expected one JSON object per line, found none. Remove the file from the logs."
    return (
        ": a column mixes kinds of values, such as true and 1, or a list and a number. Write all "
        "of its values as strings."
    )


def _not_an_object(line: str, position: int, ending: str) -> str:
    """Returns the message about a line that stops being a JSON object at `position`."""
    start = max(0, min(position, len(line.rstrip())) - _MAX_EXCERPT // 2)
    excerpt = line[start : start + _MAX_EXCERPT].strip()
    where = f" at character {position + 1}" if position else ""
    return f"expected one JSON object per line ({ending}), found {excerpt!r}{where}. Fix the line."


class _ColumnKinds:
    """Kinds of the values read so far, by column, with the first line of each kind.

    A path names a column: `a.b` is the key `b` of the object in `a`, `a[]` the items of a list.
    """

    def __init__(self) -> None:
        self._first_lines: dict[str, dict[str, int]] = {}

    def add(self, value: Any, line: int, path: str) -> None:
        """Adds the values in an object or list at `path`; ignores other values.

        Raises `_LineError` if a column mixes kinds, or if a number does not fit into 64 bits.
        """
        if isinstance(value, dict):
            for key, inner in value.items():
                self._add_inner(inner, line, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for inner in value:
                self._add_inner(inner, line, f"{path}[]")

    def _add_inner(self, value: Any, line: int, path: str) -> None:
        kind = _kind_of(value)
        if kind == "a number" and not _fits_64_bits(value):
            raise _LineError(
                line, f'column "{path}": expected a number of 64 bits, found a larger one.'
            )
        first_lines = self._first_lines.setdefault(path, {})
        if kind is not None:
            first_lines.setdefault(kind, line)
        if len(first_lines) > 1:
            (first_kind, first_line), (second_kind, _) = list(first_lines.items())[:2]
            raise _LineError(
                line,
                f'column "{path}": expected {first_kind} as in line {first_line}, found '
                f"{second_kind}. Write all values of the column as strings.",
            )
        self.add(value, line, path)


def _kind_of(value: Any) -> str | None:
    """Returns the kind of a value; None for null and text, which fit next to any kind."""
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "a number"


def _fits_64_bits(number: float) -> bool:
    return math.isfinite(number) if isinstance(number, float) else abs(number) < 1 << 64


def _refuse_constant(constant: str) -> float:
    """Raises `ValueError` for NaN and Infinity, which Python's parser accepts."""
    raise ValueError(constant)
