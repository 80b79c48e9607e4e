"""The models of `schema.yaml`: sources, segments, profile and the schema as a whole.

In: YAML text. Out: a frozen `Schema`, which every later stage reads. An unknown key is an error
that suggests the closest known key. The schema says how to read each source's times and in which
time zone a user's day starts; after reading, all times are absolute.
"""

import re
from datetime import date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from userbert.errors import SchemaError
from userbert.schema.attributes import (
    RESERVED_NAMES,
    Attribute,
    Category,
    Derived,
    Number,
    ProfileField,
)
from userbert.schema.strict import MAX_COUNT, Duration, Strict, check_zone, to_instant
from userbert.schema.yaml_text import Place, did_you_mean, explain, read_mapping, write_mapping

SEGMENT_NAMES = ("long_term", "short_term")


class Time(Strict):
    """The time column of a source or profile, and how to read it (design, decision 1)."""

    column: str
    zone: str = "UTC"
    """Zone of times without an offset: `UTC`, `local` (the schema's `timezone`) or an IANA name.
    With `resolution: day`, the default is `local`."""
    unit: Literal["auto", "s", "ms", "us"] = "auto"
    """Unit of numeric times, which count from 1970; `auto` guesses it from their size."""
    resolution: Literal["instant", "day"] = "instant"
    """`day`: only the local date is known, and an event counts at the date's last microsecond."""

    @model_validator(mode="before")
    @classmethod
    def _add_defaults(cls, value: object) -> object:
        if isinstance(value, str):
            return {"column": value}
        if isinstance(value, dict) and value.get("resolution") == "day":
            return {"zone": "local", **value}
        return value

    @field_validator("zone")
    @classmethod
    def _check_zone(cls, zone: str) -> str:
        return zone if zone == "local" else check_zone(zone)


class Lookup(Strict):
    """A dimension table, whose columns are added to the events of a source."""

    path: str
    on: str
    """Key column, in the table and in the source; each value is in one row of the table."""


class ActionColumn(Strict):
    """The column that holds the action type of each event."""

    column: str


def _paths_tag(value: object) -> str:
    return "list" if isinstance(value, list) else "path"


def _action_tag(value: object) -> str:
    return "column" if isinstance(value, dict | ActionColumn) else "constant"


_Path = Annotated[str, Field(min_length=1)]
# With tags, pydantic reports an error once, for the branch that the writer meant.
Paths = Annotated[
    Annotated[_Path, Tag("path")] | Annotated[list[_Path], Field(min_length=1), Tag("list")],
    Discriminator(_paths_tag),
]
Action = Annotated[
    Annotated[str, Tag("constant")] | Annotated[ActionColumn, Tag("column")],
    Discriminator(_action_tag),
]


class Source(Strict):
    """One raw log."""

    path: Paths
    """File, folder, glob pattern or list of paths: CSV, TSV, JSON Lines or Parquet; .gz, .zst."""
    time: Time
    action: Action
    """Action type of all events, or the column that holds it."""
    lookup: list[Lookup] = Field(default_factory=list)


class DayWords(Strict):
    """Words that hold the actions of one local day (paper §3.2: 04:00 to 04:00)."""

    by: Literal["day"]
    starts_at: str = "04:00"

    @field_validator("starts_at")
    @classmethod
    def _check_starts_at(cls, text: str) -> str:
        if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text) is None:
            raise ValueError(f'expected a time of day such as "04:00", found {text!r}')
        return text

    @property
    def start(self) -> time:
        """Local time at which a day starts."""
        return time.fromisoformat(self.starts_at)


class GapWords(Strict):
    """Words that end at a gap of more than `minutes` (paper §3.2: 30)."""

    by: Literal["gap"]
    minutes: int = Field(default=30, ge=1, le=525_600)

    @property
    def gap_us(self) -> int:
        """Longest gap inside a word, in microseconds."""
        return self.minutes * 60_000_000


Words = Annotated[DayWords | GapWords, Field(discriminator="by")]


class Window(Strict):
    """The time before the cut-off that a segment sees."""

    from_: Duration = Field(alias="from")
    """How long before the cut-off the window starts."""
    to: Duration | None = None
    """How long before the cut-off the window ends; None: the window ends at the cut-off."""

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.to is not None and self.to >= self.from_:
            raise ValueError("a window's `from` must be longer ago than its `to`")
        return self


class Segment(Strict):
    """A segment: its action types and attributes, how actions become words, and its window."""

    words: Words
    window: Window
    actions: list[str] = Field(min_length=1)
    attributes: list[str] = Field(min_length=1)
    max_words: int = Field(default=128, ge=1, le=MAX_COUNT)
    """Maximum number of words per user; older words are dropped (paper §4.4: 128)."""
    max_actions: int = Field(default=1024, ge=1, le=MAX_COUNT)
    """Maximum number of actions per word; older actions are dropped."""

    @field_validator("window", mode="before")
    @classmethod
    def _accept_duration(cls, value: object) -> object:
        return value if isinstance(value, dict | Window) else {"from": value}

    @field_validator("actions", "attributes")
    @classmethod
    def _check_unique(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError(f"a name appears twice in {names}")
        return names


class Profile(Strict):
    """The profile table: one row per user, or with `time` one row per user and time."""

    path: Paths
    fields: dict[str, ProfileField] = Field(min_length=1)
    time: Time | None = None
    """Time of each row, if any: a user's newest row before the cut-off counts."""


class Schema(Strict):
    """The meaning of the logs. `Schema.load` reads it from YAML; `Schema.infer` proposes it.

    Both raise `SchemaError` with one line per error, which names the error's place in the schema.
    """

    user: str
    """Column of the user id, in every source and in the profile."""
    timezone: str = "UTC"
    """Local time zone of the users: days, hours and naive cut-offs are in this zone."""
    sources: dict[str, Source] = Field(min_length=1)
    attributes: dict[str, Attribute] = Field(min_length=1)
    segments: dict[str, Segment] = Field(min_length=1)
    profile: Profile | None = None
    fit_before: datetime | None = None
    """Vocabularies and bins are fitted only on rows before this time; None: on all rows."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Whether to keep or drop events with the user, time, action type and attributes of another."""
    _folder: Path = Path()

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        return check_zone(name)

    @field_validator("fit_before")
    @classmethod
    def _check_fit_before(cls, moment: datetime | None) -> datetime | None:
        if moment is not None and not 1900 <= moment.year <= 2200:
            raise ValueError(f"expected a time between 1900 and 2200, found {moment}")
        return moment

    @field_validator("fit_before", mode="before")
    @classmethod
    def _parse_fit_before(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return datetime.fromisoformat(value)
            except ValueError:
                raise ValueError(
                    f"expected a date or time such as 2017-09-01, found {value!r}"
                ) from None
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime.combine(value, time())
        return value

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        fields = self.profile.fields if self.profile is not None else {}
        for name in (*self.attributes, *fields):
            if name in RESERVED_NAMES:
                raise ValueError(f"{name!r} is a reserved name; rename the attribute or field")
        for segment_name, segment in self.segments.items():
            if segment_name not in SEGMENT_NAMES:
                raise ValueError(
                    f"segments: expected {' or '.join(SEGMENT_NAMES)}, found {segment_name!r}"
                )
            for name in segment.attributes:
                if name not in self.attributes:
                    raise ValueError(
                        f"segments.{segment_name}.attributes: {name!r} is not among `attributes`"
                        f"{did_you_mean(name, self.attributes)}"
                    )
        source_actions = {source.action for source in self.sources.values()}
        if all(isinstance(action, str) for action in source_actions):
            for segment_name, segment in self.segments.items():
                for action in segment.actions:
                    if action not in source_actions:
                        raise ValueError(
                            f"segments.{segment_name}.actions: no source has the action "
                            f"{action!r}{did_you_mean(action, map(str, source_actions))}"
                        )
        return self

    @classmethod
    def parse(cls, text: str, folder: Path | None = None, name: str = "the schema") -> Self:
        """Parses YAML. Relative paths start at `folder`, error messages with `name`."""
        try:
            schema = cls.model_validate(read_mapping(text, name))
        except ValidationError as error:
            raise SchemaError(explain(error, name, _keys_at, _without_tag, _mixed_kinds)) from error
        schema._folder = folder if folder is not None else Path()
        return schema

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a schema file. Relative paths in the schema start at the file's folder."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SchemaError(
                f"{path} cannot be read: {error.strerror}. Check the path, or let `userbert init` "
                "propose a schema."
            ) from error
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise SchemaError(
                f"{path}, line {line}: expected UTF-8 text, found the byte "
                f"{error.object[error.start]:#04x}. Save it as UTF-8, or check the path."
            ) from error
        return cls.parse(text, path.parent, str(path))

    @classmethod
    def infer(cls, *events: str | Path, profiles: str | Path | None = None) -> Self:
        """Proposes a schema for event logs, as `userbert init` does.

        Relative paths in the schema start at the current folder. Raises `SourceError` if a log
        cannot be read, or has no user column or no time column.
        """
        from userbert.infer.inference import propose_schema

        text = propose_schema(
            [Path(path) for path in events], None if profiles is None else Path(profiles), Path()
        )
        return cls.parse(text, Path(), "the proposed schema")

    def dump(self) -> str:
        """Returns the schema as YAML that `parse` reads."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return write_mapping(content)

    @property
    def folder(self) -> Path:
        """Folder at which relative paths of the schema start."""
        return self._folder

    @property
    def actions(self) -> frozenset[str]:
        """Action types that any segment uses."""
        return frozenset(name for segment in self.segments.values() for name in segment.actions)

    @cached_property
    def zone(self) -> ZoneInfo:
        """Local time zone of the users."""
        return ZoneInfo(self.timezone)

    def instant(self, moment: str | date | datetime) -> int:
        """Returns microseconds since 1970; a naive `moment` is in `timezone`. See `to_instant`."""
        return to_instant(moment, self.zone)

    @property
    def fit_before_us(self) -> int | None:
        """`fit_before` in microseconds since 1970."""
        return None if self.fit_before is None else self.instant(self.fit_before)


_TAGS: dict[str, type[BaseModel]] = {
    "category": Category, "number": Number, "derived": Derived, "day": DayWords, "gap": GapWords,
    "column": ActionColumn,
}  # fmt: skip
"""Model of each branch of a union, by pydantic's tag."""


def _keys_at(place: Place) -> list[str]:
    """Returns the valid keys at a place of a schema."""
    model: type[BaseModel]
    match place:
        case ():
            model = Schema
        case ("sources", _):
            model = Source
        case ("segments", _):
            model = Segment
        case ("profile",):
            model = Profile
        case (*_, "time"):
            model = Time
        case (*_, "window"):
            model = Window
        case (*_, "lookup", _):
            model = Lookup
        case (*_, tag):
            model = _TAGS[str(tag)]
    return [field.alias or key for key, field in model.model_fields.items()]


_MARKER_KEYS = {"number": "`bins` or `min`", "derived": "`of`"}
"""The keys that make an attribute a number or derived, for messages."""


def _mixed_kinds(place: Place) -> str | None:
    """Returns a message if the unknown key at a place belongs to another kind of attribute."""
    match place:
        case ("attributes", _, str(kind), str(key)) | ("profile", "fields", _, str(kind), str(key)):
            for other_kind in ("category", "number"):
                if kind in _MARKER_KEYS and key in _TAGS[other_kind].model_fields:
                    return (
                        f"{key!r} belongs to a {other_kind} attribute, and {_MARKER_KEYS[kind]} to "
                        f"a {kind} attribute; keep one of the two"
                    )
    return None


def _without_tag(place: Place) -> Place:
    """Returns a place without pydantic's tag of a union's branch, which is not in the file."""
    match place:
        case ("attributes", _, _, *rest):
            return (*place[:2], *rest)
        case ("profile", "fields", _, _, *rest):
            return (*place[:3], *rest)
        case ("profile", "path", _, *rest):
            return (*place[:2], *rest)
        case ("sources", _, "path" | "action", _, *rest) | ("segments", _, "words", _, *rest):
            return (*place[:3], *rest)
    return place
