"""Tables that explain a proposed schema: the counts of each column, and how it is used.

In: a `Proposal`. Out: rows of text for each log. `userbert init --explain` shows the rows; the
reason for each choice is a comment in the schema.
"""

from collections.abc import Iterator, Sequence

from userbert.infer.columns import Choice
from userbert.infer.key_columns import Log
from userbert.infer.proposal import Proposal

COLUMNS = ("column", "used as", "rows", "values", "users", "most often", "range")
"""Header of each table. `rows` and `users` count rows and users with a value. For the columns of
users and action types, `rows` counts all rows."""

Rows = Iterator[tuple[str, ...]]
"""Rows of a table: a text for each of `COLUMNS`."""


def explain_tables(proposal: Proposal) -> Iterator[tuple[str, Rows]]:
    """Yields the name and the table rows of each log, profiles last.

    Counts are over all rows with a user and a time. Columns that are left out because of their type
    have no counts.
    """
    for number, log in enumerate(proposal.logs):
        yield log.name, _log_rows(proposal, number)
    if proposal.profile is not None:
        profile = proposal.profile.log
        yield profile.name, _column_rows(profile, proposal.profile.fields)


def _log_rows(proposal: Proposal, number: int) -> Rows:
    log, users = proposal.logs[number], f"{proposal.summary.users:,}"
    times, action = proposal.times[number], proposal.actions[number]
    yield (proposal.user, "user", f"{log.rows:,}", users, users, "", "")
    span = f"{times.first:%Y-%m-%d} to {times.last:%Y-%m-%d}"
    yield (times.column, "time", f"{log.rows - times.missing:,}", "", "", "", span)
    if action.column is not None:
        yield (action.column, "action type", f"{log.rows:,}", f"{len(action.types):,}", "", "", "")
    yield from _column_rows(log, proposal.attributes)


def _column_rows(log: Log, choices: Sequence[Choice]) -> Rows:
    for choice in choices:
        if choice.column not in log.types:
            continue
        counts = choice.counts
        if counts is None or counts.rows == 0:
            yield (choice.column, choice.kind, *[""] * 5)
            continue
        is_range = choice.kind == "number" and counts.low is not None
        yield (
            choice.column,
            choice.kind,
            f"{counts.rows:,}",
            f"{counts.values:,}",
            f"{counts.users:,}",
            f"{(counts.top_value or '')[:20]} ({counts.top_rows / counts.rows:.0%})",
            f"{counts.low:,.6g} to {counts.high:,.6g}" if is_range else "",
        )
