"""Where a raw log is bad, and the way out.

In: a file that polars gave up on. Out: the end of a sentence that starts with the file's name:
which line, what was expected, what was found, and what to do. `schema/files.py` calls it, and only
then: it reads the file anew, line by line.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

_TEXT = "If it is text in another encoding, convert it: iconv -f {} -t UTF-8 FILE > NEW"
_RECODE = f"{_TEXT.format('LATIN1')}; otherwise it is not a text file."
_SHOWN = 40
"""Characters of a line."""


def fault(file: str, form: str, compression: str | None, separator: str | None) -> str:
    """Say where a file is bad; `separator` is that of CSV, None for other forms."""
    if form == ".parquet":
        return ": expected a complete Parquet file, found a damaged one. Write or copy it again."
    try:
        with pa.input_stream(file, compression=compression) as stream:
            lines = _text_lines(io.BufferedReader(stream))
            return _json_fault(lines, form) if separator is None else _csv_fault(lines, separator)
    except OSError:
        if compression is None:
            return ": expected a file that can be read, found that it cannot. Copy it again."
        tool = "gzip" if compression == "gzip" else "zstd"
        return (
            f": expected complete {compression} data, found data that is cut off or damaged. Copy "
            f"the file again; {tool} -t FILE checks it."
        )
    except _LineError as error:
        return str(error)


def twice(columns: Sequence[str]) -> str | None:
    """The end of a sentence about a column that stands twice in a header, if one does."""
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            return f", line 1: the column {name!r} stands twice. Rename one of them."
        seen.add(name)
    return None


def other_separator(columns: Sequence[str]) -> str | None:
    """What else separates the columns of a header that seems to have one alone."""
    if len(columns) != 1:
        return None
    return next((mark for mark in ";\t|," if mark in columns[0]), None)


class _LineError(ValueError):
    """A line that cannot be read."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f", line {line}: {message}")


def _text_lines(stream: io.BufferedReader) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            advice = "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW."
            raise _LineError(1, f"expected UTF-8 text, found UTF-16. {advice}")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            message = f"expected UTF-8 text, found the byte {line[error.start]:#04x}. {_RECODE}"
            raise _LineError(number, message) from None
        if "\0" in text:
            advice = f"{_TEXT.format('UTF-16LE')}; otherwise it is not a text file."
            raise _LineError(number, f"expected UTF-8 text, found zero bytes. {advice}")
        yield text


def _csv_fault(lines: Iterator[str], separator: str) -> str:
    taken: list[str] = []

    def kept() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    rows = csv.reader(kept(), delimiter=separator, strict=True)
    header, last = None, 0
    try:
        for row in rows:
            quotes = sum(line.count('"') for line in taken)
            taken.clear()
            if header is None and row:
                header = row
                told = twice(header)
                if told is not None:
                    return told
            elif header is not None and len(row) > len(header):
                raise _LineError(
                    rows.line_num,
                    f"expected {len(header)} fields as in the header, found {len(row)}. Put quotes "
                    "around a field with a separator in it.",
                )
            if quotes % 2 or quotes < sum(
                2 + 2 * field.count('"') for field in row if '"' in field
            ):
                raise _unpaired(last + 1)
            last = rows.line_num
    except csv.Error as error:
        if "new-line" in str(error):
            raise _LineError(last + 1, lone_returns()) from None
        raise _unpaired(last + 1) from None
    if header is None:
        return ": expected a header and rows, found no text. Remove the file from the logs."
    return ": expected a CSV file, found one that cannot be taken apart. Write it again."


def lone_returns() -> str:
    """What to say of the line ends of an old Macintosh."""
    return (
        "expected lines that end in \\n or \\r\\n, found a \\r alone. Convert it: tr '\\r' '\\n' < "
        "FILE > NEW."
    )


def _unpaired(line: int) -> _LineError:
    return _LineError(
        line,
        "expected quotes in pairs around whole fields, found another '\"'. Write a quote inside a "
        'field as "" and put quotes around the field.',
    )


def _json_fault(lines: Iterator[str], form: str) -> str:
    kinds = _Kinds()
    number, found = 0, False
    for number, line in enumerate(lines, start=1):
        if line.startswith("\ufeff"):
            advice = "Take it away: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE."
            raise _LineError(number, f"expected a JSON object, found a byte order mark. {advice}")
        if not line.strip():
            continue
        found = True
        try:
            value = json.loads(line, parse_constant=_refuse)
        except json.JSONDecodeError as error:
            raise _LineError(number, _no_object(line, error.pos, form)) from None
        except ValueError as error:
            message = f"expected JSON, which has no {error}. Write null, or a number."
            raise _LineError(number, message) from None
        except RecursionError:
            raise _LineError(number, "expected fewer values inside values.") from None
        if not isinstance(value, dict):
            raise _LineError(number, _no_object(line, 0, form))
        kinds.add(value, number, "")
    if not found:
        return ": expected one JSON object a line, found none. Remove the file from the logs."
    return (
        ": a column's values are of kinds that do not go together, such as true and 1, or a list "
        "and a number. Write all of them as strings."
    )


def _no_object(line: str, place: int, form: str) -> str:
    """What to say of a line that is no JSON object, because of what stands at a place in it."""
    start = max(0, min(place, len(line.rstrip())) - _SHOWN // 2)
    shown = line[start : start + _SHOWN].strip()
    where = f" at character {place + 1}" if place else ""
    return f"expected one JSON object a line ({form}), found {shown!r}{where}. Mend the line."


class _Kinds:
    """Of which kind the values of each column were, and where first."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, int]] = {}

    def add(self, value: Any, line: int, place: str) -> None:
        """Take note of a value; raise `_LineError` if it does not go with those before."""
        if isinstance(value, dict):
            for key, inner in value.items():
                self._one(inner, line, f"{place}.{key}" if place else key)
        elif isinstance(value, list):
            for inner in value:
                self._one(inner, line, f"{place}[]")

    def _one(self, value: Any, line: int, place: str) -> None:
        kind = _kind(value)
        if kind == "a number" and not _fits(value):
            raise _LineError(
                line, f'column "{place}": expected a number of 64 bits, found a larger one.'
            )
        seen = self._seen.setdefault(place, {})
        if kind is not None:
            seen.setdefault(kind, line)
        if len(seen) > 1:
            (first, where), (other, _) = list(seen.items())[:2]
            raise _LineError(
                line,
                f'column "{place}": expected {first} as in line {where}, found {other}. Write all '
                "values of the column as strings.",
            )
        self.add(value, line, place)


def _kind(value: Any) -> str | None:
    """None: it goes with all others."""
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else "a number"


def _fits(number: float) -> bool:
    return math.isfinite(number) if isinstance(number, float) else abs(number) < 1 << 64


def _refuse(constant: str) -> float:
    raise ValueError(constant)
