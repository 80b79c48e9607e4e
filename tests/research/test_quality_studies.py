"""Tests of the studies: visitors of invented logs, and the bounds of pretraining."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from research.quality.studies import CHOICE, CONFIRMATION, _visitors, open_study

START = datetime(2021, 1, 15)


def visits(user: str, *steps: tuple[float, str]) -> pl.DataFrame:
    """Returns a visitor's events, by minutes since the first."""
    times = [START + timedelta(minutes=minutes) for minutes, _ in steps]
    kinds = [kind for _, kind in steps]
    return pl.DataFrame({"user_id": user, "timestamp": times, "event_type": kinds})


TEN = [(float(minute), "page_view") for minute in range(10)]


def test_visitors_have_a_cutoff_after_their_tenth_event() -> None:
    visitors = _visitors(
        pl.concat(
            [
                visits("buys", *TEN, (10, "add_to_cart")),
                visits("early", *TEN[:5], (5, "add_to_cart"), *TEN[6:], (10, "add_to_cart")),
                visits("few", *TEN[:9]),
                visits("leaves", *TEN, (39, "page_view")),
                visits("returns", *TEN, (39.1, "page_view")),
            ]
        )
    )
    assert visitors["user_id"].to_list() == ["buys", "leaves", "returns"]
    assert visitors["cart"].to_list() == [1, 0, 0]
    assert visitors["comes_back"].to_list() == [0, 0, 1]
    tenth = START + timedelta(minutes=9, microseconds=1)
    assert visitors["cutoff"].to_list() == [tenth] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CHOICE, *CONFIRMATION])
def test_labels_are_at_or_after_the_bound_of_pretraining(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    study = open_study(name, real_data, tmp_path)
    bound = study.data.schema.instant(study.before)
    assert study.data.schema.fit_before_us == bound
    for task in study.tasks:
        assert task.labels.cutoffs.min() >= bound
        assert set(task.labels.hide) <= set(study.hidden)
        folds = np.unique(task.folds)
        assert folds.tolist() == (
            [-1, 0] if name.startswith("ta-feng") and name in CONFIRMATION else [0, 1, 2, 3]
        )


@pytest.mark.slow
def test_confirmation_users_are_not_in_the_choice_studies(real_data: Path, tmp_path: Path) -> None:
    choice, confirmation = (
        open_study(name, real_data, tmp_path) for name in ("ta-feng", "ta-feng-test")
    )
    for choice_task, confirmation_task in zip(choice.tasks, confirmation.tasks, strict=True):
        test_users = np.array(confirmation_task.labels.user_ids)[confirmation_task.folds >= 0]
        assert not set(test_users) & set(choice_task.labels.user_ids)
