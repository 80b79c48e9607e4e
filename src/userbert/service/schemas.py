"""Checks the shape of request bodies, and describes responses, as /openapi.json shows them.

In: JSON. Out: pydantic models with checked types. The contents of events are checked by
`data/use/live.py`, as `prepare` checks them. Records of `explorer/` serve as response bodies too.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from userbert.explorer.colours import Colour
from userbert.explorer.traits import SharedValue, Trait

UserId = Annotated[str, StringConstraints(min_length=1, max_length=512)]
_SCALAR = {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "null")]}
_ROW = {"type": "object", "additionalProperties": _SCALAR}
RawRow = Annotated[dict[str, Any], WithJsonSchema(_ROW)]
"""A row of a log or of profiles: values by column name."""
Instant = Annotated[
    str,
    StringConstraints(max_length=40),
    Field(examples=["2024-07-01T00:00:00Z"]),
]


class RequestBody(BaseModel):
    """Base of request bodies: unknown keys are errors, and types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class User(RequestBody):
    """Raw events and profile of a user."""

    user_id: UserId
    events: dict[str, list[RawRow]] = Field(
        default_factory=dict, description="Raw events by source of the schema, in any order."
    )
    profile: list[RawRow] = Field(
        default_factory=list,
        description="One row of profile fields; several if the schema's profile has a time.",
    )
    cutoff: Instant | None = Field(
        default=None, description="Cut-off of this user, in place of the call's."
    )


class UsersBody(RequestBody):
    """Users to embed or score."""

    model: str | None = Field(
        default=None, description="Name of the model; required if the service has several."
    )
    users: list[User] = Field(min_length=1)
    cutoff: Instant | None = Field(
        default=None,
        description="Instant that all events must precede; a time without a zone is in the "
        "schema's time zone. Default: now.",
    )


class LookalikeBody(RequestBody):
    """Seed users, and settings of their look-alike list."""

    model: str | None = Field(
        default=None, description="Name of the model; required if the service has several."
    )
    seeds: list[UserId] = Field(min_length=1, max_length=100_000)
    exclude: list[UserId] = Field(default_factory=list, max_length=1_000_000)
    k: int = Field(default=100, ge=1, le=100_000, description="Length of the list.")
    by: Literal["centroid", "nearest", "linear"] = Field(
        default="centroid", description="Way to score users by the seeds."
    )


class Embedding(BaseModel):
    """Vector of a user."""

    user_id: str
    embedding: list[float] | None = Field(description="null: no event in any window.")


class Embeddings(BaseModel):
    """Vectors, in the order of the request's users."""

    model: str
    users: list[Embedding]


class Score(BaseModel):
    """Score of a user; for multi-class tasks the best values and their scores."""

    user_id: str
    score: float | None = Field(default=None, description="null: no event in any window.")
    values: list[str] | None = None
    scores: list[float] | None = None


class Scores(BaseModel):
    """Scores, in the order of the request's users."""

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
        description="Values of each attribute, with the number of actions that have each."
    )


class Neighbour(BaseModel):
    """A user and the cosine similarity to another user."""

    user_id: str
    cosine: float


class ModelAnswer(BaseModel):
    """A model's vector, scores and nearest users for a user."""

    embedding: list[float]
    score: float | None = None
    values: list[str] | None = None
    scores: list[float] | None = None
    neighbours: list[Neighbour] | None = Field(description="null: not all users are embedded yet.")


class KnownUser(BaseModel):
    """A user of the prepared data, and each model's answer."""

    user_id: str
    cutoff: int = Field(description="Microseconds since 1970; only events before it are used.")
    profile: dict[str, str]
    words: list[Word]
    models: dict[str, ModelAnswer]


class LookalikeUser(BaseModel):
    """User in a look-alike list."""

    user_id: str
    score: float
    rank: int


class HeldOut(BaseModel):
    """Number of held-out seeds that a way of scoring finds, by five-fold cross-validation."""

    way: str
    seeds: int
    found: float
    by_chance: float


class Lookalikes(BaseModel):
    """Users most like the seeds, best first."""

    model: str
    by: str
    seeds: int = Field(description="Number of seeds with a vector.")
    unknown: list[str] = Field(description="Seeds without a vector.")
    others: int = Field(description="Number of users to choose from.")
    held_out: list[HeldOut]
    users: list[LookalikeUser]


class TraitsBody(RequestBody):
    """Group of users to compare with the others."""

    users: list[UserId] = Field(min_length=1, max_length=100_000)


class MapAnswer(BaseModel):
    """Two-dimensional map of users."""

    model: str
    method: str
    note: str = Field(description="Explanation of the layout.")
    is_final: bool = Field(description="false while a better layout is being computed.")
    users: int = Field(description="Number of users in the data.")
    shown: int = Field(description="Number of users on the map.")
    user_ids: list[str]
    x: list[float]
    y: list[float]
    colours: list[Colour]


class EmbeddingProgress(BaseModel):
    """Number of users embedded so far."""

    detail: str
    done: int
    of: int


class ColourAnswer(BaseModel):
    """Values that colour the users of a map, in the map's order."""

    name: str
    title: str
    kind: Literal["category", "number"]
    values: list[str] | None = None
    codes: list[int] | None = Field(default=None, description="-1: unknown.")
    numbers: list[float | None] | None = None


class TraitsAnswer(BaseModel):
    """Values that set a group of users apart from the others, strongest first."""

    users: int = Field(description="Users compared; of a very large group, a random sample.")
    unknown: int = Field(description="Users of the group that are not in the data.")
    others: int
    traits: list[Trait]


class SharedAnswer(BaseModel):
    """Values that two users have in common, rarest first."""

    traits: list[SharedValue]


class ExpectedValue(BaseModel):
    """A value that a model expects in a word."""

    value: str
    probability: float
    is_there: bool


class ExpectedAttribute(BaseModel):
    """Expected and actual values of an attribute in a word."""

    attribute: str
    expected: list[ExpectedValue]
    there: list[tuple[str, int]] = Field(
        description="Actual values, with the number of actions that have each."
    )


class ExpectedAnswer(BaseModel):
    """Values that a model expects in a word that is hidden from it."""

    model: str
    segment: str
    number: int
    attributes: list[ExpectedAttribute]


class WordEffect(BaseModel):
    """Effect of a word: how much the score falls without it."""

    segment: str
    number: int
    effect: float
    attributes: dict[str, float]


class FieldEffect(BaseModel):
    """Effect of a profile field: how much the score falls without it."""

    name: str
    value: str
    effect: float


class ExplanationAnswer(BaseModel):
    """Explanation of a score, largest effects first."""

    model: str
    task: str
    value: str | None
    score: float
    unit: str
    words: list[WordEffect]
    fields: list[FieldEffect]
