"""Tests of the quality bench: a small run on real logs, and tables of invented results."""

from pathlib import Path

import pytest

from research.quality import bench, recipes, studies
from research.quality.bench import RecipeRun, run_all
from research.quality.table import CLASSICAL, PICKED, write_tables
from userbert.folders import read_json, write_json
from userbert.tasks import trees


def write_result(results: Path, recipe: str, seed: int, model: str, value: float) -> None:
    resampled = " ".join(f"{value + step / 1000:.5f}" for step in range(-20, 21))
    result = {"value": value, "resampled": resampled}
    task = {"task": "age", "metric": "roc_auc", "labels": 10, "models": {model: result}}
    folder = results / "ta-feng"
    folder.mkdir(exist_ok=True)
    content = {"study": "ta-feng", "recipe": recipe, "seed": seed, "tasks": [task]}
    write_json(folder / f"{recipe}-{seed}.json", content)


def test_the_table_has_means_over_seeds_and_the_paired_lead(tmp_path: Path) -> None:
    write_result(tmp_path, CLASSICAL, 0, PICKED, 0.7)
    write_result(tmp_path, "paper", 0, "frozen-linear", 0.72)
    write_result(tmp_path, "paper", 1, "frozen-linear", 0.74)
    write_tables(tmp_path)
    table = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert table[2] == "## ta-feng: age"
    assert table[6] == (
        "| paper | frozen-linear | 0.7300 | 0.711 to 0.749 | 2 | +0.030 (+0.030 to +0.030) |"
    )
    assert table[7] == "| classical | picked | 0.7000 | 0.681 to 0.719 | 1 |  |"


def test_differences_use_shared_seeds(tmp_path: Path) -> None:
    write_result(tmp_path, "default", 0, "frozen-linear", 0.75)
    write_result(tmp_path, "default", 1, "frozen-linear", 0.95)
    write_result(tmp_path, "no-decay", 0, "frozen-linear", 0.74)
    write_tables(tmp_path)
    table = (tmp_path / "differences.md").read_text(encoding="utf-8").splitlines()
    assert table[-4] == "| changed | model | seeds | ta-feng: age |"
    assert table[-2] == "| no-decay | frozen-linear | 1 | +0.010 (+0.010 to +0.010) |"
    assert table[-1] == "| no-decay | fused-linear | 0 |  |"


@pytest.mark.slow
def test_finished_runs_are_not_repeated_and_record_their_provenance(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes_with_few_steps = {"default": ("steps=20", "batch_size=32")}
    monkeypatch.setattr(recipes, "RECIPES", recipes_with_few_steps)
    for module in (bench, studies):
        monkeypatch.setattr(module, "FOLDS", 2)
    monkeypatch.setattr(trees, "FORESTS", 1)
    results, work = tmp_path / "results", tmp_path / "work"
    name = "complete-journey-2017-06-01"
    recipe_run = RecipeRun(name, "default", 0, is_frozen=False)
    results.mkdir()
    content = bench.run_recipe(recipe_run, real_data, work, ["bench"])
    models = {name for task in content["tasks"] for name in task["models"]}
    assert models == {
        "aggregates-gbm", "frozen-linear", "fused-linear", "fused-gbm", "fine-tuned", "fused",
        PICKED,
    }  # fmt: skip
    assert content["made"]["seeds"] == [0]
    assert content["pretraining"]["users"] == 640
    (results / name).mkdir()
    write_json(results / name / f"{recipe_run.name}.json", content)
    run_all([recipe_run], real_data, results, work)
    assert read_json(results / name / f"{recipe_run.name}.json") == content
