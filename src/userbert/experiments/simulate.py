"""Logs in the shape of the paper's ecosystem (paper §4.1, table 1), with the truth beside them.

In: a number of users, a seed and an `Ecosystem`. Out: a folder of Parquet logs, profiles, a month
of later purchases and of responses for labels, the hidden truth, and a `schema.yaml` that `prepare`
accepts as it is. Parts of 50,000 users are drawn side by side, each from the seed and its own
number alone, so memory does not grow with the number of users, nor do bytes change with that of the
processes. The generating process stands in docs/explanation/simulated-ecosystem.md.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import numpy as np

from userbert.data.ragged import Int64
from userbert.errors import InputError
from userbert.experiments import behavior
from userbert.experiments.catalogue import build_catalogue
from userbert.experiments.ecosystem import TIMEZONE, Ecosystem
from userbert.experiments.people import draw_people
from userbert.experiments.simulated_logs import (
    long_term_columns,
    profile_columns,
    short_term_columns,
    truth_columns,
    user_ids,
    write,
)
from userbert.folders import publishing_folder, require_space, write_summary
from userbert.progress import progress
from userbert.workers import cores, processes

USERS_PER_PART = 50_000
LOGS = ("long_term", "short_term", "future")
_BYTES_PER_EVENT = 16
_BYTES_PER_USER = 60
"""On disk, with some to spare; of users their profiles and the truth."""

_SCHEMA = """\
# A simulated ecosystem in the shape of the paper's (§4.1, table 1): made, not measured.
user: user_id
timezone: {timezone}
sources:
  long_term:
    path: [long_term, future]     # what lies after fit_before is for labels
    time: {{column: time}}
    action: {{column: action_type}}
  short_term:
    path: short_term
    time: {{column: time}}
    action: {{column: event_type}}
attributes:
  usage_type: {{column: usage_type}}
  channel: {{column: channel, max_values: {channels}}}
  expense: {{column: price, bins: 17, min: 0}}
  shop: {{column: shop, max_values: {shops}}}
  genre: {{column: genre, max_values: {genres}}}
  hour: {{of: hour}}
  event_type: {{of: action}}
  browsed_shop: {{column: shop, max_values: {browsed_shops}}}
  browsed_genre: {{column: genre, max_values: {browsed_genres}}}
  device: {{column: device}}
segments:
  long_term:
    words: {{by: day, starts_at: "04:00"}}
    window: {days}d
    actions: [purchase, point_usage]
    attributes: [usage_type, channel, expense, shop, genre, hour]
  short_term:
    words: {{by: gap, minutes: 30}}
    window: {short_days}d
    actions: [click, search, page_view]
    attributes: [event_type, browsed_shop, browsed_genre, device]
profile:
  path: profiles
  fields:
    age: {{column: age, bins: 12}}
    gender: {{column: gender}}
    region: {{column: region}}
    occupation: {{column: occupation}}
    tenure: {{column: tenure_months, bins: 12}}
fit_before: {end_day}
"""


@dataclass(frozen=True)
class Simulation:
    """What was written."""

    users: int
    events: Mapping[str, int]
    """By log."""
    seconds: float


@dataclass(frozen=True)
class _Part:
    """Some of the users, and where their logs go."""

    folder: Path
    number: int
    first_user: int
    users: int

    def file(self, log: str) -> Path:
        """Where its events of one log go."""
        return self.folder / log / f"part-{self.number:05d}.parquet"


@dataclass(frozen=True)
class _Written:
    """What came of a part."""

    users: int
    events: tuple[int, ...]
    """By log."""
    responders: tuple[Int64, ...]
    """By service: the numbers of those who respond."""


def simulate(
    output: str | Path,
    users: int,
    *,
    seed: int = 0,
    ecosystem: Ecosystem | None = None,
    users_per_part: int = USERS_PER_PART,
    workers: int | None = None,
) -> Simulation:
    """Write the logs of so many users; the same seed gives the same bytes.

    The first full parts are the same however many users there are. Raises `InputError` if `output`
    exists or its disk is too small.
    """
    output, ecosystem, start = Path(output), ecosystem or Ecosystem(), perf_counter()
    if users < 1:
        raise InputError(f"--users: expected at least 1, found {users}.")
    with publishing_folder(output) as folder:
        _check_space(output, folder, users, ecosystem)
        for name in (*LOGS, "profiles", "truth", "responses"):
            (folder / name).mkdir()
        parts = [
            _Part(folder, number, first, min(users_per_part, users - first))
            for number, first in enumerate(range(0, users, users_per_part))
        ]
        written = _write_parts(parts, seed, ecosystem, workers or cores())
        for number, service in enumerate(ecosystem.services):
            responders = np.concatenate([part.responders[number] for part in written])
            write(folder / f"responses/{service.name}.parquet", {"user_id": user_ids(responders)})
        (folder / "schema.yaml").write_text(schema_text(ecosystem), encoding="utf-8")
        counts = np.sum([part.events for part in written], axis=0).tolist()
        events = dict(zip(LOGS, counts, strict=True))
        write_summary(
            folder,
            "simulation",
            users=users,
            seed=seed,
            users_per_part=users_per_part,
            events=events,
            ecosystem={**asdict(ecosystem), "first_day": str(ecosystem.first_day)},
        )
    return Simulation(users, events, perf_counter() - start)


def schema_text(ecosystem: Ecosystem) -> str:
    """The schema of the logs, as YAML."""
    return _SCHEMA.format(timezone=TIMEZONE, end_day=ecosystem.end_day, **asdict(ecosystem))


def _check_space(output: Path, folder: Path, users: int, ecosystem: Ecosystem) -> None:
    """Raise `InputError` where the disk cannot hold what will come of so many users."""
    months = ecosystem.all_days / ecosystem.days
    events = ecosystem.long_term_events * months + ecosystem.short_term_events
    expected = int(users * (events * _BYTES_PER_EVENT + _BYTES_PER_USER))
    require_space(output, folder, expected, f"{users:,} users", "fewer --users")


def _write_parts(
    parts: Sequence[_Part], seed: int, ecosystem: Ecosystem, workers: int
) -> list[_Written]:
    """Write all parts; say what came of each, in order."""
    written = []
    with progress("simulating (users)", sum(part.users for part in parts)) as advance:
        for part in _side_by_side(parts, seed, ecosystem, min(workers, len(parts))):
            written.append(part)
            advance(part.users, "")
    return written


def _side_by_side(
    parts: Sequence[_Part], seed: int, ecosystem: Ecosystem, workers: int
) -> Iterator[_Written]:
    if workers == 1:
        for part in parts:
            yield _write_part(part, seed, ecosystem)
        return
    with processes(workers) as pool:
        # Few at a time: whoever interrupts, or has a full disk, need not wait for all the others.
        running: deque[Future[_Written]] = deque()
        for part in parts:
            running.append(pool.submit(_write_part, part, seed, ecosystem))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


_catalogue = lru_cache(maxsize=1)(build_catalogue)
"""Of a process: all parts of a simulation share it."""


def _write_part(part: _Part, seed: int, ecosystem: Ecosystem) -> _Written:
    catalogue = _catalogue(ecosystem, seed)
    sequence = np.random.SeedSequence(seed, spawn_key=(1, part.number))
    generator = np.random.Generator(np.random.SFC64(sequence))
    people = draw_people(part.users, catalogue, generator)
    long_term = behavior.long_term(people, catalogue, generator)
    short_term = behavior.short_term(people, catalogue, generator)
    future = behavior.future(people, catalogue, generator)
    ids = user_ids(part.first_user + np.arange(part.users))
    write(part.file("long_term"), long_term_columns(long_term, ids, ecosystem))
    write(part.file("future"), long_term_columns(future, ids, ecosystem))
    write(part.file("short_term"), short_term_columns(short_term, ids, ecosystem))
    write(part.file("profiles"), profile_columns(people, ids, ecosystem))
    write(part.file("truth"), truth_columns(people, ids, catalogue))
    return _Written(
        part.users,
        tuple(len(log.moments) for log in (long_term, short_term, future)),
        tuple(part.first_user + np.flatnonzero(responds) for responds in people.responses.T),
    )
