"""Tests of rows of results, against values computed by hand from job results."""

from typing import Any

import numpy as np
import pytest

from userbert.experiments.reproduction.collect import rows_of, varied_rows
from userbert.experiments.reproduction.jobs import RISE
from userbert.experiments.reproduction.plan import Plan, Trial

MINUS = " − "  # noqa: RUF001 - the design's name


def job_result(
    model: str, seed: int, aucs: list[float], draws: list[float], **rates: Any
) -> dict[str, Any]:
    """Returns the results of a job on one task, with the given resamples."""
    epochs = [
        {"train_loss": 0.5, "test_loss": 0.6 + number / 10, "roc_auc": auc}
        for number, auc in enumerate(aucs)
    ]
    epochs[-1][RISE] = 0.1
    texts = " ".join(str(round(draw * 1e5)) for draw in draws)
    resampled = {"roc_auc": texts, "test_loss": texts, RISE: texts}
    task = {
        "task": "parent",
        "learning": 8,
        "test": 2,
        "note": None,
        "epochs": epochs,
        "resampled": resampled,
    }
    return {
        "model": model,
        "seed": seed,
        "rates": {"pretraining": 1e-3, "finetuning": 1e-4, **rates},
        "pretraining": {},
        "tasks": [task],
    }


def only(rows: list[dict[str, Any]], **required: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in required.items())]
    return row


def test_a_curve_is_the_mean_over_seeds_and_its_end_has_an_interval() -> None:
    rows = rows_of(
        "simulated",
        [job_result("userbert", seed, [0.5, 0.6 + seed / 10], [0.6] * 20) for seed in (0, 1)],
    )
    first, last = (only(rows, epoch=epoch, metric="roc_auc") for epoch in (1, 2))
    assert (first["mean"], first["low"], last["mean"], last["seeds"]) == (
        0.5,
        None,
        pytest.approx(0.65),
        2,
    )
    assert (last["low"], last["high"]) == (pytest.approx(0.6), pytest.approx(0.6))


def test_an_interval_covers_other_users_and_is_wider_if_seeds_differ_more() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 500))
    for distance, deviation in ((0.0, 0.01), (0.1, 0.1)):
        job_results = [
            job_result("userbert", seed, [0.5], list(0.5 + distance * (seed - 1) + noise[seed]))
            for seed in range(3)
        ]
        row = only(rows_of("simulated", job_results), metric="roc_auc")
        expected = 0.5 + 1.96 * deviation / np.sqrt(3) * np.array([-1, 1])
        assert [row["low"], row["high"]] == pytest.approx(expected, abs=0.1 * deviation)


def test_a_table_compares_models_on_the_same_test_users() -> None:
    job_results = [
        job_result("userbert", 0, [0.6], [0.6] * 5),
        *(
            job_result("userbert-from-scratch", s, [0.5 + s / 10], [0.5] * 5, pretraining=None)
            for s in (0, 1)
        ),
        job_result("userbert", 1, [0.9], [0.9] * 5),
        job_result("userbert", 0, [0.55], [0.55] * 5, pretraining=1e-4),
    ]
    slow = only(
        rows_of("simulated", job_results),
        model="userbert-from-scratch",
        learning_rate=1e-4,
        metric="roc_auc",
    )
    assert (slow["mean"], slow["seeds"]) == (0.5, 1)


def test_the_oracle_of_attributes_knows_the_profile_alone() -> None:
    oracle = job_result("oracle", 0, [0.7], [0.7], pretraining=None, finetuning=None)
    rows = rows_of("simulated", [oracle, job_result("userbert", 0, [0.6], [0.6])])
    assert {row["model"] for row in rows if MINUS not in row["model"]} == {
        "profile-oracle",
        "userbert",
    }


PLAN = Plan(
    data="simulated",
    batches=100,
    trials=(Trial(pretraining=1e-3, finetuning=1e-4, seeds=2),),
)


def varied(result: dict[str, Any], batches: int | None, label_share: float) -> dict[str, Any]:
    return {**result, "batches": batches, "label_share": label_share}


def test_varied_values_are_compared_with_the_usual_value_over_shared_seeds() -> None:
    usual = [job_result("userbert", seed, [0.5, 0.6 + seed / 10], [0.6] * 5) for seed in (0, 1)]
    slow = job_result("userbert", 0, [0.5, 0.9], [0.9] * 5, pretraining=1e-4)
    half = varied(job_result("userbert", 0, [0.5, 0.55], [0.55] * 5), None, 0.5)
    for result in (usual[0], half):
        result["pretraining"] = {"validation": {"loss": 50.0}}
    of_another_trial = varied(
        job_result("userbert", 1, [0.5, 0.1], [0.1] * 5, pretraining=1.0), None, 0.5
    )
    rows = varied_rows(PLAN, [*usual, slow], [half, of_another_trial])
    assert [(row["model"], row["value"], row["seeds"]) for row in rows] == [
        ("userbert", 0.5, 1),
        (f"userbert{MINUS}userbert", 0.5, 1),
        ("userbert", 1.0, 1),
    ]
    assert [row["mean"] for row in rows] == pytest.approx([0.55, -0.05, 0.6])
    assert (rows[1]["low"], rows[1]["high"]) == (pytest.approx(-0.05), pytest.approx(-0.05))
    assert {row["experiment"] for row in rows} == {"label_share"}
    assert {row["learning_rate"] for row in rows} == {1e-3}


def test_models_with_the_same_variation_are_compared() -> None:
    halves = [
        varied(job_result(model, 0, [area], [area] * 5), None, 0.5)
        for model, area in (("userbert", 0.6), ("wide-deep-mtl", 0.5))
    ]
    row = only(varied_rows(PLAN, [], halves), model=f"userbert{MINUS}wide-deep-mtl")
    assert (row["value"], row["mean"], row["low"]) == (0.5, pytest.approx(0.1), pytest.approx(0.1))


def test_zero_batches_of_pretraining_is_the_model_from_scratch() -> None:
    usual = job_result("userbert", 0, [0.6], [0.6] * 5)
    usual["pretraining"] = {"validation": {"loss": 50.0}}
    scratch = job_result("userbert-from-scratch", 0, [0.5], [0.5] * 5, pretraining=None)
    longer = varied(job_result("userbert", 0, [0.7], [0.7] * 5), 400, 1.0)
    longer["pretraining"] = {"validation": {"loss": 40.0}}
    unpaired = {
        **job_result("userbert", 1, [0.1], [0.1] * 5),
        "pretraining": {"validation": {"loss": 9.0}},
    }
    rows = varied_rows(PLAN, [usual, scratch, unpaired], [longer])
    scores = [row for row in rows if row["metric"] == "roc_auc" and MINUS not in row["model"]]
    areas = {row["value"]: row["mean"] for row in scores}
    losses = {row["value"]: row["mean"] for row in rows if row["metric"] == "held_out_loss"}
    assert areas == {0: 0.5, 100: 0.6, 400: 0.7}
    assert losses == {100: 50.0, 400: 40.0}
    assert {row["model"] for row in rows} == {"userbert", f"userbert{MINUS}userbert"}


def test_differences_are_paired_by_seed_and_resample() -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 200))
    ours = [
        job_result("userbert", seed, [0.6 + seed / 10], list(0.6 + seed / 10 + noise[seed]))
        for seed in (0, 1)
    ]
    other = [
        job_result("coles", seed, [0.59 + seed / 10], list(0.59 + seed / 10 + noise[seed]))
        for seed in (0, 1)
    ]
    row = only(rows_of("simulated", ours + other), model=f"userbert{MINUS}coles", metric="roc_auc")
    assert [row["mean"], row["low"], row["high"]] == pytest.approx([0.01] * 3, abs=2e-5)
    # A difference uses only the seeds that both models have.
    row = only(
        rows_of("simulated", [*ours, other[0]]), model=f"userbert{MINUS}coles", metric="roc_auc"
    )
    assert (row["seeds"], row["mean"]) == (1, pytest.approx(0.01))


def test_a_model_without_pretraining_belongs_to_each_trial_with_its_rate() -> None:
    job_results = [
        job_result("userbert", 0, [0.7], [0.7] * 5),
        job_result("userbert", 0, [0.6], [0.6] * 5, pretraining=1e-4),
        job_result("userbert-from-scratch", 0, [0.5], [0.5] * 5, pretraining=None),
        job_result("lstm-mtl", 0, [0.5], [0.5] * 5, pretraining=1e-4, finetuning=1e-3),
    ]
    rows = rows_of("simulated", job_results)
    name = f"userbert{MINUS}userbert-from-scratch"
    fast, slow = (
        only(rows, model=name, learning_rate=rate, finetuning_rate=1e-4) for rate in (1e-3, 1e-4)
    )
    assert (fast["mean"], slow["mean"]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert only(rows, model="lstm-mtl")["finetuning_rate"] == 1e-3


def test_a_task_too_small_has_a_note_and_no_figure() -> None:
    small = job_result("userbert", 0, [0.5], [0.5])
    small["tasks"] = [{"task": "parent", "learning": 8, "test": 2, "note": "too few"}]
    row = only(rows_of("simulated", [small]))
    assert (row["mean"], row["low"], row["note"]) == (None, None, "too few")


def test_table_2_has_the_papers_figures_next_to_ours() -> None:
    job_results = [
        job_result("popularity", 0, [0.5], [0.5], pretraining=None, finetuning=None),
        job_result("userbert", 0, [0.5], [0.5]),
    ]
    for result in job_results:
        task = result["tasks"][0]
        task["task"] = "next_genre"
        task["epochs"] = [{"map_at_10": 0.05}]
        task["resampled"] = {"map_at_10": "5000 5000"}
    rows = rows_of("simulated", job_results)
    assert [only(rows, model=name)["paper"] for name in ("userbert", "popularity")] == [
        0.0897,
        0.0422,
    ]
