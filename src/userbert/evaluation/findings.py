"""What the numbers of an evaluation say, in plain words.

In: `evaluate`'s rows and the tasks' labels. Out: sentences. A win or a loss is claimed only where
the paired 95 % interval excludes zero; everything else is a tie, with what it could have hidden.
Used by `report.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

Group = Literal["classical", "ours", "baseline"]
"""Whose model it is."""

_MINUS, _TO = "\N{MINUS SIGN}", "\N{EN DASH}"
DIFFERENCE = f" {_MINUS} "
"""Stands between the names of two models that a row compares."""

Verdict = Literal["win", "tie", "loss", "open"]

QUESTION = "What do these vectors add to the features you already have?"

METRICS = {
    "roc_auc": "ROC-AUC",
    "map_at_10": "mAP@10",
    "pr_auc": "PR-AUC",
    "accuracy": "accuracy",
}
"""In the order in which one of them speaks for a task."""

METRIC_NOTES = {
    "roc_auc": "ROC-AUC: the chance that a user with the answer yes is ranked above one with no; "
    "0.5 is guessing, 1 is perfect.",
    "map_at_10": "mAP@10: how many of the ten values ranked first are right, those on top counting "
    "most; 1 is perfect.",
    "pr_auc": "PR-AUC: the mean precision over all users to be found; guessing gives their share.",
    "accuracy": "Accuracy: the share of users told right.",
}

GLOSSARY: dict[str, tuple[Group, str]] = {
    "popularity": (
        "classical",
        "what holds for most, the same for everyone: the share of yes, or the most frequent values",
    ),
    "own-popularity": ("classical", "the values most frequent in the user's own words"),
    "aggregates-linear": (
        "classical",
        "counts, recency, frequency, money and profile of the same events, in a logistic "
        "regression (next values: a ridge regression to all of them)",
    ),
    "aggregates-gbm": (
        "classical",
        "the same features in gradient-boosted trees (LightGBM); of few labels the mean of three "
        "draws",
    ),
    "aggregates-both": (
        "classical",
        "the mean of that regression and of these trees (of their standardised log odds, weighed "
        "by what each is worth on the validation users)",
    ),
    "frozen-linear": (
        "ours",
        "the user embedding alone, as pretraining left it, in a logistic or ridge regression (of "
        "few labels the mean with one in which all but its timing counts for less)",
    ),
    "frozen-gbm": ("ours", "the user embedding alone in gradient-boosted trees"),
    "fused-linear": (
        "ours",
        "the user embedding beside the classical features, in one logistic or ridge regression; "
        "of few labels it is tried how much room all but its timing gets (not of next values)",
    ),
    "fused-gbm": (
        "ours",
        "the classical features and the timing of the user embedding (when and how often users "
        "acted; of next values, what a regression of it says), in gradient-boosted trees",
    ),
    "fused": (
        "ours",
        "the mean of that regression, of both kinds of trees on classical features and of the "
        "fine-tuned network, weighed in the same way (next values: that regression, or the mean of "
        "both kinds of trees, whichever was better on the validation users)",
    ),
    "fine-tuned": (
        "ours",
        "the pretrained network, trained further on the labels end to end: three times over, or "
        "for a million words where histories are long",
    ),
    "from-scratch": (
        "baseline",
        "the same network without pretraining, trained as long on the labels alone",
    ),
    "coles": ("baseline", "a peer: contrastive user embeddings (CoLES) of the same events"),
}
"""Of each model: its group, and what it is."""

BESIDE = ": "
"""Stands between the name of a recipe of pretraining that is shown beside, and a model's."""
ENOUGH_SEEDS = 3
"""Of pretraining, before their mean says more than luck (the design's least)."""
FEW_POSITIVES = 100
"""Below so many users on the smaller side, an interval itself is unsure."""


@dataclass(frozen=True)
class Score:
    """A model's metric on a task, or the difference of two models'."""

    task: str
    model: str
    metric: str
    mean: float
    low: float
    high: float
    labels: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Score":
        """Read a row of report.json."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Finding:
    """What a task says about the question."""

    verdict: Verdict
    gain: str
    """The paired difference and its interval, in short."""
    text: str


def group_of(model: str) -> Group:
    """Tell whose model it is; a name that is not known is a baseline."""
    return GLOSSARY[model][0] if model in GLOSSARY else "baseline"


def meaning_of(model: str) -> str | None:
    """Say what a model is; nothing of differences and of names that are not known."""
    recipe, _, name = model.rpartition(BESIDE)
    if name not in GLOSSARY:
        return None
    meaning = GLOSSARY[name][1]
    return f"{meaning}; of networks pretrained as {recipe}" if recipe else meaning


def headline_metric(scores: Sequence[Score]) -> str:
    """Choose the metric that speaks for a task."""
    there = [score.metric for score in scores]
    return next((metric for metric in METRICS if metric in there), there[0])


def is_difference(score: Score) -> bool:
    """Tell a paired difference from a model's own value."""
    return DIFFERENCE in score.model


def verdict_of(difference: Score | None) -> Verdict:
    """Judge a paired difference: only an interval without zero is more than a tie."""
    if difference is None or not difference.low <= difference.high:
        return "open"
    if difference.low > 0:
        return "win"
    return "loss" if difference.high < 0 else "tie"


def number(value: float) -> str:
    """Write a metric: three decimals are finer than any interval here."""
    # Nothing is written without a sign ("z").
    return f"{value:z.3f}".replace("-", _MINUS)


def signed(value: float) -> str:
    """Write a difference with its sign."""
    return f"{value:+.3f}".replace("-", _MINUS)


def interval(score: Score) -> str:
    """Write a 95 % interval."""
    if is_difference(score) or score.low < 0:
        return f"{signed(score.low)} to {signed(score.high)}"
    return f"{number(score.low)}{_TO}{number(score.high)}"


def find(scores: Sequence[Score]) -> Finding:
    """Answer the question for one task, by its headline metric."""
    metric = headline_metric(scores)
    here = [score for score in scores if score.metric == metric]
    difference = next((score for score in here if score.model.startswith("best-ours")), None)
    verdict = verdict_of(difference)
    if difference is None or verdict == "open":
        return Finding(
            "open", "", "The best of both sides were not compared, so nothing is claimed."
        )
    ours, classical = _best(here, "ours"), _best(here, "classical")
    gain = f"{signed(difference.mean)} {METRICS.get(metric, metric)} ({interval(difference)})"
    if verdict == "win":
        text = f"The vectors add {gain} to what the best classical model reaches."
    elif verdict == "loss":
        text = f"The vectors do not win: they fall short of the best classical model by {gain}."
    else:
        text = (
            f"No difference that can be told from zero: {gain} is within the interval. With "
            f"{difference.labels:,} labels a gain above {number(max(difference.high, 0))} or a "
            f"loss beyond {number(max(-difference.low, 0))} is unlikely; what lies between stays "
            "open."
        )
    if ours and classical:
        text += (
            f" The highest figures of one model: {number(ours.mean)} with the vectors "
            f"({ours.model}), {number(classical.mean)} without ({classical.model})."
        )
    return Finding(verdict, f"{gain}.", text)


def habit_finding(scores: Sequence[Score]) -> str | None:
    """Say how far habit alone goes where the next values are asked for; nothing elsewhere."""
    metric = headline_metric(scores)
    here = {score.model: score for score in scores if score.metric == metric}
    if "own-popularity" not in here:
        return None
    own = here["own-popularity"]
    said = f"Habit goes far: what the user chose most so far reaches {number(own.mean)}"
    if "popularity" in here:
        said += f", what all users choose most {number(here['popularity'].mean)}"
    ours = _best(scores, "ours")
    if ours is None:
        return f"{said}."
    if ours.low > own.high:
        return f"{said}; the vectors go beyond it ({ours.model}, {number(ours.mean)})."
    if ours.high < own.low:
        return f"{said}; the vectors do not get there ({ours.model}, {number(ours.mean)})."
    return f"{said}; with the vectors it is about the same ({ours.model}, {number(ours.mean)})."


def lead_findings(leads: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how far `fused` leads trees on features where labels are few, over the tasks."""
    said = []
    for row in leads:
        lead, whole, growth = (
            f"{signed(value['mean'])} ({signed(value['low'])} to {signed(value['high'])})"
            for value in (row["lead"], row["with_all_labels"], row["growth"])
        )
        tasks = "1 task" if row["tasks"] == 1 else f"{row['tasks']} tasks"
        verdict = "which cannot be told from zero"
        if row["growth"]["low"] > 0 or row["growth"]["high"] < 0:
            verdict = "more" if row["growth"]["mean"] > 0 else "less"
        said.append(
            f"With 1/{round(1 / row['share'])} of the labels fused leads trees on features by "
            f"{lead} on average over {tasks}, with all labels by {whole}: {growth}, {verdict}."
        )
    return said


def calibration_finding(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say how far each model's scores are from the shares of yes, on average over users."""
    said = [
        f"{row['model']} {number(row['error'])}"
        for row in sorted(rows, key=lambda row: row["error"])
    ]
    return f"Mean distance of score and share: {', '.join(said)}."


def pretraining_finding(scores: Sequence[Score]) -> str | None:
    """Say what pretraining did for the fine-tuned network; nothing if it was not tried."""
    metric = headline_metric(scores)
    here = {score.model: score for score in scores if score.metric == metric}
    if "fine-tuned" not in here or "from-scratch" not in here:
        return None
    tuned, scratch = here["fine-tuned"], here["from-scratch"]
    said = (
        f"Fine-tuned after pretraining the network reaches {number(tuned.mean)} "
        f"({interval(tuned)}), from scratch, trained as long, {number(scratch.mean)} "
        f"({interval(scratch)})"
    )
    paired = here.get(f"fine-tuned{DIFFERENCE}from-scratch")
    if paired is None:
        return f"{said}. The two were not compared user by user, so no winner is named."
    verdict = {
        "win": "pretraining helps",
        "loss": "pretraining hurts",
        "tie": "pretraining makes no difference that these labels can show",
        "open": "the difference is not known",
    }[verdict_of(paired)]
    return f"{said}: {verdict} ({signed(paired.mean)}, {interval(paired)})."


def answer(findings: Mapping[str, Finding]) -> str:
    """Answer the question over all tasks, in a sentence or two."""
    judged = {task: finding for task, finding in findings.items() if finding.verdict != "open"}
    if not judged:
        return "This evaluation compares no models in pairs, so it gives no answer yet."
    tasks = {
        verdict: [task for task, finding in judged.items() if finding.verdict == verdict]
        for verdict in ("win", "tie", "loss")
    }
    if len(judged) == 1:
        return {
            "win": "They add something that can be measured on the one task that was tried.",
            "tie": "Nothing that can be measured on the one task that was tried: it is a tie.",
            "loss": "Nothing on the one task that was tried: they fall short of those features.",
        }[next(iter(judged.values())).verdict]
    said = []
    if tasks["win"]:
        said.append(f"They add something measurable in {_share(tasks['win'], judged)}.")
    else:
        said.append("On these tasks they add nothing that can be measured.")
    if tasks["tie"]:
        said.append(f"It is a tie in {_share(tasks['tie'], judged)}.")
    if tasks["loss"]:
        said.append(f"They fall short in {_share(tasks['loss'], judged)}.")
    return " ".join(said)


def cautions(scores: Sequence[Score], positives: Mapping[str, int | None], seeds: int) -> list[str]:
    """Say what the intervals do not cover, and where there is little to judge by."""
    said = []
    if seeds < ENOUGH_SEEDS:
        times = "once" if seeds == 1 else f"{seeds} times"
        said.append(
            f"The model was pretrained {times}. The intervals cover which users were drawn, not "
            "the luck of pretraining: another seed may move every figure of ours, also across "
            "zero. Pretrain three seeds or more before you decide on a close call."
        )
    for task, count in positives.items():
        labels = max((score.labels for score in scores if score.task == task), default=0)
        smaller = min(count, labels - count) if count is not None else labels
        if smaller < FEW_POSITIVES:
            what = f"{smaller:,} labels" if count is None else f"{smaller:,} users on one side"
            said.append(
                f"{task} has only {what}: each fold is judged by a handful of them, and even its "
                "interval is unsure. Read it as a hint."
            )
    return said


def _best(scores: Sequence[Score], group: Group) -> Score | None:
    mine = [score for score in scores if score.model in GLOSSARY and group_of(score.model) == group]
    return max(mine, key=lambda score: score.mean, default=None)


def _share(tasks: Sequence[str], judged: Mapping[str, Finding]) -> str:
    return f"{len(tasks)} of {len(judged)} tasks ({', '.join(tasks)})"


def intervals_note(splits: int, seeds: int) -> str:
    """Say how the intervals come about, and what they leave out."""
    over_seeds = (
        f"The vectors of {seeds} pretraining seeds were scored and their metrics averaged, and "
        "fine-tuned networks start from the seeds in turn, a fold each, unless every seed was "
        "asked for in every fold: the luck of a seed is evened out, not a part of the interval."
        if seeds > 1
        else "One pretraining seed was scored: its luck is not a part of the interval."
    )
    return (
        f"Every user is scored by models that did not learn from that user ({splits} folds). Then "
        "the users, with all their labels, are drawn with replacement (1,000 times unless asked "
        "otherwise), and each metric "
        "is computed anew; the middle 95 % of its values is the interval. All models share the "
        "draws, so that a difference of two models is judged on the same users: it can be clear "
        "although the models' own intervals overlap. The folds are not drawn anew, and models are "
        "not trained anew for each draw: intervals tell how far other users of the same kind would "
        f"move the figures, not other data or other times. {over_seeds} With several tasks, one "
        "in forty that makes no difference will still look like a win."
    )
