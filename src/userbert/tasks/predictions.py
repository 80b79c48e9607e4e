"""What a task asks, and its answers as people read them.

In: scores of (user, cut-off) pairs, and what they are scores of. Out: frames, and the best values
of a task of many classes. Free of torch: whatever runs a task answers by it.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs
from userbert.tasks.label_files import Kind

_MOST_VALUES = 10
"""Of a task of many classes, a prediction names so many, the best ones."""

Scores = NDArray[np.floating[Any]]
"""Binary: the probability of yes (B,); multiclass and multilabel: shares of the classes (B, C), 1
in all; regression: the quantity (B,)."""


@dataclass(frozen=True)
class Asked:
    """What a task asks."""

    name: str
    question: str
    """What is predicted, as a plain sentence."""
    kind: Kind
    classes: tuple[str, ...] = ()
    """Of multiclass and multilabel tasks."""
    attribute: tuple[str, str] | None = None
    """(segment, attribute) whose values the classes are."""
    hide: tuple[str, ...] = ()
    """Profile fields that give the answer away."""
    horizon: str | None = None
    """How long after the cut-off the answer is looked for."""

    @property
    def score_shape(self) -> tuple[int, ...]:
        """Of one user's scores: (C,) of classes, or () of a single number."""
        return (len(self.classes),) if self.kind in ("multiclass", "multilabel") else ()

    def to_json(self) -> dict[str, Any]:
        """Write as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `to_json` wrote; raise `TypeError` for anything else."""
        asked = cls(**content)
        attribute = None
        if asked.attribute is not None:
            segment, name = asked.attribute
            attribute = (segment, name)
        return replace(
            asked, classes=tuple(asked.classes), hide=tuple(asked.hide), attribute=attribute
        )


def best_values(scores: Scores, classes: tuple[str, ...]) -> tuple[list[list[str]], Scores]:
    """The names and the scores (B, up to 10) of each user's best classes, best first."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :_MOST_VALUES]
    names = np.array(classes, dtype=object)
    return names[best].tolist(), np.take_along_axis(scores, best, axis=1)


def answered(
    data: PreparedData, pairs: Pairs, scores: Scores, classes: tuple[str, ...] = ()
) -> pl.DataFrame:
    """A frame `user_id`, `cutoff`, and `score`, or the best `values` and their `scores`."""
    frame = pl.DataFrame(
        {
            "user_id": pl.Series(data.user_ids.take(pa.array(pairs.rows)), dtype=pl.String),
            "cutoff": pl.Series(pairs.cutoffs).cast(pl.Datetime("us", "UTC")),
        }
    )
    if scores.ndim == 1:
        return frame.with_columns(pl.Series("score", scores, dtype=pl.Float32))
    values, best = best_values(scores, classes)
    return frame.with_columns(
        pl.Series("values", values, dtype=pl.List(pl.String)),
        pl.Series("scores", best.tolist(), dtype=pl.List(pl.Float32)),
    )
