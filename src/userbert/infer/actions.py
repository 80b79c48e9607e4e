"""Which column says what each event of a log is.

In: an opened log. Out: its action types, with the reason in words. `infer/inference.py` writes
them into the proposed schema.
"""

from dataclasses import dataclass

import polars as pl

from userbert.infer.key_columns import Log
from userbert.infer.names import words_of

_ACTION_WORDS = {"event", "action", "activity", "interaction", "behavior", "behaviour"}
_ACTION_HELPERS = {"type", "name", "kind", "user"}
_VERBS = {
    "purchase": "transaction purchase order sale basket receipt invoice sales",
    "click": "click", "view": "view pageview impression", "play": "play listen stream",
    "rating": "rating review", "visit": "visit session checkin", "search": "search query",
}  # fmt: skip
_MAX_ACTION_TYPES = 100
_RARELY = 0.01
"""The share of events that may lack an action type where the others have one."""


@dataclass(frozen=True)
class ActionTypes:
    """What the events of a log are."""

    column: str | None
    """None: all events are of one type."""
    types: list[str]
    """Falling by their number of events."""
    reason: str
    missing: int = 0
    """Events without one."""


def find_actions(log: Log, taken: set[str]) -> ActionTypes:
    """Find the column that says what each event is, or else one word for all of them."""
    named = [name for name in log.types if name not in taken and _says_what(name, log.types[name])]
    for name in named:
        counted = log.collect(
            pl.col(name).drop_nulls().alias("type").value_counts(sort=True)
        ).unnest("type")
        missing = log.rows - int(counted["count"].sum())
        usual = _usual(counted, log.rows)
        if usual is None or missing > _RARELY * log.rows:
            continue
        types = usual.sort("count", "type", descending=[True, False])["type"]
        if len(counted) == 1:
            return ActionTypes(None, types.to_list(), f'column "{name}" says nothing else')
        reason = f"{len(types)} action types"
        if len(types) < len(counted):
            others = log.rows - missing - int(usual["count"].sum())
            rare = len(counted) - len(types)
            reason += f"; {rare:,} rare ones, of {others:,} events, are left out"
        if missing:
            reason += f"; {missing:,} events have none: prepare them with --on-invalid quarantine"
        return ActionTypes(name, types.to_list(), reason, missing)
    columns = {word for name in log.types for word in words_of(name)}
    for verb, signs in _VERBS.items():
        if any(word.removesuffix("s") in signs.split() for word in words_of(log.name)):
            return ActionTypes(None, [verb], "no column names action types; a guess from the name")
    if columns & {"basket", "quantity", "price", "sales", "receipt", "invoice", "paid"}:
        return ActionTypes(None, ["purchase"], "no column names action types; it looks like sales")
    return ActionTypes(None, ["event"], "no column names action types")


def _usual(counted: pl.DataFrame, rows: int) -> pl.DataFrame | None:
    """The action types, without rare ones if there are too many; None: they are something else."""
    if len(counted) <= _MAX_ACTION_TYPES:
        return counted
    usual = counted.filter(pl.col("count") >= 0.001 * rows)
    is_most = usual["count"].sum() >= 0.85 * rows
    return usual if is_most and len(usual) <= _MAX_ACTION_TYPES else None


def _says_what(name: str, kind: pl.DataType) -> bool:
    words = set(words_of(name))
    is_named = bool(words & _ACTION_WORDS) and words <= _ACTION_WORDS | _ACTION_HELPERS
    return kind == pl.String and (is_named or words == {"type"})
