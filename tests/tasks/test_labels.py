"""Labels depend only on events at or after the cut-off."""

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handmade import instant, make_data
from userbert.data.store import PreparedData
from userbert.data.use.pairs import Pairs, pairs_at, read_pairs
from userbert.errors import InputError, LabelError
from userbert.tasks.labels import (
    Labels,
    label_attribute,
    label_next,
    label_response,
    label_return,
)

PAST = [(user, "2020-01-01T12:00", "purchase", "date", None) for user in ("ann", "bob", "cid")]
CUTOFF = "2020-02-01T12:00"
PEOPLE = [("ann", "old", "0"), ("bob", "young", "2"), ("cid", "old", None), ("dan", "old", "1")]


def at(data: PreparedData, cutoff: str = CUTOFF) -> Pairs:
    return pairs_at(data, [instant(cutoff)])


def answers(labels: Labels) -> dict[str, object]:
    if labels.kind == "multilabel":
        sets = [{labels.classes[c] for c in np.flatnonzero(row)} for row in labels.targets]
        return dict(zip(labels.user_ids, sets, strict=True))
    return dict(zip(labels.user_ids, labels.targets.tolist(), strict=True))


def test_next_holds_the_first_word_at_or_after_the_cutoff(tmp_path: Path) -> None:
    data = make_data(
        tmp_path / "data",
        [
            *PAST,
            ("ann", CUTOFF, "click", "apple", None),  # at the cut-off: of the next word
            ("ann", CUTOFF, "click", "bread", None),  # at the same instant
            ("ann", "2020-02-01T12:30", "click", "cheese", None),  # 30 minutes: the same word
            ("ann", "2020-02-01T13:01", "click", "date", None),  # the word after
            ("bob", "2020-02-03T12:00", "click", "unheard of", None),  # no known value
            ("bob", "2020-02-04T12:00", "click", "apple", None),
            ("dan", "2020-02-01T12:10", "click", "apple", None),  # nothing before the cut-off
        ],
    )
    labels = label_next(data, "genre", at(data))
    assert answers(labels) == {"ann": {"apple", "bread", "cheese"}}
    assert labels.attribute == ("short_term", "genre")
    assert labels.classes == ("apple", "bread", "cheese", "date")


def test_only_the_part_of_a_word_after_the_cutoff_counts(tmp_path: Path) -> None:
    data = make_data(
        tmp_path / "data",
        [
            ("ann", "2020-02-01T11:50", "click", "apple", None),
            ("ann", "2020-02-01T12:10", "click", "bread", None),
            ("ann", "2020-02-01T12:20", "click", "cheese", None),
            ("ann", "2020-02-02T12:20", "click", "date", None),
        ],
    )
    assert answers(label_next(data, "genre", at(data))) == {"ann": {"bread", "cheese"}}


def test_an_unknown_segment_is_refused_with_the_segments(tmp_path: Path) -> None:
    data = make_data(
        tmp_path / "data",
        [*PAST, ("ann", CUTOFF, "click", "apple", None)],
    )
    with pytest.raises(LabelError, match=r"no segment 'shortterm'\. Did you mean 'short_term'\?"):
        label_next(data, "genre", at(data), segment="shortterm")
    with pytest.raises(LabelError, match=r"Choose one of: long_term, short_term\."):
        label_next(data, "genre", at(data), segment="x")
    with pytest.raises(LabelError, match="segment 'long_term' has no attribute 'genres'"):
        label_next(data, "genres", at(data), segment="long_term")


def test_the_horizon_ends_before_its_last_instant(tmp_path: Path) -> None:
    inside, border = "2020-02-08T11:59:59.999999", "2020-02-08T12:00"
    data = make_data(
        tmp_path / "data",
        [
            *PAST,
            ("ann", inside, "click", "apple", None),
            ("bob", border, "click", "apple", None),
            ("cid", "2020-03-01T12:00", "click", "apple", None),
        ],
    )
    assert answers(label_return(data, at(data), "7d")) == {"ann": 1, "bob": 0, "cid": 0}
    assert answers(label_next(data, "genre", at(data), horizon="7d")) == {"ann": {"apple"}}


def test_return_counts_an_event_at_the_cutoff_and_none_before(tmp_path: Path) -> None:
    data = make_data(
        tmp_path / "data",
        [
            *PAST,
            ("ann", CUTOFF, "click", None, None),
            ("bob", "2020-02-01T11:59:59.999999", "purchase", "apple", None),
            ("dan", "2020-03-01T12:00", "click", None, None),
        ],
    )
    assert answers(label_return(data, at(data), "7d")) == {"ann": 1, "bob": 0, "cid": 0}


def test_return_refuses_a_horizon_beyond_the_data(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", [*PAST, ("ann", "2020-02-05", "click", None, None)])
    with pytest.raises(LabelError, match="not known yet"):
        label_return(data, at(data), "7d")


event_times = st.lists(st.integers(-5, 9), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(event_times, st.integers(1, 5))
def test_events_before_the_cutoff_change_no_label(
    tmp_path_factory: pytest.TempPathFactory, days: list[int], horizon: int
) -> None:
    base = instant(CUTOFF)
    past = ("ann", "2020-01-01T12:00", "purchase", "apple", None)
    far = ("bob", "2020-03-01T12:00", "purchase", "apple", None)
    first = ("bob", "2020-01-01T12:00", "purchase", "apple", None)

    def when(day: int) -> str:
        stamp = pl.Series([base + day * 86_400_000_000]).cast(pl.Datetime("us"))
        return str(stamp.dt.to_string("iso:strict")[0])

    events = [("ann", when(day), "purchase", "bread", None) for day in days]
    data = make_data(tmp_path_factory.mktemp("a") / "data", [past, first, far, *events])
    expected = int(any(0 <= day < horizon for day in days))
    if expected:  # a label of one class is refused
        assert answers(label_return(data, at(data), f"{horizon}d")) == {"ann": 1, "bob": 0}
    else:
        with pytest.raises(LabelError, match="all 2 labels are 0"):
            label_return(data, at(data), f"{horizon}d")


def test_attribute_hides_its_field_and_leaves_out_the_unknown(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", PAST, PEOPLE)
    labels = label_attribute(data, at(data), "kids", ["1", "2"], hide=["age", "kids"])
    assert answers(labels) == {"ann": 0, "bob": 1}
    assert labels.hide == ("kids", "age")
    with pytest.raises(LabelError, match="no value 'many'"):
        label_attribute(data, at(data), "kids", ["many"])
    with pytest.raises(LabelError, match="Did you mean 'kids'"):
        label_attribute(data, at(data), "kid", ["1"])


def test_response_takes_all_negatives_or_a_drawn_share(tmp_path: Path) -> None:
    people = [f"user{i:02}" for i in range(20)]
    events = [(user, "2020-01-01T12:00", "purchase", "date", None) for user in people]
    data = make_data(tmp_path / "data", events)
    responders = [*people[:3], "never seen"]
    everyone = label_response(data, at(data), responders)
    assert sum(everyone.targets) == 3
    assert len(everyone) == 20
    audience = label_response(data, at(data), responders, among=people[2:10])
    assert set(audience.user_ids) == set(people[:10])
    drawn = label_response(data, at(data), responders, negatives=3, seed=5)
    assert len(drawn) == 12
    again = label_response(data, at(data), responders, negatives=3, seed=5)
    assert answers(drawn) == answers(again)
    assert answers(drawn) != answers(
        label_response(data, at(data), responders, negatives=3, seed=6)
    )
    with pytest.raises(LabelError, match="Write the ids as in the logs"):
        label_response(data, at(data), ["7"])


def test_several_cutoffs_make_several_pairs_per_user(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", [*PAST, ("ann", "2020-02-20", "click", "apple", None)])
    moments = (CUTOFF, "2020-02-10T12:00", CUTOFF)
    pairs = pairs_at(data, [instant(moment) for moment in moments])
    assert len(pairs) == 6  # of three users; a repeated cut-off counts once
    labels = label_return(data, pairs, "10d")
    rows = zip(labels.user_ids, labels.cutoffs.tolist(), labels.targets.tolist(), strict=True)
    assert {(user, cutoff) for user, cutoff, target in rows if target} == {
        ("ann", instant(moments[1]))
    }
    assert labels.user_ids.count("ann") == 2


def test_labels_survive_saving(tmp_path: Path) -> None:
    later = [("ann", "2020-02-02T12:00", "click", g, None) for g in ("apple", "date")]
    data = make_data(
        tmp_path / "data", [*PAST, *later, ("bob", "2020-02-09", "click", "bread", None)], PEOPLE
    )
    for labels in (
        label_next(data, "genre", at(data), horizon="60d"),
        label_return(data, at(data), "3d"),
        label_attribute(data, at(data), "kids", ["2"], ["age"]),
    ):
        labels.save(tmp_path / f"{labels.name}.parquet")
        loaded = Labels.load(tmp_path / f"{labels.name}.parquet", data)
        for field in ("name", "question", "kind", "user_ids", "classes", "attribute", "hide"):
            assert getattr(loaded, field) == getattr(labels, field)
        assert loaded.horizon == labels.horizon
        np.testing.assert_array_equal(loaded.cutoffs, labels.cutoffs)
        np.testing.assert_array_equal(loaded.targets, labels.targets)
        assert loaded.targets.dtype == labels.targets.dtype


def load(tmp_path: Path, **columns: object) -> Labels:
    data = make_data(tmp_path / "data", PAST, PEOPLE)
    pl.DataFrame(columns).write_parquet(tmp_path / "mine.parquet")
    return Labels.load(tmp_path / "mine.parquet", data)


def test_own_labels_are_read_with_naive_cutoffs_in_the_schemas_zone(tmp_path: Path) -> None:
    labels = load(
        tmp_path, user_id=["ann", "bob"], label=[True, False], cutoff=[datetime(2020, 2, 1, 7)] * 2
    )
    assert labels.cutoffs.tolist() == [instant("2020-02-01T12:00")] * 2
    assert labels.kind == "binary"
    assert labels.name == "mine"


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([1, 0, 1], "binary", ()),
        ([1.0, 0.0, 1.0], "binary", ()),
        (["yes", "No", "no"], "binary", ()),
        ([3, 1, 2], "multiclass", ("1", "2", "3")),
        (["b", "a", "b"], "multiclass", ("a", "b")),
        ([0.5, 1.5, 2.0], "regression", ()),
        (["100205", "110333", "530110.5"], "multiclass", ("100205", "110333", "530110.5")),
        ([["b"], ["a", "b"], []], "multilabel", ("a", "b")),
    ],
)
def test_the_kind_is_inferred_from_the_labels(
    tmp_path: Path, values: list[object], kind: str, classes: tuple[str, ...]
) -> None:
    labels = load(tmp_path, user_id=["ann", "bob", "cid"], label=values)
    assert labels.kind == kind
    assert labels.classes == classes
    assert set(labels.cutoffs.tolist()) == {instant("2020-01-01T12:00") + 1}
    if kind == "multilabel":
        assert labels.targets.tolist() == [[False, True], [True, True], [False, False]]


def test_labels_may_be_text_files(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", PAST)
    file = tmp_path / "churn.csv"
    file.write_text("user_id,cutoff,label\nann,2020-02-01,0\nbob,2020-02-01T00:00-05:00,1\n")
    labels = Labels.load(file, data)
    assert labels.targets.tolist() == [0, 1]
    assert len(set(labels.cutoffs.tolist())) == 1
    assert len(read_pairs(file, data)) == 2


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["3", "1", "2"], "multiclass", ("1", "2", "3")),
        (["0.5", "1.5", "2"], "regression", ()),
        (["0.5", "1.5", "two"], "multiclass", ("0.5", "1.5", "two")),
    ],
)
def test_numbers_in_text_files_are_numbers(
    tmp_path: Path, values: list[str], kind: str, classes: tuple[str, ...]
) -> None:
    data = make_data(tmp_path / "data", PAST)
    file = tmp_path / "mine.csv"
    pl.DataFrame({"user_id": ["ann", "bob", "cid"], "label": values}).write_csv(file)
    labels = Labels.load(file, data)
    assert (labels.kind, labels.classes) == (kind, classes)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["ann", "eve"], "label": [0, 1]}, "1 of 2 users are not in .* row 2: eve"),
        ({"user_id": ["ann", "bob"], "label": [1, 1]}, "all 2 labels are 1"),
        ({"user_id": ["ann", "bob"], "label": [1, None]}, "row 2, column label: expected a value"),
        (
            {"user_id": ["ann", "ann"], "label": [1, 0]},
            "user ann .* in the rows 1, 2",
        ),
        ({"user": ["ann", "bob"], "label": [1, 0]}, "expected a column user_id, found user, label"),
        ({"user_id": ["ann", "bob"], "churn": [1, 0]}, "expected a column label"),
        ({"user_id": ["ann"], "label": [1], "cutoff": [3.5]}, "expected dates or times"),
        ({"user_id": ["ann"], "label": [1], "cutoff": ["soon"]}, "expected a date or time"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_advice(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        load(tmp_path, **columns)


def test_a_damaged_file_is_an_input_error(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", PAST)
    (tmp_path / "labels.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match=r"labels\.parquet"):
        Labels.load(tmp_path / "labels.parquet", data)
