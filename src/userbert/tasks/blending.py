"""What models say of users who were not learned from, and the mean of several.

In: probabilities of pairs (B,). Out: `Scored`; `blend`, the mean of log odds, weighed by `trust`.
Regressions and trees of `evaluate` give the first, `out_of_fold` and `fused` take the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from userbert.data.ragged import Floats

LEAST = 1e-6
"""Of a probability, before its log odds; and of their deviation."""
_SPREAD, _POWER = 0.08, 6
"""How much the ROC-AUCs of models on one task differ, and how steeply trust follows them; see
docs/decisions/0010."""


@dataclass(frozen=True)
class Scored:
    """What a model says of the test pairs, and what it was worth on the validation pairs."""

    scores: Floats
    """(B,) or (B, C), in the order of the split's test pairs."""
    validation: float
    """The task's first metric on the validation pairs."""
    held: Floats | None = None
    """Of yes-or-no tasks: what the model that was chosen said of the validation pairs."""


def log_odds(scores: Floats) -> Floats:
    """Of probabilities (B,) that are neither 0 nor 1, or drawn away from them."""
    found: Floats = logit(np.clip(scores.astype(np.float64), LEAST, 1 - LEAST))
    return found


def blend(scores: Sequence[Floats], weights: Sequence[float] | None = None) -> Floats:
    """The mean of several models' log odds, each as wide as they are on average, as a probability.

    A model that is sure of itself, as those are that learned few labels by heart, has no more to
    say than the others; one that gives everybody the same has nothing to say. `weights` are those
    of `trust`; none: all alike.
    """
    odds = [log_odds(one) for one in scores]
    center, width = np.mean(odds), np.mean([one.std() for one in odds])
    weights = weights if weights is not None else [1.0] * len(odds)
    standard = [(one - one.mean()) / max(one.std(), LEAST) for one in odds]
    telling = [weight * (one.std() > LEAST) for weight, one in zip(weights, odds, strict=True)]
    if not any(telling):
        return np.full(len(scores[0]), expit(center))
    mean: Floats = expit(center + width * np.average(standard, axis=0, weights=telling))
    return mean


def trust(values: Sequence[float], judges: float) -> list[float]:
    """How much each of several models counts in their mean, by its ROC-AUC on validation pairs.

    By the sixth power of what it is better than chance, so that one that knows little moves
    little. Of `judges` on the rarer side of those pairs, values differ by chance: the fewer there
    are, the nearer they are drawn to their mean.
    """
    found = np.array(values)
    mean = found.mean()
    kept = _SPREAD**2 / (_SPREAD**2 + mean * (1 - mean) / judges)
    skill = np.maximum(mean + kept * (found - mean) - 0.5, 0.005) ** _POWER
    return [float(one) for one in skill / skill.sum()]
