"""Seeds and user vectors to a list of the users who are most like the seeds.

In: embeddings, and users who are known to be of the kind that is sought. Out: everybody else's best
by score, and how many seeds would have been found had they not been known. Float32 are read twice,
a part at a time, and every user is scored: memory is some 200 bytes a user, and no index is needed,
whatever the number of users. `userbert lookalike` calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from userbert.data.ragged import Float32
from userbert.data.use.pairs import read_table, users_of
from userbert.embedding.embeddings import Embeddings
from userbert.errors import InputError
from userbert.folders import publishing_file
from userbert.progress import progress
from userbert.search.neighbours import best, units
from userbert.search.seed_scoring import WAYS, Contest, Found, Sample, Way

_FOLDS, _FEWEST = 5, 10
"""Seeds are held out in so many parts; of fewer seeds than these nothing can be told."""
_MOST_SEEDS, _REST = 10_000, 10_000
"""Of more seeds so many are learned from, and so many others."""
_CHEAP = 1e11
"""Products of numbers that a comparison with another way may take."""
_EXAMPLES = 3
ENDINGS = (".parquet", ".csv")


@dataclass(frozen=True)
class Lookalikes:
    """A list and what is known of it."""

    users: pl.DataFrame
    """`user_id`, `score`, `rank`, best first."""
    way: Way
    seeds: int
    """With a vector."""
    learned_from: int
    """Of the seeds."""
    others: int
    """Users who could be in the list."""
    cutoffs: int
    """Cut-offs in the embeddings; of several rows of a user the latest counts."""
    unknown: tuple[str, ...]
    """Seeds without a vector, or one that is zero."""
    compared: tuple[Found, ...]
    """The way taken, and others where that is cheap; none of too few seeds."""

    def told(self, output: Path) -> list[str]:
        """What came out, in lines for people, and what to do next."""
        seeds = f"{self.seeds:,} seeds" if self.seeds > 1 else "a seed"
        lines = [f"{output}: the {len(self.users):,} of {self.others:,} users most like {seeds}"]
        if self.unknown:
            examples = ", ".join(self.unknown[:_EXAMPLES])
            lines.append(f"{len(self.unknown):,} seeds have no vector, or a zero one: {examples}")
        if self.learned_from < self.seeds:
            lines.append(f"{self.learned_from:,} of the seeds, at random, are learned from")
        if self.cutoffs > 1:
            lines.append(f"there are {self.cutoffs:,} cut-offs: of each user the latest counts")
        if not self.compared:
            return [*lines, f"of fewer than {_FEWEST} seeds it cannot be told how good the list is"]
        lines.append(f"{_FOLDS} such lists, each made without a fifth of the seeds, hold of these:")
        lines += [
            f"  {one.found:,.0f} of {one.seeds:,} by {one.way}, {one.lift:.1f} times as many as "
            f"by chance{' (taken)' if one.way == self.way else ''}"
            for one in self.compared
        ]
        taken, most = self.compared[0], max(self.compared, key=lambda one: one.found)
        # Beyond twice the deviation of such counts.
        if most.found > taken.found + 2 * max(1.0, taken.found) ** 0.5:
            return [*lines, f"next: try --by {most.way}, which found more of them"]
        if taken.found < taken.by_chance + 2 * taken.by_chance**0.5:
            return [*lines, "hardly more than by chance: these vectors do not tell the seeds apart"]
        first = self.users["user_id"][0]
        return [*lines, f"next: userbert inspect DATA --user {first}, to see whom it found"]


def lookalike(
    embeddings: Any, seeds: Any, k: int = 1000, *, by: Way = "linear", exclude: Any = ()
) -> pl.DataFrame:
    """The k users most like the seeds: `user_id`, `score` and `rank`, best first.

    `embeddings` is a frame, or the path of what `userbert embed` wrote; of several rows of a user
    the latest counts. `seeds` are ids, a frame with `user_id`, or a path of one; they are not in
    the list, nor are users of `exclude`. `by` says how seeds count together: `linear` (log odds of
    a logistic regression of seeds against others), `centroid` (the cosine with their mean) or
    `nearest` (the largest cosine with one of them). Seeds without a vector are passed over. Raises
    `InputError` if none has one, or vectors cannot be used.
    """
    opened = opened_from(embeddings)
    return find_lookalikes(opened, seeds, k, by=by, exclude=exclude, is_compared=False).users


def opened_from(embeddings: Any) -> Embeddings:
    """Open embeddings, given as a path or as a frame."""
    is_path = isinstance(embeddings, str | Path)
    return Embeddings.open(Path(embeddings)) if is_path else Embeddings.of(embeddings)


def find_lookalikes(
    embeddings: Embeddings, seeds: Any, k: int, *, by: Way, exclude: Any = (),
    is_compared: bool = True,
) -> Lookalikes:  # fmt: skip
    """As `lookalike`, with what is known of the list.

    With `is_compared`, seeds are held out and looked for.
    """
    if k < 1:
        raise InputError(f"k: expected how many users the list has, at least 1, found {k}.")
    if by not in WAYS:
        raise InputError(f"by: expected one of {', '.join(WAYS)}, found {by!r}.")
    wanted, left_out = _ids(seeds, "seeds"), _ids(exclude, "exclude")
    people = embeddings.people()
    is_asked = _latest(people, embeddings.name)
    users = people["user_id"]
    is_seed = users.is_in(wanted.implode()).to_numpy() & is_asked
    rows = np.flatnonzero(is_seed)
    vectors = _usable(embeddings.take(rows), users.gather(rows), embeddings.name)
    rows, vectors = rows[vectors.any(axis=1)], vectors[vectors.any(axis=1)]
    known = users.gather(rows)
    unknown = wanted.filter(~wanted.is_in(known.implode()))
    if not len(rows):
        raise _no_seed(wanted, unknown, users, embeddings.name)
    draw = np.random.default_rng(0)
    is_candidate = is_asked & ~is_seed & ~users.is_in(left_out.implode()).to_numpy()
    everybody_else = np.flatnonzero(is_asked & ~is_seed)
    if not is_candidate.any():
        raise InputError(
            f"{embeddings.name}: expected other users than the seeds and those left out, found "
            "none. Embed everybody among whom to look."
        )
    learned = np.arange(len(rows))
    if len(rows) > _MOST_SEEDS:
        learned = np.sort(draw.choice(len(rows), _MOST_SEEDS, replace=False))
    rest = np.sort(draw.permutation(everybody_else)[:_REST])
    others = units(_usable(embeddings.take(rest), users.gather(rest), embeddings.name))
    is_told = is_compared and len(learned) >= _FEWEST
    folds = draw.permutation(np.arange(len(learned)) % _FOLDS if is_told else
                             np.full(len(learned), -1))  # fmt: skip
    sample = Sample(
        units(vectors[learned]).astype(np.float64), folds, others.astype(np.float64),
        len(rest) / len(everybody_else),
    )  # fmt: skip
    work = float(len(everybody_else)) * sample.seeds.size
    also = [way for way in WAYS if way != by and (way != "nearest" or work < _CHEAP)]
    contests = [Contest(way, sample) for way in (by, *(also if is_told else []))]
    listed, scores = _look(embeddings, users, is_candidate, contests, k)
    count = int(is_candidate.sum())
    frame = pl.DataFrame({"user_id": users.gather(listed), "score": scores})
    return Lookalikes(
        frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("rank")),
        by, len(rows), len(learned), count, people["cutoff"].n_unique(), tuple(unknown),
        tuple(contest.found(k, count) for contest in contests) if is_told else (),
    )  # fmt: skip


def write_list(users: pl.DataFrame, output: Path) -> None:
    """Write a list as its ending says, whole or not at all."""
    require_list_ending(output)
    with publishing_file(output) as file:
        if output.suffix.lower() == ".csv":
            users.write_csv(file)
        else:
            users.write_parquet(file)


def require_list_ending(output: Path) -> None:
    """Raise `InputError` if a list's name does not say how it is written."""
    if output.suffix.lower() not in ENDINGS:
        raise InputError(
            f"{output}: expected a name that ends in {' or '.join(ENDINGS)}, which says how the "
            f"list is written. Choose -o {output.with_suffix('.csv')}."
        )


def _look(
    embeddings: Embeddings, users: pl.Series, is_candidate: NDArray[np.bool_],
    contests: Sequence[Contest], k: int,
) -> tuple[NDArray[np.int64], Float32]:  # fmt: skip
    """Rows and scores of the k best by the first way; seeds are placed by all of them."""
    rows, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    with progress("scoring users", len(embeddings)) as advance:
        for first, vectors in embeddings.blocks():
            mine = np.flatnonzero(is_candidate[first : first + len(vectors)])
            names = users.gather(mine + first)
            usable = units(_usable(vectors[mine], names, embeddings.name))
            has_direction = usable.any(axis=1)
            mine, wide = mine[has_direction], usable[has_direction].astype(np.float64)
            for number, contest in enumerate(contests):
                of_users = contest.score(wide).astype(np.float32)
                contest.add(of_users)
                if number == 0:
                    rows, scores = best(
                        np.concatenate([rows, mine + first]),
                        np.concatenate([scores, of_users[:, 0]]),
                        k,
                    )
            advance(len(vectors), "")
    return rows, scores


def _ids(users: Any, name: str) -> pl.Series:
    """Ids as text, each once, of a path, a frame or a sequence of them."""
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
            "Rename the column that holds the user."
        )
    return users_of(frame.drop_nulls("user_id"), name).unique(maintain_order=True)


def _latest(people: pl.DataFrame, name: str) -> NDArray[np.bool_]:
    """(N,): whether a row is the latest of its user."""
    is_latest = pl.repeat(True, len(people), eager=True)
    if people["cutoff"].n_unique() > 1:
        newest = pl.col("cutoff").max().over("user_id")
        is_latest = people.select(pl.col("cutoff") == newest).to_series()
    latest = people.filter(is_latest)
    if latest["user_id"].n_unique() == len(latest):
        return is_latest.to_numpy()
    twice = latest.filter(pl.col("user_id").is_duplicated())
    raise InputError(
        f"{name}: user {twice['user_id'][0]} has several vectors of the cut-off "
        f"{twice['cutoff'][0]} ({twice['user_id'].n_unique():,} users are like that). Keep one "
        "row a user and cut-off."
    )


def _usable(vectors: Float32, users: pl.Series, name: str) -> Float32:
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise InputError(
            f"{name}: the vector of user {users[int(broken[0])]} holds NaN or infinity "
            f"({len(broken):,} are like that there). Embed again with --precision float32."
        )
    return vectors


def _no_seed(wanted: pl.Series, unknown: pl.Series, users: pl.Series, name: str) -> InputError:
    if wanted.is_empty():
        return InputError("seeds: expected at least one user, found none. Write one id a row.")
    examples = ", ".join(unknown.head(_EXAMPLES))
    return InputError(
        f"none of {len(wanted):,} seeds has a vector in {name} that is not zero: {examples}. Ids "
        f"are written as in the logs, such as {users[0]}."
    )
