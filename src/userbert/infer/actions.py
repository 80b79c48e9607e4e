"""Finds the action types of a log, and the column that holds them.

In: an opened log. Out: its `ActionTypes`, with the reason as text. `infer/inference.py` puts them
into the proposed schema.
"""

from dataclasses import dataclass

import polars as pl

from userbert.infer.key_columns import Log
from userbert.infer.names import words_of

_ACTION_WORDS = {"event", "action", "activity", "interaction", "behavior", "behaviour"}
_ACTION_HELPERS = {"type", "name", "kind", "user"}
_ACTION_BY_FILE_NAME = {
    "purchase": "transaction purchase order sale basket receipt invoice sales",
    "click": "click", "view": "view pageview impression", "play": "play listen stream",
    "rating": "rating review", "visit": "visit session checkin", "search": "search query",
}  # fmt: skip
"""Action types, with the words of a file name that suggest them."""
_MAX_ACTION_TYPES = 100
_MAX_MISSING = 0.01
"""Largest share of events without a value in a column of action types."""


@dataclass(frozen=True)
class ActionTypes:
    """The action types of a log's events."""

    column: str | None
    """Column that holds them; None: all events have the single type in `types`."""
    types: list[str]
    """Sorted by their number of events, largest first."""
    reason: str
    missing: int = 0
    """Events without an action type."""


def find_actions(log: Log, taken: set[str]) -> ActionTypes:
    """Finds the column of action types; without one, names a single type for all events."""
    candidates = [
        name for name in log.types if name not in taken and _is_action_column(name, log.types[name])
    ]
    for name in candidates:
        counted = log.collect(
            pl.col(name).drop_nulls().alias("type").value_counts(sort=True)
        ).unnest("type")
        missing = log.rows - int(counted["count"].sum())
        frequent = _frequent_types(counted, log.rows)
        if frequent is None or missing > _MAX_MISSING * log.rows:
            continue
        types = frequent.sort("count", "type", descending=[True, False])["type"]
        if len(counted) == 1:
            return ActionTypes(None, types.to_list(), f'the only value of column "{name}"')
        reason = f"{len(types)} action types"
        if len(types) < len(counted):
            others = log.rows - missing - int(frequent["count"].sum())
            rare = len(counted) - len(types)
            reason += f"; {rare:,} rare ones, of {others:,} events, are left out"
        if missing:
            reason += f"; {missing:,} events have none: prepare them with --on-invalid quarantine"
        return ActionTypes(name, types.to_list(), reason, missing)
    column_words = {word for name in log.types for word in words_of(name)}
    for action, hints in _ACTION_BY_FILE_NAME.items():
        if any(word.removesuffix("s") in hints.split() for word in words_of(log.name)):
            return ActionTypes(
                None, [action], "no column names action types; a guess from the file name"
            )
    if column_words & {"basket", "quantity", "price", "sales", "receipt", "invoice", "paid"}:
        return ActionTypes(None, ["purchase"], "no column names action types; it looks like sales")
    return ActionTypes(None, ["event"], "no column names action types")


def _frequent_types(counted: pl.DataFrame, rows: int) -> pl.DataFrame | None:
    """Returns the action types, without rare ones if there are too many.

    None: the values are too many and too rare to be action types.
    """
    if len(counted) <= _MAX_ACTION_TYPES:
        return counted
    frequent = counted.filter(pl.col("count") >= 0.001 * rows)
    is_most = frequent["count"].sum() >= 0.85 * rows
    return frequent if is_most and len(frequent) <= _MAX_ACTION_TYPES else None


def _is_action_column(name: str, kind: pl.DataType) -> bool:
    words = set(words_of(name))
    is_named = bool(words & _ACTION_WORDS) and words <= _ACTION_WORDS | _ACTION_HELPERS
    return kind == pl.String and (is_named or words == {"type"})
