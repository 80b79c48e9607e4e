"""Tests of the multi-task labels, which see nothing at or after the cut-off."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_ecosystem import USERS, make_ecosystem, prepare_logs

from small_logs import instant, log, prepare_events
from userbert.data.prepare.prepare import prepare
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at
from userbert.errors import InputError
from userbert.experiments import complete_journey
from userbert.experiments.reproduction import multitask_labels as module
from userbert.experiments.reproduction.multitask_labels import (
    COMPLETE_JOURNEY,
    SIMULATED,
    BandedNumber,
    Daytime,
    FavouriteValue,
    MultiTaskLabels,
    Spec,
    actions,
    days_since_last_action,
    multitask_labels,
    top_share,
    total,
    total_per_word,
    weekend_share,
    words,
)
from userbert.experiments.reproduction.questions import CUTOFF_SIMULATED
from userbert.schema import Schema

CUTOFF = "2024-03-11T00:00"  # a Monday, the day after New York's summer time has begun

MIDNIGHT = datetime(2024, 6, 30, 15, tzinfo=UTC)
"""The simulated cut-off, in Tokyo."""

EVENTS = log(
    ("ann", "2024-03-01T07:00", "buy", "milk", 1.0),  # Friday
    ("ann", "2024-03-01T23:00", "buy", "bread", 2.0),
    ("ann", "2024-03-02T08:00", "buy", "milk", 4.0),  # Saturday
    ("bob", "2024-03-09T12:00", "buy", "bread", 8.0),  # Saturday
    ("bob", "2024-03-09T12:01", "buy", "milk", None),
    ("bob", "2024-03-10T18:00", "buy", None, 2.0),  # Sunday
    ("cid", "2024-03-04T12:00", "click", "wine", None),
    ("dan", "2024-03-01T12:00", "buy", "wine", 0.0),
    ("dan", CUTOFF, "buy", "milk", 99.0),  # not visible
    ("dan", "2024-03-12T12:00", "click", "milk", None),
    ("eve", "2024-03-12T12:00", "buy", "milk", 1.0),  # no user yet
    ("fay", "2024-02-01T12:00", "buy", "bread", 1.0),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare_events(tmp_path_factory.mktemp("data"), EVENTS)


def classes_by_user(data: PreparedData, *specs: Spec) -> list[dict[str, str]]:
    """Returns the class of each user, for each spec."""
    pairs = pairs_at(data, [instant(CUTOFF)])
    users = [data.user_ids[row].as_py() for row in pairs.rows]
    labels = multitask_labels(data, pairs, specs)
    return [
        {user: classes[target] for user, target in zip(users, targets, strict=True)}
        for classes, targets in zip(labels.classes, labels.targets.T, strict=True)
    ]


def test_the_favourite_is_the_most_frequent_value_or_the_more_common_of_equals(
    data: PreparedData,
) -> None:
    genre, first = classes_by_user(
        data,
        FavouriteValue("genre", "long_term", "genre", 3),
        FavouriteValue("first", "long_term", "genre", 1),
    )
    assert data.vocabularies.segments["long_term"]["genre"].names[2] == "milk"
    expected = {"ann": "milk", "bob": "milk", "cid": "none", "dan": "wine", "fay": "bread"}
    assert genre == expected
    assert first == {**expected, "dan": "other", "fay": "other"}


def test_amounts_fall_into_bands(data: PreparedData) -> None:
    edges = (1.0, 3.0)
    purchases, days, spend, spend_a_day, milk = classes_by_user(
        data,
        BandedNumber("purchases", "long_term", actions, "hour", edges=edges),
        BandedNumber("days", "long_term", words, edges=edges),
        BandedNumber("spend", "long_term", total, "price", edges=edges),
        BandedNumber("spend a day", "long_term", total_per_word, "price", edges=(3.0, 5.0)),
        BandedNumber("milk", "long_term", actions, "genre", "milk", edges=(1.0, 2.0)),
    )
    low, middle, high = "below 1", "1 to 3", "3 or more"
    assert purchases == {"ann": high, "bob": high, "cid": low, "dan": middle, "fay": middle}
    assert days == {"ann": middle, "bob": middle, "cid": low, "dan": middle, "fay": middle}
    assert spend == {"ann": high, "bob": high, "cid": low, "dan": low, "fay": middle}
    low, middle, high = "below 3", "3 to 5", "5 or more"  # ann 7 / 2, bob 10 / 2
    assert spend_a_day == {"ann": middle, "bob": high, "cid": "none", "dan": low, "fay": low}
    assert milk == {
        "ann": "2 or more", "bob": "1 to 2", "cid": "below 1", "dan": "below 1", "fay": "below 1"
    }  # fmt: skip


def test_shares_count_only_actions_with_the_attribute(data: PreparedData) -> None:
    weekend, loyalty = classes_by_user(
        data,
        BandedNumber("weekend share", "long_term", weekend_share, edges=(0.25, 0.5, 0.75)),
        BandedNumber("loyalty", "long_term", top_share, "genre", edges=(0.6, 0.75)),
    )
    assert weekend == {
        "ann": "0.25 to 0.5", "bob": "0.75 or more", "cid": "none", "dan": "below 0.25",
        "fay": "below 0.25",
    }  # fmt: skip
    assert loyalty == {
        "ann": "0.6 to 0.75", "bob": "below 0.6", "cid": "none", "dan": "0.75 or more",
        "fay": "0.75 or more",
    }  # fmt: skip


def test_days_are_counted_from_the_last_action_to_the_cutoff(data: PreparedData) -> None:
    # Ann's last is 8 days and 15 hours before: an hour of Sunday is missing.
    (days,) = classes_by_user(
        data,
        BandedNumber(
            "days", "long_term", days_since_last_action, edges=(0.25, 0.26, 8.62, 8.63, 10)
        ),
    )
    assert days == {
        "ann": "8.62 to 8.63", "bob": "0.25 to 0.26", "cid": "none", "dan": "8.63 to 10",
        "fay": "10 or more",
    }  # fmt: skip


def test_the_time_of_day_is_local_and_the_earliest_of_equals(data: PreparedData) -> None:
    (daytime,) = classes_by_user(data, Daytime("time of day", "long_term", "hour"))
    assert daytime == {
        "ann": "morning", "bob": "afternoon", "cid": "none", "dan": "afternoon",
        "fay": "afternoon",
    }  # fmt: skip


def test_a_label_of_one_class_is_refused(data: PreparedData) -> None:
    with pytest.raises(InputError, match="'purchases' has fewer than two classes"):
        classes_by_user(data, BandedNumber("purchases", "long_term", actions, edges=(50.0,)))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ecosystem(tmp_path_factory.mktemp("ecosystem"))[0]


def labels_of(data: PreparedData) -> tuple[MultiTaskLabels, Pairs]:
    pairs = pairs_at(data, [data.schema.instant(CUTOFF_SIMULATED)])
    return multitask_labels(data, pairs, SIMULATED), pairs


def test_simulated_users_have_twelve_labels(logs: Path) -> None:
    data = PreparedData.open(logs.with_name("logs-data"))
    labels, pairs = labels_of(data)
    assert labels.targets.shape == (USERS, 12)
    assert len(set(labels.names)) == 12
    for classes, targets in zip(labels.classes, labels.targets.T, strict=True):
        assert np.array_equal(np.unique(targets), np.arange(len(classes)))
        assert len(classes) >= 2
    in_chunks = multitask_labels(data, pairs, SIMULATED, users_at_a_time=300)
    assert np.array_equal(in_chunks.targets, labels.targets)


def test_occupation_is_what_the_profile_says(logs: Path) -> None:
    data = PreparedData.open(logs.with_name("logs-data"))
    labels, pairs = labels_of(data)
    occupations = dict(
        pl.read_parquet(logs / "profiles").select("user_id", "occupation").iter_rows()
    )
    for row, target in zip(pairs.rows, labels.targets[:, 0], strict=True):
        assert labels.classes[0][target] == occupations[data.user_ids[row].as_py()]


def test_nothing_at_or_after_the_cutoff_moves_a_label(logs: Path, tmp_path: Path) -> None:
    before, pairs = labels_of(PreparedData.open(logs.with_name("logs-data")))
    changed = tmp_path / "changed"
    shutil.copytree(logs, changed)
    past = pl.read_parquet(logs / "long_term/*.parquet").sample(fraction=0.5, seed=0)
    # Copies of half the events with another price, at the cut-off and later.
    shift = pl.int_range(pl.len()) % 3 * pl.lit(timedelta(days=5))
    future = past.with_columns(time=MIDNIGHT + shift, price=7)
    future.write_parquet(changed / "future/part-00000.parquet")
    sessions = pl.read_parquet(logs / "short_term/*.parquet").with_columns(
        pl.lit("desktop").alias("device"), pl.col("time") + timedelta(days=7)
    )
    sessions.write_parquet(changed / "short_term/part-later.parquet")
    after, same_pairs = labels_of(prepare_logs(changed))
    assert np.array_equal(pairs.rows, same_pairs.rows)
    assert after.classes == before.classes
    assert np.array_equal(after.targets, before.targets)

    # The test can fail: twenty days earlier, the same events are visible.
    shutil.rmtree(changed.with_name("changed-data"))
    future.with_columns(pl.col("time") - timedelta(days=20)).write_parquet(
        changed / "future/part-00000.parquet"
    )
    earlier, _ = labels_of(prepare_logs(changed))
    assert (earlier.targets != before.targets).mean() > 0.05


def test_complete_journeys_households_have_twelve_labels(tmp_path: Path) -> None:
    data = prepare(Schema.parse(complete_journey.schema_text()), tmp_path / "data")
    pairs = pairs_at(data, [data.schema.instant(complete_journey.CUTOFF)])
    labels = multitask_labels(data, pairs, COMPLETE_JOURNEY)
    assert labels.targets.shape == (len(pairs), 12)
    assert labels.classes[0] == ("Married", "Unmarried")
    is_known = labels.targets >= 0
    assert 0.2 < is_known[:, 0].mean() < 0.3  # a third of the households gave demographics
    assert is_known[:, 2:].all()


def test_profile_fields_of_silent_users_are_not_known(tmp_path: Path) -> None:
    _, data = make_ecosystem(tmp_path)
    pairs = pairs_at(data, [data.schema.instant(CUTOFF_SIMULATED)])
    silent = np.arange(len(pairs)) % 3 == 0
    plain, kept = (multitask_labels(data, pairs, SIMULATED, users) for users in (None, silent))
    field = plain.names.index("occupation")
    assert (kept.targets[silent, field] == module.NOT_KNOWN).all()
    others = [number for number in range(len(plain.names)) if number != field]
    np.testing.assert_array_equal(kept.targets[:, others], plain.targets[:, others])
    np.testing.assert_array_equal(kept.targets[~silent], plain.targets[~silent])


def test_labels_look_back_no_further_than_the_windows(tmp_path: Path) -> None:
    earlier = log(("fay", "2023-06-01T12:00", "buy", "milk", 50.0))
    spec = BandedNumber("spend", "long_term", total, "price", edges=(1.0, 3.0))
    for name in ("plain", "longer"):
        (tmp_path / name).mkdir()
    (plain,) = classes_by_user(prepare_events(tmp_path / "plain", EVENTS), spec)
    (longer,) = classes_by_user(
        prepare_events(tmp_path / "longer", pl.concat([earlier, EVENTS])), spec
    )
    assert plain == longer
