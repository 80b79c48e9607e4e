"""Invalid schemas, given to `prepare` on the command line: one table per kind."""

from pathlib import Path

import pytest

from command_line import Userbert

SCHEMA = """user: user
sources:
  log: {path: log.csv, time: {column: time}, action: {column: action}}
attributes:
  genre: {column: genre}
  price: {column: price, bins: 4, min: 0}
segments:
  long_term: {words: {by: day}, window: 90d, actions: [view, buy], attributes: [genre, price]}
"""
LOG = "user,time,action,genre,price\nu1,2024-01-01T10:00:00,view,tea,1\n"
NO_KEYS = ": expected keys such as `user:` and `sources:`, found "

NOT_A_SCHEMA: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", f"{NO_KEYS}nothing. `userbert init LOGS` proposes a schema."),
    "a comment": ("# user: user\n", f"{NO_KEYS}nothing."),
    "a list": ("- user: user\n", f"{NO_KEYS}[{{'user': 'user'}}]."),
    "a word": ("user\n", f"{NO_KEYS}'user'."),
    "a bracket left open": (
        SCHEMA.replace("genre}", "genre"), ", line 6: not YAML: expected ',' or '}', but got ':'.",
    ),
    "a tab": (
        SCHEMA.replace("  log", "\tlog"),
        ", line 3: not YAML: found character '\\t' that cannot start any token. Indent with",
    ),
    "two documents": (
        f"{SCHEMA}---\n{SCHEMA}",
        ", line 9: not YAML: expected a single document in the stream, but found another document.",
    ),
    "a list as a key": (
        f"{SCHEMA}? [a]\n: 1\n",
        ", line 9: not YAML: expected text as a key, found a list or a mapping.",
    ),
    "a log": (b"PAR1\x15\x04\xff\n", ", line 1: expected UTF-8 text, found the byte 0xff."),
    "latin-1": (
        SCHEMA.replace("genre", "g\xe4nre").encode("latin1"),
        ", line 5: expected UTF-8 text, found the byte 0xe4. Save it as UTF-8, or check the path.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_A_SCHEMA)
def test_file_that_is_not_a_schema_is_rejected(
    userbert: Userbert, tmp_path: Path, case: str
) -> None:
    text, expected = NOT_A_SCHEMA[case]
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "schema.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    refusal = userbert("prepare", "schema.yaml", "-o", "data").refusal
    assert refusal.startswith(f"schema.yaml{expected}")


ZONE = "use an IANA name such as Europe/Berlin."
EDITED: dict[str, tuple[str, str, str]] = {
    "a misspelt key": (
        "segments:", "segmnts:", "segmnts: unknown key 'segmnts'; did you mean 'segments'?",
    ),
    "a misspelt key inside": (
        "bins: 4", "bin: 4", "attributes.price.bin: unknown key 'bin'; did you mean 'bins'?",
    ),
    "a misspelt attribute": (
        "[genre, price]", "[gnre, price]", "segments.long_term.attributes: 'gnre' is not among "
        "`attributes`; did you mean 'genre'?",
    ),
    "a misspelt segment": (
        "long_term:", "longterm:", "segments: expected long_term or short_term, found 'longterm'.",
    ),
    "a number as a key": (
        "user: user", "user: user\n3: 4", "3: expected text as a key; put it in quotes.",
    ),
    "no user": ("user: user\n", "", "user: this key is missing."),
    "a segment without actions": (
        "[view, buy]", "[]", "segments.long_term.actions: expected at least one, found none.",
    ),
    "an attribute that appears twice": (
        "  price: {", "  genre: {", ", line 6: not YAML: the key 'genre' appears twice.",
    ),
    "an attribute of two kinds": (
        "{column: genre}", "{column: genre, max_values: 5, bins: 4}",
        "attributes.genre.max_values: 'max_values' belongs to a category attribute, and `bins` or "
        "`min` to a number attribute; keep one of the two.",
    ),
    "an attribute derived of a column": (
        "{column: genre}", "{column: genre, of: hour}",
        "attributes.genre.column: 'column' belongs to a category attribute, and `of` to a derived "
        "attribute; keep one of the two.",
    ),
    "an unknown timezone": (
        "user: user", "user: user\ntimezone: Europe/Berln",
        f"timezone: unknown time zone 'Europe/Berln'; {ZONE}",
    ),
    "a path as timezone": (
        "user: user", "user: user\ntimezone: ../../etc/passwd",
        f"timezone: unknown time zone '../../etc/passwd'; {ZONE}",
    ),
    "an unknown zone of times": (
        "{column: time}", "{column: time, zone: CEST}",
        f"sources.log.time.zone: unknown time zone 'CEST'; {ZONE}",
    ),
    "no path": ("path: log.csv", "path: ''", "sources.log.path: expected text, found ''."),
    "a window beyond all": (
        "window: 90d", "window: 9999w",
        "segments.long_term.window.from: expected a duration of at most 36500d, found '9999w'.",
    ),
    "fit_before beyond all": (
        "user: user", "user: user\nfit_before: 9999-12-31T23:59:59-23:00",
        "fit_before: expected a time between 1900 and 2200, found 9999-12-31 23:59:59-23:00.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITED)
def test_invalid_schema_is_rejected(userbert: Userbert, tmp_path: Path, case: str) -> None:
    old, new, expected = EDITED[case]
    assert old in SCHEMA
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "schema.yaml").write_text(SCHEMA.replace(old, new))
    comma = "" if expected.startswith(",") else ": "
    refusal = userbert("prepare", "schema.yaml", "-o", "data").refusal
    assert refusal == f"schema.yaml{comma}{expected}"


MISSING = "does not exist, and as a pattern it matches no file"
UNFIT: dict[str, tuple[str, str, str]] = {
    "a file that is missing": ("log.csv", "lgo.csv", f"lgo.csv {MISSING}; did you mean 'log.csv'?"),
    "a lookup that is missing": (
        "action: {column: action}", "action: {column: action}, lookup: [{path: x.csv, on: genre}]",
        f"x.csv {MISSING}. Check the path",
    ),
    "profiles that are missing": (
        "user: user", "user: user\nprofile: {path: x.csv, fields: {age: {column: age}}}",
        f"x.csv {MISSING}. Check the path",
    ),
    "actions that no event has": (
        "[view, buy]", "[sell]",
        "log.csv: no event has an action type of a segment (sell); found: view. Correct `actions:`",
    ),
    "a column that is missing": (
        "{column: genre}", "{column: genr}",
        'log.csv: the column "genr" is missing (schema: attributes.genre.column); did you mean',
    ),
    "fit_before all events": (
        "user: user", "user: user\nfit_before: 2000-01-01",
        "fit_before: no event is before 2000-01-01 00:00:00, so vocabularies would be empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_schema_that_does_not_match_the_logs_is_rejected(
    userbert: Userbert, tmp_path: Path, case: str
) -> None:
    old, new, expected = UNFIT[case]
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "schema.yaml").write_text(SCHEMA.replace(old, new))
    assert userbert("prepare", "schema.yaml", "-o", "data").refusal.startswith(expected)


OUTPUTS = {
    "a folder": ("data", "data exists already. Choose another output, or remove it first."),
    "a file": ("log.csv", "log.csv exists already. Choose another output, or remove it first."),
    "below a file": (
        "log.csv/x",
        "cannot write log.csv/x: log.csv is a file, not a folder. Choose another output.",
    ),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_existing_output_is_rejected(userbert: Userbert, tmp_path: Path, case: str) -> None:
    output, expected = OUTPUTS[case]
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    (tmp_path / "data").mkdir()
    assert userbert("prepare", "schema.yaml", "-o", output).refusal == expected
    if case != "below a file":
        assert userbert("init", "log.csv", "-o", output).refusal == expected
    assert (tmp_path / "log.csv").read_text() == LOG
    assert list((tmp_path / "data").iterdir()) == []


def test_missing_schema_file_is_reported(userbert: Userbert, tmp_path: Path) -> None:
    assert userbert("prepare", "schema.yaml", "-o", "data").refusal == (
        "schema.yaml cannot be read: No such file or directory. Check the path, or let `userbert "
        "init` propose a schema."
    )
    assert "Is a directory" in userbert("prepare", tmp_path, "-o", "data").refusal


def test_one_misspelt_action_gives_a_warning(userbert: Userbert, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG + LOG.splitlines()[1].replace("view", "buy") + "\n")
    (tmp_path / "schema.yaml").write_text(SCHEMA.replace("view, buy", "view, bye"))
    done = userbert("prepare", "schema.yaml", "-o", "data")
    assert done.code == 0
    assert done.error == (
        "warning: segments.long_term.actions: no event has the action type 'bye'; "
        "did you mean 'buy'?\n"
    )
