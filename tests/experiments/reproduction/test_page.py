"""Tests that the page shows the rows of each run."""

import re
from pathlib import Path
from typing import Any

import pytest
from handmade_rows import whole_study

from userbert.errors import InputError
from userbert.experiments.reproduction.claims import CLAIMS
from userbert.experiments.reproduction.page import CAUSES, main, page, publish
from userbert.experiments.reproduction.plots import FIGURES
from userbert.folders import write_json

MADE = {
    "commit": "0123456789abcdef", "version": "0", "date": "2026-11-24T00:00:00+00:00",
    "seeds": [0, 1, 2], "machine": "a machine, 2 cores", "data": "fedcba9876543210",
    "command": "userbert reproduce -o out", "quick": False,
    "sizes": {"users": 200000, "pretraining_batches": 4000, "rates": [0.1, 0.2]},
}  # fmt: skip


def study(data: str = "simulated", **made: Any) -> dict[str, Any]:
    return {"made": {**MADE, **made}, "rows": [{**row, "data": data} for row in whole_study()]}


def test_page_shows_the_provenance_and_settings_of_each_run() -> None:
    text = page([study(), study("complete-journey", seeds=[7], command="another")])
    assert "**simulated logs**: `userbert reproduce -o out`, 2026-11-24, commit 0123456789" in text
    assert "**Complete Journey**: `another`" in text
    assert "seeds 7, a machine, 2 cores, data fedcba9876." in text
    assert "sizes: users 200,000; pretraining batches 4,000; rates 0.1, 0.2" in text
    assert "quick: no" in text


def test_page_shows_each_plan_and_commit_of_a_run() -> None:
    trials = [{"pretraining": 0.1, "seeds": 1}, {"pretraining": 0.2, "seeds": 2}]
    plans = [
        {"data": "simulated", "users": 5000, "trials": trials},
        {"data": "complete-journey", "users": None, "variations": []},
    ]
    text = page([study(plans=plans, commit="0123456789abc, 9876543210abc")])
    trials_text = "trials (pretraining 0.1; seeds 1), (pretraining 0.2; seeds 2)"
    assert f"  - plans: data simulated; users 5,000; {trials_text}\n" in text
    assert "  - plans: data complete-journey\n" in text
    assert "commit 0123456789, 9876543210, seeds" in text


def test_page_judges_every_claim_on_every_data_set() -> None:
    partial = study("complete-journey")
    partial["rows"] = [row for row in partial["rows"] if row["experiment"] == "table_2"]
    text = page([study(), partial])
    for claim in CLAIMS:
        verdict = "agrees" if claim.experiment == "table_2" else "not run"
        assert f"| {claim.words} | {claim.where} | agrees | {verdict} |" in text
    assert f"On simulated logs, 1e-4 (agrees {len(CLAIMS)}):" in text


def test_page_lists_no_claims_of_a_single_seed() -> None:
    single_seed = study()
    single_seed["rows"] = [{**row, "seeds": 1} for row in single_seed["rows"]]
    text = page([single_seed])
    assert "On simulated logs, 1e-4 no claim is judged by a single seed" in text
    assert f"| {CLAIMS[0].words} | {CLAIMS[0].where} | can't tell |" in text
    assert f"- {CLAIMS[0].words}" not in text


def test_page_has_only_the_experiments_that_ran() -> None:
    partial = study()
    partial["rows"] = [row for row in partial["rows"] if row["experiment"] == "table_2"]
    text = page([partial])
    assert "## Table 2: next genre" in text
    assert "## Figure 3" not in text


def test_page_shows_models_with_another_number_of_seeds() -> None:
    result = study()
    result["rows"] = [
        {**row, "seeds": 1} if row["model"] == "coles-gru" else row for row in result["rows"]
    ]
    assert "Pretraining seeds: 3; CoLES, its authors' encoder 1." in page([result])


def test_every_table_of_the_page_is_rectangular() -> None:
    text = page([study(), study("complete-journey")])
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_page_shows_the_figures_of_the_results_and_links_causes(tmp_path: Path) -> None:
    results, docs = tmp_path / "results" / "first", tmp_path / "explanation"
    results.mkdir(parents=True)
    docs.mkdir()
    write_json(results / "results.json", study())
    (results / "figure_3-simulated-1e-4.svg").write_text("<svg/>", encoding="utf-8")
    main(tmp_path / "results", docs / "page.md")
    text = (docs / "page.md").read_text(encoding="utf-8")
    assert "](../results/first/figure_3-simulated-1e-4.svg)" in text
    assert "figure_4-simulated" not in text
    assert CAUSES not in text
    (docs / CAUSES).write_text("because", encoding="utf-8")
    main(tmp_path / "results", docs / "page.md")
    assert f"]({CAUSES})" in (docs / "page.md").read_text(encoding="utf-8")


def test_each_learning_rate_is_judged_separately() -> None:
    results = study()
    results["rows"] += [
        {**row, "learning_rate": 1e-3}
        for row in results["rows"]
        if row["experiment"] == "table_2" and "userbert" not in row["model"]
    ]
    text = page([results])
    assert "| simulated logs, 1e-4 | simulated logs, 1e-3 |" in text
    claim = "UserBERT outperforms the three multi-task models on next genre"
    assert f"| {claim} | §4.5, table 2 | agrees | can't tell |" in text


def test_a_runs_folder_gets_its_csv_figures_and_page(tmp_path: Path) -> None:
    written = publish(study(), tmp_path)
    text = written.read_text(encoding="utf-8")
    for name in re.findall(r"\]\((.*?\.svg)\)", text):
        assert (tmp_path / name).exists()
    assert len(list(tmp_path.glob("*.svg"))) == text.count("![") == len(FIGURES)
    assert (tmp_path / "results.csv").exists()


def test_without_results_there_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no results\.json"):
        main(tmp_path, tmp_path / "page.md")
