"""The verdict of an evaluation: win, tie or loss from the paired interval, in sentences.

In: `evaluate`'s rows, with the difference between the best models of both sides. Out: sentences.
A win or a loss is claimed only if the paired 95 % interval of the difference excludes zero;
otherwise the task is a tie, and the sentence says which gain or loss remains possible. Used by
the report and the explorer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

Group = Literal["classical", "ours", "baseline"]
"""Side of the comparison: features alone, user vectors, or neither."""

_MINUS, _TO = "\N{MINUS SIGN}", "\N{EN DASH}"
DIFFERENCE = f" {_MINUS} "
"""Separator of the two models' names in a row that compares them."""

Verdict = Literal["win", "tie", "loss", "open"]
"""Judgement on the vectors; "open": the models were not compared."""

QUESTION = "What do these vectors add to the features you already have?"
"""Question that an evaluation answers."""

METRIC_LABELS = {
    "roc_auc": "ROC-AUC",
    "map_at_10": "mAP@10",
    "pr_auc": "PR-AUC",
    "accuracy": "accuracy",
}
"""Display names of the metrics. A task is judged by the first of these metrics that it has."""

METRIC_NOTES = {
    "roc_auc": "ROC-AUC: the chance that a user whose answer is yes is ranked above a user whose "
    "answer is no; 0.5 is guessing, 1 is perfect.",
    "map_at_10": "mAP@10: how many of the ten values ranked first are right, with more weight on "
    "the first ranks; 1 is perfect.",
    "pr_auc": "PR-AUC: the mean precision over all users whose answer is yes; guessing gives their "
    "share.",
    "accuracy": "Accuracy: the share of correct predictions.",
}

GLOSSARY: dict[str, tuple[Group, str]] = {
    "popularity": (
        "classical",
        "the same prediction for every user: the share of yes, or the most frequent values",
    ),
    "own-popularity": ("classical", "the most frequent values in the user's own words"),
    "aggregates-linear": (
        "classical",
        "counts, recency, frequency, money and profile of the same events, in a logistic "
        "regression (next values: one ridge regression on all values)",
    ),
    "aggregates-gbm": (
        "classical",
        "the same features in gradient-boosted trees (LightGBM); with few labels, the mean of "
        "three fits with different seeds",
    ),
    "aggregates-both": (
        "classical",
        "the mean of aggregates-linear and aggregates-gbm (of their standardised log-odds, "
        "weighted by their quality on the validation users)",
    ),
    "frozen-linear": (
        "ours",
        "the user embedding alone, as pretrained, in a logistic or ridge regression (with few "
        "labels, averaged with a regression in which the columns other than timing are scaled "
        "down)",
    ),
    "frozen-gbm": ("ours", "the user embedding alone in gradient-boosted trees"),
    "fused-linear": (
        "ours",
        "the user embedding and the classical features in one logistic or ridge regression; with "
        "few labels, the scale of the embedding's columns other than timing is tuned (not for next "
        "values)",
    ),
    "fused-gbm": (
        "ours",
        "the classical features and the timing of the user embedding (when and how often users "
        "acted; for next values, the scores of a regression on the embedding instead), in "
        "gradient-boosted trees",
    ),
    "fused": (
        "ours",
        "the mean of fused-linear, aggregates-gbm, fused-gbm and fine-tuned, weighted as in "
        "aggregates-both (next values: fused-linear, or the mean of aggregates-gbm and fused-gbm, "
        "whichever was better on the validation users)",
    ),
    "fine-tuned": (
        "ours",
        "the pretrained network, trained further on the labels, end to end: three epochs, or a "
        "million words where histories are long",
    ),
    "from-scratch": (
        "baseline",
        "the same network without pretraining, trained on the labels for the same time",
    ),
    "coles": ("baseline", "a peer: contrastive user embeddings (CoLES) of the same events"),
}
"""Group and description of each model."""

RECIPE_SEPARATOR = ": "
"""Separator between the name of another pretraining recipe and the model's name."""
ENOUGH_SEEDS = 3
"""Number of pretraining seeds below which the report warns of the randomness of pretraining."""
MIN_FOR_INTERVAL = 100
"""Number of labels (binary tasks: with the rarer answer) below which the interval is unreliable."""


@dataclass(frozen=True)
class Score:
    """A model's metric on a task, or the difference between two models."""

    task: str
    model: str
    metric: str
    mean: float
    low: float
    high: float
    labels: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Score":
        """Reads a row of report.json."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Finding:
    """Verdict on one task: its answer to `QUESTION`."""

    verdict: Verdict
    gain: str
    """Paired difference with its interval; empty if the verdict is open."""
    text: str
    """Verdict in one to three sentences."""


def group_of(model: str) -> Group:
    """Returns the group of a model; unknown names are baselines."""
    return GLOSSARY[model][0] if model in GLOSSARY else "baseline"


def meaning_of(model: str) -> str | None:
    """Returns the description of a model; `None` for differences and unknown names."""
    recipe, _, name = model.rpartition(RECIPE_SEPARATOR)
    if name not in GLOSSARY:
        return None
    meaning = GLOSSARY[name][1]
    return f"{meaning}; of networks pretrained as {recipe}" if recipe else meaning


def headline_metric(scores: Sequence[Score]) -> str:
    """Returns the metric that the task of the scores is judged by."""
    metrics = [score.metric for score in scores]
    return next((metric for metric in METRIC_LABELS if metric in metrics), metrics[0])


def is_difference(score: Score) -> bool:
    """Returns whether a row is a paired difference instead of the value of one model."""
    return DIFFERENCE in score.model


def verdict_of(difference: Score | None) -> Verdict:
    """Judges a paired difference: a win or a loss only if the interval excludes zero.

    The verdict is open without a difference, or if its interval is not a number.
    """
    if difference is None or not difference.low <= difference.high:
        return "open"
    if difference.low > 0:
        return "win"
    return "loss" if difference.high < 0 else "tie"


def number(value: float) -> str:
    """Formats a metric with three decimals, which is finer than any interval here."""
    # The option "z" formats -0.0 as 0.
    return f"{value:z.3f}".replace("-", _MINUS)


def signed(value: float) -> str:
    """Formats a difference with its sign."""
    return f"{value:+.3f}".replace("-", _MINUS)


def interval(score: Score) -> str:
    """Formats the 95 % interval of a score; with signs for differences and negative values."""
    if is_difference(score) or score.low < 0:
        return f"{signed(score.low)} to {signed(score.high)}"
    return f"{number(score.low)}{_TO}{number(score.high)}"


def find(scores: Sequence[Score]) -> Finding:
    """Answers `QUESTION` for one task, by its headline metric."""
    metric = headline_metric(scores)
    headline = [score for score in scores if score.metric == metric]
    difference = next((score for score in headline if score.model.startswith("best-ours")), None)
    verdict = verdict_of(difference)
    if difference is None or verdict == "open":
        return Finding(
            "open", "", "The best models of both sides were not compared, so there is no verdict."
        )
    ours, classical = _best(headline, "ours"), _best(headline, "classical")
    gain = f"{signed(difference.mean)} {METRIC_LABELS.get(metric, metric)} ({interval(difference)})"
    if verdict == "win":
        text = f"Vectors improve on the best classical model by {gain}."
    elif verdict == "loss":
        text = f"Vectors do worse than the best classical model, by {gain}."
    else:
        text = (
            f"The difference cannot be told from zero: {gain}. With {difference.labels:,} labels "
            f"a gain above {number(max(difference.high, 0))} or a loss beyond "
            f"{number(max(-difference.low, 0))} is unlikely; anything in between is possible."
        )
    if ours and classical:
        text += (
            f" The best single models reach {number(ours.mean)} with vectors ({ours.model}) and "
            f"{number(classical.mean)} without ({classical.model})."
        )
    return Finding(verdict, f"{gain}.", text)


def habit_finding(scores: Sequence[Score]) -> str | None:
    """Compares habit with the best model with vectors on a next-value task; else returns `None`."""
    metric = headline_metric(scores)
    by_model = {score.model: score for score in scores if score.metric == metric}
    if "own-popularity" not in by_model:
        return None
    own = by_model["own-popularity"]
    text = f"Habit alone (each user's most frequent values) reaches {number(own.mean)}"
    if "popularity" in by_model:
        text += f", the most frequent values of all users {number(by_model['popularity'].mean)}"
    ours = _best(scores, "ours")
    if ours is None:
        return f"{text}."
    reached = f"({ours.model}, {number(ours.mean)})"
    if ours.low > own.high:
        return f"{text}; vectors are better than habit {reached}."
    if ours.high < own.low:
        return f"{text}; vectors are worse than habit {reached}."
    return f"{text}; vectors are about as good as habit {reached}."


def lead_findings(leads: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reports the mean leads of `fused` over trees on features; `leads` are rows of `leads_of`."""
    sentences = []
    for row in leads:
        lead, full_lead, growth = (
            f"{signed(value['mean'])} ({signed(value['low'])} to {signed(value['high'])})"
            for value in (row["lead"], row["with_all_labels"], row["growth"])
        )
        tasks = "1 task" if row["tasks"] == 1 else f"{row['tasks']} tasks"
        verdict = "not different from zero"
        if row["growth"]["low"] > 0 or row["growth"]["high"] < 0:
            verdict = f"{'more' if row['growth']['mean'] > 0 else 'less'} with few labels"
        sentences.append(
            f"With 1/{round(1 / row['share'])} of the labels, fused leads trees on features by "
            f"{lead} on average over {tasks}; with all labels, by {full_lead}. The difference is "
            f"{growth}: {verdict}."
        )
    return sentences


def calibration_finding(rows: Sequence[Mapping[str, Any]]) -> str:
    """Reports each model's calibration error, smallest first; a row has `model` and `error`."""
    errors = [
        f"{row['model']} {number(row['error'])}"
        for row in sorted(rows, key=lambda row: row["error"])
    ]
    return f"Calibration error (mean distance between score and share of yes): {', '.join(errors)}."


def pretraining_finding(scores: Sequence[Score]) -> str | None:
    """Reports what pretraining adds to the fine-tuned network; `None` if it was not compared."""
    metric = headline_metric(scores)
    by_model = {score.model: score for score in scores if score.metric == metric}
    if "fine-tuned" not in by_model or "from-scratch" not in by_model:
        return None
    tuned, scratch = by_model["fine-tuned"], by_model["from-scratch"]
    text = (
        f"The fine-tuned network reaches {number(tuned.mean)} ({interval(tuned)}) after "
        f"pretraining, and {number(scratch.mean)} ({interval(scratch)}) from scratch, trained for "
        "the same time"
    )
    paired = by_model.get(f"fine-tuned{DIFFERENCE}from-scratch")
    if paired is None:
        return f"{text}. The two were not compared user by user, so there is no verdict."
    verdict = {
        "win": "pretraining helps",
        "loss": "pretraining hurts",
        "tie": "pretraining makes no difference that these labels can show",
        "open": "the difference is not known",
    }[verdict_of(paired)]
    return f"{text}: {verdict} ({signed(paired.mean)}, {interval(paired)})."


def answer(findings: Mapping[str, Finding]) -> str:
    """Answers `QUESTION` over all tasks, in one to three sentences."""
    judged = {task: finding for task, finding in findings.items() if finding.verdict != "open"}
    if not judged:
        return "This evaluation compares no models in pairs, so it gives no answer yet."
    tasks = {
        verdict: [task for task, finding in judged.items() if finding.verdict == verdict]
        for verdict in ("win", "tie", "loss")
    }
    if len(judged) == 1:
        return {
            "win": "They improve the one task that was evaluated.",
            "tie": "Nothing measurable on the one task that was evaluated: it is a tie.",
            "loss": "Nothing: on the one task that was evaluated they do worse than the features.",
        }[next(iter(judged.values())).verdict]
    sentences = []
    if tasks["win"]:
        sentences.append(f"They improve {_share(tasks['win'], judged)}.")
    else:
        sentences.append("Nothing measurable on these tasks.")
    if tasks["tie"]:
        sentences.append(f"It is a tie in {_share(tasks['tie'], judged)}.")
    if tasks["loss"]:
        sentences.append(f"They do worse in {_share(tasks['loss'], judged)}.")
    return " ".join(sentences)


def cautions(scores: Sequence[Score], positives: Mapping[str, int | None], seeds: int) -> list[str]:
    """Returns cautions: too few pretraining seeds, and tasks with few labels.

    `positives` holds the number of positives by task; `None` for tasks that are not binary.
    """
    sentences = []
    if seeds < ENOUGH_SEEDS:
        times = "once" if seeds == 1 else f"{seeds} times"
        sentences.append(
            f"The model was pretrained {times}. The intervals cover the sampling of users, not "
            "the randomness of pretraining: another seed may move every figure of ours, even "
            "across zero. Pretrain at least three seeds before you decide a close call."
        )
    for task, count in positives.items():
        labels = max((score.labels for score in scores if score.task == task), default=0)
        smaller = min(count, labels - count) if count is not None else labels
        if smaller < MIN_FOR_INTERVAL:
            size = (
                f"{smaller:,} labels"
                if count is None
                else f"{smaller:,} labels with the rarer answer"
            )
            sentences.append(
                f"{task} has only {size}: few of them judge each fold, so even the interval of "
                "the task is unreliable. Read its verdict as a hint."
            )
    return sentences


def _best(scores: Sequence[Score], group: Group) -> Score | None:
    """Returns the score of the best model of a group; `None` if there is none."""
    members = [
        score for score in scores if score.model in GLOSSARY and group_of(score.model) == group
    ]
    return max(members, key=lambda score: score.mean, default=None)


def _share(tasks: Sequence[str], judged: Mapping[str, Finding]) -> str:
    return f"{len(tasks)} of {len(judged)} tasks ({', '.join(tasks)})"


def intervals_note(splits: int, seeds: int) -> str:
    """Explains how the intervals are made, and what they do not cover."""
    over_seeds = (
        f"The metrics are averaged over the vectors of {seeds} pretraining seeds; fine-tuned "
        "networks use one seed per fold, in turn, unless every seed was requested for every fold. "
        "The randomness of a seed is averaged out, but not part of the interval."
        if seeds > 1
        else "One pretraining seed was scored: its randomness is not part of the interval."
    )
    return (
        f"Every user is scored by models that were not trained on that user ({splits} folds). "
        "Then the users, with all their labels, are drawn with replacement (1,000 times by "
        "default), and each metric is computed on each draw; the middle 95 % of its values is the "
        "interval (a bootstrap). All models share the draws, so a difference of two models is "
        "judged on the same users: it can be clear although the models' own intervals overlap. "
        "Neither folds nor models are made again for each draw: intervals show how far other users "
        "of the same kind would move the figures, not other data or other times. "
        f"{over_seeds} Of tasks on which vectors make no difference, one in forty still looks like "
        "a win."
    )
