"""Task specifications, and predictions as frames.

In: a task's `TaskSpec` and scores of (user, cut-off) pairs. Out: frames of predictions, and the
best values of tasks with classes. Used by all code that runs a task; does not import torch.

Letters in shapes: B (user, cut-off) pairs, C classes.
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

_MAX_VALUES = 10
"""Maximum number of classes that a prediction names; mAP@10 reads as many."""

Scores = NDArray[np.floating[Any]]
"""Binary: probability of yes (B,); multiclass and multilabel: class shares (B, C) that sum to 1;
regression: predicted quantity (B,)."""


@dataclass(frozen=True)
class TaskSpec:
    """Specification of a task: the question, its kind, and its possible answers."""

    name: str
    """Name of the task."""
    question: str
    """The question that the task answers, as a plain sentence."""
    kind: Kind
    classes: tuple[str, ...] = ()
    """Class names of multiclass and multilabel tasks; else empty."""
    attribute: tuple[str, str] | None = None
    """(segment, attribute) whose values are the classes; `None` for other classes."""
    hide: tuple[str, ...] = ()
    """Profile fields that leak the label, so that models must not read them."""
    horizon: str | None = None
    """Duration after the cut-off within which events decide the answer, such as `28d`; `None`: no
    limit."""

    @property
    def score_shape(self) -> tuple[int, ...]:
        """Shape of one user's scores: (C,) with classes, () for a single number."""
        return (len(self.classes),) if self.kind in ("multiclass", "multilabel") else ()

    def to_json(self) -> dict[str, Any]:
        """Returns the specification as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Reads the result of `to_json`; raises `TypeError` if a field is missing or unknown."""
        spec = cls(**content)
        attribute = None
        if spec.attribute is not None:
            segment, name = spec.attribute
            attribute = (segment, name)
        return replace(
            spec, classes=tuple(spec.classes), hide=tuple(spec.hide), attribute=attribute
        )


def best_values(scores: Scores, classes: tuple[str, ...]) -> tuple[list[list[str]], Scores]:
    """Returns the names and scores of each user's best classes (B, at most 10), best first."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :_MAX_VALUES]
    names = np.array(classes, dtype=object)
    return names[best].tolist(), np.take_along_axis(scores, best, axis=1)


def predictions_frame(
    data: PreparedData, pairs: Pairs, scores: Scores, classes: tuple[str, ...] = ()
) -> pl.DataFrame:
    """Returns a frame of `user_id`, `cutoff`, and `score` or the best `values` with `scores`.

    `scores` (B,) need no `classes`; `scores` (B, C) need the names of the C classes.
    """
    frame = pl.DataFrame(
        {
            "user_id": pl.Series(data.user_ids.take(pa.array(pairs.rows)), dtype=pl.String),
            "cutoff": pl.Series(pairs.cutoffs).cast(pl.Datetime("us", "UTC")),
        }
    )
    if scores.ndim == 1:
        return frame.with_columns(pl.Series("score", scores, dtype=pl.Float32))
    values, best_scores = best_values(scores, classes)
    return frame.with_columns(
        pl.Series("values", values, dtype=pl.List(pl.String)),
        pl.Series("scores", best_scores.tolist(), dtype=pl.List(pl.Float32)),
    )
