"""Vocabularies: ids of values, and bins of numbers."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_logs import SCHEMA, buys, log, prepare_events
from userbert.data.vocabulary import Bins, Categories, Vocabularies, countable

FLOATS = st.floats(-(2.0**127), 2.0**127, width=32)


def counts(*rows: tuple[str | None, int, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["value", "count", "users"], orient="row")


def numbers(*values: float) -> pl.DataFrame:
    series = pl.Series("value", values, pl.Float32)
    return pl.DataFrame({"value": series}).group_by("value").agg(pl.len().alias("count"))


def bins_of(bins: Bins, *values: float) -> list[int]:
    ids: list[int] = bins.ids(np.array(values, np.float32)).tolist()
    return ids


def test_values_are_sorted_by_falling_count_and_ties_by_value() -> None:
    fitted = Categories.fit(
        counts(("b", 2, 1), ("ä", 2, 1), ("a", 2, 1), ("z", 9, 1), (None, 99, 1)), 100, 1
    )
    assert fitted.values == ("z", "a", "b", "ä")
    assert fitted.size == 6
    assert fitted.names == ["(none)", "(unknown)", "z", "a", "b", "ä"]


def test_null_is_none_and_an_uncounted_value_is_unknown() -> None:
    fitted = Categories(("z", "a"))
    for dtype in (pa.string(), pa.large_string()):
        ids = fitted.encode(pa.array(["a", None, "b", "z", ""], dtype))
        assert ids.tolist() == [3, 0, 1, 2, 1]
        assert ids.dtype == np.int32
    assert Categories(()).encode(pa.array(["a", None])).tolist() == [1, 0]
    assert fitted.encode(pa.array([], pa.string())).tolist() == []


def test_only_max_values_values_of_min_users_users_get_ids() -> None:
    table = counts(("a", 9, 1), ("b", 3, 3), ("c", 2, 2), ("d", 8, 3))
    assert Categories.fit(table, 100, 2).values == ("d", "b", "c")
    assert Categories.fit(table, 2, 2).values == ("d", "b")
    assert Categories.fit(table, 2, 4).values == ()


def test_rare_values_of_a_log_become_unknown(tmp_path: Path) -> None:
    events = pl.concat(
        [
            buys("a", "2017-01-01 10:00", "2017-01-01 11:00", genre="wine"),
            buys("a", "2017-01-01 10:00", genre="bread"),
            buys("b", "2017-01-01 10:00", genre="bread"),
            buys("b", "2017-01-01 10:00", genre=None),
        ]
    )
    data = prepare_events(
        tmp_path, events, SCHEMA.replace("{column: genre}", "{column: genre, min_users: 2}")
    )
    assert data.vocabularies.segments["long_term"]["genre"] == Categories(("bread",))


def test_an_event_at_fit_before_does_not_count(tmp_path: Path) -> None:
    events = log(
        ("a", "2017-01-01 11:59:59.999999", "buy", "bread", 1.0),
        ("a", "2017-01-01 12:00:00", "buy", "wine", 2.0),
        ("a", "2017-01-01 12:00:00.000001", "buy", "milk", 3.0),
    )
    data = prepare_events(tmp_path, events, SCHEMA + "fit_before: 2017-01-01T12:00")
    fitted = data.vocabularies.segments["long_term"]
    assert fitted["genre"] == Categories(("bread",))
    assert fitted["hour"] == Categories(("11",))
    assert fitted["price"] == Bins(())


def test_a_profile_at_fit_before_does_not_count(tmp_path: Path) -> None:
    people = pl.DataFrame(
        {"user": ["a", "a"], "time": ["2016-12-31 23:59:59", "2017-01-01"], "age": ["old", "new"]}
    )
    schema = SCHEMA + (
        "profile: {path: p.csv, time: {column: time, zone: local}, fields: {age: {column: age}}}\n"
    )
    events = buys("a", "2016-06-01")
    data = prepare_events(tmp_path, events, schema + "fit_before: 2017-01-01", profile=people)
    assert data.vocabularies.profile["age"] == Categories(("old",))
    timeless = schema.replace("time: {column: time, zone: local}, fields", "fields")
    data = prepare_events(
        tmp_path, events, timeless + "fit_before: 2017-01-01", profile=people.head(1)
    )
    assert data.vocabularies.profile["age"] == Categories(("old",))


def test_each_segment_counts_its_own_actions(tmp_path: Path) -> None:
    data = prepare_events(tmp_path, CLICKS_AND_BUYS)
    segments = data.vocabularies.segments
    assert segments["long_term"]["genre"] == Categories(("bread", "milk"))
    assert segments["short_term"]["genre"] == Categories(("wine", "bread", "milk"))


def test_a_shared_attribute_counts_every_event_once(tmp_path: Path) -> None:
    schema = SCHEMA.replace("{column: genre}", "{column: genre, share: true}")
    segments = prepare_events(tmp_path, CLICKS_AND_BUYS, schema).vocabularies.segments
    assert segments["long_term"]["genre"] == Categories(("wine", "bread", "milk"))
    assert segments["short_term"]["genre"] == segments["long_term"]["genre"]


def test_a_shared_attribute_counts_every_user_once(tmp_path: Path) -> None:
    schema = SCHEMA.replace("{column: genre}", "{column: genre, share: true, min_users: 2}")
    segments = prepare_events(tmp_path, CLICKS_AND_BUYS, schema).vocabularies.segments
    assert segments["long_term"]["genre"] == Categories(("wine",))


CLICKS_AND_BUYS = log(
    ("a", "2017-01-01 10:00", "buy", "bread", 1.0),
    ("a", "2017-01-01 10:00", "buy", "bread", 1.0),
    ("a", "2017-01-01 10:00", "buy", "milk", 1.0),
    ("a", "2017-01-01 10:00", "click", "wine", None),
    ("b", "2017-01-01 10:00", "click", "wine", None),
    ("b", "2017-01-01 10:00", "click", "wine", None),
)


def test_bins_hold_equal_shares() -> None:
    bins = Bins.fit(numbers(*range(8)), 4)
    assert bins == Bins((2.0, 4.0, 6.0))
    assert bins_of(bins, *range(8)) == [2, 2, 3, 3, 4, 4, 5, 5]
    assert bins.size == 6
    assert bins.names[2:] == ["below 2", "2 to 4", "4 to 6", "6 or more"]


def test_an_edge_belongs_to_the_upper_bin_and_nan_to_none() -> None:
    assert bins_of(Bins((2.0, 4.0)), 1.999, 2.0, 3.999, 4.0, np.nan, -1e30, 1e30) == [
        2, 3, 3, 4, 0, 2, 4,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ((), ()),
        ((float("nan"),), ()),
        ((5.0,), ()),
        ((5.0, 5.0, 5.0), ()),
        ((1.0, 2.0), (2.0,)),
        ((1.0,) * 9 + (2.0,), ()),
        ((1.0,) + (2.0,) * 9, (2.0,)),
        ((-1.0, 0.0, 1.0), (0.0, 1.0)),
    ],
)
def test_few_values_make_few_bins(values: tuple[float, ...], edges: tuple[float, ...]) -> None:
    assert Bins.fit(numbers(*values), 4) == Bins(edges)


@given(st.lists(FLOATS, min_size=1, max_size=50), st.integers(2, 9))
def test_every_bin_holds_some_fitted_number(values: list[float], bins: int) -> None:
    series = pl.Series("value", values, pl.Float32)
    fitted = Bins.fit(numbers(*countable(series)), bins)
    assert fitted.size <= bins + 2
    assert sorted(set(bins_of(fitted, *values))) == list(range(2, fitted.size))
    assert set(fitted.edges) <= set(countable(series))


@given(st.lists(FLOATS, min_size=1))
def test_countable_rounds_down_slightly_and_keeps_the_order(values: list[float]) -> None:
    exact = np.sort(np.array(values, np.float32))
    rounded = countable(pl.Series(exact)).to_numpy()
    assert (np.diff(rounded) >= 0).all()
    assert (rounded <= exact).all()
    normal = np.abs(exact) > 1e-30
    assert np.allclose(rounded[normal], exact[normal], rtol=2.0**-11, atol=0)


def test_countable_keeps_small_integers_and_nan() -> None:
    integers = np.arange(-4096, 4097, dtype=np.float32)
    assert countable(pl.Series(integers)).to_numpy().tolist() == integers.tolist()
    assert countable(pl.Series([float("nan")], dtype=pl.Float32)).is_nan().all()
    assert not np.signbit(countable(pl.Series([-0.0], dtype=pl.Float32))[0])


def test_refunds_of_different_amounts_have_different_bins() -> None:
    # Neither number fits 12 bits. Rounding towards zero would put the edge above its first number.
    fitted = Bins.fit(numbers(*countable(pl.Series([-5.99, -2.99], dtype=pl.Float32))), 2)
    assert bins_of(fitted, -5.99, -2.99) == [2, 3]


def test_numbers_are_binned_on_reading_only() -> None:
    encoded = Bins((2.0,)).encode(pa.array([1.5, None, -0.0, float("nan")], pa.float32()))
    assert encoded.dtype == np.float32
    assert encoded[:1].tolist() == [1.5]
    assert np.isnan(encoded[[1, 3]]).all()
    assert not np.signbit(encoded[2])


def test_vocabularies_survive_json() -> None:
    genre = Categories(("bread", "süß", "🛒", 'a "quoted" value', ""))
    vocabularies = Vocabularies(
        {"long_term": {"genre": genre, "price": Bins((0.1, 2.5))}, "short_term": {"genre": genre}},
        {"age": Categories(())},
    )
    again = Vocabularies.from_json(json.loads(json.dumps(vocabularies.to_json())))
    assert again == vocabularies
    assert again.fingerprint == vocabularies.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        Vocabularies({"long_term": {"genre": Categories(("b", "a"))}}, {}),
        Vocabularies({"long_term": {"genre": Categories(("a", "b", "c"))}}, {}),
        Vocabularies({"short_term": {"genre": Categories(("a", "b"))}}, {}),
        Vocabularies({}, {"genre": Categories(("a", "b"))}),
        Vocabularies({"long_term": {"genre": Bins((1.0,))}}, {}),
    ],
)
def test_other_ids_have_another_fingerprint(other: Vocabularies) -> None:
    vocabularies = Vocabularies({"long_term": {"genre": Categories(("a", "b"))}}, {})
    assert vocabularies.fingerprint != other.fingerprint
