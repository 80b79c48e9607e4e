"""Leaves out columns with future leakage, such as a session's final length or a user's totals.

In: opened logs and the choices for their columns. Out: the choices, in which columns that depend on
later events are left out. The reason names the later figure that the column follows. Only
`infer/inference.py` uses this module.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from userbert.infer.columns import Choice, ColumnCounts
from userbert.infer.key_columns import Log, Times
from userbert.infer.names import words_of
from userbert.infer.proposal import ProfileTable
from userbert.schema.files import locating_faults

_OUTCOMES = {
    "target", "label", "outcome", "churn", "churned", "dropout", "withdrawn", "ltv", "clv",
    "lifetime", "future",
}  # fmt: skip
"""Words that name an outcome."""
_FINALS = {"result", "grade", "score", "mark", "status", "length", "count", "total"}
"""Words that name an outcome if the name also has `final`. A final price is no outcome."""
_SAMPLE_GROUPS, _MIN_GROUPS = 2_000, 30
"""Approximate number of groups to sample, and minimum number for computing a correlation."""
_SAMPLE_ROWS = 500_000
"""Approximate number of rows to sample. Groups are sampled whole, so large groups are fewer."""
_CONSTANT_SHARE = 0.95
"""Minimum share of groups in which a column is constant if it describes the groups."""
_GAP_SECONDS = 1800
"""Pause that ends a session, in seconds (paper §3.2: 30 minutes)."""
_LEAKING, _HARMLESS = 0.9, 0.8
"""Minimum rank correlations. A column whose correlation with a later figure reaches `_LEAKING`
leaks. The sum of a number over the group is ignored if the correlation with its mean reaches
`_HARMLESS`."""
_MIN_LEAD = 0.05
"""Difference by which a field must follow the time of the last event more closely than the time of
the first event, which a field may legitimately hold."""
_PREFIX = "number "
"""Prefix of numeric columns in plans, because a log may have a column named `count`."""


@dataclass(frozen=True)
class _Groups:
    """Sampled groups of events: sessions, or events that share a value of a column."""

    key: str | None
    """Column whose values the events share; None: the groups are sessions of users."""
    rows: pl.LazyFrame
    """All rows of the sampled groups: `key` (of the group), `second` and the prefixed numbers."""

    def __str__(self) -> str:
        return "a session" if self.key is None else f"one {self.key}"


def drop_future_leakage(
    log: Log, user: str, times: Times, choices: Sequence[Choice]
) -> list[Choice]:
    """Leaves out columns of events that depend on later events.

    Leaves out columns whose name says that they are an outcome, and numbers that are constant in
    a group (a session, an item) and correlate with the group's number of events, its duration or a
    sum over its events. Groups whose events all have one time, such as the lines of a receipt, do
    not leak.
    """
    choices = [
        _leave_out(choice, "its name says that it is an outcome")
        if choice.kind != "left out" and _names_an_outcome(choice.column)
        else choice
        for choice in choices
    ]
    numbers = [
        choice.column
        for choice in choices
        if choice.kind != "left out" and choice.counts is not None and choice.counts.is_numeric
    ]
    reasons: dict[str, str] = {}
    for groups in _groupings(log, user, times, choices, numbers) if numbers else ():
        names = [name for name in numbers if name != groups.key]
        plan = groups.rows.group_by("key").agg(
            pl.len().alias("count"),
            (pl.col("second").max() - pl.col("second").min()).alias("span"),
            *map(_group_figures, names),
        )
        with locating_faults(*log.files):
            table = plan.filter(pl.col("span") > 0).collect(engine="streaming")
        for name in names:
            low, high = (_figure(name, end) for end in ("low", "high"))
            with_value = table.filter(low.is_not_null())
            constant = with_value.filter(low == high)
            if len(constant) >= _CONSTANT_SHARE * len(with_value):
                figure = _leaked_figure(constant, low, names)
                if figure is not None:
                    reason = f"constant within {groups}, it follows {figure}"
                    reasons.setdefault(name, reason)
    return [
        _leave_out(choice, reasons[choice.column]) if choice.column in reasons else choice
        for choice in choices
    ]


def _leave_out(choice: Choice, reason: str) -> Choice:
    """Returns the choice to leave a column out, with the reason and a warning."""
    warning = f'column "{choice.column}" is left out because of future leakage: {reason}.'
    return replace(choice, kind="left out", reason=f"future leakage: {reason}", warning=warning)


def _names_an_outcome(column: str) -> bool:
    words = set(words_of(column))
    return bool(words & _OUTCOMES) or ("final" in words and bool(words & _FINALS))


def _group_figures(name: str) -> pl.Expr:
    """Returns a struct with the minimum, maximum, sum and mean of a number over a group."""
    number = pl.col(_PREFIX + name)
    return pl.struct(
        number.min().alias("low"),
        number.max().alias("high"),
        number.sum().alias("sum"),
        number.mean().alias("mean"),
    ).alias(_PREFIX + name)


def _figure(name: str, figure: str) -> pl.Expr:
    """Returns a figure of `_group_figures`."""
    return pl.col(_PREFIX + name).struct[figure]


def _groupings(
    log: Log, user: str, times: Times, choices: Sequence[Choice], numbers: Sequence[str]
) -> Iterator[_Groups]:
    """Yields groups by each other column whose values repeat, then the sessions of users.

    Numeric attributes do not group events. Logs with dates for times have no sessions.
    """
    columns = [times.second.alias("second"), *(_number(name) for name in numbers)]
    for counts in (choice.counts for choice in choices if choice.kind != "number"):
        if counts is not None and _can_group(counts):
            sample_size = min(
                _SAMPLE_GROUPS, max(_MIN_GROUPS, _SAMPLE_ROWS * counts.values // counts.rows)
            )
            key = pl.col(counts.column)
            # Sampling by hash keeps groups whole; part of a group has another count and span.
            is_sampled = key.is_not_null() & (
                key.hash(seed=0) % max(1, counts.values // sample_size) == 0
            )
            rows = log.frame.filter(is_sampled).select(key.alias("key"), *columns)
            yield _Groups(counts.column, rows)
    if not times.is_day:
        user_id = pl.col(user)
        is_sampled = user_id.is_not_null() & (
            user_id.hash(seed=0) % max(1, log.rows // _SAMPLE_ROWS) == 0
        )
        gap = pl.col("second").diff().over("user") > _GAP_SECONDS
        rows = (
            log.frame.filter(is_sampled)
            .select(user_id.alias("user"), *columns)
            .sort("user", "second")
        )
        session = gap.fill_null(value=False).cum_sum().over("user")
        yield _Groups(None, rows.with_columns(key=pl.struct("user", session.alias("number"))))


def _can_group(counts: ColumnCounts) -> bool:
    """Returns whether a column has enough values, each in two rows or more on average."""
    return counts.values >= _MIN_GROUPS and counts.rows >= 2 * counts.values


def drop_profile_totals(
    table: ProfileTable, user: str, logs: Sequence[Log], times: Sequence[Times],
    attributes: Sequence[Choice],
) -> list[Choice]:  # fmt: skip
    """Leaves out numeric profile fields that follow totals over a user's whole log.

    Profiles with a time keep all fields, as a row describes its user at its time. Other fields
    whose name says that they are an outcome stay, with a warning: they may be the target.
    """
    numbers = [choice.column for choice in attributes if choice.kind == "number"]
    fields = [
        choice.column
        for choice in table.fields
        if choice.kind != "left out"
        and choice.counts is not None
        and choice.counts.is_numeric
        and table.times is None
    ]
    events = [
        log.frame.select(
            pl.col(user).cast(pl.String).alias("user"),
            log_times.second.alias("second"),
            *(
                _number(name)
                if name in log.types
                else pl.lit(None, pl.Float64).alias(_PREFIX + name)
                for name in numbers
            ),
        )
        for log, log_times in zip(logs, times, strict=True)
    ]
    is_sampled = pl.col("user").hash(seed=0) % max(1, table.users // _SAMPLE_GROUPS) == 0
    totals = pl.concat(events).filter(is_sampled).group_by("user").agg(
        pl.len().alias("count"),
        pl.col("second").min().alias("first"),
        pl.col("second").max().alias("last"),
        *(_group_figures(name) for name in numbers),
    )  # fmt: skip
    profiles = table.log.frame.select(
        pl.col(user).cast(pl.String).alias("user"),
        *(_number(name).name.prefix("profile ") for name in fields),
    ).unique("user", keep="any")
    with locating_faults(*table.log.files, *(file for log in logs for file in log.files)):
        users = profiles.join(totals, on="user").collect(engine="streaming")
    reasons = {}
    for name in fields:
        field = pl.col("profile " + _PREFIX + name)
        figure = _leaked_figure(users.filter(field.is_not_null()), field, numbers)
        if figure is not None:
            reasons[name] = f"it follows {figure} of the user up to the end of the log"
    return [
        _leave_out(choice, reasons[choice.column])
        if choice.column in reasons
        else replace(choice, warning=_outcome_warning(choice.column))
        if choice.kind != "left out" and _names_an_outcome(choice.column)
        else choice
        for choice in table.fields
    ]


def _outcome_warning(field: str) -> str:
    """Returns the warning about a profile field whose name says that it is an outcome."""
    return (
        f'the profile field "{field}" may be an outcome. Unless it is known when vectors are made, '
        f"remove it from the schema, or pretrain with --hide {field}."
    )


def _leaked_figure(groups: pl.DataFrame, value: pl.Expr, numbers: Sequence[str]) -> str | None:
    """Returns the name of the later figure that `value` follows; None if it follows no figure.

    A later figure is known only after a group's last event.
    """
    if len(groups) < _MIN_GROUPS:
        return None
    correlations = {"the number of events": _correlation(groups, value, pl.col("count"))}
    if "span" in groups.columns:
        correlations["the time from first to last event"] = _correlation(
            groups, value, pl.col("span")
        )
    else:
        last = _correlation(groups, value, pl.col("last"))
        first = _correlation(groups, value, pl.col("first"))
        correlations["the time of the last event"] = last if last > first + _MIN_LEAD else 0.0
    for name in numbers:
        # A price may follow the sum of prices in similar groups; a total does not follow the mean.
        if _correlation(groups, value, _figure(name, "mean")) < _HARMLESS:
            correlations[f"the sum of {name}"] = _correlation(groups, value, _figure(name, "sum"))
    figure = max(correlations, key=lambda name: correlations[name])
    return figure if correlations[figure] >= _LEAKING else None


def _correlation(groups: pl.DataFrame, value: pl.Expr, other: pl.Expr) -> float:
    """Returns the absolute Spearman rank correlation over groups; 0 if either side is constant."""
    correlation = groups.select(pl.corr(value, other, method="spearman")).item()
    return 0.0 if correlation is None or math.isnan(correlation) else abs(float(correlation))


def _number(name: str) -> pl.Expr:
    """Returns a column as float64 under its prefixed name; null if it is not a number."""
    return pl.col(name).cast(pl.Float64, strict=False).fill_nan(None).alias(_PREFIX + name)
