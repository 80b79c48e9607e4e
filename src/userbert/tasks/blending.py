"""Scores of test pairs by a model, and the weighted mean of several models.

`Scored` holds one model's scores, `blend` averages several models' log-odds, and `trust` computes
the weights of the mean. Regressions and trees return `Scored`; `out_of_fold` and `fused` blend.

Letters in shapes: B (user, cut-off) pairs, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from userbert.data.ragged import Floats

EPSILON = 1e-6
"""Lower bound of probabilities (upper bound: 1 - `EPSILON`) before log-odds are taken, and of the
deviations that log-odds are divided by."""
_SPREAD, _POWER = 0.08, 6
"""Typical deviation of ROC-AUC between the models of a task, and the power that turns a model's
ROC-AUC above chance into a weight; see docs/decisions/0010."""


@dataclass(frozen=True)
class Scored:
    """A model's scores of the test pairs, and its quality on the validation pairs."""

    scores: Floats
    """Scores of the test pairs (B,) or (B, C), in the split's order."""
    validation: float
    """First metric of the task on the validation pairs."""
    held: Floats | None = None
    """Scores of the validation pairs, which blends of binary tasks need; `None` if not kept."""


def log_odds(scores: Floats) -> Floats:
    """Returns the log-odds of probabilities (B,), clipped away from 0 and 1."""
    odds: Floats = logit(np.clip(scores.astype(np.float64), EPSILON, 1 - EPSILON))
    return odds


def blend(scores: Sequence[Floats], weights: Sequence[float] | None = None) -> Floats:
    """Returns the mean of several models' standardised log-odds as probabilities (B,).

    Standardising keeps an overconfident (overfitted) model from outweighing the others. The mean is
    then scaled to the models' average mean and deviation. A model with constant scores is ignored.
    `weights` come from `trust`; `None`: equal weights. If all models are constant, so is the mean.
    """
    odds = [log_odds(model_scores) for model_scores in scores]
    center, width = np.mean(odds), np.mean([model.std() for model in odds])
    weights = weights if weights is not None else [1.0] * len(odds)
    standard = [(model - model.mean()) / max(model.std(), EPSILON) for model in odds]
    used_weights = [
        weight * (model.std() > EPSILON) for weight, model in zip(weights, odds, strict=True)
    ]
    if not any(used_weights):
        return np.full(len(scores[0]), expit(center))
    mean: Floats = expit(center + width * np.average(standard, axis=0, weights=used_weights))
    return mean


def trust(values: Sequence[float], judges: float) -> list[float]:
    """Returns the models' weights in their mean, from their ROC-AUC `values` on validation pairs.

    A weight is proportional to the sixth power of the ROC-AUC above chance, so that weak models
    hardly count; the weights sum to 1. `judges` is the number of validation pairs with the rarer
    answer: if there are few, ROC-AUC is noisy, so the values are shrunk towards their mean.
    """
    aucs = np.array(values)
    mean = aucs.mean()
    shrinkage = _SPREAD**2 / (_SPREAD**2 + mean * (1 - mean) / judges)
    skill = np.maximum(mean + shrinkage * (aucs - mean) - 0.5, 0.005) ** _POWER
    return [float(weight) for weight in skill / skill.sum()]
