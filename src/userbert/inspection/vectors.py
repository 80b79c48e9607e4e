"""Whether user vectors are healthy, and whose lie near each other.

In: a file or folder of embeddings. Out: rich tables and a verdict. Of many vectors a sample is
looked at, whole row groups from all over the file; neighbours are sought among all.
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
from userbert.inspection.layout import HEADINGS, facts, quantiles, share, table
from userbert.search.neighbours import nearest_in

_SAMPLE = 100_000
"""So many vectors are looked at."""
_DIRECTIONS = 20_000
"""So many of these tell in which directions vectors differ."""
_PAIRS = 20_000
_NEIGHBOURS = 10
_LEADING = 0.9
_FEW_DIRECTIONS = 2.0
_ALIKE = 0.99
_MANY_DUPLICATES = 0.1
_ANEW = "pretrain longer or with a lower learning_rate, look at the held-out loss by inspect MODEL"


@dataclass(frozen=True)
class Health:
    """What can be wrong with vectors."""

    broken: int
    """Float32 that hold NaN or are infinite."""
    zero: int
    """Float32 of length 0."""
    constant: int
    """Numbers that are the same in all vectors."""
    norms: Float32
    leading: tuple[float, float]
    """The share of the variance in the first direction, and in the first ten."""
    effective_rank: float
    """In so many directions vectors differ: the covariance's participation ratio."""
    cosine: float
    """The mean cosine of random pairs."""
    duplicates: float
    """The share of vectors that are another's, too."""

    @property
    def verdict(self) -> str:
        """The worst of it, and what to do."""
        if self.broken:
            return (
                f"broken: {self.broken:,} vectors hold NaN or infinity. Pretrain with a lower "
                "learning_rate, or embed with --precision float32."
            )
        if self.effective_rank < _FEW_DIRECTIONS or self.leading[0] > _LEADING:
            return (
                f"collapsed: {self.leading[0]:.0%} of the variance lie in one direction. "
                f"To do: {_ANEW}."
            )
        if self.cosine > _ALIKE:
            return (
                f"collapsed: two users at random have a cosine of {self.cosine:.4f}. Subtract the "
                f"mean vector before cosines are taken, or {_ANEW}."
            )
        if self.duplicates > _MANY_DUPLICATES:
            return (
                f"crowded: {self.duplicates:.0%} of the vectors are another user's, too. Are most "
                "windows empty at this cut-off? See inspect DATA --user ID --cutoff T."
            )
        return "healthy"


def health(vectors: Float32, seed: int = 0) -> Health:
    """Look at vectors (B, H); of many, directions and pairs are of some at random."""
    is_whole = np.isfinite(vectors).all(axis=1)
    whole = vectors[is_whole]
    generator = np.random.default_rng(seed)
    norms = np.linalg.norm(whole, axis=1)
    if len(whole) < 2:
        broken = len(vectors) - len(whole)
        return Health(broken, int((norms == 0).sum()), 0, norms, (0.0, 0.0), 0.0, 0.0, 0.0)
    some = whole
    if len(whole) > _DIRECTIONS:
        some = whole[np.sort(generator.choice(len(whole), _DIRECTIONS, replace=False))]
    centered = some.astype(np.float64) - some.mean(axis=0, dtype=np.float64)
    values = np.linalg.eigvalsh(centered.T @ centered)[::-1].clip(min=0)
    variance = float(values.sum())
    tiny = len(some) * some.shape[1] * (1e-7 * float(np.abs(some).max())) ** 2
    is_one_point = variance <= tiny
    shares = (1.0, 1.0) if is_one_point else tuple(
        float(values[:count].sum()) / variance for count in (1, 10)
    )  # fmt: skip
    rank = 0.0 if is_one_point else variance**2 / float((values**2).sum())
    left, right = generator.integers(0, len(whole), (2, _PAIRS))
    is_pair = (left != right) & (norms[left] > 0) & (norms[right] > 0)
    left, right = left[is_pair], right[is_pair]
    products = np.einsum("ij,ij->i", whole[left], whole[right]) / (norms[left] * norms[right])
    rows = np.ascontiguousarray(whole).view(np.dtype((np.void, whole.itemsize * whole.shape[1])))
    _, counts = np.unique(rows.ravel(), return_counts=True)
    return Health(
        len(vectors) - len(whole),
        int((norms == 0).sum()),
        int((np.ptp(whole, axis=0) == 0).sum()),
        norms,
        (shares[0], shares[1]),
        rank,
        float(products.mean()) if len(products) else 0.0,
        float(counts[counts > 1].sum()) / len(whole),
    )


def describe_vectors(path: Path, user: str | None) -> RenderableType:
    """Lay out the health of vectors, or with `user` that user's neighbours.

    Raises `InputError` if they are damaged.
    """
    embeddings = Embeddings.open(path)
    return _health_of(embeddings) if user is None else _neighbours(embeddings, user)


def _health_of(embeddings: Embeddings) -> RenderableType:
    total = len(embeddings)
    # Parts from all over the file, as of several cut-offs one stands after the other.
    step = max(1, total // _SAMPLE)
    vectors = np.concatenate([embeddings.vectors(part) for part in embeddings.parts[::step]])
    if len(vectors) > _SAMPLE:
        chosen = np.random.default_rng(0).choice(len(vectors), _SAMPLE, replace=False)
        vectors = vectors[np.sort(chosen)]
    found = health(vectors)
    looked_at = "all" if len(vectors) == total else f"{len(vectors):,} at random"
    card = facts(
        f"Embeddings {embeddings.name}",
        {
            "vectors": f"{total:,} of {vectors.shape[1]:,} numbers",
            "looked at": looked_at,
            "NaN or infinite": f"{found.broken:,} vectors",
            "all zero": f"{found.zero:,} vectors",
            "numbers that never vary": f"{found.constant:,} of {vectors.shape[1]:,}",
            "shared with another user": share(found.duplicates, 1.0),
            "variance in the first direction": share(found.leading[0], 1.0),
            "variance in the first ten": share(found.leading[1], 1.0),
            "effective rank": f"{found.effective_rank:.1f} directions",
            "mean cosine of random pairs": f"{found.cosine:.3f}",
        },
    )
    lengths = table("Lengths of vectors", *HEADINGS)
    if len(found.norms):
        lengths.add_row(*quantiles(found.norms, ",.3g"))
    return Group(card, lengths, Text(f"verdict: {found.verdict}"))


def _neighbours(embeddings: Embeddings, user: str) -> RenderableType:
    """The users whose vectors have the largest cosines with the user's newest one."""
    people = embeddings.people()
    own = people.with_row_index("row").filter(user_id=user).sort("cutoff", "row").tail(1)
    if own.is_empty():
        raise InputError(
            f"{embeddings.name} has no vector of the user {user!r}. Embed that user, too."
        )
    moment = own["cutoff"][0]
    others = people.select((pl.col("cutoff") == moment) & (pl.col("user_id") != user))
    rows, cosines = nearest_in(
        embeddings, embeddings.take([own["row"][0]])[0], others.to_series().to_numpy(), _NEIGHBOURS
    )
    made = table(f"Nearest to user {user} before {moment}+00:00", "user", "cosine")
    for other, cosine in zip(people["user_id"].gather(rows), cosines, strict=True):
        made.add_row(Text(other), f"{cosine:.4f}")
    return made
