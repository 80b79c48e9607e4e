"""All users of prepared data: what they did, their vectors, who is near whom.

In: prepared data and the models that are served. Out: `Population`. The vectors of all users are
made in the background when the service begins; until they are there, who asks is told how far it
is.

Users by a part of their id.

In: prepared data and a text. Out: `Found`. An id that is the text is found by its hash, whatever
the number of users; the others are looked for shard by shard, among so many users at most.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.ragged import Float32, Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at, user_ids_of
from userbert.data.use.timeline import WordView, profile_values, timeline
from userbert.embedding.embeddings import Embeddings
from userbert.errors import UserBertError
from userbert.export.backend import Answer
from userbert.search.neighbours import Neighbours
from userbert.service.loaded_models import Served, Watched
from userbert.service.telemetry import log
from userbert.tasks.predictions import Scores

_MOST = 5_000_000
"""Users who are looked at: a third of a second."""
_KEPT = 1_000
"""Of a shard's, from which the first by name are told; at least as many as a call may ask for."""


@dataclass(frozen=True)
class Found:
    """Users whose ids hold a text."""

    users: list[str]
    more: bool
    """Whether there are, or may be, others."""


def find_users(data: PreparedData, text: str, limit: int) -> Found:
    """Find users: the one of that id, then whose id begins with it, then whose id holds it."""
    exact = [text] if int(data.rows_of([text])[0]) >= 0 else []
    begin: list[str] = []
    hold: list[str] = []
    looked_at = 0
    for shard in data.shards:
        if len(begin) > limit or looked_at > _MOST:
            break
        looked_at += shard.users
        ids = shard.user_ids
        holding = ids.filter(pc.match_substring(ids, text))
        is_begin = pc.starts_with(holding, text)
        begin += holding.filter(is_begin).slice(0, _KEPT + 2).to_pylist()
        if len(hold) <= limit:
            hold += holding.filter(pc.invert(is_begin)).slice(0, _KEPT + 2).to_pylist()
    others = [*sorted(begin), *sorted(hold)]
    users = [*exact, *(user for user in others if user != text)]
    return Found(users[:limit], len(users) > limit or looked_at < len(data))


_AT_A_TIME = 64
"""Users who are embedded before calls that came meanwhile are answered."""
_SAMPLE = 50_000
"""Users who are embedded first, and shown: more points than pixels tell no more."""


class NotReadyError(UserBertError):
    """What was asked for is not there yet, or no longer what it was."""


class UnknownUserError(UserBertError):
    """The data do not hold a user."""


@dataclass(frozen=True, eq=False)
class Everybody:
    """The vectors of all users by one model."""

    embeddings: Embeddings
    neighbours: Neighbours


@dataclass(frozen=True, eq=False)
class Sampled:
    """What a model says of the users of the sample, (S,) of them."""

    vectors: Float32
    scores: Scores | None


@dataclass(frozen=True)
class Near:
    """A user near another."""

    user_id: str
    cosine: float


class Population:
    """Users of prepared data, as the models see them just after the last event."""

    def __init__(self, data: PreparedData, served: Mapping[str, Served]) -> None:
        self.data = data
        self.cutoff = data.default_cutoff
        self._files = Watched.at(data.path)
        self._served = served
        self._pairs = pairs_at(data, [self.cutoff])
        self._ids = data.user_ids.take(pa.array(self._pairs.rows))
        self._everybody: dict[str, Everybody] = {}
        self._sampled: dict[str, Sampled] = {}
        self._done = dict.fromkeys(served, 0)
        count = len(self._pairs)
        self._sample = np.random.default_rng(0).choice(count, min(count, _SAMPLE), replace=False)
        is_other = np.ones(count, bool)
        is_other[self._sample] = False
        self._rest = np.flatnonzero(is_other)
        self._is_stopped = threading.Event()
        for one in served.values():  # ids of the data that a model does not know are told now
            one.run(data, self._pairs.rows[:1], self._pairs.cutoffs[:1])
        self._thread: threading.Thread | None = None
        self._on_sample: Callable[[str], object] = lambda _: None

    def start(
        self,
        before: Callable[[], object] = lambda: None,
        on_sample: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Begin to embed all users, after what is asked for `before`.

        `on_sample` is called with the name of each model that has embedded the sample.
        """
        self._on_sample = on_sample

        def work() -> None:
            _tried(before)
            self._embed()

        self._thread = threading.Thread(target=work, name="population", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End before all are embedded."""
        self._is_stopped.set()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise `NotReadyError` if the data's files have changed since they were opened."""
        if self._files.has_changed():
            raise NotReadyError(
                f"{self.data.path.name} has changed since the service began. Start it again."
            )

    def row_of(self, user_id: str) -> int:
        """The row of a user; raise `UnknownUserError` if there is none."""
        row = int(self.data.rows_of([user_id])[0])
        if row < 0:
            raise UnknownUserError(f"the data do not know the user {user_id!r}.")
        return row

    def words(self, row: int, cutoff: int) -> list[WordView]:
        """What a user did before a cut-off, as words."""
        return timeline(self.data, row, cutoff)

    def profile(self, row: int, cutoff: int) -> dict[str, str]:
        """The profile fields that were known of a user."""
        return profile_values(self.data, row, cutoff)

    def answer(self, served: Served, row: int, cutoff: int) -> Answer:
        """What a model says of a user."""
        return served.run(self.data, np.array([row]), np.array([cutoff]))

    def everybody(self, model: str) -> Everybody:
        """All vectors by a model; raise `NotReadyError` until they are there."""
        found = self._everybody.get(model)
        if found is None:
            raise NotReadyError(
                f"{self._done[model]:,} of {len(self._pairs):,} users are embedded by now. "
                "Try again soon."
            )
        return found

    @property
    def sample_rows(self) -> Int64:
        """(S,): the rows of users at random, all of few; embedded before the others."""
        return self._pairs.rows[self._sample]

    @property
    def sample_ids(self) -> pa.Array:
        """(S,): who they are."""
        return user_ids_of(self.data, self.sample_rows)

    def __len__(self) -> int:
        """Count the users who can be embedded."""
        return len(self._pairs)

    def sampled(self, model: str) -> Sampled:
        """What a model says of the sample; raise `NotReadyError` until it is there."""
        found = self._sampled.get(model)
        if found is None:
            done, of = self._done[model], len(self._sample)
            raise NotReadyError(f"{done:,} of {of:,} users are embedded by now. Try again soon.")
        return found

    def done(self, model: str) -> tuple[int, int]:
        """How many users of the sample are embedded, and how many there are."""
        return min(self._done[model], len(self._sample)), len(self._sample)

    def near(self, model: str, row: int, vector: Float32, k: int) -> list[Near] | None:
        """The k users nearest to a vector (H,), but for a row; none until all are embedded."""
        everybody = self._everybody.get(model)
        if everybody is None:
            return None
        places, cosines = everybody.neighbours.search(vector[None], k + 1)
        found = [
            Near(self._ids[int(place)].as_py(), float(cosine))
            for place, cosine in zip(places[0], cosines[0], strict=True)
            if place >= 0 and self._pairs.rows[place] != row
        ]
        return found[:k]

    def _embed(self) -> None:
        """Embed the sample by each model, then all others."""
        all_vectors: dict[str, Float32] = {}
        for name, served in self._served.items():
            vectors = np.empty((len(self._pairs), served.backend.width), np.float32)
            scores = self._run(name, self._sample, vectors)
            if self._is_stopped.is_set():
                return
            self._sampled[name] = Sampled(vectors[self._sample], scores)
            all_vectors[name] = vectors
            log.info("%s users are embedded by %s", f"{len(self._sample):,}", name)
            _tried(partial(self._on_sample, name))
        for name, vectors in all_vectors.items():
            self._run(name, self._rest, vectors)
            if self._is_stopped.is_set():
                return
            frame = pl.DataFrame(
                {
                    "user_id": pl.Series(self._ids, dtype=pl.String),
                    "cutoff": pl.Series(self._pairs.cutoffs).cast(pl.Datetime("us", "UTC")),
                    "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])),
                }
            )
            self._everybody[name] = Everybody(Embeddings.of(frame), Neighbours.of(vectors))
            log.info("all users are embedded by %s", name)

    def _run(self, name: str, places: Int64, vectors: Float32) -> Scores | None:
        """Embed some users into the vectors of all; return their scores, if there are any."""
        scores: list[Scores] = []
        for first in range(0, len(places), _AT_A_TIME):
            if self._is_stopped.is_set():
                break
            some = places[first : first + _AT_A_TIME]
            answer = self._served[name].run(
                self.data, self._pairs.rows[some], self._pairs.cutoffs[some]
            )
            vectors[some] = answer.vectors
            if answer.scores is not None:
                scores.append(answer.scores)
            self._done[name] += len(some)
        return np.concatenate(scores) if scores else None


def _tried(make: Callable[[], object]) -> None:
    """Make what is not needed here: who asks for it is told what is wrong with it."""
    try:
        make()
    except Exception:
        log.exception("what the explorer shows could not be made")


def as_json(word: WordView) -> dict[str, Any]:
    """A word as plain JSON."""
    return {
        "segment": word.segment,
        "number": word.number,
        "begins": word.begins.isoformat(),
        "actions": word.actions,
        "values": word.values,
    }
