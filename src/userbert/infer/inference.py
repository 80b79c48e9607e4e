"""Proposes a schema for event logs, with a reason for each choice.

In: event files and optionally a profile file. Out: YAML text that `Schema.parse` and `prepare`
accept unchanged. `userbert init` writes it, and `Schema.infer` parses it. Counts in comments are
over all rows, streamed; memory grows only with the number of distinct values.
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
from userbert.infer.columns import Choice, choose_kinds
from userbert.infer.future_leakage import drop_future_leakage, drop_profile_totals
from userbert.infer.key_columns import Log, Times, find_times, find_user
from userbert.infer.proposal import LogSummary, ProfileTable, Proposal, render
from userbert.progress import progress, warn
from userbert.schema.files import columns_of, expand, join_names, locating_faults, scan

_SAMPLE_ROWS = 10_000
"""Minimum number of rows in the sample of a log, which has less than twice as many."""
_EVENT_BINS, _PROFILE_BINS = 16, 10
"""Proposed number of bins of numeric attributes and of numeric profile fields."""
_MIN_COPIED_BYTES = 100 << 20
"""Minimum size, in bytes, of a text log that is copied to Parquet to be parsed only once. Smaller
logs are read directly."""
_MIN_HOUR_EVENTS = 5_000
"""Minimum number of events for finding the quietest hours; in fewer events, they are noise."""


def propose_schema(events: list[Path], profiles: Path | None, folder: Path) -> str:
    """Returns a proposed schema as YAML text, with the reasons as comments.

    `folder` is the future folder of the schema, to which its paths are relative. Prints the
    proposal's warnings. Raises `SourceError` as `propose` does.
    """
    proposal = propose(events, profiles, folder)
    for warning in proposal.warnings():
        warn(warning)
    return render(proposal)


def propose(events: list[Path], profiles: Path | None, folder: Path) -> Proposal:
    """Returns the content of a proposed schema, with the counts that the choices are based on.

    `folder` is the future folder of the schema, to which its paths are relative.

    Raises `SourceError` if a file cannot be read, or has no user column or no time column.
    """
    with TemporaryDirectory(prefix="userbert-init-") as copies:
        logs = _open_logs(events, folder, Path(copies))
        profile = None
        if profiles is not None:
            profile = _open_log(_stem(profiles), {profiles: [profiles]}, folder, Path(copies))
        return _propose(logs, profile)


def _propose(logs: Sequence[Log], profile: Log | None) -> Proposal:
    user, user_reason = find_user(logs, profile)
    times = [find_times(log, user) for log in logs]
    summary = _summarize(logs, times, user)
    usable = logs
    if summary.missing_users or any(log_times.missing for log_times in times):
        usable = [
            _usable_events(log, user, log_times) for log, log_times in zip(logs, times, strict=True)
        ]
    actions = [
        find_actions(log, {user, log_times.column})
        for log, log_times in zip(usable, times, strict=True)
    ]
    choices = [
        drop_future_leakage(
            log,
            user,
            log_times,
            choose_kinds(
                log,
                user,
                {log_times.column, action.column or ""},
                times=log_times,
                bins=_EVENT_BINS,
            ),
        )
        for log, log_times, action in zip(usable, times, actions, strict=True)
    ]
    attributes = _merge_choices(choices)
    table = None if profile is None else _describe_profile(profile, usable, user)
    if table is not None:
        table = replace(table, fields=drop_profile_totals(table, user, usable, times, attributes))
        attributes = _leave_out_profile_fields(attributes, table)
    return Proposal(logs, user, user_reason, times, actions, attributes, summary, profile=table)


def _open_logs(paths: Sequence[Path], folder: Path, copies: Path) -> list[Log]:
    """Opens files; those with equal column names and equal temporal columns become one source."""
    sources: dict[tuple[object, ...], dict[Path, list[Path]]] = {}
    for path in paths:
        files = expand(str(path), Path())
        columns = {file: _source_key(columns_of(scan(file), file)) for file in files}
        holds_schema = path.is_dir() and folder.resolve().is_relative_to(path.resolve())
        if len(set(columns.values())) == 1 and not holds_schema:
            sources.setdefault(columns[files[0]], {})[path] = files
        else:
            for file in files:
                sources.setdefault(columns[file], {})[file] = [file]
    logs: dict[str, Log] = {}
    for files_of in sources.values():
        name = _common_name(list(files_of))
        unique = name if name not in logs else f"{name}_{len(logs) + 1}"
        logs[unique] = _open_log(unique, files_of, folder, copies)
    return list(logs.values())


def _source_key(types: dict[str, pl.DataType]) -> tuple[object, ...]:
    """Returns a key that the files of one source share."""
    return tuple(sorted((name, kind.is_temporal()) for name, kind in types.items()))


def _open_log(name: str, files_of: dict[Path, list[Path]], folder: Path, copies: Path) -> Log:
    """Opens files as one `Log`; `files_of` maps each path that the user gave to its files."""
    files = [file for expanded in files_of.values() for file in expanded]
    frames = [scan(file) for file in files]
    columns = [columns_of(frame, file) for frame, file in zip(frames, files, strict=True)]
    types = {
        column: _common_type([file_types[column] for file_types in columns if column in file_types])
        for file_types in columns
        for column in file_types
    }
    frame = pl.concat(
        [
            file_frame.with_columns(
                # Nested columns are left out later, and may have no common type with other files.
                pl.lit(None).alias(column)
                if types[column].is_nested()
                else pl.col(column).cast(types[column])
                for column in file_types
            )
            for file_frame, file_types in zip(frames, columns, strict=True)
        ],
        how="diagonal",
    )
    frame = _copy_to_parquet(frame, files, copies / f"{len(list(copies.iterdir()))}.parquet")
    with locating_faults(*files):
        rows = frame.select(pl.len()).collect(engine="streaming").item()
        if rows == 0:
            raise SourceError(
                f"{files[0]}: expected rows, found none. Remove the file from the logs."
            )
        sampled = frame.gather_every(max(1, rows // _SAMPLE_ROWS))
        sample = sampled.collect(engine="streaming")
    paths = [_schema_path(path, folder) for path in files_of]
    return Log(name, paths, files, frame, types, rows, sample)


def _copy_to_parquet(frame: pl.LazyFrame, files: Sequence[Path], copy: Path) -> pl.LazyFrame:
    """Copies a large text log to Parquet, because it is read about a dozen times."""
    size = sum(file.stat().st_size for file in files if ".parquet" not in file.name)
    # Compressed text may expand to five times its size.
    if size < _MIN_COPIED_BYTES or shutil.disk_usage(copy.parent).free < 5 * size:
        return frame
    with progress(f"reading {files[0].name}", None), locating_faults(*files):
        frame.sink_parquet(copy, compression="lz4")
    return pl.scan_parquet(copy)


def _common_type(kinds: Iterable[pl.DataType]) -> pl.DataType:
    """Returns a type that can hold a column's values in all files of a source."""
    distinct = set(kinds) - {pl.Null()}
    nested = sorted((kind for kind in distinct if kind.is_nested()), key=str)
    if any(isinstance(kind, pl.Categorical | pl.Enum) for kind in distinct):
        return pl.String()
    if nested or len(distinct) == 1:
        return [*nested, *distinct][0]
    if distinct and all(kind.is_integer() for kind in distinct):
        return pl.Int64()
    if distinct and all(kind.is_numeric() for kind in distinct):
        return pl.Float64()
    zones = {kind.time_zone for kind in distinct if isinstance(kind, pl.Datetime)}
    if len(zones) == 1 and all(isinstance(kind, pl.Datetime) for kind in distinct):
        return pl.Datetime("us", zones.pop())
    return pl.String()


def _schema_path(path: Path, folder: Path) -> str:
    """Returns a path as written in a schema in `folder`: relative if it is below the folder."""
    absolute, base = (Path(os.path.abspath(part)) for part in (path, folder))  # noqa: PTH100 - keeps symbolic links
    return (absolute.relative_to(base) if absolute.is_relative_to(base) else absolute).as_posix()


def _stem(path: Path) -> str:
    """Returns a file's name without endings, as an identifier."""
    return re.sub(r"\W+", "_", path.name.split(".")[0]).strip("_").lower() or "log"


def _common_name(paths: list[Path]) -> str:
    """Returns a source's name: the common start of its files' names, or else their folder."""
    stems = [_stem(path) for path in paths]
    if len(stems) == 1:
        return stems[0]
    prefix = os.path.commonprefix(stems).rstrip("_0123456789")  # noqa: RUF071 - of names, not paths
    return prefix or _stem(Path(os.path.abspath(paths[0])).parent)  # noqa: PTH100 - keeps symbolic links


def _summarize(logs: Sequence[Log], times: Sequence[Times], user: str) -> LogSummary:
    """Counts users, their active days and events without a user, and finds the quietest hours.

    The quietest hours are those of the largest log, preferably of one whose times are not dates.
    """
    days = pl.concat(
        [
            log.frame.select(
                pl.col(user).cast(pl.String).hash().alias("user"),
                pl.col(user).is_null().alias("is_missing"),
                log_times.day.hash(seed=1).alias("day"),
            )
            for log, log_times in zip(logs, times, strict=True)
        ]
    )
    with locating_faults(*(file for log in logs for file in log.files)):
        users, active_days, missing = (
            days.select(
                pl.col("user").n_unique().alias("users"),
                (pl.col("user") ^ pl.col("day")).n_unique().alias("days"),
                pl.col("is_missing").sum().alias("missing"),
            )
            .collect(engine="streaming")
            .row(0)
        )
    log, log_times = max(
        zip(logs, times, strict=True), key=lambda pair: (not pair[1].is_day, pair[0].rows)
    )
    has_zone = log_times.zone not in (None, "UTC") or log_times.has_offset
    quietest_hour = None if log_times.is_day or has_zone else _quietest_hour(log, log_times)
    return LogSummary(users, active_days, missing, quietest_hour)


def _usable_events(log: Log, user: str, times: Times) -> Log:
    """Returns a log without events that have no user or time, as their other values are unreliable.

    The sample stays. Raises `SourceError` if no event has both.
    """
    frame = log.frame.filter(pl.col(user).is_not_null(), times.is_valid)
    with locating_faults(*log.files):
        rows = frame.select(pl.len()).collect(engine="streaming").item()
    if rows == 0:
        raise SourceError(
            f'{log.files[0]}: expected events with a user ("{user}") and a time '
            f'("{times.column}"), found none that has both. Give a log with users and times.'
        )
    return replace(log, frame=frame, rows=rows)


def _quietest_hour(log: Log, times: Times) -> int | None:
    """Returns the start of the five consecutive hours with the fewest events.

    Returns None if the log has fewer than `_MIN_HOUR_EVENTS` events.
    """
    if log.rows < _MIN_HOUR_EVENTS:
        return None
    hours = times.hour.cast(pl.Int64, strict=False).alias("hour")
    counts = dict(log.collect(hours.value_counts()).unnest("hour").iter_rows())
    return min(range(24), key=lambda hour: sum(counts.get((hour + i) % 24, 0) for i in range(5)))


def _merge_choices(choices: Sequence[Sequence[Choice]]) -> list[Choice]:
    """Merges the choices of all sources, as an attribute has one definition in a schema."""
    by_column: dict[str, list[Choice]] = {}
    for source_choices in choices:
        for choice in source_choices:
            by_column.setdefault(choice.column, []).append(choice)
    merged = []
    for column, candidates in by_column.items():
        used = [choice for choice in candidates if choice.kind != "left out"]
        kinds = {choice.kind for choice in used}
        best = max(
            used or candidates, key=lambda choice: (choice.kind == "category", choice.max_values)
        )
        if kinds == {"number"} and not all(choice.is_numeric for choice in candidates):
            best = Choice(column, "left out", "numbers in one log, text in another")
        best = next((choice for choice in candidates if choice.warning is not None), best)
        lows = [choice.low for choice in candidates if choice.low is not None]
        merged.append(replace(best, low=min(lows, default=None)))
    return merged


def _leave_out_profile_fields(attributes: Sequence[Choice], table: ProfileTable) -> list[Choice]:
    """Leaves out attributes that are also profile fields: the field would reveal masked words."""
    fields = {field.column for field in table.fields if field.kind != "left out"}
    return [
        replace(choice, kind="left out", reason="the profiles have it")
        if choice.column in fields
        else choice
        for choice in attributes
    ]


def _describe_profile(profile: Log, logs: Sequence[Log], user: str) -> ProfileTable:
    """Describes the profile table. Raises `SourceError` if it has no user column."""
    known = pl.concat(
        [log.frame.select(pl.col(user).cast(pl.String).alias("user")) for log in logs]
    ).unique()
    if user not in profile.types:
        raise _other_user_column(profile, known, user)
    users = profile.collect(pl.col(user).n_unique()).item()
    times = None
    if users < profile.rows:
        # Without a time column, the proposal has a comment about the extra rows.
        with suppress(SourceError):
            times = find_times(profile, user)
    taken = [] if times is None else [times.column]
    fields = choose_kinds(profile, user, taken, times=None, bins=_PROFILE_BINS)
    return ProfileTable(profile, users, _count_known(profile, known, user), times, fields)


def _count_known(profile: Log, known: pl.LazyFrame, column: str) -> int:
    """Counts the distinct values of a profile column that are users of the logs."""
    values = profile.frame.select(pl.col(column).cast(pl.String).alias("user")).unique()
    with locating_faults(*profile.files):
        shared = values.join(known, on="user", how="semi").select(pl.len())
        return int(shared.collect(engine="streaming").item())


def _other_user_column(profile: Log, known: pl.LazyFrame, user: str) -> SourceError:
    """Returns the error for profiles without the user column; it names a likely column, if any."""
    shared = {
        name: _count_known(profile, known, name)
        for name, kind in profile.types.items()
        if kind == pl.String or kind.is_integer()
    }
    best = max(shared, key=lambda name: shared[name], default=None)
    if best is not None and shared[best] > 0.2 * profile.rows:
        return SourceError(
            f'{profile.files[0]}: the user column is "{best}" here, and "{user}" in the logs. '
            f'A schema has one name for both: rename the column to "{user}".'
        )
    return SourceError(
        f'{profile.files[0]}: the user column "{user}" is missing, and no column holds the same '
        f"ids; it has: {join_names(profile.types)}. Give the profiles of the same users."
    )
