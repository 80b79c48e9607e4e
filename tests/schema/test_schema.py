"""Schemas: what is accepted, what is rejected, and the messages."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from userbert.errors import SchemaError
from userbert.schema import Schema
from userbert.schema.models import ActionColumn, DayWords, GapWords, Time
from userbert.schema.strict import format_duration, parse_duration, to_instant
from userbert.schema.yaml_text import format_scalar, read_mapping, write_mapping

TEXT = """
user: customer
timezone: Europe/Berlin
sources:
  log: {path: log.csv, time: {column: at}, action: buy}
attributes:
  genre: {column: genre}
  price: {column: price, bins: 4, min: 0}
  hour: {of: hour}
segments:
  long_term:
    words: {by: day}
    window: {from: 90d, to: 7d}
    actions: [buy]
    attributes: [genre, price, hour]
  short_term: {words: {by: gap}, window: 7d, actions: [buy], attributes: [genre]}
profile: {path: people.csv, fields: {age: {column: age, bins: 5}}}
fit_before: 2024-03-31
"""


def schema(old: str = "", new: str = "") -> Schema:
    """Returns the schema above with `old` replaced by `new`."""
    assert old in TEXT
    return Schema.parse(TEXT.replace(old, new))


def errors(old: str, new: str) -> list[str]:
    """Returns the error lines of the schema above with `old` replaced by `new`."""
    with pytest.raises(SchemaError) as caught:
        schema(old, new)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("the schema") for line in lines)
    assert all(line.endswith((".", "?")) for line in lines)
    return [line.removeprefix("the schema: ") for line in lines]


def test_dump_is_parsed_to_an_equal_schema() -> None:
    once = schema()
    assert Schema.parse(once.dump()) == once
    assert Schema.parse(once.dump()).dump() == once.dump()


def test_defaults_equal_those_of_the_paper() -> None:
    long, short = schema().segments["long_term"], schema().segments["short_term"]
    assert isinstance(long.words, DayWords)
    assert isinstance(short.words, GapWords)
    assert long.words.start == time(4)
    assert short.words.gap_us == 30 * 60 * 1_000_000
    assert long.max_words == short.max_words == 128


def test_a_window_is_a_duration_or_a_pair() -> None:
    segments = schema().segments
    assert segments["long_term"].window.from_ == timedelta(days=90)
    assert segments["long_term"].window.to == timedelta(days=7)
    assert segments["short_term"].window.from_ == timedelta(days=7)
    assert segments["short_term"].window.to is None


def test_short_forms_equal_long_forms() -> None:
    assert schema("time: {column: at}", "time: at") == schema()
    assert schema("path: log.csv", "path: [log.csv]").sources["log"].path == ["log.csv"]
    column = schema("action: buy", "action: {column: kind}").sources["log"].action
    assert column == ActionColumn(column="kind")


def test_special_words_of_yaml_1_1_are_text() -> None:
    content = read_mapping(
        "on: 04:00\nyes: no\nday: 2024-01-01\nfact: true\nn: 012\nm: 1e3", "text"
    )
    written = {"on": "04:00", "yes": "no", "day": "2024-01-01", "fact": True, "n": 12, "m": 1000.0}
    assert content == written
    words = schema("words: {by: day}", "words: {by: day, starts_at: 05:30}")
    assert words.segments["long_term"].words == DayWords(by="day", starts_at="05:30")
    named_on = schema("  genre: {column: genre}", "  genre: {column: genre}\n  on: {column: off}")
    assert "on" in named_on.attributes


@given(st.text(st.characters(codec="utf-8"), max_size=30))
@example("08")
@example("on")
@example("1e5")
@example("0\x85")
@example("a\u2028b: #c")
def test_any_text_survives_writing_and_reading(text: str) -> None:
    assert read_mapping(f"key: {format_scalar(text)}", "text") == {"key": text}
    assert read_mapping(f"{{{format_scalar(text)}: 1}}", "text") == {text: 1}
    assert read_mapping(write_mapping({text: [text]}), "text") == {text: [text]}


@given(st.integers(1, 999_999), st.sampled_from("wdhms"))
def test_duration_survives_formatting_and_parsing(count: int, unit: str) -> None:
    seconds = count * {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}[unit]
    if seconds > 36_500 * 86_400:
        with pytest.raises(ValueError, match="at most 36500d"):
            parse_duration(f"{count}{unit}")
        return
    duration = parse_duration(f"{count}{unit}")
    assert duration.total_seconds() == seconds
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("text", ["7", "7 days", "-7d", "0d", "7D", "1.5h", "", "9999999d"])
def test_invalid_duration_is_rejected(text: str) -> None:
    assert errors("window: 7d", f'window: "{text}"') == [
        "segments.short_term.window.from: expected a duration such as 90d, 12h or 30m, "
        f"found {text!r}."
    ]


@pytest.mark.parametrize(
    ("moment", "instant"),
    [
        ("2024-01-01", datetime(2023, 12, 31, 23, tzinfo=UTC)),
        ("2024-07-01T04:00", datetime(2024, 7, 1, 2, tzinfo=UTC)),
        ("2024-07-01T04:00+00:00", datetime(2024, 7, 1, 4, tzinfo=UTC)),
        (date(2024, 1, 1), datetime(2023, 12, 31, 23, tzinfo=UTC)),
        (datetime(2024, 1, 1, 0, 0, 0, 1), datetime(2023, 12, 31, 23, 0, 0, 1, tzinfo=UTC)),
    ],
)
def test_naive_times_are_local(moment: str | date, instant: datetime) -> None:
    assert schema().instant(moment) == round(instant.timestamp() * 1e6)


def test_invalid_time_is_rejected() -> None:
    with pytest.raises(SchemaError, match="expected a date or time such as 2017-09-01"):
        to_instant("soon", schema().zone)


@pytest.mark.parametrize("text", ["2024-03-31", "2024-03-31T00:00", "2024-03-30T23:00:00Z"])
def test_fit_before_is_an_instant(text: str) -> None:
    assert schema("2024-03-31", text).fit_before_us == schema().instant("2024-03-31")
    assert schema("fit_before: 2024-03-31", "").fit_before_us is None


def test_relative_paths_start_at_the_schemas_folder(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(TEXT)
    assert Schema.load(tmp_path / "schema.yaml").folder == tmp_path


def test_unreadable_schema_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"cannot be read: No such file.*userbert init"):
        Schema.load(tmp_path / "schema.yaml")
    (tmp_path / "schema.yaml").write_bytes("user: a\n# caf\xe9".encode("latin1"))
    with pytest.raises(SchemaError, match=r"yaml, line 2: expected UTF-8 text, found .* 0xe9"):
        Schema.load(tmp_path / "schema.yaml")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("user: customer", "usr: customer", "usr: unknown key 'usr'; did you mean 'user'?"),
        ("action: buy", "actoin: buy", "unknown key 'actoin'; did you mean 'action'?"),
        ("{column: genre}", "{column: genre, max_value: 3}", "did you mean 'max_values'?"),
        ("{column: at}", "{column: at, zones: UTC}", "did you mean 'zone'?"),
        ("{from: 90d, to: 7d}", "{from: 90d, too: 7d}", "did you mean 'to'?"),
        ("words: {by: gap}", "words: {by: gap, minute: 5}", "did you mean 'minutes'?"),
        ("window: 7d,", "window: 7d, max_word: 9,", "did you mean 'max_words'?"),
        ("path: people.csv", "paths: people.csv", "did you mean 'path'?"),
        ("attributes: [genre]", "attributes: [gnre]", "did you mean 'genre'?"),
        ("actions: [buy], a", "actions: [by], a", "did you mean 'buy'?"),
    ],
)
def test_misspelt_name_is_reported_with_the_closest_one(old: str, new: str, expected: str) -> None:
    assert any(line.endswith(expected) for line in errors(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("user: customer", "user: 3", "user: expected text, found 3; put it in quotes."),
        ("user: customer", "user:", "user: expected text, found nothing."),
        ("Europe/Berlin", "Berlin", "timezone: unknown time zone 'Berlin'; use an IANA name such "
         "as Europe/Berlin."),
        ("{column: at}", "{column: at, zone: here}", "sources.log.time.zone: unknown time zone "
         "'here'; use an IANA name such as Europe/Berlin."),
        ("{column: at}", "{column: at, unit: ns}", "sources.log.time.unit: expected 'auto', 's', "
         "'ms' or 'us', found 'ns'."),
        ("action: buy", "action: 3", "sources.log.action: expected text, found 3; put it in "
         "quotes."),
        ("action: buy", "action: {}", "sources.log.action.column: this key is missing."),
        ("path: log.csv", "path: []", "sources.log.path: expected at least one, found none."),
        ("path: log.csv", "path: [a, 3]", "sources.log.path.1: expected text, found 3; put it in "
         "quotes."),
        ("genre: {column: genre}", "genre: genre", "attributes.genre: expected keys, found "
         "'genre'."),
        ("{column: genre}", "{column: genre, min: 0}", "attributes.genre.bins: this key is "
         "missing."),
        ("bins: 4", "bins: 1", "attributes.price.bins: expected at least 2, found 1."),
        ("min: 0", "min: .nan", "attributes.price.min: expected a number, found nan."),
        ("of: hour", "of: minute", "attributes.hour.of: expected 'hour', 'weekday' or 'action', "
         "found 'minute'."),
        ("by: day", "by: week", "segments.long_term.words: expected 'day' or 'gap', found "
         "'week'."),
        ("words: {by: day}", "words: {}", "segments.long_term.words: the key 'by' is missing."),
        ("{by: day}", "{by: day, starts_at: 4:00}", "segments.long_term.words.starts_at: expected "
         "a time of day such as \"04:00\", found '4:00'."),
        ("{from: 90d, to: 7d}", "{from: 7d, to: 7d}", "segments.long_term.window: a window's "
         "`from` must be longer ago than its `to`."),
        ("attributes: [genre]", "attributes: []", "segments.short_term.attributes: expected at "
         "least one, found none."),
        ("attributes: [genre]", "attributes: [genre, genre]", "segments.short_term.attributes: a "
         "name appears twice in ['genre', 'genre']."),
        ("short_term:", "shortterm:", "segments: expected long_term or short_term, found "
         "'shortterm'."),
        ("actions: [buy], a", "actions: [sell], a", "segments.short_term.actions: no source has "
         "the action 'sell'."),
        ("age: {", "time: {", "'time' is a reserved name; rename the attribute or field."),
        ("{column: age, bins: 5}", "{of: hour, column: age}", "profile.fields.age.of: unknown key "
         "'of'."),
        ("2024-03-31", "2024-02-30", "fit_before: expected a date or time such as 2017-09-01, "
         "found '2024-02-30'."),
        ("2024-03-31", "2024", "fit_before: expected a date or time such as 2017-09-01, found "
         "2024."),
    ],
)  # fmt: skip
def test_error_is_one_line_in_terms_of_the_file(old: str, new: str, expected: str) -> None:
    assert errors(old, new) == [expected]


def test_all_errors_are_reported_at_once() -> None:
    assert len(errors(TEXT, "user: 3\nsources: {}\nfit: 1")) == 5


@pytest.mark.parametrize("name", ["category", "number", "day", "time", "window", "profile"])
def test_errors_are_reported_for_names_that_are_keys_elsewhere(name: str) -> None:
    lines = errors(
        "  genre: {column: genre}", f"  {name}: {{colum: genre}}\n  genre: {{column: g}}"
    )
    assert f"attributes.{name}.colum: unknown key 'colum'; did you mean 'column'?" in lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected keys such as `user:`"),
        ("- user", "expected keys such as `user:`"),
        ("user: [", "line 1: not YAML"),
        ("user: a\nuser: b", "line 2: not YAML: the key 'user' appears twice."),
        ("user: \0", "not YAML"),
        ("user: !!python/object/apply:os.getcwd []", "line 1: not YAML"),
        ("[" * 1500, "not YAML"),
    ],
)
def test_text_that_is_not_a_yaml_mapping_gives_one_line(text: str, expected: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Schema.parse(text, name="schema.yaml")
    assert str(caught.value).startswith("schema.yaml")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dates_without_a_zone_are_local() -> None:
    assert Time.model_validate({"column": "day", "resolution": "day"}).zone == "local"
    utc = {"column": "day", "resolution": "day", "zone": "UTC"}
    assert Time.model_validate(utc).zone == "UTC"
    assert Time.model_validate("at") == Time(column="at")
