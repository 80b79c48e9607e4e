"""Lists the users who are most like some seeds.

In: embeddings, and the ids of example users (seeds). Out: the other users with the best scores, and
the recall of held-out seeds. Row groups are read up to three times: for the vectors of seeds, for a
sample of other users, and to score all candidates. No index is needed. Memory is about 200 bytes
per user. `userbert lookalike`, `userbert.lookalike` and the service use it.

Letters in shapes: N rows of the embeddings, B rows of a block, H numbers of a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from userbert.data.ragged import Float32
from userbert.data.use.pairs import read_table, user_id_column
from userbert.embedding.embeddings import Embeddings
from userbert.errors import InputError
from userbert.folders import publishing_file
from userbert.progress import progress
from userbert.search.neighbours import top_k, unit_vectors
from userbert.search.seed_scoring import (
    SCORING_NAMES,
    HeldOutCounts,
    HeldOutRanking,
    ScoringName,
    SeedSample,
)

_FOLDS, _MIN_SEEDS = 5, 10
"""Number of folds of held-out seeds, and minimum number of seeds to measure recall."""
_EXAMPLES = 3
"""Number of ids that a message shows."""
LIST_ENDINGS = (".parquet", ".csv")
"""Endings of the file names of lists."""


@dataclass(frozen=True)
class Limits:
    """Limits that bound time and memory for large inputs."""

    seeds: int = 10_000
    """Maximum number of seeds that scores are learned from."""
    others: int = 10_000
    """Maximum number of other users that scores are learned from."""
    comparison_products: float = 1e11
    """Number of multiplications (users · seeds · H) from which on `nearest` is not compared."""


_LIMITS = Limits()


@dataclass(frozen=True)
class Lookalikes:
    """A list of look-alikes, and the numbers that describe it."""

    users: pl.DataFrame
    """Columns `user_id`, `score` and `rank`, best first; `rank` starts at 1."""
    by: ScoringName
    """Scoring that ranks the list."""
    seeds: int
    """Number of seeds with a vector that is not zero."""
    learned_from: int
    """Number of seeds that scores are learned from."""
    others: int
    """Number of users who are neither seeds nor excluded."""
    cutoffs: int
    """Number of different cut-offs in the embeddings; only the latest row of each user counts."""
    unknown: tuple[str, ...]
    """Ids of seeds without a vector, or with a zero vector."""
    compared: tuple[HeldOutCounts, ...]
    """Recall of held-out seeds by each scoring, `by` first; empty if recall was not measured."""

    def report_lines(self, output: Path) -> list[str]:
        """Returns lines of text that describe the list in `output` and advise a next step."""
        seeds = f"{self.seeds:,} seeds" if self.seeds > 1 else "a seed"
        lines = [f"{output}: the {len(self.users):,} of {self.others:,} users most like {seeds}"]
        if self.unknown:
            examples = ", ".join(self.unknown[:_EXAMPLES])
            lines.append(
                f"{len(self.unknown):,} seeds have no vector, or a zero vector: {examples}"
            )
        if self.learned_from < self.seeds:
            lines.append(
                f"scores are learned from {self.learned_from:,} of the seeds, chosen at random"
            )
        if self.cutoffs > 1:
            lines.append(f"there are {self.cutoffs:,} cut-offs: the latest row of each user counts")
        if not self.compared:
            return [*lines, f"with fewer than {_MIN_SEEDS} seeds, recall cannot be measured"]
        lines.append(
            f"recall of held-out seeds ({_FOLDS} lists, each made without a fifth of them):"
        )
        lines += [
            f"  {recall.found:,.0f} of {recall.seeds:,} by {recall.way}, {recall.lift:.1f} times "
            f"as many as by chance{' (used)' if recall.way == self.by else ''}"
            for recall in self.compared
        ]
        used, best = self.compared[0], max(self.compared, key=lambda recall: recall.found)
        # A count varies by chance with a standard deviation of about its square root.
        if best.found > used.found + 2 * max(1.0, used.found) ** 0.5:
            return [*lines, f"next: try --by {best.way}, which found more held-out seeds"]
        if used.found < used.by_chance + 2 * used.by_chance**0.5:
            return [
                *lines,
                "hardly more than by chance: these vectors do not separate seeds from other users",
            ]
        first = self.users["user_id"][0]
        return [*lines, f"next: userbert inspect DATA --user {first}, to see the first user"]


def lookalike(
    embeddings: Any, seeds: Any, k: int = 1000, *, by: ScoringName = "linear", exclude: Any = ()
) -> pl.DataFrame:
    """Returns the k users most like the seeds: `user_id`, `score` and `rank`, best first.

    `embeddings` is a frame, or the path of the output of `userbert embed`; if a user has several
    rows, only the latest row counts. `seeds` is a sequence of ids, a frame with a column `user_id`,
    or the path of a table with this column; so is `exclude`. The list holds neither seeds, nor
    users in `exclude`, nor users with a zero vector. `by` chooses the score: `linear` (log-odds of
    a logistic regression of seeds against other users), `centroid` (cosine with the mean of the
    seeds) or `nearest` (largest cosine with any seed). Seeds without a vector are ignored.

    Raises `InputError` if a parameter is not valid, no seed has a vector, nobody else has a vector,
    a user has two latest rows, or a vector that is read holds NaN or infinity.
    """
    opened = open_embeddings(embeddings)
    return find_lookalikes(opened, seeds, k, by=by, exclude=exclude, is_compared=False).users


def open_embeddings(embeddings: Any) -> Embeddings:
    """Opens embeddings from a path or a frame."""
    is_path = isinstance(embeddings, str | Path)
    return Embeddings.open(Path(embeddings)) if is_path else Embeddings.of(embeddings)


def find_lookalikes(
    embeddings: Embeddings, seeds: Any, k: int, *, by: ScoringName, exclude: Any = (),
    is_compared: bool = True, limits: Limits = _LIMITS,
) -> Lookalikes:  # fmt: skip
    """Returns the list of `lookalike` with the numbers that describe it.

    If `is_compared`, the recall of held-out seeds is measured for all scorings. Above `limits`,
    seeds and other users are sampled, and `nearest` is not compared with the chosen scoring.
    Raises `InputError` as `lookalike` does.
    """
    if k < 1:
        raise InputError(f"k: expected the length of the list, at least 1, found {k}.")
    if by not in SCORING_NAMES:
        raise InputError(f"by: expected one of {', '.join(SCORING_NAMES)}, found {by!r}.")
    seed_ids, excluded_ids = _unique_ids(seeds, "seeds"), _unique_ids(exclude, "exclude")
    index = embeddings.user_cutoffs()
    is_latest = _is_latest(index, embeddings.name)
    users = index["user_id"]
    is_seed = users.is_in(seed_ids.implode()).to_numpy() & is_latest
    rows = np.flatnonzero(is_seed)
    vectors = _require_finite(embeddings.take(rows), users.gather(rows), embeddings.name)
    rows, vectors = rows[vectors.any(axis=1)], vectors[vectors.any(axis=1)]
    known = users.gather(rows)
    unknown = seed_ids.filter(~seed_ids.is_in(known.implode()))
    if not len(rows):
        raise _no_seed_error(seed_ids, unknown, users, embeddings.name)
    generator = np.random.default_rng(0)
    is_excluded = users.is_in(excluded_ids.implode()).to_numpy()
    is_candidate = is_latest & ~is_seed & ~is_excluded
    others = np.flatnonzero(is_latest & ~is_seed)
    if not is_candidate.any():
        raise InputError(
            f"{embeddings.name}: expected users who are neither seeds nor excluded, found "
            "none. Embed all users who may be on the list."
        )
    sampled_seeds = np.arange(len(rows))
    if len(rows) > limits.seeds:
        sampled_seeds = np.sort(generator.choice(len(rows), limits.seeds, replace=False))
    sampled_others = np.sort(generator.permutation(others)[: limits.others])
    sampled_vectors = unit_vectors(
        _require_finite(
            embeddings.take(sampled_others), users.gather(sampled_others), embeddings.name
        )
    )
    measures_recall = is_compared and len(sampled_seeds) >= _MIN_SEEDS
    folds = generator.permutation(np.arange(len(sampled_seeds)) % _FOLDS if measures_recall else
                                  np.full(len(sampled_seeds), -1))  # fmt: skip
    sample = SeedSample(
        unit_vectors(vectors[sampled_seeds]).astype(np.float64), folds,
        sampled_vectors.astype(np.float64), len(sampled_others) / len(others),
    )  # fmt: skip
    products = float(len(others)) * sample.seeds.size
    alternatives = [
        name for name in SCORING_NAMES
        if name != by and (name != "nearest" or products < limits.comparison_products)
    ]  # fmt: skip
    rankings = [
        HeldOutRanking(name, sample) for name in (by, *(alternatives if measures_recall else []))
    ]
    listed_rows, scores = _score_all(embeddings, users, is_candidate, rankings, k)
    count = int(is_candidate.sum())
    frame = pl.DataFrame({"user_id": users.gather(listed_rows), "score": scores})
    return Lookalikes(
        frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("rank")),
        by, len(rows), len(sampled_seeds), count, index["cutoff"].n_unique(), tuple(unknown),
        tuple(ranking.recall(k, count) for ranking in rankings) if measures_recall else (),
    )  # fmt: skip


def write_list(users: pl.DataFrame, output: Path) -> None:
    """Writes a list as CSV or Parquet, by the ending of `output`; complete or not at all.

    Raises `InputError` if `output` has another ending, or exists.
    """
    require_list_ending(output)
    with publishing_file(output) as file:
        if output.suffix.lower() == ".csv":
            users.write_csv(file)
        else:
            users.write_parquet(file)


def require_list_ending(output: Path) -> None:
    """Raises `InputError` if the file name of a list does not end in .parquet or .csv."""
    if output.suffix.lower() not in LIST_ENDINGS:
        raise InputError(
            f"{output}: expected a name that ends in {' or '.join(LIST_ENDINGS)}, which sets the "
            f"format of the list. Choose -o {output.with_suffix('.csv')}."
        )


def _score_all(
    embeddings: Embeddings, users: pl.Series, is_candidate: NDArray[np.bool_],
    rankings: Sequence[HeldOutRanking], k: int,
) -> tuple[NDArray[np.int64], Float32]:  # fmt: skip
    """Adds all candidates to each ranking, and lists the k best by the first ranking.

    `users` and `is_candidate` are (N,). Returns the row numbers and scores of the list.
    """
    rows, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    with progress("scoring users", len(embeddings)) as advance:
        for first_row, vectors in embeddings.blocks():
            indices = np.flatnonzero(is_candidate[first_row : first_row + len(vectors)])
            user_ids = users.gather(indices + first_row)
            units = unit_vectors(_require_finite(vectors[indices], user_ids, embeddings.name))
            has_direction = units.any(axis=1)
            indices, usable = indices[has_direction], units[has_direction].astype(np.float64)
            for number, ranking in enumerate(rankings):
                block_scores = ranking.score(usable).astype(np.float32)
                ranking.add(block_scores)
                if number == 0:
                    rows, scores = top_k(
                        np.concatenate([rows, indices + first_row]),
                        np.concatenate([scores, block_scores[:, 0]]),
                        k,
                    )
            advance(len(vectors), "")
    return rows, scores


def _unique_ids(users: Any, name: str) -> pl.Series:
    """Returns unique ids as text, from a path, a frame or a collection of ids.

    Raises `InputError`, which names the path or the parameter `name`, if there is no `user_id`.
    """
    if isinstance(users, str | Path):
        name, users = str(users), read_table(Path(users))
    if isinstance(users, pl.Series | Sequence | set | frozenset | np.ndarray):
        column = users if isinstance(users, pl.Series) else pl.Series(list(users))
        frame = pl.DataFrame({"user_id": column})
    else:
        frame = pl.DataFrame(users)
    if "user_id" not in frame.columns:
        raise InputError(
            f"{name}: expected a column user_id, found {', '.join(frame.columns) or 'none'}. "
            "Rename the column of user ids."
        )
    return user_id_column(frame.drop_nulls("user_id"), name).unique(maintain_order=True)


def _is_latest(index: pl.DataFrame, name: str) -> NDArray[np.bool_]:
    """Returns whether each row (N,) has the latest cut-off of its user.

    `index` has the columns `user_id` and `cutoff`. Raises `InputError`, which names the embeddings
    `name`, if several rows of a user have the latest cut-off.
    """
    is_latest = pl.repeat(True, len(index), eager=True)
    if index["cutoff"].n_unique() > 1:
        newest = pl.col("cutoff").max().over("user_id")
        is_latest = index.select(pl.col("cutoff") == newest).to_series()
    latest = index.filter(is_latest)
    if latest["user_id"].n_unique() == len(latest):
        return is_latest.to_numpy()
    repeated = latest.filter(pl.col("user_id").is_duplicated())
    raise InputError(
        f"{name}: user {repeated['user_id'][0]} has several vectors at the cut-off "
        f"{repeated['cutoff'][0]}; {repeated['user_id'].n_unique():,} users have repeated rows. "
        "Keep one row per user and cut-off."
    )


def _require_finite(vectors: Float32, users: pl.Series, name: str) -> Float32:
    """Returns `vectors` (B, H) of `users` (B,).

    Raises `InputError`, which names the embeddings `name`, if a vector holds NaN or infinity.
    """
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise InputError(
            f"{name}: the vector of user {users[int(broken[0])]} holds NaN or infinity; at least "
            f"{len(broken):,} vectors do. Embed again with --precision float32."
        )
    return vectors


def _no_seed_error(
    seed_ids: pl.Series, unknown: pl.Series, users: pl.Series, name: str
) -> InputError:
    """Returns the error if no seed has a vector that is not zero."""
    if seed_ids.is_empty():
        return InputError("seeds: expected at least one user, found none. Write one id per row.")
    examples = ", ".join(unknown.head(_EXAMPLES))
    return InputError(
        f"none of {len(seed_ids):,} seeds has a vector in {name} that is not zero: {examples}. "
        f"Write ids as in the logs, such as {users[0]}."
    )
