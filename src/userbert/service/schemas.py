"""What calls say, and what they are answered, as the description of the service has them.

In: JSON. Out: models whose types are checked; what events hold is checked by `data/use/live.py`, as
preparation checks it.

What the explorer's calls say and are answered, where it is no record of `explorer/`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from userbert.explorer.colours import Colour
from userbert.explorer.traits import Shared, Trait

UserId = Annotated[str, StringConstraints(min_length=1, max_length=512)]
_SCALAR = {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "null")]}
_RECORD = {"type": "object", "additionalProperties": _SCALAR}
Record = Annotated[dict[str, Any], WithJsonSchema(_RECORD)]
"""A row of a log, or of profiles: values by the names of the columns."""
Instant = Annotated[
    str,
    StringConstraints(max_length=40),
    Field(examples=["2024-07-01T00:00:00Z"]),
]


class Body(BaseModel):
    """A call, whose keys are known."""

    model_config = ConfigDict(extra="forbid", strict=True)


class User(Body):
    """What is known of one user."""

    user_id: UserId
    events: dict[str, list[Record]] = Field(
        default_factory=dict, description="Raw events by the schema's sources, in any order."
    )
    profile: list[Record] = Field(
        default_factory=list,
        description="A record of profile fields; several where the schema's profile has a time.",
    )
    cutoff: Instant | None = Field(
        default=None, description="Instead of the call's, for this user alone."
    )


class UsersBody(Body):
    """Users whose vectors or scores are asked for."""

    model: str | None = Field(default=None, description="Its name; needed where several serve.")
    users: list[User] = Field(min_length=1)
    cutoff: Instant | None = Field(
        default=None,
        description="All events lie before this instant; a time without a zone is in the "
        "schema's. Default: now.",
    )


class LookalikeBody(Body):
    """Seeds whose like is looked for."""

    model: str | None = Field(default=None, description="Its name; needed where several serve.")
    seeds: list[UserId] = Field(min_length=1, max_length=100_000)
    exclude: list[UserId] = Field(default_factory=list, max_length=1_000_000)
    k: int = Field(default=100, ge=1, le=100_000, description="So many users.")
    by: Literal["centroid", "nearest", "linear"] = Field(
        default="centroid", description="How seeds are combined."
    )


class Embedding(BaseModel):
    """A user's vector."""

    user_id: str
    embedding: list[float] | None = Field(description="null: no event in any window.")


class Embeddings(BaseModel):
    """Answers in the order of the users."""

    model: str
    users: list[Embedding]


class Score(BaseModel):
    """A user's score, or of a task of many classes the best values."""

    user_id: str
    score: float | None = Field(default=None, description="null: no event in any window.")
    values: list[str] | None = None
    scores: list[float] | None = None


class Scores(BaseModel):
    """Answers in the order of the users."""

    model: str
    task: str
    users: list[Score]


class Word(BaseModel):
    """A behavioral word."""

    segment: str
    number: int
    begins: str
    actions: int
    values: dict[str, list[tuple[str, int]]] = Field(
        description="By attribute: values, and how many actions carry each."
    )


class Near(BaseModel):
    """A user near another."""

    user_id: str
    cosine: float


class Said(BaseModel):
    """What a model says of a user."""

    embedding: list[float]
    score: float | None = None
    values: list[str] | None = None
    scores: list[float] | None = None
    neighbours: list[Near] | None = Field(description="null: not all users are embedded yet.")


class KnownUser(BaseModel):
    """What is known of a user of the data."""

    user_id: str
    cutoff: int = Field(description="Microseconds since 1970: what is told lies before it.")
    profile: dict[str, str]
    words: list[Word]
    models: dict[str, Said]


class Alike(BaseModel):
    """A user of a list."""

    user_id: str
    score: float
    rank: int


class HeldOut(BaseModel):
    """How many seeds a way finds that it does not know, a fifth at a time."""

    way: str
    seeds: int
    found: float
    by_chance: float


class Lookalikes(BaseModel):
    """Users like the seeds, best first."""

    model: str
    by: str
    seeds: int = Field(description="With a vector.")
    unknown: list[str] = Field(description="Seeds without one.")
    others: int = Field(description="Users who could be in the list.")
    held_out: list[HeldOut]
    users: list[Alike]


class TraitsBody(Body):
    """Users who are held against the rest."""

    users: list[UserId] = Field(min_length=1, max_length=100_000)
    model: str | None = Field(
        default=None, description="On whose map they were chosen: traits do not depend on it."
    )


class MapAnswer(BaseModel):
    """Users in two directions."""

    model: str
    method: str
    note: str = Field(description="What the way they are laid out means.")
    is_final: bool = Field(description="Or a better layout is being made.")
    users: int = Field(description="Of the data.")
    shown: int
    user_ids: list[str]
    x: list[float]
    y: list[float]
    colours: list[Colour]


class NotYet(BaseModel):
    """How far the vectors are."""

    detail: str
    done: int
    of: int


class ColourAnswer(BaseModel):
    """What colours the users of a map, in their order."""

    name: str
    title: str
    kind: Literal["category", "number"]
    values: list[str] | None = None
    codes: list[int] | None = Field(default=None, description="-1: unknown.")
    numbers: list[float | None] | None = None


class TraitsAnswer(BaseModel):
    """What users have in common against the rest, strongest first."""

    users: int = Field(description="Who were looked at; of very many some at random.")
    unknown: int
    others: int
    traits: list[Trait]


class SharedAnswer(BaseModel):
    """Values that two users carry, rarest first."""

    traits: list[Shared]


class ExpectedValue(BaseModel):
    """A value that a model thinks likely in a word."""

    value: str
    probability: float
    is_there: bool


class ExpectedAttribute(BaseModel):
    """What a model expects of an attribute, and what is there."""

    attribute: str
    expected: list[ExpectedValue]
    there: list[tuple[str, int]] = Field(description="Values, and how many actions carry each.")


class ExpectedAnswer(BaseModel):
    """What a model expects in a word that is hidden from it."""

    model: str
    segment: str
    number: int
    attributes: list[ExpectedAttribute]


class MovedWord(BaseModel):
    """A word, and how far the output falls without it."""

    segment: str
    number: int
    effect: float
    attributes: dict[str, float]


class MovedField(BaseModel):
    """A profile field, and how far the output falls without it."""

    name: str
    value: str
    effect: float


class ExplanationAnswer(BaseModel):
    """What moved a score, most first."""

    model: str
    task: str
    value: str | None
    score: float
    unit: str
    words: list[MovedWord]
    fields: list[MovedField]
