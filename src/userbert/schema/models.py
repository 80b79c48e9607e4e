"""What a log means: `schema.yaml` as strict, frozen models.

In: YAML text. Out: a `Schema`, which every later stage reads. An unknown key is an error that
names the nearest known one. Times are absolute once read: the schema says where each source's
times come from, and in which zone a user's day begins.
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
from userbert.schema.strict import MANY, Duration, Strict, known_zone, to_instant
from userbert.schema.yaml_text import Place, did_you_mean, explain, read_mapping, write_mapping

SEGMENT_NAMES = ("long_term", "short_term")


class Time(Strict):
    """Where a source's times stand and what they mean (design, decision 1)."""

    column: str
    zone: str = "UTC"
    """Of times that carry none: `UTC`, `local` (the schema's `timezone`) or an IANA name.
    The default of dates is `local`."""
    unit: Literal["auto", "s", "ms", "us"] = "auto"
    """Of times that are numbers, since 1970; `auto` judges by their size."""
    resolution: Literal["instant", "day"] = "instant"
    """`day`: only the local date is known; it counts from the date's last microsecond."""

    @model_validator(mode="before")
    @classmethod
    def _dates_are_local(cls, value: object) -> object:
        if isinstance(value, str):
            return {"column": value}
        if isinstance(value, dict) and value.get("resolution") == "day":
            return {"zone": "local", **value}
        return value

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, zone: str) -> str:
        return zone if zone == "local" else known_zone(zone)


class Lookup(Strict):
    """A dimension table joined to a source on a column of the same name in both."""

    path: str
    on: str


class ActionColumn(Strict):
    """The column that says which action type an event is."""

    column: str


def _one_or_several(value: object) -> str:
    return "several" if isinstance(value, list) else "one"


def _named_or_one(value: object) -> str:
    return "named" if isinstance(value, dict | ActionColumn) else "one"


_Path = Annotated[str, Field(min_length=1)]
# Tagged, so that a fault is told of the branch that was meant, and once.
Paths = Annotated[
    Annotated[_Path, Tag("one")] | Annotated[list[_Path], Field(min_length=1), Tag("several")],
    Discriminator(_one_or_several),
]
Action = Annotated[
    Annotated[str, Tag("one")] | Annotated[ActionColumn, Tag("named")],
    Discriminator(_named_or_one),
]


class Source(Strict):
    """One raw log."""

    path: Paths
    """A file, folder, glob or list of these: CSV, JSON Lines or Parquet; .gz and .zst."""
    time: Time
    action: Action
    lookup: list[Lookup] = Field(default_factory=list)


class DayWords(Strict):
    """A word is the actions of one local day (paper §3.2: 04:00 to 04:00)."""

    by: Literal["day"]
    starts_at: str = "04:00"

    @field_validator("starts_at")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text) is None:
            raise ValueError(f'expected a time of day such as "04:00", found {text!r}')
        return text

    @property
    def start(self) -> time:
        """The local time at which a day begins."""
        return time.fromisoformat(self.starts_at)


class GapWords(Strict):
    """A word ends before a gap of more than so many minutes (paper §3.2: 30)."""

    by: Literal["gap"]
    minutes: int = Field(default=30, ge=1, le=525_600)

    @property
    def gap_us(self) -> int:
        """The longest gap inside a word, in microseconds."""
        return self.minutes * 60_000_000


Words = Annotated[DayWords | GapWords, Field(discriminator="by")]


class Window(Strict):
    """What a segment sees: from so long before the cut-off to so long before it."""

    from_: Duration = Field(alias="from")
    to: Duration | None = None
    """Where the window ends before the cut-off; none: at the cut-off."""

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.to is not None and self.to >= self.from_:
            raise ValueError("a window's `from` must be longer ago than its `to`")
        return self


class Segment(Strict):
    """Which actions make words, how they are cut, and which attributes they carry."""

    words: Words
    window: Window
    actions: list[str] = Field(min_length=1)
    attributes: list[str] = Field(min_length=1)
    max_words: int = Field(default=128, ge=1, le=MANY)
    """At most so many words of a user, the newest (paper §4.4: 128)."""
    max_actions: int = Field(default=1024, ge=1, le=MANY)
    """At most so many actions of a word, the newest."""

    @field_validator("window", mode="before")
    @classmethod
    def _window_may_be_a_duration(cls, value: object) -> object:
        return value if isinstance(value, dict | Window) else {"from": value}

    @field_validator("actions", "attributes")
    @classmethod
    def _names_stand_once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError(f"a name stands twice in {names}")
        return names


class Profile(Strict):
    """What is known of users besides their behavior: one row a user, or one a user and time."""

    path: Paths
    fields: dict[str, ProfileField] = Field(min_length=1)
    time: Time | None = None
    """If given, the newest row before the cut-off counts; else profiles are timeless."""


class Schema(Strict):
    """What the logs mean. Load it from YAML with `Schema.load`, or let `Schema.infer` propose it.

    Raises `SchemaError` with one message a fault, each naming where it stands.
    """

    user: str
    """The column that holds the user id, in every source and in the profile."""
    timezone: str = "UTC"
    """The users' local zone; it decides days and hours, and is that of naive cut-offs."""
    sources: dict[str, Source] = Field(min_length=1)
    attributes: dict[str, Attribute] = Field(min_length=1)
    segments: dict[str, Segment] = Field(min_length=1)
    profile: Profile | None = None
    fit_before: datetime | None = None
    """Vocabularies and bins learn from events before this instant alone."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Of events that are equal in user, time, action and all attributes, all or one."""
    _folder: Path = Path()

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, name: str) -> str:
        return known_zone(name)

    @field_validator("fit_before")
    @classmethod
    def _is_a_time_of_logs(cls, moment: datetime | None) -> datetime | None:
        if moment is not None and not 1900 <= moment.year <= 2200:
            raise ValueError(f"expected a time between 1900 and 2200, found {moment}")
        return moment

    @field_validator("fit_before", mode="before")
    @classmethod
    def _dates_are_midnights(cls, value: object) -> object:
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
    def _names_fit_together(self) -> Self:
        fields = self.profile.fields if self.profile is not None else {}
        for name in (*self.attributes, *fields):
            if name in RESERVED_NAMES:
                raise ValueError(f"no attribute or field can be called {name!r}; rename it")
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
        constant = {source.action for source in self.sources.values()}
        if all(isinstance(action, str) for action in constant):
            for segment_name, segment in self.segments.items():
                for action in segment.actions:
                    if action not in constant:
                        raise ValueError(
                            f"segments.{segment_name}.actions: no source has the action "
                            f"{action!r}{did_you_mean(action, map(str, constant))}"
                        )
        return self

    @classmethod
    def parse(cls, text: str, folder: Path | None = None, name: str = "the schema") -> Self:
        """Read a schema from YAML; relative paths in it start at `folder`."""
        try:
            schema = cls.model_validate(read_mapping(text, name))
        except ValidationError as error:
            raise SchemaError(explain(error, name, _keys_at, _without_tag, _other_kind)) from error
        schema._folder = folder if folder is not None else Path()
        return schema

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a schema file; relative paths in it start at the file's folder."""
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
        """Propose a schema for event logs; `userbert init` writes the same with its reasons.

        Relative paths in it start at the current folder. Raises `SourceError` if a log cannot be
        read, or holds no user or no time.
        """
        from userbert.infer.inference import propose_schema

        text = propose_schema(
            [Path(path) for path in events], None if profiles is None else Path(profiles), Path()
        )
        return cls.parse(text, Path(), "the proposed schema")

    def dump(self) -> str:
        """Write the schema as YAML that `parse` reads."""
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return write_mapping(content)

    @property
    def folder(self) -> Path:
        """Where the schema's relative paths start."""
        return self._folder

    @property
    def actions(self) -> frozenset[str]:
        """The action types of all segments."""
        return frozenset(name for segment in self.segments.values() for name in segment.actions)

    @cached_property
    def zone(self) -> ZoneInfo:
        """The users' local zone."""
        return ZoneInfo(self.timezone)

    def instant(self, moment: str | date | datetime) -> int:
        """Microseconds since 1970 of a moment; a naive one is in the schema's `timezone`."""
        return to_instant(moment, self.zone)

    @property
    def fit_before_us(self) -> int | None:
        """`fit_before` in microseconds since 1970."""
        return None if self.fit_before is None else self.instant(self.fit_before)


_TAGS: dict[str, type[BaseModel]] = {
    "category": Category, "number": Number, "derived": Derived, "day": DayWords, "gap": GapWords,
    "named": ActionColumn,
}  # fmt: skip


def _keys_at(place: Place) -> list[str]:
    """The keys that may stand at a place of a schema."""
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


_MADE_BY = {"number": "`bins` or `min`", "derived": "`of`"}


def _other_kind(place: Place) -> str | None:
    """Why a key cannot stand at its place: what is there has keys of two kinds."""
    match place:
        case ("attributes", _, str(kind), str(key)) | ("profile", "fields", _, str(kind), str(key)):
            for other in ("category", "number"):
                if kind in _MADE_BY and key in _TAGS[other].model_fields:
                    return (
                        f"{key!r} is of a {other}, and {_MADE_BY[kind]} of a {kind} attribute; "
                        "keep one of the two"
                    )
    return None


def _without_tag(place: Place) -> Place:
    """Drop the part of a place that names the branch of a union, which nobody wrote."""
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
