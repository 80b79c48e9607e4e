"""Simulates logs like those of the paper's ecosystem (paper §4.1, table 1), and the hidden truth.

In: a number of users, a seed and an `Ecosystem`. Out: a folder of Parquet logs, profiles, a month
of later purchases and responses for labels, the hidden truth, and a `schema.yaml` that `prepare`
accepts unchanged. Blocks of 50,000 users are drawn in parallel, each from the seed and its own
number only, so memory does not grow with the number of users, and files do not depend on the
number of processes. docs/explanation/simulated-ecosystem.md describes the generating process.
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
from userbert.workers import cores, process_pool

USERS_PER_PART = 50_000
"""Users per block; a block has one file of each log."""
LOGS = ("long_term", "short_term", "future")
"""Names of the logs, which are also their folders."""
_BYTES_PER_EVENT = 16
"""Upper estimate of bytes on disk per event of a log."""
_BYTES_PER_USER = 60
"""Upper estimate of bytes on disk per user of the profiles and the truth."""

_SCHEMA = """\
# A simulated ecosystem in the shape of the paper's (§4.1, table 1): made, not measured.
user: user_id
timezone: {timezone}
sources:
  long_term:
    path: [long_term, future]     # events after fit_before are for labels
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
    """Summary of a written simulation."""

    users: int
    events: Mapping[str, int]
    """Number of events by log."""
    seconds: float
    """Wall time of the simulation."""


@dataclass(frozen=True)
class _UserBlock:
    """A block of users, and the folder of the simulation."""

    folder: Path
    number: int
    """Index of the block, which seeds its draws."""
    first_user: int
    """Index of the first user in the simulation."""
    users: int
    """Number of users."""

    def file(self, log: str) -> Path:
        """Returns the path of the block's file of one log, or of the profiles or the truth."""
        return self.folder / log / f"part-{self.number:05d}.parquet"


@dataclass(frozen=True)
class _WrittenBlock:
    """Summary of a written block."""

    users: int
    events: tuple[int, ...]
    """Number of events of each log, in the order of `LOGS`."""
    responders: tuple[Int64, ...]
    """Indices in the simulation of the users who respond to each service."""


def simulate(
    output: str | Path,
    users: int,
    *,
    seed: int = 0,
    ecosystem: Ecosystem | None = None,
    users_per_part: int = USERS_PER_PART,
    workers: int | None = None,
) -> Simulation:
    """Writes the logs of `users` users; equal arguments give equal bytes.

    The first blocks of `users_per_part` users are equal however many blocks follow. The number of
    worker processes, by default one per core, does not change the files. Raises `InputError` if
    `output` exists, its disk is too small, or `users` is below 1.
    """
    output, ecosystem, start = Path(output), ecosystem or Ecosystem(), perf_counter()
    if users < 1:
        raise InputError(f"users: expected at least 1, found {users}.")
    with publishing_folder(output) as folder:
        _check_space(output, folder, users, ecosystem)
        for name in (*LOGS, "profiles", "truth", "responses"):
            (folder / name).mkdir()
        blocks = [
            _UserBlock(folder, number, first, min(users_per_part, users - first))
            for number, first in enumerate(range(0, users, users_per_part))
        ]
        written_blocks = _write_blocks(blocks, seed, ecosystem, workers or cores())
        for number, service in enumerate(ecosystem.services):
            responders = np.concatenate([block.responders[number] for block in written_blocks])
            write(folder / f"responses/{service.name}.parquet", {"user_id": user_ids(responders)})
        (folder / "schema.yaml").write_text(schema_text(ecosystem), encoding="utf-8")
        counts = np.sum([block.events for block in written_blocks], axis=0).tolist()
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
    """Returns the schema of the logs as YAML."""
    return _SCHEMA.format(timezone=TIMEZONE, end_day=ecosystem.end_day, **asdict(ecosystem))


def _check_space(output: Path, folder: Path, users: int, ecosystem: Ecosystem) -> None:
    """Raises `InputError` if the disk has too little space for the logs."""
    months = ecosystem.all_days / ecosystem.days
    events = ecosystem.long_term_events * months + ecosystem.short_term_events
    expected = int(users * (events * _BYTES_PER_EVENT + _BYTES_PER_USER))
    require_space(output, folder, expected, f"{users:,} users", "fewer --users")


def _write_blocks(
    blocks: Sequence[_UserBlock], seed: int, ecosystem: Ecosystem, workers: int
) -> list[_WrittenBlock]:
    """Writes all blocks and shows progress; returns their summaries in order."""
    written_blocks = []
    with progress("simulating (users)", sum(block.users for block in blocks)) as advance:
        for block in _write_in_parallel(blocks, seed, ecosystem, min(workers, len(blocks))):
            written_blocks.append(block)
            advance(block.users, "")
    return written_blocks


def _write_in_parallel(
    blocks: Sequence[_UserBlock], seed: int, ecosystem: Ecosystem, workers: int
) -> Iterator[_WrittenBlock]:
    """Yields the summary of each block in order, after its files are written."""
    if workers == 1:
        for block in blocks:
            yield _write_block(block, seed, ecosystem)
        return
    with process_pool(workers) as pool:
        # Few submitted blocks at a time: after an interrupt or an error, the pool still finishes
        # its whole queue.
        running: deque[Future[_WrittenBlock]] = deque()
        for block in blocks:
            running.append(pool.submit(_write_block, block, seed, ecosystem))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


_catalogue = lru_cache(maxsize=1)(build_catalogue)
"""Returns the catalogue, which all blocks of a simulation share; cached per process."""


def _write_block(block: _UserBlock, seed: int, ecosystem: Ecosystem) -> _WrittenBlock:
    """Draws the users and events of a block, and writes its files."""
    catalogue = _catalogue(ecosystem, seed)
    sequence = np.random.SeedSequence(seed, spawn_key=(1, block.number))
    generator = np.random.Generator(np.random.SFC64(sequence))
    people = draw_people(block.users, catalogue, generator)
    long_term = behavior.long_term(people, catalogue, generator)
    short_term = behavior.short_term(people, catalogue, generator)
    future = behavior.future(people, catalogue, generator)
    ids = user_ids(block.first_user + np.arange(block.users))
    write(block.file("long_term"), long_term_columns(long_term, ids, ecosystem))
    write(block.file("future"), long_term_columns(future, ids, ecosystem))
    write(block.file("short_term"), short_term_columns(short_term, ids, ecosystem))
    write(block.file("profiles"), profile_columns(people, ids, ecosystem))
    write(block.file("truth"), truth_columns(people, ids, catalogue))
    return _WrittenBlock(
        block.users,
        tuple(len(log.moments) for log in (long_term, short_term, future)),
        tuple(block.first_user + np.flatnonzero(responds) for responds in people.responses.T),
    )
