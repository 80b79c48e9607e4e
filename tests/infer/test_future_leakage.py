"""Columns with future leakage are left out with a warning; the others are kept."""

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from userbert.infer.inference import propose
from userbert.infer.proposal import Proposal


def visits(users: int = 300, seed: int = 0) -> pl.DataFrame:
    """Returns events in sessions of some minutes, with columns that are known at each event."""
    draw = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), draw.integers(1, 8, users))
    start = draw.integers(0, 60 * 86_400, len(user))
    session = np.repeat(np.arange(len(user)), draw.integers(1, 12, len(user)))
    product = draw.integers(0, 60, len(session))
    return pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in user[session]],
            "session_id": [f"s{number}" for number in session],
            "second": start[session] + draw.integers(0, 900, len(session)),
            "product": [f"p{number}" for number in product],
            "list_price": np.random.default_rng(1).uniform(1, 50, 60).round(2)[product],
            "amount": draw.gamma(2, 5, len(session)).round(2),
        }
    ).select(
        pl.all().exclude("second"),
        timestamp=datetime(2024, 1, 1) + pl.duration(seconds="second"),
        position=pl.int_range(pl.len()).over("session_id"),
    )


def propose_for(
    folder: Path, log: pl.DataFrame, profiles: pl.DataFrame | None = None
) -> tuple[Proposal, dict[str, str]]:
    """Returns the proposal, and the reason of each column that is left out."""
    log.write_csv(folder / "events.csv")
    table = None
    if profiles is not None:
        table = folder / "people.csv"
        profiles.write_csv(table)
    proposal = propose([folder / "events.csv"], table, folder)
    fields = [] if proposal.profile is None else proposal.profile.fields
    choices = [*proposal.attributes, *fields]
    return proposal, {
        choice.column: choice.reason for choice in choices if choice.kind == "left out"
    }


def test_columns_known_at_an_event_are_kept(tmp_path: Path) -> None:
    proposal, left_out = propose_for(tmp_path, visits())
    assert left_out["list_price"] == "it duplicates product"
    assert left_out.keys() == {"session_id", "list_price"}
    assert not proposal.warnings()


@pytest.mark.parametrize("has_session_ids", [True, False])
@pytest.mark.parametrize(
    ("column", "value", "figure"),
    [
        ("pages", pl.len().over("session_id"), "the number of events"),
        (
            "duration",
            (pl.col("timestamp").max() - pl.col("timestamp").min())
            .dt.total_seconds()
            .over("session_id"),
            "the time from first to last event",
        ),
        ("paid", pl.col("amount").sum().over("session_id").round(2), "the sum of amount"),
    ],
)
def test_final_figure_of_a_session_is_left_out_with_a_warning(
    tmp_path: Path, column: str, value: pl.Expr, figure: str, *, has_session_ids: bool
) -> None:
    log = visits().with_columns(value.alias(column))
    proposal, left_out = propose_for(tmp_path, log if has_session_ids else log.drop("session_id"))
    group = "one session_id" if has_session_ids else "a session"
    reason = f"constant within {group}, it follows {figure}"
    assert left_out[column] == f"future leakage: {reason}"
    assert [column in warning for warning in proposal.warnings()] == [True]


def test_total_of_an_item_at_the_time_of_the_dump_is_left_out(tmp_path: Path) -> None:
    log = visits().with_columns(sold=pl.len().over("product") * 3)
    _, left_out = propose_for(tmp_path, log)
    assert "one product, it follows the number of events" in left_out["sold"]


def test_counts_over_events_of_one_instant_are_kept(tmp_path: Path) -> None:
    log = visits().with_columns(
        pl.col("timestamp").min().over("session_id"), lines=pl.len().over("session_id")
    )
    proposal, left_out = propose_for(tmp_path, log)
    assert "lines" not in left_out
    assert not proposal.warnings()


def test_running_counts_are_kept(tmp_path: Path) -> None:
    log = visits().sort("timestamp").with_columns(visit=pl.int_range(pl.len()).over("user_id"))
    _, left_out = propose_for(tmp_path, log)
    assert "visit" not in left_out


@pytest.mark.parametrize("column", ["churned", "user_ltv", "final_grade", "targetLabel"])
def test_outcome_by_name_is_left_out_of_events(tmp_path: Path, column: str) -> None:
    log = visits()
    values = np.random.default_rng(2).integers(0, 2, len(log))
    proposal, left_out = propose_for(tmp_path, log.with_columns(pl.Series(column, values)))
    assert "it is an outcome" in left_out[column]
    assert len(proposal.warnings()) == 1


def test_totals_in_profiles_are_left_out_and_outcomes_give_a_warning(tmp_path: Path) -> None:
    log = visits()
    start = datetime(2024, 1, 1)
    people = log.group_by("user_id", maintain_order=True).agg(
        orders=pl.len(),
        spent=pl.col("amount").sum().round(2),
        last_day=(pl.col("timestamp").max() - start).dt.total_days(),
        last_login=pl.col("timestamp").max().dt.date(),
    )
    draw = np.random.default_rng(3)
    people = people.with_columns(
        age=pl.Series(draw.integers(18, 80, len(people))),
        final_result=pl.Series(draw.choice(["pass", "fail"], len(people))),
    )
    proposal, left_out = propose_for(tmp_path, log, people)
    assert "the number of events of the user" in left_out["orders"]
    assert "the sum of amount of the user" in left_out["spent"]
    assert "the time of the last event of the user" in left_out["last_day"]
    assert left_out["last_login"] == "a second time column"
    assert left_out.keys() & {"age", "final_result"} == set()
    warnings = {
        name: text for text in proposal.warnings() for name in people.columns if f'"{name}"' in text
    }
    assert warnings.keys() == {"orders", "spent", "last_day", "final_result"}
    assert "--hide final_result" in warnings["final_result"]
