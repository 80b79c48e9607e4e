"""Tests of a whole small reproduction: the files it writes, and how it resumes."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from userbert.errors import InputError
from userbert.experiments.reproduction.plan import Job, Plan, Trial, Variation, jobs
from userbert.experiments.reproduction.reproduce import (
    claim_folder,
    next_job,
    reproduce,
    write_results,
)
from userbert.folders import read_json, write_json

TINY = Plan(
    data="simulated",
    users=1_500,
    scale=33.0,
    batches=2,
    epochs=2,
    trials=(Trial(pretraining=1e-3, finetuning=1e-4, seeds=1),),
    resamples=20,
    models=("userbert", "wide-deep-mtl", "userbert-from-scratch"),
    references=("popularity", "oracle"),
)
PAPERS = Trial(pretraining=1e-4, finetuning=1e-4, seeds=1)


def test_a_model_without_pretraining_runs_once_for_trials_with_its_rate() -> None:
    trials = (Trial(pretraining=1e-3, finetuning=1e-4, seeds=2), PAPERS)
    plan = TINY.model_copy(update={"trials": trials})
    first_seed_names = [job.name for job in jobs(plan) if job.seed == 0]
    assert first_seed_names == [
        "popularity-0", "oracle-0",
        "userbert-0.001-0.0001-0", "wide-deep-mtl-0.001-0.0001-0", "userbert-from-scratch-0.0001-0",
        "userbert-0.0001-0.0001-0", "wide-deep-mtl-0.0001-0.0001-0",
    ]  # fmt: skip
    assert Job("userbert", 1, 1e-4, 1e-4) not in jobs(plan)


def test_a_model_runs_with_all_seeds_before_the_next_model() -> None:
    trials = (Trial(pretraining=1e-3, finetuning=1e-4, seeds=2),)
    plan_jobs = jobs(TINY.model_copy(update={"trials": trials}))
    assert [(job.model, job.seed) for job in plan_jobs[4:8]] == [
        ("userbert", 0), ("userbert", 1), ("wide-deep-mtl", 0), ("wide-deep-mtl", 1),
    ]  # fmt: skip


def test_a_variation_changes_one_thing_at_the_first_trials_rates() -> None:
    variations = (
        Variation(models=("userbert", "oracle"), seeds=1, label_share=0.5),
        Variation(models=("userbert",), seeds=1, batches=7),
    )
    trials = (*TINY.trials, PAPERS)
    *_, fewer_labels, reference, longer = jobs(
        TINY.model_copy(update={"trials": trials, "variations": variations})
    )
    assert fewer_labels.name == "userbert-0.001-0.0001-0-0.5-labels"
    assert fewer_labels.weights == Job("userbert", 0, 1e-3, 1e-4).weights  # made once
    assert reference.name == "oracle-0-0.5-labels"
    assert longer.name == longer.weights == "userbert-0.001-0.0001-0-7-batches"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "either batches or label_share"),
        ({"batches": 3, "label_share": 0.5}, "either batches or label_share"),
        ({"batches": 2}, "the plan already has 2 batches"),
        ({"batches": 3, "models": ("userbert-from-scratch",)}, "scratch is not pretrained"),
        ({"batches": 3, "models": ("oracle",)}, "oracle is not pretrained"),
    ],
)
def test_a_variation_of_nothing_or_of_two_things_is_refused(
    changed: dict[str, Any], message: str
) -> None:
    variation = {"models": ("userbert",), "seeds": 1, **changed}
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate({**TINY.model_dump(), "variations": (variation,)})


def test_no_two_processes_train_the_same_weights() -> None:
    usual, half, other = (
        Job("userbert", 0, 1e-3, 1e-4),
        Job("userbert", 0, 1e-3, 1e-4, label_share=0.5),
        Job("userbert", 1, 1e-3, 1e-4),
    )
    assert next_job([usual, half, other], []) == usual
    assert next_job([half, other], [usual]) == other
    assert next_job([half], [usual]) is None


def test_a_plan_of_another_version_is_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path, TINY)
    path = tmp_path / "simulated" / "plan.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "trials"})
    with pytest.raises(InputError, match=r"simulated/plan\.json was written by another version"):
        write_results(tmp_path, [])


def test_a_folder_of_another_plan_or_version_is_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path, TINY)
    claim_folder(tmp_path, TINY)
    with pytest.raises(InputError, match="batches: 2 in the folder, 3 requested"):
        claim_folder(tmp_path, TINY.model_copy(update={"batches": 3}))
    path = tmp_path / "simulated" / "plan.json"
    write_json(path, {**read_json(path), "version": "0.0.9"})
    with pytest.raises(InputError, match=r"version: 0\.0\.9 in the folder"):
        claim_folder(tmp_path, TINY)


def test_a_damaged_result_is_named_with_a_remedy(tmp_path: Path) -> None:
    claim_folder(tmp_path, TINY)
    path = tmp_path / "simulated" / "parts" / "userbert-0.001-0.0001-0.json"
    path.parent.mkdir()
    path.write_text('{"made": ')
    with pytest.raises(
        InputError, match=r"Remove userbert-0\.001-0\.0001-0\.json and run the job again"
    ):
        write_results(tmp_path, [])
    path.unlink()
    with pytest.raises(InputError, match="has no finished job"):
        write_results(tmp_path, [])


@pytest.mark.slow
def test_results_are_written_and_finished_jobs_do_not_run_again(tmp_path: Path) -> None:
    page = reproduce(tmp_path, [TINY], ["userbert", "reproduce"])
    results = read_json(tmp_path / "results.json")
    assert results["made"]["parts"] == "5 of 5"
    rows = {
        (row["experiment"], row["task"], row["model"], row["epoch"], row["metric"]): row
        for row in results["rows"]
    }
    # One in seventy users responds to golf booking, so the test users have too few.
    assert rows["figure_3", "golf_booking", "userbert", None, "roc_auc"]["note"].startswith(
        "too few"
    )
    last = rows["figure_6", "parent", "userbert", 2, "roc_auc"]
    assert last["low"] <= last["mean"] <= last["high"]
    assert rows["table_2", "next_genre", "popularity", None, "map_at_10"]["paper"] == 0.0422
    name = "userbert − wide-deep-mtl"  # noqa: RUF001 - the design's name
    difference = rows["figure_6", "parent", name, 2, "roc_auc"]["mean"]
    other = rows["figure_6", "parent", "wide-deep-mtl", 2, "roc_auc"]["mean"]
    assert difference == pytest.approx(last["mean"] - other)
    assert "UserBERT" in page.read_text(encoding="utf-8")

    folder = tmp_path / "simulated" / "parts"
    assert len(list(folder.iterdir())) == 5
    removed = folder / "userbert-0.001-0.0001-0.json"
    before = read_json(removed)
    removed.unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (tmp_path / "simulated" / "plan.json").unlink()
    labels = Variation(models=("userbert",), seeds=1, label_share=0.5)
    more = TINY.model_copy(update={"variations": (labels,)})
    reproduce(tmp_path, [more], ["userbert", "reproduce"])
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    # The weights were kept, so the model is the same, and fine-tuning is deterministic.
    assert read_json(removed)["tasks"] == before["tasks"]
    varied = read_json(tmp_path / "simulated/variations/userbert-0.001-0.0001-0-0.5-labels.json")
    assert varied["pretraining"] == before["pretraining"]
    for half, usual in zip(varied["tasks"], before["tasks"], strict=True):
        assert half["learning"] == round(usual["learning"] / 2)
        assert half["test"] == usual["test"]
    rows = read_json(tmp_path / "results.json")["rows"]
    shares = [row["value"] for row in rows if row["experiment"] == "label_share"]
    assert set(shares) == {0.5, 1.0}
