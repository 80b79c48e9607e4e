"""Tests of the figures: one per experiment in the rows, small and reproducible."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from handmade_rows import MTL, row, whole_study

from userbert.experiments.reproduction.plots import FIGURES, STYLES, write_figures
from userbert.experiments.reproduction.rows import MODELS, Row


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("figures")
    return {path.stem: path.read_text("utf-8") for path in write_figures(whole_study(), folder)}


def drawn(rows: Sequence[Row], folder: Path) -> str:
    (path,) = write_figures(rows, folder)
    return path.read_text(encoding="utf-8")


def test_each_experiment_and_data_set_has_a_figure(figures: dict[str, str]) -> None:
    assert list(figures) == [f"{experiment}-simulated-1e-4" for experiment in FIGURES]


def test_learning_rates_have_figures_of_their_own(tmp_path: Path) -> None:
    rows = [
        row("figure_6", "parent", "coles", "roc_auc", learning_rate=rate) for rate in (1e-3, 1e-4)
    ]
    names = [path.name for path in write_figures(rows, tmp_path)]
    assert names == ["figure_6-simulated-1e-3.svg", "figure_6-simulated-1e-4.svg"]


def test_figures_are_800_pixels_wide_and_small(figures: dict[str, str]) -> None:
    for text in figures.values():
        assert 'width="600pt"' in text
        assert len(text) < 100_000


def test_figures_name_their_models_and_tasks_as_text(figures: dict[str, str]) -> None:
    text = figures["figure_3-simulated-1e-4"]
    for name in ("UserBERT", "Wide&amp;Deep + MTL", "travel booking", "golf booking", "ROC-AUC"):
        assert name in text
    assert "the paper" in figures["table_2-simulated-1e-4"]
    assert "Transformer + MTL, 30 % of the labels" in figures["figure_4-simulated-1e-4"]


def test_the_same_rows_give_the_same_bytes(figures: dict[str, str], tmp_path: Path) -> None:
    rows = [figure_row for figure_row in whole_study() if figure_row["experiment"] == "table_2"]
    assert drawn(rows, tmp_path) == figures["table_2-simulated-1e-4"]
    assert "matplotlib.org/" not in figures["table_2-simulated-1e-4"]


def test_a_model_without_epochs_is_drawn_too(tmp_path: Path) -> None:
    text = drawn([row("figure_6", "parent", "oracle", "roc_auc", epoch=None)], tmp_path)
    assert MODELS["oracle"] in text


@pytest.mark.parametrize("experiment", FIGURES)
def test_rows_without_means_still_give_a_figure(experiment: str, tmp_path: Path) -> None:
    metric = "map_at_10" if experiment == "table_2" else "roc_auc"
    empty_row = row(experiment, "parent", "userbert", metric, mean=None, note="nine", value=1)
    text = drawn([empty_row], tmp_path)
    if experiment != "table_2":
        assert "nine" in text


def test_varied_values_are_drawn_in_the_units_of_the_axis() -> None:
    rows = [
        row("label_share", "next_genre", "userbert", "map_at_10", mean=share / 10, value=share)
        for share in (0.25, 1.0)
    ]
    axes = FIGURES["label_share"](rows).axes[0]
    assert axes.get_ylabel() == "mAP@10, %"
    assert np.array_equal(axes.lines[0].get_ydata(), [2.5, 10.0])


def test_a_loss_without_interval_is_drawn(tmp_path: Path) -> None:
    rows = [
        row("figure_5", "golf_booking", "userbert", metric, low=None, high=None)
        for metric in ("roc_auc", "train_loss", "test_loss")
    ]
    assert "training" in drawn(rows, tmp_path)


def test_every_named_model_has_its_own_style() -> None:
    assert set(STYLES) == set(MODELS)
    assert len(set(STYLES.values())) == len(STYLES)
    assert len({STYLES[model].colour for model in ("userbert", *MTL)}) == 4
