"""Claims of the paper about its experiments, and whether our rows agree with them.

In: rows of one study. Out: a judgement of each claim. A claim is data: its words, the pairs of
models to compare, and a rule that judges their paired intervals. `collect.py` computes the
differences of these pairs; `page.py` shows the judgements.

The verdict is "agrees" if all comparisons of the claim agree, "does not agree" if one contradicts
it, and "can't tell" otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from userbert.experiments.reproduction.rows import (
    MINUS,
    Row,
    at_last_epoch,
    differences,
    figure_text,
    model_name,
    paired,
    pick,
    scores,
    side,
    task_name,
    values,
)

Verdict = Literal["agrees", "does not agree", "can't tell"]
Pair = tuple[str, str]

SIMILAR = 0.02
"""Models are similar if the whole interval of their ROC-AUC difference is within ± `SIMILAR`. The
paper gives no number; this one is our choice."""
PAPER_MARGIN = 8.97 / 7.65 - 1
"""Relative lead of UserBERT over the second best, Wide&Deep + MTL, in the paper's table 2."""

MIN_SEEDS = 2
"""Minimum number of seeds to judge a claim."""
ONE_SEED = "a single seed"
"""Evidence of a claim with fewer seeds than `MIN_SEEDS`."""

_MTL = ("wide-deep-mtl", "lstm-mtl", "transformer-mtl")
_USERBERT_OVER_MTL: tuple[Pair, ...] = tuple(("userbert", model) for model in _MTL)


@dataclass(frozen=True)
class Judgement:
    """Verdict on a claim or a comparison, and the numbers behind it."""

    verdict: Verdict
    evidence: str
    """The numbers as text."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper about an experiment, judged by a metric."""

    words: str
    """The claim in a sentence."""
    where: str
    """Section, figure or table of the paper."""
    experiment: str
    metric: str
    pairs: tuple[Pair, ...]
    """Models to compare; the claim expects the first of each pair to be ahead, unless `rule` says
    otherwise."""
    rule: Callable[["Claim", Sequence[Row]], list[Judgement]]
    """Returns a judgement of each comparison, from the rows of the experiment and the tasks."""
    tasks: tuple[str, ...] = ()
    """Tasks that the claim is about; empty: all tasks of the experiment."""


def judge(claim: Claim, rows: Sequence[Row]) -> Judgement | None:
    """Judges a claim by the rows of one study; returns None if its experiment did not run.

    The verdict is "can't tell" if a pair of models has fewer seeds than `MIN_SEEDS`.
    """
    claim_rows = [
        row
        for row in pick(rows, experiment=claim.experiment)
        if not claim.tasks or row["task"] in claim.tasks
    ]
    if not claim_rows:
        return None
    pair_names = {
        MINUS.join(pair)
        for first, second in claim.pairs
        for pair in ((first, second), (second, first))
    }
    if any(
        row["seeds"] < MIN_SEEDS for row in differences(claim_rows) if row["model"] in pair_names
    ):
        # An interval of one seed does not cover the variance between seeds.
        return Judgement("can't tell", ONE_SEED)
    judgements = claim.rule(claim, claim_rows)
    dissenting = [judgement for judgement in judgements if judgement.verdict != "agrees"]
    if not dissenting:
        verdict: Verdict = "agrees"
    elif any(judgement.verdict == "does not agree" for judgement in dissenting):
        verdict = "does not agree"
    else:
        verdict = "can't tell"
    if len(judgements) <= 2:
        return Judgement(verdict, "; ".join(judgement.evidence for judgement in judgements))
    count = f"{len(judgements) - len(dissenting)} of {len(judgements)} comparisons agree"
    suffix = (
        f"; not: {'; '.join(judgement.evidence for judgement in dissenting)}" if dissenting else ""
    )
    return Judgement(verdict, count + suffix)


def _judge_ahead(claim: Claim, rows: Sequence[Row]) -> list[Judgement]:
    """Judges whether the first model of each pair is ahead.

    Agrees if the interval of the difference is on the side of the first model, does not agree if
    on the side of the second; otherwise can't tell.
    """
    verdicts: dict[str | None, Verdict] = {"ahead": "agrees", "behind": "does not agree"}
    return [
        Judgement(verdicts.get(side(row) if row else None, "can't tell"), text)
        for row, text in _pair_differences(claim, rows)
    ]


def _judge_similar(claim: Claim, rows: Sequence[Row]) -> list[Judgement]:
    """Judges whether the models of each pair are similar.

    Agrees if the whole interval of the difference is within ± `SIMILAR`, does not agree if all of
    it is outside; otherwise can't tell.
    """
    judgements = []
    for row, text in _pair_differences(claim, rows):
        verdict: Verdict = "can't tell"
        if row is not None and row["mean"] is not None:
            if row["low"] >= -SIMILAR and row["high"] <= SIMILAR:
                verdict = "agrees"
            elif row["low"] > SIMILAR or row["high"] < -SIMILAR:
                verdict = "does not agree"
        judgements.append(Judgement(verdict, text))
    return judgements


def _judge_margin(claim: Claim, rows: Sequence[Row]) -> list[Judgement]:
    """Judges whether the first model leads the best other model by the paper's margin.

    Does not agree if the interval of the relative lead ends below `PAPER_MARGIN`; otherwise agrees
    if the interval is above zero. The best other model is chosen on the same users, so with few
    users the lead is slightly too small.
    """
    judgements = []
    for task in values(rows, "task"):
        last_rows = at_last_epoch(pick(scores(rows), task=task, metric=claim.metric))
        other_models = [second for _, second in claim.pairs]
        candidates = [row for row in last_rows if row["model"] in other_models and row["mean"]]
        best = max(candidates, key=lambda row: row["mean"], default=None)
        row = best and paired(
            pick(rows, task=task, metric=claim.metric), claim.pairs[0][0], best["model"]
        )
        if best is None or row is None or row["mean"] is None:
            judgements.append(Judgement("can't tell", f"no paired difference on {task_name(task)}"))
            continue
        low, mean, high = (row[key] / best["mean"] for key in ("low", "mean", "high"))
        verdict: Verdict = "agrees" if low > 0 else "can't tell"
        if high < PAPER_MARGIN:
            verdict = "does not agree"
        text = f"{mean:+.0%} ({low:+.0%} to {high:+.0%}) over {model_name(best['model'])}"
        judgements.append(Judgement(verdict, text.replace("%", " %")))
    return judgements


def _pair_differences(claim: Claim, rows: Sequence[Row]) -> list[tuple[Row | None, str]]:
    """Returns the difference of each pair on each task, or None if it is missing, and its text."""
    pair_rows = []
    for task in values(rows, "task"):
        task_rows = pick(rows, task=task, metric=claim.metric)
        for first, second in claim.pairs:
            row = paired(task_rows, first, second)
            text = "not compared" if row is None else figure_text(row, signed=True)
            pair_rows.append(
                (
                    row,
                    f"{model_name(first)} against {model_name(second)} on {task_name(task)} {text}",
                )
            )
    return pair_rows


CLAIMS = (
    Claim(
        "UserBERT outperforms the three multi-task models on user targeting",
        "§4.5, figure 3", "figure_3", "roc_auc", _USERBERT_OVER_MTL, _judge_ahead,
    ),
    Claim(
        "On user targeting the LSTM has relatively low accuracy",
        "§4.5, figure 3", "figure_3", "accuracy",
        tuple((model, "lstm-mtl") for model in ("userbert", "wide-deep-mtl", "transformer-mtl")),
        _judge_ahead,
    ),
    Claim(
        "More labels make multi-task pretraining better",
        "§4.5, figure 4", "figure_4", "roc_auc",
        (("transformer-mtl", "transformer-mtl-30"),), _judge_ahead,
    ),
    Claim(
        "The Transformer without pretraining is the worst of the three",
        "§4.5, figure 4", "figure_4", "roc_auc",
        (
            ("transformer-mtl", "transformer-from-scratch"),
            ("transformer-mtl-30", "transformer-from-scratch"),
        ),
        _judge_ahead,
    ),
    Claim(
        "Pretrained UserBERT outperforms UserBERT without pretraining on user targeting",
        "§4.5, figure 5", "figure_5", "roc_auc",
        (("userbert", "userbert-from-scratch"),), _judge_ahead,
    ),
    Claim(
        "Without pretraining, models overfit quickly",
        "§4.5, figure 5", "figure_5", "test_loss_rise",
        (("userbert", "userbert-from-scratch"),), _judge_ahead,
    ),
    Claim(
        "UserBERT outperforms the three multi-task models on next genre",
        "§4.5, table 2", "table_2", "map_at_10", _USERBERT_OVER_MTL, _judge_ahead,
    ),
    Claim(
        f"… by {PAPER_MARGIN:.0%} over the second best".replace("%", " %"),
        "table 2", "table_2", "map_at_10", _USERBERT_OVER_MTL, _judge_margin,
    ),
    Claim(
        "Every pretrained model outperforms popularity on next genre",
        "§4.5", "table_2", "map_at_10",
        tuple((model, "popularity") for model in ("userbert", *_MTL)), _judge_ahead,
    ),
    Claim(
        "Has a car: all models reach similar figures",
        "§4.5, figure 6", "figure_6", "roc_auc", _USERBERT_OVER_MTL, _judge_similar,
        ("car_owner", "income_75k"),
    ),
    Claim(
        "Is a parent: UserBERT matches and eventually outperforms the multi-task models",
        "§4.5, figure 6", "figure_6", "roc_auc", _USERBERT_OVER_MTL, _judge_ahead,
        ("parent", "has_kids"),
    ),
)  # fmt: skip
