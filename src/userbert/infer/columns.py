"""Chooses how each column is used: as a category, as a number, or left out.

In: an opened log and its user column. Out: a `Choice` per column, with its reason as text and its
counts over all rows. `infer/inference.py` puts them into the proposed schema.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from userbert.infer.key_columns import Log, Times, holds_clock, holds_dates
from userbert.infer.names import is_amount
from userbert.progress import progress
from userbert.schema.files import NULL_TEXTS, locating_faults

_MIN_SMOOTHNESS = 0.3
"""`ColumnCounts.smoothness` below which whole numbers are codes. Measured: amounts .4 to .99, but
-.1 to .25 for catalogue prices and rare discounts, which lose little as codes; codes -.3 to .3, but
.6 to .85 if they are ordered by age or popularity."""
_MAX_VALUES = 20_000
"""Maximum size of a proposed vocabulary."""
_MAX_NOT_NUMBERS = 0.01
"""Maximum share of values that are not numbers in a numeric column."""
_MIN_FILLED = 0.005
"""Share of rows with a value below which a column is left out: too few to learn from."""
_MAX_TOP, _MIN_RARE = 0.998, 1000
"""Share of the top value above which a column needs this number of rows with other values."""


@dataclass(frozen=True)
class ColumnCounts:
    """Counts of one column over all rows of a log."""

    column: str
    rows: int
    """Rows with a value."""
    users: int
    """Users with a value."""
    values: int
    """Distinct values."""
    pairs: int
    """Distinct (user, value) pairs."""
    shared_values: int
    """Distinct values of at least `min_users` users."""
    shared_rows: int
    """Rows with a shared value."""
    top_rows: int
    """Rows with the most frequent value."""
    top_value: str | None
    """Most frequent value, as text."""
    mean_length: float
    """Mean number of characters of the distinct values."""
    not_numbers: int
    """Rows with a value that is not a number."""
    is_numeric: bool
    """Whether there are numbers, and at most 1 % of the values are not numbers."""
    is_whole: bool
    """Whether all numbers are whole."""
    is_padded: bool
    """Whether some values have a leading zero, as codes have."""
    low: float | None
    high: float | None
    """Smallest and largest number; None if there are no numbers."""
    smoothness: float | None
    """Correlation of the log frequencies of neighboring numbers: high for amounts, whose frequency
    changes smoothly, low for ids, because a popular id may be next to a rare id."""


@dataclass(frozen=True)
class Choice:
    """How a column is used, and why."""

    column: str
    kind: Literal["category", "number", "left out"]
    reason: str
    max_values: int = 0
    min_users: int = 1
    bins: int = 0
    """Categories: size of the vocabulary, minimum users per value; numbers: quantile bins."""
    is_numeric: bool = True
    """Whether the column may hold numbers; also True if it has no values."""
    low: float | None = None
    """Smallest number."""
    counts: ColumnCounts | None = None
    """None: the column was left out without counting, because of its type or name."""
    warning: str | None = None
    """Text that `init` also prints, because some people do not read the schema."""


def default_min_users(users: int) -> int:
    """Returns the `min_users` to propose for a log with this number of users."""
    return 5 if users >= 1000 else 2 if users >= 50 else 1


def choose_kinds(
    log: Log, user: str, taken: Iterable[str], *, times: Times | None, bins: int
) -> list[Choice]:
    """Chooses how each column is used, except the user column and the columns in `taken`.

    `times` is None for profiles, whose values need not repeat within a user.
    """
    names = [name for name in log.types if name != user and name not in set(taken)]
    nested = [name for name in names if log.types[name].is_nested() or log.types[name] == pl.Binary]
    temporal = [name for name in names if log.types[name].is_temporal()]
    if times is not None:
        temporal += [name for name in times.other_columns if name not in temporal]
    else:
        temporal += [name for name in names if holds_dates(log, name)]
    choices = {
        name: _leave_out(name, "a list, struct or bytes; flatten it to use it") for name in nested
    }
    choices |= {name: _leave_out(name, "a second time column") for name in temporal}
    clocks = [name for name in names if times is not None and holds_clock(log, name)]
    choices |= {name: _leave_out_clock(name, times) for name in clocks if times is not None}
    choices |= {name: _leave_out(name, "it has no name") for name in names if not name.strip()}
    rest = [name for name in names if name not in choices]
    users = log.collect(pl.col(user).n_unique()).item()
    all_counts = _count_columns(log, user, rest, default_min_users(users))
    determined_by_time = _determined_by_time(log, all_counts, times)
    for counts in all_counts:
        name = counts.column
        if name in determined_by_time:
            choice = _leave_out(name, "it follows from the time")
        else:
            choice = _choose_kind(log, counts, users, bins, is_profile=times is None)
        is_numeric = counts.is_numeric or counts.rows == 0
        choices[name] = replace(choice, is_numeric=is_numeric, low=counts.low, counts=counts)
    used = [counts for counts in all_counts if choices[counts.column].kind != "left out"]
    for name, original in _find_duplicates(log, used).items():
        choices[name] = replace(choices[name], kind="left out", reason=f"it duplicates {original}")
    return [choices[name] for name in names]


def _leave_out_clock(name: str, times: Times) -> Choice:
    """Leaves out a column of times of day, with a warning if the log's times are only dates."""
    choice = _leave_out(name, "a time of day")
    if not times.is_day:
        return choice
    return replace(
        choice,
        reason="a time of day, separate from its date",
        warning=f'the time of day is in a separate column, "{name}". To get hours and sessions, '
        f'join it to "{times.column}" in one column, such as 2017-09-01T17:30:00.',
    )


def _count_columns(log: Log, user: str, names: Sequence[str], min_users: int) -> list[ColumnCounts]:
    """Counts columns one after another, so that memory holds the values of only one column."""
    if not names:
        return []
    all_counts = []
    with progress(f"counting {log.name}", len(names)) as advance:
        for name in names:
            advance(0, name)
            all_counts.append(_count_column(log, user, name, min_users))
            advance(1, name)
    with_nulls = [
        name for name, counts in zip(names, all_counts, strict=True) if counts["rows"] < log.rows
    ]
    user_hash = pl.col(user).hash()
    users = log.collect(
        user_hash.n_unique().alias("all"),
        *(
            user_hash.filter(pl.col(name).is_not_null()).n_unique().alias(f" {name}")
            for name in with_nulls
        ),
    ).row(0, named=True)
    return [
        ColumnCounts(
            column=name, users=users[f" {name}" if name in with_nulls else "all"], **counts
        )
        for name, counts in zip(names, all_counts, strict=True)
    ]


def _count_column(log: Log, user: str, name: str, min_users: int) -> dict[str, Any]:
    """Returns the fields of `ColumnCounts` for one column, except `column` and `users`."""
    # The hash of a user takes about half the memory of the id.
    frame = log.frame.select(pl.col(name).alias("value"), pl.col(user).hash().alias("user"))
    by_value = (
        frame.drop_nulls("value")
        .group_by("value")
        .agg(pl.len().alias("rows"), pl.col("user").n_unique().alias("users"))
    )
    text = pl.col("value").cast(pl.String)
    number = pl.lit(None, pl.Float64)
    if log.types[name].is_numeric() or log.types[name] == pl.String:
        number = pl.col("value").cast(pl.Float64, strict=False)
        number = pl.when(number.is_finite()).then(number)
    is_null = text.str.to_lowercase().is_in(NULL_TEXTS)
    shared = pl.col("users") >= min_users
    not_numbers = pl.col("rows").filter("bad").sum()
    frequency = pl.col("rows").filter(pl.col("number").is_not_null()).log()
    frequency = frequency.sort_by(pl.col("number").drop_nulls())
    plan = by_value.with_columns(text=text, number=number, bad=~is_null & number.is_null()).select(
        pl.col("rows").sum().alias("rows"),
        pl.len().alias("values"),
        pl.col("users").sum().alias("pairs"),
        shared.sum().alias("shared_values"),
        pl.col("rows").filter(shared).sum().alias("shared_rows"),
        pl.col("rows").max().alias("top_rows"),
        pl.col("text").filter(pl.col("rows") == pl.col("rows").max()).min().alias("top_value"),
        pl.col("text").str.len_chars().mean().fill_null(0).alias("mean_length"),
        not_numbers.alias("not_numbers"),
        (
            (not_numbers <= _MAX_NOT_NUMBERS * pl.col("rows").sum())
            & pl.col("number").is_not_null().any()
        ).alias("is_numeric"),
        (pl.col("number") == pl.col("number").floor()).all().alias("is_whole"),
        pl.col("text").str.contains(r"^0\d").any().alias("is_padded"),
        pl.col("number").min().alias("low"),
        pl.col("number").max().alias("high"),
        pl.corr(frequency.slice(1), frequency.slice(0, frequency.len() - 1)).alias("smoothness"),
    )
    with locating_faults(*log.files):
        return plan.collect(engine="streaming").row(0, named=True)


def _determined_by_time(log: Log, columns: Sequence[ColumnCounts], times: Times | None) -> set[str]:
    """Returns columns with one value per hour (or day), such as the week or the weekday."""
    candidates = [counts.column for counts in columns if 1 < counts.values <= 1000]
    if times is None or not candidates:
        return set()
    moment = times.day.hash(seed=1)
    if not times.is_day:
        moment = moment ^ times.hour.hash(seed=2)

    def moments(names: Sequence[str]) -> list[pl.Expr]:
        """Counts distinct moments, and distinct (moment, value) pairs of each column."""
        values = [(moment ^ pl.col(name).hash(seed=3)).n_unique().alias(name) for name in names]
        return [moment.n_unique().alias(""), *values]

    # Few columns pass on the sample; only these need a scan of all rows.
    sampled = log.sample.select(moments(candidates)).row(0)
    candidates = [
        name for name, count in zip(candidates, sampled[1:], strict=True) if count == sampled[0]
    ]
    if not candidates:
        return set()
    totals = log.collect(*moments(candidates)).row(0)
    # With few events per moment, any column would seem to follow from the time.
    if log.rows < 5 * totals[0]:
        return set()
    return {name for name, count in zip(candidates, totals[1:], strict=True) if count == totals[0]}


def _find_duplicates(log: Log, all_counts: Sequence[ColumnCounts]) -> dict[str, str]:
    """Maps each duplicate column to an earlier column with a one-to-one relation of values."""
    candidates = [
        (first.column, second.column)
        for index, first in enumerate(all_counts)
        for second in all_counts[index + 1 :]
        if first.values == second.values > 2 and first.rows == second.rows
    ]
    if not candidates:
        return {}
    pair_counts = log.collect(
        *(
            pl.struct(first, second).n_unique().alias(f"{i}")
            for i, (first, second) in enumerate(candidates)
        )
    ).row(0)
    values = {counts.column: counts.values + (counts.rows < log.rows) for counts in all_counts}
    duplicates: dict[str, str] = {}
    for (first, second), pairs in zip(candidates, pair_counts, strict=True):
        if pairs == values[first]:
            duplicates.setdefault(second, duplicates.get(first, first))
    return duplicates


def _choose_kind(
    log: Log, counts: ColumnCounts, users: int, bins: int, *, is_profile: bool
) -> Choice:
    name, rows = counts.column, log.rows
    if counts.rows < _MIN_FILLED * rows:
        return _leave_out(name, f"only {counts.rows:,} of {rows:,} rows have a value")
    if counts.values == 1:
        always = "always" if counts.rows == rows else "if present, always"
        return _leave_out(name, f"{always} {_quote(counts.top_value)}")
    if counts.top_rows > _MAX_TOP * counts.rows and counts.rows - counts.top_rows < _MIN_RARE:
        return _leave_out(name, f"nearly always {_quote(counts.top_value)}")
    if not is_profile and _is_constant_per_user(counts):
        return _leave_out(name, "constant for each user: use it as a profile field")
    coverage = (
        "" if counts.rows == rows else f"; {_percent(counts.rows, rows)} of the rows have a value"
    )
    if _is_number(counts, log.types[name]):
        return _propose_number(counts, bins, coverage)
    return _propose_category(counts, users, coverage)


def _is_constant_per_user(counts: ColumnCounts) -> bool:
    repeated = counts.rows >= 2 * counts.users
    return counts.users >= 20 and repeated and counts.pairs <= 1.01 * counts.users


def _is_number(counts: ColumnCounts, kind: pl.DataType) -> bool:
    """Returns whether a column holds amounts, not codes: by fractions, then name, then values."""
    if not counts.is_numeric or counts.is_padded:
        return False
    if not counts.is_whole:
        return True
    by_name = is_amount(counts.column)
    if by_name is not None:
        return by_name
    if counts.not_numbers or _is_irregular(counts):
        return False
    if kind.is_float():
        return True
    low, high = counts.low or 0, counts.high or 0
    same_length = low >= 100 and len(f"{low:.0f}") == len(f"{high:.0f}")
    is_plausible = counts.values > 20 and not same_length and high < 1e9
    return is_plausible and not _is_identifier(counts)


def _is_irregular(counts: ColumnCounts) -> bool:
    """Returns whether neighboring numbers have unrelated frequencies; False with few values."""
    if counts.smoothness is None or not 20 < counts.values <= counts.rows / 5:
        return False
    return counts.smoothness < _MIN_SMOOTHNESS


def _is_identifier(counts: ColumnCounts) -> bool:
    """Returns whether nearly every value belongs to one user, and users have several values."""
    values = counts.values
    return values > max(20, 1.5 * counts.users) and counts.pairs < 1.05 * values


def _propose_number(counts: ColumnCounts, bins: int, coverage: str) -> Choice:
    """Proposes a number; `coverage` is the text that ends the reason."""
    low, high = counts.low or 0.0, counts.high or 0.0
    reason = f"numbers from {low:,.10g} to {high:,.10g}{coverage}"
    if counts.not_numbers:
        reason += (
            f"; {counts.not_numbers:,} rows hold something else: prepare with --on-invalid "
            "quarantine, or fix them"
        )
    bins = max(2, min(bins, counts.values))
    rest = 1 - counts.top_rows / counts.rows
    if rest < 2 / bins:
        # If most values are equal, most quantiles are, so few bins would not split the rest.
        bins = min(1000, _rounded_up(math.ceil(4 / rest)))
        share = _percent(counts.top_rows, counts.rows)
        reason += f"; {share} of the values are {counts.top_value}: {bins} bins split the others"
    return Choice(counts.column, "number", reason, bins=bins)


def _propose_category(counts: ColumnCounts, users: int, coverage: str) -> Choice:
    """Proposes a category, or leaves out ids and free text."""
    name, values = counts.column, counts.values
    min_users = default_min_users(users)
    if values > 50 and values > 0.9 * counts.rows:
        return _leave_out(name, f"{values:,} values in {counts.rows:,} rows: an id or free text")
    if counts.shared_rows < 0.5 * counts.rows:
        share = _percent(counts.shared_rows, counts.rows) if counts.shared_rows else "none"
        note = f"{share} of the rows have a value that {min_users} users share"
        return _leave_out(name, f"{values:,} values; {note}: an id or free text")
    if _is_identifier(counts):
        return _leave_out(name, f"{values:,} values, nearly all of a single user: an id")
    if counts.mean_length > 80:
        return _leave_out(name, f"{counts.mean_length:.0f} characters on average: free text")
    if counts.shared_values == values:
        min_users = 1
    reason = f"{values:,} values"
    if counts.is_numeric and is_amount(name) is None and _is_irregular(counts):
        reason += ", codes rather than amounts: neighboring numbers differ in frequency"
    if min_users > 1:
        reason += (
            f"; {counts.shared_values:,} of them have at least {min_users} users each, and are in "
            f"{_percent(counts.shared_rows, counts.rows)} of the rows with a value"
        )
    if counts.shared_values > _MAX_VALUES:
        reason += f"; the {_MAX_VALUES:,} most frequent are kept"
    max_values = min(_MAX_VALUES, _rounded_up(counts.shared_values))
    return Choice(name, "category", reason + coverage, max_values=max_values, min_users=min_users)


def _leave_out(name: str, reason: str) -> Choice:
    return Choice(name, "left out", reason)


def _rounded_up(count: int) -> int:
    """Rounds up to 10, 20, 50, 100, 200, …, which leaves room for new values."""
    power: int = 10 ** max(1, len(str(count)) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if count <= factor * power)


def _percent(part: int, total: int) -> str:
    """Formats a share; rounds to 100 % only if `part` is `total`."""
    share = 100 * part / total
    return f"{min(share, 99.9):.1f} %" if part < total else "100 %"


def _quote(value: str | None) -> str:
    text = value or ""
    return f'"{text[:40]}…"' if len(text) > 40 else f'"{text}"'
