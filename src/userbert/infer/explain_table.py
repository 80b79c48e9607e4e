"""The evidence of a proposed schema: what was counted of each column, and what it is taken for.

In: a `Proposal`. Out: rows of text for each log. `userbert init --explain` shows them; why each
choice was made stands in the schema itself.
"""

from collections.abc import Iterator, Sequence

from userbert.infer.columns import Choice
from userbert.infer.key_columns import Log
from userbert.infer.proposal import Proposal

COLUMNS = ("column", "taken for", "rows", "values", "users", "most often", "range")
"""Of each row: `rows` have a value, `values` are different ones, `users` have one."""

Rows = Iterator[tuple[str, ...]]


def evidence(proposal: Proposal) -> Iterator[tuple[str, Rows]]:
    """The rows of each log by its name, profiles last.

    Counts are of all rows; of columns whose type said enough there are none.
    """
    for number, log in enumerate(proposal.logs):
        yield log.name, _of_log(proposal, number)
    if proposal.profile is not None:
        profile = proposal.profile.log
        yield profile.name, _of_choices(profile, proposal.profile.fields)


def _of_log(proposal: Proposal, number: int) -> Rows:
    log, users = proposal.logs[number], f"{proposal.habits.users:,}"
    when, action = proposal.times[number], proposal.actions[number]
    yield (proposal.user, "user", f"{log.rows:,}", users, users, "", "")
    span = f"{when.first:%Y-%m-%d} to {when.last:%Y-%m-%d}"
    yield (when.column, "time", f"{log.rows - when.missing:,}", "", "", "", span)
    if action.column is not None:
        yield (action.column, "action type", f"{log.rows:,}", f"{len(action.types):,}", "", "", "")
    yield from _of_choices(log, proposal.attributes)


def _of_choices(log: Log, choices: Sequence[Choice]) -> Rows:
    for choice in choices:
        if choice.column not in log.types:
            continue
        found = choice.evidence
        if found is None or found.given == 0:
            yield (choice.column, choice.kind, *[""] * 5)
            continue
        is_range = choice.kind == "number" and found.low is not None
        yield (
            choice.column,
            choice.kind,
            f"{found.given:,}",
            f"{found.values:,}",
            f"{found.users:,}",
            f"{(found.top or '')[:20]} ({found.most / found.given:.0%})",
            f"{found.low:,.6g} to {found.high:,.6g}" if is_range else "",
        )
