"""Lists the users who are most like some seeds.

In: embeddings, and users known to be of the kind to look for (seeds). Out: the best other users by
score, and the recall of held-out seeds. Embeddings are read twice, one row group at a time, and
every user is scored, so no index is needed. Memory is about 200 bytes a user. `userbert lookalike`,
`userbert.lookalike` and the service call it.
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
    HeldOutRanking,
    HeldOutCounts,
    ScoringName,
    SeedSample,
)

_FOLDS, _MIN_SEEDS = 5, 10
"""Folds of held-out seeds, and the number of seeds below which recall is not measured."""
_EXAMPLES = 3
"""Ids that a message names."""
LIST_ENDINGS = (".parquet", ".csv")


@dataclass(frozen=True)
class Limits:
    """Limits of the work on large inputs."""

    seeds: int = 10_000
    """Most seeds that scores are learned from."""
    others: int = 10_000
    """Most other users that scores are learned from."""
    comparison_products: float = 1e11
    """Number of multiplications from which on `nearest` is not compared."""


_LIMITS = Limits()


@dataclass(frozen=True)
class Lookalikes:
    """A list of look-alikes, and how it was made."""

    users: pl.DataFrame
    """`user_id`, `score`, `rank`, best first."""
    by: ScoringName
    """Scoring that ranks the list."""
    seeds: int
    """Number of seeds that have a vector."""
    learned_from: int
    """Number of seeds that scores are learned from."""
    others: int
    """Number of users who could be on the list."""
    cutoffs: int
    """Number of cut-offs in the embeddings; the latest row of each user counts."""
    unknown: tuple[str, ...]
    """Seeds without a vector, or with a zero vector."""
    compared: tuple[HeldOutCounts, ...]
    """Recall of held-out seeds: by `by`, then by other scorings; empty if there are few seeds."""

    def report_lines(self, output: Path) -> list[str]:
        """Returns lines that describe the list in `output`, and what to do next."""
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
        # More than two standard deviations of such counts.
        if best.found > used.found + 2 * max(1.0, used.found) ** 0.5:
            return [*lines, f"next: try --by {best.way}, which found more held-out seeds"]
        if used.found < used.by_chance + 2 * used.by_chance**0.5:
            return [
                *lines,
                "hardly more than by chance: these vectors do not separate seeds from others",
            ]
        first = self.users["user_id"][0]
        return [*lines, f"next: userbert inspect DATA --user {first}, to see the first user"]


def lookalike(
    embeddings: Any, seeds: Any, k: int = 1000, *, by: ScoringName = "linear", exclude: Any = ()
) -> pl.DataFrame:
    """Returns the k users most like the seeds: `user_id`, `score` and `rank`, best first.

    `embeddings` is a frame, or the path of what `userbert embed` wrote; if a user has several rows,
    the latest counts. `seeds` are ids, a frame with `user_id`, or a path of one. Neither seeds nor
    users of `exclude` are listed. `by` chooses the score: `linear` (log-odds of a logistic
    regression of seeds against other users), `centroid` (cosine with the mean of the seeds) or
    `nearest` (largest cosine with any seed). Seeds without a vector are ignored. Raises
    `InputError` if no seed has a vector, or vectors are not valid.
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
    """Makes the list of `lookalike`, and returns it with a record of how it was made.

    With `is_compared`, the recall of held-out seeds is measured, for other scorings too. Beyond
    `limits`, seeds and other users are sampled, and `nearest` is not compared.
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
            f"{embeddings.name}: expected other users than the seeds and the excluded users, found "
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
    """Writes a list as CSV or Parquet, by its ending; the file appears whole or not at all."""
    require_list_ending(output)
    with publishing_file(output) as file:
        if output.suffix.lower() == ".csv":
            users.write_csv(file)
        else:
            users.write_parquet(file)


def require_list_ending(output: Path) -> None:
    """Raises `InputError` if the name of a list does not end in .parquet or .csv."""
    if output.suffix.lower() not in LIST_ENDINGS:
        raise InputError(
            f"{output}: expected a name that ends in {' or '.join(LIST_ENDINGS)}, which sets the "
            f"format of the list. Choose -o {output.with_suffix('.csv')}."
        )


def _score_all(
    embeddings: Embeddings, users: pl.Series, is_candidate: NDArray[np.bool_],
    rankings: Sequence[HeldOutRanking], k: int,
) -> tuple[NDArray[np.int64], Float32]:  # fmt: skip
    """Adds all candidates to each ranking; returns rows and scores of the k best by the first."""
    rows, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    with progress("scoring users", len(embeddings)) as advance:
        for first, vectors in embeddings.blocks():
            places = np.flatnonzero(is_candidate[first : first + len(vectors)])
            names = users.gather(places + first)
            units = unit_vectors(_require_finite(vectors[places], names, embeddings.name))
            has_direction = units.any(axis=1)
            places, usable = places[has_direction], units[has_direction].astype(np.float64)
            for number, ranking in enumerate(rankings):
                block_scores = ranking.score(usable).astype(np.float32)
                ranking.add(block_scores)
                if number == 0:
                    rows, scores = top_k(
                        np.concatenate([rows, places + first]),
                        np.concatenate([scores, block_scores[:, 0]]),
                        k,
                    )
            advance(len(vectors), "")
    return rows, scores


def _unique_ids(users: Any, name: str) -> pl.Series:
    """Returns unique ids as text, from a path, a frame or a sequence of ids."""
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
    """Returns whether each row (N,) is the latest row of its user.

    Raises `InputError` if a user has two latest rows.
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
        f"{name}: user {repeated['user_id'][0]} has several vectors of the cut-off "
        f"{repeated['cutoff'][0]}; {repeated['user_id'].n_unique():,} users have repeated rows. "
        "Keep one row per user and cut-off."
    )


def _require_finite(vectors: Float32, users: pl.Series, name: str) -> Float32:
    """Returns the vectors (B, H); raises `InputError` if one holds NaN or infinity."""
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise InputError(
            f"{name}: the vector of user {users[int(broken[0])]} holds NaN or infinity, one of "
            f"{len(broken):,} in this part of the file. Embed again with --precision float32."
        )
    return vectors


def _no_seed_error(
    seed_ids: pl.Series, unknown: pl.Series, users: pl.Series, name: str
) -> InputError:
    if seed_ids.is_empty():
        return InputError("seeds: expected at least one user, found none. Write one id per row.")
    examples = ", ".join(unknown.head(_EXAMPLES))
    return InputError(
        f"none of {len(seed_ids):,} seeds has a vector in {name} that is not zero: {examples}. "
        f"Write ids as in the logs, such as {users[0]}."
    )
