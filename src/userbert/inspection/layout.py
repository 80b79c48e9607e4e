"""Layout of the inspection tables: headings, quantiles, bars, shares, times.

In: numbers. Out: text and tables for people. Used by the other files of `inspection`.

Letters in shapes: U users.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from userbert.data.store import PreparedData

QUANTILES = (0, 10, 25, 50, 75, 90, 99, 100)
"""Quantiles of a table's columns, in percent."""
HEADINGS = ("min", "10 %", "25 %", "median", "75 %", "90 %", "99 %", "max")
"""Heading of each of `QUANTILES`."""
_MAX_BAR_LENGTH = 30
"""Length of the longest bar, in characters."""


def table(title: str, *columns: str) -> Table:
    """Returns a table without rows; shows no row of headings if all `columns` are empty."""
    return Table(*columns, title=Text(title), title_justify="left", show_header=any(columns))


def fact_table(title: str, rows: Mapping[str, str | None]) -> Table:
    """Returns a table of names and texts, without the names whose text is None."""
    card = table(title, "", "")
    for name, text in rows.items():
        if text is not None:
            card.add_row(name, Text(text))
    return card


def quantiles(values: NDArray[Any], form: str = ",.0f") -> list[str]:
    """Returns the quantiles `QUANTILES` as text; `form` is a format specification."""
    return [format(float(value), form) for value in np.percentile(values, QUANTILES)]


def counts_as_bars(counts: NDArray[np.int64], of: str) -> Table:
    """Returns a histogram of users by their number of `of`, such as words, in bins of powers of 2.

    `counts` (U,) holds the number of each user.
    """
    histogram = table(f"Users by their number of {of}", of, "users", "")
    # Bins: 0, 1, 2 to 3, 4 to 7 …
    bins = np.zeros(len(counts), np.int64)
    is_positive = counts > 0
    bins[is_positive] = np.log2(counts[is_positive]).astype(np.int64) + 1
    users = np.bincount(bins)
    for number, count in enumerate(users):
        low, high = (1 << number) >> 1, (1 << number) - 1
        name = str(low) if high <= low else f"{low:,} to {high:,}"
        histogram.add_row(name if number else "0", f"{count:,}", bar(count / users.max()))
    return histogram


def bar(share: float) -> str:
    """Returns a bar of blocks; `share` is its length relative to the longest bar.

    A share above 0 gets at least one block.
    """
    return "█" * max(round(share * _MAX_BAR_LENGTH), int(share > 0))


def share(part: float, whole: float) -> str:
    """Returns `part` / `whole` in percent; a share below 0.1 % is shown as such, not as 0."""
    if part == 0 or whole == 0:
        return "0 %"
    percent = 100 * part / whole
    return "< 0.1 %" if percent < 0.1 else f"{percent:.1f} %"


def local_time(data: PreparedData, instant: int) -> str:
    """Returns an instant (µs since 1970) as text, in the `timezone` of the schema."""
    moment = datetime.fromtimestamp(instant / 1e6, UTC).astimezone(data.schema.zone)
    return moment.isoformat(sep=" ", timespec="seconds")
