"""Checks the health of user vectors, and lists the neighbours of a user.

In: a file or folder of embeddings. Out: rich tables and a verdict. If there are many vectors,
health is computed from a sample. Neighbours are searched among all other users at the cut-off.

Letters in shapes: B vectors, H numbers of a vector.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.text import Text

from userbert.data.ragged import Float32
from userbert.embedding.embeddings import Embeddings
from userbert.errors import InputError
from userbert.inspection.layout import HEADINGS, fact_table, quantiles, share, table
from userbert.search.neighbours import nearest_by_scan

_MAX_VECTORS = 100_000
"""Maximum number of vectors in the sample, to limit memory."""
_MAX_COVARIANCE_VECTORS = 20_000
"""Maximum number of vectors from which the covariance is computed, to limit time."""
_RANDOM_PAIRS = 20_000
"""Number of random pairs of vectors whose cosines are averaged."""
_NEIGHBOURS = 10
"""Number of neighbours in the table of a user."""
_RELATIVE_ROUNDING = 1e-7
"""Relative rounding error of a float32 number, about 2⁻²³."""
_MAX_LEADING_SHARE = 0.9
"""Maximum share of the variance in one direction, for healthy vectors."""
_MIN_RANK = 2.0
"""Minimum effective rank of healthy vectors."""
_MAX_COSINE = 0.99
"""Maximum mean cosine of random pairs of healthy vectors."""
_MAX_DUPLICATES = 0.1
"""Maximum share of vectors that equal another vector, for healthy vectors."""
_RETRAIN = (
    "pretrain longer or with a lower learning_rate, and check the held-out loss: inspect MODEL"
)
"""Advice for collapsed vectors."""


@dataclass(frozen=True)
class VectorHealth:
    """Statistics that show whether vectors are usable; all but `broken` are of finite vectors."""

    broken: int
    """Number of vectors that hold NaN or infinity."""
    zero: int
    """Number of vectors of length 0."""
    constant: int
    """Number of columns with the same number in all vectors."""
    norms: Float32
    """Length of each vector, not of those with NaN or infinity."""
    leading: tuple[float, float]
    """Share of the variance in the first principal direction, and in the first ten."""
    effective_rank: float
    """Number of directions in which vectors differ: the participation ratio of the covariance."""
    cosine: float
    """Mean cosine of random pairs of vectors that are not zero."""
    duplicates: float
    """Share of vectors that equal the vector of another row."""

    @property
    def verdict(self) -> str:
        """First problem found, with advice, or `healthy`. See the constants of this file."""
        if self.broken:
            return (
                f"broken: {self.broken:,} vectors hold NaN or infinity. Pretrain with a lower "
                "learning_rate, or embed with --precision float32."
            )
        if self.effective_rank < _MIN_RANK or self.leading[0] > _MAX_LEADING_SHARE:
            return (
                f"collapsed: {self.leading[0]:.0%} of the variance is in one direction. "
                f"To fix it, {_RETRAIN}."
            )
        if self.cosine > _MAX_COSINE:
            return (
                f"collapsed: two random users have a mean cosine of {self.cosine:.4f}. Subtract "
                f"the mean vector before you compute cosines, or {_RETRAIN}."
            )
        if self.duplicates > _MAX_DUPLICATES:
            return (
                f"crowded: {self.duplicates:.0%} of the vectors equal another user's. Check if "
                "most windows are empty at this cut-off: inspect DATA --user ID --cutoff T."
            )
        return "healthy"


def health(vectors: Float32, seed: int = 0) -> VectorHealth:
    """Computes the health of vectors (B, H).

    The covariance of many vectors is computed from a sample, cosines from random pairs. `seed`
    chooses both.
    """
    is_finite = np.isfinite(vectors).all(axis=1)
    finite = vectors[is_finite]
    generator = np.random.default_rng(seed)
    norms = np.linalg.norm(finite, axis=1)
    if len(finite) < 2:
        broken = len(vectors) - len(finite)
        return VectorHealth(broken, int((norms == 0).sum()), 0, norms, (0.0, 0.0), 0.0, 0.0, 0.0)
    sample = finite
    if len(finite) > _MAX_COVARIANCE_VECTORS:
        sample = finite[
            np.sort(generator.choice(len(finite), _MAX_COVARIANCE_VECTORS, replace=False))
        ]
    centered = sample.astype(np.float64) - sample.mean(axis=0, dtype=np.float64)
    values = np.linalg.eigvalsh(centered.T @ centered)[::-1].clip(min=0)
    variance = float(values.sum())
    rounding = (
        len(sample) * sample.shape[1] * (_RELATIVE_ROUNDING * float(np.abs(sample).max())) ** 2
    )
    is_constant = variance <= rounding
    shares = (1.0, 1.0) if is_constant else tuple(
        float(values[:count].sum()) / variance for count in (1, 10)
    )  # fmt: skip
    rank = 0.0 if is_constant else variance**2 / float((values**2).sum())
    left, right = generator.integers(0, len(finite), (2, _RANDOM_PAIRS))
    is_pair = (left != right) & (norms[left] > 0) & (norms[right] > 0)
    left, right = left[is_pair], right[is_pair]
    products = np.einsum("ij,ij->i", finite[left], finite[right]) / (norms[left] * norms[right])
    rows = np.ascontiguousarray(finite).view(np.dtype((np.void, finite.itemsize * finite.shape[1])))
    _, counts = np.unique(rows.ravel(), return_counts=True)
    return VectorHealth(
        len(vectors) - len(finite),
        int((norms == 0).sum()),
        int((np.ptp(finite, axis=0) == 0).sum()),
        norms,
        (shares[0], shares[1]),
        rank,
        float(products.mean()) if len(products) else 0.0,
        float(counts[counts > 1].sum()) / len(finite),
    )


def describe_vectors(
    path: Path, user: str | None, *, max_vectors: int = _MAX_VECTORS
) -> RenderableType:
    """Describes the health of vectors, or lists the nearest neighbours of `user`.

    Health is computed from a sample of at most `max_vectors` vectors. Raises `InputError` if the
    vectors are damaged, or `user` has no vector.
    """
    embeddings = Embeddings.open(path)
    if user is not None:
        return _neighbour_table(embeddings, user)
    return _health_tables(embeddings, max_vectors)


def _health_tables(embeddings: Embeddings, max_vectors: int) -> RenderableType:
    """Returns tables of the health of a sample of at most `max_vectors` vectors, and a verdict."""
    total = len(embeddings)
    # Row groups from the whole file, as rows may be ordered by cut-off.
    step = max(1, total // max_vectors)
    vectors = np.concatenate([embeddings.vectors(group) for group in embeddings.row_groups[::step]])
    if len(vectors) > max_vectors:
        chosen = np.random.default_rng(0).choice(len(vectors), max_vectors, replace=False)
        vectors = vectors[np.sort(chosen)]
    result = health(vectors)
    sample = "all" if len(vectors) == total else f"{len(vectors):,} at random"
    card = fact_table(
        f"Embeddings {embeddings.name}",
        {
            "vectors": f"{total:,} of {vectors.shape[1]:,} numbers",
            "sample": sample,
            "NaN or infinite": f"{result.broken:,} vectors",
            "all zero": f"{result.zero:,} vectors",
            "numbers that never vary": f"{result.constant:,} of {vectors.shape[1]:,}",
            "shared with another user": share(result.duplicates, 1.0),
            "variance in the first direction": share(result.leading[0], 1.0),
            "variance in the first ten": share(result.leading[1], 1.0),
            "effective rank": f"{result.effective_rank:.1f} directions",
            "mean cosine of random pairs": f"{result.cosine:.3f}",
        },
    )
    lengths = table("Lengths of vectors", *HEADINGS)
    if len(result.norms):
        lengths.add_row(*quantiles(result.norms, ",.3g"))
    return Group(card, lengths, Text(f"verdict: {result.verdict}"))


def _neighbour_table(embeddings: Embeddings, user: str) -> RenderableType:
    """Returns a table of the users nearest to `user`, at the latest cut-off of `user`."""
    user_cutoffs = embeddings.user_cutoffs()
    user_rows = (
        user_cutoffs.with_row_index("row").filter(user_id=user).sort("cutoff", "row").tail(1)
    )
    if user_rows.is_empty():
        raise InputError(
            f"{embeddings.name} has no vector of the user {user!r}. Add the user to the embeddings."
        )
    cutoff = user_rows["cutoff"][0]
    is_candidate = user_cutoffs.select((pl.col("cutoff") == cutoff) & (pl.col("user_id") != user))
    rows, cosines = nearest_by_scan(
        embeddings,
        embeddings.take([user_rows["row"][0]])[0],
        is_candidate.to_series().to_numpy(),
        _NEIGHBOURS,
    )
    neighbours = table(f"Nearest to user {user} before {cutoff}+00:00", "user", "cosine")
    for neighbour, cosine in zip(user_cutoffs["user_id"].gather(rows), cosines, strict=True):
        neighbours.add_row(Text(neighbour), f"{cosine:.4f}")
    return neighbours
