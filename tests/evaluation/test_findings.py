"""What the report claims, and what it does not."""

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


def test_nothing_has_no_sign() -> None:
    assert findings.number(-0.0) == findings.number(-0.0004) == "0.000"
    assert findings.number(-0.001) == "−0.001"  # noqa: RUF001 - a minus sign


def test_a_difference_that_is_not_a_number_claims_nothing() -> None:
    assert findings.find([score(BEST, float("nan"))]).verdict == "open"


def test_without_a_paired_difference_nothing_is_claimed() -> None:
    found = findings.find([score("fused", 0.9), score("aggregates-gbm", 0.5)])
    assert found.verdict == "open"
    assert findings.answer({"kids": found}).endswith("no answer yet.")


def test_win_names_its_size_and_the_models() -> None:
    found = findings.find([score(BEST, 0.03), score("fused", 0.78), score("aggregates-gbm", 0.75)])
    assert "+0.030 ROC-AUC (+0.010 to +0.050)" in found.text
    assert "0.780 with the vectors (fused), 0.750 without (aggregates-gbm)" in found.text


def test_tie_says_what_it_could_not_have_seen() -> None:
    text = findings.find([score(BEST, -0.01)]).text
    assert "is within the interval" in text
    assert "With 801 labels a gain above 0.010 or a loss beyond 0.030 is unlikely" in text


def test_the_first_metric_speaks_for_a_task() -> None:
    scores = [score(BEST, 0.03, metric="accuracy"), score(BEST, -0.03)]
    assert findings.find(scores).verdict == "loss"


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ({"a": 0.03}, "They add something that can be measured on the one task"),
        ({"a": 0.0}, "it is a tie"),
        ({"a": -0.03}, "they fall short"),
        ({"a": 0.03, "b": 0.0}, "measurable in 1 of 2 tasks (a). It is a tie in 1 of 2 tasks (b)."),
        ({"a": 0.0, "b": 0.0}, "they add nothing that can be measured. It is a tie in 2 of 2"),
        ({"a": 0.03, "b": -0.03}, "They fall short in 1 of 2 tasks (b)."),
    ],
)
def test_answer_counts_the_tasks(means: dict[str, float], said: str) -> None:
    found = {task: findings.find([score(BEST, mean)]) for task, mean in means.items()}
    assert said in findings.answer(found)


@pytest.mark.parametrize(
    ("mean", "said"), [(0.03, "helps"), (0.0, "makes no difference"), (-0.03, "hurts")]
)
def test_pretraining_is_judged_by_its_paired_difference(mean: float, said: str) -> None:
    scores = [score("fine-tuned", 0.7), score("from-scratch", 0.6), score(PRETRAINED, mean)]
    assert f"pretraining {said}" in str(findings.pretraining_finding(scores))


def test_no_winner_without_pairs_and_no_word_of_what_was_not_tried() -> None:
    scores = [score("fine-tuned", 0.9), score("from-scratch", 0.5)]
    assert "no winner is named" in str(findings.pretraining_finding(scores))
    assert findings.pretraining_finding(scores[:1]) is None


@pytest.mark.parametrize(
    ("mean", "said"),
    [(0.4, "the vectors go beyond it"), (0.1, "do not get there"), (0.25, "about the same")],
)
def test_next_values_are_measured_by_habit(mean: float, said: str) -> None:
    metric = "map_at_10"
    habit = [score("own-popularity", 0.25, metric=metric), score("popularity", 0.17, metric=metric)]
    text = str(findings.habit_finding([*habit, score("fused", mean, metric=metric)]))
    assert "so far reaches 0.250, what all users choose most 0.170" in text
    assert said in text
    assert findings.habit_finding([score("popularity", 0.5)]) is None


@pytest.mark.parametrize(("seeds", "times"), [(1, "once"), (2, "2 times")])
def test_few_seeds_are_cautioned_against(seeds: int, times: str) -> None:
    (caution,) = findings.cautions([], {}, seeds)
    assert f"pretrained {times}" in caution
    assert findings.cautions([], {}, 3) == []


def test_few_users_on_the_rarer_side_are_cautioned_against() -> None:
    scores = [score("fused", 0.7)]
    for positives in (40, 801 - 40):
        (caution,) = findings.cautions(scores, {"kids": positives}, 3)
        assert "only 40 users on one side" in caution
    assert findings.cautions(scores, {"kids": 400}, 3) == []
    assert findings.cautions(scores, {"kids": None}, 3) == []


def test_intervals_say_whether_seeds_are_in_them() -> None:
    assert "3 pretraining seeds" in findings.intervals_note(5, 3)
    assert "One pretraining seed was scored" in findings.intervals_note(5, 1)


def test_every_model_and_metric_has_its_words() -> None:
    for name in (*fits.CLASSICAL, *fits.OURS, *fits.NETWORKS):
        assert name in findings.GLOSSARY
    assert {findings.group_of(name) for name in fits.CLASSICAL} == {"classical"}
    assert {findings.group_of(name) for name in fits.OURS} == {"ours"}
    assert set(get_args(MetricName)) == set(findings.METRICS) == set(findings.METRIC_NOTES)
    assert all(set(names) <= set(findings.METRICS) for names in out_of_fold.METRICS.values())


def test_leads_are_said_with_what_they_are_with_all_labels() -> None:
    def value(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}

    row = {"share": 0.25, "tasks": 5, "lead": value(0.05), "with_all_labels": value(0.02)}
    (said,) = findings.lead_findings([{**row, "growth": value(0.03)}])
    assert said == (
        "With 1/4 of the labels fused leads trees on features by +0.050 (+0.040 to +0.060) on "
        "average over 5 tasks, with all labels by +0.020 (+0.010 to +0.030): +0.030 (+0.020 to "
        "+0.040), more."
    )
    (said,) = findings.lead_findings([{**row, "tasks": 1, "growth": value(0.005)}])
    assert "over 1 task," in said
    assert said.endswith("which cannot be told from zero.")
