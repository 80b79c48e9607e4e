"""Write what was found about logs as a schema: YAML with a reason beside each choice.

In: a `Proposal`. Out: YAML text. Used by `infer/inference.py` alone.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from userbert.infer.actions import ActionTypes
from userbert.infer.columns import Choice
from userbert.infer.key_columns import Log, Times
from userbert.schema.attributes import RESERVED_NAMES
from userbert.schema.yaml_text import scalar

_WIDTH = 100
_LONG, _SHORT = timedelta(days=365), timedelta(days=7)
"""Of windows, at most. The paper's long-term one has 90 days; who someone is is told by a year."""
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True)
class Habits:
    """How much the users do, and when."""

    users: int
    active_days: int
    """Different (user, date) pairs."""
    missing: int
    """Events without a user."""
    quietest: int | None
    """The hour of the day from which on the five hours with the fewest events are."""


@dataclass(frozen=True)
class UserTable:
    """Profiles, opened, and whose they are."""

    log: Log
    users: int
    known: int
    """Users who are in the logs too."""
    times: Times | None
    """Where users have several rows."""
    fields: Sequence[Choice]


@dataclass(frozen=True)
class Proposal:
    """All that a schema says, with the evidence."""

    logs: Sequence[Log]
    user: str
    user_reason: str
    times: Sequence[Times]
    actions: Sequence[ActionTypes]
    attributes: Sequence[Choice]
    habits: Habits
    profile: UserTable | None = None

    def is_flawed(self) -> bool:
        """Whether some rows cannot be used, as far as is known."""
        fields = () if self.profile is None else self.profile.fields
        counts = [
            self.habits.missing,
            *(times.missing for times in self.times),
            *(action.missing for action in self.actions),
            *(
                each.evidence.odd
                for each in (*self.attributes, *fields)
                if each.kind == "number" and each.evidence is not None
            ),
        ]
        return any(counts)

    def warnings(self) -> list[str]:
        """What should be told even to those who do not read the schema."""
        fields = () if self.profile is None else self.profile.fields
        return [each.warning for each in (*self.attributes, *fields) if each.warning is not None]


def render(proposal: Proposal) -> str:
    """Write a proposal as `schema.yaml`."""
    blocks = [
        _head(proposal),
        _sources(proposal),
        *_attributes_and_segments(proposal),
        _profile(proposal),
    ]
    return "\n\n".join("\n".join(block) for block in map(list, blocks) if block) + "\n"


def _head(proposal: Proposal) -> Iterator[str]:
    habits, times = proposal.habits, proposal.times
    events = sum(log.rows for log in proposal.logs)
    first, last = min(each.first for each in times), max(each.last for each in times)
    yield from _comment(
        f"Proposed from {events:,} events of {habits.users:,} users, {first:%Y-%m-%d} to "
        f"{last:%Y-%m-%d}. Read it through: each choice is a guess, with its reason."
    )
    yield from _comment(f"Who: {proposal.user_reason}.")
    if habits.missing:
        yield from _comment(
            f"{habits.missing:,} events have none; prepare them with --on-invalid quarantine."
        )
    yield f"user: {scalar(proposal.user)}"
    zone = next((each.zone for each in times if each.zone not in (None, "UTC")), None)
    if zone is not None:
        yield from _comment("The zone of the times themselves; it decides where a day ends.")
    else:
        yield from _comment(
            "Where the users live is not in the logs: set their zone, such as America/New_York. It "
            "decides where a day ends, and their hours."
        )
    if habits.quietest is not None:
        start, end = habits.quietest, (habits.quietest + 5) % 24
        east = (1 - start + 12) % 24 - 12
        yield from _comment(
            f"The fewest events fall between {start:02}:00 and {end:02}:00; if that is UTC and "
            f"people sleep then, they live near UTC{east:+d}."
        )
    yield f"timezone: {scalar(zone or 'UTC')}"
    yield from _comment(
        "To judge vectors at a cut-off, let vocabularies learn from nothing later: "
        f"fit_before: {last:%Y-%m-%d}, or the first of your cut-offs."
    )


def _sources(proposal: Proposal) -> Iterator[str]:
    yield "sources:"
    for log, when, action in zip(proposal.logs, proposal.times, proposal.actions, strict=True):
        yield f"  {scalar(log.name)}:"
        yield _path(log, 4)
        yield from _comment(_why_times(when), 4)
        if when.missing:
            yield from _comment(
                f"{when.missing:,} of {log.rows:,} events have none that can be read; prepare them "
                "with --on-invalid quarantine.",
                4,
            )
        yield f"    time: {_flow(_time(when))}"
        yield from _comment(_sentence(action.reason), 4)
        if action.column is None:
            yield f"    action: {scalar(action.types[0])}"
        else:
            yield f"    action: {{column: {scalar(action.column)}}}"


def _path(log: Log, indent: int) -> str:
    key, paths = " " * indent + "path: ", [scalar(path) for path in log.paths]
    return key + paths[0] if len(paths) == 1 else _list(key, paths)


def _why_times(when: Times) -> str:
    others = f"; other times: {', '.join(when.others)}" if when.others else ""
    if when.is_day:
        return f"Dates without a time of day: each counts from the end of its day{others}."
    if when.unit is not None:
        return f"Numbers since 1970, which are UTC{others}."
    if when.zone is not None or when.has_offset:
        return f"Times that carry their zone{others}."
    return (
        "Times that carry no zone, taken as UTC: write `zone: local` if they are the users' own "
        f"clock{others}."
    )


def _time(when: Times) -> dict[str, str]:
    keys = {"column": scalar(when.column)}
    if when.is_day and when.unit is None:
        keys["zone"] = scalar(when.zone or "local")
    elif when.zone is None and not when.has_offset:
        keys["zone"] = "UTC"
    if when.unit is not None:
        keys["unit"] = when.unit
    if when.is_day:
        keys["resolution"] = "day"
    return keys


def _attributes_and_segments(proposal: Proposal) -> tuple[list[str], list[str]]:
    has_instants = not all(when.is_day for when in proposal.times)
    types = {name: None for action in proposal.actions for name in action.types}
    names = _names(proposal.attributes, [*RESERVED_NAMES, "action", "hour"])
    attributes = ["attributes:"]
    chosen = []
    if len(types) > 1 or not names:
        attributes.append("  action: {of: action}")
        chosen.append("action")
    for column, name in names.items():
        choice = next(choice for choice in proposal.attributes if choice.column == column)
        attributes += [*_comment(_sentence(choice.reason), 2), _attribute(name, choice)]
        chosen.append(name)
    if has_instants:
        attributes += [*_comment("The local hour, from the time.", 2), "  hour: {of: hour}"]
    attributes += _left_out(proposal.attributes)
    return attributes, [*_segments(proposal, list(types), chosen, has_instants=has_instants)]


def _segments(
    proposal: Proposal, types: list[str], attributes: list[str], *, has_instants: bool
) -> Iterator[str]:
    long, short, reason = _windows(proposal, has_instants=has_instants)
    yield "segments:"
    yield from _comment(reason, 2)
    actions = _list("    actions: ", map(scalar, types))
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
        yield _list("    attributes: ", map(scalar, attributes + hour))
    if short is not None:
        instants = [
            name
            for when, action in zip(proposal.times, proposal.actions, strict=True)
            for name in action.types
            if not when.is_day
        ]
        actions = _list("    actions: ", map(scalar, dict.fromkeys(instants)))
        yield "  short_term:"
        yield "    words: {by: gap, minutes: 30}"
        yield f"    window: {_duration(short)}"
        yield actions
        yield _list("    attributes: ", map(scalar, attributes))


def _windows(
    proposal: Proposal, *, has_instants: bool
) -> tuple[timedelta | None, timedelta | None, str]:
    """The long-term and the short-term window, and why; None: no such segment."""
    times, habits = proposal.times, proposal.habits
    span = max(each.last for each in times) - min(each.first for each in times)
    events = sum(log.rows for log in proposal.logs)
    long = min(_LONG, max(_DAY, -(-span // _DAY) * _DAY))
    whole = f"{long.days} days" if long == _LONG else f"all {long.days} days of the log"
    if not has_instants:
        return long, None, f"Dates alone give no sessions: one segment, of {whole}."
    if span < _DAY:
        short = (span // _HOUR + 1) * _HOUR
        return None, short, "The log is shorter than a day: one segment, of sessions."
    if habits.active_days < 1.05 * habits.users:
        return None, min(_SHORT, long), "Hardly a user comes on a second day: sessions say it all."
    if events < 1.2 * habits.active_days:
        return long, None, f"Hardly a user acts twice a day: one segment, of {whole}."
    # In a short log the paper's proportion of 7 to 90 days, but no less than the log can fill.
    short = _SHORT if span >= 4 * _SHORT else max(_HOUR, (long * 7 / 90) // _HOUR * _HOUR)
    short = short // _DAY * _DAY if short >= _DAY else short
    reason = (
        f"{_sentence(whole)[:-1]} by day, the last {_duration(short)} of them by session. Both "
        "use the same actions, so the one ends where the other begins: no action is seen twice."
    )
    return long, short, reason


def _profile(proposal: Proposal) -> Iterator[str]:
    profile = proposal.profile
    if profile is None:
        return
    log, names = profile.log, _names(profile.fields, RESERVED_NAMES)
    choices = {choice.column: choice for choice in profile.fields}
    yield from _comment(
        f"{log.rows:,} rows of {profile.users:,} users; {profile.known:,} of the "
        f"{proposal.habits.users:,} users in the logs are among them."
    )
    if not names:
        yield from _comment("No field tells users apart, so there is no profile.")
        yield from _left_out(profile.fields, 0)
        return
    yield "profile:"
    yield _path(log, 2)
    if profile.times is not None:
        yield from _comment("Users have several rows: the newest before the cut-off counts.", 2)
        yield f"  time: {_flow(_time(profile.times))}"
    elif profile.users < log.rows:
        yield from _comment("Some users have several rows, and no time says which is newest.", 2)
    yield "  fields:"
    for column, name in names.items():
        yield from _comment(_sentence(choices[column].reason), 4)
        yield "  " + _attribute(name, choices[column])
    yield from _left_out(profile.fields, 4)


def _names(choices: Sequence[Choice], taken: Sequence[str]) -> dict[str, str]:
    """Name the attributes or fields by their columns, categories before numbers."""
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
    keys = {"column": scalar(choice.column)}
    if choice.kind == "number":
        keys["bins"] = str(choice.bins)
        if choice.low is not None and choice.low >= 0:
            keys["min"] = "0"
    else:
        keys["max_values"] = str(choice.max_values)
        if choice.min_users > 1:
            keys["min_users"] = str(choice.min_users)
    return f"  {scalar(name)}: {_flow(keys)}"


def _left_out(choices: Sequence[Choice], indent: int = 2) -> list[str]:
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
    # A line break or control character of a value would end the comment or the file.
    clean = "".join(character if character.isprintable() else "?" for character in text)
    mark = " " * indent + "# "
    return textwrap.wrap(clean, _WIDTH, initial_indent=mark, subsequent_indent=mark + hang)


def _list(key: str, items: Iterable[str]) -> str:
    """A flow list that goes on below its key where a line is full."""
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
