"""Tests of the tables of results."""

import csv
from pathlib import Path

import pytest
from handmade_rows import curve, minus, row, whole_study

from userbert.experiments.reproduction import tables
from userbert.experiments.reproduction.rows import at_last_epoch, model_name, paired, pick, side


def cells(lines: list[str], first: str) -> list[str]:
    """Returns the cells that follow `first` in its line."""
    for line in lines:
        name, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        if name == first:
            return rest
    raise AssertionError(f"no line {first} in {lines}")


def test_csv_gives_every_row_back(tmp_path: Path) -> None:
    rows = [
        *whole_study(),
        row("figure_3", "golf_booking", "oracle", "roc_auc", mean=None, note="x,y"),
    ]
    tables.write_csv(rows, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        csv_rows = list(csv.DictReader(file))
    expected = [
        {key: "" if values.get(key) is None else str(values[key]) for key in tables.COLUMNS}
        for values in rows
    ]
    assert csv_rows == expected


def test_figure_3_shows_the_last_epoch_not_the_best() -> None:
    rows = curve("figure_3", "golf_booking", "userbert", "roc_auc", 0.7, 0.9, 0.8)
    assert cells(tables.figure_3(rows), "UserBERT") == ["0.800 (0.790 to 0.810)"]


def test_figure_3_has_a_column_per_task_and_metric_and_ordered_models() -> None:
    lines = tables.figure_3(list(reversed(whole_study())))
    assert len(cells(lines, "model")) == 4
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names[0] == "UserBERT"
    assert names.index("Wide&Deep + MTL") < names.index("LSTM + MTL") < names.index(names[-1])
    assert names[-1] == "Oracle (knows the truth)"


def test_each_varied_value_has_a_line() -> None:
    rows = [
        row("label_share", "parent", "userbert", "roc_auc", value=share, mean=share)
        for share in (0.25, 1.0)
    ]
    against = minus("label_share", "parent", "userbert", "userbert", "roc_auc", -0.8, -0.7)
    other = minus("label_share", "parent", "userbert", "coles", "roc_auc", 0.1, 0.2)
    lines = tables.label_share(
        [*rows, *({**difference, "value": 0.25} for difference in (against, other))]
    )
    assert [cell.strip() for cell in lines[2].split("|")[1:4]] == [
        "UserBERT", "25 %", "0.250 (0.240 to 0.260); **behind** -0.750 (-0.800 to -0.700)",
    ]  # fmt: skip
    assert "| 100 % | 1.000 (0.990 to 1.010) |" in lines[3]
    assert "UserBERT − CoLES, our encoder | 25 % | **ahead** +0.150" in lines[4]  # noqa: RUF001
    assert len(lines) == 5


def test_a_missing_mean_is_replaced_by_its_note() -> None:
    rows = [row("figure_6", "parent", "userbert", "roc_auc", mean=None, note="9 positives")]
    assert cells(tables.figure_6(rows), "UserBERT") == ["*9 positives*"]


def test_a_model_that_a_task_lacks_has_an_empty_cell() -> None:
    rows = [
        row("figure_6", "car_owner", "userbert", "roc_auc"),
        row("figure_6", "parent", "coles", "roc_auc"),
    ]
    assert cells(tables.figure_6(rows), "UserBERT")[1] == ""


def test_figure_4_goes_from_no_labels_to_all() -> None:
    names = [line.split("|")[1] for line in tables.figure_4(whole_study())[2:]]
    assert [name.split(", ")[1].split(" ")[0] for name in names] == ["0", "30", "100"]


def test_figure_5_shows_the_rise_of_the_test_loss_from_its_minimum() -> None:
    rows = [
        *curve("figure_5", "golf_booking", "userbert", "roc_auc", 0.6, 0.7),
        *curve("figure_5", "golf_booking", "userbert", "test_loss", 0.6, 0.5, 0.55, 0.75),
        row("figure_5", "golf_booking", "userbert", "test_loss_rise", mean=0.26),
    ]
    assert cells(tables.figure_5(rows), "golf booking") == [
        "UserBERT", "0.700 (0.690 to 0.710)",
        "0.500 (0.490 to 0.510)", "2", "0.750 (0.740 to 0.760)",
        "+0.260 (+0.250 to +0.270)",
    ]  # fmt: skip


def test_figure_5_without_test_losses_leaves_their_cells_empty() -> None:
    rows = curve("figure_5", "golf_booking", "userbert", "roc_auc", 0.6, 0.7)
    assert cells(tables.figure_5(rows), "golf booking")[2:] == [""] * 4


def test_table_2_shows_the_papers_per_cents_next_to_ours() -> None:
    values = {"mean": 0.1012, "low": 0.0999, "high": 0.1031, "paper": 0.0765}
    rows = [
        row("table_2", "next_genre", "wide-deep-mtl", "map_at_10", **values),
        row("table_2", "next_genre", "coles", "map_at_10"),
    ]
    lines = tables.table_2(rows)
    assert cells(lines, "Wide&Deep + MTL") == ["10.12 (9.99 to 10.31)", "7.65"]
    assert cells(lines, "CoLES, our encoder")[1] == ""


def test_paired_differences_have_a_line_per_pair_and_a_column_per_task_and_metric() -> None:
    lines = tables.paired_differences(whole_study(), "figure_3")
    assert len(lines) == 2 + 5
    assert cells(lines, "model")[1:] == cells(tables.figure_3(whole_study()), "model")


@pytest.mark.parametrize("experiment", tables.TABLES)
def test_every_table_is_rectangular_and_empty_without_rows(experiment: str) -> None:
    lines = tables.TABLES[experiment](whole_study())
    assert len(lines) > 2
    assert len({line.count("|") for line in lines}) == 1
    assert tables.TABLES[experiment]([]) == []


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.02, "ahead"), (-0.02, -0.01, "behind"), (-0.01, 0.02, "no difference")],
)
def test_a_verdict_depends_on_whether_the_interval_excludes_zero(
    low: float, high: float, verdict: str
) -> None:
    rows = [minus("figure_6", "parent", "userbert", "lstm-mtl", "roc_auc", low, high)]
    against, cell = cells(tables.paired_differences(rows, "figure_6"), "UserBERT")
    assert against == "LSTM + MTL"
    assert cell == f"**{verdict}** {(low + high) / 2:+.3f} ({low:+.3f} to {high:+.3f})"


def test_the_lower_loss_is_ahead() -> None:
    for metric in ("test_loss", "test_loss_rise"):
        assert side(minus("figure_5", "t", "userbert", "coles", metric, -0.2, -0.1)) == "ahead"


def test_a_difference_without_a_figure_has_its_note_and_no_verdict() -> None:
    difference = minus("figure_6", "parent", "userbert", "coles", "roc_auc", 0, 1)
    rows = [{**difference, "mean": None, "low": None, "high": None, "note": "too few"}]
    assert cells(tables.paired_differences(rows, "figure_6"), "UserBERT")[1] == "*too few*"


def test_differences_are_not_listed_among_the_models() -> None:
    text = "\n".join(tables.figure_3(whole_study()))
    assert len(pick(whole_study(), experiment="figure_3", model="userbert")) == 40
    assert "−" not in text  # noqa: RUF001 - the sign of differences


def test_a_difference_is_found_either_way_round() -> None:
    rows = [minus("figure_6", "parent", "coles", "userbert", "roc_auc", -0.03, -0.01)]
    flipped = paired(rows, "userbert", "coles")
    assert flipped is not None
    assert (flipped["low"], flipped["high"]) == (0.01, 0.03)
    assert paired(rows, "userbert", "oracle") is None


def test_a_model_without_a_label_shows_its_own_name_last() -> None:
    rows = [
        row("figure_6", "parent", "new-one", "roc_auc"),
        row("figure_6", "parent", "oracle", "roc_auc"),
    ]
    assert tables.figure_6(rows)[-1].startswith("| new-one |")
    assert model_name("new-one") == "new-one"


def test_the_last_epoch_is_that_of_each_curve_alone() -> None:
    rows = [
        *curve("figure_3", "a", "userbert", "roc_auc", 0.5, 0.6, 0.7),
        *curve("figure_3", "a", "coles", "roc_auc", 0.5, 0.6),
        row("figure_3", "a", "oracle", "roc_auc", epoch=None),
    ]
    assert [last_row["epoch"] for last_row in at_last_epoch(rows)] == [3, 2, None]
