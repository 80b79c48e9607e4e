"""The comparison: all models share the folds, and the best is chosen in the training part."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from handmade import make_taste_data, taste_labels, tiny_model
from userbert.data.store import PreparedData
from userbert.errors import InputError, LabelError, ModelError
from userbert.evaluation.evaluate import (
    PRETRAINING,
    EvaluateConfig,
    Report,
    _late_vocabularies,
    _materials,
    _plan,
    evaluate,
    sample_labels,
)
from userbert.evaluation.fits import Fit, Workshop
from userbert.evaluation.out_of_fold import BEST, OutOfFold, _blended, best_of, collect
from userbert.tasks.finetune import FinetuneConfig
from userbert.tasks.labels import Labels

QUICK = EvaluateConfig(
    folds=3,
    resamples=50,
    finetune=FinetuneConfig(learning_rate=1e-2, batch_size=16, epochs=2),
    draws=3,
    least_a_class=4,
    workers=1,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return make_taste_data(tmp_path_factory.mktemp("tastes") / "data")


CLASSICAL = {"popularity", "aggregates-linear", "aggregates-gbm"}
COMMON = CLASSICAL | {
    "frozen-linear", "frozen-gbm", "fused", "fine-tuned", "from-scratch", BEST, PRETRAINING
}  # fmt: skip
KIDS_MODELS = COMMON | {"fused-linear", "aggregates-both"}
NEXT_MODELS = COMMON | {"own-popularity", "fused-linear", "fused-gbm"}


@pytest.fixture(scope="module")
def report(data: PreparedData) -> Report:
    """The report of two models on a binary task and a next-value task."""
    models = [tiny_model(data, seed) for seed in (0, 1)]
    tasks = [taste_labels(data), taste_labels(data, "multilabel")]
    return evaluate(models, data, tasks, config=QUICK, command=["userbert", "evaluate"])


def test_report_has_one_row_for_each_model_and_metric(report: Report) -> None:
    keys = [(row["task"], row["metric"], row["model"]) for row in report.rows]
    binary = {
        ("kids", m, model) for m in ("roc_auc", "pr_auc", "accuracy") for model in KIDS_MODELS
    }
    assert set(keys) == binary | {("next_genre", "map_at_10", model) for model in NEXT_MODELS}
    assert len(set(keys)) == len(keys)


def test_rows_say_what_they_were_measured_on(report: Report) -> None:
    for row in report.rows:
        assert (row["data"], row["labels"], row["splits"]) == ("data", 60, 3)
        assert row["low"] <= row["mean"] <= row["high"]


def test_models_that_know_more_score_higher(report: Report) -> None:
    means = {(row["model"], row["metric"]): row["mean"] for row in report.rows}
    assert means["popularity", "roc_auc"] == 0.5
    assert means["aggregates-linear", "roc_auc"] > 0.9
    assert means["own-popularity", "map_at_10"] > means["popularity", "map_at_10"]


def test_learning_curves_have_a_point_for_each_number_of_labels(report: Report) -> None:
    sizes = {(row["task"], row["labels"]) for row in report.learning_curves}
    assert sizes == {("kids", 10), ("kids", 40), ("next_genre", 40)}


def test_report_records_its_seeds_and_command(report: Report) -> None:
    assert report.made["seeds"] == [0, 1]
    assert report.made["command"] == "userbert evaluate"


def test_fewer_than_three_seeds_and_target_leakage_are_warned_of(report: Report) -> None:
    assert "2 pretraining seed(s)" in report.warnings[0]
    assert "'long_term genre=apple, 30d' alone predicts the answer" in report.giveaways[0]


def test_saved_report_has_every_field(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["rows"] == report.rows
    assert set(written) == {
        "made", "rows", "learning_curves", "leads", "calibration", "warnings", "giveaways"
    }  # fmt: skip


def test_models_of_binary_tasks_are_calibrated(report: Report) -> None:
    calibrated = {row["model"]: row for row in report.calibration}
    assert set(calibrated) == KIDS_MODELS - {BEST, PRETRAINING}
    assert {row["task"] for row in report.calibration} == {"kids"}
    assert sum(group["users"] for group in calibrated["fused"]["bins"]) == 60


def test_too_many_labels_are_sampled_down(data: PreparedData) -> None:
    labels = taste_labels(data)
    assert sample_labels(labels) is labels
    sample = sample_labels(labels, EvaluateConfig(max_labels=40))
    pairs = set(zip(labels.user_ids, labels.targets.tolist(), strict=True))
    assert len(sample) == 40
    assert set(zip(sample.user_ids, sample.targets.tolist(), strict=True)) < pairs
    report = evaluate(
        tiny_model(data), data, labels, config=QUICK.model_copy(update={"max_labels": 40})
    )
    assert {row["labels"] for row in report.rows} == {40}
    assert report.warnings[0] == "kids: 40 of 60 labels were drawn at random."


def test_with_timing_trees_on_counts_and_timing_are_fitted(data: PreparedData) -> None:
    model, quick = tiny_model(data, timing=True), QUICK.model_copy(update={"draws": 0})
    report = evaluate(model, data, taste_labels(data), config=quick)
    assert {"fused-gbm", "aggregates-gbm", "fused"} <= {row["model"] for row in report.rows}


def test_multiclass_tasks_without_an_attribute_are_ranked(data: PreparedData) -> None:
    labels = taste_labels(data, "multiclass")
    report = evaluate(tiny_model(data), data, labels, config=QUICK.model_copy(update={"draws": 0}))
    means = {row["model"]: row["mean"] for row in report.rows if row["metric"] == "map_at_10"}
    assert "aggregates-gbm" not in means
    assert means["aggregates-linear"] > 0.9


def test_models_of_another_recipe_are_reported_and_change_nothing(data: PreparedData) -> None:
    tasks = [taste_labels(data), taste_labels(data, "multilabel")]
    config = QUICK.model_copy(update={"draws": 0})
    models, others = [tiny_model(data)], [tiny_model(data, seed) for seed in (1, 2)]
    alone = evaluate(models, data, tasks, config=config)
    both = evaluate(models, data, tasks, config=config, beside={"other": others})
    swapped = evaluate(others, data, tasks, config=config, beside={"first": models})
    added = [row for row in both.rows if row not in alone.rows]
    assert [row for row in both.rows if row not in added] == alone.rows
    names = {(row["task"], row["model"]) for row in added}
    assert names == {
        ("kids", "other: frozen-linear"),
        ("kids", "other: fused-linear"),
        ("next_genre", "other: frozen-linear"),
        ("next_genre", "other: fused-linear"),
    }
    means = {(row["task"], row["model"], row["metric"]): row["mean"] for row in both.rows}
    for row in swapped.rows:
        if row["model"] == "frozen-linear":
            assert means[row["task"], "other: frozen-linear", row["metric"]] == row["mean"]
        if row["model"] == "first: frozen-linear":
            assert means[row["task"], "frozen-linear", row["metric"]] == row["mean"]
    with pytest.raises(ModelError, match="expected models with the same hidden profile fields"):
        evaluate(
            models,
            data,
            tasks,
            config=config,
            beside={"b": [tiny_model(data, hide=("kids", "age"))]},
        )


@pytest.mark.slow
def test_processes_change_no_number(data: PreparedData) -> None:
    config = QUICK.model_copy(update={"draws": 0})
    alone, pool = (
        evaluate(
            tiny_model(data),
            data,
            taste_labels(data),
            config=config.model_copy(update={"workers": workers}),
        )
        for workers in (1, 2)
    )
    assert alone.rows == pool.rows


def make_workshop(data: PreparedData, labels: Labels) -> Workshop:
    materials, _ = _materials([[tiny_model(data)]], data, [labels], QUICK)
    return Workshop(data.path, (), materials, QUICK.finetune, 0)


def test_labels_of_the_test_part_change_no_score(data: PreparedData) -> None:
    labels = taste_labels(data)
    workshop = make_workshop(data, labels)
    (material,) = workshop.materials
    test = material.folds == 0
    targets = np.where(test, 1 - labels.targets, labels.targets)
    swapped = replace(material, labels=replace(labels, targets=targets))
    other = replace(workshop, materials=(swapped,))
    for model in ("aggregates-linear", "aggregates-gbm", "frozen-gbm", "fused"):
        fit = Fit(0, model, 0, 0, 0)
        np.testing.assert_array_equal(workshop.do(fit).scores, other.do(fit).scores)
        assert workshop.do(fit).validation == other.do(fit).validation


def test_smaller_draws_of_labels_are_subsets_of_larger_draws(data: PreparedData) -> None:
    workshop = make_workshop(data, taste_labels(data))
    small, large = (workshop.split(Fit(0, "fused", 0, 0, 1, size)) for size in (10, 20))
    full = workshop.split(Fit(0, "fused", 0, 0, 1))
    assert set(small.learning) < set(large.learning) < set(full.learning)
    assert len(small.learning) == 10
    assert workshop.materials[0].targets[small.learning].sum() == 5
    np.testing.assert_array_equal(small.test, full.test)


def test_for_next_values_validation_chooses_the_regression_or_the_mean_of_trees(
    data: PreparedData,
) -> None:
    labels = taste_labels(data, "multilabel")
    workshop = make_workshop(data, labels)
    parts = ("fused-linear", "aggregates-gbm", "fused-gbm")
    fits = [Fit(0, name, 0, 0, fold) for name in parts for fold in range(3)]
    results = collect(workshop, fits, 3, 1)
    regression, without, trees = (results[0, name, None] for name in parts)
    trees.validation[0] = regression.validation[0] + [0.1, 0, -0.1]
    fused = _blended(workshop, (0, "fused", None), [regression, without, trees])
    is_mean = (workshop.materials[0].folds == 0)[:, None]
    mean = (without.scores[0] + trees.scores[0]) / 2
    np.testing.assert_array_equal(fused.scores[0], np.where(is_mean, mean, regression.scores[0]))
    np.testing.assert_array_equal(fused.validation[0], regression.validation[0] + [0.1, 0, 0])


def test_the_best_is_chosen_by_validation_and_never_by_test(data: PreparedData) -> None:
    (material,) = make_workshop(data, taste_labels(data)).materials
    right = material.labels.targets.astype(float)
    lucky = OutOfFold("lucky on test", [right], np.array([[0.5, 0.5, 0.9]]), 1e4)
    steady = OutOfFold("best on validation", [1 - right, right * 0], np.array([[0.6] * 3] * 2), 1e4)
    best = best_of(material, [lucky, steady])
    assert len(best.scores) == 2
    for run in (0, 1):
        inside = material.folds < 2
        np.testing.assert_array_equal(best.scores[run][inside], steady.scores[run][inside])
        np.testing.assert_array_equal(best.scores[run][~inside], lucky.scores[0][~inside])


def test_of_tied_models_the_last_is_taken(data: PreparedData) -> None:
    (material,) = make_workshop(data, taste_labels(data)).materials
    first, last = (np.full(60, value) for value in (0.2, 0.7))
    for judges, expected in ((100, 0.7), (1000, 0.2)):  # errors of .04 and .013
        models = [
            OutOfFold("ahead by .03", [first], np.array([[0.83] * 3]), judges),
            OutOfFold("has more inputs", [last], np.array([[0.80] * 3]), judges),
        ]
        assert set(best_of(material, models).scores[0]) == {expected}


def test_networks_take_turns_unless_every_seed_is_requested(data: PreparedData) -> None:
    materials, _ = _materials([[tiny_model(data)]], data, [taste_labels(data)], QUICK)
    in_turn = [fit for fit in _plan(materials, 3, QUICK) if fit.model == "fine-tuned"]
    full = [fit for fit in in_turn if fit.size is None]
    assert sorted((fit.fold, fit.seed, fit.run) for fit in full) == [
        (0, 0, 0),
        (1, 1, 0),
        (2, 2, 0),
    ]
    config = QUICK.model_copy(update={"every_seed": True})
    every = [fit for fit in _plan(materials, 3, config) if fit.model == "fine-tuned"]
    assert len([fit for fit in every if fit.size is None]) == 9
    assert all(fit.run == fit.seed for fit in every if fit.size is None)


def test_unusable_models_and_labels_are_refused_with_advice(data: PreparedData) -> None:
    labels = taste_labels(data)
    model = tiny_model(data)
    with pytest.raises(LabelError, match="sees kids"):
        evaluate(tiny_model(data, hide=()), data, labels, config=QUICK)
    with pytest.raises(ModelError, match="not alike"):
        evaluate([model, tiny_model(data, hide=("kids", "age"))], data, labels, config=QUICK)
    few = np.r_[np.flatnonzero(labels.targets)[:5], np.flatnonzero(labels.targets == 0)]
    with pytest.raises(
        LabelError, match=r"5 labels on the rarer side of \d+ users are too few for 3 folds"
    ):
        evaluate(model, data, labels.take(few), config=QUICK)
    with pytest.raises(LabelError, match="is a quantity"):
        evaluate(model, data, taste_labels(data, "regression"), config=QUICK)
    with pytest.raises(LabelError, match="the same name"):
        evaluate(model, data, [labels, labels], config=QUICK)
    model.record["before"] += 1
    with pytest.raises(LabelError, match="60 of 60 labels have a cut-off before the end"):
        evaluate(model, data, labels, config=QUICK)


def test_few_positives_give_a_warning(data: PreparedData) -> None:
    labels = taste_labels(data)
    few = np.r_[np.flatnonzero(labels.targets)[:8], np.flatnonzero(labels.targets == 0)]
    config = QUICK.model_copy(update={"draws": 0})
    report = evaluate(tiny_model(data), data, labels.take(few), config=config)
    assert "8 labels on the rarer side are too few" in report.warnings[0]


def test_labels_may_be_a_frame_and_a_report_is_not_overwritten(
    data: PreparedData, tmp_path: Path
) -> None:
    labels = taste_labels(data)
    frame = pl.DataFrame({"user_id": labels.user_ids, "label": labels.targets})
    config = QUICK.model_copy(update={"draws": 0})
    report = evaluate(tiny_model(data), data, frame, config=config)
    (tmp_path / "report.json").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        report.save(tmp_path / "report.json")


def test_vocabularies_fitted_to_events_after_a_cutoff_give_a_warning(data: PreparedData) -> None:
    labels = taste_labels(data)
    early = replace(labels, cutoffs=np.full(len(labels), data.last_event - 86_400_000_000))
    (warning,) = _late_vocabularies(data, [labels, early])
    assert "fit_before: 20" in warning
    after = replace(labels, cutoffs=np.full(len(labels), data.last_event + 1))
    assert _late_vocabularies(data, [after]) == []
