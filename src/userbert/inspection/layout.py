"""What tables of an inspection have in common: their form, quantiles, bars.

In: numbers. Out: text for people. Used by all that is inspected.
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
HEADINGS = ("least", "10 %", "25 %", "median", "75 %", "90 %", "99 %", "most")
"""Of columns of `quantiles`."""
_BAR = 30


def table(title: str, *columns: str) -> Table:
    """A table whose headings are shown if any is there; its title is no markup."""
    return Table(*columns, title=Text(title), title_justify="left", show_header=any(columns))


def facts(title: str, rows: Mapping[str, str | None]) -> Table:
    """A table of names and what there is to say of each; those of which nothing is are left out."""
    made = table(title, "", "")
    for name, told in rows.items():
        if told is not None:
            made.add_row(name, Text(told))
    return made


def quantiles(values: NDArray[Any], form: str = ",.0f") -> list[str]:
    """The quantiles of HEADINGS."""
    return [format(float(value), form) for value in np.percentile(values, QUANTILES)]


def counts_as_bars(counts: NDArray[np.int64], of: str) -> Table:
    """How many users have so many of something, by powers of two."""
    made = table(f"Users by their number of {of}", of, "users", "")
    # 0 is a class of its own, then 1, 2 to 3, 4 to 7 …
    classes = np.zeros(len(counts), np.int64)
    some = counts > 0
    classes[some] = np.log2(counts[some]).astype(np.int64) + 1
    users = np.bincount(classes)
    for number, count in enumerate(users):
        low, high = (1 << number) >> 1, (1 << number) - 1
        name = str(low) if high <= low else f"{low:,} to {high:,}"
        made.add_row(name if number else "0", f"{count:,}", bar(count / users.max()))
    return made


def bar(share: float) -> str:
    """A bar as long as a share is of the longest."""
    return "█" * max(round(share * _BAR), int(share > 0))


def share(part: float, whole: float) -> str:
    """A share in percent; a little is not nothing."""
    if part == 0 or whole == 0:
        return "0 %"
    percent = 100 * part / whole
    return "< 0.1 %" if percent < 0.1 else f"{percent:.1f} %"


def local(data: PreparedData, instant: int) -> str:
    """A moment on the users' own clock."""
    moment = datetime.fromtimestamp(instant / 1e6, UTC).astimezone(data.schema.zone)
    return moment.isoformat(sep=" ", timespec="seconds")
