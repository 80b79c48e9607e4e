"""Tests of the judgement of claims by paired intervals."""

from collections.abc import Sequence

import pytest
from handmade_rows import MTL, minus, row, whole_study

from userbert.experiments.reproduction.claims import CLAIMS, Claim, Judgement, judge
from userbert.experiments.reproduction.rows import METRIC_LABELS, MODELS, Row


def claim(words: str) -> Claim:
    return next(claim for claim in CLAIMS if words in claim.words)


def judged(words: str, rows: Sequence[Row]) -> Judgement:
    judgement = judge(claim(words), rows)
    assert judgement is not None
    return judgement


def targeting(**ends: tuple[float, float]) -> list[Row]:
    """Returns UserBERT's differences from the multi-task models, by `ends` or clearly ahead."""
    return [
        minus(
            "figure_3", "golf_booking", "userbert", model, "roc_auc",
            *ends.get(model.split("-")[0], (0.01, 0.03)),
        )
        for model in MTL
    ]  # fmt: skip


def test_rows_like_the_papers_agree_with_all_its_claims() -> None:
    assert {judged(claim.words, whole_study()).verdict for claim in CLAIMS} == {"agrees"}


def test_claims_name_models_and_metrics_with_labels() -> None:
    for claim in CLAIMS:
        assert claim.metric in METRIC_LABELS
        assert {model for pair in claim.pairs for model in pair} <= set(MODELS)


@pytest.mark.parametrize(
    ("lstm", "verdict"),
    [((0.01, 0.02), "agrees"), ((-0.01, 0.02), "can't tell"), ((-0.03, -0.01), "does not agree")],
)
def test_ahead_of_all_needs_every_interval_above_zero(
    lstm: tuple[float, float], verdict: str
) -> None:
    judgement = judged("three multi-task models on user targeting", targeting(lstm=lstm))
    assert judgement.verdict == verdict
    if verdict != "agrees":
        assert "2 of 3 comparisons agree; not: UserBERT against LSTM + MTL" in judgement.evidence


def test_a_pair_that_was_not_compared_leaves_the_claim_open() -> None:
    judgement = judged("three multi-task models on user targeting", targeting()[:2])
    assert judgement.verdict == "can't tell"
    assert "Transformer + MTL on golf booking not compared" in judgement.evidence


def test_a_task_that_is_too_small_leaves_the_claim_open() -> None:
    *rows, last = targeting()
    missing = {"mean": None, "low": None, "high": None, "note": "9 positives"}
    judgement = judged("three multi-task models on user targeting", [*rows, {**last, **missing}])
    assert judgement.verdict == "can't tell"
    assert "9 positives" in judgement.evidence


def test_an_experiment_that_did_not_run_is_not_judged() -> None:
    assert judge(claim("next genre"), targeting()) is None


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [((-0.01, 0.01), "agrees"), ((-0.05, 0.05), "can't tell"), ((0.03, 0.05), "does not agree")],
)
def test_similar_needs_narrow_intervals_not_just_zero_inside(
    ends: tuple[float, float], verdict: str
) -> None:
    rows = [minus("figure_6", "car_owner", "userbert", model, "roc_auc", *ends) for model in MTL]
    assert judged("Has a car", rows).verdict == verdict


def test_a_claim_of_one_task_leaves_the_others_out() -> None:
    rows = [minus("figure_6", "parent", "userbert", model, "roc_auc", 0.01, 0.02) for model in MTL]
    assert judge(claim("Has a car"), rows) is None
    assert judged("Is a parent", rows).verdict == "agrees"


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((0.010, 0.020), "agrees"),
        ((0.001, 0.010), "does not agree"),
        ((-0.010, 0.030), "can't tell"),
    ],
)
def test_the_margin_is_relative_to_the_best_of_the_others(
    ends: tuple[float, float], verdict: str
) -> None:
    rows = [
        row("table_2", "next_genre", "lstm-mtl", "map_at_10", mean=0.1),
        row("table_2", "next_genre", "wide-deep-mtl", "map_at_10", mean=0.05),
        minus("table_2", "next_genre", "userbert", "lstm-mtl", "map_at_10", *ends),
        minus("table_2", "next_genre", "userbert", "wide-deep-mtl", "map_at_10", 0.9, 0.9),
    ]
    judgement = judged("by 17 % over the second best", rows)
    assert judgement.verdict == verdict
    assert "over LSTM + MTL" in judgement.evidence


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [((-0.2, -0.1), "agrees"), ((-0.1, 0.1), "can't tell"), ((0.1, 0.2), "does not agree")],
)
def test_overfitting_is_a_test_loss_that_rises_more_than_with_pretraining(
    ends: tuple[float, float], verdict: str
) -> None:
    pair = ("userbert", "userbert-from-scratch")
    rows = [minus("figure_5", "golf_booking", *pair, "test_loss_rise", *ends)]
    assert judged("overfit", rows).verdict == verdict


def test_no_claim_is_judged_by_a_pair_of_one_seed() -> None:
    rows = targeting()
    assert judged("three multi-task models on user targeting", rows).verdict == "agrees"
    doubtful = judged(
        "three multi-task models on user targeting", [{**rows[0], "seeds": 1}, *rows[1:]]
    )
    assert doubtful.verdict == "can't tell"
    assert doubtful.evidence == "a single seed"
    # A pair that the claim does not compare may have one seed.
    unrelated = minus("figure_3", "golf_booking", "userbert", "coles", "roc_auc", 0.01, 0.03)
    judgement = judged(
        "three multi-task models on user targeting", [*rows, {**unrelated, "seeds": 1}]
    )
    assert judgement.verdict == "agrees"
