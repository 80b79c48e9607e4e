"""Propose a schema for logs that nobody has described yet, with a reason for each choice.

In: event files and perhaps a profile file. Out: YAML text that `Schema.parse` reads and
`prepare` accepts as it is. `userbert init` writes it, `Schema.infer` reads it. Every count in a
comment is of all rows, streamed; nothing grows with the log but the counts of its values.
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from userbert.errors import SourceError
from userbert.infer.actions import find_actions
from userbert.infer.columns import Choice, judge
from userbert.infer.future_leakage import without_hindsight, without_totals
from userbert.infer.key_columns import Log, Times, find_times, find_user
from userbert.infer.proposal import Habits, Proposal, UserTable, render
from userbert.progress import progress, warn
from userbert.schema.files import columns_of, expand, join_names, reading, scan

_SAMPLE_ROWS = 10_000
_EVENT_BINS, _PROFILE_BINS = 16, 10
_LARGE = 100 << 20
"""Bytes of text that are not parsed again for each count."""


def propose_schema(events: list[Path], profiles: Path | None, folder: Path) -> str:
    """Propose a schema, to be kept in `folder`, as YAML text with its reasons as comments.

    Raises as `propose` does.
    """
    proposal = propose(events, profiles, folder)
    for warning in proposal.warnings():
        warn(warning)
    return render(proposal)


def propose(events: list[Path], profiles: Path | None, folder: Path) -> Proposal:
    """Find what a schema, to be kept in `folder`, should say, with the evidence.

    Raises `SourceError` when a file cannot be read, or when no column says who or when.
    """
    with TemporaryDirectory(prefix="userbert-init-") as copies:
        logs = _open_logs(events, folder, Path(copies))
        profile = None
        if profiles is not None:
            profile = _open(_stem(profiles), {profiles: [profiles]}, folder, Path(copies))
        return _propose(logs, profile)


def _propose(logs: Sequence[Log], profile: Log | None) -> Proposal:
    user, user_reason = find_user(logs, profile)
    times = [find_times(log, user) for log in logs]
    habits = _habits(logs, times, user)
    usable = logs
    if habits.missing or any(when.missing for when in times):
        usable = [_usable(log, user, when) for log, when in zip(logs, times, strict=True)]
    actions = [
        find_actions(log, {user, when.column}) for log, when in zip(usable, times, strict=True)
    ]
    choices = [
        without_hindsight(
            log,
            user,
            when,
            judge(log, user, {when.column, action.column or ""}, times=when, bins=_EVENT_BINS),
        )
        for log, when, action in zip(usable, times, actions, strict=True)
    ]
    attributes = _merge(choices)
    table = None if profile is None else _describe_profile(profile, usable, user)
    if table is not None:
        table = replace(table, fields=without_totals(table, user, usable, times, attributes))
        attributes = _without_traits(attributes, table)
    return Proposal(logs, user, user_reason, times, actions, attributes, habits, profile=table)


def _open_logs(paths: Sequence[Path], folder: Path, copies: Path) -> list[Log]:
    """Open files; those with the same columns, and times in the same ones, are one source."""
    sources: dict[tuple[object, ...], dict[Path, list[Path]]] = {}
    for path in paths:
        files = expand(str(path), Path())
        columns = {file: _shape(columns_of(scan(file), file)) for file in files}
        holds_schema = path.is_dir() and folder.resolve().is_relative_to(path.resolve())
        if len(set(columns.values())) == 1 and not holds_schema:
            sources.setdefault(columns[files[0]], {})[path] = files
        else:
            for file in files:
                sources.setdefault(columns[file], {})[file] = [file]
    logs: dict[str, Log] = {}
    for given in sources.values():
        name = _common_name(list(given))
        unique = name if name not in logs else f"{name}_{len(logs) + 1}"
        logs[unique] = _open(unique, given, folder, copies)
    return list(logs.values())


def _shape(types: dict[str, pl.DataType]) -> tuple[object, ...]:
    """What files of one source have in common."""
    return tuple(sorted((name, kind.is_temporal()) for name, kind in types.items()))


def _open(name: str, given: dict[Path, list[Path]], folder: Path, copies: Path) -> Log:
    files = [file for expanded in given.values() for file in expanded]
    frames = [scan(file) for file in files]
    columns = [columns_of(frame, file) for frame, file in zip(frames, files, strict=True)]
    types = {
        column: _common_type([kinds[column] for kinds in columns if column in kinds])
        for kinds in columns
        for column in kinds
    }
    frame = pl.concat(
        [
            one.with_columns(
                # It may be text in another file: no type holds both, and lists are not looked at.
                pl.lit(None).alias(column)
                if types[column].is_nested()
                else pl.col(column).cast(types[column])
                for column in kinds
            )
            for one, kinds in zip(frames, columns, strict=True)
        ],
        how="diagonal",
    )
    frame = _at_hand(frame, files, copies / f"{len(list(copies.iterdir()))}.parquet")
    with reading(*files):
        rows = frame.select(pl.len()).collect(engine="streaming").item()
        if rows == 0:
            raise SourceError(
                f"{files[0]}: expected rows, found none. Remove the file from the logs."
            )
        every = frame.gather_every(max(1, rows // _SAMPLE_ROWS))
        sample = every.collect(engine="streaming")
    paths = [_as_written(path, folder) for path in given]
    return Log(name, paths, files, frame, types, rows, sample)


def _at_hand(frame: pl.LazyFrame, files: Sequence[Path], copy: Path) -> pl.LazyFrame:
    """Copy a large log of text to Parquet, as it is read a dozen times."""
    size = sum(file.stat().st_size for file in files if ".parquet" not in file.name)
    # Compressed text may be five times as long.
    if size < _LARGE or shutil.disk_usage(copy.parent).free < 5 * size:
        return frame
    with progress(f"reading {files[0].name}", None), reading(*files):
        frame.sink_parquet(copy, compression="lz4")
    return pl.scan_parquet(copy)


def _common_type(kinds: Iterable[pl.DataType]) -> pl.DataType:
    """A type that holds the values of a column in all files of a source."""
    found = set(kinds) - {pl.Null()}
    nested = sorted((kind for kind in found if kind.is_nested()), key=str)
    if any(isinstance(kind, pl.Categorical | pl.Enum) for kind in found):
        return pl.String()
    if nested or len(found) == 1:
        return [*nested, *found][0]
    if found and all(kind.is_integer() for kind in found):
        return pl.Int64()
    if found and all(kind.is_numeric() for kind in found):
        return pl.Float64()
    zones = {kind.time_zone for kind in found if isinstance(kind, pl.Datetime)}
    if len(zones) == 1 and all(isinstance(kind, pl.Datetime) for kind in found):
        return pl.Datetime("us", zones.pop())
    return pl.String()


def _as_written(path: Path, folder: Path) -> str:
    """A path as a schema in `folder` names it."""
    absolute, base = (Path(os.path.abspath(each)) for each in (path, folder))  # noqa: PTH100 - links stay as given
    return (absolute.relative_to(base) if absolute.is_relative_to(base) else absolute).as_posix()


def _stem(path: Path) -> str:
    """A file's name without endings, as an identifier."""
    return re.sub(r"\W+", "_", path.name.split(".")[0]).strip("_").lower() or "log"


def _common_name(paths: list[Path]) -> str:
    stems = [_stem(path) for path in paths]
    if len(stems) == 1:
        return stems[0]
    prefix = os.path.commonprefix(stems).rstrip("_0123456789")  # noqa: RUF071 - of names, not paths
    return prefix or _stem(Path(os.path.abspath(paths[0])).parent)  # noqa: PTH100 - links stay as given


def _habits(logs: Sequence[Log], times: Sequence[Times], user: str) -> Habits:
    """Count users, their active days and missing ids, and find the quietest hours."""
    days = pl.concat(
        [
            log.frame.select(
                pl.col(user).cast(pl.String).hash().alias("user"),
                pl.col(user).is_null().alias("is_missing"),
                when.day.hash(seed=1).alias("day"),
            )
            for log, when in zip(logs, times, strict=True)
        ]
    )
    with reading(*(file for log in logs for file in log.files)):
        users, active_days, missing = (
            days.select(
                pl.col("user").n_unique().alias("users"),
                (pl.col("user") ^ pl.col("day")).n_unique().alias("days"),
                pl.col("is_missing").sum().alias("missing"),
            )
            .collect(engine="streaming")
            .row(0)
        )
    log, when = max(
        zip(logs, times, strict=True), key=lambda pair: (not pair[1].is_day, pair[0].rows)
    )
    carries_zone = when.zone not in (None, "UTC") or when.has_offset
    quietest = None if when.is_day or carries_zone else _quietest(log, when)
    return Habits(users, active_days, missing, quietest)


def _usable(log: Log, user: str, when: Times) -> Log:
    """The events that have a user and a time: what else stands in garbage says nothing."""
    frame = log.frame.filter(pl.col(user).is_not_null(), when.is_given)
    with reading(*log.files):
        rows = frame.select(pl.len()).collect(engine="streaming").item()
    if rows == 0:
        raise SourceError(
            f'{log.files[0]}: expected events with a user ("{user}") and a time '
            f'("{when.column}"), found none that has both. Give the log that has them.'
        )
    return replace(log, frame=frame, rows=rows)


def _quietest(log: Log, when: Times) -> int | None:
    """Find the five hours in a row with the fewest events, if there are enough to tell."""
    if log.rows < 5000:
        return None
    hours = when.hour.cast(pl.Int64, strict=False).alias("hour")
    counts = dict(log.collect(hours.value_counts()).unnest("hour").iter_rows())
    return min(range(24), key=lambda hour: sum(counts.get((hour + i) % 24, 0) for i in range(5)))


def _merge(choices: Sequence[Sequence[Choice]]) -> list[Choice]:
    """Join the choices of several sources: an attribute is one thing in all of them."""
    by_column: dict[str, list[Choice]] = {}
    for of_source in choices:
        for choice in of_source:
            by_column.setdefault(choice.column, []).append(choice)
    merged = []
    for column, each in by_column.items():
        useful = [choice for choice in each if choice.kind != "left out"]
        kinds = {choice.kind for choice in useful}
        best = max(
            useful or each, key=lambda choice: (choice.kind == "category", choice.max_values)
        )
        if kinds == {"number"} and not all(choice.is_numeric for choice in each):
            best = Choice(column, "left out", "numbers in one log, text in another")
        best = next((choice for choice in each if choice.warning is not None), best)
        lows = [choice.low for choice in each if choice.low is not None]
        merged.append(replace(best, low=min(lows, default=None)))
    return merged


def _without_traits(attributes: Sequence[Choice], table: UserTable) -> list[Choice]:
    """Leave out of the events what the profiles say: a masked word could be read off them."""
    traits = {field.column for field in table.fields if field.kind != "left out"}
    return [
        replace(each, kind="left out", reason="the profiles have it")
        if each.column in traits
        else each
        for each in attributes
    ]


def _describe_profile(profile: Log, logs: Sequence[Log], user: str) -> UserTable:
    """Find what is known of users; raise `SourceError` if it cannot be told whose it is."""
    known = pl.concat(
        [log.frame.select(pl.col(user).cast(pl.String).alias("user")) for log in logs]
    ).unique()
    if user not in profile.types:
        raise _other_user_column(profile, known, user)
    users = profile.collect(pl.col(user).n_unique()).item()
    times = None
    if users < profile.rows:
        # Without times, the proposal says that rows compete.
        with suppress(SourceError):
            times = find_times(profile, user)
    taken = [] if times is None else [times.column]
    fields = judge(profile, user, taken, times=None, bins=_PROFILE_BINS)
    return UserTable(profile, users, _known(profile, known, user), times, fields)


def _known(profile: Log, known: pl.LazyFrame, column: str) -> int:
    """Count the values of a profile column that are users of the logs."""
    values = profile.frame.select(pl.col(column).cast(pl.String).alias("user")).unique()
    with reading(*profile.files):
        both = values.join(known, on="user", how="semi").select(pl.len())
        return int(both.collect(engine="streaming").item())


def _other_user_column(profile: Log, known: pl.LazyFrame, user: str) -> SourceError:
    shared = {
        name: _known(profile, known, name)
        for name, kind in profile.types.items()
        if kind == pl.String or kind.is_integer()
    }
    best = max(shared, key=lambda name: shared[name], default=None)
    if best is not None and shared[best] > 0.2 * profile.rows:
        return SourceError(
            f'{profile.files[0]}: the users stand in "{best}" here, and in "{user}" in the logs. '
            f'A schema has one name for both: rename the column to "{user}".'
        )
    return SourceError(
        f'{profile.files[0]}: the user column "{user}" is missing, and no column holds the same '
        f"ids; it has: {join_names(profile.types)}. Give the profiles of the same users."
    )
