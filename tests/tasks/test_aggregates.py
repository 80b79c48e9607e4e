"""Aggregates count events before the cut-off and no others."""

import sys
from pathlib import Path
from subprocess import run

import numpy as np

from handmade import instant, make_data
from userbert.data.store import PreparedData
from userbert.tasks.aggregates import aggregates, all_history_columns
from userbert.tasks.popularity import own_popularity, popularity, words_with_each_value

EVENTS = [
    ("ann", "2020-01-01T12:00", "purchase", "apple", 3.0),
    ("ann", "2020-03-01T12:00", "purchase", "apple", 1.0),
    ("ann", "2020-03-01T12:05", "purchase", "bread", None),
    ("ann", "2020-03-20T12:00", "click", "cheese", None),
    ("ann", "2020-03-25T12:00", "purchase", "unheard of", 8.0),
    ("ann", "2020-03-26T12:00", "purchase", None, 100.0),
    ("bob", "2020-03-24T12:00", "purchase", "date", 2.0),
    ("bob", "2020-04-24T12:00", "purchase", "date", 2.0),
]
CUTOFF = "2020-03-26T12:00"


def features(
    data: PreparedData, cutoff: str = CUTOFF, hide: tuple[str, ...] = ()
) -> list[dict[str, float]]:
    rows = data.rows_of(["ann", "bob"])
    matrix, names = aggregates(data, rows, np.full(2, instant(cutoff)), hide)
    assert len(set(names)) == matrix.shape[1] == len(names)
    assert matrix.dtype == np.float32
    return [dict(zip(names, map(float, row), strict=True)) for row in matrix.toarray()]


def test_counts_equal_those_computed_by_hand(tmp_path: Path) -> None:
    ann, bob = features(make_data(tmp_path / "data", EVENTS, [("ann", "old", "2")]))
    # The purchase at the cut-off itself is not visible.
    assert [ann[f"long_term actions, {w}"] for w in ("7d", "30d", "90d", "ever")] == [1, 3, 4, 4]
    assert [ann[f"short_term words, {w}"] for w in ("7d", "30d", "90d", "ever")] == [2, 3, 4, 4]
    assert ann["long_term active days, ever"] == 3
    assert ann["long_term genre=apple, ever"] == 2
    assert ann["long_term genre=apple, 30d"] == 1
    assert ann["long_term genre=(unknown), 7d"] == 1
    assert ann["short_term genre=cheese, 7d"] == 1
    assert [ann[f"long_term expense {w}, ever"] for w in ("sum", "mean", "largest")] == [12, 4, 8]
    assert ann["long_term days since the last action"] == 1
    assert ann["long_term days since the first action"] == 85
    assert ann["profile age=old"] == ann["profile kids=2"] == 1
    assert bob["long_term actions, ever"] == bob["long_term genre=date, 7d"] == 1
    assert sum(value for name, value in bob.items() if name.startswith("profile")) == 0


def test_events_after_the_cutoff_change_no_feature(tmp_path: Path) -> None:
    past = [event for event in EVENTS if event[1] < CUTOFF]
    assert features(make_data(tmp_path / "all", EVENTS)) == features(
        make_data(tmp_path / "past", past)
    )


def test_hidden_fields_have_no_columns(tmp_path: Path) -> None:
    ann, _ = features(make_data(tmp_path / "data", EVENTS, [("ann", "old", "2")]), hide=("kids",))
    assert not any("kids" in name for name in ann)
    assert ann["profile age=old"] == 1


def test_users_without_history_have_zeros_and_the_longest_recency(tmp_path: Path) -> None:
    _, bob = features(make_data(tmp_path / "data", EVENTS), cutoff="2020-03-01T12:00")
    assert bob.pop("long_term days since the last action") == 60
    assert bob.pop("long_term days since the first action") == 60
    assert bob.pop("short_term days since the last action") == 60
    assert bob.pop("short_term days since the first action") == 60
    assert set(bob.values()) == {0.0}


def test_order_of_the_pairs_is_kept(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", EVENTS)
    rows = data.rows_of(["bob", "ann", "bob"])
    cutoffs = np.array([instant("2020-05-01"), instant(CUTOFF), instant(CUTOFF)])
    matrix, _ = aggregates(data, rows, cutoffs)
    swapped, _ = aggregates(data, rows[::-1], cutoffs[::-1])
    np.testing.assert_array_equal(matrix.toarray(), swapped.toarray()[::-1])


def test_a_word_counts_once_per_value(tmp_path: Path) -> None:
    data = make_data(
        tmp_path / "data",
        [
            ("ann", "2020-01-01T12:00", "purchase", "apple", None),
            ("ann", "2020-01-01T12:00", "purchase", "bread", None),
            ("ann", "2020-01-01T12:10", "purchase", "apple", None),
            ("ann", "2020-01-01T13:00", "click", "apple", None),
            ("ann", "2020-01-01T13:01", "click", "rare", None),
            ("ann", "2020-01-09T13:01", "click", "date", None),
        ],
    )
    rows, cutoffs = np.array([0]), np.array([instant("2020-01-09T13:01")])
    counts = words_with_each_value(data, ("short_term", "genre"), rows, cutoffs)
    np.testing.assert_array_equal(counts.toarray(), [[2, 1, 0, 0]])
    recent = words_with_each_value(data, ("short_term", "genre"), rows, cutoffs, days=1)
    assert recent.sum() == 0
    # Apples were bought eight days and some minutes ago, in both words.
    fading = words_with_each_value(data, ("short_term", "genre"), rows, cutoffs, half_life=4)
    np.testing.assert_allclose(fading.toarray(), [[0.5, 0.25, 0, 0]], rtol=0.02)


def test_own_popularity_breaks_ties_by_popularity(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", EVENTS)
    rows, cutoffs = data.rows_of(["ann"]), np.array([instant("2020-03-21")])
    counts = words_with_each_value(data, ("short_term", "genre"), rows, cutoffs)
    targets = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1]], bool)
    shares = popularity(targets)
    assert ((shares > 0) & (shares < 1)).all()
    scores = own_popularity(counts, shares)
    # Apple is in two words, bread and cheese in one (cheese is more popular), date in none.
    assert np.argsort(-scores[0]).tolist() == [0, 2, 1, 3]


def test_the_modules_import_without_torch() -> None:
    modules = "aggregates, labels, metrics, popularity"
    check = f"import sys; from userbert.tasks import {modules}; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", check], check=False).returncode == 0


def test_all_history_columns_exclude_shorter_windows() -> None:
    names = ["shop=a, 7d", "shop=a, ever", "days since the last action", "shop=90d", "n, 90d"]
    assert all_history_columns(names).tolist() == [1, 2, 3]
