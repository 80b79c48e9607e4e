"""What the paper claims of its experiments, and what our rows say to it.

In: rows of one study. Out: a judgement of each claim. A claim is data: its words, the pairs of
models that it compares, and the rule by which paired intervals decide. `collect.py` makes the
differences of these pairs; `page.py` shows the judgements.

A claim agrees if all its comparisons do, and does not if one contradicts; else nobody can tell.
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
"""Of ROC-AUC: models are similar if the whole interval of their difference is within it. Ours."""
PAPER_MARGIN = 8.97 / 7.65 - 1
"""How far UserBERT is ahead of the second best, Wide&Deep + MTL, in table 2."""

LEAST_SEEDS = 2
"""A claim is not judged by fewer."""
ONE_SEED = "one seed alone"
"""What is said instead."""

_MTL = ("wide-deep-mtl", "lstm-mtl", "transformer-mtl")
_USERBERT_OVER_MTL: tuple[Pair, ...] = tuple(("userbert", model) for model in _MTL)


@dataclass(frozen=True)
class Judgement:
    """Whether our rows agree, and the figures that say so."""

    verdict: Verdict
    found: str


@dataclass(frozen=True)
class Claim:
    """A claim of the paper about `experiment`, judged by `metric` on `tasks` (none: on all)."""

    words: str
    where: str
    experiment: str
    metric: str
    pairs: tuple[Pair, ...]
    rule: Callable[["Claim", Sequence[Row]], list[Judgement]]
    tasks: tuple[str, ...] = ()


def judge(claim: Claim, rows: Sequence[Row]) -> Judgement | None:
    """Judge a claim by the rows of one study; None if they have nothing of its experiment."""
    mine = [
        row
        for row in pick(rows, experiment=claim.experiment)
        if not claim.tasks or row["task"] in claim.tasks
    ]
    if not mine:
        return None
    compared = {
        MINUS.join(pair) for one, other in claim.pairs for pair in ((one, other), (other, one))
    }
    if any(row["seeds"] < LEAST_SEEDS for row in differences(mine) if row["model"] in compared):
        # Its intervals know nothing of other seeds.
        return Judgement("can't tell", ONE_SEED)
    parts = claim.rule(claim, mine)
    contrary = [part for part in parts if part.verdict != "agrees"]
    if not contrary:
        verdict: Verdict = "agrees"
    elif any(part.verdict == "does not agree" for part in contrary):
        verdict = "does not agree"
    else:
        verdict = "can't tell"
    if len(parts) <= 2:
        return Judgement(verdict, "; ".join(part.found for part in parts))
    count = f"{len(parts) - len(contrary)} of {len(parts)} comparisons agree"
    others = f"; not: {'; '.join(part.found for part in contrary)}" if contrary else ""
    return Judgement(verdict, count + others)


def _ahead(claim: Claim, rows: Sequence[Row]) -> list[Judgement]:
    """The first of each pair is ahead: its interval leaves out zero, on the better side."""
    verdicts: dict[str | None, Verdict] = {"ahead": "agrees", "behind": "does not agree"}
    return [
        Judgement(verdicts.get(side(row) if row else None, "can't tell"), text)
        for row, text in _pairs(claim, rows)
    ]


def _similar(claim: Claim, rows: Sequence[Row]) -> list[Judgement]:
    """Each pair differs by less than `SIMILAR`; that an interval holds zero is not enough."""
    judged = []
    for row, text in _pairs(claim, rows):
        verdict: Verdict = "can't tell"
        if row is not None and row["mean"] is not None:
            if row["low"] >= -SIMILAR and row["high"] <= SIMILAR:
                verdict = "agrees"
            elif row["low"] > SIMILAR or row["high"] < -SIMILAR:
                verdict = "does not agree"
        judged.append(Judgement(verdict, text))
    return judged


def _by_the_papers_margin(claim: Claim, rows: Sequence[Row]) -> list[Judgement]:
    """The first is ahead of the best of the others by so many per cent as in the paper, or more.

    Which is the best is told by the same users; with few users that is a little unkind to the
    first.
    """
    judged = []
    for task in values(rows, "task"):
        last = at_last_epoch(pick(scores(rows), task=task, metric=claim.metric))
        others = [second for _, second in claim.pairs]
        known = [row for row in last if row["model"] in others and row["mean"]]
        best = max(known, key=lambda row: row["mean"], default=None)
        row = best and paired(
            pick(rows, task=task, metric=claim.metric), claim.pairs[0][0], best["model"]
        )
        if best is None or row is None or row["mean"] is None:
            judged.append(Judgement("can't tell", f"no paired difference on {task_name(task)}"))
            continue
        low, mean, high = (row[key] / best["mean"] for key in ("low", "mean", "high"))
        verdict: Verdict = "agrees" if low > 0 else "can't tell"
        if high < PAPER_MARGIN:
            verdict = "does not agree"
        text = f"{mean:+.0%} ({low:+.0%} to {high:+.0%}) over {model_name(best['model'])}"
        judged.append(Judgement(verdict, text.replace("%", " %")))
    return judged


def _pairs(claim: Claim, rows: Sequence[Row]) -> list[tuple[Row | None, str]]:
    """Find each pair's difference on each task, and say it in words."""
    found = []
    for task in values(rows, "task"):
        mine = pick(rows, task=task, metric=claim.metric)
        for first, second in claim.pairs:
            row = paired(mine, first, second)
            text = "not compared" if row is None else figure_text(row, signed=True)
            found.append(
                (
                    row,
                    f"{model_name(first)} against {model_name(second)} on {task_name(task)} {text}",
                )
            )
    return found


CLAIMS = (
    Claim(
        "UserBERT outperforms the three multi-task models on user targeting",
        "§4.5, figure 3", "figure_3", "roc_auc", _USERBERT_OVER_MTL, _ahead,
    ),
    Claim(
        "On user targeting the LSTM has relatively low accuracy",
        "§4.5, figure 3", "figure_3", "accuracy",
        tuple((model, "lstm-mtl") for model in ("userbert", "wide-deep-mtl", "transformer-mtl")),
        _ahead,
    ),
    Claim(
        "More labels make multi-task pretraining better",
        "§4.5, figure 4", "figure_4", "roc_auc",
        (("transformer-mtl", "transformer-mtl-30"),), _ahead,
    ),
    Claim(
        "The Transformer without pretraining is the worst of the three",
        "§4.5, figure 4", "figure_4", "roc_auc",
        (
            ("transformer-mtl", "transformer-from-scratch"),
            ("transformer-mtl-30", "transformer-from-scratch"),
        ),
        _ahead,
    ),
    Claim(
        "Pretrained UserBERT outperforms UserBERT without pretraining on user targeting",
        "§4.5, figure 5", "figure_5", "roc_auc",
        (("userbert", "userbert-from-scratch"),), _ahead,
    ),
    Claim(
        "Without pretraining, models overfit quickly",
        "§4.5, figure 5", "figure_5", "test_loss_rise",
        (("userbert", "userbert-from-scratch"),), _ahead,
    ),
    Claim(
        "UserBERT outperforms the three multi-task models on next genre",
        "§4.5, table 2", "table_2", "map_at_10", _USERBERT_OVER_MTL, _ahead,
    ),
    Claim(
        f"… by {PAPER_MARGIN:.0%} over the second best".replace("%", " %"),
        "table 2", "table_2", "map_at_10", _USERBERT_OVER_MTL, _by_the_papers_margin,
    ),
    Claim(
        "Every pretrained model outperforms popularity on next genre",
        "§4.5", "table_2", "map_at_10",
        tuple((model, "popularity") for model in ("userbert", *_MTL)), _ahead,
    ),
    Claim(
        "Has a car: all models reach similar figures",
        "§4.5, figure 6", "figure_6", "roc_auc", _USERBERT_OVER_MTL, _similar,
        ("car_owner", "income_75k"),
    ),
    Claim(
        "Is a parent: UserBERT matches and eventually outperforms the multi-task models",
        "§4.5, figure 6", "figure_6", "roc_auc", _USERBERT_OVER_MTL, _ahead,
        ("parent", "has_kids"),
    ),
)  # fmt: skip
