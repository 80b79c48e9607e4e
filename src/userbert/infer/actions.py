"""Finds the action types of a log, and the column that holds them.

In: an opened log. Out: its `ActionTypes`, with the reason as text. `infer/inference.py` puts the
action types into the proposed schema.
"""

from dataclasses import dataclass

import polars as pl

from userbert.infer.key_columns import Log
from userbert.infer.names import words_of

_ACTION_WORDS = {"event", "action", "activity", "interaction", "behavior", "behaviour"}
"""Words that name a column of action types."""
_ACTION_HELPERS = {"type", "name", "kind", "user"}
"""Words that may stand next to one of `_ACTION_WORDS` in the name of an action column."""
_ACTION_BY_FILE_NAME = {
    "purchase": "transaction purchase order sale basket receipt invoice sales",
    "click": "click", "view": "view pageview impression", "play": "play listen stream",
    "rating": "rating review", "visit": "visit session checkin", "search": "search query",
}  # fmt: skip
"""Words of a file name that suggest an action type, by type."""
_MAX_ACTION_TYPES = 100
"""Maximum number of action types; a column with more values is more likely an attribute."""
_MAX_MISSING = 0.01
"""Maximum share of events without a value in a column of action types."""
_MIN_TYPE_SHARE, _MIN_COVERED_SHARE = 0.001, 0.85
"""Limits for a column with more than `_MAX_ACTION_TYPES` values: share of the events from which a
value counts as an action type, and minimum share of the events with any of these types."""


@dataclass(frozen=True)
class ActionTypes:
    """The action types of a log's events."""

    column: str | None
    """Column of the action types; None: all events have the single type in `types`."""
    types: list[str]
    """Names of the types, the most frequent first."""
    reason: str
    """Reason for the choice: a sentence without its capital and its full stop."""
    missing: int = 0
    """Number of events without an action type."""


def find_actions(log: Log, taken: set[str]) -> ActionTypes:
    """Finds the column of action types; without such a column, guesses one type for all events.

    `taken` are the columns of users and times, which cannot hold action types.
    """
    candidates = [
        name for name in log.types if name not in taken and _is_action_column(name, log.types[name])
    ]
    for name in candidates:
        type_counts = log.collect(
            pl.col(name).drop_nulls().alias("type").value_counts(sort=True)
        ).unnest("type")
        missing = log.rows - int(type_counts["count"].sum())
        frequent = _frequent_types(type_counts, log.rows)
        if frequent is None or missing > _MAX_MISSING * log.rows:
            continue
        types = frequent.sort("count", "type", descending=[True, False])["type"]
        if len(type_counts) == 1:
            return ActionTypes(None, types.to_list(), f'the only value of column "{name}"')
        reason = f"{len(types)} action types"
        if len(types) < len(type_counts):
            others = log.rows - missing - int(frequent["count"].sum())
            rare = len(type_counts) - len(types)
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


def _frequent_types(type_counts: pl.DataFrame, rows: int) -> pl.DataFrame | None:
    """Returns the values that can be action types; if there are too many, without the rare values.

    Returns None if the frequent values are still too many, or are too small a share of the rows.
    """
    if len(type_counts) <= _MAX_ACTION_TYPES:
        return type_counts
    frequent = type_counts.filter(pl.col("count") >= _MIN_TYPE_SHARE * rows)
    covers_most = frequent["count"].sum() >= _MIN_COVERED_SHARE * rows
    return frequent if covers_most and len(frequent) <= _MAX_ACTION_TYPES else None


def _is_action_column(name: str, kind: pl.DataType) -> bool:
    words = set(words_of(name))
    is_named = bool(words & _ACTION_WORDS) and words <= _ACTION_WORDS | _ACTION_HELPERS
    return kind == pl.String and (is_named or words == {"type"})
