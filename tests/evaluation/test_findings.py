"""Verdicts claim what the intervals allow, and no more."""

from typing import get_args

import pytest

from userbert.evaluation import findings, fits, out_of_fold
from userbert.evaluation.findings import Score
from userbert.tasks.metrics import MetricName

BEST = "best-ours \N{MINUS SIGN} best-classical"
PRETRAINED = "fine-tuned \N{MINUS SIGN} from-scratch"


def score(model: str, mean: float, half: float = 0.02, **other: object) -> Score:
    row = {"task": "kids", "metric": "roc_auc", "labels": 801, "data": "d", "splits": 5, **other}
    return Score.from_row({**row, "model": model, "mean": mean, "low": mean - half,
                           "high": mean + half})  # fmt: skip


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.03, "win"), (-0.03, "loss"), (0.01, "tie"), (-0.01, "tie")]
)
def test_only_an_interval_without_zero_is_a_win_or_a_loss(mean: float, verdict: str) -> None:
    assert findings.find([score(BEST, mean)]).verdict == verdict


def test_an_interval_that_touches_zero_is_a_tie() -> None:
    assert findings.find([score(BEST, 0.02, half=0.02)]).verdict == "tie"


def test_zero_has_no_sign() -> None:
    assert findings.number(-0.0) == findings.number(-0.0004) == "0.000"
    assert findings.number(-0.001) == "−0.001"  # noqa: RUF001 - a minus sign


def test_a_difference_that_is_not_a_number_claims_nothing() -> None:
    assert findings.find([score(BEST, float("nan"))]).verdict == "open"


def test_without_a_paired_difference_nothing_is_claimed() -> None:
    finding = findings.find([score("fused", 0.9), score("aggregates-gbm", 0.5)])
    assert finding.verdict == "open"
    assert findings.answer({"kids": finding}).endswith("no answer yet.")


def test_win_names_its_size_and_the_models() -> None:
    scores = [score(BEST, 0.03), score("fused", 0.78), score("aggregates-gbm", 0.75)]
    text = findings.find(scores).text
    assert "+0.030 ROC-AUC (+0.010 to +0.050)" in text
    assert "0.780 with vectors (fused) and 0.750 without (aggregates-gbm)" in text


def test_tie_names_the_gain_and_loss_that_it_may_hide() -> None:
    text = findings.find([score(BEST, -0.01)]).text
    assert "cannot be told from zero: \N{MINUS SIGN}0.010" in text
    assert "With 801 labels a gain above 0.010 or a loss beyond 0.030 is unlikely" in text


def test_a_task_is_judged_by_its_first_metric() -> None:
    scores = [score(BEST, 0.03, metric="accuracy"), score(BEST, -0.03)]
    assert findings.find(scores).verdict == "loss"


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({"a": 0.03}, "They improve the one task"),
        ({"a": 0.0}, "it is a tie"),
        ({"a": -0.03}, "they do worse"),
        ({"a": 0.03, "b": 0.0}, "improve 1 of 2 tasks (a). It is a tie in 1 of 2 tasks (b)."),
        ({"a": 0.0, "b": 0.0}, "Nothing measurable on these tasks. It is a tie in 2 of 2"),
        ({"a": 0.03, "b": -0.03}, "They do worse in 1 of 2 tasks (b)."),
    ],
)
def test_answer_counts_the_tasks(means: dict[str, float], expected: str) -> None:
    by_task = {task: findings.find([score(BEST, mean)]) for task, mean in means.items()}
    assert expected in findings.answer(by_task)


@pytest.mark.parametrize(
    ("mean", "effect"), [(0.03, "helps"), (0.0, "makes no difference"), (-0.03, "hurts")]
)
def test_pretraining_is_judged_by_its_paired_difference(mean: float, effect: str) -> None:
    scores = [score("fine-tuned", 0.7), score("from-scratch", 0.6), score(PRETRAINED, mean)]
    assert f"pretraining {effect}" in str(findings.pretraining_finding(scores))


def test_pretraining_has_no_verdict_without_pairs_and_no_sentence_without_scores() -> None:
    scores = [score("fine-tuned", 0.9), score("from-scratch", 0.5)]
    assert "there is no verdict" in str(findings.pretraining_finding(scores))
    assert findings.pretraining_finding(scores[:1]) is None


@pytest.mark.parametrize(
    ("mean", "expected"),
    [(0.4, "better than habit"), (0.1, "worse than habit"), (0.25, "about as good as habit")],
)
def test_next_values_are_compared_with_habit(mean: float, expected: str) -> None:
    metric = "map_at_10"
    habit = [score("own-popularity", 0.25, metric=metric), score("popularity", 0.17, metric=metric)]
    text = str(findings.habit_finding([*habit, score("fused", mean, metric=metric)]))
    assert "most frequent values) reaches 0.250" in text
    assert "of all users 0.170" in text
    assert expected in text
    assert findings.habit_finding([score("popularity", 0.5)]) is None


@pytest.mark.parametrize(("seeds", "times"), [(1, "once"), (2, "2 times")])
def test_few_seeds_give_a_caution(seeds: int, times: str) -> None:
    (caution,) = findings.cautions([], {}, seeds)
    assert f"pretrained {times}" in caution
    assert findings.cautions([], {}, 3) == []


def test_few_users_on_the_rarer_side_give_a_caution() -> None:
    scores = [score("fused", 0.7)]
    for positives in (40, 801 - 40):
        (caution,) = findings.cautions(scores, {"kids": positives}, 3)
        assert "only 40 labels with the rarer answer" in caution
    assert findings.cautions(scores, {"kids": 400}, 3) == []
    assert findings.cautions(scores, {"kids": None}, 3) == []


def test_the_note_on_intervals_names_the_number_of_seeds() -> None:
    assert "3 pretraining seeds" in findings.intervals_note(5, 3)
    assert "One pretraining seed was scored" in findings.intervals_note(5, 1)


def test_every_model_and_metric_has_a_description() -> None:
    for name in (*fits.CLASSICAL, *fits.OURS, *fits.NETWORKS):
        assert name in findings.GLOSSARY
    assert {findings.group_of(name) for name in fits.CLASSICAL} == {"classical"}
    assert {findings.group_of(name) for name in fits.OURS} == {"ours"}
    assert set(get_args(MetricName)) == set(findings.METRIC_LABELS) == set(findings.METRIC_NOTES)
    assert all(
        set(names) <= set(findings.METRIC_LABELS) for names in out_of_fold.METRICS_BY_KIND.values()
    )


def test_leads_are_compared_with_the_leads_of_all_labels() -> None:
    def value(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}

    row = {"share": 0.25, "tasks": 5, "lead": value(0.05), "with_all_labels": value(0.02)}
    (sentence,) = findings.lead_findings([{**row, "growth": value(0.03)}])
    assert sentence == (
        "With 1/4 of the labels, fused leads trees on features by +0.050 (+0.040 to +0.060) on "
        "average over 5 tasks; with all labels, by +0.020 (+0.010 to +0.030). The difference is "
        "+0.030 (+0.020 to +0.040): more with few labels."
    )
    (sentence,) = findings.lead_findings([{**row, "tasks": 1, "growth": value(0.005)}])
    assert "over 1 task;" in sentence
    assert sentence.endswith(": not different from zero.")
