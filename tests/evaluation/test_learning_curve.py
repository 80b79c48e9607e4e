"""Learning curves: labels per class, draws per point, and the lead at each point."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from handmade import make_taste_data, taste_labels, tiny_model
from userbert.evaluation.evaluate import EvaluateConfig, _materials, evaluate
from userbert.evaluation.fits import Fit, Material, Workshop
from userbert.evaluation.learning_curve import Points, fits_of, leads_of, sizes
from userbert.evaluation.out_of_fold import BEST
from userbert.tasks.finetune import FinetuneConfig
from userbert.tasks.metrics import Estimate

CONFIG = EvaluateConfig(
    folds=5,
    resamples=50,
    draws=10,
    least_a_class=4,
    finetune=FinetuneConfig(learning_rate=1e-2, batch_size=16, epochs=1),
    workers=1,
)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    data = make_taste_data(tmp_path_factory.mktemp("tastes") / "data", users=200)
    (material,), _ = _materials([[tiny_model(data)]], data, [taste_labels(data)], CONFIG)
    return material


def test_points_hold_enough_of_the_rarer_class(material: Material) -> None:
    # 160 of 200 labels are for training, half of them yes.
    assert sizes(material, 5, min_per_class=4) == [40, 10]
    assert sizes(material, 5, min_per_class=6) == [40]
    assert sizes(material, 5, min_per_class=21) == []


def test_few_labels_are_drawn_often_but_not_for_a_network_from_scratch(material: Material) -> None:
    fits = [*fits_of(0, material, seeds=3, folds=5, min_per_class=6, draws=20)]
    counts = Counter(fit.model for fit in fits)
    assert counts["frozen-linear"] == counts["aggregates-gbm"] == 20
    assert counts["fine-tuned"] == 20
    assert counts["from-scratch"] == 5
    assert {fit.size for fit in fits} == {40}
    assert {fit.seed for fit in fits} == {0, 1, 2}
    assert not [*fits_of(0, material, seeds=3, folds=5, min_per_class=6, draws=0)]


def test_runs_draw_different_labels_and_models_share_the_draws(material: Material) -> None:
    shop = Workshop(Path(), (), (material,), CONFIG.finetune, 0)

    def drawn(model: str, run: int) -> set[int]:
        return set(shop.split(Fit(0, model, run, 0, 1, 40)).learning.tolist())

    assert drawn("frozen-linear", 0) == drawn("aggregates-gbm", 0)
    assert drawn("frozen-linear", 0) != drawn("frozen-linear", 1)
    assert not drawn("frozen-linear", 1) & set(np.flatnonzero(material.folds == 1).tolist())


def test_each_point_has_every_model_and_the_lead(tmp_path: Path) -> None:
    data = make_taste_data(tmp_path / "data")
    report = evaluate(tiny_model(data), data, taste_labels(data), config=CONFIG)
    by_size: dict[int, set[str]] = {}
    for row in report.learning_curves:
        by_size.setdefault(row["labels"], set()).add(row["model"])
    assert set(by_size) == {12, 48}
    assert by_size[12] == by_size[48] >= {BEST, "fused", "frozen-linear", "aggregates-linear"}
    full = {row["model"]: row["mean"] for row in report.rows if row["metric"] == "roc_auc"}
    last = {row["model"]: row["mean"] for row in report.learning_curves if row["labels"] == 48}
    assert last["aggregates-gbm"] == full["aggregates-gbm"]
    assert last[BEST] == full[BEST]
    (lead,) = report.leads
    first = {row["model"]: row["mean"] for row in report.learning_curves if row["labels"] == 12}
    few, many = (values["fused"] - values["aggregates-gbm"] for values in (first, last))
    assert (lead["share"], lead["tasks"]) == (0.25, 1)
    assert lead["growth"]["mean"] == pytest.approx(few - many, abs=1e-5)


def test_leads_are_means_over_the_tasks_that_have_the_point() -> None:
    def points(*leads: float) -> Points:
        """Points with the given leads: all labels, a quarter, a sixteenth; fewest labels first."""
        sizes = [*range(1, len(leads)), None]
        return {
            size: {
                "fused": Estimate(0.7 + lead, np.array([0.7, 0.8]) + lead),
                "aggregates-gbm": Estimate(0.7, np.array([0.7, 0.8])),
            }
            for size, lead in zip(sizes, reversed(leads), strict=True)
        }

    quarter, sixteenth = leads_of([points(0.01, 0.03), points(0.03, 0.05, 0.11)])
    assert (quarter["share"], quarter["tasks"]) == (1 / 4, 2)
    assert quarter["lead"]["mean"] == pytest.approx(0.04)
    assert quarter["growth"] == pytest.approx({"mean": 0.02, "low": 0.02, "high": 0.02})
    assert (sixteenth["share"], sixteenth["tasks"]) == (1 / 16, 1)
    assert sixteenth["with_all_labels"]["mean"] == pytest.approx(0.03)
    assert sixteenth["growth"]["mean"] == pytest.approx(0.08)
    assert leads_of([points(0.01)]) == leads_of([]) == []
