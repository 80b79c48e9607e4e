"""What a log's columns hold, and whether there is something to learn from them.

In: an opened log and its user column. Out: a `Choice` a column, with its reason in words and
counts of all rows. `infer/inference.py` writes them into the proposed schema, for attributes and
profile fields alike.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from userbert.infer.key_columns import Log, Times, holds_clock, holds_dates
from userbert.infer.names import is_amount
from userbert.progress import progress
from userbert.schema.files import NULL_TEXTS, reading

_SCATTERED = 0.3
"""The correlation below which values occur as often as they like, whatever their neighbors do.

Of real and made amounts it was .4 to .99, but -.1 to .25 of a catalogue's prices and of rare
discounts, which lose little as codes; of codes -.3 to .3, but .6 to .85 where they come by age or
popularity.
"""
_MAX_VALUES = 20_000
_ODD = 0.01
"""The share of rows that may hold something else in a column of numbers."""


@dataclass(frozen=True)
class Evidence:
    """Counts over all rows of a log."""

    column: str
    given: int
    """Rows with a value."""
    users: int
    """Users with a value."""
    values: int
    pairs: int
    """Different (user, value) pairs."""
    shared: int
    """Values of at least `min_users` users."""
    covered: int
    """Rows with a shared value."""
    most: int
    """Rows with the most frequent value."""
    top: str | None
    length: float
    """Characters of a value, on average."""
    odd: int
    """Rows with a value that is no number."""
    is_numeric: bool
    """Hardly a row is odd."""
    is_whole: bool
    is_padded: bool
    """Some values start with a zero that a number would not have."""
    low: float | None
    high: float | None
    smoothness: float | None
    """Correlation between how often a number occurs and how often the next one does, in logarithms:
    amounts come and go smoothly, a popular item stands beside one that nobody wants."""


@dataclass(frozen=True)
class Choice:
    """What a column is taken for, and why."""

    column: str
    kind: Literal["category", "number", "left out"]
    reason: str
    max_values: int = 0
    min_users: int = 1
    bins: int = 0
    is_numeric: bool = True
    """Nothing in the column contradicts that it holds numbers."""
    low: float | None = None
    evidence: Evidence | None = None
    """None: the column was not counted, as its type says enough."""
    warning: str | None = None
    """What should be told even to those who do not read the schema."""


def fewest_users(users: int) -> int:
    """Propose how many users a value must have to be told apart: more of many than of few."""
    return 5 if users >= 1000 else 2 if users >= 50 else 1


def judge(
    log: Log, user: str, taken: Iterable[str], *, times: Times | None, bins: int
) -> list[Choice]:
    """Choose what each column is good for, but those that are `taken` already.

    `times` are the log's, or None for profiles, whose users need not share or repeat values.
    """
    names = [name for name in log.types if name != user and name not in set(taken)]
    nested = [name for name in names if log.types[name].is_nested() or log.types[name] == pl.Binary]
    temporal = [name for name in names if log.types[name].is_temporal()]
    if times is not None:
        temporal += [name for name in times.others if name not in temporal]
    else:
        temporal += [name for name in names if holds_dates(log, name)]
    choices = {
        name: _left_out(name, "a list, record or bytes; flatten it to use it") for name in nested
    }
    choices |= {name: _left_out(name, "another time") for name in temporal}
    clocks = [name for name in names if times is not None and holds_clock(log, name)]
    choices |= {name: _clock(name, times) for name in clocks if times is not None}
    choices |= {name: _left_out(name, "it has no name") for name in names if not name.strip()}
    rest = [name for name in names if name not in choices]
    users = log.collect(pl.col(user).n_unique()).item()
    found = _gather(log, user, rest, fewest_users(users))
    from_time = _determined_by_time(log, found, times)
    for evidence in found:
        name = evidence.column
        if name in from_time:
            choice = _left_out(name, "it follows from the time")
        else:
            choice = _judge_one(log, evidence, users, bins, is_profile=times is None)
        is_numeric = evidence.is_numeric or evidence.given == 0
        choices[name] = replace(choice, is_numeric=is_numeric, low=evidence.low, evidence=evidence)
    used = [evidence for evidence in found if choices[evidence.column].kind != "left out"]
    for name, original in _copies(log, used).items():
        choices[name] = replace(
            choices[name], kind="left out", reason=f"it says the same as {original}"
        )
    return [choices[name] for name in names]


def _clock(name: str, times: Times) -> Choice:
    """Leave out a time of day; where the log's times are dates alone, it should be told."""
    choice = _left_out(name, "a time of day")
    if not times.is_day:
        return choice
    return replace(
        choice,
        reason="a time of day, apart from its date",
        warning=f'the time of day stands apart, in column "{name}": to have hours and sessions, '
        f'join it to "{times.column}" in one column, such as 2017-09-01T17:30:00.',
    )


def _gather(log: Log, user: str, names: Sequence[str], min_users: int) -> list[Evidence]:
    """Count what `Evidence` holds, column by column: what is kept of one is gone at the next."""
    if not names:
        return []
    counted = []
    with progress(f"counting {log.name}", len(names)) as advance:
        for name in names:
            advance(0, name)
            counted.append(_count(log, user, name, min_users))
            advance(1, name)
    gaps = [name for name, counts in zip(names, counted, strict=True) if counts["given"] < log.rows]
    who = pl.col(user).hash()
    users = log.collect(
        who.n_unique().alias("all"),
        *(who.filter(pl.col(name).is_not_null()).n_unique().alias(f" {name}") for name in gaps),
    ).row(0, named=True)
    return [
        Evidence(column=name, users=users[f" {name}" if name in gaps else "all"], **counts)
        for name, counts in zip(names, counted, strict=True)
    ]


def _count(log: Log, user: str, name: str, min_users: int) -> dict[str, Any]:
    """Count what `Evidence` holds of a column, but `users`."""
    # A hash of the user is half as much to keep as the user.
    given = log.frame.select(pl.col(name).alias("value"), pl.col(user).hash().alias("user"))
    by_value = (
        given.drop_nulls("value")
        .group_by("value")
        .agg(pl.len().alias("rows"), pl.col("user").n_unique().alias("users"))
    )
    text = pl.col("value").cast(pl.String)
    number = pl.lit(None, pl.Float64)
    if log.types[name].is_numeric() or log.types[name] == pl.String:
        number = pl.col("value").cast(pl.Float64, strict=False)
        number = pl.when(number.is_finite()).then(number)
    is_gap = text.str.to_lowercase().is_in(NULL_TEXTS)
    shared = pl.col("users") >= min_users
    odd = pl.col("rows").filter("bad").sum()
    often = pl.col("rows").filter(pl.col("number").is_not_null()).log()
    often = often.sort_by(pl.col("number").drop_nulls())
    plan = by_value.with_columns(text=text, number=number, bad=~is_gap & number.is_null()).select(
        pl.col("rows").sum().alias("given"),
        pl.len().alias("values"),
        pl.col("users").sum().alias("pairs"),
        shared.sum().alias("shared"),
        pl.col("rows").filter(shared).sum().alias("covered"),
        pl.col("rows").max().alias("most"),
        pl.col("text").filter(pl.col("rows") == pl.col("rows").max()).min().alias("top"),
        pl.col("text").str.len_chars().mean().fill_null(0).alias("length"),
        odd.alias("odd"),
        ((odd <= _ODD * pl.col("rows").sum()) & pl.col("number").is_not_null().any()).alias(
            "is_numeric"
        ),
        (pl.col("number") == pl.col("number").floor()).all().alias("is_whole"),
        pl.col("text").str.contains(r"^0\d").any().alias("is_padded"),
        pl.col("number").min().alias("low"),
        pl.col("number").max().alias("high"),
        pl.corr(often.slice(1), often.slice(0, often.len() - 1)).alias("smoothness"),
    )
    with reading(*log.files):
        return plan.collect(engine="streaming").row(0, named=True)


def _determined_by_time(log: Log, found: Sequence[Evidence], times: Times | None) -> set[str]:
    """Columns such as the week or weekday, which have one value in each hour (or day)."""
    candidates = [evidence.column for evidence in found if 1 < evidence.values <= 1000]
    if times is None or not candidates:
        return set()
    moment = times.day.hash(seed=1)
    if not times.is_day:
        moment = moment ^ times.hour.hash(seed=2)

    def moments(names: Sequence[str]) -> list[pl.Expr]:
        """How many moments there are, and how many with the values of each column."""
        values = [(moment ^ pl.col(name).hash(seed=3)).n_unique().alias(name) for name in names]
        return [moment.n_unique().alias(""), *values]

    # Hardly a column passes the sample, which spares the others a look at all rows.
    seen = log.sample.select(moments(candidates)).row(0)
    candidates = [
        name for name, count in zip(candidates, seen[1:], strict=True) if count == seen[0]
    ]
    if not candidates:
        return set()
    counts = log.collect(*moments(candidates)).row(0)
    # With few events a moment, any column would seem to follow from the time.
    if log.rows < 5 * counts[0]:
        return set()
    return {name for name, count in zip(candidates, counts[1:], strict=True) if count == counts[0]}


def _copies(log: Log, found: Sequence[Evidence]) -> dict[str, str]:
    """Columns whose values stand one to one with those of an earlier column."""
    twins = [
        (one.column, other.column)
        for index, one in enumerate(found)
        for other in found[index + 1 :]
        if one.values == other.values > 2 and one.given == other.given
    ]
    if not twins:
        return {}
    together = log.collect(
        *(pl.struct(one, other).n_unique().alias(f"{i}") for i, (one, other) in enumerate(twins))
    ).row(0)
    values = {evidence.column: evidence.values + (evidence.given < log.rows) for evidence in found}
    copies: dict[str, str] = {}
    for (one, other), pairs in zip(twins, together, strict=True):
        if pairs == values[one]:
            copies.setdefault(other, copies.get(one, one))
    return copies


def _judge_one(log: Log, evidence: Evidence, users: int, bins: int, *, is_profile: bool) -> Choice:
    name, rows = evidence.column, log.rows
    if evidence.given < 0.005 * rows:
        return _left_out(name, f"given in only {evidence.given:,} of {rows:,} rows")
    if evidence.values == 1:
        always = "always" if evidence.given == rows else "where it is given, always"
        return _left_out(name, f"{always} {_shown(evidence.top)}")
    if evidence.most > 0.998 * evidence.given and evidence.given - evidence.most < 1000:
        return _left_out(name, f"nearly always {_shown(evidence.top)}")
    if not is_profile and _is_of_the_user(evidence):
        return _left_out(name, "the same in all events of a user: it would be a profile field")
    gaps = (
        "" if evidence.given == rows else f"; given in {_percent(evidence.given, rows)} of the rows"
    )
    if _is_number(evidence, log.types[name]):
        return _number(evidence, bins, gaps)
    return _category(evidence, users, gaps)


def _is_of_the_user(evidence: Evidence) -> bool:
    repeated = evidence.given >= 2 * evidence.users
    return evidence.users >= 20 and repeated and evidence.pairs <= 1.01 * evidence.users


def _is_number(evidence: Evidence, kind: pl.DataType) -> bool:
    """Amounts are numbers, codes are categories; a name tells more than the digits do."""
    if not evidence.is_numeric or evidence.is_padded:
        return False
    if not evidence.is_whole:
        return True
    named = is_amount(evidence.column)
    if named is not None:
        return named
    if evidence.odd or _is_scattered(evidence):
        return False
    if kind.is_float():
        return True
    low, high = evidence.low or 0, evidence.high or 0
    same_length = low >= 100 and len(f"{low:.0f}") == len(f"{high:.0f}")
    may_be = evidence.values > 20 and not same_length and high < 1e9
    return may_be and not _is_identifier(evidence)


def _is_scattered(evidence: Evidence) -> bool:
    """Whether how often a value occurs says nothing of its neighbors, as far as rows can tell."""
    if evidence.smoothness is None or not 20 < evidence.values <= evidence.given / 5:
        return False
    return evidence.smoothness < _SCATTERED


def _is_identifier(evidence: Evidence) -> bool:
    """Whether each value is of one user, and users have several."""
    values = evidence.values
    return values > max(20, 1.5 * evidence.users) and evidence.pairs < 1.05 * values


def _number(evidence: Evidence, bins: int, gaps: str) -> Choice:
    low, high = evidence.low or 0.0, evidence.high or 0.0
    reason = f"numbers from {low:,.10g} to {high:,.10g}{gaps}"
    if evidence.odd:
        reason += (
            f"; {evidence.odd:,} rows hold something else: prepare them with --on-invalid "
            "quarantine, or mend them"
        )
    bins = max(2, min(bins, evidence.values))
    rest = 1 - evidence.most / evidence.given
    if rest < 2 / bins:
        # Quantiles of a number that is nearly always 0 all fall on 0, unless there are many.
        bins = min(1000, _rounded_up(math.ceil(4 / rest)))
        share = _percent(evidence.most, evidence.given)
        reason += f"; {share} are {evidence.top}, and only many quantiles reach the rest"
    return Choice(evidence.column, "number", reason, bins=bins)


def _category(evidence: Evidence, users: int, gaps: str) -> Choice:
    name, values = evidence.column, evidence.values
    min_users = fewest_users(users)
    if values > 50 and values > 0.9 * evidence.given:
        return _left_out(name, f"{values:,} values in {evidence.given:,} rows: an id or free text")
    if evidence.covered < 0.5 * evidence.given:
        share = f"only {_percent(evidence.covered, evidence.given)} of the rows have one"
        return _left_out(
            name,
            f"{values:,} values, and {share if evidence.covered else 'none'} that {min_users} "
            "users share: an id or free text",
        )
    if _is_identifier(evidence):
        return _left_out(name, f"{values:,} values, each of one user alone: an id")
    if evidence.length > 80:
        return _left_out(name, f"{evidence.length:.0f} characters on average: free text")
    if evidence.shared == values:
        min_users = 1
    reason = f"{values:,} values"
    if evidence.is_numeric and is_amount(name) is None and _is_scattered(evidence):
        reason += ", codes rather than amounts: near numbers are not about as frequent"
    if min_users > 1:
        reason += (
            f"; {evidence.shared:,} of at least {min_users} users, in "
            f"{_percent(evidence.covered, evidence.given)} of its rows"
        )
    if evidence.shared > _MAX_VALUES:
        reason += f"; the {_MAX_VALUES:,} most frequent are told apart"
    max_values = min(_MAX_VALUES, _rounded_up(evidence.shared))
    return Choice(name, "category", reason + gaps, max_values=max_values, min_users=min_users)


def _left_out(name: str, reason: str) -> Choice:
    return Choice(name, "left out", reason)


def _rounded_up(count: int) -> int:
    """The next of 10, 20, 50, 100, 200, …: room for values to come."""
    power: int = 10 ** max(1, len(str(count)) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if count <= factor * power)


def _percent(part: int, whole: int) -> str:
    """A share that says 100 % only of all."""
    share = 100 * part / whole
    return f"{min(share, 99.9):.1f} %" if part < whole else "100 %"


def _shown(value: str | None) -> str:
    text = value or ""
    return f'"{text[:40]}…"' if len(text) > 40 else f'"{text}"'
