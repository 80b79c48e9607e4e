"""Columns that were written after the fact: a session's final length, totals at the time of a dump.

In: opened logs and what their columns are taken for. Out: the same, without those that tell at an
event, or of a user, what comes only later; the evidence is their reason. Used by
`infer/inference.py` alone.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from userbert.infer.columns import Choice, Evidence
from userbert.infer.key_columns import Log, Times
from userbert.infer.names import words_of
from userbert.infer.proposal import UserTable
from userbert.schema.files import reading

_OUTCOMES = {
    "target", "label", "outcome", "churn", "churned", "dropout", "withdrawn", "ltv", "clv",
    "lifetime", "future",
}  # fmt: skip
_FINALS = {"result", "grade", "score", "mark", "status", "length", "count", "total"}
"""Of these, `final` is an outcome; a final price is none."""
_GROUPS, _FEWEST_GROUPS = 2_000, 30
_ROWS = 500_000
"""Sampled, of as many whole groups, where they are not larger."""
_GAP_SECONDS = 1800
_CLOSE, _UNLIKE = 0.9, 0.8
"""Rank correlations: with what is known only later, and with what is known at once."""
_PREFIX = "number "
"""Before the columns' own names, as a log may have a column `count`, too."""


@dataclass(frozen=True)
class _Groups:
    """Events that belong together."""

    key: str | None
    """The column whose values they share; None: a session of a user's."""
    rows: pl.LazyFrame
    """Some of the groups, whole: columns `key` and `second`, and the prefixed numbers."""

    def __str__(self) -> str:
        return "a session" if self.key is None else f"one {self.key}"


def without_hindsight(log: Log, user: str, times: Times, choices: Sequence[Choice]) -> list[Choice]:
    """Leave out what no event can know: outcomes by name, and numbers that tell how a group ends.

    Such a number stays the same in all events of a group (a session, an item) and follows their
    number, their span or a sum over them. The lines of a receipt, all of one instant, tell nothing
    too early.
    """
    choices = [
        _left_out(each, "its name says that it tells how things ended")
        if each.kind != "left out" and _names_an_outcome(each.column)
        else each
        for each in choices
    ]
    numbers = [
        each.column
        for each in choices
        if each.kind != "left out" and each.evidence is not None and each.evidence.is_numeric
    ]
    found: dict[str, str] = {}
    for groups in _groupings(log, user, times, choices, numbers) if numbers else ():
        asked = [name for name in numbers if name != groups.key]
        plan = groups.rows.group_by("key").agg(
            pl.len().alias("count"),
            (pl.col("second").max() - pl.col("second").min()).alias("span"),
            *map(_of_group, asked),
        )
        with reading(*log.files):
            table = plan.filter(pl.col("span") > 0).collect(engine="streaming")
        for name in asked:
            low, high = (_group(name, end) for end in ("low", "high"))
            given = table.filter(low.is_not_null())
            same = given.filter(low == high)
            if len(same) >= 0.95 * len(given):
                told = _what_it_tells(same, low, asked)
                if told is not None:
                    reason = f"the same in all events of {groups}, it tells {told}"
                    found.setdefault(name, reason)
    return [
        _left_out(each, found[each.column]) if each.column in found else each for each in choices
    ]


def _left_out(choice: Choice, reason: str) -> Choice:
    warning = f'column "{choice.column}" is left out, as it knows what comes later: {reason}.'
    return replace(
        choice, kind="left out", reason=f"it knows what comes later: {reason}", warning=warning
    )


def _names_an_outcome(column: str) -> bool:
    words = set(words_of(column))
    return bool(words & _OUTCOMES) or ("final" in words and bool(words & _FINALS))


def _of_group(name: str) -> pl.Expr:
    number = pl.col(_PREFIX + name)
    return pl.struct(
        number.min().alias("low"),
        number.max().alias("high"),
        number.sum().alias("sum"),
        number.mean().alias("mean"),
    ).alias(_PREFIX + name)


def _group(name: str, figure: str) -> pl.Expr:
    return pl.col(_PREFIX + name).struct[figure]


def _groupings(
    log: Log, user: str, times: Times, choices: Sequence[Choice], numbers: Sequence[str]
) -> Iterator[_Groups]:
    """Events by each column that repeats its values, and by the sessions of users."""
    columns = [times.second.alias("second"), *(_number(name) for name in numbers)]
    for found in (each.evidence for each in choices if each.kind != "number"):
        if found is not None and _can_group(found):
            wanted = min(_GROUPS, max(_FEWEST_GROUPS, _ROWS * found.values // found.given))
            key = pl.col(found.column)
            # By hash, as a part of a group would have another count and span.
            chosen = key.is_not_null() & (key.hash(seed=0) % max(1, found.values // wanted) == 0)
            rows = log.frame.filter(chosen).select(key.alias("key"), *columns)
            yield _Groups(found.column, rows)
    if not times.is_day:
        who = pl.col(user)
        chosen = who.is_not_null() & (who.hash(seed=0) % max(1, log.rows // _ROWS) == 0)
        gap = pl.col("second").diff().over("user") > _GAP_SECONDS
        rows = log.frame.filter(chosen).select(who.alias("user"), *columns).sort("user", "second")
        session = gap.fill_null(value=False).cum_sum().over("user")
        yield _Groups(None, rows.with_columns(key=pl.struct("user", session.alias("number"))))


def _can_group(found: Evidence) -> bool:
    return found.values >= _FEWEST_GROUPS and found.given >= 2 * found.values


def without_totals(
    table: UserTable, user: str, logs: Sequence[Log], times: Sequence[Times],
    attributes: Sequence[Choice],
) -> list[Choice]:  # fmt: skip
    """Leave out fields that follow what users did in the whole log; warn of outcomes by name.

    An outcome may be what one wants to predict: it stays a field, which labels can be made of.
    """
    numbers = [each.column for each in attributes if each.kind == "number"]
    asked = [
        each.column
        for each in table.fields
        if each.kind != "left out"
        and each.evidence is not None
        and each.evidence.is_numeric
        # Rows that have times are as their users were then.
        and table.times is None
    ]
    events = [
        log.frame.select(
            pl.col(user).cast(pl.String).alias("user"),
            when.second.alias("second"),
            *(
                _number(name)
                if name in log.types
                else pl.lit(None, pl.Float64).alias(_PREFIX + name)
                for name in numbers
            ),
        )
        for log, when in zip(logs, times, strict=True)
    ]
    chosen = pl.col("user").hash(seed=0) % max(1, table.users // _GROUPS) == 0
    done = pl.concat(events).filter(chosen).group_by("user").agg(
        pl.len().alias("count"),
        pl.col("second").min().alias("first"),
        pl.col("second").max().alias("last"),
        *(_of_group(name) for name in numbers),
    )  # fmt: skip
    known = table.log.frame.select(
        pl.col(user).cast(pl.String).alias("user"),
        *(_number(name).name.prefix("profile ") for name in asked),
    ).unique("user", keep="any")
    with reading(*table.log.files, *(file for log in logs for file in log.files)):
        users = known.join(done, on="user").collect(engine="streaming")
    found = {}
    for name in asked:
        field = pl.col("profile " + _PREFIX + name)
        told = _what_it_tells(users.filter(field.is_not_null()), field, numbers)
        if told is not None:
            found[name] = f"it tells {told} of the user up to the log's end"
    return [
        _left_out(each, found[each.column])
        if each.column in found
        else replace(each, warning=_outcome_warning(each.column))
        if each.kind != "left out" and _names_an_outcome(each.column)
        else each
        for each in table.fields
    ]


def _outcome_warning(field: str) -> str:
    return (
        f'the profile field "{field}" may be an outcome: unless it is known when vectors are made, '
        f"take it out of the schema, or pretrain with --hide {field}."
    )


def _what_it_tells(groups: pl.DataFrame, value: pl.Expr, numbers: Sequence[str]) -> str | None:
    """What of its group a value follows that is known only when the group is over."""
    if len(groups) < _FEWEST_GROUPS:
        return None
    later = {"the number of events": _follows(groups, value, pl.col("count"))}
    if "span" in groups.columns:
        later["how long they go on"] = _follows(groups, value, pl.col("span"))
    else:
        last = _follows(groups, value, pl.col("last"))
        first = _follows(groups, value, pl.col("first"))
        later["the time of the last event"] = last if last > first + 0.05 else 0.0
    for name in numbers:
        # A price follows a sum of prices where groups are alike; a total does not follow the mean.
        if _follows(groups, value, _group(name, "mean")) < _UNLIKE:
            later[f"the sum of {name}"] = _follows(groups, value, _group(name, "sum"))
    what = max(later, key=lambda each: later[each])
    return what if later[what] >= _CLOSE else None


def _follows(groups: pl.DataFrame, value: pl.Expr, other: pl.Expr) -> float:
    """The size of Spearman's rank correlation; 0 where one of them does not vary."""
    found = groups.select(pl.corr(value, other, method="spearman")).item()
    return 0.0 if found is None or math.isnan(found) else abs(float(found))


def _number(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64, strict=False).fill_nan(None).alias(_PREFIX + name)
