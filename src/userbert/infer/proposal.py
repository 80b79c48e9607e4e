"""Formats a proposed schema as YAML, with a reason above each choice.

In: a `Proposal`. Out: YAML text. `infer/inference.py` and `userbert init` use it.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from userbert.infer.actions import ActionTypes
from userbert.infer.columns import Choice
from userbert.infer.key_columns import Log, Times
from userbert.schema.attributes import RESERVED_NAMES
from userbert.schema.yaml_text import format_scalar

_WIDTH = 100
"""Maximum number of characters of a line."""
_LONG, _SHORT = timedelta(days=365), timedelta(days=7)
"""Longest proposed windows: long-term and short-term. The paper has 90 and 7 days, but a year says
more about a user."""
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_MIN_DAYS_PER_USER = 1.05
"""Mean number of active days per user from which a segment of days is worthwhile."""
_MIN_EVENTS_PER_DAY = 1.2
"""Mean number of events per active day from which a segment of sessions is worthwhile."""


@dataclass(frozen=True)
class LogSummary:
    """Counts of users and their days over all logs."""

    users: int
    """Number of distinct users."""
    active_days: int
    """Number of distinct (user, date) pairs."""
    missing_users: int
    """Number of events without a user."""
    quietest_hour: int | None
    """First of the five consecutive hours of the day with the fewest events; None: unknown."""


@dataclass(frozen=True)
class ProfileTable:
    """The opened profile table, and the choices for its columns."""

    log: Log
    users: int
    """Number of distinct users in the table."""
    users_in_logs: int
    """Number of users of the table who are also in the logs."""
    times: Times | None
    """Time column; None if users have one row each or no column holds times."""
    fields: Sequence[Choice]
    """Choice for each column except those of users and times."""


@dataclass(frozen=True)
class Proposal:
    """Content of a proposed schema, with the reasons and counts.

    `times` and `actions` describe the logs, in the same order.
    """

    logs: Sequence[Log]
    user: str
    """User column."""
    user_reason: str
    """Reason for the choice of the user column: a sentence without its subject and full stop."""
    times: Sequence[Times]
    actions: Sequence[ActionTypes]
    attributes: Sequence[Choice]
    """Choice for each column of any log except those of users, times and action types."""
    summary: LogSummary
    profile: ProfileTable | None = None

    def is_flawed(self) -> bool:
        """Returns whether some rows are known to be invalid, so that `prepare` would stop."""
        fields = () if self.profile is None else self.profile.fields
        counts = [
            self.summary.missing_users,
            *(times.missing for times in self.times),
            *(action.missing for action in self.actions),
            *(
                choice.counts.not_numbers
                for choice in (*self.attributes, *fields)
                if choice.kind == "number" and choice.counts is not None
            ),
        ]
        return any(counts)

    def warnings(self) -> list[str]:
        """Returns the warnings of all choices, to print, as comments in a schema may go unread."""
        fields = () if self.profile is None else self.profile.fields
        choices = (*self.attributes, *fields)
        return [choice.warning for choice in choices if choice.warning is not None]


def render(proposal: Proposal) -> str:
    """Returns a proposal as the text of `schema.yaml`."""
    blocks = [
        _header(proposal),
        _sources(proposal),
        *_attributes_and_segments(proposal),
        _profile(proposal),
    ]
    return "\n\n".join("\n".join(block) for block in map(list, blocks) if block) + "\n"


def _header(proposal: Proposal) -> Iterator[str]:
    summary, times = proposal.summary, proposal.times
    events = sum(log.rows for log in proposal.logs)
    first, last = min(column.first for column in times), max(column.last for column in times)
    yield from _comment(
        f"Proposed from {events:,} events of {summary.users:,} users, {first:%Y-%m-%d} to "
        f"{last:%Y-%m-%d}. Read it through: each choice is a guess, with its reason."
    )
    yield from _comment(f"User column: {proposal.user_reason}.")
    if summary.missing_users:
        yield from _comment(
            f"{summary.missing_users:,} events have no user; prepare with --on-invalid quarantine."
        )
    yield f"user: {format_scalar(proposal.user)}"
    zone = next((column.zone for column in times if column.zone not in (None, "UTC")), None)
    if zone is not None:
        yield from _comment("The time zone of the time column; it decides when a day ends.")
    else:
        yield from _comment(
            "The logs do not say where the users live: set their time zone, such as "
            "America/New_York. It decides when a day ends, and the local hours."
        )
    if summary.quietest_hour is not None:
        start, end = summary.quietest_hour, (summary.quietest_hour + 5) % 24
        east = (1 - start + 12) % 24 - 12
        yield from _comment(
            f"The fewest events fall between {start:02}:00 and {end:02}:00; if that is UTC and "
            f"people sleep then, they live near UTC{east:+d}."
        )
    yield f"timezone: {format_scalar(zone or 'UTC')}"
    yield from _comment(
        "To evaluate at a cut-off, fit vocabularies only on events before it: "
        f"fit_before: {last:%Y-%m-%d}, or the first of your cut-offs."
    )


def _sources(proposal: Proposal) -> Iterator[str]:
    yield "sources:"
    for log, times, action in zip(proposal.logs, proposal.times, proposal.actions, strict=True):
        yield f"  {format_scalar(log.name)}:"
        yield _path_line(log, 4)
        yield from _comment(_time_reason(times), 4)
        if times.missing:
            yield from _comment(
                f"{times.missing:,} of {log.rows:,} events have no readable time; prepare with "
                "--on-invalid quarantine.",
                4,
            )
        yield f"    time: {_flow(_time_keys(times))}"
        yield from _comment(_sentence(action.reason), 4)
        if action.column is None:
            yield f"    action: {format_scalar(action.types[0])}"
        else:
            yield f"    action: {{column: {format_scalar(action.column)}}}"


def _path_line(log: Log, indent: int) -> str:
    key, paths = " " * indent + "path: ", [format_scalar(path) for path in log.paths]
    return key + paths[0] if len(paths) == 1 else _list(key, paths)


def _time_reason(times: Times) -> str:
    others = f"; other times: {', '.join(times.other_columns)}" if times.other_columns else ""
    if times.is_day:
        return f"Dates without a time of day: each counts from the end of its day{others}."
    if times.unit is not None:
        return f"Numbers since 1970, which are UTC{others}."
    if times.zone is not None or times.has_offset:
        return f"Times with a time zone{others}."
    return (
        f"Times without a zone, read as UTC: write `zone: local` if they are in local time{others}."
    )


def _time_keys(times: Times) -> dict[str, str]:
    keys = {"column": format_scalar(times.column)}
    if times.is_day and times.unit is None:
        keys["zone"] = format_scalar(times.zone or "local")
    elif times.zone is None and not times.has_offset:
        keys["zone"] = "UTC"
    if times.unit is not None:
        keys["unit"] = times.unit
    if times.is_day:
        keys["resolution"] = "day"
    return keys


def _attributes_and_segments(proposal: Proposal) -> tuple[list[str], list[str]]:
    has_instants = not all(times.is_day for times in proposal.times)
    types = {name: None for action in proposal.actions for name in action.types}
    names = _names_of_columns(proposal.attributes, [*RESERVED_NAMES, "action", "hour"])
    attributes = ["attributes:"]
    attribute_names = []
    if len(types) > 1 or not names:
        attributes.append("  action: {of: action}")
        attribute_names.append("action")
    for column, name in names.items():
        choice = next(choice for choice in proposal.attributes if choice.column == column)
        attributes += [*_comment(_sentence(choice.reason), 2), _attribute(name, choice)]
        attribute_names.append(name)
    if has_instants:
        attributes += [*_comment("The local hour of the event.", 2), "  hour: {of: hour}"]
    attributes += _left_out_comment(proposal.attributes)
    segments = _segments(proposal, list(types), attribute_names, has_instants=has_instants)
    return attributes, list(segments)


def _segments(
    proposal: Proposal, types: list[str], attributes: list[str], *, has_instants: bool
) -> Iterator[str]:
    long, short, reason = _windows(proposal, has_instants=has_instants)
    yield "segments:"
    yield from _comment(reason, 2)
    actions = _list("    actions: ", map(format_scalar, types))
    if long is not None:
        hour = ["hour"] if has_instants else []
        start = "04:00" if has_instants else "00:00"
        window = _duration(long)
        if short is not None:
            window = _flow({"from": window, "to": _duration(short)})
        yield "  long_term:"
        yield f'    words: {{by: day, starts_at: "{start}"}}'
        yield f"    window: {window}"
        yield actions
        yield _list("    attributes: ", map(format_scalar, attributes + hour))
    if short is not None:
        instants = [
            name
            for times, action in zip(proposal.times, proposal.actions, strict=True)
            for name in action.types
            if not times.is_day
        ]
        actions = _list("    actions: ", map(format_scalar, dict.fromkeys(instants)))
        yield "  short_term:"
        yield "    words: {by: gap, minutes: 30}"
        yield f"    window: {_duration(short)}"
        yield actions
        yield _list("    attributes: ", map(format_scalar, attributes))


def _windows(
    proposal: Proposal, *, has_instants: bool
) -> tuple[timedelta | None, timedelta | None, str]:
    """Returns the long-term and short-term windows (None: no segment), and the reason for both."""
    times, summary = proposal.times, proposal.summary
    span = max(column.last for column in times) - min(column.first for column in times)
    events = sum(log.rows for log in proposal.logs)
    long = min(_LONG, max(_DAY, -(-span // _DAY) * _DAY))
    length = f"{long.days} days" if long == _LONG else f"all {long.days} days of the log"
    if not has_instants:
        return long, None, f"Dates without times give no sessions: one segment, of {length}."
    if span < _DAY:
        short = (span // _HOUR + 1) * _HOUR
        return None, short, "The log is shorter than a day: one segment, of sessions."
    if summary.active_days < _MIN_DAYS_PER_USER * summary.users:
        reason = "Few users have events on a second day: one segment, of sessions."
        return None, min(_SHORT, long), reason
    if events < _MIN_EVENTS_PER_DAY * summary.active_days:
        return long, None, f"Few users have two events on a day: one segment, of {length}."
    # A short log keeps the paper's proportion of 7 to 90 days, with at least an hour.
    short = _SHORT if span >= 4 * _SHORT else max(_HOUR, (long * 7 / 90) // _HOUR * _HOUR)
    short = short // _DAY * _DAY if short >= _DAY else short
    reason = (
        f"{_sentence(length)[:-1]} by day, the last {_duration(short)} of them by session. Both "
        "use the same actions, so long_term ends where short_term starts: no action is seen twice."
    )
    return long, short, reason


def _profile(proposal: Proposal) -> Iterator[str]:
    profile = proposal.profile
    if profile is None:
        return
    log, names = profile.log, _names_of_columns(profile.fields, RESERVED_NAMES)
    choices = {choice.column: choice for choice in profile.fields}
    yield from _comment(
        f"{log.rows:,} rows of {profile.users:,} users; {profile.users_in_logs:,} of the "
        f"{proposal.summary.users:,} users in the logs are among them."
    )
    if not names:
        yield from _comment("No column can be used as a field, so there is no profile.")
        yield from _left_out_comment(profile.fields, 0)
        return
    yield "profile:"
    yield _path_line(log, 2)
    if profile.times is not None:
        yield from _comment("Users have several rows: the newest before the cut-off counts.", 2)
        yield f"  time: {_flow(_time_keys(profile.times))}"
    elif profile.users < log.rows:
        yield from _comment(
            "Some users have several rows, and no time column says which is newest.", 2
        )
    yield "  fields:"
    for column, name in names.items():
        yield from _comment(_sentence(choices[column].reason), 4)
        yield "  " + _attribute(name, choices[column])
    yield from _left_out_comment(profile.fields, 4)


def _names_of_columns(choices: Sequence[Choice], taken: Sequence[str]) -> dict[str, str]:
    """Maps columns to names of attributes or fields, categories before numbers.

    A name in `taken` gets the suffix `_value`, repeated until the name is not in use.
    """
    used = [choice for choice in choices if choice.kind != "left out"]
    used.sort(key=lambda choice: choice.kind)
    columns = {choice.column for choice in used}
    names: dict[str, str] = {}
    for column in (choice.column for choice in used):
        name = column
        while name in taken or (name != column and name in columns):
            name += "_value"
        names[column] = name
    return names


def _attribute(name: str, choice: Choice) -> str:
    keys = {"column": format_scalar(choice.column)}
    if choice.kind == "number":
        keys["bins"] = str(choice.bins)
        if choice.low is not None and choice.low >= 0:
            keys["min"] = "0"
    else:
        keys["max_values"] = str(choice.max_values)
        if choice.min_users > 1:
            keys["min_users"] = str(choice.min_users)
    return f"  {format_scalar(name)}: {_flow(keys)}"


def _left_out_comment(choices: Sequence[Choice], indent: int = 2) -> list[str]:
    lines = [
        line
        for choice in choices
        if choice.kind == "left out"
        for line in _comment(f"- {choice.column or '(no name)'}: {choice.reason}.", indent, "  ")
    ]
    return [*_comment("Left out:", indent), *lines] if lines else []


def _sentence(reason: str) -> str:
    return f"{reason[0].upper()}{reason[1:]}."


def _comment(text: str, indent: int = 0, hang: str = "") -> list[str]:
    # A line break or control character in a value would end the comment or break the file.
    clean = "".join(character if character.isprintable() else "?" for character in text)
    mark = " " * indent + "# "
    return textwrap.wrap(clean, _WIDTH, initial_indent=mark, subsequent_indent=mark + hang)


def _list(key: str, items: Iterable[str]) -> str:
    """Formats a YAML flow list, wrapped at `_WIDTH`."""
    lines = [key + "["]
    for item in items:
        if len(lines[-1]) + len(item) > _WIDTH - 2:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * (len(key) - len(key.lstrip()) + 2))
        lines[-1] += item + ", "
    lines[-1] = lines[-1].removesuffix(", ") + "]"
    return "\n".join(lines)


def _flow(keys: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"


def _duration(duration: timedelta) -> str:
    return f"{duration // _DAY}d" if duration % _DAY == timedelta() else f"{duration // _HOUR}h"
