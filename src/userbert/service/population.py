"""All users of prepared data: search by id, vectors and nearest neighbours.

In: prepared data and the loaded models. Out: `find_users`, and `Population`, which embeds all users
in the background when the service starts. It raises `NotReadyError` while vectors are missing, or
if the data have changed on disk.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from userbert.data.ragged import Float32, Int64
from userbert.data.store import PreparedData
from userbert.data.use.pairs import pairs_at, user_ids_of
from userbert.embedding.embeddings import Embeddings
from userbert.errors import UserBertError
from userbert.search.neighbours import Neighbours
from userbert.service.loaded_models import FileSnapshot, LoadedModel
from userbert.service.telemetry import log
from userbert.tasks.predictions import Scores

_MAX_SEARCHED = 5_000_000
"""Number of users after which no other shard is searched for a text. Searching this number takes a
third of a second."""
_MAX_MATCHES = 1_000
"""Maximum `limit` of a call. A shard gives two matches more: the exact match may be among them and
is dropped, and another match tells that there are more."""
_CHUNK_USERS = 64
"""Number of users to embed at a time; waiting calls are answered in between."""
_SAMPLE_USERS = 50_000
"""Maximum number of users to embed first and to show on the map, where more points would not be
visible."""


@dataclass(frozen=True)
class UserMatches:
    """Users whose ids contain a text."""

    users: list[str]
    """Ids of at most `limit` users."""
    more: bool
    """Whether there are, or may be, more matches."""


def find_users(data: PreparedData, text: str, limit: int) -> UserMatches:
    """Finds users whose id equals the text, then ids that start with it, then ids that contain it.

    Looks up the exact match by its hash. Searches shard by shard for the others, until more than
    `limit` ids start with the text or more than `_MAX_SEARCHED` users are searched.
    """
    exact = [text] if int(data.rows_of([text])[0]) >= 0 else []
    starting: list[str] = []
    containing: list[str] = []
    searched = 0
    for shard in data.shards:
        if len(starting) > limit or searched > _MAX_SEARCHED:
            break
        searched += shard.users
        ids = shard.user_ids
        matches = ids.filter(pc.match_substring(ids, text))
        is_start = pc.starts_with(matches, text)
        starting += matches.filter(is_start).slice(0, _MAX_MATCHES + 2).to_pylist()
        if len(containing) <= limit:
            containing += matches.filter(pc.invert(is_start)).slice(0, _MAX_MATCHES + 2).to_pylist()
    others = [*sorted(starting), *sorted(containing)]
    users = [*exact, *(user for user in others if user != text)]
    return UserMatches(users[:limit], len(users) > limit or searched < len(data))


class NotReadyError(UserBertError):
    """Raised if vectors are not ready yet, or if the data have changed on disk.

    After a change on disk, the service must be restarted.
    """


class UnknownUserError(UserBertError):
    """Raised if the id of a call is not the id of a user in the data."""


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """Vectors of all users by one model, and their nearest-neighbour search."""

    embeddings: Embeddings
    neighbours: Neighbours


@dataclass(frozen=True, eq=False)
class SampleResults:
    """A model's vectors (S, H) and scores of the S sampled users; no scores without a task."""

    vectors: Float32
    scores: Scores | None


@dataclass(frozen=True)
class Neighbour:
    """A user who is near another user in a model's vectors, and their cosine similarity."""

    user_id: str
    cosine: float


class Population:
    """All users of prepared data with an event, and their vectors just after the last event."""

    def __init__(self, data: PreparedData, models: Mapping[str, LoadedModel]) -> None:
        self.data = data
        self.cutoff = data.default_cutoff
        self._files = FileSnapshot.take(data.path)
        self._models = models
        self._pairs = pairs_at(data, [self.cutoff])
        self._ids = data.user_ids.take(pa.array(self._pairs.rows))
        self._indexes: dict[str, VectorIndex] = {}
        self._sample_results: dict[str, SampleResults] = {}
        self._embedded_counts = dict.fromkeys(models, 0)
        count = len(self._pairs)
        sample_size = min(count, _SAMPLE_USERS)
        self._sample = np.random.default_rng(0).choice(count, sample_size, replace=False)
        is_unsampled = np.ones(count, bool)
        is_unsampled[self._sample] = False
        self._unsampled = np.flatnonzero(is_unsampled)
        self._stop_event = threading.Event()
        for model in models.values():  # raises at once if the vocabularies differ
            model.run(data, self._pairs.rows[:1], self._pairs.cutoffs[:1])
        self._thread: threading.Thread | None = None
        self._on_sample: Callable[[str], object] = lambda _: None

    def start(
        self,
        warm_up: Callable[[], object] = lambda: None,
        on_sample: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Starts a thread that calls `warm_up`, then embeds all users.

        `on_sample` is called with each model's name once that model has embedded the sample.
        """
        self._on_sample = on_sample

        def work() -> None:
            _call_and_log_errors(warm_up)
            self._embed()

        self._thread = threading.Thread(target=work, name="population", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops embedding, and waits for the thread to end."""
        self._stop_event.set()
        if self._thread is not None:
            self._thread.join()

    def check_files(self) -> None:
        """Raises `NotReadyError` if the data's files have changed since they were opened."""
        if self._files.has_changed():
            raise NotReadyError(
                f"{self.data.path.name} has changed since the service started. Restart the service."
            )

    def row_of(self, user_id: str) -> int:
        """Returns the row of a user; raises `UnknownUserError` if the data do not have the user."""
        row = int(self.data.rows_of([user_id])[0])
        if row < 0:
            raise UnknownUserError(f"the data have no user {user_id!r}.")
        return row

    def vector_index(self, model: str) -> VectorIndex:
        """Returns a model's vectors of all users; raises `NotReadyError` until they are ready."""
        index = self._indexes.get(model)
        if index is None:
            raise NotReadyError(
                f"{self._embedded_counts[model]:,} of {len(self._pairs):,} users are embedded so "
                "far. Try again soon."
            )
        return index

    @property
    def sample_rows(self) -> Int64:
        """Rows of the sampled users, in random order (S,); they are embedded first."""
        return self._pairs.rows[self._sample]

    @property
    def sample_ids(self) -> pa.Array:
        """Ids of the sampled users (S,)."""
        return user_ids_of(self.data, self.sample_rows)

    def __len__(self) -> int:
        """Returns the number of users who can be embedded."""
        return len(self._pairs)

    def sample_results(self, model: str) -> SampleResults:
        """Returns a model's results for the sample; raises `NotReadyError` until they are ready."""
        results = self._sample_results.get(model)
        if results is None:
            done, total = self._embedded_counts[model], len(self._sample)
            raise NotReadyError(f"{done:,} of {total:,} users are embedded so far. Try again soon.")
        return results

    def sample_progress(self, model: str) -> tuple[int, int]:
        """Returns the number of sampled users that are embedded, and of all sampled users."""
        return min(self._embedded_counts[model], len(self._sample)), len(self._sample)

    def nearest(self, model: str, row: int, vector: Float32, k: int) -> list[Neighbour] | None:
        """Finds the k users nearest to a vector (H,), except the user in `row`.

        Returns `None` until all users are embedded.
        """
        index = self._indexes.get(model)
        if index is None:
            return None
        indices, cosines = index.neighbours.search(vector[None], k + 1)
        neighbours = [
            Neighbour(self._ids[int(number)].as_py(), float(cosine))
            for number, cosine in zip(indices[0], cosines[0], strict=True)
            if number >= 0 and self._pairs.rows[number] != row
        ]
        return neighbours[:k]

    def _embed(self) -> None:
        """Embeds the sample with each model, then the other users."""
        all_vectors: dict[str, Float32] = {}
        for name, model in self._models.items():
            vectors = np.empty((len(self._pairs), model.backend.width), np.float32)
            scores = self._run(name, self._sample, vectors)
            if self._stop_event.is_set():
                return
            self._sample_results[name] = SampleResults(vectors[self._sample], scores)
            all_vectors[name] = vectors
            log.info("%s embedded %s users", name, f"{len(self._sample):,}")
            _call_and_log_errors(partial(self._on_sample, name))
        for name, vectors in all_vectors.items():
            self._run(name, self._unsampled, vectors)
            if self._stop_event.is_set():
                return
            frame = pl.DataFrame(
                {
                    "user_id": pl.Series(self._ids, dtype=pl.String),
                    "cutoff": pl.Series(self._pairs.cutoffs).cast(pl.Datetime("us", "UTC")),
                    "embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])),
                }
            )
            self._indexes[name] = VectorIndex(Embeddings.of(frame), Neighbours.of(vectors))
            log.info("%s embedded all users", name)

    def _run(self, name: str, index: Int64, vectors: Float32) -> Scores | None:
        """Writes the vectors of the users at `index` into `vectors` (all users, H).

        Returns the users' scores, or None without a task. Stops early if the service stops.
        """
        scores: list[Scores] = []
        for first in range(0, len(index), _CHUNK_USERS):
            if self._stop_event.is_set():
                break
            chunk = index[first : first + _CHUNK_USERS]
            answer = self._models[name].run(
                self.data, self._pairs.rows[chunk], self._pairs.cutoffs[chunk]
            )
            vectors[chunk] = answer.vectors
            if answer.scores is not None:
                scores.append(answer.scores)
            self._embedded_counts[name] += len(chunk)
        return np.concatenate(scores) if scores else None


def _call_and_log_errors(prepare: Callable[[], object]) -> None:
    """Calls `prepare`, which prepares an answer of the explorer early. Logs errors.

    A later call that needs the answer raises the error again.
    """
    try:
        prepare()
    except Exception:
        log.exception("an answer of the explorer could not be prepared")
